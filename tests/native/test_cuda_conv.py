"""The 3x3 convolution in CUDA C++ on a GPU of compute capability 9.0; argument checks anywhere."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from tests.tolerance import assert_close
from vggfast import reference
from vggfast.backends import cuda_conv, native
from vggfast.backends.base import to_channels_last
from vggfast.backends.eager import EagerBackend
from vggfast.errors import InputError

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
needs_hopper = pytest.mark.skipif(not HOPPER, reason="needs a GPU of compute capability 9.0")
EAGER = EagerBackend()

# VGG's layers at two images: (c_in, c_out, size, pool).
LAYERS = [
    (64, 64, 224, True), (64, 128, 112, False), (128, 128, 112, True), (128, 256, 56, False),
    (256, 256, 56, True), (256, 512, 28, False), (512, 512, 28, True), (512, 512, 14, True),
]  # fmt: skip
_FIRST = """
import torch
from vggfast.backends import cuda_conv
for form in cuda_conv.FORMS:
    x = torch.zeros(2, 64, 9, 70, device="cuda", dtype=torch.bfloat16)
    w = torch.zeros(128, 64, 3, 3, device="cuda", dtype=torch.bfloat16)
    for cluster in (1, 2):
        cuda_conv.conv3x3(x, cuda_conv.pack(w), None, True, False, False, form, cluster)
