"""What predicts recordings: a model, an ensemble, or a model with a datastore of labelled clips (kNN)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from serein.data.utterance import Utterance
    from serein.inference.hearing import PredictOptions, RecordingResult
    from serein.progress import Bars

_SHOWN_FROM_S = 60.0  # a bar for less would be gone before it is read


@dataclass
class RecordingPredictor:
    """Predicts recordings for the command line.

    Attributes:
        classes: The classes of the predictions.
        predict: Yields the prediction of each utterance, or its error, as soon as it is known.
        fingerprint: Identifies the model and the options.
    """

    classes: tuple[str, ...]
    predict: Callable[[Sequence[Utterance]], Iterator[RecordingResult]]
    fingerprint: Callable[[], str]


def model_predictor(
    model: str | None, labels: list[str] | None, options: PredictOptions, workers: int, bars: Bars
) -> RecordingPredictor:
    from serein.inference.hearing import predict_in_processes, predict_recordings
    from serein.inference.predictor import load

    predictor = load(model)
    if labels is not None:
        predictor = predictor.with_labels(labels)

    def predict(utterances: Sequence[Utterance]) -> Iterator[RecordingResult]:
        if workers > 1 and len(utterances) > 1:
            return predict_in_processes(model, labels, utterances, options, workers)
        return predict_recordings(predictor, utterances, options, on_progress=_seconds_shown(bars))

    return RecordingPredictor(predictor.classes, predict, lambda: _hashed(_digest_of(model), labels, options))


def ensemble_predictor(
    file: Path, model: str | None, labels: str | None, options: PredictOptions, bars: Bars
) -> RecordingPredictor:
    from serein.data.files import sha256
    from serein.inference.fused import EnsemblePredictor

    if model is not None:
        raise typer.BadParameter("an ensemble file names its models", param_hint="'--model'")
    if labels is not None:
        raise typer.BadParameter("an ensemble has the classes that it was fitted to", param_hint="'--labels'")
    predictor = EnsemblePredictor(file, bars)
    return RecordingPredictor(
        predictor.classes,
        lambda utterances: _with_reject_option(list(predictor.predict_each(utterances)), options),
        lambda: _hashed(sha256(file), options),
    )


def knn_predictor(
    model: str | None,
    labels: str | None,
    datastore: Path,
    k: int | None,
    knn_weight: float | None,
    options: PredictOptions,
    *,
    show_neighbours: bool,
) -> RecordingPredictor:
    from serein.inference.box import default_model_folder
    from serein.inference.neighbour_predictor import KnnPredictor

    if labels is not None:
        raise typer.BadParameter("a datastore has the classes of its model", param_hint="'--knn'")
    name = str(default_model_folder()) if model is None else model
    predictor = KnnPredictor(name, datastore, k=k, knn_weight=knn_weight, show_neighbours=show_neighbours)
    interpolation = predictor.interpolation
    if not interpolation.is_tuned:
        numbers = f"k {interpolation.k} and weight {interpolation.knn_weight:g}"
        typer.echo(f"{numbers} were not tuned for this datastore: serein knn tune --help.", err=True)
    return RecordingPredictor(
        predictor.classes,
        lambda utterances: _with_reject_option(predictor.predict_each(utterances), options),
        lambda: _hashed(_digest_of(name), datastore.resolve(), interpolation, show_neighbours, options),
    )


def _with_reject_option(results: Any, options: PredictOptions) -> Iterator[RecordingResult]:
    from serein.inference.predictor import Prediction

    return (options.reject_option.applied_to(each) if isinstance(each, Prediction) else each for each in results)


def _digest_of(model: str | None) -> str:
    from serein import hub
    from serein.inference.box import default_model_folder
    from serein.inference.neighbour_store import model_digest

    return model_digest(default_model_folder() if model is None else hub.folder_of(model, expected="a model folder"))


def _hashed(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def _seconds_shown(bars: Bars) -> Callable[[float, float], None]:
    from serein.inference.formats import clock

    def show(done_s: float, total_s: float) -> None:
        if total_s >= _SHOWN_FROM_S:
            bars("predicting", round(done_s), max(1, round(total_s)), f"{clock(done_s)} of {clock(total_s)}")

    return show
