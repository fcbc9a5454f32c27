"""The default model, which ships inside the package and is used when no model is named."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from serein import audio
from serein import checkpoint as model_folder
from serein.audio import SAMPLE_RATE_HZ, Waveform
from serein.checkpoint import Checkpoint, is_model_folder
from serein.data.utterance import Utterance
from serein.errors import AudioError, ModelError, RecipeError
from serein.inference.batching import ModelOutputs, conditions_of, embedding_selection, model_outputs
from serein.labels.vocabulary import Vocabulary
from serein.metrics import tempered
from serein.tasks.word_vectors import WordClasses, normalised, phrase_vectors, relabelled, vocabulary_of

FOLDER = Path(__file__).parents[1] / "box"


def default_model_folder() -> Path:
    """Return the folder of the default model.

    Raises:
        ModelError: This installation has no default model.
    """
    if not is_model_folder(FOLDER):
        raise ModelError(
            "this installation has no default model",
            where="serein",
            remedy="Name a model folder, or train one: serein train --help.",
        )
    return FOLDER


Probabilities = dict[str, float]
Result = TypeVar("Result")
CLIPS_AT_ONCE = 32


def most_probable(probabilities: Mapping[str, float]) -> str:
    """Return the class with the largest probability, the first of equal ones."""
    return max(probabilities, key=lambda name: probabilities[name])


@dataclass(frozen=True)
class TaskPrediction:
    """What another task of the same model predicts for a recording.

    Attributes:
        label: The most probable class, or the transcript.
        confidence: Its probability; `None` for a transcript.
        probabilities: Class -> probability; empty for a transcript.
    """

    label: str
    confidence: float | None = None
    probabilities: Probabilities = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return label, confidence and probabilities."""
        return {
            "label": self.label,
            "confidence": None if self.confidence is None else round(self.confidence, 6),
            "probabilities": {name: round(probability, 6) for name, probability in self.probabilities.items()},
        }


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for one recording.

    Attributes:
        audio: The file.
        probabilities: Class -> probability; they sum to 1.
        embedding: (feature,) float32, the input of the output layer; for a model of words, the word vector.
        task: What the classes are of: `emotion`, `gender`.
        duration_s: Length of the recording, silence at its ends included.
        rejected: Why the prediction is rejected ("low confidence", "too short"); `None` when it is accepted.
        tasks: Task -> its prediction, for a model with other tasks: `gender`, `asr`, ...
    """

    audio: str
    probabilities: Probabilities
    embedding: NDArray[np.float32]
    task: str = "emotion"
    duration_s: float | None = None
    rejected: str | None = None
    tasks: Mapping[str, TaskPrediction] = field(default_factory=dict)

    @property
    def label(self) -> str | None:
        """The most probable class; `None` when rejected."""
        return None if self.rejected else most_probable(self.probabilities)

    @property
    def confidence(self) -> float:
        """The largest probability. It estimates the accuracy once the model is calibrated."""
        return max(self.probabilities.values())

    @property
    def label_or_rejection(self) -> str:
        """The most probable class, or why it is rejected."""
        return self.rejected or most_probable(self.probabilities)

    def to_json(self) -> dict[str, object]:
        """Return file, task, label (`None` when rejected), confidence, probabilities and other tasks' predictions."""
        return {
            "file": self.audio,
            "task": self.task,
            "label": self.label,
            "confidence": round(self.confidence, 6),
            "probabilities": {name: round(probability, 6) for name, probability in self.probabilities.items()},
            "rejected": self.rejected,
            "tasks": {name: other.to_json() for name, other in self.tasks.items()},
        }


