"""Optimizers with kernels of their own."""

from vggfast.optim.sgd import SGD

__all__ = ["SGD"]
