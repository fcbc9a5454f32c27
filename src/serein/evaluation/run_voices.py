"""Speaker verification in a run, fold by fold: every model has its own embedding space."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serein.errors import RunError
from serein.evaluation.predictions import Prediction, SpeakerKey, natural_key, read_predictions
from serein.evaluation.run_folder import read_json, read_recipe
from serein.evaluation.voices import MOST_TRIALS, score_verification


@dataclass(frozen=True)
class FoldVerification:
    """Speaker verification on the test clips of one fold and seed, in per cent.

    Attributes:
        num_same: Same-speaker pairs.
        num_different: Different-speaker pairs.
        num_possible: All possible pairs; some were drawn if there are more.
        threshold: The model's own, a cosine chosen on its dev set; `None` without one.
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
    """Every fold and seed, and their mean.

    Attributes:
        mean: Equal error rate in per cent: mean over folds of the mean over seeds.
        standard_deviation: Over folds (n - 1), of the mean over seeds; `None` with one fold.
    """

    units: tuple[FoldVerification, ...]
    mean: float
    standard_deviation: float | None

    @property
    def note(self) -> str:
        """A sentence that says what was compared."""
        drawn = any(unit.num_possible > MOST_TRIALS for unit in self.units)
        pairs = f"up to {MOST_TRIALS} pairs drawn by seed 0" if drawn else "all pairs"
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
    """Score speaker verification in every fold and seed of a run whose main task is `speaker`; else return `None`.

    Raises:
        RunError: Predictions or embeddings are broken.
    """
    if not is_speaker_recognition(read_recipe(run)):
        return None
    paths = sorted(run.glob("fold-*/seed-*/predictions.jsonl"), key=natural_key)
    units = [unit for path in paths if (unit := _unit(run, path.parent)) is not None]
    if not units:
        return None
    folds = [[u.equal_error_rate for u in units if u.fold == name] for name in dict.fromkeys(u.fold for u in units)]
    means = [float(np.mean(rates)) for rates in folds]
    return RunVerification(
        tuple(units), float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else None
    )


def is_speaker_recognition(recipe: dict[str, Any]) -> bool:
    """Return whether the main task of a run's recipe is `speaker`.

    Example:
        >>> is_speaker_recognition({"tasks": {"emotion": None, "speaker": {"loss": "arcface"}}})
        True
    """
    tasks = recipe.get("tasks") or {}
    return next((name for name, options in tasks.items() if options is not None), "emotion") == "speaker"


def read_embeddings(path: Path, num_predictions: int) -> NDArray[np.float32]:
    """Read the embeddings that lie beside predictions: (prediction, feature).

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


def _unit(run: Path, folder: Path) -> FoldVerification | None:
    """Score one fold and seed; `None` without embeddings, or without pairs of both kinds."""
    fold, seed = folder.parent.name.removeprefix("fold-"), int(folder.name.removeprefix("seed-"))
    path = folder / "embeddings.safetensors"
    if not path.is_file():
        return None
    predictions = read_predictions(folder / "predictions.jsonl", fold=fold, seed=seed)
    is_known = np.array([p.speaker is not None for p in predictions])
    vectors = read_embeddings(path, len(predictions))[is_known]
    threshold = _threshold(folder)
    found = score_verification(vectors, _speakers(predictions), np.random.default_rng(0), threshold=threshold)
    if found is None:
        return None
    counts = (found.num_speakers, found.num_same, found.num_different, found.num_possible)
    wrong = (None if rate is None else 100 * rate for rate in (found.misses, found.false_alarms))
    return FoldVerification(fold, seed, 100 * found.equal_error_rate, *counts, threshold, *wrong)


def _speakers(predictions: Sequence[Prediction]) -> list[Hashable]:
    return [SpeakerKey(p.corpus, p.speaker) for p in predictions if p.speaker is not None]


def _threshold(folder: Path) -> float | None:
    """Return the threshold of the model that a fold and seed left."""
    verification = read_json(folder / "model" / "model.json").get("verification") or {}
    return verification.get("threshold")
