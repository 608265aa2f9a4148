# snaphold: what one types. Every target sets up first what it needs; the second time that takes no time.
.PHONY: help setup tools demo test coverage check lint torture bench lock data clients release clean
.DEFAULT_GOAL := help

# Another interpreter: make setup PYTHON=/usr/bin/python3.12
export PYTHON

BIN := .venv/bin
# Where Python code of the project is; parts that are not built yet are left out.
CODE := src tests $(wildcard demo bench docs)
JOBS ?= 2
# A file's tests share a process, and files begin in our order (tests/conftest.py), not by how many tests they have.
PYTEST := $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## fetch what snaphold needs to run, MariaDB among it, into this directory (no root; a minute or two, once)
	@setup/run

tools: setup ## fetch what the tests and checks need as well
	@setup/tools

data: setup
	@setup/data

clients: setup
	@setup/clients

demo: setup data ## back up and restore a real data set, from start to finish
	@$(BIN)/python demo/main.py

test: tools data clients ## all tests but the long ones, on real MariaDB servers
	@$(PYTEST)

coverage: tools data clients ## the same tests, with the branches that they cover: not fewer than pyproject.toml says
	@rm -rf .cache/coverage && mkdir -p -m 1777 .cache/coverage
	@$(PYTEST) --cov --cov-report=term

torture: tools data clients ## the long fault tests: every victim at every step
	@$(PYTEST) -m torture

check: lint ## all of lint, and the tests that start no database
	@$(PYTEST) -m "not engine and not torture"

lint: tools ## format, style, types, imports and spelling
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy $(CODE)
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/codespell

bench: setup data ## time backup and restore beside the plain tools
	@$(BIN)/python -m bench

lock: ## resolve the dependencies anew (needs uv)
	@setup/lock

release: tools ## make release VERSION=X.Y.Z: check, build CHANGELOG.md from changelog.d, commit, tag
	@setup/release "$(VERSION)"

clean: ## remove all that make setup and the tools made
	rm -rf .venv .engine .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache src/*.egg-info
	find src tests $(wildcard demo bench) -name __pycache__ -type d -prune -exec rm -rf {} +
