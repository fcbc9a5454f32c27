"""One fold of an experiment with one seed: trained stage by stage, and predicted."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from serein.data import manifest
from serein.data.batches import Told as TrainingConditions
from serein.data.corpora import licence_of
from serein.data.effects import Changer
from serein.data.files import replacing
from serein.data.folds import Fold, speaker_key
from serein.data.recordings import Recordings
from serein.data.utterance import Utterance
from serein.evaluation.predictions import Prediction, write_predictions
from serein.evaluation.voices import score_voices
from serein.inference.predictor import recorded_answers
from serein.labels.attributes import Told, attribute, attribute_vectors
from serein.models import folder as model_folder
from serein.models.card import card
from serein.models.folder import Meaning, ModelFolder, ModelOptions, Voices
from serein.models.speech import SpeechModel, assemble, new_backbone
from serein.preparation import Experiment, targets_of, tasks_of
from serein.progress import Report
from serein.recipe import Recipe
from serein.tasks.task import Task
from serein.training.hearing import require_bands
from serein.training.stages import TrainingData, fit_normalisation, history, stage_seed, train_stage
from serein.world import wait_for_all, world

MOST_SHARES = 200


def require_trainable(experiment: Experiment) -> None:
    """Build the model once and look at every stage, so that what does not fit is said before anything is written.

    Raises:
        RecipeError: Backbone, body, head and stages do not fit.
        ModelError: The backbone cannot be loaded.
    """
    recipe, fold = experiment.recipe, experiment.folds.folds[0]
    tasks = tasks_of(experiment, fold)
    if len(tasks) > 1 or recipe.tasks.main in ("asr", "speaker"):  # what these need may be missing in some folds
        for other in experiment.folds.folds:
            targets_of(experiment, other, tasks_of(experiment, other))
    model = _new_model(recipe, tasks)
    for number, stage in enumerate(recipe.stages):
        model.train_only(stage.trainable, stage.tasks)
        require_bands(model.backbone, stage.augmentation, where=f"stages.{number}.augmentation")
        if stage.effects.name != "none":
            Changer(stage.effects)  # names a package that is missing


def _new_model(recipe: Recipe, tasks: Mapping[str, Task]) -> SpeechModel:
    heads = {name: (task.options, task.num_outputs) for name, task in tasks.items()}
    return assemble(new_backbone(recipe.backbone), recipe.body, heads, recipe.members, _text_size(recipe))


def _text_size(recipe: Recipe) -> int:
    """Return the features of a sentence vector, 0 when no text is told."""
    if "text" not in recipe.tasks.conditions:
        return 0
    from serein.labels.sentences import vector_size

    return vector_size(recipe.text.encoder)


# -- one fold, one seed ---------------------------------------------------------------------------------------------


def unit_folder(run: Path, fold: Fold, seed: int) -> Path:
    """Return where a fold and seed of a run lie."""
    return run / f"fold-{fold.name}" / f"seed-{seed}"


def run_unit(experiment: Experiment, fold: Fold, seed: int, run: Path, report: Report) -> None:
    """Train one fold with one seed and predict its test side; nothing when its predictions are there already.

    A fold that learns from the same as an earlier one takes its model, which must be there.
    """
    folder = unit_folder(run, fold, seed)
    if (folder / "predictions.jsonl").exists():
        return
    learner = experiment.learner(fold)
    if learner is fold:
        content = train_unit(experiment, fold, seed, folder, report, label=f"fold {fold.name}  seed {seed}")
    else:
        content = model_folder.load(unit_folder(run, learner, seed) / "model")
    if world().is_first:
        told = experiment.recipe.inference.attributes
        if fold.dev:
            _predict(experiment, content, fold, fold.dev, seed, folder / "dev_predictions.jsonl", told)
        if (other := _other_attributes(experiment, fold)) is not None:
            _predict(experiment, content, fold, fold.test, seed, folder / f"{other}_predictions.jsonl", other)
        embeddings = _predict(experiment, content, fold, fold.test, seed, folder / "predictions.jsonl.new", told)
        with replacing(folder / "embeddings.safetensors") as partial:
            save_file({"embeddings": embeddings}, partial)
        os.replace(folder / "predictions.jsonl.new", folder / "predictions.jsonl")  # last: it says that all is there
    wait_for_all()


def _other_attributes(experiment: Experiment, fold: Fold) -> Told | None:
    """Return what else a conditioned model can be told of the test side, so that both are reported."""
    names = experiment.recipe.tasks.conditions
    other: Told = "oracle" if experiment.recipe.inference.attributes == "predicted" else "predicted"
    tested = [experiment.utterances[position] for position in experiment.positions(fold.test)]
    has_all = all(any(attribute(u, name, other) for u in tested) for name in names)
    return other if names and has_all else None


def _predict(
    experiment: Experiment, content: ModelFolder, fold: Fold, ids: Sequence[str], seed: int, path: Path, told: Told
) -> np.ndarray:
    positions = experiment.positions(ids)
    predictions, embeddings = predictions_of(
        content, experiment.recordings, positions, fold=fold.name, seed=seed, told=told
    )
    write_predictions(predictions, path)
    return embeddings


def train_unit(
    experiment: Experiment, fold: Fold, seed: int, folder: Path, report: Report, *, label: str
) -> ModelFolder:
    """Train every stage of a recipe on one fold and save the model; a stopped training goes on."""
    recipe, tasks = experiment.recipe, tasks_of(experiment, fold)
    torch.manual_seed(stage_seed(seed, fold.name, "model"))
    model = _new_model(recipe, tasks)
    data = TrainingData(
        experiment.recordings,
        targets_of(experiment, fold, tasks),
        experiment.positions(fold.train),
        experiment.positions(fold.dev),
        recipe.clips,
        _told(experiment, fold),
        recipe.features,
    )
    fit_normalisation(model, data)
    for number, stage in enumerate(recipe.stages):
        train_stage(
            model,
            tasks,
            stage,
            data,
            folder / f"{number}-{stage.name}",
            seed=stage_seed(seed, fold.name, stage.name),
            report=report,
            label=f"{label}  {stage.name}",
        )
    labels = {name: task.labels for name, task in tasks.items()}
    content = _content(experiment, fold, model, labels, folder)
    if world().is_first:
        content = replace(content, voices=_voices(experiment, content, fold))
        model_folder.save(
            folder / "model", content, card(recipe.name, content.task, content.categories.classes, content.training)
        )
    return content


def _voices(experiment: Experiment, content: ModelFolder, fold: Fold) -> Voices | None:
    """Return from which cosine on two dev clips are one voice; `None` when nothing was learned of voices, or of dev."""
    utterances = experiment.utterances
    positions = [p for p in experiment.positions(fold.dev) if utterances[p].speaker is not None]
    if "speaker" not in content.labels or not positions:
        return None
    told = experiment.recipe.inference.attributes
    _, vectors = recorded_answers(content, experiment.recordings, positions, told, of="speaker")
    found = score_voices(vectors, [speaker_key(utterances[p]) for p in positions], np.random.default_rng(0))
    if found is None:
        return None
    return Voices(
        threshold=found.threshold,
        equal_error_rate=found.equal_error_rate,
        num_clips=len(positions),
        num_speakers=found.num_speakers,
    )


def _told(experiment: Experiment, fold: Fold) -> TrainingConditions:
    """Return what the model is told: of training clips all that is known, of others what it is told when judged."""
    recipe = experiment.recipe
    is_train = np.zeros((len(experiment.utterances), 1), bool)
    is_train[experiment.positions(fold.train)] = True
    known, judged = (
        attribute_vectors(experiment.utterances, recipe.tasks.conditions, told, recipe.text.encoder)
        for told in ("known", recipe.inference.attributes)
    )
    nothing = [Utterance(id="-", audio="-")]
    unknown = attribute_vectors(nothing, recipe.tasks.conditions, "known", recipe.text.encoder)
    values = {name: np.where(is_train, known[name], judged[name]) for name in known}
    return TrainingConditions(
        values, {name: vectors[0] for name, vectors in unknown.items()}, recipe.tasks.hidden_share
    )


def predictions_of(
    content: ModelFolder,
    recordings: Recordings,
    positions: Sequence[int],
    *,
    fold: str,
    seed: int,
    told: Told,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Prediction], np.ndarray]:
    """Return a model's predictions of some utterances, and their embeddings in the same order.

    Shares of more than `MOST_SHARES` classes are left out: those of 1,251 voices would fill files of hundreds of MB.

    Args:
        told: What a conditioned model is told of them.
    """
    shares, embeddings = recorded_answers(content, recordings, positions, told, on_progress)
    classes = content.categories.classes
    predictions = []
    for position, row in zip(positions, shares, strict=True):
        utterance = recordings.utterances[position]
        predictions.append(
            Prediction(
                id=utterance.id,
                truth=content.categories.label(utterance),
                prediction=classes[int(row.argmax())],
                shares=dict(zip(classes, map(float, row), strict=True)) if len(classes) <= MOST_SHARES else None,
                speaker=utterance.speaker,
                gender=utterance.gender,
                fold=fold,
                seed=seed,
                duration_s=round(float(recordings.durations_s[position]), 3),
                corpus=utterance.corpus,
            )
        )
    return predictions, embeddings


def _content(
    experiment: Experiment, fold: Fold, model: SpeechModel, labels: dict[str, Meaning], folder: Path
) -> ModelFolder:
    recipe = experiment.recipe
    learned = [experiment.utterances[p] for p in experiment.positions((*fold.train, *fold.dev))]
    corpora = sorted({u.corpus or "own" for u in learned})
    last = history(folder / f"{len(recipe.stages) - 1}-{recipe.stages[-1].name}")
    training = {
        "recipe": recipe.name,
        "fold": fold.name,
        "manifest_sha256": manifest.digest(experiment.utterances),
        "num_utterances": len(learned),
        "num_speakers": len({speaker_key(u) for u in learned}),
        "speakers": sorted({speaker_key(u) for u in learned if u.speaker is not None}),
        "licences": {name: licence_of(name) or "not stated" for name in corpora},
        "dev_ua": max((line["dev_ua"] for line in last if "dev_ua" in line), default=None),
    }
    kept = {name: getattr(recipe, name) for name in ("body", "members", "tasks", "clips", "text", "inference")}
    options = ModelOptions(**kept, text_size=_text_size(recipe))
    return ModelFolder(model.eval(), options, labels, training)
