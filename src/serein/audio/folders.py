"""Which files in a folder are recordings."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from serein.audio.contract import SUFFIXES
from serein.errors import AudioError


def find(folder: Path, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """Return every file below `folder` with one of the suffixes, sorted; what is hidden is left out, and pipes are.

    Linked folders are entered, once each. A link whose file is gone is returned, so that reading it says so.
    """
    return [path for path in find_files(folder) if path.suffix.lower() in suffixes and not path.is_fifo()]


def require_utf8(path: Path) -> None:
    """Raise AudioError when a name is not UTF-8, as in an archive of another age: no manifest could hold it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise AudioError("the name is not UTF-8", where=shown, remedy="Rename it.") from None


def find_files(folder: Path) -> list[Path]:
    """Return every file below `folder`, sorted, as `find` does, whatever its suffix."""
    return sorted(walk(folder))


def walk(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder` as it is met; each linked folder once."""
    yield from _walk(folder, seen=set())


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    if (real := os.path.realpath(folder)) in seen:
        return
    seen.add(real)
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, seen)
        else:
            yield path
