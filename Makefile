# What a person or CI needs: `make help` lists it. Everything that is installed goes to .venv/.
# PYTHON is any Python 3 that can run tools/: they look for those the project supports.

PYTHON ?= python3
ENVIRONMENT = $(PYTHON) tools/environment.py
# Used as `$(call in,GROUPS) && "$$python" ...`: the environment's Python, made if need be.
in = python=$$($(ENVIRONMENT) $(1))

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format types docs bench wheel-test coverage clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: ## run many real commands at once on this machine, one failure among them
	@$(call in) && "$$python" demo/main.py

test: ## the whole test suite on the newest Python found (ONLY=3.12, ARGS="-k name")
	@$(PYTHON) tools/test.py $(if $(ONLY),--python $(ONLY)) $(ARGS)

test-all: ## the same on every Python found, the oldest with the oldest dependencies
	@$(PYTHON) tools/test.py --all $(ARGS)

lint: ## style, format, import layers, changelog fragments
	@$(call in,lint) && set -e && \
	  "$$python" -m ruff check . && \
	  "$$python" -m ruff format --check . && \
	  "$$(dirname "$$python")/lint-imports" --no-logo && \
	  "$$python" -m towncrier build --draft --version next > /dev/null

format: ## rewrite the files as `make lint` wants them
	@$(call in,lint) && "$$python" -m ruff check --fix . ; "$$python" -m ruff format .

types: ## mypy (strict) over package and tests, pyright over tests/typing
	@$(call in,lint test) && \
	  "$$python" -m mypy && \
	  "$$python" -m pyright --pythonpath "$$python"

docs: ## build the documentation: docs/_build/html/index.html
	@$(call in,docs) && "$$python" -m sphinx -W -n --keep-going -q -b html docs docs/_build/html

bench: ## the benchmarks, with C's posix_spawn and others beside ours (ARGS="name")
	@$(call in,bench) && "$$python" -m benchmarks $(ARGS)

wheel-test: ## build the wheel, install it in a clean place, use it there
	@$(call in,test) && "$$python" tools/wheel_test.py

coverage: ## the test suite on the newest Python, with the lines it did not reach
	@$(call in,test) && "$$python" -m coverage run -m pytest $(ARGS); \
	  "$$python" -m coverage combine -q && "$$python" -m coverage report

clean: ## remove everything that is made, environments included
	rm -rf .venv build dist *.egg-info parallel_exec/environments/local/*.so docs/_build .hypothesis \
	  .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
