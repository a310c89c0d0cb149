# `make demo` and `make test` do all their own set-up: a virtual environment in .venv, rebuilt when the dependencies change.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test bench lint format mini flickr clean
demo: $(VENV)/.demo
	$(BIN)/capdec demo

test: lint
	$(BIN)/python -m pytest tests --durations=5

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every speed beside what one would run instead; about half an hour, and nothing else should run meanwhile. TO is where results go.
TO ?= out/bench
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/bench.py $(TO)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The embedded models, from the beginning: recipes/mini.toml says what MORE has to name. "Train it longer" is
#   make mini MORE="--set distil_steps=50000 --set output=runs/longer --set cache=runs/mini/work ..."
mini: $(VENV)/.dev
	$(BIN)/capdec pretrain --recipe recipes/mini.toml $(MORE)

flickr: $(VENV)/.dev
	$(BIN)/capdec train $(CAPTIONS) --recipe recipes/flickr.toml --output runs/flickr $(MORE)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,bench]'
	touch $@

clean:
	rm -rf $(VENV) out build dist
