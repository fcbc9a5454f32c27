"""Datastores of a corpus's own clips: whose clips they hold, what is tuned, and the program."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.adaptation import EmbeddedCorpus, drawn_clips, predict_with_datastores, tuned_in

from cli_fixtures import Call
from serein.data import manifest
from serein.data.manifest import Utterance
from serein.evaluation.scores import score_predictions
from serein.knn.datastore import Embeddings

CLASSES = ("calm", "sad")
NUM_SPEAKERS, NUM_CLIPS = 6, 8


def corpus_of(*, is_parted: bool) -> EmbeddedCorpus:
    """Return 6 speakers of 8 clips. The model always predicts calm; embeddings part the classes, or speakers alone."""
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
    corpus = corpus_of(is_parted=True)
    for held_out in corpus.clips_of.values():
        rows = drawn_clips(corpus, held_out, size, draw)
        assert len(set(rows.tolist())) == size
        assert not set(rows.tolist()) & set(held_out.tolist())
        counts = np.bincount(corpus.embeddings.labels[rows], minlength=2)
        assert abs(int(counts[0]) - int(counts[1])) <= 1
        assert drawn_clips(corpus, held_out, 40, draw)[:size].tolist() == rows.tolist()


def test_another_draw_is_another_datastore() -> None:
    corpus = corpus_of(is_parted=True)
    held_out = corpus.clips_of[0]
    assert drawn_clips(corpus, held_out, 8, 0).tolist() != drawn_clips(corpus, held_out, 8, 1).tolist()


def test_neighbours_that_know_are_followed() -> None:
    """The model alone has 50 %; where embeddings part the classes, the weight tuned in the datastore finds them."""
    corpus = corpus_of(is_parted=True)
    predictions = predict_with_datastores(corpus, 20, 2)
    assert len(predictions["tuned"]) == 2 * NUM_SPEAKERS * NUM_CLIPS
    assert score_predictions(predictions["tuned"], CLASSES).pooled["ua"] == 100.0
    assert (
        score_predictions(predictions["fixed"], CLASSES).pooled["ua"] == 100.0
    )  # 0.3 + 0.7 * 0.4 is more than 0.7 * 0.6


def test_the_speaker_is_not_mistaken_for_the_emotion() -> None:
    """Where clips lie by their speaker alone, and a speaker feels one thing, others' clips give nothing away."""
    corpus = corpus_of(is_parted=False)
    labels = corpus.embeddings.keys[:, 0] % 2  # every speaker of one class only
    corpus = EmbeddedCorpus(
        corpus.utterances,
        CLASSES,
        Embeddings(corpus.embeddings.vectors, labels, corpus.embeddings.keys),
        corpus.probabilities,
        (),
    )
    rows = np.arange(len(labels))
    k, knn_weight = tuned_in(corpus, rows)["tuned"]
    probabilities_of_own = corpus.embeddings.nearest(corpus.embeddings.vectors, 3).labels == labels[:, None]
    assert probabilities_of_own.all()  # with their own clips they would be right every time
    assert knn_weight < 0.5
    assert k >= 1


def test_a_store_of_one_speaker_takes_what_was_fixed() -> None:
    corpus = corpus_of(is_parted=True)
    weights = tuned_in(corpus, corpus.clips_of[0][:5])
    assert weights == {"fixed": (5, 0.3), "tuned": (5, 0.3)}


def test_a_bias_corrects_what_is_said_too_often() -> None:
    """The model says calm twice as often as it should, and clips without labels show that as well as others do."""
    corpus = corpus_of(is_parted=False)
    predictions = predict_with_datastores(corpus, 40, 1)
    for tuning in ("bias", "unlabelled"):
        calm = [each.probabilities["calm"] for each in predictions[tuning]]
        assert 0.5 < max(calm) < 0.55


def test_the_program_writes_figures_and_a_picture(
    tiny_run: Path, tones: Path, tmp_path: Path, run_benchmark: Call
) -> None:
    model = next(tiny_run.glob("fold-*/seed-*/model"))
    out = tmp_path / "adapted"
    call = ("--model", model, "--data", tones, "--out", out, "--sizes", 12, 3, "--draws", 2)
    outcome = run_benchmark("adaptation", *call)
    assert outcome.status == 0, outcome.err
    content = json.loads((out / "adaptation.json").read_text())
    assert [(each["size"], each["tuning"]) for each in content["datastores"]] == [
        (size, tuning) for size in (3, 12) for tuning in ("fixed", "tuned", "bias", "unlabelled")
    ]
    for each in content["datastores"]:
        gain = each["scores"]["pooled"]["ua"] - content["model"]["pooled"]["ua"]
        assert each["difference"] == pytest.approx(gain)
    assert any("SPEAKER-DEPENDENT" in note for note in content["notes"])
    assert (out / "adaptation.png").read_bytes().startswith(b"\x89PNG")
    assert "UA in per cent, pooled over speakers and 2 draws" in outcome.out
    assert json.loads(run_benchmark("adaptation", *call, "--json").out) == content


@pytest.mark.slow
def test_a_recipe_trains_on_from_the_model(
    tiny_run: Path, tiny: Path, tones: Path, tmp_path: Path, run_benchmark: Call
) -> None:
    """With a rate of 0 nothing moves: as the model alone."""
    model = next(tiny_run.glob("fold-*/seed-*/model"))
    still = tmp_path / "still.yaml"
    still.write_text(f"base: {tiny}\nset: {{protocol.dev: none, stages.0.optimizer.learning_rate: 1.0e-12}}\n")
    call = ("--model", model, "--data", tones, "--sizes", 12, "--draws", 1, "--recipe-draws", 1, "--json")
    gains = {}
    for name, recipe in {"still": still, "moved": tiny}.items():
        outcome = run_benchmark("adaptation", *call, "--out", tmp_path / name, "--recipe", recipe)
        assert outcome.status == 0, outcome.err
        gains[name] = json.loads(outcome.out)["datastores"][-1]
        assert gains[name]["tuning"] == "trained"
    assert gains["still"]["difference"] == 0.0
    assert gains["moved"]["difference"] != 0.0


def test_what_cannot_be_drawn_is_said(tiny_run: Path, tones: Path, tmp_path: Path, run_benchmark: Call) -> None:
    model = next(tiny_run.glob("fold-*/seed-*/model"))
    call = ("--model", model, "--out", tmp_path / "o", "--data")
    assert "30 clips are left for a datastore of 256" in run_benchmark("adaptation", *call, tones).complaint
    nameless = tmp_path / "m.jsonl"
    manifest.write((u.model_copy(update={"speaker": None}) for u in manifest.read(tones)), nameless)
    assert "have no speaker" in run_benchmark("adaptation", *call, nameless).complaint
    assert not (tmp_path / "o").exists()
