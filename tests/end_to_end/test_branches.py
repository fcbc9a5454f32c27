"""Runs of two networks: three stages of one recipe, a network from a finished run, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file

from cli_fixtures import TINY, Call, merged
from serein import checkpoint as model_folder
from serein import recipe as recipes
from serein.data import manifest
from serein.data.dataset import Recordings
from serein.data.files import sha256
from serein.errors import LeakError, ModelError, RecipeError, RunError
from serein.experiment import build
from serein.experiment import data as experiment_data
from serein.experiment import run as runs
from serein.experiment.build import resolve
from serein.experiment.fold import train_fold
from serein.reproduce.trials import Data, is_finished, trial_of
from serein.training.module import loss_weights

ENCODER = {"name": "cnn2d", "channels": [4, 8], "size": 8, "time_downsampling": 1}
SPEAKER = {"attention": {"blocks": 1}, "pooling": "max", "loss": "arcface"}
EMOTION = {"attention": {"blocks": 2}, "pooling": "max", "loss": "arcface", "dropout": 0.0}
STAGE = {**TINY["stages"][0], "epochs": 2}
ALONE = {"name": "alone", "tasks": ["emotion"], "use_fusion": False, "trainable": ["encoder", "heads"]}
TOGETHER = {"name": "together", "tasks": ["emotion"], "trainable": ["encoder", "heads"]}
VOICES = {"name": "voices", "tasks": ["speaker"], "trainable": ["speaker.all", "heads"], "checkpoint": "last"}


def silent(label: str, done: int, total: int, detail: str) -> None:
    """A `Report` that tells nobody."""


def values(*stages: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a recipe of both networks with these stages."""
    both = {
        "encoder": ENCODER,
        "branches": {"speaker": {"encoder": ENCODER}},
        "tasks": {
            "emotion": {**EMOTION, "fusion": {"inputs": ["speaker"]}},
            "speaker": {**SPEAKER, "branch": "speaker"},
        },
    }
    named = [{**STAGE, **stage} for stage in stages or (VOICES, ALONE, TOGETHER)]
    return {**merged(merged(TINY, both), changes), "stages": named}


def recipe(*stages: Mapping[str, Any], **changes: Any) -> recipes.Recipe:
    return recipes.validate(values(*stages, **changes), where="test")


