"""``Predictor``: a network with its classes and preprocessing, called with images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vggfast.errors import InputError
from vggfast.predict.images import groups
from vggfast.predict.preprocess import Preprocess


class Predictions(NamedTuple):
    """The k likeliest classes of each of N images, the likeliest first, on the CPU."""

    labels: list[list[str]]
    probabilities: Tensor  # (N, k), float32
    indices: Tensor  # (N, k), int64: the classes' numbers


class Predictor:
    """A network that is called with images and answers with classes and probabilities.

    >>> predictor = vggfast.Predictor(model, classes, mean, std, scale=(256, 256))
    >>> predictor(["cat.jpg", array]).labels
    [['tabby', 'tiger cat', ...], ...]

    Args:
        model: a VGG, or any module from (N, 3, H, W) to logits (N, K); it is used where it is, in
            eval mode during a call.
        classes: K names in the order of the logits; by default their numbers.
        mean, std: of red, green and blue on a 0-255 scale; images become (pixel - mean) / std.
        crop: side of the window cut out of the middle; by default the model's.
        scale: (S_min, S_max), the shorter sides that training images were rescaled to: images are
            rescaled to their middle. By default (crop, crop).
        top_k: how many classes to return; by default 5, or all where there are fewer.
        batch_size: images that go through the network at once.

    Raises:
        InputError: an argument out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str] | None = None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        *,
        crop: int | None = None,
        scale: tuple[int, int] | None = None,
        top_k: int | None = None,
        batch_size: int = 64,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"model: got {type(model).__name__}, allowed is a torch.nn.Module")
        crop = getattr(model, "crop", 224) if crop is None else crop
        low, high = (crop, crop) if scale is None else scale
        if crop < 32:
            raise InputError(f"crop: got {crop}, allowed are 32 pixels and more")
        if not crop <= low <= high:
            raise InputError(
                f"scale: got {(low, high)}, allowed are S_min <= S_max from the crop of {crop} up"
            )
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3 or not np.isfinite(values).all():
                raise InputError(f"{name}: got {tuple(values)}, allowed are three finite numbers")
        if min(std) <= 0:
            raise InputError(f"std: got {tuple(std)}, allowed are three numbers above 0")
        if batch_size < 1:
            raise InputError(f"batch_size: got {batch_size}, allowed is 1 or more")
        self.model, self.batch_size, self.top_k = model, batch_size, top_k
        self.classes = None if classes is None else tuple(map(str, classes))
        self.preprocess = Preprocess(
            (low + high) // 2, crop, tuple(map(float, mean)), tuple(map(float, std))
        )
        outputs = getattr(model, "num_classes", None)
        if outputs is not None:
            self._check_outputs(outputs)

    @torch.no_grad()
    def __call__(self, images: Any) -> Predictions:
        """The likeliest classes of images.

        Args:
            images: one image or several: a path, a PIL image, an array, or a list of these. Arrays
                are torch's, NumPy's, CuPy's, or any with ``__dlpack__``, on the model's device or
                another: uint8 (H, W, 3) or (N, H, W, 3), RGB; or floating (3, H, W) or
                (N, 3, H, W), which are normalised already and go to the network as they are. No
                copy is made of what is on the model's device in its dtype.

        Raises:
            InputError: what is no image, or a file that cannot be read; it says which.
        """
        modes = [(m, m.training) for m in self.model.modules()]  # parts may be frozen in eval mode
        self.model.eval()
        try:
            found = [self._likeliest(x) for x in self._batches(images)]
        finally:
            for m, training in modes:
                m.training = training
        if not found:
            return Predictions([], torch.empty(0, 0), torch.empty(0, 0, dtype=torch.long))
        probabilities, indices = (torch.cat(part) for part in zip(*found, strict=True))
        names = self.classes
        labels = [[str(i) if names is None else names[i] for i in row] for row in indices.tolist()]
        return Predictions(labels, probabilities, indices)

    def _batches(self, images: Any) -> Iterator[Tensor]:
        """Batches for the network, of at most ``batch_size`` images, of one size each."""
        given = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        like = torch.empty(0) if given is None else given
        waiting: list[Tensor] = []
        for group in groups(images):
            for part in group.split(self.batch_size):
                x = part.to(like.device)
                x = self.preprocess(x, like.dtype) if x.dtype is torch.uint8 else x.to(like.dtype)
                full = sum(map(len, waiting)) + len(x) > self.batch_size
                if waiting and (full or waiting[0].shape[1:] != x.shape[1:]):
                    yield _joined(waiting)
                    waiting = []
                waiting.append(x)
        if waiting:
            yield _joined(waiting)

    def _likeliest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits: Tensor = self.model(x)
        k = self._check_outputs(logits.shape[1])
        top = logits.float().softmax(1).topk(k)
        return top.values.cpu(), top.indices.cpu()

    def _check_outputs(self, outputs: int) -> int:
        """How many classes to return of a network with so many outputs."""
        if self.classes is not None and len(self.classes) != outputs:
            raise InputError(
                f"classes: got {len(self.classes)} names, allowed are {outputs}, as many as the "
                "network has outputs"
            )
        k = min(5, outputs) if self.top_k is None else self.top_k
        if not 1 <= k <= outputs:
            raise InputError(f"top_k: got {k}, allowed are 1 to {outputs}")
        return k


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
