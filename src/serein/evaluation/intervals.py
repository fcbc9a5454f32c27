"""Bootstrap intervals of scores over speakers, and paired comparison of two systems.

Utterances of one voice are not independent, so whole speakers are drawn with replacement (the clustered
bootstrap: Field & Welsh 2007; Bisani & Ney 2004 for paired systems). A resample is a row of counts, one per
speaker; its confusion matrices are one matrix product. Scores are fractions from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serein.errors import RunError
from serein.evaluation.predictions import CodedPredictions, Prediction, code
from serein.metrics import SCORES, FloatArray, mean_of_known

LEVEL = 0.95
NUM_RESAMPLES = 2000
FEWEST_UNITS = 3
MOST_CELLS = 50_000_000  # of confusion matrices at once: 400 MB; 1,251 voices, each by itself, would need 16 GB
_COUNTS_AT_ONCE = 4_000_000

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Units:
    """What the bootstrap draws with replacement.

    Attributes:
        kind: Whole speakers, or single utterances where speakers are unknown.
        confusions: ``(units, runs, classes, classes)`` counts, rows truth; a run is one seed of one system.
        multiplicity: ``(units,)`` how many speakers or utterances each row stands for (like ones share it).
    """

    kind: Literal["speakers", "utterances"]
    confusions: FloatArray
    multiplicity: NDArray[np.int64]

    @property
    def num_units(self) -> int:
        """Speakers or utterances, alike ones counted one by one."""
        return int(self.multiplicity.sum())

    @property
    def too_few(self) -> str | None:
        """The reason why no interval can be given; `None` when one can."""
        if self.num_units >= FEWEST_UNITS:
            return None
        noun = self.kind if self.num_units != 1 else self.kind.removesuffix("s")
        return f"{self.num_units} {noun}, and an interval needs at least {FEWEST_UNITS}"


@dataclass(frozen=True)
class Difference:
    """How much better system a is than system b, on the same utterances and the same resamples.

    Attributes:
        a: Score of the first system, 0 to 1.
        b: Score of the second system, 0 to 1.
        interval: Lower and upper bound of ``difference``; `None` with too few speakers.
        probability_of_improvement: Fraction of resamples in which a is better; near 1 a wins, near 0 b does.
        resampled: What was drawn with replacement, for example "24 speakers".
    """

    a: float
    b: float
    interval: Bounds | None
    probability_of_improvement: float | None
    resampled: str

    @property
    def difference(self) -> float:
        """Score of a minus score of b."""
        return self.a - self.b

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers; `None` of what nothing is known of."""
        numbers = {"a": self.a, "b": self.b, "difference": self.difference}
        return {
            **{name: None if np.isnan(value) else value for name, value in numbers.items()},
            "interval": self.interval and list(self.interval),
            "probability_of_improvement": self.probability_of_improvement,
            "resampled": self.resampled,
        }


def is_too_large(coded: CodedPredictions) -> bool:
    """Tell whether the confusion matrices of all single speakers would take too much memory."""
    num_groups = len(coded.ids) if coded.speaker is None else len(coded.speakers)
    return num_groups * len(coded.seeds) * len(coded.classes) ** 2 > MOST_CELLS


def resampling_units(coded: CodedPredictions) -> Units:
    """Group predictions into what is drawn: speakers, or utterances when any speaker is unknown."""
    if coded.speaker is not None:
        confusions = coded.confusions(coded.speaker, len(coded.speakers))
        return Units("speakers", confusions, np.ones(len(coded.speakers), np.int64))
    # Utterances with the same truth and the same predictions in every fold and seed share a row.
    num_classes, num_seeds = len(coded.classes), len(coded.seeds)
    cells = np.full((len(coded.ids), len(coded.folds) * num_seeds), -1)
    cells[coded.utterance, coded.fold * num_seeds + coded.seed] = coded.truth * num_classes + coded.prediction
    _, pattern, multiplicity = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    confusions = coded.confusions(pattern.reshape(-1)[coded.utterance], len(multiplicity))
    return Units("utterances", confusions / multiplicity[:, None, None, None], multiplicity)


def draw_counts(units: Units, rng: np.random.Generator, num_resamples: int) -> NDArray[np.int64]:
    """Draw how often each resample has each unit: ``(resamples, units)``; rows sum to ``num_units``."""
    return rng.multinomial(units.num_units, units.multiplicity / units.num_units, size=num_resamples)


def point_scores(units: Units) -> dict[str, FloatArray]:
    """Return each score of each run over everything: ``(runs,)``, by the names of `serein.metrics.SCORES`."""
    counts = units.multiplicity[None, :].astype(float)
    return {name: score(_resampled(units, counts))[0] for name, score in SCORES.items()}


