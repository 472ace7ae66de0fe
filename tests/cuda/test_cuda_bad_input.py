"""What CUDA kernels cannot take is told before the launch, and a launch that fails is told at once.

The public ops hand over what kernels expect: they bring maps into channels_last memory first. These
are the checks behind them, which keep a mistake of ours from becoming a wild access.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.cuda.conftest import GPU
from vggfast import InputError, ops
from vggfast.backends import cuda_kernels, cuda_launch, cuda_rtc, cuda_sgd, native
from vggfast.errors import LaunchError

DEVICE = "cuda" if GPU else "cpu"
STEP = cuda_sgd.Step(0.1, 0.0, 0.0, 0.0, False, False)


def a_map(*size: int) -> Tensor:
    return torch.randn(*size, device=DEVICE).contiguous(memory_format=torch.channels_last)


def xent(logits: Tensor) -> object:
    return cuda_kernels.cross_entropy(logits, torch.zeros(4, dtype=torch.long, device=DEVICE), 0.0)


# (the kernel's name, the shape it tells, a call with one tensor, what that tensor is when right)
CALLS: list[tuple[str, Callable[[Tensor], object], Callable[[], Tensor]]] = [
    ("maxpool2x2_forward", lambda x: cuda_kernels.maxpool2x2(x, True), lambda: a_map(2, 8, 4, 6)),
    (
        "maxpool2x2_backward",
        lambda g: cuda_kernels.maxpool2x2_backward(
            g, torch.zeros((2, 2, 3, 2), dtype=torch.uint8, device=DEVICE), 4, 6
        ),
        lambda: a_map(2, 8, 2, 3),
    ),
    (
        "lrn_forward",
        lambda x: cuda_kernels.lrn(x, 5, 2.0, 1e-4, 0.75),
        lambda: a_map(2, 8, 3, 5),
    ),
    (
        "lrn_backward",
        lambda x: cuda_kernels.lrn_backward(a_map(2, 8, 3, 5), x, 5, 2.0, 1e-4, 0.75),
        lambda: a_map(2, 8, 3, 5),
    ),
    ("cross_entropy", xent, lambda: torch.randn(4, 6, device=DEVICE)),
    (
        "first_conv",
        lambda x: cuda_kernels.first_conv(x, torch.randn(8, 3, 3, 3, device=DEVICE), None, True),
        lambda: a_map(2, 3, 4, 5),
    ),
    (
        "first_conv_wgrad",
        lambda g: cuda_kernels.first_conv_wgrad(g, a_map(2, 3, 4, 5), None, 8, True, True),
        lambda: a_map(2, 8, 4, 5),
    ),
]
each_call = pytest.mark.parametrize(("kernel", "call", "right"), CALLS, ids=[c[0] for c in CALLS])


@each_call
def test_other_strides(kernel, call, right):
    x = right()
    call(x)
    spread = torch.randn(*x.shape[:-1], 2 * x.shape[-1], device=DEVICE)[..., ::2]
    with pytest.raises(InputError, match=rf"^{kernel} of \(.*strides .*, allowed is .* memory$"):
        call(spread)
    if x.dim() == 4:
        with pytest.raises(InputError, match=rf"^{kernel} of .*allowed is channels_last memory$"):
            call(x.contiguous())


@each_call
def test_another_device(kernel, call, right):
    reason = rf"^{kernel} of \(.*\): got a tensor on meta, allowed is {DEVICE}$"
    with pytest.raises(InputError, match=reason):
        call(right().to("meta"))
    x = right()
    with pytest.raises(InputError, match=rf"^{kernel} of .*: got a tensor on .*, allowed is meta$"):
        cuda_launch.check(kernel, x.to("meta"), (x,) if x.dim() == 4 else (), (x,))


@pytest.mark.skipif(GPU, reason="torch gives no such memory on a GPU")
def test_an_address_off_an_elements_size():
    memory = np.zeros(4 * 24 + 1, np.uint8)
    odd = np.ndarray((24,), np.float32, memory.data, offset=1)
    x = torch.from_numpy(odd).view(1, 2, 3, 4).permute(0, 3, 1, 2)
    assert x.data_ptr() % 4
    reason = rf"^lrn_forward of \(1, 4, 2, 3\): got address {x.data_ptr():#x}, allowed are .* 4 "
    with pytest.raises(InputError, match=reason):
        cuda_launch.check("lrn_forward", x, (x,))


def test_the_public_ops_take_any_strides():
    x = torch.randn(2, 8, 6, 10, device=DEVICE)[:, :, ::2, 1:]
    assert torch.equal(ops.maxpool2x2(x, backend="cuda"), ops.maxpool2x2(x, backend="eager"))
    logits = torch.randn(6, 4, device=DEVICE).t()
    labels = torch.arange(8, device=DEVICE)[::2] % 6
    ours, theirs = (ops.cross_entropy(logits, labels, backend=b) for b in ("cuda", "eager"))
    torch.testing.assert_close(ours, theirs)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every launch fails as on a stream of another device."""

    def refuse(*_: object) -> None:
        raise RuntimeError("CUDA: invalid resource handle")

    monkeypatch.setattr(cuda_launch, "_launch", refuse)


