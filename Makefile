# Everything a contributor does: `make help`.
# What a machine lacks is installed on the way (deploy/install-debian.sh, .venv); a second run is quick.

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Mounts, network namespaces and the page cache need root.
AS_ROOT := $(if $(filter-out 0,$(shell id -u)),sudo --preserve-env=PATH$(comma)CAFS_CACHE)
comma := ,
READY := $(VENV)/.ready
# Not asked for: 124, a fake or a null object of an async interface need not wait for anything.
ASYNC_ALLOWED := ASYNC124
PROTOS := $(wildcard proto/*.proto proto/*/*.proto)

.DEFAULT_GOAL := help
.PHONY: help system compiled test lint demo bench proto clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

system: # Debian packages; says what it installs, and nothing when all is there
	@deploy/install-debian.sh

$(READY): pyproject.toml | system
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "CAFS needs Python 3.11 or later")'
	@echo "Installing CAFS and its Python libraries into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@

compiled: $(READY) # pip compiles what it installs, but not an editable checkout: each start would compile anew
	@$(BIN)/python -m compileall -q cafs

test: system $(READY) compiled lint ## Install what is missing, check the code, run every test (as root)
	$(AS_ROOT) $(BIN)/python -m pytest $(ARGS)

lint: $(READY) ## Style, types, layers and async rules
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy
	$(BIN)/lint-imports >.venv/imports.log || { cat .venv/imports.log; exit 1; }
	$(BIN)/flake8 --select ASYNC1,ASYNC2,ASYNC3 --extend-ignore $(ASYNC_ALLOWED) --extend-exclude $(VENV),.cache $(wildcard cafs tests demo bench)

demo: system $(READY) compiled ## Convert a real image, mount it lazily over a slow link, compare with a full pull
	$(AS_ROOT) $(BIN)/python -m demo $(ARGS)

bench: system $(READY) compiled ## Measure against the rivals and write docs/benchmarks.md
	$(AS_ROOT) $(BIN)/python -m bench $(ARGS)

proto: $(READY) ## Compile the messages in proto/, if there are any
	$(if $(PROTOS),$(BIN)/python -m grpc_tools.protoc --proto_path=proto --python_out=. --grpc_python_out=. $(PROTOS),@:)

clean: ## Remove what was built, installed and cached here
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
