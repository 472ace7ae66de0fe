"""Dense application against the network itself and against plain torch, window by window."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vggfast
from tests.tolerance import assert_close
from vggfast import reference
from vggfast.errors import InputError
from vggfast.evaluation import apply_densely, class_maps
from vggfast.evaluation import dense as module

from .helpers import build, window_by_window


@pytest.mark.parametrize("crop", [32, 64, 96])
def test_a_crop_sized_image_is_the_single_crop_forward(crop: int) -> None:
    model, x = build("A", crop), torch.randn(3, 3, crop, crop)
    with torch.inference_mode():
        maps, logits = class_maps(model, x), model(x)
    assert maps.shape == (3, 7, 1, 1)
    assert torch.equal(maps[:, :, 0, 0], logits)


@pytest.mark.parametrize("net", ["A", "A-LRN", "C"])
@pytest.mark.parametrize(("crop", "size"), [(32, (70, 97)), (64, (64, 130)), (96, (128, 161))])
def test_every_window_of_the_last_map(net: str, crop: int, size: tuple[int, int]) -> None:
    model, x = build(net, crop), torch.randn(2, 3, *size)
    with torch.inference_mode():
        exact = window_by_window(model, x, torch.float64)
        k = crop // 32
        assert exact.shape == (2, 7, size[0] // 32 - k + 1, size[1] // 32 - k + 1)
        wide = class_maps(model.double(), x.double())
        model.float()
        narrow = class_maps(model, x)
        with vggfast.exact():
            sums = class_maps(model, x)
        baseline = window_by_window(model, x, torch.float32)
    torch.testing.assert_close(wide, exact, rtol=1e-10, atol=1e-12)
    assert_close(f"class maps of {net}", sums, exact, baseline)
    assert reference.errors(narrow, exact).rel < 1e-4


@settings(max_examples=25)
@given(
    crop=st.sampled_from([32, 64]),
    height=st.integers(0, 70),
    width=st.integers(0, 70),
    n=st.integers(0, 2),
)
def test_any_size_in_float64(crop: int, height: int, width: int, n: int) -> None:
    torch.manual_seed(0)
    model = build("A", crop, 3).double()
    x = torch.randn(n, 3, crop + height, crop + width, dtype=torch.float64)
    with torch.inference_mode():
        got, exact = class_maps(model, x), window_by_window(model, x, torch.float64)
    torch.testing.assert_close(got, exact, rtol=1e-10, atol=1e-12)


def test_batch_normalisation() -> None:
    model = build("A", 64, batch_norm=True)
    for m in model.features:
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(m.running_var, 0.5, 2)  # type: ignore[arg-type]
    x = torch.randn(1, 3, 100, 70)
    with torch.inference_mode():
        exact = window_by_window(model, x, torch.float64)
        assert reference.errors(class_maps(model, x), exact).rel < 1e-4


@pytest.mark.parametrize("lines", [1, 2, 3, 5, 8, 1000])
def test_windows_are_written_out_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    """Whatever the bound, the maps are the same; and no more windows exist at once than it says."""
    model, x = build("A", 64), torch.randn(3, 3, 128, 130)  # 3 x 3 windows
    with torch.inference_mode():
        whole = class_maps(model, x)
        line = 3 * (64 * 4) * 4  # windows, values of each, bytes
        monkeypatch.setattr(module, "WINDOW_BYTES", lines * line)
        seen: list[int] = []
        parts = apply_densely(model, x, lambda r: seen.append(len(r)) or model.classifier(r))  # type: ignore[func-returns-value]
    torch.testing.assert_close(parts, whole)
    assert max(seen) <= max(1, lines) * 3
    assert sum(seen) == 27


def test_another_head() -> None:
    model, x = build("A", 64), torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        before_last = apply_densely(model, x, model.classifier[:5])
        last = model.classifier[6]
        scores = torch.einsum("nchw,kc->nkhw", before_last, last.weight) + last.bias.view(-1, 1, 1)
        torch.testing.assert_close(scores, class_maps(model, x))


@pytest.mark.parametrize("shape", [(1, 3, 63, 64), (1, 3, 64, 63), (1, 4, 64, 64), (3, 64, 64)])
def test_an_image_smaller_than_the_crop_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"x: got shape .* H, W >= 64"):
        class_maps(build("A", 64), torch.randn(shape))


def test_gradients_pass() -> None:
    model, x = build("A", 64).double(), torch.randn(1, 3, 96, 97, dtype=torch.float64)
    weight = model.classifier[0].weight
    (got,) = torch.autograd.grad(class_maps(model, x).square().sum(), [weight])
    copy = build("A", 64).double()
    copy.load_state_dict(model.state_dict())
    maps = nn.Sequential(*copy.features)(x).detach()
    total = torch.zeros((), dtype=torch.float64)
    for top in range(2):
        for left in range(2):
            window = maps[:, :, top : top + 2, left : left + 2].flatten(1)
            total = total + nn.Sequential(*copy.classifier)(window).square().sum()
    (wanted,) = torch.autograd.grad(total, [copy.classifier[0].weight])
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.long
def test_a_network_for_224_on_a_larger_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """7 x 7 windows of 512 channels: fc6 as the paper has it."""
    monkeypatch.undo()  # the whole network
    model, x = build("A", 224, 10), torch.randn(1, 3, 256, 320)
    with torch.inference_mode():
        maps = class_maps(model, x)
        exact = window_by_window(model, x, torch.float64)
    assert maps.shape == (1, 10, 2, 4)
    assert reference.errors(maps, exact).rel < 1e-4
