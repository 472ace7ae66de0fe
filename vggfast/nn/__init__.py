"""Modules: a Sequential that serves runs of its children with fused ops; how weights are stored."""

from vggfast.nn.sequential import FusedSequential
from vggfast.nn.storage import store_weights

__all__ = ["FusedSequential", "store_weights"]
