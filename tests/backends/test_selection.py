"""Which backend serves a call, and what is said about it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import vggfast
from vggfast import backends
from vggfast.backends import Call, native
from vggfast.errors import BackendError, InputError

FP32 = Call("conv3x3", "cpu", torch.float32, 3, 64)


def test_cpu_tensors_get_the_native_kernels():
    assert backends.select(FP32).name == "cpu"


def test_what_the_native_kernels_refuse_goes_to_eager_and_explain_says_so():
    call = Call("conv3x3", "cpu", torch.float16, 3, 64)
    assert backends.select(call).name == "eager"
    text = vggfast.explain("cpu", torch.float16)
    assert "not cpu: its kernels are float32 and bfloat16 only, not float16" in text


def test_environment_forces_and_argument_wins(monkeypatch):
    monkeypatch.setenv("VGGFAST_BACKEND", "eager")
    assert backends.select(FP32).name == "eager"
    assert backends.select(FP32, "cpu").name == "cpu"
    monkeypatch.setenv("VGGFAST_BACKEND", "auto")
    assert backends.select(FP32).name == "cpu"


def test_unknown_name(monkeypatch):
    monkeypatch.setenv("VGGFAST_BACKEND", "cudnn")
    with pytest.raises(
        InputError, match="backend: got 'cudnn', allowed are auto, eager, cpu, triton"
    ):
        vggfast.ops.linear(torch.randn(1, 2), torch.randn(3, 2))


def test_explain_covers_every_op_and_names_what_runs():
    text = vggfast.explain("cpu")
    for op in backends.OPS:
        assert f"  {op} " in text
    assert native.module().build_config()["cpu_isa"] in text


def test_a_missing_extension_is_explained_and_never_hidden(monkeypatch, fresh_selection):
    error = ImportError("libstdc++.so.6: cannot open shared object file")
    monkeypatch.setattr(native, "_load", lambda: (None, error))
    assert backends.select(FP32).name == "eager"
    assert "libstdc++.so.6: cannot open shared object file" in vggfast.explain("cpu")
    with pytest.raises(BackendError, match=r"libstdc\+\+"):
        backends.select(FP32, "cpu")
    with pytest.raises(ImportError, match="pip install -e") as caught:
        native.module()
    assert caught.value.__cause__ is error


def test_import_is_cheap():
    """No kernel library, no GPU query and no thread by ``import vggfast``."""
    code = (
        "import sys, threading, torch; before = set(sys.modules); import vggfast; "
        "new = set(sys.modules) - before; "
        "print([m for m in new if m.startswith(('triton', 'cupy', 'vggfast._native', "
        "'vggfast.kernels', 'vggfast.train', 'sklearn', 'PIL', 'rich'))], "
        "torch.cuda.is_initialized(), threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False 1"
