"""The process: it says where it listens, finishes what runs when it is told to end, and complains in one line."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import httpx
from websockets.sync.client import connect

import serein
from cli_fixtures import Call, without_runtime
from serein.audio import Upload
from serein.errors import RunError, SereinError
from serein.server.app import bound
from serein.server.middleware import read_keys
from server.processes import served


@pytest.fixture
def model(tiny_run: Path) -> Path:
    return next(tiny_run.glob("fold-*/seed-*/model"))


@pytest.mark.slow
def test_shutdown_finishes_what_runs(model: Path, short: bytes, speech: np.ndarray) -> None:
    with served(model, "--no-page") as server:
        answers: list[httpx.Response] = []
        address = server.address.replace("http", "ws")
        with connect(f"{address}/v1/stream") as stream:
            assert json.loads(stream.recv(10))["type"] == "ready"
            stream.send((speech * 32767).astype("<i2").tobytes())
            sending = threading.Thread(target=lambda: answers.append(_slowly_sent(server.address, short, server)))
            sending.start()
            said = [json.loads(message) for message in stream]
        sending.join(30)
        status, complaints = server.ended()
    assert answers[0].status_code == 200
    assert [each["type"] for each in said].count("segment") >= 1
    assert (said[-1]["type"], said[-1]["reason"], said[-1]["end_s"]) == ("end", "shutdown", 5.0)
    assert stream.close_code == 1001
    assert status in (0, -signal.SIGTERM)
    assert without_runtime(complaints) == ""


def _slowly_sent(address: str, content: bytes, server: object) -> httpx.Response:
    """Send half of an upload, tell the server to end, and send the rest."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'

    def body() -> object:
        yield head + content[:8000]
        time.sleep(0.5)
        server.process.terminate()  # type: ignore[attr-defined]
        time.sleep(0.5)
        yield content[8000:] + b"\r\n--x--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return httpx.post(f"{address}/v1/predict", content=body(), headers=headers, timeout=30)  # type: ignore[arg-type]


@pytest.mark.slow
def test_keys_and_limits_are_options(model: Path, short: bytes, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# ours\n0123456789abcdef\n")
    with served(model, "--no-page", "--api-key-file", keys, "--max-mb", "0.01") as server:
        post = f"{server.address}/v1/predict"
        assert httpx.post(post, files={"file": short}).status_code == 401
        allowed = {"Authorization": "Bearer 0123456789abcdef"}
        assert httpx.post(post, files={"file": short}, headers=allowed).status_code == 413
        assert httpx.post(post, files={"file": short[:9000]}, headers=allowed).status_code == 422
        assert httpx.get(f"{server.address}/page/").status_code == 404
        server.process.send_signal(signal.SIGINT)
        status, complaints = server.ended()
        assert (status, without_runtime(complaints)) == (0, "")


def test_a_taken_port_is_one_line(serein: Call, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        body = serein("serve", "--model", model, "--port", port, "--no-page")
    assert body.complaint == f"error: 127.0.0.1:{port}: the address is in use. Choose another with --port."
    assert body.status == 1


def test_foreign_addresses() -> None:
    with pytest.raises(RunError, match="cannot listen there"):
        bound("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("\n# none\n", "contains no key"),
        ("short\n", "fewer than 16"),
        ("0123456789abcdef  # anna\n", "a key contains a space"),
        ("schlüssel-0123456789\n", "not ASCII"),
    ],
)
def test_keys_that_protect_nothing(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SereinError, match=complaint):
        read_keys(path)


def test_keys_of_windows_editors(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("0123456789abcdef\n", encoding="utf-8-sig")  # with a byte order mark
    assert read_keys(path).allows("Bearer 0123456789abcdef")


def test_a_missing_extra_is_named(serein: Call, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    complaint = serein("serve", "--model", model).complaint
    assert "'uvicorn'" in complaint
    assert "pip install 'serein[serve]'" in complaint


@pytest.mark.slow
def test_hosts_and_origins_are_options(serein: Call, model: Path) -> None:
    options = (
        "--allowed-hosts",
        "speech.example.org",
        "--allowed-origins",
        "https://app.example.org,https://b.example",
    )
    with served(model, *options) as server:
        for host, status in (("speech.example.org", 200), ("evil.example", 421)):
            assert httpx.get(f"{server.address}/v1/models", headers={"Host": host}).status_code == status
        for origin, status in (("https://b.example", 200), ("https://evil.example", 403)):
            assert httpx.get(f"{server.address}/v1/models", headers={"Origin": origin}).status_code == status
    complaint = serein("serve", "--model", model, "--allowed-origins", "app.example.org/page").complaint
    assert "Write it like https://example.org" in complaint


@pytest.mark.slow
def test_an_exported_file_is_served(short: bytes, tmp_path: Path) -> None:
    """It answers as PyTorch does, over HTTP, and names what it runs on."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder, path = Path(__file__).parents[1] / "golden" / "models" / "classes", tmp_path / "classes.onnx"
    serein.export(folder, path)
    expected = serein.load(folder, "cpu").predict(Upload(short, "a.wav")).to_dict()
    for runtime in ["onnx", *(["openvino"] if find_spec("openvino") else [])]:
        with served(path, "--no-page", "--runtime", runtime) as server:
            found = httpx.post(f"{server.address}/v1/predict", files={"file": ("a.wav", short)}, timeout=30).json()
            server.process.terminate()
            assert f": {runtime} on cpu, float32" in server.ended()[1]
        assert found.pop("probabilities") == pytest.approx(expected["probabilities"], abs=1e-4)
        assert found.pop("confidence") == pytest.approx(expected["confidence"], abs=1e-4)
        assert found.keys() == expected.keys() - {"probabilities", "confidence"}
        assert (found["label"], found["model"]) == (expected["label"], expected["model"])
