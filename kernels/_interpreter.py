"""Repairs of Triton's interpreter, which runs the kernels on CPU tensors.

Loops: it holds a scalar as an array of one element and converts it with ``int(array)``, which
NumPy 2.4 refuses (triton-lang/triton issue 9171). Releases after 3.6 are mended, and there this
changes nothing.

e4m3 (3.6 and 3.7): it rounds float32 to e4m3 without the carry into the exponent, so that 31.6
becomes 16, and without a tie to even; a product takes NaN for 480. torch's conversions are put in
their place. A GPU's also turns what is too large into 448; here it becomes NaN, which shows a value
that was not clamped.
"""

from __future__ import annotations

from typing import Any

import torch


def repair() -> None:
    """Make loops and roundings to e4m3 right. Call once, when interpreting."""
    from triton.runtime import interpreter

    _repair_scalars(interpreter)
    _repair_e4m3(interpreter)


def _repair_scalars(interpreter: Any) -> None:
    """Make scalars of the interpreter usable as loop bounds."""
    original = interpreter._patch_lang_tensor

    def patched(tensor: Any, *rest: Any) -> None:
        original(tensor, *rest)  # takes note of the attribute and puts it back when a kernel ends
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = patched


def _repair_e4m3(interpreter: Any) -> None:
    """Make roundings to e4m3 the nearest, ties to even, and let products see its NaN."""
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    convert, dot = builder.create_fp_to_fp, builder.create_dot

    def create_fp_to_fp(self: Any, src: Any, dst_type: Any, rounding_mode: Any) -> Any:
        if (str(src.dtype.scalar), str(dst_type.scalar)) != ("fp32", "fp8e4nv"):
            return convert(self, src, dst_type, rounding_mode)
        rounded = torch.from_numpy(src.data.copy()).to(torch.float8_e4m3fn)
        return handle(rounded.view(torch.uint8).numpy(), dst_type.scalar)

    def widened(operand: Any) -> Any:
        if str(operand.dtype.scalar) != "fp8e4nv":
            return operand
        values = torch.from_numpy(operand.data.copy()).view(torch.float8_e4m3fn).float()
        return handle(values.numpy(), interpreter.tl.float32)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        return dot(self, widened(a), widened(b), d, *rest)

    builder.create_fp_to_fp, builder.create_dot = create_fp_to_fp, create_dot
