"""What comes together is heard together, what nobody waits for is not heard, and one fault is one's own.

Streams that are cut together: as each alone, what comes meanwhile waits, and one that is gone holds nobody up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from serein import audio
from serein.audio import Upload
from serein.inference.predictor import Predictor
from serein.inference.streams import Stream
from serein.server import service as batching
from serein.server.service import BATCH_S, BatchedVad, Batcher, FullError
from server.ingredients import MakeService, Waiting, encoded

SECOND = np.ones(16_000, np.float32)


class Ear:
    """Answers with the sum of each waveform, when it may; hears no waveform that is negative."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.has_started, self.may_predict = Event(), Event()

    def __call__(self, waveforms: Sequence[Any]) -> list[Any]:
        self.batches.append(len(waveforms))
        self.has_started.set()
        assert self.may_predict.wait(10)
        if any(waveform[0] < 0 for waveform in waveforms):
            raise ValueError("negative")
        return [float(waveform.sum()) for waveform in waveforms]


@pytest.fixture
def model() -> Ear:
    return Ear()


def begun(model: Ear, most_waiting: int = 10) -> Batcher:
    """Return a batcher that is at its first job, so that what is submitted now waits."""
    batcher = Batcher(model, most_waiting)
    batcher.submit([SECOND])
    assert model.has_started.wait(10)
    return batcher


def heard(answers: Any) -> list[float]:
    return list(answers.result(10))


def test_what_waits_is_heard_together_and_given_to_whom_it_belongs(model: Ear) -> None:
    batcher = begun(model)
    jobs = [batcher.submit([number * SECOND] * number) for number in (1, 2, 3)]
    model.may_predict.set()
    assert [heard(job) for job in jobs] == [[16_000.0], [32_000.0] * 2, [48_000.0] * 3]
    batcher.close()
    assert model.batches == [1, 6]


def test_no_more_is_heard_together_than_streams_can_wait_for(model: Ear) -> None:
    batcher = begun(model)
    half = np.ones(round(16_000 * BATCH_S / 2), np.float32)
    jobs = [batcher.submit([half]) for _ in range(3)]
    model.may_predict.set()
    assert all(heard(job) for job in jobs)
    batcher.close()
    assert model.batches == [1, 2, 1]


def test_what_is_cancelled_before_its_turn_is_not_heard(model: Ear) -> None:
    batcher = begun(model)
    gone, stays = batcher.submit([SECOND] * 5), batcher.submit([SECOND])
    assert gone.cancel()
    model.may_predict.set()
    assert heard(stays) == [16_000.0]
    batcher.close()
    assert model.batches == [1, 1]


def test_a_fault_is_told_to_its_cause_alone(model: Ear) -> None:
    batcher = begun(model)
    fine, wrong = batcher.submit([SECOND]), batcher.submit([-SECOND])
    model.may_predict.set()
    assert heard(fine) == [16_000.0]
    with pytest.raises(ValueError, match="negative"):
        wrong.result(10)
    batcher.close()


def test_the_queue_is_bounded_and_says_how_long_it_is(model: Ear) -> None:
    batcher = begun(model, most_waiting=2)
    assert batcher.expected_s == 0.0
    batcher.submit([SECOND] * 100)
    batcher.submit([SECOND])
    assert batcher.expected_s == pytest.approx(101 * batcher.load)
    with pytest.raises(FullError):
        batcher.submit([SECOND])
    model.may_predict.set()
    batcher.close()


def test_closing_hears_what_waits_and_takes_no_more(model: Ear) -> None:
    batcher = begun(model)
    last = batcher.submit([SECOND])
    model.may_predict.set()
    batcher.close()
    assert heard(last) == [16_000.0]
    assert not batcher.is_alive
    with pytest.raises(FullError):
        batcher.submit([SECOND])


def test_batches_are_told(model: Ear) -> None:
    body: list[tuple[int, float]] = []
    batcher = Batcher(model, 10, lambda num_clips, audio_s, took_s: body.append((num_clips, audio_s)))
    model.may_predict.set()
    heard(batcher.submit([SECOND, SECOND]))
    batcher.close()
    assert body == [(2, 2.0)]


def test_a_recording_is_decoded_no_faster_than_predicted(
    make_service: MakeService, predictor: Predictor, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def blocks(_: Upload) -> Iterator[np.ndarray]:
        for number in range(20):
            decoded.append(number)
            yield speech

    async def scenario() -> None:
        service = make_service(Waiting(predictor))
        answer = asyncio.ensure_future(service.predict(Upload(encoded(speech), "a.wav")))
        assert await asyncio.to_thread(service.predictor.has_started.wait, 20)
        assert 1 < len(decoded) < 15
        service.predictor.may_predict.set()
        assert (await answer).duration_s == 100.0
        assert len(service.predictor.batches) > 1

    monkeypatch.setattr(audio, "blocks", blocks)
    asyncio.run(scenario())
    assert len(decoded) == 20


def test_few_recordings_are_decoded_at_once(
    make_service: MakeService, predictor: Predictor, short: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def blocks(upload: Upload, own: Any = audio.blocks) -> Iterator[np.ndarray]:
        decoded.append(upload.name)
        return own(upload)

    async def scenario() -> None:
        service = make_service(Waiting(predictor))
        answers = asyncio.gather(*(service.predict(Upload(short, f"{number}.wav")) for number in range(20)))
        while len(decoded) < 16:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert len(decoded) == 16
        service.predictor.may_predict.set()
        assert [answer.file for answer in await answers] == [f"{number}.wav" for number in range(20)]

    monkeypatch.setattr(audio, "blocks", blocks)
    asyncio.run(scenario())


def test_a_short_recording_does_not_wait_for_long_ones(
    make_service: MakeService, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[str] = []

    def blocks(upload: Upload) -> Iterator[np.ndarray]:
        yield from [speech] * (20 if upload.name == "long" else 1)

    async def scenario() -> None:
        service = make_service()

        async def answer(name: str) -> None:
            await service.predict(Upload(encoded(speech), name))
            answered.append(name)

        await asyncio.gather(answer("long"), answer("short"))

    monkeypatch.setattr("serein.server.service._MOST_DECODED", 1)
    monkeypatch.setattr(audio, "blocks", blocks)
    asyncio.run(scenario())
    assert answered == ["short", "long"]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many streams were cut at once, batch by batch."""
    seen: list[int] = []

    def counted(streams: Any, samples: Any, cut_all: Any = batching.cut_all) -> Any:
        seen.append(len(streams))
        return cut_all(streams, samples)

    monkeypatch.setattr(batching, "cut_all", counted)
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


def test_faults_of_streams_are_told(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object) -> None:
        raise ValueError("fault")

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="fault"):
            await BatchedVad(pool).cut(Stream(predictor), np.zeros(10, np.float32))

    monkeypatch.setattr(batching, "cut_all", fault)
    asyncio.run(scenario())
