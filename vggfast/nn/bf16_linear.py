"""A fully connected layer with weights stored in bfloat16, for inference in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vggfast import ops
from vggfast.errors import InputError


class Bf16Linear(nn.Linear):
    """An ``nn.Linear`` with bfloat16 weights; its input, sums, bias and output are float32.

    ``vggfast.store_weights`` makes it. A cast such as ``model.float()`` casts these weights too.
    """

    def forward(self, input: Tensor) -> Tensor:
        self.refuse_training()
        y = ops.linear(input.reshape(-1, input.shape[-1]), self.weight, self.bias)
        return y.view(*input.shape[:-1], self.out_features)

    def refuse_training(self) -> None:
        """Raise an error if this is a forward pass of training.

        Raises:
            InputError: the layer is in training mode and gradients are on.
        """
        if self.training and torch.is_grad_enabled() and self.weight.dtype is torch.bfloat16:
            raise InputError(
                "model: got training mode with FC weights stored in bf16, allowed is eval mode "
                "(store_weights(model, 'fp32') widens them)"
            )

    def extra_repr(self) -> str:
        dtype = str(self.weight.dtype).removeprefix("torch.")
        return f"{super().extra_repr()}, weights={dtype}"
