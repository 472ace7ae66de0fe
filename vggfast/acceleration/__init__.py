"""A drop-in for other people's networks: ``accelerate``, ``restore``, and a table of what runs."""

from vggfast.acceleration.rewrite import accelerate, restore
from vggfast.acceleration.table import explain

__all__ = ["accelerate", "explain", "restore"]
