"""Further tables below the main one (`measures` of a table file): words, tasks, verification, times."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from serein import checkpoint as checkpoints
from serein import recipe as recipes
from serein.data import manifest
from serein.data.manifest import Utterance
from serein.evaluation.graded import Measured, graded_scores
from serein.evaluation.intervals import interval_text
from serein.evaluation.predictions import (
    EvalPrediction,
    fold_run_paths,
    read_predictions,
    read_run_predictions,
    read_specs,
    run_classes,
)
from serein.evaluation.report import mean_cosines, read_task_curves
from serein.evaluation.scores import score_predictions
from serein.evaluation.tables import number
from serein.evaluation.task_scores import score_task, task_scores
from serein.evaluation.verification import run_verification
from serein.metrics import ratio
from serein.models.hidden_states import Backbone
from serein.models.model import SpeechModel
from serein.reproduce.table import PublishedNeighbours, Row
from serein.tasks.classes import ClassLabels, class_labels_of
from serein.tasks.word_vectors import (
    LABEL_SETS,
    LabelSet,
    all_nouns,
    distinct_targets,
    first_and_second,
    mean_vectors,
    normalised,
    noun_of,
    target_words,
)
from serein.text.word_vectors import Vocabulary, open_vocabulary

MISSING = "–"
Rows = Sequence[tuple[Row, Sequence[Path]]]  # each with its run folders, one per seed


@dataclass(frozen=True)
class ExtraTable:
    """A further table below the main one."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def extra_tables(
    measures: Sequence[str],
    rows: Rows,
    manifest_path: Path,
    targets_only: Sequence[recipes.Recipe] = (),
    neighbours: Sequence[PublishedNeighbours] = (),
) -> list[ExtraTable]:
    """Return the further tables that a table file lists.

    Args:
        rows: The trained rows.
        targets_only: Recipes of the rows for which only targets are measured.
        neighbours: The nearest words that the paper prints.
    """
    tables = verification_tables(rows) if "verification" in measures else []
    tables += time_tables(rows) if "time" in measures else []
    tables += [TASK_MEASURES[name](rows) for name in measures if name in TASK_MEASURES]
    words = [name for name in measures if name in WORD_MEASURES]
    return tables + (word_tables(words, rows, manifest_path, targets_only, neighbours) if words else [])


# -- words -----------------------------------------------------------------------------------------------------------

NUM_NEIGHBOURS, NUM_TOP = 5, 10
_ORDINALS = ("1st", "2nd", "3rd", "4th", "5th")


@dataclass(frozen=True)
class WordTargets:
    """Utterances and the recipe that turns their labels into targets."""

    recipe: recipes.Recipe
    class_labels: ClassLabels
    utterances: list[Utterance]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary that the vectors come from."""
        return open_vocabulary(self.recipe.words.vocabulary)

    def words(self, label_set: LabelSet) -> list[tuple[str, ...]]:
        """Return the words of each utterance's target in a label set."""
        nouns = all_nouns(self.recipe.words)
        return [target_words(u, self.class_labels, label_set, nouns, self.vocabulary) for u in self.utterances]


@dataclass(frozen=True)
class WordRun(WordTargets):
    """A row's finished runs whose main task is `words`, with the utterances of all their folds and seeds in sequence.

    Attributes:
        vectors: (prediction, feature) predicted word vectors.
    """

    row: Row
    vectors: NDArray[np.float32]


def word_tables(
    measures: Sequence[str],
    rows: Rows,
    manifest_path: Path,
    targets_only: Sequence[recipes.Recipe],
    neighbours: Sequence[PublishedNeighbours],
) -> list[ExtraTable]:
    """Return the tables that a table file lists for rows whose main task is `words`."""
    known = {u.id: u for u in manifest.read(manifest_path)}
    runs = []
    for row, places in rows:
        if not places or read_specs(places[0])[0].problem != "vector":
            continue
        recipe = recipes.load(places[0] / "recipe.yaml")
        utterances: list[Utterance] = []
        vectors = []
        for place in places:
            for _, _, path in fold_run_paths(place, "predictions.jsonl"):
                utterances += [known[prediction.id] for prediction in read_predictions(path)]
                vectors.append(load_file(path.with_name("embeddings.safetensors"))["embeddings"])
        class_labels = ClassLabels(run_classes(places[0]) or (), dict(recipe.labels.merge))
        runs.append(WordRun(recipe, class_labels, utterances, row, np.concatenate(vectors)))
    targets: list[WordTargets] = [*runs]
    for recipe in targets_only:
        class_labels = class_labels_of(list(known.values()), recipe.labels)
        labelled = [u for u in known.values() if class_labels.label(u) is not None]
        targets.append(WordTargets(recipe, class_labels, labelled))
    tables = []
    for name in measures:
        if name == "target-neighbours" and targets:
            tables.append(target_neighbours(targets, neighbours))
        elif runs:
            tables.append(WORD_MEASURES[name](runs))
    return tables


