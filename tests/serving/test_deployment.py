"""The files in docs/deployment.md, tried: the unit by systemd, the snippet by nginx before a running server."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import httpx
from websockets.sync.client import connect

from serving.processes import served

DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment.md"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")


def block(language: str) -> str:
    """Return the file that stands in the page."""
    found = re.search(rf"^```{language}\n(.*?)^```", DEPLOYMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_the_unit_is_one(tmp_path: Path) -> None:
    unit = tmp_path / "serein.service"
    unit.write_text(block("ini").replace("/opt/serein/bin/serein", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "serein" in line]) == (0, [])


@pytest.fixture
def trusted(tmp_path: Path) -> ssl.SSLContext:
    """Make a certificate, and return who believes it."""
    files = ["-keyout", tmp_path / "privkey.pem", "-out", tmp_path / "fullchain.pem"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2", *files, *name]
    subprocess.run(made, check=True, capture_output=True)
    return ssl.create_default_context(cafile=tmp_path / "fullchain.pem")


@pytest.fixture
def address(tiny_run: Path, tmp_path: Path, trusted: ssl.SSLContext) -> Iterator[str]:
    """nginx by the snippet, before a server of the tiny model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with served(next(tiny_run.glob("fold-*/seed-*/model")), "--no-page") as server:
        snippet = block("nginx").replace("/etc/ssl/serein", str(tmp_path)).replace("443", str(port))
        snippet = snippet.replace("127.0.0.1:8000", server.address.split("//")[1])
        folders = "".join(
            f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root; " if os.geteuid() == 0 else ""  # else nginx's own cannot write below tmp_path
        conf = tmp_path / "nginx.conf"
        conf.write_text(
            f"{user}daemon off; pid {tmp_path}/pid; error_log {tmp_path}/log; events {{}}\n"
            f"http {{\naccess_log off;\n{folders}{snippet}}}\n"
        )
        started = [str(NGINX), "-p", str(tmp_path), "-c", str(conf)]
        subprocess.run([*started, "-t"], check=True, capture_output=True)
        process = subprocess.Popen(started, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port)
            yield f"localhost:{port}"
        finally:
            process.terminate()
            process.wait(10)


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("nginx does not listen")


@pytest.mark.skipif(NGINX is None or shutil.which("openssl") is None, reason="no nginx or openssl")
def test_through_nginx(address: str, trusted: ssl.SSLContext, short: bytes, speech: np.ndarray) -> None:
    with httpx.Client(base_url=f"https://{address}", verify=trusted, timeout=30) as client:
        assert client.post("/v1/predict", files={"file": short}).json()["duration_s"] == 0.5
        assert client.post("/v1/predict", files={"file": b"no sound"}).status_code == 422
        assert client.get("/metrics").status_code == 200
    for said in (
        _streamed(f"wss://{address}/v1/stream", trusted, speech, origin=None),
        _streamed(f"wss://{address}/v1/stream", trusted, speech, origin=f"https://{address}"),
    ):
        assert [each["type"] for each in said[:2]] == ["ready", "heard"]
        assert said[-1] == {"type": "end", "reason": "end", "duration_s": 5.0}


def _streamed(url: str, trusted: ssl.SSLContext, speech: np.ndarray, origin: str | None) -> list[dict[str, object]]:
    with connect(url, ssl=trusted, origin=origin) as stream:  # type: ignore[arg-type]
        stream.send((speech * 32767).astype("<i2").tobytes())
        stream.send('{"type": "end"}')
        return [json.loads(message) for message in stream]
