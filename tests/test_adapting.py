"""What stores of a corpus' own clips bring a model: who is in them, what is chosen, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cli_fixtures import Call
from serein.adapting import EmbeddedCorpus, drawn_clips, predict_with_datastores, tuned_in
from serein.data import manifest
from serein.data.utterance import Utterance
from serein.evaluation.scores import score_predictions
from serein.inference.neighbours import Embeddings

CLASSES = ("calm", "sad")
NUM_SPEAKERS, NUM_CLIPS = 6, 8


def corpus(*, is_parted: bool) -> EmbeddedCorpus:
    """Return 6 speakers of 8 clips. The model always says calm; embeddings part the classes, or speakers alone."""
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(NUM_SPEAKERS), NUM_CLIPS)
    labels = np.tile(np.arange(NUM_CLIPS) % 2, NUM_SPEAKERS)
    centres = labels if is_parted else speakers
    vectors = (10.0 * centres[:, None] + rng.normal(size=(len(labels), 4))).astype(np.float32)
    names = [f"s{speaker}" for speaker in speakers]
    clips = tuple(Utterance(id=str(n), audio="a.wav", speaker=name) for n, name in enumerate(names))
    probabilities = np.tile([0.6, 0.4], (len(labels), 1))
    keys = np.stack([speakers, speakers], axis=1)
    return EmbeddedCorpus(clips, CLASSES, Embeddings(vectors, labels, keys), probabilities, ())


@pytest.mark.parametrize("draw", range(3))
@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_a_store_holds_other_speakers_and_all_classes_alike(size: int, draw: int) -> None:
    corpus = corpus(is_parted=True)
    for asked in corpus.clips_of.values():
        rows = drawn_clips(corpus, asked, size, draw)
        assert len(set(rows.tolist())) == size
        assert not set(rows.tolist()) & set(asked.tolist())
        counts = np.bincount(corpus.embeddings.labels[rows], minlength=2)
        assert abs(int(counts[0]) - int(counts[1])) <= 1
        assert drawn_clips(corpus, asked, 40, draw)[:size].tolist() == rows.tolist()


def test_another_draw_is_another_store() -> None:
    corpus = corpus(is_parted=True)
    asked = corpus.clips_of[0]
    assert drawn_clips(corpus, asked, 8, 0).tolist() != drawn_clips(corpus, asked, 8, 1).tolist()


def test_neighbours_that_know_are_listened_to() -> None:
    """The model alone has 50 %; where embeddings part the classes, the weight chosen inside the store finds them."""
    corpus = corpus(is_parted=True)
    said = predict_with_datastores(corpus, 20, 2)
    assert len(said["chosen"]) == 2 * NUM_SPEAKERS * NUM_CLIPS
    assert score_predictions(said["chosen"], CLASSES).pooled["ua"] == 100.0
    assert score_predictions(said["fixed"], CLASSES).pooled["ua"] == 100.0  # 0.3 + 0.7 * 0.4 is more than 0.7 * 0.6


def test_the_speaker_is_not_mistaken_for_the_emotion() -> None:
    """Where clips lie by their speaker alone, and a speaker feels one thing, others' clips give nothing away."""
    corpus = corpus(is_parted=False)
    labels = corpus.embeddings.keys[:, 0] % 2  # every speaker of one class only
    corpus = EmbeddedCorpus(
        corpus.utterances,
        CLASSES,
        Embeddings(corpus.embeddings.vectors, labels, corpus.embeddings.keys),
        corpus.probabilities,
        (),
    )
    rows = np.arange(len(labels))
    k, knn_weight = tuned_in(corpus, rows)["chosen"]
    probabilities_of_own = corpus.embeddings.nearest(corpus.embeddings.vectors, 3).labels == labels[:, None]
    assert probabilities_of_own.all()  # with their own clips they would be right every time
    assert knn_weight < 0.5
    assert k >= 1


def test_a_store_of_one_speaker_takes_what_was_fixed() -> None:
    corpus = corpus(is_parted=True)
    weights = tuned_in(corpus, corpus.clips_of[0][:5])
    assert weights == {"fixed": (5, 0.3), "chosen": (5, 0.3)}


def test_the_command_writes_figures_and_a_picture(tiny_run: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    model = next(tiny_run.glob("fold-*/seed-*/model"))
    out = tmp_path / "adapted"
    call = ("knn", "adapt", "--model", model, "--data", tones, "-o", out, "--sizes", "12,3", "--draws", 2)
    outcome = serein(*call)
    assert outcome.status == 0, outcome.err
    content = json.loads((out / "adaptation.json").read_text())
    assert [(each["size"], each["way"]) for each in content["stores"]] == [
        (size, way) for size in (3, 12) for way in ("fixed", "chosen")
    ]
    for each in content["stores"]:
        gain = each["scores"]["pooled"]["ua"] - content["model"]["pooled"]["ua"]
        assert each["difference"] == pytest.approx(gain)
    assert any("SPEAKER-DEPENDENT" in note for note in content["notes"])
    assert (out / "adaptation.png").read_bytes().startswith(b"\x89PNG")
    assert "UA in per cent, pooled over speakers and 2 draws" in outcome.out
    assert json.loads(serein(*call, "--json").out) == content


def test_what_cannot_be_drawn_is_said(tiny_run: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    model = next(tiny_run.glob("fold-*/seed-*/model"))
    call = ("knn", "adapt", "--model", model, "-o", tmp_path / "o", "--data")
    assert "30 clips are left for a store of 256" in serein(*call, tones).complaint
    nameless = tmp_path / "m.jsonl"
    manifest.write((u.model_copy(update={"speaker": None}) for u in manifest.read(tones)), nameless)
    assert "have no speaker" in serein(*call, nameless).complaint
    outcome = serein(*call, tones, "--sizes", "few")
    assert (outcome.status, "is no list of numbers" in outcome.err) == (2, True)
    assert not (tmp_path / "o").exists()
