"""Learning from a teacher: its answers in the targets, copies and unlabelled clips, what it must not have seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import serein
from cli_fixtures import write_recipe
from serein import recipe as recipes
from serein.data import manifest
from serein.errors import LeakError, ModelError
from serein.evaluation.predictions import read_predictions
from serein.experiment import run as runs
from serein.experiment.build import resolve, tasks_with
from serein.experiment.data import prepare, targets_of
from serein.experiment.fold import distilled
from serein.training.stages import EpochLoaders, TrainingData

STAGE = {"name": "emotion", "epochs": 1, "checkpoint": "last"}


def silent(label: str, done: int, total: int, detail: str) -> None:
    """Report nothing."""


def recipe_of(folder: Path, *changes: str, **emotion: Any) -> recipes.Recipe:
    values = {"tasks": {"emotion": emotion}, "ensemble_size": 1, "stages": [STAGE]}
    write_recipe(folder / "r.yaml", {**values, "protocol": {"num_folds": 2, "dev": "none"}})
    return recipes.load(folder / "r.yaml", changes)


@pytest.fixture(scope="module")
def teacher(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two folds."""
    folder = tmp_path_factory.mktemp("teacher")
    runs.run(recipe_of(folder), tones, folder / "run", num_jobs=1)
    return folder / "run"


def targets(recipe: recipes.Recipe, data: Path, folder: Path) -> tuple[dict[str, np.ndarray], set[str]]:
    """Return id -> emotion's target on the first fold, and the ids of its training set."""
    experiment = prepare(recipe, data, silent)
    fold = experiment.folds.folds[0]
    tasks = tasks_with(experiment, fold, {})
    plain = targets_of(experiment, fold, tasks)
    teachers = {
        name: resolve(options.taught_by.teacher, fold.name, 0)
        for name, options in recipe.tasks.chosen.items()
        if options.taught_by
    }
    mixed = distilled(experiment, fold, tasks, plain, teachers=teachers, folder=folder, report=silent, label="")[
        "emotion"
    ]
    known = {u.id: mixed.values[p] for p, u in enumerate(experiment.utterances) if mixed.is_known[p]}
    return known, set(fold.train)


def test_targets_are_the_teachers_probabilities_and_the_labels(teacher: Path, tones: Path, tmp_path: Path) -> None:
    alone = recipe_of(tmp_path, distillation={"teacher": str(teacher), "weight": 1.0})
    said, train = targets(alone, tones, tmp_path / "alone")
    labels, _ = targets(recipe_of(tmp_path), tones, tmp_path / "labels")
    half, _ = targets(recipe_of(tmp_path, distillation={"teacher": str(teacher), "weight": 0.5}), tones, tmp_path / "h")
    warm = recipe_of(tmp_path, distillation={"teacher": str(teacher), "weight": 1.0, "temperature": 2.0})
    flat, _ = targets(warm, tones, tmp_path / "warm")
    assert set(said) == set(labels) == train
    for name, probabilities in said.items():
        assert probabilities.sum() == pytest.approx(1.0, abs=1e-5)
        assert 0 < probabilities.max() < 1
        assert half[name] == pytest.approx((probabilities + labels[name]) / 2, abs=1e-6)
        assert flat[name] == pytest.approx(np.sqrt(probabilities) / np.sqrt(probabilities).sum(), abs=1e-5)


def test_what_is_kept_is_what_the_teacher_predicts(teacher: Path, tones: Path, tmp_path: Path) -> None:
    classes = "labels.classes=[sad,angry,happy]"  # in another order than the teacher's
    recipe = recipe_of(tmp_path, classes, distillation={"teacher": str(teacher), "weight": 1.0})
    said, train = targets(recipe, tones, tmp_path / "said")
    predictor = serein.load(teacher / "fold-1" / "seed-0" / "model", "cpu")
    utterances = [utterance for utterance in manifest.read(tones) if utterance.id in train]
    for prediction in predictor.uncalibrated().predict(utterances):
        expected = [prediction.probabilities[name] for name in ("sad", "angry", "happy")]
        assert said[str(prediction.id)].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_each_fold_learns_from_that_folds_model(teacher: Path, tones: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, distillation={"teacher": str(teacher), "weight": 1.0})
    runs.run(recipe, tones, tmp_path / "student", num_jobs=1)
    answers = [tmp_path / "student" / f"fold-{fold}" / "seed-0" / "teacher_emotion.safetensors" for fold in (1, 2)]
    for path in answers:
        tested = read_predictions(teacher / path.parts[-3] / "seed-0" / "predictions.jsonl")
        assert len(load_file(path)["probabilities"]) == len(manifest.read(tones)) - len(tested)
    model = json.loads((answers[0].parent / "model" / "model.json").read_text())
    assert model["training"]["origins"]["teacher of emotion"]["model"] == str(teacher / "fold-1" / "seed-0" / "model")
    before = [path.stat().st_mtime_ns for path in answers]
    (tmp_path / "student" / "fold-2" / "seed-0" / "predictions.jsonl").unlink()
    runs.run(recipe, tones, tmp_path / "student", num_jobs=1, resume=True)
    assert [path.stat().st_mtime_ns for path in answers] == before  # the teacher is not asked again


