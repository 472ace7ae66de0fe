"""What a peer is given, what it hands back, and what every peer can say of itself."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.nets import PlainVGG

DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Given:
    """The network, its weights (a state dict in the run's dtype), the images and the threads."""

    net: str
    crop: int
    state: Mapping[str, Tensor]
    x: Tensor  # (N, 3, H, W) in the run's dtype, NCHW in memory
    threads: int
    patient: bool = False  # asked for by name: settings that take minutes to prepare are worth it

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    @property
    def dtype_name(self) -> str:
        return DTYPE_NAMES[self.dtype]

    @property
    def on_gpu(self) -> bool:
        return self.x.is_cuda

    def plain(self, *, channels_last: bool) -> PlainVGG:
        """The network of plain torch modules, sharing the weights where the layout allows."""
        return PlainVGG(self.net, self.state, self.crop, channels_last=channels_last)


@dataclass(frozen=True)
class Ready:
    """A peer that can run. ``dtype`` is what it stores and multiplies, where that can be asked."""

    run: Callable[[], Any]  # its own kind of result: what is timed
    logits: Callable[[Any], Tensor]  # of such a result, (N, classes) as torch has it
    dtype: str
    layout: str
    settings: str

    def facts(self) -> dict[str, object]:
        return {"dtype": self.dtype, "layout": self.layout, "settings": self.settings}


class Peer:
    """Another way to run the network."""

    key: ClassVar[str]  # on the command line
    name: ClassVar[str]  # in tables
    package: ClassVar[str] = "torch"
    module: ClassVar[str] = "torch"
    device: ClassVar[str | None] = None  # "cpu" or "cuda", if it is for one alone
    trains: ClassVar[bool] = False

    def cannot(self, given: Given) -> str | None:
        """Why it cannot run this at all, or None."""
        device = "cuda" if given.on_gpu else "cpu"
        if self.device not in (None, device):
            return f"it is timed on {self.device} alone"
        if importlib.util.find_spec(self.module) is None:
            return f"not installed: pip install {self.package} (or -e .[peers])"
        return self.cannot_dtype(given)

    def cannot_dtype(self, given: Given) -> str | None:
        return None

    def version(self) -> str:
        return importlib.metadata.version(self.package)

    def prepare(self, given: Given) -> Ready:
        """Load the weights and compile, at its best settings for one network and one batch."""
        raise NotImplementedError

    def trainee(self, given: Given) -> tuple[nn.Module, Tensor, Callable[[Tensor], Tensor]]:
        """For training: the module whose parameters learn, its images, and its forward pass."""
        raise NotImplementedError(f"{self.name} does not train")


def fp32(t: Tensor) -> Tensor:
    """The same values in fp32, contiguous, for engines that know fp32 arrays only."""
    return t.detach().float().contiguous()
