"""Models of words, beyond their classes: the nearest words of a vocabulary, and the similarity to free text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serein.errors import ModelError, RecipeError
from serein.inference.predictor import Predictor
from serein.labels.vocabulary import Vocabulary
from serein.labels.words import WordClasses, normalised, phrase_vectors, vocabulary_of

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
