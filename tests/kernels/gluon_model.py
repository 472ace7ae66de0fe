"""Runs the source of kernels/gluon3x3.py in Python: its functions, over names that mean NumPy.

``Model`` takes the place of the compiled kernel at a launch. The functions of that file run as they
are written, with ``gl``, ``tma``, ``mbarrier`` and the rest bound to what is here and in
gluon_machine.py. It checks numbers, barrier phases, the life of every buffer and alignment; of
layouts in registers it knows nothing (the compiler checks those).
"""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from gluon_machine import Barrier, HazardError, Machine, Span
from torch import Tensor
from vggfast.kernels import gluon3x3

_SHARED = {name: getattr(gluon3x3, name).fn.__code__ for name in ("place", "winner")}


@lru_cache(maxsize=64)
def _functions(edit: tuple[str, str] | None) -> CodeType:
    """The functions of gluon3x3.py without decorators and annotations, ``edit`` made before."""
    assert gluon3x3.__file__ is not None
    source = Path(gluon3x3.__file__).read_text()
    if edit is not None:
        assert edit[0] in source, f"{edit[0]!r} is not in the kernel's source"
        source = source.replace(*edit)
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
        elif isinstance(node, ast.arg):
            node.annotation = None
    return compile(tree, gluon3x3.__file__, "exec")


class DType(SimpleNamespace):
    """A dtype of the kernel: what it is in NumPy."""

    numpy: Any

    @property
    def primitive_bitwidth(self) -> int:
        return int(np.dtype(self.numpy).itemsize * 8)


FLOAT16, FLOAT32 = DType(numpy=np.float16), DType(numpy=np.float32)
INT32, INT64, UINT8 = DType(numpy=np.int32), DType(numpy=np.int64), DType(numpy=np.uint8)


class Value:
    """A tensor in registers; an accumulator's may still be under way (``event``)."""

    type = SimpleNamespace(layout=None)

    def __init__(self, array: Any, event: Any = None) -> None:
        self._array, self.event = array, event

    @property
    def array(self) -> Any:
        if self.event is not None and not self.event.done:
            raise HazardError("an accumulator is read while its products are being made")
        return self._array[0] if isinstance(self._array, list) else self._array

    def to(self, dtype: DType) -> Value:
        return Value(self.array.astype(dtype.numpy))

    def reshape(self, shape: Any) -> Value:
        return Value(self.array.reshape(shape))

    def permute(self, order: Any) -> Value:
        return Value(self.array.transpose(order))


def _operator(name: str) -> Any:
    def apply(self: Value, other: Any) -> Value:
        return Value(getattr(self.array, name)(other.array if isinstance(other, Value) else other))

    return apply


for _name in (
    "add", "radd", "sub", "mul", "rmul", "mod", "floordiv", "lshift", "lt", "gt", "ne", "and", "or",
):  # fmt: skip
    setattr(Value, f"__{_name}__", _operator(f"__{_name}__"))


class Pointer:
    def __init__(self, flat: Any, offset: Any = 0) -> None:
        self.flat, self.offset = flat, offset

    def __add__(self, offset: Value) -> Pointer:
        return Pointer(self.flat, self.offset + offset.array)


class Shared:
    """A view of an allocation of shared memory."""

    layout = "patterns of 1024 bytes"

    def __init__(self, machine: Machine, memory: Any, begin: int, shape: Any, dtype: DType) -> None:
        self.machine, self.memory, self.begin = machine, memory, begin
        self.shape, self.dtype = list(shape), dtype
        self.span = Span(memory, begin, begin + int(np.prod(self.shape)))
        if not 0 <= begin < self.span.end <= len(memory):
            raise HazardError(
                f"a view of {self.shape} from {begin} leaves its {len(memory)} elements"
            )

    @property
    def array(self) -> Any:
        return self.memory[self.span.begin : self.span.end].reshape(self.shape)

    def index(self, i: int) -> Shared:
        size = int(np.prod(self.shape[1:]))
        if not 0 <= i < self.shape[0]:
            raise HazardError(f"index {i} of {self.shape}")
        return Shared(self.machine, self.memory, self.begin + i * size, self.shape[1:], self.dtype)

    def _reinterpret(self, dtype: DType, shape: Any, layout: Any) -> Shared:
        assert dtype is self.dtype
        return Shared(self.machine, self.memory, self.begin, shape, dtype)

    def permute(self, order: Any) -> Shared:
        assert order == [1, 0]
        return self  # the second operand of a product is always given turned

    def store(self, value: Value) -> None:
        self.machine.pause()
        self.machine.check_write(self.span)
        assert value.array.dtype == self.dtype.numpy
        self.array[...] = value.array
        self.machine.me.unfenced.append(self.span)


