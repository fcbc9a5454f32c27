"""Dimensions and raters from a manifest to predictions, scores, pictures and a comparison of two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import serein as public
from cli_fixtures import RATE_HZ, Call, write_recipe, write_speech
from serein.data import manifest
from serein.data.manifest import Rating
from serein.ensemble.predictor import Ensemble, EnsembleModel, FittedOn, write_ensemble
from serein.evaluation.predictions import read_run_predictions
from serein.inference.writers import textgrid
from serein.metrics import concordance

SCALE = {"angry": (7.0, 1.0), "happy": (5.5, 6.0), "sad": (2.0, 2.5)}  # arousal and valence, 1 to 7
STAGE = {"epochs": 12, "optimizer": {"name": "adamw", "learning_rate": 0.05}}


@pytest.fixture(scope="module")
def data(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tones as MSP-Podcast would rate them; the last clip of each speaker and emotion is disputed."""
    path, rated = tmp_path_factory.mktemp("rated") / "manifest.jsonl", []
    for utterance in manifest.read(tones):
        emotion = utterance.emotion or ""
        arousal, valence = SCALE[emotion]
        is_disputed = utterance.id.endswith("-1") and emotion == "sad"
        labels = ["sad", "angry"] if is_disputed else [emotion, emotion, "happy"]
        ratings = tuple(Rating(labels=(label,), rater=f"r{i}") for i, label in enumerate(labels))
        changes = {"arousal": arousal, "valence": None if is_disputed else valence, "ratings": ratings}
        changes |= {"corpus": "msp-podcast", "emotion": None if is_disputed else emotion}
        rated.append(utterance.model_copy(update=changes))
    manifest.write(rated, path)
    return path


def run_of(folder: Path, data: Path, **changes: Any) -> Path:
    return public.run(write_recipe(folder / "r.yaml", changes, STAGE), data, folder / "run", num_jobs=1)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Emotions as distributions, and two dimensions beside them."""
    labels = {"target": "distribution", "unlabelled": "keep", "rater_dropout": 0.3}
    tasks = {"emotion": {"pooling": "mean"}, "dimensions": {"names": ["arousal", "valence"], "pooling": "mean"}}
    return run_of(tmp_path_factory.mktemp("both"), data, labels=labels, tasks=tasks)


@pytest.fixture(scope="module")
def single(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One dimension by itself."""
    tasks = {"emotion": None, "arousal": {"pooling": "mean", "loss": "mse"}}
    return run_of(tmp_path_factory.mktemp("single"), data, tasks=tasks)


def test_scores_of_distributions_and_dimensions(run: Path, serein: Call) -> None:
    scores = json.loads(serein("report", run, "--json").out)
    own = scores["tasks"]["dimensions"]
    predictions = read_run_predictions(run, kind="dimensions")
    rows = [(p.true_values[0], p.values[0]) for p in predictions]
    assert own["others"]["ccc arousal"] == pytest.approx(concordance(*zip(*rows, strict=True)))
    assert (own["name"], own["scale"]) == ("ccc", "0 to 1 (1 to 7 in msp-podcast)")
    assert own["value"] == pytest.approx((own["others"]["ccc arousal"] + own["others"]["ccc valence"]) / 2)
    assert own["intervals"]["pearson"][0] <= own["others"]["pearson"] <= own["intervals"]["pearson"][1]
    emotions = read_run_predictions(run)
    assert {p.truth for p in emotions} == {"angry", "happy", "sad", None}
    assert {len(p.ratings or ()) for p in emotions} == {2, 3}
    distribution = scores["distribution"]
    assert distribution["js"]["value"] < 0.6
    assert distribution["agreement_rater"]["value"] == pytest.approx(scores_by_hand(emotions))
    page = (run / "report.html").read_text()
    assert "1 to 7 in msp-podcast" in page
    assert "Jensen-Shannon" in page


def scores_by_hand(predictions: Any) -> float:
    """Return how often two raters of an utterance agree, mean over utterances."""
    shares = []
    for prediction in predictions:
        labels = [labels[0] for labels in prediction.ratings]
        pairs = [a == b for i, a in enumerate(labels) for j, b in enumerate(labels) if i != j]
        shares.append(np.mean(pairs))
    return float(np.mean(shares))


