"""Decode files of any container, bytes, streams and samples to mono float32 at 16 kHz. No other part decodes audio.

source (bytes that can be read twice; lengths that headers do not state) -> decoders (libsndfile | PyAV)
    -> recording (whole, in part, block by block) -> samples (types, channels, rates)
"""

from serein.audio.decoders import TruncatedAudioError
from serein.audio.recording import (
    LONGEST_WHOLE_S,
    SILENCE_PEAK,
    AudioInfo,
    OutsideAudioError,
    Recording,
    blocks,
    decode,
    info,
    load,
    open,
)
from serein.audio.samples import (
    MOST_CHANNELS,
    RATES_HZ,
    SAMPLE_RATE_HZ,
    NotFiniteAudioError,
    Resampler,
    Waveform,
    as_mono,
    as_waveform,
    rate_hz,
    resample,
    trimmed,
    unwrapped,
    without_offset,
)
from serein.audio.source import (
    MEDIA_SUFFIXES,
    RAW_SUFFIXES,
    SUFFIXES,
    MissingAudioError,
    Source,
    TooLongAudioError,
    Upload,
    find,
    find_files,
    require_utf8,
)

__all__ = [
    "open",
    "Recording",
    "load",
    "decode",
    "blocks",
    "info",
    "as_waveform",
    "as_mono",
    "rate_hz",
    "unwrapped",
    "resample",
    "Resampler",
    "trimmed",
    "without_offset",
    "find",
    "find_files",
    "require_utf8",
    "AudioInfo",
    "Source",
    "Upload",
    "Waveform",
    "SAMPLE_RATE_HZ",
    "RATES_HZ",
    "MOST_CHANNELS",
    "LONGEST_WHOLE_S",
    "SILENCE_PEAK",
    "SUFFIXES",
    "MEDIA_SUFFIXES",
    "RAW_SUFFIXES",
    "MissingAudioError",
    "TruncatedAudioError",
    "OutsideAudioError",
    "NotFiniteAudioError",
    "TooLongAudioError",
]
