"""Runs whose task is who speaks, `serein verify` and `serein embed`: here a voice is the pitch of a tone."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from asr_models import write_ctc
from cli_fixtures import Call, write_recipe, write_speech
from serein import recipe as recipes
from serein.data import manifest
from serein.data.manifest import Utterance
from serein.evaluation import verification
from serein.evaluation.report import write_report
from serein.evaluation.scores import Scores, score_run
from serein.experiment import predict as predicting
from serein.experiment import run as runs
from serein.inference.predictor import load

PROTOCOL: dict[str, Any] = {
    "name": "clips-out",
    "num_folds": 3,
    "folds": [["^anna-", "^ben-"], ["^cleo-", "^dan-"], ["^eva-", "^finn-"]],
    "dev": "next-fold",
    "only": ["1"],
}
SPEAKER = {"pooling": "std", "projection": 8, "loss": "arcface", "arcface": {"scale": 10}, "dropout": 0.0}


WHOLE = ("--segments", "never")  # tones are no speech


def write_voices(tones: Path, path: Path) -> Path:
    """Write the corpus of tones with a voice for each pitch."""
    utterances = [u.model_copy(update={"speaker": u.emotion, "gender": None}) for u in manifest.read(tones)]
    manifest.write(utterances, path)
    return path


def train(folder: Path, data: Path, changes: dict[str, Any]) -> Path:
    tasks = {"emotion": None, "speaker": SPEAKER}
    stage = {"epochs": 8, "spectrogram_augmentation": {"time_masks": 0}}
    recipe = recipes.load(write_recipe(folder / "r.yaml", {"tasks": tasks, **changes}, stage))
    runs.run(recipe, data, folder / "run", resume=False, num_jobs=1, progress=lambda *_: None)
    return folder / "run"


@pytest.fixture(scope="module")
def voices(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voices(tones, tmp_path_factory.mktemp("data") / "voices.jsonl")


@pytest.fixture(scope="module")
def run(voices: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("voices"), voices, {"protocol": PROTOCOL})


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    return run / "fold-1" / "seed-0" / "model"


@pytest.fixture(scope="module")
def clips(voices: Path) -> dict[str, Path]:
    return {u.id: Path(u.audio) for u in manifest.read(voices)}


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_has_top_1_and_an_equal_error_rate(run: Path) -> None:
    scores = score_run(run)
    assert scores.classes == ("tones/angry", "tones/happy", "tones/sad")
    assert scores.verification is not None
    (unit,) = scores.verification.units
    assert (unit.num_same, unit.num_different, unit.num_speakers) == (3 * 6, 12 * 11 // 2 - 18, 3)
    assert scores.pooled["wa"] == scores.pooled["ua"] > 60
    assert unit.equal_error_rate < 20
    assert "Speaker verification" in write_report(run).read_text()


def test_the_threshold_is_that_of_the_dev_set_and_stays_with_the_model(run: Path, model: Path) -> None:
    checkpoint = load(model).checkpoint
    assert checkpoint.verification is not None
    assert (checkpoint.verification.num_clips, checkpoint.verification.num_speakers) == (12, 3)
    assert -1 < checkpoint.verification.threshold < 1
    found = score_run(run).verification
    assert found is not None
    assert found.units[0].threshold == checkpoint.verification.threshold


@pytest.mark.slow
def test_probabilities_of_hundreds_of_voices_are_not_written(
    voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "MAX_PROBABILITIES", 2)
    found = train(tmp_path, voices, {"protocol": PROTOCOL})
    lines = (found / "fold-1" / "seed-0" / "predictions.jsonl").read_text().splitlines()
    assert all("probabilities" not in json.loads(line) for line in lines)
    assert score_run(found).verification is not None


def test_a_model_of_hundreds_of_voices_is_evaluated(model: Path, voices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without probabilities there is nothing to calibrate."""
    monkeypatch.setattr(predicting, "MAX_PROBABILITIES", 2)
    predictions, scores = predicting.evaluate(model, voices, allow_seen_speakers=True)
    assert isinstance(scores, Scores)
    assert (scores.num_utterances, scores.calibration) == (len(predictions), None)


