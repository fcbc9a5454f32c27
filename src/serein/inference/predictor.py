"""Using a model: recordings in, class shares out. A clip gets the same answer alone and in any batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from serein.data import audio
from serein.data.audio import SAMPLE_RATE_HZ, Waveform
from serein.data.batches import fitted
from serein.data.recordings import Recordings
from serein.data.utterance import Utterance
from serein.errors import AudioError, ModelError
from serein.inference.box import box_folder
from serein.labels.attributes import Told, attribute_vectors
from serein.labels.words import WordClasses, relabelled
from serein.metrics import tempered
from serein.models import folder as model_folder
from serein.models.folder import ModelFolder
from serein.recipe import Clips, Inference

Progress = Callable[[int, int], None]
Vectors = NDArray[np.float32]
Heard = TypeVar("Heard")
CLIPS_AT_ONCE = 32


@dataclass(frozen=True)
class Answer:
    """What a model says of one recording.

    Attributes:
        audio: The file.
        label: The class with the largest share.
        shares: Class -> share; they sum to 1.
        embedding: (feature,) float32, the vector that the output layer reads; of a model of words, the word vector.
        task: What the classes are of: `emotion`, `gender`.
        duration_s: Length of what was heard, silence at its ends included.
        withheld: Why nothing is answered after all ("don't know", "too short"); `None` when something is.
    """

    audio: str
    label: str
    shares: dict[str, float]
    embedding: NDArray[np.float32]
    task: str = "emotion"
    duration_s: float | None = None
    withheld: str | None = None

    @property
    def emotion(self) -> str:
        """The class with the largest share, of a model that answers emotions."""
        if self.task != "emotion":
            raise AttributeError(f"this model answers '{self.task}': read .label")
        return self.label

    @property
    def confidence(self) -> float:
        """The largest share. It is no probability of being right until it is calibrated."""
        return self.shares[self.label]

    @property
    def said(self) -> str:
        """The class, or why none is answered."""
        return self.withheld or self.label

    def to_json(self) -> dict[str, object]:
        """Return file, label under the name of its task (`None` when withheld), confidence and shares."""
        shares = {name: round(share, 6) for name, share in self.shares.items()}
        return {
            "audio": self.audio,
            self.task: None if self.withheld else self.label,
            **({"withheld": self.withheld} if self.withheld else {}),
            "confidence": round(self.confidence, 6),
            "shares": shares,
        }


class Predictor:
    """A loaded model.

    Example:
        >>> model = serein.load("runs/demo/fold-1/seed-0/model")  # doctest: +SKIP
        >>> model.predict("clip.wav").emotion  # doctest: +SKIP
        'happy'
    """

    def __init__(self, content: ModelFolder) -> None:
        self.content = content
        self.model = content.model.eval()
        self.classes = content.categories.classes
        self.task = content.task

    def with_labels(self, labels: Sequence[str]) -> Predictor:
        """Return the same model answering other words, without any training (stanley2023, section 3.3).

        Args:
            labels: Words of the model's vocabulary; several words make the mean of their vectors.

        Raises:
            ModelError: The model answers fixed classes, or its vocabulary has changed.
            RecipeError: A word has no vector, or there are fewer than two labels.
        """
        meaning = self.content.labels[self.task]
        if not isinstance(meaning, WordClasses):
            raise ModelError(
                f"answers the fixed classes {', '.join(self.classes)}",
                where="--labels",
                remedy="Take a model whose task is 'words'.",
            )
        words = relabelled(meaning, labels)
        return Predictor(replace(self.content, labels={**self.content.labels, self.task: words}, calibration=None))

    def uncalibrated(self) -> Predictor:
        """Return the same model with its shares as they were before calibration, to be joined with others like it."""
        return Predictor(replace(self.content, calibration=None))

    def predict(
        self, source: str | Path | Sequence[str | Path], labels: Sequence[str] | None = None
    ) -> Answer | list[Answer]:
        """Answer for a file, or for each of a list of files.

        Args:
            labels: Words to answer with instead of the classes, of a model of words.

        Raises:
            AudioError: A file cannot be read or is silent.
        """
        if labels is not None:
            return self.with_labels(labels).predict(source)
        if isinstance(source, str | Path):
            return self.predict_waveforms([audio.load(source)], [str(source)])[0]
        paths = [str(path) for path in source]
        return self.predict_waveforms([audio.load(path) for path in paths], paths)

    def predict_each(self, utterances: Sequence[Utterance]) -> Iterator[Answer | AudioError]:
        """Answer for many utterances in their order, or say what is wrong with each; a few are in memory at once."""

        def hear(waveforms: Sequence[Waveform], some: Sequence[Utterance]) -> list[Answer]:
            return self._predict(waveforms, [u.audio for u in some], some)

        return heard_each(utterances, hear)

    def predict_waveforms(self, waveforms: Sequence[Waveform], names: Sequence[str]) -> list[Answer]:
        """Answer for waveforms, each (sample,) float32 mono at 16 kHz."""
        return self._predict(waveforms, names, [Utterance(id=name, audio=name) for name in names])

    def _predict(
        self, waveforms: Sequence[Waveform], names: Sequence[str], utterances: Sequence[Utterance]
    ) -> list[Answer]:
        if not waveforms:
            return []
        cut = [audio.trimmed(waveform, self.content.options.clips.trim_db) for waveform in waveforms]
        conditions = conditions_of(self.content, utterances, "known")
        shares, embeddings = answers(self.content, cut.__getitem__, [len(waveform) for waveform in cut], conditions)
        if self.content.calibration is not None:
            shares = tempered(shares, self.content.calibration.temperature)
        durations_s = [len(waveform) / SAMPLE_RATE_HZ for waveform in waveforms]
        return [self._answer(*row) for row in zip(names, shares, embeddings, durations_s, strict=True)]

    def _answer(
        self, name: str, shares: NDArray[np.floating], embedding: NDArray[np.float32], duration_s: float
    ) -> Answer:
        by_class = dict(zip(self.classes, (float(share) for share in shares), strict=True))
        label = self.classes[int(shares.argmax())]
        return Answer(name, label, by_class, embedding, self.content.categories.field, duration_s)


def heard_each(
    utterances: Sequence[Utterance], hear: Callable[[Sequence[Waveform], Sequence[Utterance]], Sequence[Heard]]
) -> Iterator[Heard | AudioError]:
    """Load and hear utterances in their order, or say what is wrong with each; a few are in memory at once."""
    for start in range(0, len(utterances), CLIPS_AT_ONCE):
        some = utterances[start : start + CLIPS_AT_ONCE]
        outcomes = [_loaded(utterance) for utterance in some]
        found = [(o, u) for o, u in zip(outcomes, some, strict=True) if not isinstance(o, AudioError)]
        heard = iter(hear([waveform for waveform, _ in found], [utterance for _, utterance in found]))
        for outcome in outcomes:
            yield outcome if isinstance(outcome, AudioError) else next(heard)


def _loaded(utterance: Utterance) -> Waveform | AudioError:
    try:
        return audio.load(utterance.audio, utterance.start_s, utterance.end_s)
    except AudioError as error:
        return error


def load(name: str | Path | None = None) -> Predictor:
    """Load a model folder, one from the Hugging Face Hub by name, or without a name the one inside the package.

    Raises:
        ModelError: There is none, or it is damaged.
    """
    if name is None:
        return Predictor(model_folder.load(box_folder()))
    if not Path(name).exists() and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)):
        return Predictor(model_folder.load(_downloaded(str(name))))
    return Predictor(model_folder.load(name))


def conditions_of(content: ModelFolder, utterances: Sequence[Utterance], told: Told) -> dict[str, Vectors]:
    """Return what a conditioned model is told of utterances: attribute -> (utterance, feature)."""
    return attribute_vectors(utterances, content.conditions, told, content.options.text.encoder)


def answers(
    content: ModelFolder,
    waveform_of: Callable[[int], Waveform],
    num_samples: Sequence[int],
    conditions: Mapping[str, Vectors] | None = None,
    on_progress: Progress | None = None,
    of: str | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Hear many clips in batches of like length.

    Args:
        waveform_of: Position -> (sample,) float32.
        num_samples: Length of each clip, for sorting.
        conditions: Attribute -> (clip, feature), what a conditioned model is told; what is not given is unknown.
        on_progress: Told how many of all clips are done.
        of: The task whose embeddings are returned; `None` is the one that the model answers.

    Returns:
        Class shares, (clip, class), and embeddings, (clip, feature).
    """
    hear = partial(_hear, content, of or content.task)
    options = content.options
    shares = [np.empty(0, np.float32)] * len(num_samples)
    embeddings = list(shares)
    done = 0
    for positions in _batches(num_samples, options.clips, options.inference):
        windows = [_windows(fitted(waveform_of(p), options.clips), options.clips) for p in positions]
        flat = [window for each in windows for window in each]
        clip_of = np.repeat(positions, [len(each) for each in windows])
        told = {name: vectors[clip_of] for name, vectors in (conditions or {}).items()}
        batch_shares, batch_embeddings = _hear_in_parts(hear, flat, told, options.inference)
        start = 0
        for position, own in zip(positions, windows, strict=True):
            weights = np.array([len(window) for window in own], np.float64)
            part = slice(start, start + len(own))
            shares[position] = np.average(batch_shares[part], axis=0, weights=weights).astype(np.float32)
            embeddings[position] = np.average(batch_embeddings[part], axis=0, weights=weights).astype(np.float32)
            start += len(own)
        done += len(positions)
        if on_progress:
            on_progress(done, len(num_samples))
    return np.stack(shares), np.stack(embeddings)


