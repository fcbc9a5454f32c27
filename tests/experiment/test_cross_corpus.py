"""Corpora against corpora: every pair, the diagonal by the protocol, each left out; classes free and the corpus's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cli_fixtures import SPEAKERS, Call, write_corpus, write_recipe
from serein import recipe as recipes
from serein.data import manifest
from serein.evaluation.predictions import REJECTED, EvalPrediction, adapted
from serein.experiment import cross_corpus
from serein.experiment.cross_corpus import OTHERS, CrossCorpus, cell_of

QUICK = {"epochs": 1}


def write_corpora(folder: Path, *names: str) -> list[object]:
    """Write corpora of two speakers; the first calls anger 'Wut', the last has no 'sad', return the options."""
    options: list[object] = []
    everyone = write_corpus(folder / "recordings", clips=1)
    for number, name in enumerate(names):
        speakers = SPEAKERS[2 * number : 2 * number + 2]
        utterances = [u.model_copy(update={"corpus": name}) for u in everyone if u.speaker in speakers]
        if number == 0:
            utterances = [
                u.model_copy(update={"emotion": {"angry": "Wut"}.get(u.emotion, u.emotion)}) for u in utterances
            ]
        if number == len(names) - 1:
            utterances = [u for u in utterances if u.emotion != "sad"]
        manifest.write(utterances, folder / f"{name}.jsonl")
        options += ["--data", folder / f"{name}.jsonl"]
    (folder / "labels.yaml").write_text("Wut: angry\n")
    return [*options, "--map", folder / "labels.yaml"]


def test_cells_by_hand() -> None:
    rows = [("sad", {"sad": 0.3, "calm": 0.3, "happy": 0.4}), ("calm", {"sad": 0.2, "calm": 0.7, "happy": 0.1})]
    predictions = [
        EvalPrediction(str(i), truth, max(p, key=p.__getitem__), probabilities=p) for i, (truth, p) in enumerate(rows)
    ]
    cell = cell_of("a", "b", [*predictions, EvalPrediction("x", "bored", "sad", probabilities=rows[0][1])], 3)
    assert cell.model is not None
    assert cell.corpus is not None
    assert (cell.model.pooled["ua"], cell.corpus.pooled["ua"], cell.num_left_out) == (50.0, 100.0, 1)
    assert cell.corpus.classes == ("sad", "calm")
    assert cell.text("model", 3) == "50.0 (2 classes)"
    assert cell.text("corpus", 3) == "100.0 (2 classes, chance 50.0)"
    assert cell.to_json()["corpus_classes"]["chance"] == 50.0
    assert cell_of("a", "b", [], 3).text("corpus", 3) == "–"


def test_an_adapted_model_predicts_all_classes_alike() -> None:
    """Each seed is a model of its own: both say calm too often, to different degrees, and know better than they say."""
    rows = [
        EvalPrediction(f"{number}", truth, "calm", {"sad": sad, "calm": 1 - sad}, seed=seed)
        for seed, shift in enumerate((0.0, 0.2))
        for number in range(100)
        for truth, sad in [("sad", 0.48 - shift) if number % 2 else ("calm", 0.30 - shift)]
    ]
    cell = cell_of("a", "b", rows, 100)
    assert cell.corpus is not None
    assert cell.adapted is not None
    assert (cell.corpus.pooled["ua"], cell.adapted.pooled["ua"]) == (50.0, 100.0)
    for seed in (0, 1):
        own = [each.probabilities for each in adapted(rows, ("sad", "calm")) if each.seed == seed]
        assert np.mean([each["sad"] for each in own if each]) == pytest.approx(0.5, abs=0.02)
    rejected = EvalPrediction("x", "sad", REJECTED, seed=1)
    assert adapted([*rows, rejected], ("sad", "calm"))[-1] is rejected


def test_remarks_state_what_each_corpus_resamples_and_its_caveats() -> None:
    def rows(speakers: str | None) -> list[EvalPrediction]:
        return [
            EvalPrediction(str(n), truth, "calm", {"calm": 0.6, "sad": 0.4}, speaker=speakers and f"{speakers}{n % 4}")
            for n, truth in enumerate(["calm", "sad"] * 8)
        ]

    tested = {"a": rows("s"), "b": rows(None)}
    cells = tuple(cell_of(row, name, own, 16) for row in (*tested, OTHERS) for name, own in tested.items())
    first, _, *others = CrossCorpus(dict.fromkeys(tested, ("calm", "sad")), cells, ("own",)).remarks
    assert first == "Per cent; 95 % intervals resample 4 speakers of a, 16 utterances of b."
    assert "a: Only 4 speakers: a bootstrap interval over so few is too narrow." in others
    assert others[-1].startswith("b: Speakers are unknown")
    assert others.count(others[-1]) == 1


def test_corpora_whose_names_differ_in_signs_have_folders_of_their_own(tmp_path: Path) -> None:
    names = ("my corpus", "my-corpus", "My corpus", "all")
    utterances = [
        u.model_copy(update={"corpus": name, "id": f"{name}/{u.id}"})
        for name in names
        for u in write_corpus(tmp_path / "recordings", clips=1)
    ]
    recipe = recipes.load(write_recipe(tmp_path / "r.yaml", {"protocol": {"dev": "none"}}, QUICK))
    folders = {name: each.folder for name, each in cross_corpus._corpora(utterances, recipe).items()}
    assert folders == {
        "all": "all-2",
        "My corpus": "My-corpus",
        "my corpus": "my-corpus-2",
        "my-corpus": "my-corpus-2-2",
    }
    backwards = cross_corpus._corpora(utterances[::-1], recipe)
    assert {name: each.folder for name, each in backwards.items()} == folders


@pytest.mark.slow
def test_every_corpus_against_every_other(tmp_path: Path, serein: Call) -> None:
    options = write_corpora(tmp_path, "one", "two", "three")
    recipe = write_recipe(tmp_path / "r.yaml", {"protocol": {"dev": "none"}}, QUICK)
    call = ["cross-corpus", recipe, *options, "--out", tmp_path / "x", "--jobs", 1]
    outcome = serein(*call, "--json")
    assert outcome.status == 0, outcome.err
    found = json.loads(outcome.out)
    pairs = [(cell["trained_on"], cell["tested_on"]) for cell in found["cells"]]
    names = ["one", "two", "three"]
    assert sorted(pairs) == sorted([(a, b) for a in (*names, OTHERS) for b in names])
    cells = dict(zip(pairs, found["cells"], strict=True))
    assert found["corpora"]["three"] == {"classes": ["angry", "happy"], "chance": 50.0}
    assert cells["one", "three"]["model_classes"]["classes"] == ["angry", "happy", "sad"]
    assert cells["one", "three"]["corpus_classes"]["classes"] == ["angry", "happy"]
    assert cells["one", "three"]["adapted"]["classes"] == ["angry", "happy"]
    assert cells["three", "one"]["num_left_out"] == 2  # its two sad clips
    assert cells[OTHERS, "three"]["corpus_classes"]["classes"] == ["angry", "happy"]
    assert all(cell["model_classes"]["num_utterances"] <= 6 for cell in found["cells"])
    assert json.loads((tmp_path / "x" / "cross-corpus.json").read_text()) == found
    assert "| all others |" in (tmp_path / "x" / "cross-corpus.md").read_text()
    assert (tmp_path / "x" / "cross-corpus.png").read_bytes().startswith(b"\x89PNG")
    folds = json.loads((tmp_path / "x" / "corpora-out" / "folds.json").read_text())
    assert [fold["name"] for fold in folds["folds"]] == sorted(names)

    models = {path: path.stat().st_mtime_ns for path in tmp_path.glob("x/**/model.safetensors")}
    (tmp_path / "x" / "predictions" / "one-on-two.jsonl").unlink()
    assert json.loads(serein(*call, "--json", "--resume").out) == found
    assert {path: path.stat().st_mtime_ns for path in models} == models
    assert "already exists" in serein(*call).complaint
    assert "different recipe" in serein(*call, "--resume", "--set", "stages.0.epochs=2").complaint


@pytest.mark.slow
def test_what_does_not_fit_is_named_before_training(tmp_path: Path, serein: Call) -> None:
    options = write_corpora(tmp_path, "one", "two")
    recipe = write_recipe(tmp_path / "r.yaml", {"protocol": {"dev": "none"}}, QUICK)
    call = ["cross-corpus", recipe, "--out", tmp_path / "x"]
    assert "all utterances belong to one corpus: one" in serein(*call, *options[:2]).complaint
    changed = serein(*call, *options, "--set", "protocol.name=corpora-out").complaint
    assert "does not divide a single corpus" in changed
    copied = [u.model_copy(update={"corpus": "two", "id": f"{u.id}-b"}) for u in manifest.read(tmp_path / "one.jsonl")]
    manifest.write(copied, tmp_path / "two.jsonl")
    assert "6 recordings are in two corpora" in serein(*call, *options).complaint
    assert not (tmp_path / "x").exists()


def test_dropped_labels_belong_to_no_class(tmp_path: Path) -> None:
    write_corpora(tmp_path, "one", "two", "three")
    utterances = [u for name in ("one", "two") for u in manifest.read(tmp_path / f"{name}.jsonl")]
    labels = {"classes": ["happy", "sad"], "drop": ["Wut", "angry"]}
    recipe = recipes.load(write_recipe(tmp_path / "r.yaml", {"protocol": {"dev": "none"}, "labels": labels}))
    assert [corpus.classes for corpus in cross_corpus._corpora(utterances, recipe).values()] == [("happy", "sad")] * 2


@pytest.mark.parametrize("classes", ["model", "corpus"])
def test_evaluate_among_the_classes_of_the_corpus(classes: str, tiny_run: Path, tmp_path: Path, serein: Call) -> None:
    utterances = [u for u in write_corpus(tmp_path / "c", speakers=("yan",), clips=1) if u.emotion != "sad"]
    manifest.write(utterances, tmp_path / "m.jsonl")
    model = tiny_run / "fold-1" / "seed-0" / "model"
    outcome = serein("evaluate", "--model", model, "--data", tmp_path / "m.jsonl", "--classes", classes, "--json")
    names = [each["name"] for each in json.loads(outcome.out)["classes"]]
    assert names == (["angry", "happy"] if classes == "corpus" else ["angry", "happy", "sad"])
    manifest.write(utterances[:1], tmp_path / "m.jsonl")
    arguments = ["--model", model, "--data", tmp_path / "m.jsonl", "--classes", "corpus"]
    assert "fewer than two classes of the model" in serein("evaluate", *arguments).complaint
