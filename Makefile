# Two commands from a fresh clone: `make demo` and `make test`. Both make .venv first, once.
# PYTHON=... names an interpreter; the default is the first fitting one that .ci/python finds.

VENV := .venv
RUN := $(VENV)/bin/

# Tests of what is done by compiled loops where numba is installed, and by NumPy and torch elsewhere.
LOOPS := $(addprefix tests/test_,coding.py compiled.py golden.py models.py rans.py sparse.py spectral.py \
    squares.py tables.py)

# Files of tests go to two processes, each with one thread.
TESTS := OMP_NUM_THREADS=1 $(RUN)pytest -W error -n 2 --dist loadfile

.PHONY: test test-training demo rate models-doc speed test-newest clean

test: $(VENV)/installed
	$(RUN)ruff format --check .
	$(RUN)ruff check .
	$(RUN)mypy
	$(TESTS)
	TEC_ZARR_COMPILED=0 $(TESTS) $(LOOPS)

# Training with CompressAI, which has no wheel for Python 3.13; decoding with its older NumPy.
test-training: $(VENV)-training/installed
	$(VENV)-training/bin/python -m pytest -W error $(addprefix tests/test_,train.py training.py \
		published.py golden.py spectral.py)

demo: $(VENV)/installed
	$(RUN)python benchmarks/demo.py

# `rate` and `speed` need the shared validation data: TEC_ZARR_SHARED_DATA names its folder.
rate: $(VENV)/installed
	$(RUN)python benchmarks/rate.py

# The tables of docs/models.md, from what `make rate` wrote.
models-doc: $(VENV)/installed
	$(RUN)python benchmarks/rate.py --stored --page docs/models.md

speed: $(VENV)/installed
	$(RUN)python benchmarks/speed.py
	$(RUN)python benchmarks/parts.py

# The store tests on a newer Python with the newest zarr and xarray, in an environment of its own.
test-newest:
	bash .ci/newest

$(VENV)/installed: pyproject.toml constraints.txt
	@python="$$(bash .ci/python)" && "$$python" -m venv --clear $(VENV)
	@echo "Installing into $(VENV), which takes some minutes the first time."
	$(RUN)python -m pip install -qq --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)-training/installed: $(VENV)/installed .ci/training
	@echo "Installing CompressAI into $(VENV)-training."
	@bash .ci/training
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-training .venv-newest demo build *.egg-info
	find tec_zarr -name '*.nb[ci]' -delete
