"""Every status of the service, and that its answers are those of `serein predict`."""

from __future__ import annotations

import gc
import struct
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from serein.audio import Upload
from serein.errors import AudioError
from serein.inference.prediction import LOW_CONFIDENCE, RejectOption
from serein.inference.predictor import Predictor
from serein.inference.recording import PredictOptions
from serein.server.app import create_app
from serein.server.limits import Limits
from serein.server.middleware import Keys
from serein.server.routes import file_name
from server.ingredients import MakeService, Waiting, encoded

KEY = "a-key-of-this-test"


def send(client: TestClient, content: bytes, name: str = "a.wav", **options: Any) -> Any:
    return client.post("/v1/predict", files={"file": (name, content)}, **options)


def problem(answer: Any, status: int, kind: str) -> str:
    """Return the detail of a problem of this status and kind."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["type"] == f"urn:problem-type:serein:{kind}"
    return str(body["detail"])


@pytest.mark.parametrize("segments", ["auto", "always", "never"])
def test_answers_are_those_of_the_predictor(
    client: TestClient, predictor: Predictor, speech: np.ndarray, segments: Any
) -> None:
    expected = predictor.predict(Upload(encoded(speech), "a.wav"), segments=segments).to_dict()
    body = send(client, encoded(speech), params={"segments": segments}).json()
    assert body["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
    keys = ("file", "id", "start_s", "end_s", "task", "label", "rejected", "model")
    assert {key: body[key] for key in keys} == {key: expected[key] for key in keys}
    assert [(part["start_s"], part["end_s"], part["label"]) for part in body["segments"]] == [
        (part["start_s"], part["end_s"], part["label"]) for part in expected["segments"]
    ]


def test_silence_that_is_not_cut_is_no_emotion(client: TestClient) -> None:
    answer = send(client, encoded(np.zeros(16_000, np.float32)), params={"segments": "never"})
    assert "a.wav: silent" in problem(answer, 422, "unusable-recording")


def test_a_charset_that_is_none(client: TestClient, short: bytes) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + short + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x; charset=undefined"}
    assert "Send UTF-8" in problem(client.post("/v1/predict", content=form, headers=headers), 400, "unreadable-form")


def test_late_answers_leave_nothing_in_the_log(
    make_service: MakeService, predictor: Predictor, short: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service(Waiting(predictor), limits=Limits(answer_s=0.1))
    with TestClient(create_app(service)) as client:
        problem(send(client, short), 503, "busy")
        service.predictor.may_predict.set()
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_withheld_answers_have_no_label(make_service: MakeService, short: bytes) -> None:
    service = make_service(options=PredictOptions(reject_option=RejectOption(min_confidence=1.0)))
    with TestClient(create_app(service)) as client:
        body = send(client, short).json()
    assert body["label"] is None
    assert body["rejected"] == LOW_CONFIDENCE


def test_a_batch_keeps_order_and_names_what_is_wrong(client: TestClient, short: bytes) -> None:
    files = [("files", ("a.wav", short)), ("files", ("b.wav", b"no sound")), ("files", ("c.wav", short))]
    results = client.post("/v1/predict/batch", files=files).json()["results"]
    assert ["error" in each for each in results] == [False, True, False]
    assert [each["file"] for each in results] == ["a.wav", "b.wav", "c.wav"]
    assert results[1]["error"]["where"] == "b.wav"


def test_a_batch_of_nothing_usable_is_a_problem(client: TestClient) -> None:
    answer = client.post("/v1/predict/batch", files=[("files", ("b.wav", b"no sound"))])
    assert "b.wav" in problem(answer, 422, "unusable-recording")


def test_too_many_files_are_too_large(make_service: MakeService, short: bytes) -> None:
    with TestClient(create_app(make_service(limits=Limits(num_files=2)))) as client:
        answer = client.post("/v1/predict/batch", files=[("files", ("a.wav", short))] * 3)
    problem(answer, 413, "too-large")


def test_models_are_named_without_paths(client: TestClient, predictor: Predictor) -> None:
    body = client.get("/v1/models").json()
    (model,) = body["models"]
    assert body["limits"] == {"max_upload_bytes": 25_000_000, "max_recording_s": 600.0, "max_files": 16}
    assert set(model["colours"]) == set(predictor.classes)
    assert model["name"] == "tiny"
    assert model["classes"] == list(predictor.classes)
    assert model["dimensions"] == []


def test_health_readiness_and_metrics(client: TestClient, short: bytes) -> None:
    send(client, short)
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    text = client.get("/metrics").text
    assert 'serein_requests_total{route="/v1/predict",status="200"} 1.0' in text
    assert "serein_audio_seconds_total 0.5" in text
    assert "serein_requests_in_progress 0.0" in text


def header_of_4_gb() -> bytes:
    content = bytearray(encoded(np.zeros(500, np.float32) + 0.1))
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", 0x7000_0000)
    return bytes(content[:1000])


UNUSABLE = {
    "empty": b"",
    "no sound": b"GIF89a" + bytes(300),
    "zip bomb": b"PK\x03\x04" + bytes(300),
    "a header of gigabytes": header_of_4_gb(),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_recordings(client: TestClient, name: str) -> None:
    assert problem(send(client, UNUSABLE[name]), 422, "unusable-recording").startswith("a.wav: ")


def test_hours_of_silence_are_refused_by_their_header(make_service: MakeService) -> None:
    content = encoded(np.zeros(8000 * 60, np.int16), 8000, "FLAC")
    with TestClient(create_app(make_service(limits=Limits(recording_s=30.0)))) as client:
        assert "60 s long" in problem(send(client, content), 422, "too-long")


@pytest.mark.parametrize("level", [0.0, 0.001])
def test_no_speech_is_no_fault_of_the_request(client: TestClient, level: float) -> None:
    noise = level * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    body = send(client, encoded(noise)).json()
    assert (body["rejected"], body["label"], body["confidence"]) == ("no speech", None, None)
    assert (body["probabilities"], body["segments"]) == ({}, [])


@pytest.mark.parametrize(
    ("content", "kind"), [({"params": {"segments": "maybe"}}, "wrong-request"), ({}, "wrong-request")]
)
def test_wrong_requests(client: TestClient, short: bytes, content: dict[str, Any], kind: str) -> None:
    files = {"file": ("a.wav", short)} if content else {"other": ("a.wav", short)}
    problem(client.post("/v1/predict", files=files, **content), 422, kind)


@pytest.mark.parametrize(
    ("files", "status", "detail"),
    [
        ([("file", ("a.wav", b"1")), ("file", ("b.wav", b"2"))], 422, "Send one recording in a request"),
        ([("file", ("a.wav", b"1")), ("segments", (None, "never"))], 422, "Unknown field 'segments'"),
        ([("file", (None, "call.wav"))], 422, "'file' contains text"),
        ([], 415, "curl -F file=@call.wav"),
    ],
)
def test_forms_are_read_strictly(client: TestClient, files: Any, status: int, detail: str) -> None:
    answer = client.post("/v1/predict", files=files or None)
    assert answer.status_code == status
    assert detail in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/predict/batch", "/v1/models", "/healthz", "/metrics"])
def test_unknown_options_are_refused(client: TestClient, short: bytes, path: str) -> None:
    method = "POST" if "predict" in path else "GET"
    files = [("file" if path == "/v1/predict" else "files", ("a.wav", short))] if method == "POST" else None
    answer = client.request(method, path, params={"segment": "never"}, files=files)
    assert "Unknown option 'segment'" in problem(answer, 422, "wrong-request")


def test_an_option_given_twice_is_refused(client: TestClient, short: bytes) -> None:
    answer = send(client, short, params=[("segments", "auto"), ("segments", "never")])
    assert "given twice" in problem(answer, 422, "wrong-request")


def test_forms_that_cannot_be_read(client: TestClient) -> None:
    headers = {"Content-Type": "multipart/form-data"}
    problem(client.post("/v1/predict", content=b"nothing", headers=headers), 400, "unreadable-form")


FILE = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%b.wav"\r\n\r\n%b\r\n'


@pytest.mark.parametrize("num_missing", [1, 2, 5, 1000])
def test_forms_that_are_cut_off_lose_no_recording(client: TestClient, short: bytes, num_missing: int) -> None:
    form, headers = (
        FILE % (b"a", short) + FILE % (b"b", short) + b"--x--",
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert len(client.post("/v1/predict/batch", content=form, headers=headers).json()["results"]) == 2
    answer = client.post("/v1/predict/batch", content=form[:-num_missing], headers=headers)
    assert "cut off" in problem(answer, 400, "unreadable-form")


def test_recordings_without_a_file_name(client: TestClient, short: bytes) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + short + b"\r\n--x--\r\n"
    answer = client.post("/v1/predict", content=form, headers={"Content-Type": "multipart/form-data; boundary=x"})
    detail = problem(answer, 422, "wrong-request")
    assert detail.endswith("has no file name. Send a file, for example: curl -F file=@call.wav.")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_may_ask_for_headers_only(client: TestClient, path: str) -> None:
    assert client.head(path).status_code == 200
    assert "head" not in client.get("/openapi.json").json()["paths"][path]


def test_wrong_methods(client: TestClient) -> None:
    answer = client.get("/v1/predict")
    problem(answer, 405, "not-allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("announced", [True, False])
def test_large_uploads_are_refused_while_they_come(make_service: MakeService, short: bytes, announced: bool) -> None:
    with TestClient(create_app(make_service(limits=Limits(upload_bytes=5000)))) as client:
        body = (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
            + bytes(200_000)
            + b"\r\n--x--\r\n"
        )
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        content: Any = body if announced else iter([body[i : i + 10_000] for i in range(0, len(body), 10_000)])
        problem(client.post("/v1/predict", content=content, headers=headers), 413, "too-large")
        assert send(client, short[:4000]).status_code == 422  # a smaller one is looked at


def test_names_of_clients_lose_folders_and_controls(client: TestClient) -> None:
    detail = problem(send(client, b"x", "../../etc/pass\x07wd.wav"), 422, "unusable-recording")
    assert detail.startswith("pass%07wd.wav: ")
    assert file_name("a/b\\c\x07.wav") == "c.wav"


def test_keys(make_service: MakeService, short: bytes) -> None:
    with TestClient(create_app(make_service(), Keys([KEY]))) as client:
        for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": KEY}):
            answer = send(client, short, headers=headers)
            problem(answer, 401, "unauthorised")
            assert answer.headers["www-authenticate"] == "Bearer"
        allowed = {"Authorization": f"Bearer {KEY}"}
        assert send(client, short, headers=allowed).status_code == 200
        assert client.get("/metrics").status_code == client.get("/v1/models").status_code == 401
        assert client.get("/healthz").status_code == 200
        schema = client.get("/openapi.json").json()
        assert schema["security"] == [{"key": []}]
        assert [path for path, body in schema["paths"].items() if body.get("get", {}).get("security") == []] == [
            "/healthz",
            "/readyz",
        ]


def test_a_closed_service_is_not_ready(make_service: MakeService, short: bytes) -> None:
    service = make_service()
    with TestClient(create_app(service)) as client:
        service.limiter.is_closed = True
        for answer in (client.get("/readyz"), send(client, short)):
            problem(answer, 503, "busy")
            assert int(answer.headers["retry-after"]) >= 1


def test_faults_tell_nothing_of_the_inside(make_service: MakeService, short: bytes, monkeypatch: Any) -> None:
    service = make_service()

    async def fault(*_: object) -> None:
        raise ValueError("/secret/path")

    monkeypatch.setattr(service, "predict", fault)
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        assert "secret" not in problem(send(client, short), 500, "fault")


def test_errors_of_the_command_line_are_not_told(client: TestClient) -> None:
    from serein.server.limits import for_clients

    error = AudioError("no speech was found", where="a.wav", remedy="Predict it whole with --segments never.")
    assert str(for_clients(error)) == "a.wav: no speech was found."


def test_the_description_has_examples(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/v1/predict", "/v1/predict/batch", "/v1/models", "/healthz", "/readyz", "/metrics"}
    body = schema["paths"]["/v1/predict/batch"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert body["properties"]["files"]["maxItems"] == Limits().num_files
    assert schema["components"]["schemas"]["PredictionSchema"]["examples"][0]["label"] == "happy"
    assert set(schema["paths"]["/v1/predict"]["post"]["responses"]) >= {"200", "413", "422", "429", "503"}
