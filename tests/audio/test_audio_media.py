"""Containers that PyAV reads, the extra `media`: their sound, their lengths, and what they cannot do to a reader."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from audio_files import HAS_MEDIA, MEDIA, NO_MEDIA, SOUNDFILE, containers, encoded, voice
from serein import audio
from serein.audio import decoders
from serein.errors import AudioError

needs_media = pytest.mark.skipif(not HAS_MEDIA, reason=NO_MEDIA)


def likeness(waveform: np.ndarray, original: np.ndarray) -> float:
    """Return the largest correlation of two sounds, one of which a codec may have moved by up to 0.1 s."""
    products = np.correlate(waveform, original, "full")[len(original) - 1 - 1_600 : len(original) - 1 + 1_600]
    return float(products.max() / np.sqrt(np.square(waveform).sum() * np.square(original).sum()))


@pytest.mark.parametrize("name", containers())
def test_the_voice_comes_back_from_every_container(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_bytes(encoded(name))  # the content tells, not the name
    waveform = audio.load(tmp_path / "a")
    assert len(waveform) / 16_000 == pytest.approx(1.0, abs=0.1)
    assert likeness(waveform, voice(16_000)) > (0.5 if "amr" in str(MEDIA.get(name)) else 0.95)
    assert audio.info(tmp_path / "a").duration_s == pytest.approx(len(waveform) / 16_000, abs=1e-4)
    assert audio.info(tmp_path / "a").num_channels == 1
    for source in (encoded(name), io.BytesIO(encoded(name))):
        np.testing.assert_array_equal(audio.load(source), waveform)


@needs_media
@pytest.mark.parametrize("name", MEDIA)
def test_parts_and_blocks_of_media(name: str) -> None:
    whole = audio.decode(encoded(name, 3.0))
    np.testing.assert_array_equal(np.concatenate(list(audio.blocks(encoded(name, 3.0), block_s=0.5))), whole)
    part = audio.decode(encoded(name, 3.0), 1.0, 2.0)
    np.testing.assert_allclose(part[500:-500], whole[16_500:31_500], atol=1e-3)  # the ends of a part are resampled
    with pytest.raises(audio.OutsideAudioError, match="outside the file"):
        audio.decode(encoded(name, 3.0), 3.5)


@needs_media
def test_channels_of_media_are_averaged_up_to_eight() -> None:
    import av

    for layout, num_channels in (("stereo", 2), ("5.1", 6), ("7.1", 8)):
        content = io.BytesIO()
        with av.open(content, "w", format="mp4") as output:
            stream = output.add_stream("aac", rate=16_000, layout=layout, options={"b": "512000"})
            for _ in range(16):
                frame = av.AudioFrame("fltp", layout, 1024)
                for plane, level in zip(frame.planes[:num_channels], range(num_channels), strict=True):
                    plane.update(np.full(1024, level / 16, np.float32).tobytes())
                frame.sample_rate = 16_000
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        assert audio.info(content.getvalue()).num_channels == num_channels
        waveform = audio.decode(content.getvalue())
        if num_channels == 2:
            assert float(waveform[4_000:12_000].mean()) == pytest.approx(1 / 32, abs=0.01)


# -- lengths


@needs_media
@pytest.mark.parametrize("name", ["m4a", "m4a-alac", "mov", "3gp", "mkv", "mka", "wma"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.85])
def test_media_that_state_a_length_are_refused_when_they_are_cut(name: str, share: float) -> None:
    content = encoded(name, 3.0)
    with pytest.raises(AudioError, match="truncated|cut off"):
        audio.decode(content[: int(share * len(content))])


@needs_media
def test_webm_of_a_browser_states_no_length_and_is_read_to_its_end() -> None:
    import av

    live = io.BytesIO()
    with (
        av.open(io.BytesIO(encoded("webm")), "r") as source,
        av.open(live, "w", format="webm", options={"live": "1"}) as output,
    ):
        stream = output.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    with av.open(io.BytesIO(live.getvalue()), "r") as container:
        assert container.duration is None
    np.testing.assert_array_equal(audio.decode(live.getvalue()), audio.decode(encoded("webm")))
    assert audio.info(live.getvalue()).duration_s == 1.0


@needs_media
def test_a_header_of_four_billion_samples_costs_nothing() -> None:
    import resource

    content = bytearray(encoded("m4a-mp3"))
    place = content.index(b"stsz") + 8
    content[place : place + 8] = (108).to_bytes(4, "big") + (0xFFFFFFFF).to_bytes(4, "big")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AudioError):
        audio.decode(bytes(content))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # kB


# -- what is refused


@needs_media
@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile 'secret.wav'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.wav\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    ],
    ids=["concat", "hls", "sdp"],
)
@pytest.mark.parametrize("suffix", ["m4a", "m3u8", "wma"])
def test_a_file_does_not_make_other_files_or_hosts_be_read(tmp_path: Path, content: str, suffix: str) -> None:
    (tmp_path / "secret.wav").write_bytes(encoded("wav"))
    (tmp_path / f"a.{suffix}").write_text(content)
    with pytest.raises(AudioError, match="text"):
        audio.decode(tmp_path / f"a.{suffix}")
    with pytest.raises(AudioError, match="Invalid argument|Invalid data"):
        audio.recording.Recording("a", decoders.Pyav("a", io.FileIO(tmp_path / f"a.{suffix}")))


@needs_media
def test_pictures_are_not_decoded() -> None:
    import av

    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(5):
            output.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        output.mux(stream.encode(None))
    with pytest.raises(AudioError, match="contains no audio"):
        audio.info(content.getvalue())


def test_without_the_extra_it_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(decoders, "find_spec", lambda name: None)
    decoders._pyav.cache_clear()
    starts = {"a.m4a": b"\0\0\0\x1cftypM4A ", "b": b"\x1aE\xdf\xa3\x9f", "c": b"#!AMR\n\x0c", "d.wma": b"\x01\x02\x03"}
    for name, start in starts.items():
        (tmp_path / name).write_bytes(start + bytes(range(256)))
        with pytest.raises(AudioError, match="without the package 'av'") as error:
            audio.load(tmp_path / name)
        assert error.value.remedy == "Install it with: pip install 'serein[media]'."
    with pytest.raises(AudioError, match=r"Other containers need: pip install 'serein\[media\]'"):
        audio.load(bytes(range(256)))
    for name in SOUNDFILE:
        assert len(audio.load(encoded(name))) > 15_000
    decoders._pyav.cache_clear()