torch.cuda.synchronize()
"""


@pytest.fixture(scope="module")
def runs() -> None:
    """A kernel that waits for ever would stop all tests: the first calls are made elsewhere."""
    done = subprocess.run(
        [sys.executable, "-c", _FIRST], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def _inputs(n: int, c_in: int, c_out: int, h: int, w: int, dtype: torch.dtype) -> list[Tensor]:
    x = to_channels_last(torch.randn(n, c_in, h, w).to("cuda", dtype))
    weights = torch.randn(c_out, c_in, 3, 3) / (9 * c_in) ** 0.5
    return [x, weights.to("cuda", dtype), torch.randn(c_out).to("cuda", dtype)]


def _check(inputs: list[Tensor], relu: bool, pool: bool, cluster: int = 0) -> None:
    x, w, b = inputs
    packed = cuda_conv.pack(w)
    y, argmax = cuda_conv.conv3x3(x, packed, b, relu, pool, pool, cluster=cluster)
    exact = reference.conv3x3(x.double(), w.double(), b.double(), relu, pool)
    assert_close("y", y, exact, EAGER.conv3x3(x, w, b, relu, pool, False)[0])
    if pool:
        # The pool of our own map before it, so that rounding cannot move a maximum.
        full = cuda_conv.conv3x3(x, packed, b, relu, False, False, cluster=cluster)[0]
        want, code = EAGER.maxpool2x2(full, True)
        assert torch.equal(y, want)
        assert argmax is not None
        assert code is not None
        assert torch.equal(argmax, code)


@needs_hopper
@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("c_in", "c_out", "size", "pool"), LAYERS)
def test_layers_of_the_network(c_in, c_out, size, pool, dtype):
    inputs = _inputs(2, c_in, c_out, size, size, dtype)
    _check(inputs, True, pool)
    _check(inputs, True, False, cluster=1)


@needs_hopper
@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("cluster", [1, 2])
@pytest.mark.parametrize(
    "size",
    [
        (1, 64, 64, 1, 1), (5, 64, 128, 7, 7), (3, 128, 192, 15, 17), (1, 64, 128, 33, 70),
        (70, 64, 64, 5, 4), (1, 128, 64, 3, 301), (300, 64, 128, 14, 14), (2, 320, 384, 29, 57),
    ],
)  # fmt: skip
def test_odd_sizes(size, cluster):
    inputs = _inputs(*size, torch.bfloat16)
    _check(inputs, False, False, cluster=cluster)
    if min(size[3:]) > 1:
        _check(inputs, True, True, cluster=cluster)


@needs_hopper
@pytest.mark.usefixtures("runs")
def test_a_swizzled_form_is_right():
    """Prints which of the two readings of the base offset the GPU follows."""
    x, w, b = _inputs(2, 128, 128, 30, 60, torch.bfloat16)
    packed = cuda_conv.pack(w)
    want = cuda_conv.conv3x3(x, packed, b, True, False, False, "slabs")[0]
    right = [
        form
        for form in ("swizzled", "swizzled_offset")
        if torch.equal(cuda_conv.conv3x3(x, packed, b, True, False, False, form)[0], want)
    ]
    print(f"right: {right}")
    assert right


@needs_hopper
@pytest.mark.usefixtures("runs")
def test_dgrad_by_rotated_weights():
    x, w, _ = _inputs(2, 128, 64, 20, 30, torch.float16)
    grad = to_channels_last(torch.randn(2, 64, 20, 30).to("cuda", torch.float16))
    dx, _ = cuda_conv.conv3x3(grad, cuda_conv.pack(w, rotated=True), None, False, False, False)
    exact = torch.nn.grad.conv2d_input(x.shape, w.double(), grad.double(), padding=1)
    theirs = torch.nn.grad.conv2d_input(x.shape, w, grad, padding=1)
    assert_close("dx", dx, exact, theirs)


@needs_hopper
@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("pool", [False, True])
def test_nan_and_infinity(pool):
    """They reach the outputs whose window holds them, and no others, in spite of shared columns."""
    x, w, b = _inputs(2, 64, 128, 12, 58, torch.float16)
    w = w.abs()  # so that infinities of one sign do not cancel to NaN
    x[0, 3, 5, 55], x[1, 7, 0, 0], x[0, 1, 11, 57] = float("nan"), float("inf"), float("inf")
    y, argmax = cuda_conv.conv3x3(x, cuda_conv.pack(w), b, True, pool, pool)
    want = reference.conv3x3(x.double(), w.double(), b.double(), True, pool)
    assert torch.equal(y.isnan(), want.isnan())
    assert torch.equal(y.isinf(), want.isinf())
    if pool:
        full = cuda_conv.conv3x3(x, cuda_conv.pack(w), b, True, False, False)[0]
        code = EAGER.maxpool2x2(full, True)[1]
        assert argmax is not None
        assert code is not None
        assert torch.equal(argmax, code)


@needs_hopper
@pytest.mark.usefixtures("runs")
def test_no_images_and_repeats():
    x, w, b = _inputs(3, 64, 128, 40, 50, torch.bfloat16)
    packed = cuda_conv.pack(w)
    assert cuda_conv.conv3x3(x[:0], packed, b, True, True, True)[0].shape == (0, 128, 20, 25)
    first = cuda_conv.conv3x3(x, packed, b, True, False, False)[0]
    for _ in range(20):
        assert torch.equal(cuda_conv.conv3x3(x, packed, b, True, False, False)[0], first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"c_in": 63}, "c_in: a multiple of 64"),
        ({"c_out": 32}, "c_out: a multiple of 64"),
        ({"h": 0}, "a dimension is out of range"),
        ({"h": 1, "pool": True}, "pool: needs h and width of at least 2"),
        ({"form": 3}, "form: 0, 1 or 2"),
        ({"cluster": 3}, "cluster: 0, 1 or 2"),
        ({"argmax": 16}, "argmax: only with pool"),
        ({"x": 0}, "x, packed and y must not be null"),
        ({"y": 24}, "multiples of 16 bytes"),
    ],
)
def test_the_extension_checks_arguments(arguments, message):
    lib = native.module()
    if not lib.build_config()["cuda"]:
        pytest.skip("this build holds no CUDA kernels")
    call = {
        "x": 16, "packed": 16, "b": 0, "y": 16, "argmax": 0, "n": 1, "h": 4, "width": 4,
        "c_in": 64, "c_out": 64, "relu": True, "pool": False, "bf16": True, "form": 0,
        "cluster": 0, "stream": 0, **arguments,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        lib.cuda_conv3x3(**call)


def test_without_a_gpu_of_that_kind_it_says_so():
    lib = native.module()
    if not lib.build_config()["cuda"]:
        pytest.skip("this build holds no CUDA kernels")
    if HOPPER:
        pytest.skip("this GPU has compute capability 9")
    with pytest.raises(RuntimeError, match="CUDA: "):
        lib.cuda_conv3x3_pack(16, 16, 64, 64, False, 0)


def test_bad_input_names_the_argument():
    x, w = torch.zeros(1, 64, 4, 4, dtype=torch.bfloat16), torch.zeros(64, 64, 3, 3)
    with pytest.raises(InputError, match="w: got a tensor on cpu"):
        cuda_conv.pack(w)
    with pytest.raises(InputError, match="packed: got shape"):
        cuda_conv.conv3x3(x, w, None, True, False, False)
    with pytest.raises(InputError, match=r"w: got shape \(64, 64\)"):
        cuda_conv.pack(w[:, :, 0, 0])
    assert cuda_conv.refuse(64, 64, torch.bfloat16) is None
    assert "float32" in str(cuda_conv.refuse(64, 64, torch.float32))
    assert "multiples of 64" in str(cuda_conv.refuse(3, 64, torch.float16))
