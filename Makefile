# Every target makes what it needs, from a clean clone, with a plain `python3 -m venv` and pip.

PYTHON ?= python3
PYTHON312 ?= python3.12
ARGS ?=

VENV := .venv
VENV312 := .venv312
BIN := $(VENV)/bin/python
BIN312 := $(VENV312)/bin/python
CODE := $(wildcard lorax experiments configs tests)

# Tests run in two processes, each on one thread: many small programs gain more from that than from threads.
PYTEST := -m pytest -n 2
TEST_ENV := JAX_PLATFORMS=cpu OMP_NUM_THREADS=1
LAWS := tests/core tests/adapters tests/test_laws.py

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-312 lint format bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

quickstart: $(VENV)/.installed-experiments  ## pre-train a small model, adapt it, compare ranks (ARGS=... adds flags)
	$(BIN) -m experiments.quickstart --workdir=runs/quickstart $(ARGS)

test: lint  ## lint, type-check and test (ARGS=... adds pytest flags)
	$(TEST_ENV) $(BIN) $(PYTEST) $(ARGS)

test-312: $(VENV312)/.installed-dev  ## the core and law tests under PYTHON312=... (Python 3.12 or later)
	$(TEST_ENV) $(BIN312) $(PYTEST) $(LAWS) $(ARGS)

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN) -m ruff check
	$(BIN) -m ruff format --check
	$(BIN) -m mypy

format: $(VENV)/.installed-dev  ## rewrite the code as ruff wants it
	$(BIN) -m ruff check --fix
	$(BIN) -m ruff format

bench: $(VENV)/.installed-experiments  ## the cost of a training step, as JSON (ARGS=... adds flags)
	@$(BIN) -m experiments.benchmarks.step $(ARGS)

clean:  ## remove the virtual environments, caches and build output, but not runs/
	rm -rf $(VENV) $(VENV312) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# One recipe makes every stamp: $(1) the interpreter, $(2) the environment, $(3) the extra.
# An environment that pip does not run in (a broken or interrupted one) is made afresh.
define install
	@$(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "lorax needs Python 3.11 or later; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(2)/bin/python -m pip --version >/dev/null 2>&1 || \
	  { echo "making $(2)"; $(1) -m venv --clear $(2); }
	@echo "installing .[$(3)] into $(2) (about a minute the first time)"
	@$(2)/bin/python -m pip install -qq --disable-pip-version-check -e '.[$(3)]'
	@touch $@
endef

$(VENV)/.installed-dev: pyproject.toml
	$(call install,$(PYTHON),$(VENV),dev)
	@touch $(VENV)/.installed-experiments

$(VENV)/.installed-experiments: pyproject.toml
	$(call install,$(PYTHON),$(VENV),experiments)

$(VENV312)/.installed-dev: pyproject.toml
	$(call install,$(PYTHON312),$(VENV312),dev)
