"""Lengths that headers leave out or state falsely: files of pipes and killed recorders, joined MP3 and Ogg."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from serein.audio.source import View, content_of

_CHUNKS = {b"RIFF": ("<4sI", 12), b"RIFX": (">4sI", 12), b"RF64": ("<4sI", 12), b"caff": (">4sq", 8)}


def with_its_length(file: BinaryIO) -> View | None:
    """Return a WAV, CAF or AU with its length, where a pipe or a killed recorder wrote none or too short a one.

    Source: RIFF, EBU Tech 3306 (RF64), Apple Core Audio Format Specification 1.0: chunks of name, length, content.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(12)
    if start[:4] == b".snd" and start[8:12] == bytes(4):
        return View(file, start[:8] + b"\xff\xff\xff\xff", 12)  # AU's word for it
    if start[:4] not in _CHUNKS:
        return None
    form, place = _CHUNKS[start[:4]]
    width, ds64 = struct.calcsize(form), 0
    for _ in range(1000):
        if place + width >= size:
            return None
        file.seek(place)
        name, stated = struct.unpack(form, file.read(width))
        place += width
        if name == b"data" or stated < 0:
            break
        ds64 = place + 8 if name == b"ds64" and stated >= 16 else ds64
        place += stated + (stated % 2 if form.endswith("I") else 0)
    if name != b"data":
        return None
    file.seek(0)
    head = bytearray(file.read(place))
    if ds64:
        (stated,) = struct.unpack_from("<q", head, ds64)
    is_early = form.endswith("I") and not ds64 and struct.unpack_from(form, head)[1] + 16 < size
    end = place + max(stated, 0) + max(stated, 0) % 2
    if not (stated <= 0 or is_early) or end + 8 >= size:
        return None
    file.seek(end)
    rest = file.read(4096)
    if all(32 <= byte < 127 for byte in rest[:4]) or rest[:3] == b"ID3" or not rest.strip(b"\0"):
        return None  # what follows is no sound, but another chunk, a tag or padding
    if ds64:
        struct.pack_into("<q", head, ds64, size - place)
    elif form.endswith("q"):
        struct.pack_into(">q", head, place - 8, size - place)
    else:
        struct.pack_into(form[0] + "I", head, place - 4, min(size - place, 0xFFFFFFFF))
    return View(file, bytes(head), place)


def ogg_views(file: BinaryIO) -> list[View]:
    """Return each of the Ogg streams that a file joins end to end; none if it is one, or no Ogg.

    Source: RFC 3533, section 6: the first page of a stream is marked.
    """
    with content_of(file) as content:
        starts = [match.start() for match in re.finditer(rb"OggS\0[\x02\x06]", content)] if content[:1] == b"O" else []
        stops = [*starts[1:], len(content)]
    return [View(file, b"", start, stop) for start, stop in zip(starts, stops, strict=True)] if starts[1:] else []


@dataclass
class Mp3:
    """One MP3 of those that a file joins end to end.

    Attributes:
        start: Its first byte, of a tag or frame.
        num_stated: Samples that its first frame states (a "Xing", "Info" or "VBRI" header); 0 where there is none.
        sound: The first byte of its first frame of sound.
        num_samples: Of its frames of sound.
    """

    start: int
    num_stated: int = 0
    sound: int = 0
    num_samples: int = 0

    def are_all(self, num_samples: int) -> bool:
        """Return whether so many samples are all, but for the two frames by which encoders delay and pad."""
        return 0 < num_samples >= self.num_samples - 2 * 1152


