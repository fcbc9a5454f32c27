"""Recording conditions: each measures what its name promises. Copies follow from a seed, and are never tested."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serein.audio import SAMPLE_RATE_HZ
from serein.corpora.prepare import merge
from serein.data import manifest
from serein.data.augmentation import speech_power
from serein.data.conditions import (
    CONDITIONS,
    MOST_MARGIN_S,
    Surroundings,
    as_recorded_elsewhere,
    at_speed,
    clipped,
    coloured_noise,
    in_room,
    over_telephone,
    through_file,
    with_noise_of,
    with_silence_inside,
    without_packets,
    write_copies,
)
from serein.data.manifest import Utterance
from serein.data.splits import make_folds
from serein.errors import AudioError, ManifestError
from serein.recipe import Protocol


def sine(hz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ)).astype("f4")


def rms_db(waveform: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(waveform, dtype=np.float64))))


@pytest.fixture
def surroundings() -> Surroundings:
    rng = np.random.default_rng(0)
    response = np.zeros(1600, np.float32)
    response[100], response[900] = 1.0, 0.5
    return Surroundings((coloured_noise(8000, 1.0, rng),), (response,), (sine(330.0, 0.5),))


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_gives_finite_sound_from_the_same_draw(name: str, surroundings: Surroundings) -> None:
    speech = sine(220.0)
    if lacking := CONDITIONS[name].lacking(surroundings):
        pytest.skip(f"no {lacking}")
    first, second = (CONDITIONS[name].apply(speech, np.random.default_rng(3), surroundings) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32
    assert first.ndim == 1
    assert np.isfinite(first).all()
    assert len(first) >= SAMPLE_RATE_HZ // 2


def test_noise_lies_as_far_below_the_speech_as_asked() -> None:
    speech, noise = sine(220.0), coloured_noise(4000, 0.0, np.random.default_rng(1))
    added = with_noise_of(speech, noise, 10.0) - speech
    ratio = speech_power(speech) / np.mean(np.square(added, dtype=np.float64))
    assert 10 * np.log10(ratio) == pytest.approx(10.0, abs=0.01)


def test_pink_noise_falls_by_3_db_an_octave() -> None:
    power = np.abs(np.fft.rfft(coloured_noise(1 << 16, 1.0, np.random.default_rng(0)))) ** 2
    octaves = [power[1 << n : 2 << n].mean() for n in range(8, 14)]
    assert np.diff(10 * np.log10(octaves)) == pytest.approx([-3.0] * 5, abs=0.6)


def test_silence_goes_where_it_is_quietest() -> None:
    speech = sine(220.0)
    speech[8000:8800] = 0.0
    longer = with_silence_inside(speech, 0.5)
    assert len(longer) == len(speech) + 8000
    np.testing.assert_array_equal(longer[:8000], speech[:8000])
    np.testing.assert_array_equal(longer[-7200:], speech[-7200:])


def test_a_room_keeps_level_length_and_start(surroundings: Surroundings) -> None:
    speech = sine(220.0)
    heard = in_room(speech, surroundings.rooms[0])
    assert len(heard) == len(speech)
    assert rms_db(heard) == pytest.approx(rms_db(speech), abs=0.01)


def test_simulated_rooms_are_drawn_from_the_seed_and_decay_for_as_long_as_they_say() -> None:
    rooms, again = (Surroundings.read(num_simulated_rooms=6, seed=0).rooms for _ in range(2))
    assert all(np.array_equal(room, other) for room, other in zip(rooms, again, strict=True))
    assert not np.array_equal(rooms[0], Surroundings.read(num_simulated_rooms=6, seed=1).rooms[0])
    for room in rooms:
        assert 0.2 <= len(room) / SAMPLE_RATE_HZ <= 2.5
        energy = np.square(room, dtype=np.float64)
        left = energy[::-1].cumsum()[::-1]  # Schroeder's integral
        assert -35 < 10 * np.log10(left[len(room) // 2] / left[0]) < -20  # 60 dB over its length, so 30 at its half


def test_a_telephone_passes_its_band_alone() -> None:
    for codec in ("ULAW", "ALAW", "GSM610"):
        assert rms_db(over_telephone(sine(1000.0), codec)) == pytest.approx(rms_db(sine(1000.0)), abs=2.0)
        assert rms_db(over_telephone(sine(6000.0), codec)) < rms_db(sine(6000.0)) - 25


def test_hidden_files_between_the_noises_are_left_out(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "rain.wav", sine(300.0, 0.1), SAMPLE_RATE_HZ)
    (tmp_path / "._rain.wav").write_bytes(b"written by a Mac")
    assert len(Surroundings.read(tmp_path).noises) == 1


@pytest.mark.parametrize(("kind", "codec", "quality"), [("MP3", "MPEG_LAYER_III", 0.85), ("OGG", "OPUS", 0.96)])
def test_a_codec_keeps_length_and_nearly_the_level(kind: str, codec: str, quality: float) -> None:
    speech = sine(400.0)
    coded = through_file(speech, kind, codec, SAMPLE_RATE_HZ, quality)
    assert len(coded) == len(speech)
    assert rms_db(coded) == pytest.approx(rms_db(speech), abs=1.5)


def test_packets_are_lost_as_often_as_asked() -> None:
    speech = np.ones(SAMPLE_RATE_HZ * 400, np.float32)
    assert np.mean(without_packets(speech, 0.05, np.random.default_rng(0)) == 0) == pytest.approx(0.05, abs=0.01)


def test_speed_clipping_and_cuts() -> None:
    assert len(at_speed(sine(220.0), 1.25)) == pytest.approx(12_800, abs=2)
    assert np.abs(clipped(sine(220.0), 6.0)).max() == pytest.approx(0.3 * 10 ** (-0.3), abs=1e-4)
    cut = CONDITIONS["cut to half"].apply(sine(220.0), np.random.default_rng(0), Surroundings())
    assert len(cut) == 8000


def test_noises_are_the_recordings_below_a_folder_except_the_rooms(tmp_path: Path) -> None:
    (tmp_path / "rooms").mkdir()
    for name, hz in (("b.AIFF", 200.0), ("a.wav", 100.0), ("rooms/c.wav", 300.0), (".d.wav", 400.0)):
        soundfile.write(tmp_path / name, sine(hz), SAMPLE_RATE_HZ, format="AIFF" if "AIFF" in name else "WAV")
    found = Surroundings.read(tmp_path, tmp_path / "rooms")
    for waveforms, hz in (
        (found.noises, (100.0, 200.0)),
        (found.rooms, (300.0,)),
        (Surroundings.read(tmp_path).noises, (100.0, 200.0, 300.0)),
    ):
        for waveform, expected in zip(waveforms, hz, strict=True):
            np.testing.assert_allclose(waveform, sine(expected), atol=1e-4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="empty: contains no recording"):
        Surroundings.read(rooms=tmp_path / "empty")


def test_a_condition_names_what_it_lacks(surroundings: Surroundings) -> None:
    assert CONDITIONS["level +10 dB"].lacking(Surroundings()) is None
    assert CONDITIONS["reverberation"].lacking(Surroundings()) == "room impulse responses (--rooms FOLDER)"
    assert CONDITIONS["reverberation"].lacking(surroundings) is None


def test_amr_keeps_what_a_telephone_passes_and_the_length() -> None:
    if CONDITIONS["AMR 12.2 kbit/s"].lacking(Surroundings()):
        pytest.skip("no encoder of AMR")
    through = CONDITIONS["AMR 12.2 kbit/s"].apply(sine(440.0), np.random.default_rng(0), Surroundings())
    assert len(through) == SAMPLE_RATE_HZ
    assert rms_db(through) == pytest.approx(rms_db(sine(440.0)), abs=3.0)
    assert np.abs(np.fft.rfft(through)).argmax() == pytest.approx(440, abs=2)


def test_a_joined_clip_stands_behind_a_pause(surroundings: Surroundings) -> None:
    joined = CONDITIONS["joined with another clip"].apply(sine(220.0), np.random.default_rng(0), surroundings)
    assert len(joined) == round(1.75 * SAMPLE_RATE_HZ)
    np.testing.assert_array_equal(joined[-SAMPLE_RATE_HZ // 2 :], sine(330.0, 0.5))


def utterances_in(folder: Path) -> list[Utterance]:
    rng = np.random.default_rng(0)
    made = []
    for number in range(6):
        path = folder / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(8000), 16_000)
        emotion = ("happy", "sad")[number % 2]
        made.append(Utterance(id=f"u{number}", audio=str(path), speaker=f"s{number // 2}", emotion=emotion))
    return made


def test_copies_are_drawn_from_seed_and_id_and_written_once(tmp_path: Path) -> None:
    utterances = utterances_in(tmp_path)
    first = write_copies(utterances, tmp_path / "a", Surroundings(), num_copies=2, seed=1)
    again = write_copies(utterances[::-1], tmp_path / "b", Surroundings(), num_copies=2, seed=1)
    bytes_of = [{copy.id: Path(copy.audio).read_bytes() for copy in copies} for copies in (first, again)]
    assert bytes_of[0] == bytes_of[1]
    assert len(bytes_of[0]) == 12
    assert {(copy.copy_of, copy.speaker, copy.emotion) for copy in first} == {
        (utterance.id, utterance.speaker, utterance.emotion) for utterance in utterances
    }
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    write_copies(utterances, tmp_path / "a", Surroundings(), num_copies=2, seed=1)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}


def test_every_copy_has_its_own_file_whatever_its_id(tmp_path: Path) -> None:
    ids = ("生气/甲/001", "快乐/乙/001", "anna b/1", "anna_b/1", f"a{'x' * 120}", f"b{'x' * 120}")
    utterances = [u.model_copy(update={"id": id}) for u, id in zip(utterances_in(tmp_path), ids, strict=True)]
    copies = write_copies(utterances, tmp_path / "all", Surroundings(), num_copies=1)
    for utterance, copy in zip(utterances, copies, strict=True):
        (alone,) = write_copies(
            [utterance], tmp_path / "alone" / str(ids.index(utterance.id)), Surroundings(), num_copies=1
        )
        assert Path(copy.audio).read_bytes() == Path(alone.audio).read_bytes()
    assert len({copy.audio.casefold() for copy in copies}) == 6


def test_files_of_plain_ids_have_their_names(tmp_path: Path) -> None:
    ids = ("emodb/03a01Fa", "1001_IEO-x.1", "anna b/1", "a" * 130)
    utterances = [u.model_copy(update={"id": id}) for u, id in zip(utterances_in(tmp_path), ids, strict=False)]
    copies = write_copies(utterances, tmp_path / "a", Surroundings(), num_copies=0, num_speeds=1)
    assert [Path(copy.audio).name for copy in copies] == [
        "emodb_03a01Fa~s1.flac",
        "1001_IEO-x.1~s1.flac",
        "anna_b_1~s1.flac",
        f"{'a' * 117}~s1.flac",
    ]


def test_copies_of_other_recordings_or_draws_are_not_taken_for_those_wanted(tmp_path: Path) -> None:
    utterances = utterances_in(tmp_path)
    around = Surroundings(made_from="noises")
    folder = tmp_path / "a"
    write_copies(utterances, folder, around, num_copies=1, num_speeds=1)
    first = utterances[0]
    part = first.model_copy(update={"end_s": 0.4})
    foreign = first.model_copy(update={"audio": utterances[1].audio})
    for some, surroundings, seed, num in (
        (utterances, around, 1, 12),
        (utterances, replace(around, made_from="others"), 0, 6),  # copies at other speeds need no noise
        ([part], around, 0, 2),
        ([foreign], around, 0, 2),
    ):
        with pytest.raises(ManifestError, match=f"{num} copies there are of other recordings.*, such as u0~1.flac"):
            write_copies(some, folder, surroundings, num_copies=1, num_speeds=1, seed=seed)
    before = (folder / "u0~1.flac").read_bytes()
    (folder / "u0~1.flac").unlink()
    (folder / "u0~s1.flac").unlink()
    write_copies([part], folder, around, num_copies=1, num_speeds=1)
    assert (folder / "u0~1.flac").read_bytes() != before
    with pytest.raises(ManifestError, match="2 copies there"):
        write_copies(utterances, folder, around, num_copies=1, num_speeds=1)


def test_copies_without_a_record_are_continued(tmp_path: Path) -> None:
    utterances = utterances_in(tmp_path)
    write_copies(utterances[:3], tmp_path / "a", Surroundings(), num_copies=1)
    (tmp_path / "a" / "made_from.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    write_copies(utterances, tmp_path / "a", Surroundings(), num_copies=1)
    assert len(list((tmp_path / "a").glob("*.flac"))) == 6
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_recordings_of_noise_and_rooms_tell_what_they_were_read_from(tmp_path: Path) -> None:
    utterances_in(tmp_path)
    read = Surroundings.read(tmp_path, tmp_path)
    assert read.made_from == Surroundings.read(tmp_path, tmp_path).made_from
    assert (
        len({read.made_from, Surroundings.read(tmp_path).made_from, Surroundings.read(None, tmp_path).made_from}) == 3
    )
    soundfile.write(tmp_path / "0.wav", np.full(8000, 0.1), 16_000)
    assert Surroundings.read(tmp_path, tmp_path).made_from != read.made_from


@pytest.mark.slow
def test_some_copies_are_cut_and_some_have_a_pause() -> None:
    speech = sine(220.0, 2.0)
    lengths = [len(as_recorded_elsewhere(speech, np.random.default_rng(n), Surroundings())) for n in range(100)]
    seconds = np.array(lengths) / SAMPLE_RATE_HZ
    assert 5 <= np.sum(seconds < 2.0 / 1.14 - 0.01) <= 25  # shorter than speed alone makes them
    assert 5 <= np.sum(seconds > 2.0 / 0.88 + 0.01) <= 25  # longer
    assert seconds.min() >= 0.5 * 2.0 / 1.14 - 0.01


def test_copies_at_other_speeds_last_longer_or_shorter(tmp_path: Path) -> None:
    utterances = utterances_in(tmp_path)
    copies = write_copies(utterances, tmp_path / "a", Surroundings(), num_copies=1, num_speeds=2)
    assert [copy.id for copy in copies[:3]] == ["u0~1", "u0~s1", "u0~s2"]
    seconds = [soundfile.info(copy.audio).duration for copy in copies if "~s" in copy.id]
    assert len({round(each, 3) for each in seconds}) > 6
    assert all(0.5 / 1.18 - 0.01 < each < 0.5 / 0.85 + 2 * MOST_MARGIN_S + 0.1 for each in seconds)


def test_copies_are_trained_on_where_their_originals_are(tmp_path: Path) -> None:
    utterances = utterances_in(tmp_path)
    copies = write_copies(utterances, tmp_path / "a", Surroundings(), num_copies=1)
    manifest.write([*utterances, *copies], tmp_path / "m.jsonl")
    read = manifest.read(tmp_path / "m.jsonl")
    original_of = {each.id: each.copy_of or each.id for each in read}
    for protocol in (
        Protocol(name="leave-one-speaker-out", dev="none"),
        Protocol(name="leave-one-speaker-out", dev="speakers"),
        Protocol(name="random", num_folds=3, dev="random"),
    ):
        for fold in make_folds(read, protocol).folds:
            assert not any("~" in each for each in (*fold.dev, *fold.test))
            originals = {each for each in fold.train if "~" not in each}
            assert {original_of[each] for each in fold.train if "~" in each} == originals


def test_copies_are_found_beside_a_manifest_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances = utterances_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    copies = write_copies(utterances, Path("out/m_audio"), Surroundings(), num_copies=1)
    manifest.write([*utterances, *copies], Path("out/m.jsonl"))
    assert all(Path(each.audio).is_file() for each in manifest.read(Path("out/m.jsonl")))


def test_merged_copies_name_the_merged_originals(tmp_path: Path) -> None:
    utterances = utterances_in(tmp_path)
    copies = write_copies(utterances, tmp_path / "a", Surroundings(), num_copies=1)
    merged = merge([("ours", [*utterances, *copies])]).utterances
    assert {(each.id, each.copy_of) for each in merged if each.copy_of} == {
        (f"ours/{each.id}", f"ours/{each.copy_of}") for each in copies
    }
