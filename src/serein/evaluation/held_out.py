"""Systems side by side, divided into what weights may be fitted to and what they are judged on."""

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
class Part:
    """Predictions to judge, and those that their weights are fitted to.

    Attributes:
        name: What is judged, for people.
        fit: What the weights may see.
        judged: NDArray[np.int64] of the judged rows.
    """

    name: str
    fit: AlignedPredictions
    judged: NDArray[np.int64]


def divide(judged: AlignedPredictions, dev: AlignedPredictions | None, seed: int) -> tuple[FittedBy, list[Part]]:
    """Divide as well as the predictions allow: by dev, else by the other folds, else by speakers, else by utterances.

    Args:
        judged: What is judged.
        dev: Dev predictions of every fold, where all systems have them.
        seed: Draws the parts of a single fold.
    """
    if dev is not None:
        return "dev", dev_parts(judged, dev)
    if len(judged.folds) > 1:
        return "nested folds", nested_parts(judged)
    if None not in judged.speakers and len(set(judged.speakers)) > 1:
        return "nested speakers", grouped_parts(judged, judged.speakers, seed)
    return "nested utterances", grouped_parts(judged, [row.id for row in judged.rows], seed)


def dev_parts(judged: AlignedPredictions, dev: AlignedPredictions) -> list[Part]:
    """Judge each fold by weights that are fitted to its dev predictions.

    Raises:
        LeakError: An utterance is in dev and test of a fold.
    """
    parts = []
    for name in judged.folds:
        positions, fit = judged.of_fold(name), dev.only(dev.of_fold(name))
        shared = {row.id for row in fit.rows} & {judged.rows[p].id for p in positions}
        if shared:
            what = f"{len(shared)} utterances are in both dev and test of fold {name}: {', '.join(sorted(shared)[:3])}"
            raise LeakError(what, remedy="Divide the data again.")
        parts.append(Part(f"fold {name}", fit, positions))
    return parts


def nested_parts(judged: AlignedPredictions) -> list[Part]:
    """Judge each fold by weights that are fitted to the other folds, without the utterances that are in it too.

    Raises:
        LeakError: Nothing is left to fit to.
    """
    parts = []
    for name in judged.folds:
        positions = judged.of_fold(name)
        inside = {judged.rows[p].id for p in positions}
        others = np.array([p for p, row in enumerate(judged.rows) if row.id not in inside], np.int64)
        if not len(others):
            remedy = "Fuse by --method mean, which fits nothing."
            raise LeakError(f"all utterances of the other folds are in fold {name} too", remedy=remedy)
        parts.append(Part(f"fold {name}", judged.only(others), positions))
    return parts


def grouped_parts(judged: AlignedPredictions, groups: Sequence[object], seed: int) -> list[Part]:
    """Judge each of some five parts by weights that are fitted to the others; a group is in one part only.

    Args:
        groups: Of each row: its speaker, or its id.
        seed: Draws the parts.

    Raises:
        RunError: There is one group only.
    """
    names = list(dict.fromkeys(groups))
    num_parts = min(NUM_PARTS, len(names))
    if num_parts < 2:
        raise RunError("one utterance is too few to fit and to judge weights", remedy="Predict more of them.")
    order = np.random.default_rng(seed).permutation(len(names))
    part_of = {names[group]: place % num_parts for place, group in enumerate(order)}
    part = np.array([part_of[group] for group in groups])
    return [
        Part(f"part {number + 1}", judged.only(np.flatnonzero(part != number)), np.flatnonzero(part == number))
        for number in range(num_parts)
    ]


def dependence(judged: AlignedPredictions, parts: Sequence[Part]) -> list[str]:
    """Say where weights are judged on speakers that they were fitted to, or where nobody can tell."""
    if None in judged.speakers:
        return ["Speakers are unknown: weights may have been fitted to voices that they are judged on."]
    shared: set[SpeakerKey | None] = set()
    for part in parts:
        shared |= set(part.fit.speakers) & set(judged.only(part.judged).speakers)
    if not shared:
        return []
    return [f"SPEAKER-DEPENDENT: weights are judged on {len(shared)} speakers that they were fitted to."]