def test_a_copy_is_taught_what_the_teacher_says_of_the_original(teacher: Path, tones: Path, tmp_path: Path) -> None:
    utterances = manifest.read(tones)
    changed = [u.model_copy(update={"id": f"{u.id}-copy", "copy_of": u.id, "end_s": 0.3}) for u in utterances]
    bare = [utterances[-1].model_copy(update={"id": "bare", "emotion": None, "end_s": 0.2, "speaker": "new"})]
    manifest.write([*utterances, *changed, *bare], tmp_path / "more.jsonl")
    recipe = recipe_of(tmp_path, distillation={"teacher": str(teacher), "weight": 0.5})
    said, train = targets(recipe, tmp_path / "more.jsonl", tmp_path / "said")
    copies = [u.id for u in changed if u.id in train]
    assert copies
    for name in copies:
        assert np.array_equal(said[name], said[name.removesuffix("-copy")])
    assert "bare" in said  # without a label it is learned all the same
    assert said["bare"].sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("sampling", ["balanced", "corpora"])
def test_a_teachers_class_does_not_count_when_classes_are_balanced(
    sampling: str, teacher: Path, tones: Path, tmp_path: Path
) -> None:
    utterances = manifest.read(tones)
    cut = {"emotion": None, "end_s": 0.2, "speaker": "new"}
    bare = [u.model_copy(update={"id": f"{u.id}-bare", **cut}) for u in utterances[:5]]
    manifest.write([*utterances, *bare], tmp_path / "more.jsonl")
    recipe = recipe_of(tmp_path, f"stages.0.sampling={sampling}", distillation={"teacher": str(teacher), "weight": 0.3})
    experiment = prepare(recipe, tmp_path / "more.jsonl", silent)
    fold = experiment.folds.folds[0]
    tasks = tasks_with(experiment, fold, {})
    teachers = {"emotion": resolve(str(teacher), fold.name, 0)}
    plain = targets_of(experiment, fold, tasks)
    taught = distilled(
        experiment, fold, tasks, plain, teachers=teachers, folder=tmp_path / "t", report=silent, label=""
    )
    data = [
        TrainingData(experiment.recordings, targets, experiment.positions(fold.train), [], recipe.clips)
        for targets in (plain, taught)
    ]
    drawn = [list(EpochLoaders(each, recipe.stages[0], 0, tasks).sampler) for each in data]
    assert drawn[1] == drawn[0]
    assert taught["emotion"].is_known.sum() == plain["emotion"].is_known.sum() + 5


def test_clips_of_a_class_that_the_teacher_lacks_have_their_label(
    teacher: Path, tones: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bored = [u.model_copy(update={"emotion": "bored"}) if u.emotion == "sad" else u for u in manifest.read(tones)]
    manifest.write(bored, tmp_path / "bored.jsonl")
    recipe = recipe_of(
        tmp_path, "labels.classes=[angry,bored,happy]", distillation={"teacher": str(teacher), "weight": 0.7}
    )
    with caplog.at_level("INFO"):
        said, train = targets(recipe, tmp_path / "bored.jsonl", tmp_path / "said")
    emotion_of = {u.id: u.emotion for u in bored if u.id in train}
    for name, emotion in emotion_of.items():
        assert (said[name].tolist() == [0.0, 1.0, 0.0]) == (emotion == "bored")
    num_bored = sum(emotion == "bored" for emotion in emotion_of.values())
    assert f"does not know bored; the label is the only target of these {num_bored} clips" in caplog.text


def test_a_teacher_that_learned_tested_speakers_is_refused(teacher: Path, tones: Path, tmp_path: Path) -> None:
    leaking = recipe_of(tmp_path, distillation={"teacher": str(teacher / "fold-1" / "seed-0" / "model")})
    with pytest.raises(LeakError, match="in both .* and test"):
        runs.run(leaking, tones, tmp_path / "run", num_jobs=1)


def test_where_speakers_are_shared_it_is_noted(teacher: Path, tones: Path, tmp_path: Path) -> None:
    source = teacher / "fold-1" / "seed-0" / "model"
    recipe = recipe_of(tmp_path, "protocol.name=random", distillation={"teacher": str(source)})
    notes = json.loads((runs.run(recipe, tones, tmp_path / "run", num_jobs=1) / "folds.json").read_text())["notes"]
    used = f"Training uses {source} (teacher of emotion), which was trained on 3 of 6 test speakers"
    assert f"{used}: it may have learned the test clips." in notes


def test_a_teacher_of_other_classes_is_refused(teacher: Path, tones: Path, tmp_path: Path) -> None:
    words = sorted({u.emotion or "" for u in manifest.read(tones)})
    rename = f"labels.merge={{{', '.join(f'{word}: {word}-x' for word in words)}}}"
    recipe = recipe_of(tmp_path, rename, distillation={"teacher": str(teacher)})
    with pytest.raises(ModelError, match="has none of the classes of 'emotion'"):
        runs.run(recipe, tones, tmp_path / "run", num_jobs=1)
    nowhere = recipe_of(tmp_path, distillation={"teacher": str(tmp_path / "nowhere")})
    with pytest.raises(ModelError, match="no such run or model"):
        runs.run(nowhere, tones, tmp_path / "run2", num_jobs=1)
