"""The oracle: every op and the whole network in plain torch, readable, in any dtype.

Numerics are judged against this on float64 inputs. It imports no kernel and no op of ours, so a
mistake there cannot hide here.
"""

from vggfast.reference.decisions import clear_gradient
from vggfast.reference.errors import Errors, errors
from vggfast.reference.network import network
from vggfast.reference.ops import conv1x1, conv3x3, linear, lrn, maxpool2x2

__all__ = [
    "Errors", "clear_gradient", "conv1x1", "conv3x3", "errors", "linear", "lrn", "maxpool2x2",
    "network",
]  # fmt: skip
