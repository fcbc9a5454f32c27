"""Counts of what is under way: given back whatever happens, and refused in the right words."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest

pytest.importorskip("fastapi")

from serein.errors import RecipeError
from serein.server.limits import ConcurrencyLimiter, HTTPProblem, Limits
from server.ingredients import Live


def refused(status: int) -> object:
    """Expect a problem of this status that says when to try again."""
    return pytest.raises(HTTPProblem, check=lambda body: (body.status_code, *body.headers) == (status, "Retry-After"))


def test_a_client_and_all_clients_have_limits() -> None:
    limiter = ConcurrencyLimiter(Limits(at_once=3, per_client=2))
    with ExitStack() as inside:
        inside.enter_context(limiter.one_more("request", "anna"))
        inside.enter_context(limiter.one_more("request", "anna"))
        with refused(429), limiter.one_more("request", "anna"):
            pass
        inside.enter_context(limiter.one_more("request", "ben"))
        with refused(503), limiter.one_more("request", "cleo"):
            pass
        assert limiter.of_kind["request"] == 3
    assert limiter.of_kind["request"] == 0
    with limiter.one_more("request", "anna"):
        assert limiter.of_kind["request"] == 1


def test_streams_count_apart_but_for_their_client() -> None:
    limiter = ConcurrencyLimiter(Limits(streams=2, per_client=2))
    with (
        limiter.one_more("stream", "anna"),
        limiter.one_more("request", "anna"),
        refused(429),
        limiter.one_more("stream", "anna"),
    ):
        pass
    with (
        limiter.one_more("stream", "anna"),
        limiter.one_more("stream", "ben"),
        refused(503),
        limiter.one_more("stream", "cleo"),
    ):
        pass
    assert limiter.of_kind["stream"] == 0


def test_places_are_given_back_after_faults() -> None:
    limiter = ConcurrencyLimiter(Limits(at_once=1))
    for _ in range(3):
        with pytest.raises(ValueError, match="fault"), limiter.one_more("request", "anna"):
            raise ValueError("fault")
    assert limiter.of_kind["request"] == 0


def test_memory_is_shared_and_given_back() -> None:
    limiter = ConcurrencyLimiter(Limits(memory_bytes=100))
    with limiter.memory() as take, limiter.memory() as other:
        take(60)
        other(40)
        with refused(503):
            take(1)
        assert limiter.num_bytes == 100
    assert limiter.num_bytes == 0


def test_closed() -> None:
    limiter = ConcurrencyLimiter(Limits())
    limiter.is_closed = True
    for kind in ("request", "stream"):
        with refused(503), limiter.one_more(kind, "anna"):
            pass


def test_limits_are_positive() -> None:
    with pytest.raises(RecipeError, match="per_client: 0 is not a limit"):
        Limits(per_client=0)


def test_open_connections_are_counted(live: Callable[..., Live]) -> None:
    service = live(limits=Limits(connections=3))
    opened = [socket.create_connection(service.place, 10) for _ in range(3)]
    request = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for connection in opened:
        connection.sendall(request)
        assert connection.recv(12) == b"HTTP/1.1 200"
    with socket.create_connection(service.place, 10) as further:
        assert received(further) == b""
    opened.pop().close()
    for _ in range(100):  # until the service has noticed
        with socket.create_connection(service.place, 10) as further:
            further.sendall(request)
            if (answer := received(further)) == b"HTTP/1.1 200":
                break
    assert answer == b"HTTP/1.1 200"
    for connection in opened:
        connection.close()


def received(connection: socket.socket) -> bytes:
    """Return the first bytes that come, none from a connection that is closed."""
    try:
        return connection.recv(12)
    except ConnectionError:
        return b""
