"""Transcripts as letters: text normalisation, an alphabet for CTC, and word and letter errors.

Normalised texts are in Unicode NFC and lower case. Letters (with their marks), digits and apostrophes within words are
kept; everything else separates words, and words are separated by one space.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray

from serein import losses
from serein.data.dataset import Targets
from serein.data.manifest import Utterance
from serein.errors import ManifestError, imported
from serein.recipe import Head, Recipe, Transcript
from serein.tasks.task import Decoded, Task, TaskPrediction, TaskSpec

PADDING, UNKNOWN = -1, -2  # in rows of letters; an unknown letter occurs in no training transcript
_APOSTROPHES = "'’ʼ"
_REPLACEMENT = "\ufffd"


def normalised(text: str | None) -> str:
    """Return a text in the form in which it is learned and compared.

    Example:
        >>> normalised("  It's 5 o’clock -- DON'T 'quote'!")
        "it's 5 o'clock don't quote"
    """
    folded = unicodedata.normalize("NFC", text or "").lower()
    kept = "".join("'" if c in _APOSTROPHES else c if unicodedata.category(c)[0] in "LNM" else " " for c in folded)
    return " ".join(word for part in kept.split() if (word := part.strip("'")))


@dataclass(frozen=True)
class Alphabet:
    """The symbols that a transcript model can output: 0 is CTC's blank, n is the letter `letters[n - 1]`.

    Attributes:
        letters: Distinct letters, sorted, including the space.

    Example:
        >>> abc = Alphabet.of(["a cab"])
        >>> abc.letters, abc.numbers("cad"), abc.text([3, 0, 3, 2, 2, 0, 2, 1])
        (' abc', [4, 2, -2], 'bbaa')
    """

    letters: str

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> Alphabet:
        """Return the alphabet of the normalised texts.

        Raises:
            ManifestError: The texts contain no letters.
        """
        letters = sorted({letter for text in texts for letter in normalised(text)})
        if not letters:
            raise ManifestError(
                "no training utterance has a transcript",
                where="tasks.asr",
                remedy="Fill in the field 'transcript', or leave the task out.",
            )
        return cls("".join(letters))

    def numbers(self, text: str | None) -> list[int]:
        """Return the symbol of each letter of the normalised text; `UNKNOWN` for letters outside the alphabet."""
        known = {letter: number for number, letter in enumerate(self.letters, start=1)}
        return [known.get(letter, UNKNOWN) for letter in normalised(text)]

    def rows(self, texts: Sequence[str | None]) -> NDArray[np.int16]:
        """Return the symbols of several texts, (text, letter), filled up with `PADDING`."""
        lines = [self.numbers(text) for text in texts]
        rows = np.full((len(lines), max(1, *map(len, lines))), PADDING, np.int16)
        for row, line in zip(rows, lines, strict=True):
            row[: len(line)] = line
        return rows

    def spelt(self, numbers: Iterable[int]) -> str:
        """Return the text of a row of symbols; an unknown symbol becomes a letter that no model can output."""
        return "".join(_REPLACEMENT if n == UNKNOWN else self.letters[n - 1] for n in numbers if n != PADDING)

    def text(self, symbols: Sequence[int]) -> str:
        """Return the text of each frame's best symbol, with repeats merged and blanks removed (greedy decoding)."""
        path = [n for n, before in zip(symbols, [0, *symbols], strict=False) if n not in (0, before)]
        return " ".join(self.spelt(path).split())


@dataclass(frozen=True)
class WordErrors:
    """Edit operations that turn a predicted transcript into the true one.

    Attributes:
        errors: Number of words that are substituted, deleted or inserted.
        words: Number of words in the true transcript.
        letter_errors: Number of letters that are substituted, deleted or inserted, including spaces.
        letters: Number of letters in the true transcript.
    """

    errors: int
    words: int
    letter_errors: int
    letters: int


def word_errors(truth: str, prediction: str) -> WordErrors:
    """Count the word and letter errors between two normalised texts, using jiwer.

    Raises:
        MissingExtraError: The package `jiwer` is not installed.

    Example:
        >>> word_errors("dogs are sitting", "dog are sitting by")
        WordErrors(errors=2, words=3, letter_errors=4, letters=16)
    """
    jiwer = imported("jiwer", "asr")
    found = (jiwer.process_words(truth, prediction), jiwer.process_characters(truth, prediction))
    errors, letter_errors = (each.substitutions + each.deletions + each.insertions for each in found)
    return WordErrors(errors, len(truth.split()), letter_errors, len(truth))


