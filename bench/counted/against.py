"""Predictions beside a result of bench/run.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.contest import OURS

from counted import model
from counted.hardware import ELEMENT, Hardware
from vggfast import InputError

RESULT_SCHEMA = 1  # of harness/results.py
# bench/run.py times a layer's gradient through its ReLU and pool, so dz is part of either pass.
PARTS = {"fprop": ("fprop",), "dgrad": ("mask", "dgrad"), "wgrad": ("mask", "wgrad")}


def load(path: Path) -> dict[str, Any]:
    """A result file of a GPU.

    Raises:
        InputError: it is none, or was measured on a CPU.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--against: got {str(path)!r}: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not {"options", "machine", "layers", "networks"} <= set(
        found
    ):
        raise InputError(f"--against: got {str(path)!r}, allowed is a result of bench/run.py")
    if found.get("schema") != RESULT_SCHEMA:
        raise InputError(
            f"--against: got schema {found.get('schema')!r} in {str(path)!r}, allowed is "
            f"{RESULT_SCHEMA}"
        )
    device, dtype = found["machine"]["device"], found["options"]["dtype"]
    if device == "cpu":
        raise InputError(f"--against: got a result of the CPU in {str(path)!r}, allowed is a GPU's")
    if dtype not in ELEMENT:
        raise InputError(f"--against: got dtype {dtype!r}, allowed are {', '.join(ELEMENT)}")
    return found


def lines(result: dict[str, Any], gpu: Hardware) -> Iterator[str]:
    """A row a measured pass of a layer, then the networks."""
    options, device = result["options"], result["machine"]["device"]
    net, dtype, size = options["net"], options["dtype"], options["size"]
    yield f"VGG-{net}, {dtype}: measured on {device}, predicted for {gpu.name}"
    if "H100" not in device:
        yield "the two are not the same GPU: what follows compares a model of one with the other"
    for part in result["layers"]:
        batch, kind = part["batch"], part["pass"]
        predicted = {
            (p.group.names[0], p.kind): p for p in model.rows(net, batch, dtype, gpu, size)
        }
        yield f"layers, {kind}, batch {batch}"
        yield from _header()
        for row in part["rows"]:
            name = row["layers"][0]
            found = [predicted[name, k] for k in PARTS[kind] if (name, k) in predicted]
            yield _line(
                name, row["times"].get(OURS), sum(p.seconds for p in found),
                found[-1].bound if found else "-",
            )  # fmt: skip
    yield "networks"
    yield from _header()
    for row in result["networks"]:
        whole = model.network(net, row["kind"], row["batch"], dtype, gpu, size)
        yield _line(f"{row['kind']} {row['batch']}", row["times"].get(OURS), whole.seconds, "")


def _header() -> Iterator[str]:
    yield f"  {'':<16} {'predicted ms':>12} {'measured ms':>12} {'measured/predicted':>18}  bound"


def _line(name: str, measured: dict[str, float] | None, predicted: float, bound: str) -> str:
    told, ratio = "-", "-"
    if measured is not None:
        told = f"{measured['median_ms']:.4f}"
        ratio = f"{measured['median_ms'] / (1e3 * predicted):.2f}" if predicted else "-"
    return f"  {name:<16} {1e3 * predicted:>12.4f} {told:>12} {ratio:>18}  {bound}".rstrip()
