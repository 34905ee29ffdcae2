# `make` lists the targets. Everything runs as root on a bare Debian machine; no program has to be installed before.
PYTHON ?= python3
BIN := .venv/bin
CONTEXT ?=
CHAPTER ?=
RELEASE ?= ultramarine
TIER ?= full
SEEDS ?= 200
HOURS ?= 1
MINUTES ?= 5
OPTIONS ?=
ALL ?=
PYTEST := $(BIN)/pytest --durations=10 --durations-min=1
# The only security test that needs the cluster.
TENANT := tests/security/test_tenant.py
LESS := $(if $(ALL),,and not slow)
SWEEPS := PYTHONPATH=tests/e2e:tests:tests/api:tests/chaos $(BIN)/python bench

# The tests start hundreds of processes. Without cached bytecode each one compiles its modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: $(shell grep -oE '^[a-z0-9-]+:' $(firstword $(MAKEFILE_LIST)) | tr -d :)
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/demo  ## train a model, serve it and ask it; CHAPTER=pipeline, CONTEXT=...
	@$(BIN)/python examples/quickstart/demo.py --context "$(CONTEXT)" --chapter "$(CHAPTER)"

up: .venv/demo  ## start a Kubernetes on this machine; TIER=bare: only etcd and an API server
	@$(BIN)/ultramarine-cluster up --tier $(TIER)

install: .venv/demo  ## build the images and install the chart; CONTEXT=... uses your own cluster
	@$(BIN)/ultramarine-cluster install --context "$(CONTEXT)"

backup: .venv/demo  ## save NAMESPACE's objects and files to FOLDER; RELEASE=..., CONTEXT=...
	@: $(if $(and $(NAMESPACE),$(FOLDER)),,$(error give NAMESPACE=... and FOLDER=...))
	@$(BIN)/ultramarine-cluster backup --context "$(CONTEXT)" --namespace "$(RELEASE)" "$(NAMESPACE)" "$(FOLDER)"

restore: .venv/demo  ## restore FOLDER into NAMESPACE; finished runs do not run again
	@: $(if $(and $(NAMESPACE),$(FOLDER)),,$(error give NAMESPACE=... and FOLDER=...))
	@$(BIN)/ultramarine-cluster restore --context "$(CONTEXT)" --namespace "$(RELEASE)" "$(FOLDER)" "$(NAMESPACE)"

status: .venv/demo  ## show the components, their health and their files
	@$(BIN)/ultramarine-cluster status

down: .venv/demo  ## remove what `make up` and `make demo` made, except the cache
	@$(BIN)/ultramarine-cluster down --all

check: .venv/ready  ## check style, language, types, layers, generated files, documentation, chart
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tests/language.py
	$(BIN)/mypy
	$(BIN)/mypy examples/quickstart/demo.py
	$(BIN)/lint-imports
	$(BIN)/python -m ultramarine_operator.generate --check
	@$(MAKE) --no-print-directory docs
	@$(BIN)/ultramarine-cluster build helm
	"$$($(BIN)/ultramarine-cluster build --print)/helm" lint --strict -f charts/ultramarine/ci/images-values.yaml charts/ultramarine

docs: .venv/ready  ## build the documentation site in build/docs
	$(BIN)/sphinx-build -q -n -W --keep-going -b html docs build/docs

test: unit api chaos-short e2e  ## run the tests of every commit; 25 minutes with a built cluster

test-all:  ## run all tests, with the slow ones; at most 90 minutes
	@$(MAKE) --no-print-directory test ALL=1

unit: .venv/ready  ## run unit, gateway, security and golden tests
	$(PYTEST) -n 3 --dist worksteal tests/unit tests/gateway tests/security --ignore $(TENANT) tests/golden -m "not long $(LESS)"

api: .venv/ready  ## test every CRD rule against a real kube-apiserver
	$(PYTEST) -n 3 --dist loadfile tests/api -m "not long $(LESS)"

chaos-short: .venv/ready  ## test the promises under faults, by a sample; ALL=1 for all
	$(PYTEST) -n 4 tests/chaos -m "not long $(LESS)" --timeout=1200

