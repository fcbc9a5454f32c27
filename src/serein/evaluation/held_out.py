"""Aligned predictions of systems, divided into those that weights are fitted to and those they are evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serein.errors import LeakError, RunError
from serein.evaluation.predictions import SpeakerKey
from serein.evaluation.systems import AlignedPredictions

NUM_PARTS = 5

FittedBy = Literal["dev", "nested folds", "nested speakers", "nested utterances"]


@dataclass(frozen=True)
class HeldOutPart:
    """Predictions to evaluate, and those that their weights are fitted to.

    Attributes:
        name: What is evaluated, for people.
        fit: The predictions that weights are fitted to.
        evaluated: ``(rows,)`` positions of the rows to evaluate.
    """

    name: str
    fit: AlignedPredictions
    evaluated: NDArray[np.int64]


def divide(
    evaluated: AlignedPredictions, dev: AlignedPredictions | None, seed: int
) -> tuple[FittedBy, list[HeldOutPart]]:
    """Divide as well as the predictions allow: by dev, else by the other folds, else by speakers, else by utterances.

    Args:
        evaluated: The predictions to evaluate.
        dev: Dev predictions of every fold, if all systems have them.
        seed: Draws the parts of a single fold.
    """
    if dev is not None:
        return "dev", dev_parts(evaluated, dev)
    if len(evaluated.folds) > 1:
        return "nested folds", nested_parts(evaluated)
    if None not in evaluated.speakers and len(set(evaluated.speakers)) > 1:
        return "nested speakers", grouped_parts(evaluated, evaluated.speakers, seed)
    return "nested utterances", grouped_parts(evaluated, [row.id for row in evaluated.rows], seed)


def dev_parts(evaluated: AlignedPredictions, dev: AlignedPredictions) -> list[HeldOutPart]:
    """Evaluate each fold with weights fitted to its dev predictions.

    Raises:
        LeakError: An utterance is in dev and test of a fold.
    """
    parts = []
    for name in evaluated.folds:
        positions, fit = evaluated.of_fold(name), dev.only(dev.of_fold(name))
        shared = {row.id for row in fit.rows} & {evaluated.rows[p].id for p in positions}
        if shared:
            what = f"{len(shared)} utterances are in both dev and test of fold {name}: {', '.join(sorted(shared)[:3])}"
            raise LeakError(what, remedy="Divide the data again.")
        parts.append(HeldOutPart(f"fold {name}", fit, positions))
    return parts


def nested_parts(evaluated: AlignedPredictions) -> list[HeldOutPart]:
    """Evaluate each fold with weights fitted to the other folds, without the utterances that are in it too.

    Raises:
        LeakError: Nothing is left to fit to.
    """
    parts = []
    for name in evaluated.folds:
        positions = evaluated.of_fold(name)
        inside = {evaluated.rows[p].id for p in positions}
        others = np.array([p for p, row in enumerate(evaluated.rows) if row.id not in inside], np.int64)
        if not len(others):
            remedy = "Fuse by --method mean, which fits nothing."
            raise LeakError(f"all utterances of the other folds are in fold {name} too", remedy=remedy)
        parts.append(HeldOutPart(f"fold {name}", evaluated.only(others), positions))
    return parts


def grouped_parts(evaluated: AlignedPredictions, groups: Sequence[object], seed: int) -> list[HeldOutPart]:
    """Evaluate each of five parts with weights fitted to the others; a group is in one part only.

    Args:
        groups: Of each row: its speaker, or its id.
        seed: Draws the parts.

    Raises:
        RunError: There is one group only.
    """
    names = list(dict.fromkeys(groups))
    num_parts = min(NUM_PARTS, len(names))
    if num_parts < 2:
        raise RunError("one utterance is too few to fit and to evaluate weights", remedy="Predict more of them.")
    order = np.random.default_rng(seed).permutation(len(names))
    part_of = {names[group]: place % num_parts for place, group in enumerate(order)}
    part = np.array([part_of[group] for group in groups])
    return [
        HeldOutPart(
            f"part {number + 1}", evaluated.only(np.flatnonzero(part != number)), np.flatnonzero(part == number)
        )
        for number in range(num_parts)
    ]


def dependence(evaluated: AlignedPredictions, parts: Sequence[HeldOutPart]) -> list[str]:
    """Return a note if weights are evaluated on speakers that they were fitted to, or if speakers are unknown."""
    if None in evaluated.speakers:
        return ["Speakers are unknown: weights may be evaluated on speakers that they were fitted to."]
    shared: set[SpeakerKey | None] = set()
    for part in parts:
        shared |= set(part.fit.speakers) & set(evaluated.only(part.evaluated).speakers)
    if not shared:
        return []
    return [f"SPEAKER-DEPENDENT: weights are evaluated on {len(shared)} speakers that they were fitted to."]
