"""Nearest neighbours of a recording's embedding: words of the model's vocabulary, and clips of a datastore."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serein.errors import ModelError
from serein.inference.predictor import Predictor
from serein.knn.datastore import Datastore, open_datastore
from serein.text.word_vectors import Vocabulary

NUM_NEAREST = 5


@dataclass(frozen=True)
class Neighbours:
    """What to search.

    Attributes:
        vocabulary: Of a model of words; else `None`.
        datastore: Labelled clips, embedded by this model.
        classes: The model's classes.
    """

    vocabulary: Vocabulary | None = None
    datastore: Datastore | None = None
    classes: tuple[str, ...] = ()

    def words(self, embedding: NDArray[np.float32]) -> list[dict[str, object]] | None:
        """Return the nearest words, nearest first; `None` without a vocabulary."""
        if self.vocabulary is None:
            return None
        words, cosines = self.vocabulary.nearest(embedding[None], NUM_NEAREST)
        return [{"word": word, "cosine": round(float(c), 6)} for word, c in zip(words[0], cosines[0], strict=True)]

    def clips(self, embedding: NDArray[np.float32]) -> list[dict[str, object]] | None:
        """Return the nearest clips, nearest first, without their paths; `None` without a datastore."""
        if self.datastore is None:
            return None
        nearest = self.datastore.embeddings.nearest(embedding[None], min(NUM_NEAREST, len(self.datastore.embeddings)))
        clips = self.datastore.clips_at(nearest.rows[0].tolist())
        return [
            {
                "id": clip.id,
                "label": self.classes[label],
                "speaker": clip.speaker,
                "corpus": clip.corpus,
                "distance": round(distance, 6),
            }
            for clip, label, distance in zip(
                clips, nearest.labels[0].tolist(), nearest.distances[0].tolist(), strict=True
            )
        ]


def open_neighbours(predictor: Predictor, datastore: Path | None) -> Neighbours:
    """Open a model's vocabulary, if it has one, and a datastore.

    Args:
        datastore: Folder of a datastore of labelled clips.

    Raises:
        ModelError: The datastore belongs to another model, or the model's vocabulary has changed.
    """
    vocabulary = predictor.checkpoint.tasks[predictor.task].vocabulary
    if datastore is None:
        return Neighbours(vocabulary, None, predictor.classes)
    opened = open_datastore(datastore)
    opened.require_model(predictor.checkpoint.digest, predictor.checkpoint.name)
    if not len(opened.embeddings):
        raise ModelError("holds no clips", where=datastore, remedy="Add some: serein knn add --help.")
    return Neighbours(vocabulary, opened, predictor.classes)
