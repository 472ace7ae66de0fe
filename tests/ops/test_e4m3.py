"""The e4m3 ops as torch sees them, and their bad arguments; tests/kernels has the numbers."""

from __future__ import annotations

import pytest
import torch

from vggfast import InputError, ops, reference

E4M3 = torch.float8_e4m3fn


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("dtype", [E4M3, torch.float16, torch.float32], ids=str)
def test_fake_kernels_tell_what_the_reference_makes(pool, dtype):
    """Shapes, strides and dtypes; what the kernels make is held to the reference too."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    x, scale = torch.randn(2, 5, 7, 4), torch.tensor(0.01)
    xq = reference.quantize_e4m3(x, scale)
    args = (xq, torch.zeros(9, 20, 16).to(E4M3), torch.ones(20), torch.ones(20))
    y = reference.conv3x3_e4m3(*args, True, pool, dtype)
    mode = FakeTensorMode()
    fakes = [mode.from_tensor(t) for t in (x, scale, *args)]
    with mode:
        pairs = [(ops.quantize_e4m3(*fakes[:2]), xq)]
        pairs += [(ops.conv3x3_e4m3(*fakes[2:], relu=True, pool=pool, dtype=dtype), y)]
    for told, made in pairs:
        assert (told.shape, told.stride(), told.dtype) == (made.shape, made.stride(), made.dtype)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": torch.zeros(1, 16, 2, 2)}, ["x:", "torch.float32", "float8_e4m3fn"]),
        ({"x": torch.zeros(16, 2, 2).to(E4M3)}, ["x:", "(16, 2, 2)", "(N, C_pad, H, W)"]),
        ({"x": torch.zeros(1, 8, 2, 2).to(E4M3)}, ["x:", "8 channels", "multiples of 16"]),
        ({"x": torch.zeros(1, 16, 1, 2).to(E4M3), "pool": True}, ["x:", "H, W >= 2"]),
        ({"w": torch.zeros(9, 4, 32).to(E4M3)}, ["w:", "(9, 4, 32)", "C_pad = 16"]),
        ({"w": torch.zeros(9, 4, 16)}, ["w:", "float32", "float8_e4m3fn"]),
        ({"scale": torch.zeros(3)}, ["scale:", "(3,)", "(4,)"]),
        ({"shift": torch.zeros(4).half()}, ["shift:", "float16", "float32"]),
        ({"dtype": torch.float64}, ["dtype:", "torch.float64", "float8_e4m3fn, float16"]),
    ],
)
def test_bad_arguments(changes, words):
    right = {
        "x": torch.zeros(1, 16, 2, 2).to(E4M3), "w": torch.zeros(9, 4, 16).to(E4M3),
        "scale": torch.zeros(4), "shift": torch.zeros(4),
    }  # fmt: skip
    with pytest.raises(InputError) as caught:
        ops.conv3x3_e4m3(**{**right, **changes})
    for word in words:
        assert word in str(caught.value)


def test_bad_arguments_of_quantize():
    x, one = torch.zeros(1, 3, 2, 2), torch.ones(())
    for bad in (x.double(), x[0], x.int()):
        with pytest.raises(InputError, match=r"^x: got"):
            ops.quantize_e4m3(bad, one)
    for bad in (torch.ones(1), one.double()):
        with pytest.raises(InputError, match=r"^scale: got"):
            ops.quantize_e4m3(x, bad)
    with pytest.raises(InputError, match="requires a gradient"):
        ops.quantize_e4m3(x.requires_grad_(), one)
