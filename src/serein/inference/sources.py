"""The recordings that a user names: files, folders, patterns, lists, manifests, standard input."""

from __future__ import annotations

import glob
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from serein import audio
from serein.audio import Upload
from serein.data import manifest
from serein.data.manifest import TABLE_SUFFIXES, Utterance
from serein.errors import AudioError, ManifestError, SereinError

Source = str | Path | Utterance | Upload
_Any = TypeVar("_Any")

LIST_SUFFIXES = (".txt", ".lst")
STDIN = "-"


def utterance_of(source: Source) -> Utterance:
    """Return a source as an utterance; a recording has its path as id.

    Raises:
        AudioError: The path is empty, or no valid name.
    """
    if source == "":
        raise AudioError("the name of the recording is empty", where="path", remedy="Name a file.")
    if isinstance(source, Utterance):
        return source
    audio.require_valid_name(str(source))
    return Utterance(id=str(source), audio=str(source))


def without_pipe(source: Source) -> Source:
    """Return a source that can be read twice, and by other processes: a pipe's content in place of its path."""
    if isinstance(source, str | Path):
        with suppress(OSError):  # reading the recording reports it
            if Path(source).is_fifo():
                return Upload(Path(source).read_bytes(), str(source))
    return source


def is_list_of_files(source: Any) -> bool:
    """Return whether a source is a list of paths or utterances, not samples."""
    return isinstance(source, list | tuple) and all(
        isinstance(each, str | Path | Utterance | Upload) for each in source
    )


def sources_in(
    names: Sequence[Path], lists: tuple[Path, ...] = (), errors: list[SereinError] | None = None
) -> list[Source]:
    """Return the recordings named by files, folders, patterns such as `calls/*.wav`, lists, manifests, and `-`.

    Recordings are paths; the lines of a manifest are utterances. A list (`.txt`, `.lst`) has one name per line, and its
    paths are relative to it; `-` is a recording or a list on standard input. Recordings named twice are returned twice.

    Args:
        lists: Lists that the names were found in; a list that names itself is refused.
        errors: Collects the errors of names without recordings, so that the others are returned; `None`: the first
            error is raised.

    Raises:
        AudioError: A folder contains no audio or cannot be read, or a pattern matches nothing.
        ManifestError: A `.jsonl` file is not a manifest, a list is invalid, or a table is not yet a manifest.
    """
    sources: list[Source] = []
    for name in names:
        try:
            sources += _named(name, lists, errors)
        except SereinError as error:
            if errors is None:
                raise
            errors.append(error)
    return sources


def _named(name: Path, lists: tuple[Path, ...], errors: list[SereinError] | None) -> list[Source]:
    """Return the recordings of one name."""
    if str(name) == STDIN:
        content = sys.stdin.buffer.read()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = "\0"
        if any(ord(character) < 32 and not character.isspace() for character in text):
            return [Upload(content, STDIN)]  # a recording, not a list
        return _listed(text, Path(), "stdin", (), errors)
    if name.suffix == ".jsonl":
        return list(manifest.read(name))
    if name.is_dir():
        suffixes = (*audio.SUFFIXES, *audio.MEDIA_SUFFIXES, *audio.RAW_SUFFIXES)
        num_errors = len(errors or ())
        recordings = audio.find(name, suffixes, errors)
        if not recordings and len(errors or ()) == num_errors:
            other = next((path.name for path in sorted(name.rglob("*")) if path.is_file()), None)
            what = "is an empty folder" if other is None else f"contains no recordings, but files such as {other}"
            raise AudioError(what, where=name, remedy=f"Known suffixes: {', '.join(suffixes)}.")
        return sources_in(recordings, lists, errors)
    if name.suffix.lower() in LIST_SUFFIXES and name.is_file():
        if name.resolve() in lists:
            raise ManifestError("names itself", where=name, remedy="Remove the line.")
        try:
            text = name.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise ManifestError(
                "is not a list: not UTF-8 text", where=name, remedy="Write one path per line."
            ) from None
        return _listed(text, name.parent, str(name), (*lists, name.resolve()), errors)
    if name.suffix.lower() in TABLE_SUFFIXES and name.is_file():
        remedy = f"Make a manifest from it, and name that: serein corpus prepare csv {name} -o manifest.jsonl"
        raise ManifestError("is a table, not a recording", where=name, remedy=remedy)
    if glob.has_magic(str(name)) and not name.exists():
        paths = sorted(Path(found) for found in glob.glob(str(name), recursive=True))
        if not paths:
            raise AudioError("matches no file", where=name, remedy="Check the pattern; '**' matches any folders.")
        return sources_in(paths, lists, errors)
    audio.require_valid_name(name)
    return [str(name)]


def evenly_spread(sources: list[_Any], limit: int) -> list[_Any]:
    """Return at most `limit` of the sources, evenly spread, starting with the first.

    Example:
        >>> evenly_spread(list("abcdef"), 3)
        ['a', 'c', 'e']
    """
    if len(sources) <= limit:
        return sources
    return [sources[index * len(sources) // limit] for index in range(limit)]


def _listed(
    text: str, folder: Path, where: str, lists: tuple[Path, ...], errors: list[SereinError] | None
) -> list[Source]:
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise ManifestError("names no recordings", where=where, remedy="Write one path per line.")
    if STDIN in names:
        raise ManifestError("a list cannot name stdin", where=where, remedy="Remove the line '-'.")
    return sources_in([folder / name for name in names], lists, errors)
