"""Off-the-shelf features (the paper's transfer experiments): extraction, storage, scoring.

``layers`` and ``descriptors`` work on tensors; ``collection``, ``voc``, ``caltech`` and ``boxes``
read data sets; ``extraction`` writes folders of features, which ``load`` reads; ``benchmarks``,
``svm`` and ``metrics`` score them. The command is ``python -m vggfast.features``.
"""

from __future__ import annotations

from vggfast.transfer.descriptors import combine, mean_activations
from vggfast.transfer.layers import layer
from vggfast.transfer.reader import Features, iterate, load, stack

__all__ = ["Features", "combine", "iterate", "layer", "load", "mean_activations", "stack"]
