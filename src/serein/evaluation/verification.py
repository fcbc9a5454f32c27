"""Speaker verification: pairs of clips, cosines of their speaker embeddings, and error rates."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serein.errors import RunError
from serein.evaluation.predictions import (
    SpeakerKey,
    fold_run_paths,
    numbered,
    read_json,
    read_predictions,
    read_specs,
    trained_folds,
)
from serein.metrics import equal_error_rate

MOST_TRIALS = 1_000_000
_AT_ONCE = 100_000  # pairs whose vectors are in memory together


@dataclass(frozen=True)
class Trials:
    """Pairs of different clips, each pair once.

    Attributes:
        first: (pair,) positions of clips.
        second: (pair,) positions, each after its first.
        is_same: (pair,) bool, True for the same speaker.
        num_possible: Number of all possible pairs; larger if only some were drawn.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    is_same: NDArray[np.bool_]
    num_possible: int


@dataclass(frozen=True)
class VerificationScore:
    """Speaker verification with given embeddings.

    Attributes:
        equal_error_rate: 0 to 1.
        threshold: The cosine at which misses and false alarms are equally frequent.
        num_same: Number of same-speaker pairs.
        num_different: Number of different-speaker pairs.
        num_possible: Number of all possible pairs; if larger, the different-speaker ones were drawn.
        num_speakers: Number of speakers.
        misses: Fraction of the same-speaker pairs below a threshold chosen elsewhere; `None` without one.
        false_alarms: Fraction of the different-speaker pairs that are not below it.
    """

    equal_error_rate: float
    threshold: float
    num_same: int
    num_different: int
    num_possible: int
    num_speakers: int
    misses: float | None = None
    false_alarms: float | None = None


