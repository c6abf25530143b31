# `make run` and `make test` each set up everything they need; repeated calls are quick. `make help` lists the rest.
# Needed to begin with: make and a python3 of 3.11 or later. PYTHON=python3.12 names another interpreter.

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8080
ARGS ?=
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help run test check fmt setup lab clean bench docs chart lock image image-test longer

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.runtime ## start `sidecar demo` (PORT=8080): no broker, no file, live traffic to curl
	$(BIN)/sidecar demo --port $(PORT)

test: lab check ## everything: system packages, `make check`, the whole suite (ARGS="-k words" narrows it)
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

check: $(VENV)/.development ## ruff, mypy --strict, import-linter; changes nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(VENV)/.development ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

setup: $(VENV)/.development ## the virtual environment with all that tests and checks need
	@true

lab: $(VENV)/.development ## the real programs the tests use (RabbitMQ, proxies, Chromium, Helm), where they are missing
	@tests/lab/install
	$(BIN)/python -m tests.lab.helm

bench: $(VENV)/.runtime ## sidecar beside its peers, with a table, a JSON and a picture (ARGS="--quick"); see bench/README.md
	$(BIN)/python -m bench $(ARGS)

docs: $(VENV)/.documentation ## the site of docs/, built strictly into build/site
	$(BIN)/python docs/generate.py --check
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs build/site

chart: $(VENV)/.development ## the chart's schema and README, from values.yaml and `sidecar schema`
	$(BIN)/python helm/generate.py

lock: $(VENV)/.development ## the image's dependencies with their hashes
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-annotate --constraint constraints.txt --custom-compile-command "make lock" pyproject.toml --output-file requirements.lock
	printf 'hatchling>=1.27\n' | $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-annotate --custom-compile-command "make lock" - --output-file requirements.build.lock

image: ## the container image
	docker build -t sse-sidecar .

image-test: $(VENV)/.development ## build the image and run it by a real engine (minutes; root, docker.io, debootstrap)
	$(BIN)/pytest -s tests/image/with_docker.py

longer: lab ## tests that take minutes: 2 GB through the proxy, a rolling restart, chaos, a newer RabbitMQ (root, debootstrap), and h2spec (Go)
	$(BIN)/pytest -o timeout=1800 tests/longer/with_large_bodies.py tests/longer/with_rolling_restart.py tests/longer/with_chaos.py tests/longer/with_h2spec.py
	$(BIN)/pytest -p tests.lab.newer_rabbitmq -k rabbitmq tests/broker/test_streams.py tests/broker/test_queues.py tests/replay/test_replay.py tests/replay/test_stream_filter.py

clean: ## remove the virtual environment and every cache
	rm -rf $(VENV) .lab bench/.build build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: an environment is made anew only where the files that describe it have changed.
$(VENV)/.made:
	@tests/lab/install python "$(PYTHON)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade --constraint constraints.txt pip
	@touch $@

$(VENV)/.runtime: $(VENV)/.made pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.development: $(VENV)/.runtime
	$(BIN)/pip install --quiet --constraint constraints.txt --group dev
	@touch $@

$(VENV)/.documentation: $(VENV)/.runtime
	$(BIN)/pip install --quiet --constraint constraints.txt --group docs
	@touch $@
