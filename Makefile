# Two commands for a fresh machine: `make demo` and `make test`. The README has them without make.
# `make test` runs the quick tests, in minutes. `make check` runs all tests, compares with torch
# (`make parity`), tests Trackio (`make tracker`), runs the notebooks (`make notebooks`), and builds
# the documentation and opens it in a browser (`make browser`). These install the packages that they
# need into .venv.

# The first of these that is Python 3.12 or newer. Each is run: pyenv also has commands for versions
# that are not selected, and these commands fail.
PYTHONS := python3.14 python3.13 python3.12 python3 python
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 12))
PYTHON ?= $(shell for python in $(PYTHONS); do \
  $$python -c '$(NEW_ENOUGH)' 2>/dev/null && { echo $$python; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
GALLERY := runs/gallery
# requirements.txt keeps its versions whatever else is installed, and nothing that is installed may
# lack or contradict a requirement.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
CHECK := $(BIN)/python -m pip check
# --no-compile, below: of torch's thousands of files, Python compiles the few that are imported.
# What the networks are compared with.
TORCH := torch==2.14.1 torchvision==0.29.1 timm==1.0.31 huggingface_hub==2.4.0
# What SIFT and image filters are compared with.
OPENCV := opencv-python-headless==5.0.0.93 scikit-image==0.26.0
# What makes the documentation site.
DOCS := sphinx==9.1.1 furo==2025.12.19 myst-nb==1.4.0
# What drives the system's Chromium.
BROWSER := playwright==1.65.2
# What runs notebooks and makes pages of them.
JUPYTER := ipykernel==7.4.0 nbclient==0.11.0 nbconvert==7.17.2
TRACKIO := trackio==0.43.0
# One of them: make notebooks NOTEBOOK=lenet5
NOTEBOOK ?=
# make docs BUILDER=linkcheck checks the links to other sites.
BUILDER ?= html

.PHONY: demo test check parity tracker notebooks docs browser results gallery lint setup clean

setup: $(VENV)/ready

# An environment of older requirements, or of an older Python, is replaced.
$(VENV)/ready: requirements.txt
	@"$(or $(PYTHON),false)" -c '$(NEW_ENOUGH)' 2>/dev/null || { \
	  echo "Canon needs Python 3.12, 3.13 or 3.14: install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
	  exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV) >/dev/null || { \
	  echo "could not make $(VENV): on Debian or Ubuntu, sudo apt install $(notdir $(PYTHON))-venv" >&2; \
	  exit 1; }
	@echo "installing into $(VENV)"
	@$(INSTALL)
	@$(CHECK)
	@touch $@

# Trained anew each time: the demonstration shows training, not resuming.
demo: setup
	@rm -rf $(DEMO)
	@$(BIN)/python main.py --config=configs/lenet5.py --workdir=$(DEMO)

test: setup lint
	@$(BIN)/python -m pytest -n 2 -m "not slow"

# Without torch, which a user need not have; then with it.
check: setup lint
	@$(BIN)/python -m pytest -n 2
	@$(MAKE) --no-print-directory parity
	@$(MAKE) --no-print-directory tracker
	@$(MAKE) --no-print-directory notebooks
	@$(MAKE) --no-print-directory browser

# Also the tests of weight files that torch writes.
parity: $(VENV)/parity-ready
	@$(BIN)/python -m pytest -n 2 tests/parity tests/models/test_exchange_files.py \
	  tests/models/test_exchange_damaged.py

$(VENV)/parity-ready: $(VENV)/ready Makefile
	@echo "installing torch, OpenCV and scikit-image into $(VENV)"
	@$(INSTALL) --no-compile $(TORCH) $(OPENCV)
	@$(CHECK)
	@touch $@

tracker: $(VENV)/tracker-ready
	@PYTHONPATH=$(VENV)/tracker $(BIN)/python -m pytest tests/train_lib/test_metric_writers.py

# In a folder of its own, because Trackio requires an older Pillow than requirements.txt has.
$(VENV)/tracker-ready: $(VENV)/ready Makefile
	@echo "installing Trackio into $(VENV)/tracker"
	@rm -rf $(VENV)/tracker
	@grep -v '^pillow==' requirements.txt >$(VENV)/tracker-constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
	  --target $(VENV)/tracker -c $(VENV)/tracker-constraints.txt $(TRACKIO)
	@touch $@

# Also the test of the progress bars in a notebook.
notebooks: $(VENV)/notebooks-ready
	@$(BIN)/python -m pytest tests/train_lib/test_progress.py
	@$(BIN)/python notebooks/render.py $(NOTEBOOK)

$(VENV)/notebooks-ready: $(VENV)/ready Makefile
	@echo "installing Jupyter's kernel and converter into $(VENV)"
	@$(INSTALL) --no-compile $(JUPYTER)
	@$(CHECK)
	@touch $@

# Notebooks have outputs in the site if `make notebooks` ran before.
docs: $(VENV)/docs-ready
	@$(BIN)/python -m docs.site.build --builder=$(BUILDER)

$(VENV)/docs-ready: $(VENV)/ready Makefile
	@echo "installing Sphinx into $(VENV)"
	@$(INSTALL) --no-compile $(DOCS)
	@$(CHECK)
	@touch $@

# -rs: without Chromium the tests are skipped, and say how to install it.
browser: docs $(VENV)/browser-ready
	@$(BIN)/python -m pytest -rs docs/site/test_in_browser.py

$(VENV)/browser-ready: $(VENV)/ready Makefile
	@echo "installing Playwright into $(VENV)"
	@$(INSTALL) --no-compile $(BROWSER)
	@$(CHECK)
	@touch $@

# Pages and plots of the studies, from their stored results.
results: setup
	@$(BIN)/python -m studies report

# The pictures of docs/gallery.md. TFDS_DATA_DIR=DIR make gallery names the folder that MNIST is in.
gallery: setup
	@rm -rf $(GALLERY)
	@$(BIN)/python -m docs.gallery

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) $(DEMO) $(GALLERY) build
