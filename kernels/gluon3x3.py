"""The 3x3 convolution in Gluon for Hopper: persistent, warp-specialised; fprop and dgrad.

The same meaning and operands as conv3x3_fprop_kernel of conv3x3.py. Three partitions of a program
work at the same time: a warp that loads (``load_partition``) and two warpgroups that multiply and
store (``mma_partition``), each 64 channels x P pixels at a time, accumulated in its registers.

    SPLIT "channels"  a tile is 128 channels x P pixels: a warpgroup takes 64 of the channels
          "pixels"    a tile is 64 channels x 2 P pixels: a warpgroup takes half of the rows
          "tiles"     a tile is 64 channels x P pixels: warpgroups take turns, so that one of them
                      multiplies while the other one stores

Vertical taps share their pixels. A *group* is one channel block of one column of TAPS = 3 taps: its
x buffer holds TH + 2 rows of NI x TW pixels, row after row, and the tap of row r multiplies the TH
rows from the r-th on. Three boxes of TH + 2 rows are so read for nine taps instead of nine of TH.
With TAPS = 1 a group is a single tap with TH rows of its own: from Triton 3.8 on Gluon refuses a
view that is larger than what it starts from, which the overlapping rows need. Horizontal taps
cannot share: a shift by a pixel is a shift by 128 bytes within the 1024-byte pattern in which the
tensor cores read shared memory (only the start of a pattern can be named), and it would need TW + 2
columns where a block has a power of two. A group has TAPS *steps*, a tap of weights each.

x buffers and weights go round in two rings of their own. Group i uses buffer ``stage_of(i)`` of its
ring and meets its barriers in ``phase_of(i)``; steps likewise. "full" completes when the bytes have
landed, "empty" when every reader has arrived. A reader arrives one step late, when the products
that read the buffer are known to be done. Indices run on from tile to tile: the loading warp is
ahead in the next tile while the last one is stored.

A parity tells a phase only from the ones beside it. A warpgroup that sees all groups keeps up by
itself; where they take turns, one that waited for a group far ahead would be let in by an earlier
round. So ``turns`` holds it back until the other one has seen all of its tile's groups.

Tiles are dealt out statically: program p takes p, p + programs, ...
"""

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from . import conv3x3, pool2x2

# Gluon compiles its own kind of function: the same source once more.
place = gluon.jit(conv3x3.place.fn)
winner = gluon.jit(pool2x2.winner.fn)

# Names that changed: up to Triton 3.7 the copies have the long ones, from 3.9 on only the short
# ones work; 3.9 made the method public and took the old name away.
_to_shared = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
_to_global = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global
_REINTERPRET_IS_PRIVATE = gl.constexpr(hasattr(gl.shared_memory_descriptor, "_reinterpret"))

SIZES = ["N", "HO", "WO", "C_out", "groups", "tiles_h", "tiles_w", "tiles"]


@gluon.jit
def stage_of(i, BUFFERS: gl.constexpr):
    """The buffer that the ``i``-th load of a ring goes to."""
    return i % BUFFERS


