# make demo: set up and derive two sub-models of a real model     make test: set up and run the tests
# make check: the linters of CI                                   make bench: extraction against the textbook
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench model clean

# what the demo needs and no more: half the time of all that the tests need
$(BIN)/.run: pyproject.toml constraints.txt hatch_build.py $(wildcard csrc/*)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[gguf]'
	touch $@

$(BIN)/.done: $(BIN)/.run
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

model: $(BIN)/.run
	$(BIN)/python examples/fetch_model.py demo/model

demo: model
	$(BIN)/python examples/demo.py demo

check: $(BIN)/.done
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright

test: $(BIN)/.done
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

# PEER_PYTHON=path adds llm-compressor (benchmarks/peer_llmcompressor.py says how to install it)
bench: $(BIN)/.done
	$(BIN)/python examples/fetch_model.py demo/model --hf
	$(BIN)/python -m benchmarks.extract demo/model/hf $(if $(PEER_PYTHON),--peer-python $(PEER_PYTHON)) \
	  --text $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('stdlib'))"):python

clean:
	rm -rf .venv demo