class Predictor:
    """A loaded model.

    Example:
        >>> model = serein.load("runs/demo/fold-1/seed-0/model")  # doctest: +SKIP
        >>> model.predict("clip.wav").label  # doctest: +SKIP
        'happy'
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.model = checkpoint.model.eval()
        self.task = checkpoint.task

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the main task.

        Raises:
            ModelError: The main task is transcription.
        """
        return self.checkpoint.class_labels.classes

    def with_labels(self, labels: Sequence[str]) -> Predictor:
        """Return the same model with other words as classes, without any training (stanley2023, section 3.3).

        Args:
            labels: Words of the model's vocabulary; a label of several words is the mean of their vectors.

        Raises:
            ModelError: The model has fixed classes, or its vocabulary has changed.
            RecipeError: A word has no vector, or there are fewer than two labels.
        """
        label_encoder = self.checkpoint.labels[self.task]
        if not isinstance(label_encoder, WordClasses):
            raise ModelError(
                f"has the fixed classes {', '.join(self.classes)}",
                where="--labels",
                remedy="Choose a model whose task is 'words'.",
            )
        words = relabelled(label_encoder, labels)
        return Predictor(
            replace(self.checkpoint, labels={**self.checkpoint.labels, self.task: words}, calibration=None)
        )

    def uncalibrated(self) -> Predictor:
        """Return the same model with its probabilities before calibration, to be joined with others like it."""
        return Predictor(replace(self.checkpoint, calibration=None))

    def predict(
        self, source: str | Path | Sequence[str | Path], labels: Sequence[str] | None = None
    ) -> Prediction | list[Prediction]:
        """Predict a file, or each of a list of files.

        Args:
            labels: Words to use as classes, for a model of words.

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
        """Yield a prediction, or the error, for each utterance in order; a few are in memory at once."""

        def predict(waveforms: Sequence[Waveform], some: Sequence[Utterance]) -> list[Prediction]:
            return self._predict(waveforms, [u.audio for u in some], some)

        return predict_in_batches(utterances, predict)

    def predict_waveforms(self, waveforms: Sequence[Waveform], names: Sequence[str]) -> list[Prediction]:
        """Predict waveforms, each (sample,) float32 mono at 16 kHz."""
        return self._predict(waveforms, names, [Utterance(id=name, audio=name) for name in names])

    def _predict(
        self, waveforms: Sequence[Waveform], names: Sequence[str], utterances: Sequence[Utterance]
    ) -> list[Prediction]:
        if not waveforms:
            return []
        cut = [audio.trimmed(waveform, self.checkpoint.options.clips.trim_db) for waveform in waveforms]
        conditions = conditions_of(self.checkpoint, utterances, "known")
        outputs = model_outputs(self.checkpoint, cut.__getitem__, [len(waveform) for waveform in cut], conditions)
        probabilities: NDArray[np.floating] = outputs.probabilities[self.task]
        if self.checkpoint.calibration is not None:
            probabilities = tempered(probabilities, self.checkpoint.calibration.temperature)
        durations_s = [len(waveform) / SAMPLE_RATE_HZ for waveform in waveforms]
        rows = zip(names, probabilities, outputs.embeddings, durations_s, self._task_predictions(outputs), strict=True)
        return [self._prediction(*row) for row in rows]

    def _prediction(
        self,
        name: str,
        probabilities: NDArray[np.floating],
        embedding: NDArray[np.float32],
        duration_s: float,
        tasks: Mapping[str, TaskPrediction],
    ) -> Prediction:
        by_class = dict(zip(self.classes, (float(probability) for probability in probabilities), strict=True))
        return Prediction(
            name, by_class, embedding, self.checkpoint.class_labels.field, duration_s=duration_s, tasks=tasks
        )

    def _task_predictions(self, outputs: ModelOutputs) -> list[dict[str, TaskPrediction]]:
        """Return what the other tasks predict for each clip."""
        rows: list[dict[str, TaskPrediction]] = [{} for _ in outputs.embeddings]
        for task, probabilities in outputs.probabilities.items():
            if task != self.task:
                classes = self.checkpoint.classes_of(task).classes
                for row, own in zip(rows, probabilities, strict=True):
                    by_class = dict(zip(classes, map(float, own), strict=True))
                    row[task] = TaskPrediction(classes[int(own.argmax())], float(own.max()), by_class)
        for task, texts in outputs.texts.items():
            for row, text in zip(rows, texts, strict=True):
                row[task] = TaskPrediction(text)
        return rows


def predict_in_batches(
    utterances: Sequence[Utterance], predict: Callable[[Sequence[Waveform], Sequence[Utterance]], Sequence[Result]]
) -> Iterator[Result | AudioError]:
    """Load utterances and yield a result, or the error, for each in order; a few are in memory at once."""
    for start in range(0, len(utterances), CLIPS_AT_ONCE):
        some = utterances[start : start + CLIPS_AT_ONCE]
        outcomes = [_loaded(utterance) for utterance in some]
        found = [(o, u) for o, u in zip(outcomes, some, strict=True) if not isinstance(o, AudioError)]
        results = iter(predict([waveform for waveform, _ in found], [utterance for _, utterance in found]))
        for outcome in outcomes:
            yield outcome if isinstance(outcome, AudioError) else next(results)


def _loaded(utterance: Utterance) -> Waveform | AudioError:
    try:
        return audio.load(utterance.audio, utterance.start_s, utterance.end_s)
    except AudioError as error:
        return error


def load(name: str | Path | None = None) -> Predictor:
    """Load a model folder, a model of the Hugging Face Hub by name, or without a name the default model.

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


