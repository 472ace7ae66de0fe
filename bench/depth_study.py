"""The paper's study of depth on Fashion-MNIST: train A to E, evaluate each by every protocol.

    python bench/depth_study.py --data fashion-mnist:DIR --epochs 12

Images are 28 x 28, resized to 32 x 32, the crop that the networks are built for, so the training
scale is S = 32; test scales Q are 32 and, by upscaling, 36 and 40. Errors are those of each run's
last epoch, since its best one is chosen on the images that are tested here; the last two networks
make the ensemble. What was trained or scored already is not done again, and a run that was cut off
is resumed: start the same command again. JSON and a Markdown table go to ``bench/results``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent):
    if str(place) not in sys.path:
        sys.path.append(str(place))  # `harness`, and `vggfast` of this checkout

from harness.machine import commit, machine, versions  # noqa: E402  - after the path is set

import vggfast  # noqa: E402
from vggfast import InputError  # noqa: E402
from vggfast.configs import check_net  # noqa: E402
from vggfast.engine.output import HISTORY, LAST, LAST_WEIGHTS, SETTINGS  # noqa: E402
from vggfast.evaluate import Result, Row, evaluate  # noqa: E402
from vggfast.evaluation import table  # noqa: E402
from vggfast.train import StoppedError, TrainingError, fit  # noqa: E402

NETS = "A,B,C,D,E"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="bench/depth_study.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add: Any = p.add_argument
    add("--data", required=True, help="fashion-mnist:DIR; mnist:DIR and digits work too")
    add("--nets", default=NETS, help=f"{NETS} (default), in order of depth")
    add("--scales", default="32,36,40", help="test scales Q: 32,36,40")
    add("--epochs", default="12", help="12; or a number for each net, as 12,6")
    add("--limit", type=int, help="train on this many images only")
    add("--test-limit", type=int, help="test on this many images only")
    add("--batch", type=int, default=64, help="training images a step: 64")
    add("--lr", type=float, default=0.01)
    add("--recipe", help="of vggfast.train: paper or modern")
    add("--batch-norm", action="store_true")
    add("--staged", action="store_true", help="start B to E from A's layers, as the paper does")
    add("--dtype", default="fp32")
    add("--device", default="auto")
    add("--seed", type=int, default=0)
    add("--runs", type=Path, default=Path("runs/depth-study"), help="folder for the trained nets")
    add("--out", type=Path, default=HERE / "results" / "depth_study.json")
    return p


def epochs_of(text: str, nets: int) -> list[int]:
    """The epochs of each net, of which ``text`` names one number or as many as there are nets."""
    parts = text.split(",")
    if not all(p.strip().isdecimal() for p in parts) or len(parts) not in (1, nets):
        raise InputError(f"epochs: got {text!r}, allowed is a whole number, or {nets} of them")
    return [int(p) for p in parts] * (nets if len(parts) == 1 else 1)


def train(net: str, epochs: int, options: argparse.Namespace, start: Path | None) -> Path:
    """The weights file of ``net``, trained now, continued, or found."""
    folder: Path = options.runs / net
    weights = folder / LAST_WEIGHTS
    settings = {
        "net": net, "data": options.data, "epochs": epochs, "limit": options.limit,
        "batch": options.batch, "lr": options.lr, "recipe": options.recipe,
        "batch_norm": options.batch_norm, "dtype": options.dtype, "device": options.device,
        "seed": options.seed, "out": folder, "init_from": start,
    }  # fmt: skip
    if weights.is_file():
        check_settings(folder, settings)
        print(f"{net}: {weights} is used as it is", flush=True)
    else:
        resumed = (folder / LAST).is_file()
        if resumed:
            check_settings(folder, settings)
        fit(**settings, resume=resumed)
    return weights


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse a net that an earlier study trained in another way."""
    saved = json.loads((folder / SETTINGS).read_text())
    for name, value in settings.items():
        wanted = str(value) if isinstance(value, Path) else value
        if name not in ("out", "device") and (saved.get(name) or None) != (wanted or None):
            raise InputError(
                f"runs: {folder} was trained with {name} {saved.get(name)!r}, not {wanted!r}; "
                "allowed are the same settings, or another folder"
            )


def score(weights: list[Path], options: argparse.Namespace, protocol: str) -> Result:
    found = evaluate(
        weights=weights, data=options.data, protocol=protocol, scales=options.scales,
        limit=options.test_limit, device=options.device, scores=options.runs / "scores",
    )  # fmt: skip
    if found is None:
        raise InputError("nproc-per-node: got several processes, allowed is one")
    return found


def study(options: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """Train and evaluate; rows of the table, and a record of each net's training."""
    nets = [check_net(net.strip()) for net in options.nets.split(",")]
    if len(set(nets)) != len(nets):
        raise InputError(f"nets: got {options.nets!r}, allowed is each net once")
    epochs = epochs_of(options.epochs, len(nets))
    files: dict[str, Path] = {}
    rows: list[Row] = []
    training: dict[str, Any] = {}
    for net, count in zip(nets, epochs, strict=True):
        start = files["A"] if options.staged and net != "A" and "A" in files else None
        files[net] = train(net, count, options, start)
        history = (files[net].parent / HISTORY).read_text().splitlines()
        training[net] = {
            "settings": json.loads((files[net].parent / SETTINGS).read_text()),
            "history": history,
        }
        for protocol in ("single", "both"):
            rows += score([files[net]], options, protocol).rows
    if len(nets) > 1:
        rows += score([files[net] for net in nets[-2:]], options, "both").rows[-3:]
    return rows, training


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    command = shlex.join(
        ["python", "bench/depth_study.py", *(sys.argv[1:] if argv is None else argv)]
    )
    try:
        rows, training = study(options)
    except (InputError, TrainingError, StoppedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    record = {
        "command": command,
        "machine": machine(torch.device(device), torch.get_num_threads()),
        "versions": versions(),
        "commit": commit(),
        "backends": str(vggfast.explain()),
        "training": training,
        "rows": table.records(rows),
    }
    text = table.markdown(rows)
    table.write_text("out", options.out, json.dumps(record, indent=1) + "\n")
    table.write_text("out", options.out.with_suffix(".md"), f"`{command}`\n\n{text}")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
