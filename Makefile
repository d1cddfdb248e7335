# What a person types here. `make help` lists it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STATE := .state
GOAL ?= What does the with statement guarantee?
DEPTH ?= 2
DOCS ?=
SEEDS ?= 100000
ARGS ?=
JOBS ?= 2
# a fault is mostly waited for: two processes, each with a fleet and servers of its own, halve the time
CHAOS = $(BIN)/python -m pytest tests/chaos --numprocesses=$(JOBS) --dist=worksteal

.DEFAULT_GOAL := help
.PHONY: help run test check simulate chaos guards bench eval sbom audit-deps docs up up-here setup setup-dev lock clean format

##@ Use it

run: setup ## Answer a question over real documents: GOAL="…" DOCS=folder DEPTH=1..5
	@$(BIN)/orchestrator research "$(GOAL)" --depth $(DEPTH) $(if $(DOCS),--docs "$(DOCS)")

up: ## Run the whole fleet until Ctrl-C: with Docker where an engine runs, else without; ARGS="--scale steps=4"
	@if docker info >/dev/null 2>&1; then docker compose up --build $(ARGS); \
		else $(MAKE) --no-print-directory up-here; fi

up-here: setup-dev ## The same without Docker, on servers that are given or brought up here
	@exec $(BIN)/python scripts/fleet.py $(STATE)/fleet $(ARGS)

##@ Trust it

test: setup-dev ## Run every test, with the real services it needs, and enforce coverage: JOBS=2 at once
	@$(BIN)/python -m pytest --cov --cov-report=term:skip-covered \
		$(if $(ARGS),$(ARGS),--numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder --ignore=tests/chaos)
	@$(if $(ARGS),,$(CHAOS))

check: setup-dev ## Format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python scripts/reference.py --check

simulate: setup-dev ## Run the seeded simulator: SEEDS=100000
	@$(BIN)/python -m tests.simulator --seeds $(SEEDS) $(ARGS)

chaos: setup-dev ## Break the real thing in every way that is known, and count what came of its plans
	@$(CHAOS) -v $(ARGS)

guards: setup-dev ## Take each guard of the fleet away in turn, and tell which test notices
	@$(BIN)/python -m scripts.guards $(ARGS)

bench: setup-dev ## Print what a step costs on this machine, on servers of its own: ARGS="w1 --plans 500"
	@rm -rf $(STATE)/bench
	@$(BIN)/python scripts/services.py run $(STATE)/bench $(BIN)/orchestrator bench $(or $(ARGS),all)

eval: setup ## Ask questions whose answers are known, and measure the answers: ARGS="--set folder --limit 200"
	@$(BIN)/orchestrator eval --data $(STATE)/eval $(ARGS)

sbom: setup-dev ## Write what is installed to run it, as CycloneDX, into .state/sbom.cdx.json
	@$(BIN)/python scripts/sbom.py $(or $(ARGS),$(STATE)/sbom.cdx.json)

audit-deps: $(STATE)/audit ## Ask an advisory service about every locked package; fails for those it could not ask about, too
	@$(STATE)/audit/bin/python scripts/audit_deps.py $(or $(ARGS),requirements.lock)

##@ Work on it

format: setup-dev ## Put the code into its one form
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: setup-dev ## Write the reference pages from the code
	@$(BIN)/python scripts/reference.py

lock: setup-dev ## Resolve the newest allowed versions into the two lock files
	@$(BIN)/pip install --quiet uv
	@$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
		pyproject.toml --extra pdf --output-file requirements.lock
	@$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
		pyproject.toml --extra pdf --group dev --output-file requirements-dev.lock
	@$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
		--group audit --output-file requirements-audit.lock

clean: ## Remove the virtual environment and everything that was built
	@rm -rf $(VENV) $(STATE) .coverage* htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis

setup: $(STATE)/run ## Install what running needs, at the locked versions
setup-dev: $(STATE)/dev ## Install what developing needs besides

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Say which to use: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "Python cannot make virtual environments here; on Debian: apt-get install python3-venv"; exit 1; }

$(STATE)/run: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "Setting up (once; about a minute) …" >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@mkdir -p $(STATE) && touch $@

# an environment of its own: what looks at the packages is not one of them
$(STATE)/audit: requirements-audit.lock
	@rm -rf $@ && $(PYTHON) -m venv $@
	@$@/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-audit.lock \
		|| { rm -rf $@; echo "pip-audit could not be installed: the package index was not reached."; exit 1; }

$(STATE)/dev: requirements-dev.lock $(STATE)/run
	@echo "Setting up the developer's tools (once) …" >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	@touch $@

##@ Help

help: ## Show this
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
