# make bench   set up .venv, build, and benchmark VGG-E        make test    set up and test (lint too)
# make test-long, microbench, lint, sanitize                   make gpu     STAGE=test|sanitize|tune|bench|all
#
# An environment that has torch already is used as it is: PYTHON=python3 takes that interpreter's
# packages and installs nothing but this one, VENV=dir a whole virtual environment.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

NET ?= E
ARGS ?=
STAGE ?= test
OUT ?= bench/results
NETS ?= E D A
BATCHES ?= 1,64,256
TUNE_BATCHES ?= 256,64,1,8
DTYPE ?= bf16
ISAS ?= amx avx512 avx2 scalar
SANITIZED := build/sanitize
SANITIZED_TESTS := tests/native/test_native.py tests/native/test_winograd.py tests/native/test_threads.py \
  tests/native/test_layouts.py tests/ops/test_conv3x3.py tests/ops/test_gemm_ops.py \
  tests/ops/test_linear_bf16_weights.py tests/ops/test_maxpool2x2.py tests/cuda
SANITIZED_BUT := "not eager and not instruction_set and not repeat and not layers_of_the_network"
VENV ?= .venv

# A PYTHON from the command line brings its packages; without one they are installed.
ifeq ($(filter command environment,$(firstword $(origin PYTHON))),)
  PYTHON := python3
  BORROW := $(if $(filter gpu,$(MAKECMDGOALS)),1,)
else
  BORROW := 1
endif
ifneq ($(BORROW),)
  ifeq ($(origin VENV),file)
    VENV := .venv-borrowed
  endif
endif

RUN := $(VENV)/bin/python
READY := $(VENV)/.vggfast-requirements
BUILT := $(VENV)/.vggfast-built
NATIVE := setup.py pyproject.toml $(shell find csrc -type f)
PYTEST := $(RUN) -m pytest

.PHONY: help env bench test test-long lint microbench sanitize gpu gpu-check clean

help:
	@sed -n '1,5p' Makefile

# An environment that this file did not make is left alone. One that borrows sees its parent's packages:
# through parent.pth where the parent is itself a virtual environment.
$(READY): $(if $(BORROW),,requirements-dev.txt)
	@if [ ! -x $(RUN) ]; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "vggfast: PYTHON=$(PYTHON) is older than 3.10, which is the oldest that is supported" >&2; exit 2; }; \
	  if [ -n "$(BORROW)" ]; then \
	    $(PYTHON) -c 'import torch, pybind11, setuptools, pytest' || \
	      { echo "vggfast: PYTHON=$(PYTHON) lacks one of torch, pybind11, setuptools, pytest; leave PYTHON out to have them installed in .venv" >&2; exit 2; }; \
	    $(PYTHON) -m venv --without-pip --system-site-packages $(VENV); \
	    $(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sep="\n")' \
	      > "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth"; \
	  else \
	    $(PYTHON) -m venv $(VENV) || \
	      { rm -rf $(VENV); echo "vggfast: $(PYTHON) cannot make a virtual environment; install its venv module, for example 'apt install python3-venv'" >&2; exit 2; }; \
	    touch $(VENV)/.vggfast-made; \
	  fi; \
	fi
	@if [ -e $(VENV)/.vggfast-made ]; then $(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt; fi
	@touch $@

# The build says what it built; pip would swallow that, so its log is shown.
$(BUILT): $(READY) $(NATIVE)
	@$(RUN) -m pip install --disable-pip-version-check --no-deps --no-build-isolation --verbose -e . > $(VENV)/build.log 2>&1 || \
	  { grep -E '^ *(vggfast:|error|.*error:)' $(VENV)/build.log >&2 || tail -n 30 $(VENV)/build.log >&2; exit 1; }
	@grep -o 'vggfast: built.*' $(VENV)/build.log | tail -n 1
	@touch $@

env: $(BUILT)

bench: $(BUILT)
	$(RUN) bench/run.py --net $(NET) $(ARGS)

test: lint
	$(PYTEST) -q -m "not long" $(ARGS)

test-long: $(BUILT)
	$(PYTEST) -q $(ARGS)

microbench: $(BUILT)
	$(PYTEST) bench -q $(ARGS)

# The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer, once for each instruction set:
# a build of its own, beside links to the tests. Python starts without the sanitizer's library, so it and
# the C++ library, whose exceptions it wants to see, are loaded first. Memory is filled with NaN.
sanitize: $(BUILT)
	@mkdir -p $(SANITIZED)/tree
	@VGGFAST_SANITIZE=1 VGGFAST_CUDA=0 $(RUN) setup.py build --build-base $(SANITIZED) --build-lib $(SANITIZED)/tree \
	  > $(SANITIZED)/build.log 2>&1 || { tail -n 30 $(SANITIZED)/build.log >&2; exit 1; }
	@for link in tests pyproject.toml; do ln -sfn ../../../$$link $(SANITIZED)/tree/$$link; done
	@preload="$$($(firstword $(CXX)) -print-file-name=libasan.so) $$($(firstword $(CXX)) -print-file-name=libstdc++.so.6)"; \
	python="$$(realpath -s $(RUN))"; cd $(SANITIZED)/tree; \
	export LD_PRELOAD="$$preload" UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  ASAN_OPTIONS=detect_leaks=0:max_malloc_fill_size=1073741824:malloc_fill_byte=255; \
	for isa in $(ISAS); do \
	  export VGGFAST_CPU_ISA=$$isa; \
	  why="$$($$python -c 'from vggfast.backends import native; native.module().build_config()' 2>&1)" || \
	    case "$$why" in *"this CPU lacks"*) echo "vggfast: this CPU lacks $$isa"; continue ;; *) echo "$$why" >&2; exit 1 ;; esac; \
	  echo "vggfast: $$isa"; \
	  $$python -m pytest -q --capture=sys -p no:cacheprovider -m "not long" -k $(SANITIZED_BUT) $(SANITIZED_TESTS) $(ARGS); \
	done

# A borrowed environment may lack these tools; what is skipped is said.
lint: $(BUILT)
	@for tool in ruff mypy; do \
	  $(RUN) -c "import $$tool" 2>/dev/null || { [ -n "$(BORROW)" ] && echo "vggfast: $$tool is not installed here, its check is skipped"; }; \
	done
	@if $(RUN) -c 'import ruff' 2>/dev/null; then $(RUN) -m ruff check . && $(RUN) -m ruff format --check .; fi
	@if $(RUN) -c 'import mypy' 2>/dev/null; then $(RUN) -m mypy && MYPYPATH=bench:docs/examples:. $(RUN) -m mypy bench; fi
	@if [ -x $(VENV)/bin/clang-format ]; then find csrc -type f | xargs $(VENV)/bin/clang-format --dry-run -Werror; \
	  else echo "vggfast: clang-format is not installed here, its check is skipped"; fi

# On a machine with a GPU, torch, triton, pybind11, pytest and nvcc, and no network: nothing is
# installed there but this package. STAGE is test, sanitize, tune, bench or all; see .ci/gpu.
gpu: gpu-check $(BUILT)
	@STAGE="$(STAGE)" OUT="$(OUT)" PYTHON="$(RUN)" NETS="$(NETS)" BATCHES="$(BATCHES)" \
	  TUNE_BATCHES="$(TUNE_BATCHES)" DTYPE="$(DTYPE)" ARGS="$(ARGS)" .ci/gpu run

gpu-check:
	@STAGE="$(STAGE)" PYTHON="$(PYTHON)" .ci/gpu check

clean:
	rm -rf build .venv .venv-borrowed vggfast.egg-info vggfast/_native*.so
