"""Adapt a model to recordings without labels: a new speaker, microphone, language or corpus.

On recordings that differ from its training data (domain shift, label shift), a model predicts some classes too often
and others hardly ever. If the frequency of each class among the recordings (its prior) is known, at least roughly, a
bias per class corrects this. The features of a single speaker can be normalised by their own mean instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from serein import checkpoint as checkpoints
from serein.audio import Upload
from serein.checkpoint import AbsentModel, Checkpoint
from serein.data.manifest import Utterance
from serein.errors import AudioError, ModelError, RecipeError, SereinError
from serein.inference.prediction import Prediction
from serein.inference.predictor import OnError, Predictor, load
from serein.inference.recording import SLIDING_WINDOW
from serein.inference.sources import Source
from serein.metrics import FloatArray, class_bias, class_priors
from serein.models.feature_norm import FeatureNorm
from serein.models.hidden_states import HiddenStates
from serein.models.model import SpeechModel
from serein.recipe import FeatureNormalisation

Method = Literal["bias", "mean"]
WINDOW_S = SLIDING_WINDOW.window_s  # of speech that counts as one clip
ENSEMBLE_PASSES = 3  # over the recordings, for a model with several heads


@dataclass(frozen=True)
class AdaptationResult:
    """How a model was adapted.

    Attributes:
        num_recordings: Recordings in which speech was found.
        num_segments: Their segments.
        method: What was changed, see `adapt`.
        before: Class -> its mean probability in the segments, by the original model.
        priors: Class -> its expected frequency in the segments; none for `mean`.
        bias: Class -> what was added to its logits; none for `mean`.
        unread: Why recordings could not be read, with `on_error="return"`.
    """

    num_recordings: int
    num_segments: int
    method: Method
    before: dict[str, float]
    priors: dict[str, float]
    bias: dict[str, float]
    unread: tuple[SereinError, ...] = ()


def adapt(
    recordings: Source | Iterable[Source],
    out: str | Path,
    *,
    model: Predictor | str | Path | None = None,
    method: Method | None = None,
    priors: Mapping[str, float] | None = None,
    reference: Source | Iterable[Source] | None = None,
    on_error: OnError = "raise",
    on_progress: Callable[[int, int], None] | None = None,
) -> AdaptationResult:
    """Adapt a model to recordings without labels, and write it as a new model folder, with weights in float32.

    By `mean`, the features of the backbone are shifted, such that their mean over the segments becomes that over the
    training data. By `bias`, a bias is added to the logits of each class of the main task, such that the classes' mean
    probabilities approach their priors; the fewer segments there are, the smaller the bias. Nothing else changes, so
    the folder is used like any other. Labels that a manifest may contain are not read.

    Args:
        recordings: A path, or several; or utterances of a manifest. For `bias`, a segment longer than `WINDOW_S` counts
            as several.
        out: The new folder.
        model: A loaded model, a model folder, a name on the Hugging Face Hub; `None`: the default model.
        method: `mean`, for recordings of one speaker or of one corpus, in various moods; or `bias`. `None`: `mean` if
            the model contains the mean of its training data, unless there are priors; otherwise `bias`.
        priors: For `bias`: class -> expected frequency, 0 to 1; the other classes divide the rest equally. A class with
            a prior of 0 is excluded. `None`: all classes are equally frequent. If they are not, UA may still rise, but
            fewer predictions may be correct.
        reference: For `mean`: recordings like those that the model was trained on; needed unless the model contains
            their mean, as `default`, `free` and models with `feature_normalisation` do.
        on_error: See `Predictor.predict_files`.
        on_progress: Called with the number of recordings that were predicted, and the number of all.

    Returns:
        Class -> mean probability before (`before`), prior (`priors`) and what was added to its logits (`bias`); the
        numbers of recordings and segments, and the errors of unread recordings.

    Raises:
        AudioError: A recording cannot be read, or no speech was found in any.
        ModelError: The model cannot be adapted, or `out` exists and is not a model folder.
        RecipeError: The priors do not fit the model's classes, or there are some for `mean`.

    Example:
        >>> serein.adapt(["a.wav", "b.wav"], "adapted", priors={"neutral": 0.7})  # doctest: +SKIP
    """
    sources, references = _sources(recordings), [] if reference is None else _sources(reference)
    predictor = model if isinstance(model, Predictor) else load(model)
    checkpoint, network = predictor.checkpoint, _network(predictor)
    if method is None:
        contains_mean = network.feature_norm is not None or bool(references)
        method = "mean" if contains_mean and not priors else "bias"
    if method == "mean" and priors:
        remedy = "Leave the priors out, or choose the method 'bias'."
        raise RecipeError("the method 'mean' uses no priors", where="priors", remedy=remedy)
    if references and (method == "bias" or network.feature_norm is not None):
        why = "the method 'bias' needs none" if method == "bias" else "the model contains the mean of its training data"
        raise RecipeError(f"there is a reference, but {why}", where="reference", remedy="Leave it out.")
    classes = checkpoint.tasks[predictor.task].spec.classes
    layers = _output_layers(network, predictor) if method == "bias" else []
    expected = class_priors(checkpoint.class_labels.classes, priors or {}) if method == "bias" else np.zeros(0)
    before = network.feature_norm
    norm = _feature_norm(network, checkpoint.name, has_reference=bool(references)) if method == "mean" else None
    checkpoints.require_replaceable(Path(out))
    num_passes = 1 if method == "mean" or len(layers) == 1 else ENSEMBLE_PASSES
    total = num_passes * len(sources) + len(references)
    done = 0

    def predict(wanted: Sequence[Source]) -> _Segments:
        nonlocal done
        segments = _Segments(classes)
        for each in predictor.predict_files(wanted, on_error=on_error):
            segments.add(each)
            done += 1
            if on_progress is not None:
                on_progress(done, total)
        if not segments.rows:
            raise segments.no_speech_error()
        return segments

    changed = [layer.bias for layer in layers] if norm is None else [norm.mean]
    originals = [tensor.detach().clone() for tensor in changed]
    try:
        if norm is None:
            temperature = 1.0 if checkpoint.calibration is None else checkpoint.calibration.temperature
            passes = (predict(sources) for _ in range(num_passes))
            found = _add_bias(layers, classes, expected, temperature, passes)
        else:
            network.feature_norm = norm
            if references:
                norm.offset.copy_(mean_over_segments(norm, lambda: predict(references))[0])
            mean, segments = mean_over_segments(norm, lambda: predict(sources))
            norm.mean.copy_(mean)
            found = segments.result("mean", {}, {})
        said: dict[str, Any] = {"method": method, "num_segments": found.num_segments}
        said |= {"priors": found.priors, "bias": found.bias} if norm is None else {}
        adaptations = [*checkpoint.training.get("adaptations", ()), said]
        adapted = replace(checkpoint, training={**checkpoint.training, "adaptations": adaptations})
        if norm is not None and checkpoint.options.feature_normalisation is None:
            update = {"feature_normalisation": FeatureNormalisation()}
            adapted = replace(adapted, options=checkpoint.options.model_copy(update=update))
        checkpoints.save(Path(out), adapted, _card(checkpoint, found))
    finally:
        network.feature_norm = before
        for tensor, original in zip(changed, originals, strict=True):
            tensor.data.copy_(original)
    return found


def _sources(recordings: Source | Iterable[Source]) -> list[Source]:
    return [recordings] if isinstance(recordings, str | Path | Utterance | Upload) else list(recordings)


def _add_bias(
    layers: Sequence[nn.Linear],
    classes: tuple[str, ...],
    expected: FloatArray,
    temperature: float,
    passes: Iterable[_Segments],
) -> AdaptationResult:
    """Add a bias to the classes of all members of an ensemble.

    Args:
        layers: Output layer of each member.
        expected: Prior of each class.
        temperature: Divisor of the logits.
        passes: Each predicts all recordings, with the bias that was found before.
    """
    originals = [layer.bias.detach().clone() for layer in layers]
    bias, predicted = np.zeros(len(classes)), list[_Segments]()
    for segments in passes:
        # of an ensemble: the mean of its members does not move by exactly their bias, so it is found in steps
        unbiased = np.array(segments.rows) * np.exp(-bias)
        bias = class_bias(unbiased / unbiased.sum(axis=1, keepdims=True), expected, np.array(segments.weights))
        predicted.append(segments)
        for layer, original in zip(layers, originals, strict=True):
            layer.bias.data.copy_(original + torch.tensor(temperature * bias).to(original))  # before the temperature
    priors, added = _by_class(classes, expected), _by_class(classes, temperature * bias)
    return predicted[0].result("bias", priors, added)


T = TypeVar("T")


def mean_over_segments(norm: FeatureNorm, predict: Callable[[], T]) -> tuple[torch.Tensor, T]:
    """Return the mean of the features of all segments that are predicted, each represented by its mean over time.

    Args:
        norm: The standardisation of a network.
        predict: Runs that network.
    """
    sums = list[torch.Tensor]()
    counts = list[int]()

    def observe(_: nn.Module, inputs: tuple[HiddenStates]) -> None:  # called by several threads
        means = norm.clip_means(inputs[0])
        sums.append(means.sum(dim=0))
        counts.append(len(means))

    handle = norm.register_forward_pre_hook(observe)
    try:
        found = predict()
    finally:
        handle.remove()
    return torch.stack(sums).sum(dim=0) / sum(counts), found


def contain_mean(predictor: Predictor, recordings: Sequence[Source]) -> None:
    """Let a model contain the mean of its training data, so that `adapt` needs no reference; no prediction changes.

    Args:
        recordings: Some of the recordings that it was trained on, or others like them.
    """
    checkpoint, network = predictor.checkpoint, predictor.model
    norm = network.feature_norm = FeatureNorm(network.backbone.sizes)
    mean, _ = mean_over_segments(norm, lambda: list(predictor.predict_files(recordings)))
    norm.mean.copy_(mean)
    norm.offset.copy_(mean)
    checkpoint.options = checkpoint.options.model_copy(update={"feature_normalisation": FeatureNormalisation()})


class _Segments:
    """The probabilities of all segments, by one pass over the recordings.

    Attributes:
        rows: Probabilities of each segment.
        weights: How many windows each segment counts as.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self.rows: list[list[float]] = []
        self.weights: list[float] = []
        self.num_all = self.num_recordings = 0
        self.unread: list[SereinError] = []

    def add(self, prediction: Prediction | SereinError) -> None:
        """Add the prediction for a recording, or why it cannot be read."""
        self.num_all += 1
        if isinstance(prediction, SereinError):
            self.unread.append(prediction)
            return
        self.num_recordings += bool(prediction.segments)
        for segment in prediction.segments:
            self.rows.append([segment.probabilities[name] for name in self.classes])
            self.weights.append(max(1.0, segment.duration_s / WINDOW_S))

    def result(self, method: Method, priors: dict[str, float], bias: dict[str, float]) -> AdaptationResult:
        """Return the result of an adaptation to these segments; `before` are their own mean probabilities."""
        before = _by_class(self.classes, np.average(self.rows, axis=0, weights=self.weights))
        return AdaptationResult(self.num_recordings, len(self.rows), method, before, priors, bias, tuple(self.unread))

    def no_speech_error(self) -> AudioError:
        """Return the error of recordings without any speech."""
        what = "no speech was found"
        if self.unread:
            what += f", and {len(self.unread)} of {self.num_all} recordings cannot be read ({self.unread[0]})"
        return AudioError(what, where="recordings", remedy="Name recordings of speech.")


