"""CUDA graphs: a whole forward pass, or a whole training step, launched as one.

checks.py     what may be captured, and what a call may bring
watch.py      what must stay where it is between capture and replay
state.py      everything a training step changes, saved and put back around the warm-up
record.py     warm-up and capture themselves
inference.py  ``capture``
step.py       ``capture_step``
"""

from vggfast.graph.inference import CapturedModel, capture
from vggfast.graph.step import CapturedStep, capture_step

__all__ = ["CapturedModel", "CapturedStep", "capture", "capture_step"]
