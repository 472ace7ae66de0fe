"""One small case a CUDA kernel, for compute-sanitizer (`make gpu STAGE=sanitize`) and every run.

As tests/kernels/test_triton_sanitize.py: ``@pytest.mark.sanitize(KERNEL, ...)`` names the kernels
that a test launches, which is checked. Sizes are odd, so that blocks stick out of the maps.
References are computed on the CPU.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.cuda.conftest import GPU
from vggfast import ops, optim
from vggfast.backends import cuda_conv, cuda_kernels, cuda_sgd, native
from vggfast.backends.base import to_channels_last
from vggfast.backends.eager import EagerBackend

EAGER = EagerBackend()
CONV = ("conv3x3_sm90", "conv3x3_sm90 pack")  # not by name: bindings of their own
WHY_NO_CONV = cuda_conv.unavailable() if GPU else "there is no GPU"


@pytest.fixture(autouse=True)
def launched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test that does not launch what its marker names, and no more."""
    marker = request.node.get_closest_marker("sanitize")
    wanted, seen = set(marker.args if marker else ()), set()
    for module, at in ((cuda_kernels, "launch"), (cuda_sgd, "launch"), (cuda_conv, "_launch")):
        real = getattr(module, at)

        def noting(name, *args, real=real):
            seen.add(name.split("<")[0])
            real(name, *args)

        monkeypatch.setattr(module, at, noting)
    yield
    assert seen == wanted, "not launched"


def a_map(*size: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return to_channels_last(torch.randn(size).to(dtype))


def close(ours: Tensor | None, theirs: Tensor | None, allowed: float = 2e-3) -> None:
    assert ours is not None
    assert theirs is not None
    torch.testing.assert_close(ours.cpu(), theirs, rtol=allowed, atol=allowed)


@pytest.mark.sanitize("maxpool2x2_forward", "maxpool2x2_backward")
@pytest.mark.parametrize("c", [16, 13])
def test_pool(c, device):
    x = a_map(2, c, 9, 7)
    y, codes = cuda_kernels.maxpool2x2(x.to(device), True)
    want, wanted = EAGER.maxpool2x2(x, True)
    assert torch.equal(y.cpu(), want)
    assert codes is not None
    assert torch.equal(codes.cpu(), wanted)
    dx = cuda_kernels.maxpool2x2_backward(y, codes, 9, 7)
    assert torch.equal(dx.cpu(), EAGER.maxpool2x2_backward(want, wanted, 9, 7))


@pytest.mark.sanitize("lrn_forward", "lrn_backward")
@pytest.mark.parametrize("c", [16, 13])
def test_lrn(c, device):
    how = (5, 2.0, 0.1, 0.75)
    x, grad = a_map(2, c, 5, 3, dtype=torch.float32), a_map(2, c, 5, 3, dtype=torch.float32)
    close(cuda_kernels.lrn(x.to(device), *how), EAGER.lrn(x, *how))
    ours = cuda_kernels.lrn_backward(grad.to(device), x.to(device), *how)
    close(ours, EAGER.lrn_backward(grad, x, *how))


@pytest.mark.sanitize("cross_entropy_forward", "cross_entropy_mean", "cross_entropy_backward")
def test_cross_entropy(device):
    x, labels = torch.randn(5, 77), torch.randint(0, 77, (5,))
    mean, kept = cuda_kernels.cross_entropy(x.to(device), labels.to(device), 0.1)
    want, theirs = EAGER.cross_entropy(x, labels, 0.1)
    close(mean, want)
    one = torch.ones(())
    ours = cuda_kernels.cross_entropy_backward(
        one.to(device), x.to(device), labels.to(device), kept, 0.1
    )
    close(ours, EAGER.cross_entropy_backward(one, x, labels, theirs, 0.1))


@pytest.mark.sanitize("sgd")
def test_sgd(device):
    sizes = [(33, 5), (7,), (9001,)]
    theirs = [torch.randn(s).requires_grad_() for s in sizes]
    ours = [p.detach().to(device).requires_grad_() for p in theirs]
    for p, q in zip(ours, theirs, strict=True):
        q.grad = torch.randn(q.shape)
        p.grad = q.grad.to(device)
    for kind, params in ((optim.SGD, ours), (torch.optim.SGD, theirs)):
        kind(params, 0.1, momentum=0.9, weight_decay=5e-4).step()
    for p, q in zip(ours, theirs, strict=True):
        close(p.detach(), q.detach(), 1e-6)


@pytest.mark.sanitize("crop_images")
@pytest.mark.parametrize("columns", [8, 7])
def test_crops(columns, device):
    images = torch.randint(0, 256, (3, 11, 13, 3), dtype=torch.uint8)
    how = ([[0, 0], [-2, 3], [6, 9]], (5, columns), (123.0, 116.0, 103.0), (58.0, 57.0, 57.0))
    flips = [False, True, False]
    ours = ops.crop_images(images.to(device), *how, flips=flips, backend="cuda")
    close(ours, ops.crop_images(images, *how, flips=flips, backend="eager"), 1e-5)


@pytest.mark.sanitize(
    "first_conv_mma", "first_conv_fma", "first_conv_wgrad_mma", "first_conv_wgrad_fma",
    "first_conv_wgrad_join",
)  # fmt: skip
def test_first_layer(device):
    for dtype, allowed in ((torch.float32, 1e-4), (torch.float16, 2e-2)):
        x, grad = a_map(2, 3, 5, 19, dtype=dtype), a_map(2, 72, 5, 19, dtype=dtype)
        w, b = (torch.randn(s).to(dtype) / 5 for s in ((72, 3, 3, 3), (72,)))
        y = cuda_kernels.first_conv(*(t.to(device) for t in (x, w, b)), True)
        want, _ = EAGER.conv3x3(x.double(), w.double(), b.double(), True, False, False)
        close(y, want.to(dtype), allowed)
        dw, db = cuda_kernels.first_conv_wgrad(grad.to(device), x.to(device), y, 72, True, True)
        _, theirs, of_b = EAGER.conv3x3_backward(
            grad.double(), x.double(), w.double(), y.cpu().double(), None, True, False,
            (False, True, True),
        )  # fmt: skip
        close(dw, theirs.to(dtype), allowed)
        close(db, of_b.to(dtype), allowed)


@pytest.mark.sanitize(*CONV)
@pytest.mark.skipif(WHY_NO_CONV is not None, reason=str(WHY_NO_CONV))
@pytest.mark.parametrize("cluster", [1, 2])
def test_conv_of_many_channels(cluster, device):
    x, w = a_map(3, 64, 9, 11), torch.randn(128, 64, 3, 3).half() / 24
    packed = cuda_conv.pack(w.to(device))
    for pool in (False, True):
        ours, _ = cuda_conv.conv3x3(x.to(device), packed, None, True, pool, pool, cluster=cluster)
        want, _ = EAGER.conv3x3(x.double(), w.double(), None, True, pool, False)
        close(ours, want.half(), 5e-3)


def test_every_kernel_has_a_case():
    there = {name.split("<")[0] for name in native.module().build_config()["cuda_emulated"]}
    named = {
        argument.value
        for node in ast.walk(ast.parse(Path(__file__).read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.sanitize"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }
    assert named == there, "a kernel without a case, or a case of no kernel"
