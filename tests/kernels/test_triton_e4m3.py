"""The e4m3 convolution against float64 of the same e4m3 numbers, its tiles, edges and refusals."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from triton_cases import GPU
from vggfast.kernels import compile_cases, compile_check, tiles

from vggfast import BackendError, ops, reference
from vggfast.backends import e4m3 as served
from vggfast.backends.base import to_channels_last
from vggfast.configs import conv_layers
from vggfast.nn import FusedSequential
from vggfast.quantization import emulated, quantize

E4M3 = torch.float8_e4m3fn
HOPPER = not GPU or torch.cuda.get_device_capability()[0] >= 9
hopper = pytest.mark.skipif(not HOPPER, reason="this GPU has no e4m3 kernel")
ENTRIES = [t for t in tiles.table() if t.kernel == "e4m3"]
# (N, C_in, C_out, H, W): channels to pad on both sides, odd maps, more than one tile along channels
# and pixels, more than one step along C_in, maps smaller than a box, N that no box divides.
SIZES = (
    (1, 1, 1, 1, 1),
    (2, 3, 5, 1, 7),
    (1, 17, 72, 9, 18),
    (2, 130, 24, 5, 4),
    (33, 16, 16, 2, 2),
)
VARIANTS = (
    (E4M3, True, False),
    (E4M3, True, True),
    (E4M3, False, False),
    (torch.float32, True, False),
    (torch.float16, False, True),
)
# Of the sum of the products' absolute values: what sums in float32 lose; Hopper's add with 14 bits.
ROUNDED = 2.0**-9 if GPU else 2.0**-21


@pytest.fixture(autouse=True)
def _fresh() -> None:
    served.clear_cache()


def case(
    size: tuple[int, ...], device: torch.device, seed: int = 1
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, w, scale and shift with results around 100."""
    n, c_in, c_out, h, w = size
    g = torch.Generator().manual_seed(seed)
    x = torch.randn((n, c_in, h, w), generator=g).mul(60).clamp(-448, 448)
    x = reference.quantize_e4m3(x, torch.ones(()))
    weight = torch.randn((9, c_out, x.shape[1]), generator=g).mul(100).clamp(-448, 448).to(E4M3)
    scale = (torch.rand(c_out, generator=g) + 0.5) / (60 * (9 * c_in) ** 0.5)
    shift = torch.randn(c_out, generator=g) * 30
    x, weight, scale, shift = (t.to(device) for t in (x, weight, scale, shift))
    return x, weight, scale, shift


def assert_right(
    y: Tensor, x: Tensor, w: Tensor, scale: Tensor, shift: Tensor, relu: bool, pool: bool
) -> None:
    """y is the exact result rounded to its dtype, but for what float32 sums may lose before that.

    ReLU, pool and rounding keep the order, so y lies between what they make of that range's ends.
    """
    c = w.shape[1]
    z = reference.exact_conv3x3_e4m3(x, w, scale, shift, False, False)
    sizes = (x.double().abs(), w.double().abs(), scale.abs(), shift.abs())
    slack = ROUNDED * reference.exact_conv3x3_e4m3(*sizes, False, False)
    one = torch.ones((), device=x.device)

    def finished(z: Tensor) -> Tensor:
        z = z.relu() if relu else z
        z = F.max_pool2d(z, 2) if pool else z
        return reference.quantize_e4m3(z, one)[:, :c] if y.dtype is E4M3 else z.to(y.dtype)

    low, high = finished(z - slack).double(), finished(z + slack).double()
    got = y[:, :c].double()
    assert got.shape == low.shape
    assert ((low <= got) & (got <= high)).all()
    if y.dtype is E4M3:
        assert (low == high).double().mean() > (0.8 if GPU else 0.99), "the range says too little"
        assert y.shape[1] % 16 == 0
        assert (y[:, c:].float() == 0).all(), "absent channels are zeros"


@hopper
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
def test_forward(size: tuple[int, ...], device: torch.device) -> None:
    args = case(size, device)
    for dtype, relu, pool in VARIANTS if size == SIZES[3] else VARIANTS[:2]:
        if pool and min(size[3:]) < 2:
            continue
        y = ops.conv3x3_e4m3(*args, relu=relu, pool=pool, dtype=dtype)
        assert y.dtype is dtype
        assert y.permute(0, 2, 3, 1).is_contiguous()
        assert_right(y, *args, relu, pool)


