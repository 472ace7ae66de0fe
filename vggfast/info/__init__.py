"""What is available here, and why not the rest: the command ``python -m vggfast.info``.

collect   the facts, each asked for by itself: one that fails is told and ends nothing
cli       them as text or JSON
"""

from vggfast.info.collect import collect

__all__ = ["collect"]
