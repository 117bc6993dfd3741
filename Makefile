# Everything a developer does. On a bare machine only Python 3.11 or newer and make are needed.
PYTHON ?= python3
BIN := .venv/bin
# Options for the demo and the benchmark, for example: make bench DATA=~/scans MANIFESTS=lung_ct METHODS=greedy,ours
DEMO ?= demo
DATA ?= ../shared/data
MANIFESTS ?= lung_ct
METHODS ?= none,greedy,ants_syn,ours
RESULTS ?= benchmark-results
BENCHMARKS := Testing/benchmarks
BENCHMARK = $(BIN)/recurrent-registration benchmark --data $(DATA) \
	--peers $(BENCHMARKS)/peers --peers-python .venv-peers/bin/python

.PHONY: help env demo test lint format lists bench verify results docs clean

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

test: lint  ## lint, then all tests, each process with one thread
	OMP_NUM_THREADS=1 PYTHONWARNDEFAULTENCODING=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

lint: .venv/.ready  ## style, types and layers
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo

format: .venv/.ready  ## fix the style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lists: .venv/.ready  ## write the lists that follow from the folders: CMake's, the docs' tables of methods and rooms
	$(BIN)/python Testing/lists.py

bench: .venv/.ready .venv-peers/.ready  ## register real pairs with our methods and the peers, side by side
	$(BENCHMARK) $(MANIFESTS:%=$(BENCHMARKS)/manifests/%.yaml) --methods $(METHODS) --threads 2 -o $(RESULTS)

verify: .venv/.ready .venv-peers/.ready  ## recover known mappings with every peer
	$(BIN)/python $(BENCHMARKS)/verify.py --data $(DATA) --out $(RESULTS) --peers-python .venv-peers/bin/python \
		$(if $(filter file,$(origin METHODS)),,--methods $(METHODS))

results: .venv/.ready .venv-peers/.ready  ## write Docs/results.md: all our methods beside all peers
	$(BENCHMARK) $(wildcard $(BENCHMARKS)/manifests/results/*.yaml) -o $(RESULTS) --document Docs/results.md

.venv-peers/.ready: Testing/benchmarks/peers/requirements.txt
	PYTHON=$(PYTHON) sh Testing/benchmarks/peers/install.sh .venv-peers
	@touch $@

docs: .venv/.ready  ## build the documentation in site/
	$(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

clean:  ## remove what the targets made, environments apart
	rm -rf $(DEMO) $(RESULTS) site build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
