# Two commands for a fresh machine: `make demo` and `make test`. The README has them without make.
# `make parity` compares with torch, and `make notebooks` runs the notebooks; each installs what it
# needs beside.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
# What the nets are compared with. torchvision and timm without what they require: torchvision's own
# pin of torch may ask for another build of it, and timm needs besides only the hub's package.
TORCH := torch==2.13.0
TORCHVISION := torchvision==0.29.1
TIMM := timm==1.0.31
HUB := huggingface_hub==2.4.0
# What runs notebooks and makes pages of them.
JUPYTER := ipykernel==7.4.0 nbclient==0.11.0 nbconvert==7.17.2
# One of them: make notebooks NOTEBOOK=lenet5
NOTEBOOK ?=

.PHONY: demo test parity notebooks lint setup clean

setup: $(VENV)/ready

$(VENV)/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Canon needs Python 3.11 or newer: make PYTHON=python3.12, for example" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null || { \
	  echo "could not make $(VENV): on Debian or Ubuntu, sudo apt install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

# Trained anew each time: the demonstration shows training, not resuming.
demo: setup
	@rm -rf $(DEMO)
	@$(BIN)/python main.py --config=configs/lenet5.py --workdir=$(DEMO)

test: setup lint
	@$(BIN)/python -m pytest -n 2

parity: $(VENV)/parity-ready
	@$(BIN)/python -m pytest -n 2 tests/parity

$(VENV)/parity-ready: $(VENV)/ready Makefile
	@echo "installing torch into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(TORCHVISION) $(TIMM)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(HUB)
	@touch $@

notebooks: $(VENV)/notebooks-ready
	@$(BIN)/python notebooks/render.py $(NOTEBOOK)

$(VENV)/notebooks-ready: $(VENV)/ready Makefile
	@echo "installing Jupyter's kernel and converter into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(JUPYTER)
	@touch $@

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) $(DEMO) build