def cosine_table(runs: Sequence[WordRun]) -> ExtraTable:
    """Return the mean cosine of predictions and targets in each label set, with intervals over speakers (Table 3)."""
    rows = []
    for run in runs:
        cells = [run.row.title]
        for label_set in LABEL_SETS:
            words = run.words(label_set)
            targets = mean_vectors(words, run.vocabulary)
            cosines = (normalised(targets) * normalised(run.vectors)).sum(axis=1)
            has_words = np.array([bool(some) for some in words])
            cells += [number(run.row.published.values.get(label_set), 3), _with_interval(cosines, has_words, run, 3)]
        rows.append(cells)
    numbers = ", ".join(f"{name.upper()} {distinct_targets(runs[0].words(name))}" for name in LABEL_SETS)
    title = f"Mean cosine of predictions and targets; different targets: {numbers}"
    return ExtraTable(title, _headings("model", [name.upper() for name in LABEL_SETS]), rows)


def top_table(runs: Sequence[WordRun]) -> ExtraTable:
    """Return how often the most and second most frequent labels are among the ten nearest words (Table 6)."""
    names = [f"{label_set} {label}" for label_set in ("s2", "s3") for label in ("l1", "l2")]
    rows, ties = [], 0
    for run in runs:
        nearest, _ = run.vocabulary.nearest(run.vectors, NUM_TOP)
        near = [set(words) for words in nearest]
        cells = [run.row.title]
        for label_set in ("s2", "s3"):
            lists, nouns = run.words(label_set), all_nouns(run.recipe.words)
            order = [noun_of(name, nouns) for name in run.class_labels.classes]  # decides between equal counts
            chosen = [first_and_second(words, order) if words else (None, None, False) for words in lists]
            ties += sum(is_tied for _, _, is_tied in chosen)
            for position, label in enumerate(("l1", "l2")):
                words = [pair[position] for pair in chosen]
                is_hit = np.array([word in around for word, around in zip(words, near, strict=True)], float)
                is_known = np.array([word is not None for word in words])
                cells += [
                    number(run.row.published.values.get(f"{label_set} {label}"), 2),
                    _with_interval(100 * is_hit, is_known, run, 1),
                ]
        rows.append(cells)
    title = f"First (l1) and second (l2) label among the {NUM_TOP} nearest words, in per cent; {ties} ties"
    return ExtraTable(title, _headings("model", [name.upper() for name in names]), rows)


def target_neighbours(runs: Sequence[WordTargets], published: Sequence[PublishedNeighbours] = ()) -> ExtraTable:
    """Return the words nearest to the targets that the paper prints, and to the most common ones (Table 4).

    Printed targets are those of a label set whose words all have a vector; the most common ones are the classes, and
    targets of several words.
    """
    run = runs[0]
    rows = []
    for each in published:
        printed = each.label.split(", ")
        if each.of.casefold() in LABEL_SETS and all(word in run.vocabulary for word in printed):
            nearest, _ = run.vocabulary.nearest(mean_vectors([tuple(printed)], run.vocabulary), NUM_NEIGHBOURS)
            rows.append([f"{each.of}, as printed", each.label, *nearest[0]])
    for label_set in LABEL_SETS:
        counted = Counter(tuple(sorted(words)) for words in run.words(label_set) if words)
        mixed = [words for words, _ in counted.most_common() if label_set == "s1" or len(set(words)) > 1]
        for words in mixed[: 4 if label_set == "s1" else 3]:
            nearest, _ = run.vocabulary.nearest(mean_vectors([words], run.vocabulary), NUM_NEIGHBOURS)
            rows.append([label_set, ", ".join(words), *nearest[0]])
    return ExtraTable("Words nearest to targets", ["set", "label", *_ORDINALS], rows)


