# make demo   set up and run the main job on real data until the endpoint has answered
# make test   set up and pass lint, types and tests
# make fuzz   after the demo: send its model's endpoint bytes of every kind for SECONDS
.PHONY: demo test fuzz lint format clean

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
BIN = .venv/bin
STORAGE ?= storage
PORT ?= 8000
SECONDS ?= 60
# Two processes, each with a Ray cluster; much of a test's time is waiting for other processes. A
# file's tests stay together, and one that crashes a process is tried in one more.
TESTS ?= -n 2 --no-loadscope-reorder --max-worker-restart 2

# Unless told not to by this variable, which images of Python set, a process keeps what it compiles
# of the packages; without it each would compile them anew for seconds.
unexport PYTHONDONTWRITEBYTECODE

demo: .venv/demo
	$(BIN)/python jobs/fetch.py adult
	$(BIN)/ray-pipeline run jobs/income.yaml --set storage=$(abspath $(STORAGE)) --set serve.port=$(PORT)
	@echo; echo "Asking the endpoint with that line:"
	@PATH="$(abspath $(BIN)):$$PATH" sh -c "$$($(BIN)/ray-pipeline show latest --curl --storage $(STORAGE))"
	@echo; echo; echo "It goes on answering. $(BIN)/ray-pipeline down stops it."

test: lint
	$(BIN)/python jobs/fetch.py adult
	$(BIN)/python -m pytest $(TESTS)

fuzz: .venv/demo
	$(BIN)/python benchmarks/fuzz.py --seconds $(SECONDS)

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	test ! -x $(BIN)/ray-pipeline || $(BIN)/ray-pipeline down
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; none was found"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable .
	@touch $@

.venv/dev: .venv/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@touch $@
