"""Modules: a Sequential that serves runs of its children with fused ops."""

from vggfast.nn.sequential import FusedSequential

__all__ = ["FusedSequential"]
