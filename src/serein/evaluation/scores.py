"""From predictions to scores in per cent: over folds, pooled, per class, per speaker and per group of speakers.

A run is summarised in two ways: ``mean`` averages the scores of the folds; ``pooled`` scores all utterances at once,
and has intervals. Several seeds are averaged within each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serein.data.files import write_text
from serein.data.splits import NO_TEST_SET
from serein.errors import ManifestError
from serein.evaluation.calibration import RunCalibration, run_calibration
from serein.evaluation.graded import GradedScore, graded_scores, measured_distributions
from serein.evaluation.groups import GroupScore, group_scores
from serein.evaluation.intervals import (
    LEVEL,
    NUM_RESAMPLES,
    Bounds,
    bootstrap_intervals,
    class_scores,
    resampling_units,
)
from serein.evaluation.predictions import (
    CodedPredictions,
    EvalPrediction,
    class_names,
    code,
    has_test_set,
    missing_predictions,
    read_predictions,
    read_recipe,
    read_run_predictions,
    run_classes,
)
from serein.evaluation.verification import RunVerification, run_verification
from serein.metrics import SCORES, FloatArray, confusion_matrix, mean_of_known, ratio
from serein.metrics.titles import METRICS

MOST_CONFUSED_CLASSES = 4000  # 128 MB


@dataclass(frozen=True)
class FoldScore:
    """Scores of one fold and seed, in per cent; UA is over the classes that occur in this fold's truth."""

    fold: str
    seed: int
    ua: float
    wa: float
    macro_f1: float
    num_utterances: int
    num_speakers: int | None
    absent_classes: tuple[str, ...]


@dataclass(frozen=True)
class SeedScore:
    """Pooled scores of one seed, in per cent."""

    seed: int
    ua: float
    wa: float
    macro_f1: float


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class in per cent, pooled and averaged over seeds; `None` if the divisor is 0.

    Attributes:
        support: Number of utterances whose true class is this one.
    """

    name: str
    recall: float | None
    precision: float | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class SpeakerScore:
    """Scores in per cent of one speaker's utterances, averaged over seeds."""

    name: str
    gender: str | None
    ua: float
    wa: float
    macro_f1: float
    num_utterances: int


