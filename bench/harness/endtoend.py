"""The network end to end against float64: logits, and gradients of the cross-entropy loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.margin import network_margin
from harness.nets import PlainVGG
from harness.numerics import ALLOWED, Check, finite, poisoned, rounding_term
from harness.options import Options
from vggfast import configs, reference, vgg
from vggfast.backends import Call, select

CROP, CLASSES = 32, 100
SHAPE = (2, 3, 33, 35)  # odd maps on the way down, one pixel at the end
DRAWS = 12  # images tried; the one whose closest ReLU or pool decision is clearest is taken
DEEPEST_SUM = 9 * 512


def check_network(options: Options) -> list[Check]:
    """Logits and gradients of a few parameters, ours and plain torch, against float64.

    A single turned decision changes a gradient by its whole size, so the images are drawn
    (fixed seeds) such that no decision is close; torch and float64 see the same images.
    The roundings of L layers add like independent errors: one layer's term counts sqrt(L) times.
    """
    torch.manual_seed(options.seed)
    model = vgg(options.net, num_classes=CLASSES, crop=CROP, backend=options.backend).eval()
    spread_biases(model)
    model.to(options.device, options.dtype)
    state = {k: v.detach() for k, v in model.state_dict().items()}
    wide = {k: v.double() for k, v in state.items()}
    x = _clear_images(options, wide)
    labels = torch.arange(SHAPE[0], device=options.device)
    plain = PlainVGG(options.net, state, CROP, channels_last=True).eval()
    with poisoned():
        got = _outcome(model, x, labels)
    base = _outcome(plain, x, labels)
    ref = _oracle_outcome(options.net, wide, x.double(), labels, list(got))
    depth = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())
    term = depth**0.5 * (rounding_term(options.dtype, DEEPEST_SUM) + _largest_error(options))
    found = []
    for quantity, value in ref.items():
        baseline = reference.errors(base[quantity], value).rel
        found.append(
            Check(
                "network", f"{SHAPE} against float64", quantity,
                reference.errors(got[quantity], value), baseline,
                ALLOWED * finite(baseline) + term,
            )
        )  # fmt: skip
    return found


def _largest_error(options: Options) -> float:
    """The largest error that the backend states for an algorithm it convolves this network with."""
    found = [0.0]
    for layer in configs.conv_layers(options.net, CROP):
        size = (SHAPE[0], layer.c_in, layer.h, layer.w)
        call = Call("conv3x3", options.device.type, options.dtype, layer.c_in, layer.c_out)
        if layer.op == "conv3x3":
            serves = select(call, options.backend)
            for quantity in ("y", "dx", "dw"):
                found.append(serves.conv3x3_error(quantity, size, layer.c_out, layer.pool))
    return max(found)


def spread_biases(model: nn.Module) -> None:
    """Random biases: of the zeros a network starts with, a wrong use would not show."""
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p, 0.0, 0.05)


def _clear_images(options: Options, wide: dict[str, Tensor]) -> Tensor:
    """Of a few random batches, the one whose closest decision in the network is clearest."""
    best, best_margin = torch.empty(0), -1.0
    for draw in range(DRAWS // 3 if options.quick else DRAWS):
        g = torch.Generator(options.device).manual_seed(options.seed + draw)
        x = torch.randn(SHAPE, generator=g, device=options.device).to(options.dtype)
        margin = network_margin(options.net, wide, x.double(), CROP)
        if margin > best_margin:
            best, best_margin = x, margin
    return best


def _names(state: list[str]) -> list[str]:
    """First and last convolution, and the last FC layer: weight and bias."""
    convs = [n for n in state if n.startswith("features.")]
    return [*convs[:2], *convs[-2:], *[n for n in state if n.startswith("classifier.6")]]


def _outcome(model: nn.Module, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    names = _names(list(parameters))
    logits = model(x.contiguous(memory_format=torch.channels_last))
    loss = F.cross_entropy(logits, labels)
    grads = torch.autograd.grad(loss, [parameters[n] for n in names])
    return {"logits": logits.detach(), **{f"d {n}": g for n, g in zip(names, grads, strict=True)}}


def _oracle_outcome(
    net: str, wide: dict[str, Tensor], x: Tensor, labels: Tensor, quantities: list[str]
) -> dict[str, Tensor]:
    names = [q.removeprefix("d ") for q in quantities if q != "logits"]
    state = {n: v.clone().requires_grad_(n in names) for n, v in wide.items()}
    logits = reference.network(configs.check_net(net), state, x, crop=CROP)
    grads = torch.autograd.grad(F.cross_entropy(logits, labels), [state[n] for n in names])
    return {"logits": logits.detach(), **{f"d {n}": g for n, g in zip(names, grads, strict=True)}}