_LAYER_III = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
_KBPS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def mp3_parts(file: BinaryIO) -> list[Mp3]:
    """Return the MP3s that a file joins end to end, or the one; none if it is no MP3.

    Walks from frame to frame of MPEG layer III, past tags. Where a frame states a length, another MP3 begins.
    """
    parts: list[Mp3] = []
    place, tag = 0, -1
    with content_of(file) as content:
        is_mp3 = bytes(content[:3]) == b"ID3" or _mp3_frame(bytes(content[:4]))[0] > 0
        while is_mp3 and place + 10 <= len(content):
            start = bytes(content[place : place + 64])
            num_bytes, num_samples = _mp3_frame(start)
            if num_bytes:
                # a "Xing", "Info" or "VBRI" frame states the samples, behind an empty side information and a checksum
                body, num_stated = start[4 if start[1] & 1 else 6 :].lstrip(b"\0"), None
                if body[:4] in (b"Xing", b"Info"):
                    is_stated = len(body) > 11 and body[7] & 1
                    num_stated = int.from_bytes(body[8:12], "big") * num_samples if is_stated else 0
                elif body[:4] == b"VBRI":
                    num_stated = int.from_bytes(body[14:18], "big") * num_samples
                if not parts or num_stated is not None:
                    parts.append(Mp3(place if tag < 0 else tag, num_stated or 0))
                if num_stated is None:
                    parts[-1].sound = parts[-1].sound if parts[-1].num_samples else place
                    parts[-1].num_samples += num_samples
                place, tag = place + num_bytes, -1
            elif start[:3] == b"ID3":  # its length is four bytes of seven bits
                tag = place
                place += 10 + sum(byte << shift for byte, shift in zip(start[6:10], (21, 14, 7, 0), strict=True))
            else:  # a frame was cut off, or another kind of tag stands here: on to the next that another one follows
                for match in _LAYER_III.finditer(content, place):
                    place = match.start()
                    head = bytes(content[place : place + 4])
                    after = place + _mp3_frame(head)[0]
                    if after > place and bytes(content[after : after + 2]) == head[:2]:
                        break
                else:
                    place = len(content)
    return [part for part in parts if part.num_samples]


def mp3_views(file: BinaryIO, parts: Sequence[Mp3]) -> list[View]:
    """Return each of the MP3s that a file joins; before the sound of one that states too short a length, its own."""
    views = []
    stops = [*(part.start for part in parts[1:]), file.seek(0, os.SEEK_END)]
    for part, stop in zip(parts, stops, strict=True):
        if part.are_all(part.num_stated):
            views.append(View(file, b"", part.start, stop))
        else:
            file.seek(part.sound)
            views.append(View(file, _xing_frame(file.read(4), part.num_samples), part.sound, stop))
    return views


def _mp3_frame(start: bytes) -> tuple[int, int]:
    """Return bytes and samples of the frame of MPEG layer III that begins so, 0 if none does (ISO 11172-3, 2.4.2.3)."""
    head = int.from_bytes(start[:4], "big")
    version, layer, kbps_index, rate_index = head >> 19 & 3, head >> 17 & 3, head >> 12 & 15, head >> 10 & 3
    if head >> 21 != 0x7FF or version == 1 or layer != 1 or kbps_index in (0, 15) or rate_index == 3:
        return 0, 0
    kbps = (_KBPS_MPEG1 if version == 3 else _KBPS_MPEG2)[kbps_index]
    rate_hz = (44_100, 48_000, 32_000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    num_samples = 1152 if version == 3 else 576
    return num_samples // 8 * kbps * 1000 // rate_hz + (head >> 9 & 1), num_samples


def _xing_frame(head: bytes, num_samples: int) -> bytes:
    """Return a frame without sound, like the one that begins with `head`, that states a length."""
    head = bytes([head[0], head[1] | 1, 0x90 | (head[2] & 0x0C), head[3]])  # no checksum, 128 or 80 kbit/s, no padding
    num_bytes, samples_per_frame = _mp3_frame(head)
    is_mpeg1, is_mono = samples_per_frame == 1152, head[3] >> 6 == 3
    side_information = bytes((17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17))
    stated = b"Xing" + (1).to_bytes(4, "big") + (num_samples // samples_per_frame).to_bytes(4, "big")
    return (head + side_information + stated).ljust(num_bytes, b"\0")
