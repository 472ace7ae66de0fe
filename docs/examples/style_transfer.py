"""Make a photograph anew out of what a VGG sees in it: image reconstruction, and style transfer.

    python docs/examples/style_transfer.py                    # reconstruct, 256 x 256, on the CPU
    python docs/examples/style_transfer.py --mode transfer
    python docs/examples/style_transfer.py --mode transfer --weights vgg19.pth --pool max \
        --content me.jpg --style painting.jpg --layers relu4_2

reconstruct (Mahendran & Vedaldi 2015): from a grey image, look for one with the photograph's values
of a layer; each of --layers makes an image of its own. transfer (Gatys et al. 2016): from the
content image, look for one with its values of --layers and the style image's Gram matrices of
--style-layers. Both with L-BFGS on vggfast.PerceptualLoss.

Without --weights the network is random (He et al. 2015, of a fixed seed). That keeps enough of an
image to find it again, and its Gram matrices hold colours, grain and small shapes (He, Wang &
Hopcroft 2016); of objects it knows nothing. Average pools, which Gatys et al. prefer, make both far
better with random weights. Exit codes: 0, or 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import vggfast
from vggfast.command import BAD_INPUT, Parser, fail
from vggfast.configs import NETS
from vggfast.engine import checks
from vggfast.errors import InputError
from vggfast.perceptual import PerceptualLoss, Targets
from vggfast.predict.images import groups
from vggfast.predict.preprocess import rescale
from vggfast.taps import IMAGENET
from vggfast.taps.normalize import Moments
from vggfast.weights import load_pretrained

SHIPPED = ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "hubble_deep_field",
           "immunohistochemistry", "retina", "rocket")  # fmt: skip


@dataclass(frozen=True)
class Mode:
    """What a mode does where options say nothing else."""

    content: str
    layers: tuple[str, ...]
    style_layers: tuple[str, ...]
    smooth: float


MODES = {
    "reconstruct": Mode("astronaut", ("relu2_2", "relu3_2", "relu4_1"), (), 0.03),
    "transfer": Mode("coffee", ("relu4_1",), ("relu1_1", "relu2_1", "relu3_1", "relu4_1"), 0.0),
}


@dataclass(frozen=True)
class Task:
    """What an image is looked for with."""

    loss: PerceptualLoss
    targets: Targets
    smooth: float  # weight of the mean squared difference of neighbouring pixels

    def __call__(self, x: Tensor) -> Tensor:
        """The loss of images x (N, 3, H, W), RGB from 0 to 1."""
        total = self.loss(x, self.targets)
        if self.smooth:
            down, right = x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]
            total = total + self.smooth * (down.square().mean() + right.square().mean())
        return total


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The options of a command line, those left out as the mode has them.

    Raises:
        InputError: an option out of range.
    """
    options = parser().parse_args(argv)
    _check(options)
    return options


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="style_transfer.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    image = f"an image file, or of scikit-image: {', '.join(SHIPPED)}"
    p.add_argument("--mode", choices=MODES, default="reconstruct")
    p.add_argument("--content", help=f"{image} (reconstruct: astronaut, transfer: coffee)")
    p.add_argument("--style", default="gravel", help="the same, for transfer (gravel)")
    p.add_argument("--layers", nargs="+", help="of content (relu2_2 relu3_2 relu4_1; relu4_1)")
    p.add_argument("--style-layers", nargs="+", help="(relu1_1 relu2_1 relu3_1 relu4_1)")
    p.add_argument("--style-weight", type=float, default=200.0, help="where content's is 1 (200)")
    p.add_argument("--smooth", type=float, help="weight of differences of neighbours (0.03; 0)")
    p.add_argument("--net", choices=NETS, default="E", help="configuration of random weights (E)")
    p.add_argument("--weights", type=Path, help="a file of vggfast.train, or torchvision's")
    p.add_argument("--pool", choices=("average", "max"), default="average")
    p.add_argument("--size", type=int, default=256, help="side of the images in pixels (256)")
    p.add_argument("--steps", type=int, default=200, help="of L-BFGS, for each image (200)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cpu")
    p.add_argument("--out", type=Path, default=Path("style_transfer.png"), help="a PNG")
    return p


def main(argv: Sequence[str]) -> int:
    """Make the picture: what was given, then what was found, side by side."""
    try:
        options = parsed(argv)
        shown = reconstruct(options) if options.mode == "reconstruct" else transfer(options)
        strip = torch.cat(shown, 3)[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0)
        try:
            Image.fromarray(strip.cpu().numpy()).save(options.out, "PNG")
        except OSError as error:
            raise InputError(f"--out: cannot write {options.out} ({error.strerror})") from None
    except InputError as error:
        return fail(error, BAD_INPUT)
    print(f"{options.out}: {strip.shape[1]} x {strip.shape[0]}")
    return 0


def reconstruct(options: argparse.Namespace) -> list[Tensor]:
    """The photograph, and the image found from each layer."""
    content = photograph("--content", options.content, options)
    shown = [content]
    for layer in options.layers:
        task = prepared(options, [layer], [], content, None)
        generator = torch.Generator().manual_seed(options.seed)
        noise = torch.randn(content.shape, generator=generator).to(content)
        found = search(task, 0.5 + 0.01 * noise, options.steps, layer)
        decibels = -10 * F.mse_loss(found.clamp(0, 1), content).log10().item()
        print(f"{layer}: peak signal-to-noise ratio {decibels:.1f} dB")
        shown.append(found)
    return shown


