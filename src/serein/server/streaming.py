"""The service over WebSocket: 16-bit samples in, the prediction of each window of speech out, with times."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from serein.audio import RATES_HZ, SAMPLE_RATE_HZ
from serein.inference.segments import Window
from serein.inference.streams import Stream, pcm16
from serein.server.forms import file_kind, require_options
from serein.server.middleware import client_of
from serein.server.problems import HTTPProblem, response
from serein.server.service import Service

_BYTES = 2  # of a sample
_START_BYTES = 4096  # of a stream, by which a file is told from samples
_LEAST_S = 0.1  # of audio that is processed at once, or more if more has arrived
_MOST_WAITING_S = 5.0  # of audio that may wait; then nothing more is read
_SEND_S = 10.0  # for a client to take a message
_NORMAL, _GOING_AWAY, _UNSUPPORTED, _POLICY, _TRY_LATER = 1000, 1001, 1003, 1008, 1013


class StreamBuffer:
    """A bounded buffer of bytes between a client and its stream; `put` waits while it is full."""

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most
        self.waiting = bytearray()
        self.why_closed: str | None = None
        self._changed = asyncio.Condition()

    async def put(self, data: bytes) -> None:
        """Add bytes once there is room; after `close` they are dropped."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.waiting) < self.most or self.why_closed)
            if not self.why_closed:
                self.waiting += data
                self._changed.notify_all()

    async def take(self) -> bytes:
        """Return all whole samples once there are enough of them; nothing when closed and empty."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.waiting) >= self.least or self.why_closed)
            size = len(self.waiting) // _BYTES * _BYTES
            taken = bytes(self.waiting[:size])
            del self.waiting[:size]
            self._changed.notify_all()
            return taken

    async def close(self, why: str) -> None:
        """Mark the end of the input; the first reason is kept."""
        async with self._changed:
            self.why_closed = self.why_closed or why
            self._changed.notify_all()


class Streams:
    """The open streams."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._open: set[StreamBuffer] = set()

    async def finish(self, within_s: float) -> None:
        """Let every stream send its last predictions and close."""
        for buffer in list(self._open):
            await buffer.close("shutdown")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._until_none(), within_s)

    async def serve(self, websocket: WebSocket, rate_hz: int) -> None:
        """Serve one stream to its end."""
        buffer = StreamBuffer(round(_LEAST_S * rate_hz) * _BYTES, round(_MOST_WAITING_S * rate_hz) * _BYTES)
        self._open.add(buffer)
        reading = asyncio.ensure_future(self._read(websocket, buffer, rate_hz))
        try:
            await self._predict(websocket, buffer, rate_hz)
        except (WebSocketDisconnect, TimeoutError, RuntimeError):
            pass  # the client is gone, or takes no messages
        except HTTPProblem as problem:
            await _close(websocket, _TRY_LATER, problem.detail)
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            self._open.discard(buffer)

    async def _read(self, websocket: WebSocket, buffer: StreamBuffer, rate_hz: int) -> None:
        """Buffer incoming samples until the client ends the stream or a limit is reached."""
        limits = self.service.limits
        left = round(limits.stream_s * rate_hz) * _BYTES
        start = bytearray()
        while left > 0:
            try:
                message = await asyncio.wait_for(websocket.receive(), limits.idle_s)
            except TimeoutError:
                return await buffer.close("idle")
            if message["type"] == "websocket.disconnect":
                return await buffer.close("gone")
            if (data := message.get("bytes")) is None:
                return await buffer.close("end" if _is_end(message.get("text") or "") else "wrong message")
            if len(start) < _START_BYTES:
                start += data[:_START_BYTES]
                if kind := file_kind(bytes(start)):
                    return await buffer.close(f"{kind} {_NOT_SAMPLES}")
            left -= len(data)
            await buffer.put(data)
        await buffer.close("too long")

    async def _predict(self, websocket: WebSocket, buffer: StreamBuffer, rate_hz: int) -> None:
        stream = Stream(self.service.predictor, rate_hz, replace(self.service.options, segments="always"))
        while data := await buffer.take():
            await self._send_segments(websocket, stream, await self.service.cut(stream, pcm16(data)))
            if buffer.why_closed == "gone":
                return
        if buffer.why_closed == "gone":
            return
        await self._send_segments(websocket, stream, await self.service.cut_end(stream))
        ended = {"type": "end", "reason": buffer.why_closed, **stream.prediction.to_dict()}
        await _send(websocket, ended)
        why = buffer.why_closed or ""
        await _close(websocket, _UNSUPPORTED if why.endswith(_NOT_SAMPLES) else _CODES.get(why, _NORMAL), why)

    async def _send_segments(self, websocket: WebSocket, stream: Stream, windows: list[Window]) -> None:
        for segment in await self.service.predict_windows(stream, windows) if windows else ():
            await _send(websocket, {"type": "segment", **stream.prediction_of(segment).to_dict()})

    async def _until_none(self) -> None:
        while self._open:
            await asyncio.sleep(0.02)


_NOT_SAMPLES = "file, not samples"
_CODES = {"shutdown": _GOING_AWAY, "wrong message": _UNSUPPORTED, "idle": _POLICY, "too long": _POLICY}


def router(streams: Streams) -> APIRouter:
    """Return the route for streams."""
    routes = APIRouter()

    @routes.websocket("/v1/stream")
    async def stream(websocket: WebSocket) -> None:
        service = streams.service
        try:
            require_options(websocket.query_params.multi_items(), {"rate_hz"})
            rate_hz = _rate(websocket)
            with service.limiter.stream(client_of(websocket.scope)):
                await websocket.accept()
                task = service.predictor.task
                await _send(websocket, {"type": "ready", "rate_hz": rate_hz, "task": task})
                await streams.serve(websocket, rate_hz)
        except HTTPProblem as problem:
            await websocket.send_denial_response(response(problem))

    return routes


def _rate(websocket: WebSocket) -> int:
    text = websocket.query_params.get("rate_hz", str(SAMPLE_RATE_HZ))
    if not (text.isascii() and text.isdigit() and len(text) < 8 and RATES_HZ[0] <= int(text) <= RATES_HZ[1]):
        raise HTTPProblem(422, "wrong-request", f"rate_hz: give a whole number from {RATES_HZ[0]} to {RATES_HZ[1]}.")
    return int(text)


def _is_end(text: str) -> bool:
    try:
        message = json.loads(text)
    except ValueError:
        return False
    return isinstance(message, dict) and message.get("type") == "end"


async def _send(websocket: WebSocket, message: dict[str, Any]) -> None:
    await _in_time(websocket.send_text(json.dumps(message, ensure_ascii=False, allow_nan=False)))


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    with contextlib.suppress(RuntimeError, TimeoutError, WebSocketDisconnect):
        await _in_time(websocket.close(code, reason[:100]))


async def _in_time(sending: Awaitable[None]) -> None:
    await asyncio.wait_for(sending, _SEND_S)
