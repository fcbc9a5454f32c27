"""Deadlines of a connection, against a real uvicorn server and an application that refuses without reading."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

pytest.importorskip("uvicorn")

import uvicorn

from serein.server.app import TimedProtocol

HEADERS_S, DRAIN_S = 0.4, 0.6


async def refuse(scope: Any, _: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    protocol: Any = partial(TimedProtocol, headers_s=HEADERS_S, drain_s=DRAIN_S, most_connections=100)
    server = uvicorn.Server(uvicorn.Config(refuse, http=protocol, lifespan="off", log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield listening.getsockname()
        server.should_exit = True
        thread.join(10)


def told(address: tuple[str, int], first: bytes, again: bytes = b"", most_s: float = 5.0) -> bytes | None:
    """Send `first`, then `again` and again; return what was answered once the server closes, `None` if it does not."""
    answer = b""
    until_s = time.monotonic() + most_s
    with socket.create_connection(address) as client:
        client.sendall(first)
        client.settimeout(0.05)
        while time.monotonic() < until_s:
            try:
                if not (more := client.recv(4096)):
                    return answer
                answer += more
            except TimeoutError:
                pass
            except ConnectionError:
                return answer
            try:
                client.sendall(again)
            except ConnectionError:
                return answer
    return None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\n", b""),
        (b"GET / HTTP/1.1\r\n", b"X-More: 1\r\n"),
    ],
)
def test_headers_that_never_end(address: tuple[str, int], first: bytes, again: bytes) -> None:
    assert told(address, first, again) == b""


@pytest.mark.slow
def test_a_second_request_is_timed_as_the_first(address: tuple[str, int]) -> None:
    answer = told(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n")
    assert answer is not None
    assert answer.count(b"HTTP/1.1 413") == 1


@pytest.mark.slow
def test_who_sends_on_after_a_refusal_reads_it_and_is_cut_off(address: tuple[str, int]) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n"
    answer = told(address, head, b"x" * 1000)
    assert answer is not None
    assert answer.endswith(b"no")


@pytest.mark.slow
def test_who_waits_between_requests_is_not_cut_off(address: tuple[str, int]) -> None:
    assert told(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", most_s=3 * HEADERS_S) is None
