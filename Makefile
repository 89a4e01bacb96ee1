# The only door. `make` lists what there is.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/culvert
PY := .venv/bin/python
# One for each clone: Cargo tells the crates of two clones apart by the time of their files only.
export CARGO_TARGET_DIR ?= $(CACHE)/engine-target/$(shell printf %s '$(CURDIR)' | sha256sum | cut -c1-16)
# Where the engine is installed to, whichever environment the caller has activated.
export VIRTUAL_ENV := $(CURDIR)/.venv
unexport CONDA_PREFIX
PROFILE ?= release
PACKAGES := meshapi meshengine meshkit meshproxy nodeagent ztunnel waypoint controlplane meshlab meshctl

# What a stamp stands for is in its name, so a change makes a new one.
hash = $(shell cat $(1) 2>/dev/null | sha256sum | cut -c1-16)
VENV := .venv/stamp-$(call hash,setup/requirements-dev.txt)
ENGINE_FILES := $(shell find engine meshapi/proto bpf -name '*.rs' -o -name '*.proto' -o -name 'Cargo.*' -o -name '*.[ch]') pyproject.toml
ENGINE := .venv/engine-$(PROFILE)-$(call hash,$(ENGINE_FILES))

.PHONY: help
help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

.PHONY: system
system: ## Install the Debian packages that are missing (root).
	@setup/system

$(VENV): setup/requirements-dev.txt
	python3 -m venv .venv
	.venv/bin/pip install --quiet --require-hashes -r setup/requirements-dev.txt
	rm -f .venv/stamp-* .venv/engine-*
	touch $@

$(ENGINE): | $(VENV)
	@echo "building the engine ($(PROFILE)); a first build takes some minutes"
	PIP_QUIET=2 PIP_NO_DEPS=1 .venv/bin/maturin develop --quiet --profile $(PROFILE)
	rm -f .venv/engine-*
	touch $@

.PHONY: engine
engine: $(ENGINE) ## Build the Rust engine into the virtual environment (PROFILE=fast for quick rounds).

.PHONY: tools
tools: $(VENV) ## Build Kubernetes, Helm and the images into the cache.
	@setup/tools

.PHONY: system-test
system-test: ## The same, and those that only checks and tests need.
	@setup/system test

.PHONY: setup
setup: system engine tools ## Everything that building, testing and the lab need.

.PHONY: lab
lab: setup ## The main job: a lab, Culvert, bookinfo, a label, and a table of who called whom (HOSTS="ADDRESS ..." by SSH).
	@$(PY) -m samples.tour $(HOSTS)

.PHONY: lab-down
lab-down: ## Remove the lab and everything that it left.
	@.venv/bin/culvert lab down

.PHONY: lint
lint: $(VENV) lint-python lint-rust lint-rest ## All checks that run nothing; `make fix` repairs what can be.

.PHONY: lint-python
lint-python: $(ENGINE)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check --quiet . || { echo "run: make fix" >&2; exit 1; }
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache | tail -3
	$(PY) -m mypy.stubtest meshengine._native --ignore-disjoint-bases
	setup/proto --check
	$(PY) -m meshapi.resources.crd --check
	$(PY) -m setup.gateway_api --check

.PHONY: lint-rust
lint-rust:
	cd engine && cargo fmt --check || { echo "run: make fix" >&2; exit 1; }
	cd engine && cargo clippy --quiet --locked --all-targets -- -D warnings
	cd engine/fuzz && cargo metadata --quiet --locked --format-version 1 >/dev/null

.PHONY: lint-rest
lint-rest: $(VENV)
	shellcheck $$(grep -rlE '^#!.*\b(ba)?sh$$' setup .ci tests/vm --exclude-dir=.vagrant vagrant)
	cd vagrant && VAGRANT_CHECKPOINT_DISABLE=1 vagrant validate
	clang-format --dry-run --Werror $$(git ls-files '*.c' '*.h')
	helm=$$($(PY) -c 'import sys; from meshlab import programs; print(programs.helm(sys.stderr.write) / "helm")') && \
	  "$$helm" lint --strict --quiet deploy/helm/culvert deploy/helm/gateway

.PHONY: fix
fix: $(VENV) ## Format the code and repair what the checks can repair.
	.venv/bin/ruff check --fix --quiet . || true
	.venv/bin/ruff format --quiet .
	cd engine && cargo fmt
	clang-format -i $$(git ls-files "*.c" "*.h")

.PHONY: test
test: system-test setup lint test-rust test-fuzz test-python ## Set everything up and run all tests.

.PHONY: test-rust
test-rust: ## Tests of the engine's crates.
	cd engine && cargo test --quiet --locked --workspace --exclude culvert-python

# What measures time or has the machine's network for itself runs alone; the rest runs side by side. The emulated machine
# comes first: it takes one processor for minutes.
ALONE := tests/cluster tests/integration tests/interop
BESIDE := tests/vm tests/scenarios tests/unit tests/property tests/architecture

.PHONY: test-python
test-python: system-test setup ## Unit, integration, interop, cluster and VM tests (TESTS=path to run some).
ifdef TESTS
	$(PY) -m pytest $(TESTS)
else
	failed=0; $(PY) -m pytest $(ALONE) || failed=1; $(PY) -m pytest -n 2 --dist loadfile $(BESIDE) || failed=1; exit $$failed
endif

.PHONY: vm
vm: system-test engine ## Tests of capture and tunnel on a kernel of Debian's, in an emulated machine (DEBIAN=bullseye: 5.10, trixie: 6.12).
	CULVERT_VM_EVERY_CASE=1 CULVERT_VM_DEBIAN=$(or $(DEBIAN),bookworm) $(PY) -m pytest tests/vm

.PHONY: fuzz
fuzz: ## Feed parsers with mutated input, FUZZ_SECONDS (60) for each target (TARGETS="dns tunnel" for some).
	setup/fuzz $(TARGETS)

.PHONY: test-fuzz
test-fuzz: ## The same for a few seconds each: that the targets build, and that the seeds pass.
	FUZZ_SECONDS=3 setup/fuzz

.PHONY: conformance
conformance: setup ## The Gateway API's conformance suite in a lab; writes docs/conformance (SUITE=mesh or gateway, TEST=name: one test).
	for suite in $(or $(SUITE),mesh gateway); do $(PY) -m tests.conformance $$suite $(TEST); done

.PHONY: bench
bench: setup ## Measure against bare TCP and two Envoys, side by side; prints ratios.
	$(PY) -m bench.tunnel

.PHONY: proto
proto: $(VENV) ## Make the Python code of the .proto files.
	setup/proto

.PHONY: crds
crds: $(VENV) ## Make the custom resource definitions from the models, and copy those of the Gateway API.
	$(PY) -m meshapi.resources.crd
	$(PY) -m setup.gateway_api

.PHONY: docs
docs: $(ENGINE) ## Make the configuration reference from the settings classes.
	$(PY) -m setup.reference

.PHONY: lock
lock: $(VENV) ## Pin the dependencies of pyproject.toml, with hashes.
	setup/lock

.PHONY: clean
clean: ## Remove what was built inside the clone (the cache outside stays).
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find meshengine -name '*.so' -delete
