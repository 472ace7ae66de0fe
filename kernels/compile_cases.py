"""What compile_check.py compiles: every entry of the tile table, and the kernels without tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import tiles
from .launch.first import resident

ARCHES = (80, 90)


@dataclass(frozen=True)
class Case:
    """One compilation: a kernel, the types of its arguments, its constants, its options."""

    name: str
    kernel: str  # "module.function"
    arch: int
    bits: int
    types: dict[str, str]
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 2
    is_gemm: bool = False
    gathers: bool = False  # operands come through registers: asks for no background copies
    resident: int = 1  # programs that a multiprocessor must hold at a time


def _sizes(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "i32")


def _operand(tile: tiles.Tile, dtype: str, *box: int) -> str:
    return f"tensordesc<{dtype}[{', '.join(map(str, box))}]>" if tile.arch >= 90 else f"*{dtype}"


def fprop_case(tile: tiles.Tile, dtype: str, variant: str) -> Case:
    """``variant``: "relu" (bias and ReLU), "pool" (the same, pool and argmax) or "dgrad"."""
    (ni, th, tw), bc, bk = tile.box, tile.bc, tile.bk
    pool, dgrad = variant == "pool", variant == "dgrad"
    stored = (ni, th // 2, tw // 2) if pool else tile.box
    types = {
        "x": _operand(tile, dtype, ni, th, tw, bk),
        "w": _operand(tile, dtype, bc, bk),
        "b_ptr": f"*{dtype}",
        "y": _operand(tile, dtype, *stored, bc),
        "argmax_ptr": "*u8",
        **_sizes("N", "H", "W", "HO", "WO", "QI", "QO", "C_out", "tiles_h", "tiles_w"),
    }
    constants: dict[str, Any] = {
        "NI": ni, "TH": th, "TW": tw, "BC": bc, "BK": bk, "TMA": tile.arch >= 90,
        "RELU": not dgrad, "POOL": pool, "MIRROR": dgrad,
    }  # fmt: skip
    absent = (["b_ptr"] if dgrad else []) + ([] if pool else ["argmax_ptr"])
    constants.update(dict.fromkeys(absent))
    return Case(
        f"{tile.name}_{variant}_{dtype}", "conv3x3.conv3x3_fprop_kernel", tile.arch, tile.bits,
        types, constants, tile.warps, tile.stages, True,
    )  # fmt: skip


def wgrad_case(tile: tiles.Tile, dtype: str) -> Case:
    types = {
        "x": _operand(tile, dtype, *tile.box, tile.bk),
        "dz": _operand(tile, dtype, *tile.box, tile.bc),
        "partial_ptr": "*fp32",
        **_sizes("N", "H", "W", "QI", "QO", "C_in", "C_out", "tiles_h", "tiles_w", "tiles"),
        **_sizes("tiles_per_split"),
    }
    constants = dict(zip(("NI", "TH", "TW"), tile.box, strict=True))
    constants.update(BC=tile.bc, BK=tile.bk, TMA=tile.arch >= 90)
    return Case(
        f"{tile.name}_{dtype}", "wgrad3x3.conv3x3_wgrad_kernel", tile.arch, tile.bits,
        types, constants, tile.warps, tile.stages, True,
    )  # fmt: skip


def first_case(tile: tiles.Tile, dtype: str, variant: str) -> Case:
    """``variant``: "relu" or "pool" (with the argmax)."""
    (ni, th, tw), pool = tile.box, variant == "pool"
    stored = (ni, th // 2, tw // 2) if pool else tile.box
    t = f"*{dtype}"
    types = {
        "x_ptr": t, "w_ptr": t, "b_ptr": t, "y": _operand(tile, dtype, *stored, tile.bc),
        "argmax_ptr": "*u8",
        **_sizes("N", "H", "W", "HO", "WO", "QO", "C_out", "tiles_h", "tiles_w", "tiles"),
    }  # fmt: skip
    constants: dict[str, Any] = {
        "C": 3, "NI": ni, "TH": th, "TW": tw, "BC": tile.bc, "BK": tile.bk, "RELU": True,
        "POOL": pool, "TMA": tile.arch >= 90, **({} if pool else {"argmax_ptr": None}),
    }  # fmt: skip
    return Case(
        f"{tile.name}_{variant}_{dtype}", "first3x3.first_fprop_kernel", tile.arch, tile.bits,
        types, constants, tile.warps, tile.stages, True, True, resident(tile, pool),
    )  # fmt: skip


def first_wgrad_case(tile: tiles.Tile, dtype: str, variant: str) -> Case:
    """``variant``: "relu", "pool" (with a ReLU) or "dz" (the gradient as it is)."""
    pool, t = variant == "pool", f"*{dtype}"
    types = {
        "x_ptr": t, "grad_ptr": t, "y_ptr": t, "argmax_ptr": "*u8", "partial_ptr": "*fp32",
        **_sizes("N", "H", "W", "HO", "WO", "QO", "C_out", "tiles_h", "tiles_w", "tiles"),
        **_sizes("tiles_per_program"),
    }  # fmt: skip
    constants: dict[str, Any] = dict(zip(("NI", "TH", "TW"), tile.box, strict=True))
    constants.update(C=3, BC=tile.bc, BK=tile.bk)
    absent = (["y_ptr"] if variant == "dz" else []) + ([] if pool else ["argmax_ptr"])
    constants.update(dict.fromkeys(absent))
    return Case(
        f"{tile.name}_{variant}_{dtype}", "first3x3.first_wgrad_kernel", tile.arch, tile.bits,
        types, constants, tile.warps, tile.stages, True, True, resident(tile, pool),
    )  # fmt: skip


def element_cases(arch: int, dtype: str) -> Iterator[Case]:
    """The kernels without tiles in the table, at the block sizes of 64 channels."""
    block, t = {"BP": 16, "BC": 64}, f"*{dtype}"
    partial = {"partial_ptr": "*fp32"}
    share = _sizes("C", "C_PAD", "rows_per_program")
    maps = {"grad_ptr": t, "y_ptr": t, "dz_ptr": t, **partial, **share}
    pooled = {"argmax_ptr": "*u8", **_sizes("N", "H", "W", "C")}
    listed: tuple[tuple[str, dict[str, str], dict[str, int]], ...] = (
        ("pool2x2.maxpool2x2_kernel", {"x_ptr": t, "y_ptr": t, **pooled}, block),
        ("pool2x2.pool_backward_kernel", {**maps, **pooled}, block),
        ("pool2x2.relu_backward_kernel", {**maps, "pixels": "i32"}, block),
        ("pool2x2.column_sum_kernel", {**partial, "db_ptr": t, **_sizes("partials", "C")}, block),
        (
            "wgrad3x3.conv3x3_wgrad_sum_kernel",
            {**partial, "dw_ptr": t, **_sizes("pairs", "splits")},
            {"B": 1024},
        ),
        (
            "first3x3.first_sum_kernel",
            {**partial, "dw_ptr": t, "db_ptr": t, **_sizes("partials", "columns")},
            {"C": 3, "BK": 32, "BP": 128},
        ),
    )
    for kernel, types, constants in listed:
        name = f"{kernel.split('.')[1].removesuffix('_kernel')}_sm{arch}_{dtype}"
        yield Case(name, kernel, arch, 16 if dtype != "fp32" else 32, types, dict(constants))


def cases(every: bool = False) -> Iterator[Case]:
    """The compilations of the check, ``every`` one or the default choice.

    By default a fprop entry is compiled with all of its epilogue, and the widest 16-bit ones also
    without the pool and as dgrad. fp16 and bf16 share code, so the variants share them out.
    """
    for tile in tiles.table():
        one, other = ("fp16", "bf16") if tile.bits == 16 else ("fp32", "fp32")
        if tile.kernel == "wgrad":
            yield wgrad_case(tile, other)
            continue
        if tile.kernel.startswith("first"):
            case = first_case if tile.kernel == "first" else first_wgrad_case
            yield case(tile, one, "pool")
            yield case(tile, other, "relu")
            if every and case is first_wgrad_case:
                yield case(tile, other, "dz")
            continue
        yield fprop_case(tile, other, "pool")
        if every or (tile.bits == 16 and tile.bc == 128):
            yield fprop_case(tile, one, "relu")
            yield fprop_case(tile, other, "dgrad")
    for arch in ARCHES:
        yield from element_cases(arch, "bf16")
