# One environment in .venv, made on first use; nothing has to be installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/quickstart

export HF_HUB_OFFLINE ?= 1

.PHONY: setup engines quickstart check test test-unit perf format wheel clean

setup: $(VENV)/.installed

# The constraint keeps PyTorch at the version that the suite runs on. Groups of pyproject.toml need pip 25.1.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

quickstart: setup
	$(BIN)/mmdpo quickstart --output_dir $(RUN)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Lets the tests of 4-bit weights and of DeepSpeed run too.
engines: setup
	$(BIN)/pip install --quiet --constraint constraints.txt --group engines

# Everything, the minutes-long trainings included.
test: setup
	$(BIN)/pytest -n 2 --dist worksteal

test-unit: setup
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

# About a quarter of an hour, one thread; nothing else should run beside it. Writes perf/results and docs/performance.md.
perf: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m perf.cpu
	$(BIN)/python -m perf.render

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: setup
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
