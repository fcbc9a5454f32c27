"""Tasks per stage: which learn, with which weights, on which utterances; what no stage ever gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from cli_fixtures import TINY, merged
from serein import recipe as recipes
from serein.data import manifest
from serein.data.dataset import Targets
from serein.data.manifest import Utterance
from serein.data.splits import Fold, check_targets
from serein.errors import LeakError, RecipeError
from serein.experiment import build
from serein.experiment import data as experiment_data
from serein.experiment import fold as folds
from serein.experiment.data import Experiment
from serein.experiment.fold import train_fold
from serein.training.module import StageModule, loss_weights
from serein.training.stages import TrainingData

SAID = {"angry": "go", "happy": "see the", "sad": "oh no"}
STAGE = TINY["stages"][0]
BASE = merged(TINY, {"encoder": {"time_downsampling": 1}, "tasks": {"asr": {}, "gender": {"pooling": "mean"}}})


def silent(label: str, done: int, total: int, detail: str) -> None:
    """A `Report` that tells nobody."""


def recipe_of(values: Mapping[str, Any], *stages: Mapping[str, Any]) -> recipes.Recipe:
    """Return the tiny recipe with other tasks and stages."""
    named = [{**STAGE, "epochs": 1, "name": f"stage{number}", **stage} for number, stage in enumerate(stages)]
    return recipes.validate({**merged(BASE, values), "stages": named}, where="test")


@pytest.fixture
def spoken(tones: Path, tmp_path: Path) -> Path:
    """The tones, which are said to say something."""
    said = [u.model_copy(update={"transcript": SAID[u.emotion or ""]}) for u in manifest.read(tones)]
    manifest.write(said, tmp_path / "spoken.jsonl")
    return tmp_path / "spoken.jsonl"


def prepared(recipe: recipes.Recipe, data: Path) -> Experiment:
    return experiment_data.prepare(recipe, data, silent)


def trained(recipe: recipes.Recipe, data: Path, folder: Path) -> dict[str, np.ndarray]:
    """Train the first fold and return the weights of all stages together."""
    experiment = prepared(recipe, data)
    train_fold(experiment, experiment.folds.folds[0], 0, folder, silent, label="x")
    stages = sorted(folder.glob("[0-9]-*/weights.safetensors"))
    return {f"{path.parent.name}/{name}": value for path in stages for name, value in load_file(path).items()}


def metrics(stage: Path) -> dict[str, float]:
    last: dict[str, float] = json.loads((stage / "metrics.jsonl").read_text().splitlines()[-1])
    return last


# -- the loss by hand ------------------------------------------------------------------------------------------------


def module_of(recipe: recipes.Recipe, data: Path) -> StageModule:
    experiment = prepared(recipe, data)
    tasks = experiment_data.tasks_of(experiment, experiment.folds.folds[0])
    model = build.new_model(recipe, tasks)
    return StageModule(model, tasks, recipe.stages[0], num_steps=1, seed=0)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (["asr"], 0.1 * 2 + 0.9 * 3),
        (["asr", "gender"], 0.1 * 2 + 0.45 * (3 + 5)),
        (["asr", "gender", "speaker"], 0.1 * 2 + 0.3 * (3 + 5 + 7)),
    ],
)
def test_the_loss_of_equation_1_by_hand(others: list[str], expected: float, spoken: Path) -> None:
    """L = a * L_emotion + (1 - a) / n * (the sum of n others), a = 0.1, for one, two and three others."""
    tasks = {name: {} for name in others}
    recipe = recipe_of({"tasks": {"gender": None, "asr": None, **tasks}}, {"main_task_weight": 0.1})
    module = module_of(recipe, spoken)
    values = dict(zip(("emotion", "asr", "gender", "speaker"), (2.0, 3.0, 5.0, 7.0), strict=True))
    losses = {name: torch.tensor(values[name]) for name in ("emotion", *others)}
    assert float(module.weighted(losses, {})) == pytest.approx(expected)


def test_a_task_that_a_batch_lacks_leaves_the_other_weights_as_they_are(spoken: Path) -> None:
    module = module_of(recipe_of({}, {"main_task_weight": 0.1}), spoken)
    assert float(module.weighted({"gender": torch.tensor(2.0)}, {})) == pytest.approx(0.45 * 2)


def test_without_a_share_each_loss_has_its_own_weight(spoken: Path) -> None:
    module = module_of(recipe_of({"tasks": {"asr": {"weight": 0.5}}}, {}), spoken)
    assert module.weights == {"emotion": 1.0, "gender": 1.0, "asr": 0.5}
    assert loss_weights({"emotion": module.tasks["emotion"]}, 0.1) == {"emotion": 1.0}


# -- which tasks learn -----------------------------------------------------------------------------------------------


def test_only_the_stages_tasks_learn_and_are_scored(spoken: Path, tmp_path: Path) -> None:
    recipe = recipe_of({}, {"tasks": ["asr", "gender"]}, {"tasks": ["emotion", "asr"], "trainable": ["heads"]})
    weights = trained(recipe, spoken, tmp_path / "unit")
    by_stage = [
        {name.split("/", 1)[1]: value for name, value in weights.items() if name.startswith(f"{number}-")}
        for number in (0, 1)
    ]
    moved = {name for name, value in by_stage[0].items() if not np.array_equal(value, by_stage[1][name])}
    assert {name.split(".heads.")[1].split(".")[0] for name in moved} == {"emotion", "asr"}
    first, second = (metrics(tmp_path / "unit" / f"{number}-stage{number}") for number in (0, 1))
    assert {"dev_word_accuracy", "dev_gender_ua", "train_asr_loss", "train_gender_loss"} <= first.keys()
    assert not any("emotion" in name for name in first)
    assert {"dev_ua", "dev_asr_word_accuracy", "train_emotion_loss"} <= second.keys()
    assert not any("gender" in name for name in second)


def test_the_head_of_a_task_that_does_not_learn_keeps_its_first_weights(spoken: Path, tmp_path: Path) -> None:
    recipe = recipe_of({}, {"tasks": ["gender"]}, {"tasks": ["asr"]}, {"tasks": ["emotion"]})
    experiment = prepared(recipe, spoken)
    fold = experiment.folds.folds[0]
    torch.manual_seed(folds.stage_seed(0, fold.name, "model"))
    first = build.new_model(recipe, experiment_data.tasks_of(experiment, fold)).state_dict()
    weights = trained(recipe, spoken, tmp_path / "unit")
    for stage, untouched in (("0-stage0", "emotion"), ("0-stage0", "asr"), ("1-stage1", "emotion")):
        names = [name for name in first if f".heads.{untouched}." in name]
        assert names
        assert all(np.array_equal(weights[f"{stage}/{name}"], first[name].numpy()) for name in names)


@pytest.mark.parametrize(
    ("stage", "complaint"),
    [
        ({"tasks": ["emotion"]}, "no stage trains gender, asr"),
        ({"tasks": ["emotion", "style"]}, "learns style, which 'tasks' does not contain"),
        ({"tasks": ["asr", "asr", "emotion", "gender"]}, "names a task twice"),
        ({"tasks": ["asr", "emotion", "gender"], "monitor": "macro_f1"}, "but its first task 'asr' has only"),
        ({"monitor": "word_accuracy"}, "but its first task 'emotion' has only"),
        ({"spectrogram_augmentation": {"mixup": 0.2}}, "'asr' cannot be mixed"),
    ],
)
def test_what_does_not_fit_is_said(stage: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        recipe_of({}, stage)


def test_a_share_leaves_no_room_for_weights() -> None:
    with pytest.raises(RecipeError, match="excludes the weight of asr"):
        recipe_of({"tasks": {"asr": {"weight": 0.5}}}, {"main_task_weight": 0.1})


# -- speakers --------------------------------------------------------------------------------------------------------


def test_speakers_are_those_of_the_training_side(spoken: Path) -> None:
    experiment = prepared(recipe_of({"tasks": {"speaker": {}}}, {}), spoken)
    for fold in experiment.folds.folds:
        tasks = experiment_data.tasks_of(experiment, fold)
        by_id = {u.id: u for u in experiment.utterances}
        assert tasks["speaker"].spec.classes == tuple(sorted({f"tones/{by_id[i].speaker}" for i in fold.train}))
        targets = experiment_data.targets_of(experiment, fold, tasks)["speaker"]
        assert targets.is_known[experiment.positions(fold.train)].all()
        assert not targets.is_known[experiment.positions((*fold.dev, *fold.test))].any()


def test_speakers_alone_are_learned_and_judged_where_the_protocol_shares_them(spoken: Path, tmp_path: Path) -> None:
    tasks = {"emotion": None, "asr": None, "gender": None, "speaker": {"pooling": "std"}}
    recipe = recipe_of({"tasks": tasks, "protocol": {"name": "random"}}, {})
    experiment = prepared(recipe, spoken)
    folds.run_fold(experiment, experiment.folds.folds[0], 0, tmp_path, silent)
    lines = [json.loads(line) for line in (tmp_path / "fold-1/seed-0/predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 18
    assert {line["truth"] for line in lines} == {f"tones/{u.speaker}" for u in experiment.utterances}
    with pytest.raises(RecipeError, match="do not occur in training"):
        prepared(recipe_of({"tasks": tasks}, {}), spoken)


def test_an_official_split_may_share_speakers_when_it_is_asked_to(spoken: Path, tmp_path: Path) -> None:
    splits = [u.model_copy(update={"split": "test" if u.id.endswith("1") else "train"}) for u in manifest.read(spoken)]
    manifest.write(splits, tmp_path / "split.jsonl")
    tasks = {"emotion": None, "asr": None, "gender": None, "speaker": {}}
    protocol = {"name": "official", "dev": "none"}
    with pytest.raises(LeakError, match="speakers in both train and test"):
        prepared(recipe_of({"protocol": protocol}, {}), tmp_path / "split.jsonl")
    shared = recipe_of({"tasks": tasks, "protocol": {**protocol, "speakers": "shared"}}, {})
    folds = prepared(shared, tmp_path / "split.jsonl").folds
    assert not folds.is_speaker_independent
    assert any("SPEAKER-DEPENDENT" in note for note in folds.notes)


# -- mixed corpora ---------------------------------------------------------------------------------------------------


def with_readers(spoken: Path, folder: Path, **fields: object) -> Path:
    """Add six clips of three readers, who have a transcript and no emotion."""
    utterances = manifest.read(spoken)
    read = [
        Utterance(
            id=f"reader{number}",
            audio=utterances[6 * number].audio,
            end_s=0.25,
            speaker=f"reader{number // 2}",
            transcript="a book",
            corpus="read",
        ).model_copy(update=fields)
        for number in range(6)
    ]
    manifest.write([*utterances, *read], folder / "mixed.jsonl")
    return folder / "mixed.jsonl"


def test_what_has_no_label_of_the_main_task_is_learned_from_and_never_tested(spoken: Path, tmp_path: Path) -> None:
    recipe = recipe_of({"tasks": {"gender": None}}, {})
    mixed, plain = prepared(recipe, with_readers(spoken, tmp_path)), prepared(recipe, spoken)
    for fold, before in zip(mixed.folds.folds, plain.folds.folds, strict=True):
        assert fold.test == before.test
        added = {*fold.train, *fold.dev} - {*before.train, *before.dev}
        assert added == {f"reader{number}" for number in range(6)}
        targets = experiment_data.targets_of(mixed, fold, experiment_data.tasks_of(mixed, fold))
        places = mixed.positions(sorted(added))
        assert targets["asr"].is_known[places].all()
        assert not targets["emotion"].is_known[places].any()
    said = "6 utterances have no emotion: other tasks or a teacher's predictions are learned from 6"
    assert any(said in note for note in mixed.folds.notes)
    assert "b" in experiment_data.tasks_of(mixed, mixed.folds.folds[0])["asr"].alphabet.letters
    trained(recipe, with_readers(spoken, tmp_path), tmp_path / "unit")


def test_a_readers_speaker_is_in_train_or_dev(spoken: Path, tmp_path: Path) -> None:
    mixed = prepared(recipe_of({"tasks": {"gender": None}}, {}), with_readers(spoken, tmp_path))
    by_id = {u.id: u.speaker for u in mixed.utterances}
    for fold in mixed.folds.folds:
        assert {by_id[i] for i in fold.train}.isdisjoint(by_id[i] for i in fold.dev)
        assert any((by_id[i] or "").startswith("reader") for i in fold.dev)


def test_clips_of_a_test_speaker_without_a_label_are_left_out_of_the_fold(spoken: Path, tmp_path: Path) -> None:
    data = with_readers(spoken, tmp_path, speaker="anna", corpus="tones")
    mixed = prepared(recipe_of({"tasks": {"gender": None}}, {}), data)
    by_id = {u.id: u for u in mixed.utterances}
    for fold in mixed.folds.folds:
        has_readers = any(name.startswith("reader") for name in (*fold.train, *fold.dev))
        assert has_readers != any(by_id[i].speaker == "anna" for i in fold.test)


def test_what_nobody_can_learn_from_is_left_out_or_an_error(spoken: Path, tmp_path: Path) -> None:
    data = with_readers(spoken, tmp_path, transcript=None)
    tasks = {"tasks": {"gender": None}}
    with pytest.raises(RecipeError, match=r"6 utterances belong to none of the classes: 6 \(no emotion\)"):
        prepared(recipe_of(tasks, {}), data)
    dropped = prepared(recipe_of({**tasks, "labels": {"unknown_labels": "drop"}}, {}), data)
    assert dropped.left_out == {"(no emotion)": 6}
    refused = recipe_of({**tasks, "labels": {"unknown_labels": "drop", "unlabelled": "drop"}}, {})
    assert prepared(refused, with_readers(spoken, tmp_path)).left_out == {"(no emotion)": 6}


def test_a_stage_uses_only_clips_with_a_target_of_its_tasks(
    spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The readers' clips are learned in the stages with transcripts, and change nothing in the one without."""
    recipe = recipe_of({"tasks": {"gender": None}}, {"tasks": ["emotion"]}, {"tasks": ["emotion", "asr"]})
    monkeypatch.setattr(folds, "fit_backbones", lambda *_, **__: None)  # bands are fitted to all clips
    train_stage = folds.train_stage
    used: list[set[str]] = []

    def noted(model: Any, tasks: Any, stage: Any, data: TrainingData, *arguments: Any, **options: Any) -> None:
        used.append({data.recordings.utterances[position].id for position in (*data.train, *data.dev)})
        train_stage(model, tasks, stage, data, *arguments, **options)

    monkeypatch.setattr(folds, "train_stage", noted)
    plain = trained(recipe, spoken, tmp_path / "plain")
    mixed = trained(recipe, with_readers(spoken, tmp_path), tmp_path / "mixed")
    assert [each - used[0] for each in used] == [set(), set(), set(), {f"reader{number}" for number in range(6)}]
    names = [name for name in plain if name.startswith("0-") and ".heads.asr." not in name]  # other letters
    assert all(np.array_equal(plain[name], mixed[name]) for name in names)
    before, after = (metrics(tmp_path / run / "0-stage0") for run in ("plain", "mixed"))
    assert [after[name] for name in ("train_loss", "dev_ua")] == [before[name] for name in ("train_loss", "dev_ua")]


