# Two commands do everything, each with its own set-up: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# On a machine without a GPU, outside a mirror that prefers CPU builds: TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# Whole files are handed out, so that what the tests of one file share is made once.
TEST_WORKERS ?= 2
SIDE_BY_SIDE := --numprocesses $(TEST_WORKERS) --dist loadfile
# Of the benchmarks: 0.1 takes minutes and some GB of memory, 0.001 seconds and only shows that they run.
SCALE ?= 0.1
ROUNDS ?= 3
FUZZ_TIMES ?= 10
# Processor time of measuring experts, as a multiple of the same pass without.
MOST ?= 1.05
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: demo test lint types type coverage fuzz setup toolchain browser bench docs pictures clean

demo: setup toolchain  ## cut a release of the tiny model, end to end, and publish it to a local Hub
	$(BIN)/moe-release cut manifests/tiny-gemma4-4e.yaml --hub local

test: setup toolchain browser lint types  ## the whole test suite
	$(BIN)/pytest $(SIDE_BY_SIDE)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

type: types

coverage: setup toolchain browser  ## the share of lines and branches that the tests run, and the holes
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(SIDE_BY_SIDE) $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report $(if $(TESTS),--fail-under=0)

fuzz: setup toolchain  ## foreign bytes of every kind, others each time and FUZZ_TIMES as many as the suite takes
	FUZZ_TIMES=$(FUZZ_TIMES) $(BIN)/pytest $(SIDE_BY_SIDE) $(shell git grep -l FUZZ -- 'tests/*/test_*.py')

toolchain: setup  ## the pinned llama.cpp, built once into the user's cache
	$(BIN)/moe-release toolchain install --if-missing

browser:  ## a Chromium for the tests of pages, where there is none
	.github/scripts/browser.sh

setup: $(VENV)/.ready

# torch comes first and alone: a resolver that sees it as a dependency takes a CUDA build of gigabytes.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt pip
	$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	$(PIP) install --constraint constraints.txt --editable '.[analysis,eval,dev]'
	touch $@

bench: setup toolchain  ## pruning, cutting and measuring against what each would take without us, as ratios
	$(BIN)/python bench/prune_speed.py --scale $(SCALE) --rounds $(ROUNDS) --tensors
	$(BIN)/python bench/gguf_cut.py --scale $(SCALE) --rounds $(ROUNDS) --ladder
	$(BIN)/python bench/experts_overhead.py --scale $(SCALE) --rounds $(ROUNDS) --most $(MOST)

docs: setup  ## the pages that are generated
	$(BIN)/moe-release schema --page > docs/manifest.md.tmp && mv docs/manifest.md.tmp docs/manifest.md

pictures: demo browser  ## the README's picture of a card
	PYTHONPATH=. $(BIN)/python docs/images/draw_card.py build/tiny-gemma4-4e/card docs/images/card.png

clean:
	rm -rf build $(VENV)
