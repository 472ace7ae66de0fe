"""The ops as torch sees them: schema, fake kernel, autograd, autocast, torch.compile, export."""

from __future__ import annotations

import pytest
import torch

from vggfast import ops

V = torch.ops.vggfast


def _leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


def _map(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).to(memory_format=torch.channels_last)


CASES = {
    "conv3x3": lambda: (_leaf(2, 3, 6, 6), _leaf(4, 3, 3, 3), _leaf(4), True, True, True, None),
    "conv3x3 bare": lambda: (_leaf(2, 3, 5, 6), _leaf(4, 3, 3, 3), None, False, False, False, None),
    "conv3x3_backward": lambda: (
        _map(2, 4, 3, 3), _map(2, 3, 6, 6), [2, 3, 6, 6], torch.randn(4, 3, 3, 3),
        _map(2, 4, 3, 3), torch.zeros(2, 3, 3, 1, dtype=torch.uint8), True, True,
        [True, True, True], None,
    ),
    "maxpool2x2": lambda: (_leaf(2, 3, 6, 7), True, None),
    "maxpool2x2_backward": lambda: (
        _map(2, 4, 3, 3), torch.zeros(2, 3, 3, 1, dtype=torch.uint8), 6, 7, None,
    ),
    "conv1x1": lambda: (_leaf(2, 3, 4, 4), _leaf(5, 3, 1, 1), _leaf(5), True, None),
    "linear": lambda: (_leaf(3, 8), _leaf(5, 8), _leaf(5), True, None),
    "linear stored": lambda: (
        torch.randn(3, 8), torch.randn(5, 8).bfloat16(), torch.randn(5), True, None,
    ),
    "lrn": lambda: (_leaf(2, 6, 3, 3), 5, 2.0, 1e-4, 0.75, None),
    "cross_entropy": lambda: (_leaf(3, 6), torch.tensor([0, 5, 2]), 0.1, None),
    "cross_entropy_backward": lambda: (
        torch.ones(()), torch.randn(3, 6), torch.tensor([0, 5, 2]), torch.zeros(3, 2), 0.1, None,
    ),
    "lrn_backward": lambda: (_map(2, 6, 3, 3), _map(2, 6, 3, 3), 5, 2.0, 1e-4, 0.75, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_opcheck(case):
    torch.library.opcheck(getattr(V, case.split()[0]).default, CASES[case]())


def test_every_op_is_checked():
    public = {"conv3x3", "maxpool2x2", "conv1x1", "linear", "lrn"}
    assert public <= {case.split()[0] for case in CASES}


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("pool", [False, True])
def test_gradcheck_conv3x3(relu, pool):
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True)
              for s in ((1, 2, 5, 4), (3, 2, 3, 3), (3,))]  # fmt: skip

    def function(x, w, b):
        return ops.conv3x3(x, w, b, relu=relu, pool=pool, backend="eager")

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x: ops.maxpool2x2(x, backend="eager"), [(1, 2, 5, 4)]),
        (
            lambda *a: ops.conv1x1(*a, relu=True, backend="eager"),
            [(2, 3, 3, 2), (4, 3, 1, 1), (4,)],
        ),
        (lambda *a: ops.linear(*a, relu=True, backend="eager"), [(3, 5), (4, 5), (4,)]),
        (lambda x: ops.lrn(x, alpha=0.4, backend="eager"), [(2, 7, 2, 3)]),
    ],
    ids=["maxpool2x2", "conv1x1", "linear", "lrn"],
)
def test_gradcheck_others(function, shapes):
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(function, leaves)


def test_autocast_picks_the_regions_dtype():
    x, w, b = torch.randn(1, 3, 6, 6), torch.randn(4, 3, 3, 3), torch.randn(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.conv3x3(x, w, b, relu=True).dtype is torch.bfloat16
        assert ops.conv1x1(x, torch.randn(2, 3, 1, 1)).dtype is torch.bfloat16
        assert ops.linear(torch.randn(2, 3), torch.randn(4, 3)).dtype is torch.bfloat16
        assert ops.lrn(x.bfloat16()).dtype is torch.float32
        assert ops.maxpool2x2(x).dtype is torch.float32  # follows its input
    assert ops.conv3x3(x, w, b).dtype is torch.float32


def test_autocast_gradients_come_back_in_float32():
    x, w = torch.randn(1, 3, 6, 6), _leaf(4, 3, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ops.conv3x3(x, w, relu=True, pool=True).float().square().sum()
    loss.backward()
    assert w.grad.dtype is torch.float32
    plain = w.detach().clone().requires_grad_()
    torch.nn.functional.max_pool2d(
        torch.nn.functional.conv2d(x, plain, padding=1).relu(), 2
    ).square().sum().backward()
    assert ((w.grad - plain.grad).norm() / plain.grad.norm()).item() < 0.02  # bfloat16: eps 0.0078


def test_export_keeps_the_ops():
    class Net(torch.nn.Module):
        def forward(self, x, w):
            return ops.conv3x3(x, w, relu=True, pool=True)

    args = (torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Net(), args, dynamic_shapes=({0: batch}, None))
    assert any("vggfast.conv3x3" in str(node.target) for node in program.graph.nodes)
    more = torch.randn(5, 3, 8, 8)
    assert torch.equal(program.module()(more, args[1]), Net()(more, args[1]))


def test_compile_traces_forward_and_backward_without_a_break():
    def function(x, w):
        return ops.conv3x3(x, w, relu=True, pool=True).sum()

    x, w = _leaf(2, 3, 8, 8), _leaf(4, 3, 3, 3)
    # "aot_eager" runs everything but the code generator, which would need a compiler at run time.
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(x, w), (x, w))
    want = torch.autograd.grad(function(x, w), (x, w))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
