# `make` lists what there is. Everything runs on a bare Debian machine as root; nothing has to be installed before.
PYTHON ?= python3
BIN := .venv/bin
CONTEXT ?=
RELEASE ?= ultramarine
TIER ?= full
SEEDS ?= 200
HOURS ?= 1
MINUTES ?= 5
OPTIONS ?=
ALL ?=
PYTEST := $(BIN)/pytest --durations=10 --durations-min=1
# The one attacker who needs the cluster.
TENANT := tests/security/test_tenant.py
LESS := $(if $(ALL),,and not slow)
SWEEPS := PYTHONPATH=tests/e2e:tests:tests/api:tests/chaos $(BIN)/python bench

.PHONY: docs help demo up down status install backup restore check test test-all unit api chaos-short e2e chaos scale sweep sweep-early sweep-kills sweep-memory writes soak serving lossless storage pool fuzz sbom generate format clean
help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/ready  ## the story from training to prediction; CONTEXT=... for a cluster of yours
	@$(BIN)/python examples/quickstart/demo.py --context "$(CONTEXT)"

up: .venv/ready  ## a Kubernetes on this machine; TIER=bare for etcd and an API server only
	@$(BIN)/ultramarine-cluster up --tier $(TIER)

install: .venv/ready  ## build the images and install the chart; CONTEXT=... for a cluster of yours
	@$(BIN)/ultramarine-cluster install --context "$(CONTEXT)"

backup: .venv/ready  ## NAMESPACE's objects and files into FOLDER; RELEASE=... and CONTEXT=... of yours
	@: $(if $(and $(NAMESPACE),$(FOLDER)),,$(error give NAMESPACE=... and FOLDER=...))
	@$(BIN)/ultramarine-cluster backup --context "$(CONTEXT)" --namespace "$(RELEASE)" "$(NAMESPACE)" "$(FOLDER)"

restore: .venv/ready  ## the backup in FOLDER into NAMESPACE; what had ended does not run again
	@: $(if $(and $(NAMESPACE),$(FOLDER)),,$(error give NAMESPACE=... and FOLDER=...))
	@$(BIN)/ultramarine-cluster restore --context "$(CONTEXT)" --namespace "$(RELEASE)" "$(FOLDER)" "$(NAMESPACE)"

status: .venv/ready  ## what runs, whether it is well, where things are
	@$(BIN)/ultramarine-cluster status

down: .venv/ready  ## take away all that `make up` and `make demo` made; the cache stays
	@$(BIN)/ultramarine-cluster down --all

check: .venv/ready  ## style, types, layers, generated files, chart
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy examples/quickstart/demo.py
	$(BIN)/lint-imports
	$(BIN)/python -m ultramarine_operator.generate --check
	@$(MAKE) --no-print-directory docs
	@$(BIN)/ultramarine-cluster build helm
	"$$($(BIN)/ultramarine-cluster build --print)/helm" lint --strict -f charts/ultramarine/ci/images-values.yaml charts/ultramarine

docs: .venv/ready  ## the documentation as a site, in build/docs
	$(BIN)/sphinx-build -q -n -W --keep-going -b html docs build/docs

test: unit api chaos-short e2e  ## the tests of every commit, on the embedded cluster; 25 minutes, once it is built

test-all:  ## all tests, also the slow ones of foreign frameworks, clients and rare stories
	@$(MAKE) --no-print-directory test ALL=1

unit: .venv/ready  ## pure functions and golden manifests, and our programs on loopback
	$(PYTEST) -n 3 --dist worksteal tests/unit tests/gateway tests/security --ignore $(TENANT) tests/golden -m "not long $(LESS)"

api: .venv/ready  ## every rule of the CRDs against a real kube-apiserver
	$(PYTEST) -n 3 --dist loadfile tests/api -m "not long $(LESS)"

chaos-short: .venv/ready  ## the promises under faults, a sample of lives; ALL=1 for all lives
	$(PYTEST) -n 4 tests/chaos -m "not long $(LESS)" --timeout=1200