@hopper
@pytest.mark.sanitize("conv3x3_e4m3_kernel", "quantize_e4m3_kernel")
def test_small_case(device: torch.device) -> None:
    """Both kernels on a map that boxes stick out of: what compute-sanitizer runs."""
    x, *rest = case((2, 24, 20, 9, 7), device)
    assert_right(ops.conv3x3_e4m3(x, *rest, relu=True, pool=True), x, *rest, True, True)
    values = torch.randn((2, 20, 9, 7), generator=torch.Generator().manual_seed(2)).to(device)
    scale = torch.full((), 0.01, device=device)
    ours = ops.quantize_e4m3(to_channels_last(values), scale)
    assert torch.equal(ours.float(), reference.quantize_e4m3(values, scale).float())


@hopper
@pytest.mark.parametrize("tile", ENTRIES, ids=lambda t: t.name)
def test_every_entry_computes(tile: tiles.Tile, device: torch.device) -> None:
    """A map that no box divides, with a part box on each side that is larger than one box."""
    n = min(tile.box[0] + 1, 3)
    h, w = (min(side + 1, 7) for side in tile.box[1:])
    args = case((n, 24, 20, h, w), device)
    with tiles.forced(tile):
        y = ops.conv3x3_e4m3(*args, relu=True, pool=True)
    assert_right(y, *args, True, True)


def test_vgg_layers_fit_their_tiles() -> None:
    """At batch 32 and 224x224 no layer of E after the first wastes anything."""
    for layer in conv_layers("E")[1:]:
        pixels = (32, layer.h, layer.w)
        tile = tiles.choose("e4m3", 90, 8, pixels, layer.c_out, layer.c_in)
        assert tile.work(pixels, layer.c_out, layer.c_in) == prod(pixels) * layer.c_out * layer.c_in


def test_gates_of_the_machine_code_can_fail() -> None:
    case_ = next(compile_cases.e4m3_cases(ENTRIES[0], False))
    counts = dict.fromkeys(compile_check.COUNTED, 0)
    facts = compile_check.Facts(
        "e4m3", 0, 100, 0, 0.0, {**counts, "HGMMA": 4, "UTMALDG": 8}, 2, set(), 4
    )
    assert list(compile_check._failures(case_, facts)) == [
        "no QGMMA",
        "2 LDSM before the last QGMMA",
        "4 groups of QGMMA: each instruction waits for the last",
    ]
    right = replace(facts, counts={**counts, "QGMMA": 4, "UTMALDG": 8}, early_ldsm=0, groups=1)
    assert list(compile_check._failures(case_, right)) == []


@hopper
def test_every_rounding(device: torch.device) -> None:
    """All e4m3 numbers, their midpoints and the float32 beside these, what overflows, NaN."""
    every = torch.arange(256, dtype=torch.uint8).view(E4M3).float()
    numbers = every[~every.isnan()].unique()
    middle = (numbers[1:] + numbers[:-1]) / 2
    near = [torch.nextafter(middle, torch.tensor(end)) for end in (1e9, -1e9)]
    beyond = torch.tensor([449, 464, 480, 1e9, float("inf"), -449, -1e9, -float("inf"), 1e-30])
    x = torch.cat([numbers, middle, *near, beyond, torch.tensor([float("nan")])])
    x = x[:, None, None, None].to(device)
    y = ops.quantize_e4m3(x, torch.ones((), device=device))
    assert y.shape == (len(x), 16, 1, 1)
    assert (y[:, 1:].float() == 0).all()
    want = x.double().clamp(-448, 448)[:, 0].to(E4M3)
    torch.testing.assert_close(y[:, 0].float(), want.float(), rtol=0, atol=0, equal_nan=True)
    nearest = (x.flatten()[:-1, None].cpu().double() - numbers.double()).abs().amin(1)
    assert torch.equal((x.flatten()[:-1].cpu().double() - y[:-1, 0, 0, 0].cpu().double()).abs()
                       .nan_to_num(posinf=float("inf")), nearest)  # fmt: skip


