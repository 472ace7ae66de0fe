"""The paper's study of localisation on small data: shared against per-class boxes, FC against all.

    python bench/localize_study.py --data fashion-mnist:DIR

Items of Fashion-MNIST (or MNIST, or digits) lie at random places, 20 to 40 pixels long, on 64 x 64
canvases of noise (vggfast/localization/canvases.py). Net A learns the items alone at 32 x 32; with
its convolutions a net A for 64 x 64 learns to classify the canvases; from that network boxes are
trained, shared by all classes (SCR) and per class (PCR), with all layers or the FC layers alone.
Each is measured by both protocols. What was trained already is not trained again, and a run that
was cut off is resumed: start the same command again. JSON and a Markdown table go to
``bench/results``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent):
    if str(place) not in sys.path:
        sys.path.append(str(place))  # `harness`, and `vggfast` of this checkout

from harness.machine import commit, machine, versions  # noqa: E402  - after the path is set

import vggfast  # noqa: E402
from vggfast import InputError, localize  # noqa: E402
from vggfast.engine.output import HISTORY, LAST, LAST_WEIGHTS, SETTINGS  # noqa: E402
from vggfast.evaluate import evaluate  # noqa: E402
from vggfast.evaluation.table import write_text  # noqa: E402
from vggfast.localization import table  # noqa: E402
from vggfast.localization.canvases import SIDE, write_canvases  # noqa: E402
from vggfast.train import StoppedError, TrainingError, fit  # noqa: E402
from vggfast.weights import load_weights, save_weights  # noqa: E402

KINDS = (("scr", "all"), ("pcr", "all"), ("scr", "fc"), ("pcr", "fc"))
DONE = "made.json"  # how the canvases were made


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="bench/localize_study.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add: Any = p.add_argument
    add("--data", required=True, help="fashion-mnist:DIR; mnist:DIR and digits work too")
    add("--train", type=int, default=7000, help="canvases to train on: 7000")
    add("--val", type=int, default=1000, help="canvases to test on: 1000")
    add("--item-epochs", type=int, default=3, help="of the items alone: 3")
    add("--class-epochs", type=int, default=3, help="of classifying canvases: 3")
    add("--epochs", type=int, default=5, help="of boxes with all layers: 5")
    add("--fc-epochs", type=int, default=3, help="of boxes with the FC layers alone: 3")
    add("--batch", type=int, default=32)
    add("--class-lr", type=float, default=0.01, help="of classification, the highest: 0.01")
    add("--lr", type=float, default=0.03, help="of the boxes, the highest of a cosine: 0.03")
    add("--dropout", type=float, default=0.2, help="of the boxes' trainings: 0.2")
    add("--scales", default="64,96", help="test scales of the full protocol: 64,96")
    add("--device", default="auto")
    add("--seed", type=int, default=0)
    add("--runs", type=Path, default=Path("runs/localize-study"), help="folder for what is made")
    add("--out", type=Path, default=HERE / "results" / "localize_study.json")
    return p


class Study:
    """The steps of the study, each done once in the folder ``options.runs``."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.runs = options, options.runs
        self.canvases: Path = self.runs / "canvases"
        self.records: dict[str, Any] = {}

    def common(self, epochs: int, lr: float) -> dict[str, Any]:
        o = self.options
        return {
            "batch": o.batch, "lr": lr, "schedule": "cosine", "warmup": 0.1, "epochs": epochs,
            "seed": o.seed, "device": o.device,
        }  # fmt: skip

    def write(self) -> None:
        """The canvases."""
        o, done = self.options, self.canvases / DONE
        made = {"data": o.data, "train": o.train, "val": o.val, "seed": o.seed}
        if done.is_file():
            if json.loads(done.read_text()) != made:
                raise InputError(f"runs: {self.canvases} holds other canvases; allowed is another")
            return
        begun = self.runs / "canvases.new"
        shutil.rmtree(begun, ignore_errors=True)  # of a study that was cut off
        write_canvases(begun, o.data, train=o.train, val=o.val, seed=o.seed)
        (begun / DONE).write_text(json.dumps(made))
        begun.rename(self.canvases)

    def classifier(self) -> Path:
        """Net A that classifies canvases, from the convolutions of one that knows the items."""
        o = self.options
        items = self.train("items", fit, data=o.data, size=32, net="A", limit=o.train,
                           **self.common(o.item_epochs, o.class_lr))  # fmt: skip
        start = self.runs / "start.safetensors"
        if not start.is_file():
            known = load_weights(items)
            torch.manual_seed(o.seed)
            model = vggfast.vgg("A", num_classes=len(known.classes), crop=SIDE)
            model.features.load_state_dict(known.model.features.state_dict())
            save_weights(start, model, classes=known.classes, mean=known.mean, std=known.std)
        return self.train(
            "classes", fit, data=str(self.canvases), size=SIDE, scale=str(SIDE), net="A",
            fine_tune_from=str(start), **self.common(o.class_epochs, o.class_lr),
        )  # fmt: skip

    def boxes(self, classifier: Path, kind: str, tune: str) -> Path:
        """Net A that gives boxes."""
        o = self.options
        return self.train(
            f"{kind}-{tune}", localize.fit, data=f"imagenet:{self.canvases}", boxes=kind, tune=tune,
            init_from=str(classifier), dropout=o.dropout,
            **self.common(o.epochs if tune == "all" else o.fc_epochs, o.lr),
        )  # fmt: skip

    def train(self, name: str, function: Any, **settings: Any) -> Path:
        """The weights file of a training that is done now, continued, or found."""
        folder: Path = self.runs / name
        weights = folder / LAST_WEIGHTS
        resumed = (folder / LAST).is_file()
        if weights.is_file() or resumed:
            self.check(folder, settings)
        if not weights.is_file():
            print(f"{name}:", flush=True)
            function(**settings, out=folder, resume=resumed)
        self.records[name] = {
            "settings": json.loads((folder / SETTINGS).read_text()),
            "history": (folder / HISTORY).read_text().splitlines(),
        }
        return weights

    def check(self, folder: Path, settings: dict[str, Any]) -> None:
        """Refuse what an earlier study trained in another way."""
        saved = json.loads((folder / SETTINGS).read_text())
        for name, value in settings.items():
            if name != "device" and saved.get(name) != value:
                raise InputError(
                    f"runs: {folder} was trained with {name} {saved.get(name)!r}, not {value!r}; "
                    "allowed are the same settings, or another folder"
                )

    def measure(self, classifier: Path, boxes: Path) -> list[table.Row]:
        """By the true class in the centre crop, and by the full protocol at each and all scales."""
        data = f"imagenet:{self.canvases}"
        common: dict[str, Any] = {"weights": boxes, "data": data, "device": self.options.device}
        found = [localize.evaluate(**common, scales=str(SIDE))]
        scales = self.options.scales
        for these in dict.fromkeys((scales.partition(",")[0], scales)):
            found.append(
                localize.evaluate(**common, protocol="full", classifier=classifier, scales=these)
            )
        rows = [result.row for result in found if result is not None]
        if len(rows) < len(found):
            raise InputError("nproc-per-node: got several processes, allowed is one")
        return rows


