PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv

.PHONY: demo test soak lint slow gym peers trackers mutants speed clean

demo: $(VENV)/installed
	$(VENV)/bin/contrapose train

test: $(VENV)/installed
	$(VENV)/bin/pytest

slow: $(VENV)/installed
	$(VENV)/bin/pytest -m slow

gym: $(VENV)/installed
	$(VENV)/bin/pip install -q -c constraints.txt -e '.[gym]'
	$(VENV)/bin/pytest tests/verify/test_grading.py -k gym

peers: .venv-trl/installed .venv-verl/installed
	.venv-trl/bin/pytest -o addopts= -m slow tests/peers/test_trl.py
	.venv-verl/bin/pytest -o addopts= -m slow tests/peers/test_verl.py

trackers: .venv-trackers/installed
	.venv-trackers/bin/pytest -o addopts= tests/train/test_tracking.py

speed: .venv-trl/installed
	.venv-trl/bin/python benchmarks/speed.py runs/speed --out runs/speed.json
	.venv-trl/bin/python benchmarks/accuracy.py --out runs/accuracy.json
	.venv-trl/bin/python benchmarks/scaling.py --out runs/scaling.json

mutants: $(VENV)/installed
	$(VENV)/bin/python benchmarks/mutants.py

soak: $(VENV)/installed
	$(VENV)/bin/pytest -m slow tests/reliability tests/train/test_run.py

lint: $(VENV)/installed
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

packages-trackers := wandb tensorboard trackio

.venv-%/installed: pyproject.toml constraints-%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install -q -c constraints-$*.txt -e . pytest $(or $(packages-$*),$*)
	touch $@

clean:
	rm -rf $(VENV) .venv-trl .venv-verl .venv-trackers runs