# -- serein verify ---------------------------------------------------------------------------------------------------


def test_more_pairs_than_can_be_printed_are_refused(
    tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "MOST_TRIALS", 2)
    manifest.write([Utterance(id=str(n), audio="a.wav") for n in range(3)], tmp_path / "m.jsonl")
    outcome = serein("verify", tmp_path / "m.jsonl", "-m", tmp_path)
    assert (outcome.status, "3 recordings are 3 pairs, more than 2; use --score" in outcome.err) == (2, True)


def test_two_clips_of_one_voice_and_of_two(model: Path, clips: dict[str, Path], serein: Call) -> None:
    same, other = clips["anna-sad-0"], clips["anna-angry-0"]
    outcome = serein("verify", "--model", model, *WHOLE, same, clips["ben-sad-1"])
    assert outcome.status == 0
    assert "same speaker" in outcome.out
    assert "the model's, from its dev set" in outcome.out
    assert "different speakers" in serein("verify", "--model", model, *WHOLE, same, other).out


def test_all_pairs_of_several_as_json(model: Path, clips: dict[str, Path], serein: Call) -> None:
    names = ["anna-sad-0", "ben-sad-0", "anna-angry-0"]
    result = json.loads(serein("verify", "--model", model, *WHOLE, *(clips[name] for name in names), "--json").out)
    pairs = [(Path(p["first"]), Path(p["second"]), p["is_same_speaker"]) for p in result["pairs"]]
    one, two, three = (clips[name] for name in names)
    assert pairs == [(one, two, True), (one, three, False), (two, three, False)]
    assert [p["is_same_speaker"] for p in result["pairs"]] == [
        p["cosine"] >= result["threshold"] for p in result["pairs"]
    ]
    assert result["threshold_from"]["num_clips"] == 12


def test_a_threshold_of_ones_own(model: Path, clips: dict[str, Path], serein: Call) -> None:
    both = clips["anna-sad-0"], clips["anna-angry-0"]
    assert "same speaker" in serein("verify", "--model", model, *WHOLE, *both, "--threshold", -1).out
    assert "threshold 1.000, given" in serein("verify", "--model", model, *WHOLE, *both, "--threshold", 1).out


@pytest.mark.slow
def test_a_model_without_dev_says_cosines_alone(
    voices: Path, clips: dict[str, Path], tmp_path: Path, serein: Call
) -> None:
    found = train(tmp_path, voices, {"protocol": {**PROTOCOL, "dev": "none"}})
    folder = found / "fold-1" / "seed-0" / "model"
    assert load(folder).checkpoint.verification is None
    outcome = serein("verify", "--model", folder, *WHOLE, clips["anna-sad-0"], clips["ben-sad-0"], "--json")
    assert outcome.status == 0
    assert "has no threshold" in outcome.err
    result = json.loads(outcome.out)
    assert result["threshold"] is None
    assert result["pairs"][0]["is_same_speaker"] is None
    assert score_run(found).verification is not None


def test_what_cannot_be_read_is_listed_and_the_status_says_so(
    model: Path, clips: dict[str, Path], tmp_path: Path, serein: Call
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"")
    outcome = serein("verify", "--model", model, *WHOLE, clips["anna-sad-0"], broken, clips["ben-sad-0"], "--json")
    assert outcome.status == 1
    assert f"{broken}: the file is empty" in outcome.err
    assert "1 of 3 recordings could not be read." in outcome.err
    assert len(json.loads(outcome.out)["pairs"]) == 1


def test_a_manifest_that_names_speakers_is_scored(run: Path, model: Path, serein: Call) -> None:
    data = run / "fold-1" / "test.jsonl"
    result = json.loads(serein("verify", "--model", model, data, "--score", "--json").out)
    found = score_run(run).verification
    assert found is not None
    assert 100 * result["equal_error_rate"] == pytest.approx(found.mean, abs=0.1)
    assert 100 * result["misses"] == pytest.approx(found.units[0].misses)
    assert (result["num_same"], result["num_speakers"], result["num_training_speakers"]) == (18, 3, 3)
    printed = serein("verify", "--model", model, data, "--score").out
    assert (
        "18 pairs of the same speaker and 48 of different ones, all 66\n"
        "3 speakers, 3 of them in the model's training data\n" in printed
    )
    assert "at the threshold" in printed