def recorded_answers(
    content: ModelFolder,
    recordings: Recordings,
    positions: Sequence[int],
    told: Told,
    on_progress: Progress | None = None,
    of: str | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Hear utterances of a manifest; see `answers`."""
    lengths = [round(float(recordings.durations_s[p]) * SAMPLE_RATE_HZ) for p in positions]
    conditions = conditions_of(content, [recordings.utterances[p] for p in positions], told)
    return answers(content, lambda i: recordings[positions[i]], lengths, conditions, on_progress, of)


def _hear_in_parts(
    hear: Callable[[Sequence[Waveform], Mapping[str, Vectors]], tuple[Vectors, Vectors]],
    windows: Sequence[Waveform],
    told: Mapping[str, Vectors],
    inference: Inference,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Hear windows, of a recording of hours perhaps, no more seconds at once than the options say."""
    longest = max(len(window) for window in windows)
    size = max(1, int(inference.batch_s * SAMPLE_RATE_HZ) // longest)
    parts = [
        hear(windows[i : i + size], {name: vectors[i : i + size] for name, vectors in told.items()})
        for i in range(0, len(windows), size)
    ]
    shares, embeddings = zip(*parts, strict=True)
    return np.concatenate(shares), np.concatenate(embeddings)


@torch.inference_mode()
def _hear(
    content: ModelFolder, of: str, waveforms: Sequence[Waveform], told: Mapping[str, Vectors]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    model, precision = content.model.eval(), content.options.inference.precision
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    num_samples = torch.tensor([len(waveform) for waveform in waveforms], device=device)
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(w) for w in waveforms], batch_first=True).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        conditions = {name: torch.from_numpy(vectors).to(device) for name, vectors in told.items()}
        readings = model(padded, num_samples, conditions)
    return content.shares(readings[content.task].output), readings[of].embedding.cpu().numpy()


def _windows(waveform: Waveform, clips: Clips) -> list[Waveform]:
    """Cut a clip longer than `clips.window_s` into windows of equal length."""
    num_windows = -(-len(waveform) // round(clips.window_s * SAMPLE_RATE_HZ))
    return np.array_split(waveform, num_windows) if num_windows > 1 else [waveform]


def _batches(num_samples: Sequence[int], clips: Clips, inference: Inference) -> list[list[int]]:
    shortest = round(clips.min_s * SAMPLE_RATE_HZ)
    order = sorted(range(len(num_samples)), key=lambda i: -num_samples[i])
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        longest = max(num_samples[order[start]], shortest, 1)
        size = max(1, int(inference.batch_s * SAMPLE_RATE_HZ) // longest)
        batches.append(order[start : start + size])
        start += size
    return batches


def _downloaded(name: str) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        return str(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "README.md"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise ModelError(
            f"no such folder, and the Hub cannot be reached or has no such model ({type(error).__name__})",
            where=name,
            remedy="Name a model folder, or download it where there is a network: hf download " + name + ".",
        ) from None
