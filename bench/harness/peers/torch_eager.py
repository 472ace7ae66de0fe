"""PyTorch as it comes, in either layout."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.peers.base import Given, Peer, Ready


class ChannelsLast(Peer):
    key, name, trains = "channels_last", "torch channels_last", True
    channels_last = True

    def prepare(self, given: Given) -> Ready:
        model, x, _ = self.trainee(given)
        model.eval()
        settings = "cuDNN, benchmark on" if given.on_gpu else "oneDNN"
        layout = "channels_last" if self.channels_last else "NCHW"
        return Ready(no_grad(model, x), Tensor.float, given.dtype_name, layout, settings)

    def trainee(self, given: Given) -> tuple[nn.Module, Tensor, Callable[[Tensor], Tensor]]:
        model = given.plain(channels_last=self.channels_last)
        return model, laid_out(given.x, self.channels_last), model


class NCHW(ChannelsLast):
    key, name = "nchw", "torch NCHW"
    channels_last = False


def laid_out(x: Tensor, channels_last: bool) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def no_grad(forward: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.no_grad():
            return forward(x)

    return run
