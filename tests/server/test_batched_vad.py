"""Streams that are cut together: as each alone, what comes meanwhile waits, and one that is gone holds nobody up."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from serein.inference.predictor import Predictor
from serein.inference.streams import Stream
from serein.server import batching as cutting
from serein.server.batching import BatchedVad


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many streams were cut at once, batch by batch."""
    seen: list[int] = []

    def counted(streams: Any, samples: Any, cut_all: Any = cutting.cut_all) -> Any:
        seen.append(len(streams))
        return cut_all(streams, samples)

    monkeypatch.setattr(cutting, "cut_all", counted)
    return seen


def test_streams_are_cut_together_as_each_alone(predictor: Predictor, speech: np.ndarray, batches: list[int]) -> None:
    sounds = [speech, speech[::-1].copy(), speech[8000:], 0.5 * speech[:30_000]]
    expected = [[(w.start, len(w.waveform)) for w in Stream(predictor).cut(sound)] for sound in sounds]

    async def cut(cuts: BatchedVad, sound: np.ndarray) -> list[tuple[int, int]]:
        stream, found = Stream(predictor), []
        for start in range(0, len(sound), 2500):
            found += await cuts.cut(stream, sound[start : start + 2500])
        return [(window.start, len(window.waveform)) for window in found]

    async def scenario() -> list[list[tuple[int, int]]]:
        with ThreadPoolExecutor(1) as pool:
            cuts = BatchedVad(pool)
            return list(await asyncio.gather(*(cut(cuts, sound) for sound in sounds)))

    assert asyncio.run(scenario()) == expected
    assert max(batches) == 4
    assert any(expected)


def test_who_is_gone_holds_nobody_up(predictor: Predictor, speech: np.ndarray, batches: list[int]) -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as pool:
            cuts = BatchedVad(pool)
            goes, stays = (asyncio.ensure_future(cuts.cut(Stream(predictor), speech)) for _ in range(2))
            await asyncio.sleep(0)
            goes.cancel()
            assert await stays
            assert await cuts.cut(Stream(predictor), speech)

    asyncio.run(scenario())
    assert batches[-1] == 1


def test_faults_are_told(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object) -> None:
        raise ValueError("fault")

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="fault"):
            await BatchedVad(pool).cut(Stream(predictor), np.zeros(10, np.float32))

    monkeypatch.setattr(cutting, "cut_all", fault)
    asyncio.run(scenario())
