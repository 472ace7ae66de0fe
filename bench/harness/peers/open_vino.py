"""OpenVINO's CPU plugin, with the latency hint."""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import Tensor

from harness.peers import onnx_graph
from harness.peers.base import Given, Peer, Ready, fp32

NEEDS = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}
HINT = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
SPELLED = {"f32": "fp32", "f16": "fp16"}
MULTIPLIES = ("Convolution", "FullyConnected", "MatMul")


class OpenVino(Peer):
    key, name, device = "openvino", "OpenVINO", "cpu"
    package = module = "openvino"

    def cannot_dtype(self, given: Given) -> str | None:
        import openvino as ov

        can = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if NEEDS[given.dtype_name] not in can:
            return f"it has no {given.dtype_name} on this CPU"
        if importlib.util.find_spec("onnx") is None:
            return "its model is built with onnx, which is not installed: pip install onnx"
        return onnx_graph.cannot(given)

    def prepare(self, given: Given) -> Ready:
        import openvino as ov

        core = ov.Core()
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINT[given.dtype_name],
            "INFERENCE_NUM_THREADS": str(given.threads),
            "NUM_STREAMS": "1",
            # Else, with two threads a core, it would leave half of the threads asked for unused.
            "ENABLE_HYPER_THREADING": "YES",
        }
        model = core.read_model(onnx_graph.model_bytes(given), b"")
        compiled = core.compile_model(model, "CPU", config)
        request = compiled.create_infer_request()
        request.get_input_tensor().data[:] = fp32(given.x).numpy()

        def run() -> object:
            request.infer()
            return request.get_output_tensor().data

        def logits(result: object) -> Tensor:
            return onnx_graph.logits(result).clone()

        settings = f"latency hint, one stream of {given.threads} threads"
        return Ready(run, logits, _precision(compiled), "nChw16c (its own)", settings)


def _precision(compiled: Any) -> str:
    """In what its convolutions and FC layers run, as it says itself."""
    found = set()
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        if "layerType" in facts and facts["layerType"].astype(str) in MULTIPLIES:
            told = facts["runtimePrecision"].astype(str)
            found.add(SPELLED.get(told, told))
    return " and ".join(sorted(found)) or "unknown"
