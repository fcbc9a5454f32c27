"""Runs whose model is told gender, runs of another task, the confident subset, and official splits of several tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli_fixtures import Call, everything_in, write_recipe
from serein.data import manifest
from serein.data.manifest import Predicted, Rating, Utterance

TOLD = {"tasks": {"emotion": {"conditioning": {"attributes": ["gender"], "mode": "sum"}}}}
OTHER = {"female": "male", "male": "female"}


def changed(tones: Path, path: Path, **changes: Any) -> Path:
    """Write the tones' manifest with fields that follow from each utterance."""
    utterances = [u.model_copy(update={k: f(u) for k, f in changes.items()}) for u in manifest.read(tones)]
    manifest.write(utterances, path)
    return path


def wrong(utterance: Utterance) -> Predicted:
    return Predicted(gender=OTHER[utterance.gender or ""])  # type: ignore[arg-type]


def probabilities(path: Path) -> dict[str, dict[str, float]]:
    return {row["id"]: row["probabilities"] for row in map(json.loads, path.read_text().splitlines())}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe") / "told.yaml", TOLD)


def test_both_attributes_are_judged_and_reported(tones: Path, told: Path, tmp_path: Path, serein: Call) -> None:
    data = changed(tones, tmp_path / "m.jsonl", predicted=wrong)
    outcome = serein("run", told, "--data", data, "--out", tmp_path / "run", "--jobs", 1, "--json")
    assert outcome.status == 0, outcome.err
    notes = json.loads(outcome.out)["notes"]
    assert any("as a model predicted them" in note for note in notes)
    assert any("(oracle) instead, pooled: UA" in note for note in notes)
    unit = tmp_path / "run" / "fold-1" / "seed-0"
    predicted, oracle = probabilities(unit / "predictions.jsonl"), probabilities(unit / "oracle_predictions.jsonl")
    assert predicted.keys() == oracle.keys()
    assert predicted != oracle  # every predicted gender is the other one

    swapped = changed(data, tmp_path / "swapped.jsonl", gender=lambda u: u.predicted.gender, predicted=lambda u: None)
    test = {row["id"] for row in map(json.loads, (unit / "predictions.jsonl").read_text().splitlines())}
    manifest.write((u for u in manifest.read(swapped) if u.id in test), tmp_path / "test.jsonl")
    arguments = (
        "evaluate",
        "--model",
        unit / "model",
        "--data",
        tmp_path / "test.jsonl",
        "--out",
        tmp_path / "said.jsonl",
    )
    assert serein(*arguments, "--conditions", "oracle").status == 0
    said = probabilities(tmp_path / "said.jsonl")
    assert said.keys() == predicted.keys()
    assert all(said[name] == pytest.approx(predicted[name], abs=1e-5) for name in said)


def test_without_predictions_the_remedy_is_named(tones: Path, told: Path, tmp_path: Path, serein: Call) -> None:
    outcome = serein("run", told, "--data", tones, "--out", tmp_path / "run")
    assert outcome.status == 1
    assert "no dev utterance has a predicted gender" in outcome.complaint
    assert "corpus annotate --gender" in outcome.complaint
    assert "inference.conditions=oracle" in outcome.complaint
    assert not (tmp_path / "run").exists()


def test_dev_that_is_scored_needs_predictions_too(tones: Path, told: Path, tmp_path: Path, serein: Call) -> None:
    """A challenge's release has no labelled test set, and `serein train` never has one."""
    parts = {"dan": "dev", "eva": "dev", "finn": "test3"}
    release = changed(
        tones,
        tmp_path / "release.jsonl",
        split=lambda u: parts.get(u.speaker, "train"),
        emotion=lambda u: None if u.speaker == "finn" else u.emotion,
    )
    official = ("--set", "protocol.name=official", "--set", "protocol.dev=official")
    options = (*official, "--set", "labels.unknown_labels=drop")
    for command in ("run", "train"):
        outcome = serein(command, told, "--data", release, "--out", tmp_path / command, *options)
        assert outcome.status == 1
        assert "no dev utterance has a predicted gender" in outcome.complaint
        assert not (tmp_path / command).exists()
    half = changed(release, tmp_path / "half.jsonl", predicted=lambda u: wrong(u) if u.speaker == "dan" else None)
    assert serein("run", told, "--data", half, "--out", tmp_path / "half", "--jobs", 1, *options).status == 0
    notes = json.loads((tmp_path / "half" / "folds.json").read_text())["notes"]
    assert "6 of 12 dev utterances have no predicted gender: it is unknown to the model." in notes


