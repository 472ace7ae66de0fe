"""Time the extraction of features from JPEGs against plain PyTorch loops at the same batch size.

    python bench/features.py --net D

Each image is decoded by Pillow, rescaled to its smallest side Q, and seen with its mirror image in
one pass by the network up to the 4096 activations before the last FC layer; these are averaged over
places and the two, and made of length 1. The loops do the same with torch's modules, eager,
channels_last: one with the FC layers as convolutions, as the paper describes it, one with windows
written out for ``nn.Linear``. Ours writes its shards to a disk, too; the loops keep theirs in
memory. All features are compared first, then the contenders take turns. The JPEGs are made from
scikit-image's photographs. Exit codes: 0 measured, 1 features differ (nothing is timed), 2 bad
input.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent):
    if str(place) not in sys.path:
        sys.path.append(str(place))  # `harness`, and `vggfast` of this checkout

from dense import plain  # noqa: E402  - after the path is set
from harness import machine, photographs  # noqa: E402
from harness.clock import CpuClock  # noqa: E402
from harness.contest import OURS, Contender, Rounds, contest  # noqa: E402
from harness.pipelines import MEAN, STD  # noqa: E402
from harness.results import atomically  # noqa: E402
from PIL import Image  # noqa: E402

from vggfast import InputError  # noqa: E402
from vggfast.command import Parser  # noqa: E402
from vggfast.configs import NETS  # noqa: E402
from vggfast.data.transforms import rescaled  # noqa: E402
from vggfast.engine.world import World  # noqa: E402
from vggfast.evaluation.progress import Progress  # noqa: E402
from vggfast.models import vgg  # noqa: E402
from vggfast.reference import errors  # noqa: E402
from vggfast.transfer import load  # noqa: E402
from vggfast.transfer.extraction import Extraction  # noqa: E402
from vggfast.transfer.settings import Settings  # noqa: E402
from vggfast.weights import load_weights, save_weights  # noqa: E402

LARGEST_ERROR = 1e-4
CLASSES = tuple("abcd")


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="bench/features.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("--net", choices=NETS, default="D")
    p.add_argument("--scale", type=int, default=256, help="Q: 256")
    p.add_argument("--crop", type=int, default=224, help="that the net is built for: 224")
    p.add_argument("--size", default="500x375", help="of the JPEGs, width x height: 500x375")
    p.add_argument("--images", type=int, default=16, help="JPEGs of a pass (16)")
    p.add_argument("--batch", type=int, default=8, help="images that a net sees at a time (8)")
    p.add_argument("--rounds", type=int, default=5, help="passes of each contender (5)")
    p.add_argument("--workers", type=int, default=0, help="processes that decode (0)")
    p.add_argument("--out", type=Path, help="write the figures to this JSON file, too")
    return p


class Rescaled(Dataset[Tensor]):
    """JPEGs as a network is given them."""

    def __init__(self, root: Path, scale: int) -> None:
        self.files = sorted(root.rglob("*.jpg"))
        self.scale = scale
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor:
        with Image.open(self.files[i]) as image:
            size = rescaled(image.size, self.scale)
            pixels = np.array(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
        return (torch.from_numpy(pixels).permute(2, 0, 1).float() - self.mean) / self.std


class Unfolded(nn.Module):
    """The FC layers as they are, on every window of the last map, written out."""

    def __init__(self, features: nn.Module, fc: nn.Module, window: int) -> None:
        super().__init__()
        self.features, self.fc, self.window = features, fc, window

    def forward(self, x: Tensor) -> Tensor:
        maps = self.features(x)
        rows = F.unfold(maps, self.window)  # (N, 512 k k, places)
        n, width, places = rows.shape
        y: Tensor = self.fc(rows.transpose(1, 2).reshape(n * places, width))
        return y.view(n, places, -1).transpose(1, 2)[..., None]


@torch.inference_mode()
def loop(model: nn.Module, batches: DataLoader[Tensor]) -> Tensor:
    """The features of all images by a plain loop, (N, 4096)."""
    found = []
    for x in batches:
        both = torch.cat([x, x.flip(3)]).to(memory_format=torch.channels_last)
        means = model(both).mean((2, 3)).view(2, len(x), -1).mean(0)
        found.append(F.normalize(means, dim=1))
    return torch.cat(found)


class Ours:
    """vggfast's extraction, its networks loaded once; each call writes a folder anew."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.work = Extraction(settings, World(), Progress())

    @torch.no_grad()
    def __call__(self) -> None:
        shutil.rmtree(self.settings.out, ignore_errors=True)
        held: list[Any] = []
        todo, _ = self.work.prepare(held)
        self.work.make(todo)
        self.work.finish(len(todo))
        for file in held:
            file.close()


