PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint

demo: .venv/installed
	$(BIN)/python -m xrt_jax.main --config=configs/demo.py --workdir=runs/demo

test: .venv/installed lint
	$(BIN)/python -m pytest

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

lint: .venv/installed
	$(BIN)/ruff check

.venv/installed: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,mpi]'
	touch $@
