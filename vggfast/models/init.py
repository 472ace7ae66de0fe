"""Weight initialisation by name."""

from __future__ import annotations

from torch import nn

INITS = ("kaiming", "glorot", "normal")


def initialise(model: nn.Module, init: str) -> None:
    """Initialise every convolution and FC layer of ``model`` in place; biases are zero.

    - "kaiming": He et al. 2015 by fan-out for convolutions, N(0, 0.01^2) for FC layers, which is
      torchvision's choice.
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
        elif init == "kaiming" and isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.normal_(m.weight, 0.0, 0.01)
        if m.bias is not None:
            nn.init.zeros_(m.bias)
