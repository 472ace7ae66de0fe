"""What features of a net trained on one small set are worth on another: digits and Fashion-MNIST.

    python bench/transfer.py --fashion-mnist DIR

For each of the two sets a linear SVM (C from a held-out fifth of the training images) on raw
pixels, on features of the net trained on the other set, on those of a net with random weights,
which shows what the architecture alone does, and on those of the net trained on the set itself.
Nets are A, for 32 x 32 images; one whose weights file is not given is trained, and kept in
``--runs``. JSON and a Markdown table go to ``bench/results``. Exit codes: 0, 1 (training failed) or
2 (bad input).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent):
    if str(place) not in sys.path:
        sys.path.append(str(place))  # `harness`, and `vggfast` of this checkout

from harness.machine import commit, machine, versions  # noqa: E402  - after the path is set

from vggfast import InputError, vgg  # noqa: E402
from vggfast.command import Parser  # noqa: E402
from vggfast.data import open_images  # noqa: E402
from vggfast.engine.output import LAST_WEIGHTS  # noqa: E402
from vggfast.evaluation.rates import Rate, wilson  # noqa: E402
from vggfast.evaluation.scores import file_hash  # noqa: E402
from vggfast.evaluation.table import write_text  # noqa: E402
from vggfast.features import extract, load  # noqa: E402
from vggfast.train import StoppedError, TrainingError, fit  # noqa: E402
from vggfast.transfer.benchmarks import accuracy  # noqa: E402
from vggfast.transfer.descriptors import unit  # noqa: E402
from vggfast.transfer.table import markdown  # noqa: E402
from vggfast.weights import load_weights, save_weights  # noqa: E402

SETS = ("digits", "fashion-mnist")
HEADER = ("SVM on", "features", "dimension", "accuracy (%)", "95 % interval", "C")


@dataclass(frozen=True)
class Row:
    """``errors`` of the test images of ``target``."""

    target: str
    features: str
    dimension: int
    errors: Rate
    c: float
    train: int
    unfinished: int


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="bench/transfer.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add: Any = p.add_argument
    add("--fashion-mnist", required=True, metavar="DIR", help="folder of Fashion-MNIST's IDX files")
    for name in SETS:
        add(f"--{name}-weights", metavar="FILE", help=f"a net trained on {name}")
    add("--layers", default="relu7,pool4", help="relu7,pool4")
    add("--limit", type=int, default=5000, help="training images of a set, at most: 5000")
    add("--test-limit", type=int, help="test images of a set, at most")
    add("--epochs", type=int, default=12, help="of a net that is trained: 12")
    add("--train-limit", type=int, help="images that such a net is trained on, at most")
    add("--runs", type=Path, default=Path("runs/transfer"), help="folder for nets and features")
    add("--out", type=Path, default=HERE / "results" / "transfer.json")
    return p


def weights_of(name: str, data: str, options: argparse.Namespace) -> Path:
    """The file of the net trained on a set: given, there from an earlier run, or trained now."""
    given = getattr(options, f"{name.replace('-', '_')}_weights")
    if given is not None:
        return Path(given)
    folder: Path = options.runs / name
    if not (folder / LAST_WEIGHTS).is_file():
        fit(net="A", data=data, epochs=options.epochs, limit=options.train_limit, out=folder)
    return folder / LAST_WEIGHTS


def random_net(like: Path, path: Path) -> Path:
    """A file like ``like`` whose network has the weights it would begin training with.

    One that is there is kept: another would be as good, but have another hash.
    """
    if path.is_file():
        return path
    known = load_weights(like)
    torch.manual_seed(0)
    model = vgg(known.net, num_classes=len(known.classes), crop=known.crop)
    save_weights(
        path, model, classes=known.classes, mean=known.mean, std=known.std, scale=known.scale
    )
    return path


def pixels(data: str, part: str, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Grey values, at the images' own size, of length 1 an image, and class numbers."""
    images = open_images(data, part, limit)
    rows = [np.asarray(images[i][0])[..., 0].reshape(-1) for i in range(len(images))]
    return unit(np.stack(rows).astype(np.float64)).astype(np.float32), np.asarray(images.labels)


def features(
    weights: Path, data: str, part: str, layer: str, limit: int | None, out: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Features at the training scale, without mirror images, which digits have none of."""
    extract(
        weights=weights, data=data, out=out, part=part, layer=layer, scales="one", flips=False,
        limit=limit,
    )  # fmt: skip
    found = load(out)
    return found.values, found.labels


def study(options: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """A row for each set and kind of features, and where the nets come from."""
    data = {"digits": "digits", "fashion-mnist": f"fashion-mnist:{options.fashion_mnist}"}
    classes = {name: open_images(place, "val").classes for name, place in data.items()}
    nets = {name: weights_of(name, place, options) for name, place in data.items()}
    options.runs.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for target, other in (SETS, SETS[::-1]):
        limits = {"train": options.limit, "val": options.test_limit}

        def score(name: str, parts: list[Any], target: str = target) -> None:
            (x, y), (test_x, test_y) = parts
            found = accuracy(x, y, test_x, test_y, classes[target])
            wrong = round((1 - found.figures["accuracy"]) * found.test)
            rows.append(
                Row(target, name, x.shape[1], wilson(wrong, found.test), found.c[0], len(x),
                    found.unfinished)
            )  # fmt: skip
            print(f"{target}, {name}: {100 * found.figures['accuracy']:.2f} %", flush=True)

        score("raw pixels", [pixels(data[target], p, n) for p, n in limits.items()])
        kinds = {
            "random weights": random_net(
                nets[target], options.runs / f"random-{target}.safetensors"
            ),
            f"trained on {other}": nets[other],
            f"trained on {target}": nets[target],
        }
        for kind, weights in kinds.items():
            for layer in options.layers.split(","):
                out = options.runs / "features" / f"{target}-{kind}-{layer}".replace(" ", "-")
                found = [
                    features(weights, data[target], p, layer, n, out.with_name(f"{out.name}-{p}"))
                    for p, n in limits.items()
                ]
                score(f"{layer}, {kind}", found)
    about = {
        name: {"file": str(path), "sha256": file_hash(path), "metadata": load_weights(path).extra}
        for name, path in nets.items()
    }
    return rows, about


def cells(row: Row) -> tuple[str, ...]:
    right = [100 * (1 - v) for v in (row.errors.value, row.errors.high, row.errors.low)]
    interval = f"{right[1]:.1f}–{right[2]:.1f}"
    return (
        row.target, row.features, str(row.dimension), f"{right[0]:.1f}", interval, f"{row.c:g}"
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "bench/transfer.py", *given])
    try:
        options = parser().parse_args(given)
        rows, nets = study(options)
        record = {
            "command": command,
            "machine": machine(torch.device("cpu"), torch.get_num_threads()),
            "versions": versions(),
            "commit": commit(),
            "nets": nets,
            "rows": [asdict(row) for row in rows],
        }
        text = markdown([cells(row) for row in rows], HEADER)
        write_text("out", options.out, json.dumps(record, indent=1) + "\n")
        write_text("out", options.out.with_suffix(".md"), f"`{command}`\n\n{text}")
    except (InputError, TrainingError, StoppedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
