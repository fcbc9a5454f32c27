"""Recordings of one synthetic voice in every container that serein reads, made in memory."""

from __future__ import annotations

import io
from fractions import Fraction
from functools import cache
from importlib.util import find_spec

import numpy as np
import soundfile

HAS_MEDIA = find_spec("av") is not None
NO_MEDIA = "PyAV, the extra `media`, is not installed"

# name: format and subtype of libsndfile
SOUNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "wav-float": ("WAV", "FLOAT"),
    "wav-ima": ("WAV", "IMA_ADPCM"),
    "wav-gsm": ("WAV", "GSM610"),
    "wav-ulaw": ("WAV", "ULAW"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "caf-alac": ("CAF", "ALAC_16"),
    "rf64": ("RF64", "PCM_16"),
    "voc": ("VOC", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
}
# name: format and codec of ffmpeg, rate in Hz
MEDIA = {
    "m4a": ("mp4", "aac", 16_000),
    "m4a-alac": ("mp4", "alac", 16_000),
    "m4a-mp3": ("mp4", "libmp3lame", 16_000),
    "mp4-fragments": ("mp4", "aac", 44_100),
    "mov": ("mov", "pcm_s16le", 16_000),
    "3gp": ("3gp", "libopencore_amrnb", 8_000),
    "amr": ("amr", "libopencore_amrnb", 8_000),
    "aac": ("adts", "aac", 16_000),
    "webm": ("webm", "libopus", 48_000),
    "mka": ("matroska", "flac", 16_000),
    "mkv": ("matroska", "aac", 16_000),
    "wma": ("asf", "wmav2", 44_100),
    "ac3": ("ac3", "ac3", 48_000),
    "avi": ("avi", "adpcm_ms", 16_000),
    "flv": ("flv", "aac", 44_100),
    "mpegts": ("mpegts", "aac", 16_000),
    "mpeg": ("mpeg", "mp2", 44_100),
    "ogg-flac": ("ogg", "flac", 16_000),
    "wv": ("wv", "wavpack", 16_000),
    "tta": ("tta", "tta", 16_000),
}


def voice(rate_hz: int, seconds: float = 1.0) -> np.ndarray:
    """Return (sample,) float32 of a buzz whose pitch and level move, with a little noise; the same at every rate."""
    times_s = np.arange(round(seconds * rate_hz)) / rate_hz
    phase = 2 * np.pi * (120 * times_s + 2 * np.sin(2 * np.pi * times_s))
    buzz = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 12))
    return (0.1 * buzz * (1 + np.sin(2 * np.pi * 3 * times_s))).astype(np.float32)


@cache
def encoded(name: str, seconds: float = 1.0) -> bytes:
    """Return the voice in the container `name`, of `SOUNDFILE` or `MEDIA`."""
    content = io.BytesIO()
    if name in SOUNDFILE:
        container, subtype = SOUNDFILE[name]
        soundfile.write(content, voice(16_000, seconds), 16_000, format=container, subtype=subtype)
        return content.getvalue()
    import av

    container, codec, rate_hz = MEDIA[name]
    samples = (32_767 * voice(rate_hz, seconds)).astype(np.int16)[None]
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
    options = {"movflags": "frag_keyframe+empty_moov"} if name == "mp4-fragments" else {}
    with av.open(content, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout="mono")
        context = stream.codec_context
        context.bit_rate = 12_200 if "amr" in codec else 64_000
        pieces = av.AudioResampler(
            format=context.format or "s16", layout="mono", rate=rate_hz, frame_size=context.frame_size or 1024
        )
        for piece in [*pieces.resample(frame), *pieces.resample(None)]:
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return content.getvalue()


def containers() -> list[str]:
    """Return the names of the containers that can be made and read here."""
    return [*SOUNDFILE, *(MEDIA if HAS_MEDIA else ())]
