"""Bootstrap intervals of scores over speakers, and paired comparison of two systems.

Utterances of one speaker are not independent, so whole speakers are drawn with replacement (the clustered
bootstrap: Field & Welsh 2007; Bisani & Ney 2004 for paired systems). A resample is a row of counts, one per
speaker; its scores depend only on sums over its speakers, so all resamples are one matrix product. The matrices are
sparse: memory grows with the utterances, regardless of the number of classes and speakers. Scores are fractions from 0
to 1.

A resample may lack a class that few speakers have. Its UA must not become the mean over fewer classes: a model that
always predicts "happy" has a UA of 25 % on four classes whichever speakers are drawn, but would have 50 % in a resample
with two of them. Every resample is therefore scored on all classes of the test set, and a class that it lacks counts
with its score on all test data. (Drawing speakers within each class would keep all classes, but ignore what a speaker's
classes have in common, and thereby lose most of the width.) Resampling cannot show variation that the few speakers of a
class do not have: the number of resamples that lacked a class is stated with the interval, and UA has no interval if
most classes have only one speaker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serein.errors import RunError, counted
from serein.evaluation.predictions import CodedPredictions, EvalPrediction, code, speakers_of
from serein.metrics import FloatArray, mean_of_known, ratio
from serein.metrics.titles import metric_of

LEVEL = 0.95
NUM_RESAMPLES = 2000
FEWEST_UNITS = 3
ENOUGH_SPEAKERS = 15  # with ten, 95 % intervals of a mean of normal scores cover 90 % of the cases; with 15, 92 %
SPEAKERS_UNKNOWN = "Speakers are unknown: intervals resample utterances, and are too narrow if speakers repeat."
MEANS_OF_CLASSES = ("ua", "macro_f1")
_NUMBERS_AT_ONCE = 4_000_000

Bounds = tuple[float, float]
Kind = Literal["speakers", "utterances", "speakers and utterances"]
Scorer = Callable[[FloatArray, FloatArray | None], dict[str, FloatArray]]


@dataclass(frozen=True)
class Units:
    """The units that the bootstrap draws with replacement.

    Attributes:
        kind: Whole speakers, or single utterances; or speakers, and utterances whose speaker is unknown.
        sums: `scipy.sparse.csr_array` ``(units, runs * numbers)``: the terms that are summed for the scores of a run,
            as in `CodedPredictions.class_counts`; a run is one seed of one system.
        num_runs: Number of runs.
        multiplicity: ``(units,)`` number of speakers or utterances that each row represents (identical ones share one).
        scores: Takes sums ``(..., numbers)``, and those of all data for classes that a resample lacks.
        num_classes: Number of classes; 0 if the scores are not of classes.
        why_not: Why UA and macro-F1 have no interval although there are enough units; `None` if they have one.
        note: Why utterances are drawn; `None` if only speakers are.
    """

    kind: Kind
    sums: Any
    num_runs: int
    multiplicity: NDArray[np.int64]
    scores: Scorer
    num_classes: int = 0
    why_not: str | None = None
    note: str | None = None

    @property
    def num_units(self) -> int:
        """Number of speakers and utterances to draw from; identical ones are counted separately."""
        return int(self.multiplicity.sum())

    @property
    def too_few(self) -> str | None:
        """The reason why no interval can be given; `None` when one can."""
        if self.num_units >= FEWEST_UNITS:
            return None
        return f"{counted(self.num_units, self.kind.removesuffix('s'))}, but an interval needs at least {FEWEST_UNITS}"

    def totals(self, counts: FloatArray) -> FloatArray:
        """Sum units, each as often as counted: ``(resamples, units)`` to ``(resamples, runs, numbers)``."""
        total: FloatArray = np.asarray(counts @ self.sums).reshape(len(counts), self.num_runs, -1)
        return total


@dataclass(frozen=True)
class Resamples:
    """Scores of resamples.

    Attributes:
        scores: By name, ``(resamples, runs)``.
        num_lacking: Number of resamples that lack a class of the test set.
        lacking: ``(classes,)`` number of resamples that lack each class.
    """

    scores: dict[str, FloatArray]
    num_lacking: int
    lacking: NDArray[np.int64]

    def notes(self, units: Units, classes: Sequence[str]) -> list[str]:
        """Return why UA and macro-F1 have no interval, or which classes the resamples lack, unless almost none does."""
        percentage = 100 * self.num_lacking / len(next(iter(self.scores.values())))
        if units.why_not is not None:
            return [f"No intervals of UA and macro-F1: {units.why_not}."]
        if percentage < 1.0:  # too few to move a bound
            return []
        order = [number for number in np.argsort(-self.lacking, kind="stable").tolist() if self.lacking[number]]
        names = ", ".join(classes[number] for number in order[:3])
        more = f" and {len(order) - 3} more" if len(order) > 3 else ""
        return [
            f"{percentage:.0f} % of the resamples lack a class with few {units.kind} ({names}{more}): it counts "
            "there with its score on all test data, so the intervals of UA and macro-F1 are too narrow."
        ]


@dataclass(frozen=True)
class Difference:
    """The difference between system a and system b, on the same utterances and the same resamples.

    Attributes:
        a: Score of the first system, 0 to 1.
        b: Score of the second system, 0 to 1.
        interval: Lower and upper bound of ``difference``; `None` with too few speakers.
        probability_of_improvement: Fraction of resamples in which a is better, with half of those in which both are
            equal; near 1 a wins, near 0 b does.
        resampled: The units that were drawn with replacement, for example "24 speakers".
        notes: Caveats for readers of the interval.
    """

    a: float
    b: float
    interval: Bounds | None
    probability_of_improvement: float | None
    resampled: str
    notes: tuple[str, ...] = ()

    @property
    def difference(self) -> float:
        """Score of a minus score of b."""
        return self.a - self.b

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers; `None` for unknown values."""
        numbers = {"a": self.a, "b": self.b, "difference": self.difference}
        return {
            **{name: None if np.isnan(value) else value for name, value in numbers.items()},
            "interval": self.interval and list(self.interval),
            "probability_of_improvement": self.probability_of_improvement,
            "resampled": self.resampled,
            "notes": list(self.notes),
        }

    def to_per_cent(self) -> dict[str, Any]:
        """Return the difference and its interval in per cent, as plain lists and numbers."""
        return {
            "difference": 100 * self.difference,
            "interval": self.interval and [100 * bound for bound in self.interval],
            "probability_of_improvement": self.probability_of_improvement,
            "resampled": self.resampled,
        }


