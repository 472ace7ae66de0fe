"""ONNX Runtime on its CPU provider."""

from __future__ import annotations

import importlib.util
from functools import partial

import torch

from harness.peers import onnx_graph
from harness.peers.base import Given, Peer, Ready, fp32


class OnnxRuntime(Peer):
    key, name, device = "onnxruntime", "ONNX Runtime", "cpu"
    package = module = "onnxruntime"

    def cannot_dtype(self, given: Given) -> str | None:
        if given.dtype != torch.float32:
            return f"its CPU kernels have no {given.dtype_name} convolution"
        if importlib.util.find_spec("onnx") is None:
            return "its model is built with onnx, which is not installed: pip install onnx"
        return onnx_graph.cannot(given)

    def prepare(self, given: Given) -> Ready:
        import onnxruntime as ort

        chosen = ort.SessionOptions()
        chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        chosen.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        chosen.intra_op_num_threads = given.threads
        chosen.inter_op_num_threads = 1
        chosen.log_severity_level = 3
        # Its threads spin within a call, as by default, and stop when the call ends.
        chosen.add_session_config_entry("session.force_spinning_stop", "1")
        session = ort.InferenceSession(
            onnx_graph.model_bytes(given), chosen, providers=["CPUExecutionProvider"]
        )
        feed = {onnx_graph.INPUT: fp32(given.x).numpy()}
        settings = f"all graph optimisations, {given.threads} intra-op threads"
        run = partial(session.run, [onnx_graph.OUTPUT], feed)
        return Ready(run, lambda r: onnx_graph.logits(r[0]), "fp32", "NCHWc (its own)", settings)
