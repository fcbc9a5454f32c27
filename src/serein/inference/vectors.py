"""The vectors that a model makes of recordings: what it heard of the emotion, of the voice, of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from serein.data import audio
from serein.data.audio import Waveform
from serein.data.utterance import Utterance
from serein.errors import AudioError
from serein.inference.answering import answers, conditions_of, embedding_selection
from serein.inference.predictor import predict_in_batches
from serein.models.folder import ModelFolder

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class SpeakerPair:
    """Two recordings, and whether they sound like one person.

    Attributes:
        cosine: Of their speaker vectors, -1 to 1.
        is_same: Whether the cosine reaches the threshold; `None` where there is none.
    """

    first: str
    second: str
    cosine: float
    is_same: bool | None

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {"first": self.first, "second": self.second, "cosine": round(self.cosine, 6), "is_same": self.is_same}


def embed_each(content: ModelFolder, utterances: Sequence[Utterance], of: str | None) -> Iterator[Vector | AudioError]:
    """Return the vector of each utterance, (feature,) float32, in their order, or what is wrong with it.

    Args:
        of: Which of its vectors, see `serein.inference.answering.embedding_selection`.

    Raises:
        ModelError: The model has no such vector.
    """
    embedding_selection(content, of)

    def hear(waveforms: Sequence[Waveform], some: Sequence[Utterance]) -> Sequence[Vector]:
        if not waveforms:
            return []
        cut = [audio.trimmed(waveform, content.options.clips.trim_db) for waveform in waveforms]
        conditions = conditions_of(content, some, "known")
        return list(answers(content, cut.__getitem__, [len(each) for each in cut], conditions, of=of).embeddings)

    return predict_in_batches(utterances, hear)


def speaker_pairs(names: Sequence[str], vectors: Sequence[Vector], threshold: float | None) -> list[SpeakerPair]:
    """Compare every recording with every later one.

    Example:
        >>> speaker_pairs(["a.wav", "b.wav"], [np.array([1.0, 0.0]), np.array([1.0, 0.0])], threshold=0.5)
        [VoicePair(first='a.wav', second='b.wav', cosine=1.0, is_same=True)]
    """
    directions = [vector / max(float(np.linalg.norm(vector)), 1e-12) for vector in vectors]
    pairs = []
    for (first, one), (second, other) in combinations(zip(names, directions, strict=True), 2):
        cosine = float(np.clip(one @ other, -1.0, 1.0))
        pairs.append(SpeakerPair(first, second, cosine, None if threshold is None else cosine >= threshold))
    return pairs
