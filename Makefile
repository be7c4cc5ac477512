PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv

.PHONY: demo test lint slow clean

demo: $(VENV)/installed
	$(VENV)/bin/contrapose train

test: $(VENV)/installed
	$(VENV)/bin/pytest

slow: $(VENV)/installed
	$(VENV)/bin/pytest -m slow

lint: $(VENV)/installed
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
