"""Numerics against float64, beside the baseline's own error: what must hold before timing.

Three sets of checks:

- every layer on its real channels and a smaller map (even and odd), y, dx, dw, db, against the
  float64 oracle;
- every layer on its real map against plain torch in the same dtype, which a small map cannot
  stand for where a kernel picks its tile by the size;
- the network end to end, logits and gradients of the loss, against the float64 oracle.

A quantity passes if ``error <= 2 x baseline error + term``, error being ||y - ref|| / ||ref||. The
term is what a right kernel may differ by while the baseline happens to be exact:

- ``ROUNDED`` x u(dtype): one more rounding of each element to its dtype. Rounding to nearest is
  uniform within +-u, so its rms is u / sqrt(3) at most, and less by the place in the binade.
- the relative error the backend states for its algorithm (Winograd's; 0 for direct kernels).
- ``SUMMED`` x sqrt(K) x u(fp32): K products summed in fp32 in plain order. Each partial sum is
  rounded; for random signs these roundings add up to 0.25 sqrt(K) u of the sum. The baseline may
  sum in blocks and be far better.

u is half of eps. A NaN or an infinity counts as an infinite error and never passes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from harness import cases
from harness.cases import Function, Group
from harness.options import Options
from vggfast import reference
from vggfast.backends import Call, select
from vggfast.configs import Layer

ALLOWED = 2.0
ROUNDED = 0.5
SUMMED = 0.25
FILL = "fill_uninitialized_memory"  # a property that torch's annotations do not know
RULE = (
    f"error <= {ALLOWED:g} x baseline error + {ROUNDED} u(dtype) + {SUMMED} sqrt(K) u(fp32) "
    "+ the algorithm's stated error, error = ||y - ref|| / ||ref||"
)


@dataclass(frozen=True)
class Check:
    """One quantity of one case: its error against the oracle, and the most it may be."""

    what: str  # the layer or "network"
    case: str  # the shape, and what it is compared with
    quantity: str
    error: reference.Errors
    baseline: float  # relative error of the baseline
    bound: float

    @property
    def passed(self) -> bool:
        return self.error.rel <= self.bound  # False for NaN

    def as_dict(self) -> dict[str, object]:
        return {
            "what": self.what, "case": self.case, "quantity": self.quantity,
            "error": self.error.rel, "max_abs": self.error.max_abs, "rms": self.error.rms,
            "baseline_error": self.baseline, "bound": self.bound, "passed": self.passed,
        }  # fmt: skip


class NumericsError(Exception):
    """At least one check failed; nothing was timed and nothing written."""

    def __init__(self, failed: list[Check]) -> None:
        super().__init__(failure(failed[0]))
        self.failed = failed


def failure(check: Check) -> str:
    """One line: which layer and which quantity failed, and by how much."""
    return (
        f"numerics failed: {check.what}, {check.quantity}: error {check.error.rel:.3g}, allowed "
        f"{check.bound:.3g} (baseline {check.baseline:.3g}), largest difference "
        f"{check.error.max_abs:.3g}, {check.case}"
    )


def rounding_term(dtype: torch.dtype, products: int) -> float:
    """The term of the rule for sums of ``products`` products, results in ``dtype``."""
    u, u32 = torch.finfo(dtype).eps / 2, torch.finfo(torch.float32).eps / 2
    return float(ROUNDED * u + SUMMED * products**0.5 * u32)


def algorithm_error(layer: Layer, quantity: str, x: Tensor, options: Options) -> float:
    """What the backend that serves the layer states for its algorithm on x."""
    if layer.op != "conv3x3":
        return 0.0
    call = Call("conv3x3", x.device.type, x.dtype, layer.c_in, layer.c_out)
    serves = select(call, options.backend)
    return serves.conv3x3_error(quantity, tuple(x.shape), layer.c_out, layer.pool)


@contextmanager
def poisoned() -> Iterator[None]:
    """Within this, torch fills what ``torch.empty`` returns with NaN (integers: the largest value).

    So an element that a kernel does not write is seen. torch does it as part of its deterministic
    mode, whose warnings about other ops do not matter here.
    """
    switch, fill = torch.utils.deterministic, getattr(torch.utils.deterministic, FILL)
    mode = torch.get_deterministic_debug_mode()
    setattr(switch, FILL, True)
    # use_deterministic_algorithms does the same, after importing the whole compiler for seconds.
    torch.set_deterministic_debug_mode("warn")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        setattr(switch, FILL, fill)


def small_maps(layer: Layer, quick: bool) -> list[tuple[int, int, int]]:
    """(N, H, W) to check a layer on: an odd map, and unless ``quick`` an even one."""
    if layer.op == "linear":
        return [(3, 1, 1)]
    odd = (2, _at_most(layer.h, 13), _at_most(layer.w, 15))
    return [odd] if quick else [odd, (1, min(layer.h, 28), min(layer.w, 28))]


def _at_most(size: int, limit: int) -> int:
    """An odd size of at most ``limit``, or the size itself where a pool needs its two pixels."""
    return limit if size >= limit else max(min(size, 2), size - 1 + size % 2)


def small(layer: Layer) -> Layer:
    """The layer with fewer outputs where the float64 oracle of all would need gigabytes (fc6)."""
    if layer.op != "linear" or layer.c_out <= 512:
        return layer
    return Layer(layer.name, layer.op, layer.c_in, 509, 1, 1, layer.relu)


def check_small(group: Group, options: Options) -> list[Check]:
    """y and every gradient of a layer on small maps, against float64."""
    found: list[Check] = []
    layer = small(group.layer)
    for i, (n, h, w) in enumerate(small_maps(layer, options.quick)):
        args = cases.inputs(layer, n, h, w, options.dtype, options.device, options.seed + 17 * i)
        wide = tuple(a.double() for a in args)
        g = _gradient_for(layer, wide, args, options.seed + i)
        with poisoned():
            got = results(cases.ours(layer, options.backend), args, g)
        base = results(cases.plain(layer), args, g)
        ref = results(cases.oracle(layer), wide, g.double())
        case = f"{tuple(args[0].shape)} against float64"
        for quantity, reference_value in ref.items():
            baseline = reference.errors(base[quantity], reference_value).rel
            term = rounding_term(options.dtype, _products(layer, quantity, n * h * w))
            term += algorithm_error(layer, quantity, args[0], options)
            found.append(
                Check(
                    group.name, case, quantity,
                    reference.errors(got[quantity], reference_value),
                    baseline, ALLOWED * finite(baseline) + term,
                )
            )  # fmt: skip
    return found


def check_stored(group: Group, options: Options) -> list[Check]:
    """y of an FC layer whose weights are stored in bfloat16, against float64 of these weights."""
    layer = small(group.layer)
    x, w, b = cases.inputs(layer, 3, 1, 1, options.dtype, options.device, options.seed + 3)
    w = w.bfloat16()
    with poisoned(), torch.no_grad():
        y = cases.ours(layer, options.backend)(x, w, b)
    ref = cases.oracle(layer)(x.double(), w.double(), b.double())
    baseline = reference.errors(cases.plain(layer)(x, w.float(), b), ref).rel
    bound = ALLOWED * finite(baseline) + rounding_term(options.dtype, layer.c_in)
    case = f"{tuple(x.shape)}, weights stored in bf16, against float64"
    return [Check(group.name, case, "y", reference.errors(y, ref), baseline, bound)]


def check_real(group: Group, options: Options, seen: list[Check]) -> list[Check]:
    """y and every gradient on the layer's real map against plain torch of the same dtype.

    With ours off by 2 b + t and the baseline by b + t, the two differ by 3 b + 2 t at most; b is
    the baseline's largest error on the small maps, ``seen``.
    """
    layer, n = group.layer, 1
    args = cases.inputs(layer, n, layer.h, layer.w, options.dtype, options.device, options.seed + 5)
    g = _gradient_for(layer, args, args, options.seed)
    with poisoned():
        got = results(cases.ours(layer, options.backend), args, g)
    base = results(cases.plain(layer), args, g)
    found = []
    for quantity, value in base.items():
        b = max(c.baseline for c in seen if c.quantity == quantity)
        term = rounding_term(options.dtype, _products(layer, quantity, n * layer.h * layer.w))
        term += algorithm_error(layer, quantity, args[0], options)
        found.append(
            Check(
                group.name, f"{tuple(args[0].shape)} against torch", quantity,
                reference.errors(got[quantity], value), b, (ALLOWED + 1) * finite(b) + 2 * term,
            )
        )  # fmt: skip
    return found


def results(
    function: Function, args: tuple[Tensor, ...], g: Tensor | Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """y, and the gradients dx, dw, db for the upstream gradient g, of a layer's function."""
    leaves = tuple(a.detach().clone().requires_grad_() for a in args)
    y = function(*leaves)
    upstream = g if isinstance(g, Tensor) else g(y)
    grads = torch.autograd.grad(y, leaves, upstream)
    return {"y": y.detach(), **dict(zip(("dx", "dw", "db"), grads, strict=False))}


