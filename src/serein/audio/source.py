"""Where encoded sound comes from: files, bytes, pipes and streams, as bytes that can be read twice; and folders."""

from __future__ import annotations

import io
import mmap
import os
import re
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from serein.audio.contract import SUFFIXES, MissingAudioError, TooLongAudioError
from serein.errors import AudioError

MOST_BYTES_PIPED = 2**31  # of a stream, which is kept aside to be read twice


@dataclass(frozen=True)
class Upload:
    """A recording as bytes, with a name.

    Attributes:
        content: The whole file.
        name: What complaints call it; never a path.

    Example:
        >>> str(Upload(b"RIFF", "call.wav"))
        'call.wav'
    """

    content: bytes = field(repr=False)
    name: str = "upload"

    def __str__(self) -> str:
        return self.name


Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Upload


def name_of(source: Any) -> str:
    """Return what complaints call a source."""
    if isinstance(source, (str, os.PathLike, Upload)):
        return str(source) or "''"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "bytes"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "stream" if hasattr(source, "read") else "samples"


@contextmanager
def bytes_of(source: Any, where: str) -> Iterator[BinaryIO]:
    """Open a file that can be read twice: a regular one as it is, anything else kept aside."""
    if isinstance(source, Upload):
        source = source.content
    if isinstance(source, (bytes, bytearray, memoryview)):
        opened: BinaryIO = io.BytesIO(source)
    elif hasattr(source, "read"):
        opened = _kept_aside(source, where)
    else:
        try:
            kind = os.stat(source).st_mode
            if stat.S_ISDIR(kind):
                raise AudioError("is a folder, not a recording", where=where, remedy="Name a file.")
            if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
                raise AudioError("is a device, not a recording", where=where, remedy="Name a file, or pipe sound in.")
            opened = io.FileIO(source)
        except (FileNotFoundError, NotADirectoryError):
            remedy = "Check the path, or prepare the manifest again." if where != "''" else "Name a file."
            if re.match(r"\w{2,}:/", where):
                remedy = "Recordings are files: download it first, or name it without file://."
            raise MissingAudioError("no such file", where=where, remedy=remedy) from None
        except (OSError, ValueError) as error:
            what = f"cannot be opened ({getattr(error, 'strerror', None) or error})"
            raise AudioError(what, where=where, remedy="Check the path and its rights.") from None
        if not stat.S_ISREG(kind):
            with opened as pipe:
                opened = _kept_aside(pipe, where)
    with opened as file:
        try:
            num_bytes = file.seek(0, os.SEEK_END)
        except OSError as error:  # what the kernel shows as files, below /proc
            raise AudioError(f"cannot be read ({error.strerror})", where=where, remedy="Name a recording.") from None
        if num_bytes == 0:
            raise AudioError("the file is empty (0 bytes)", where=where, remedy="Copy or record it again.")
        yield file


def _kept_aside(stream: Any, where: str) -> BinaryIO:
    """Read a pipe or stream to its end: in memory where it is short, else in a file that has no name."""
    kept: BinaryIO = io.BytesIO()
    try:
        while chunk := stream.read(2**20):
            if not isinstance(chunk, (bytes, bytearray, memoryview)):
                raise AudioError("gives text, not bytes", where=where, remedy="Open it in binary mode: 'rb'.")
            kept.write(chunk)
            if kept.tell() > MOST_BYTES_PIPED:
                raise TooLongAudioError(
                    f"gives more than {MOST_BYTES_PIPED / 2**30:g} GiB", where=where, remedy="Name a file instead."
                )
            if isinstance(kept, io.BytesIO) and kept.tell() > 2**25:
                in_memory, kept = kept, tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
                kept.write(in_memory.getbuffer())
        if kept.tell() == 0 and hasattr(stream, "seekable") and stream.seekable() and stream.tell() > 0:
            raise AudioError("is at its end", where=where, remedy="Go back to its start: seek(0).")
    except (OSError, ValueError) as error:
        kept.close()
        raise AudioError(f"cannot be read ({error})", where=where, remedy="Give a file that is open.") from None
    except BaseException:
        kept.close()
        raise
    return kept


@contextmanager
def content_of(file: BinaryIO) -> Iterator[Any]:
    """Look at all bytes of a file without reading them into memory."""
    if isinstance(file, io.BytesIO):
        with file.getbuffer() as content:
            yield content
    else:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


class View(io.RawIOBase):
    """`head`, then the bytes of a file from `start` to `stop`.

    Who seeks to before the start, as libsndfile does by broken headers, stays where he is.
    """

    def __init__(self, file: BinaryIO, head: bytes = b"", start: int = 0, stop: int | None = None) -> None:
        self.file, self.head, self.shift = file, head, start - len(head)
        self.size = (file.seek(0, os.SEEK_END) if stop is None else stop) - self.shift
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        num_bytes = max(0, min(len(buffer), self.size - self.place))
        if self.place < len(self.head):
            chunk = self.head[self.place : self.place + num_bytes]
        else:
            self.file.seek(self.place + self.shift)
            chunk = self.file.read(num_bytes)
        buffer[: len(chunk)] = chunk
        self.place += len(chunk)
        return len(chunk)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        self.place = place if 0 <= place < 2**62 else self.place
        return self.place


def find(folder: Path, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """Return every file below `folder` with one of the suffixes, sorted; what is hidden is left out, and pipes are.

    Linked folders are entered, once each. A link whose file is gone is returned, so that reading it says so.
    """
    return [path for path in find_files(folder) if path.suffix.lower() in suffixes and not path.is_fifo()]


def find_files(folder: Path) -> list[Path]:
    """Return every file below `folder`, sorted, as `find` does, whatever its suffix."""
    found: list[Path] = []
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
        found += [path for path in paths if not path.is_dir()]
        waiting += [path for path in reversed(paths) if path.is_dir()]
    return sorted(found)


def require_utf8(path: Path) -> None:
    """Raise AudioError when a name is not UTF-8, as in an archive of another age: no manifest could hold it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise AudioError("the name is not UTF-8", where=shown, remedy="Rename it.") from None
