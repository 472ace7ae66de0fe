"""torch.compile: max-autotune on a GPU; on a CPU with freezing, which packs the weights once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from harness.peers.base import Given, Peer, Ready
from harness.peers.torch_eager import laid_out, no_grad


class TorchCompile(Peer):
    key, name, trains = "compile", "torch.compile", True

    def prepare(self, given: Given) -> Ready:
        model = given.plain(channels_last=True).eval()
        chosen: dict[str, Any] = {}
        if not given.on_gpu:
            chosen["freezing"] = True
            if given.patient:
                chosen["max_autotune"] = True
        else:
            chosen["max_autotune"] = True
        call = torch.compile(model, dynamic=False, options=chosen or None)
        run = no_grad(call, laid_out(given.x, True))
        settings = ", ".join(chosen) or "default mode"
        return Ready(run, Tensor.float, given.dtype_name, "channels_last", settings)

    def trainee(self, given: Given) -> tuple[nn.Module, Tensor, Callable[[Tensor], Tensor]]:
        model = given.plain(channels_last=True)
        chosen: dict[str, Any] | None = {"max_autotune": True} if given.on_gpu else None
        return model, laid_out(given.x, True), torch.compile(model, options=chosen)