def test_labels_where_known_and_predictions_elsewhere(tones: Path, told: Path, tmp_path: Path, serein: Call) -> None:
    """As on the paper's dev set: `known` is the label, or else the prediction."""
    mixed = changed(
        tones,
        tmp_path / "mixed.jsonl",
        gender=lambda u: None if u.id.endswith("0") else u.gender,
        predicted=lambda u: Predicted(gender=u.gender) if u.id.endswith("0") else wrong(u),
    )
    units = {}
    for source, data in (("known", mixed), ("oracle", tones)):
        out = tmp_path / source
        choice = ("--jobs", 1, "--set", f"inference.conditions={source}")
        assert serein("run", told, "--data", data, "--out", out, *choice).status == 0
        units[source] = out / "fold-1" / "seed-0"
    known, oracle = (probabilities(unit / "predictions.jsonl") for unit in units.values())
    assert known == oracle  # every predicted gender that is used is right
    assert probabilities(units["known"] / "predicted_predictions.jsonl") != known
    scores = json.loads((tmp_path / "known" / "scores.json").read_text())
    assert any("or else as a model predicted them" in note for note in scores["notes"])


def test_oracle_alone_needs_no_predictions(tones: Path, told: Path, tmp_path: Path, serein: Call) -> None:
    out = tmp_path / "run"
    outcome = serein("run", told, "--data", tones, "--out", out, "--jobs", 1, "--set", "inference.conditions=oracle")
    assert outcome.status == 0, outcome.err
    assert "as the corpus labels them (oracle)" in " ".join(outcome.out.split())
    assert not list(out.glob("fold-*/seed-*/predicted_predictions.jsonl"))
    clip = manifest.read(tones)[0].audio
    assert serein("predict", "--model", out / "fold-1" / "seed-0" / "model", clip, "--json").status == 0


def test_a_task_by_itself_and_what_fill_makes_of_it(tones: Path, tiny: Path, tmp_path: Path, serein: Call) -> None:
    out = tmp_path / "gender"
    outcome = serein("run", tiny, "--data", tones, "--task", "gender", "--out", out, "--jobs", 1, "--json")
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)["confusion_matrix"]["classes"] == ["female", "male"]
    filled = tmp_path / "filled.jsonl"
    assert serein("corpus", "annotate", tones, "--gender", out, "-o", filled).status == 0
    assert all(u.predicted is not None and u.predicted.gender in OTHER for u in manifest.read(filled))
    model = out / "fold-1" / "seed-0" / "model"
    answer = json.loads(
        serein("predict", "--model", model, manifest.read(tones)[0].audio, "--segments", "never", "--json").out
    )
    assert answer["label"] in OTHER
    refusal = serein("train", tiny, "--data", tones, "--task", "mood", "--out", tmp_path / "no")
    assert "unknown task 'mood', expected one of: emotion, words, gender" in refusal.complaint


def test_two_tasks_share_a_model(tones: Path, tmp_path: Path, serein: Call) -> None:
    both = write_recipe(tmp_path / "both.yaml", {"tasks": {"gender": {"pooling": "mean", "weight": 0.5}}})
    assert serein("run", both, "--data", tones, "--out", tmp_path / "run", "--jobs", 1).status == 0
    unit = tmp_path / "run" / "fold-1" / "seed-0"
    line = json.loads((unit / "0-emotion" / "metrics.jsonl").read_text().splitlines()[0])
    assert {"dev_ua", "dev_gender_ua", "dev_macro_f1"} <= line.keys()
    assert set(json.loads((unit / "model" / "labels.json").read_text())) == {"emotion", "gender"}


