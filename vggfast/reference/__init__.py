"""The oracle: every op and the whole network in plain torch, readable, in any dtype.

Numerics are judged against this on float64 inputs. It imports no kernel and no op of ours, so a
mistake there cannot hide here.
"""

from vggfast.reference.decisions import clear_gradient
from vggfast.reference.e4m3 import E4M3_MAX, conv3x3_e4m3, exact_conv3x3_e4m3, quantize_e4m3
from vggfast.reference.errors import Errors, errors
from vggfast.reference.network import network
from vggfast.reference.ops import conv1x1, conv3x3, linear, lrn, maxpool2x2

__all__ = [
    "E4M3_MAX", "Errors", "clear_gradient", "conv1x1", "conv3x3", "conv3x3_e4m3", "errors",
    "exact_conv3x3_e4m3", "linear", "lrn", "maxpool2x2", "network", "quantize_e4m3",
]  # fmt: skip
