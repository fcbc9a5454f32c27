"""Decoding: what comes out, and what is said about every kind of bad file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serein import audio
from serein.audio import recording
from serein.errors import AudioError

REAL = Path(os.environ.get("SEREIN_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
needs_native = pytest.mark.skipif(
    not (REAL / "ravdess_native").is_dir() or not (REAL / "ravdess").is_dir(), reason=f"no RAVDESS in {REAL}"
)

NOISE = np.random.default_rng(0).normal(0.0, 0.1, 32_000).astype(np.float32)
LOSSLESS = ("wav", "flac", "aiff", "w64", "caf")
LOSSY = ("ogg", "opus", "mp3")


def written(path: Path, samples: np.ndarray, rate_hz: int = 16_000, subtype: str | None = None) -> Path:
    is_opus = path.suffix == ".opus"
    soundfile.write(path, samples, rate_hz, subtype="OPUS" if is_opus else subtype, format="OGG" if is_opus else None)
    return path


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


# -- what comes out


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_files_come_back_as_written(tmp_path: Path, suffix: str) -> None:
    waveform = audio.decode(written(tmp_path / f"a.{suffix}", NOISE))
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, NOISE, atol=1 / 32_000)


@pytest.mark.parametrize("suffix", LOSSY)
def test_lossy_files_keep_their_length(tmp_path: Path, suffix: str) -> None:
    assert audio.decode(written(tmp_path / f"a.{suffix}", NOISE)).shape == (32_000,)


def test_a_part_equals_the_slice_of_the_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "a.flac", NOISE)
    whole = audio.decode(path)
    np.testing.assert_array_equal(audio.decode(path, 0.5, 1.25), whole[8_000:20_000])
    np.testing.assert_array_equal(audio.decode(path, start_s=1.5), whole[24_000:])


@pytest.mark.parametrize("suffix", [*LOSSLESS, "ogg", "mp3"])
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_blocks_joined_are_the_whole(tmp_path: Path, suffix: str, rate_hz: int) -> None:
    path = written(tmp_path / f"a.{suffix}", np.stack([NOISE, -0.5 * NOISE], axis=1), rate_hz)
    pieces = list(audio.blocks(path, block_s=0.3))
    assert len(pieces) > 2
    whole = audio.decode(path)
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_blocks_of_a_part(tmp_path: Path) -> None:
    path = written(tmp_path / "a.flac", NOISE)
    part = np.concatenate(list(audio.blocks(path, 0.5, 1.25, block_s=0.1)))
    np.testing.assert_array_equal(part, audio.decode(path, 0.5, 1.25))


def test_blocks_complain_as_decode_does(tmp_path: Path) -> None:
    broken = {
        "cut": cut(written(tmp_path / "a.wav", NOISE), 0.5),
        "no audio": tmp_path / "b.wav",
        "not finite": written(tmp_path / "c.wav", np.append(NOISE, np.nan), subtype="FLOAT"),
        "none": tmp_path / "d.wav",
    }
    broken["no audio"].write_text("words")
    for path in broken.values():
        with pytest.raises(AudioError) as by_decode:
            audio.decode(path)
        with pytest.raises(AudioError) as by_blocks:
            list(audio.blocks(path, block_s=0.5))
        assert str(by_blocks.value) == str(by_decode.value)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = NOISE, np.roll(NOISE, 100)
    path = written(tmp_path / "a.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(audio.decode(path), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_pitch_level_and_length(tmp_path: Path, rate_hz: int) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz)
    waveform = audio.decode(written(tmp_path / "a.wav", tone, rate_hz, "FLOAT"))
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert waveform.shape == (16_000,)
    np.testing.assert_allclose(waveform[2_000:-2_000], expected[2_000:-2_000], atol=1e-3)


def test_one_sample_at_a_high_rate_is_still_one_sample() -> None:
    assert audio.resample(np.ones(1, np.float32), 48_000).shape == (1,)


def test_a_time_stamp_rounded_up_is_cut_to_the_end(tmp_path: Path) -> None:
    assert audio.decode(written(tmp_path / "a.wav", NOISE), 1.0, 2.009).shape == (16_000,)


def test_the_header_is_read_without_the_samples(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", np.zeros((4_000, 2)), 8_000)
    assert audio.info(path) == audio.AudioInfo(0.5, 8_000, 2)


# -- what is refused


@pytest.mark.parametrize("suffix", [*LOSSLESS, *LOSSY])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_cut_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = cut(written(tmp_path / f"a.{suffix}", NOISE), share)
    with pytest.raises(AudioError, match="truncated|cut off"):
        audio.decode(path)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "w64", "ogg"])
def test_a_cut_file_is_known_from_its_header(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(audio.TruncatedAudioError, match="truncated"):
        audio.info(cut(written(tmp_path / f"a.{suffix}", NOISE), 0.7))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "empty"),
        (b"hello, I am text", "cannot be decoded as audio"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "cut off|cannot be decoded"),
    ],
)
def test_what_is_no_audio_is_refused_with_its_name(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    for read in (audio.info, audio.decode, audio.load):
        with pytest.raises(AudioError, match=complaint) as error:
            read(tmp_path / "a.wav")
        assert error.value.where == str(tmp_path / "a.wav")
        assert error.value.remedy


def test_missing_files_folders_and_impossible_names(tmp_path: Path) -> None:
    with pytest.raises(audio.MissingAudioError, match="no such file"):
        audio.decode(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="is a folder"):
        audio.decode(tmp_path)
    with pytest.raises(AudioError, match="cannot be opened"):
        audio.decode(tmp_path / ("x" * 300))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])  # a mark of UTF-16 looks like a frame of MPEG
def test_a_text_is_called_a_text(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.wav").write_text("<html>Größe: nicht gefunden</html>" * 100, encoding)
    with pytest.raises(AudioError, match="it is text"):
        audio.decode(tmp_path / "a.wav")


def test_a_name_that_is_not_utf_8_is_read_and_printed(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"gr\xfc\xdfe.wav")
    assert audio.decode(written(tmp_path / "a.wav", NOISE).rename(path)).shape == (32_000,)
    path.write_bytes(b"")
    with pytest.raises(AudioError, match="is empty") as error:
        audio.decode(path)
    assert str(error.value).encode().startswith(str(tmp_path).encode())
    assert r"gr\udcfc\udcdfe.wav" in str(error.value)


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", np.zeros(0))
    for read in (audio.info, audio.decode):
        with pytest.raises(AudioError, match="contains no samples"):
            read(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    path = written(tmp_path / "a.wav", np.array([0.1, value, 0.1]), subtype="FLOAT")
    with pytest.raises(audio.NotFiniteAudioError, match="NaN or infinite"):
        audio.decode(path)


def test_what_is_far_beyond_full_scale_is_refused(tmp_path: Path) -> None:
    as_recorded = written(tmp_path / "a.wav", 20 * NOISE, subtype="FLOAT")  # a 32-bit recorder's gain was high
    np.testing.assert_array_equal(audio.decode(as_recorded), np.float32(20) * NOISE)
    with pytest.raises(AudioError, match="times full scale"):
        audio.decode(written(tmp_path / "b.wav", 32_768 * NOISE, subtype="FLOAT"))


def test_channels_of_opposite_polarity_are_no_silence(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", np.stack([NOISE, -NOISE], axis=1))
    with pytest.raises(AudioError, match="the channels cancel each other when mixed: they have opposite polarity"):
        audio.load(path)
    kept = audio.load(written(tmp_path / "b.wav", np.stack([NOISE, -0.9 * NOISE], axis=1)))
    np.testing.assert_allclose(kept, 0.05 * NOISE, atol=1e-4)


@pytest.mark.parametrize(("rate_hz", "num_channels"), [(1_000, 1), (200_000, 1), (16_000, 9)])
def test_what_is_no_recording_of_speech_is_refused(tmp_path: Path, rate_hz: int, num_channels: int) -> None:
    path = written(tmp_path / "a.wav", np.tile(NOISE[:100, None], (1, num_channels)), rate_hz)
    for read in (audio.info, audio.decode):
        with pytest.raises(AudioError, match="not a recording of speech"):
            read(path)


def test_more_sound_than_its_bytes_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "FREE_VALUES", 1000)
    path = written(tmp_path / "a.flac", np.zeros(2_000_000))
    assert path.stat().st_size < 30_000
    for read in (audio.info, audio.decode):
        with pytest.raises(audio.TooLongAudioError, match="more audio"):
            read(path)


@pytest.mark.slow
def test_what_is_too_long_to_be_held_is_read_in_blocks_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "a.flac", np.zeros(4_000 * 3_601, np.int16), 4_000)
    with pytest.raises(audio.TooLongAudioError, match="is 3601 s long, but at most 3600 s are read at once"):
        audio.decode(path)
    assert audio.decode(path, 3_600.0).shape == (16_000,)
    assert sum(map(len, audio.blocks(path))) == 16_000 * 3_601


def test_silence_decodes_but_does_not_load(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", np.zeros(1_600))
    assert not audio.decode(path).any()
    with pytest.raises(AudioError, match=r"silent: the peak is below -80 dB"):
        audio.load(path)


@pytest.mark.parametrize(
    ("start_s", "end_s"),
    [
        (-1.0, None),
        (2.0, None),
        (1.0, 0.5),
        (1.0, 1.0),
        (0.0, 2.1),
        (np.nan, None),
        (np.inf, None),
        (0.0, np.inf),
    ],
)
def test_a_part_outside_the_file_is_refused(tmp_path: Path, start_s: float, end_s: float | None) -> None:
    with pytest.raises(audio.OutsideAudioError, match=r"outside the file of 2\.00 s"):
        audio.decode(written(tmp_path / "a.wav", NOISE), start_s, end_s)


# -- finding files


def test_find_returns_audio_by_suffix_sorted_and_without_what_is_hidden(tmp_path: Path) -> None:
    for name in (
        "b/2.WAV",
        "b/1.flac",
        "a.mp3",
        "notes.txt",
        ".x.wav",
        "._a.mp3",
        ".cache/1.wav",
        "b.wav/1.wav",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in audio.find(tmp_path)]
    assert found == ["a.mp3", "b/1.flac", "b/2.WAV", "b.wav/1.wav"]


def test_find_by_other_suffixes_and_not_pipes(tmp_path: Path) -> None:
    for name in ("a.wav", "b.m4a", "c.raw"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "d.wav")
    assert [path.name for path in audio.find(tmp_path)] == ["a.wav"]
    everything = (*audio.SUFFIXES, *audio.MEDIA_SUFFIXES, *audio.RAW_SUFFIXES)
    assert [path.name for path in audio.find(tmp_path, everything)] == ["a.wav", "b.m4a", "c.raw"]


def test_find_enters_linked_folders_once_and_keeps_dangling_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.wav").touch()
    root = tmp_path / "root"
    root.mkdir()
    (root / "happy").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(root)
    (root / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    assert [path.relative_to(root).as_posix() for path in audio.find(root)] == ["gone.wav", "happy/1.wav"]


# -- real speech


@needs_native
def test_native_ravdess_resampled_is_the_16_khz_copy() -> None:
    for native in audio.find(REAL / "ravdess_native"):
        copy = REAL / "ravdess" / native.parent.name / f"{native.stem}.flac"
        ours, theirs = audio.decode(native), audio.decode(copy)
        assert abs(len(ours) - len(theirs)) <= 1
        num = min(len(ours), len(theirs))
        error = np.square(ours[:num] - theirs[:num]).mean() / np.square(theirs).mean()
        assert 10 * np.log10(error) < -30.0, native.name


@needs_native
def test_five_native_ravdess_files_are_stereo() -> None:
    channels = [audio.info(path).num_channels for path in audio.find(REAL / "ravdess_native")]
    assert (channels.count(2), channels.count(1)) == (5, 7)


@needs_native
def test_a_real_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    shutil.copy(next((REAL / "ravdess").rglob("*.flac")), path)
    with pytest.raises(AudioError, match="cut off"):
        audio.load(cut(path, 0.6))


def test_the_documentation_names_every_suffix() -> None:
    table = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    for suffix in (*audio.SUFFIXES, *audio.MEDIA_SUFFIXES, *audio.RAW_SUFFIXES):
        assert f"`{suffix}`" in table
