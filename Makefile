# Everything runs inside .venv, which the first target that needs it creates.
#   make PYTHON=/path/to/python3.12 install     use this interpreter
#   make TORCH="torch==2.13.0" install          use this build of PyTorch

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.fovea
PYTHON ?= $(shell for python in python3.12 python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$python && break; \
	done)

TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
# make quickstart NAME=second SEED=1
NAME ?= quickstart
SEED ?= 0
RUN := runs/$(NAME)
# The tiny model answers in 40 tokens, and a large batch costs it little.
FAST := --batch-size 100 --max-new-tokens 64

.PHONY: help install install-dev quickstart quickstart-base quickstart-sft quickstart-grpo quickstart-attention test test-torchvision torchvision-tests gpu-check lint format clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(STAMP)-core  ## make .venv with what training and evaluation need

install-dev: $(STAMP)-dev  ## the same, with tests, linters, DeepSpeed and browser rendering

# The tiny model gains little from a second thread: where there are two cores and nothing faster, two processes train on
# half a batch each, and two evaluations run at once.
ifeq ($(shell [[ "$$(uname)" == Linux && "$$(nproc)" -ge 2 ]] && ! nvidia-smi >/dev/null 2>&1 && echo two),two)
ONE_THREAD := OMP_NUM_THREADS=1
LAUNCH := $(ONE_THREAD) $(BIN)/accelerate launch --config_file configs/accelerate/cpu_two.yaml
HALVES := stages.0.args.per_device_train_batch_size=16 stages.1.args.per_device_train_batch_size=64 \
	stages.1.args.per_device_eval_batch_size=50
else
LAUNCH := $(BIN)/python
endif

quickstart: install  ## data, SFT, GRPO, evaluation, report: minutes on two CPU cores
	$(BIN)/python -m data_prep screens --out data/screens
	$(LAUNCH) train.py configs/recipes/quickstart.yaml name=$(NAME) seed=$(SEED) $(HALVES)
	$(MAKE) --no-print-directory $(if $(ONE_THREAD),-j 2 -O) $(addprefix quickstart-,base sft grpo attention)
	$(BIN)/python -m reports $(RUN)
	@echo "Open $(RUN)/report.html in a browser."

quickstart-base: MODEL = assets/fovea-tiny
quickstart-sft: MODEL = $(RUN)/0-sft/model
quickstart-grpo: MODEL = $(RUN)/1-grpo/model
quickstart-base quickstart-sft quickstart-grpo: quickstart-%:
	$(ONE_THREAD) $(BIN)/python eval.py --model $(MODEL) --data data/screens $(FAST) --out $(RUN)/eval/$*

quickstart-attention:
	$(ONE_THREAD) $(BIN)/python -m credit show --model $(RUN)/1-grpo/model --data data/screens --limit 3 --out $(RUN)/attention

# Two processes of one thread each: the models of the tests are too small to gain from a second thread. A file stays in
# one process, since its fixtures are dear.
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: install-dev  ## run every test, in JOBS=2 processes
	$(PYTEST)

# Everybody with a GPU has torchvision, and transformers then loads other image processors. The slow tests are left out:
# they start and kill processes, which is the same with it.
test-torchvision:  ## run the tests that touch models with torchvision, in .venv-torchvision (5.5 GB)
	$(MAKE) VENV=.venv-torchvision TORCH="torch==2.14.1 torchvision==0.29.1" install-dev
	$(MAKE) VENV=.venv-torchvision torchvision-tests

torchvision-tests:
	$(PYTEST) -m "not slow" tests/models tests/recipes tests/attention tests/credit tests/benchmarks tests/tools

gpu-check: install  ## everything only a GPU can show, as one Markdown table; SHRUNKEN=1 in small, on any machine
	$(BIN)/python perf/gpu_check.py $(if $(SHRUNKEN),--shrunken --out runs/gpu-check-shrunken)

lint: install-dev  ## ruff check, ruff format --check, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install-dev  ## let ruff fix and format the tree
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove caches; .venv, data/ and runs/ stay
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# PyTorch comes first and by itself: DeepSpeed's build imports it, and without an NVIDIA GPU the CPU build
# saves gigabytes. It is looked for in the configured index, then in PyTorch's own; elsewhere than on Linux
# the plain build is the CPU build.
$(STAMP)-torch: | $(BIN)/python
	@$(BIN)/pip install -q "setuptools>=77" wheel
	@if [[ -n "$(TORCH)" ]]; then $(BIN)/pip install $(TORCH); \
	elif [[ "$$(uname)" != Linux ]] || nvidia-smi >/dev/null 2>&1; then $(BIN)/pip install "torch==2.13.*"; \
	else \
		echo "no NVIDIA GPU here: installing the CPU build of PyTorch"; \
		$(BIN)/pip install -q "torch==2.13.0+cpu" 2>/dev/null \
		|| $(BIN)/pip install "torch==2.13.0+cpu" --extra-index-url $(TORCH_CPU_INDEX) \
		|| $(BIN)/pip install "torch==2.13.*"; \
	fi
	@touch $@

$(STAMP)-core: pyproject.toml | $(STAMP)-torch
	@echo "installing Fovea into $(VENV) (a minute or two)"
	@$(BIN)/pip install -q -e .
	@touch $@

$(STAMP)-dev: pyproject.toml | $(STAMP)-torch
	@echo "installing Fovea with its development extras into $(VENV) (a minute or two)"
	@$(BIN)/pip install -q -e ".[dev,web,deepspeed,video,charts,qlora]" --no-build-isolation
	@touch $@ $(STAMP)-core

$(BIN)/python:
	@if [[ -z "$(PYTHON)" ]]; then echo "Fovea needs Python 3.11 or 3.12: make PYTHON=/path/to/python3.12 install" >&2; exit 2; fi
	$(PYTHON) -m venv $(VENV)
