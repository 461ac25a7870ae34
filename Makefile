# make demo    sets up, then runs the main job on the built-in toy data
# make test    sets up, then runs every test
# make setup   only sets up; a second time it does nothing
# make lint    ruff, as configured in pyproject.toml

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
DEMO := demo

.PHONY: setup demo test lint constraints

setup: $(READY)

$(READY): setup.cfg pyproject.toml constraints.txt virtex/detectron/install.py
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip install --python $(VENV)/bin/python --constraint constraints.txt --editable '.[test]'
	$(VENV)/bin/python -m virtex.detectron.install
	touch $@

test: $(READY)
	$(VENV)/bin/python -m pytest

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# The exact set that is tested, for every Python from 3.10; torch and its torchvision together.
constraints: $(READY)
	printf 'torch==2.14.1\ntorchvision==0.29.1\n' | $(VENV)/bin/uv pip compile --universal \
		--python-version 3.10 --all-extras --no-header --no-annotate --upgrade \
		--constraint - --output-file constraints.txt setup.cfg