e2e: .venv/ready  ## whole stories on the real cluster, several at once, and then those that need it for themselves
	@export ULTRAMARINE_E2E_BEGAN=$$(date -u +%Y-%m-%dT%H:%M:%S+00:00); set -x; \
	nice $(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder tests/e2e $(TENANT) -m "not exclusive $(LESS)" || failed=1; \
	$(PYTEST) tests/e2e -m "exclusive $(LESS)" || failed=1; \
	exit $${failed:-0}

chaos: .venv/ready  ## every promise, every kill, SEEDS random schedules, 10,000 manifests of misuse; about an hour
	ULTRAMARINE_CHAOS_SEEDS=$(SEEDS) $(BIN)/pytest tests/chaos --timeout=3600
	ULTRAMARINE_MISUSE=10000 $(BIN)/pytest tests/api/test_misuse.py tests/api/test_deep_misuse.py -s

scale: .venv/ready  ## thousands of jobs and versions, hundreds of endpoints, on simulated nodes; 40 minutes, prints tables
	PYTHONPATH=tests:tests/api:tests/chaos $(BIN)/python bench/scale.py

sweep: .venv/ready  ## 40 trials of a second by two workers: how long, and what it writes; two minutes; OPTIONS=--help
	$(SWEEPS)/sweep.py $(OPTIONS)

sweep-early: .venv/ready  ## what early termination saves of 60 trainings, and whether the best is lost; ten minutes
	$(SWEEPS)/sweep_early.py $(OPTIONS)

sweep-kills: .venv/ready  ## 10,000 trials while the operator is killed every half minute: none may be lost
	$(SWEEPS)/sweep_kills.py $(OPTIONS)

sweep-memory: .venv/ready  ## the coordinator's memory by the number of trials, without a cluster; a minute, OPTIONS=--help
	PYTHONPATH=tests/unit:tests:tests/api:tests/chaos $(BIN)/python bench/sweep_memory.py $(OPTIONS)

writes: .venv/ready  ## what a job costs the API server, and how soon it has a pod; a few minutes, prints tables
	PYTHONPATH=tests:tests/api:tests/chaos $(BIN)/python bench/writes.py

fuzz: .venv/ready  ## MINUTES of bytes by chance (default 5) at the storage, the gateway, the server and all parsers
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt atheris schemathesis  # the extra `fuzz`
	PYTHONPATH=sdk:contract:operator:trainer-image:server-image:gateway-image:cluster:tests $(BIN)/python tests/security/fuzz.py all $$(($(MINUTES) * 60))

soak: .venv/ready  ## HOURS of churn (default 1), and the slopes of memory, descriptors, tasks and queue age
	PYTHONPATH=tests:tests/api:tests/chaos $(BIN)/python bench/soak.py --hours $(HOURS)

serving: .venv/ready  ## our server against mlserver, kserve, mlflow, litserve, bentoml, FastAPI; 20 minutes, prints tables
	PYTHONPATH=tests:tests/api:tests/chaos $(BIN)/python bench/serving.py

lossless: .venv/ready  ## 10 minutes of requests during rollouts, pod deletes, a drain, new keys and scaling: none may fail
	PYTHONPATH=tests/e2e:tests $(BIN)/python bench/lossless.py

storage: .venv/ready  ## the embedded storage with 1, 50 and 1,000 namespaces; two minutes, prints a table
	PYTHONPATH=tests/unit:tests:tests/api:tests/chaos $(BIN)/python bench/storage.py $(OPTIONS)

pool: .venv/ready  ## 300 small models behind one endpoint: first use, latency, memory of each; two minutes, prints tables
	PYTHONPATH=tests/unit:tests:tests/api:tests/chaos $(BIN)/python bench/pool.py

sbom: .venv/ready  ## what is in each image, as CycloneDX, into build/sbom
	@$(BIN)/python -m ultramarine_cluster.sbom build/sbom

generate: .venv/ready  ## write crds/, the chart's copies, docs/reference/ and tables of docs/ again
	$(BIN)/python -m ultramarine_operator.generate

format: .venv/ready  ## let ruff set the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## `make down`, and remove .venv too
	@if test -e .venv/ready; then $(MAKE) down; fi
	rm -rf .venv

.venv/ready: pyproject.toml constraints.txt docs/requirements.txt
	@$(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer with venv is needed: apt-get update && apt-get install -y python3-venv"; \
		test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq python3-venv; }
	@echo "installing the Python requirements into .venv (about a minute, the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' -r docs/requirements.txt
	@touch $@