@dataclass(frozen=True)
class TaskScore:
    """A task's score, pooled over folds and averaged over seeds.

    Attributes:
        name: The name of `value`: unweighted accuracy ("UA"), the word error rate of transcripts, or a regression's
            score.
        interval: 95 % interval over speakers.
        stage: The stage whose model was evaluated; `None` for the last stage.
        unit: "%", or empty.
        others: Further scores by name, in the same unit or the task's own.
        intervals: Intervals of further scores, if they have any.
        scale: Description of a regression's numbers.
        notes: Caveats for readers of the numbers.
    """

    task: str
    name: str
    value: float
    interval: Bounds | None
    num_utterances: int
    stage: str | None = None
    unit: str = "%"
    others: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Bounds | None] = field(default_factory=dict)
    scale: str = ""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers; `None` for a score that is not defined."""
        intervals = {name: bounds and list(bounds) for name, bounds in self.intervals.items()}
        own = asdict(self) | {"interval": self.interval and list(self.interval), "intervals": intervals}
        others = {name: value if np.isfinite(value) else None for name, value in self.others.items()}
        return own | {"value": self.value if np.isfinite(self.value) else None, "others": others}


@dataclass(frozen=True)
class Scores:
    """All scores of a set of predictions, in per cent.

    Attributes:
        classes: Class names, in the order of ``confusion``.
        mean: UA, WA and macro-F1 by the names "ua", "wa", "macro_f1": mean over folds of the mean over seeds.
        standard_deviation: Over folds (n - 1), of the mean over seeds; `None` with one fold.
        pooled: All utterances scored at once; mean over seeds.
        intervals: 95 % bootstrap interval of each pooled score; `None` with too few speakers.
        resampled: What the bootstrap drew, for example "24 speakers".
        confusion: ``(classes, classes)`` counts over all folds and seeds, rows truth; empty with over 4,000 classes.
        speakers: One entry per speaker; empty when speakers are unknown.
        groups: Women and men, ages, languages, if there are two or more: over all corpora, then within each.
        notes: Caveats for readers of the numbers.
        calibration: Calibration errors of a run's probabilities, before and after calibration.
        distribution: Name -> score of probabilities against raters' labels, if there are both.
        tasks: Scores of an evaluated model's other tasks.
        verification: Speaker verification with a run's embeddings, if its main task is `speaker`.
    """

    classes: tuple[str, ...]
    mean: dict[str, float]
    standard_deviation: dict[str, float | None]
    pooled: dict[str, float]
    intervals: dict[str, Bounds | None]
    resampled: str
    num_utterances: int
    folds: tuple[FoldScore, ...]
    seeds: tuple[SeedScore, ...]
    by_class: tuple[ClassScore, ...]
    confusion: NDArray[np.int64]
    speakers: tuple[SpeakerScore, ...]
    groups: tuple[GroupScore, ...]
    notes: tuple[str, ...]
    verification: RunVerification | None = None
    calibration: RunCalibration | None = None
    distribution: Mapping[str, GradedScore] = field(default_factory=dict)
    tasks: tuple[TaskScore, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``scores.json``: plain lists and numbers, per cent, unrounded."""
        intervals = {f"{name}_interval": bounds and list(bounds) for name, bounds in self.intervals.items()}
        distribution = {
            name: {
                "value": None if np.isnan(score.value) else score.value,
                "interval": score.interval and [*score.interval],
            }
            for name, score in (self.distribution or {}).items()
        }
        return {
            "mean": self.mean,
            "standard_deviation": self.standard_deviation,
            "pooled": self.pooled | intervals,
            "folds": [asdict(fold) | {"absent_classes": list(fold.absent_classes)} for fold in self.folds],
            "seeds": [asdict(seed) for seed in self.seeds],
            "classes": [asdict(score) for score in self.by_class],
            "confusion_matrix": {"classes": list(self.classes), "counts": self.confusion.tolist()},
            "speakers": [asdict(speaker) for speaker in self.speakers],
            "groups": [group.to_json() for group in self.groups],
            "bootstrap": {"resampled": self.resampled, "num_resamples": NUM_RESAMPLES, "level": LEVEL},
            "num_utterances": self.num_utterances,
            "notes": list(self.notes),
            **({} if self.verification is None else {"verification": self.verification.to_json()}),
            **({} if self.calibration is None else {"calibration": self.calibration.to_json()}),
            **({"distribution": distribution} if self.distribution else {}),
            **({"tasks": {score.task: score.to_json() for score in self.tasks}} if self.tasks else {}),
        }


