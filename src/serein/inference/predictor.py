"""Using a model: recordings in, class probabilities out. A clip gets the same answer alone and in any batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from serein.data import audio
from serein.data.audio import SAMPLE_RATE_HZ, Waveform
from serein.data.utterance import Utterance
from serein.errors import AudioError, ModelError
from serein.inference.answering import ModelOutputs, answers, conditions_of
from serein.inference.box import default_model_folder
from serein.labels.words import WordClasses, relabelled
from serein.metrics import tempered
from serein.models import folder as model_folder
from serein.models.folder import ModelFolder

Heard = TypeVar("Heard")
CLIPS_AT_ONCE = 32


@dataclass(frozen=True)
class TaskPrediction:
    """What another task of the same model says of a recording.

    Attributes:
        label: The class with the largest share, or what was said.
        confidence: Its share; `None` of a transcript.
    """

    label: str
    confidence: float | None = None


@dataclass(frozen=True)
class Prediction:
    """What a model says of one recording.

    Attributes:
        audio: The file.
        label: The class with the largest share.
        probabilities: Class -> probability; they sum to 1.
        embedding: (feature,) float32, the vector that the output layer reads; of a model of words, the word vector.
        task: What the classes are of: `emotion`, `gender`.
        duration_s: Length of what was heard, silence at its ends included.
        rejected: Why nothing is answered after all ("don't know", "too short"); `None` when something is.
        others: Task -> what it says, of a model of several: `gender`, `transcript`, ...
    """

    audio: str
    label: str
    probabilities: dict[str, float]
    embedding: NDArray[np.float32]
    task: str = "emotion"
    duration_s: float | None = None
    rejected: str | None = None
    others: Mapping[str, TaskPrediction] = field(default_factory=dict)

    @property
    def emotion(self) -> str:
        """The class with the largest share, of a model that answers emotions."""
        if self.task != "emotion":
            raise AttributeError(f"this model answers '{self.task}': read .label")
        return self.label

    @property
    def confidence(self) -> float:
        """The largest share. It is no probability of being right until it is calibrated."""
        return self.probabilities[self.label]

    @property
    def said(self) -> str:
        """The class, or why none is answered."""
        return self.rejected or self.label

    def to_json(self) -> dict[str, object]:
        """Return file, label under its task's name (`None` if withheld), confidence, probabilities and other tasks."""
        probabilities = {name: round(probability, 6) for name, probability in self.probabilities.items()}
        return {
            "audio": self.audio,
            self.task: None if self.rejected else self.label,
            **({"withheld": self.rejected} if self.rejected else {}),
            "confidence": round(self.confidence, 6),
            "probabilities": probabilities,
            **{name: other.label for name, other in self.others.items()},
            **{f"{name}_confidence": round(o.confidence, 6) for name, o in self.others.items() if o.confidence},
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
        self.task = content.task

    @property
    def classes(self) -> tuple[str, ...]:
        """What the model tells apart.

        Raises:
            ModelError: It writes down what is said instead.
        """
        return self.content.categories.classes

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
        """Return the same model with its probabilities before calibration, to be joined with others like it."""
        return Predictor(replace(self.content, calibration=None))

    def predict(
        self, source: str | Path | Sequence[str | Path], labels: Sequence[str] | None = None
    ) -> Prediction | list[Prediction]:
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

    def predict_each(self, utterances: Sequence[Utterance]) -> Iterator[Prediction | AudioError]:
        """Answer for many utterances in their order, or say what is wrong with each; a few are in memory at once."""

        def hear(waveforms: Sequence[Waveform], some: Sequence[Utterance]) -> list[Prediction]:
            return self._predict(waveforms, [u.audio for u in some], some)

        return predict_in_batches(utterances, hear)

    def predict_waveforms(self, waveforms: Sequence[Waveform], names: Sequence[str]) -> list[Prediction]:
        """Answer for waveforms, each (sample,) float32 mono at 16 kHz."""
        return self._predict(waveforms, names, [Utterance(id=name, audio=name) for name in names])

    def _predict(
        self, waveforms: Sequence[Waveform], names: Sequence[str], utterances: Sequence[Utterance]
    ) -> list[Prediction]:
        if not waveforms:
            return []
        cut = [audio.trimmed(waveform, self.content.options.clips.trim_db) for waveform in waveforms]
        conditions = conditions_of(self.content, utterances, "known")
        said = answers(self.content, cut.__getitem__, [len(waveform) for waveform in cut], conditions)
        probabilities: NDArray[np.floating] = said.probabilities[self.task]
        if self.content.calibration is not None:
            probabilities = tempered(probabilities, self.content.calibration.temperature)
        durations_s = [len(waveform) / SAMPLE_RATE_HZ for waveform in waveforms]
        rows = zip(names, probabilities, said.embeddings, durations_s, self._others(said), strict=True)
        return [self._answer(*row) for row in rows]

    def _answer(
        self,
        name: str,
        probabilities: NDArray[np.floating],
        embedding: NDArray[np.float32],
        duration_s: float,
        others: Mapping[str, TaskPrediction],
    ) -> Prediction:
        by_class = dict(zip(self.classes, (float(probability) for probability in probabilities), strict=True))
        label = self.classes[int(probabilities.argmax())]
        return Prediction(
            name, label, by_class, embedding, self.content.categories.field, duration_s=duration_s, others=others
        )

    def _others(self, said: ModelOutputs) -> list[dict[str, TaskPrediction]]:
        """Return what the other tasks say of each clip."""
        others: list[dict[str, TaskPrediction]] = [{} for _ in said.embeddings]
        for task, probabilities in said.probabilities.items():
            if task != self.task:
                classes = self.content.classes_of(task).classes
                for row, own in zip(others, probabilities, strict=True):
                    row[task] = TaskPrediction(classes[int(own.argmax())], float(own.max()))
        for texts in said.texts.values():
            for row, text in zip(others, texts, strict=True):
                row["transcript"] = TaskPrediction(text)
        return others


def predict_in_batches(
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
        return Predictor(model_folder.load(default_model_folder()))
    if not Path(name).exists() and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)):
        return Predictor(model_folder.load(_downloaded(str(name))))
    return Predictor(model_folder.load(name))


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
