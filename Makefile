# `make` or `make help` lists what there is. Every target sets up .venv first, once.

PYTHON ?= python3
NOTEBOOKS = $(wildcard notebooks/*.ipynb)
run = .venv/bin/python -m

# What `make demo` is asked reaches the shell through the environment, letter for letter, so that
# spaces, quotes and dollars survive.
override AUDIO := $(value AUDIO)
override START := $(value START)
override PROMPT := $(value PROMPT)
override OUT := $(value OUT)
override ETA := $(value ETA)
export AUDIO START PROMPT OUT ETA
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help
.PHONY: help setup demo test lab lint pocket pocket-report clean
.NOTPARALLEL:

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

setup: .venv/.complete ## make the environment .venv (PYTHON=… names the interpreter)

.venv/.complete: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) on this machine: install \
	Python 3.11 or newer, or name one with PYTHON=/path/to/python3.11." >&2; exit 1; }
	@$(PYTHON) helpers/set_up.py

demo: setup ## edit a recording (AUDIO=path START=seconds PROMPT="a rooster crowing" OUT=dir ETA=0.6)
	@$(run) helpers.demo $(if $(AUDIO),--audio "$$AUDIO") $(if $(START),--start "$$START") \
	$(if $(PROMPT),--prompt "$$PROMPT") $(if $(OUT),--out "$$OUT") $(if $(ETA),--eta "$$ETA")

test: export HF_HUB_OFFLINE = 1
test: setup ## run all tests: the package's, then every notebook as stored
	MPLBACKEND=Agg $(run) pytest
	$(if $(NOTEBOOKS),$(run) pytest --nbval --nbval-current-env --nbval-cell-timeout=600 $(NOTEBOOKS))

lab: setup ## open JupyterLab on the lessons
	$(run) jupyterlab notebooks

lint: setup ## check and format-check the code with ruff
	$(run) ruff check .
	$(run) ruff format --check .

pocket: setup ## train the embedded model from nothing, stage by stage
	$(run) helpers.pocket

pocket-report: setup ## measure the embedded model
	$(run) helpers.pocket report

clean: ## remove .venv and caches
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
