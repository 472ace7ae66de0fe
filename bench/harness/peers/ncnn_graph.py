"""The plain torch network in ncnn's own format: a text of layers, a file of fp32 weights."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from harness.nets import PlainVGG
from harness.peers.base import Given, fp32

MAGIC = 7767517
INPUT, OUTPUT = "in0", "out0"
RAW = b"\0\0\0\0"  # before the weights of a layer: they are fp32


def parameters(given: Given, plain: PlainVGG) -> str:
    """The layers; ReLU is part of the layer before it, as ncnn's own optimiser puts it."""
    lines = [f"Input {INPUT} 0 1 {INPUT}"]
    last = INPUT

    def layer(kind: str, *settings: str, out: str | None = None) -> None:
        nonlocal last
        name = out or f"{kind}{len(lines)}"
        lines.append(" ".join([kind, name, "1 1", last, name, *settings]))
        last = name

    modules = [*plain.features, "average", *plain.classifier]
    for m, following in zip(modules, [*modules[1:], None], strict=True):
        relu = "9=1" if isinstance(following, nn.ReLU) else "9=0"
        if isinstance(m, nn.Conv2d):
            k = m.kernel_size[0]
            layer("Convolution", f"0={m.out_channels}", f"1={k}", f"4={k // 2}", "5=1",
                  f"6={m.weight.numel()}", relu)  # fmt: skip
        elif isinstance(m, nn.MaxPool2d):
            layer("Pooling", "0=0", "1=2", "2=2", "5=1")
        elif isinstance(m, nn.LocalResponseNorm):
            layer("LRN", "0=0", f"1={m.size}", f"2={m.alpha}", f"3={m.beta}", f"4={m.k}")
        elif isinstance(m, nn.Linear):
            layer("InnerProduct", f"0={m.out_features}", "1=1", f"2={m.weight.numel()}", relu,
                  out=OUTPUT if following is None else None)  # fmt: skip
        elif m == "average" and (given.x.shape[2] // 32, given.x.shape[3] // 32) != (
            given.crop // 32, given.crop // 32,
        ):  # fmt: skip
            layer("Pooling", "0=1", "7=1", f"8={given.crop // 32}", f"18={given.crop // 32}")
    return "\n".join([str(MAGIC), f"{len(lines)} {len(lines)}", *lines]) + "\n"


def weights(plain: PlainVGG) -> Iterator[bytes]:
    """What the file of weights holds, piece by piece."""
    for m in [*plain.features, *plain.classifier]:
        if isinstance(m, nn.Conv2d | nn.Linear):
            assert m.bias is not None, "every layer of a VGG has one"
            yield RAW
            yield _bytes(m.weight)
            yield _bytes(m.bias)


def _bytes(t: Tensor) -> bytes:
    return fp32(t).numpy().tobytes()
