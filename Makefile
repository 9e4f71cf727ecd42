# Two commands do all the set-up on a machine with python3 (3.11 or later, with venv) and make:
#   make demo   the main job: a Lambda handler finds digits in pictures on a remote GPU
#   make test   the tests, in at most 10 minutes
# The environment is made once, in .venv; a second call is quick.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Exactly one of the two ONNX Runtimes: they own the same import name.
ACCELERATOR := $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-full lint format generate bench layer clean

demo: $(VENV)/demo.stamp
	$(BIN)/python -m examples.demo

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m "not slow and not gpu" --numprocesses 2 --dist loadfile

test-full: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/lint.stamp $(VENV)/generate.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(VENV)/generate/bin/python protos/generate.py --check
	$(BIN)/python tests/unasync.py --check

format: $(VENV)/lint.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: $(VENV)/generate.stamp
	$(VENV)/generate/bin/python protos/generate.py

bench: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.calls
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.batching
	$(BIN)/python -m benchmarks.wan
	$(BIN)/python -m benchmarks.uploads
	$(BIN)/python -m benchmarks.orchestrator
	$(BIN)/python -m benchmarks.scheduler_core
	$(BIN)/python -m benchmarks.scheduler_calls
	$(BIN)/python -m benchmarks.policies

# The client as layers of AWS Lambda, in build/layer: deploy/README.md. Byte code where python3.12, ... are on the path.
layer: $(VENV)/created.stamp
	$(BIN)/python -m deploy.layer.build

clean:
	rm -rf $(VENV) demo-output

$(VENV)/created.stamp:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/demo.stamp: $(VENV)/created.stamp pyproject.toml
	$(PIP) --editable '.[$(ACCELERATOR),demo]'
	touch $@

$(VENV)/test.stamp: $(VENV)/created.stamp pyproject.toml
	$(PIP) --editable '.[$(ACCELERATOR),test]'
	touch $@ $(VENV)/demo.stamp

$(VENV)/lint.stamp: $(VENV)/test.stamp
	$(PIP) --editable '.[$(ACCELERATOR),test,lint]'
	touch $@

# The code generator is pinned to an old release, whose protobuf must not meet the one of the main environment.
$(VENV)/generate.stamp: $(VENV)/created.stamp pyproject.toml
	$(PYTHON) -m venv $(VENV)/generate
	$(VENV)/generate/bin/python -m pip install --quiet --disable-pip-version-check 'grpcio-tools==1.71.2' 'mypy-protobuf==3.6.0' 'setuptools<81'
	touch $@