def test_only_what_raters_agree_on_is_learned(tones: Path, tiny: Path, tmp_path: Path, serein: Call) -> None:
    def ratings(utterance: Utterance) -> tuple[Rating, ...]:
        right = 4 if utterance.id.endswith("0") else 3
        others = {"angry": "sad", "sad": "happy", "happy": "angry"}
        said = [utterance.emotion] * right + [others[utterance.emotion or ""]] * (5 - right)
        return tuple(Rating(labels=(label or "",)) for label in said)

    data = changed(tones, tmp_path / "m.jsonl", ratings=ratings)
    out = tmp_path / "run"
    arguments = ("run", tiny, "--data", data, "--out", out, "--jobs", 1, "--set", "labels.min_agreement=0.8")
    assert serein(*arguments).status == 0
    folds = json.loads((out / "folds.json").read_text())
    assert all(name.endswith("0") for fold in folds["folds"] for name in fold["train"])
    assert any(name.endswith("1") for fold in folds["folds"] for name in fold["test"])
    assert any("80% of the raters" in note for note in folds["notes"])
    refusal = serein("run", tiny, "--data", tones, "--out", tmp_path / "no", "--set", "labels.min_agreement=0.8")
    assert "no utterance has labels from several raters" in refusal.complaint


def test_test_sides_of_one_official_split_share_a_training(
    tones: Path, tiny: Path, tmp_path: Path, serein: Call
) -> None:
    """Speakers of the second test set are unknown, as in MSP-Podcast."""
    parts = {"anna": "train", "ben": "train", "cleo": "dev", "dan": "dev", "eva": "test1", "finn": "test2"}
    data = changed(
        tones,
        tmp_path / "m.jsonl",
        split=lambda u: parts[u.speaker],
        speaker=lambda u: None if u.speaker == "finn" else u.speaker,
    )
    official = ("--set", "protocol.name=official", "--set", "protocol.dev=official")
    for jobs in (1, 2):
        out = tmp_path / f"run{jobs}"
        outcome = serein("run", tiny, "--data", data, "--out", out, "--jobs", jobs, *official, "--json")
        assert outcome.status == 0, outcome.err
        assert [fold["fold"] for fold in json.loads(outcome.out)["folds"]] == ["test1", "test2"]
        assert (out / "fold-test1" / "seed-0" / "model").is_dir()
        assert not (out / "fold-test2" / "seed-0" / "0-emotion").exists()
        assert any("have no speaker" in note for note in json.loads((out / "folds.json").read_text())["notes"])
    before = everything_in(tmp_path / "run1" / "fold-test1")
    assert serein("report", tmp_path / "run1").status == 0
    assert everything_in(tmp_path / "run1" / "fold-test1") == before


def test_genders_of_an_official_split_are_filled_but_for_what_was_learned(
    tones: Path, tiny: Path, tmp_path: Path, serein: Call
) -> None:
    """Dev and test are predicted, so are utterances without a label; the train set is told its labels."""
    parts = {"anna": "train", "ben": "train", "cleo": "dev", "dan": "dev", "eva": "test", "finn": "test"}
    data = changed(
        tones,
        tmp_path / "m.jsonl",
        split=lambda u: parts[u.speaker],
        gender=lambda u: None if u.speaker == "finn" else u.gender,
    )
    official = ("--set", "protocol.name=official", "--set", "protocol.dev=official")
    out = tmp_path / "gender"
    arguments = ("run", tiny, "--data", data, "--task", "gender", "--out", out, "--jobs", 1, *official)
    assert serein(*arguments).status == 0
    assert serein("corpus", "annotate", data, "--gender", out, "-o", tmp_path / "filled.jsonl").status == 0
    has = {
        u.speaker: u.predicted is not None and u.predicted.gender in OTHER
        for u in manifest.read(tmp_path / "filled.jsonl")
    }
    assert has == {"anna": False, "ben": False, "cleo": True, "dan": True, "eva": True, "finn": True}
