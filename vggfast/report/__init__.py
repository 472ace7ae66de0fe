"""``python -m vggfast.report RUN...``: learning curves and settings of runs in one page."""

from __future__ import annotations

from vggfast.report.page import page
from vggfast.report.runs import Run, read

__all__ = ["Run", "page", "read"]
