"""Files that are written atomically: each is either complete or absent."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from serein.errors import RunError, expected_one_of


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, which replaces `path` if the block succeeds and is deleted otherwise.

    Example:
        >>> folder = tempfile.mkdtemp()
        >>> with replacing(Path(folder) / "a.txt") as partial:
        ...     _ = partial.write_text("whole")
        >>> os.listdir(folder)
        ['a.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        make_readable(Path(name))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def is_leftover(path: Path) -> bool:
    """Return whether a path is named like the incomplete files of `tempfile`, which a killed process leaves behind."""
    return re.fullmatch(r"\..+\.[a-z0-9_]{8}(\.\w+)?", path.name) is not None


def lock(file: IO[bytes], where: Path, what: str) -> None:
    """Lock an open file against other processes; a killed process leaves no lock behind.

    Args:
        what: Error message for when another process holds the lock.

    Raises:
        RunError: Another process holds the lock.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # no such lock on Windows
    except BlockingIOError:
        raise RunError(what, where=where, remedy="Wait for it or stop it.") from None


def require_suffix(path: str | Path, suffixes: Sequence[str]) -> None:
    """Raise RunError when a file's suffix is not one of these, before any work is done for it."""
    if Path(path).suffix.lower() not in suffixes:
        what = expected_one_of(Path(path).suffix or "(none)", suffixes, kind="suffix")
        raise RunError(what, where=path, remedy="Give the file one of these suffixes.")


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_readable(path: Path) -> None:
    """Give a file the default permissions: temporary files, and those of safetensors, are private to their owner."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
