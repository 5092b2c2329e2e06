# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test browser launchers gpu-check lint clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

demo: .venv/.installed  ## Search, and Freeze-Tune what was found
	$(BIN)/python search.py
	$(BIN)/python train.py tuning=freeze

test: .venv/.installed-test  ## Run the test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

browser: .venv/.installed-test .venv/.installed-browser  ## Test pages in a headless Chromium
	$(BIN)/python -m pytest -m browser tests/deploy

launchers: .venv/.installed-test .venv/.installed-launchers  ## Test sweeps under launchers, and the search on Ray
	$(BIN)/python -m pytest -m launchers tests/launch tests/zoo/executors tests/reassembly/test_distributed.py

gpu-check: .venv/.installed  ## Verify on a GPU what only a GPU can show
	$(BIN)/python -m benchmarks.gpu_check

lint: .venv/.installed-lint  ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  ## Remove the environment and all runs
	rm -rf .venv runs

# One marker file an extra: an install is redone when setup.cfg changes, and one that broke off is not taken for done.
.venv/.installed: setup.cfg
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/.installed-%: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .[$*]
	touch $@