def prediction_neighbours(runs: Sequence[WordRun]) -> ExtraTable:
    """Return the words nearest to the mean prediction of each class (Table 5)."""
    rows = []
    for run in runs:
        labels = np.array([run.class_labels.label(u) or "" for u in run.utterances])
        for name in run.class_labels.classes:
            if (labels == name).any():
                mean = run.vectors[labels == name].mean(axis=0, keepdims=True)
                nearest, _ = run.vocabulary.nearest(mean, NUM_NEIGHBOURS)
                rows.append([run.row.title, name, *nearest[0]])
    return ExtraTable("Words nearest to the mean prediction of each class", ["model", "class", *_ORDINALS], rows)


WORD_MEASURES: dict[str, Callable[[Sequence[WordRun]], ExtraTable]] = {
    "cosine": cosine_table,
    "top": top_table,
    "target-neighbours": target_neighbours,
    "prediction-neighbours": prediction_neighbours,
}


def _headings(first: str, names: Sequence[str]) -> list[str]:
    return [first, *(f"{name} {kind}" for name in names for kind in ("published", "ours"))]


def _with_interval(values: NDArray[np.float64], is_known: NDArray[np.bool_], run: WordRun, digits: int) -> str:
    """Return the mean over known utterances and its interval; whole speakers are drawn with replacement."""
    if not is_known.any():
        return MISSING
    rows = [EvalPrediction.of(u, None, "") for u, known in zip(run.utterances, is_known, strict=True) if known]
    columns = np.stack([values[is_known], np.ones(len(rows))], axis=1)
    measured = Measured(rows, columns, {"mean": lambda sums: ratio(sums[..., 0], sums[..., 1])})
    mean, form = graded_scores(measured)["mean"], f".{digits}f"
    return f"{mean.value:{form}} {interval_text(mean.interval, form)}".rstrip()


# -- tasks -----------------------------------------------------------------------------------------------------------


def task_table(rows: Rows) -> ExtraTable:
    """Return UA, WA and the score of every other task; * marks tasks that only an earlier stage trained."""
    measured = [(row, places) for row, places in rows if places]
    specs = {spec.name: spec for _, places in measured for spec in read_specs(places[0])[1:]}
    columns = []  # in lower case, a heading is the key of the published value
    for spec in sorted(specs.values(), key=lambda spec: not spec.has_classes):
        score = "UA" if spec.has_classes else spec.monitor.upper()
        columns.append((spec, "WER" if spec.has_transcript else f"{score} {spec.name}"))
    headings = _headings("row", ["UA", "WA", *(title for _, title in columns)])
    rows_of_cells = []
    for row, places in measured:
        cells = [row.title]
        predictions = [p for place in places for p in read_run_predictions(place, run_classes(place))]
        scores = score_predictions(predictions, run_classes(places[0]))
        for name in ("ua", "wa"):
            published = number(getattr(row.published, name), 2)
            cells += [published, f"{scores.pooled[name]:.1f} {interval_text(scores.intervals[name])}".rstrip()]
        by_seed = [{score.task: score for score in task_scores(place)} for place in places]
        for spec, title in columns:
            ours, own = MISSING, [of_task[spec.name] for of_task in by_seed if spec.name in of_task]
            if own:
                predictions = [p for place in places for p in read_run_predictions(place, kind=spec.name)]
                pooled = score_task(spec, predictions)
                form = ".1f" if pooled.unit else ".3f"
                ours = f"{pooled.value:{form}} {interval_text(pooled.interval, form)}".rstrip()
                ours += "*" if own[0].stage else ""
            digits = 3 if spec.problem == "regression" else 2
            cells += [number(row.published.values.get(title.lower()), digits), ours]
        rows_of_cells.append(cells)
    title = "Every task: UA, WA and WER in per cent; * evaluated with the model of the last stage that trained it"
    return ExtraTable(title, headings, rows_of_cells)


def conflict_table(rows: Rows) -> ExtraTable:
    """Return the mean cosines between the tasks' gradients on shared layers, and how often they are below 0."""
    cells = []
    for row, places in rows:
        curves = [curve for place in places for curve in read_task_curves(place)]
        cells += [
            [row.title, stage, pair, f"{cosine:+.3f}".replace("-", "−"), f"{100 * fraction:.0f} %"]
            for stage, pair, cosine, fraction in mean_cosines(curves)
        ]
    title = "Cosines between the tasks' gradients on shared layers (first two batches of each epoch)"
    return ExtraTable(title, ["row", "stage", "gradients of", "mean", "epochs below 0"], cells)