def test_predictions_in_every_format(run: Path, data: Path, tmp_path: Path, serein: Call) -> None:
    model = public.load(run / "fold-1" / "seed-0" / "model")
    recording = write_speech(tmp_path / "call.wav", seconds=9.0)
    prediction = model.predict(recording)
    assert list(prediction.dimensions) == ["arousal", "valence"]
    assert prediction.dimensions == prediction.tasks["dimensions"].dimensions
    assert all(0.0 <= number <= 1.0 for number in prediction.dimensions.values())
    assert all(segment.dimensions.keys() == prediction.dimensions.keys() for segment in prediction.segments)
    assert len(prediction.curve) > 1
    lengths = [moment.end_s - moment.start_s for moment in prediction.curve]
    said = json.loads(serein("predict", "--model", model.checkpoint.folder, recording, "--json").out)
    assert said["dimensions"] == pytest.approx(prediction.dimensions, abs=1e-5)
    assert [moment["arousal"] for moment in said["curve"]] == pytest.approx(
        [moment.dimensions["arousal"] for moment in prediction.curve], abs=1e-5
    )
    assert sum(lengths) <= prediction.duration_s + 1e-6
    header, *rows = serein("predict", "--model", model.checkpoint.folder, recording, "--csv").out.splitlines()
    assert header.endswith(",arousal,valence")
    assert len(rows) == len(prediction.segments)
    grid = textgrid(prediction)
    assert 'name = "arousal"' in grid
    assert "size = 4" in grid
    assert "arousal " in serein("predict", "--model", model.checkpoint.folder, recording, "--format", "audacity").out
    assert "arousal " in serein("predict", "--model", model.checkpoint.folder, recording).out
    assert serein("predict", "--model", model.checkpoint.folder, recording, "--plot", tmp_path / "p.svg").status == 0
    assert "valence" in (tmp_path / "p.svg").read_text()
    if pytest.importorskip("pandas"):
        assert {"arousal", "valence"} <= set(prediction.to_frame().columns)


def test_numbers_have_no_confidence(single: Path, tmp_path: Path, serein: Call) -> None:
    recording = write_speech(tmp_path / "call.wav", seconds=2.0)
    model = single / "fold-1" / "seed-0" / "model"
    refused = serein("predict", "--model", model, recording, "--min-confidence", 0.5)
    assert (refused.status, refused.out, "confidence" in refused.err) == (2, "", True)


def test_an_ensemble_predicts_only_the_emotion(run: Path, tmp_path: Path, serein: Call) -> None:
    folder = run / "fold-1" / "seed-0" / "model"
    recording, classes = tmp_path / "call.wav", public.load(folder).classes
    speech, _ = soundfile.read(write_speech(recording, seconds=4.0))
    soundfile.write(recording, np.concatenate([speech, np.zeros(2 * RATE_HZ), speech]), RATE_HZ)  # two segments
    ensemble = Ensemble(
        format=1,
        classes=classes,
        method="mean",
        models=(EnsembleModel(path=str(folder), label="a", folders=(".",)),),
        weights=((1.0,) * len(classes),),
        fitted_on=FittedOn(split="dev", num_utterances=0, seen=()),
        scores=({"label": "a", "macro_f1": 50.0},),
    )
    write_ensemble(ensemble, tmp_path / "e.json")
    outcome = serein("predict", recording, "--ensemble", tmp_path / "e.json")
    assert outcome.status == 0, outcome.err
    assert outcome.out.split("from")[1].split()[:5] == ["to", "prediction", *classes]
    assert "arousal" not in outcome.out


def test_a_stream_has_them_too(run: Path) -> None:
    from speech_sounds import voiced

    stream = public.load(run / "fold-1" / "seed-0" / "model").stream()
    segments = stream.feed(voiced(9.0, np.random.default_rng(0), 140.0)) + stream.finish()
    assert segments
    assert all(segment.dimensions.keys() == {"arousal", "valence"} for segment in segments)
    assert stream.prediction_of(segments[0]).to_dict()["dimensions"].keys() == {"arousal", "valence"}