def transfer(options: argparse.Namespace) -> list[Tensor]:
    """The content image, the style image, and the image found."""
    content = photograph("--content", options.content, options)
    style = photograph("--style", options.style, options)
    task = prepared(options, options.layers, options.style_layers, content, style)
    return [content, style, search(task, content.clone(), options.steps, "transfer")]


def network(options: argparse.Namespace) -> tuple[nn.Module, Moments]:
    """A VGG with the pools asked for, and how its images are normalised."""
    moments: Moments = IMAGENET
    if options.weights is None:
        torch.manual_seed(options.seed)
        model: nn.Module = vggfast.vgg(options.net, num_classes=1, crop=32)
    else:
        model, mean, std = load_pretrained(options.weights)
        moments = mean, std
    features: Any = getattr(model, "features", model)
    if options.pool == "average":
        for i, m in enumerate(features):
            if isinstance(m, nn.MaxPool2d):
                features[i] = nn.AvgPool2d(2, 2)
    return model.to(options.device), moments


def prepared(
    options: argparse.Namespace,
    layers: list[str],
    style_layers: list[str],
    content: Tensor,
    style: Tensor | None,
) -> Task:
    """The loss whose terms are relative: 1 where the image's value is off by the target's size."""
    model, normalize = network(options)

    def loss(weights: list[float] | None, style_weights: list[float] | None) -> PerceptualLoss:
        return PerceptualLoss(
            layers, weights, model=model, style_layers=style_layers, style_weights=style_weights,
            normalize=normalize,
        )  # fmt: skip

    targets = loss(None, None).targets(content, style)
    weights = [1 / t.square().mean().item() for t in targets.content.values()]
    share = options.style_weight / max(len(style_layers), 1)
    style_weights = [share / t.square().sum().item() for t in targets.style.values()]
    return Task(loss(weights, style_weights), targets, options.smooth)


def search(task: Callable[[Tensor], Tensor], start: Tensor, steps: int, name: str) -> Tensor:
    """The image that L-BFGS comes to from ``start`` in so many steps."""
    x = start.contiguous().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x], max_iter=steps, max_eval=2 * steps, history_size=20, tolerance_grad=0.0,
        tolerance_change=0.0, line_search_fn="strong_wolfe",
    )  # fmt: skip
    calls, started = 0, time.perf_counter()

    def closure() -> Tensor:
        nonlocal calls
        x.grad = None
        loss = task(x)
        loss.backward()
        calls += 1
        if calls % 50 == 1:
            print(f"{name}: call {calls}, loss {loss.item():.4g}", flush=True)
        return loss

    optimizer.step(closure)
    seconds = time.perf_counter() - started
    print(f"{name}: {calls} calls in {seconds:.1f} s, {1e3 * seconds / calls:.0f} ms each")
    return x.detach()


def photograph(option: str, name: str, options: argparse.Namespace) -> Tensor:
    """The middle square of an image, (1, 3, size, size), RGB from 0 to 1."""
    source = name if name not in SHIPPED else Image.fromarray(_shipped(name))
    try:
        (pixels,) = groups(source)
    except InputError as error:
        raise InputError(f"{option}: {error}") from None
    _, h, w, _ = pixels.shape
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    square = rescale(pixels[:, top : top + side, left : left + side], options.size)
    return square.permute(0, 3, 1, 2).contiguous().float().div(255).to(options.device)


def _shipped(name: str) -> np.ndarray:
    try:
        from skimage import data
    except ImportError:
        raise InputError(f"{name}: not without scikit-image: pip install scikit-image") from None
    image: np.ndarray = getattr(data, name)()
    return image


def _check(options: argparse.Namespace) -> None:
    for name, low in (("size", 32), ("steps", 1), ("seed", 0)):
        if (value := getattr(options, name)) < low:
            raise InputError(f"--{name}: got {value}, allowed are whole numbers from {low} up")
    if options.seed >= 2**63:
        raise InputError(f"--seed: got {options.seed}, allowed are whole numbers below 2^63")
    if not options.out.parent.is_dir() or options.out.is_dir():
        raise InputError(f"--out: got {options.out}, allowed is a file in a folder that exists")
    mode = MODES[options.mode]
    options.content = options.content or mode.content
    options.layers = options.layers or list(mode.layers)
    options.style_layers = options.style_layers or list(mode.style_layers)
    options.smooth = mode.smooth if options.smooth is None else options.smooth
    for name in ("style_weight", "smooth"):
        if not 0 <= (value := getattr(options, name)) < float("inf"):
            raise InputError(
                f"--{name.replace('_', '-')}: got {value}, allowed are numbers from 0 up"
            )
    if options.mode == "reconstruct" and options.style_layers:
        raise InputError("--style-layers: got some, allowed are none with --mode reconstruct")
    try:
        checks.device(options.device)
    except InputError as error:
        raise InputError(f"--{error}") from None
    options.device = checks.resolved_device(options.device)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