Vector = NDArray[np.float32]


@dataclass(frozen=True)
class SpeakerPair:
    """Two recordings, and whether they are of the same speaker.

    Attributes:
        cosine: Of their speaker embeddings, -1 to 1.
        is_same_speaker: Whether the cosine reaches the threshold; `None` where there is none.
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


def embed_each(
    checkpoint: Checkpoint, utterances: Sequence[Utterance], embedding: str | None
) -> Iterator[Vector | AudioError]:
    """Yield the embedding, (feature,) float32, or the error, of each utterance in order.

    Args:
        embedding: Which of its embeddings, see `serein.inference.batching.embedding_selection`.

    Raises:
        ModelError: The model has no such embedding.
    """
    embedding_selection(checkpoint, embedding)

    def embed(waveforms: Sequence[Waveform], some: Sequence[Utterance]) -> Sequence[Vector]:
        if not waveforms:
            return []
        cut = [audio.trimmed(waveform, checkpoint.options.clips.trim_db) for waveform in waveforms]
        conditions = conditions_of(checkpoint, some, "known")
        lengths = [len(each) for each in cut]
        return list(model_outputs(checkpoint, cut.__getitem__, lengths, conditions, embedding=embedding).embeddings)

    return predict_in_batches(utterances, embed)


def speaker_pairs(names: Sequence[str], vectors: Sequence[Vector], threshold: float | None) -> list[SpeakerPair]:
    """Compare every recording with every later one.

    Example:
        >>> speaker_pairs(["a.wav", "b.wav"], [np.array([1.0, 0.0]), np.array([1.0, 0.0])], threshold=0.5)
        [VoicePair(first='a.wav', second='b.wav', cosine=1.0, is_same_speaker=True)]
    """
    directions = [vector / max(float(np.linalg.norm(vector)), 1e-12) for vector in vectors]
    pairs = []
    for (first, one), (second, other) in combinations(zip(names, directions, strict=True), 2):
        cosine = float(np.clip(one @ other, -1.0, 1.0))
        pairs.append(SpeakerPair(first, second, cosine, None if threshold is None else cosine >= threshold))
    return pairs


Vectors = NDArray[np.float32]


def vocabulary_of_model(predictor: Predictor) -> Vocabulary:
    """Open the vocabulary that a model was trained with.

    Raises:
        ModelError: The model has fixed classes, or its vocabulary has changed.
    """
    label_encoder = predictor.checkpoint.labels[predictor.task]
    if not isinstance(label_encoder, WordClasses):
        raise ModelError(
            f"has the fixed classes {', '.join(predictor.classes)} and predicts no word vectors",
            where="--model",
            remedy="Choose a model whose task is 'words'.",
        )
    return vocabulary_of(label_encoder)


def similarity(embeddings: Sequence[Vectors], text: str, vocabulary: Vocabulary) -> NDArray[np.float64]:
    """Return (recording,) the cosine of each recording's word vector with a text.

    Args:
        embeddings: A word vector of each recording (`Prediction.embedding` of a model of words).
        text: A word, or several: the mean of their vectors, or a sentence's vector where the vocabulary has such.

    Raises:
        RecipeError: The text is empty.
        VocabularyError: A word has no vector; names the nearest spellings.
    """
    if not text.strip():
        raise RecipeError("is empty", where="--text", remedy="Write some words: 'tender sadness'.")
    cosines: NDArray[np.float64] = (
        normalised(np.stack(embeddings)) @ normalised(phrase_vectors([text.strip()], vocabulary))[0]
    )
    return cosines
