"""What compile_check.py compiles: every entry of the tile table, and the kernels without tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from . import first_plan, gluon_plan, tiles

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
    registers: int | None = None  # a thread at the launch; only Gluon kernels state them
    gathers: bool = False  # operands come through registers: asks for no background copies
    resident: int = 1  # programs that a multiprocessor must hold at a time


def _sizes(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "i32")


def _operand(tile: tiles.Tile, dtype: str, *box: int) -> str:
    return f"tensordesc<{dtype}[{', '.join(map(str, box))}]>" if tile.arch >= 90 else f"*{dtype}"


def fprop_case(tile: tiles.Tile, dtype: str, variant: str, precision: str = "ieee") -> Case:
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
        **_sizes("N", "H", "W", "HO", "WO", "QI", "QO", "C_out", "tiles_h", "tiles_w", "tiles"),
    }
    constants: dict[str, Any] = {
        "NI": ni, "TH": th, "TW": tw, "BC": bc, "BK": bk, "TMA": tile.arch >= 90,
        "RELU": not dgrad, "POOL": pool, "MIRROR": dgrad, "PRECISION": precision,
        "PERSISTENT": tile.persistent,
    }  # fmt: skip
    absent = (["b_ptr"] if dgrad else []) + ([] if pool else ["argmax_ptr"])
    constants.update(dict.fromkeys(absent))
    return Case(
        f"{tile.name}_{variant}_{_products(dtype, precision)}", "conv3x3.conv3x3_fprop_kernel",
        tile.arch, tile.bits, types, constants, tile.warps, tile.stages, True,
    )  # fmt: skip


def split_cases(tile: tiles.Tile, dtype: str) -> Iterator[Case]:
    """The two kernels of a sum that several programs share."""
    (ni, th, tw), bc, joined = tile.box, tile.bc, 16
    box: dict[str, Any] = {"NI": ni, "TH": th, "TW": tw, "BC": bc, "TMA": tile.arch >= 90}
    places = _sizes("N", "C_out", "tiles_h", "tiles_w", "tiles")
    types = {
        "x": _operand(tile, dtype, ni, th, tw, tile.bk),
        "w": _operand(tile, dtype, bc, tile.bk),
        "partial_ptr": "*fp32",
        **_sizes("H", "W", "QI", "steps_per_split"),
        **places,
    }
    yield Case(
        f"{tile.name}_split_{dtype}", "split3x3.conv3x3_split_kernel", tile.arch, tile.bits, types,
        {**box, "BK": tile.bk, "MIRROR": False, "PRECISION": "ieee"}, tile.warps, tile.stages, True,
    )  # fmt: skip
    types = {
        "partial_ptr": "*fp32",
        "b_ptr": f"*{dtype}",
        "y": _operand(tile, dtype, ni, th // 2, tw // 2, joined),
        "argmax_ptr": "*u8",
        **_sizes("HO", "WO", "QO", "splits"),
        **places,
    }
    yield Case(
        f"{tile.name}_join_{dtype}", "split3x3.conv3x3_join_kernel", tile.arch, tile.bits, types,
        {**box, "BJ": joined, "RELU": True, "POOL": True}, tile.warps,
    )  # fmt: skip


def _products(dtype: str, precision: str) -> str:
    return f"{dtype}_{precision}" if dtype == "fp32" else dtype


def dgrad_case(tile: tiles.Tile, dtype: str, pool: bool, precision: str = "ieee") -> Case:
    """A chain's dgrad with the mask, the sums and, if ``pool``, the scatter of the layer below."""
    (ni, th, tw), tma = tile.box, tile.arch >= 90
    below = _operand(tile, dtype, *tile.box, tile.bc)
    types = {
        "dz": _operand(tile, dtype, *tile.box, tile.bk),
        "w": _operand(tile, dtype, tile.bc, tile.bk),
        "y": below,
        "argmax_ptr": "*u8",
        **dict.fromkeys(("below", "below01", "below10", "below11"), below),
        "partial_ptr": "*fp32",
        **_sizes("N", "H", "W", "HB", "WB", "QI", "QO", "C_out", "tiles_h", "tiles_w"),
    }
    constants: dict[str, Any] = {
        "NI": ni, "TH": th, "TW": tw, "BC": tile.bc, "BK": tile.bk, "TMA": tma,
        "PRECISION": precision,
    }  # fmt: skip
    views = [] if pool and tma else ["below01", "below10", "below11"]
    constants.update(dict.fromkeys(views + ([] if pool else ["argmax_ptr"])))
    variant = "chain_pool" if pool else "chain"
    return Case(
        f"{tile.name}_{variant}_{_products(dtype, precision)}", "dgrad3x3.conv3x3_dgrad_kernel",
        tile.arch, tile.bits, types, constants, tile.warps, tile.stages, True,
    )  # fmt: skip


