"""What the parts of the room share: the rate of every waveform, bounds, errors, and what a decoder is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serein.errors import AudioError

SAMPLE_RATE_HZ = 16_000  # every backbone of the papers was trained at this rate
RATES_HZ = (4_000, 192_000)  # of recordings of speech
MOST_CHANNELS = 8

# fmt: off
SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".w64", ".rf64",
            ".caf", ".au", ".snd", ".voc", ".sph")
MEDIA_SUFFIXES = (".m4a", ".m4b", ".mp4", ".mov", ".aac", ".3gp", ".3g2", ".amr", ".awb", ".webm", ".weba", ".mka",
                  ".mkv", ".wma", ".wmv", ".asf", ".ac3", ".avi", ".flv", ".mpg", ".mpeg", ".mp2", ".spx", ".wv",
                  ".tta")  # with the extra `media`
RAW_SUFFIXES = (".raw", ".pcm")  # with their rate
# fmt: on

Waveform = NDArray[np.float32]


class MissingAudioError(AudioError):
    """There is no such file."""


class TruncatedAudioError(AudioError):
    """The file ends before its header says."""


class OutsideAudioError(AudioError):
    """The part asked for lies outside the file."""


class NotFiniteAudioError(AudioError):
    """The file holds NaN or infinite samples."""


class TooLongAudioError(AudioError):
    """The recording is longer than its reader allows."""


@dataclass(frozen=True)
class AudioInfo:
    """What is known of a recording.

    Attributes:
        duration_s: Length of the recording, or of the part asked for, in seconds.
        sample_rate_hz: Rate before resampling.
        num_channels: Channels before mixing down.
        remarks: What is strange about it, but does not keep it from being read, as sentences without a full stop.
    """

    duration_s: float
    sample_rate_hz: int
    num_channels: int
    remarks: tuple[str, ...] = ()


class Decoder(Protocol):
    """What reads encoded sound.

    Attributes:
        sample_rate_hz: Rate of the samples.
        num_channels: Channels of the samples.
        num_frames: Samples per channel; `None` where only reading tells.
        remarks: As in `AudioInfo`.
    """

    sample_rate_hz: int
    num_channels: int
    num_frames: int | None
    remarks: tuple[str, ...]

    def blocks(self, start: int, size: int) -> Iterator[Waveform]:
        """Yield (sample, channel) float32 from frame `start` to the end, about `size` frames at once."""

    def close(self) -> None:
        """Let go of what it holds: by itself nothing."""
        return


def truncated(where: str, detail: str) -> AudioError:
    """Return the error for a file that ends early."""
    return TruncatedAudioError(f"truncated: {detail}", where=where, remedy="Copy the file again from its source.")


def damaged(where: str, reason: str) -> AudioError:
    """Return the error for a file that a decoder gives up on."""
    return AudioError(f"damaged or cut off ({reason})", where=where, remedy="Copy the file again from its source.")


def no_samples(where: str) -> AudioError:
    """Return the error for a file of a header alone."""
    return AudioError("holds no samples", where=where, remedy="Record it again, or remove it from the list.")
