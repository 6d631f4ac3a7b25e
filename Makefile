# make demo: set up, derive a Python sub-model of a 0.5B coder and show it beside its base
# make test: set up and run the tests     make check: the linters of CI     make bench: extraction against the textbook
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench model clean

# what the demo and the server need and no more: half the time of all that the tests need
$(BIN)/.run: pyproject.toml constraints.txt hatch_build.py $(wildcard csrc/*)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[gguf,serve]'
	touch $@

$(BIN)/.done: $(BIN)/.run
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

model: $(BIN)/.run
	$(BIN)/python examples/fetch_model.py demo/model

# threads that wait sleep, as the command line has it
demo: $(BIN)/.run
	@$(BIN)/python examples/fetch_model.py demo/model qwen2.5-coder-0.5b
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python examples/demo.py demo

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
