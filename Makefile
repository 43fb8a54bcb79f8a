# `make demo` and `make test` are all a newcomer needs; each sets up what is missing first.
SHELL := bash
PYTEST_WORKERS ?= 2

.PHONY: help demo test test-all test-matrix lint format docs dist clean

help:
	@echo 'make demo      train and test a detector and a segmentor on drawn scenes (5 to 10 minutes)'
	@echo 'make test      the suite without its slow tests (10 minutes; up to 18 on a busy machine)'
	@echo 'make test-all  every test; those marked slow take minutes each'
	@echo 'make test-matrix  the suite on both stacks and on Python 3.10 to 3.13, as far as they can be had'
	@echo 'make lint      formatting, lint and type checks'
	@echo 'make docs      the documentation as a site, in site/; begin at site/index.html'
	@echo 'make dist      sdist and wheel, in dist/'
	@echo 'make clean     remove what the demo and the tests made; .venv and built wheels stay'

.venv: FORCE
	@bash requirements/set_up.sh
FORCE:

demo: .venv
	@.venv/bin/python -m swin_backbone.demo

# A later -m wins: make test TESTS='tests/ops -m slow'.
# Groups begin in the order that tests/conftest.py gives them.
PYTEST = .venv/bin/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup --no-loadscope-reorder --durations 15

test: .venv
	@echo '==> The quick tests, $(PYTEST_WORKERS) at a time: 10 minutes on 2 idle cores, up to 18 on busy ones'
	@$(PYTEST) -m 'not slow' $(TESTS)

test-all: .venv
	@echo '==> Every test, $(PYTEST_WORKERS) at a time'
	@$(PYTEST) $(TESTS)

# An environment of its own: nox asks for newer versions of what the suite is pinned to.
NOX = .cache/nox/bin/nox
$(NOX):
	@$${PYTHON:-python3} -m venv .cache/nox && .cache/nox/bin/python -m pip install -q nox==2026.10.20

# make test-matrix SESSIONS='onedl-3.11 cuda-3.11'; without, all that need neither a compiled mmcv nor
# a CUDA build of torch: those are compiled-…, cuda-… and newest-….
test-matrix: $(NOX)
	@$(NOX) $(if $(SESSIONS),--session $(SESSIONS)) $(if $(TESTS),-- $(TESTS))

lint: .venv
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

format: .venv
	@.venv/bin/ruff check --fix . ; .venv/bin/ruff format .

# An environment of its own, too, made anew when its versions change.
DOCS = .cache/docs/bin/mkdocs
$(DOCS): requirements/docs.txt
	@rm -rf .cache/docs && $${PYTHON:-python3} -m venv .cache/docs
	@.cache/docs/bin/python -m pip install -q -r requirements/docs.txt && touch $@

docs: $(DOCS)
	@NO_MKDOCS_2_WARNING=1 $(DOCS) build --strict

# The wheel is built from the sdist: what is missing there is missed here.
dist: .venv
	@rm -rf dist && .venv/bin/python -m build

clean:
	rm -rf site work_dirs data/shapes .pytest_cache .hypothesis .ruff_cache .mypy_cache build dist *.egg-info