def class_scores(counts: FloatArray, of_all: FloatArray | None = None) -> dict[str, FloatArray]:
    """Return UA, WA and macro-F1, by the names and with the conventions of `serein.metrics.SCORES`.

    Args:
        counts: ``(..., 3 * classes)`` hits, true and predicted utterances of each class.
        of_all: The same counts of all data, if `counts` are of a resample: they score the classes that it lacks.

    Returns:
        ``(...)`` each; NaN where nothing was counted.

    Example:
        >>> {name: float(score) for name, score in class_scores(np.array([3.0, 2.0, 4.0, 2.0, 3.0, 3.0])).items()}
        {'ua': 0.875, 'wa': 0.8333333333333334, 'macro_f1': 0.8285714285714285}
    """
    hits, support, predicted = np.split(counts, 3, axis=-1)
    recall, f1 = ratio(hits, support), ratio(2 * hits, support + predicted)
    if of_all is not None:
        all_hits, all_support, all_predicted = np.split(of_all, 3, axis=-1)
        is_lacking = support == 0
        recall = np.where(is_lacking, ratio(all_hits, all_support), recall)
        f1 = np.where(is_lacking, ratio(2 * all_hits, all_support + all_predicted), f1)
    accuracy = ratio(hits.sum(axis=-1), support.sum(axis=-1))
    return {"ua": mean_of_known(recall), "wa": accuracy, "macro_f1": mean_of_known(f1)}


