"""The recordings that a user names: files, folders with files below them, patterns, lists, manifests."""

from __future__ import annotations

import glob
import sys
from collections.abc import Sequence
from pathlib import Path

from serein import audio
from serein.data import manifest
from serein.data.utterance import Utterance
from serein.errors import AudioError, ManifestError

LIST_SUFFIXES = (".txt", ".lst")
STDIN = "-"


def utterances_in(sources: Sequence[Path]) -> list[Utterance]:
    """Return the utterances named by files, folders, patterns such as `calls/*.wav`, lists, manifests, and `-`.

    A list (`.txt`, `.lst`) has a source on each line, and paths in it are relative to it; `-` is a list on stdin. What
    is named twice is returned twice.

    Raises:
        AudioError: A folder holds no audio, a pattern fits nothing.
        ManifestError: A `.jsonl` file is no manifest, a list is none.
    """
    return [utterance for source in sources for utterance in _utterances(source)]


def evenly_spread(utterances: list[Utterance], limit: int) -> list[Utterance]:
    """Return at most `limit` of them, from the first on at equal distances.

    Example:
        >>> evenly_spread(list("abcdef"), 3)
        ['a', 'c', 'e']
    """
    if len(utterances) <= limit:
        return utterances
    return [utterances[index * len(utterances) // limit] for index in range(limit)]


def _utterances(source: Path) -> list[Utterance]:
    if str(source) == STDIN:
        return _listed(sys.stdin.read(), Path(), where="stdin")
    if source.suffix == ".jsonl":
        return manifest.read(source)
    if source.is_dir():
        return [_bare(path) for path in _found_in(source)]
    if source.suffix.lower() in LIST_SUFFIXES and source.is_file():
        return _listed(_text(source), source.parent, where=str(source))
    if glob.has_magic(str(source)) and not source.exists():
        return utterances_in(_matching(str(source)))
    return [_bare(source)]


def _found_in(folder: Path) -> list[Path]:
    found = audio.find(folder)
    if not found:
        raise AudioError("holds no recordings", where=folder, remedy=f"Known suffixes: {', '.join(audio.SUFFIXES)}.")
    return found


def _matching(pattern: str) -> list[Path]:
    paths = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    if not paths:
        raise AudioError("fits no file", where=pattern, remedy="Check the pattern; '**' stands for any folders.")
    return paths


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ManifestError("is no list: not UTF-8 text", where=path, remedy="Write one path a line.") from None


def _listed(text: str, folder: Path, *, where: str) -> list[Utterance]:
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise ManifestError("names no recordings", where=where, remedy="Write one path a line.")
    if STDIN in names:
        raise ManifestError("a list cannot name stdin", where=where, remedy="Remove the line '-'.")
    return utterances_in([folder / name for name in names])


def _bare(path: Path) -> Utterance:
    audio.require_utf8(path)
    return Utterance(id=str(path), audio=str(path))
