"""A model that was trained with dev brings a temperature, and answers by it; runs keep probabilities as they are."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import serein as package
from cli_fixtures import Call, everything_in, write_corpus
from serein import checkpoint as folder
from serein.data import manifest
from serein.evaluation.calibration import fitted_temperature
from serein.evaluation.predictions import EvalPrediction, read_predictions, write_predictions
from serein.evaluation.report import write_report
from serein.experiment.run import withdraw_temperatures
from serein.metrics import tempered


def test_the_temperature_of_dev_is_kept_where_it_helps_and_applied(tiny: Path, tmp_path: Path, serein: Call) -> None:
    everybody = write_corpus(tmp_path / "many", speakers=tuple("abcdefgh"), clips=4)
    manifest.write(everybody, tmp_path / "m.jsonl")
    options = ("--set", "protocol.dev_fraction=0.6", "--set", "stages.0.epochs=1")
    outcome = serein("run", tiny, "--data", tmp_path / "m.jsonl", "--out", tmp_path / "run", "--jobs", 1, *options)
    assert outcome.status == 0
    unit = tmp_path / "run" / "fold-1" / "seed-0"
    classes = folder.load(unit / "model").class_labels.classes
    checkpoint = folder.load(unit / "model")
    dev = read_predictions(unit / "dev_predictions.jsonl")
    found = fitted_temperature(dev, classes)
    assert found is not None
    card = (unit / "model" / "README.md").read_text()
    if checkpoint.calibration is None:
        assert "They are uncalibrated" in card
    else:
        assert checkpoint.calibration.num_utterances == len(dev)
        assert checkpoint.calibration.temperature == pytest.approx(found.temperature)
        assert f"They are calibrated: {found}." in card
    calibration = folder.Calibration(temperature=2.0, fitted_on="nothing", num_utterances=0)
    folder.save(unit / "model", replace(checkpoint, calibration=calibration), card)

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
    assert any(note.startswith("Probabilities are calibrated with the model's temperature") for note in scores["notes"])


def test_temperatures_that_make_the_test_sets_worse_are_withdrawn(tiny_run: Path, tmp_path: Path) -> None:
    """Dev speakers are right as often as they say, if softened; test speakers are always right."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    units = sorted(run.glob("fold-*/seed-0"))
    rng = np.random.default_rng(0)
    for unit in units:
        classes = folder.load(unit / "model").class_labels.classes
        test = read_predictions(unit / "predictions.jsonl")
        sure = [dict.fromkeys(classes, 0.05) | {str(p.truth): 0.9} for p in test]
        write_predictions(
            [replace(p, prediction=str(p.truth), probabilities=s) for p, s in zip(test, sure, strict=True)],
            unit / "predictions.jsonl",
        )
        dev = []
        for number in range(60):
            truth, said = rng.choice(classes, 2)
            probabilities = dict.fromkeys(classes, 0.05) | {str(said): 0.9}
            about = {"truth": str(truth), "prediction": str(said), "fold": test[0].fold, "speaker": "ab"[number % 2]}
            dev.append(EvalPrediction(id=f"dev-{number}", probabilities=probabilities, **about))
        write_predictions(dev, unit / "dev_predictions.jsonl")
        found = fitted_temperature(dev, classes)
        assert found is not None
        assert found.helps
        checkpoint = folder.load(unit / "model")
        fitted = folder.Calibration(temperature=found.temperature, fitted_on="its own dev set", num_utterances=60)
        folder.save(unit / "model", replace(checkpoint, calibration=fitted), "")
    withdraw_temperatures(run)
    for unit in units:
        assert folder.load(unit / "model").calibration is None
        text = " ".join((unit / "model" / "README.md").read_text(encoding="utf-8").split())
        assert "make calibration worse, so none is applied: expected calibration error 10.0 points before" in text
        assert "## Limits" in text
    assert "make calibration worse, so none is applied" in write_report(run).read_text(encoding="utf-8")
    before = everything_in(run)
    withdraw_temperatures(run)
    assert everything_in(run) == before
