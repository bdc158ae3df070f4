# Everything here works on a machine with Python 3.11+ and make alone: no Java, no Docker, no key.
# Targets that need the virtual environment make it first; the second time they find it.

SHELL := /bin/sh
.DEFAULT_GOAL := help
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help setup lint format test test-unit test-integration demo up down bench bench-quick soak profile bad-input docs sim chaos compose-check clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

setup: $(INSTALLED) ## Make .venv and install Fairlane with pinned dependencies (PYTHON=… chooses the interpreter)
	@echo "setup: .venv is ready; . .venv/bin/activate puts fairlane on your PATH"

$(INSTALLED): pyproject.toml constraints.txt tools/setup.sh
	@tools/setup.sh
	@touch $@

lint: $(INSTALLED) ## Style, format, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir .cache/importlinter

format: $(INSTALLED) ## Mend what can be mended by a tool
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(INSTALLED) ## All tests: unit, property and contract, integration on real services, and 10,000 seeds of the simulation
	@SEEDS=$(SEEDS) tools/test.sh

test-unit: $(INSTALLED) ## The tests that need no service
	$(BIN)/python -m pytest tests/unit tests/property tests/contract

test-integration: $(INSTALLED) ## The tests on real Kafka, Redis and ClickHouse (started for the run)
	$(BIN)/python -m pytest tests/integration

demo: $(INSTALLED) ## The whole product for about a minute: five tenants, one floods; ends with a verdict and a report
	$(BIN)/fairlane demo

up: $(INSTALLED) ## Start Kafka, Redis, ClickHouse, the model simulator and every stage; Ctrl-C stops them
	$(BIN)/fairlane up

down: $(INSTALLED) ## Stop what `make up` started
	$(BIN)/fairlane down

bench: $(INSTALLED) ## Measure the chain, its parts and its start against their bars, in about a quarter of an hour
	$(BIN)/python -m benchmarks

bench-quick: $(INSTALLED) ## The same in about a minute and a half, for a look
	$(BIN)/python -m benchmarks --quick routing gate chain sink

soak: $(INSTALLED) ## MINUTES=15 under load at 60 % of capacity, a stage killed every 30 s: nothing may grow, be lost or come twice
	$(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),15)

profile: $(INSTALLED) ## A flame graph of every stage under load, into benchmarks/results
	$(BIN)/python -m benchmarks.profile

sim: $(INSTALLED) ## The whole chain on virtual time with faults: SEEDS=… runs, every promise checked
	$(BIN)/fairlane sim --seeds $(or $(SEEDS),1000)

chaos: $(INSTALLED) ## Real faults on a stack of its own under load: FAULTS=… chooses, `python -m tests.chaos --list` names them
	$(BIN)/python -m tests.chaos $(FAULTS)

bad-input: $(INSTALLED) ## 71 kinds of bad input, each plain and in 1,000 mutations, through a chain of its own; a table and a CSV
	$(BIN)/python -m tests.bad_input

docs: $(INSTALLED) ## Regenerate what is generated: contracts, topology picture, settings and metrics tables
	$(BIN)/python tools/docs.py
	$(BIN)/python -m benchmarks.docs
	$(BIN)/python -m fairlane.schemas.generate docs/contracts

compose-check: ## Let docker-compose read docker-compose.yml (needs docker-compose, but no engine)
	docker-compose -f docker-compose.yml config -q

clean: ## Stop the stack and remove what was made here: .venv, .fairlane, caches, build output
	@if [ -x $(BIN)/fairlane ] && [ -f .fairlane/state.json ]; then $(BIN)/fairlane down; fi
	rm -rf .venv .fairlane .cache build dist fairlane.egg-info htmlcov .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
