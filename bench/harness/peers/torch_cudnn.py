"""PyTorch calling cuDNN's convolution + bias + ReLU as one."""

from __future__ import annotations

from torch import Tensor

from harness.nets import cudnn_fused
from harness.peers.base import Given, Peer, Ready
from harness.peers.torch_eager import laid_out, no_grad


class CudnnFused(Peer):
    key, name, device = "cudnn", "cuDNN conv+bias+ReLU", "cuda"

    def prepare(self, given: Given) -> Ready:
        forward = cudnn_fused(given.plain(channels_last=True).eval())
        run = no_grad(forward, laid_out(given.x, True))
        return Ready(run, Tensor.float, given.dtype_name, "channels_last", "cuDNN, benchmark on")