def gluon_case(tile: tiles.Tile, dtype: str, variant: str, share: int | None = None) -> Case:
    """As :func:`fprop_case`, for a tile of form "gluon"; ``share`` as in gluon_plan.plan."""
    pool, dgrad = variant == "pool", variant == "dgrad"
    plan = gluon_plan.plan(tile, pool, share)

    def operand(box: tuple[int, ...]) -> str:
        return f"tensordesc<{dtype}{list(box)},{gluon_plan.layout(box)!r}>"

    types = {
        "x": operand(plan.x_box), "w": operand(plan.w_box), "b_ptr": f"*{dtype}",
        "y": operand(plan.y_box), "argmax_ptr": "*u8",
        **_sizes("N", "HO", "WO", "C_out", "groups", "tiles_h", "tiles_w", "tiles"),
    }  # fmt: skip
    constants = {**plan.constants, "RELU": not dgrad, "POOL": pool, "MIRROR": dgrad}
    absent = (["b_ptr"] if dgrad else []) + ([] if pool else ["argmax_ptr"])
    constants.update(dict.fromkeys(absent))
    taps = "" if share is None else f"_{share}tap"
    return Case(
        f"{tile.name}{taps}_{variant}_{dtype}", "gluon3x3.conv3x3_gluon_kernel", tile.arch,
        tile.bits, types, constants, gluon_plan.WARPS, 1, True, gluon_plan.REGISTERS,
    )  # fmt: skip


def gluon_cases(every: bool) -> Iterator[Case]:
    """The first entry of each split, or ``every`` one, with all of the epilogue and as dgrad."""
    if gluon_plan.absent():
        return
    seen = set()
    for tile in tiles.table():
        if tile.form != "gluon":
            continue
        split = gluon_plan.plan(tile, False).constants["SPLIT"]
        if every or split not in seen:
            yield gluon_case(tile, "bf16", "pool")
        if every or split not in seen:
            yield gluon_case(tile, "fp16", "dgrad")
        if every:
            yield gluon_case(tile, "bf16", "relu")
            if gluon_plan.taps() != 1:
                yield gluon_case(tile, "bf16", "relu", share=1)
        seen.add(split)


def flat_case(tile: tiles.Tile, dtype: str, variant: str, precision: str = "ieee") -> Case:
    """``variant``: "flat" (a flat result), "filled" (the same with filled up channels), "plain"
    (a plain result) or "dgrad" (the same with mirrored taps), all but that with bias and ReLU."""
    p, dgrad, flat = tile.box[2], variant == "dgrad", variant in ("flat", "filled")
    types = {
        "x": _operand(tile, dtype, p, tile.bk),
        "w": _operand(tile, dtype, tile.bc, tile.bk),
        "b_ptr": f"*{dtype}",
        "y": _operand(tile, dtype, p, tile.bc) if flat else f"*{dtype}",
        "pixels_ptr": "*i32",
        **_sizes("rows", "H", "W", "QI", "QO", "C_out", "by_line", "by_image", "tiles"),
    }
    constants: dict[str, Any] = {
        "P": p, "BC": tile.bc, "BK": tile.bk, "TMA": tile.arch >= 90, "RELU": not dgrad,
        "FLAT": flat, "FILL": variant == "filled", "MIRROR": dgrad, "PRECISION": precision,
        "PERSISTENT": tile.persistent,
    }  # fmt: skip
    absent = (["b_ptr"] if dgrad else []) + ([] if flat else ["pixels_ptr"])
    constants.update(dict.fromkeys(absent))
    return Case(
        f"{tile.name}_{variant}_{_products(dtype, precision)}", "flat3x3.conv3x3_flat_kernel",
        tile.arch, tile.bits, types, constants, tile.warps, tile.stages, True,
    )  # fmt: skip