@gluon.jit
def phase_of(i, BUFFERS: gl.constexpr):
    """The parity in which the barriers of that buffer complete for the ``i``-th load."""
    return (i // BUFFERS) & 1


@gluon.jit
def view(buffer, shape: gl.constexpr, layout: gl.constexpr):
    """Shared memory from the start of ``buffer`` on, seen in another shape."""
    if _REINTERPRET_IS_PRIVATE:
        return buffer._reinterpret(buffer.dtype, shape, layout)
    else:
        return buffer.reinterpret(buffer.dtype, shape, layout)


@gluon.jit(do_not_specialize=SIZES)
def conv3x3_gluon_kernel(
    x,  # (N, H, W, padded C_in); box (NI, RB, TW, 64)
    w,  # (9 * C_out, padded C_in): row tap * C_out + co, tap = 3 r + s; box (64, 64)
    b_ptr,  # (C_out,) or None
    y,  # (N, HO, WO, padded C_out); box (NI, TH or TH/2, TW or TW/2, 64), TH of a warpgroup
    argmax_ptr,  # uint8 (N, HO, WO, ceil(C_out / 4)) or None
    N,
    HO,
    WO,
    C_out,
    groups,  # 9 // TAPS * ceil(C_in / 64)
    tiles_h,
    tiles_w,
    tiles,
    NI: gl.constexpr,
    TH: gl.constexpr,  # rows of the tile
    TW: gl.constexpr,
    RB: gl.constexpr,  # rows a load brings
    SPLIT: gl.constexpr,
    TAPS: gl.constexpr,  # 3 or 1
    XBUFS: gl.constexpr,
    WBUFS: gl.constexpr,
    RELU: gl.constexpr,
    POOL: gl.constexpr,
    MIRROR: gl.constexpr,  # taps point the other way: dgrad
):
    """All tiles of the program; one warpgroup is the launch's, the others are made here."""
    gl.static_assert(NI * TW % 8 == 0, "a row of pixels is whole patterns of shared memory")
    gl.static_assert(NI == 1 or RB == 1, "rows lie side by side, images within a row")
    WS: gl.constexpr = 2 if SPLIT == "channels" else 1  # weight buffers of a step
    ROWS: gl.constexpr = TH + TAPS - 1
    READERS: gl.constexpr = 1 if SPLIT == "tiles" else 2
    x_bufs = gl.allocate_shared_memory(x.dtype, [XBUFS * ROWS // RB, NI * RB * TW, 64], w.layout)
    w_bufs = gl.allocate_shared_memory(w.dtype, [WBUFS * WS, 64, 64], w.layout)
    y_bufs = gl.allocate_shared_memory(y.dtype, [2] + y.block_type.shape, y.layout)  # noqa: RUF005
    x_full = gl.allocate_shared_memory(gl.int64, [XBUFS, 1], mbarrier.MBarrierLayout())
    x_empty = gl.allocate_shared_memory(gl.int64, [XBUFS, 1], mbarrier.MBarrierLayout())
    w_full = gl.allocate_shared_memory(gl.int64, [WBUFS, 1], mbarrier.MBarrierLayout())
    w_empty = gl.allocate_shared_memory(gl.int64, [WBUFS, 1], mbarrier.MBarrierLayout())
    turns = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2):
        mbarrier.init(turns.index(i), count=1)
    for i in gl.static_range(XBUFS):
        mbarrier.init(x_full.index(i), count=1)
        mbarrier.init(x_empty.index(i), count=READERS)
    for i in gl.static_range(WBUFS):
        mbarrier.init(w_full.index(i), count=1)
        mbarrier.init(w_empty.index(i), count=READERS)
    fence_async_shared()  # TMA signals these barriers

    rings = (x_bufs, x_full, x_empty, w_bufs, w_full, w_empty)
    sizes = (C_out, groups, tiles_h, tiles_w, tiles)
    outputs = (y, y_bufs, argmax_ptr, N, HO, WO)
    shared = (rings, turns, b_ptr, sizes, outputs)
    # A thread of the loading warp needs few registers, so those that multiply get 232: 128 of
    # them accumulate. 168 a thread are asked for at the launch, which is what 384 threads can have.
    gl.warp_specialize(
        [
            (
                mma_partition,
                (shared, 0, NI, TH, TW, SPLIT, TAPS, XBUFS, WBUFS, RELU, POOL),
            ),
            (
                mma_partition,
                (shared, 1, NI, TH, TW, SPLIT, TAPS, XBUFS, WBUFS, RELU, POOL),
            ),
            (
                load_partition,
                (rings, x, w, sizes, NI, TH, TW, RB, SPLIT, TAPS, XBUFS, WBUFS, MIRROR),
            ),
        ],
        [4, 1],
        [232, 40],
    )


@gluon.jit
def load_partition(
    rings, x, w, sizes, NI: gl.constexpr, TH: gl.constexpr, TW: gl.constexpr, RB: gl.constexpr,
    SPLIT: gl.constexpr, TAPS: gl.constexpr, XBUFS: gl.constexpr, WBUFS: gl.constexpr,
    MIRROR: gl.constexpr,
):  # fmt: skip
    """Fill the rings for all tiles of the program, in the order in which they are multiplied."""
    x_bufs, x_full, x_empty, w_bufs, w_full, w_empty = rings
    C_out, groups, tiles_h, tiles_w, tiles = sizes
    WS: gl.constexpr = 2 if SPLIT == "channels" else 1
    ROWS: gl.constexpr = TH + TAPS - 1
    box_layout: gl.constexpr = x.layout
    BYTES: gl.constexpr = x.dtype.primitive_bitwidth // 8
    group = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        n0, h0, w0, c0 = place(tile, C_out, tiles_h, tiles_w, NI, TH, TW, 64 * WS)
        for g in range(groups):
            column = g % 3
            row = g % (9 // TAPS) // 3
            k0 = g // (9 // TAPS) * 64
            at = stage_of(group, XBUFS)
            full = x_full.index(at)
            # A barrier that has never completed counts as completed in phase 1: nothing to wait
            # for in the first round.
            mbarrier.wait(x_empty.index(at), phase_of(group, XBUFS) ^ 1)
            mbarrier.expect(full, ROWS * NI * TW * 64 * BYTES)
            for j in gl.static_range(ROWS // RB):
                box = view(x_bufs.index(at * (ROWS // RB) + j), [NI, RB, TW, 64], box_layout)
                corner = [n0, h0 + row + j * RB - 1, w0 + column - 1, k0]
                _to_shared(x, corner, full, box)
            for r in gl.static_range(TAPS):
                tap = 3 * (row + r) + column
                if MIRROR:
                    tap = 8 - tap
                step = TAPS * group + r
                slot = stage_of(step, WBUFS)
                full = w_full.index(slot)
                mbarrier.wait(w_empty.index(slot), phase_of(step, WBUFS) ^ 1)
                mbarrier.expect(full, WS * 64 * 64 * BYTES)
                for half in gl.static_range(WS):
                    corner = [tap * C_out + c0 + half * 64, k0]
                    _to_shared(w, corner, full, w_bufs.index(slot * WS + half))
            group += 1


@gluon.jit
def mma_partition(
    shared, ME: gl.constexpr, NI: gl.constexpr, TH: gl.constexpr, TW: gl.constexpr,
    SPLIT: gl.constexpr, TAPS: gl.constexpr, XBUFS: gl.constexpr, WBUFS: gl.constexpr,
    RELU: gl.constexpr, POOL: gl.constexpr,
):  # fmt: skip
    """Multiply and store this warpgroup's part (number ``ME``) of the program's tiles."""
    rings, turns, b_ptr, sizes, outputs = shared
    y, y_bufs, argmax_ptr, N, HO, WO = outputs
    C_out, groups, tiles_h, tiles_w, tiles = sizes
    WS: gl.constexpr = 2 if SPLIT == "channels" else 1
    TURNS: gl.constexpr = 2 if SPLIT == "tiles" else 1
    MY_TURN: gl.constexpr = ME if SPLIT == "tiles" else 0
    PART_H: gl.constexpr = TH // 2 if SPLIT == "pixels" else TH
    MY_PART: gl.constexpr = ME if SPLIT == "pixels" else 0
    MY_HALF: gl.constexpr = ME if SPLIT == "channels" else 0
    group = MY_TURN * groups
    first = gl.program_id(0) + MY_TURN * gl.num_programs(0)
    turn = 0
    for tile in range(first, tiles, TURNS * gl.num_programs(0)):
        if TURNS == 2:  # the first warpgroup goes first, the second one when it has had its turn
            mbarrier.wait(turns.index(ME), phase_of(turn, 1) ^ (1 - ME))
        acc = products(
            rings, group, groups, MY_PART, MY_HALF, WS, NI, TH, PART_H, TW, TAPS, XBUFS, WBUFS
        )
        if TURNS == 2:
            mbarrier.arrive(turns.index(1 - ME))
        acc = finish(acc, rings[2], rings[5], group + groups - 1, TAPS, XBUFS, WBUFS)
        group += TURNS * groups
        turn += 1  # noqa: SIM113, Gluon has no enumerate
        n0, h0, w0, c0 = place(tile, C_out, tiles_h, tiles_w, NI, TH, TW, 64 * WS)
        h0 += MY_PART * PART_H
        c0 += MY_HALF * 64
        acc = bias_relu(acc, b_ptr, c0, C_out, RELU)
        if POOL:
            store_pooled(
                acc, y, y_bufs.index(ME), argmax_ptr, n0, h0, w0, c0, N, HO, WO, C_out,
                NI, PART_H, TW,
            )  # fmt: skip
        else:
            whole = acc.to(y.dtype).reshape([64, PART_H, NI, TW])
            store(y, [n0, h0, w0, c0], y_bufs.index(ME), whole.permute([2, 1, 3, 0]))
    tma.store_wait(0)  # the last store reads a buffer that ends with the program


@gluon.jit
def products(
    rings, group, groups, MY_PART: gl.constexpr, MY_HALF: gl.constexpr, WS: gl.constexpr,
    NI: gl.constexpr, TH: gl.constexpr, PART_H: gl.constexpr, TW: gl.constexpr,
    TAPS: gl.constexpr, XBUFS: gl.constexpr, WBUFS: gl.constexpr,
):  # fmt: skip
    """The sum for one tile, float32 (64, PART_H * NI * TW), of groups ``group`` and following.

    The products of the last step are still being made; see ``finish``.
    """
    x_bufs, x_full, x_empty, w_bufs, w_full, w_empty = rings
    ROWS: gl.constexpr = TH + TAPS - 1
    P: gl.constexpr = PART_H * NI * TW
    acc_layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, P, 16]
    )
    layout: gl.constexpr = x_bufs.layout
    if TAPS == 3:
        x_rows = view(x_bufs, [XBUFS * ROWS, NI * TW, 64], layout)
    else:
        x_parts = view(x_bufs, [XBUFS * (TH // PART_H), P, 64], layout)
    acc = gl.zeros([64, P], gl.float32, acc_layout)
    for g in range(groups):
        at = stage_of(group + g, XBUFS)
        mbarrier.wait(x_full.index(at), phase_of(group + g, XBUFS))
        for r in gl.static_range(TAPS):
            step = TAPS * (group + g) + r
            slot = stage_of(step, WBUFS)
            mbarrier.wait(w_full.index(slot), phase_of(step, WBUFS))
            weights = w_bufs.index(slot * WS + MY_HALF)
            if TAPS == 3:
                first = x_rows.index(at * ROWS + MY_PART * PART_H + r)
                pixels = view(first, [P, 64], layout)
            else:
                pixels = x_parts.index(at * (TH // PART_H) + MY_PART)
            acc = warpgroup_mma(weights, pixels.permute([1, 0]), acc, is_async=True)
            acc = warpgroup_mma_wait(1, deps=(acc,))
            # All products but these are done: what the step before has read is free.
            if r > 0:
                mbarrier.arrive(w_empty.index(stage_of(step - 1, WBUFS)))
            else:
                mbarrier.arrive(w_empty.index(stage_of(step - 1, WBUFS)), pred=g > 0)
                mbarrier.arrive(x_empty.index(stage_of(group + g - 1, XBUFS)), pred=g > 0)
    return acc


@gluon.jit
def finish(
    acc, x_empty, w_empty, last, TAPS: gl.constexpr, XBUFS: gl.constexpr, WBUFS: gl.constexpr
):
    """Wait for all products, and free what those of the tile's ``last`` group have read."""
    acc = warpgroup_mma_wait(0, deps=(acc,))
    mbarrier.arrive(w_empty.index(stage_of(TAPS * last + TAPS - 1, WBUFS)))
    mbarrier.arrive(x_empty.index(stage_of(last, XBUFS)))
    return acc


@gluon.jit
def bias_relu(acc, b_ptr, c0, C_out, RELU: gl.constexpr):
    """relu?(acc + b) for acc (64, P) of the channels from c0 on; b_ptr (C_out,) or None."""
    if b_ptr is not None:
        channel = c0 + gl.arange(0, 64, gl.SliceLayout(1, acc.type.layout))
        bias = gl.load(b_ptr + channel, mask=channel < C_out, other=0.0)
        acc += gl.expand_dims(bias.to(gl.float32), 1)
    if RELU:
        acc = gl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return acc


@gluon.jit
def store(y, corner, buffer, values):
    """Store ``values`` at ``corner`` of y by way of ``buffer``, once its last store has read it."""
    tma.store_wait(0)
    buffer.store(values)
    fence_async_shared()
    _to_global(y, corner, buffer)


@gluon.jit
def store_pooled(
    acc, y, buffer, argmax_ptr, n0, h0, w0, c0, N, HO, WO, C_out, NI: gl.constexpr,
    TH: gl.constexpr, TW: gl.constexpr,
):  # fmt: skip
    """Store the 2x2 pool of acc (64, TH * NI * TW), and its argmax unless the pointer is None."""
    # Round first: a fused pool then chooses the element a separate pool would choose.
    rounded = acc.to(y.dtype).to(gl.float32)
    windows = rounded.reshape([64, TH // 2, 2, NI, TW // 2, 2])
    left, right = gl.split(windows)  # (64, TH/2, 2, NI, TW/2)
    v0, v2 = gl.split(left.permute([0, 1, 3, 4, 2]))  # (64, TH/2, NI, TW/2)
    v1, v3 = gl.split(right.permute([0, 1, 3, 4, 2]))
    best, code = winner(v0, v1, v2, v3)
    store(y, [n0, h0 // 2, w0 // 2, c0], buffer, best.to(y.dtype).permute([2, 1, 3, 0]))
    if argmax_ptr is not None:
        Q: gl.constexpr = NI * TH * TW // 4
        packed = pack_codes(code.reshape([64, Q]), c0, C_out, Q)
        layout: gl.constexpr = packed.type.layout
        pixel = gl.arange(0, Q, gl.SliceLayout(0, layout))
        quad = c0 // 4 + gl.arange(0, 16, gl.SliceLayout(1, layout))
        v = w0 // 2 + pixel % (TW // 2)
        n = n0 + pixel // (TW // 2) % NI
        h = h0 // 2 + pixel // (TW // 2 * NI)
        quads = (C_out + 3) // 4
        base = ((n.to(gl.int64) * HO + h) * WO + v) * quads
        offset = gl.expand_dims(base, 0) + gl.expand_dims(quad, 1)
        inside = (n < N) & (h < HO) & (v < WO)
        mask = gl.expand_dims(inside, 0) & gl.expand_dims(quad < quads, 1)
        gl.store(argmax_ptr + offset, packed, mask=mask)


@gluon.jit
def pack_codes(code, c0, C_out, Q: gl.constexpr):
    """Codes (64, Q) of channels from c0 on -> bytes (16, Q); absent channels give 0."""
    channel = gl.arange(0, 64, gl.SliceLayout(1, code.type.layout))
    present = c0 + channel < C_out
    code = gl.where(gl.expand_dims(present, 1), code << gl.expand_dims(2 * (channel % 4), 1), 0)
    return gl.sum(code.reshape([16, 4, Q]), axis=1).to(gl.uint8)
