"""Scores of groups of speakers compared with all others: women and men, ages, languages.

Over several corpora, a group also differs from the others in its corpora; each corpus is therefore also scored alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from serein.evaluation.intervals import (
    FEWEST_UNITS,
    Bounds,
    class_scores,
    interval_text,
    percentile_interval,
    resampled_scores,
    resampling_units,
)
from serein.evaluation.predictions import EvalPrediction, code
from serein.metrics import FloatArray, mean_of_known

AGES = {"below 30": 30.0, "30 to 44": 45.0, "45 to 59": 60.0, "60 and above": float("inf")}  # upper end, exclusive
HEADINGS = ("Group", "Corpus", "UA", "Versus others, points", "Speakers", "Utterances")


def age_group(age: float | None) -> str | None:
    """Return the group in `AGES` that an age belongs to.

    Example:
        >>> age_group(29.9), age_group(30), age_group(74), age_group(None)
        ('below 30', '30 to 44', '60 and above', None)
    """
    return None if age is None else next(name for name, end in AGES.items() if age < end)


ATTRIBUTES: dict[str, Callable[[EvalPrediction], str | None]] = {
    "gender": lambda prediction: prediction.gender,
    "age": lambda prediction: age_group(prediction.age),
    "language": lambda prediction: prediction.language,
}


@dataclass(frozen=True)
class GroupScore:
    """Scores of a group of speakers in per cent, pooled and averaged over seeds, and its difference from the others.

    Attributes:
        attribute: `gender`, `age` or `language`.
        name: The group, such as `female`, `below 30` or `de`.
        corpus: The corpus of the speakers, empty if it has no name; `None` for all corpora.
        ua: Unweighted accuracy over the classes that the group has.
        interval: 95 % interval of `ua` over speakers; `None` if there are too few.
        to_others: Lead, in points, over all others whose attribute is known, over the classes that both have; `None` if
            they share none.
        to_others_interval: 95 % interval of `to_others` over speakers; `None` if either side has too few.
        num_speakers: Number of speakers in the group; `None` if they are unknown.
        num_utterances: Number of utterances of the group.
    """

    attribute: str
    name: str
    corpus: str | None
    ua: float
    interval: Bounds | None
    to_others: float | None
    to_others_interval: Bounds | None
    num_speakers: int | None
    num_utterances: int

    def cells(self) -> tuple[str, ...]:
        """Return a row of a table with the columns of `HEADINGS`."""
        ahead = "–" if self.to_others is None else f"{self.to_others:+.1f}"
        return (
            f"{self.attribute}: {self.name}",
            "all" if self.corpus is None else self.corpus or "own",
            f"{self.ua:.1f} {interval_text(self.interval)}".strip(),
            f"{ahead} {interval_text(self.to_others_interval, '+.1f')}".strip(),
            "–" if self.num_speakers is None else str(self.num_speakers),
            str(self.num_utterances),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        bounds = {
            name: getattr(self, name) and list(getattr(self, name)) for name in ("interval", "to_others_interval")
        }
        return asdict(self) | bounds


def group_scores(predictions: Sequence[EvalPrediction], classes: Sequence[str]) -> tuple[GroupScore, ...]:
    """Return the scores of every group of attributes with two or more groups: over all corpora, then within each.

    Args:
        predictions: Those without truth are skipped.
        classes: The model's classes.

    Example:
        >>> right = [EvalPrediction(id=f"w{i}", truth="sad", prediction="sad", gender="female") for i in range(2)]
        >>> wrong = [EvalPrediction(id=f"m{i}", truth="sad", prediction="calm", gender="male") for i in range(2)]
        >>> [(group.name, group.ua, group.to_others) for group in group_scores([*right, *wrong], ["calm", "sad"])]
        [('female', 100.0, 100.0), ('male', 0.0, -100.0)]
    """
    labelled = [each for each in predictions if each.truth is not None]
    corpora = sorted({each.corpus or "" for each in labelled})
    parts: list[str | None] = [None, *(corpora if len(corpora) > 1 else [])]
    scores = []
    for corpus in parts:
        own = [each for each in labelled if corpus is None or (each.corpus or "") == corpus]
        for attribute, value_of in ATTRIBUTES.items():
            known = [each for each in own if value_of(each)]
            names = {value_of(each) for each in known}
            order = [name for name in AGES if name in names] if attribute == "age" else sorted(map(str, names))
            if len(order) > 1:
                values = np.array([value_of(each) for each in known])
                scores += [
                    _group_score(known, values == name, classes, attribute=attribute, name=name, corpus=corpus)
                    for name in order
                ]
    return tuple(scores)


def _group_score(
    predictions: Sequence[EvalPrediction], is_inside: Any, classes: Sequence[str], **of_group: Any
) -> GroupScore:
    """Score one group and the others, drawing the same speakers for both."""
    from scipy.sparse import hstack

    coded = code(predictions, classes)
    num_seeds, is_other = len(coded.seeds), (~is_inside).astype(np.int64)
    sides = coded.class_counts(is_other * num_seeds + coded.seed, 2 * num_seeds).toarray()
    support = np.split(sides.reshape(2, num_seeds, -1).sum(axis=1), 3, axis=1)[1]
    is_shared = np.tile((support > 0).all(axis=0), 3)  # of hits, true and predicted utterances
    own, others = np.split(sides, 2)
    ua, shared_ua, others_ua = (_ua(counts) for counts in (own, own * is_shared, others * is_shared))
    num_speakers = [None if coded.speaker is None else len(np.unique(coded.speaker[is_other == n])) for n in (0, 1)]
    bounds: list[Bounds | None] = [None, None]
    units = resampling_units(coded)
    if coded.speaker is not None and units.kind == "speakers" and not units.why_not:
        count = len(coded.speakers)
        row = (is_other * num_seeds + coded.seed) * count + coded.speaker
        by_speaker = coded.class_counts(row, 2 * num_seeds * count)
        runs = [by_speaker[run * count : (run + 1) * count] for run in range(2 * num_seeds)]
        sums = hstack([*runs[:num_seeds], *(run.multiply(is_shared[None]) for run in runs)], format="csr")
        drawn = resampled_scores(replace(units, sums=sums, num_runs=3 * num_seeds), np.random.default_rng(0))
        of_own, of_shared, of_others = (100 * mean_of_known(part) for part in np.split(drawn.scores["ua"], 3, axis=1))
        enough = [n is not None and n >= FEWEST_UNITS for n in num_speakers]
        bounds = [
            percentile_interval(of_own) if enough[0] else None,
            percentile_interval(of_shared - of_others) if all(enough) and is_shared.any() else None,
        ]
    return GroupScore(
        **of_group,
        ua=ua,
        interval=bounds[0],
        to_others=shared_ua - others_ua if is_shared.any() else None,
        to_others_interval=bounds[1],
        num_speakers=num_speakers[0],
        num_utterances=coded.num_distinct(is_other, 2)[0],
    )


def _ua(counts: FloatArray) -> float:
    return 100 * float(mean_of_known(class_scores(counts)["ua"]))
