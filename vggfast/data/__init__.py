"""Data sets for training: what :func:`load` gives, the engine can train on.

A set's samples are keyed by (index, draw): ``draw`` is a random integer that fixes the sample's
augmentation, so the numbers do not depend on workers, order of reading or interruptions.
"""

from __future__ import annotations

from vggfast.data.base import BadImageError, DataSet, RawBatch, Samples
from vggfast.data.images import Images, open_images
from vggfast.data.load import PHOTOGRAPHS, load, parse_spec
from vggfast.data.loader import Batches

__all__ = [
    "PHOTOGRAPHS",
    "BadImageError",
    "Batches",
    "DataSet",
    "Images",
    "RawBatch",
    "Samples",
    "load",
    "open_images",
    "parse_spec",
]
