"""The data of an experiment: read it, divide it, check it for leaks, and build the targets of each task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from serein.choices import choose
from serein.data import manifest
from serein.data.dataset import Recordings, Targets, duplicates
from serein.data.manifest import Utterance, absent_labels, plain_label
from serein.data.protocols import WITHOUT_SPEAKERS, require_distinct_speakers, speaker_key
from serein.data.splits import (
    Fold,
    Folds,
    add_unlabelled,
    check_leaks,
    check_targets,
    class_notes,
    dev_rule,
    make_folds,
)
from serein.errors import RecipeError
from serein.models.conditioning import agreement, require_attributes
from serein.progress import Report
from serein.recipe import Protocol, Recipe
from serein.tasks.classes import ClassLabels
from serein.tasks.task import Task, keep_labelled, without_dropped

Divide = Callable[[Sequence[Utterance], Protocol, Mapping[str, str]], Folds]


@dataclass
class Experiment:
    """A recipe and the data it runs on, ready to train.

    Attributes:
        utterances: Utterances with a target of the main task, and those from which other tasks can learn.
        left_out: Label that is left out -> how many utterances had it.
        tasks: Name -> task, fitted to all of the data; for a fold, see `tasks_of`.
        duplicates: Id -> id of an utterance with the same audio.
        shared: Folder of stages that several runs share, or `None`.
        device: Name of the device that trains and predicts, see `serein.device.own_device`.
    """

    recipe: Recipe
    manifest: Path
    utterances: list[Utterance]
    left_out: Counter[str]
    tasks: dict[str, Task]
    recordings: Recordings
    duplicates: dict[str, str]
    folds: Folds
    shared: Path | None = None
    device: str = "auto"

    @property
    def main(self) -> Task:
        """The task that is evaluated."""
        return self.tasks[self.recipe.tasks.main]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the evaluated task.

        Raises:
            RecipeError: The task has no classes.
        """
        if not self.main.spec.classes:
            remedy = f"Leave out '{self.main.name}', or add a task with classes that precedes it in docs/recipes.md."
            raise RecipeError(f"'{self.main.name}' has no classes", where="tasks", remedy=remedy)
        return self.main.spec.classes

    def normalised_by(self, positions: Sequence[int], split: Literal["train", "test"]) -> dict[int, str]:
        """Return position -> the speaker or corpus whose mean is removed from an utterance's features, if any.

        Args:
            split: `test` stands for dev as well.
        """
        options = self.recipe.feature_normalisation
        mean = "training" if options is None else options.mean if split == "train" else options.test_mean
        own = [(position, self.utterances[position]) for position in positions]
        if mean == "speaker":
            return {position: speaker_key(utterance) for position, utterance in own if utterance.speaker is not None}
        return {} if mean == "training" else {position: utterance.corpus or "" for position, utterance in own}

    def class_counts(self) -> dict[str, int]:
        """Return the number of utterances of each class of the evaluated task; empty if it has no classes."""
        counts = Counter(self.main.truth(u) for u in self.utterances)
        return {name: counts[name] for name in self.main.spec.classes}

    def labelled(self, ids: Sequence[str]) -> list[str]:
        """Return the ids of those utterances that have a target of the evaluated task."""
        by_id = {u.id: u for u in self.utterances}
        return [name for name in ids if self.main.has_target(by_id[name])]

    def positions(self, ids: Sequence[str]) -> list[int]:
        """Return the positions of utterances in `utterances`."""
        wanted = set(ids)
        return [position for position, utterance in enumerate(self.utterances) if utterance.id in wanted]

    def fold_runs(self) -> list[tuple[Fold, int]]:
        """Return every fold with every seed."""
        return [(fold, seed) for seed in self.recipe.seeds for fold in self.folds.folds]

    def fold_with_same_training(self, fold: Fold) -> Fold:
        """Return the first fold with the same train and dev sets, which is the one that is trained."""
        same = (other for other in self.folds.folds if (other.train, other.dev) == (fold.train, fold.dev))
        return next(same)


