# Every target sets up what it needs: a virtual environment in .venv, the exact versions of requirements/, the package itself.
# The second time that costs nothing; a change of requirements/ or pyproject.toml sets it up again.
#
#   make PYTHON=/path/to/python3 ...   another interpreter (3.11 or later)
#   make test ARGS='-k trie -x'        more arguments for pytest, bench, demo, cluster or conformance

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
REQUIREMENTS := requirements/build.txt requirements/runtime.txt requirements/dev.txt
PYTHON ?=
ARGS ?=
SUITE ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo test lint format envtest cluster conformance manifest bench bench-scale bench-cluster bench-soak clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

setup: $(READY) ## the virtual environment only
	@:

demo: $(READY) ## three echo backends behind the controller, with curl lines to try; Ctrl-C ends it
	@exec $(BIN)/ingress demo $(ARGS)

test: lint ## the whole gate: format, lint, types, layers, unit and end-to-end tests, tests on a real API server (docs/testing.md)
	@$(BIN)/python -m tools.envtest.build --if-go
	HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-ci} $(BIN)/python -m tools.envtest.netns $(BIN)/python -m pytest $(ARGS)

lint: $(READY) ## format, lint, types and layers, without the tests
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/python -m mypy --no-error-summary
	@out=$$($(BIN)/python -c 'from importlinter.cli import lint_imports_command as main; main()' --no-logo 2>&1) || { printf '%s\n' "$$out"; exit 1; }

format: $(READY) ## format the sources and apply the safe fixes of the linter
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

envtest: $(READY) ## build the control plane, kubectl and helm for the tests on a real API server (once, about 12 minutes; needs Go)
	@$(BIN)/python -m tools.envtest.build

cluster: $(READY) ## a cluster to play with: control plane, chart, samples; prints KUBECONFIG and curl lines; Ctrl-C ends it
	@exec $(BIN)/python -m tools.envtest.netns $(BIN)/python -m tools.envtest.playground $(ARGS)

conformance: $(READY) ## SUITE=DIR: the Ingress conformance suite (a clone of kubernetes-sigs/ingress-controller-conformance) on that cluster
	@test -n "$(SUITE)" || { echo "usage: make conformance SUITE=DIR, DIR being a clone of kubernetes-sigs/ingress-controller-conformance" >&2; exit 2; }
	@exec $(BIN)/python -m tools.envtest.netns $(BIN)/python -m tools.envtest.conformance "$(SUITE)" $(ARGS)

manifest: $(READY) ## what is made from the chart (values.schema.json, its table of values, deploy/aioingress.yaml with helm) and the tables of docs/options.md and docs/annotations.md
	$(BIN)/python -m tools.chart_docs
	$(BIN)/python -m tools.option_docs
	$(BIN)/python -m tools.annotation_docs

bench: $(READY) ## load side by side with the proxies that are installed (nginx, haproxy, envoy, traefik, caddy)
	$(BIN)/python -m bench.load $(ARGS)

bench-scale: $(READY) ## 10,000 Ingresses: time to ready, edit to served, endpoint to served, memory
	$(BIN)/python -m bench.scale $(ARGS)

bench-cluster: $(READY) ## the same figures with a real API server (make envtest)
	@exec $(BIN)/python -m tools.envtest.netns $(BIN)/python -m bench.scale.kube $(ARGS)

bench-soak: $(READY) ## minutes of mixed load while tables and endpoints change
	$(BIN)/python -m bench.soak $(ARGS)

clean: ## remove everything that these targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench/out build dist
	find . -name .git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# A candidate counts only if it runs, is new enough and can make a virtual environment: version managers put launchers on PATH
# for versions that aren't there, and Debian ships ensurepip in a package of its own.
$(READY): $(REQUIREMENTS) pyproject.toml
	@set -eu; \
	if ! $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    found=; seen=; \
	    for candidate in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
	        version=$$("$$candidate" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue; \
	        if ! "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then seen="$$seen; $$candidate is $$version"; \
	        elif ! "$$candidate" -c 'import ensurepip, venv' 2>/dev/null; then seen="$$seen; $$candidate ($$version) has no venv (Debian: apt install python3-venv)"; \
	        else found=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then echo "error: Python 3.11 or later is needed to set up $(VENV)$${seen:-; none found on PATH} (another one: make PYTHON=/path/to/python3)" >&2; exit 1; fi; \
	    echo "Setting up $(VENV) with Python $$version (once, about half a minute)"; \
	    rm -rf $(VENV); \
	    "$$found" -m venv $(VENV); \
	else echo "Updating $(VENV)"; fi; \
	$(PIP) install $(REQUIREMENTS:%=-r %); \
	$(PIP) install --no-deps --no-build-isolation -e .; \
	$(PIP) check; \
	touch $@
