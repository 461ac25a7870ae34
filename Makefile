# make demo    sets up, then runs the main job on the built-in toy data
# make test    sets up, then runs every test
# make setup   only sets up; a second time it does nothing
# make lint    ruff, as configured in pyproject.toml

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin/python
DEMO := output/demo
DEMO_CHECKPOINT := random:resnet18?seed=0

.PHONY: setup demo test lint constraints

setup: $(READY)

$(READY): setup.cfg pyproject.toml constraints.txt virtex/detectron/install.py
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip install --python $(RUN) --constraint constraints.txt --editable '.[test]'
	$(RUN) -m virtex.detectron.install
	touch $@

test: $(READY)
	$(RUN) -m pytest

# A second time, what is finished is not run again; what was interrupted goes on.
demo: $(READY)
	$(RUN) eval_tools/make_toy_data.py $(DEMO)/data
	$(RUN) eval_tools/inspect_checkpoint.py '$(DEMO_CHECKPOINT)'
	for task in coco lvis voc; do \
		$(RUN) eval_tools/detectron2_transfer.py --checkpoint '$(DEMO_CHECKPOINT)' \
			--task $$task --protocol toy --data-root $(DEMO)/data \
			--output-dir $(DEMO)/$$task --num-gpus 0 --resume || exit; \
	done

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# The exact set that is tested, for every Python from 3.10; torch and its torchvision together.
constraints: $(READY)
	printf 'torch==2.14.1\ntorchvision==0.29.1\n' | $(VENV)/bin/uv pip compile --universal \
		--python-version 3.10 --all-extras --no-header --no-annotate --upgrade \
		--constraint - --output-file constraints.txt setup.cfg
