"""Which network tensors belong to, by their names and shapes, and that network with them."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vggfast.configs import CONFIGS, DOWNSAMPLING, NETS
from vggfast.errors import InputError
from vggfast.models import huge_pages
from vggfast.models.vgg import VGG, vgg
from vggfast.weights.format import mismatches
from vggfast.weights.names import FC, spelled
from vggfast.weights.tensors import ALLOWED


class Known(NamedTuple):
    """A configuration, and our name for each of a file's tensors."""

    model: VGG  # on the device "meta"
    names: dict[str, str]
    whole: bool  # with its FC layers


def recognise(
    path: Path,
    tensors: dict[str, Tensor],
    spelling: str,
    *,
    net: str | None = None,
    batch_norm: bool | None = None,
    backend: str | None = None,
) -> Known:
    """The configuration of tensors that :func:`vggfast.weights.names.regular` made.

    Args:
        path: what an error calls the file.
        net, batch_norm: what it has to be, or None: whatever fits.
        backend: as :func:`vggfast.vgg` takes it.

    Raises:
        InputError: none fits; the message names the nearest, and the first tensor that does not
            fit it with both shapes, as the file calls it.
    """
    whole = any(f"{fc}.{leaf}" in tensors for fc in FC[spelling] for leaf in ("weight", "bias"))
    nets = NETS if net is None else (net,)
    norms = (False, True) if batch_norm is None else (batch_norm,)
    nearest: tuple[int, str, str] | None = None
    for name, norm in product(nets, norms):
        known = _candidate(tensors, spelling, name, norm, whole, backend)
        shapes = known.model.state_dict()
        wanted = {theirs: shapes[ours] for theirs, ours in known.names.items()}
        wrong = list(mismatches(wanted, with_counters(tensors)))
        if not wrong:
            return known
        if nearest is None or len(wrong) < nearest[0]:
            nearest = len(wrong), f"{name}{' with batch normalisation' if norm else ''}", wrong[0]
    assert nearest is not None, "there is a configuration"
    if net is not None:
        raise InputError(f"weights: {path} is not the net {nearest[1]} ({nearest[2]}); {ALLOWED}")
    raise InputError(
        f"weights: {path} has the tensors of none of {', '.join(nets)}; of {nearest[1]}, the "
        f"nearest, {nearest[2]}; {ALLOWED}"
    )


def filled(known: Known, tensors: dict[str, Tensor]) -> nn.Module:
    """The network, or its ``features`` where there is no more, in float32 and eval mode."""
    part: nn.Module = known.model if known.whole else known.model.features
    part.to_empty(device="cpu")
    huge_pages.advise_all(part)
    prefix = "" if known.whole else "features."
    given = with_counters(tensors)
    part.load_state_dict(
        {ours.removeprefix(prefix): given[theirs] for theirs, ours in known.names.items()}
    )
    return part.eval()


def with_counters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the counters of batches that files of old versions of torch lack."""
    counters = {
        name.replace(".running_mean", ".num_batches_tracked"): torch.tensor(0)
        for name in tensors
        if name.endswith(".running_mean")
    }
    return counters | tensors


def _candidate(
    tensors: dict[str, Tensor],
    spelling: str,
    net: str,
    batch_norm: bool,
    whole: bool,
    backend: str | None,
) -> Known:
    first, _, last = FC[spelling]
    crop, classes = 224, 1000
    if f"{first}.weight" in tensors:
        channels = next(item for item in reversed(CONFIGS[net]) if item != "M")
        width = channels[0] if isinstance(channels, tuple) else int(channels)
        pixels = tensors[f"{first}.weight"].shape[-1] // width
        crop = DOWNSAMPLING * max(1, round(pixels**0.5))
    outputs = tensors.get(f"{last}.bias", tensors.get(f"{last}.weight"))
    if outputs is not None and outputs.dim():
        classes = max(1, outputs.shape[0])
    with torch.device("meta"):  # spares drawing weights that are not used
        model = vgg(net, batch_norm=batch_norm, crop=crop, num_classes=classes, backend=backend)
    names = {theirs: ours for ours, theirs in spelled(model, spelling).items()}
    if not whole:
        names = {theirs: ours for theirs, ours in names.items() if ours.startswith("features.")}
    return Known(model, names, whole)
