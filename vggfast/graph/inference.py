"""``capture``: a forward pass as one CUDA graph."""

from __future__ import annotations

import threading

import torch
from torch import Tensor, nn

from vggfast import backends
from vggfast.errors import InputError
from vggfast.graph import checks, record
from vggfast.graph.watch import Watch


def capture(model: nn.Module, example: Tensor, *, clone: bool = True) -> CapturedModel:
    """Capture ``model(example)`` in a CUDA graph: a callable that replays it for other inputs.

    A replay launches every kernel of the network at once, so small batches no longer wait for
    Python. Parameters changed in place afterwards (an optimizer's step, ``load_state_dict``) are
    honoured at the next call; packed weights, which lie outside the graph, are then packed again.
    A write through ``.data``, or by another graph, cannot be seen: after it call
    :meth:`CapturedModel.refresh` or :func:`vggfast.clear_weights`. What depends on Python (modules
    put in place of others, :func:`vggfast.set_fp32_precision`) stays as captured.

    Args:
        model: in eval mode, on a CUDA device, without hooks; it returns one tensor. In a region of
            autocast the casts are captured too; a model of that dtype saves them.
        example: an input as the calls will bring: shape, dtype and device are those of every call.
            For another batch size capture another graph.
        clone: return new memory at each call. Without it a call returns the graph's own output,
            which the next call overwrites.

    Raises:
        InputError: not on a CUDA device, in training mode, with hooks, or of another output.
    """
    checks.model(model, training=False)
    checks.on_gpu("example", example)
    checks.together(model, example.device)
    return CapturedModel(model, example, clone)


class CapturedModel:
    """What :func:`capture` returns. Calls from several threads take turns."""

    def __init__(self, model: nn.Module, example: Tensor, clone: bool) -> None:
        self._model, self._clone = model, clone
        self._device = example.device
        self._turns, self._lock = record.Turns(self._device), threading.Lock()
        self._watch = Watch(model)
        self._held = backends.hold_weights(
            [t for t in self._watch.tensors if t.dim() == 4 and t.shape[2:] == (3, 3)]
        )
        with record.capturable(self._device), torch.no_grad():
            self._x = torch.empty_like(example).copy_(example)
            with self._held.use():
                # The first run is on this stream: what is held belongs to it, not to a side stream.
                y = self._run()
                if not isinstance(y, Tensor):
                    raise InputError(
                        f"model: got an output of {type(y).__name__}, allowed is one torch.Tensor"
                    )
                record.warm_up(self._run, self._device)
                self._graph, self._y = record.record(self._run, self._device)
        self._turns.next()

    def __call__(self, x: Tensor) -> Tensor:
        """The model's output for x, which has the shape, dtype and device of the example.

        Raises:
            InputError: another shape, dtype or device; a parameter that is no longer where it was
                captured; or the model is in training mode.
        """
        checks.like("x", x, self._x)
        with self._lock, torch.no_grad():
            checks.mode(self._model, training=False)
            self._watch.check()
            self._turns.next()
            self._held.refresh()
            self._x.copy_(x)
            self._graph.replay()
            return self._y.clone() if self._clone else self._y

    def refresh(self) -> None:
        """Pack all weights again: after a write to them that no version counter has seen."""
        with self._lock:
            self._turns.next()
            self._held.refresh(force=True)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self._x.shape))
        return (
            f"CapturedModel({type(self._model).__name__}, x {shape} {self._x.dtype}, "
            f"{self._held.nbytes / 1e6:.1f} MB of packed weights)"
        )

    def _run(self) -> Tensor:
        y: Tensor = self._model(self._x)
        return y