@pytest.mark.usefixtures("refusing")
@each_call
def test_a_failing_launch_names_kernel_and_shape(kernel, call, right):
    with pytest.raises(LaunchError, match=rf"^{kernel}.* of \(.*\) on .*: CUDA: invalid resource"):
        call(right())


@pytest.mark.usefixtures("refusing")
def test_a_failing_launch_of_the_others():
    image = torch.zeros((1, 9, 9, 3), dtype=torch.uint8, device=DEVICE)
    with pytest.raises(LaunchError, match=r"^crop_images<float, true> of \(1, 9, 9, 3\) on "):
        ops.crop_images(image, [[0, 0]], (4, 4), (0, 0, 0), (1, 1, 1), backend="cuda")
    p, g = torch.ones(5, 3, device=DEVICE), torch.ones(5, 3, device=DEVICE)
    with pytest.raises(LaunchError, match=r"^sgd<float> of \(5, 3\) on "):
        cuda_sgd.update([cuda_sgd.Tensors(p, g, None, None, False)], STEP)


@pytest.mark.skipif(GPU, reason="launches succeed where there is a GPU")
def test_a_real_launch_fails_without_a_driver(monkeypatch):
    if not native.module().build_config()["cuda"]:
        pytest.skip("the native extension was built without CUDA")
    monkeypatch.delenv("VGGFAST_CUDA_EMULATE")
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(cuda_kernels, "check", lambda *_: None)  # here it refuses the CPU's memory
    stream = type("Stream", (), {"cuda_stream": 0})
    monkeypatch.setattr(torch.cuda, "current_stream", stream)
    with pytest.raises(LaunchError, match=r"^lrn_forward<float, true> of \(2, 8, 3, 5\) on cpu: "
                                          "CUDA: lrn_forward<float, true>: "):  # fmt: skip
        cuda_kernels.lrn(a_map(2, 8, 3, 5), 5, 2.0, 1e-4, 0.75)


@pytest.mark.skipif(not GPU, reason="there is no GPU")
def test_no_error_is_left_for_the_next_call():
    """More threads than the kernel is built for; what follows knows nothing of it."""
    x = a_map(2, 8, 3, 5)
    with pytest.raises((LaunchError, ValueError)):
        cuda_launch.launch("sgd<float>", cuda_launch.Grid(1, 1024, 65535), bytes(3872), x)
    if cuda_launch.why_not_built() is None:
        assert native.module().cuda_last_error() is None
    cuda_kernels.lrn(x, 5, 2.0, 1e-4, 0.75)
    torch.cuda.synchronize()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_stream_of_another_device(monkeypatch):
    x, other = a_map(2, 8, 3, 5), torch.cuda.Stream("cuda:1")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: other)
    with pytest.raises(LaunchError, match="lrn_forward"):
        cuda_kernels.lrn(x, 5, 2.0, 1e-4, 0.75)
    monkeypatch.undo()
    cuda_kernels.lrn(x, 5, 2.0, 1e-4, 0.75)


def test_what_nvrtc_refuses_is_told_in_one_line(monkeypatch):
    """With a stand-in of CuPy, whose own class of error is known by name."""

    class CompileException(Exception):  # noqa: N818
        pass

    class Cupy:
        @staticmethod
        def RawModule(**_):  # noqa: N802
            raise CompileException("log:\nk.cu(3): error: no such thing\nmore")

    cuda_rtc._kernel.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", Cupy)
    monkeypatch.setattr(cuda_launch, "_launch", lambda name, *_: cuda_rtc._kernel(name))
    with pytest.raises(LaunchError) as caught:
        cuda_launch.launch("sgd<float>", cuda_launch.Grid(1, 32), b"1", torch.zeros(3))
    assert str(caught.value) == ("sgd<float> of (3,) on cpu: NVRTC: k.cu(3): error: no such thing")


@pytest.mark.parametrize("error", [ImportError("no libnvrtc"), PermissionError(13, "no cache")])
def test_what_cupy_lacks_names_kernel_and_shape(error, monkeypatch):
    class Cupy:
        @staticmethod
        def RawModule(**_):  # noqa: N802
            raise error

    cuda_rtc._kernel.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", Cupy)
    monkeypatch.setattr(cuda_launch, "_launch", lambda name, *_: cuda_rtc._kernel(name))
    with pytest.raises(LaunchError, match=r"^sgd<float> of \(3,\) on cpu: .*no (lib|cache)"):
        cuda_launch.launch("sgd<float>", cuda_launch.Grid(1, 32), b"1", torch.zeros(3))


@pytest.mark.parametrize("name", ["grad", "buffer", "copy"])
@pytest.mark.parametrize("change", ["turned", "smaller", "elsewhere"])
def test_sgd_of_tensors_that_do_not_fit(name: str, change: str) -> None:
    p = torch.ones(6, 6, device=DEVICE)
    other = {"turned": p.t().contiguous().t(), "smaller": p[:3], "elsewhere": p.to("meta")}[change]
    tensors = cuda_sgd.Tensors(p, torch.ones_like(p), None, None, False)._replace(**{name: other})
    with pytest.raises(InputError, match=rf"^sgd: {name} has shape \((6|3), 6\) .*allowed are"):
        cuda_sgd.update([tensors], STEP)
    assert torch.equal(p, torch.ones_like(p))
