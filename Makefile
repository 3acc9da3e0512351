# make fit DEVICE=rpi4   set up, then fit the embedded demo to a device
# make test              set up, then lint, types and tests (15 minutes at most, no root)
# make test-slow         what takes longer or needs devices
PYTHON ?= python3
VENV ?= .venv
DEVICE ?= rpi4
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Two cores share a test run, but for what measures on a device; models and data come from EDGECOMP_DATA.
PYTEST := $(BIN)/python -m pytest

.PHONY: fit test test-slow check lint types clean

fit: $(VENV)/.installed
	$(BIN)/edgecomp fit --device $(DEVICE)

check: lint types

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

test: check
	$(PYTEST) -n 2 --dist loadgroup -m "not slow"

test-slow: $(VENV)/.installed-dev device-venvs
	$(PYTEST) -n 2 --dist loadgroup -m "slow and not device"
	$(PYTEST) -m "slow and device"

# Boards in the field have one runtime or the other, never both: each gets a venv of its own.
.PHONY: device-venvs
device-venvs: $(VENV)-device-litert/.installed $(VENV)-device-tflite-runtime/.installed

$(VENV)-device-%/.installed: requirements-device-%.txt
	$(PYTHON) -m venv $(VENV)-device-$*
	$(VENV)-device-$*/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-device-litert $(VENV)-device-tflite-runtime build dist .mypy_cache .pytest_cache .ruff_cache
