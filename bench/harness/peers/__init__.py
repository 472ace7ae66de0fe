"""Other engines for the same network, each at its best settings. One small file a peer."""

from __future__ import annotations

from harness.peers.base import Given, Peer, Ready
from harness.peers.ncnn_peer import Ncnn
from harness.peers.onnx_runtime import OnnxRuntime
from harness.peers.open_vino import OpenVino
from harness.peers.torch_compile import TorchCompile
from harness.peers.torch_cudnn import CudnnFused
from harness.peers.torch_eager import NCHW, ChannelsLast

__all__ = ["EVERY", "KEYS", "Given", "Peer", "Ready", "chosen", "here"]

EVERY: tuple[Peer, ...] = (
    ChannelsLast(), NCHW(), CudnnFused(), TorchCompile(), OnnxRuntime(), OpenVino(), Ncnn(),
)  # fmt: skip
KEYS = tuple(p.key for p in EVERY)


def here(on_gpu: bool) -> list[Peer]:
    """Every peer for this device, installed or not."""
    return [p for p in EVERY if p.device in (None, "cuda" if on_gpu else "cpu")]


def chosen(keys: tuple[str, ...] | None, *, on_gpu: bool) -> list[Peer]:
    """The peers of a run: those named, or (None) torch's own on this device."""
    if keys is None:
        return [p for p in here(on_gpu) if p.package == "torch"]
    return [p for p in EVERY if p.key in keys]