def _network(predictor: Predictor) -> SpeechModel:
    """Return the network of a predictor.

    Raises:
        ModelError: It is not that of a single model folder.
    """
    if type(predictor) is not Predictor:
        what = f"a {type(predictor).__name__} combines a model with others or a datastore, which cannot be adapted"
        raise ModelError(what, where="adapt", remedy="Adapt its model folders one by one.")
    if isinstance(predictor.model, AbsentModel):
        remedy = "Adapt its model folder, then export the new folder."
        raise ModelError("an exported file cannot be adapted", where=predictor.checkpoint.name, remedy=remedy)
    return predictor.model


def _feature_norm(network: SpeechModel, name: str, *, has_reference: bool) -> FeatureNorm:
    """Return the standardisation of a network's features, or one that leaves them as they are.

    Raises:
        ModelError: The network has no standardisation, and there is no reference; or it has several backbones.
    """
    if network.feature_norm is not None:
        return network.feature_norm
    if network.branches:
        remedy = "Choose the method 'bias'."
        raise ModelError("has several networks, whose features cannot be shifted", where=name, remedy=remedy)
    if not has_reference:
        remedy = "Name recordings like these data (--reference; in Python reference=), or choose the method 'bias'."
        raise ModelError("does not contain the mean of its training data", where=name, remedy=remedy)
    return FeatureNorm(network.backbone.sizes).to(next(network.parameters()).device)


