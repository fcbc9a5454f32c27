"""A model that was trained with dev brings a temperature, and answers by it; runs keep probabilities as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import serein as package
from cli_fixtures import Call, write_corpus
from serein import checkpoint as folder
from serein.data import manifest
from serein.evaluation.calibration import fitted_temperature
from serein.evaluation.predictions import read_predictions
from serein.metrics import tempered


def test_the_temperature_of_dev_is_kept_and_applied(tiny: Path, tmp_path: Path, serein: Call) -> None:
    everybody = write_corpus(tmp_path / "many", speakers=tuple("abcdefgh"), clips=4)
    manifest.write(everybody, tmp_path / "m.jsonl")
    options = ("--set", "protocol.dev_fraction=0.6", "--set", "stages.0.epochs=1")
    outcome = serein("run", tiny, "--data", tmp_path / "m.jsonl", "--out", tmp_path / "run", "--jobs", 1, *options)
    assert outcome.status == 0
    unit = tmp_path / "run" / "fold-1" / "seed-0"
    classes = folder.load(unit / "model").class_labels.classes
    calibration = folder.load(unit / "model").calibration
    dev = read_predictions(unit / "dev_predictions.jsonl")
    assert calibration is not None
    assert calibration.num_utterances == len(dev)
    assert calibration.temperature == pytest.approx(fitted_temperature(dev, classes))

    stored = read_predictions(unit / "predictions.jsonl")
    model = package.load(unit / "model")
    by_id = {utterance.id: utterance for utterance in everybody}
    for prediction in stored[:3]:
        answer = model.predict(by_id[prediction.id])
        assert isinstance(answer, package.Prediction)
        assert prediction.probabilities is not None
        raw = [prediction.probabilities[name] for name in classes]
        expected = tempered([raw], calibration.temperature)[0]
        assert [answer.probabilities[name] for name in classes] == pytest.approx(expected, abs=1e-4)
        plain = model.uncalibrated().predict(by_id[prediction.id])
        assert isinstance(plain, package.Prediction)
        assert [plain.probabilities[name] for name in classes] == pytest.approx(raw, abs=1e-4)

    strangers = tmp_path / "strangers.jsonl"
    manifest.write(write_corpus(tmp_path / "strangers", speakers=("yan", "zoe")), strangers)
    scores = json.loads(serein("evaluate", "--model", unit / "model", "--data", strangers, "--json").out)
    assert scores["calibration"]["fitted_on"] == "model"
    assert any(note.startswith("Probabilities are calibrated by the model's temperature") for note in scores["notes"])