def score_predictions(
    predictions: Sequence[EvalPrediction] | str | Path,
    classes: Sequence[str] | None = None,
    *,
    rng: np.random.Generator | None = None,
    notes: Sequence[str] = (),
) -> Scores:
    """Score the predictions of any system.

    Args:
        predictions: One per utterance, fold and seed, or a file of them; those without truth are left out, which a
            note states.
        classes: Class names in the order of the confusion matrix; by default all that occur, sorted.
        rng: Draws the bootstrap; by default seeded with 0, so that the same file has the same interval.
        notes: Further notes for the reader, which come first.

    Raises:
        RunError: No prediction has a truth, or one names a class that is not among `classes`; or the file cannot be
            read.

    Example:
        >>> from serein.evaluation.predictions import EvalPrediction
        >>> right = EvalPrediction(id="a", truth="calm", prediction="calm")
        >>> wrong = EvalPrediction(id="b", truth="sad", prediction="calm")
        >>> score_predictions([right, wrong]).pooled["ua"]
        50.0
    """
    if isinstance(predictions, str | Path):
        predictions = read_predictions(predictions, classes)
    labelled = [p for p in predictions if p.truth is not None]
    coded = code(labelled, class_names(labelled) if classes is None else classes)
    units = resampling_units(coded)
    intervals, interval_notes = bootstrap_intervals(units, rng or np.random.default_rng(0), classes=coded.classes)
    num_seeds = len(coded.seeds)
    counts = coded.class_counts(coded.fold * num_seeds + coded.seed, len(coded.folds) * num_seeds)
    by_fold = counts.toarray().reshape(len(coded.folds), num_seeds, -1)
    pooled = by_fold.sum(axis=0)
    folds = _fold_scores(coded, by_fold)
    over_folds = {name: 100 * mean_of_known(score) for name, score in class_scores(by_fold).items()}
    spreads = {name: float(v.std(ddof=1)) if len(v) > 1 else None for name, v in over_folds.items()}
    hits, support, predicted = np.split(pooled, 3, axis=-1)
    by_seed = (ratio(hits, support), ratio(hits, predicted), ratio(2 * hits, support + predicted))
    columns = [
        [None if np.isnan(value) else float(value) for value in 100 * mean_of_known(values.T)] for values in by_seed
    ]
    by_class = zip(coded.classes, *columns, coded.num_distinct(coded.truth, len(coded.classes)), strict=True)
    caveats = []
    for fold in folds:
        if fold.absent_classes and fold.seed == coded.seeds[0]:
            absent, num_left = ", ".join(fold.absent_classes), len(coded.classes) - len(fold.absent_classes)
            caveats.append(
                f"Fold {fold.fold} has no utterance of {absent}: its UA is the mean over the other {num_left} classes, "
                "and macro-F1 counts an absent class as 0 if it was predicted."
            )
    if len(labelled) < len(predictions):
        caveats.append(f"{len(predictions) - len(labelled)} predictions have no truth and are left out.")
    caveats += interval_notes
    has_confusion = len(coded.classes) <= MOST_CONFUSED_CLASSES
    if not has_confusion:
        caveats.append(f"No confusion matrix: {len(coded.classes)} classes are too many.")
    measured = measured_distributions(predictions, coded.classes)
    distribution = {} if measured is None else graded_scores(measured)
    return Scores(
        classes=coded.classes,
        distribution=distribution,
        mean={name: float(values.mean()) for name, values in over_folds.items()},
        standard_deviation=spreads,
        pooled=_scores_of(pooled),
        intervals={name: bounds and (100 * bounds[0], 100 * bounds[1]) for name, bounds in intervals.items()},
        resampled=f"{units.num_units} {units.kind}",
        num_utterances=len(coded.ids),
        folds=folds,
        seeds=tuple(SeedScore(seed, **_scores_of(pooled[[i]])) for i, seed in enumerate(coded.seeds)),
        by_class=tuple(ClassScore(*row) for row in by_class),
        confusion=confusion_matrix(coded.truth, coded.prediction, len(coded.classes))
        if has_confusion
        else np.zeros((0, 0), np.int64),
        speakers=_speaker_scores(coded, labelled),
        groups=group_scores(labelled, coded.classes),
        notes=(*notes, *caveats),
    )


def classes_of_corpus(
    predictions: Sequence[EvalPrediction], classes: Sequence[str], *, where: str | Path
) -> tuple[str, ...]:
    """Return those of the model's classes that are the truth of some prediction.

    Raises:
        ManifestError: There are fewer than two, which leaves nothing to predict.
    """
    present = {p.truth for p in predictions}
    names = tuple(name for name in classes if name in present)
    if len(names) < 2:
        raise ManifestError(
            f"its utterances have fewer than two classes of the model: {', '.join(names) or 'none'}",
            where=where,
            remedy="Evaluate among all classes of the model (--classes model).",
        )
    return names


