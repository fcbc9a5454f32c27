"""A model adapted to recordings without labels: a bias per class, and a folder like any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import serein as package
from cli_fixtures import Call, write_speech
from serein import checkpoint
from serein.data import manifest
from serein.errors import AudioError, ModelError, RecipeError
from serein.metrics import class_bias, class_priors
from serein.models.blocks import CosineClassifier

RNG = np.random.default_rng(0)
LENGTHS = ((12.0, 140.0), (1.0, 210.0), (1.0, 300.0))


def moved(probabilities: np.ndarray, bias: np.ndarray) -> np.ndarray:
    weights = probabilities * np.exp(bias)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Path:
    return tiny_run / "fold-1" / "seed-0" / "model"


# -- the formula -------------------------------------------------------------------------------------------------------


def test_mean_probabilities_approach_the_priors_with_the_number_of_clips() -> None:
    some = RNG.dirichlet([0.3, 1.0, 2.0], size=50)
    priors = np.array([0.5, 0.3, 0.2])
    distances = [
        np.abs(moved(some, class_bias(np.tile(some, (times, 1)), priors)).mean(axis=0) - priors).max()
        for times in (1, 10, 1000)
    ]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-4
    assert class_bias(np.tile(some, (1000, 1)), priors).sum() == pytest.approx(0.0, abs=1e-3)


def test_a_bias_of_labelled_clips_is_the_most_likely_one() -> None:
    """Labels count by class alone: the penalised likelihood of these very labels falls to either side."""
    probabilities, labels = RNG.dirichlet([1.0, 1.0, 1.0], size=40), RNG.integers(0, 3, size=40)
    bias = class_bias(probabilities, np.bincount(labels, minlength=3) / 40)

    def loss(own: np.ndarray) -> float:
        likely = moved(probabilities, own)[np.arange(40), labels]
        return float(0.3 * (own**2).sum() - np.log(likely).sum())

    for step in np.vstack([np.eye(3), -np.eye(3)]) * 0.05:
        assert loss(bias + step) > loss(bias)


def test_where_the_model_is_right_nothing_moves_and_a_class_with_a_prior_of_0_vanishes() -> None:
    even = np.tile([0.5, 0.5], (400, 1))
    np.testing.assert_allclose(class_bias(even, np.array([0.5, 0.5])), 0.0, atol=1e-6)
    certain = np.tile([1.0 - 2e-6, 1e-6, 1e-6], (5, 1))
    after = moved(certain, class_bias(certain, np.array([0.0, 0.5, 0.5])))
    assert after[:, 0].max() < 1e-6


def test_classes_that_are_not_named_divide_the_rest() -> None:
    classes = ("angry", "happy", "sad")
    assert class_priors(classes, {}).tolist() == pytest.approx([1 / 3] * 3)
    assert class_priors(classes, {"sad": 0.7, "angry": 0.0}).tolist() == pytest.approx([0.0, 0.3, 0.7])
    assert class_priors(classes, {"angry": 1 / 3, "happy": 1 / 3, "sad": 1 / 3}).sum() == pytest.approx(1.0)
    for priors, said in (
        ({"glad": 0.5}, "'glad'"),
        ({"sad": 1.5}, "1.5"),
        ({"sad": -0.1}, "-0.1"),
        ({"sad": float("nan")}, "nan"),
        ({"sad": 0.7, "angry": 0.7}, "1.4"),
        ({"sad": 0.1, "angry": 0.1, "happy": 0.1}, "0.3"),
        ({"sad": 0.7, "angry": 0.3}, "nothing remains for happy"),
    ):
        with pytest.raises(RecipeError, match=said):
            class_priors(classes, priors)


# -- the new folder ----------------------------------------------------------------------------------------------------


def test_an_adapted_model_predicts_as_the_formula_says(model: Path, tones: Path, tmp_path: Path) -> None:
    original, utterances = package.load(model), manifest.read(tones)
    priors = {"sad": 0.6}
    found = package.adapt(utterances, tmp_path / "adapted", model=original, priors=priors)
    assert (found.num_recordings, found.num_segments) == (len(utterances), len(utterances))
    assert found.priors == pytest.approx({"angry": 0.2, "happy": 0.2, "sad": 0.6})
    adapted = package.load(tmp_path / "adapted")
    before, after = (
        np.array([list(each.probabilities.values()) for each in loaded.predict(utterances)])
        for loaded in (original, adapted)
    )
    expected = moved(before, class_bias(before, np.array([0.2, 0.2, 0.6])))
    np.testing.assert_allclose(after, expected, atol=1e-5)
    assert after[:, 2].mean() > before[:, 2].mean()
    package.adapt(utterances, tmp_path / "adapted", model=tmp_path / "adapted")  # in place, a second time
    assert len(checkpoint.load(tmp_path / "adapted").training["adaptations"]) == 2
    assert (tmp_path / "adapted" / "README.md").read_text().count("## Adapted") == 2
    again = np.array([list(each.probabilities.values()) for each in original.predict(utterances)])
    np.testing.assert_array_equal(again, before)  # the loaded model is as it was
    said = checkpoint.load(tmp_path / "adapted").training["adaptations"][0]
    assert said == {"method": "bias", "num_segments": len(utterances), "priors": found.priors, "bias": found.bias}


def test_the_temperature_and_every_member_count(model: Path, tones: Path, tmp_path: Path) -> None:
    loaded, utterances = checkpoint.load(model), manifest.read(tones)
    loaded.calibration = checkpoint.Calibration(temperature=2.0, fitted_on="nothing", num_utterances=1)
    checkpoint.save(tmp_path / "warm", loaded, "")
    package.adapt(utterances, tmp_path / "adapted", model=tmp_path / "warm")
    before, after = (
        np.array([list(each.probabilities.values()) for each in package.load(path).predict(utterances)])
        for path in (tmp_path / "warm", tmp_path / "adapted")
    )
    np.testing.assert_allclose(after, moved(before, class_bias(before, np.full(3, 1 / 3))), atol=1e-5)


def test_members_of_an_ensemble_reach_the_priors_together(tones: Path, tmp_path: Path) -> None:
    """Their mean is not shifted by as much as they are, so several passes find the bias."""
    utterances = manifest.read(tones) * 10  # against the penalty
    found = package.adapt(utterances, tmp_path / "small", model="small")
    assert max(abs(each - 1 / 7) for each in found.before.values()) > 0.05
    after = [list(each.probabilities.values()) for each in package.load(tmp_path / "small").predict(utterances[:36])]
    np.testing.assert_allclose(np.mean(after, axis=0), 1 / 7, atol=0.01)


def test_a_long_segment_counts_by_its_length(model: Path, tmp_path: Path) -> None:
    """One recording of twelve seconds and two of one: however its windows are joined, they outweigh the two."""
    paths = [write_speech(tmp_path / f"{n}.wav", seconds, pitch, n) for n, (seconds, pitch) in enumerate(LENGTHS)]
    found = package.adapt(paths, tmp_path / "adapted", model=model)
    predicted = package.load(model).predict(paths)
    segments = [segment for each in predicted for segment in each.segments]
    weights = [max(1.0, segment.duration_s / 3.0) for segment in segments]
    rows = np.array([list(segment.probabilities.values()) for segment in segments])
    assert max(weights) > 3.0
    assert list(found.before.values()) == pytest.approx(np.average(rows, axis=0, weights=weights), abs=1e-3)
    assert found.num_segments == len(segments)
    assert package.adapt(paths[0], tmp_path / "one", model=model).num_recordings == 1  # a path by itself


def test_the_command_adapts_and_skips_what_it_cannot_read(
    model: Path, tones: Path, tmp_path: Path, serein: Call
) -> None:
    out = tmp_path / "adapted"
    call = ("adapt", tones, "--model", model, "--prior", "sad=0", "--prior", "angry=0.7", "--out", out)
    outcome = serein(*call)
    assert outcome.status == 0, outcome.err
    assert "0.700" in outcome.out
    assert "36 segments of 36 recordings" in outcome.out
    card = (out / "README.md").read_text()
    assert card.startswith((model / "README.md").read_text())
    assert "| sad | " in card
    predicted = [json.loads(line) for line in serein("predict", tones, "--model", out, "--json").out.splitlines()]
    assert {each["label"] for each in predicted} <= {"angry", "happy"}
    assert json.loads(serein(*call, "--json").out)["priors"] == pytest.approx({"angry": 0.7, "happy": 0.3, "sad": 0.0})
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    outcome = serein("adapt", tones, broken, "--model", model, "--out", tmp_path / "other")
    assert outcome.status == 1
    assert "broken.wav" in outcome.err
    assert checkpoint.is_model_folder(tmp_path / "other")


def test_what_cannot_be_adapted_is_said_and_nothing_is_written(
    model: Path, tones: Path, tmp_path: Path, serein: Call
) -> None:
    out, silence = tmp_path / "out", tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(32_000, np.float32), 16_000)
    for arguments, said in (
        ((silence,), "no speech was found"),
        ((model / "model.json",), "model.json"),
        ((tones, "--prior", "sad"), "is not CLASS=PROBABILITY"),
        ((tones, "--prior", "glad=0.1"), "'glad'"),
    ):
        outcome = serein("adapt", *arguments, "--model", model, "--out", out)
        assert outcome.status != 0
        assert said in outcome.err
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    assert "is not a model folder" in serein("adapt", tones, "--model", model, "--out", taken).complaint
    with pytest.raises(AudioError):
        package.adapt([tmp_path / "absent.wav"], out, model=model)
    cosine = checkpoint.load(model)
    cosine.model.ensemble[0].heads["emotion"].output = CosineClassifier(8, 3)
    with pytest.raises(ModelError, match="has no bias for each class"):
        package.adapt(manifest.read(tones), out, model=package.Predictor(cosine))
    package.export(model, tmp_path / "model.onnx")
    exported = package.load(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="an exported file cannot be adapted"):
        package.adapt(manifest.read(tones), out, model=exported)
    assert not out.exists()