def resampled_scores(
    units: Units, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES
) -> dict[str, FloatArray]:
    """Return each score of each run in each resample, the same ones for all: ``(resamples, runs)``."""
    parts: dict[str, list[FloatArray]] = {name: [] for name in SCORES}
    at_once = max(1, _COUNTS_AT_ONCE // len(units.multiplicity))
    for start in range(0, num_resamples, at_once):
        counts = draw_counts(units, rng, min(at_once, num_resamples - start))
        confusions = _resampled(units, counts.astype(float))
        for name, score in SCORES.items():
            parts[name].append(score(confusions))
    return {name: np.concatenate(blocks) for name, blocks in parts.items()}


def percentile_interval(values: FloatArray, level: float = LEVEL) -> Bounds:
    """Return the bounds between which the middle `level` of the values lie.

    Example:
        >>> [round(bound, 3) for bound in percentile_interval(np.linspace(0.0, 1.0, 101))]
        [0.025, 0.975]
    """
    tail = 50.0 * (1.0 - level)
    low, high = np.nanpercentile(values, [tail, 100.0 - tail])
    return float(low), float(high)


def bootstrap_intervals(
    units: Units, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES
) -> dict[str, Bounds | None]:
    """Return the 95 % percentile interval of each score; seeds are averaged inside each resample.

    Returns:
        Bounds from 0 to 1 by score name; `None` with fewer than 3 units, for the reason in ``Units.too_few``.
    """
    if units.too_few:
        return dict.fromkeys(SCORES)
    resampled = resampled_scores(units, rng, num_resamples)
    return {name: percentile_interval(mean_of_known(values)) for name, values in resampled.items()}


def paired_difference(
    a: Sequence[Prediction],
    b: Sequence[Prediction],
    classes: Sequence[str],
    *,
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Difference]:
    """Compare two systems on the same utterances, drawing the same speakers for both.

    Speakers may be given by either file. The systems may have different numbers of seeds and different folds.

    Returns:
        A `Difference` by score name ("ua", "wa", "macro_f1").

    Raises:
        RunError: The utterances differ, or the systems disagree about an utterance's truth.

    Example:
        >>> truth = {"u1": "sad", "u2": "calm", "u3": "sad"}
        >>> a = [Prediction(id=key, truth=value, prediction=value) for key, value in truth.items()]
        >>> b = [Prediction(id=key, truth=value, prediction="sad") for key, value in truth.items()]
        >>> paired_difference(a, b, ["calm", "sad"], rng=np.random.default_rng(0))["ua"].difference
        0.5
    """
    truth_a, truth_b = ({p.id: p.truth for p in system if p.truth is not None} for system in (a, b))
    for present, absent, name in ((truth_a, truth_b, "second"), (truth_b, truth_a, "first")):
        lacking = sorted(present.keys() - absent.keys())
        if lacking:
            raise RunError(
                f"the {name} system has no prediction of {len(lacking)} utterances: {', '.join(lacking[:3])}",
                remedy="Compare two systems on the same utterances.",
            )
    contradicted = sorted(key for key, truth in truth_a.items() if truth_b[key] != truth)
    if contradicted:
        raise RunError(
            f"the truth of {len(contradicted)} utterances differs: {', '.join(contradicted[:3])}",
            remedy="Compare systems that were evaluated with the same labels.",
        )
    # Both systems' runs lie side by side, as if they were seeds of one system.
    speakers = {p.id: (p.corpus, p.speaker) for p in (*b, *a) if p.speaker is not None}
    runs = [("a", seed) for seed in sorted({p.seed for p in a})]
    num_runs_a = len(runs)
    runs += [("b", seed) for seed in sorted({p.seed for p in b})]
    number_of = {run: number for number, run in enumerate(runs)}
    joined = []
    for system, predictions in (("a", a), ("b", b)):
        for p in predictions:
            corpus, speaker = speakers.get(p.id, (p.corpus, p.speaker))
            seed, fold = number_of[system, p.seed], f"{system}/{p.fold}"
            joined.append(replace(p, seed=seed, fold=fold, corpus=corpus, speaker=speaker))
    units = resampling_units(code(joined, classes))
    points = point_scores(units)
    resampled = None if units.too_few else resampled_scores(units, rng, num_resamples)
    drawn = f"{units.num_units} {units.kind}"
    differences = {}
    for name in SCORES:
        mean_a, mean_b = (float(mean_of_known(runs)) for runs in (points[name][:num_runs_a], points[name][num_runs_a:]))
        if resampled is None:
            differences[name] = Difference(mean_a, mean_b, None, None, drawn)
            continue
        gains = mean_of_known(resampled[name][:, :num_runs_a]) - mean_of_known(resampled[name][:, num_runs_a:])
        improved = float((gains > 0).mean())
        differences[name] = Difference(mean_a, mean_b, percentile_interval(gains), improved, drawn)
    return differences


def _resampled(units: Units, counts: FloatArray) -> FloatArray:
    flat = units.confusions.reshape(len(units.confusions), -1)
    total: FloatArray = (counts @ flat).reshape(len(counts), *units.confusions.shape[1:])
    return total