def test_a_stage_without_any_target_is_an_error(spoken: Path, tmp_path: Path) -> None:
    recipe = recipe_of({"tasks": {"asr": None}}, {"tasks": ["gender"], "checkpoint": "last"}, {"tasks": ["emotion"]})
    experiment = prepared(recipe, spoken)
    fold = experiment.folds.folds[0]
    tasks = experiment_data.tasks_of(experiment, fold)
    for place in experiment.positions(fold.train):
        experiment.utterances[place] = experiment.utterances[place].model_copy(update={"gender": None})
    with pytest.raises(RecipeError, match="no training utterance of fold 1 has a target of gender, which stage"):
        experiment_data.targets_of(experiment, fold, tasks)


# -- adversaries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["corpus", "language"])
def test_corpus_or_language_can_be_an_adversary(task: str, spoken: Path, tmp_path: Path) -> None:
    """With a corpus left out, its name is no class; the reversed gradient changes the layers below the head."""
    utterances = manifest.read(spoken)
    speakers = sorted({u.speaker or "" for u in utterances})
    names = {name: ("one", "two", "three")[number % 3] for number, name in enumerate(speakers)}
    own = [u.model_copy(update=dict.fromkeys(("corpus", "language"), names[u.speaker or ""])) for u in utterances]
    manifest.write(own, tmp_path / "corpora.jsonl")
    found = {}
    for strength in (None, 1.0):
        tasks = {"asr": None, "gender": None, task: {"pooling": "mean", "gradient_reversal": strength}}
        changes = {"tasks": tasks, "protocol": {"name": "corpora-out", "dev": "none"}}
        recipe = recipe_of(changes, {"checkpoint": "last"})
        experiment = prepared(recipe, tmp_path / "corpora.jsonl")
        fold = next(fold for fold in experiment.folds.folds if fold.name == "three")
        assert experiment_data.tasks_of(experiment, fold)[task].spec.classes == ("one", "two")
        folder = tmp_path / str(strength)
        train_fold(experiment, fold, 0, folder, silent, label="x")
        found[strength] = load_file(next(folder.glob("0-*/weights.safetensors")))
    below = next(name for name, weight in found[None].items() if ".encoder." in name and weight.ndim > 1)
    assert not np.array_equal(found[None][below], found[1.0][below])


