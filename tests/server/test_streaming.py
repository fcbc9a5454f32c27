"""Sound through a WebSocket: the same windows and answers as from a file, and an end for every reason."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from serein.audio import resample
from serein.inference.predictor import Predictor
from serein.inference.streams import Stream, pcm16
from serein.server.app import create_app, uvicorn_server
from serein.server.limits import Limits
from serein.server.middleware import Keys
from serein.server.streaming import StreamBuffer, Streams
from server.ingredients import MakeService

END = json.dumps({"type": "end"})


def as_pcm16(samples: np.ndarray) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def converse(socket: Any, data: bytes, size: int = 7001) -> list[dict[str, Any]]:
    """Send sound in odd pieces, and return all that is said to it."""
    for start in range(0, len(data), size):
        socket.send_bytes(data[start : start + size])
    socket.send_text(END)
    return rest(socket)


def rest(socket: Any) -> list[dict[str, Any]]:
    """Return all that is said until the end."""
    said = []
    while True:
        said.append(json.loads(socket.receive_text()))
        if said[-1]["type"] == "end":
            return said


def test_windows_are_those_of_a_file(client: TestClient, predictor: Predictor, speech: np.ndarray) -> None:
    stream = Stream(predictor)
    expected = stream.feed(pcm16(as_pcm16(speech))) + stream.finish()
    with client.websocket_connect("/v1/stream") as socket:
        ready, *heard, end = converse(socket, as_pcm16(speech))
    assert ready == {"type": "ready", "rate_hz": 16_000, "task": "emotion"}
    assert [(h["start_s"], h["end_s"], h["label"]) for h in heard] == [
        (round(e.start_s, 3), round(e.end_s, 3), e.label) for e in expected
    ]
    assert heard[0]["probabilities"] == pytest.approx(expected[0].probabilities, abs=1e-5)
    assert (end["type"], end["reason"], end["end_s"]) == ("end", "end", 5.0)
    assert end["label"] == stream.prediction.label


def test_speech_is_sent_once(client: TestClient, speech: np.ndarray) -> None:
    word, silence = speech[8000:22_400], np.zeros(16_000, np.float32)
    with client.websocket_connect("/v1/stream") as socket:
        _, *segments, end = converse(socket, as_pcm16(np.concatenate([silence, word, silence, word, silence])))
    assert len(segments) == 2
    assert segments[0]["end_s"] <= segments[1]["start_s"]
    assert len(end["segments"]) == 1  # all of a short stream at once


def test_other_rates(client: TestClient, speech: np.ndarray) -> None:
    with client.websocket_connect("/v1/stream") as socket:
        windows = [each for each in converse(socket, as_pcm16(speech)) if each["type"] == "segment"]
    slow = as_pcm16(resample(np.repeat(speech, 3), 32_000))  # 48 kHz, every second sample of it
    with client.websocket_connect("/v1/stream?rate_hz=24000") as socket:
        others = [each for each in converse(socket, slow) if each["type"] == "segment"]
    assert len(others) == len(windows)


@pytest.mark.parametrize("rate", ["3999", "192001", "abc", "-1", "²", "9" * 30])
def test_wrong_rates_are_refused_before_anything_is_heard(client: TestClient, rate: str) -> None:
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect(f"/v1/stream?rate_hz={rate}"):
        pass
    assert refused.value.status_code == 422
    assert refused.value.json()["type"].endswith("wrong-request")


def test_keys_and_foreign_pages(make_service: MakeService) -> None:
    key = "a-key-of-this-test"
    with TestClient(create_app(make_service(), Keys([key]))) as client:
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {key}", "Origin": "https://else.where"}, 403)):
            with (
                pytest.raises(WebSocketDenialResponse) as refused,
                client.websocket_connect("/v1/stream", headers=headers),
            ):
                pass
            assert refused.value.status_code == status
        with client.websocket_connect("/v1/stream", headers={"Authorization": f"Bearer {key}"}) as socket:
            assert json.loads(socket.receive_text())["type"] == "ready"


def test_one_more_stream_than_allowed(make_service: MakeService) -> None:
    service = make_service(limits=Limits(streams=1))
    with TestClient(create_app(service)) as client:
        with client.websocket_connect("/v1/stream"):
            with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/v1/stream"):
                pass
            assert refused.value.status_code == 503
            assert refused.value.headers["retry-after"]
        with client.websocket_connect("/v1/stream") as socket:
            assert converse(socket, b"")[-1]["reason"] == "end"
    assert service.limiter.of_kind["stream"] == 0


@pytest.mark.parametrize(
    ("limits", "act", "reason", "code"),
    [
        (Limits(idle_s=0.1), lambda socket: None, "idle", 1008),
        (Limits(stream_s=0.5), lambda socket: socket.send_bytes(bytes(40_000)), "too long", 1008),
        (Limits(), lambda socket: socket.send_text("hello"), "wrong message", 1003),
        (Limits(), lambda socket: socket.send_text("[1]"), "wrong message", 1003),
    ],
)
def test_ends(make_service: MakeService, limits: Limits, act: Any, reason: str, code: int) -> None:
    with (
        TestClient(create_app(make_service(limits=limits))) as client,
        client.websocket_connect("/v1/stream") as socket,
    ):
        act(socket)
        assert rest(socket)[-1]["reason"] == reason
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        assert closed.value.code == code


def test_shutting_down_says_what_was_heard(make_service: MakeService, speech: np.ndarray) -> None:
    service = make_service()
    app = create_app(service)
    with TestClient(app) as client, client.websocket_connect("/v1/stream") as socket:
        socket.send_bytes(as_pcm16(speech))
        assert [json.loads(socket.receive_text())["type"] for _ in range(2)] == ["ready", "segment"]
        client.portal.call(app.state.streams.finish, 10.0)
        said = rest(socket)
    assert said[-1]["reason"] == "shutdown"
    assert said[-1]["end_s"] == 5.0


def test_a_fault_of_the_model_is_told_and_raised(make_service: MakeService, predictor: Predictor, speech: Any) -> None:
    class Faulty(Predictor):
        def predict_clips(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("CUDA error")

    def conversation() -> None:
        app = create_app(make_service(Faulty(predictor.checkpoint)))
        with TestClient(app) as client, client.websocket_connect("/v1/stream") as socket:
            socket.send_bytes(as_pcm16(speech))
            with pytest.raises(WebSocketDisconnect) as closed:
                rest(socket)
            assert (closed.value.code, closed.value.reason) == (1011, "Internal error; see the service's log.")

    with pytest.raises(RuntimeError, match="CUDA error"):  # for uvicorn's log
        conversation()


def test_empty_messages_are_idle() -> None:
    class Silent:
        async def receive(self) -> dict[str, Any]:
            await asyncio.sleep(0.01)
            return {"type": "websocket.receive", "bytes": b""}

    async def scenario() -> str | None:
        streams: Any = Streams(SimpleNamespace(limits=Limits(idle_s=0.1)))  # type: ignore[arg-type]
        buffer = StreamBuffer(least=2, most=4)
        await asyncio.wait_for(streams._read(Silent(), buffer, 16_000), 10)
        return buffer.why_closed

    assert asyncio.run(scenario()) == "idle"


def test_a_client_that_leaves_at_once_is_no_fault(make_service: MakeService) -> None:
    app = create_app(make_service())
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.disconnect", "code": 1006} if sent else {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if message["type"] == "websocket.send":
            raise OSError("connection lost")

    place = {"path": "/v1/stream", "raw_path": b"/v1/stream", "query_string": b"", "root_path": ""}
    ends = {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "headers": [(b"host", b"127.0.0.1")]}
    scope = {"type": "websocket", "scheme": "ws", "subprotocols": [], "state": {}, **place, **ends}
    asyncio.run(app(scope, receive, send))
    assert sent == ["websocket.accept", "websocket.send"]


def test_streams_behind_the_model_are_kept_open(make_service: MakeService) -> None:
    config = uvicorn_server(create_app(make_service()), lambda: None).config
    assert config.ws_ping_timeout is None  # a pong behind waiting samples is read late
    assert config.ws_ping_interval < 60.0  # proxies close a connection without messages


def test_large_messages_are_processed_in_pieces() -> None:
    async def scenario() -> list[bytes]:
        buffer = StreamBuffer(least=2, most=4)
        await buffer.put(b"123456789")
        await buffer.close("end")
        return [await buffer.take() for _ in range(3)]

    assert asyncio.run(scenario()) == [b"1234", b"5678", b""]


def test_a_full_inbox_lets_the_sender_wait() -> None:
    async def scenario() -> None:
        buffer = StreamBuffer(least=2, most=4)
        await buffer.put(b"12345")
        sending = asyncio.ensure_future(buffer.put(b"6"))
        await asyncio.sleep(0.01)
        assert not sending.done()
        assert await buffer.take() == b"1234"  # whole samples
        await sending
        assert await buffer.take() == b"56"
        await buffer.close("end")
        await buffer.close("gone")
        assert await buffer.take() == b""
        assert buffer.why_closed == "end"

    asyncio.run(scenario())
