"""The kernels' sources: complete without any header of others, as NVRTC needs them, and shipped."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vggfast.backends import cuda_rtc, native

NAMES = native.module().build_config()["cuda_emulated"]
FILES = sorted(set(cuda_rtc._FILES.values()))
ALONE = ["maxpool2x2_backward<Float16, false>", "first_conv_mma<BFloat16>"]


def _of(file: str) -> list[str]:
    """The instances of a file's kernels."""
    return [n for n in NAMES if cuda_rtc.file_of(n) == file]


def _nvrtc() -> ctypes.CDLL | None:
    """NVRTC, where a package or a toolkit brought it."""
    found = [f for p in sys.path for f in Path(p).glob("nvidia/*/lib/libnvrtc.so.*")]
    for name in [*map(str, found), "libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


@pytest.mark.parametrize("name", NAMES)
def test_no_header_of_others_is_left(name):
    text = cuda_rtc.source(name)
    assert '#include "' not in text
    seen_by_nvrtc = re.sub(r"#ifdef __CUDACC__.*?#endif", "", text, flags=re.DOTALL)
    assert "#include <" not in seen_by_nvrtc
    assert re.search(rf"\b{re.escape(name.split('<')[0])}\(", text)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("file", FILES)
def test_nvrtc_compiles_every_instance(file, arch):
    """To machine code, with the options that CuPy gets and the one that it adds."""
    lib = _nvrtc()
    if lib is None:
        pytest.skip("libnvrtc is not installed")
    names = _of(file)
    program = ctypes.c_void_p()
    code = cuda_rtc.source(names[0]).encode()
    assert lib.nvrtcCreateProgram(ctypes.byref(program), code, b"k.cu", 0, None, None) == 0
    for name in names:
        assert lib.nvrtcAddNameExpression(program, name.encode()) == 0
    options = [*cuda_rtc.OPTIONS, "-ftz=true", f"-arch={arch}"]
    given = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    failed = lib.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    if b"failed to open libnvrtc-builtins" in log.value:
        pytest.skip("libnvrtc does not find its builtins")
    assert not failed, log.value.decode()
    lib.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    assert lib.nvrtcGetCUBIN(program, cubin) == 0
    lowered = ctypes.c_char_p()
    for name in names:
        assert lib.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(lowered)) == 0
        assert lowered.value in cubin.raw, name
    assert lib.nvrtcDestroyProgram(ctypes.byref(program)) == 0


@pytest.mark.parametrize("name", ALONE)
def test_nvcc_compiles_the_text_alone(name, tmp_path):
    """Where NVRTC is missing this comes near it: the text, and no folder of headers."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    file = tmp_path / "k.cu"
    file.write_text(cuda_rtc.source(name) + f"auto* kernel = &{name};\n")
    command = [nvcc, *cuda_rtc.OPTIONS, "-ptx", "-arch=sm_80", str(file), "-o", str(tmp_path / "k")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert name.split("<")[0] in (tmp_path / "k").read_text()


def test_every_kernel_has_its_file():
    assert {cuda_rtc.file_of(n) for n in NAMES} == set(FILES)
    assert sum(len(_of(f)) for f in FILES) == len(NAMES)


def test_missing_sources_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_rtc, "_ROOTS", (tmp_path,))
    cuda_rtc._text.cache_clear()
    with pytest.raises(FileNotFoundError, match="are not installed"):
        cuda_rtc.source("sgd<float>")
    cuda_rtc._text.cache_clear()


def test_cupy_gets_the_kernel_by_name_and_its_argument_by_value(monkeypatch):
    """What is handed to CuPy, on a stand-in of it: the real one needs a GPU."""
    seen = {}

    class Kernel:
        def __call__(self, blocks, threads, arguments):
            seen["launch"] = (blocks, threads, [(a.size, a.tobytes()) for a in arguments])

    class Module:
        def __init__(self, **given):
            seen.update(given)

        def get_function(self, name):
            seen["name"] = name
            return Kernel()

    class Stream:
        def __init__(self, pointer):
            seen["stream"] = pointer

        def __enter__(self):
            seen["entered"] = True

        def __exit__(self, *_):
            pass

    class Cuda:
        ExternalStream = Stream

    class Cupy:
        RawModule, cuda = Module, Cuda

    cuda_rtc._kernel.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", Cupy)
    cuda_rtc.launch("sgd<float>", (3, 1), 256, b"12345678", 77)
    cuda_rtc._kernel.cache_clear()
    assert seen["name_expressions"] == ["sgd<float>"] == [seen["name"]]
    assert seen["code"] == cuda_rtc.source("sgd<float>")
    assert seen["launch"] == ((3, 1), (256,), [(1, b"12345678")])
    assert seen["stream"] == 77
    assert seen["entered"]