def test_an_adversary_needs_two_corpora(spoken: Path) -> None:
    with pytest.raises(RecipeError, match=r"tasks\.corpus: the data .* has only 'tones' in the field 'corpus'"):
        prepared(recipe_of({"tasks": {"corpus": {"pooling": "mean"}}}, {}), spoken)


# -- the test set ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["asr", "gender", "style", "speaker"])
def test_the_check_names_a_target_of_the_test_side(task: str) -> None:
    fold = Fold("3", ("a", "b"), ("c",), ("d", "e"))
    what = {"asr": "transcript"}.get(task, task)
    check_targets({task: {"a", "b", "c"}}, fold, {task: what})
    with pytest.raises(LeakError, match=f"fold 3, tasks.{task}: 1 {what} in both training and test: d"):
        check_targets({task: {"a", "d"}}, fold, {task: what})


def test_a_training_that_would_get_them_stops(spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defect planted: targets are no longer masked by the fold."""
    monkeypatch.setattr(
        experiment_data, "Targets", lambda values, is_known: Targets(values, np.ones(len(values), bool))
    )
    with pytest.raises(LeakError, match=r"tasks\.emotion: 18 emotions in both training and test"):
        trained(recipe_of({}, {}), spoken, tmp_path / "unit")


def test_nothing_that_is_said_of_the_test_side_moves_a_weight_of_any_stage(spoken: Path, tmp_path: Path) -> None:
    """Transcripts with letters of their own, gender and style of the test set change; no weight does."""
    tasks = {"tasks": {"style": {"pooling": "mean"}, "speaker": {"pooling": "mean"}}}
    tasks["protocol"] = {"num_folds": 2, "folds": [["anna", "ben"], ["cleo", "dan"]]}  # dealing looks at genders
    recipe = recipe_of(tasks, {"tasks": ["asr", "gender", "style", "speaker"]}, {"tasks": ["emotion", "asr"]})
    utterances = manifest.read(spoken)
    styled = [u.model_copy(update={"style": "scripted" if n % 2 else "improvised"}) for n, u in enumerate(utterances)]
    manifest.write(styled, tmp_path / "a.jsonl")
    tested = {*prepared(recipe, tmp_path / "a.jsonl").folds.folds[0].test}
    other = {"transcript": "xyz", "gender": None, "style": None}
    manifest.write((u.model_copy(update=other) if u.id in tested else u for u in styled), tmp_path / "b.jsonl")
    first, second = (trained(recipe, tmp_path / f"{name}.jsonl", tmp_path / name) for name in "ab")
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
