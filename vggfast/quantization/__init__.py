"""Inference with 3x3 convolutions in float8 e4m3: a model and some images make another model."""

from vggfast.quantization.compare import Cost, compare
from vggfast.quantization.convert import quantize
from vggfast.quantization.modules import Conv3x3E4m3, QuantizedSequential, emulated

__all__ = ["Conv3x3E4m3", "Cost", "QuantizedSequential", "compare", "emulated", "quantize"]
