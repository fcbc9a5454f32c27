"""The cache of computed results: where they are stored, their size, their last use, and which of them can be removed.

    $SEREIN_CACHE / features / backbone / layer      hidden layers of frozen backbones
                  / sentences / encoder              vectors of texts
                  / transcripts / model              transcripts of a speech recogniser
                  / vocabularies / encoder           words of an encoder
    runs/reproduce / stages / key                    stages that several runs share

An entry is a folder. A process that uses one holds a lock on `.NAME.use` next to it (a process that trains a stage, on
`.NAME.lock`), and entries in use are never removed where files can be locked. A process that adds an entry keeps the
cache within `size_limit`: the least recently used entries are removed first.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from serein.data.files import is_leftover, try_lock
from serein.errors import RecipeError

KINDS = {
    "features": 2,
    "sentences": 1,
    "transcripts": 1,
    "vocabularies": 1,
}  # name of the folder -> depth of its entries
STAGES = "stages"
DISK_PART = 0.1  # of the disk, which the cache may fill unless `$SEREIN_CACHE_SIZE` is set
LEAST_LIMIT, MOST_LIMIT = 10e9, 100e9  # bounds of that part, in bytes
UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Entry:
    """One entry of the cache.

    Attributes:
        kind: One of `KINDS`, or `stages`.
        used_at: Time of its last use, in seconds since 1970.
    """

    kind: str
    path: Path
    num_bytes: int
    used_at: float

    @property
    def age_s(self) -> float:
        """Seconds since its last use."""
        return max(0.0, time.time() - self.used_at)


def cache_folder() -> Path:
    """Return `$SEREIN_CACHE`, or serein's folder in the user's cache; its contents can be computed again."""
    if named := os.environ.get("SEREIN_CACHE"):
        return Path(named).expanduser()
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if os.path.isabs(root) else Path("~/.cache").expanduser()) / "serein"


def entries(stages: Iterable[Path] = (), features: Iterable[Path] = ()) -> list[Entry]:
    """Return all entries, least recently used first.

    Args:
        stages: Folders of shared stages.
        features: Folders of features in addition to the cache's own, as named by recipes.
    """
    roots = [(kind, cache_folder() / kind, depth) for kind, depth in KINDS.items()]
    roots += [("features", folder, KINDS["features"]) for folder in features]
    roots += [(STAGES, folder, 1) for folder in stages]
    found = {}
    for kind, root, depth in roots:
        for path in root.glob("/".join(["[!.]*"] * depth)):
            with suppress(FileNotFoundError):  # removed in the meantime
                if path.is_dir():
                    num_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                    found[path] = Entry(kind, path, num_bytes, path.stat().st_mtime)
    return sorted(found.values(), key=lambda entry: entry.used_at)


def claim(folder: Path) -> IO[bytes] | None:
    """Mark an entry as in use by this process, and as used now.

    Returns:
        A file; the entry is not removed until it is closed. `None` if nothing can be written there, so that nothing
        can be removed anyway.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = open(folder.parent / f".{folder.name}.use", "ab")  # noqa: SIM115  (held by the caller)
    except OSError:
        return None
    try_lock(file, waits=True, is_shared=True)
    mark_used(folder)
    return file


def mark_used(folder: Path) -> None:
    """Mark an entry as used now, so that it is removed last."""
    with suppress(OSError):
        os.utime(folder)


def remove(entry: Entry) -> bool:
    """Remove an entry atomically; return `False` if a process uses it, or this user may not remove it."""
    name = f".{entry.path.name}.{'lock' if entry.kind == STAGES else 'use'}"
    try:
        with open(entry.path.parent / name, "ab") as file:
            if not try_lock(file):
                return False
            away = Path(tempfile.mkdtemp(prefix=f".{entry.path.name}.", dir=entry.path.parent))
            try:
                os.replace(entry.path, away / entry.path.name)
            finally:
                shutil.rmtree(away, ignore_errors=True)
            killed = filter(is_leftover, entry.path.parent.glob(f".{entry.path.name}.*"))  # of earlier removals
            for path in killed:
                shutil.rmtree(path, ignore_errors=True)
    except FileNotFoundError:  # removed in the meantime
        return True
    except OSError:  # another user's, or a read-only disk
        return False
    return True


def trim(kept: Sequence[Entry], most_bytes: float) -> list[Entry]:
    """Remove the least recently used entries until the rest is small enough; return the removed ones.

    Args:
        kept: Entries, in the order of `entries`.
    """
    size, removed = sum(entry.num_bytes for entry in kept), []
    for entry in kept:
        if size <= most_bytes:
            break
        if remove(entry):
            removed.append(entry)
            size -= entry.num_bytes
    return removed


def size_limit() -> float:
    """Return the maximum size in bytes: `$SEREIN_CACHE_SIZE` (`none`: no limit), else a tenth of the disk.

    That tenth is at least 10 GB and at most 100 GB.

    Raises:
        RecipeError: `$SEREIN_CACHE_SIZE` is not a size.
    """
    if (limit := os.environ.get("SEREIN_CACHE_SIZE", "")).lower() == "none":
        return math.inf
    if limit:
        return parse_size(limit, where="SEREIN_CACHE_SIZE")
    folder = next(path for path in (cache_folder().absolute(), *cache_folder().absolute().parents) if path.exists())
    return min(max(DISK_PART * shutil.disk_usage(folder).total, LEAST_LIMIT), MOST_LIMIT)


def keep_within_limit(stages: Iterable[Path] = (), features: Iterable[Path] = ()) -> list[Entry]:
    """Remove the least recently used entries beyond `size_limit`, and return them.

    Shared stages take hours to train, so they are counted and removed only if `$SEREIN_CACHE_SIZE` is set.

    Raises:
        RecipeError: `$SEREIN_CACHE_SIZE` is not a size.
    """
    return trim(entries(stages if os.environ.get("SEREIN_CACHE_SIZE") else (), features), size_limit())


def parse_size(text: str, *, where: str) -> float:
    """Return a size in bytes.

    Raises:
        RecipeError: The text is not a size.

    Example:
        >>> parse_size("20GB", where="--max-size"), parse_size("1.5 m", where="--max-size")
        (20000000000.0, 1500000.0)
    """
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip().lower())
    if parts is None:
        raise RecipeError(f"'{text}' is not a size", where=where, remedy="Write it like 20GB or 500MB.")
    return float(parts[1]) * UNITS[parts[2]]
