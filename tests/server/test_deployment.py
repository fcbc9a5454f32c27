"""The files in docs/deployment.md, tried: the unit by systemd, the snippet by nginx before a running server."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import httpx
from websockets.sync.client import connect

from server.processes import served
from server.proxy import Proxy, block, needs_nginx, proxied


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_the_unit_is_one(tmp_path: Path) -> None:
    unit = tmp_path / "serein.service"
    unit.write_text(block("ini").replace("/opt/serein/bin/serein", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "serein" in line]) == (0, [])


@needs_nginx
def test_through_nginx(tiny_run: Path, tmp_path: Path, short: bytes, speech: np.ndarray) -> None:
    model = next(tiny_run.glob("fold-*/seed-*/model"))
    with served(model, "--no-page") as server, proxied(server, tmp_path) as proxy:
        with httpx.Client(base_url=f"https://{proxy.place}", verify=proxy.trusted, timeout=30) as client:
            direct = httpx.post(f"{server.address}/v1/predict", files={"file": short}, timeout=30)
            assert client.post("/v1/predict", files={"file": short}).json() == direct.json()
            assert direct.status_code == 200
            assert client.post("/v1/predict", files={"file": b"no sound"}).status_code == 422
            assert client.get("/metrics").status_code == 200
        for origin in (None, f"https://{proxy.place}"):  # of a program, and of a browser
            said = _streamed(proxy, speech, origin)
            assert [each["type"] for each in said[:2]] == ["ready", "segment"]
            assert (said[-1]["type"], said[-1]["reason"], said[-1]["end_s"]) == ("end", "end", 5.0)


def _streamed(proxy: Proxy, speech: np.ndarray, origin: str | None) -> list[dict[str, object]]:
    with connect(f"wss://{proxy.place}/v1/stream", ssl=proxy.trusted, origin=origin) as stream:  # type: ignore[arg-type]
        stream.send((speech * 32767).astype("<i2").tobytes())
        stream.send('{"type": "end"}')
        return [json.loads(message) for message in stream]