class CtcTask(Task):
    """The spoken words, letter by letter, by connectionist temporal classification of frames.

    An output is (batch, frame, symbol + 1): the scores, followed by 1 for real frames and 0 for padding
    (`serein.models.heads.FrameHead`).

    Attributes:
        alphabet: The letters of the training set.
    """

    Options = Transcript
    fits_on = "train"
    problem = "sequence"
    mixes = False
    monitors = ("word_accuracy", "character_accuracy")

    def __init__(self, options: Transcript, alphabet: Alphabet, name: str = "asr") -> None:
        self.spec = TaskSpec(name, "transcript", self.problem, monitor=self.monitors[0])
        self.options: Transcript = options
        self.alphabet = alphabet
        self.num_outputs = len(alphabet.letters) + 1  # with the blank

    @classmethod
    def fit(cls, name: str, options: Head, recipe: Recipe, utterances: Sequence[Utterance]) -> Self:
        """Return the task with the letters of the utterances' transcripts.

        Raises:
            MissingExtraError: The package `jiwer`, which computes the monitored score, is not installed.
        """
        imported("jiwer", "asr")
        return cls(cast(Transcript, options), Alphabet.of(u.transcript for u in utterances), name)

    @classmethod
    def from_json(cls, name: str, options: Head, description: Mapping[str, Any]) -> Self:
        """Return the task that `to_json` described."""
        return cls(cast(Transcript, options), Alphabet("".join(description["letters"])), name)

    def to_json(self) -> dict[str, Any]:
        """Return the letters."""
        return {"letters": list(self.alphabet.letters)}

    def label(self, utterance: Utterance) -> str | None:
        """Return the normalised transcript."""
        return self.truth(utterance)

    def truth(self, utterance: Utterance) -> str | None:
        """Return the normalised transcript."""
        return normalised(utterance.transcript) or None

    def targets(self, utterances: Sequence[Utterance]) -> Targets:
        """Return the symbols of transcripts, (utterance, letter), and which utterances have some."""
        rows = self.alphabet.rows([u.transcript for u in utterances])
        return Targets(rows, (rows != PADDING).any(axis=1))

    def loss(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch's possible transcripts, each divided by its letters, like torch's mean.

        Args:
            truth: (batch, letter) symbols.
            output: (batch, frame, symbol + 1).
        """
        return possible_mean(*_ctc(truth, output))

    def kept(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the counts from which the scores of the whole set are computed: (batch, 6).

        The columns are the loss, whether it is possible, word errors, words, letter errors and letters.
        """
        each, is_possible = _ctc(truth, output)
        counts = torch.empty(len(truth), 4, dtype=torch.float64)
        for row, (letters, text) in enumerate(zip(truth.tolist(), decoded_texts(output, self.alphabet), strict=True)):
            found = word_errors(self.alphabet.spelt(letters), text)
            counts[row] = torch.tensor([found.errors, found.words, found.letter_errors, found.letters])
        return torch.cat([torch.stack([each, is_possible], dim=1).double().cpu(), counts], dim=1)

    def scores(self, truth: torch.Tensor, kept: torch.Tensor) -> dict[str, float]:
        """Return the scores of a whole set by name; accuracies are 1 - error rate, negative with many insertions."""
        each, is_possible, errors, words, letter_errors, letters = kept.unbind(dim=1)
        return {
            "word_accuracy": float(1 - errors.sum() / words.sum()),
            "character_accuracy": float(1 - letter_errors.sum() / letters.sum()),
            "impossible": float((1 - is_possible).sum()),
            "loss": float(possible_mean(each, is_possible.bool())),
        }

    def decode(self, output: torch.Tensor) -> Decoded:
        """Return the transcripts of (batch, frame, symbol + 1)."""
        return Decoded(texts=tuple(decoded_texts(output, self.alphabet)))

    def predictions(self, decoded: Decoded) -> list[TaskPrediction]:
        """Return the transcript of each clip."""
        return [TaskPrediction(text) for text in decoded.texts or ()]


def decoded_texts(output: torch.Tensor, alphabet: Alphabet) -> list[str]:
    """Return the transcript of each clip by greedy decoding of (batch, frame, symbol + 1)."""
    best = output[..., :-1].argmax(dim=-1) * output[..., -1].long()  # padding becomes 0, the blank
    return [alphabet.text(symbols) for symbols in best.tolist()]


def possible_mean(each: torch.Tensor, is_possible: torch.Tensor) -> torch.Tensor:
    """Return the mean of the possible losses, from losses and flags, both (batch,); 0 if none is possible."""
    return torch.where(is_possible, each, 0.0).sum() / is_possible.sum().clamp_min(1)


def _ctc(truth: torch.Tensor, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of each clip and whether its transcript is possible, both (batch,)."""
    num_frames = output[..., -1].sum(dim=1).long()
    rows = [row[(row != PADDING) & (row != UNKNOWN)].long() for row in truth]
    return losses.ctc(rows, output[..., :-1], num_frames)
