# Every target sets up what it needs, in .venv, and does so once. PYTHON is the interpreter to build it with.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help demo test pytest lint bench docs screenshots count clean

PYTHON ?= python3
PYTEST_ARGS ?= -n 3 --dist loadgroup
S3RVER := 3.7.1

VENV := .venv
BIN := $(VENV)/bin

# These say in a sentence what they do, instead of showing their commands.
SETUP := $(addprefix $(VENV)/.,created demo dev docs bench s3rver databases browser)
.SILENT: demo $(SETUP)

help:
	@echo 'make demo         train a small model, kill it on the way, resume it, restore the best snapshot'
	@echo 'make test         lint, types, imports and all tests (PYTEST_ARGS="$(PYTEST_ARGS)")'
	@echo 'make lint         lint, types and imports only'
	@echo 'make bench        measure, side by side with the peers'
	@echo 'make docs         the documentation as a site, in build/site'
	@echo 'make screenshots  take the pictures of the documentation again'
	@echo 'make count        count lines of code, without comments and docstrings'
	@echo 'make clean        remove what the other targets made'

demo: $(VENV)/.demo
	$(BIN)/python flows/train.py demo

# At once, because mypy uses one core for a minute and the tests often wait.
test: $(VENV)/.dev $(VENV)/.s3rver $(VENV)/.databases $(VENV)/.browser
	$(MAKE) --no-print-directory -j2 lint pytest

# Prefect gets a home of its own, which goes when the tests end, so that nothing of the user's is read or changed.
pytest: $(VENV)/.dev $(VENV)/.s3rver $(VENV)/.databases $(VENV)/.browser
	home=$$(mktemp -d); trap 'rm -rf "$$home"' EXIT; \
	PREFECT_HOME="$$home" DO_NOT_TRACK=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/.bench
	for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

docs: $(VENV)/.docs
	$(BIN)/mkdocs build

# The folder is part of what the pictures show.
screenshots: $(VENV)/.dev $(VENV)/.browser
	mkdir -p docs/images
	$(BIN)/python -m pytest tests/test_end_to_end.py --screenshots docs/images --basetemp /tmp/prefect-snapshots

count:
	$(PYTHON) tools/code_lines.py prefect_snapshots tests

clean:
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info snapshots
	find . -name __pycache__ -prune -exec rm -rf {} +

# --- setting up -------------------------------------------------------------------------------------------

# $(call system,CHECK,PACKAGES): has the system's package manager install PACKAGES where the command CHECK fails.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
system = $(1) >/dev/null 2>&1 || { \
	    $(SUDO) apt-get update -qq && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2); \
	} || { echo 'This needs $(2), which could not be installed: install it, then run make again.' >&2; exit 1; }

# $(call install,EXTRA,GROUP): the package itself, editable; by uv, because it is quick, or by pip, where uv is not to be had.
install = $(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[$(1)]' --group $(2) || { \
	    $(BIN)/pip install --quiet --upgrade 'pip>=25.1' && $(BIN)/pip install --quiet --editable '.[$(1)]' --group $(2); }

# $(call torch): by pip itself and before all else, so that it takes a build for CPUs where pip is set up to find one.
torch = $(BIN)/pip install --quiet --disable-pip-version-check 'torch==2.13.0'

$(VENV)/.created:
	echo 'Making a Python environment in $(VENV) ...'
	$(call system,$(PYTHON) -c 'import ensurepip',python3-venv)
	$(PYTHON) -m venv $(VENV)
	-$(BIN)/pip install --quiet --disable-pip-version-check uv
	touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)/.created
	echo 'Installing prefect-snapshots and what the demo needs ...'
	$(call install,jax,demo)
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.created
	echo 'Installing prefect-snapshots and what the tests need, which takes some minutes the first time ...'
	$(call torch)
	$(call install,all,dev)
	touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/.created
	echo 'Installing prefect-snapshots and what the documentation needs ...'
	$(call install,s3,docs)
	touch $@

$(VENV)/.bench: pyproject.toml | $(VENV)/.created
	echo 'Installing prefect-snapshots and what the benchmarks need ...'
	$(call torch)
	$(call install,all,bench)
	touch $@

# An S3 server that ignores preconditions: a repository on it has to be refused.
$(VENV)/.s3rver: Makefile | $(VENV)/.created
	echo 'Installing a server for the tests: s3rver ...'
	$(call system,command -v npm,npm)
	npm install --prefix $(VENV)/s3rver --no-audit --no-fund --no-save --loglevel error s3rver@$(S3RVER)
	touch $@

# The servers of the databases that are backed up, and the peers of backups: retention is compared with restic, restored
# directories with rsync.
$(VENV)/.databases: Makefile | $(VENV)/.created
	echo 'Installing the database servers, and the tools to compare with, where they are missing ...'
	$(call system,ls /usr/lib/postgresql/*/bin/postgres,postgresql)
	$(call system,PATH=$$PATH:/usr/sbin command -v mariadbd,mariadb-server)
	$(call system,command -v redis-server,redis-server)
	$(call system,command -v etcd && command -v etcdctl,etcd-server etcd-client)
	$(call system,command -v restic,restic)
	$(call system,command -v borg,borgbackup)
	$(call system,command -v rsync,rsync)
	$(call system,command -v pgbackrest,pgbackrest)
	$(call system,ldconfig -p | grep libfuse.so.2,libfuse2)
	touch $@

# The browser that the tests look at Prefect's pages with.
$(VENV)/.browser: Makefile | $(VENV)/.created
	echo 'Installing a browser, where it is missing ...'
	$(call system,command -v chromium,chromium fonts-dejavu-core)
	touch $@
