# Two commands do everything on a machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test format clean

demo: .venv/.installed        ## the main job, on a public-domain portrait or on PHOTO=me.jpg
	$(BIN)/python examples/demo.py "$(PHOTO)"

test: .venv/.installed        ## lint, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest

format: .venv/.installed      ## what `make test` only checks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv outputs build
