"""Arrays of other libraries enter the public ops without a copy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vggfast import InputError, ops
from vggfast.ops import _check

RNG = np.random.default_rng(0)


def _array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (ops.conv3x3, (_array(1, 3, 5, 6), _array(4, 3, 3, 3), _array(4))),
        (ops.conv1x1, (_array(1, 3, 5, 6), _array(4, 3, 1, 1), _array(4))),
        (ops.linear, (_array(2, 6), _array(4, 6), _array(4))),
        (ops.lrn, (_array(1, 6, 2, 3),)),
        (ops.maxpool2x2, (_array(1, 6, 4, 4),)),
        (ops.cross_entropy, (_array(3, 5), np.array([0, 4, 2]))),
    ],
    ids=lambda f: getattr(f, "__name__", ""),
)
def test_numpy_gives_the_tensors_result(function, arrays):
    want = function(*map(torch.from_numpy, arrays))
    got = function(*arrays)
    assert isinstance(got, torch.Tensor)
    assert torch.equal(got, want)


class Exchange:
    """An array of another library: the exchange protocol and nothing else."""

    def __init__(self, x: torch.Tensor) -> None:
        self._x = x

    def __dlpack__(self, **how: object) -> object:
        return self._x.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._x.__dlpack_device__()


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (ops.conv3x3, (_array(1, 3, 5, 6), _array(4, 3, 3, 3), _array(4))),
        (ops.linear, (_array(2, 6), _array(4, 6), _array(4))),
        (ops.lrn, (_array(1, 6, 2, 3),)),
        (ops.maxpool2x2, (_array(1, 6, 4, 4),)),
        (ops.cross_entropy, (_array(3, 5), np.array([0, 4, 2]))),
    ],
    ids=lambda f: getattr(f, "__name__", ""),
)
def test_whatever_has_dlpack_will_do(function, arrays):
    tensors = [torch.from_numpy(a) for a in arrays]
    assert torch.equal(function(*map(Exchange, tensors)), function(*tensors))
    x = _check.array("x", Exchange(tensors[0]))
    assert x.data_ptr() == tensors[0].data_ptr()


def test_bytes_of_another_library_are_cropped():
    images = torch.randint(0, 256, (2, 9, 8, 3), dtype=torch.uint8)
    how = ([[0, 1], [2, 0]], (4, 5), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert torch.equal(ops.crop_images(Exchange(images), *how), ops.crop_images(images, *how))


def test_memory_is_shared():
    x = _array(2, 3)
    t = _check.array("x", x)
    assert t.data_ptr() == x.__array_interface__["data"][0]
    assert _check.array("x", t) is t


def test_a_read_only_array_is_copied():
    x = _array(2, 3)
    x.flags.writeable = False
    t = _check.array("x", x)
    assert t.data_ptr() != x.__array_interface__["data"][0]
    np.testing.assert_array_equal(t.numpy(), x)


def test_what_torch_cannot_take_is_told():
    with pytest.raises(InputError, match=r"^x: got ndarray, which torch cannot take over"):
        ops.lrn(np.array(["a"]))
    with pytest.raises(InputError, match=r"^x: got dtype torch.int64"):
        ops.lrn(np.zeros((1, 1, 1, 1), np.int64))
    with pytest.raises(InputError, match=r"^x: got list, allowed is a torch.Tensor"):
        ops.lrn([1.0])


def test_compile_sees_one_graph():
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda x: ops.lrn(x) + 1, backend=backend, fullgraph=True)
    compiled(torch.randn(1, 3, 2, 2))
    targets = [str(n.target) for g in graphs for n in g.graph.nodes]
    assert len(graphs) == 1
    assert any("vggfast.lrn" in t for t in targets), targets
