"""Recordings and tables that were once met badly: the right outcome by command line, Python and service.

They lie outside the project (`cases` in conftest.py), and each stands for its kind.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from cli_fixtures import Call, Outcome, command, environment, without_runtime
from serein.data import manifest
from serein.data.protocols import alike_speakers
from serein.errors import AudioError, SereinError
from serein.inference.predictor import Predictor, load

ROOM = ("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised")
FOLDER = ("a.wav", "b.m4a", "c.webm", "d.au", "f.oga", "g.wave", "h.aifc")
RIGHT = {
    **{f"room/{emotion}.flac": emotion for emotion in ROOM},
    **{f"folder/{name}": "angry" for name in FOLDER},
    "happy_15s.flac": "happy",
    "happy_45s.flac": "happy",
    "ok.flac": "angry",
    "length0.wav": "angry",
    "one_sample.wav": "too short",
    "tone.wav": "no speech",
    "faint_noise.wav": "no speech",
}
NEEDS_MEDIA = (".m4a", ".webm")


@pytest.fixture(scope="module")
def default() -> Predictor:
    return load("ravdess", device="cpu")  # the model whose eight classes the cases name


@pytest.fixture(scope="module")
def client(default: Predictor) -> Iterator[Any]:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from serein.server.app import create_app
    from serein.server.service import Service, ServiceInfo

    service = Service(default, ServiceInfo("default", "1"))
    with TestClient(create_app(service)) as client:
        yield client
    service.close()


def require_decoder(name: str) -> None:
    if name.endswith(NEEDS_MEDIA):
        pytest.importorskip("av")


def rows(outcome: Outcome) -> list[dict[str, Any]]:
    return [json.loads(line) for line in outcome.out.splitlines()]


# -- recordings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "expected"), RIGHT.items(), ids=RIGHT)
def test_a_recording_in_python_and_by_the_service(
    name: str, expected: str, cases: Path, default: Predictor, client: Any
) -> None:
    require_decoder(name)
    prediction = default.predict(cases / name)
    assert (prediction.label or prediction.rejected) == expected
    body = client.post("/v1/predict", files={"file": (Path(name).name, (cases / name).read_bytes())}).json()
    assert (body["label"] or body["rejected"]) == expected
    assert body["confidence"] == pytest.approx(prediction.confidence, abs=1e-4)


def test_recordings_by_the_command_line(cases: Path, serein: Call) -> None:
    names = [name for name in RIGHT if not name.endswith(NEEDS_MEDIA)]
    outcome = serein("predict", "--model", "ravdess", "--json", *(cases / name for name in names))
    assert outcome.status == 0
    assert {row["file"]: row["label"] or row["rejected"] for row in rows(outcome)} == {
        str(cases / name): RIGHT[name] for name in names
    }


def test_every_recording_of_a_folder_is_answered(cases: Path, serein: Call) -> None:
    pytest.importorskip("av")
    outcome = serein("predict", "--json", cases / "folder")
    assert (outcome.status, len(rows(outcome))) == (0, len(FOLDER))


def test_headerless_samples_beside_a_recording(cases: Path, default: Predictor, client: Any, serein: Call) -> None:
    outcome = serein("predict", "--json", cases / "ok.flac", cases / "phone.raw")
    assert outcome.status == 1
    assert [Path(row["file"]).name for row in rows(outcome)] == ["ok.flac"]
    assert "phone.raw: headerless PCM does not state its sampling rate. Give it: --raw-rate 16000" in outcome.complaint
    with pytest.raises(AudioError, match="raw_rate_hz=16000"):
        default.predict(cases / "phone.raw")
    files = [("files", (name, (cases / name).read_bytes())) for name in ("ok.flac", "phone.raw")]
    first, second = client.post("/v1/predict/batch", files=files).json()["results"]
    assert (first["label"], second["error"]["where"]) == ("angry", "phone.raw")


def test_parts_of_a_file_have_ids_and_times(cases: Path, default: Predictor, serein: Call) -> None:
    outcome = serein("predict", "--json", cases / "parts.jsonl")
    assert outcome.status == 1
    found = [(row["id"], row["start_s"], row["end_s"]) for row in rows(outcome)]
    assert found == [("first", 0.5, 1.5), ("third", 2.0, 3.0)]
    assert "'second'" in outcome.complaint
    with pytest.raises(AudioError, match="'second': the part 900 s to 901 s lies outside the file"):
        default.predict(manifest.read(cases / "parts.jsonl"))


def test_sound_from_stdin_and_from_a_pipe(cases: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    content = (cases / "ok.flac").read_bytes()
    threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(content), daemon=True).start()
    arguments = command("predict", "--json", "-", tmp_path / "pipe")
    done = subprocess.run(arguments, input=content, capture_output=True, env=environment(), timeout=120)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["file"], row["label"]) for row in found] == [("-", "angry"), (str(tmp_path / "pipe"), "angry")]
    assert (done.returncode, without_runtime(done.stderr.decode())) == (0, "")


def test_samples_of_any_type(cases: Path, default: Predictor) -> None:
    path = cases / "ok.flac"
    expected = default.predict(path)
    samples, rate_hz = soundfile.read(path, dtype="float32")
    integers, _ = soundfile.read(path, dtype="int16")
    for given in (samples, integers, np.stack([samples, samples]), np.stack([samples, samples], axis=1)):
        assert default.predict(given, rate_hz).probabilities == pytest.approx(expected.probabilities, abs=1e-3)
    for given in (samples * 32_768, np.full(16_000, np.nan, np.float32), np.zeros(0, np.float32)):
        with pytest.raises(AudioError):
            default.predict(given, rate_hz)
    with pytest.raises(SereinError, match="sampling_rate"):
        default.predict(samples)
    assert default.predict(np.zeros(48_000, np.float32), 16_000).rejected == "no speech"


def test_a_model_is_named_by_any_file_of_its_folder(cases: Path, tmp_path: Path, serein: Call) -> None:
    folder = Path(__file__).parents[1] / "golden" / "models" / "classes"
    for name in (folder, folder / "model.safetensors", folder / "model.json"):
        (row,) = rows(serein("predict", "--model", name, "--json", cases / "ok.flac"))
        assert row["model"]["name"] == "classes"
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    outcome = serein("predict", "--model", tmp_path / "model.safetensors", cases / "ok.flac")
    assert (outcome.status, outcome.out) == (1, "")
    assert "model.json, labels.json missing" in outcome.complaint


# -- tables ------------------------------------------------------------------------------------------------------------


def prepared(table: Path, out: Path, serein: Call) -> tuple[Outcome, Counter[str | None]]:
    outcome = serein("corpus", "prepare", "csv", table, "--out", out)
    assert outcome.status == 0, outcome.err
    return outcome, Counter(utterance.emotion for utterance in manifest.read(out))


def test_missing_labels_are_missing(cases: Path, tmp_path: Path, serein: Call) -> None:
    _, emotions = prepared(cases / "nan.csv", tmp_path / "m.jsonl", serein)
    assert emotions == {None: 4, "neutral": 3, "happy": 3, "sad": 3, "angry": 3}


def test_spellings_are_joined_and_said(cases: Path, tmp_path: Path, serein: Call) -> None:
    outcome, emotions = prepared(cases / "caps.csv", tmp_path / "m.jsonl", serein)
    assert emotions == dict.fromkeys(("neutral", "happy", "sad", "angry"), 4)
    assert outcome.err.count("were merged into") == 4


def test_times_as_audformat_writes_them(cases: Path, tmp_path: Path, serein: Call) -> None:
    prepared(cases / "audformat.csv", tmp_path / "m.jsonl", serein)
    assert {(u.start_s, u.end_s) for u in manifest.read(tmp_path / "m.jsonl")} == {(0.0, 2.5)}


def test_a_speaker_in_two_spellings_stops_a_run(cases: Path, tiny: Path, tmp_path: Path, serein: Call) -> None:
    data = cases / "speakers_twice.jsonl"
    assert alike_speakers(manifest.read(data)) == [("Anna", "anna"), ("Ben", "ben")]
    outcome = serein("run", tiny, "--data", data, "--out", tmp_path / "run")
    assert outcome.status == 1
    assert "Anna" in outcome.complaint
    assert "anna" in outcome.complaint


def test_a_model_finds_its_backbone(cases: Path, tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by a relative path, from another folder; moved; bundled."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    config = Wav2Vec2Config(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    Wav2Vec2Model(config).save_pretrained(tmp_path / "tiny")
    Wav2Vec2FeatureExtractor(return_attention_mask=False, do_normalize=False).save_pretrained(tmp_path / "tiny")
    recipe = {
        "name": "hf",
        "protocol": {"name": "speakers-out", "num_folds": 2},
        "backbone": {"name": "huggingface", "source": "tiny"},
        "tasks": {"emotion": {"pooling": "mean"}},
        "stages": [{"name": "heads", "trainable": ["heads"], "epochs": 1}],
    }
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    utterances = [u for u in manifest.read(cases / "speakers_twice.jsonl") if u.speaker in ("03", "04", "05")]
    manifest.write(utterances, tmp_path / "m.jsonl")
    monkeypatch.chdir(tmp_path)
    outcome = serein("train", "r.yaml", "--data", "m.jsonl", "--out", "out")
    assert outcome.status == 0, outcome.err
    model = (tmp_path / outcome.out.strip()).resolve()
    monkeypatch.chdir("/")
    predict = ("predict", "--json", cases / "ok.flac", "--model")
    (expected,) = rows(serein(*predict, model))
    (tmp_path / "tiny").rename(tmp_path / "moved")
    outcome = serein(*predict, model)
    assert (outcome.status, outcome.out) == (1, "")
    assert f"{tmp_path}/tiny: the model's backbone cannot be loaded: no such folder" in outcome.complaint
    assert outcome.complaint.endswith("in Python backbone=.")
    (found,) = rows(serein(*predict, model, "--backbone", tmp_path / "moved"))
    assert found["probabilities"] == expected["probabilities"]
    outcome = serein("predict", cases / "ok.flac", "--backbone", tmp_path / "moved")
    assert outcome.complaint.endswith(
        f"needs no backbone from {tmp_path}/moved. Leave out --backbone; in Python backbone=."
    )
    named, moved = ("--model", model), ("--backbone", tmp_path / "moved")
    for arguments in (
        ("embed", cases / "ok.flac", *named, "--out", tmp_path / "e.npz"),
        ("evaluate", *named, "--data", tmp_path / "m.jsonl", "--allow-seen-speakers"),
        ("knn", "build", *named, "--data", tmp_path / "m.jsonl", "--out", tmp_path / "datastore"),
        ("knn", "tune", tmp_path / "datastore", "--data", tmp_path / "m.jsonl"),
        (*predict, model, "--knn", tmp_path / "datastore"),
        ("benchmark", model, "--seconds", 0.1),
    ):
        assert "cannot be loaded" in serein(*arguments).complaint
        assert serein(*arguments, *moved).status == 0
    assert serein("bundle", *named, *moved, "--out", tmp_path / "whole").status == 0
    (tmp_path / "moved").rename(tmp_path / "gone")
    (found,) = rows(serein(*predict, tmp_path / "whole"))
    assert found["probabilities"] == expected["probabilities"]
