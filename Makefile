# Everything a contributor does: `make help`.
# What a machine lacks is installed on the way (deploy/install-debian.sh, .venv); a second run is quick.

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Mounts, network namespaces and the page cache need root.
comma := ,
AS_ROOT := $(if $(filter-out 0,$(shell id -u)),sudo --preserve-env=PATH$(comma)CAFS_CACHE)
READY := $(VENV)/.ready
# Two tests at once, of two files, by two processes with mounts of their own
TWO_AT_ONCE := --numprocesses=2 --dist=loadfile
FIRST := tests/pure tests/component
PROTOS := $(wildcard proto/*.proto)
GENERATED := $(VENV)/.generated

.DEFAULT_GOAL := help
.PHONY: help system compiled test lint style types layers async_rules demo bench proto clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

system: # Debian packages; says what it installs, and nothing when all is there
	@deploy/install-debian.sh

$(READY): pyproject.toml | system
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "CAFS needs Python 3.11 or later")'
	@echo "Installing CAFS and its Python libraries into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[test,lint]'
	@touch $@

compiled: $(READY) $(GENERATED) # pip compiles what it installs, but not an editable checkout: each start would compile anew
	@$(BIN)/python -m compileall -q cafs

test: system $(READY) compiled lint ## Install what is missing, check the code, run every test (as root)
ifdef ARGS
	$(AS_ROOT) $(BIN)/python -m pytest $(ARGS)
else
	$(AS_ROOT) $(BIN)/python -m pytest $(TWO_AT_ONCE) $(FIRST)
	$(AS_ROOT) $(BIN)/python -m pytest $(TWO_AT_ONCE) --no-loadscope-reorder $(FIRST:%=--ignore=%)
endif

lint: $(READY) $(GENERATED) ## Style, types, layers and async rules
	@$(MAKE) --no-print-directory --jobs --keep-going --output-sync=target style types layers async_rules

style:
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .

types:
	$(BIN)/mypy

layers:
	$(BIN)/lint-imports >.venv/imports.log || { cat .venv/imports.log; exit 1; }

async_rules:
	grep -rlE 'async|trio' --include='*.py' --exclude-dir=proto cafs tests demo bench \
		| xargs $(BIN)/python -m tests.async_rules

demo: system $(READY) compiled ## Convert a real image, start it lazily over slow links: one host, then a cluster
	$(AS_ROOT) $(BIN)/python -m demo $(ARGS)

bench: system $(READY) compiled ## Measure against the rivals and write docs/benchmarks.md
	$(AS_ROOT) $(BIN)/python -m bench $(ARGS)

proto: $(GENERATED) ## Compile the messages in proto/, which needs no more than this after a change

$(GENERATED): $(PROTOS) proto/generate.py | $(READY)
	@$(BIN)/python proto/generate.py
	@touch $@

clean: ## Remove what was built, installed and cached here
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis cafs/proto/*_pb2.py*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
