# Two commands: `make train DATASET=hopper-medium` and `make test`. Both set up .venv when needed.

DATASET ?= hopper-medium
# The recipe; by default the one of the dataset's kind.
CONFIG  ?=
ARGS    ?=
PYTHON  ?= python3
VENV    ?= .venv
PIP_ARGS ?=
# Of `make reproduce`; the last three are the table's own unless given.
TABLE   ?= gym-medium
JOBS    ?= 1
STEPS   ?=
SEEDS   ?=
EPISODES ?=
# Other updates are other runs, and have a folder of their own.
OUTPUT  ?= runs/$(basename $(notdir $(TABLE)))$(if $(STEPS),-$(STEPS)-steps)

READY := $(VENV)/.ready

.PHONY: help train reproduce test test-slow smoke lint bench bench-peers clean

help:
	@echo "make train [DATASET=hopper-medium] [CONFIG=dt/paper] [ARGS='--seed 1']   train, roll out, print the scores"
	@echo "make reproduce [TABLE=gym-medium] [STEPS=1000] [SEEDS=3] [EPISODES=20] [JOBS=1]"
	@echo "                 every run of a table in experiments/tables; interrupted, it goes on"
	@echo "make test        the test suite (minutes)"
	@echo "make test-slow   the learning tests too (much longer)"
	@echo "make smoke       every recipe, tiny: train, kill, resume, evaluate (minutes)"
	@echo "make lint        ruff and mypy"
	@echo "make bench [ARGS='--rounds 30']"
	@echo "                 one update beside transformers' and its own products, and the row of a"
	@echo "                 speed record; decision-seq bench --help names the other parts"
	@echo "make bench-peers [ARGS='d3rlpy --rounds 5']"
	@echo "                 and with d3rlpy, nanodt and torchrl, each in an environment of its own (GBs)"
	@echo "make clean       remove the environments and caches (runs and data stay)"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
		--constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

train: $(READY)
	$(VENV)/bin/decision-seq train $(if $(CONFIG),--config '$(CONFIG)') --dataset '$(DATASET)' $(ARGS)

reproduce: $(READY)
	$(VENV)/bin/decision-seq sweep '$(TABLE)' --output '$(OUTPUT)' --jobs '$(JOBS)' \
		$(if $(SEEDS),--seeds '$(SEEDS)') $(if $(STEPS),--set 'train.steps=$(STEPS)') \
		$(if $(EPISODES),--set 'evaluation.episodes=$(EPISODES)') $(ARGS)

# A file's tests stay together, and the longest files come first (tests/conftest.py); two of them at
# a time, each on one thread.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(PYTEST) $(ARGS)

test-slow: $(READY)
	$(VENV)/bin/python -m pytest -m 'slow or not slow' $(ARGS)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

smoke: $(READY)
	$(VENV)/bin/python experiments/smoke.py

bench: $(READY)
	$(VENV)/bin/decision-seq bench train $(ARGS)

bench-peers: $(READY)
	$(VENV)/bin/python experiments/peers/bench.py $(if $(PIP_ARGS),--pip-args='$(PIP_ARGS)') $(ARGS)

clean:
	rm -rf $(VENV) .peers .pytest_cache .mypy_cache .ruff_cache build dist
