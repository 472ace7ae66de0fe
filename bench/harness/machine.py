"""What the figures were taken on: machine, versions, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

import vggfast

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "triton", "numpy")
OPTIONAL = ("cupy-cuda12x", "cupy-cuda13x", "cupy")


def machine(device: torch.device, threads: int) -> dict[str, str | int | float]:
    """CPU model, cores and threads, memory, and for a GPU its name, driver and memory."""
    facts: dict[str, str | int | float] = {
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        "cpu": _cpu_model(),
        "cpu_isa": torch.backends.cpu.get_cpu_capability(),
        "cores": _cores(),
        "threads": threads,
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else -1.0,
        "system": f"{platform.system()} {platform.machine()}",
    }  # fmt: skip
    if device.type == "cuda":
        p = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu_memory_gib": round(p.total_memory / 2**30, 1),
            "gpu_sms": p.multi_processor_count,
            "gpu_l2_mib": p.L2_cache_size >> 20,
            "gpu_capability": f"{p.major}.{p.minor}",
            "driver": _say(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
            "tf32_conv": str(torch.backends.cudnn.allow_tf32),
            "tf32_matmul": str(torch.backends.cuda.matmul.allow_tf32),
        }
    return facts


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": platform.python_version(), "vggfast": vggfast.__version__}
    for name in (*PACKAGES, *OPTIONAL):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name in PACKAGES:
                found[name] = "not installed"
    if torch.version.cuda:
        found |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    return found


def commit() -> str:
    """The checkout's commit, with ``+dirty`` if tracked files differ, or ``unknown``."""
    git = ["git", "-C", str(CHECKOUT)]
    head = _say([*git, "rev-parse", "--short=12", "HEAD"])
    if head == "unknown":
        return head
    changed = _say([*git, "status", "--porcelain", "--untracked-files=no"], empty="")
    return f"{head}+dirty" if changed else head


def _cores() -> int:
    """The cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or "unknown"


def _say(command: list[str], empty: str = "unknown") -> str:
    """The first line a command prints, or "unknown" if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    lines = done.stdout.strip().splitlines()
    return lines[0].strip() if lines else empty
