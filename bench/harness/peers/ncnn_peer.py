"""ncnn: one image at a time, so a batch of 8 is 8 calls."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import torch
from torch import Tensor

from harness.peers import ncnn_graph
from harness.peers.base import Given, Peer, Ready, fp32

HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")
BRAIN = ("use_bf16_packed", "use_bf16_storage")


class Ncnn(Peer):
    key, name, device = "ncnn", "ncnn", "cpu"
    package = module = "ncnn"

    def cannot_dtype(self, given: Given) -> str | None:
        return "it has no fp16 arithmetic on x86" if given.dtype == torch.float16 else None

    def prepare(self, given: Given) -> Ready:
        import ncnn

        network = ncnn.Net()
        _configure(network.opt, given)
        plain = given.plain(channels_last=False)
        if network.load_param_mem(ncnn_graph.parameters(given, plain)) != 0:
            raise RuntimeError("it did not take the layers")
        # Only a file will do: what its binding reads from memory it keeps pointing at.
        handle, path = tempfile.mkstemp(prefix="vggfast-", suffix=".bin")
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(ncnn_graph.weights(plain))
            if network.load_model(path) != 0:
                raise RuntimeError("it did not take the weights")
        finally:
            os.unlink(path)
        images = [ncnn.Mat(image.numpy()).clone() for image in fp32(given.x)]

        def run() -> list[Any]:
            results = []
            for image in images:
                extractor = network.create_extractor()
                extractor.input(ncnn_graph.INPUT, image)
                status, y = extractor.extract(ncnn_graph.OUTPUT)
                if status != 0:
                    raise RuntimeError(f"extract returned {status}")
                results.append(y)
            return results

        def logits(results: list[Any]) -> Tensor:
            return torch.stack([torch.tensor(y.numpy()) for y in results])

        brain = given.dtype == torch.bfloat16
        dtype = "bf16 storage" if brain else "fp32 (no fp16 weights)"
        calls = f"{len(images)} calls of one image, " if len(images) > 1 else ""
        settings = f"{calls}Winograd, {given.threads} threads"
        return Ready(run, logits, dtype, "NCHW16c (its own)", settings)


def _configure(opt: Any, given: Given) -> None:
    opt.num_threads = given.threads
    opt.use_winograd_convolution = True
    opt.use_sgemm_convolution = True
    opt.use_packing_layout = True
    for name in (*HALF, *BRAIN):
        setattr(opt, name, False)
    if given.dtype == torch.bfloat16:
        for name in BRAIN:
            setattr(opt, name, True)