def prepare(recipe: Recipe, manifest_path: Path, report: Report, divide: Divide = make_folds) -> Experiment:
    """Read and decode the data, divide it, and check that no test set occurs in training.

    Args:
        divide: `make_folds` for an experiment, `train_and_dev` for a single model.

    Raises:
        ManifestError, AudioError, RecipeError, LeakError: The data cannot be used; raised before any training.
    """
    for options in (recipe.backbone, *(branch.backbone for branch in recipe.branches.values())):
        if options is not None:
            choose("backbone", options.name).check(options)
    everything = manifest.read(manifest_path)
    label_notes = [
        f"No utterance is labelled {', '.join(absent)}, which labels.{key} contains."
        for key, labels in (("merge", recipe.labels.merge), ("drop", recipe.labels.drop))
        if (absent := absent_labels(everything, labels))
    ]
    emotions = Counter(u.emotion or "" for u in everything)
    everything = without_dropped(everything, recipe.labels.drop)
    dropped = emotions - Counter(u.emotion or "" for u in everything)
    learned = [recipe.tasks.main, *(name for name in recipe.tasks.chosen if name != recipe.tasks.main)]
    tasks = {
        name: choose("task", name).fit(name, recipe.tasks.chosen[name], recipe, everything)
        for name in learned
        if name not in recipe.finished
    }
    main = tasks[recipe.tasks.main]
    others = [task for task in tasks.values() if task is not main]
    extras = []  # without a target of the main task, but with one that others can learn from
    if recipe.labels.unlabelled != "drop":
        unlabelled = [u for u in everything if main.label(u) is None and not main.has_target(u)]
        extras = [u for u in unlabelled if main.options.taught_by or any(task.has_target(u) for task in others)]
    extra_ids = {u.id for u in extras}
    own = [u for u in everything if u.id not in extra_ids]
    labelled, left_out = keep_labelled(own, main, recipe.labels.unknown_labels)
    left_out += dropped
    nameless = sum(u.speaker is None for u in labelled)
    if main.spec.field != "emotion" and recipe.protocol.name not in WITHOUT_SPEAKERS and 0 < nameless < len(labelled):
        labelled = [u for u in labelled if u.speaker is not None]
        left_out["(no speaker)"] += nameless
    kept = extra_ids | {u.id for u in labelled}
    utterances = [u for u in everything if u.id in kept]
    recordings = Recordings(utterances, trim_db=recipe.clips.trim_db)
    recordings.prefetch(lambda done, total: report("reading audio", done, total, f"{total} clips"))
    pairs = dict(duplicates(recordings))
    folds = with_agreement(labelled, divide(labelled, recipe.protocol, pairs), main, recipe.labels.min_agreement)
    folds = add_unlabelled(folds, utterances, extras, recipe.protocol, pairs, main=recipe.tasks.main)
    check_leaks(utterances, folds, pairs)
    folds = replace(folds, notes=(*folds.notes, *label_notes))
    if main.spec.problem == "classes" and not main.needs_shared_speakers:  # word vectors can find unseen classes too
        originals = [u for u in labelled if u.copy_of is None]
        labels = {u.id: str(label) for u in originals if (label := main.truth(u)) is not None}
        known = [u for u in originals if u.speaker is not None and u.id in labels]
        speakers = {u.id: speaker_key(u).lstrip("/") for u in known if main.spec.field != "gender"}  # one by nature
        folds = replace(folds, notes=(*folds.notes, *class_notes(labels, speakers, folds.folds)))
    normalisation = recipe.feature_normalisation
    if normalisation is not None and normalisation.test_mean != "training":
        note = (
            f"Features of test clips are normalised by the mean of the test clips of the same {normalisation.test_mean}"
            ", without labels: scores are not comparable to those of single recordings."
        )
        folds = replace(folds, notes=(*folds.notes, note))
    require_attributes(utterances, recipe.tasks.conditions, "known")
    for split in ("dev", "test"):
        ids = {name for fold in folds.folds for name in (fold.dev if split == "dev" else fold.test)}
        if evaluated := [u for u in labelled if u.id in ids]:
            notes = require_attributes(evaluated, recipe.tasks.conditions, recipe.inference.conditions, split)
            folds = replace(folds, notes=(*folds.notes, *notes))
    if any(fold.test for fold in folds.folds) and main.needs_shared_speakers and folds.is_speaker_independent:
        raise RecipeError(
            f"the test speakers of protocol '{recipe.protocol.name}' do not occur in training",
            where=f"tasks.{recipe.tasks.main}",
            remedy="Choose protocol.name=clips-out or random, or official with protocol.speakers=shared.",
        )
    return Experiment(recipe, manifest_path, utterances, left_out, tasks, recordings, pairs, folds)


NOTHING: Mapping[str, Task] = {}