@hopper
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_quantize(dtype: torch.dtype, device: torch.device) -> None:
    x = torch.randn(2, 70, 5, 6).to(device, dtype)  # NCHW memory
    scale = torch.tensor(0.0071, device=device)
    y = ops.quantize_e4m3(x, scale)
    want = reference.quantize_e4m3(x, scale)
    assert y.stride() == want.stride()
    assert torch.equal(y.view(torch.uint8), want.view(torch.uint8))


@hopper
def test_what_is_too_large_is_clamped_and_nan_stays(device: torch.device) -> None:
    x, w, scale, shift = case((1, 16, 16, 4, 4), device)
    y = ops.conv3x3_e4m3(x, w, 100 * scale, shift, relu=True).float()
    assert y.max() == 448
    assert y.min() == 0
    assert ops.conv3x3_e4m3(x, w, -100 * scale, shift).float().min() == -448
    x.view(torch.uint8)[0, 3, 1, 2] = 0x7F
    for pool in (False, True):
        y = ops.conv3x3_e4m3(x, w, scale, shift, relu=True, pool=pool).float()
        lost = torch.zeros(1, 1, 4, 4, device=device)
        lost[..., :3, 1:] = 1
        lost = F.max_pool2d(lost, 2) if pool else lost
        assert torch.equal(y.isnan(), (lost > 0).expand_as(y))


@hopper
def test_layers_side_by_side_and_no_image(device: torch.device) -> None:
    x, w, scale, shift = case((2, 16, 20, 6, 5), device)
    _, v, *rest = case((2, 20, 7, 6, 5), device, seed=2)
    for n in (2, 0):
        y = ops.conv3x3_e4m3(x[:n], w, scale, shift, relu=True, pool=True)
        z = ops.conv3x3_e4m3(y, v, *rest, dtype=torch.float32)
        assert z.shape == (n, 7, 3, 2)
        if n:
            assert_right(z, y, v, *rest, False, False)
            again = ops.conv3x3_e4m3(y, v, *rest, dtype=torch.float32)
            assert torch.equal(z, again)


@hopper
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_quantized_network_is_what_its_emulation_says(
    dtype: torch.dtype, device: torch.device
) -> None:
    """A number on the edge between two e4m3 numbers may fall on either side; few do."""
    parts: list[nn.Module] = []
    for c_in, c_out in ((3, 16), (16, 40), (40, 20), (20, 7)):
        parts += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU()]
    parts.insert(4, nn.MaxPool2d(2))
    model = FusedSequential(*parts).eval().to(device, dtype)
    x = torch.randn(2, 3, 10, 9).to(device, dtype)
    q = quantize(model, [torch.randn(4, 3, 10, 9)])
    with torch.no_grad():
        y, again, plain = q(x), q(x), model(x).double()
        with emulated():
            want = q(x).double()
    assert y.dtype is dtype
    assert torch.equal(y, again)
    error, moved = ((t - want).norm() / want.norm() for t in (y.double(), plain))
    assert error < (0.3 * moved if GPU else 0.02 * moved)
    assert 0.005 < moved < 0.1


@pytest.mark.skipif(GPU, reason="about machines without a GPU")
def test_refused_where_no_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, one = torch.zeros(1, 3, 2, 2), torch.ones(())
    assert "rounds bfloat16 wrongly" in str(served.why_not(x.device, torch.bfloat16))
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(BackendError, match="e4m3 was asked for on cpu, but there is no NVIDIA GPU"):
        ops.quantize_e4m3(x, one)


def test_other_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr("vggfast.backends.triton.TritonBackend.unavailable", lambda self: None)
    monkeypatch.setattr(torch.version, "hip", None)
    found = {}
    for capability in ((8, 0), (8, 9), (9, 0), (10, 3), (12, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d, c=capability: c)
        served.clear_cache()
        found[capability] = served.why_not(torch.device("cuda", 0))
    served.clear_cache()
    assert found[8, 0] == "its kernels need compute capability 9.0, this GPU has 8.0"
    assert "8.9" in str(found[8, 9])
    assert [found[newer] for newer in ((9, 0), (10, 3), (12, 0))] == [None] * 3
