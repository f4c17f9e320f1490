# `make` or `make help` lists what there is. Every target sets up .venv first, once.

override NOTEBOOKS := $(wildcard notebooks/*.ipynb)
override run := .venv/bin/python -m
override pins := --quiet --constraint constraints.txt
override nbval := --nbval --nbval-current-env --nbval-cell-timeout=600 \
	--nbval-sanitize-with notebooks/sanitize.cfg

# What is asked reaches the shell through the environment, letter for letter, so that spaces, quotes
# and dollars survive and nothing in it is run.
override asked := AUDIO START PROMPT OUT ETA QUICK REPO PYTHON RECIPE MINUTES MODEL PRESET RAY
$(foreach name,$(asked),$(if $(value $(name)),,$(if $(findstring command line,$(origin $(name))),\
	$(error $(name) is empty: give it a value, or leave it out))))
override given := $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
$(foreach name,$(asked) $(given),$(eval override $(name) := $$(value $(name))))
ifeq ($(PYTHON),)
override PYTHON := python3
endif
$(if $(filter-out 0 1,$(QUICK)),$(error QUICK is 1 (minutes) or 0 (hours), not $(QUICK)))
export $(asked)
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help
.PHONY: help setup demo table1 verify test test-all test-cold test-mutation test-tables \
	test-browser test-setup test-ray torture bench bench-gpu sweeps tolerances lessons student site \
	colab lab lint pins pocket tune aisfx pocket-report setup-laion test-laion setup-msclap test-msclap \
	setup-tangoflux test-tangoflux clean
.NOTPARALLEL:

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

setup: .venv/.complete ## make the environment .venv (PYTHON=… names the interpreter)

.venv/.complete: pyproject.toml constraints.txt
	@command -v "$$PYTHON" >/dev/null || { echo "There is no $$PYTHON on this machine: install \
	Python 3.11 or newer, or name one with PYTHON=/path/to/python3.11." >&2; exit 1; }
	@"$$PYTHON" tools/set_up.py

# What tests and courses need besides; learners are spared nbgrader's panels in JupyterLab.
.venv/.dev: .venv/.complete
	@echo "Installing what the tests need ..."
	@$(run) pip install $(pins) --editable ".[notebooks,dev]"
	@touch $@

demo: setup ## edit a recording (AUDIO=path START=seconds PROMPT="a rooster crowing" OUT=dir ETA=0.9)
	@$(run) tools.demo $(if $(AUDIO),--audio "$$AUDIO") $(if $(START),--start "$$START") \
	$(if $(PROMPT),--prompt "$$PROMPT") $(if $(OUT),--out "$$OUT") $(if $(ETA),--eta "$$ETA")

table1: setup ## compare methods as Table 1 does (OUT=dir; QUICK=1: minutes; RAY=1 or a cluster)
	@$(run) tools.table1 $(if $(OUT),--out "$$OUT") $(if $(filter 1,$(QUICK)),--quick) \
	$(if $(RAY),--ray "$$RAY")

verify: setup ## check a base model on this machine (MODEL=name or folder, PRESET=name, OUT=dir)
	@$(run) tools.verify $(if $(MODEL),"$$MODEL") $(if $(PRESET),--preset "$$PRESET") \
	$(if $(OUT),--out "$$OUT")

test test-cold test-mutation test-tables test-browser: export HF_HUB_OFFLINE = 1
test: export AUDIO_EDITING_CACHE = $(CURDIR)/.cache/test
# A process a core, each with one thread, is faster than one process with all threads.
test: export OMP_NUM_THREADS = 1
test: lint ## lint, then run the package's tests, two of test-mutation's, every notebook as stored
	@rm -rf .cache/test
	MPLBACKEND=Agg $(run) pytest -n logical --maxprocesses 4 --dist loadfile
	$(run) pytest -n 2 --confcutdir tests/mutation tests/mutation -k "still_fit or 01 or 06"
	$(if $(NOTEBOOKS),$(run) pytest -n logical --maxprocesses 4 --dist loadscope $(nbval) $(NOTEBOOKS))

# What needs longer, or a network; the cheapest first.
test-all: test test-tables test-mutation test-cold test-browser test-setup test-ray ## run all tests there are

test-cold: export AUDIO_EDITING_CACHE = $(CURDIR)/.cache/cold
test-cold: .venv/.dev ## run every notebook by itself, with nothing kept from another one
	@for lesson in $(NOTEBOOKS); do rm -rf .cache/cold; \
	$(run) pytest $(nbval) "$$lesson" || exit 1; done

test-tables: .venv/.dev ## compute a row of every method and every sweep again, drawn with a seed
	$(run) pytest --confcutdir tests/tables tests/tables

test-mutation: .venv/.dev ## break a helper on purpose, lesson by lesson: each lesson has to notice
	$(run) pytest --confcutdir tests/mutation tests/mutation

test-browser: .venv/.dev ## open site and players, and lessons in JupyterLab, with a headless Chromium
	$(run) pip install $(pins) --editable ".[notebooks,dev,site,browser]"
	@for name in chromium chromium-browser google-chrome; do \
	command -v $$name >/dev/null && exit 0; done; $(run) playwright install chromium
	$(run) pytest --confcutdir tests/browser tests/browser

test-setup: .venv/.dev ## resolve the pins for other machines; make and use an environment as on Colab
	$(run) pip install $(pins) --editable ".[notebooks,dev,maintain]"
	$(run) pytest --confcutdir tests/setup tests/setup

test-ray: .venv/.dev ## two local workers give a serial run's table; one of them is killed
	$(run) pip install $(pins) --editable ".[notebooks,dev,ray]"
	HF_HUB_OFFLINE=1 $(run) pytest -s --confcutdir tests/cluster tests/cluster

torture: .venv/.dev ## kill and damage, by class, what must not be lost or lie; all counts have to be 0
	$(run) tests.torture

bench: setup ## time plain and fast loops on the embedded model, and whether they agree (OUT=dir)
	@$(run) tools.bench $(if $(OUT),--out "$$OUT")

bench-gpu: setup ## time the method at TANGO's size on a GPU, on random weights: 10 minutes (OUT=dir)
	@$(run) tools.bench_gpu $(if $(OUT),--out "$$OUT")

sweeps: setup ## compute the curves that lessons show, where they are missing or out of date
	$(run) tools.sweeps

tolerances: setup ## measure how nearly stored rows come out again, which is what tests allow
	$(run) tools.tolerances

lessons: setup ## run the lessons and store their outputs, times and memory
	$(run) tools.lessons

student: .venv/.dev ## write the lessons without their solutions (OUT=dir)
	@$(run) tools.classroom $(if $(OUT),--out "$$OUT")

site: .venv/.dev ## build lessons, docs and a reference of helpers as web pages (OUT=dir)
	@$(run) pip install $(pins) --editable ".[notebooks,dev,site]"
	@$(run) tools.site $(if $(OUT),--out "$$OUT")

colab: setup ## say where the repository is, for Colab (REPO=owner/name; else git's origin)
	@$(run) tools.colab $(if $(REPO),"$$REPO")

lab: setup ## open JupyterLab on the lessons
	$(run) jupyterlab $$(test "$$(id -u)" != 0 || echo --allow-root) notebooks

lint: .venv/.dev ## check code and format with ruff, and the types of helpers with pyright
	$(run) ruff check .
	$(run) ruff format --check .
	$(run) pyright

pins: .venv/.dev ## resolve constraints.txt again, for all Pythons and platforms
	$(run) pip install $(pins) --editable ".[notebooks,dev,maintain]"
	$(run) uv pip compile pyproject.toml --extra notebooks --extra dev --extra maintain --extra site \
	--universal --fork-strategy fewest --python-version 3.11 --no-annotate --quiet \
	--custom-compile-command "make pins" --output-file constraints.txt

pocket: setup ## train the embedded model's second edition (RECIPE=gpu, MINUTES=9 a stage)
	$(run) tools.pocket $(if $(RECIPE),--recipe "$$RECIPE") $(if $(MINUTES),--minutes "$$MINUTES")

aisfx: setup ## make data/aisfx, the weights of an ear that was not trained here, from its package
	@$(run) tools.aisfx

tune: setup ## choose the pocket model's presets on dev recordings (hours; a stopped search goes on)
	@$(run) tools.pocket tune

pocket-report: setup ## measure the embedded model
	$(run) tools.pocket report

# Packages that cannot share .venv; `make test` leaves their tests out.
alone = PYTHONPATH=.:tests HF_HUB_OFFLINE=1

setup-laion: .venv-laion/.complete ## make .venv-laion, where the CLAP back end laion-clap works

.venv-laion/.complete: pyproject.toml constraints-laion.txt
	"$$PYTHON" -m venv .venv-laion
	.venv-laion/bin/python -m pip install --quiet --constraint constraints-laion.txt \
	--editable ".[laion-clap,dev]"
	@touch $@

test-laion: setup-laion ## test the CLAP back end laion-clap in .venv-laion
	$(alone) .venv-laion/bin/python -m pytest --confcutdir tests/laion tests/laion

setup-msclap: .venv-msclap/.complete ## make .venv-msclap, where the CLAP back end msclap works

.venv-msclap/.complete: pyproject.toml constraints.txt constraints-msclap.txt
	"$$PYTHON" -m venv .venv-msclap
	.venv-msclap/bin/python -m pip install --quiet --constraint constraints.txt \
	--constraint constraints-msclap.txt --editable ".[msclap,dev]"
	.venv-msclap/bin/python -m pip install --quiet --constraint constraints-msclap.txt \
	--no-deps msclap
	@touch $@

test-msclap: setup-msclap ## test the CLAP back end msclap in .venv-msclap
	$(alone) .venv-msclap/bin/python -m pytest --confcutdir tests/msclap tests/msclap

setup-tangoflux: .venv-tangoflux/.complete ## make .venv-tangoflux, which has TangoFlux's own package

.venv-tangoflux/.complete: pyproject.toml constraints.txt constraints-tangoflux.txt
	"$$PYTHON" -m venv .venv-tangoflux
	.venv-tangoflux/bin/python -m pip install --quiet --constraint constraints.txt \
	--editable ".[dev]"
	.venv-tangoflux/bin/python -m pip install --quiet --no-deps \
	--requirement constraints-tangoflux.txt
	@touch $@

test-tangoflux: setup-tangoflux ## compare TangoFlux with its authors' package in .venv-tangoflux
	$(alone) .venv-tangoflux/bin/python -m pytest -s --confcutdir tests/tangoflux tests/tangoflux

clean: ## remove the environments and caches
	rm -rf .venv .venv-laion .venv-msclap .venv-tangoflux .cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
