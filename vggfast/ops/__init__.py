"""The ops of a VGG, each registered once with torch: schema, fake kernel, autograd, autocast rule.

``torch.compile``, ``torch.export``, AMP and DDP see real ops (``torch.ops.vggfast.*``); the
functions here add what a caller wants: defaults, argument checks, one result. ``crop_images``
prepares inputs and is a plain function.

Where a tensor is asked for, any array with ``__dlpack__`` will do (NumPy's, CuPy's): it enters
without a copy, and results are torch tensors.
"""

from vggfast.ops.chain import conv3x3_chain, fuses_chains
from vggfast.ops.conv1x1 import conv1x1
from vggfast.ops.conv3x3 import conv3x3
from vggfast.ops.crop_images import crop_images
from vggfast.ops.cross_entropy import cross_entropy
from vggfast.ops.e4m3 import conv3x3_e4m3, quantize_e4m3
from vggfast.ops.linear import linear
from vggfast.ops.lrn import lrn
from vggfast.ops.maxpool2x2 import maxpool2x2

__all__ = [
    "conv1x1", "conv3x3", "conv3x3_chain", "conv3x3_e4m3", "crop_images", "cross_entropy",
    "fuses_chains", "linear", "lrn", "maxpool2x2", "quantize_e4m3",
]  # fmt: skip
