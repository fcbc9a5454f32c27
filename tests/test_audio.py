"""Decoding: what comes out, and what is said about every kind of bad file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serein import audio
from serein.errors import AudioError

REAL = Path(os.environ.get("SEREIN_TEST_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
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
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)


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


@pytest.mark.parametrize("length", [0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_states_no_length_and_is_read(tmp_path: Path, length: int) -> None:
    path = written(tmp_path / "a.wav", NOISE)
    content = bytearray(path.read_bytes())
    content[40:44] = length.to_bytes(4, "little")
    path.write_bytes(content)
    assert audio.decode(path).shape == (32_000,)


CRESCENDO = np.linspace(0, 0.5, 88_200) * np.random.default_rng(1).normal(0.0, 0.5, 88_200)


def without_length(path: Path, samples: np.ndarray, mode: str) -> Path:
    """Write an MP3 and take away its first frame, which states the length; libsndfile then guesses it."""
    soundfile.write(path, samples, 44_100, subtype="MPEG_LAYER_III", bitrate_mode=mode, compression_level=0.5)
    content = path.read_bytes()
    assert b"Xing" in content[:200] or b"Info" in content[:200]
    path.write_bytes(content[content.index(content[:2], 4) :])
    return path


def test_an_mp3_of_constant_rate_that_states_no_length_is_read(tmp_path: Path) -> None:
    waveform = audio.decode(without_length(tmp_path / "a.mp3", CRESCENDO, "CONSTANT"))
    assert len(waveform) == pytest.approx(32_000, abs=1_700)  # the encoder pads with up to four frames


def test_an_mp3_of_varying_rate_that_states_no_length_is_refused_when_its_end_would_be_lost(
    tmp_path: Path,
) -> None:
    path = without_length(tmp_path / "a.mp3", CRESCENDO, "VARIABLE")
    assert soundfile.info(path).frames < 44_100
    with pytest.raises(AudioError, match="does not state its length"):
        audio.decode(path)


@needs_native
def test_an_mp3_that_states_no_length_is_whole_when_the_guess_is_too_high(tmp_path: Path) -> None:
    speech = np.concatenate([audio.decode(path) for path in audio.find(REAL / "ravdess" / "Actor_01")[:4]])
    path = without_length(tmp_path / "a.mp3", speech, "VARIABLE")  # starts with silence
    assert soundfile.info(path).frames > 1.2 * len(speech)
    assert len(audio.decode(path)) == pytest.approx(len(speech) * 16_000 / 44_100, abs=1_700)


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


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", np.zeros(0))
    for read in (audio.info, audio.decode):
        with pytest.raises(AudioError, match="holds no samples"):
            read(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    path = written(tmp_path / "a.wav", np.array([0.1, value, 0.1]), subtype="FLOAT")
    with pytest.raises(audio.NotFiniteAudioError, match="NaN or infinite"):
        audio.decode(path)


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
