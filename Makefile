# Every target sets .venv up by itself, and does nothing twice: needs Python 3.11 or later, git and make.
VENV  := .venv
PY    := $(VENV)/bin/python
READY := $(VENV)/.valflow-ready
# Torch stays out of .venv: it is larger than all the rest, and nothing but its models needs it.
MODELS := .venv-models
MODELS_READY := $(MODELS)/.valflow-ready
PORT  ?=
ARGS  ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo deployed-demo test test-models up lint bench soak chaos screenshots clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

setup: $(READY)  ## create .venv with everything in it, and check its database

$(READY): pyproject.toml constraints.txt scripts/setup.sh
	@bash scripts/setup.sh $(VENV)
	@touch $@

demo: $(READY)  ## the whole pipeline on real handwritten digits, in a stack of its own
	$(PY) -m examples.digits.demo $(ARGS)

deployed-demo: $(READY)  ## the same on PostgreSQL, a MongoDB replica set and two workers with separate homes
	$(PY) -m deploy.local $(ARGS)

test: $(READY)  ## all tests (ARGS="tests/core -k ledger" for some)
	$(PY) -m pytest $(ARGS)

test-models: $(MODELS_READY)  ## tests of models on torch, in .venv-models (ARGS as above; gigabytes the first time)
	$(MODELS)/bin/python -m pytest tests/model_kinds $(ARGS)

$(MODELS_READY): pyproject.toml constraints.txt scripts/setup.sh
	@EXTRAS=dev,huggingface,ultralytics bash scripts/setup.sh $(MODELS)
	@touch $@

up: $(READY)  ## server, worker and FiftyOne App (PORT=5151 chooses the App's port)
	$(PY) -m valflow.cli up $(if $(PORT),--port $(PORT)) $(ARGS)

lint: $(READY)  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(READY)  ## side-by-side benchmarks, with the limit beside each figure
	$(PY) -m benchmarks $(ARGS)

soak: $(READY)  ## 50 recurring runs in a row, and what grows with them (ARGS="--runs 20" for fewer)
	$(PY) -m tests.soak $(ARGS)

chaos: $(READY)  ## SIGKILL at every place that counts: 160 in a driver, 40 on a real stack (about an hour)
	$(PY) -m tests.chaos --kills 160 --twice 0.2
	$(PY) -m tests.chaos.stack_kills --kills 40

screenshots: $(READY)  ## the pictures of the panel in docs/pictures (needs a Chromium)
	$(PY) -m scripts.screenshots

clean:  ## remove what is built and cached; .venv and .valflow (your data) stay
	rm -rf build dist *.egg-info demo_output .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
