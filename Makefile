# make demo        the whole pipeline on built-in data: 10-15 minutes on 2 CPU cores, then an HTML report
# make test        lint and the fast tests          make test-all   ... and the slow ones
# make bench       how fast training and generation are here, in bench.json: some 15 minutes on 2 CPU cores
# make bench-gpu   for a machine with a GPU and nvcc: builds the CUDA kernels, tests them, times them and training
# make format      let ruff format the code         make clean      remove .venv and caches (never runs/)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MPLBACKEND := Agg

.PHONY: demo bench bench-gpu test test-all lint format clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@

demo: $(VENV)/installed
	$(BIN)/acne-lab study study=demo

bench: $(VENV)/installed
	$(BIN)/acne-lab bench out=bench.json

GPU_CONFIGS := 128-4096-b32,256-auto-b16,256-auto-b16-half,512-auto-b8-half

bench-gpu: $(VENV)/installed-dev
	$(BIN)/acne-lab ops build device=cuda
	$(BIN)/python -m pytest -m gpu
	$(BIN)/acne-lab ops check device=cuda
	$(BIN)/acne-lab bench device=cuda configs=$(GPU_CONFIGS) overheads=false impl=reference out=bench-gpu-reference.json
	$(BIN)/acne-lab bench device=cuda configs=$(GPU_CONFIGS) out=bench-gpu.json

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" --numprocesses 2 --dist loadfile

test-all: lint
	$(BIN)/python -m pytest -m "not gpu" --hypothesis-profile=default

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis dist build
