"""The facts about this machine and installation; nothing here raises.

torch and the extension are imported when they are asked about, not before: an installation in
which they fail to import can be described too.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

Facts = dict[str, Any]
# Of the package's metadata: "rich>=13; extra == 'train'".
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+).*;.*extra == ['\"](\w+)['\"]")
_EXTRAS = ("train", "bench", "peers", "cuda12", "cuda13")
_VARIABLES = ("CUDA_HOME", "CUDA_PATH", "OMP_NUM_THREADS", "TORCH_HOME", "TRITON_INTERPRET")


def collect() -> Facts:
    """Facts by section. What could not be found out is a string that begins with "unknown"."""
    return {
        "versions": _safely(_versions),
        "cpu": _safely(_cpu),
        "extension": _safely(_extension),
        "gpu": _safely(_gpu),
        "compilers": _safely(_compilers),
        "backends": _safely(_backends),
        "extras": _safely(_extras),
        "environment": _safely(_environment),
    }


def _safely(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception as error:  # whatever is broken here: that is what is told
        lines = str(error).strip().splitlines() or [""]
        return f"unknown: {type(error).__name__}: {lines[0][:200]}"


def _versions() -> Facts:
    versions = {
        "vggfast": _safely(partial(_imported_version, "vggfast")),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    for name in ("torch", "numpy", "safetensors"):
        versions[name] = _safely(partial(_imported_version, name))
    versions["triton"] = _version("triton") or "not installed"
    return {name: str(version) for name, version in versions.items()}


def _imported_version(name: str) -> str:
    return str(import_module(name).__version__)


def _version(*distributions: str) -> str | None:
    """The version of the first of these that is installed, without importing it."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _cpu() -> Facts:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    return {
        "model": _safely(_cpu_model),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": _safely(lambda: import_module("torch").get_num_threads()),
    }


def _cpu_model() -> str:
    names = Path("/proc/cpuinfo")
    if names.exists():
        for line in names.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or "unknown"


def _extension() -> Facts:
    native = import_module("vggfast.backends.native")
    missing = native.why_missing()
    if missing is not None:
        return {"loaded": False, "why": missing}
    # Which instruction set is used may be refused: VGGFAST_CPU_ISA may name one this CPU lacks.
    config = _safely(lambda: dict(native.module().build_config()))
    if isinstance(config, str):
        return {"loaded": True, "why": config}
    emulated = config.pop("cuda_emulated", None) or []
    return {"loaded": True, **config, "cuda_emulated": f"{len(emulated)} kernels"}


def _gpu() -> Facts:
    torch = import_module("torch")
    built = torch.version.cuda or (torch.version.hip and f"AMD {torch.version.hip}")
    if not torch.cuda.is_available():
        why = "torch was built without CUDA" if built is None else "torch sees no GPU or driver"
        return {"available": False, "why": why, "torch_cuda": built}
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "available": True,
        "torch_cuda": built,
        "cards": [
            f"{card.name}, {card.total_memory / 2**30:.0f} GiB, compute capability "
            f"{card.major}.{card.minor}"
            for card in cards
        ],
    }


def _compilers() -> Facts:
    """nvcc, which builds CUDA sources, and CuPy, which has NVRTC do so at run time."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    inside = Path(home) / "bin" / "nvcc" if home else None
    nvcc = str(inside) if inside is not None and inside.exists() else shutil.which("nvcc")
    cupy = _version("cupy-cuda13x", "cupy-cuda12x", "cupy")
    return {
        "nvcc": "not on PATH nor in CUDA_HOME" if nvcc is None else f"{nvcc}: {_release(nvcc)}",
        "nvrtc": "through CuPy" if cupy else "needs CuPy",
        "cupy": cupy or "not installed: pip install 'vggfast[cuda12]' or 'vggfast[cuda13]'",
    }


def _release(nvcc: str) -> str:
    try:
        done = subprocess.run(
            [nvcc, "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {type(error).__name__}"
    lines = [line.strip() for line in done.stdout.splitlines() if "release" in line]
    return lines[0] if lines else "unknown: it told no release"


def _backends() -> Facts:
    """Which backends can be used, why not the others, and what serves each op here."""
    backends = import_module("vggfast.backends")
    reasons = {name: _safely(backends.get(name).unavailable) for name in backends.names()}
    return {
        "usable": {name: reason or "yes" for name, reason in reasons.items()},
        "explain": _safely(backends.explain),
    }


def _extras() -> dict[str, Facts]:
    """For each extra, the packages that are there and what would install the rest."""
    found: dict[str, dict[str, str | None]] = {name: {} for name in _EXTRAS}
    for requirement in importlib.metadata.requires("vggfast") or []:
        match = _REQUIREMENT.fullmatch(requirement.strip())
        if match is not None and match[2] in found:
            found[match[2]][match[1]] = _version(match[1])
    return {
        extra: {
            "installed": {name: version for name, version in packages.items() if version},
            "missing": [name for name, version in packages.items() if not version],
            "install": f"pip install 'vggfast[{extra}]'",
        }
        for extra, packages in found.items()
        if packages
    }


def _environment() -> Facts:
    """The variables that change what runs."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("VGGFAST_")}
    others = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return dict(sorted({**ours, **others}.items())) | {"executable": sys.executable}
