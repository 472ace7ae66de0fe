"""Modules: Sequentials that serve runs of their children with fused ops; how weights are stored."""

from vggfast.nn.sequential import FusedSequential
from vggfast.nn.served import ServedConv2d, ServedMaxPool2d
from vggfast.nn.served_sequential import ServedSequential
from vggfast.nn.storage import store_weights

__all__ = [
    "FusedSequential", "ServedConv2d", "ServedMaxPool2d", "ServedSequential", "store_weights",
]  # fmt: skip
