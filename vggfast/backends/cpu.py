"""The cpu backend: hand-written AVX-512 / AVX2 kernels in the native extension, float32."""

from __future__ import annotations

from vggfast.backends import native
from vggfast.backends.base import Backend, Call


class CpuBackend(Backend):
    name = "cpu"

    def unavailable(self) -> str | None:
        return native.why_missing()

    def refuse(self, call: Call) -> str | None:
        return None
