"""Comparison of runs on the same test utterances: paired differences, permutation tests, and Holm's correction."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from serein.data.files import require_suffix, write_text
from serein.data.splits import NO_TEST_SET
from serein.errors import RunError, expected_one_of
from serein.evaluation.graded import measured_numbers, measured_transcripts, sum_units
from serein.evaluation.intervals import (
    NUM_RESAMPLES,
    Bounds,
    Units,
    require_same_utterances,
    resampling_units,
    unit_differences,
)
from serein.evaluation.predictions import (
    AdaptedTo,
    EvalPrediction,
    adapted,
    among,
    class_names,
    code,
    has_test_set,
    missing_predictions,
    read_predictions,
    read_run_predictions,
    read_specs,
    run_classes,
    speakers_of,
)
from serein.evaluation.systems import distinct_labels
from serein.evaluation.tables import markdown_table
from serein.metrics import FloatArray, mean_of_known
from serein.metrics.titles import metric_of
from serein.tasks.task import Problem, TaskSpec

NUM_PERMUTATIONS = 10_000
_NUMBERS_AT_ONCE = 4_000_000
# Kind of task -> its scores, the first by default.
SCORES_OF: dict[Problem, tuple[str, ...]] = {
    "classes": ("ua", "wa", "macro_f1"),
    "vector": ("ua", "wa", "macro_f1"),
    "regression": ("ccc", "pearson", "mae", "rmse"),
    "sequence": ("wer",),
}


@dataclass(frozen=True)
class ComparedRun:
    """A run and its score, the mean over its seeds."""

    run: str
    path: str
    score: float
    num_seeds: int


@dataclass(frozen=True)
class ComparedPair:
    """A run compared with another one.

    Attributes:
        difference: Score of the run minus score of the baseline.
        interval: 95 % bootstrap interval of the difference; `None` if it cannot be given, for the reason in the notes.
        p_value: Result of the permutation test: how often a difference at least as large, of either sign, arises when
            the two runs exchange the predictions of some speakers.
        adjusted_p_value: The p-value after Holm's correction for all pairs.
        num_permutations: All 2^speakers, or those that were drawn.
        is_exact: Whether all permutations were used.
        resampled: The units that are drawn for the interval, for example "24 speakers".
        permuted: The units that the runs exchange, for example "24 speakers".
    """

    run: str
    baseline: str
    difference: float
    interval: Bounds | None
    p_value: float
    adjusted_p_value: float
    num_permutations: int
    is_exact: bool
    resampled: str
    permuted: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Runs compared on the same utterances. Scores and differences are in per cent, except for those of numbers.

    Attributes:
        score: `ua`, `wa`, `macro_f1`, `ccc`, `pearson`, `mae`, `rmse`, a score of one dimension (`ccc valence`), or
            `wer` (word error rate).
        pairs: Every run with the first, or all pairs.
        notes: Caveats for readers of the numbers.
    """

    score: str
    num_utterances: int
    runs: tuple[ComparedRun, ...]
    pairs: tuple[ComparedPair, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        return asdict(self) | {"unit": "%" if metric_of(self.score).is_per_cent else ""}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the titles of the columns, and a row of text for each pair."""
        metric = metric_of(self.score)
        digits = 1 if metric.is_per_cent else 3
        titles = ["run", metric.title, "baseline", metric.title, "difference", "95 % interval", "p", "p (Holm)"]
        score_of = {run.run: f"{run.score:.{digits}f}" for run in self.runs}
        rows = []
        for pair in self.pairs:
            bounds = "–" if pair.interval is None else "[{:+.{d}f}, {:+.{d}f}]".format(*pair.interval, d=digits)
            cells = [pair.run, score_of[pair.run], pair.baseline, score_of[pair.baseline]]
            cells += [f"{pair.difference:+.{digits}f}", bounds, f"{pair.p_value:.4f}", f"{pair.adjusted_p_value:.4f}"]
            rows.append(cells)
        return titles, rows

    def write(self, path: str | Path) -> None:
        """Write the comparison in the format of the suffix: `.json`, `.csv` (numbers) or `.md` (table and notes).

        Raises:
            RunError: The suffix is none of these.
        """
        require_suffix(path, (".json", ".csv", ".md"))
        suffix = Path(path).suffix.lower()
        if suffix == ".json":
            text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        elif suffix == ".csv":
            file = io.StringIO()
            writer = csv.writer(file, lineterminator="\n")
            score_of = {run.run: run.score for run in self.runs}
            columns = ("run", "baseline", "difference", "lower", "upper", "p_value", "adjusted_p_value")
            writer.writerow(["score", "run_score", "baseline_score", *columns])
            for pair in self.pairs:
                values = asdict(pair) | dict(zip(("lower", "upper"), pair.interval or ("", ""), strict=True))
                scores = [score_of[pair.run], score_of[pair.baseline]]
                writer.writerow([self.score, *scores, *(values[name] for name in columns)])
            text = file.getvalue()
        else:
            text = markdown_table(*self.table()) + "\n\n" + "".join(f"{note}\n" for note in self.notes)
        write_text(path, text)


def compare(
    runs: Sequence[str | Path],
    *,
    score: str | None = None,
    adapt: AdaptedTo | None = None,
    priors: Mapping[str, float] | None = None,
    all_pairs: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare runs on the same test utterances, each with the first one, or adapted models with the original ones.

    The difference has a bootstrap interval over speakers, and a p-value of a permutation test: if two runs are equally
    good for every speaker, they may exchange the predictions of any speakers. If there are 10,000 exchanges or fewer,
    all are made; otherwise 10,000 are drawn. The p-values of several pairs are corrected by Holm's method. Scores are
    means over the seeds of a run, and after an exchange means over all pairs of a seed of one run with one of the
    other; runs may have different numbers of seeds, and different folds.

    Prediction files have the task of the run folders that they are compared with; without any, that of `score`.

    Args:
        runs: Run folders, or prediction files of any system.
        score: `ua` (the default), `wa` or `macro_f1`; for numbers `ccc`, `pearson`, `mae` or `rmse`, which are means
            over the dimensions if there are several, or one dimension's score (`ccc valence`); for transcripts `wer`.
        adapt: Also compare each run with itself after `serein.adapt` with the method `bias`, by the test utterances of
            each `speaker`, each `corpus`, or `all` of a fold, without their labels.
        priors: For `adapt`: class -> expected frequency; the other classes divide the rest equally.
        all_pairs: Compare all pairs, not only each run with the first.
        seed: Seed of the bootstrap and the permutations.

    Raises:
        RecipeError: The priors do not fit the classes.
        RunError: There are fewer than two runs and `adapt` is `None`, one is unfinished, their utterances or labels
            differ, or predictions to be adapted lack probabilities or a speaker.

    Sources: Fisher 1935, "The Design of Experiments", section 21 (the test); Phipson & Smyth 2010 (p-values of drawn
    permutations); Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    paths = [Path(path) for path in runs]
    if len({os.path.abspath(path) for path in paths}) < max(2 if adapt is None else 1, len(paths)):
        what = "a single run cannot be compared" if len(paths) < 2 else "a run is given twice"
        raise RunError(what, where=paths[0] if paths else None, remedy="Specify two or more runs, each once.")
    labels = distinct_labels(paths)
    problem, classes, numbers, systems = read_comparable(paths, labels, score, keep_probabilities=adapt is not None)
    score = SCORES_OF[problem][0] if score is None else score
    known = [*SCORES_OF[problem]]
    known += [f"{name} {number}" for name in SCORES_OF[problem] for number in numbers if len(numbers) > 1]
    if score not in known:
        message = expected_one_of(score, known, kind="score")
        raise RunError(message, where="--score", remedy="Choose a score of the runs' task.")
    chosen = [(0, number) for number in range(1, len(paths))]
    if adapt is not None:
        if score not in SCORES_OF["classes"]:
            what = f"predictions that are scored by {score} cannot be adapted"
            raise RunError(what, where="--adapt", remedy="Name runs whose task has classes.")
        chosen += [(number, len(paths) + number) for number in range(len(paths))]
        for path, rows in zip(paths, tuple(systems), strict=True):
            own = classes or tuple(sorted({name for p in rows for name in p.probabilities or ()}))
            if not own:
                raise RunError("contains no probabilities", where=path, remedy="Write them, key 'probabilities'.")
            systems.append(adapted(among(rows, own), own, to=adapt, priors=priors))
        to = adapt if adapt == "all" else f"each {adapt}"
        paths, labels = [*paths, *paths], [*labels, *(f"{label}, adapted to {to}" for label in labels)]
    truths = [{p.id: p.truth for p in rows if p.truth is not None} for rows in systems]
    for number in range(1, len(paths)):
        require_same_utterances(truths[0], truths[number], (labels[0], labels[number]), (paths[0], paths[number]))
    speakers = speakers_of(*systems)
    labelled = [[p for p in rows if p.truth is not None] for rows in systems]
    names = tuple(classes or class_names([p for rows in labelled for p in rows]))
    is_of_classes = score in SCORES_OF["classes"]
    coded = [code(rows, names, speakers) for rows in labelled] if is_of_classes else []
    measured = [
        measured_numbers(rows, numbers) if numbers else measured_transcripts(rows)
        for rows in ([] if is_of_classes else labelled)
    ]
    num_seeds = [len({p.seed for p in rows}) for rows in labelled]
    factor = 100.0 if metric_of(score).is_per_cent else 1.0
    score_of: dict[int, float] = {}
    pairs = []
    for baseline, run in combinations(range(len(paths)), 2) if all_pairs else chosen:
        if is_of_classes:
            units = resampling_units(coded[run], coded[baseline])
            exchanged = resampling_units(coded[run], coded[baseline], draw_speakers=True)
        else:
            units = exchanged = sum_units([measured[run], measured[baseline]], speakers)
        rng = np.random.default_rng(seed)
        difference = unit_differences(units, num_seeds[run], names, rng=rng)[score]
        if np.isnan(difference.a):
            what = f"no utterance has a truth of '{score.partition(' ')[2]}'"
            raise RunError(what, where="--score", remedy="Choose the score of another dimension.")
        score_of[run], score_of[baseline] = factor * difference.a, factor * difference.b
        p_value, num_permutations, is_exact = permutation_test(exchanged, num_seeds[run], score, rng)
        bounds = difference.interval
        pairs.append(
            ComparedPair(
                run=labels[run],
                baseline=labels[baseline],
                difference=factor * difference.difference,
                interval=None if bounds is None else (factor * bounds[0], factor * bounds[1]),
                p_value=p_value,
                adjusted_p_value=p_value,
                num_permutations=num_permutations,
                is_exact=is_exact,
                resampled=difference.resampled,
                permuted=f"{exchanged.num_units} {exchanged.kind}",
                notes=difference.notes,
            )
        )
    adjusted = holm([pair.p_value for pair in pairs])
    pairs = [replace(pair, adjusted_p_value=value) for pair, value in zip(pairs, adjusted, strict=True)]
    compared = tuple(
        ComparedRun(label, str(path), score_of[number], num_seeds[number])
        for number, (label, path) in enumerate(zip(labels, paths, strict=True))
    )
    notes = _notes(score, compared, pairs, systems[0])
    if adapt is not None:
        assumed = ", ".join(f"{prior:g} {name}" for name, prior in (priors or {}).items())
        what = "Adapted models know the test utterances without their labels. Assumed frequencies of classes: "
        notes = (*notes, what + (f"{assumed}, the others equal." if assumed else "equal."))
    if of_dev := [label for path, label in zip(paths, labels, strict=True) if not has_test_set(path)]:
        notes = (f"{', '.join(of_dev)}: {NO_TEST_SET}", *notes)
    return Comparison(score, len(truths[0]), compared, tuple(pairs), notes)


def permutation_test(units: Units, num_runs_a: int, score: str, rng: np.random.Generator) -> tuple[float, int, bool]:
    """Return the two-sided p-value of a score's difference between two systems that may exchange units.

    The statistic is the difference that is reported: the mean score over one system's runs minus that over the other's.
    Units move between whole systems, so a unit that is exchanged is exchanged between every run of one and every run of
    the other; the scores after an exchange are means over these pairs of runs. So the systems may have different
    numbers of runs, and exchanging all units changes only the sign.

    Args:
        units: Units of both systems; the first `num_runs_a` runs are those of the first system.
        score: The name of one of the units' scores.
        rng: Draws exchanges if there are more than `NUM_PERMUTATIONS`.

    Returns:
        The p-value, the number of permutations, and whether these are all. Drawn permutations include the observed one
        (Phipson & Smyth 2010), so that p is never 0.
    """
    is_exact = 2**units.num_units <= NUM_PERMUTATIONS
    num_permutations = 2**units.num_units if is_exact else NUM_PERMUTATIONS
    if is_exact:  # a row for each unit
        row = np.repeat(np.arange(len(units.multiplicity)), units.multiplicity)
        units = replace(units, sums=units.sums[row], multiplicity=np.ones(len(row), np.int64))
    total = units.totals(units.multiplicity[None].astype(float))

    def differences(exchanged: FloatArray) -> FloatArray:
        """Return the statistic, ``(permutations,)``, if so many units of each row are exchanged."""
        moved = units.totals(exchanged)
        kept = total - moved
        pairs_a = kept[:, :num_runs_a, None] + moved[:, None, num_runs_a:]  # (permutation, run a, run b, number)
        pairs_b = kept[:, None, num_runs_a:] + moved[:, :num_runs_a, None]
        means = (units.scores(pairs, None)[score].reshape(len(exchanged), -1) for pairs in (pairs_a, pairs_b))
        mean_a, mean_b = map(mean_of_known, means)
        return mean_a - mean_b

    observed = abs(float(differences(np.zeros((1, len(units.multiplicity))))[0]))
    num_as_large = 0
    num_pairs = num_runs_a * (units.num_runs - num_runs_a)
    at_once = max(1, _NUMBERS_AT_ONCE // max(len(units.multiplicity), num_pairs * total.shape[-1]))
    for start in range(0, num_permutations, at_once):
        number = np.arange(start, min(start + at_once, num_permutations))
        if is_exact:  # bit by bit, whether a unit is exchanged
            exchanged = (number[:, None] >> np.arange(units.num_units)) & 1
        else:
            exchanged = rng.binomial(units.multiplicity, 0.5, size=(len(number), len(units.multiplicity)))
        num_as_large += int((np.abs(differences(exchanged.astype(float))) >= observed - 1e-12).sum())
    p_value = num_as_large / num_permutations if is_exact else (num_as_large + 1) / (num_permutations + 1)
    return p_value, num_permutations, is_exact


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down method, in the same order.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        least = max(least, (len(p_values) - rank) * p_values[place])
        adjusted[place] = min(1.0, least)
    return adjusted


def read_comparable(
    paths: Sequence[Path], labels: Sequence[str], score: str | None = None, *, keep_probabilities: bool = False
) -> tuple[Problem, tuple[str, ...] | None, tuple[str, ...], list[list[EvalPrediction]]]:
    """Return the kind of task, classes if any, names of numbers, and the runs' test predictions.

    Args:
        score: The requested score; it determines the task of prediction files if there is no run folder.

    Raises:
        RunError: A run is unfinished, lacks utterances of a seed, or has another task or other labels than the first;
            or prediction files without a requested score are not of classes.
    """
    specs = {path: read_specs(path)[0] for path in paths if path.is_dir()}
    files = {path: read_predictions(path, keep_probabilities=keep_probabilities) for path in paths if path not in specs}
    kinds: list[Problem] = [kind for kind, scores in SCORES_OF.items() if (score or "").partition(" ")[0] in scores]
    of_files = next(iter(specs.values()), TaskSpec("prediction", "emotion", kinds[0] if kinds else "classes"))
    if not specs and of_files.problem == "regression":  # the numbers of a file have no names
        num_values = max((len(p.values) for rows in files.values() for p in rows[:1]), default=1)
        of_files = replace(of_files, dimensions=tuple(map(str, range(1, num_values + 1))) if num_values > 1 else ())
    systems: list[tuple[TaskSpec, tuple[str, ...] | None, list[EvalPrediction]]] = []
    for path in paths:
        if path in files:
            if of_files.has_classes and score is None:
                _require_classes(files[path], path)
            systems.append((of_files, None, files[path]))
            continue
        spec, classes = specs[path], run_classes(path)
        predictions = read_run_predictions(path, classes, keep_probabilities=keep_probabilities)
        if lacking := missing_predictions(path, predictions):
            raise RunError(lacking[0], where=path, remedy="Finish the run with --resume.")
        systems.append((spec, classes if "ua" in SCORES_OF[spec.problem] else None, predictions))
    first, first_classes, _ = systems[0]
    numbers = first.numbers if first.problem == "regression" else ()
    for path, (spec, classes, predictions) in zip(paths, systems, strict=True):
        own = spec.numbers if spec.problem == "regression" else ()
        is_alike = SCORES_OF[spec.problem] == SCORES_OF[first.problem] and own == numbers
        if not is_alike or (classes and first_classes and {*classes} != {*first_classes}):
            theirs, ours = (
                ", ".join(names or ()) or "no classes" for names in (classes or own, first_classes or numbers)
            )
            what = f"predicts {theirs}, and {labels[0]} {ours}"
            remedy = "Compare runs of the same task and labels; other tasks: serein report RUN --against OTHER."
            raise RunError(what, where=path, remedy=remedy)
        seeds_of: dict[str, set[int]] = defaultdict(set)
        for prediction in predictions:
            seeds_of[prediction.id].add(prediction.seed)
        num_seeds = len(set.union(*seeds_of.values()))
        if lacking := [name for name, seeds in seeds_of.items() if len(seeds) < num_seeds]:
            what = f"{len(lacking)} utterances lack a seed, such as '{lacking[0]}'"
            raise RunError(what, where=path, remedy="Predict every utterance with every seed.")
    return first.problem, first_classes, numbers, [predictions for _, _, predictions in systems]


def _require_classes(predictions: Sequence[EvalPrediction], where: Path) -> None:
    """Raise RunError if the predictions are numbers with decimals, or more different texts than utterances."""
    labels = {label for p in predictions for label in (p.truth, p.prediction) if label is not None}
    try:
        numbers = [float(part) for label in labels for part in label.split()]
    except ValueError:
        numbers = []
    if not all(number.is_integer() for number in numbers) or len(labels) > len({p.id for p in predictions}):
        raise RunError(
            f"its labels do not look like classes, such as '{max(labels, key=len)}'",
            where=where,
            remedy="Name the score of the task: --score ccc for numbers, wer for transcripts, ua for classes.",
        )


def _notes(
    score: str, runs: Sequence[ComparedRun], pairs: Sequence[ComparedPair], rows: Sequence[EvalPrediction]
) -> tuple[str, ...]:
    """Return notes on what was compared, drawn and exchanged, and on what qualifies the numbers."""
    first = pairs[0]
    metric = metric_of(score)
    notes = [f"{metric.title}: lower is better."] if metric.is_error else []
    notes.append(f"95 % interval: {NUM_RESAMPLES} resamples of {first.resampled}.")
    how = f"all {first.num_permutations:,}" if first.is_exact else f"{first.num_permutations:,} drawn"
    notes.append(f"p: permutation test, two-sided; {how} exchanges of {first.permuted} between the two runs.")
    if len(pairs) > 1:
        notes.append(f"p (Holm): corrected for {len(pairs)} comparisons.")
    if any(run.num_seeds > 1 for run in runs):
        seeds = ", ".join(f"{run.run} {run.num_seeds}" for run in runs)
        notes.append(f"Scores are means over seeds; seeds: {seeds}.")
    if first.is_exact and first.num_permutations < 40:
        smallest = 2 / first.num_permutations
        notes.append(f"With {first.permuted} the smallest possible p is {smallest:.3g}.")
    unlabelled = len({p.id for p in rows if p.truth is None})
    if unlabelled:
        notes.append(f"{unlabelled} utterances have no truth and are left out.")
    return tuple(dict.fromkeys((*notes, *(note for pair in pairs for note in pair.notes))))
