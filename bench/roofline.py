"""Count what each layer of a VGG must do on an H100, and predict from it how long that takes.

    python bench/roofline.py --net E --batch 1,64,256
    python bench/roofline.py --against bench/results/E_nvidia-h100_bf16_DATE.json

Nothing is measured and no GPU is needed: the second form puts a result of ``bench/run.py`` beside
the prediction. What is counted: ``bench/counted/``. Exit codes: 0, or 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))  # `counted` and `harness`, which are never installed
if str(HERE.parent) not in sys.path:
    sys.path.append(str(HERE.parent))  # `vggfast` of this checkout, where none is installed

from counted import against, model, report  # noqa: E402  - after the path is set
from counted.hardware import ELEMENT, H100  # noqa: E402
from harness.results import atomically  # noqa: E402

from vggfast import InputError, configs  # noqa: E402
from vggfast.command import Parser  # noqa: E402

OUT = HERE / "predictions" / "roofline_h100.json"


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="bench/roofline.py",
        description="Predict the times of a VGG's layers on an H100 by counting.",
        allow_abbrev=False,
    )
    p.add_argument("--net", default="E", help=f"one or several of {', '.join(configs.NETS)} (E)")
    p.add_argument("--batch", default="1,8,64,256", help="one or several (1,8,64,256)")
    p.add_argument("--dtype", default="bf16", help=f"{', '.join(ELEMENT)} (bf16)")
    p.add_argument("--size", default="224", help="rows and columns of an image (224)")
    p.add_argument("--out", help=f"the JSON file ({OUT.relative_to(HERE.parent)})")
    p.add_argument("--against", metavar="RESULT", help="a JSON file of bench/run.py on a GPU")
    return p


def main(argv: Sequence[str]) -> int:
    """Predict, or compare; 0, or 2 for bad input."""
    try:
        given = parser().parse_args(argv)
        if given.against is not None:
            result = against.load(Path(given.against))
            print("\n".join(against.lines(result, H100)))
            return 0
        nets = [_one_of("--net", net.strip(), configs.NETS) for net in given.net.split(",")]
        batches = [_number("--batch", text.strip(), 1, 65536) for text in given.batch.split(",")]
        dtype = _one_of("--dtype", given.dtype, tuple(ELEMENT))
        size = _number("--size", given.size, configs.DOWNSAMPLING, 4096)
        _predict(nets, batches, dtype, size, OUT if given.out is None else Path(given.out))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _predict(nets: list[str], batches: list[int], dtype: str, size: int, out: Path) -> None:
    predictions, networks = {}, []
    print(f"{report.WHAT}, for {H100.name}, {dtype}, {size}x{size}")
    for name, source in H100.sources.items():
        print(f"  {name}: {source}")
    for net in nets:
        for n in batches:
            rows = model.rows(net, n, dtype, H100, size)
            predictions[net, n] = rows
            print(f"\nVGG-{net}, batch {n}")
            print("\n".join(report.lines(rows, H100)))
            for kind in ("inference", "training"):
                networks.append(model.network(net, kind, n, dtype, H100, size))
                print(report.network_line(networks[-1]))
    document = report.as_dict(predictions, networks, dtype, size, H100)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomically(out, lambda part: part.write_text(report.text(document)))
    except OSError as error:
        raise InputError(f"--out: got {str(out)!r}: {error.strerror or error}") from error
    print(f"\nwrote {out}")


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise InputError(f"{name}: got {value!r}, allowed are {', '.join(allowed)}")
    return value


def _number(name: str, text: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise InputError(f"{name}: got {text!r}, allowed are whole numbers from {low} to {high}")
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
