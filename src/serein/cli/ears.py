"""Who answers for recordings: a model, several fused, or one with a store of labelled clips."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from serein.data.utterance import Utterance
    from serein.inference.hearing import Outcome, PredictOptions
    from serein.progress import Bars

_SHOWN_FROM_S = 60.0  # a bar for less would be gone before it is read


@dataclass
class Ear:
    """Who answers.

    Attributes:
        classes: What is told apart.
        hear: What is said of each utterance, as soon as it is heard.
        told_by: What tells these answers from other models' and other options'.
    """

    classes: tuple[str, ...]
    hear: Callable[[Sequence[Utterance]], Iterator[Outcome]]
    told_by: Callable[[], str]


def plain(model: str | None, labels: list[str] | None, options: PredictOptions, workers: int, bars: Bars) -> Ear:
    from serein.inference.hearing import predict_in_processes, predict_recordings
    from serein.inference.predictor import load

    predictor = load(model)
    if labels is not None:
        predictor = predictor.with_labels(labels)

    def hear(utterances: Sequence[Utterance]) -> Iterator[Outcome]:
        if workers > 1 and len(utterances) > 1:
            return predict_in_processes(model, labels, utterances, options, workers)
        return predict_recordings(predictor, utterances, options, on_progress=_seconds_shown(bars))

    return Ear(predictor.classes, hear, lambda: _hashed(_model_told(model), labels, options))


def fused(fusion: Path, labels: str | None, options: PredictOptions, bars: Bars) -> Ear:
    from serein.data.files import sha256
    from serein.inference.fused import EnsemblePredictor

    if labels is not None:
        raise typer.BadParameter("a fusion answers the classes that it was fitted to", param_hint="'--labels'")
    predictor = EnsemblePredictor(fusion, bars)
    return Ear(
        predictor.classes,
        lambda utterances: _cautious(list(predictor.predict_each(utterances)), options),
        lambda: _hashed(sha256(fusion), options),
    )


def with_neighbours(
    model: str | None,
    labels: str | None,
    datastore: Path,
    k: int | None,
    knn_weight: float | None,
    options: PredictOptions,
    *,
    show_neighbours: bool,
) -> Ear:
    from serein.inference.box import default_model_folder
    from serein.inference.neighbour_predictor import KnnPredictor

    if labels is not None:
        raise typer.BadParameter("a store answers with its model's classes", param_hint="'--neighbours'")
    name = str(default_model_folder()) if model is None else model
    predictor = KnnPredictor(name, datastore, k=k, knn_weight=knn_weight, show_neighbours=show_neighbours)
    interpolation = predictor.interpolation
    if not interpolation.is_tuned:
        numbers = f"k {interpolation.k} and alpha {interpolation.knn_weight:g}"
        typer.echo(f"{numbers} were not chosen for this store: serein neighbours choose --help.", err=True)
    return Ear(
        predictor.classes,
        lambda utterances: _cautious(predictor.predict_each(utterances), options),
        lambda: _hashed(_model_told(name), datastore.resolve(), interpolation, show_neighbours, options),
    )


def _cautious(outcomes: Any, options: PredictOptions) -> Iterator[Outcome]:
    from serein.inference.predictor import Prediction

    return (options.reject_option.applied(each) if isinstance(each, Prediction) else each for each in outcomes)


def _model_told(model: str | None) -> str:
    from serein import hub
    from serein.inference.box import default_model_folder
    from serein.inference.neighbour_store import model_digest

    return model_digest(default_model_folder() if model is None else hub.folder_of(model, expected="a model folder"))


def _hashed(*told: object) -> str:
    return hashlib.sha256("\n".join(map(str, told)).encode()).hexdigest()[:16]


def _seconds_shown(bars: Bars) -> Callable[[float, float], None]:
    from serein.inference.formats import clock

    def show(done_s: float, total_s: float) -> None:
        if total_s >= _SHOWN_FROM_S:
            bars("hearing", round(done_s), max(1, round(total_s)), f"{clock(done_s)} of {clock(total_s)}")

    return show