def score_run(run: str | Path) -> Scores:
    """Score the predictions of a run folder; the notes list predictions that are still missing.

    For a conditioned model, the notes also state the source of the conditions, and the scores with the other source.

    Raises:
        RunError: The folder contains no predictions, or a file in it is broken.
    """
    run = Path(run)
    recipe, classes = read_recipe(run), run_classes(run)
    predictions = read_run_predictions(run, classes)
    notes = [*([] if has_test_set(run) else [NO_TEST_SET]), *missing_predictions(run, predictions)]
    tasks = (recipe.get("tasks") or {}).values()
    names = sorted({name for task in tasks if task for name in (task.get("conditioning") or {}).get("attributes", ())})
    if names:
        condition_source = (recipe.get("inference") or {}).get("conditions", "predicted")
        conditions = f"{' and '.join(names)}, {_CONDITIONS[condition_source]}"
        notes.append(f"Conditions of the scored clips: {conditions}; unknown where there is none.")
        other = "oracle" if condition_source == "predicted" else "predicted"
        with_other = read_run_predictions(run, classes, other)
        if len(with_other) == len(predictions):
            pooled = score_predictions(with_other, classes).pooled
            values = ", ".join(f"{title} {pooled[name]:.1f}" for name, title in SCORE_TITLES.items())
            notes.append(f"With conditions {_CONDITIONS[other]} instead, pooled: {values}.")
    verification = run_verification(run)
    if verification is not None:
        notes.append(verification.note)
    scores = score_predictions(predictions, classes, notes=notes)
    return replace(scores, verification=verification, calibration=run_calibration(run, predictions, scores.classes))


SCORE_TITLES = {name: METRICS[name].title for name in SCORES}
_CONDITIONS = {
    "predicted": "as a model predicted them",
    "known": "as the corpus labels them, or else as a model predicted them",
    "oracle": "as the corpus labels them (oracle)",
}


def write_scores(scores: Scores | Sequence[TaskScore], run: str | Path) -> Path:
    """Write ``scores.json`` into the run folder, atomically, and return its path.

    Args:
        scores: The scores of a main task with classes, or else those of all tasks.
    """
    content = scores.to_json() if isinstance(scores, Scores) else {"tasks": {s.task: s.to_json() for s in scores}}
    path = Path(run) / "scores.json"
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")
    return path


def _scores_of(counts: FloatArray) -> dict[str, float]:
    """Score ``(seeds, 3 * classes)`` counts, averaged over seeds, in per cent."""
    return {name: float(100 * mean_of_known(score)) for name, score in class_scores(counts).items()}


def _fold_scores(coded: CodedPredictions, by_fold: FloatArray) -> tuple[FoldScore, ...]:
    scores = []
    for fold, seed in np.argwhere(by_fold.any(axis=2)).tolist():
        is_inside = (coded.fold == fold) & (coded.seed == seed)
        support = np.split(by_fold[fold, seed], 3)[1]
        scores.append(
            FoldScore(
                fold=coded.folds[fold],
                seed=coded.seeds[seed],
                **_scores_of(by_fold[fold, [seed]]),
                num_utterances=int(support.sum()),
                num_speakers=None if coded.speaker is None else len(np.unique(coded.speaker[is_inside])),
                absent_classes=tuple(name for name, n in zip(coded.classes, support, strict=True) if n == 0),
            )
        )
    return tuple(scores)


def _speaker_scores(coded: CodedPredictions, labelled: Sequence[EvalPrediction]) -> tuple[SpeakerScore, ...]:
    if coded.speaker is None:
        return ()
    genders: dict[int, str] = {}
    for number, prediction in zip(coded.speaker.tolist(), labelled, strict=True):
        if prediction.gender is not None:
            genders.setdefault(number, prediction.gender)
    is_one_corpus = len({key.corpus for key in coded.speakers}) == 1
    names = [key.speaker if is_one_corpus else str(key) for key in coded.speakers]
    num_seeds = len(coded.seeds)
    sums = coded.class_counts(coded.speaker * num_seeds + coded.seed, len(names) * num_seeds)
    counts = coded.num_distinct(coded.speaker, len(names))
    own = (sums[number * num_seeds : (number + 1) * num_seeds].toarray() for number in range(len(names)))
    rows = enumerate(zip(names, own, counts, strict=True))
    return tuple(SpeakerScore(name, genders.get(i), **_scores_of(c), num_utterances=n) for i, (name, c, n) in rows)
