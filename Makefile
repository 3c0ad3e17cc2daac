# `make demo` and `make test` work on a fresh clone with nothing but make and Python 3.11 or newer.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# The CPU build of torch. Another build: make demo TORCH_INDEX=https://download.pytorch.org/whl/cu130
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo test test-slow lint clean

help:
	@echo "make demo       install, fetch the model, answer the sample prompts, write out/index.html"
	@echo "make test       lint, type check and the quick tests"
	@echo "make test-slow  the long guarantees"
	@echo "make lint       ruff, mypy and import-linter alone"
	@echo "make clean      remove the virtual environment and all caches in this folder"

demo: $(VENV)/.done
	$(BIN)/codi2 demo --out out

# A process for each core, of one thread each: threads of several processes would wait for each other.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist loadgroup

# pytest ends with 5 when no test is marked slow; that is no failure.
test-slow: $(VENV)/.done-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n auto --dist loadgroup || [ $$? -eq 5 ]

lint: $(VENV)/.done-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

clean:
	rm -rf $(VENV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone: its index offers builds with a local version (2.13.0+cpu), which pip prefers to the plain one.
# An index that cannot be reached costs one short try and falls back on the plain version.
$(VENV)/.done: pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "codi2 needs Python 3.11 or newer; name it with: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-deps --retries 1 --timeout 15 --extra-index-url $(TORCH_INDEX) -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.done-dev: $(VENV)/.done
	$(PIP) install --quiet -c constraints.txt -e ".[dev]"
	@touch $@
