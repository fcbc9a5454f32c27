"""The task of transcripts: letters from frames by CTC, evaluated by the words that come out right (gao2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from serein import losses
from serein.data.batches import Targets
from serein.data.utterance import Utterance
from serein.labels.transcripts import PADDING, UNKNOWN, Alphabet, require_jiwer, word_errors
from serein.recipe import Transcript


class TranscriptTask:
    """Binds target, loss and score of transcripts.

    An output is (batch, frame, symbol + 1): scores, and beside them 1 for real frames and 0 on padding
    (`serein.models.heads.FrameHead`).

    Attributes:
        name: The task's key in recipes, batches and heads.
        num_outputs: Symbols.
        labels: The letters of the training set.

    Raises:
        MissingExtraError: The package `jiwer` is not installed.
    """

    name = "asr"

    def __init__(self, options: Transcript, alphabet: Alphabet) -> None:
        require_jiwer()
        self.options, self.labels = options, alphabet
        self.num_outputs = alphabet.num_symbols

    def targets(self, utterances: Sequence[Utterance]) -> Targets:
        """Return the letters of transcripts, (utterance, letter), and which utterances have some."""
        rows = self.labels.rows([u.transcript for u in utterances])
        return Targets(rows, (rows != PADDING).any(axis=1))

    def prepare(self, truth: torch.Tensor) -> None:
        """Take what the loss needs from the training targets: nothing."""

    def loss(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch's possible transcripts, each divided by its letters, as torch's mean does.

        Args:
            truth: (batch, letter) rows of letters.
            output: (batch, frame, symbol + 1).
        """
        return possible_mean(*_ctc(truth, output))

    def num_impossible(self, truth: torch.Tensor, output: torch.Tensor) -> int:
        """Return how many transcripts have more letters than their clip has frames for; no loss learns from them."""
        return int((~_ctc(truth, output)[1]).sum())

    def kept(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return what the score of the whole set is made of: (batch, 6).

        Columns: loss, whether it is possible, errors of words, words, errors of letters, letters.
        """
        each, is_possible = _ctc(truth, output)
        counts = torch.empty(len(truth), 4, dtype=torch.float64)
        for row, (letters, text) in enumerate(zip(truth.tolist(), decoded_texts(output, self.labels), strict=True)):
            found = word_errors(self.labels.spelt(letters), text)
            counts[row] = torch.tensor([found.errors, found.words, found.letter_errors, found.letters])
        return torch.cat([torch.stack([each, is_possible], dim=1).double().cpu(), counts], dim=1)

    def scores(self, truth: torch.Tensor, kept: torch.Tensor) -> dict[str, float]:
        """Return the scores of a whole set by name; accuracies are 1 - error rate, below 0 with many insertions."""
        each, is_possible, errors, words, letter_errors, letters = kept.unbind(dim=1)
        return {
            "word_accuracy": float(1 - errors.sum() / words.sum()),
            "character_accuracy": float(1 - letter_errors.sum() / letters.sum()),
            "impossible": float((1 - is_possible).sum()),
            "loss": float(possible_mean(each, is_possible.bool())),
        }


def decoded_texts(output: torch.Tensor, alphabet: Alphabet) -> list[str]:
    """Return the transcript of each clip by greedy decoding of (batch, frame, symbol + 1)."""
    best = output[..., :-1].argmax(dim=-1) * output[..., -1].long()  # padding says nothing: 0, the blank
    return [alphabet.text(symbols) for symbols in best.tolist()]


def possible_mean(each: torch.Tensor, is_possible: torch.Tensor) -> torch.Tensor:
    """Return the mean of the losses that are possible, both (batch,); 0 where none is."""
    return torch.where(is_possible, each, 0.0).sum() / is_possible.sum().clamp_min(1)


def _ctc(truth: torch.Tensor, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of each clip and whether its transcript is possible, both (batch,)."""
    num_frames = output[..., -1].sum(dim=1).long()
    rows = [row[(row != PADDING) & (row != UNKNOWN)].long() for row in truth]
    return losses.ctc(rows, output[..., :-1], num_frames)
