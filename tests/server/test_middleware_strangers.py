"""What strangers may not do, each tried by a real client against a real server: get in, wait, fill memory or a disk."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import httpx
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from serein.server.limits import Limits
from serein.server.middleware import Keys, names
from server.ingredients import Live, encoded

pytestmark = pytest.mark.slow

KEY = "0123456789abcdef"
QUICK = Limits(headers_s=0.5, upload_s=0.7, upload_bytes=200_000, memory_bytes=2_000_000)
HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
FOOT = b"\r\n--x--\r\n"
FORM = "Content-Type: multipart/form-data; boundary=x"

Serve = Callable[..., Live]


def problem(answer: httpx.Response, status: int) -> str:
    """Return the detail of a problem of this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["detail"])


def request(path: str, *headers: str, method: str = "POST") -> bytes:
    """Return a request's head."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def answered(place: tuple[str, int], first: bytes, again: bytes = b"", most_s: float = 10.0) -> bytes:
    """Send `first`, then `again` every now and then, until the server closes; return what it said."""
    said, until_s = b"", time.monotonic() + most_s
    with socket.create_connection(place) as client:
        client.settimeout(0.05)
        try:
            client.sendall(first)
            while time.monotonic() < until_s:
                try:
                    if not (more := client.recv(65_536)):
                        return said
                    said += more
                except TimeoutError:
                    client.sendall(again)
        except (ConnectionError, TimeoutError):
            return said
    raise AssertionError(f"still open after {most_s} s: {said!r}")


def until(is_so: Callable[[], Any]) -> None:
    """Wait for what the server's thread does."""
    for _ in range(500):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to pass")


def peak_memory() -> int:
    """Return the most that this process has had in memory, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def open_files() -> set[str]:
    """Return the files that this process has open, deleted ones, too."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith("/") and not target.startswith(("/dev", "/proc")):
            found.add(target)
    return found


class TestNames:
    """Hosts and origins."""

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", "192.0.2.1"])
    @pytest.mark.parametrize("path", ["/", "/page/page.js", "/v1/models", "/healthz", "/openapi.json"])
    def test_foreign_hosts_are_refused(self, live: Serve, host: str, path: str) -> None:
        answer = httpx.get(live().address + path, headers={"Host": host})
        assert "--allowed-hosts" in problem(answer, 421)

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:9", "a.localhost", "localhost."]
    )
    def test_loopback_names_are_known(self, live: Serve, host: str) -> None:
        assert httpx.get(live().address + "/v1/models", headers={"Host": host}).status_code == 200

    def test_hosts_can_be_named(self, live: Serve) -> None:
        server = live(names=names(["speech.example.org", "Other:8000"]))
        for host, status in (("speech.example.org", 200), ("other", 200), ("example.org", 421)):
            assert httpx.get(server.address + "/v1/models", headers={"Host": host}).status_code == status

    @pytest.mark.parametrize(
        "origin", ["http://evil.example", "null", "http://localhost.evil.example", "http://127.0.0.1"]
    )
    def test_forms_of_other_pages_are_refused(self, live: Serve, short: bytes, origin: str) -> None:
        address = live().address
        files = {"file": ("a.wav", short)}
        answer = httpx.post(f"{address}/v1/predict", files=files, headers={"Origin": origin})
        assert "--allowed-origins" in problem(answer, 403)
        assert httpx.post(f"{address}/v1/predict", files=files, headers={"Origin": address}).status_code == 200

    def test_streams_are_refused_alike(self, live: Serve) -> None:
        server = live()
        address = server.address.replace("http", "ws") + "/v1/stream"
        for headers, status in (({"Origin": "http://evil.example"}, 403), ({"Host": "evil.example"}, 421)):
            with pytest.raises(InvalidStatus) as refused, connect(address, additional_headers=headers):
                pass
            # the client sends its own Host first, so that a second one makes the request a wrong one
            assert refused.value.response.status_code in (status, 400)

    def test_pages_of_allowed_origins_may_read_answers_and_refusals(self, live: Serve, short: bytes) -> None:
        server, origin = live(names=names((), ["https://app.example.org"]), keys=Keys([KEY])), "https://app.example.org"
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        assert httpx.options(f"{server.address}/v1/predict", headers=asked).status_code == 200
        for key, status in (("wrong-key-of-a-page", 401), (KEY, 200)):
            headers = {"Origin": origin, "Authorization": f"Bearer {key}"}
            answer = httpx.post(f"{server.address}/v1/predict", files={"file": ("a.wav", short)}, headers=headers)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == origin


