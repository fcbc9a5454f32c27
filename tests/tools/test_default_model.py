"""The default model is made whole: trained, calibrated on unseen speakers, evaluated elsewhere, with its card."""

from __future__ import annotations

from pathlib import Path

import pytest

import serein
from cli_fixtures import write_corpus
from serein import checkpoint as folder
from serein.data import manifest
from serein.evaluation.calibration import fitted_temperature
from serein.evaluation.predictions import Prediction as RunPrediction
from serein.evaluation.predictions import read_run_predictions
from serein.inference import predictor as shipped
from tools import default_model


def test_a_default_model_is_made_and_predicts(
    tones: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [
        utterance.model_copy(update={"emotion": {"angry": "anger"}.get(utterance.emotion or "", utterance.emotion)})
        for utterance in write_corpus(tmp_path / "others", speakers=("yan", "zoe"))
        if utterance.emotion != "sad"
    ]
    manifest.write(others, tmp_path / "others.jsonl")
    options = ["--recipe", tiny, "--data", tones, "--work", tmp_path / "work", "--out", tmp_path / "shipped"]
    sets = ["--set", "stages.0.epochs=2", "--set", "protocol.dev=none", "--set", "labels.merge={anger: angry}"]
    call = [*map(str, options), *sets, "--other", f"others={tmp_path / 'others.jsonl'}"]
    default_model.main(call)
    card = (tmp_path / "shipped" / "README.md").read_text(encoding="utf-8")
    assert card == capsys.readouterr().out.removesuffix("\n")

    checkpoint = folder.load(tmp_path / "shipped")
    assert checkpoint.calibration is not None
    unseen = read_run_predictions(tmp_path / "work" / "folds")
    assert checkpoint.calibration.temperature == pytest.approx(
        fitted_temperature(unseen, checkpoint.class_labels.classes)
    )
    assert checkpoint.training["num_speakers"] == 6
    assert "others, only the 2 classes it has: angry, happy" in card
    assert "Chance with the corpus's classes: others 50." in card
    assert "inherit these conditions" in card

    written = (tmp_path / "work" / "whole" / "model" / "model.safetensors").stat().st_mtime_ns
    default_model.main(call)  # all is there: nothing is trained again
    assert (tmp_path / "work" / "whole" / "model" / "model.safetensors").stat().st_mtime_ns == written

    monkeypatch.setattr(shipped, "DEFAULT_MODEL", tmp_path / "shipped")
    answer = serein.load().predict(others[0].audio, segments="never")
    assert isinstance(answer, serein.Prediction)
    assert answer.label in checkpoint.class_labels.classes


def test_predictions_among_some_classes() -> None:
    said = RunPrediction(id="a", truth="sad", prediction="calm", probabilities={"calm": 0.6, "sad": 0.3, "angry": 0.1})
    chosen = default_model.among(said, ["sad", "angry"])
    assert (chosen.prediction, chosen.probabilities) == (
        "sad",
        {"sad": pytest.approx(0.75), "angry": pytest.approx(0.25)},
    )


def test_what_is_too_large_is_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_bytes(bytes(100))
    monkeypatch.setattr(default_model, "LARGEST_BYTES", 99)
    with pytest.raises(SystemExit, match="more than a package should carry"):
        default_model.ship(tmp_path / "model", tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()
