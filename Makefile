# make run       everything on a new machine: set-up, sample data, pipeline, embedded server, one ranked answer
# make test      set-up, lint, types, the whole test suite
# make test-jax  all tests of layers and models under Keras' JAX backend; `make test` runs those of the layers and of the contract
# make setup     the environment alone; a no-op when nothing changed
# make flink     Apache Flink and Beam's job server, which some tests and benchmarks start
# make peer      PyTorch and FuxiCTR in .venv/peer, for `mim bench train` alone (about 5 GB)
# make lock      requirements.lock again, from the ranges in setup.py
# make bench     the pipeline's benchmark (others: mim bench NAME), into benchmarks/results

SHELL := /bin/bash
ROOT ?= run
export TF_CPP_MIN_LOG_LEVEL ?= 3
BIN := .venv/bin
# pytest in two processes; tests that look at one run of the pipeline are a group (pytest-xdist 3.8 does not see groups
# under pytest 9.2: each process makes that run)
BESIDE := -n 2 --dist loadgroup

JAX_TESTS ?= tests/mim_keras

.DEFAULT_GOAL := setup
.PHONY: setup redis flink minilm peer run test test-jax lint lock bench clean

setup:
	@bash environment/setup.sh

run: setup
	@$(BIN)/mim import sample --to $(ROOT)/data --if-missing
	@$(BIN)/mim run --config sample --data $(ROOT)/data --root $(ROOT)/sample
	@$(BIN)/mim demo --data $(ROOT)/data --root $(ROOT)/sample
	@echo "report: $(ROOT)/sample/report.html"

minilm: setup
	@bash environment/minilm.sh .venv

flink: setup
	@bash environment/flink.sh .venv

peer: setup
	@bash environment/peer.sh .venv

redis: setup
	@bash environment/redis.sh .venv

test: setup lint redis flink minilm
	@$(BIN)/python -m pytest $(BESIDE)
	@$(MAKE) --no-print-directory test-jax JAX_TESTS="$(addprefix tests/mim_keras/,test_contract.py layers losses ops optimizers)"

test-jax: setup
	@JAX_COMPILATION_CACHE_DIR=$$(mktemp -d) JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=0 \
		KERAS_BACKEND=jax $(BIN)/python -m pytest -n 2 -m "any_backend and not learns" $(JAX_TESTS)

lint: setup
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet . && $(BIN)/mypy

lock: setup
	@$(BIN)/uv pip compile environment/tools.in --python-version 3.11 --generate-hashes --no-annotate --no-header --upgrade --quiet -o environment/tools.lock
	@$(BIN)/uv pip compile setup.py --all-extras --python-version 3.11 --python-platform x86_64-manylinux_2_40 --generate-hashes --no-annotate --no-header --upgrade --quiet -o requirements.lock
	@$(BIN)/uv pip compile environment/peer.in --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate --no-header --upgrade --quiet -o environment/peer.lock

bench: setup
	@$(BIN)/python -m benchmarks.pipeline --config sample --data $(ROOT)/bench/sample

clean:
	@rm -rf .venv $(ROOT)