def with_agreement(utterances: Sequence[Utterance], folds: Folds, main: Task, least: float | None) -> Folds:
    """Remove from every training set the utterances on which too few raters agreed.

    Args:
        main: The evaluated task; if it predicts emotions, labels count as its classes.
        least: Smallest fraction of raters who chose an utterance's class; `None` removes nothing.

    Raises:
        RecipeError: No utterance has labels from several raters, or too few agreed on every one of a training set.
    """
    if least is None:
        return folds
    class_labels = getattr(main, "class_labels", None)
    if isinstance(class_labels, ClassLabels) and class_labels.field == "emotion":
        agreements = {u.id: agreement(u, str(main.truth(u) or ""), class_labels.of) for u in utterances}
    else:
        agreements = {u.id: agreement(u, plain_label(u.emotion or "")) for u in utterances}
    if all(share is None for share in agreements.values()):
        raise RecipeError(
            "no utterance has labels from several raters",
            where="labels.min_agreement",
            remedy="Leave it out, or prepare a corpus with raters.",
        )
    agreed = {name for name, share in agreements.items() if share is not None and share >= least - 1e-9}
    kept = [replace(fold, train=tuple(name for name in fold.train if name in agreed)) for fold in folds.folds]
    if bare := [fold.name for fold in kept if not fold.train]:
        raise RecipeError(
            f"at least {least:.0%} of the raters agree on no training utterance of fold {bare[0]}",
            where="labels.min_agreement",
            remedy="Lower it, or leave it out.",
        )
    before, after = (sum(len(fold.train) for fold in each) for each in (folds.folds, kept))
    note = f"Trained on the {after} of {before} training utterances that at least {least:.0%} of the raters agreed on."
    return replace(folds, folds=tuple(kept), notes=(*folds.notes, note))


def train_and_dev(utterances: Sequence[Utterance], protocol: Protocol, pairs: Mapping[str, str]) -> Folds:
    """Return one fold without a test set: the manifest's own train and dev, or all of it, dev drawn by the rule."""
    if any(u.split == "train" for u in utterances):
        own_dev = any(u.split == "dev" for u in utterances)
        protocol = protocol.model_copy(
            update={"dev": "official" if own_dev and protocol.dev != "none" else protocol.dev}
        )
        utterances = [u for u in utterances if u.split in ("train", "dev")]
    if not protocol.shares_speakers:
        require_distinct_speakers(utterances)
    originals = [u for u in utterances if u.copy_of is None]
    is_dev = dev_rule(originals, protocol, "all")
    dev_ids = tuple(u.id for u in originals if is_dev(u))
    held_out = set(dev_ids)
    train_ids = tuple(u.id for u in utterances if (u.copy_of or u.id) not in held_out)
    fold = Fold("all", train_ids, dev_ids, ())
    return Folds("train", (fold,), not protocol.shares_speakers, protocol.shares_dev)


# -- tasks -----------------------------------------------------------------------------------------------------------


def tasks_of(experiment: Experiment, fold: Fold, finished: Mapping[str, Task] = NOTHING) -> dict[str, Task]:
    """Return the recipe's tasks for a fold, the evaluated one first.

    Args:
        finished: Tasks that no stage trains, as they were trained before.

    Raises:
        RecipeError, ManifestError: The fold's training set has too few labels for a task that is fitted to it.
    """
    recipe = experiment.recipe
    train = [experiment.utterances[position] for position in experiment.positions(fold.train)]
    tasks: dict[str, Task] = {}
    for name, options in recipe.tasks.chosen.items():
        kind = choose("task", name)
        if name in finished:
            tasks[name] = kind.from_json(name, options, finished[name].to_json())
        elif kind.fits_on == "train":
            tasks[name] = kind.fit(name, options, recipe, train)
        else:
            tasks[name] = copy(experiment.tasks[name])
    return tasks


def targets_of(experiment: Experiment, fold: Fold, tasks: Mapping[str, Task]) -> dict[str, Targets]:
    """Return each task's targets for all utterances; only those of train and dev are known.

    Raises:
        LeakError: Targets of the test set are among the known ones.
        RecipeError: Train has no targets of any task of a stage, or dev none of the task that it monitors.
    """
    is_learned = np.zeros(len(experiment.utterances), bool)
    is_learned[experiment.positions((*fold.train, *fold.dev))] = True
    targets = {}
    for name, task in tasks.items():
        own = task.targets(experiment.utterances)
        targets[name] = Targets(own.values, own.is_known & is_learned)
    ids = np.array([u.id for u in experiment.utterances])
    fields = {name: task.spec.field for name, task in tasks.items()}
    check_targets({name: set(ids[own.is_known]) for name, own in targets.items()}, fold, fields)
    train, dev = experiment.positions(fold.train), experiment.positions(fold.dev)
    for stage in experiment.recipe.stages:
        names = experiment.recipe.tasks_of(stage)
        first = names[0]
        if not any(targets[name].is_known[train].any() or tasks[name].options.taught_by for name in names):
            raise RecipeError(
                f"no training utterance of fold {fold.name} has a target of {' or '.join(names)}, which stage "
                f"'{stage.name}' trains",
                where="stages",
                remedy="Leave out that stage, or add utterances with one.",
            )
        is_monitored = stage.checkpoint == "best" or stage.patience is not None or stage.schedule.name == "plateau"
        if is_monitored and dev and not targets[first].is_known[dev].any():
            raise RecipeError(
                f"no dev utterance of fold {fold.name} has a target of '{first}', which stage '{stage.name}' monitors",
                where="protocol.dev",
                remedy="Choose protocol.dev=none, random (which shares speakers), or checkpoint 'last' in that stage.",
            )
    return targets
