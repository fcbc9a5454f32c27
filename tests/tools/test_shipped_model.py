"""A shipped model is made whole: trained, calibrated on unseen speakers, with each corpus left out, with its card."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import serein
from cli_fixtures import write_corpus
from serein import checkpoint as folder
from serein.data import manifest
from serein.evaluation.calibration import fitted_temperature
from serein.evaluation.predictions import read_run_predictions
from serein.inference import predictor as shipped
from tools import shipped_model


@pytest.mark.slow
def test_a_model_is_made_and_predicts(
    tones: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [
        utterance.model_copy(update={"id": f"o/{utterance.id}", "corpus": "others"})
        for utterance in write_corpus(tmp_path / "others", speakers=(*"abcdef", "yan", "zoe"))
        if utterance.emotion != "sad" and utterance.speaker in ("yan", "zoe")
    ]
    named = [utterance.model_copy(update={"corpus": "tones"}) for utterance in manifest.read(tones)]
    manifest.write([*named, *others], tmp_path / "all.jsonl")
    manifest.write(write_corpus(tmp_path / "unseen", speakers=("vic",)), tmp_path / "unseen.jsonl")
    call = ["default", "--recipe", tiny, "--data", tmp_path / "all.jsonl", "--work", tmp_path / "work"]
    call += ["--out", tmp_path / "shipped", "--set", "stages.0.epochs=1", "--set", "protocol.dev=none"]
    call += ["--other", f"elsewhere={tmp_path / 'unseen.jsonl'}"]
    shipped_model.main([*map(str, call)])
    made = tmp_path / "shipped" / "default"
    card = (made / "README.md").read_text(encoding="utf-8")
    assert card == capsys.readouterr().out.removesuffix("\n")
    for row in (
        "tones, unseen speakers",
        "others, unseen speakers, restricted to its 2 classes",
        "others, corpus left out",
        "others, corpus left out, restricted to its 2 classes, adapted without labels",
        "tones, corpus left out, adapted without labels",
        "tones, elsewhere, never seen",
    ):
        assert f"| {row} |" in card
    assert card.startswith("# The model `default`\n")
    assert "inherit these conditions" in card
    assert re.search(
        r"\| gender: female \| all \| \d+\.\d \[\d+\.\d, \d+\.\d\] \| [+-]\d+\.\d \[.*\] \| \d \| \d+ \|", card
    )
    assert re.search(r"Speed: \d+ times real time, \d+ files, ", card)
    assert "| GSM 06.10 | " in card
    assert "Skipped for lack of room impulse responses (--rooms FOLDER): reverberation." in card

    checkpoint = folder.load(made)
    predicted = read_run_predictions(tmp_path / "work" / "default" / "speakers")
    expected = fitted_temperature(predicted, checkpoint.class_labels.classes)
    assert expected is not None
    assert (checkpoint.calibration is not None) == expected.helps
    if checkpoint.calibration is None:
        return
    assert checkpoint.calibration.temperature == pytest.approx(expected.temperature)
    assert checkpoint.training["num_speakers"] == 8
    stored = load_file(made / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}

    written = (tmp_path / "work" / "default" / "whole" / "model" / "model.safetensors").stat().st_mtime_ns
    shipped_model.main([*map(str, call)])  # all is there: nothing is trained again
    assert (tmp_path / "work" / "default" / "whole" / "model" / "model.safetensors").stat().st_mtime_ns == written

    monkeypatch.setattr(shipped, "SHIPPED_MODELS", tmp_path / "shipped")
    prediction = serein.load().predict(others[0].audio, segments="never")
    assert isinstance(prediction, serein.Prediction)
    assert prediction.label in checkpoint.class_labels.classes


def test_what_is_too_large_is_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_bytes(bytes(100))
    monkeypatch.setattr(shipped_model, "LARGEST_BYTES", 99)
    with pytest.raises(SystemExit, match="more than a package should carry"):
        shipped_model.ship(tmp_path / "model", tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()
