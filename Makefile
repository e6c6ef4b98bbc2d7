# Everything a person needs: `make demo`, `make test`, `make quick`, `make check`, `make docs`, `make bench`, `make lowest`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two tests at a time; those of one file follow each other, since they share what they made.
TEST := $(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadfile
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Threads that wait do not spin: where processes share a machine, that costs several times what it
# saves. Benchmarks have it to themselves and keep PyTorch's default.
demo test quick check lowest figures: export OMP_WAIT_POLICY ?= passive

.PHONY: demo test quick check docs bench figures lowest lowest-constraints clean

# The library and what the demo needs.
$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[demo]"
	touch $@

# All that the tests and benchmarks need besides.
$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[demo,dev,models]"
	touch $@

# jsPsych, for the tests of the experiment's page, and axe-core, for those of all pages; without npm
# they skip.
MODULES := src/opponent/study/page tests/accessibility
LOCKS := $(MODULES:%=%/node_modules/.package-lock.json)
$(LOCKS): %/node_modules/.package-lock.json: %/package-lock.json
	if command -v npm >/dev/null; then npm ci --silent --ignore-scripts --prefix $*; fi

demo: $(VENV)/.demo
	$(BIN)/opponent demo --out demo

test: $(VENV)/.dev $(LOCKS)
	$(TEST)

# For everyday work: without browsers, clusters, doctests, what takes over five seconds, and checks of
# shapes, which take most of the time of small tests (they are put on a package that is not there).
quick: $(VENV)/.dev
	$(TEST) --jaxtyping-packages=none,beartype.beartype -m "not slow and not browser and not cluster" tests

check: $(VENV)/.dev $(LOCKS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TEST)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.bench

# What the site and the pictures need besides the library.
$(VENV)/.docs: $(VENV)/.demo
	$(PIP) --editable ".[docs]"
	touch $@

# The site, in site/: open site/index.html, or serve the folder to search in it.
docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

# The pictures of README and docs: make figures WEIGHTS=bvlc_googlenet.caffemodel PHOTOGRAPHS=FOLDER.
figures: $(VENV)/.dev $(VENV)/.docs
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python docs/make_notebook.py $(WEIGHTS) $(PHOTOGRAPHS)/imagenet-samples
	$(BIN)/python docs/make_inceptionv1.py $(WEIGHTS) $(PHOTOGRAPHS) --work figures

# The lowest versions that pyproject.toml allows, in a virtual environment of their own.
LOWEST := .venv-lowest
EXTRAS := demo experiment cluster models dev

# Finds them: of what is asked for directly the lowest, of all else the newest. Needs the network.
lowest-constraints:
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip compile pyproject.toml $(EXTRAS:%=--extra %) --resolution lowest-direct \
		--python-version 3.11 --no-annotate --upgrade --custom-compile-command "make $@" \
		--quiet --output-file constraints-lowest.txt

$(LOWEST)/.made: pyproject.toml constraints-lowest.txt
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check --constraint constraints-lowest.txt \
		--editable ".[demo,dev,models]"
	touch $@

# Tests of all rooms, eight minutes on two cores. That old versions warn of newer ones is no error.
lowest: $(LOWEST)/.made
	$(LOWEST)/bin/python -m pytest --quiet --numprocesses 2 --dist loadfile \
		--override-ini filterwarnings=default --jaxtyping-packages=none,beartype.beartype \
		-m "not slow and not browser and not cluster" \
		$(filter-out tests/support/ tests/training/ tests/accessibility/,$(sort $(wildcard tests/*/)))

clean:
	rm -rf $(VENV) $(LOWEST) demo site
