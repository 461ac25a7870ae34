# make demo       pretrain on toy data, evaluate on every task
# make demo-full  the same with a longer and a second pretraining, and two seeds
# make test       run the tests
# make test-all   run all tests, including the slow ones
# make setup      create .venv; every other target does this first
# make bench      run every benchmark, write benchmarks/RESULTS.md
# make lint       run ruff, mypy and import-linter, as configured in pyproject.toml
# make docs       build the documentation site in output/docs

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin/python

.PHONY: setup demo demo-full test test-all bench lint docs constraints

setup: $(READY)

$(READY): setup.cfg pyproject.toml constraints.txt virtex/detectron/install.py
	$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip install --compile-bytecode --python $(RUN) --constraint constraints.txt --editable '.[test,docs]'
	$(RUN) -m virtex.detectron.install
	touch $@

test: $(READY)
	$(RUN) -m pytest

test-all: $(READY)
	$(RUN) -m pytest --whole

# Run it on a quiet machine.
bench: $(READY)
	$(RUN) benchmarks/run_all.py

# The demo pretrains a model by captioning, and compares it on every task with the untrained model.
# A second `make demo` continues an interrupted one.
DEMO := output/demo
FULL := output/demo-full
DATA := $(DEMO)/data
IMAGES := --coco-train-images 3000 --train-images 400 --val-images 200
VOCABULARY := $(DATA)/vocab/toy.model
RANDOM := $(DEMO)/random/model_final.pth
PRETRAIN := $(RUN) -m virtex.pretrain --data-root $(DATA) --num-gpus 0 --checkpoint-every 250 --resume
EVALUATE := $(RUN) eval_tools/evaluate_all.py --protocol toy --data-root $(DATA) --num-gpus 0 --max-parallel 2
LEADERBOARD := $(RUN) eval_tools/leaderboard.py --markdown - --label "$(RANDOM)=random initialization"

demo: $(DEMO)/captions/model_final.pth $(RANDOM)
	$(EVALUATE) --checkpoint $^ --output-dir $(DEMO)/evaluation
	$(LEADERBOARD) $(DEMO)/evaluation --title "The demo" --label "$<=VirTex" \
		--output $(DEMO)/leaderboard.csv --html $(DEMO)/leaderboard.html --plot $(DEMO)/leaderboard.png

# Three times the pretraining, the same backbone pretrained by classification, and two seeds.
demo-full: $(FULL)/captions/model_final.pth $(FULL)/classes/model_final.pth $(RANDOM)
	$(EVALUATE) --checkpoint $^ --output-dir $(FULL)/evaluation --seeds 0 1
	$(LEADERBOARD) $(FULL)/evaluation --title "The demo" --label "$<=VirTex" \
		--label "$(FULL)/classes/model_final.pth=classification" \
		--output $(FULL)/leaderboard.csv --html $(FULL)/leaderboard.html --plot $(FULL)/leaderboard.png

# The tool writes toy.json last.
$(DATA)/toy.json: | $(READY)
	$(RUN) eval_tools/make_toy_data.py $(DATA) $(IMAGES) --overwrite

$(VOCABULARY): | $(DATA)/toy.json
	$(RUN) -m virtex.data.tokenizer --captions $(DATA)/coco/annotations/captions_train2017.json \
		--vocab-size 200 --output $@

$(DEMO)/captions/model_final.pth: | $(VOCABULARY)
	$(PRETRAIN) --config toy/bicaptioning_R_18_L1_H256 --output-dir $(@D)

$(RANDOM): | $(VOCABULARY)
	$(PRETRAIN) --config toy/bicaptioning_R_18_L1_H256 --output-dir $(@D) \
		OPTIM.NUM_ITERATIONS 0 OPTIM.WARMUP_STEPS 0

$(FULL)/captions/model_final.pth: | $(VOCABULARY)
	$(PRETRAIN) --config toy/bicaptioning_R_18_L1_H256 --output-dir $(@D) OPTIM.NUM_ITERATIONS 3000

$(FULL)/classes/model_final.pth: | $(VOCABULARY)
	$(PRETRAIN) --config toy/multilabel_classification_R_18 --output-dir $(@D) \
		OPTIM.NUM_ITERATIONS 3000

.PRECIOUS: $(DATA)/toy.json $(VOCABULARY) $(RANDOM) $(DEMO)/captions/model_final.pth \
	$(FULL)/captions/model_final.pth $(FULL)/classes/model_final.pth

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy virtex
	$(VENV)/bin/lint-imports --no-logo

docs: $(READY)
	$(VENV)/bin/sphinx-build -W --keep-going -b html docs output/docs

# The tested versions, for every Python from 3.10.
constraints: $(READY)
	printf 'torch==2.14.1\ntorchvision==0.29.1\n' | $(VENV)/bin/uv pip compile --universal \
		--python-version 3.10 --all-extras --no-header --no-annotate --upgrade \
		--constraint - --output-file constraints.txt setup.cfg
