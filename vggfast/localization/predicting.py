"""Boxes for image files: drawn on them, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from vggfast.data.base import BadImageError
from vggfast.data.decode import SUFFIXES, Photograph
from vggfast.engine.world import World
from vggfast.errors import InputError
from vggfast.evaluation.progress import Progress
from vggfast.files import write_atomically
from vggfast.localization.drawing import draw
from vggfast.localization.networks import Networks, Options
from vggfast.localization.reading import by_size, stream

JSON = "boxes.json"
SMALL = 200  # pictures with a smaller side are enlarged, so that class names fit


@dataclass(frozen=True)
class Located:
    """One class found in an image: its posterior, its box (x1, y1, x2, y2) in pixels of the image,
    and the box's score, the sum of the posteriors at the places that it was merged from."""

    name: str
    probability: float
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Prediction:
    """An image file, its (width, height), and the likeliest classes, the likeliest first."""

    image: str
    size: tuple[int, int]
    found: tuple[Located, ...]


def predict(
    images: Sequence[Path], options: Options, out: Path | None, progress: Progress
) -> list[Prediction]:
    """Locate; see :func:`vggfast.localize.predict`."""
    files = _Files(images)
    if not options.classifiers:
        raise InputError("classifier: got none, allowed are one file or more")
    if out is not None:
        files.check_names(out)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(options.threads or threads)
        with torch.no_grad():
            networks = Networks(options, World())
            progress.start(f"Q = {networks.scales}", len(images))
            with networks.exact():
                found = _locate(files, networks, out, progress)
            progress.end()
    finally:
        progress.close()
        torch.set_num_threads(threads)
    if out is not None:
        text = json.dumps([asdict(p) for p in found], indent=1) + "\n"
        _write(out / JSON, text.encode())
    return found


def _locate(
    files: _Files, networks: Networks, out: Path | None, progress: Progress
) -> list[Prediction]:
    predictions: dict[int, Prediction] = {}
    images = stream(
        files, range(len(files.paths)), networks.scales, workers=networks.options.workers
    )
    readable = (image for image in images if not isinstance(image, BadImageError))
    for group in by_size(readable, networks.images_a_pass()):
        found = networks.locate(group)
        for row, image in enumerate(group):
            named = [networks.classes[i] for i in found.classes[row].tolist()]
            columns = (t[row].tolist() for t in (found.probabilities, found.boxes, found.scores))
            located = tuple(
                Located(name, p, (box[0], box[1], box[2], box[3]), score)
                for name, p, box, score in zip(named, *columns, strict=True)
            )
            path = files.paths[image.number]
            prediction = Prediction(str(path), image.size, located)
            predictions[image.number] = prediction
            if out is not None:
                _draw(files, image.number, prediction, out)
        progress.step(len(group))
    return [predictions[i] for i in range(len(files.paths))]


class _Files:
    """Image files as :func:`stream` reads them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        if not self.paths:
            raise InputError("images: got none, allowed are one file or more")
        for path in self.paths:
            if not path.is_file():
                raise InputError(
                    f"images: no file {path}; allowed are image files, {', '.join(SUFFIXES)}"
                )

    def place(self, i: int) -> str:
        return str(self.paths[i])

    def read(self, i: int) -> bytes:
        try:
            return self.paths[i].read_bytes()
        except OSError as error:
            reason = f"{self.place(i)} ({error.strerror})"
            raise BadImageError(f"data: cannot read image {reason}") from None

    def check_names(self, out: Path) -> None:
        """Pictures are named by their images: two of one name, or one of those that are read,
        would be lost."""
        taken: dict[str, Path] = {}
        for path in self.paths:
            target = out / f"{path.stem}.png"
            other = taken.setdefault(target.name, path)
            if other is not path or target.resolve() in {p.resolve() for p in self.paths}:
                raise InputError(
                    f"out: the picture of {path} would be written over "
                    f"{other if other is not path else target}; allowed are images of different "
                    "names, and another folder than theirs"
                )


def _draw(files: _Files, number: int, prediction: Prediction, out: Path) -> None:
    image = Photograph(files.read(number), files.place(number)).rgb()
    texts = [f"{found.name} {found.probability:.0%}" for found in prediction.found]
    scale = max(1, -(-SMALL // min(image.size)))
    picture = draw(image, [found.box for found in prediction.found], texts, scale)
    target = out / f"{files.paths[number].stem}.png"
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(target, lambda new: picture.save(new, format="PNG"))
    except OSError as error:
        raise InputError(f"out: cannot write {target} ({error})") from None


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, lambda new: new.write_bytes(content))
    except OSError as error:
        raise InputError(f"out: cannot write {path} ({error})") from None