def _output_layers(network: SpeechModel, predictor: Predictor) -> list[nn.Linear]:
    """Return the output layer of the main task of each member of the ensemble.

    Raises:
        ModelError: There is none that has a bias for each class.
    """
    heads = [member.heads[predictor.task] for member in network.ensemble]
    layers = [head.output for head in heads if isinstance(head.output, nn.Linear) and head.puts_out == "scores"]
    if len(layers) < len(heads):
        remedy = "Choose a model that was trained with cross-entropy."
        raise ModelError("its output layer has no bias for each class", where=predictor.checkpoint.name, remedy=remedy)
    return layers


def _by_class(classes: Sequence[str], numbers: FloatArray) -> dict[str, float]:
    return {name: round(float(number), 4) for name, number in zip(classes, numbers, strict=True)}


def _card(checkpoint: Checkpoint, found: AdaptationResult) -> str:
    """Return the card of the original model, with a section on the adaptation."""
    card = Path() if checkpoint.folder is None else checkpoint.folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {checkpoint.name}"
    source = f"{found.num_segments} segments of {found.num_recordings} recordings"
    if found.method == "mean":
        return f"""{text}
## Adapted

The features are shifted by the mean of {source}
without labels (`serein adapt`). Scores above are those of the original model.
"""
    rows = "\n".join(
        f"| {name} | {found.before[name]:.3f} | {prior:.3f} | {found.bias[name]:+.2f} |"
        for name, prior in found.priors.items()
    )
    return f"""{text}
## Adapted

A bias was added to the logits of each class, from {source}
without labels (`serein adapt`). Scores above are those of the original model.

| class | mean probability before | prior | bias |
|---|---:|---:|---:|
{rows}
"""
