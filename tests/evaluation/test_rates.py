"""Error rates and their intervals, against scipy and against counting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vggfast.errors import InputError
from vggfast.evaluation.rates import top_errors, wilson


@given(st.integers(1, 60000), st.floats(0, 1))
def test_wilson_is_scipys(images: int, share: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    errors = round(share * images)
    rate = wilson(errors, images)
    interval = stats.binomtest(errors, images).proportion_ci(0.95, method="wilson")
    assert rate.low == pytest.approx(interval.low, abs=1e-12)
    assert rate.high == pytest.approx(interval.high, abs=1e-12)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.value == errors / images


def test_hand_made_intervals() -> None:
    z2 = 1.959963984540054**2
    assert wilson(0, 10).low == 0
    assert wilson(0, 10).high == pytest.approx(z2 / (10 + z2))
    assert wilson(10, 10).low == pytest.approx(10 / (10 + z2))
    assert wilson(10, 10).high == 1
    # 50 000 images at 25 %: about 0.38 points each way.
    assert wilson(12500, 50000).high - 0.25 == pytest.approx(0.0038, abs=5e-5)


def test_no_images() -> None:
    for errors, images in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(InputError, match="errors: got"):
            wilson(errors, images)


def test_top_errors_by_sorting() -> None:
    posteriors, labels = torch.rand(200, 12), torch.randint(12, (200,))
    for k in (1, 5, 12):
        ranked = [sorted(range(12), key=lambda c: -row[c])[:k] for row in posteriors.tolist()]
        wrong = sum(y not in best for y, best in zip(labels.tolist(), ranked, strict=True))
        assert top_errors(posteriors, labels, k) == wrong


def test_ties_go_to_the_lower_class() -> None:
    even = torch.full((4, 4), 0.25)
    assert top_errors(even, torch.tensor([0, 1, 2, 3]), 1) == 3
    assert top_errors(even, torch.tensor([0, 1, 2, 3]), 2) == 2