e2e: .venv/ready  ## run stories on the embedded cluster
	@export ULTRAMARINE_E2E_BEGAN=$$(date -u +%Y-%m-%dT%H:%M:%S+00:00); set -x; \
	nice $(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder tests/e2e $(TENANT) -m "not exclusive $(LESS)" || failed=1; \
	$(PYTEST) tests/e2e -m "exclusive $(LESS)" || failed=1; \
	exit $${failed:-0}

chaos: .venv/ready  ## run every kill, SEEDS schedules and 10,000 bad manifests; an hour
	ULTRAMARINE_CHAOS_SEEDS=$(SEEDS) $(BIN)/pytest tests/chaos --timeout=3600
	ULTRAMARINE_MISUSE=10000 $(BIN)/pytest tests/api/test_misuse.py tests/api/test_deep_misuse.py -s

scale: .venv/ready  ## measure thousands of objects on simulated nodes; 40 minutes
	PYTHONPATH=tests:tests/api:tests/chaos $(BIN)/python bench/scale.py

sweep: .venv/ready  ## measure a sweep of 40 trials; two minutes; OPTIONS=--help
	$(SWEEPS)/sweep.py $(OPTIONS)

sweep-early: .venv/ready  ## measure what early termination saves; ten minutes; OPTIONS=--help
	$(SWEEPS)/sweep_early.py $(OPTIONS)

sweep-kills: .venv/ready  ## run 10,000 trials while the operator is killed; OPTIONS=--help
	$(SWEEPS)/sweep_kills.py $(OPTIONS)

sweep-memory: .venv/ready  ## measure the coordinator's memory; a minute; OPTIONS=--help
	PYTHONPATH=tests/unit:tests:tests/api:tests/chaos $(BIN)/python bench/sweep_memory.py $(OPTIONS)

writes: .venv/ready  ## measure a job's writes and its delay; a few minutes
	PYTHONPATH=tests:tests/api:tests/chaos $(BIN)/python bench/writes.py

pipelines: .venv/ready  ## measure runs of pipelines, imports and profiles; 10 minutes
	PYTHONPATH=tests:tests/api:tests/chaos $(BIN)/python bench/pipelines.py $(OPTIONS)

fuzz: .venv/ready  ## fuzz all parsers and servers for MINUTES (default 5)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt atheris schemathesis  # the extra `fuzz`
	PYTHONPATH=sdk:contract:operator:trainer-image:server-image:gateway-image:cluster:tests $(BIN)/python tests/security/fuzz.py all $$(($(MINUTES) * 60))

soak: .venv/ready  ## run HOURS of churn (default 1) and watch for leaks
	PYTHONPATH=tests:tests/api:tests/chaos $(BIN)/python bench/soak.py --hours $(HOURS)

serving: .venv/ready  ## compare the server with six others; 20 minutes
	PYTHONPATH=tests:tests/api:tests/chaos $(BIN)/python bench/serving.py

lossless: .venv/ready  ## count failed requests during every kind of change; 10 minutes
	PYTHONPATH=tests/e2e:tests $(BIN)/python bench/lossless.py

storage: .venv/ready  ## measure the storage with up to 1,000 namespaces; two minutes
	PYTHONPATH=tests/unit:tests:tests/api:tests/chaos $(BIN)/python bench/storage.py $(OPTIONS)

pool: .venv/ready  ## measure 300 small models behind one endpoint; two minutes
	PYTHONPATH=tests/unit:tests:tests/api:tests/chaos $(BIN)/python bench/pool.py

cold: .venv/ready  ## measure the way from a clone to the prediction without caches
	$(BIN)/python bench/cold.py

release: .venv/ready  ## write images, chart, wheel, SBOMs and checksums of VERSION into dist
	@: $(if $(VERSION),,$(error give VERSION=...))
	@$(BIN)/python -m ultramarine_cluster.release "$(VERSION)" --registry "$(REGISTRY)"

sbom: .venv/ready  ## write what is in each image, as CycloneDX, into build/sbom
	@$(BIN)/python -m ultramarine_cluster.sbom build/sbom

cast: .venv/ready  ## record the tutorial in a terminal again, on the embedded cluster; two minutes
	$(PYTEST) tests/e2e/test_tutorials.py -k recording --record-cast

generate: .venv/ready  ## write crds/, the chart's copies and the reference again
	$(BIN)/python -m ultramarine_operator.generate

format: .venv/ready  ## format the code by ruff
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## `make down`, then remove .venv
	@if test -e .venv/demo; then $(MAKE) down; fi
	rm -rf .venv

.venv/ready: .venv/demo docs/requirements.txt
	@echo "installing what development needs into .venv"
	@$(BIN)/python cluster/install.py --editable dev -r docs/requirements.txt
	@touch $@

.venv/demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer with venv is needed: apt-get update && apt-get install -y python3-venv"; \
		test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq python3-venv; }
	@echo "installing what the launcher and the demo need into .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python cluster/install.py --editable demo
	@touch $@
