"""``linear`` of a float32 x and bfloat16 weights: what float32 gives for the rounded weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerance import assert_close
from vggfast import ops, reference
from vggfast.backends.cpu import MOST_ROWS
from vggfast.errors import InputError


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("m", "k", "o"),
    [
        (1, 7, 1), (1, 1, 3), (2, 33, 5), (3, 40000, 5), (8, 64, 33), (13, 65, 34),
        (MOST_ROWS, 100, 7), (MOST_ROWS + 1, 100, 7), (0, 7, 3), (3, 0, 2), (2, 5, 0),
    ],
)  # fmt: skip
def test_result(m, k, o, bias, relu, backend):
    x, w, b = torch.randn(m, k), torch.randn(o, k).bfloat16(), torch.randn(o) if bias else None
    y = ops.linear(x, w, b, relu=relu, backend=backend)
    assert y.dtype is torch.float32
    assert y.shape == (m, o)
    wide = [None if t is None else t.double() for t in (x, w, b)]
    assert_close("y", y, reference.linear(*wide, relu), reference.linear(x, w.float(), b, relu))
    assert torch.equal(y, ops.linear(x, w.float(), b, relu=relu, backend=backend))


@given(m=st.integers(1, 20), k=st.integers(1, 70), o=st.integers(1, 20), seed=st.integers(0, 9))
@settings(max_examples=60)
def test_any_size_to_the_bit(m, k, o, seed):
    g = torch.Generator().manual_seed(seed)
    x, w, b = (torch.randn(s, generator=g) for s in ((m, k), (o, k), (o,)))
    w = w.bfloat16()
    assert torch.equal(
        ops.linear(x, w, b, backend="cpu"), ops.linear(x, w.float(), b, backend="cpu")
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("k", [0, 47, 50])
@pytest.mark.parametrize("inside", ["x", "w"])
def test_what_is_not_finite_passes_on(value, k, inside):
    x, w = torch.randn(9, 51), torch.randn(8, 51).bfloat16()
    (x if inside == "x" else w)[4, k] = value
    ours = ops.linear(x, w, relu=True, backend="cpu")
    theirs = ops.linear(x, w.float(), relu=True, backend="eager")
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_extreme_weights_are_exact():
    """Subnormal and the largest bfloat16 values; every bit pattern that is a number."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    w = bits.view(torch.bfloat16)
    w = w[w.isfinite()][:, None]
    y = ops.linear(torch.ones(1, 1), w, backend="cpu")
    assert torch.equal(y[0], w[:, 0].float())


def test_layouts_and_threads_do_not_matter():
    x, w, b = torch.randn(3, 130), torch.randn(21, 130).bfloat16(), torch.randn(42)[::2]
    want = ops.linear(x, w, b.contiguous(), backend="cpu")
    views = [
        (x.t().contiguous().t(), w.t().contiguous().t()),
        (torch.stack([x, x], 1)[:, 0], torch.stack([w, w], 2)[..., 1]),
        (torch.cat([x[:, :1], x], 1)[:, 1:], torch.cat([w[:, :1], w], 1)[:, 1:]),
    ]
    for view in views:
        assert torch.equal(ops.linear(*view, b, backend="cpu"), want)
    odd = torch.cat([torch.zeros(1).bfloat16(), w.flatten()])[1:].view_as(w)  # 2 bytes off
    assert torch.equal(ops.linear(x, odd, b, backend="cpu"), want)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, 30):
            torch.set_num_threads(threads)
            assert torch.equal(ops.linear(x, w, b, backend="cpu"), want)
    finally:
        torch.set_num_threads(before)


def test_it_has_no_gradient():
    x, w, b = torch.randn(2, 5), torch.randn(3, 5).bfloat16(), torch.randn(3)
    for leaf in (x, w, b):
        leaf.requires_grad_()
        y = ops.linear(x, w, b)
        with pytest.raises(InputError, match=r"^w: got bfloat16 beside a float32 x in a backward"):
            y.sum().backward()
        leaf.requires_grad_(False)


@pytest.mark.parametrize(
    ("x", "w", "b", "words"),
    [
        ("float32", "float64", "float32", ["w:", "float64", "float32"]),
        ("float32", "float16", "float32", ["w:", "float16", "float32"]),
        ("bfloat16", "float32", "bfloat16", ["w:", "float32", "bfloat16"]),
        ("float64", "bfloat16", "float64", ["w:", "bfloat16", "float64"]),
        ("float32", "bfloat16", "bfloat16", ["b:", "bfloat16", "float32"]),
    ],
)
def test_other_pairs_are_errors(x, w, b, words):
    tensors = [torch.zeros(s, dtype=getattr(torch, d)) for s, d in (((2, 3), x), ((4, 3), w))]
    with pytest.raises(InputError) as caught:
        ops.linear(*tensors, torch.zeros(4, dtype=getattr(torch, b)))
    for word in words:
        assert word in str(caught.value)


def test_another_device_is_an_error():
    with pytest.raises(InputError, match=r"^w: got device meta, allowed is cpu"):
        ops.linear(torch.zeros(2, 3), torch.zeros(4, 3, dtype=torch.bfloat16, device="meta"))