def trials(speakers: Sequence[Hashable], rng: np.random.Generator, most: int = MOST_TRIALS) -> Trials:
    """Pair all clips with each other, or draw as many pairs as requested.

    Different-speaker pairs are many and similar, same-speaker pairs are few: up to half of the pairs are of the same
    speaker, drawn if there are more, and the rest is drawn from the different-speaker pairs. The equal error rate does
    not depend on that mix.

    Args:
        speakers: The speaker of each clip.
        most: Maximum number of pairs.
    """
    _, number = numbered(speakers)
    num_clips = len(number)
    num_possible = num_clips * (num_clips - 1) // 2
    if num_possible <= most:
        first, second = np.triu_indices(num_clips, k=1)
        return Trials(first, second, number[first] == number[second], num_possible)
    clips = np.argsort(number, kind="stable")  # grouped by speaker; all pairs would take far too much memory
    place = np.arange(num_clips)
    end = np.cumsum(np.bincount(number))[number[clips]]  # where the clips of the next speaker begin
    num_all_same = int((end - place - 1).sum())
    num_different = num_possible - num_all_same
    num_same = min(num_all_same, max(most // 2, most - num_different))
    same = _draw_pairs(place + 1, end, num_same, rng)
    different = _draw_pairs(end, np.full(num_clips, num_clips), min(most - num_same, num_different), rng)
    pairs = np.sort(clips[np.concatenate([same, different])], axis=1)
    is_same = np.arange(len(pairs)) < len(same)
    return Trials(pairs[:, 0], pairs[:, 1], is_same, num_possible)


def _draw_pairs(
    begin: NDArray[np.int64], end: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw distinct pairs of a position and one of its partners, all equally likely: (count, 2).

    Args:
        begin: (position,) where the partners of each position begin.
        end: (position,) where they end.
    """
    num_until = np.cumsum(end - begin)  # pairs of this position and those before
    drawn = np.sort(rng.choice(int(num_until[-1]), count, replace=False, shuffle=False))
    one = np.searchsorted(num_until, drawn, side="right")
    return np.stack([one, end[one] - (num_until[one] - drawn)], axis=1)


def cosines(vectors: NDArray[np.float32], first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows: (pair,); 0 for a row of zeros.

    Args:
        vectors: (clip, feature).
        first: (pair,) rows.
        second: (pair,) rows.
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    directions = np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0)
    edges = [*range(0, len(first), _AT_ONCE), len(first)]
    parts = [np.einsum("pf,pf->p", directions[first[a:b]], directions[second[a:b]]) for a, b in pairwise(edges)]
    similarity: NDArray[np.float64] = np.clip(np.concatenate([np.zeros(0), *parts]), -1.0, 1.0)
    return similarity


def score_verification(
    vectors: NDArray[np.float32],
    speakers: Sequence[Hashable],
    rng: np.random.Generator,
    most: int = MOST_TRIALS,
    threshold: float | None = None,
) -> VerificationScore | None:
    """Score speaker verification by cosine; `None` without pairs of both kinds.

    Args:
        vectors: (clip, feature).
        speakers: The speaker of each clip.
        most: Maximum number of pairs; if there are more, they are drawn.
        threshold: A cosine chosen on other clips, to evaluate as well.
    """
    drawn = trials(speakers, rng, most)
    num_same = int(drawn.is_same.sum())
    if num_same in (0, len(drawn.is_same)):
        return None
    similarity = cosines(vectors, drawn.first, drawn.second)
    found = equal_error_rate(drawn.is_same, similarity)
    wrong: list[float | None] = [None, None]
    if threshold is not None:
        is_taken = similarity >= threshold
        wrong = [float((~is_taken)[drawn.is_same].mean()), float(is_taken[~drawn.is_same].mean())]
    num_different = len(drawn.is_same) - num_same
    return VerificationScore(*found, num_same, num_different, drawn.num_possible, len(set(speakers)), *wrong)


@dataclass(frozen=True)
class FoldVerification:
    """Speaker verification on the test clips of one fold and seed, in per cent.

    Attributes:
        num_same: Number of same-speaker pairs.
        num_different: Number of different-speaker pairs.
        num_possible: Number of all possible pairs; if larger, some were drawn.
        threshold: The model's own threshold, a cosine chosen on its dev set; `None` without one.
        misses: Same-speaker pairs below that threshold.
        false_alarms: Different-speaker pairs not below it.
    """

    fold: str
    seed: int
    equal_error_rate: float
    num_speakers: int
    num_same: int
    num_different: int
    num_possible: int
    threshold: float | None = None
    misses: float | None = None
    false_alarms: float | None = None


@dataclass(frozen=True)
class RunVerification:
    """Speaker verification in every fold and seed, and its mean.

    Attributes:
        mean: Equal error rate in per cent: mean over folds of the mean over seeds.
        standard_deviation: Over folds (n - 1), of the mean over seeds; `None` with one fold.
    """

    units: tuple[FoldVerification, ...]
    mean: float
    standard_deviation: float | None

    @property
    def note(self) -> str:
        """A sentence on what was compared."""
        drawn = any(unit.num_possible > MOST_TRIALS for unit in self.units)
        pairs = f"up to {MOST_TRIALS} pairs drawn with seed 0" if drawn else "all pairs"
        spread = "" if self.standard_deviation is None else f" ± {self.standard_deviation:.1f} over folds"
        return (
            f"Equal error rate of speaker verification, {pairs} of test clips within a fold: {self.mean:.1f} %{spread}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers."""
        return {
            "equal_error_rate": self.mean,
            "standard_deviation": self.standard_deviation,
            "units": [asdict(unit) for unit in self.units],
        }


def run_verification(run: Path) -> RunVerification | None:
    """Score speaker verification in every fold and seed of a run whose main task is speakers; otherwise return `None`.

    A fold and seed without embeddings, or without pairs of both kinds, is left out.

    Raises:
        RunError: Predictions or embeddings are broken.
    """
    if read_specs(run)[0].field != "speaker":
        return None
    units, trained = [], trained_folds(run)
    for fold, seed, path in fold_run_paths(run, "predictions.jsonl"):
        if not (path.parent / "embeddings.safetensors").is_file():
            continue
        predictions = read_predictions(path, fold=fold, seed=seed)
        is_known = np.array([p.speaker is not None for p in predictions])
        speakers = [SpeakerKey(p.corpus, p.speaker) for p in predictions if p.speaker is not None]
        vectors = read_embeddings(path.parent / "embeddings.safetensors", len(predictions))[is_known]
        model = run / f"fold-{trained.get(fold, fold)}" / path.parent.name / "model"
        threshold = (read_json(model / "model.json").get("verification") or {}).get("threshold")
        found = score_verification(vectors, speakers, np.random.default_rng(0), threshold=threshold)
        if found is not None:
            counts = (found.num_speakers, found.num_same, found.num_different, found.num_possible)
            wrong = (None if rate is None else 100 * rate for rate in (found.misses, found.false_alarms))
            units.append(FoldVerification(fold, seed, 100 * found.equal_error_rate, *counts, threshold, *wrong))
    if not units:
        return None
    folds = [[u.equal_error_rate for u in units if u.fold == name] for name in dict.fromkeys(u.fold for u in units)]
    means = [float(np.mean(rates)) for rates in folds]
    deviation = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return RunVerification(tuple(units), float(np.mean(means)), deviation)


def read_embeddings(path: Path, num_predictions: int) -> NDArray[np.float32]:
    """Read the embeddings that are stored with predictions: (prediction, feature).

    Raises:
        RunError: There are none, or not one for each prediction.
    """
    from safetensors.numpy import load_file

    embeddings: NDArray[np.float32] | None = load_file(path).get("embeddings")
    if embeddings is None or embeddings.ndim != 2 or len(embeddings) != num_predictions:
        found = "no tensor 'embeddings'" if embeddings is None else f"embeddings of shape {embeddings.shape}"
        raise RunError(
            f"holds {found} for {num_predictions} predictions", where=path, remedy="Predict this fold again."
        )
    return embeddings


@dataclass(frozen=True)
class SpeakerPair:
    """Two recordings, and whether they are of the same speaker.

    Attributes:
        cosine: Cosine of their speaker embeddings, -1 to 1.
        is_same_speaker: Whether the cosine reaches the threshold; `None` without a threshold.
    """

    first: str
    second: str
    cosine: float
    is_same_speaker: bool | None

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "first": self.first,
            "second": self.second,
            "cosine": round(self.cosine, 6),
            "is_same_speaker": self.is_same_speaker,
        }


def speaker_pairs(
    names: Sequence[str], vectors: Sequence[NDArray[np.float32]], threshold: float | None
) -> list[SpeakerPair]:
    """Compare every recording with every later one.

    Example:
        >>> speaker_pairs(["a.wav", "b.wav"], [np.array([1.0, 0.0]), np.array([1.0, 0.0])], threshold=0.5)
        [SpeakerPair(first='a.wav', second='b.wav', cosine=1.0, is_same_speaker=True)]
    """
    directions = [vector / max(float(np.linalg.norm(vector)), 1e-12) for vector in vectors]
    pairs = []
    for (first, one), (second, other) in combinations(zip(names, directions, strict=True), 2):
        cosine = float(np.clip(one @ other, -1.0, 1.0))
        pairs.append(SpeakerPair(first, second, cosine, None if threshold is None else cosine >= threshold))
    return pairs
