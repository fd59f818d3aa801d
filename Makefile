# One environment in .venv, made on first use; nothing has to be installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/quickstart

export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1
# Else every process that a test starts compiles the package, and every worker all tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup quickstart check docs test test-unit test-rest perf format package lock oldest newest newest-check clean

setup: $(VENV)/.installed

# Every version, direct and indirect, is the one in the constraints; nothing is built with tools that pip picks itself.
# Only the first line works with the pip that Python brings: groups of pyproject.toml need pip 25.1.
install = $(1)/bin/python -m pip install --quiet --upgrade $(2) pip \
	&& $(1)/bin/pip install --quiet $(2) --group build \
	&& $(1)/bin/pip install --quiet $(2) --no-build-isolation --editable $(3) --group dev

$(VENV)/.installed: pyproject.toml requirements/locked.txt
	$(PYTHON) -m venv $(VENV)
	$(call install,$(VENV),--constraint requirements/locked.txt,.)
	$(BIN)/pip install --quiet --constraint requirements/locked.txt --group app --group docs
	touch $@

quickstart: setup
	$(BIN)/mmdpo quickstart --output_dir $(RUN)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation site in build/site/html; a warning, or a link or an anchor that leads nowhere, is an error.
docs: setup
	$(BIN)/python -m website

# All but what is marked `rest`, the minutes-long trainings included. Three on two cores: tests wait for browsers and for
# processes.
test: setup
	$(BIN)/pytest -n 3 --dist worksteal -m "not rest"

# The rest: both worlds built again, three measurements of perf/ in miniature, and what needs 4-bit weights or
# DeepSpeed. Where bitsandbytes is installed, PEFT loads it in every process, which takes a second and more.
test-rest: setup
	$(BIN)/pip install --quiet --constraint requirements/locked.txt --no-build-isolation --group engines
	$(BIN)/pytest -n 2 --dist worksteal -m rest

# Without whole commands and trainings: a few minutes.
test-unit: setup
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow" tests/unit tests/contract

# About a quarter of an hour, one thread; nothing else should run beside it. Writes perf/results and docs/performance.md.
perf: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m perf.cpu
	$(BIN)/python -m perf.render

# -- versions: docs/compatibility.md says what has run ----------------------------------------------------------------

# Works out requirements/locked.txt (the newest versions, PyTorch as constraints.txt has it) and requirements/oldest.txt
# (the lowest that pyproject.toml promises) anew.
# In an environment of its own: a new dependency can make the old lock one that nothing installs by.
RESOLVE := .venv-lock/bin/uv pip compile pyproject.toml --quiet --upgrade --no-annotate --no-header
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet "uv>=0.9"
	$(RESOLVE) --universal --python-version 3.11 --constraint constraints.txt --output-file requirements/locked.txt \
		--group dev --group app --group docs --group package --group build --group engines
	$(RESOLVE) --resolution lowest-direct --python-version 3.11 --python-platform linux \
		--output-file requirements/oldest.txt --extra eval --extra diagnose --extra openai --group dev --group build

# Environments of their own at both ends of the ranges in pyproject.toml, and what has to pass in them.
try = $(1)/bin/pytest -n 2 --dist worksteal --quiet $(2) && $(1)/bin/mmdpo quickstart --output_dir runs/$(3)

WITH_EXTRAS := .[eval,diagnose,openai]
oldest:
	$(PYTHON) -m venv --clear .venv-oldest
	$(call install,.venv-oldest,--constraint requirements/oldest.txt,'$(WITH_EXTRAS)')
	$(call try,.venv-oldest,tests/contract tests/unit,oldest)
	.venv-oldest/bin/python requirements/compatibility.py record oldest "contract tests, unit tests, quickstart"

newest:
	$(MAKE) newest-check TRIED="tests/contract tests/unit"
	.venv-newest/bin/pip freeze --exclude-editable > requirements/newest.txt
	.venv-newest/bin/python requirements/compatibility.py record newest "contract tests, unit tests, quickstart"

# NEWEST="--constraint constraints.txt" keeps PyTorch where it is: a newer one is several GB with the libraries of CUDA.
TRIED ?= tests/contract
newest-check:
	$(PYTHON) -m venv --clear .venv-newest
	$(call install,.venv-newest,$(NEWEST),.)
	$(call try,.venv-newest,$(TRIED),newest)

# ---------------------------------------------------------------------------------------------------------------------

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Wheel and source archive as they are published, in dist/, and the Dockerfile, checked by tools in an environment of their own.
PACKAGE := .venv-package/bin
package: setup
	$(PYTHON) -m venv --without-pip .venv-package
	$(BIN)/pip --python $(PACKAGE)/python install --quiet --constraint requirements/locked.txt --group package
	rm -rf dist
	$(BIN)/hatchling build --directory dist
	$(PACKAGE)/twine check --strict dist/*
	$(PACKAGE)/check-wheel-contents dist/*.whl
	$(PACKAGE)/hadolint Dockerfile

clean:
	rm -rf $(VENV) .venv-package .venv-lock .venv-oldest .venv-newest dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
