# Everything a developer does. On a bare machine only Python 3.11 or newer and make are needed.
PYTHON ?= python3
BIN := .venv/bin
# Options for the demo and the benchmark, for example: make bench DATA=~/scans MANIFESTS=lung_ct METHODS=greedy,ours
DEMO ?= demo
DATA ?= ../shared/data
MANIFESTS ?= lung_ct
METHODS ?= none,greedy,ants_syn,ours
RESULTS ?= benchmark-results

.PHONY: help env demo test lint format bench docs clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' Makefile

env: .venv/.ready  ## create .venv with everything for development

# torch goes first and alone: with it in place, no other package brings a build of its own with GPU libraries.
.venv/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,train,slicer]'
	@touch $@

demo: .venv/.ready  ## register two real brains and show what came of it
	$(BIN)/python Testing/demo/brain.py --output $(DEMO)

test: lint  ## lint, then all tests
	$(BIN)/python -m pytest

lint: .venv/.ready  ## style, types and layers
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo

format: .venv/.ready  ## mend the style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.ready .venv-peers/.ready  ## register real pairs with our methods and the peers, side by side
	cd Testing/benchmarks && $(CURDIR)/$(BIN)/python run.py $(MANIFESTS:%=manifests/%.yaml) \
		--data $(abspath $(DATA)) --methods $(METHODS) --out $(abspath $(RESULTS))

.venv-peers/.ready: Testing/benchmarks/peers/requirements.txt
	PYTHON=$(PYTHON) sh Testing/benchmarks/peers/install.sh .venv-peers
	@touch $@

docs: .venv/.ready  ## build the API reference in site/
	$(BIN)/pdoc --docformat google --math --output-directory site RecurrentRegistrationLib
	@echo "site/index.html"

clean:  ## remove what the targets made, environments apart
	rm -rf $(DEMO) $(RESULTS) site build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
