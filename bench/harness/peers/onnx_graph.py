"""The plain torch network as an ONNX model of fixed shape, in memory.

Built node by node: the exporter would trace and copy the weights for minutes to say the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.peers.base import Given, fp32

OPSET = 17
INPUT, OUTPUT = "x", "logits"


def cannot(given: Given) -> str | None:
    """ONNX has no adaptive pool: windows must divide the map."""
    _, _, h, w = given.x.shape
    window = given.crop // 32
    if (h // 32) % window or (w // 32) % window:
        return f"ONNX has no pool from {h // 32}x{w // 32} to {window}x{window}"
    return None


def model_bytes(given: Given) -> bytes:
    """The model with fp32 weights (exactly those given, where these have fewer bits)."""
    from onnx import TensorProto, helper

    nodes: list[Any] = []
    weights: list[Any] = []
    last = INPUT

    def node(op: str, *inputs: str, **attributes: Any) -> None:
        nonlocal last
        out = f"{op}{len(nodes)}"
        nodes.append(helper.make_node(op, [last, *inputs], [out], **attributes))
        last = out

    def weight(value: Tensor) -> str:
        name = f"w{len(weights)}"
        array = fp32(value).cpu().numpy()
        weights.append(
            helper.make_tensor(name, TensorProto.FLOAT, array.shape, array.tobytes(), raw=True)
        )
        return name

    plain = given.plain(channels_last=False)
    for m in plain.features:
        if isinstance(m, nn.Conv2d):
            assert m.bias is not None, "every convolution of a VGG has one"
            pad = m.kernel_size[0] // 2
            node("Conv", weight(m.weight), weight(m.bias), kernel_shape=m.kernel_size,
                 pads=[pad] * 4)  # fmt: skip
        elif isinstance(m, nn.ReLU):
            node("Relu")
        elif isinstance(m, nn.MaxPool2d):
            node("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
        elif isinstance(m, nn.LocalResponseNorm):
            node("LRN", alpha=m.alpha, beta=m.beta, bias=m.k, size=m.size)
        else:
            raise AssertionError(f"no ONNX node for {type(m).__name__}")
    n, _, h, w = given.x.shape
    kernel = [(h // 32) // (given.crop // 32), (w // 32) // (given.crop // 32)]
    if kernel != [1, 1]:
        node("AveragePool", kernel_shape=kernel, strides=kernel)
    node("Flatten")
    for m in plain.classifier:
        if isinstance(m, nn.Linear):
            node("Gemm", weight(m.weight), weight(m.bias), transB=1)
        elif isinstance(m, nn.ReLU):
            node("Relu")
    classes = given.state["classifier.6.bias"].numel()
    nodes[-1].output[0] = OUTPUT
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "vgg", [helper.make_tensor_value_info(INPUT, float32, [n, 3, h, w])],
        [helper.make_tensor_value_info(OUTPUT, float32, [n, classes])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    serialised: bytes = model.SerializeToString()
    return serialised


def logits(array: object) -> Tensor:
    return torch.as_tensor(array)
