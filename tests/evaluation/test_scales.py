"""Test scales."""

from __future__ import annotations

import pytest

from vggfast.errors import InputError
from vggfast.evaluation.scales import test_scales as scales_of


@pytest.mark.parametrize(
    ("spec", "trained", "crop", "wanted"),
    [
        ("auto", (256, 256), 224, (224, 256, 288)),
        ("auto", (384, 384), 224, (352, 384, 416)),
        ("auto", (256, 512), 224, (256, 384, 512)),
        ("auto", (37, 37), 32, (32, 37, 42)),
        ("auto", (32, 32), 32, (32, 37)),
        ("one", (256, 256), 224, (256,)),
        ("one", (256, 512), 224, (384,)),
        ("512,256,384", (256, 256), 224, (256, 384, 512)),
        (" 256, 256", (256, 256), 224, (256,)),
    ],
)
def test_the_papers_scales(
    spec: str, trained: tuple[int, int], crop: int, wanted: tuple[int, ...]
) -> None:
    assert scales_of(spec, trained, crop) == wanted


@pytest.mark.parametrize(
    "spec", ["", "big", "256;384", "256,", "-256", "0", "25.5", "²56", "4097", "9" * 5000]
)
def test_no_scales(spec: str) -> None:
    with pytest.raises(InputError, match=r"scales: got .*allowed are auto, one, or whole numbers"):
        scales_of(spec, (256, 256), 224)


def test_scales_below_the_crop() -> None:
    with pytest.raises(InputError, match="scales: got '256,200', allowed are scales from 224 up"):
        scales_of("256,200", (256, 256), 224)
