"""The paper's localisation: boxes of the objects that a network names.

boxes        corners, the four numbers that a network gives, IoU
crops        training crops that keep the object
annotations  the XML of one image; readers: of a data set; samples: crops and targets for training
task         what the trainer needs; settings: its settings
dense        boxes and scores at every place of an image
merging      greedy merging of boxes that are close
protocols    both test protocols; run: over a data set; table: the result
drawing      boxes on a picture
canvases     a small data set with known boxes, from any small images

The command is ``python -m vggfast.localize``.
"""

from __future__ import annotations

from vggfast.localization.boxes import decode, encode, iou
from vggfast.localization.dense import dense_boxes
from vggfast.localization.merging import merge

__all__ = ["decode", "dense_boxes", "encode", "iou", "merge"]
