"""Build of vggfast: the package map and the native extension ``vggfast._native``.

``kernels/`` is the package ``vggfast.kernels``. The extension takes pointers and shapes and
includes no torch header, so one build serves every torch version and an isolated build downloads
no torch.

``VGGFAST_CUDA`` decides what is built: ``auto`` (CUDA sources if nvcc is found), ``0``, ``1``
(an error if nvcc is missing). ``VGGFAST_SANITIZE=1`` is for ``make sanitize``. The build prints
what it built.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# Real machine code for the cards we tune for, and PTX for the ones to come.
CUDA_TARGETS = (
    "arch=compute_80,code=sm_80",
    "arch=compute_90a,code=sm_90a",
    "arch=compute_90,code=compute_90",
)
# A file *_sm90.cu uses instructions that only sm_90a has.
HOPPER_TARGETS = ("arch=compute_90a,code=sm_90a",)


def packages() -> list[str]:
    kernels = find_packages(str(ROOT / "kernels"))
    return [
        *find_packages(str(ROOT), include=["vggfast", "vggfast.*"]),
        "vggfast.kernels",
        "vggfast.csrc",
        *(f"vggfast.kernels.{name}" for name in kernels),
    ]


def relative(pattern: str) -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for p in ROOT.glob(pattern))


def find_nvcc() -> str | None:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        home = os.environ.get(variable)
        if home and (Path(home) / "bin" / "nvcc").exists():
            return str(Path(home) / "bin" / "nvcc")
    return shutil.which("nvcc")


def nvcc_library_dir(nvcc: str) -> Path:
    """Where this nvcc keeps libcudart_static.a; nvcc may be a wrapper, so it is asked."""
    dry = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", "-o", os.devnull, os.devnull],
        capture_output=True, text=True, check=False,
    ).stderr  # fmt: skip
    roots = [Path(nvcc).resolve().parent.parent]
    roots += [Path(line.split("TOP=", 1)[1].strip()) for line in dry.splitlines() if "TOP=" in line]
    for root in roots:
        for lib in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
            if (root / lib / "libcudart_static.a").exists():
                return root / lib
    sys.exit(f"vggfast: {nvcc} has no libcudart_static.a beside it; install the CUDA runtime's "
             "development files or set VGGFAST_CUDA=0")  # fmt: skip


def wanted_nvcc() -> tuple[str | None, str]:
    """The nvcc to build with (None: no CUDA) and the reason, by ``VGGFAST_CUDA``."""
    choice = os.environ.get("VGGFAST_CUDA", "auto")
    if choice not in ("auto", "0", "1"):
        sys.exit(f"vggfast: VGGFAST_CUDA: got {choice!r}, allowed are auto, 0, 1")
    if choice == "0":
        return None, "VGGFAST_CUDA=0"
    nvcc = find_nvcc()
    if nvcc is None and choice == "1":
        sys.exit("vggfast: VGGFAST_CUDA=1, but there is no nvcc on PATH or in CUDA_HOME; install "
                 "the CUDA toolkit or set VGGFAST_CUDA=auto")  # fmt: skip
    return nvcc, nvcc or "no nvcc on PATH or in CUDA_HOME"


JOBS = os.cpu_count() or 1


class BuildNative(build_ext):
    """Compiles each C++ file of csrc, and csrc/cuda with nvcc, and says what came out."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11
        from pybind11.setup_helpers import ParallelCompile

        self._require_compiler()
        nvcc, why = wanted_nvcc()
        cuda_sources = relative("csrc/cuda/*.cu")
        ext.include_dirs += [pybind11.get_include(), str(ROOT / "csrc")]
        targets = " ".join(t.split("code=")[1] for t in CUDA_TARGETS)
        ext.define_macros.append(("VGGFAST_WITH_CUDA", "1" if nvcc else "0"))
        if nvcc:
            ext.define_macros.append(("VGGFAST_CUDA_TARGETS", f'"{targets}"'))
            with ThreadPoolExecutor(JOBS) as pool:
                ext.extra_objects += pool.map(partial(self._compile_cuda, nvcc), cuda_sources)
            ext.library_dirs.append(str(nvcc_library_dir(nvcc)))
            ext.libraries += ["cudart_static", "dl", "rt", "pthread"]
        # One compiler a core: one file after the other takes minutes.
        with ParallelCompile(default=JOBS):
            super().build_extension(ext)
        isas = sorted({Path(s).stem.split("__")[1] for s in relative("csrc/cpu/*__*.cpp")})
        cuda = f"yes ({len(cuda_sources)} files for {targets}, {nvcc})" if nvcc else f"no ({why})"
        print(
            f"vggfast: built vggfast._native; CPU kernels: {', '.join(isas)}; CUDA kernels: {cuda}"
        )

    def _require_compiler(self) -> None:
        compiler = os.environ.get("CXX", "").split() or getattr(self.compiler, "compiler_cxx", [])
        if self.compiler.compiler_type == "unix" and not (compiler and shutil.which(compiler[0])):
            name = compiler[0] if compiler else "c++"
            sys.exit(f"vggfast: no C++ compiler ({name} not found); install one, for example "
                     "'apt install g++' or 'dnf install gcc-c++', or name it in CXX")  # fmt: skip

    def _compile_cuda(self, nvcc: str, source: str) -> str:
        target = Path(self.build_temp) / Path(source).with_suffix(".cu.o")
        headers = [p for p in ROOT.glob("csrc/**/*") if p.suffix in (".h", ".cuh")]
        targets = HOPPER_TARGETS if Path(source).stem.endswith("_sm90") else CUDA_TARGETS
        newest = max(p.stat().st_mtime for p in [ROOT / source, *headers])
        if target.exists() and target.stat().st_mtime > newest:
            return str(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [
            nvcc, "-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xptxas", "-v",
            "-I", str(ROOT / "csrc"), *(f"-gencode={t}" for t in targets),
            "-c", str(ROOT / source), "-o", str(target),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"vggfast: nvcc failed on {source}:\n{done.stdout}{done.stderr}")
        spills = [line for line in done.stderr.splitlines() if "spill" in line]
        if any(" 0 bytes spill stores, 0 bytes spill loads" not in line for line in spills):
            target.unlink()
            sys.exit(f"vggfast: registers spill in {source}:\n" + "\n".join(spills))
        # ptxas says so when it ignores setmaxnreg or makes wgmma wait for each other.
        warned = [
            line for line in done.stderr.splitlines() if "setmaxnreg" in line or "wgmma" in line
        ]
        if warned:
            target.unlink()
            sys.exit(f"vggfast: nvcc warned of {source}:\n" + "\n".join(warned))
        return str(target)


def flags() -> tuple[list[str], list[str]]:
    if sys.platform == "win32":
        return ["/std:c++17", "/O2", "/openmp"], []
    compile_flags = ["-std=c++17", "-O3", "-fvisibility=hidden", "-fno-math-errno", "-Wall"]
    # GCC's own AVX-512 headers use an undefined register on purpose and then warn of it.
    compile_flags += ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]
    if os.environ.get("VGGFAST_SANITIZE") == "1":
        # At -O3 the checks make a file take minutes; -fwrapv, which Python brings, would allow
        # what is to be found.
        checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        compile_flags += ["-O1", "-g1", "-fno-wrapv", "-fno-omit-frame-pointer", *checks]
        return [*compile_flags, "-fopenmp"], ["-fopenmp", *checks]
    if sys.platform == "darwin":
        return compile_flags, []  # no OpenMP in Apple's clang: one thread
    return [*compile_flags, "-fopenmp"], ["-fopenmp"]


COMPILE_FLAGS, LINK_FLAGS = flags()

setup(
    packages=packages(),
    package_dir={"vggfast": "vggfast", "vggfast.kernels": "kernels", "vggfast.csrc": "csrc"},
    # The CUDA kernels' sources go along: CuPy compiles them where this build had no nvcc.
    include_package_data=False,  # MANIFEST.in would take all of csrc into wheels too
    package_data={
        "vggfast": ["py.typed", "backends/*.json"],
        "vggfast.kernels": ["*.json"],
        "vggfast.csrc": ["common/*.h", "cuda/*.cuh"],
    },
    ext_modules=[
        Extension(
            "vggfast._native",
            sources=relative("csrc/*.cpp")
            + relative("csrc/cpu/*.cpp")
            + relative("csrc/emulator/*.cpp"),
            depends=relative("csrc/**/*.h") + relative("csrc/**/*.inc") + relative("csrc/**/*.cu*"),
            extra_compile_args=COMPILE_FLAGS,
            extra_link_args=LINK_FLAGS,
            language="c++",
        )
    ],
    cmdclass={"build_ext": BuildNative},
)