class TestKeys:
    """Every route that holds data, and none that a visitor of the page needs before."""

    def test_every_route_with_data_needs_a_key(self, live: Serve) -> None:
        server = live(keys=Keys([KEY]))
        routes = {
            "/v1/predict": "POST",
            "/v1/predict/batch": "POST",
            "/v1/models": "GET",
            "/metrics": "GET",
            "/v1/x": "GET",
        }
        for path, method in routes.items():
            problem(httpx.request(method, server.address + path), 401)
            problem(httpx.request(method, server.address + path, headers={"Authorization": "Bearer x"}), 401)
        with pytest.raises(InvalidStatus) as refused, connect(server.address.replace("http", "ws") + "/v1/stream"):
            pass
        assert refused.value.response.status_code == 401
        for path in ("/", "/page/page.js", "/openapi.json", "/healthz", "/readyz"):
            assert httpx.get(server.address + path).status_code == 200

    @pytest.mark.parametrize(
        "path", ["/v1/predict", "/page/page.js", "/page/gradio_api/reset", "/page/login", "/", "/x"]
    )
    @pytest.mark.parametrize("is_announced", [True, False])
    def test_large_bodies_without_a_key_take_no_memory(self, live: Serve, path: str, is_announced: bool) -> None:
        server, size = live(keys=Keys([KEY]), limits=Limits(upload_s=20)), 100_000_000
        piece = bytes(1_000_000)

        def body() -> Iterator[bytes]:
            for _ in range(size // len(piece)):
                yield piece

        headers = {"Content-Length": str(size)} if is_announced else {}
        before = peak_memory()
        answer = httpx.post(server.address + path, content=body(), headers=headers, timeout=30)
        assert answer.status_code in (401, 404, 405)
        assert peak_memory() - before < 20_000_000


class TestTime:
    """Nothing stays open for a client that does not get on with it."""

    def test_headers_that_never_end(self, live: Serve) -> None:
        for again in (b"", b"X-More: 1\r\n"):
            assert answered(live(limits=QUICK).place, b"POST /v1/predict HTTP/1.1\r\n", again) == b""

    @pytest.mark.parametrize("size", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
    def test_slow_uploads(self, live: Serve, size: str) -> None:
        server = live(limits=QUICK)
        first, again = (HEAD, b"x") if "Length" in size else (b"%x\r\n%b\r\n" % (len(HEAD), HEAD), b"1\r\nx\r\n")
        said = answered(server.place, request("/v1/predict", size, FORM, "Connection: close") + first, again)
        assert b"HTTP/1.1 408" in said
        assert b"The upload did not arrive within 0.7 s" in said
        assert server.service.limiter.of_kind["request"] == server.service.limiter.num_bytes == 0

    @pytest.mark.parametrize("path", ["/", "/page/page.js", "/healthz", "/v1/models"])
    def test_slow_bodies_that_nobody_reads(self, live: Serve, path: str) -> None:
        said = answered(live(limits=QUICK).place, request(path, "Content-Length: 100000", "Connection: close"), b"x")
        assert said.startswith(b"HTTP/1.1 405")

    def test_slow_bodies_without_a_key(self, live: Serve) -> None:
        server = live(limits=QUICK, keys=Keys([KEY]))
        said = answered(server.place, request("/v1/predict", "Content-Length: 100000", FORM, "Connection: close"), b"x")
        assert said.startswith(b"HTTP/1.1 401")


class TestUploads:
    """Sizes, truthful refusals, and nothing left behind."""

    @pytest.mark.parametrize("keep", [["Connection: close"], []])
    @pytest.mark.parametrize("is_announced", [True, False])
    def test_a_file_that_is_too_large_is_told_why(self, live: Serve, keep: list[str], is_announced: bool) -> None:
        server, body = live(limits=Limits(upload_bytes=1_000_000)), HEAD + bytes(39_000_000) + FOOT
        size = f"Content-Length: {len(body)}" if is_announced else "Transfer-Encoding: chunked"
        sent = body if is_announced else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        with socket.create_connection(server.place) as client:
            client.settimeout(20)
            client.sendall(request("/v1/predict", size, FORM, *keep) + sent)  # all of it, as browsers do
            said = b""
            while not said.endswith(b"}") and (more := client.recv(65_536)):
                said += more
        assert said.startswith(b"HTTP/1.1 413")
        assert b"At most 1 MB are accepted" in said

    def test_a_client_that_asks_first_need_not_send(self, live: Serve) -> None:
        server = live(limits=Limits(upload_bytes=1_000_000))
        with socket.create_connection(server.place) as client:
            client.settimeout(5)
            client.sendall(request("/v1/predict", "Content-Length: 39000000", FORM, "Expect: 100-continue"))
            assert client.recv(65_536).startswith(b"HTTP/1.1 413")

    def test_bodies_without_a_length_are_bounded(self, live: Serve) -> None:
        server = live(limits=QUICK)

        def body() -> Iterator[bytes]:
            yield HEAD
            for _ in range(100):
                yield bytes(100_000)

        answer = httpx.post(f"{server.address}/v1/predict", content=body(), headers=dict([FORM.split(": ")]))
        assert "At most 0.2 MB" in problem(answer, 413)
        assert server.service.limiter.num_bytes == 0

    def test_nothing_is_written_to_a_disk(
        self, live: Serve, speech: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "no such folder"))  # a service may have none to write to
        server, content = live(), encoded(np.tile(speech, 20))
        assert len(content) > 3_000_000
        before = open_files()
        seen: set[str] = set()
        is_over = threading.Event()
        watching = threading.Thread(target=lambda: [seen.update(open_files()) for _ in iter(is_over.is_set, True)])
        watching.start()
        for name in ("a.wav", "b.wav"):
            assert httpx.post(f"{server.address}/v1/predict", files={"file": (name, content)}, timeout=60).is_success
        is_over.set()
        watching.join()
        assert not {path for path in seen - before if "deleted" in path or str(tmp_path) in path}
        assert list(tmp_path.iterdir()) == []

    def test_abandoned_uploads_are_no_faults(
        self, live: Serve, short: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        server = live()
        for part in (b"", HEAD, HEAD + short[:5000]):
            with socket.create_connection(server.place) as client:
                client.sendall(request("/v1/predict", "Content-Length: 100000", FORM) + part)
                until(lambda: server.service.limiter.of_kind["request"])
            until(lambda: not server.service.limiter.of_kind["request"])
        assert server.service.limiter.num_bytes == 0
        assert server.counted(499) == 3
        assert server.counted(500) == 0
        assert "Traceback" not in capfd.readouterr().err + caplog.text

    def test_clients_that_do_not_wait_are_no_faults(
        self, live: Serve, speech: np.ndarray, capfd: pytest.CaptureFixture[str]
    ) -> None:
        server, body = live(), HEAD + encoded(np.tile(speech, 30)) + FOOT
        with socket.create_connection(server.place) as client:
            client.sendall(request("/v1/predict?segments=always", f"Content-Length: {len(body)}", FORM) + body)
            until(lambda: server.service.limiter.num_bytes == len(body))
        until(lambda: not server.service.limiter.of_kind["request"])
        assert server.counted(500) == 0
        assert "Traceback" not in capfd.readouterr().err


class TestStreams:
    """What is sent as samples."""

    @pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "W64"])
    def test_files_are_no_samples(self, live: Serve, speech: np.ndarray, form: str) -> None:
        content = encoded(speech, form=form)
        with connect(live().address.replace("http", "ws") + "/v1/stream") as stream:
            assert json.loads(stream.recv())["type"] == "ready"
            with suppress(ConnectionClosed):
                for place in range(0, min(len(content), 20_000), 700):
                    stream.send(content[place : place + 700])
            said: list[Any] = []
            with suppress(ConnectionClosed):
                while True:
                    said.append(json.loads(stream.recv()))
        end = said[-1]
        assert end["reason"].endswith("file, not samples")
        assert stream.close_code == 1003

    def test_samples_are_samples(self, live: Serve, speech: np.ndarray) -> None:
        with connect(live().address.replace("http", "ws") + "/v1/stream") as stream:
            stream.send((speech * 32767).astype("<i2").tobytes())
            stream.send('{"type": "end"}')
            said = [json.loads(message) for message in stream]
        assert [said[0]["type"], said[-1]["reason"]] == ["ready", "end"]

    @pytest.mark.parametrize("query", ["?rate=8000", "?rate_hz=8000&window=3", "?rate_hz=8000&rate_hz=16000"])
    def test_unknown_options_are_refused(
        self, live: Serve, query: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = live()
        monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)
        with pytest.raises(InvalidStatus) as refused:
            connect(server.address.replace("http", "ws") + "/v1/stream" + query)
        assert refused.value.response.status_code == 422
        httpx.get(server.address + "/healthz")  # after the log of the refusal
        assert not caplog.records  # a client's mistake is no fault of the service
