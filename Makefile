# Everything a newcomer needs. `make help` lists it.
SHELL := /bin/bash
VENV := .venv
READY := $(VENV)/.ready
PYTEST_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup up down test test-fast lint format bench

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv from constraints.txt and, as root on Debian or Ubuntu, install what the lab and the tests use
	@tests/prepare.sh packages

$(READY): constraints.txt pyproject.toml
	@tests/prepare.sh venv $(VENV)
	@touch $@

up: setup  ## run the platform with a simulated fleet of three hosts; Ctrl-C stops it
	@exec $(VENV)/bin/ironyard up --enroll-from "$(VENV)/bin/python -m tests.lab up --json"

down: $(READY)  ## remove the simulated fleet (the ledger in .ironyard stays)
	@$(VENV)/bin/python -m tests.lab down

test: setup  ## run every test: both databases, the lab's hosts over SSH, the command line
	@$(VENV)/bin/pytest -n $(PYTEST_WORKERS) --dist loadfile

test-fast: $(READY)  ## run the tests that need no container
	@$(VENV)/bin/pytest -n $(PYTEST_WORKERS) --dist loadfile -m "not lab"

lint: $(READY)  ## ruff, mypy, import-linter, yamllint, ansible-lint
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" tests/lint.sh

format: $(READY)  ## let ruff format the code
	@$(VENV)/bin/ruff format . && $(VENV)/bin/ruff check --fix .

bench: setup  ## measure: claims over HTTP beside plain SQL, on both databases
	@$(VENV)/bin/python tests/bench/claims.py
