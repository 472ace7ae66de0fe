"""A repair of Triton's interpreter for NumPy >= 2.4, where Triton <= 3.6 cannot run a loop.

The interpreter holds a scalar as an array of one element and converts it with ``int(array)``,
which NumPy 2.4 refuses (triton-lang/triton issue 9171). Later releases are mended, and there this
changes nothing.
"""

from __future__ import annotations

from typing import Any


def repair() -> None:
    """Make scalars of the interpreter usable as loop bounds. Call once, when interpreting."""
    from triton.runtime import interpreter

    original = interpreter._patch_lang_tensor

    def patched(tensor: Any, *rest: Any) -> None:
        original(tensor, *rest)  # takes note of the attribute and puts it back when a kernel ends
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = patched
