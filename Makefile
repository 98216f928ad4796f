# make demo   set up and run the main job on real data until the endpoint has answered
# make test   set up and pass lint, types and tests
# make fuzz   after the demo: send its model's endpoint bytes of every kind for SECONDS
# make overload   after `run jobs/fashion.yaml`: twice what its endpoint can bear for SECONDS
# make rivals     the servers that benchmarks/serve.py compares with
# make compare    run it, for the jobs income, reviews_encoder and fashion, which must have been run
# make chats      a chatbot beside a script of LangChain and FastAPI, quoting and writing
# make transcript   what is printed while a cluster of hosts made of namespaces is up and used
# make releases   after the demo: what fails while versions change and processes die
.PHONY: demo test tests fuzz overload rivals compare chats releases transcript lint style types format clean

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

# Types are checked beside the tests: that takes one core for minutes, the first time.
test: style
	$(BIN)/python jobs/fetch.py adult
	$(MAKE) --jobs=2 types tests

tests: .venv/dev
	$(BIN)/python -m pytest $(TESTS)

fuzz: .venv/demo
	$(BIN)/python benchmarks/fuzz.py --seconds $(SECONDS)

overload: .venv/demo
	$(BIN)/python benchmarks/overload.py --seconds $(SECONDS)

releases: .venv/demo
	$(BIN)/python benchmarks/release.py --picture release.html

transcript: .venv/dev
	$(BIN)/python docs/transcript.py

rivals: .venv/rivals .venv-bentoml/installed

compare: rivals
	$(BIN)/python jobs/fetch.py reviews fashion
	$(BIN)/python benchmarks/serve.py --bentoml .venv-bentoml/bin/python

chats: .venv/dev
	$(BIN)/python jobs/fetch.py faq minilm smollm2
	$(BIN)/ray-pipeline run jobs/support.yaml --until export
	$(BIN)/ray-pipeline run jobs/support.yaml --until export --set name=support_llama \
		--set chat.generate.by=llama --set chat.generate.tokens=64 \
		--set chat.generate.model=data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf \
		--set chat.retrieve.words=250 --set chat.judge.answers=0 --set chat.judge.attacks=null \
		--set 'evaluate.gates={}'
	$(BIN)/ray-pipeline down
	$(BIN)/python benchmarks/chat_serve.py

lint: style types

style: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/dev
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	test ! -x $(BIN)/ray-pipeline || $(BIN)/ray-pipeline down
	rm -rf .venv .venv-bentoml build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; none was found"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable .
	@touch $@

.venv/dev: .venv/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv/rivals: .venv/dev
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[benchmarks]'
	@touch $@

# BentoML wants other versions of what Ray needs as well: it gets a folder before .venv's.
.venv-bentoml/installed: .venv/rivals
	$(BIN)/python -m venv --without-pip .venv-bentoml
	$(BIN)/python -c 'import glob, sysconfig; \
	open(glob.glob(".venv-bentoml/lib/python*/site-packages")[0] + "/beside.pth", "w").write(sysconfig.get_path("purelib"))'
	$(BIN)/pip --python .venv-bentoml/bin/python install --quiet --no-compile 'bentoml>=1.4.39,<2'
	@touch $@