def test_recordings_without_speakers_cannot_be_scored(model: Path, clips: dict[str, Path], serein: Call) -> None:
    outcome = serein("verify", "--model", model, *WHOLE, clips["anna-sad-0"], clips["ben-sad-0"], "--score")
    assert "0 recordings name 0 speakers" in outcome.complaint


def test_one_recording_is_too_few(model: Path, clips: dict[str, Path], serein: Call) -> None:
    assert serein("verify", "--model", model, clips["anna-sad-0"]).status == 2


def test_a_model_of_emotions_does_not_know_voices(tiny_run: Path, clips: dict[str, Path], serein: Call) -> None:
    folder = tiny_run / "fold-1" / "seed-0" / "model"
    outcome = serein("verify", "--model", folder, clips["anna-sad-0"], clips["ben-sad-0"])
    assert outcome.status == 1
    assert "unknown embedding of this model 'speaker', expected one of: emotion" in outcome.complaint


# -- serein embed ------------------------------------------------------------------------------------------------------


def test_a_manifests_vectors_are_those_of_the_run(run: Path, model: Path, tmp_path: Path, serein: Call) -> None:
    out = tmp_path / "e.safetensors"
    outcome = serein("embed", "--model", model, run / "fold-1" / "test.jsonl", "-o", out)
    assert (outcome.status, outcome.out) == (0, f"{out}: 12 embeddings of 8 numbers (speaker)\n")
    np.testing.assert_allclose(
        load_file(out)["embeddings"],
        load_file(run / "fold-1" / "seed-0" / "embeddings.safetensors")["embeddings"],
        atol=1e-5,
    )
    with safe_open(out, "numpy") as file:
        assert json.loads(file.metadata()["ids"]) == [u.id for u in manifest.read(run / "fold-1" / "test.jsonl")]
        assert file.metadata()["task"] == "speaker"


def test_files_that_cannot_be_read_are_left_out(
    model: Path, clips: dict[str, Path], tmp_path: Path, serein: Call
) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    shutil.copy(clips["anna-sad-0"], folder / "a.wav")
    (folder / "b.wav").write_text("no audio")
    out = tmp_path / "e.safetensors"
    outcome = serein("embed", "--model", model, *WHOLE, folder, "-o", out, "--task", "speaker")
    assert outcome.status == 1
    assert "b.wav: cannot be decoded as audio" in outcome.err
    with safe_open(out, "numpy") as file:
        assert json.loads(file.metadata()["ids"]) == [str(folder / "a.wav")]


def test_recordings_without_speech_are_refused_by_name(
    model: Path, clips: dict[str, Path], tmp_path: Path, serein: Call
) -> None:
    spoken, tone = write_speech(tmp_path / "yes.wav"), clips["anna-sad-0"]
    out = tmp_path / "e.safetensors"
    outcome = serein("embed", "--model", model, spoken, tone, "-o", out)
    assert (outcome.status, outcome.out) == (1, f"{out}: 1 embedding of 8 numbers (speaker)\n")
    assert outcome.complaint == f"error: {tone}: no speech"


def test_nothing_is_written_when_nothing_is_read(model: Path, tmp_path: Path, serein: Call) -> None:
    out = tmp_path / "e.safetensors"
    assert serein("embed", "--model", model, tmp_path / "none.wav", "-o", out).status == 1
    assert not out.exists()


