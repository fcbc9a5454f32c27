"""Every prediction that leaves serein follows the one schema of docs/formats.md, and no other."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile

from cli_fixtures import Call
from serein.data import manifest
from serein.inference.prediction import Prediction, Segment
from serein.inference.predictor import Predictor, load
from serein.knn.predictor import Neighbour
from serein.tasks.task import TaskPrediction
from speech_sounds import RATE_HZ, voiced

SCHEMA = json.loads((Path(__file__).parents[1] / "docs/prediction.schema.json").read_text(encoding="utf-8"))
SOUND = np.concatenate([np.zeros(RATE_HZ, np.float32), voiced(4.0, np.random.default_rng(2)), np.zeros(RATE_HZ)])


def require_valid(content: dict[str, Any], *optional: str) -> None:
    """Check against the schema, that only these optional fields are there, and when there is no label."""
    jsonschema.Draft202012Validator(SCHEMA).validate(content)
    if "error" in content:
        assert set(content) - {"file", "id", "error"} == set(optional)
        return
    assert set(content) - set(SCHEMA["$defs"]["PredictionSchema"]["required"]) == set(optional)
    for each in (content, *content["segments"]):
        assert (each["label"] is None) == (each["rejected"] is not None or "value" in each)
        assert content["start_s"] <= each["start_s"] <= each["end_s"] <= content["end_s"] + 1e-3


@pytest.fixture(scope="session")
def model(tiny_run: Path) -> Path:
    """A model folder; read only."""
    return tiny_run / "fold-1" / "seed-0" / "model"


@pytest.fixture(scope="session")
def predictor(model: Path) -> Predictor:
    return load(model)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Speech, silence, and a file that cannot be read."""
    folder = tmp_path_factory.mktemp("recordings")
    soundfile.write(folder / "speech.wav", SOUND, RATE_HZ)
    soundfile.write(folder / "silence.wav", np.zeros(2 * RATE_HZ), RATE_HZ)
    (folder / "empty.wav").touch()
    return [folder / name for name in ("speech.wav", "silence.wav", "empty.wav")]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_predict_json(model: Path, recordings: list[Path], serein: Call) -> None:
    speech, silence = lines(serein("predict", "-m", model, *recordings, "--json").out)
    for content in (speech, silence):
        require_valid(content)
    assert (silence["rejected"], silence["confidence"], silence["segments"]) == ("no speech", None, [])
    (careful,) = lines(serein("predict", "-m", model, recordings[0], "--json", "--min-confidence", 1).out)
    require_valid(careful)
    assert {careful["rejected"], *(each["rejected"] for each in careful["segments"])} == {"low confidence"}


def test_predict_of_a_manifest(model: Path, tones: Path, serein: Call) -> None:
    predictions = lines(serein("predict", "-m", model, tones, "--json", "--max-files", 3).out)
    for content in predictions:
        require_valid(content)
        assert len(content["segments"]) == 1
    assert {content["id"] for content in predictions} <= {each.id for each in manifest.read(tones)}


def test_predict_out(model: Path, recordings: list[Path], tmp_path: Path, serein: Call) -> None:
    out = tmp_path / "predictions.jsonl"
    assert serein("predict", "-m", model, *recordings, "--out", out).status == 1
    written = lines(out.read_text(encoding="utf-8"))
    for content in written:
        require_valid(content, "path", "fingerprint")
    assert [("error" in content, content["id"]) for content in written] == [(False, None), (False, None), (True, None)]
    assert written[2]["error"]["where"] == str(recordings[2])


def test_to_dict(predictor: Predictor, recordings: list[Path], model: Path, serein: Call) -> None:
    said = predictor.predict(recordings[0]).to_dict()
    require_valid(said)
    assert [said] == lines(serein("predict", "-m", model, recordings[0], "--json").out)


def test_other_kinds_of_tasks() -> None:
    number = Segment(None, value=0.25, start_s=0.0, end_s=1.0)
    tasks = {"asr": TaskPrediction("words said"), "gender": TaskPrediction("female", 1.0, {"female": 1.0})}
    near = (Neighbour("a1", "sad", None, "tones", 0.5, "a.wav"),)
    prediction = Prediction(None, value=0.25, segments=(number,), tasks=tasks, neighbours=near, duration_s=1.0)
    require_valid({**prediction.to_dict(), "model": {"name": "a", "sha256": "b"}}, "value", "neighbours")


def test_stream_json(model: Path, serein: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO((SOUND * 32767).astype("<i2").tobytes())))
    predictions = lines(serein("stream", "-m", model, "--stdin-pcm", "--json").out)
    assert predictions
    for content in predictions:
        require_valid(content, "delay_s")


@pytest.fixture
def client(predictor: Predictor) -> Iterator[Any]:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from serein.server.app import create_app
    from serein.server.service import Service, ServiceInfo

    service = Service(predictor, ServiceInfo("tiny", "1"))
    with TestClient(create_app(service)) as client:
        yield client
    service.close()


def test_http(client: Any, recordings: list[Path], predictor: Predictor) -> None:
    files = [("files", (path.name, path.read_bytes())) for path in recordings]
    results = client.post("/v1/predict/batch", files=files).json()["results"]
    for content in results:
        require_valid(content)
    assert results[2] == {
        "file": "empty.wav",
        "id": None,
        "error": {"where": "empty.wav", "what": results[2]["error"]["what"], "remedy": results[2]["error"]["remedy"]},
    }
    single = client.post("/v1/predict", files={"file": ("speech.wav", recordings[0].read_bytes())}).json()
    require_valid(single)
    expected = predictor.predict(recordings[0]).to_dict()
    assert single["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
    assert single["model"] == expected["model"]


def test_websocket(client: Any) -> None:
    with client.websocket_connect("/v1/stream") as socket:
        assert set(json.loads(socket.receive_text())) == {"type", "rate_hz", "task"}
        socket.send_bytes((SOUND * 32767).astype("<i2").tobytes())
        socket.send_text('{"type": "end"}')
        messages = [json.loads(socket.receive_text())]
        while messages[-1]["type"] != "end":
            messages.append(json.loads(socket.receive_text()))
    *segments, end = messages
    assert segments
    for content in segments:
        require_valid(content, "type")
    require_valid(end, "type", "reason")
