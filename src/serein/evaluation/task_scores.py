"""Word error rates of transcripts, in per cent, with intervals over speakers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serein.data.files import write_text
from serein.errors import RunError
from serein.evaluation.intervals import FEWEST_UNITS, NUM_RESAMPLES, Bounds, percentile_interval
from serein.evaluation.predictions import Prediction, SpeakerKey, natural_key, read_recipe, read_run_predictions
from serein.evaluation.scores import score_predictions
from serein.tasks.ctc import normalised, word_errors


@dataclass(frozen=True)
class TranscriptScores:
    """Error rates of transcripts, in per cent.

    Attributes:
        word_error_rate: Words substituted, deleted and inserted, of all words spoken; can exceed 100.
        interval: 95 % bootstrap interval of it over speakers; `None` with too few or unknown speakers.
        letter_error_rate: The same over letters, spaces included.
        exact: Utterances without any error.
        folds: Fold -> its word error rate.
        num_words: Words spoken, over distinct utterances.
    """

    word_error_rate: float
    interval: Bounds | None
    letter_error_rate: float
    exact: float
    folds: dict[str, float]
    num_utterances: int
    num_words: int


def score_transcripts(predictions: Sequence[Prediction]) -> TranscriptScores:
    """Score transcripts, pooled over folds and seeds; both sides are normalised (`serein.tasks.ctc`).

    Raises:
        RunError: None of them has a truth of a word or more.
        MissingExtraError: The package `jiwer` is not installed.

    Example:
        .word_error_rate, 1)
        33.3
    """
    pairs = [(p, normalised(p.truth), normalised(p.prediction)) for p in predictions]
    known = [(p, truth, predicted) for p, truth, predicted in pairs if truth]
    if not known:
        raise RunError("no transcript has a truth to be scored with", remedy='Add the key "truth" to every line.')
    found = [word_errors(truth, predicted) for _, truth, predicted in known]
    errors, words = np.array([f.errors for f in found], float), np.array([f.words for f in found], float)
    letter_errors, letters = sum(f.letter_errors for f in found), sum(f.letters for f in found)
    rows = [p for p, _, _ in known]
    num_words = {p.id: f.words for p, f in zip(rows, found, strict=True)}
    return TranscriptScores(
        word_error_rate=100 * float(errors.sum() / words.sum()),
        interval=_interval(rows, errors, words),
        letter_error_rate=100 * letter_errors / letters,
        exact=100 * float((errors == 0).mean()),
        folds=_by_fold(rows, errors, words),
        num_utterances=len(num_words),
        num_words=sum(num_words.values()),
    )


def _by_fold(rows: Sequence[Prediction], errors: NDArray[np.float64], words: NDArray[np.float64]) -> dict[str, float]:
    folds = sorted({p.fold for p in rows}, key=natural_key)
    is_in = {fold: np.array([p.fold == fold for p in rows]) for fold in folds}
    return {fold: 100 * float(errors[own].sum() / words[own].sum()) for fold, own in is_in.items()}


def _interval(rows: Sequence[Prediction], errors: NDArray[np.float64], words: NDArray[np.float64]) -> Bounds | None:
    """Draw whole speakers with replacement."""
    if any(p.speaker is None for p in rows):
        return None
    keys = [str(SpeakerKey(p.corpus, p.speaker or "")) for p in rows]
    speakers, speaker = np.unique(keys, return_inverse=True)
    if len(speakers) < FEWEST_UNITS:
        return None
    sums, counts = np.bincount(speaker, weights=errors), np.bincount(speaker, weights=words)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(speakers), np.full(len(speakers), 1 / len(speakers)), NUM_RESAMPLES)
    low, high = percentile_interval((drawn @ sums) / (drawn @ counts))
    return 100 * low, 100 * high


TRANSCRIPTS = "asr"
TASK_TITLES = {TRANSCRIPTS: "word error rate"}
_ORDER = ("emotion", "words", "gender", "asr", "style", "speaker")


@dataclass(frozen=True)
class TaskScore:
    """A task's score in per cent, pooled over folds, averaged over seeds.

    Attributes:
        name: What `value` is: unweighted accuracy ("UA"), or the word error rate of transcripts.
        interval: 95 % over speakers.
        stage: The stage whose model was evaluated; `None` for the last stage.
    """

    task: str
    name: str
    value: float
    interval: Bounds | None
    num_utterances: int
    stage: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        return asdict(self) | {"interval": self.interval and list(self.interval)}


def main_task(recipe: dict[str, Any]) -> str:
    """Return the main task of a run's recipe."""
    chosen = chosen_tasks(recipe)
    return chosen[0] if chosen else "emotion"


def chosen_tasks(recipe: dict[str, Any]) -> list[str]:
    """Return the tasks of a run's recipe, the main task first."""
    tasks = recipe.get("tasks") or {}
    return [name for name in _ORDER if tasks.get(name) is not None]


def task_scores(run: str | Path) -> list[TaskScore]:
    """Score every task of which a run folder has predictions, except the main task, unless that is `asr`.

    Raises:
        RunError: A file is broken.
    """
    run = Path(run)
    recipe = read_recipe(run)
    scores = []
    for number, name in enumerate(chosen_tasks(recipe)):
        if number == 0 and name != TRANSCRIPTS:
            continue
        predictions = read_run_predictions(run, kind="test" if number == 0 else name)
        if predictions:
            scores.append(score_task(name, predictions, _stage_of(recipe, name)))
    return scores


def write_task_scores(scores: Sequence[TaskScore], run: str | Path) -> dict[str, Any]:
    """Write ``scores.json`` of a run whose main task is `asr`, atomically, and return its content."""
    content = {"tasks": {score.task: score.to_json() for score in scores}}
    write_text(Path(run) / "scores.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return content


def score_task(name: str, predictions: Sequence[Prediction], stage: str | None = None) -> TaskScore:
    """Return one task's score."""
    if name == TRANSCRIPTS:
        asr = score_transcripts(predictions)
        return TaskScore(name, TASK_TITLES[name], asr.word_error_rate, asr.interval, asr.num_utterances, stage)
    scores = score_predictions(predictions)
    return TaskScore(name, "UA", scores.pooled["ua"], scores.intervals["ua"], scores.num_utterances, stage)


def _stage_of(recipe: dict[str, Any], task: str) -> str | None:
    """Return the last stage that learns a task, unless it is the last of all."""
    stages = recipe.get("stages") or []
    learning = [s for s in stages if s.get("tasks") is None or task in s["tasks"]]
    return None if not learning or learning[-1] is stages[-1] else str(learning[-1].get("name"))
