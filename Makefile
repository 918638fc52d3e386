# Works from a fresh clone with no virtual environment active: every target first makes .venv what the lock files pin.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell for p in python3.11 python3 python; do $$p -c '' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin

.PHONY: help install demo test check chaos mutants reader soak

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## */make \1\t/p' Makefile | expand -t 16

install:  ## creates .venv from the lock files (the other targets call it)
	@$(or $(PYTHON),$(error no Python found: install Python 3.11, or name one with PYTHON=/path/to/python3.11)) requirements/install.py

demo: install  ## answers examples/raises.yaml on this machine and says where the report lies
	@code=0; $(BIN)/swarm run examples/raises.yaml || code=$$?; echo "make demo: $$SECONDS s after installing"; exit $$code

test: install  ## all tests but those marked slow or gpu
	@$(BIN)/python -m pytest -n 3

check: install  ## ruff, and mypy in strict mode
	@$(BIN)/ruff check --output-format concise . && $(BIN)/mypy --strict && echo "make check: $$SECONDS s"

chaos: install  ## MINUTES=n of faults (10 if not given), and a table of what they found
	@$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),10)

mutants: install  ## each broken build against the tests that must catch it
	@$(BIN)/python -m tests.mutants

soak: install  ## a job of HOURS=n with a fault a minute: does anything grow?
	@$(BIN)/python -m swarm.testing.soak --hours $(or $(HOURS),1)

reader: install  ## trains the reader adapter anew (hours; goes on where it stopped)
	@code=0; $(BIN)/python -m swarm.learn.reader || code=$$?; echo "make reader: $$SECONDS s"; exit $$code
