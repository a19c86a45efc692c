# Everything runs in .venv, which the first target that needs it builds. Only that needs the network.
PYTHON ?= python3
RUN := .venv/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: .venv .venv-triton36 help demo docs test test-all lint bench gpu clean

help:  ## list the targets
	@grep -E '^[.a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/'

.venv: .venv/.complete  ## build the environment with all test extras

# A stamp, written last: an install that was cut off is begun again.
.venv/.complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) "setuptools>=77" torch
	$(PIP) --no-build-isolation -e ".[test]"
	@touch .venv/.complete

# The oldest Triton that will do, as a folder that stands before the environment's own.
.venv-triton36: .venv-triton36/.complete  ## unpack the oldest Triton that will do, for make test-all

.venv-triton36/.complete: .venv/.complete
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv-triton36 triton==3.6.0
	@touch .venv-triton36/.complete

demo: .venv/.complete  ## train LeNet-5 on MNIST in dynamic precision, beside fp32
	$(RUN) -m precc demo

# mkdocs-material prints on each build what it thinks of mkdocs 2 unless this is set, as it says there.
docs: .venv/.complete  ## the manual as a site, build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

lint: .venv/.complete  ## ruff
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# One thread a process, as threads of several processes wait for each other. What trains a net at length comes after:
# another number of threads is another order of sums, and another training. Compiled modules are kept, for the many
# processes that import them, also where the environment says otherwise.
ONE_EACH = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest -n $$(nproc) --dist worksteal --ignore tests/test_training.py

test: lint  ## ruff, mypy, doctests and all tests
	$(ONE_EACH)
	$(RUN) -m pytest tests/test_training.py

test-all: lint .venv-triton36/.complete  ## the same and the slow ones: every real model by Inductor too
	$(ONE_EACH) -m "slow or not slow"
	$(RUN) -m pytest tests/test_training.py

bench: .venv/.complete  ## the published numbers: JSON files in benchmarks/results/
	$(RUN) benchmarks/rounding.py
	$(RUN) benchmarks/accumulate.py
	$(RUN) benchmarks/train_step.py
	$(RUN) benchmarks/compile_time.py
	$(RUN) benchmarks/step_overhead.py
	$(RUN) benchmarks/trust_region_lenet5.py
	$(RUN) benchmarks/gate.py
	$(RUN) benchmarks/tiny_llama_shakespeare.py
	$(RUN) benchmarks/error_model.py
	$(RUN) benchmarks/analysis_cost.py
	$(RUN) benchmarks/assignment.py
	$(RUN) benchmarks/bit_budget.py
	$(RUN) benchmarks/thresholding.py
	$(RUN) benchmarks/roofline.py
	$(RUN) benchmarks/weight_budgets.py
	$(RUN) benchmarks/controllers.py
	$(RUN) benchmarks/control_overhead.py
	$(RUN) benchmarks/onnx_roundings.py
	$(RUN) benchmarks/onnx_inference.py

gpu: .venv/.complete  ## the kernels' tests and times on this machine's GPU
	$(RUN) benchmarks/gpu.py

clean:  ## remove the environment and what was built
	rm -rf .venv .venv-triton36 build out precc.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
