"""The service over WebSocket: 16-bit samples in, the prediction of each window of speech out, with times."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from serein.audio import LONGEST_START, RATES_HZ, SAMPLE_RATE_HZ, file_kind
from serein.inference.recording import Window
from serein.inference.streams import Stream, pcm16
from serein.server.limits import HTTPProblem
from serein.server.middleware import client_of
from serein.server.routes import require_options
from serein.server.service import Service

_BYTES = 2  # of a sample
_LEAST_S = 0.1  # of audio that is processed at once, or more if more has arrived
_MOST_WAITING_S = 5.0  # of audio that may wait; then nothing more is read
_SEND_S = 10.0  # for a client to take a message
_NORMAL, _GOING_AWAY, _UNSUPPORTED, _POLICY, _INTERNAL, _TRY_LATER = 1000, 1001, 1003, 1008, 1011, 1013
_CODES = {"shutdown": _GOING_AWAY, "wrong message": _UNSUPPORTED, "idle": _POLICY, "too long": _POLICY}
_NOT_SAMPLES = "file, not samples"


@dataclass(eq=False)
class StreamBuffer:
    """A bounded buffer of bytes between a client and its stream; `put` waits while it is full."""

    least: int
    most: int
    waiting: bytearray = field(default_factory=bytearray, init=False)
    why_closed: str | None = field(default=None, init=False)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition, init=False)

    async def put(self, data: bytes) -> None:
        """Add bytes once there is room; after `close` they are dropped."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.waiting) < self.most or self.why_closed)
            if not self.why_closed:
                self.waiting += data
                self._changed.notify_all()

    async def take(self) -> bytes:
        """Return at most `most` bytes of whole samples once there are enough; nothing when closed and empty."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.waiting) >= self.least or self.why_closed)
            size = min(len(self.waiting), self.most) // _BYTES * _BYTES
            taken = bytes(self.waiting[:size])
            del self.waiting[:size]
            self._changed.notify_all()
            return taken

    async def close(self, why: str) -> None:
        """Mark the end of the input; the first reason is kept."""
        async with self._changed:
            self.why_closed = self.why_closed or why
            self._changed.notify_all()


@dataclass(eq=False)
class Streams:
    """The open streams."""

    service: Service
    _open: set[StreamBuffer] = field(default_factory=set, init=False)

    async def finish(self, within_s: float) -> None:
        """Let every stream send its last predictions and close."""
        for buffer in list(self._open):
            await buffer.close("shutdown")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._open:
                    await asyncio.sleep(0.02)

    async def serve(self, websocket: WebSocket, rate_hz: int) -> None:
        """Serve one stream to its end."""
        buffer = StreamBuffer(round(_LEAST_S * rate_hz) * _BYTES, round(_MOST_WAITING_S * rate_hz) * _BYTES)
        self._open.add(buffer)
        reading = asyncio.ensure_future(self._read(websocket, buffer, rate_hz))
        try:
            stream = Stream(self.service.predictor, rate_hz, replace(self.service.options, segments="always"))
            while (data := await buffer.take()) and buffer.why_closed != "gone":
                await self._send_segments(websocket, stream, await self.service.vad.cut(stream, pcm16(data)))
            if (why := buffer.why_closed or "") != "gone":
                await self._send_segments(websocket, stream, await self.service.cut_end(stream))
                await _send(websocket, {"type": "end", "reason": why, **stream.prediction.to_dict()})
                await _close(websocket, _UNSUPPORTED if why.endswith(_NOT_SAMPLES) else _CODES.get(why, _NORMAL), why)
        except WebSocketDisconnect:
            pass
        except HTTPProblem as problem:
            await _close(websocket, _TRY_LATER, problem.detail)
        except Exception:  # which uvicorn logs
            await _close(websocket, _INTERNAL, "Internal error; see the service's log.")
            raise
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
        loop = asyncio.get_running_loop()
        idle_from_s = loop.time()
        while left > 0:
            try:
                async with asyncio.timeout_at(idle_from_s + limits.idle_s):
                    message = await websocket.receive()
            except TimeoutError:
                return await buffer.close("idle")
            if message["type"] == "websocket.disconnect":
                return await buffer.close("gone")
            if (data := message.get("bytes")) is None:
                try:
                    content = json.loads(message.get("text") or "")
                except ValueError:
                    content = None
                is_end = isinstance(content, dict) and content.get("type") == "end"
                return await buffer.close("end" if is_end else "wrong message")
            if len(start) < LONGEST_START:
                start += data[:LONGEST_START]
                if kind := file_kind(bytes(start)):
                    return await buffer.close(f"{kind} {_NOT_SAMPLES}")
            left -= len(data)
            await buffer.put(data)
            idle_from_s = loop.time() if data else idle_from_s
        await buffer.close("too long")

    async def _send_segments(self, websocket: WebSocket, stream: Stream, windows: list[Window]) -> None:
        for segment in await self.service.predict_windows(stream.recording, windows) if windows else ():
            await _send(websocket, {"type": "segment", **stream.prediction_of(segment).to_dict()})


def router(streams: Streams) -> APIRouter:
    """Return the route for streams."""
    routes = APIRouter()

    @routes.websocket("/v1/stream")
    async def stream(websocket: WebSocket) -> None:
        service = streams.service
        try:
            require_options(websocket.query_params.multi_items(), {"rate_hz"})
            text, (lowest, highest) = websocket.query_params.get("rate_hz", str(SAMPLE_RATE_HZ)), RATES_HZ
            if not (text.isascii() and text.isdigit() and len(text) < 8 and lowest <= int(text) <= highest):
                raise HTTPProblem(422, "wrong-request", f"rate_hz: give a whole number from {lowest} to {highest}.")
            rate_hz = int(text)
            with service.limiter.one_more("stream", client_of(websocket.scope)):
                await websocket.accept()
                task = service.predictor.task
                await _send(websocket, {"type": "ready", "rate_hz": rate_hz, "task": task})
                await streams.serve(websocket, rate_hz)
        except HTTPProblem as problem:
            await websocket.send_denial_response(problem.response())
        except WebSocketDisconnect:
            pass  # before the first message

    return routes


async def _send(websocket: WebSocket, message: dict[str, Any]) -> None:
    text = json.dumps(message, ensure_ascii=False, allow_nan=False)
    try:
        await asyncio.wait_for(websocket.send_text(text), _SEND_S)
    except (TimeoutError, RuntimeError):  # the client takes no messages, or the connection is closed
        raise WebSocketDisconnect from None


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    with contextlib.suppress(RuntimeError, TimeoutError, WebSocketDisconnect):
        await asyncio.wait_for(websocket.close(code, reason[:100]), _SEND_S)