def run(study: Study) -> tuple[list[tuple[str, table.Row]], float]:
    """All of it: rows with the names of their trainings, and the classifier's dense top-1 error."""
    study.write()
    classifier = study.classifier()
    known = evaluate(
        weights=classifier, data=str(study.canvases), scales=str(SIDE), device=study.options.device
    )
    if known is None:
        raise InputError("nproc-per-node: got several processes, allowed is one")
    rows = []
    for kind, tune in KINDS:
        weights = study.boxes(classifier, kind, tune)
        rows += [(f"{kind}-{tune}", row) for row in study.measure(classifier, weights)]
    return rows, known.rows[0].top1.value


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    command = shlex.join(
        ["python", "bench/localize_study.py", *(sys.argv[1:] if argv is None else argv)]
    )
    study = Study(options)
    try:
        rows, top1 = run(study)
    except (InputError, TrainingError, StoppedError, localize.LocalizationError) as error:
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
        "classifier_top1_error": top1,
        "training": study.records,
        "rows": [{"training": name, **asdict(row)} for name, row in rows],
    }
    text = table.markdown([row for _, row in rows], [name for name, _ in rows])
    about = f"`{command}`\n\nThe classifier's top-1 error is {100 * top1:.1f} %.\n\n{text}"
    write_text("out", options.out, json.dumps(record, indent=1) + "\n")
    write_text("out", options.out.with_suffix(".md"), about)
    print(about)
    return 0


if __name__ == "__main__":
    sys.exit(main())
