"""Scores of numbers and of distributions over classes, with intervals and paired comparisons.

Every score is computed from sums over utterances, so that a resample of speakers is one matrix product: whole sets are
scored, never means of parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from serein import metrics
from serein.data.manifest import Utterance, is_self_evaluation
from serein.errors import RunError
from serein.evaluation.intervals import (
    Bounds,
    Difference,
    Units,
    bootstrap_intervals,
    interval_text,
    kind_of_units,
    point_scores,
    unit_differences,
)
from serein.evaluation.predictions import EvalPrediction, SpeakerKey, numbered, speakers_of
from serein.metrics import FloatArray
from serein.metrics.titles import METRICS
from serein.tasks.ctc import normalised, word_errors

Score = Callable[[FloatArray], FloatArray]  # (..., column) sums -> (...)
NUM_MOMENTS = 7  # columns of `metrics.moments`


@dataclass(frozen=True)
class Measured:
    """Quantities of predictions, and the scores computed from their sums.

    Attributes:
        rows: The predictions.
        columns: (row, column).
        scores: Name -> score of sums; the main score comes first.
    """

    rows: Sequence[EvalPrediction]
    columns: FloatArray
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class GradedScore:
    """A score of a whole set, averaged over seeds.

    Attributes:
        interval: 95 % bootstrap interval over speakers, and utterances whose speaker is unknown; `None` if there are
            too few.
        notes: Caveats for readers of the interval.
    """

    value: float
    interval: Bounds | None
    notes: tuple[str, ...] = ()


def measured_numbers(predictions: Sequence[EvalPrediction], names: Sequence[str]) -> Measured:
    """Return the moments of numbers; with several dimensions, the scores are means over them, followed by each one's.

    Args:
        names: Names of the numbers of each prediction, in order.

    Raises:
        RunError: No prediction has a truth, or one is not a number.
    """
    rows = [p for p in predictions if p.truth is not None]
    if not rows:
        raise RunError("no number has a truth to be scored with", remedy='Add the key "truth" to every line.')
    truth, predicted = (np.array([getattr(p, key) for p in rows], float) for key in ("true_values", "values"))
    if truth.shape != predicted.shape or truth.shape[1] != len(names):
        what = f"predictions contain {predicted.shape[1]} numbers and {truth.shape[1]} truths for {', '.join(names)}"
        raise RunError(what, remedy="Write one number for each name, 'nan' if the truth is unknown.")
    columns = np.zeros((len(rows), len(names), NUM_MOMENTS))
    for place in range(len(names)):
        is_known = ~np.isnan(truth[:, place])
        columns[is_known, place] = metrics.moments(truth[is_known, place], predicted[is_known, place])
    scores: dict[str, Score] = {name: partial(_mean, score) for name, score in metrics.NUMBER_SCORES_OF.items()}
    if len(names) > 1:
        for name, score in metrics.NUMBER_SCORES_OF.items():
            scores |= {
                f"{name} {own}": partial(_of_part, score, place * NUM_MOMENTS) for place, own in enumerate(names)
            }
    return Measured(rows, columns.reshape(len(rows), -1), scores)


def _mean(score: Score, sums: FloatArray) -> FloatArray:
    own = sums.reshape(*sums.shape[:-1], -1, NUM_MOMENTS)
    return metrics.mean_of_known(np.where(own[..., 0] > 0, score(own), np.nan))


def _of_part(score: Score, first: int, sums: FloatArray) -> FloatArray:
    own = sums[..., first : first + NUM_MOMENTS]
    return np.where(own[..., 0] > 0, score(own), np.nan)  # without any truth, sums of 0 would be no errors


def measured_distributions(predictions: Sequence[EvalPrediction], classes: Sequence[str]) -> Measured | None:
    """Return distances between raters' labels and probabilities, and the agreement with a held-out rater.

    The truth is every label of every rater, as often as it was given. An undefined score is NaN: there is no held-out
    rater if no utterance was rated twice.

    Returns:
        `None` when no prediction has both raters and probabilities.
    """
    rows = [p for p in predictions if p.ratings and p.probabilities and p.probabilities.keys() >= set(classes)]
    if not rows:
        return None
    number = {name: place for place, name in enumerate(classes)}
    columns = np.zeros((len(rows), 1 + 3 + NUM_MOMENTS + 4))
    shares = np.zeros((len(rows), len(classes)))
    for row, prediction in enumerate(rows):
        votes = np.zeros((len(prediction.ratings or ()), len(classes)))
        for rater, labels in enumerate(prediction.ratings or ()):
            for label in labels:
                votes[rater, number[label]] += 1
        shares[row] = votes.sum(axis=0) / votes.sum()
        if len(votes) > 1:
            given = [(prediction.probabilities or {})[name] for name in classes]
            columns[row, -4:] = (1.0, *metrics.held_out_agreement(votes, given))
    probabilities = np.array([[(p.probabilities or {})[name] for name in classes] for p in rows])
    columns[:, 0] = 1.0
    for place, score in enumerate(metrics.DISTRIBUTION_SCORES.values(), start=1):
        columns[:, place] = score(shares, probabilities)
    columns[:, 4 : 4 + NUM_MOMENTS] = metrics.moments(metrics.entropy(shares), metrics.entropy(probabilities))
    scores: dict[str, Score] = {
        name: partial(_ratio, {place: 1.0}, 0) for place, name in enumerate(metrics.DISTRIBUTION_SCORES, start=1)
    }
    scores["entropy_correlation"] = partial(_of_part, metrics.pearson_of, 4)
    for place, name in ((-3, "model"), (-2, "rater"), (-1, "others")):
        scores[f"agreement_{name}"] = partial(_ratio, {place: 1.0}, -4)
    scores["one_more_rater"] = partial(_ratio, {-3: 1.0, -2: -1.0}, -4)
    return Measured(rows, columns, scores)


def measured_transcripts(predictions: Sequence[EvalPrediction]) -> Measured:
    """Return the errors and words of transcripts, and the errors and letters; both sides are normalised.

    Transcripts whose truth has no word are left out.

    Raises:
        RunError: None of them has a truth of at least one word.
        MissingExtraError: The package `jiwer` is not installed.
    """
    pairs = [(p, normalised(p.truth), normalised(p.prediction)) for p in predictions]
    known = [(p, truth, predicted) for p, truth, predicted in pairs if truth]
    if not known:
        raise RunError("no transcript has a truth to be scored with", remedy='Add the key "truth" to every line.')
    found = [word_errors(truth, predicted) for _, truth, predicted in known]
    columns = np.array([(each.errors, each.words, each.letter_errors, each.letters) for each in found], float)
    return Measured([p for p, _, _ in known], columns, {"wer": partial(_ratio, {0: 1.0}, 1)})


def _ratio(terms: Mapping[int, float], of: int, sums: FloatArray) -> FloatArray:
    total = sum((weight * sums[..., place] for place, weight in terms.items()), start=np.zeros(sums.shape[:-1]))
    return np.asarray(np.divide(total, sums[..., of], out=np.full(total.shape, np.nan), where=sums[..., of] > 0))


def graded_scores(measured: Measured) -> dict[str, GradedScore]:
    """Return every score, pooled over folds and averaged over seeds, with its interval over speakers.

    Example:
        >>> rows = [EvalPrediction(id=str(i), truth=str(i), prediction=str(2 * i), speaker=str(i)) for i in range(4)]
        >>> found = graded_scores(measured_numbers(rows, ["arousal"]))
        >>> round(found["ccc"].value, 3), round(found["pearson"].value, 3), found["mae"].value
        (0.588, 1.0, 1.5)
    """
    units = sum_units([measured], speakers_of(measured.rows))
    bounds, notes = bootstrap_intervals(units, np.random.default_rng(0))
    return {
        name: GradedScore(float(metrics.mean_of_known(score)), bounds[name], tuple(notes))
        for name, score in point_scores(units).items()
    }


def graded_differences(a: Measured, b: Measured) -> dict[str, Difference]:
    """Compare two systems on the same utterances, drawing the same speakers for both.

    Raises:
        RunError: The utterances differ, or their truths do.
    """
    truths = [{p.id: (p.truth, p.ratings) for p in each.rows} for each in (a, b)]
    if truths[0] != truths[1]:
        differing = sorted(key for key in {**truths[0], **truths[1]} if truths[0].get(key) != truths[1].get(key))
        what = f"{len(differing)} utterances are not in both systems with the same truth: {', '.join(differing[:3])}"
        raise RunError(what, remedy="Compare two systems on the same utterances, evaluated with the same labels.")
    units = sum_units([a, b], speakers_of(a.rows, b.rows))
    return unit_differences(units, len({p.seed for p in a.rows}), rng=np.random.default_rng(0))


def sum_units(systems: Sequence[Measured], speakers: Mapping[str, SpeakerKey]) -> Units:
    """Group predictions into the units that the bootstrap draws: speakers, and utterances whose speaker is unknown.

    Args:
        systems: One system, or several with predictions of the same utterances, whose runs are concatenated.
        speakers: Speaker of each utterance, by id.
    """
    from scipy.sparse import csr_array

    keys = [[(p.id in speakers, str(speakers.get(p.id, p.id))) for p in each.rows] for each in systems]
    number_of = {key: number for number, key in enumerate(sorted({key for own in keys for key in own}))}
    parts = []
    for each, own in zip(systems, keys, strict=True):
        unit = np.array([number_of[key] for key in own], np.int64)
        seeds, seed = numbered([p.seed for p in each.rows], sort_by=int)
        sums = np.zeros((len(number_of), len(seeds), each.columns.shape[1]))
        np.add.at(sums, (unit, seed), each.columns)
        parts.append(sums.reshape(len(number_of), -1))
    scores, num_utterances = systems[0].scores, len({p.id for each in systems for p in each.rows})
    kind, note = kind_of_units(sum(not is_speaker for is_speaker, _ in number_of), len(number_of), num_utterances)
    return Units(
        kind,
        csr_array(np.concatenate(parts, axis=1)),
        sum(len({p.seed for p in each.rows}) for each in systems),
        np.ones(len(number_of), np.int64),
        lambda sums, of_all: {name: score(sums) for name, score in scores.items()},
        note=note,
    )


def graded_rows(scores: Mapping[str, GradedScore]) -> list[tuple[str, str, str]]:
    """Return the name, value and interval of each score of distributions, as text."""
    rows = []
    for name, score in scores.items():
        bounds = interval_text(score.interval, ".3f") or "–"
        rows.append((METRICS[name].title, "–" if np.isnan(score.value) else f"{score.value:.3f}", bounds))
    return rows


def rater_agreement(utterances: Sequence[Utterance]) -> dict[str, float]:
    """Return Krippendorff's alpha of the raters' first labels by corpus, except for corpora without such labels.

    Actors who rated themselves do not count as raters.
    """
    firsts: dict[str, list[list[str]]] = {}
    for utterance in utterances:
        labels = [r.labels[0] for r in utterance.ratings if r.labels and not is_self_evaluation(r)]
        firsts.setdefault(utterance.corpus or "own", []).append(labels)
    found = {}
    for corpus, units in firsts.items():
        number = {name: place for place, name in enumerate(sorted({label for unit in units for label in unit}))}
        counts = np.zeros((len(units), max(1, len(number))))
        for row, unit in enumerate(units):
            for label in unit:
                counts[row, number[label]] += 1
        found[corpus] = metrics.krippendorff_alpha(counts)
    return {corpus: alpha for corpus, alpha in found.items() if not np.isnan(alpha)}


def one_more_rater(scores: Mapping[str, GradedScore]) -> str:
    """Return a sentence on whether the model is as good as one more rater; empty if no utterance was rated twice."""
    margin = scores.get("one_more_rater")
    if margin is None or np.isnan(margin.value):
        return ""
    model, rater, others = (scores[f"agreement_{name}"].value for name in ("model", "rater", "others"))
    bounds = "" if margin.interval is None else " [{:.3f}, {:.3f}]".format(*margin.interval)
    is_as_good = (
        "It is uncertain whether it is"
        if margin.interval is None or margin.interval[0] < 0 <= margin.interval[1]
        else "It is"
        if margin.interval[0] >= 0
        else "It is not"
    )
    return (
        f"The model agrees with a held-out rater in {100 * model:.1f} % of cases, another rater in "
        f"{100 * rater:.1f} %, the majority of the other raters in {100 * others:.1f} %. {is_as_good} as good as one "
        f"more rater (difference {margin.value:.3f}{bounds})."
    )
