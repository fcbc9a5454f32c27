"""Batched voice activity detection: chunks that arrive from many streams meanwhile make the next batch."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass

from serein.data.audio import Waveform
from serein.inference.stream import Stream, cut_all
from serein.inference.windows import Window


@dataclass(frozen=True)
class _Piece:
    stream: Stream
    samples: Waveform
    windows: asyncio.Future[list[Window]]


class BatchedVad:
    """Takes chunks of streams on the event loop and runs voice activity detection in a thread."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self._waiting: list[_Piece] = []
        self._working: asyncio.Task[None] | None = None

    async def cut(self, stream: Stream, samples: Waveform) -> list[Window]:
        """Return the windows completed by (sample,) float32 more; a stream awaits them before its next chunk."""
        piece = _Piece(stream, samples, asyncio.get_running_loop().create_future())
        self._waiting.append(piece)
        if self._working is None:
            self._working = asyncio.ensure_future(self._work())
        return await piece.windows

    async def _work(self) -> None:
        try:
            while self._waiting:
                pieces, self._waiting = self._waiting, []
                await self._cut_all([piece for piece in pieces if not piece.windows.cancelled()])
        finally:
            self._working = None

    async def _cut_all(self, pieces: list[_Piece]) -> None:
        streams, samples = [piece.stream for piece in pieces], [piece.samples for piece in pieces]
        try:
            cut = await asyncio.get_running_loop().run_in_executor(self.executor, cut_all, streams, samples)
        except Exception as error:
            for piece in pieces:
                if not piece.windows.cancelled():
                    piece.windows.set_exception(error)
            return
        for piece, windows in zip(pieces, cut, strict=True):
            if not piece.windows.cancelled():
                piece.windows.set_result(windows)
