"""Predictions of several systems for the same utterances, aligned."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serein.errors import RunError
from serein.evaluation.predictions import (
    EvalPrediction,
    SpeakerKey,
    class_names,
    fold_run_paths,
    has_test_set,
    missing_predictions,
    natural_key,
    read_predictions,
    read_run_predictions,
    run_classes,
)
from serein.metrics import FloatArray

Split = Literal["test", "dev"]
Key = tuple[str, str]  # fold, utterance
PredictionsByKey = dict[
    Key, tuple[EvalPrediction, FloatArray]
]  # one prediction per fold and utterance, with mean probabilities
_SAME = "Combine systems that predicted the same utterances in the same folds."


@dataclass(frozen=True)
class System:
    """A run folder, or a prediction file of any system.

    Attributes:
        label: The shortest end of its path that distinguishes it from the other systems.
        path: Run folder or prediction file.
        classes: Its classes, in its own order.
        predictions: Split -> predictions of every fold and seed.
        folders: Its model folders below `path`; empty for a prediction file.
    """

    label: str
    path: Path
    classes: tuple[str, ...]
    predictions: dict[Split, list[EvalPrediction]]
    folders: tuple[str, ...]


@dataclass(frozen=True)
class AlignedPredictions:
    """Predictions of several systems for the same utterances.

    Attributes:
        rows: One prediction per utterance and fold, for its id, truth, fold and speaker.
        truth: ``(utterances,)`` indices into `classes`.
        probabilities: ``(systems, utterances, classes)``, averaged over each system's seeds.
        num_unlabelled: Number of utterances left out because their class is unknown.
    """

    classes: tuple[str, ...]
    rows: tuple[EvalPrediction, ...]
    truth: NDArray[np.int64]
    probabilities: FloatArray
    num_unlabelled: int = 0

    @property
    def folds(self) -> tuple[str, ...]:
        """Names of the folds, in natural order."""
        return tuple(sorted({row.fold for row in self.rows}, key=natural_key))

    @property
    def speakers(self) -> list[SpeakerKey | None]:
        """The speaker of each row; `None` where unknown."""
        return [None if row.speaker is None else SpeakerKey(row.corpus, row.speaker) for row in self.rows]

    def of_fold(self, name: str) -> NDArray[np.int64]:
        """Return the positions of a fold's rows."""
        return np.array([position for position, row in enumerate(self.rows) if row.fold == name], np.int64)

    def only(self, positions: NDArray[np.int64]) -> AlignedPredictions:
        """Return some of the rows."""
        rows = tuple(self.rows[position] for position in positions.tolist())
        return AlignedPredictions(self.classes, rows, self.truth[positions], self.probabilities[:, positions])


def read_systems(paths: Sequence[Path], split: Split) -> list[System]:
    """Read run folders and prediction files.

    Args:
        split: The predictions that each must have; a prediction file counts as that split. With `test`, the dev
            predictions of a run folder are also read if it has any.

    Raises:
        RunError: There are fewer than two, one is given twice, unfinished or broken, or lacks the predictions.
    """
    where = [Path(os.path.abspath(path)) for path in paths]
    if len(where) < 2:
        raise RunError(
            "a single system cannot be combined", where=paths[0] if paths else None, remedy="Specify at least two."
        )
    twice = sorted({str(path) for path in where if where.count(path) > 1})
    if twice:
        raise RunError("is given twice", where=twice[0], remedy="Specify each system once.")
    systems = []
    for path, label in zip(paths, distinct_labels(paths), strict=True):
        if not path.is_dir():
            predictions = read_predictions(path)
            systems.append(System(label, path, class_names(predictions), {split: predictions}, ()))
            continue
        classes = run_classes(path)
        found: dict[Split, list[EvalPrediction]] = {}
        if split == "test" and not has_test_set(path):
            remedy = "Use --split dev: each part is then evaluated with weights fitted to the others."
            raise RunError("has no test set with labels", where=path, remedy=remedy)
        if split == "test":
            found["test"] = read_run_predictions(path, classes)
            lacking = missing_predictions(path, found["test"])
            if lacking:
                raise RunError(lacking[0], where=path, remedy="Finish the run with --resume.")
        found["dev"] = read_run_predictions(path, classes, "dev")
        if not found[split]:
            remedy = "Use --split test, or runs whose folds have a dev set."
            raise RunError("contains no dev predictions", where=path, remedy=remedy)
        names = tuple(each.path.relative_to(path).as_posix() for each in fold_run_paths(path, "model"))
        systems.append(System(label, path, classes or class_names(found[split]), found, names))
    return systems


