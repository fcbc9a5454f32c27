"""A challenge's release: train, dev, and a test set whose labels are kept. Dev is scored, the test set is submitted."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from cli_fixtures import Call, write_recipe
from serein.cli.app import finish
from serein.data import manifest
from serein.data.splits import make_folds
from serein.errors import ManifestError
from serein.evaluation.predictions import read_predictions
from serein.experiment import run as runs
from serein.inference.prediction import Prediction
from serein.inference.writers import msp_challenge
from serein.recipe import Protocol

SPLITS = {"anna": "train", "ben": "train", "cleo": "train", "dan": "dev", "eva": "dev", "finn": "test3"}
OFFICIAL = {"protocol": {"name": "official", "dev": "official"}, "labels": {"unknown_labels": "drop"}}


@pytest.fixture(scope="module")
def release(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("release") / "m.jsonl"
    changed = []
    for u in manifest.read(tones):
        hidden = {"emotion": None, "speaker": None} if SPLITS[u.speaker or ""] == "test3" else {}
        changed.append(u.model_copy(update={"split": SPLITS[u.speaker or ""], **hidden}))
    manifest.write(changed, path)
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml", OFFICIAL, {"epochs": 1})


@pytest.fixture(scope="module")
def run(recipe: Path, release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = runs.run(recipe, release, tmp_path_factory.mktemp("runs") / "run", num_jobs=1)
    finish(out, as_json=True)
    return out


def test_a_run_scores_dev_and_says_so(run: Path) -> None:
    scores = json.loads((run / "scores.json").read_text())
    assert scores["num_utterances"] == 12
    assert {speaker["name"] for speaker in scores["speakers"]} == {"dan", "eva"}
    assert any("dev is scored" in note for note in scores["notes"])
    assert "dev is scored" in (run / "report.html").read_text()
    assert scores["calibration"].get("fitted_on") != "dev"
    unit = run / "fold-official" / "seed-0"
    ids = [p.id for p in read_predictions(unit / "predictions.jsonl")]
    assert ids == [p.id for p in read_predictions(unit / "dev_predictions.jsonl")]
    assert not (run / "fold-official" / "test.jsonl").exists()


def test_a_table_is_reproduced_on_dev(serein: Call, recipe: Path, release: Path, tmp_path: Path) -> None:
    rows = [{"name": "mean"}, {"name": "std", "set": {"tasks.emotion.pooling": "std"}}, {"name": "e", "ensemble": True}]
    content = {"paper": "doe2020", "table": 1, "caption": "P.", "corpus": "T", "published_on": "dev", "rows": rows}
    table = recipe.with_name("t.yaml")
    table.write_text(yaml.safe_dump({**content, "base": recipe.name}))
    call = ("reproduce", table, "--data", release, "--out", tmp_path / "o", "--seeds", 1, "--jobs", 1)
    refused = serein(*call)
    assert "no utterance of the official test set has an emotion. Choose --split dev." in refused.complaint
    assert not list((tmp_path / "o").glob("*/seed-*"))
    outcome = serein(*call, "--split", "dev", "--json")
    assert outcome.status == 0, outcome.err
    found = json.loads(outcome.out)
    assert all(row["ours"] for row in found["rows"])
    assert "dev predictions for 12 utterances" in " ".join(found["notes"])
    assert "fitted by COBYLA to the other of five parts, which divide the speakers." in " ".join(found["notes"])


def test_an_ensemble_is_fitted_on_dev_with_nested_folds(serein: Call, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text((run / "fold-official" / "seed-0" / "predictions.jsonl").read_text())
    refused = serein("ensemble", run, other)
    assert "has no test set with labels. Use --split dev" in refused.complaint


def test_the_submission_file_of_test3(serein: Call, run: Path, release: Path, tmp_path: Path) -> None:
    model = run / "fold-official" / "seed-0" / "model"
    file = tmp_path / "test3.csv"
    outcome = serein("predict", "--model", model, release, "--format", "msp-challenge", "--out", file)
    assert outcome.status == 0, outcome.err
    lines = list(csv.DictReader(file.open()))
    wanted = [Path(u.audio).name for u in manifest.read(release) if u.split == "test3"]
    assert [line["FileName"] for line in lines] == wanted
    assert {line["EmoClass"] for line in lines} <= {"A", "H", "S"}


def test_a_submission_of_attributes() -> None:
    dimensions = {"arousal": 0.5, "valence": 0.25, "dominance": 1.0}
    said = Prediction(None, file="x/MSP-PODCAST_test3_0001.wav", task="dimensions", dimensions=dimensions)
    assert msp_challenge([said]) == "FileName,EmoAct,EmoVal,EmoDom\nMSP-PODCAST_test3_0001.wav,4.0000,2.5000,7.0000\n"


def test_without_dev_nothing_could_be_scored(release: Path) -> None:
    labelled = [u for u in manifest.read(release) if u.emotion is not None]
    with pytest.raises(ManifestError, match="needs 'train' and 'test'"):
        make_folds(labelled, Protocol(name="official", dev="none"))
