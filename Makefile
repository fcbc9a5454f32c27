# make demo    everything from set-up to a report, on the embedded corpus; CORPUS=ravdess DATA=<folder> on RAVDESS
# make check   set-up, lint, types, layers, the quick tests
# make test    set-up, lint, types, layers, all tests
# make default-model     the default model, and its card: RAVDESS=<folder> EMODB=<folder> URDU=<table.csv>
PYTHON ?= python3
CORPUS ?= synth
DATA ?=
BIN := .venv/bin
RECIPE := recipes/$(if $(filter synth,$(CORPUS)),demo,$(CORPUS)).yaml
MANIFEST := runs/data/$(if $(filter synth,$(CORPUS)),synth/manifest,$(CORPUS)).jsonl
RUN := runs/demo-$(CORPUS)

.PHONY: demo check test lint setup clean default-model

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

demo: setup
	@[ "$(CORPUS)" = synth ] || [ -n "$(DATA)" ] || { echo "error: name the corpus's folder: make demo CORPUS=$(CORPUS) DATA=<folder>" >&2; exit 2; }
	@[ -f $(MANIFEST) ] || $(if $(filter synth,$(CORPUS)),$(BIN)/serein corpus synth -o $(dir $(MANIFEST)),$(BIN)/serein corpus prepare $(CORPUS) "$(DATA)" -o $(MANIFEST))
	@[ -f $(RUN)/recipe.yaml ] && resume=--resume || resume=; $(BIN)/serein run $(RECIPE) --data $(MANIFEST) --out $(RUN) $$resume
	@echo; echo "Held-out clips of the first fold, predicted by a model that was not trained on their speakers:"
	@fold=$$(ls -d $(RUN)/fold-*/ | head -n 1); $(BIN)/serein predict --model $${fold}seed-0/model $${fold}test.jsonl --max-files 12
	@fold=$$(ls -d $(RUN)/fold-*/ | head -n 1); [ -f src/serein/default_model/model.json ] && model= || model="--model $${fold}seed-0/model"; \
		echo; echo "One of them in segments, predicted by the default model if there is one, drawn in $(RUN)/segments.png:"; \
		$(BIN)/serein predict $$model $${fold}test.jsonl --max-files 1 --segments always --window 1 --plot $(RUN)/segments.png
	@echo; echo "The report: $(RUN)/report.html"

default-model: setup
	@[ -n "$(RAVDESS)" ] && [ -n "$(EMODB)" ] && [ -n "$(URDU)" ] || { echo "error: name the data: make default-model RAVDESS=<folder> EMODB=<folder> URDU=<table.csv>" >&2; exit 2; }
	@[ -f runs/default-model/ravdess.jsonl ] || $(BIN)/serein corpus prepare ravdess "$(RAVDESS)" -o runs/default-model/ravdess.jsonl
	@[ -f runs/default-model/emodb.jsonl ] || $(BIN)/serein corpus prepare emodb "$(EMODB)" -o runs/default-model/emodb.jsonl
	@[ -f runs/default-model/urdu.jsonl ] || $(BIN)/serein corpus prepare csv "$(URDU)" -o runs/default-model/urdu.jsonl
	$(BIN)/python tools/default_model.py --data runs/default-model/ravdess.jsonl --other emodb=runs/default-model/emodb.jsonl --other urdu=runs/default-model/urdu.jsonl

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(BIN)/pytest -n 2 -m "not slow"

test: lint
	$(BIN)/pytest -n 2 --durations=15 --cov --cov-report=term:skip-covered

clean:
	rm -rf .venv runs