def resampling_units(*systems: CodedPredictions, draw_speakers: bool = False) -> Units:
    """Group predictions into the units to draw: speakers, and each utterance whose speaker is unknown.

    Only utterances are drawn if the classes are the speakers (speaker identification): other speakers cannot be drawn
    without changing the classes.

    Args:
        systems: One system, or several with predictions of the same utterances, whose runs are concatenated.
        draw_speakers: Group by speakers even if they are the classes.
    """
    from scipy.sparse import hstack

    first = systems[0]
    why_not = None
    if first.is_of_speakers and not draw_speakers:
        kind: Kind = "utterances"
        note: str | None = (
            "The classes are the speakers: intervals resample utterances, and are too narrow if recordings repeat."
        )
    elif any(set(system.clusters) != set(first.clusters) for system in systems):  # not all know the same speakers
        kind, note = "utterances", SPEAKERS_UNKNOWN
    else:
        num_unknown = sum(isinstance(cluster, str) for cluster in first.clusters)
        kind, note = kind_of_units(num_unknown, len(first.clusters), len(first.ids))
    if kind != "utterances":
        pairs = np.unique(first.truth * len(first.clusters) + first.cluster)
        num_speakers = np.bincount(pairs // len(first.clusters))
        num_classes, num_single = int((num_speakers > 0).sum()), int((num_speakers == 1).sum())
        if 2 * num_single > num_classes:
            why_not = f"{num_single} of {num_classes} classes have only one speaker, so other speakers cannot be drawn"
    number_of: dict[object, int] = {
        name: number for number, name in enumerate(first.ids if kind == "utterances" else first.clusters)
    }
    parts = []
    for system in systems:
        names: Sequence[object] = system.ids
        own = system.utterance
        if kind != "utterances":
            names, own = system.clusters, system.cluster
        unit = np.array([number_of[name] for name in names], np.int64)[own]
        counts = system.class_counts(unit * len(system.seeds) + system.seed, len(number_of) * len(system.seeds))
        parts.append(counts.reshape(len(number_of), -1))
    sums = hstack(parts, format="csr")
    multiplicity = np.ones(len(number_of), np.int64)
    if kind != "speakers":  # many have the same truth and the same predictions; these share a row
        sums.sort_indices()
        rows: dict[bytes, int] = {}
        pattern = [
            rows.setdefault(sums.indices[a:b].tobytes() + sums.data[a:b].tobytes(), len(rows))
            for a, b in pairwise(sums.indptr.tolist())
        ]
        _, first_of, multiplicity = np.unique(pattern, return_index=True, return_counts=True)
        sums = sums[first_of]
    num_runs = sum(len(system.seeds) for system in systems)
    return Units(kind, sums, num_runs, multiplicity, class_scores, len(first.classes), why_not, note)


def kind_of_units(num_unknown: int, num_units: int, num_utterances: int) -> tuple[Kind, str | None]:
    """Return what is drawn, and why utterances are.

    Args:
        num_unknown: Number of utterances whose speaker is unknown.
        num_units: Number of these and of the known speakers.
        num_utterances: Number of all utterances.

    Example:
        >>> kind_of_units(0, 3, 9), kind_of_units(1, 3, 9)[0], kind_of_units(9, 9, 9)[0]
        (('speakers', None), 'speakers and utterances', 'utterances')
    """
    if not num_unknown:
        return "speakers", None
    if num_unknown == num_units:
        return "utterances", SPEAKERS_UNKNOWN
    return "speakers and utterances", (
        f"{num_unknown} of {num_utterances} utterances have no speaker, and are drawn one by one: intervals are too "
        "narrow if their speakers repeat."
    )


def draw_counts(units: Units, rng: np.random.Generator, num_resamples: int) -> NDArray[np.int64]:
    """Draw how often each resample contains each unit: ``(resamples, units)``; rows sum to ``num_units``."""
    num_rows = len(units.multiplicity)
    if units.kind == "speakers":
        return rng.multinomial(units.num_units, np.full(num_rows, 1 / num_rows), size=num_resamples)
    # Utterance by utterance: a multinomial draw over tens of thousands of rows would take ten times as long.
    drawn = rng.integers(units.num_units, size=(num_resamples, units.num_units))
    row = np.repeat(np.arange(num_rows), units.multiplicity)[drawn]
    row += num_rows * np.arange(num_resamples)[:, None]
    return np.bincount(row.reshape(-1), minlength=num_resamples * num_rows).reshape(num_resamples, num_rows)


def point_scores(units: Units) -> dict[str, FloatArray]:
    """Return each score of each run on all data: ``(runs,)``, by name."""
    total = units.totals(units.multiplicity[None].astype(float))
    return {name: score[0] for name, score in units.scores(total, None).items()}


def resampled_scores(units: Units, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES) -> Resamples:
    """Score each run in each resample; the resamples are the same for all runs."""
    of_all = units.totals(units.multiplicity[None].astype(float))
    parts: list[dict[str, FloatArray]] = []
    support = slice(units.num_classes, 2 * units.num_classes)
    num_lacking, lacking = 0, np.zeros(units.num_classes, np.int64)
    at_once = max(1, _NUMBERS_AT_ONCE // max(*units.sums.shape, units.num_units))
    for start in range(0, num_resamples, at_once):
        total = units.totals(draw_counts(units, rng, min(at_once, num_resamples - start)).astype(float))
        parts.append(units.scores(total, of_all))
        is_lacking = ((total[..., support] == 0) & (of_all[..., support] > 0)).any(axis=1)
        num_lacking += int(is_lacking.any(axis=1).sum())
        lacking += is_lacking.sum(axis=0)
    scores = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Resamples(scores, num_lacking, lacking)


def interval_text(bounds: Bounds | None, form: str = ".1f") -> str:
    """Return an interval as text; empty if there is none.

    Example:
        >>> interval_text((60.1, 70.25)), interval_text((-1.0, 2.0), "+.1f"), interval_text(None)
        ('[60.1, 70.2]', '[-1.0, +2.0]', '')
    """
    return "" if bounds is None else f"[{bounds[0]:{form}}, {bounds[1]:{form}}]"


def few_speakers_notes(num_speakers: int) -> list[str]:
    """Return a note if there is an interval, but over few speakers; otherwise nothing."""
    if not FEWEST_UNITS <= num_speakers < ENOUGH_SPEAKERS:
        return []
    return [f"Only {num_speakers} speakers: a bootstrap interval over so few is too narrow."]


def percentile_interval(values: FloatArray) -> Bounds:
    """Return the bounds of the middle 95 % of the values.

    Example:
        >>> [round(bound, 3) for bound in percentile_interval(np.linspace(0.0, 1.0, 101))]
        [0.025, 0.975]
    """
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.nanpercentile(values, [tail, 100.0 - tail])
    return float(low), float(high)


def bootstrap_intervals(
    units: Units, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES, classes: Sequence[str] = ()
) -> tuple[dict[str, Bounds | None], list[str]]:
    """Return the 95 % percentile interval of each score; seeds are averaged inside each resample.

    Args:
        classes: Names for the notes.

    Returns:
        Bounds from 0 to 1 by score name, `None` where there is no interval; and notes for their reader.
    """
    notes = [] if units.note is None else [units.note]
    if units.too_few:
        return dict.fromkeys(point_scores(units)), [*notes, f"No intervals: {units.too_few}."]
    resampled = resampled_scores(units, rng, num_resamples)
    notes += resampled.notes(units, classes)
    bounds: dict[str, Bounds | None] = {
        name: percentile_interval(mean_of_known(values))
        if np.isfinite(values).any() and not (units.why_not and name in MEANS_OF_CLASSES)
        else None
        for name, values in resampled.scores.items()
    }
    if units.kind == "speakers" and any(bounds.values()):
        notes += few_speakers_notes(units.num_units)
    return bounds, notes


def require_same_utterances(
    a: Mapping[str, str], b: Mapping[str, str], names: tuple[str, str], where: tuple[object, object] = (None, None)
) -> None:
    """Raise RunError unless two systems predicted the same utterances, with the same truth.

    Args:
        a: Utterance -> truth, of the first system.
        b: Utterance -> truth, of the second system.
        names: Names of both systems, for the message.
        where: Files of both systems, for the message.
    """
    for present, absent, name, place in ((a, b, names[1], where[1]), (b, a, names[0], where[0])):
        lacking = sorted(present.keys() - absent.keys())
        if lacking:
            raise RunError(
                f"{name} has no prediction for {len(lacking)} utterances: {', '.join(lacking[:3])}",
                where=place,
                remedy="Compare two systems on the same utterances.",
            )
    contradicted = sorted(key for key, truth in a.items() if b[key] != truth)
    if contradicted:
        raise RunError(
            f"the truth of {len(contradicted)} utterances differs: {', '.join(contradicted[:3])}",
            where=where[1],
            remedy="Compare systems that were evaluated with the same labels.",
        )


def paired_difference(
    a: Sequence[EvalPrediction],
    b: Sequence[EvalPrediction],
    classes: Sequence[str],
    *,
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Difference]:
    """Compare two systems on the same utterances, drawing the same speakers for both.

    Either system may provide the speakers. The systems may have different numbers of seeds and different folds.

    Returns:
        A `Difference` by score name ("ua", "wa", "macro_f1").

    Raises:
        RunError: The utterances differ, or the systems disagree about an utterance's truth.

    Example:
        >>> truth = {"u1": "sad", "u2": "calm", "u3": "sad"}
        >>> a = [EvalPrediction(id=key, truth=value, prediction=value) for key, value in truth.items()]
        >>> b = [EvalPrediction(id=key, truth=value, prediction="sad") for key, value in truth.items()]
        >>> paired_difference(a, b, ["calm", "sad"], rng=np.random.default_rng(0))["ua"].difference
        0.5
    """
    truth_a, truth_b = ({p.id: p.truth for p in system if p.truth is not None} for system in (a, b))
    require_same_utterances(truth_a, truth_b, ("the first system", "the second system"))
    speakers = speakers_of(a, b)
    coded = code(a, classes, speakers), code(b, classes, speakers)
    return unit_differences(
        resampling_units(*coded), len(coded[0].seeds), classes, rng=rng, num_resamples=num_resamples
    )


def unit_differences(
    units: Units,
    num_runs_a: int,
    classes: Sequence[str] = (),
    *,
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Difference]:
    """Return the difference of each score between the first runs of units, which are one system's, and the others."""
    points = point_scores(units)
    notes = [] if units.note is None else [units.note]
    resampled = None if units.too_few else resampled_scores(units, rng, num_resamples)
    notes += [f"No interval: {units.too_few}."] if resampled is None else resampled.notes(units, classes)
    few = few_speakers_notes(units.num_units if units.kind == "speakers" else 0)
    drawn = f"{units.num_units} {units.kind}"
    differences = {}
    for name, score in points.items():
        mean_a, mean_b = float(mean_of_known(score[:num_runs_a])), float(mean_of_known(score[num_runs_a:]))
        bounds, improved = None, None
        if resampled is not None and not (units.why_not and name in MEANS_OF_CLASSES):
            values = resampled.scores[name]
            gains = mean_of_known(values[:, :num_runs_a]) - mean_of_known(values[:, num_runs_a:])
            gains = gains[np.isfinite(gains)]  # a resample may lack every truth of a dimension
            if gains.size:
                is_better = gains < 0 if metric_of(name).is_error else gains > 0
                bounds, improved = percentile_interval(gains), float((is_better + (gains == 0) / 2).mean())
        own_notes = tuple(notes) if bounds is None else (*notes, *few)
        differences[name] = Difference(mean_a, mean_b, bounds, improved, drawn, own_notes)
    return differences
