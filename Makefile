# make train   sets everything up, then trains DCGAN on real digits (no network needed for data or weights)
# make test    sets everything up, then runs the whole test suite
#
# Set-up happens once: a step is done again only when the files that it depends on change.
# Another Python: make PYTHON=python3.12 train

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet install -c constraints.txt
CONFIG ?= dcgan_digits
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
KERNELS := $(shell find csrc -type f 2>/dev/null)

.PHONY: train test setup clean
.DELETE_ON_ERROR:

train: setup
	@$(PY) -m genlab train $(CONFIG) $(ARGS)

# One thread per worker: the workers already fill the cores.
test: setup
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

setup: $(VENV)/.kernels-built

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.10 or newer, or name one: make PYTHON=python3.12 train" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $$($(PYTHON) --version) is too old; name a Python of 3.10 or newer: make PYTHON=python3.12 train" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) cannot make virtual environments; run: apt-get install python3-venv" >&2; exit 2; }
	@echo "[1/3] virtual environment in $(VENV)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch comes first and once: the kernels are built against it, without an isolated copy.
$(VENV)/.installed: $(VENV)/.created constraints.txt pyproject.toml setup.py
	@echo "[2/3] packages of constraints.txt (PyTorch is large; this happens once)"
	@$(PIP) torch torchvision
	@$(PIP) setuptools wheel ninja pybind11
	@GENLAB_SKIP_BUILD=1 $(PIP) --no-build-isolation -e '.[test]'
	@touch $@

# A build that fails is no reason to stop: the lab then runs on plain PyTorch, and `genlab doctor` says what is missing.
# GENLAB_REQUIRE_KERNELS=1 makes it one.
$(VENV)/.kernels-built: $(VENV)/.installed setup.py $(KERNELS)
	@echo "[3/3] kernels (C++, and CUDA where nvcc is)"
	@$(PY) -m genlab build || { [ "$$GENLAB_REQUIRE_KERNELS" != 1 ] && echo "kernels not built: going on with plain PyTorch; see \`$(VENV)/bin/genlab doctor\`"; }
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info genlab/_C*.so genlab/_C_build.json