class Barriers:
    def __init__(self, barriers: list[Barrier]) -> None:
        self.barriers = barriers

    def index(self, i: int) -> Barrier:
        # A predicate may be off where the index is one before the first: C's remainder is negative.
        return self.barriers[i]


class Descriptor:
    """A TMA descriptor, of the one that the launch made."""

    def __init__(self, made: Any) -> None:
        self.global_, self.box = made.base.numpy(), list(made.block_shape)
        assert list(made.shape) == list(self.global_.shape)
        self.layout, self.dtype = made.layout, FLOAT16
        assert made.base.dtype == torch.float16
        self.block_type = SimpleNamespace(shape=self.box)

    def cut(self, corner: Any) -> tuple[Any, Any]:
        """Slices of the global array and of the box where the two meet."""
        outer, inner = [], []
        for c, b, size in zip(corner, self.box, self.global_.shape, strict=True):
            low, high = min(max(c, 0), size), min(max(c + b, 0), size)
            outer.append(slice(low, high))
            inner.append(slice(low - c, high - c) if high > low else slice(0, 0))
        return tuple(outer), tuple(inner)


class Model:
    """In place of ``conv3x3_gluon_kernel``; ``edit`` (old, new) makes a fault in its source."""

    def __init__(self, seed: int, edit: tuple[str, str] | None = None) -> None:
        self.seed, self.edit = seed, edit

    def __getitem__(self, grid: tuple[int]) -> Any:
        def launch(*args: Any, num_warps: int, maxnreg: int, **constants: Any) -> None:
            assert num_warps == 4
            operands = [self._argument(a) for a in args]
            for program in range(grid[0]):
                self._run(program, grid[0], operands, constants)

        return launch

    @staticmethod
    def _argument(value: Any) -> Any:
        if isinstance(value, Tensor):
            return Pointer(value.view(-1).numpy())
        return Descriptor(value) if hasattr(value, "block_shape") else value

    def _run(self, program: int, programs: int, operands: Any, constants: Any) -> None:
        machine = Machine(self.seed, program)
        names = _names(machine, program, programs)
        for name, code in _SHARED.items():
            names[name] = FunctionType(code, names, name)
        exec(_functions(self.edit), names)
        names["conv3x3_gluon_kernel"](*operands, **constants)
        for barrier in machine.barriers:
            if barrier.arrived or barrier.bytes:
                raise HazardError("a barrier is left in the middle of a phase")
        uses = [b.completed for b in machine.barriers]
        x, w = constants["XBUFS"], constants["WBUFS"]
        x_full, x_empty = uses[:x], uses[x : 2 * x]
        w_full, w_empty = uses[2 * x : 2 * x + w], uses[2 * x + w : 2 * (x + w)]
        if x_full != x_empty or w_full != w_empty:
            raise HazardError("a buffer was filled more often than it was freed")


