"""What a run folder holds, and that the test set has no say in what is learned."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.numpy import load_file

from cli_fixtures import RATE_HZ, SPEAKERS, Call, everything_in, tone, write_recipe
from serein import checkpoint as model_folder
from serein import recipe as recipes
from serein.data import manifest
from serein.data.manifest import Utterance
from serein.data.splits import make_folds
from serein.evaluation.predictions import read_predictions
from serein.experiment import data as experiment_data
from serein.experiment import fold as folds


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def silent(label: str, done: int, total: int, detail: str) -> None:
    """A `Report` that tells nobody."""


# -- what a run folder holds -----------------------------------------------------------------------------------------


def test_every_file_and_no_other(tiny_run: Path) -> None:
    names = {name for name in everything_in(tiny_run) if "events.out" not in name}
    unit = {
        "",
        "/0-emotion",
        "/0-emotion/metrics.jsonl",
        "/0-emotion/tensorboard",
        "/0-emotion/tensorboard/hparams.yaml",
        "/0-emotion/weights.safetensors",
        "/dev_predictions.jsonl",
        "/embeddings.safetensors",
        "/model",
        "/model/README.md",
        "/model/labels.json",
        "/model/model.json",
        "/model/model.safetensors",
        "/predictions.jsonl",
    }
    assert names - {".lock"} == {
        "data.json",
        "environment.json",
        "folds.json",
        "recipe.yaml",
        "report.html",
        "scores.json",
        *(f"fold-{fold}" for fold in (1, 2)),
        *(f"fold-{fold}/test.jsonl" for fold in (1, 2)),
        *(f"fold-{fold}/seed-0{name}" for fold in (1, 2) for name in unit),
    }


def test_weights_of_the_last_stage_are_stored_once(tiny_run: Path) -> None:
    unit = tiny_run / "fold-1" / "seed-0"
    assert (unit / "model" / "model.safetensors").samefile(unit / "0-emotion" / "weights.safetensors")


def test_recipe_reloads_equal(tiny_run: Path, tiny: Path) -> None:
    assert recipes.load(tiny_run / "recipe.yaml") == recipes.load(tiny)


@pytest.mark.slow
def test_overrides_are_in_the_stored_recipe(tiny: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    changes = ("--set", "stages.0.epochs=1", "--set", "protocol.only=['2']", "--set", "name=other")
    assert serein("run", tiny, "--data", tones, "--out", tmp_path / "r", "--jobs", 1, *changes).status == 0
    stored = recipes.load(tmp_path / "r" / "recipe.yaml")
    assert (stored.name, stored.stages[0].epochs, stored.protocol.only) == ("other", 1, ("2",))
    assert [path.name for path in sorted((tmp_path / "r").glob("fold-*"))] == ["fold-2"]
    assert [fold["name"] for fold in read(tmp_path / "r" / "folds.json")["folds"]] == ["2"]


@pytest.mark.slow
def test_some_folds_now_and_the_others_later(tiny: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    call = ("run", tiny, "--data", tones, "--out", tmp_path / "r", "--jobs", 1, "--set", "stages.0.epochs=1")
    outcome = serein(*call, "--folds", "2", "--json")
    assert outcome.status == 0, outcome.err
    assert not (tmp_path / "r" / "fold-1" / "seed-0").exists()
    assert any("Unfinished: fold 1" in note for note in json.loads(outcome.out)["notes"])
    assert serein(*call, "--folds", "1", "--resume").status == 0
    assert not any("Unfinished" in note for note in read(tmp_path / "r" / "scores.json")["notes"])
    assert "no fold 7; the folds are: 1, 2" in serein(*call, "--folds", "1,7", "--resume").complaint


def test_folds_are_stored_exactly_with_their_hash(tiny_run: Path, tiny: Path, tones: Path) -> None:
    stored = read(tiny_run / "folds.json")
    folds = make_folds(manifest.read(tones), recipes.load(tiny).protocol)
    assert stored["sha256"] == folds.sha256
    parts = [[f["name"], sorted(f["train"]), sorted(f["dev"]), sorted(f["test"])] for f in stored["folds"]]
    assert stored["sha256"] == hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    speakers = [{name.split("-")[0] for name in fold["test"]} for fold in stored["folds"]]
    assert [set(fold["test_speakers"]) for fold in stored["folds"]] == speakers
    assert sorted(name for group in speakers for name in group) == sorted(SPEAKERS)
    assert stored["is_speaker_independent"] is True


def test_hash_of_the_folds_follows_the_division_alone(tones: Path, tiny: Path) -> None:
    utterances, protocol = manifest.read(tones), recipes.load(tiny).protocol
    first = make_folds(utterances, protocol).sha256
    assert make_folds([u.model_copy(update={"emotion": "sad"}) for u in utterances], protocol).sha256 == first
    assert make_folds(utterances, protocol.model_copy(update={"seed": 1})).sha256 != first
    assert make_folds(utterances[:-1], protocol).sha256 != first


def test_data_and_environment_are_named(tiny_run: Path, tones: Path) -> None:
    data, environment = read(tiny_run / "data.json"), read(tiny_run / "environment.json")
    assert data["sha256"] == manifest.digest(manifest.read(tones))
    assert data["manifest"] == str(tones)
    assert data["classes"] == {"angry": 12, "happy": 12, "sad": 12}
    assert (data["num_utterances"], data["speakers"], data["corpora"]) == (36, 6, ["tones"])
    assert data["licences"] == {"tones": "not stated"}
    assert environment["torch"] == torch.__version__
    assert environment["command"].startswith("serein run ")
    assert environment["jobs"] == 1
    assert environment["num_threads"] >= 1
    assert environment["finished_s"] > 0


def test_every_unit_predicts_its_own_test_side(tiny_run: Path) -> None:
    for fold in read(tiny_run / "folds.json")["folds"]:
        unit = tiny_run / f"fold-{fold['name']}" / "seed-0"
        predictions = read_predictions(unit / "predictions.jsonl")
        assert [p.id for p in predictions] == fold["test"]
        assert [p.id for p in read_predictions(unit / "dev_predictions.jsonl")] == fold["dev"]
        assert [u.id for u in manifest.read(tiny_run / f"fold-{fold['name']}" / "test.jsonl")] == fold["test"]
        assert load_file(unit / "embeddings.safetensors")["embeddings"].shape == (len(predictions), 8)
        learned = model_folder.load(unit / "model").training
        assert set(learned["speakers"]).isdisjoint({f"tones/{speaker}" for speaker in fold["test_speakers"]})
        assert learned["num_utterances"] == len(fold["train"]) + len(fold["dev"])


def test_stored_model_gives_the_stored_predictions(tiny_run: Path, serein: Call) -> None:
    unit = tiny_run / "fold-1" / "seed-0"
    outcome = serein("predict", "--model", unit / "model", unit.parent / "test.jsonl", "--json")
    answers = [json.loads(line) for line in outcome.out.splitlines()]
    for answer, stored in zip(answers, read_predictions(unit / "predictions.jsonl"), strict=True):
        assert answer["label"] == stored.prediction
        assert answer["probabilities"] == pytest.approx(stored.probabilities, abs=1e-5)


def test_best_dev_score_is_that_of_the_dev_predictions(tiny_run: Path) -> None:
    unit = tiny_run / "fold-1" / "seed-0"
    lines = [json.loads(line) for line in (unit / "0-emotion" / "metrics.jsonl").read_text().splitlines()]
    predictions = read_predictions(unit / "dev_predictions.jsonl")
    recalls = [
        np.mean([p.prediction == p.truth for p in predictions if p.truth == name])
        for name in {p.truth for p in predictions}
    ]
    assert max(line["dev_ua"] for line in lines) == pytest.approx(np.mean(recalls))
    assert model_folder.load(unit / "model").training["dev_score"] == pytest.approx(np.mean(recalls))


# -- the test set has no say ----------------------------------------------------------------------------------------


def weights_of_first_fold(data: Path, recipe: Path, folder: Path) -> Mapping[str, np.ndarray]:
    """Train the first fold and return its weights."""
    loaded = recipes.load(recipe)
    experiment = experiment_data.prepare(loaded, data, silent)
    folds.run_fold(experiment, experiment.folds.folds[0], 0, folder, silent)
    weights: Mapping[str, np.ndarray] = load_file(folder / "fold-1" / "seed-0" / "model" / "model.safetensors")
    return weights


def with_other_test_side(tones: Path, test: set[str], folder: Path, what: str) -> Path:
    """Write a manifest in which the test set has other labels, or other recordings."""
    rng = np.random.default_rng(5)
    words = {"angry": "happy", "happy": "sad", "sad": "angry"}

    def changed(utterance: Utterance) -> Utterance:
        if utterance.id not in test:
            return utterance
        if what == "labels":
            return utterance.model_copy(update={"emotion": words[utterance.emotion or ""]})
        path = folder / f"{utterance.id}.wav"
        soundfile.write(path, tone(rng.uniform(100, 6000), rng.uniform(0.3, 2.0), rng), RATE_HZ)
        return utterance.model_copy(update={"audio": str(path)})

    path = folder / "m.jsonl"
    manifest.write((changed(u) for u in manifest.read(tones)), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("what", ["labels", "recordings"])
@pytest.mark.parametrize("normalisation", [["corpus"], ["level", "corpus"]])
def test_test_side_never_influences_training(
    what: str, normalisation: list[str], tones: Path, tiny_run: Path, tmp_path: Path
) -> None:
    """Not through the weights, the normalisation, the class weights, nor the choice of the epoch."""
    changes = {
        "backbone": {"normalisation": normalisation},
        "tasks": {"emotion": {"class_weights": "balanced", "batch_norm": True}},
    }
    recipe = write_recipe(tmp_path / "r.yaml", changes)
    test = set(read(tiny_run / "folds.json")["folds"][0]["test"])
    other = with_other_test_side(tones, test, tmp_path, what)
    first = weights_of_first_fold(tones, recipe, tmp_path / "a")
    second = weights_of_first_fold(other, recipe, tmp_path / "b")
    for name, weights in first.items():
        assert np.array_equal(weights, second[name]), name
    stored = [read_predictions(tmp_path / run / "fold-1" / "seed-0" / "predictions.jsonl") for run in ("a", "b")]
    if what == "labels":
        assert [p.prediction for p in stored[0]] == [p.prediction for p in stored[1]]
        assert all(one.truth != other.truth for one, other in zip(*stored, strict=True))


@pytest.mark.slow
def test_training_side_does_influence_it(tones: Path, tiny: Path, tiny_run: Path, tmp_path: Path) -> None:
    """The same change on the training set, so that the tests above can fail."""
    train = set(read(tiny_run / "folds.json")["folds"][0]["train"][:1])
    other = with_other_test_side(tones, train, tmp_path, "recordings")
    first = weights_of_first_fold(tones, tiny, tmp_path / "a")
    second = weights_of_first_fold(other, tiny, tmp_path / "b")
    assert not all(np.array_equal(weights, second[name]) for name, weights in first.items())


# -- folds, seeds, jobs ----------------------------------------------------------------------------------------------


def test_folds_do_not_hang_on_each_other(tiny_run: Path, tiny: Path, tones: Path, tmp_path: Path) -> None:
    """A fold alone, after another one or resumed beside it, is the same."""
    recipe = recipes.load(tiny, ["protocol.only=['2']"])
    experiment = experiment_data.prepare(recipe, tones, silent)
    folds.run_fold(experiment, experiment.folds.folds[0], 0, tmp_path, silent)
    for name in ("predictions.jsonl", "embeddings.safetensors", "model/model.safetensors"):
        alone, among = (run / "fold-2" / "seed-0" / name for run in (tmp_path, tiny_run))
        assert alone.read_bytes() == among.read_bytes()


@pytest.mark.slow
def test_several_seeds(tiny: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    changes = ("--set", "seeds=[3, 11]", "--set", "protocol.only=['1']", "--set", "stages.0.epochs=1")
    outcome = serein("run", tiny, "--data", tones, "--out", tmp_path / "r", "--jobs", 1, "--json", *changes)
    assert outcome.status == 0
    assert [seed["seed"] for seed in json.loads(outcome.out)["seeds"]] == [3, 11]
    units = [tmp_path / "r" / "fold-1" / f"seed-{seed}" for seed in (3, 11)]
    weights = [load_file(unit / "model" / "model.safetensors") for unit in units]
    assert any(not np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    ids = [[p.id for p in read_predictions(unit / "predictions.jsonl")] for unit in units]
    assert ids[0] == ids[1]


@pytest.mark.slow
def test_side_by_side_is_one_after_the_other(tiny_run: Path, tiny: Path, tones: Path, tmp_path: Path) -> None:
    """`--jobs 2` gives what `--jobs 1` gives when each process has the same number of threads."""
    if torch.get_num_threads() > 1:
        pytest.skip("needs OMP_NUM_THREADS=1: the number of threads may change the last bits of a sum")
    from serein.experiment import run as runs

    runs.run(recipes.load(tiny), tones, tmp_path / "r", resume=False, num_jobs=2, progress=silent)
    same = ("predictions.jsonl", "dev_predictions.jsonl", "embeddings.safetensors", "model/model.safetensors")
    for fold in ("1", "2"):
        for name in same:
            one, other = (run / f"fold-{fold}" / "seed-0" / name for run in (tiny_run, tmp_path / "r"))
            assert one.read_bytes() == other.read_bytes()
    assert read(tmp_path / "r" / "environment.json")["jobs"] == 2


def test_what_another_process_gets_is_what_this_one_prepared(tiny: Path, tones: Path) -> None:
    """All but the samples: each process decodes those it needs, and none looks for duplicates again."""
    experiment = experiment_data.prepare(recipes.load(tiny), tones, silent)
    experiment.recordings[0]
    sent = pickle.dumps(experiment)
    assert len(sent) < experiment.recordings[0].nbytes * len(experiment.utterances) / 2
    other = pickle.loads(sent)
    for name in ("recipe", "folds", "duplicates", "utterances", "left_out"):
        assert getattr(other, name) == getattr(experiment, name)
    assert other.main.spec == experiment.main.spec
    np.testing.assert_array_equal(other.recordings[0], experiment.recordings[0])


@pytest.mark.slow
def test_resumed_run_keeps_its_number_of_jobs_and_its_start(
    tiny_run: Path, tiny: Path, tones: Path, tmp_path: Path, serein: Call
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "r"))
    path = run / "environment.json"
    earlier = read(path) | {"started": "2020-01-01T00:00:00+0000", "finished_s": 1000.0}
    path.write_text(json.dumps(earlier))
    reworded = ("--set", "description=the same in other words")
    assert serein("run", tiny, "--data", tones, "--out", run, "--resume", *reworded).status == 0
    later = read(path)
    assert (later["jobs"], later["started"]) == (1, "2020-01-01T00:00:00+0000")
    assert later["finished_s"] >= 1000.0  # to a tenth of a second, which a fast machine does not need


def test_seeds_are_added_to_a_finished_run(
    tiny_run: Path, tiny: Path, tones: Path, tmp_path: Path, serein: Call
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "r"))
    weights = {path: path.read_bytes() for path in run.glob("fold-*/seed-0/model/*")}
    outcome = serein("run", tiny, "--data", tones, "--out", run, "--resume", "--set", "seeds=[0, 1]")
    assert outcome.status == 0
    assert {path: path.read_bytes() for path in weights} == weights  # nothing was trained again
    assert len(list(run.glob("fold-*/seed-1/predictions.jsonl"))) == len(list(run.glob("fold-*/seed-0")))
    at_once = tmp_path / "at-once"
    assert serein("run", tiny, "--data", tones, "--out", at_once, "--set", "seeds=[0, 1]").status == 0
    added, together = read(run / "scores.json"), read(at_once / "scores.json")
    assert added.keys() == together.keys()
    assert added["mean"] == pytest.approx(together["mean"])  # another number of threads sums in another order
    for fewer in ("[1]", "[1, 0]"):  # `serein train` learns with the first
        refused = serein("run", tiny, "--data", tones, "--out", run, "--resume", "--set", f"seeds={fewer}")
        assert "seeds may be appended" in refused.complaint
