"""Dimensions of emotion: arousal, valence and dominance as numbers, 0 to 1 on the scale of their corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Self, cast

import numpy as np
import torch

from serein import losses, metrics
from serein.choices import choose
from serein.data.dataset import Targets
from serein.data.manifest import Utterance
from serein.errors import ManifestError, RecipeError
from serein.recipe import Dimension, Dimensions, Head, Recipe
from serein.tasks.task import Decoded, Task, TaskPrediction, TaskSpec

SCALES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {  # lowest and highest rating that a rater can give; IEMOCAP's mean ratings reach 5.5
        "iemocap": (1.0, 5.0),  # five steps, as users of the corpus state (Busso et al. 2008 not at hand)
        "msp-podcast": (1.0, 7.0),  # https://www.odyssey2024.org/emotion-recognition-challenge
        "synth": (1.0, 5.0),  # serein.corpora.synth.SCALE
    }
)
OWN = "own"  # the corpus of utterances that state none
BEYOND = 0.25  # tolerated fraction of a scale: some mean ratings are slightly outside; those on another scale, far


class DimensionTask(Task):
    """One dimension with the name of the task, or the several of `Dimensions`, predicted by one head.

    Targets, outputs and predictions are on a scale of 0 to 1, from the lowest to the highest rating of each corpus; NaN
    stands for a missing rating.

    Attributes:
        dimensions: Names of the predicted numbers, which are fields of an utterance.
        scales: Corpus -> its lowest and highest rating.
    """

    Options = Dimension
    problem = "regression"
    monitors = ("ccc", "pearson")

    def __init__(self, name: str, options: Dimension, scales: Mapping[str, tuple[float, float]]) -> None:
        self.dimensions: tuple[str, ...] = options.names if isinstance(options, Dimensions) else (name,)
        own = self.dimensions if isinstance(options, Dimensions) else ()
        self.spec = TaskSpec(name, self.dimensions[0], self.problem, (), self.monitors[0], own, _scale_text(scales))
        self.options: Dimension = options
        self.scales = dict(scales)
        self.num_outputs = len(self.dimensions)

    @classmethod
    def fit(cls, name: str, options: Head, recipe: Recipe, utterances: Sequence[Utterance]) -> Self:
        """Return the task with the scale of each corpus: the recipe's, the published one, or 0 to 1.

        Raises:
            RecipeError: No utterance has a rating, or ratings are outside the scale.
        """
        options = cast(Dimension, options)
        fields = options.names if isinstance(options, Dimensions) else (name,)
        scales: dict[str, tuple[float, float]] = {}
        for corpus, ratings in _ratings(utterances, fields).items():
            scales[corpus] = options.scale or SCALES.get(corpus) or (0.0, 1.0)
            if outside := _outside(corpus, ratings, scales[corpus], BEYOND):
                remedy = "Name the lowest and the highest rating that a rater can give: [1, 5]."
                raise RecipeError(outside, where=f"tasks.{name}.scale", remedy=remedy)
        if not scales:
            remedy = f"Fill in the field, or leave out the task '{name}'."
            raise RecipeError(f"no utterance has {' or '.join(fields)}", where=f"tasks.{name}", remedy=remedy)
        return cls(name, options, scales)

    @classmethod
    def from_json(cls, name: str, options: Head, description: Mapping[str, Any]) -> Self:
        """Return the task that `to_json` described."""
        scales = {corpus: (float(low), float(high)) for corpus, (low, high) in description["scales"].items()}
        return cls(name, cast(Dimension, options), scales)

    def to_json(self) -> dict[str, Any]:
        """Return the dimensions and the ends of each corpus's scale, which are mapped to 0 and 1."""
        return {
            "dimensions": list(self.dimensions),
            "scales": {name: list(scale) for name, scale in self.scales.items()},
        }

    def known_scale(self, corpus: str) -> tuple[float, float] | None:
        """Return the scale of a corpus: that of training, the recipe's, or the published one; `None` if unknown."""
        return self.scales.get(corpus) or self.options.scale or SCALES.get(corpus)

    def numbers(self, utterance: Utterance) -> list[float]:
        """Return an utterance's ratings on a scale of 0 to 1, one for each dimension; NaN if there is none.

        A corpus of unknown scale is assumed to have that of the first training corpus.
        """
        low, high = self.known_scale(utterance.corpus or OWN) or next(iter(self.scales.values()))
        ratings = (getattr(utterance, field) for field in self.dimensions)
        return [np.nan if rating is None else (rating - low) / (high - low) for rating in ratings]

    def spec_of(self, utterances: Sequence[Utterance]) -> TaskSpec:
        """Return the description with the scale of each corpus of the utterances, and whether it is assumed.

        Raises:
            ManifestError: Ratings are outside the scale; an assumed one tolerates none.
        """
        first, assumed = next(iter(self.scales.items()))
        scales: dict[str, tuple[float, float]] = {}
        for corpus, ratings in _ratings(utterances, self.dimensions).items():
            known = self.known_scale(corpus)
            scale = known or assumed
            if outside := _outside(corpus, ratings, scale, BEYOND if known else 0.0):
                remedy = "Convert the ratings to this scale, or choose a model trained on theirs."
                raise ManifestError(outside, where=self.name, remedy=remedy)
            scales[corpus if known else f"{corpus}, assumed as in {first}"] = scale
        return replace(self.spec, scale=_scale_text(scales)) if scales else self.spec

    def label(self, utterance: Utterance) -> str | None:
        """Return the corpus's ratings, on its own scale."""
        ratings = {field: getattr(utterance, field) for field in self.dimensions}
        return " ".join(f"{field} {rating:g}" for field, rating in ratings.items() if rating is not None) or None

    def truth(self, utterance: Utterance) -> str | float | None:
        """Return the number, or for several dimensions the numbers as formatted by `TaskPrediction.written`."""
        numbers = self.numbers(utterance)
        if np.isnan(numbers).all():
            return None
        return self.prediction_of(numbers).written if self.spec.dimensions else numbers[0]

    def targets(self, utterances: Sequence[Utterance]) -> Targets:
        """Return numbers, (utterance, dimension), NaN if unknown, and which utterances have any."""
        values = np.array([self.numbers(utterance) for utterance in utterances], np.float32)
        return Targets(values, np.asarray(~np.isnan(values).all(axis=1)))

    def loss(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the mean over the dimensions of their losses over the batch; arguments are (batch, dimension).

        Each dimension counts only the clips with a known rating; one without any is left out. Mixed clips that lacked
        different ratings may have none: the loss is then 0.
        """
        loss = choose("number-loss", self.options.loss)
        if self.num_outputs == 1:  # every clip with a target has it
            return cast(torch.Tensor, loss(truth, output).mean())
        is_known = ~truth.isnan()
        if loss is losses.concordance:
            is_there = is_known.any(dim=0)
            by_dimension = losses.concordance(truth.nan_to_num(), output, is_known)
            mean: torch.Tensor = (by_dimension * is_there).sum() / is_there.sum().clamp_min(1)
            return mean
        columns = [(column, is_known[:, column]) for column in range(self.num_outputs)]
        each = [loss(truth[k, c : c + 1], output[k, c : c + 1]).mean() for c, k in columns if k.any()]
        return torch.stack(each).mean() if each else output.sum() * 0.0

    def scores(self, truth: torch.Tensor, kept: torch.Tensor) -> dict[str, float]:
        """Return concordance and correlation of a whole set, averaged and for each dimension, and the loss."""
        output, scores = kept.double().clamp(0.0, 1.0), {}
        for name in self.monitors:
            score = metrics.NUMBER_SCORES[name]
            columns = [(truth[:, column], output[:, column]) for column in range(self.num_outputs)]
            each = [score(t[~t.isnan()], o[~t.isnan()]) if not t.isnan().all() else np.nan for t, o in columns]
            scores[name] = float(np.nanmean(each))
            if self.spec.dimensions:
                scores |= {f"{name}_{field}": own for field, own in zip(self.dimensions, each, strict=True)}
        return {**scores, "loss": float(self.loss(truth, kept))}

    def values(self, output: torch.Tensor) -> torch.Tensor:
        """Return the numbers of (batch, dimension) outputs, clipped to the ends of the scale."""
        return output.float().clamp(0.0, 1.0)

    def predictions(self, decoded: Decoded) -> list[TaskPrediction]:
        """Return the number, or numbers, of each clip."""
        assert decoded.values is not None
        return [self.prediction_of(row) for row in decoded.values.tolist()]

    def prediction_of(self, numbers: Sequence[float]) -> TaskPrediction:
        """Return the prediction that consists of these numbers."""
        if not self.spec.dimensions:
            return TaskPrediction(None, value=numbers[0])
        return TaskPrediction(None, dimensions=dict(zip(self.dimensions, numbers, strict=True)))

    def describe(self) -> str:
        """Return what the task predicts, and which ratings 0 and 1 stand for in each corpus."""
        return f"{', '.join(self.dimensions)} as numbers from {self.spec.scale}."


class DimensionsTask(DimensionTask):
    """Several dimensions, predicted by one head."""

    Options = Dimensions


def _ratings(utterances: Sequence[Utterance], fields: Sequence[str]) -> dict[str, list[float]]:
    """Return the ratings of each corpus that has any."""
    found: dict[str, list[float]] = {}
    for utterance in utterances:
        ratings = [rating for field in fields if (rating := getattr(utterance, field)) is not None]
        found.setdefault(utterance.corpus or OWN, []).extend(ratings)
    return {corpus: ratings for corpus, ratings in found.items() if ratings}


def _outside(corpus: str, ratings: Sequence[float], scale: tuple[float, float], tolerance: float) -> str | None:
    """Return what is wrong if ratings are outside a scale by more than a fraction of it."""
    low, high = scale
    if min(ratings) >= low - tolerance * (high - low) and max(ratings) <= high + tolerance * (high - low):
        return None
    return f"ratings of '{corpus}' range from {min(ratings):g} to {max(ratings):g}, the scale from {low:g} to {high:g}"


def _scale_text(scales: Mapping[str, tuple[float, float]]) -> str:
    return f"0 to 1 ({'; '.join(f'{low:g} to {high:g} in {corpus}' for corpus, (low, high) in scales.items())})"