TASK_MEASURES: dict[str, Callable[[Rows], ExtraTable]] = {"tasks": task_table, "conflicts": conflict_table}


# -- speaker verification --------------------------------------------------------------------------------------------

_VERIFICATION_HEADINGS = ["equal error rate", "over folds", "misses at dev's threshold", "false alarms there"]


def verification_tables(rows: Rows) -> list[ExtraTable]:
    """Return a table of the rows whose main task is `speaker`, or an empty list if there are none.

    Args:
        rows: Each with its run folders, one per seed.
    """
    measured = [(row, [found for place in places if (found := run_verification(place))]) for row, places in rows]
    measured = [(row, runs) for row, runs in measured if runs]
    if not measured:
        return []
    pairs = sorted({unit.num_same + unit.num_different for _, runs in measured for run in runs for unit in run.units})
    title = f"Speaker verification, in per cent: {' or '.join(map(str, pairs))} pairs of test clips in a fold"
    cells = []
    for row, runs in measured:
        units = [unit for run in runs for unit in run.units]
        names = dict.fromkeys(unit.fold for unit in units)
        means = [float(np.mean([u.equal_error_rate for u in units if u.fold == name])) for name in names]
        spread = f"± {np.std(means, ddof=1):.1f}" if len(means) > 1 else MISSING  # over folds, of means over seeds
        rates = [
            [u.misses for u in units if u.misses is not None],
            [u.false_alarms for u in units if u.false_alarms is not None],
        ]
        at_threshold = [f"{np.mean(values):.1f}" if values else MISSING for values in rates]
        cells.append([row.title, f"{np.mean(means):.1f}", spread, *at_threshold])
    return [ExtraTable(title, ["row", *_VERIFICATION_HEADINGS], cells)]


# -- inference time --------------------------------------------------------------------------------------------------


def inference_time_s(model: SpeechModel, duration_s: float, *, num_repeats: int = 5) -> float:
    """Return the seconds that a model takes for one clip of noise: the median of several passes, after one more.

    Args:
        model: A model in evaluation mode, on the device to time.
        duration_s: Length of the clip.
        num_repeats: Number of timed passes.
    """
    device = next(model.parameters()).device
    num_samples = torch.tensor([round(duration_s * Backbone.sample_rate_hz)])
    waveforms = 0.1 * torch.randn(1, int(num_samples), generator=torch.Generator().manual_seed(0)).to(device)

    is_asynchronous, taken_s = device.type == "cuda", []
    with torch.inference_mode():
        for _ in range(1 + num_repeats):
            if is_asynchronous:
                torch.cuda.synchronize(device)
            started = time.perf_counter()
            model(waveforms, num_samples)
            if is_asynchronous:
                torch.cuda.synchronize(device)
            taken_s.append(time.perf_counter() - started)
    return statistics.median(taken_s[1:])


DURATIONS_S = (3, 5, 10, 15)


def time_tables(rows: Rows, num_repeats: int = 5) -> list[ExtraTable]:
    """Return a table of milliseconds per clip for several lengths, or an empty list if no row has a model.

    Args:
        rows: Each with its run folders; the first model of the first folder is timed.
        num_repeats: Repetitions for each length; the median is reported.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    timed = []
    for row, places in rows:
        models = [each.path for place in places[:1] for each in fold_run_paths(place, "model")]
        if not models:
            continue
        model, cells = checkpoints.load(models[0]).model.to(device).eval(), [row.title]
        for seconds in DURATIONS_S:
            ours_ms = 1000 * inference_time_s(model, seconds, num_repeats=num_repeats)
            cells += [number(row.published.values.get(f"{seconds} s"), 2), f"{ours_ms:.1f}"]
        timed.append(cells)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    headings = [f"{seconds} s, {kind}" for seconds in DURATIONS_S for kind in ("published", "ours")]
    title = f"Inference time for one clip in milliseconds: published on an RTX 3090, ours on {where}"
    return [ExtraTable(title, ["network", *headings], timed)] if timed else []
