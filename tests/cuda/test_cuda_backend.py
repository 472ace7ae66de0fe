"""The cuda backend: when it serves, why it refuses, who makes its kernels."""

from __future__ import annotations

import pytest
import torch

import vggfast
from tests.cuda.conftest import GPU
from vggfast import BackendError, backends, ops
from vggfast.backends import Call, cuda_launch, native
from vggfast.backends.cuda import CudaBackend

DEVICE = "cuda" if GPU else "cpu"
only_emulated = pytest.mark.skipif(GPU, reason="about the emulator, which a GPU does not need")


def call(op: str = "lrn", dtype: torch.dtype = torch.float32, device: str = DEVICE) -> Call:
    return Call(op, device, dtype, 64, 64)


def test_serves_and_refuses():
    backend = CudaBackend()
    assert backend.unavailable() is None
    for op in ("lrn", "maxpool2x2", "cross_entropy", "crop_images", "linear"):
        assert backend.refuse(call(op)) is None
    reason = (
        "its conv3x3 takes 1 to 3 channels (a first layer) to a multiple of 8, or multiples of 64 "
        "on both sides, not "
    )
    for c_in, c_out in ((3, 60), (8, 8), (64, 96), (96, 64), (0, 64)):
        refused = backend.refuse(Call("conv3x3", DEVICE, torch.float16, c_in, c_out))
        assert refused == f"{reason}{c_in} to {c_out}"
    assert backend.refuse(call("conv3x3")) == (
        "its conv3x3 beyond a first layer: its dtypes are bfloat16 and float16, not float32"
    )
    assert backend.refuse(Call("conv3x3", DEVICE, torch.float16, 3, 64)) is None
    reason = "its kernels take float16, bfloat16 and float32, not float64"
    assert backend.refuse(call(dtype=torch.float64)) == reason
    with pytest.raises(BackendError, match=r"'cuda' was asked for conv3x3 .*multiples of 64"):
        ops.conv3x3(torch.zeros(1, 8, 2, 2), torch.zeros(8, 8, 3, 3), backend="cuda")


def test_it_comes_in_no_automatic_order():
    for device in ("cpu", "cuda"):
        assert "cuda" not in backends._AUTOMATIC[device]


def test_explain_says_who_made_the_kernels():
    text = vggfast.explain(DEVICE, backend="cuda")
    assert f"lrn           cuda    own kernel, {cuda_launch.how()}" in text
    assert "linear        cuda    torch's library kernel" in text
    assert "conv3x3       none" in text  # explain asks for 64 channels, here in float32


@only_emulated
def test_the_emulator_takes_cpu_tensors_only():
    assert CudaBackend().refuse(call(device="cuda")) == (
        "VGGFAST_CUDA_EMULATE=1 runs CPU tensors, not cuda"
    )


@only_emulated
def test_unavailable_without_gpu(monkeypatch):
    monkeypatch.delenv("VGGFAST_CUDA_EMULATE")
    reason = "there is no NVIDIA GPU (nor VGGFAST_CUDA_EMULATE=1)"
    assert CudaBackend().unavailable() == reason
    with pytest.raises(BackendError, match="there is no NVIDIA GPU"):
        ops.lrn(torch.zeros(1, 1, 2, 2), backend="cuda")


def test_reasons_of_a_machine_with_a_gpu(monkeypatch):
    monkeypatch.delenv("VGGFAST_CUDA_EMULATE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(cuda_launch, "why_not_built", lambda: "it was built without CUDA")
    assert CudaBackend().unavailable() == (
        "it was built without CUDA, and CuPy, which could compile its kernels, is not installed"
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert CudaBackend().unavailable() is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    reason = CudaBackend().refuse(call(device="cuda"))
    assert reason == "its kernels need compute capability 8.0, this GPU has 7.5"


@pytest.mark.parametrize("built", [True, False])
def test_explain_tells_nvcc_from_nvrtc(built, monkeypatch):
    monkeypatch.delenv("VGGFAST_CUDA_EMULATE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(cuda_launch, "why_not_built", lambda: None if built else "there is no nvcc")
    backends.clear_cache()
    config = {**native.module().build_config(), "cuda_targets": "sm_80 sm_90a compute_90"}
    monkeypatch.setattr(cuda_launch, "_config", lambda: config)
    who = "built by nvcc for sm_80 sm_90a compute_90" if built else "compiled by NVRTC through CuPy"
    text = vggfast.explain("cuda", torch.bfloat16, backend="cuda")
    for op in ("maxpool2x2", "lrn", "cross_entropy", "crop_images"):
        assert f"{op:<13} cuda    own kernel, {who}" in text
    if built:
        assert f"conv3x3       cuda    own kernel, {who}" in text
        assert "    of multiples of 64: built by nvcc for sm_90a; " in text
    else:
        assert "conv3x3       none" in text
        assert "is built by nvcc alone, and there is no nvcc" in text


def test_the_build_says_what_it_holds(monkeypatch):
    config = native.module().build_config()
    assert bool(config["cuda_targets"]) == config["cuda"]
    assert hasattr(native.module(), "cuda_launch") == config["cuda"]
    monkeypatch.setenv("VGGFAST_CUDA_RTC", "1")
    assert cuda_launch.why_not_built() == "VGGFAST_CUDA_RTC=1"


@only_emulated
def test_bad_launches_are_refused():
    launch = native.module().cuda_emulate
    for arguments, words in (
        (("lrn", 1, 1, 32, b"", False), "there is no kernel lrn"),
        (("lrn_forward<float, true>", 1, 1, 32, b"1", False), "got 1 bytes.*takes 64"),
        (("lrn_forward<float, true>", 0, 1, 32, bytes(64), False), "blocks_x"),
        (("lrn_forward<float, true>", 1, 1, 33, bytes(64), False), "threads"),
    ):
        with pytest.raises(ValueError, match=words):
            launch(*arguments)


@only_emulated
def test_the_build_has_every_kernel_that_is_emulated():
    """Without a GPU each launch fails in CUDA; one that is missing would fail before."""
    config = native.module().build_config()
    if not config["cuda"]:
        pytest.skip("the native extension was built without CUDA")
    for name in config["cuda_emulated"]:
        with pytest.raises(ValueError, match="takes") as caught:
            native.module().cuda_launch(name, 1, 1, 32, b"", 0)
        size = int(str(caught.value).rsplit(maxsplit=1)[1])
        with pytest.raises(RuntimeError, match=f"CUDA: {name.split('<')[0]}"):
            native.module().cuda_launch(name, 1, 1, 32, bytes(size), 0)


@pytest.mark.skipif(not GPU, reason="there is no GPU")
@pytest.mark.parametrize("rtc", ["0", "1"])
def test_both_ways_to_make_kernels_run(rtc, monkeypatch):
    """Built by nvcc and compiled by CuPy: the same results."""
    monkeypatch.setenv("VGGFAST_CUDA_RTC", rtc)
    if rtc == "1":
        pytest.importorskip("cupy")
    elif cuda_launch.why_not_built() is not None:
        pytest.skip(str(cuda_launch.why_not_built()))
    x = torch.randn(2, 3, 9, 40, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(64, 3, 3, 3, device="cuda", dtype=torch.bfloat16)
    y = ops.lrn(ops.conv3x3(x, w, relu=True, pool=True, backend="cuda"), backend="cuda")
    want = ops.lrn(ops.conv3x3(x, w, relu=True, pool=True, backend="eager"), backend="eager")
    torch.testing.assert_close(y, want, rtol=0.02, atol=0.02)
