"""Measures of word-vector models: cosines, neighbours, first and second labels (stanley2023, Tables 3 to 6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from serein import recipe as recipes
from serein.data import manifest
from serein.data.groups import speaker_key
from serein.data.utterance import Utterance
from serein.evaluation.intervals import NUM_RESAMPLES, percentile_interval
from serein.evaluation.predictions import natural_key, read_predictions
from serein.evaluation.run_folder import run_classes
from serein.labels.categories import ClassLabels
from serein.labels.vocabulary import Vocabulary, open_vocabulary
from serein.labels.votes import NOUNS, distinct_targets, first_and_second, target_words
from serein.labels.words import normalised
from serein.reproduce.comparison import ExtraTable
from serein.reproduce.table import Row
from serein.tasks.words import mean_vectors

LabelSet = Literal["s1", "s2", "s3"]
LABEL_SETS: tuple[LabelSet, ...] = get_args(LabelSet)
NUM_NEIGHBOURS, NUM_TOP = 5, 10
MISSING = "–"


@dataclass(frozen=True)
class WordRun:
    """A row's finished runs whose main task is `words`.

    Attributes:
        utterances: Of every prediction, folds and seeds one after the other.
        vectors: (prediction, feature) predicted word vectors.
    """

    row: Row
    recipe: recipes.Recipe
    class_labels: ClassLabels
    utterances: list[Utterance]
    vectors: NDArray[np.float32]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Where the vectors come from."""
        return open_vocabulary(self.recipe.words.vocabulary)

    @property
    def order(self) -> list[str]:
        """Nouns of the recipe's classes, which decide between equally frequent labels."""
        nouns = {**NOUNS, **self.recipe.words.nouns}
        return [nouns.get(name, name) for name in self.class_labels.classes]

    def words(self, label_set: LabelSet) -> list[tuple[str, ...]]:
        """Return the words of each utterance's target in a label set."""
        nouns = {**NOUNS, **self.recipe.words.nouns}
        return [target_words(u, self.class_labels, label_set, nouns, self.vocabulary) for u in self.utterances]


def word_run(row: Row, places: Sequence[Path], utterances: dict[str, Utterance]) -> WordRun | None:
    """Read a row's predicted vectors; `None` if nothing is finished or its main task is not `words`."""
    if not places:
        return None
    recipe = recipes.load(places[0] / "recipe.yaml")
    if recipe.tasks.main != "words":
        return None
    predicted, vectors = [], []
    for place in places:
        for path in sorted(place.glob("fold-*/seed-*/predictions.jsonl"), key=natural_key):
            predicted += [utterances[prediction.id] for prediction in read_predictions(path)]
            vectors.append(load_file(path.with_name("embeddings.safetensors"))["embeddings"])
    class_labels = ClassLabels(run_classes(places[0]) or (), dict(recipe.labels.merge))
    return WordRun(row, recipe, class_labels, predicted, np.concatenate(vectors))


def word_tables(
    measures: Sequence[str], rows: Sequence[tuple[Row, Sequence[Path]]], manifest_path: Path
) -> list[ExtraTable]:
    """Return the tables that a table file asks for, of the rows whose main task is `words`."""
    if not measures:
        return []
    utterances = {u.id: u for u in manifest.read(manifest_path)}
    runs = [run for row, places in rows if (run := word_run(row, places, utterances)) is not None]
    return [MEASURES[name](runs) for name in measures] if runs else []


# -- measures --------------------------------------------------------------------------------------------------------


def cosine_table(runs: Sequence[WordRun]) -> ExtraTable:
    """Mean cosine of predictions and targets in each label set, with intervals over speakers (Table 3)."""
    rows = []
    for run in runs:
        cells = [run.row.title]
        for label_set in LABEL_SETS:
            words = run.words(label_set)
            targets = mean_vectors(words, run.vocabulary)
            cosines = (normalised(targets) * normalised(run.vectors)).sum(axis=1)
            has_words = np.array([bool(some) for some in words])
            cells += [_published(run.row, label_set, 3), _with_interval(cosines, has_words, run, 3)]
        rows.append(cells)
    numbers = ", ".join(f"{name.upper()} {distinct_targets(runs[0].words(name))}" for name in LABEL_SETS)
    title = f"Mean cosine of predictions and targets; different targets: {numbers}"
    return ExtraTable(title, _headings("model", LABEL_SETS), rows)