def peers(weights: Path) -> Iterator[tuple[str, nn.Module]]:
    """Plain networks up to the activations before the last FC layer."""
    model = load_weights(weights).model
    convolutions = plain(model)
    assert isinstance(convolutions, nn.Sequential)
    yield "torch, FC as convolutions", convolutions[:-1]
    fc = nn.Sequential(*model.classifier[:5])
    yield "torch, FC on windows", Unfolded(convolutions[0], fc, model.crop // 32).eval()


def run(given: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """Compare features, then time; a row for each contender.

    Raises:
        ValueError: features differ.
    """
    width, height = (int(side) for side in given.size.split("x"))
    kilobytes = photographs.write(root / "jpegs", given.images, (width, height)) / 1e3
    w, h = rescaled((width, height), given.scale)
    torch.manual_seed(0)
    weights = root / "net.safetensors"
    save_weights(weights, vgg(given.net, num_classes=len(CLASSES), crop=given.crop),
                 classes=CLASSES, mean=MEAN, std=STD)  # fmt: skip
    data = root / "jpegs" / "train"
    ours = Ours(
        Settings(
            weights=(str(weights),), data=f"images:{data}", out=str(root / "features"),
            scales=str(given.scale), workers=given.workers, device="cpu", flips=True,
            # In crops' worth of pixels, mirror images counted.
            batch=-(-given.batch * 2 * w * h // given.crop**2),
        )
    )  # fmt: skip
    batches: DataLoader[Tensor] = DataLoader(
        Rescaled(data, given.scale), given.batch, num_workers=given.workers
    )
    print(
        f"{given.net}, {given.images} JPEGs of {width} x {height} ({kilobytes:.0f} KB) at Q = "
        f"{given.scale}: {w} x {h}, {given.batch} at a time, with mirror images"
    )
    ours()
    found = torch.from_numpy(load(root / "features").values)
    contenders = [Contender(OURS, ours)]
    for name, model in peers(weights):
        apart = errors(found, loop(model, batches)).rel
        print(f"  {name}: features differ by {apart:.1e}")
        if not apart <= LARGEST_ERROR:
            raise ValueError(f"{name}: got {apart:.1e}, allowed is {LARGEST_ERROR:g}")
        contenders.append(Contender(name, partial(loop, model, batches)))
    outcome = contest(contenders, CpuClock(), Rounds(1e9, given.rounds, given.rounds, insist=True))
    rows = []
    for name, stats in outcome.times.items():
        speed = {at: given.images / getattr(stats, at) for at in ("median", "q1", "q3")}
        against = outcome.paired.get(name)
        print(
            f"  {name:<26} {speed['median']:6.2f} images/s, quartiles {speed['q3']:.2f} to "
            f"{speed['q1']:.2f}, n = {stats.n}" + (f"; vggfast is {against}" if against else "")
        )
        rows.append({"contender": name, "images_per_second": speed, "seconds": stats.as_dict()}
                    | ({"speedup": against.as_dict()} if against else {}))  # fmt: skip
    return rows


def check(given: argparse.Namespace) -> None:
    """Raises InputError for an option that cannot be."""
    for name, low in (("images", 1), ("batch", 1), ("rounds", 1), ("workers", 0)):
        if (value := getattr(given, name)) < low:
            raise InputError(f"--{name}: got {value}, allowed are whole numbers from {low} up")
    sides = given.size.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise InputError(f"--size: got {given.size!r}, allowed is WIDTHxHEIGHT as 500x375")
    if given.crop < 32 or given.crop % 32 or given.scale < given.crop:
        raise InputError(
            f"--scale: got {given.scale} for crop {given.crop}, allowed are a crop that is a "
            "multiple of 32 and a scale from it up"
        )
    if given.out is not None and not given.out.parent.is_dir():
        raise InputError(f"--out: got {given.out}, whose folder does not exist")


def main(argv: Sequence[str]) -> int:
    """Measure; 0, 1 if features differ, or 2 for bad input."""
    try:
        given = parser().parse_args(argv)
        check(given)
        facts = machine.machine(torch.device("cpu"), torch.get_num_threads())
        print(f"{facts['cpu']}, {facts['threads']} threads, torch {torch.__version__}")
        with tempfile.TemporaryDirectory(prefix="vggfast-bench-") as folder:
            rows = run(given, Path(folder))
        if given.out is not None:
            options = {name: value for name, value in vars(given).items() if name != "out"}
            record = {"options": options, "machine": facts, "versions": machine.versions(),
                      "commit": machine.commit(), "rows": rows}  # fmt: skip
            text = json.dumps(record, indent=1) + "\n"
            atomically(given.out, lambda part: part.write_text(text))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"features differ: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
