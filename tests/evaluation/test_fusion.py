"""Averages of posteriors, on cases made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vggfast.errors import InputError
from vggfast.evaluation.fusion import fuse, rows
from vggfast.evaluation.scores import Scores

from .helpers import scores

LABELS = [0, 1]


def given(first: float, second: float, **changed: Any) -> Scores:
    """Two images whose own classes get ``first`` and ``second``, class 2 the rest."""
    return scores([[first, 0, 1 - first], [0, second, 1 - second]], LABELS, **changed)


def owned(fused: torch.Tensor) -> list[float]:
    return [round(fused[0, 0].item(), 6), round(fused[1, 1].item(), 6)]


def test_scales_then_protocols_then_networks() -> None:
    a = [
        given(0.1, 0.2, scale=32),
        given(0.3, 0.4, scale=37),
        given(0.8, 0.6, protocol="multicrop", scale=37),
    ]
    b = given(0.9, 0.1, weights="b")
    assert owned(fuse(a[:2])) == [0.2, 0.3]
    assert owned(fuse(a)) == [0.5, 0.45]  # of 0.2 and 0.8, 0.3 and 0.6
    assert owned(fuse([*a, b])) == [0.7, 0.275]  # of 0.5 and 0.9, 0.45 and 0.1
    assert owned(fuse([b, *a[::-1]])) == [0.7, 0.275]


def test_what_is_given_twice_counts_once() -> None:
    a, b = given(0.1, 0.2), given(0.5, 0.4, weights="b")
    assert torch.equal(fuse([a, a]), a.posteriors.double())
    assert torch.equal(fuse([a, b, a]), fuse([a, b]))


def test_rows_are_every_result_that_can_be_had() -> None:
    nets = [
        given(0.6, 0.2, weights=w, net=net, protocol=protocol, scale=q, trained=trained)
        for w, net, trained in (("d", "D", (256, 256)), ("e", "E", (256, 512)))
        for protocol in ("dense", "multicrop")
        for q in (256, 224)
    ]
    found = [(r.net, r.trained, r.scales, r.protocol) for r in rows(nets)]
    of_one = [((224,), 1), ((256,), 1), ((224, 256), 2)]
    wanted = [
        (net, s, q, protocol)
        for net, s in (("D", "256"), ("E", "[256;512]"))
        for protocol in ("dense", "multicrop", "both")
        for q, _ in (of_one if protocol != "both" else of_one[-1:])
    ]
    wanted += [("D + E", "256, [256;512]", (224, 256), p) for p in ("dense", "multicrop", "both")]
    assert found == wanted


def test_errors_of_rows() -> None:
    (row,) = rows([given(0.6, 0.2)])
    assert (row.top1.errors, row.top1.images, row.top5) == (1, 2, None)
    seven = tuple("abcdefg")
    ranked = [[0.3, 0.2, 0.15, 0.12, 0.11, 0.07, 0.05]] * 4
    (row,) = rows([scores(ranked, [0, 4, 5, 6], classes=seven)])
    assert row.top1.errors == 3
    assert row.top5 is not None
    assert row.top5.errors == 2


def test_fusion_may_be_right_where_all_are_wrong() -> None:
    a = scores([[0.4, 0.6, 0.0]], [0], weights="a")
    b = scores([[0.4, 0.0, 0.6]], [0], weights="b")
    assert [r.top1.errors for r in rows([a, b])] == [1, 1, 0]


def test_scores_that_do_not_go_together() -> None:
    a = given(0.1, 0.2)
    others = {
        "class 1 is 'bat', not 'bee'": given(0.1, 0.2, weights="b", classes=("ant", "bat", "cat")),
        "image '1.png' has label 2, not 1": scores([[1.0, 0, 0]] * 2, [0, 2], weights="b"),
        "1 images, not 2": scores([[1.0, 0, 0]], [0], weights="b"),
        "given twice, with flips: False, not True": given(0.1, 0.2, flips=False),
        "given twice, with dtype: 'bf16', not 'fp32'": given(0.1, 0.2, dtype="bf16"),
    }
    for words, other in others.items():
        for function in (fuse, rows):
            with pytest.raises(InputError) as caught:
                function([a, other])
            assert words in str(caught.value)
    renamed = Scores(a.source, ("0.png", "x.png"), a.labels, a.posteriors)
    with pytest.raises(InputError, match=r"image 1 is 'x\.png', not '1\.png'"):
        fuse([a, renamed])
    with pytest.raises(InputError, match="scores: got none"):
        fuse([])