def top_table(runs: Sequence[WordRun]) -> ExtraTable:
    """Per cent of utterances whose most and second most frequent label is among the ten nearest words (Table 6)."""
    names = [f"{label_set} {label}" for label_set in ("s2", "s3") for label in ("l1", "l2")]
    rows, ties = [], 0
    for run in runs:
        nearest, _ = run.vocabulary.nearest(run.vectors, NUM_TOP)
        near = [set(words) for words in nearest]
        cells = [run.row.title]
        for label_set in ("s2", "s3"):
            lists = run.words(label_set)
            chosen = [first_and_second(words, run.order) if words else (None, None, False) for words in lists]
            ties += sum(is_tied for _, _, is_tied in chosen)
            for position, label in enumerate(("l1", "l2")):
                words = [pair[position] for pair in chosen]
                is_hit = np.array([word in around for word, around in zip(words, near, strict=True)], float)
                is_known = np.array([word is not None for word in words])
                cells += [
                    _published(run.row, f"{label_set} {label}", 2),
                    _with_interval(100 * is_hit, is_known, run, 1),
                ]
        rows.append(cells)
    title = f"First (l1) and second (l2) label among the {NUM_TOP} nearest words, in per cent; {ties} ties"
    return ExtraTable(title, _headings("model", names), rows)


def target_neighbours(runs: Sequence[WordRun]) -> ExtraTable:
    """The words nearest to the commonest targets of several words, and to the classes (Table 4)."""
    run = runs[0]
    rows = []
    for label_set in LABEL_SETS:
        counted = Counter(tuple(sorted(words)) for words in run.words(label_set) if words)
        mixed = [words for words, _ in counted.most_common() if label_set == "s1" or len(set(words)) > 1]
        for words in mixed[: 4 if label_set == "s1" else 3]:
            nearest, _ = run.vocabulary.nearest(mean_vectors([words], run.vocabulary), NUM_NEIGHBOURS)
            rows.append([label_set, ", ".join(words), *nearest[0]])
    return ExtraTable("Words nearest to targets", ["set", "label", *_ordinals()], rows)


def prediction_neighbours(runs: Sequence[WordRun]) -> ExtraTable:
    """The words nearest to the mean prediction of each class (Table 5)."""
    rows = []
    for run in runs:
        labels = np.array([run.class_labels.label(u) or "" for u in run.utterances])
        for name in run.class_labels.classes:
            if (labels == name).any():
                mean = run.vectors[labels == name].mean(axis=0, keepdims=True)
                nearest, _ = run.vocabulary.nearest(mean, NUM_NEIGHBOURS)
                rows.append([run.row.title, name, *nearest[0]])
    return ExtraTable("Words nearest to the mean prediction of each class", ["model", "class", *_ordinals()], rows)


MEASURES: dict[str, Callable[[Sequence[WordRun]], ExtraTable]] = {
    "cosine": cosine_table,
    "top": top_table,
    "target-neighbours": target_neighbours,
    "prediction-neighbours": prediction_neighbours,
}


def _headings(first: str, names: Sequence[str]) -> list[str]:
    return [first, *(f"{name.upper()} {kind}" for name in names for kind in ("published", "ours"))]


def _ordinals() -> list[str]:
    return ["1st", "2nd", "3rd", "4th", "5th"]


def _published(row: Row, name: str, digits: int) -> str:
    value = row.published.values.get(name)
    return MISSING if value is None else f"{value:.{digits}f}"


def _with_interval(values: NDArray[np.float64], is_known: NDArray[np.bool_], run: WordRun, digits: int) -> str:
    """Return the mean over known utterances and its interval, whole speakers drawn with replacement."""
    if not is_known.any():
        return MISSING
    keys = np.array([speaker_key(u) for u in run.utterances])[is_known]
    speakers, speaker = np.unique(keys, return_inverse=True)
    sums = np.bincount(speaker, weights=values[is_known])
    counts = np.bincount(speaker)
    mean = f"{sums.sum() / counts.sum():.{digits}f}"
    if len(speakers) < 3:
        return mean
    drawn = np.random.default_rng(0).multinomial(
        len(speakers), np.full(len(speakers), 1 / len(speakers)), NUM_RESAMPLES
    )
    low, high = percentile_interval((drawn @ sums) / (drawn @ counts))
    return f"{mean} [{low:.{digits}f}, {high:.{digits}f}]"