def write(folder: Path, content: Mapping[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
    return path


def weights(run: Path, stage: str) -> dict[str, np.ndarray]:
    return load_file(next(run.rglob(f"*-{stage}/weights.safetensors")))


def moved(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> set[str]:
    """Return what a stage changed: `main`, `speaker`, `emotion.head`, `speaker.head`, `input rows`."""
    parts = set()
    for name, value in after.items():
        if not np.array_equal(before[name], value):
            _, _, head = name.partition("heads.")
            part = f"{head.split('.')[0]}.head" if head else ("speaker" if name.startswith("branches") else "main")
            parts.add("input rows" if name.endswith("fusion.inputs") else part)
    return parts


@pytest.fixture(scope="module")
def voices(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished speaker network of the tones' first three speakers, as `serein train` leaves it."""
    from serein.experiment.run import train

    folder = tmp_path_factory.mktemp("voices")
    some = [
        u.model_copy(update={"corpus": "other"}) for u in manifest.read(tones) if u.speaker in ("anna", "ben", "cleo")
    ]
    manifest.write(some, folder / "voices.jsonl")
    content = merged(TINY, {"encoder": ENCODER, "protocol": {"name": "random", "dev": "none"}})
    content = {**content, "name": "voices", "tasks": {"emotion": None, "speaker": SPEAKER}, "stages": [STAGE]}
    alone = recipes.validate(content, where="test")
    return train(alone, folder / "voices.jsonl", folder / "run", resume=False, progress=silent).parent


@pytest.fixture(scope="module")
def run(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three stages."""
    from serein.experiment.run import run

    folder = tmp_path_factory.mktemp("run") / "run"
    run(recipe(protocol={"only": ["1"]}), tones, folder, resume=False, num_jobs=1, progress=silent)
    return folder


# -- three stages ----------------------------------------------------------------------------------------------------


def test_each_stage_moves_its_own_network(run: Path) -> None:
    voices, alone, together = (weights(run, name) for name in ("voices", "alone", "together"))
    assert moved(voices, alone) == {"main", "emotion.head"}
    assert moved(alone, together) == {"main", "emotion.head", "input rows"}
    assert not alone["ensemble.0.heads.emotion.fusion.inputs"].any()


def test_integration_starts_where_the_emotion_network_was(run: Path, tones: Path) -> None:
    """Rows of what joins start at 0: the first answer is that of the emotion network alone."""
    checkpoint = model_folder.load(next(run.rglob("model")))
    state = {name: torch.from_numpy(value) for name, value in weights(run, "alone").items()}
    checkpoint.model.load_state_dict(state)
    recordings = Recordings(manifest.read(tones)[:2])
    waveforms = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(recordings[i]) for i in (0, 1)], batch_first=True)
    lengths = torch.tensor([len(recordings[i]) for i in (0, 1)])
    with torch.inference_mode():
        hidden_states = checkpoint.model.encode(waveforms, lengths, checkpoint.model.branches_of())
        joined = checkpoint.model.decode(hidden_states, tasks=["emotion"])["emotion"].output
        alone = checkpoint.model.decode(hidden_states, tasks=["emotion"], use_fusion=False)["emotion"].output
    assert torch.equal(joined, alone)


def test_the_speaker_network_knows_the_training_side_alone(run: Path, tones: Path) -> None:
    fold = json.loads((run / "folds.json").read_text())["folds"][0]
    speakers = {u.id: u.speaker for u in manifest.read(tones)}
    labels = json.loads((next(run.rglob("model")) / "labels.json").read_text())
    known = {name.rpartition("/")[2] for name in labels["speaker"]["classes"]}
    assert known == {speakers[name] for name in fold["train"]}
    assert not known & set(fold["test_speakers"])


def test_the_model_folder_answers_as_the_run_did(run: Path, tones: Path, serein: Call) -> None:
    model = next(run.rglob("model"))
    said = [json.loads(line) for line in (model.parent / "predictions.jsonl").read_text().splitlines()]
    clips = {u.id: u.audio for u in manifest.read(tones)}
    answer = json.loads(serein("predict", "--model", model, clips[said[0]["id"]], "--segments", "never", "--json").out)
    assert answer["label"] == said[0]["prediction"]
    description = json.loads((model / "model.json").read_text())
    assert set(description["branches"]) == set(description["branch_backbones"]) == {"speaker"}


def test_ways_of_freezing(run: Path, tones: Path, tmp_path: Path) -> None:
    """All frozen is `together` above; centres trained; all trained."""
    centres = {**TOGETHER, "name": "centres", "tasks": ["emotion", "speaker"], "weights": {"speaker": 0.5}}
    whole = {**centres, "name": "whole", "trainable": ["encoder", "heads", "speaker.all"]}
    experiment = experiment_data.prepare(recipe(VOICES, ALONE, centres, whole), tones, silent)
    train_fold(experiment, experiment.folds.folds[0], 0, tmp_path, silent, label="x")
    alone, partly, wholly = (weights(tmp_path, name) for name in ("alone", "centres", "whole"))
    assert moved(alone, partly) == {"main", "emotion.head", "input rows", "speaker.head"}
    assert moved(partly, wholly) == {"main", "emotion.head", "input rows", "speaker.head", "speaker"}


def test_weights_of_a_stage(tones: Path) -> None:
    """L = a * L_emotion + b * L_identification."""
    made = recipe(VOICES, ALONE, {**TOGETHER, "tasks": ["emotion", "speaker"], "weights": {"speaker": 0.25}})
    experiment = experiment_data.prepare(made, tones, silent)
    tasks = experiment_data.tasks_of(experiment, experiment.folds.folds[0])
    assert loss_weights(tasks, None, made.stages[2].weights) == {"emotion": 1.0, "speaker": 0.25}
    assert loss_weights(tasks, None, made.stages[1].weights) == {"emotion": 1.0, "speaker": 1.0}


# -- from a finished run ---------------------------------------------------------------------------------------------


def from_voices(voices: Path, **changes: Any) -> recipes.Recipe:
    branches = {"branches": {"speaker": {"encoder": None, "from": str(voices)}}}
    return recipe(ALONE, TOGETHER, **merged(branches, changes))


def test_a_finished_network_stays_as_it_is(voices: Path, tones: Path, tmp_path: Path) -> None:
    """Its encoder, attention, centres and normalisation; and it still names whom it knows."""
    made = from_voices(voices)
    experiment = experiment_data.prepare(made, tones, silent)
    build.require_trainable(experiment)
    checkpoint = train_fold(experiment, experiment.folds.folds[0], 0, tmp_path, silent, label="x")
    theirs = model_folder.load(voices / "model")
    mine = {name.replace("ensemble.0.", ""): value for name, value in checkpoint.model.state_dict().items()}
    for name, value in theirs.model.state_dict().items():
        kept = (
            name.replace("ensemble.0.", "")
            if ".heads." in name
            else f"branches.speaker.{name.replace('ensemble.0.', '')}"
        )
        assert torch.equal(mine[kept], value), name
    assert checkpoint.classes_of("speaker") == theirs.classes_of("speaker")
    assert set(checkpoint.training["speakers"]) >= {"other/anna", "other/ben", "other/cleo", "tones/dan"}
    assert checkpoint.training["origins"]["speaker"]["model"] == str(voices / "model")
    loaded = model_folder.load(tmp_path / "model")
    assert all(
        torch.equal(value, loaded.model.state_dict()[name]) for name, value in checkpoint.model.state_dict().items()
    )


def test_a_run_does_not_go_on_from_a_network_that_was_trained_again(
    voices: Path, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with --resume nor as a finished trial of a table."""
    monkeypatch.setattr(runs, "run_fold", lambda *_: None)
    monkeypatch.setattr(runs, "withdraw_temperatures", lambda _: None)
    source = Path(shutil.copytree(voices, tmp_path / "voices"))
    trial = trial_of("row", from_voices(source), 0, Data(tones, "0", 36, 36, None), tmp_path / "out")
    runs.run(trial.recipe, tones, trial.folder, num_jobs=1)
    runs.run(trial.recipe, tones, trial.folder, num_jobs=1, resume=True)
    assert not is_finished(trial)
    path = source / "model" / "model.safetensors"
    save_file({name: np.asarray(value + 1) for name, value in load_file(path).items()}, path)
    complaint = re.escape(f"was started from another {source} (speaker), which has been trained again since")
    with pytest.raises(RunError, match=complaint):
        runs.run(trial.recipe, tones, trial.folder, num_jobs=1, resume=True)
    with pytest.raises(RunError, match=complaint):
        is_finished(trial)
    shutil.rmtree(source)
    assert not is_finished(trial)  # nothing to compare with


def test_new_speakers_get_new_centres(voices: Path, tones: Path) -> None:
    """1,251 centres become 8: attention is taken over, the output layer starts anew."""
    stages = (ALONE, {**TOGETHER, "tasks": ["emotion", "speaker"]})
    made = recipe(*stages, branches={"speaker": {"encoder": None, "from": str(voices)}})
    experiment = experiment_data.prepare(made, tones, silent)
    fold = experiment.folds.folds[0]
    pretrained_branches = build.load_pretrained_branches(made, fold.name, 0)
    tasks = build.tasks_with(experiment, fold, pretrained_branches)
    model = build.new_model(made, tasks, pretrained_branches)
    head, theirs = model.ensemble[0].heads["speaker"], pretrained_branches["speaker"].member.heads["speaker"]
    assert torch.equal(head.blocks[0].attention.in_proj_weight, theirs.blocks[0].attention.in_proj_weight)
    assert tasks["speaker"].spec.classes != pretrained_branches["speaker"].checkpoint.classes_of("speaker").classes


def test_the_main_network_can_start_from_one_alone(tones: Path, voices: Path, tmp_path: Path) -> None:
    """Its k rows of the matrix are kept, and a row for what joins it begins at 0."""
    content = {**values(ALONE), "branches": {}, "tasks": {"emotion": {**EMOTION, "fusion": {}}}}
    single = recipes.validate(content, where="test")
    experiment = experiment_data.prepare(single, tones, silent)
    finished = train_fold(experiment, experiment.folds.folds[0], 0, tmp_path / "emotion", silent, label="x")
    branches = {"main": {"from": str(tmp_path / "emotion")}, "speaker": {"encoder": None, "from": str(voices)}}
    made = recipe(TOGETHER, branches=branches)
    pretrained_branches = build.load_pretrained_branches(made, "1", 0)
    together = experiment_data.prepare(made, tones, silent)
    tasks = build.tasks_with(together, together.folds.folds[0], pretrained_branches)
    model = build.new_model(made, tasks, pretrained_branches)
    fusion = model.ensemble[0].heads["emotion"].fusion
    assert torch.equal(fusion.own, finished.model.ensemble[0].heads["emotion"].fusion.own)
    assert not fusion.inputs.any()
    assert torch.equal(model.ensemble[0].encoder.join.weight, finished.model.ensemble[0].encoder.join.weight)


def test_output_rows_are_taken_by_the_names_of_their_classes(tiny_run: Path, tones: Path) -> None:
    finished = model_folder.load(next(tiny_run.glob("fold-*/seed-*/model")))
    known = finished.tasks["emotion"].spec.classes
    assert known == ("angry", "happy", "sad")
    wanted = ("sad", "furious", "happy")  # one is new, the others in another order
    labels = {"classes": wanted, "merge": {"angry": "furious"}}
    changes = {"branches": {"main": {"from": str(tiny_run)}}, "labels": labels}
    made = recipes.validate(merged(TINY, changes), where="test")
    experiment = experiment_data.prepare(made, tones, silent)
    pretrained = build.load_pretrained_branches(made, "1", 0)
    tasks = build.tasks_with(experiment, experiment.folds.folds[0], pretrained)
    output = build.new_model(made, tasks, pretrained).ensemble[0].heads["emotion"].output
    theirs = pretrained["main"].member.heads["emotion"].output
    assert torch.equal(output.weight[[0, 2]], theirs.weight[[2, 1]])
    assert not torch.equal(output.weight[1], theirs.weight[0])


def test_an_adapter_is_not_replaced_by_another(tiny_run: Path) -> None:
    from serein.recipe import Lora

    pretrained = build.PretrainedBranch("main", tiny_run, model_folder.load(next(tiny_run.rglob("model"))))
    pretrained.checkpoint.model.backbone.adapter = Lora(rank=2)
    assert pretrained.backbone(Lora(rank=2)) is pretrained.backbone(None) is pretrained.checkpoint.model.backbone
    with pytest.raises(ModelError, match=r"rank=2.*recipe specifies.*rank=4.*serein merge"):
        pretrained.backbone(Lora(rank=4))


def test_test_speakers_are_no_training_classes_of_an_origin(voices: Path, tones: Path) -> None:
    """The planted leak: the speaker network learned from the tones, some of whose speakers test."""
    description = json.loads((voices / "model" / "model.json").read_text())
    leaking = voices.parent / "leaking"
    if not leaking.exists():
        checkpoint = model_folder.load(voices / "model")
        checkpoint.training["speakers"] = [
            name.replace("other/", "tones/") for name in description["training"]["speakers"]
        ]
        model_folder.save(leaking, checkpoint, "")
    experiment = experiment_data.prepare(from_voices(leaking), tones, silent)
    with pytest.raises(
        LeakError, match=r"speakers? in both .*leaking and test: tones/.* Start from a network that was not"
    ):
        build.check_origins(experiment)
    assert build.check_origins(experiment_data.prepare(from_voices(voices), tones, silent)) == []
    shared = experiment_data.prepare(from_voices(leaking, protocol={"name": "random"}), tones, silent)
    used = f"Training uses {leaking} (speaker), which was trained on 3 of 6 test speakers"
    assert build.check_origins(shared) == [f"{used}: it may have learned the test clips."]


def on_backbone(source: Path, **training: Any) -> recipes.Recipe:
    """Return a recipe whose backbone comes from a model that was trained like this, written to `source`."""
    shutil.copytree(Path(__file__).parents[1] / "golden" / "models" / "classes-wavlm", source)
    content = json.loads((source / "model.json").read_text())
    (source / "model.json").write_text(json.dumps({**content, "training": training}))
    stage = {"name": "emotion", "epochs": 1, "trainable": ["heads"], "checkpoint": "last"}
    backbone = {"backbone": {"name": "huggingface", "source": str(source)}, "encoder": None, "stages": [stage]}
    return recipes.validate({**TINY, **backbone}, where="test")


def test_test_speakers_are_no_training_speakers_of_a_backbone(tones: Path, tmp_path: Path) -> None:
    made = on_backbone(tmp_path / "source", speakers=["tones/anna"])
    experiment = experiment_data.prepare(made, tones, silent)
    with pytest.raises(LeakError, match=r"speaker in both .*source and test: tones/anna"):
        build.check_origins(experiment)


def test_speakers_of_a_merged_manifest_are_found_in_the_original(tones: Path, tmp_path: Path) -> None:
    manifest.write([u.model_copy(update={"corpus": None}) for u in manifest.read(tones)], tmp_path / "mine.jsonl")
    made = on_backbone(tmp_path / "source", speakers=["mine/anna"])
    with pytest.raises(LeakError, match=r"speaker in both .*source and test: anna"):
        build.check_origins(experiment_data.prepare(made, tmp_path / "mine.jsonl", silent))


def test_a_backbone_of_unknown_speakers_is_noted(tones: Path, tmp_path: Path) -> None:
    made = on_backbone(tmp_path / "source")
    (note,) = build.check_origins(experiment_data.prepare(made, tones, silent))
    assert note.startswith(
        f"Training uses {tmp_path / 'source'} (backbone), but its speakers or those of the test clips"
    )


def test_a_model_names_what_its_backbone_was_trained_on(tones: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    made = on_backbone(source, speakers=["other/gil"], licences={"other": "CC BY-NC 4.0"}, languages=["de"])
    experiment = experiment_data.prepare(made, tones, silent)
    training = train_fold(experiment, experiment.folds.folds[0], 0, tmp_path / "fold", silent, label="x").training
    assert "other/gil" in training["speakers"]
    assert training["licences"] == {"other": "CC BY-NC 4.0", "tones": "not stated"}
    assert training["languages"] == ["de"]
    weights_sha256 = sha256(source / "model.safetensors")
    assert training["origins"] == {"backbone": {"model": str(source), "sha256": weights_sha256}}


def test_a_run_of_the_same_folds_gives_each_fold_its_own(run: Path, tmp_path: Path) -> None:
    assert resolve(str(run), "1", 0) == run / "fold-1" / "seed-0" / "model"
    assert resolve(str(run), "7", 3) == run / "fold-1" / "seed-0" / "model"  # its only one
    other = tmp_path / "run"
    for fold in ("1", "2"):
        (other / f"fold-{fold}" / "seed-0").mkdir(parents=True)
        (other / f"fold-{fold}" / "seed-0" / "model").symlink_to(resolve(str(run), "1", 0))
    assert resolve(str(other), "2", 0) == other / "fold-2" / "seed-0" / "model"
    assert resolve(str(other), "2", 5) == other / "fold-2" / "seed-0" / "model"
    with pytest.raises(ModelError, match="has models for folds 1, 2, but none for fold '3'"):
        resolve(str(other), "3", 0)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"branches": {"speaker": {"from": "nowhere"}}}, "nowhere: no such run or model"),
    "pooling": (
        {"tasks": {"speaker": {"pooling": "mean"}}},
        "has a different network: tasks.speaker.pooling is max there, but mean in the recipe",
    ),
    "blocks": (
        {"tasks": {"speaker": {"attention": {"heads": 2}}}},
        "has a different network: tasks.speaker.attention.heads is 4 there, but 2 in the recipe",
    ),
    "loss": (
        {"tasks": {"speaker": {"loss": "cross-entropy"}}},
        "has a different network: tasks.speaker.loss is arcface there, but cross-entropy in the recipe",
    ),
    "size": (
        {"tasks": {"emotion": {"projection": 12, "projection_at": "frames"}}},
        "the vector of 'speaker' has 8 features, but the fusion needs 12",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_named_before_training(
    case: str, voices: Path, tones: Path, tmp_path: Path, serein: Call
) -> None:
    changes, message = REFUSED[case]
    branches = {"branches": {"speaker": {"encoder": None, "from": str(voices)}}}
    path = write(tmp_path, values(ALONE, TOGETHER, **merged(branches, changes)))
    outcome = serein("run", path, "--data", tones, "--out", tmp_path / "out", "--jobs", 1)
    assert outcome.status != 0
    assert message in outcome.complaint
    assert not (tmp_path / "out" / "recipe.yaml").exists()


def test_a_model_of_another_task_is_no_speaker_network(tiny_run: Path, tones: Path) -> None:
    experiment = experiment_data.prepare(from_voices(tiny_run), tones, silent)
    with pytest.raises(ModelError, match="predicts emotion, but branch '.*' requires speaker"):
        build.require_trainable(experiment)


# -- recipes ---------------------------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any]], object]
WRONG: dict[str, tuple[Change, str]] = {
    "unknown branch": (
        lambda v: v["tasks"]["speaker"].update(branch="voice"),
        "reads branch 'voice', expected one of: main, sp",
    ),
    "idle branch": (lambda v: v["branches"].update(other={}), "no task reads branch 'other'"),
    "ensemble_size": (lambda v: v.update(ensemble_size=2), "an ensemble has one network"),
    "from and encoder": (
        lambda v: v["branches"].update(speaker={"from": "x", "encoder": ENCODER}),
        "'from' includes backbone and encoder",
    ),
    "joins itself": (
        lambda v: v["tasks"]["emotion"].update(fusion={"inputs": ["emotion"]}),
        "emotion.fusion.inputs names 'emotion', which is not another task",
    ),
    "rows never learn": (lambda v: v["stages"][-1].update(use_fusion=False), "the last stage has use_fusion false"),
    "nobody learns it": (lambda v: v["stages"].pop(0), "no stage trains speaker: name it in a stage's tasks"),
    "weight of nothing": (
        lambda v: v["stages"][1].update(weights={"speaker": 2.0}),
        "stage 'alone' weighs speaker, which it does not train",
    ),
    "main is no branch": (lambda v: v["branches"].update(main={}), "branches.main is 'backbone' and 'encoder'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_recipe_that_cannot_be(case: str) -> None:
    change, message = WRONG[case]
    content = json.loads(json.dumps(values()))
    change(content)
    with pytest.raises(RecipeError) as error:
        recipes.validate(content, where="test")
    assert message in str(error.value)


def test_from_survives_a_dump(voices: Path, tmp_path: Path) -> None:
    made = from_voices(voices)
    (tmp_path / "r.yaml").write_text(recipes.dump(made), encoding="utf-8")
    assert recipes.load(tmp_path / "r.yaml") == made
    assert f"from: {voices}" in recipes.dump(made)
    changed = recipes.load(tmp_path / "r.yaml", ["branches.speaker.from=runs/other"])
    assert changed.branches["speaker"].start == "runs/other"


def test_dev_without_known_speakers_is_watched_by_nobody(tones: Path) -> None:
    watching = {**VOICES, "checkpoint": "best"}
    experiment = experiment_data.prepare(recipe(watching, ALONE, TOGETHER), tones, silent)
    with pytest.raises(RecipeError, match="no dev utterance of fold 1 has a target of 'speaker'.*or checkpoint 'last'"):
        build.require_trainable(experiment)
