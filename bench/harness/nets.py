"""Baseline networks: a VGG of plain torch modules, and one on cuDNN's fused convolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggfast.configs import CONFIGS, DOWNSAMPLING


class PlainVGG(nn.Module):
    """A VGG as torchvision builds it, of torch modules alone.

    Args:
        net: the configuration.
        state: a state dict; its tensors are taken as they are, so that networks which differ in
            layout alone share the FC weights (82 % of VGG-E's).
        crop: the window the classifier was built for.
        channels_last: memory layout of the convolutions' weights.
    """

    def __init__(
        self, net: str, state: Mapping[str, Tensor], crop: int, *, channels_last: bool
    ) -> None:
        super().__init__()
        with torch.device("meta"):
            self.features = nn.Sequential(*_features(net))
            classes, width = state["classifier.6.weight"].shape
            window = crop // DOWNSAMPLING
            self.classifier = nn.Sequential(
                nn.Linear(512 * window * window, width), nn.ReLU(inplace=True), nn.Dropout(0.5),
                nn.Linear(width, width), nn.ReLU(inplace=True), nn.Dropout(0.5),
                nn.Linear(width, classes),
            )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(window)
        self.load_state_dict(dict(state), strict=True, assign=True)
        self.requires_grad_(True)
        if channels_last:
            self.features.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return y


class TorchLRN(nn.LocalResponseNorm):
    """torch's LRN, in fp32 where torch has none in the input's dtype (bf16 and fp16 on a CPU)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16):
            return super().forward(x.float()).to(x.dtype)
        return super().forward(x)


def _features(net: str) -> list[nn.Module]:
    modules: list[nn.Module] = []
    c_in = 3
    for item in CONFIGS[net]:
        if item == "M":
            modules.append(nn.MaxPool2d(2))
        elif item == "LRN":  # torch divides alpha by the window, the paper's formula does not
            modules.append(TorchLRN(5, alpha=5e-4, beta=0.75, k=2.0))
        else:
            c_out, kernel = item if isinstance(item, tuple) else (int(item), 3)
            modules += [
                nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2),
                nn.ReLU(inplace=True),
            ]
            c_in = c_out
    return modules


def cudnn_fused(model: PlainVGG) -> Callable[[Tensor], Tensor]:
    """``model`` in inference with cuDNN's convolution + bias + ReLU in one call.

    AttributeError when it is called, if this torch has no such call.
    """

    def forward(x: Tensor) -> Tensor:
        for m in model.features:
            if isinstance(m, nn.Conv2d):
                padding = (m.kernel_size[0] // 2,) * 2
                x = torch.cudnn_convolution_relu(x, m.weight, m.bias, (1, 1), padding, (1, 1), 1)
            elif not isinstance(m, nn.ReLU):
                x = m(x)
        y: Tensor = model.classifier(model.avgpool(x).flatten(1))
        return y

    return forward


def cudnn_fused_layer(pool: bool, padding: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """One convolution + bias + ReLU by cuDNN, then torch's pool; errors as :func:`cudnn_fused`."""

    def forward(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y: Tensor = torch.cudnn_convolution_relu(x, w, b, (1, 1), (padding, padding), (1, 1), 1)
        return F.max_pool2d(y, 2) if pool else y

    return forward
