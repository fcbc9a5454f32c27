"""Embeddings of recordings, and speaker verification by their cosine."""

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
from serein.inference.answering import conditions_of, embedding_selection, model_outputs
from serein.inference.predictor import predict_in_batches
from serein.models.folder import Checkpoint

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
        embedding: Which of its embeddings, see `serein.inference.answering.embedding_selection`.

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
