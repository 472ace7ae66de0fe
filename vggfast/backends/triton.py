"""The triton backend: placeholder until its owner's file lands in this session."""

from __future__ import annotations

from vggfast.backends.base import Backend, Call


class TritonBackend(Backend):
    name = "triton"

    def unavailable(self) -> str | None:
        return "its kernels are not there yet"

    def refuse(self, call: Call) -> str | None:
        return None
