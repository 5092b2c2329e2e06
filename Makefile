# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/.installed
	$(BIN)/python search.py
	$(BIN)/python train.py tuning=freeze

test: .venv/.installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# One marker file an extra: an install is redone when setup.cfg changes, and one that broke off is not taken for done.
.venv/.installed: setup.cfg
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/.installed-%: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .[$*]
	touch $@

clean:
	rm -rf .venv runs
