"""The command line of ``bench/run.py``, checked: every mistake is one line and exit code 2."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from harness import flags, peers
from vggfast import BackendError, InputError, backends, configs
from vggfast.backends import e4m3

# e4m3: the network is in bf16, and ours has its convolutions quantised.
DTYPES = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "e4m3": torch.bfloat16,
}  # fmt: skip
RESULTS = Path(__file__).resolve().parent.parent / "results"
SMALLEST_SIZE = configs.DOWNSAMPLING  # five 2x2 pools leave one pixel


@dataclass(frozen=True)
class Options:
    """What to run. ``batches`` are for inference; ``train_batch`` 0 means no training.

    ``weights``: how ours stores those of FC layers; "bf16" means inference alone.
    ``peers``: keys of those asked for, or None for torch's own within the time there is.
    """

    net: str
    batches: tuple[int, ...]
    train_batch: int
    dtype_name: str
    device: torch.device
    backend: str | None
    exact: bool
    threads: int
    layers_only: bool
    quick: bool
    size: int
    seed: int
    seconds: int | None  # for checks and timing together, or None for what the mode allows
    out: Path
    peers: tuple[str, ...] | None = None
    memory: bool = False
    compare: tuple[str, ...] = ()
    weights: str = "fp32"

    @property
    def stores_bf16(self) -> bool:
        return self.weights == "bf16"

    @property
    def quantizes(self) -> bool:
        return self.dtype_name == "e4m3"

    @property
    def inference_only(self) -> bool:
        return self.stores_bf16 or self.quantizes

    @property
    def plain_dtype_name(self) -> str:
        """The dtype of the baselines."""
        return "bf16" if self.quantizes else self.dtype_name

    @property
    def dtype_told(self) -> str:
        """For titles: the dtype, and what of ours is in another."""
        told = self.plain_dtype_name + (", vggfast's FC weights bf16" if self.stores_bf16 else "")
        return told + (", vggfast's 3x3 convolutions e4m3" if self.quantizes else "")

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.dtype_name]

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def crop(self) -> int:
        """The window the classifier is built for: 224 as the paper's, or what a small input has."""
        return min(224, self.size // configs.DOWNSAMPLING * configs.DOWNSAMPLING)

    @property
    def mode(self) -> str:
        return "layers" if self.layers_only else "quick" if self.quick else "full"

    def layers(self) -> list[configs.Layer]:
        """The fused layers of the network at this input size."""
        return configs.conv_layers(self.net, self.size) + configs.fc_layers(crop=self.crop)


def parse(argv: Sequence[str]) -> Options:
    """Read and check the arguments.

    Raises:
        InputError: one line naming the argument, what was given and what is allowed.
    """
    given = flags.parser(tuple(DTYPES)).parse_args(argv)
    net = _one_of("--net", given.net, configs.NETS)
    device = _device(given.device)
    gpu = device.type == "cuda"
    dtype_name = _one_of("--dtype", given.dtype or ("bf16" if gpu else "fp32"), tuple(DTYPES))
    weights = _one_of("--weights", given.weights or "fp32", backends.WEIGHTS)
    batches = _batches(given.batch, gpu, given.quick)
    train_batch = _number("--train-batch", given.train_batch, 1, 65536) or (
        max(batches) if given.batch else _default_train_batch(gpu, given.quick)
    )
    allowed_threads = os.cpu_count() or 1
    threads = _number("--threads", given.threads, 1, 4 * allowed_threads)
    trains = weights == "fp32" and dtype_name != "e4m3"
    options = Options(
        net=net,
        batches=batches,
        train_batch=train_batch if given.train and not given.layers and trains else 0,
        dtype_name=dtype_name,
        device=device,
        backend=None if given.backend in (None, "auto") else given.backend,
        exact=given.exact,
        threads=threads or torch.get_num_threads(),
        layers_only=given.layers,
        quick=given.quick,
        size=_number("--size", given.size, SMALLEST_SIZE, 4096) or 224,
        seed=_number("--seed", given.seed, 0, 2**31 - 1) or 0,
        seconds=_number("--seconds", given.seconds, 10, 86400),
        out=Path(given.out) if given.out is not None else RESULTS,
        peers=_peers(given.peers, gpu),
        memory=given.memory or (given.peers == "all" and not gpu),
        compare=_several("--compare", given.compare, flags.COMPARISONS) if given.compare else (),
        weights=weights,
    )
    if options.stores_bf16:
        _check_weights(options, given.train_batch)
    if options.quantizes:
        _check_e4m3(options, given.train_batch)
    _check_extras(options)
    _check_backend(options)
    _check_writable(options.out)  # last: bad input elsewhere leaves no folder behind
    return options


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise InputError(f"{name}: got {value!r}, allowed are {', '.join(allowed)}")
    return value


def _several(name: str, text: str, allowed: Sequence[str]) -> tuple[str, ...]:
    values = [_one_of(name, part.strip(), allowed) for part in text.split(",")]
    return tuple(dict.fromkeys(values))


def _peers(text: str | None, gpu: bool) -> tuple[str, ...] | None:
    if text is None:
        return None
    if text in ("all", "none"):
        return tuple(p.key for p in peers.here(gpu)) if text == "all" else ()
    try:
        return _several("--peers", text, peers.KEYS)
    except InputError as error:
        raise InputError(str(error).replace("allowed are", "allowed are all, none,")) from error


def _check_weights(options: Options, train_batch: str | None) -> None:
    """Weights stored in bfloat16 are for inference in fp32 on a CPU."""
    if options.on_gpu:
        raise InputError("--device: got 'cuda' with --weights bf16, allowed is cpu")
    if options.dtype_name != "fp32":
        raise InputError(
            f"--dtype: got {options.dtype_name!r} with --weights bf16, allowed is fp32"
        )
    if train_batch is not None:
        raise InputError(
            f"--train-batch: got {train_batch!r} with --weights bf16, allowed is none: nothing is "
            "trained then"
        )


def _check_e4m3(options: Options, train_batch: str | None) -> None:
    """e4m3 is for inference of whole networks on a GPU that has it."""
    why = e4m3.why_not(options.device) if options.on_gpu else "it needs an NVIDIA GPU"
    if why is not None:
        raise InputError(
            f"--dtype: got 'e4m3' on {options.device}, allowed are fp32, bf16, fp16 ({why})"
        )
    for name, got in (("--layers", options.layers_only), ("--train-batch", train_batch)):
        if got:
            raise InputError(
                f"{name}: got it with --dtype e4m3, allowed is none: e4m3 is for inference, and "
                "timed as a network"
            )


def _check_extras(options: Options) -> None:
    """--memory and --compare are of processes on a CPU."""
    if options.on_gpu and (options.memory or options.compare):
        name = "--memory" if options.memory else "--compare"
        raise InputError(f"--device: got 'cuda' with {name}, allowed is cpu")
    if options.layers_only and (options.peers is not None or options.memory or options.compare):
        raise InputError("--layers: got it with --peers, --memory or --compare, allowed is neither")
    if "threads" in options.compare and options.threads < 2:
        raise InputError("--threads: got 1 with --compare threads, allowed are 2 and more")


def _number(name: str, text: str | None, low: int, high: int) -> int | None:
    if text is None:
        return None
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise InputError(f"{name}: got {text!r}, allowed are whole numbers from {low} to {high}")
    return value


def _batches(text: str | None, gpu: bool, quick: bool) -> tuple[int, ...]:
    if text is None:
        if gpu:
            return (1, 32) if quick else (1, 32, 256)
        return (1, 4) if quick else (1, 8)
    values = {_number("--batch", part.strip(), 1, 65536) or 1 for part in text.split(",")}
    return tuple(sorted(values))


def _default_train_batch(gpu: bool, quick: bool) -> int:
    if gpu:
        return 64 if quick else 256
    return 2 if quick else 4


def _device(text: str | None) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text is None:
        return torch.device("cuda", 0) if count else torch.device("cpu")
    allowed = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if text not in allowed:
        why = "" if count else "; torch sees no GPU here"
        raise InputError(f"--device: got {text!r}, allowed are {', '.join(allowed)}{why}")
    return torch.device("cuda", 0) if text == "cuda" else torch.device(text)


def _check_backend(options: Options) -> None:
    """A backend forced by the argument or the environment exists and can serve every layer."""
    allowed = ("auto", *backends.names())
    if options.backend is not None:
        _one_of("--backend", options.backend, allowed)
    for layer in options.layers():
        call = backends.Call(layer.op, options.device.type, options.dtype, layer.c_in, layer.c_out)
        try:
            backends.select(call, options.backend)
        except BackendError as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"--backend: got {options.backend or os.environ.get('VGGFAST_BACKEND')!r}, "
                f"allowed here are auto, {', '.join(_usable(call))}; {reason}"
            ) from error


def _usable(call: backends.Call) -> list[str]:
    return [n for n in backends.names() if backends.why_not(backends.get(n), call) is None]


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise InputError(
            f"--out: got {str(out)!r}, allowed is a folder that can be written "
            f"({error.strerror or error})"
        ) from error
