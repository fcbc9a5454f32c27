"""Files and folders that are written atomically: each is either complete or absent."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

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


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder next to `folder`, which replaces `folder` if the block succeeds and is deleted otherwise.

    If the exchange fails, the old folder stays; a process killed during it leaves both next to `folder`, with hidden
    names. A link to a folder stays a link.
    """
    folder = Path(folder)
    folder = folder.resolve() if folder.is_symlink() else folder.absolute()  # contents may name files relative to it
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (folder.parent / f".{folder.name}.{secrets.token_hex(4)}" for _ in range(2))
    partial.mkdir()
    try:
        yield partial
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(partial, folder)
        except BaseException:
            if old.exists():
                os.replace(old, folder)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to a file, which takes no disk space, or a copy if the file system has no links."""
    with replacing(target) as partial:
        partial.unlink()
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def is_leftover(path: Path) -> bool:
    """Return whether a path is named like an incomplete file or folder, which a killed process leaves behind."""
    return re.fullmatch(r"\..+\.[a-z0-9_]{8}(\.\w+)?", path.name) is not None


def lock(file: IO[Any], where: Path, what: str) -> None:
    """Lock an open file against other processes; see `try_lock`.

    Args:
        what: Error message for when another process holds the lock.

    Raises:
        RunError: Another process holds the lock.
    """
    if not try_lock(file):
        raise RunError(what, where=where, remedy="Wait for it or stop it.")


def try_lock(file: IO[Any], *, waits: bool = False, is_shared: bool = False) -> bool:
    """Lock an open file until it is closed, and return whether that was possible; a killed process holds no lock.

    Where files cannot be locked (on Windows, on some network disks), it always is: nothing stops two processes there.

    Args:
        waits: Wait for other processes.
        is_shared: Several processes may hold the lock, if all share it.
    """
    try:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True


def require_suffix(path: str | Path, suffixes: Sequence[str]) -> None:
    """Raise RunError when a file to write has another suffix or is a folder, before any work is done for it."""
    if Path(path).suffix.lower() not in suffixes:
        what = expected_one_of(Path(path).suffix or "(none)", suffixes, kind="suffix")
        raise RunError(what, where=path, remedy="Give the file one of these suffixes.")
    if Path(path).is_dir():
        raise RunError("is a folder", where=path, remedy="Name a file to write to.")


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached_sha256(path: Path) -> str:
    """Return the SHA-256 of a large file, which this process computes again only if its size or time changes."""
    status = path.stat()
    return _sha256_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256_of(path: Path, size: int, changed_ns: int) -> str:
    return sha256(path)


def make_readable(path: Path) -> None:
    """Give a file the default permissions: temporary files, and those of safetensors, are private to their owner."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
