"""For every test: fixed seeds, poisoned memory, no forced backend from the outside."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from vggfast import backends

# The same cases on every run, however slow the machine is.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

# Other folders fork and time; tests want the same threads on every machine.
os.environ.pop("VGGFAST_BACKEND", None)
# Nor do they depend on what whoever runs them has tuned.
_CACHE = tempfile.TemporaryDirectory(prefix="vggfast-tests-")
os.environ["VGGFAST_CACHE"] = _CACHE.name


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """``torch.empty`` gives NaN (floats) or the largest value (integers), so what a kernel leaves
    unwritten shows. torch does that only in deterministic mode; ``warn_only`` forbids nothing."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(4).isnan().all(), "memory is not poisoned"
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def fresh_selection() -> Iterator[None]:
    """Forget which backend serves what, before and after: for tests that change it."""
    backends.clear_cache()
    yield
    backends.clear_cache()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One CPU thread: small layers gain nothing from more, and wait for them on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