def test_a_number_alone(single: Path, data: Path, serein: Call) -> None:
    scores = json.loads(serein("report", single, "--json").out)["tasks"]["arousal"]
    assert (scores["name"], set(scores["others"])) == ("ccc", {"pearson", "mae", "rmse"})
    model = single / "fold-1" / "seed-0" / "model"
    card = (model / "README.md").read_text()
    assert "predicts arousal as numbers from 0 to 1 (1 to 7 in msp-podcast)." in card
    assert "Concordance correlation coefficient on its dev speakers" in card
    assert " %" not in card.partition("## Scores")[2].partition("##")[0]
    evaluated = json.loads(serein("evaluate", "--model", model, "--data", data, "--allow-seen-speakers", "--json").out)
    assert evaluated["tasks"]["arousal"]["interval"] is not None
    assert any("SPEAKER-DEPENDENT" in note for note in evaluated["tasks"]["arousal"]["notes"])
    page = (single / "report.html").read_text()
    assert "dev CCC" in page
    prediction = public.load(model).predict(manifest.read(data)[0])
    assert prediction.dimensions == {"arousal": prediction.value}


def test_evaluation_shows_all_tasks_and_raters(run: Path, data: Path, serein: Call) -> None:
    model = run / "fold-1" / "seed-0" / "model"
    found = json.loads(serein("evaluate", "--model", model, "--data", data, "--allow-seen-speakers", "--json").out)
    assert {"js", "brier", "cross_entropy", "entropy_correlation", "one_more_rater"} <= found["distribution"].keys()
    assert found["tasks"]["dimensions"]["name"] == "ccc"
    shown = serein("evaluate", "--model", model, "--data", data, "--allow-seen-speakers").out
    assert "held-out rater" in shown
    assert "ccc valence" in shown


def test_an_evaluation_says_which_scale_ratings_are_on(
    run: Path, single: Path, data: Path, tmp_path: Path, serein: Call
) -> None:
    both, alone = (folder / "fold-1" / "seed-0" / "model" for folder in (run, single))
    utterances = [each.model_copy(update={"corpus": "mine"}) for each in manifest.read(data)]
    manifest.write(utterances, tmp_path / "mine.jsonl")
    shown = " ".join(serein("evaluate", "--model", both, "--data", tmp_path / "mine.jsonl").out.split())
    assert "numbers of dimensions are on a scale of 0 to 1 (1 to 7 in mine, assumed as in msp-podcast)." in shown
    fractions = [each.model_copy(update={"arousal": ((each.arousal or 1.0) - 1) / 6}) for each in utterances]
    manifest.write(fractions, tmp_path / "fractions.jsonl")
    found = json.loads(serein("evaluate", "--model", both, "--data", tmp_path / "fractions.jsonl", "--json").out)
    assert "tasks" not in found
    (note,) = (note for note in found["notes"] if "'dimensions' is not scored" in note)
    assert "ratings of 'mine' range from 0.166667 to 6, the scale from 1 to 7. Convert" in note
    outcome = serein("evaluate", "--model", alone, "--data", tmp_path / "fractions.jsonl")
    assert (outcome.status, outcome.out) == (1, "")
    assert "arousal: ratings of 'mine' range from 0.166667 to 1, the scale from 1 to 7" in outcome.complaint


def test_two_runs_are_compared_on_the_same_draws(run: Path, data: Path, tmp_path: Path, serein: Call) -> None:
    labels = {"target": "distribution", "unlabelled": "keep", "raters": "each"}
    tasks = {"emotion": {"pooling": "mean"}, "dimensions": {"names": ["arousal", "valence"], "loss": "mse"}}
    other = run_of(tmp_path, data, labels=labels, tasks=tasks)
    found = json.loads(serein("report", run, "--against", other, "--json").out)
    assert {"ua", "js", "one_more_rater"} <= found["emotion"].keys()
    ccc = found["dimensions"]["ccc"]
    assert ccc["difference"] == pytest.approx(ccc["a"] - ccc["b"])
    assert ccc["interval"][0] <= ccc["difference"] <= ccc["interval"][1]
    same = json.loads(serein("report", run, "--against", run, "--json").out)
    assert {each["difference"] for each in same["dimensions"].values()} == {0.0}
    assert "better in" in serein("report", run, "--against", other).out
