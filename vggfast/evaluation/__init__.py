"""The paper's evaluation (section 3.2): dense application, crops, scales, fusion, error rates.

``dense``, ``crops`` and ``posteriors`` work on tensors; ``scores``, ``fusion`` and ``table`` on
what comes of them; ``run`` on data sets. The command is ``python -m vggfast.evaluate``.
"""

from __future__ import annotations

from vggfast.evaluation.dense import apply_densely, class_maps
from vggfast.evaluation.posteriors import (
    dense_posteriors,
    multicrop_posteriors,
    single_posteriors,
)  # fmt: skip

__all__ = [
    "apply_densely", "class_maps", "dense_posteriors", "multicrop_posteriors", "single_posteriors",
]  # fmt: skip
