"""Word error rates of transcripts, in per cent, with intervals over speakers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serein.errors import RunError
from serein.evaluation.intervals import FEWEST_UNITS, NUM_RESAMPLES, Bounds, percentile_interval
from serein.evaluation.predictions import Prediction, SpeakerKey, natural_key
from serein.labels.transcripts import normalised, word_errors


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
    """Score transcripts, pooled over folds and seeds; both sides are normalised (`serein.labels.transcripts`).

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
