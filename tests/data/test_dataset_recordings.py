"""Recordings: how long, read once, cut alike, and which are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serein import audio
from serein.data.dataset import Recordings, duplicates, durations
from serein.data.manifest import Utterance
from serein.errors import AudioError

Record = Callable[..., Utterance]


def noise(seed: int, seconds: float = 0.25) -> np.ndarray:
    samples = np.random.default_rng(seed).normal(0.0, 0.1, round(seconds * 16_000))
    return np.rint(samples * 32_768) / 32_768  # what 16-bit files hold


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * 16_000))


# -- durations


def test_durations_come_from_headers_or_time_stamps(record: Record) -> None:
    whole, fast = record("a", noise(0, 0.5)), record("b", noise(1, 0.5), 8_000)
    part = whole.model_copy(update={"start_s": 0.125, "end_s": 0.375})
    rest = whole.model_copy(update={"start_s": 0.125})
    assert durations([whole, fast, part, rest]).tolist() == [0.5, 1.0, 0.25, 0.375]


def test_a_missing_file_is_named_at_once(record: Record, tmp_path: Path) -> None:
    gone = Utterance(id="gone", audio=str(tmp_path / "gone.wav"))
    with pytest.raises(AudioError, match=r"gone\.wav: no such file"):
        Recordings([record("a", noise(0)), gone])


# -- reading


def test_positions_give_the_parts_of_their_utterances(record: Record) -> None:
    whole = record("a", noise(0))
    part = whole.model_copy(update={"id": "b", "start_s": 0.05, "end_s": 0.1})
    recordings = Recordings([part, whole])
    assert len(recordings) == 2
    assert recordings[1].dtype == np.float32
    np.testing.assert_array_equal(recordings[1], audio.decode(whole.audio))
    np.testing.assert_array_equal(recordings[0], recordings[1][800:1_600])


def test_what_fits_is_read_once(record: Record) -> None:
    utterances = [record("a", noise(0)), record("b", noise(1))]
    recordings = Recordings(utterances, memory_s=0.5)
    calls: list[tuple[int, int]] = []
    recordings.prefetch(lambda done, total: calls.append((done, total)))
    assert recordings.fits_memory
    assert calls == [(1, 2), (2, 2)]
    for utterance in utterances:
        Path(utterance.audio).unlink()
    assert [len(recordings[position]) for position in (0, 1)] == [4_000, 4_000]


def test_what_does_not_fit_is_read_each_time(record: Record) -> None:
    utterance = record("a", np.concatenate([silence(0.5), noise(0)]))
    recordings = Recordings([utterance], memory_s=0.7, trim_db=30)
    recordings.prefetch(lambda done, total: pytest.fail("nothing is read before its time"))
    assert not recordings.fits_memory
    assert len(recordings[0]) < 6_000
    assert recordings.durations_s.tolist() == [0.75]  # batches follow from it: it must not change while training
    Path(utterance.audio).unlink()
    with pytest.raises(AudioError, match="no such file"):
        recordings[0]


def test_trimming_leaves_a_tenth_of_a_second(record: Record) -> None:
    padded = np.concatenate([silence(0.5), noise(0, 0.5), silence(0.3)])
    recordings = Recordings([record("a", padded)], trim_db=30)
    assert recordings.durations_s.tolist() == [1.3]
    np.testing.assert_allclose(len(recordings[0]) / 16_000, 0.1 + 0.5 + 0.1, atol=0.036)  # frames of 25 ms
    assert recordings.durations_s.tolist() == [len(recordings[0]) / 16_000]
    kept = recordings[0]
    assert any(np.array_equal(kept, padded.astype(np.float32)[i : i + len(kept)]) for i in range(6_000, 7_000))


def test_silence_is_refused(record: Record) -> None:
    with pytest.raises(AudioError, match="silent"):
        Recordings([record("a", silence(0.2))])[0]


# -- twins


def test_twins_are_the_same_samples_in_whatever_container_and_place(record: Record) -> None:
    longer = np.concatenate([noise(7), noise(0), noise(8)])
    utterances = [
        record("c.wav", noise(0)),
        record("b.flac", noise(0)),
        record("a", longer, speaker="2").model_copy(update={"start_s": 0.25, "end_s": 0.5}),
        record("other", noise(1)),
        record("shorter", noise(0)[:-1]),
    ]
    assert duplicates(Recordings(utterances)) == {"c.wav": "a", "b.flac": "a", "a": "a"}


def test_one_bit_is_a_difference(record: Record) -> None:
    nearly = noise(0)
    nearly[100] += 1 / 32_768
    assert duplicates(Recordings([record("a.flac", noise(0)), record("b.flac", nearly)])) == {}


def test_two_pairs_are_told_apart_in_any_order(record: Record) -> None:
    utterances = [record(f"{name}{seed}", noise(seed)) for seed in (1, 2) for name in "ba"]
    expected = {"a1": "a1", "b1": "a1", "a2": "a2", "b2": "a2"}
    assert duplicates(Recordings(utterances)) == duplicates(Recordings(utterances[::-1])) == expected


def test_twins_are_found_when_audio_does_not_fit_memory(record: Record) -> None:
    utterances = [record("a", noise(0)), record("b", noise(0)), record("c", noise(1))]
    assert duplicates(Recordings(utterances, memory_s=0.1)) == {"a": "a", "b": "a"}


def test_of_what_does_not_fit_memory_only_what_begins_alike_is_read_whole(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, end = noise(0, 0.6), noise(1, 0.2)
    utterances = [
        record("a", np.concatenate([start, end])),
        record("b", np.concatenate([start, end])),
        record("late", np.concatenate([start, noise(2, 0.2)])),
        record("early", np.concatenate([noise(3, 0.6), end])),
    ]
    recordings = Recordings(utterances, memory_s=0.1)
    read: list[int] = []
    whole = Recordings.__getitem__

    def counting(self: Recordings, position: int) -> np.ndarray:
        read.append(position)
        return whole(self, position)

    monkeypatch.setattr(Recordings, "__getitem__", counting)
    assert duplicates(recordings) == {"a": "a", "b": "a"}
    assert read == [0, 1, 2]


def test_only_recordings_of_one_length_are_read(record: Record) -> None:
    utterances = [record("a", noise(0, 0.2)), record("b", noise(0, 0.3))]
    recordings = Recordings(utterances)
    Path(utterances[0].audio).unlink()
    assert duplicates(recordings) == {}


def test_ravdess_has_a_pair_of_twins(real_data: Callable[[str], Path]) -> None:
    paths = sorted((real_data("ravdess") / "Actor_07").glob("03-01-03-*.flac"))
    utterances = [Utterance(id=path.stem, audio=str(path)) for path in paths]
    assert set(duplicates(Recordings(utterances))) == {"03-01-03-01-02-01-07", "03-01-03-01-02-02-07"}