@pytest.mark.slow
def test_own_speakers_and_fused_vectors_are_those_of_the_equation(
    tones: Path, clips: dict[str, Path], tmp_path: Path, serein: Call
) -> None:
    """Fused: the emotion network's embedding plus W * the speaker network's (park2023, equation 5)."""
    encoder = {"name": "cnn2d", "channels": [4], "size": 8, "time_downsampling": 1}
    changes = {
        "protocol": {"num_folds": 2, "only": ["1"], "dev": "none"},
        "encoder": encoder,
        "branches": {"speaker": {"encoder": encoder}},
        "tasks": {
            "emotion": {"attention": {"blocks": 2}, "pooling": "max", "fusion": {"inputs": ["speaker"], "init": 0.5}},
            "speaker": {"branch": "speaker", "attention": {"blocks": 1}, "pooling": "max"},
        },
    }
    recipe = recipes.load(write_recipe(tmp_path / "r.yaml", changes, {"epochs": 1}))
    runs.run(recipe, tones, tmp_path / "run", resume=False, num_jobs=1, progress=lambda *_: None)
    folder = tmp_path / "run" / "fold-1" / "seed-0" / "model"
    call = ("embed", "--model", folder, *WHOLE, clips["anna-sad-0"], clips["ben-sad-1"])
    vectors = {}
    for name in ("emotion", "speaker", "fused"):
        out = tmp_path / f"{name}.safetensors"
        assert serein(*call, "-o", out, "--task", name).status == 0
        vectors[name] = load_file(out)["embeddings"]
    rows = next(v for k, v in load_file(folder / "model.safetensors").items() if k.endswith("fusion.inputs"))
    np.testing.assert_allclose(vectors["fused"], vectors["emotion"] + rows[0] * vectors["speaker"], atol=1e-5)
    assert not np.allclose(vectors["fused"], vectors["emotion"], atol=1e-2)
    out = tmp_path / "main.safetensors"
    assert serein(*call, "-o", out).status == 0
    np.testing.assert_array_equal(load_file(out)["embeddings"], vectors["fused"])


def test_an_unknown_embedding_is_refused_with_the_known_ones(
    model: Path, clips: dict[str, Path], tmp_path: Path, serein: Call
) -> None:
    outcome = serein(
        "embed", "--model", model, clips["anna-sad-0"], "--task", "emotion", "-o", tmp_path / "e.safetensors"
    )
    assert outcome.status == 1
    assert "unknown embedding of this model 'emotion', expected one of: speaker" in outcome.complaint


# -- transcripts -------------------------------------------------------------------------------------------------------


def test_stdin_and_pipes_are_transcribed_as_files_are(
    tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctc, recording, pipe = write_ctc(tmp_path / "ctc"), write_speech(tmp_path / "a.wav"), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(recording.read_bytes(),))
    writer.start()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(recording.read_bytes())))
    outcome = serein("transcribe", "-", pipe, recording, "--model", ctc, "--json")
    writer.join()
    assert outcome.status == 0, outcome.err
    texts = {row["file"]: row["transcript"] for row in map(json.loads, outcome.out.splitlines())}
    assert texts == dict.fromkeys(["-", str(pipe), str(recording)], texts["-"])
    assert texts["-"]


def test_parts_of_one_file_are_told_apart(tmp_path: Path, serein: Call) -> None:
    ctc, recording = write_ctc(tmp_path / "ctc"), str(write_speech(tmp_path / "a.wav", 3.0))
    parts = [Utterance(id=f"u{i}", audio=recording, start_s=float(i), end_s=i + 1.0) for i in range(2)]
    manifest.write(parts, tmp_path / "m.jsonl")
    rows = serein("transcribe", tmp_path / "m.jsonl", "--model", ctc, "--json").out.splitlines()
    assert sorted((row["file"], row["id"]) for row in map(json.loads, rows)) == [(recording, "u0"), (recording, "u1")]
    _, *table = serein("transcribe", tmp_path / "m.jsonl", "--model", ctc).out.splitlines()
    assert sorted(line.split()[0] for line in table) == ["u0", "u1"]


def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    model: Path, tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = write_speech(tmp_path / "yes.wav")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    outcome = serein("embed", "--model", model, spoken, "-o", tmp_path / "e.parquet")
    assert outcome.complaint.endswith("Install it with: pip install 'serein[hub]'.")
    assert "embedding" not in outcome.err
    (tmp_path / "e.npz").mkdir()
    outcome = serein("embed", "--model", model, spoken, "-o", tmp_path / "e.npz")
    assert outcome.complaint == f"error: {tmp_path / 'e.npz'}: is a folder. Name a file to write to."
    assert "embedding" not in outcome.err
