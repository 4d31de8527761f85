# Everything a newcomer needs. `make help` lists it.
SHELL := /bin/bash
VENV := .venv
READY := $(VENV)/.ready
PYTEST_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup tools up down cluster cluster-down test test-platform test-fast lint format bench bench-playbooks bench-growth bench-platform

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv from constraints.txt and, as root on Debian or Ubuntu, install what the lab and the tests use
	@tests/prepare.sh packages

$(READY): constraints.txt pyproject.toml
	@tests/prepare.sh venv $(VENV)
	@touch $@

tools: setup  ## build the programs of the cluster lab that are not installed (Go; once, minutes)
	@$(VENV)/bin/python -m tests.lab.cluster tools >/dev/null || true

up: setup  ## run the platform with a simulated fleet of three hosts; Ctrl-C stops it
	@exec $(VENV)/bin/ironyard up --enroll-from "$(VENV)/bin/python -m tests.lab up --json"

down: $(READY)  ## remove the simulated fleet (the ledger in .ironyard stays)
	@$(VENV)/bin/python -m tests.lab down

cluster: tools  ## start an empty Kubernetes API with a chart registry on this machine
	@$(VENV)/bin/python -m tests.lab.cluster up

cluster-down: $(READY)  ## stop it
	@$(VENV)/bin/python -m tests.lab.cluster down

test: tools  ## run every test: both databases, hosts over SSH, a Kubernetes API, the command line
	@$(VENV)/bin/pytest -n $(PYTEST_WORKERS) --dist loadfile

test-platform: tools  ## run the tests of the stacks: mocks, then the real engine on a Kubernetes API
	@$(VENV)/bin/pytest -n $(PYTEST_WORKERS) --dist loadfile tests/stacks

test-fast: $(READY)  ## run the tests that need no container and no cluster
	@$(VENV)/bin/pytest -n $(PYTEST_WORKERS) --dist loadfile -m "not lab and not platform"

lint: $(READY)  ## ruff, mypy, import-linter, yamllint, ansible-lint
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" tests/lint.sh

format: $(READY)  ## let ruff format the code
	@$(VENV)/bin/ruff format . && $(VENV)/bin/ruff check --fix .

bench: setup  ## measure: claims over HTTP beside plain SQL, on both databases
	@$(VENV)/bin/python tests/bench/claims.py

bench-growth: setup  ## measure: claims and pages of lists in a ledger of 100,000 GPUs, and of a million closed holds
	@$(VENV)/bin/python tests/bench/growth.py

bench-playbooks: setup  ## measure: reclaim of one used lab host and of four, and the play without the platform
	@$(VENV)/bin/python tests/bench/playbooks.py

bench-platform: tools  ## measure: preview, up, second up and destroy of the whole platform
	@$(VENV)/bin/python tests/bench/platform.py
