"""Weight initialisation by name."""

from __future__ import annotations

from typing import Literal

from torch import nn

INITS = ("kaiming", "glorot", "normal")


def initialise(model: nn.Module, init: str) -> None:
    """Initialise every convolution and FC layer of ``model`` in place; biases are zero.

    - "kaiming": He et al. 2015: by fan-out for convolutions, by fan-in for FC layers. torchvision
      takes N(0, 0.01^2) for FC layers, which is the same for the 25088 inputs of fc6 at 224 x 224
      and seven times too small for the 512 at 32 x 32, where a plain net would rest for epochs.
    - "glorot": Glorot & Bengio 2010, uniform, which the paper found to need no pre-training
      (sec. 3.1).
    - "normal": N(0, 0.01^2) throughout, as Krizhevsky et al. 2012. The paper says "10^-2 variance",
      which read literally is a standard deviation of 0.1.
    """
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)
        if not isinstance(m, nn.Conv2d | nn.Linear):
            continue
        if init == "glorot":
            nn.init.xavier_uniform_(m.weight)
        elif init == "kaiming":
            mode: Literal["fan_out", "fan_in"] = "fan_out" if isinstance(m, nn.Conv2d) else "fan_in"
            nn.init.kaiming_normal_(m.weight, mode=mode, nonlinearity="relu")
        else:
            nn.init.normal_(m.weight, 0.0, 0.01)
        if m.bias is not None:
            nn.init.zeros_(m.bias)