def _names(machine: Machine, program: int, programs: int) -> dict[str, Any]:
    """What the names of the kernel's source mean here."""

    def allocate(dtype: DType, shape: Any, layout: Any) -> Any:
        if dtype is INT64:
            made = [Barrier() for _ in range(shape[0])]
            machine.barriers += made
            return Barriers(made)
        memory = np.full(int(np.prod(shape)), np.nan, dtype.numpy)
        return Shared(machine, memory, 0, shape, dtype)

    def init(barrier: Barrier, count: int) -> None:
        barrier.count = count

    def wait(barrier: Barrier, phase: int) -> None:
        machine.pause(lambda: barrier.passed(phase))

    def arrive(barrier: Barrier, pred: bool = True) -> None:
        machine.pause()
        if pred:
            barrier.arrive()

    def expect(barrier: Barrier, size: int) -> None:
        machine.pause()
        barrier.expect(size)

    def to_shared(desc: Descriptor, corner: Any, barrier: Barrier, target: Shared) -> None:
        machine.pause()
        assert target.shape == desc.box
        assert target.begin * 2 % 128 == 0
        target.array[...] = np.nan

        def land() -> None:
            outer, inner = desc.cut(corner)
            box = np.zeros(desc.box, np.float16)
            box[inner] = desc.global_[outer]
            target.array[...] = box
            barrier.land(box.nbytes)

        machine.ask("load", [target.span], land)

    def to_global(desc: Descriptor, corner: Any, source: Shared) -> None:
        machine.pause()
        assert source.shape == desc.box
        if any(s.meets(source.span) for s in machine.me.unfenced):
            raise HazardError("a TMA store of values that no fence has made visible to it")

        def read() -> None:
            outer, inner = desc.cut(corner)
            desc.global_[outer] = source.array[inner]

        machine.ask("store", [source.span], read)

    def store_wait(pending: int) -> None:
        stores = machine.me.stores
        machine.pause(lambda: len(stores) <= pending)

    def fence() -> None:
        if hasattr(machine._local, "partition"):
            machine.me.unfenced.clear()

    def mma(a: Shared, b: Shared, acc: Value, is_async: bool) -> Value:
        machine.pause()
        assert is_async
        for operand in (a, b):
            if operand.begin * 2 % 1024:
                raise HazardError("an operand begins within a pattern of shared memory")
        result: list[Any] = []

        def multiply() -> None:
            # Not by @, whose threads would fight for the processor with the test's others.
            one, other = a.array.astype(np.float32), b.array.astype(np.float32)
            result.append(acc.array + np.einsum("ik,jk->ij", one, other))

        return Value(result, machine.ask("product", [a.span, b.span], multiply))

    def mma_wait(pending: int, deps: Any) -> Value:
        products = machine.me.products
        machine.pause(lambda: len(products) <= pending)
        (acc,) = deps
        return acc  # type: ignore[no-any-return]

    def specialize(functions: Any, warps: Any, registers: Any) -> None:
        assert warps == [4, 1]
        assert len(registers) == 2
        machine.run([lambda f=f, a=a: f(*a) for f, a in functions])

    def load(pointer: Pointer, mask: Value, other: float) -> Value:
        inside = mask.array
        values = pointer.flat[np.where(inside, pointer.offset, 0)]
        return Value(np.where(inside, values, np.asarray(other, values.dtype)))

    def store(pointer: Pointer, value: Value, mask: Value) -> None:
        inside = np.broadcast_to(mask.array, value.array.shape)
        offset = np.broadcast_to(pointer.offset, value.array.shape)
        pointer.flat[offset[inside]] = value.array[inside]

    def raw(value: Any) -> Any:
        return value.array if isinstance(value, Value) else value

    def where(mask: Value, one: Any, other: Any) -> Value:
        return Value(np.where(mask.array, raw(one), raw(other)))

    def maximum(a: Value, b: float, propagate_nan: Any) -> Value:
        assert propagate_nan == "all"
        return Value(np.maximum(a.array, np.float32(b)))

    def static_assert(condition: bool, message: str) -> None:
        assert condition, message

    gl = SimpleNamespace(
        program_id=lambda axis: program, num_programs=lambda axis: programs,
        static_range=range, static_assert=static_assert, allocate_shared_memory=allocate,
        NVMMADistributedLayout=lambda **_: None, SliceLayout=lambda *_: None,
        int64=INT64, float32=FLOAT32, uint8=UINT8, warp_specialize=specialize,
        zeros=lambda shape, dtype, layout: Value(np.zeros(shape, dtype.numpy)),
        arange=lambda a, b, layout: Value(np.arange(a, b, dtype=np.int32)),
        expand_dims=lambda v, axis: Value(np.expand_dims(v.array, axis)),
        split=lambda v: (Value(v.array[..., 0]), Value(v.array[..., 1])),
        sum=lambda v, axis: Value(v.array.sum(axis)),
        where=where, maximum=maximum, load=load, store=store,
    )  # fmt: skip
    tl = SimpleNamespace(
        cdiv=lambda a, b: -(-a // b), where=where, int32=INT32,
        PropagateNan=SimpleNamespace(ALL="all"),
    )  # fmt: skip
    return {
        "gl": gl, "tl": tl, "fence_async_shared": fence,
        "mbarrier": SimpleNamespace(
            MBarrierLayout=lambda: None, init=init, wait=wait, arrive=arrive, expect=expect
        ),
        "tma": SimpleNamespace(store_wait=store_wait),
        "_to_shared": to_shared, "_to_global": to_global, "_REINTERPRET_IS_PRIVATE": True,
        "warpgroup_mma": mma, "warpgroup_mma_wait": mma_wait,
    }  # fmt: skip
