"""Scores of every kind of task: accuracies, word error rates, scores of numbers; with intervals over speakers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serein.choices import choose, names
from serein.data.splits import NO_TEST_SET
from serein.errors import RunError
from serein.evaluation.graded import (
    graded_differences,
    graded_scores,
    measured_distributions,
    measured_numbers,
    measured_transcripts,
)
from serein.evaluation.intervals import (
    FEWEST_UNITS,
    NUM_RESAMPLES,
    Bounds,
    Difference,
    paired_difference,
    percentile_interval,
)
from serein.evaluation.predictions import (
    EvalPrediction,
    SpeakerKey,
    class_names,
    has_test_set,
    missing_predictions,
    natural_key,
    read_recipe,
    read_run_predictions,
    read_specs,
)
from serein.evaluation.scores import TaskScore, score_predictions
from serein.tasks.task import Task, TaskSpec


@dataclass(frozen=True)
class TranscriptScores:
    """Error rates of transcripts, in per cent.

    Attributes:
        word_error_rate: Words substituted, deleted and inserted, relative to all spoken words; can exceed 100.
        interval: 95 % bootstrap interval of it over speakers, and utterances whose speaker is unknown; `None`
            if there are too few.
        letter_error_rate: The same over letters, spaces included.
        exact: Percentage of utterances without any error.
        folds: Fold -> its word error rate.
        num_words: Number of spoken words in distinct utterances.
        notes: Caveats for readers of the interval.
    """

    word_error_rate: float
    interval: Bounds | None
    letter_error_rate: float
    exact: float
    folds: dict[str, float]
    num_utterances: int
    num_words: int
    notes: tuple[str, ...]


def score_transcripts(predictions: Sequence[EvalPrediction]) -> TranscriptScores:
    """Score transcripts, pooled over folds and seeds.

    Raises:
        RunError: None of them has a truth of at least one word.
        MissingExtraError: The package `jiwer` is not installed.

    Example:
        >>> one = EvalPrediction(id="a", truth="Kids are talking", prediction="kids were talking")
        >>> round(score_transcripts([one]).word_error_rate, 1)
        33.3
    """
    measured = measured_transcripts(predictions)
    rows, (errors, words, letter_errors, letters) = measured.rows, measured.columns.T
    num_words = {p.id: int(number) for p, number in zip(rows, words, strict=True)}
    is_in = {fold: np.array([p.fold == fold for p in rows]) for fold in sorted({p.fold for p in rows}, key=natural_key)}
    rate = graded_scores(measured)["wer"]
    return TranscriptScores(
        word_error_rate=100 * float(errors.sum() / words.sum()),
        interval=rate.interval and (100 * rate.interval[0], 100 * rate.interval[1]),
        letter_error_rate=100 * float(letter_errors.sum() / letters.sum()),
        exact=100 * float((errors == 0).mean()),
        folds={fold: 100 * float(errors[own].sum() / words[own].sum()) for fold, own in is_in.items()},
        num_utterances=len(num_words),
        num_words=sum(num_words.values()),
        notes=rate.notes,
    )


def _speaker_keys(rows: Sequence[EvalPrediction]) -> list[str]:
    """Return the speaker of each row; none if any row lacks its speaker."""
    keys = [str(SpeakerKey(p.corpus, p.speaker)) for p in rows if p.speaker is not None]
    return keys if len(keys) == len(rows) else []


def task_scores(run: str | Path) -> list[TaskScore]:
    """Score every task for which a run folder has predictions, except a main task with classes.

    Raises:
        RunError: A file is broken.
    """
    run = Path(run)
    stages = read_recipe(run).get("stages") or []
    scores = []
    for number, spec in enumerate(read_specs(run)):
        if number == 0 and spec.has_classes:
            continue
        predictions = read_run_predictions(run, kind="test" if number == 0 else spec.name)
        if predictions:
            learning = [s for s in stages if s.get("tasks") is None or spec.name in s["tasks"]]
            is_last = not learning or learning[-1] is stages[-1]
            stage = None if is_last else str(learning[-1].get("name"))
            scores.append(score_task(spec, predictions, stage))
    return scores


def compare_runs(a: str | Path, b: str | Path) -> dict[str, dict[str, Difference]]:
    """Compare the runs of two systems on the same utterances, drawing the same speakers for both.

    Returns:
        Task -> name of a score -> the difference, for every task of classes or numbers that both predict. Accuracies
        and distributions cover the utterances for which both have a truth.

    Raises:
        RunError: A run is unfinished, the utterances differ, or the systems disagree about a truth.
    """
    runs, found = (Path(a), Path(b)), {}
    for run in runs:
        if lacking := missing_predictions(run, read_run_predictions(run, keep_probabilities=False)):
            raise RunError(lacking[0], where=run, remedy="Finish the run with --resume.")
    others = {spec.name for spec in read_specs(runs[1])}
    for spec in read_specs(runs[0]):
        if spec.name not in others or spec.has_transcript:
            continue
        kinds = ["test" if read_specs(run)[0].name == spec.name else spec.name for run in runs]
        pair = [read_run_predictions(run, kind=kind) for run, kind in zip(runs, kinds, strict=True)]
        if not all(pair):
            continue
        if spec.problem == "regression":
            found[spec.name] = graded_differences(*(measured_numbers(each, spec.numbers) for each in pair))
            continue
        classes = spec.classes or class_names(pair[0])
        found[spec.name] = paired_difference(pair[0], pair[1], classes, rng=np.random.default_rng(0))
        shared = set.intersection(*({p.id for p in each if p.ratings} for each in pair))
        rated = [measured_distributions([p for p in each if p.id in shared], classes) for each in pair]
        if rated[0] is not None and rated[1] is not None:
            found[spec.name] |= graded_differences(rated[0], rated[1])
    if all(map(has_test_set, runs)):
        return found
    return {
        task: {name: replace(each, notes=(NO_TEST_SET, *each.notes)) for name, each in own.items()}
        for task, own in found.items()
    }


def score_task(spec: TaskSpec, predictions: Sequence[EvalPrediction], stage: str | None = None) -> TaskScore:
    """Return one task's score.

    Raises:
        RunError: No prediction has a truth, or one of a regression is not a number.
    """
    if spec.has_transcript:
        found = score_transcripts(predictions)
        rate, others = found.word_error_rate, {"letter error rate": found.letter_error_rate}
        bounds, num_utterances, notes = found.interval, found.num_utterances, found.notes
        return TaskScore(spec.name, "word error rate", rate, bounds, num_utterances, stage, others=others, notes=notes)
    if spec.problem != "regression":
        scores = score_predictions(predictions)
        ua, bounds = scores.pooled["ua"], scores.intervals["ua"]
        return TaskScore(spec.name, "UA", ua, bounds, scores.num_utterances, stage, notes=scores.notes)
    # The task's own scores; if its package is not installed, those of every regression.
    score_numbers = choose("task", spec.name).score_numbers if spec.name in names("task") else Task.score_numbers
    if getattr(score_numbers, "__func__", None) is Task.score_numbers.__func__:  # type: ignore[attr-defined]
        graded = graded_scores(measured_numbers(predictions, spec.numbers))
        first = next(iter(graded))
        main = graded.pop(first)
        return TaskScore(
            task=spec.name,
            name=first,
            value=main.value,
            interval=main.interval,
            num_utterances=len({p.id for p in predictions if p.truth is not None}),
            stage=stage,
            unit="",
            others={name: score.value for name, score in graded.items()},
            intervals={name: score.interval for name, score in graded.items()},
            scale=spec.scale,
            notes=main.notes,
        )
    known = [p for p in predictions if p.truth is not None]
    if not known:
        raise RunError("no number has a truth to be scored with", remedy='Add the key "truth" to every line.')
    truth, predicted = np.array([p.true_value for p in known], float), np.array([p.value for p in known])
    seeds = np.array([p.seed for p in known])

    def mean_over_seeds(rows: NDArray[np.int64]) -> dict[str, float]:
        of_seeds = [rows[seeds[rows] == seed] for seed in np.unique(seeds[rows])]
        each = [score_numbers(truth[own], predicted[own]) for own in of_seeds]
        return {name: float(np.mean([scores[name] for scores in each])) for name in each[0]}

    means = mean_over_seeds(np.arange(len(known)))
    first, *further = means
    speakers, speaker = np.unique(_speaker_keys(known), return_inverse=True)
    interval = None
    if len(speakers) >= FEWEST_UNITS:  # whole speakers are drawn with replacement
        clips = [np.flatnonzero(speaker == number) for number in range(len(speakers))]
        draws = np.random.default_rng(0).integers(len(speakers), size=(NUM_RESAMPLES, len(speakers)))
        resamples = (np.concatenate([clips[n] for n in draw]) for draw in draws)
        interval = percentile_interval(np.array([mean_over_seeds(resample)[first] for resample in resamples]))
    return TaskScore(
        task=spec.name,
        name=first,
        value=means[first],
        interval=interval,
        num_utterances=len({p.id for p in known}),
        stage=stage,
        unit="",
        others={name: means[name] for name in further},
    )
