"""The values inside a VGG, by the names the field gives them.

names       conv1_2, relu1_2, pool1, fc6, ... and which module's output each of them is
extractor   a module that returns named values, and runs nothing deeper than the deepest
normalize   colours from 0 to 1, as the weights want them
"""

from vggfast.taps.extractor import Extractor
from vggfast.taps.names import Tap, find_taps, named_taps
from vggfast.taps.normalize import IMAGENET, Normalize

__all__ = ["IMAGENET", "Extractor", "Normalize", "Tap", "find_taps", "named_taps"]
