"""How long an MP3 is, which not every one states and libsndfile may guess too low."""

from __future__ import annotations

import mmap

from serein.data.upload import Source, Upload
from serein.errors import AudioError


def length_is_a_guess(path: Source, num_frames: int) -> bool:
    """Return whether an MP3 does not state its length at its start, so that libsndfile guesses it.

    Raises:
        AudioError: The guess is too low, so that libsndfile would leave out the end.
    """
    if isinstance(path, Upload):
        return _is_a_guess(path, path.content, num_frames)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _is_a_guess(path, content, num_frames)


def _is_a_guess(path: Source, content: bytes | mmap.mmap, num_frames: int) -> bool:
    start = 0
    if content[:3] == b"ID3":  # the tag's length is four bytes of seven bits
        start = 10 + sum(byte << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0), strict=True))
    if any(tag in content[start : start + 200] for tag in (b"Xing", b"Info", b"VBRI")):
        return False
    if num_frames < _num_mp3_samples(content, start) - 2 * 1152:
        raise AudioError(
            "an MP3 of varying bit rate that does not state its length",
            where=path,
            remedy="Convert it with: ffmpeg -i IN OUT.flac.",
        )
    return True


_KBPS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def _num_mp3_samples(content: bytes | mmap.mmap, start: int) -> int:
    """Count the samples of the MPEG layer III frames from byte `start` on (ISO 11172-3, 2.4.2.3)."""
    num_samples = 0
    while start + 4 <= len(content):
        head = int.from_bytes(content[start : start + 4], "big")
        version, kbps_index, rate_index = head >> 19 & 3, head >> 12 & 15, head >> 10 & 3
        if head >> 21 != 0x7FF or version == 1 or kbps_index in (0, 15) or rate_index == 3:
            break
        kbps = (_KBPS_MPEG1 if version == 3 else _KBPS_MPEG2)[kbps_index]
        rate_hz = (44_100, 48_000, 32_000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
        start += (144 if version == 3 else 72) * kbps * 1000 // rate_hz + (head >> 9 & 1)
        num_samples += 1152 if version == 3 else 576
    return num_samples