def distinct_labels(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that distinguish them.

    Example:
        >>> distinct_labels([Path("runs/wavlm/new"), Path("runs/hubert/new.jsonl")])
        ['wavlm/new', 'hubert/new']
    """
    where = [Path(os.path.abspath(path)) for path in paths]
    parts = [path.with_suffix("").parts if path.suffix == ".jsonl" else path.parts for path in where]
    for length in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(each[-length:]) for each in parts]
        if len(set(ends)) == len(ends):
            return ends
    return [str(path) for path in where]  # for a folder and a file of the same name


def align_predictions(systems: Sequence[System], split: Split) -> AlignedPredictions:
    """Align the predictions of several systems, averaging each system's seeds.

    Raises:
        RunError: They differ in classes, folds, utterances or truth, lack probabilities, or no truth is known.
    """
    first = systems[0]
    for system in systems:  # first: numbers and transcripts have no classes to compare
        if without := next((p.id for p in system.predictions[split] if p.probabilities is None), None):
            remedy = "Combine systems that output probabilities."
            raise RunError(f"'{without}' has no probabilities", where=system.path, remedy=remedy)
    for system in systems[1:]:
        if set(system.classes) != set(first.classes):
            what = f"has the classes {', '.join(system.classes)}, and {first.label} {', '.join(first.classes)}"
            raise RunError(what, where=system.path, remedy="Combine systems with the same classes.")
    by_key = [_mean_over_seeds(system, split, first.classes) for system in systems]
    for system, of_system in zip(systems[1:], by_key[1:], strict=True):
        folds = [sorted({fold for fold, _ in keys}, key=natural_key) for keys in (by_key[0], of_system)]
        if folds[0] != folds[1]:
            what = f"has the folds {', '.join(folds[1])}, and {first.label} {', '.join(folds[0])}"
            raise RunError(what, where=system.path, remedy=_SAME)
        for present, absent, lacks, has in (
            (by_key[0], of_system, system, first),
            (of_system, by_key[0], first, system),
        ):
            lacking = sorted(present.keys() - absent.keys(), key=natural_key)
            if lacking:
                named = ", ".join(f"{name} of fold {fold}" for fold, name in lacking[:3])
                what = f"lacks {len(lacking)} utterances that {has.label} predicted: {named}"
                raise RunError(what, where=lacks.path, remedy=_SAME)
        differing = [key[1] for key, (p, _) in by_key[0].items() if of_system[key][0].truth != p.truth]
        if differing:
            what = f"the truth of {len(differing)} utterances differs from {first.label}: {', '.join(differing[:3])}"
            raise RunError(what, where=system.path, remedy="Combine systems that were evaluated with the same labels.")
    rows = {}
    for key in by_key[0]:
        each = [of_system[key][0] for of_system in by_key]
        rows[key] = next((p for p in each if p.speaker is not None), each[0])
    keys = [key for key, row in rows.items() if row.truth is not None]
    if not keys:
        raise RunError("no prediction has a truth to be scored with", where=first.path, remedy='Add the key "truth".')
    return AlignedPredictions(
        first.classes,
        tuple(rows[key] for key in keys),
        np.array([first.classes.index(rows[key].truth or "") for key in keys], np.int64),
        np.array([[each[key][1] for key in keys] for each in by_key]),
        num_unlabelled=len(rows) - len(keys),
    )


def _mean_over_seeds(system: System, split: Split, classes: Sequence[str]) -> PredictionsByKey:
    """Return one prediction per fold and utterance, and its probabilities averaged over the seeds."""
    by_key: dict[Key, list[EvalPrediction]] = {}
    for p in system.predictions[split]:
        own = p.probabilities or {}
        if own.keys() != set(classes):
            what = f"'{p.id}' has probabilities of {', '.join(own)}, but not of {', '.join(classes)}"
            raise RunError(what, where=system.path, remedy="Give every class its probability.")
        by_key.setdefault((p.fold, p.id), []).append(p)
    most = max(map(len, by_key.values()))
    lacking = [key for key, found in by_key.items() if len(found) < most]
    if lacking:
        what = f"{len(lacking)} utterances lack a seed, such as '{lacking[0][1]}' of fold {lacking[0][0]}"
        raise RunError(what, where=system.path, remedy="Finish the run with --resume.")
    return {
        key: (found[0], np.mean([[(p.probabilities or {})[name] for name in classes] for p in found], axis=0))
        for key, found in by_key.items()
    }
