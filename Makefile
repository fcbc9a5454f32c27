# make demo    everything from set-up to a report, on the embedded corpus; CORPUS=ravdess DATA=<folder> on RAVDESS
# make check   set-up, lint, types, layers, the quick tests
# make test    set-up, lint, types, layers, all tests
# make coverage  all tests, and the lines that no test runs; tracing halves their speed
# make clean   delete the environment, built packages, and the run and data of make demo; keep all other runs
# make models  the models that ship with the package, and their cards, from the corpora (tools/shipped_models.sh)
PYTHON ?= python3
CORPUS ?= synth
DATA ?=
BIN := .venv/bin
RECIPE := recipes/$(if $(filter synth,$(CORPUS)),demo,$(CORPUS)).yaml
MANIFEST := runs/data/$(if $(filter synth,$(CORPUS)),synth/manifest,$(CORPUS)).jsonl
RUN := runs/demo-$(CORPUS)

unexport PYTHONDONTWRITEBYTECODE # each test process would compile all modules again

.PHONY: demo check test coverage lint setup clean models

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
	@fold=$$(ls -d $(RUN)/fold-*/ | head -n 1); [ -f src/serein/shipped_models/default/model.json ] && model= || model="--model $${fold}seed-0/model"; \
		echo; echo "One of them in segments, predicted by the default model if there is one, drawn in $(RUN)/segments.png:"; \
		$(BIN)/serein predict $$model $${fold}test.jsonl --max-files 1 --segments always --window 1 --plot $(RUN)/segments.png
	@echo; echo "The report: $(RUN)/report.html"

models: setup
	@[ -n "$(RAVDESS)" ] && [ -n "$(EMODB)" ] && [ -n "$(CREMAD)" ] && [ -n "$(NEMO)" ] && [ -n "$(URDU)" ] && [ -n "$(LIBRISPEECH)" ] && [ -n "$(NOISES)" ] && [ -n "$(ROOMS)" ] || { echo "error: name the data: make models RAVDESS=<folder> EMODB=<folder> CREMAD=<folder> NEMO=<folder> URDU=<table.csv> LIBRISPEECH=<table.csv> NOISES=<folder> ROOMS=<folder>" >&2; exit 2; }
	RAVDESS="$(RAVDESS)" EMODB="$(EMODB)" CREMAD="$(CREMAD)" NEMO="$(NEMO)" URDU="$(URDU)" LIBRISPEECH="$(LIBRISPEECH)" NOISES="$(NOISES)" ROOMS="$(ROOMS)" UNKNOWN_NOISES="$(UNKNOWN_NOISES)" UNKNOWN_ROOMS="$(UNKNOWN_ROOMS)" WHISPER="$(WHISPER)" PATH="$(CURDIR)/$(BIN):$$PATH" sh tools/shipped_models.sh

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

test: lint
	$(BIN)/pytest -n 2 --dist worksteal --durations=15

coverage: setup
	$(BIN)/pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered

clean:
	rm -rf .venv build dist runs/demo-synth runs/data/synth
