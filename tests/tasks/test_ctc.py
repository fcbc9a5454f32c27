"""The task of transcripts: CTC beside torch's, impossible alignments, greedy decoding, scores of whole sets."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from serein.data.manifest import Utterance
from serein.losses import ctc
from serein.recipe import Transcript
from serein.tasks.ctc import Alphabet, CtcTask, decoded_texts

ALPHABET = Alphabet(" abc")


def task() -> CtcTask:
    return CtcTask(Transcript(), ALPHABET)


def truth(*texts: str | None) -> torch.Tensor:
    return torch.from_numpy(ALPHABET.rows(texts))


def output(*num_frames: int, seed: int = 0) -> torch.Tensor:
    """Return random scores, (batch, frame, symbol + 1), real for so many frames of each clip."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(num_frames), max(num_frames), len(ALPHABET.letters) + 1, generator=generator)
    is_frame = torch.arange(max(num_frames))[None] < torch.tensor(num_frames)[:, None]
    return torch.cat([scores, is_frame[..., None].float()], dim=2)


def saying(*texts: list[int]) -> torch.Tensor:
    """Return an output whose best symbols are these."""
    rows = [F.one_hot(torch.tensor(symbols), len(ALPHABET.letters) + 1).float() for symbols in texts]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    is_frame = torch.arange(padded.shape[1])[None] < torch.tensor([len(symbols) for symbols in texts])[:, None]
    return torch.cat([padded * 9, is_frame[..., None].float()], dim=2)


def test_targets_say_who_has_a_transcript() -> None:
    utterances = [Utterance(id=str(i), audio="a.wav", transcript=text) for i, text in enumerate(("A cab", None, "?"))]
    targets = task().targets(utterances)
    assert targets.is_known.tolist() == [True, False, False]
    assert targets.values[0].tolist() == [2, 1, 4, 2, 3]


def test_the_loss_is_torchs_on_valid_rows() -> None:
    """Mean over clips of the loss divided by the letters: torch's own reduction 'mean'."""
    said, heard = truth("a cab", "cc", "b"), output(9, 5, 7)
    lengths = torch.tensor([5, 2, 1])
    flat = torch.tensor([n for row in said.tolist() for n in row if n > 0])
    expected = F.ctc_loss(
        heard[..., :-1].log_softmax(-1).transpose(0, 1), flat, torch.tensor([9, 5, 7]), lengths, reduction="mean"
    )
    assert float(task().loss(said, heard)) == pytest.approx(float(expected), rel=1e-5)


def test_padding_changes_nothing() -> None:
    said, heard = truth("ab"), output(6)
    longer = torch.cat([heard, torch.full((1, 4, heard.shape[2]), 7.0)], dim=1)
    longer[:, 6:, -1] = 0.0
    assert float(task().loss(said, longer)) == pytest.approx(float(task().loss(said, heard)), rel=1e-6)
    assert decoded_texts(longer, ALPHABET) == decoded_texts(heard, ALPHABET)


def test_impossible_transcripts_are_counted_masked_and_never_infinite() -> None:
    """Three letters in two frames; two equal letters, which need a blank between them, in two frames; none at all."""
    said = truth("abc", "aa", None, "ab")
    heard = output(2, 2, 2, 2).requires_grad_()
    loss = task().loss(said, heard)
    alone = task().loss(truth("ab"), heard[3:])
    assert float(loss.detach()) == pytest.approx(float(alone.detach()))
    loss.backward()
    assert heard.grad is not None
    assert torch.isfinite(heard.grad).all()
    assert not heard.grad[:3].any()
    assert heard.grad[3].any()
    assert task().scores(said, task().kept(said, heard.detach()))["impossible"] == 3


def test_a_batch_of_impossible_ones_alone_gives_0() -> None:
    heard = output(1, 1).requires_grad_()
    loss = task().loss(truth("ab", "abc"), heard)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert heard.grad is not None
    assert not heard.grad.any()


def test_letters_that_training_never_had_teach_nothing_and_count_as_errors() -> None:
    said = truth("ab", "axb")
    assert float(ctc([torch.tensor([2, 3])], output(4)[..., :-1], torch.tensor([4]))[0]) == pytest.approx(
        float(task().loss(said[1:], output(4)))
    )
    heard = saying([2, 3], [2, 3])
    assert task().scores(said, task().kept(said, heard))["word_accuracy"] == 0.5


def test_scores_are_those_of_the_whole_set() -> None:
    """4 words, 1 of them wrong and 2 inserted; 5 letters, 1 of them wrong and 4 inserted."""
    said = truth("a b", "c", "c")
    heard = saying([2, 1, 4], [4], [4, 1, 2, 1, 3])
    scores = task().scores(said, torch.cat([task().kept(said[:2], heard[:2]), task().kept(said[2:], heard[2:])]))
    assert scores["word_accuracy"] == pytest.approx(1 - 3 / 4)
    assert scores["character_accuracy"] == pytest.approx(1 - 5 / 5)
    assert scores["impossible"] == 0
    assert scores["loss"] == pytest.approx(float(task().loss(said, heard)), rel=1e-5)