def _gradient_for(
    layer: Layer, wide: tuple[Tensor, ...], args: tuple[Tensor, ...], seed: int
) -> Tensor:
    """An upstream gradient, random where the layer's decisions on ``wide`` are clear, else zero."""
    x = args[0]
    size: tuple[int, ...] = (x.shape[0], layer.c_out)
    if x.dim() == 4:
        down = 2 if layer.pool else 1
        size += (x.shape[2] // down, x.shape[3] // down)
    generator = torch.Generator(x.device).manual_seed(seed + 99)
    g = torch.randn(size, generator=generator, device=x.device).to(x.dtype)
    g = reference.clear_gradient(g, cases.before_activation(layer, wide), layer.pool)
    return g.contiguous(memory_format=torch.channels_last) if g.dim() == 4 else g


def _products(layer: Layer, quantity: str, pixels: int) -> int:
    """K: how many products one element of the quantity sums."""
    taps = {"conv3x3": 9, "conv1x1": 1, "linear": 1}.get(layer.op, 0)
    if taps == 0:
        return 16  # LRN: a window of 5 and a power; a pool sums nothing
    return {"y": taps * layer.c_in, "dx": taps * layer.c_out}.get(quantity, pixels)


def finite(error: float) -> float:
    """A baseline that is itself not finite allows nothing."""
    return error if error < float("inf") else 0.0