def flat_cases(every: bool) -> Iterator[Case]:
    """Each entry of form "flat" with a flat and a plain result, or in ``every`` variant."""
    for tile in tiles.table():
        if tile.form != "flat":
            continue
        if tile.bits == 32:
            for precision in ("ieee",) if tile.ieee else ("tf32", "tf32x3"):
                yield flat_case(tile, "fp32", "filled", precision)
                if every:
                    yield flat_case(tile, "fp32", "plain", precision)
            continue
        yield flat_case(tile, "bf16", "flat")
        yield flat_case(tile, "fp16", "plain")
        if every:
            yield flat_case(tile, "bf16", "filled")
            yield flat_case(tile, "bf16", "dgrad")


def wgrad_case(tile: tiles.Tile, dtype: str, precision: str = "ieee") -> Case:
    types = {
        "x": _operand(tile, dtype, *tile.box, tile.bk),
        "dz": _operand(tile, dtype, *tile.box, tile.bc),
        "partial_ptr": "*fp32",
        **_sizes("N", "H", "W", "QI", "QO", "C_in", "C_out", "tiles_h", "tiles_w", "tiles"),
        **_sizes("tiles_per_split"),
    }
    constants: dict[str, Any] = dict(zip(("NI", "TH", "TW"), tile.box, strict=True))
    constants.update(
        BC=tile.bc, BK=tile.bk, TAPS=tile.taps, TMA=tile.arch >= 90, PRECISION=precision
    )
    return Case(
        f"{tile.name}_{_products(dtype, precision)}", "wgrad3x3.conv3x3_wgrad_kernel",
        tile.arch, tile.bits, types, constants, tile.warps, tile.stages, True,
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
        types, constants, tile.warps, tile.stages, True,
        gathers=True, resident=first_plan.resident(tile, pool),
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
        types, constants, tile.warps, tile.stages, True,
        gathers=True, resident=first_plan.resident(tile, pool),
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
            "pack3x3.pack3x3_kernel",
            {
                "w_ptr": t,
                "rows_ptr": t,
                **_sizes("R", "C", "C_PAD", "stride_r", "stride_c", "stride_h", "stride_w"),
            },
            {"BR": 16, "BC": 64},
        ),
        (
            "flat3x3.to_flat_kernel",
            {"x_ptr": t, "y_ptr": t, "pixels_ptr": "*i32", **_sizes("rows", "H", "W", "Q")},
            {"P": 32, "BC": 64},
        ),
        (
            "dgrad3x3.conv3x3_dgrad_sum_kernel",
            {**partial, "sum_ptr": "*fp32", **_sizes("rows", "C", "rows_per_program")},
            block,
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


def e4m3_cases(tile: tiles.Tile, every: bool) -> Iterator[Case]:
    """The e4m3 convolution to e4m3 with a pool; to bfloat16 and without a pool for the widest."""
    (ni, th, tw), bc = tile.box, tile.bc
    variants = [(True, "fp8e4nv")]
    if every or (bc == 128 and tile.bk == 128 and ni == 1):
        variants += [(False, "fp8e4nv"), (True, "bf16")]
    for pool, out in variants:
        stored = (ni, th // 2, tw // 2) if pool else tile.box
        types = {
            "x_desc": _operand(tile, "fp8e4nv", *tile.box, tile.bk),
            "w_desc": _operand(tile, "fp8e4nv", bc, tile.bk),
            "scale_ptr": "*fp32",
            "shift_ptr": "*fp32",
            "y_desc": _operand(tile, out, *stored, bc),
            **_sizes("QI", "C_out", "tiles_h", "tiles_w"),
        }
        constants: dict[str, Any] = {
            "NI": ni, "TH": th, "TW": tw, "BC": bc, "BK": tile.bk, "RELU": True, "POOL": pool,
        }  # fmt: skip
        yield Case(
            f"{tile.name}_{'pool' if pool else 'relu'}_{out}", "e4m3.conv3x3_e4m3_kernel",
            tile.arch, tile.bits, types, constants, tile.warps, tile.stages, True,
        )  # fmt: skip


def quantize_case() -> Case:
    types = {"x_ptr": "*bf16", "scale_ptr": "*fp32", "y_ptr": "*fp8e4nv"}
    types.update(_sizes("rows", "C", "C_PAD"))
    return Case(
        "quantize_e4m3_sm90_bf16", "e4m3.quantize_e4m3_kernel", 90, 16, types, {"BR": 64, "BC": 64}
    )


def linear_cases(arch: int) -> Iterator[Case]:
    """The fully connected layer for a few images, with the constants of launch/linear.py."""
    for dtype, bk, precision in (("bf16", 128, "ieee"), ("fp32", 64, "tf32x3")):
        tma = arch >= 90
        types = {
            "x": f"tensordesc<{dtype}[16, {bk}]>" if tma else f"*{dtype}",
            "w": f"tensordesc<{dtype}[64, {bk}]>" if tma else f"*{dtype}",
            "partial_ptr": "*fp32",
            **_sizes("M", "OUT", "QK", "blocks_per_split"),
        }
        constants = {"BM": 16, "BO": 64, "BK": bk, "PRECISION": precision, "TMA": tma}
        yield Case(
            f"linear_split_sm{arch}_{_products(dtype, precision)}", "linear.linear_split_kernel",
            arch, 16 if dtype == "bf16" else 32, types, constants, 4, 5, True,
        )  # fmt: skip
    types = {"partial_ptr": "*fp32", "b_ptr": "*bf16", "y_ptr": "*bf16"}
    types.update(_sizes("M", "OUT", "splits"))
    yield Case(
        f"linear_join_sm{arch}_bf16", "linear.linear_join_kernel", arch, 16, types,
        {"RELU": True, "B": 256},
    )  # fmt: skip


def cases(every: bool = False) -> Iterator[Case]:
    """The compilations of the check, ``every`` one or the default choice.

    By default an entry is compiled with all of its epilogue, 16-bit ones also as a chain's dgrad;
    those without a pool and persistent ones with bias and ReLU. fp16 and bf16 share code, so the
    variants share them out.
    """
    for tile in tiles.table():
        if tile.form != "loop":
            continue
        if tile.kernel.startswith("first"):
            case = first_case if tile.kernel == "first" else first_wgrad_case
            one, other = ("fp16", "bf16") if tile.bits == 16 else ("fp32", "fp32")
            yield case(tile, one, "pool")
            if every or tile.box == (1, 4, 32):
                yield case(tile, other, "relu")
            if every and case is first_wgrad_case:
                yield case(tile, other, "dz")
        elif tile.kernel == "e4m3":
            yield from e4m3_cases(tile, every)
        elif tile.bits == 32:
            for precision in ("ieee",) if tile.ieee else ("tf32", "tf32x3"):
                if tile.kernel == "wgrad":
                    yield wgrad_case(tile, "fp32", precision)
                else:
                    yield fprop_case(tile, "fp32", "pool", precision)
                    if every:
                        yield dgrad_case(tile, "fp32", True, precision)
        elif tile.kernel == "wgrad":
            yield wgrad_case(tile, "bf16")
        else:
            if tile.pools:
                yield fprop_case(tile, "bf16", "pool")
            if tile.pools and not tile.persistent:
                yield dgrad_case(tile, "bf16", True)
            if not tile.persistent and (every or not tile.pools):
                yield dgrad_case(tile, "fp16", False)
            if every or not tile.pools or tile.persistent:
                yield fprop_case(tile, "fp16", "relu")
            if every:
                yield fprop_case(tile, "bf16", "dgrad")
            narrow = not tile.persistent and prod(tile.box) <= 128  # wide ones serve large maps
            if narrow and (every or (tile.box[0] == 1 and tile.bk > 16)):
                yield from split_cases(tile, "bf16")
    yield from gluon_cases(every)
    yield from flat_cases(every)
    for arch in ARCHES:
        yield from element_cases(arch, "bf16")
        yield from linear_cases(arch)
    yield quantize_case()
