# `make help` lists the targets. Each builds .venv when it is missing or stale, and installs the
# package into it (a plain install, as users have it) when a source file has changed since.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

SOURCES := $(shell find src model guides inference analysis -type f \
	! -name '*.pyc' ! -name '.*' | LC_ALL=C sort)
# The name carries the list of files, so that a file deleted or moved also makes the install stale.
INSTALLED := $(VENV)/.installed-$(firstword $(shell echo '$(SOURCES)' | cksum))
DEPENDENCIES := $(VENV)/.dependencies
# Prints 3.12, say; fails where Python is too old.
MINOR_VERSION := 'import sys; v = sys.version_info; v >= (3, 12) or sys.exit(1); \
	print(v.major, v.minor, sep=".")'

# One thread for each of the two test processes: more only get in each other's way. Each takes one
# half in order, so that what a file's tests share is made once, and then from the other's rest.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal --timeout=600
PYTEST_ARGS ?=

export MPLBACKEND := Agg

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all lint bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED) ## train, prune and report on the embedded digits, into runs/demo
	$(BIN)/dirprune run --out runs/demo --overwrite

test: $(INSTALLED) ## tests and doctests, without the slow ones (PYTEST_ARGS=... adds options)
	$(PYTEST) --doctest-modules --pyargs dirprune tests/ $(PYTEST_ARGS)

test-all: $(INSTALLED) ## all tests and doctests; those for a GPU skip themselves without one
	$(PYTEST) -m "" --doctest-modules --pyargs dirprune tests/ $(PYTEST_ARGS)

lint: $(INSTALLED) ## ruff on the sources, mypy on the installed package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p dirprune

bench: $(INSTALLED) ## run every benchmarks/bench_*.py (hours; the README's figures come from them)
	@for script in benchmarks/bench_*.py; do \
		test -e "$$script" || { echo "no benchmarks/bench_*.py here"; exit 1; }; \
		echo "$$script"; $(BIN)/python "$$script" || exit 1; \
	done

clean: ## remove caches and what was built (.venv, runs/ and data/ stay)
	rm -rf build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis htmlcov
	rm -f .coverage .coverage.*
	find src model guides inference analysis tests benchmarks -type d -name __pycache__ \
		-prune -exec rm -rf {} +

# Reuses a .venv of the same Python: pip leaves alone what is there already, which takes seconds.
$(DEPENDENCIES): setup.cfg pyproject.toml .python-version
	@for python in $(PYTHON) python3 python3.12 python3.13 python3.14; do \
		if version=$$("$$python" -c $(MINOR_VERSION) 2>/dev/null); then break; fi; \
	done; \
	if [ -z "$$version" ]; then \
		echo "dirprune needs Python 3.12 or newer; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)" >&2; \
		echo "Install one, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if $(PIP) --version >/dev/null 2>&1 && \
		[ "$$($(BIN)/python -c $(MINOR_VERSION))" = "$$version" ]; then \
		echo "updating $(VENV)"; \
	else \
		echo "building $(VENV) with Python $$version: about 2 minutes"; \
		"$$python" -m venv --clear $(VENV); \
	fi
	@$(PIP) install --upgrade pip setuptools
	@$(PIP) install --no-build-isolation '.[dev]'
	@touch $@

# setuptools copies into build/ and never removes from it: stale files would be installed again.
$(INSTALLED): $(DEPENDENCIES) $(SOURCES)
	@echo "installing dirprune into $(VENV)"
	@rm -rf build ./*.egg-info $(VENV)/.installed-*
	@$(PIP) install --no-deps --no-build-isolation --force-reinstall .
	@rm -rf build ./*.egg-info
	@touch $@
