"""The recordings that a user names: files, folders, patterns, lists, manifests, standard input."""

from __future__ import annotations

import glob
import sys
from collections.abc import Sequence
from pathlib import Path

from serein import audio
from serein.audio import Upload
from serein.data import manifest
from serein.data.utterance import Utterance
from serein.errors import AudioError, ManifestError
from serein.inference.predictor import Source

LIST_SUFFIXES = (".txt", ".lst")
STDIN = "-"


def sources_in(names: Sequence[Path]) -> list[Source]:
    """Return what is named by files, folders, patterns such as `calls/*.wav`, lists, manifests, and `-`.

    Recordings are paths; the lines of a manifest are utterances. A list (`.txt`, `.lst`) has a name on each line, and
    paths in it are relative to it; `-` is a recording or a list on standard input. What is named twice is returned
    twice.

    Raises:
        AudioError: A folder holds no audio, a pattern fits nothing.
        ManifestError: A `.jsonl` file is no manifest, a list is none.
    """
    return [source for name in names for source in _sources(name, ())]


def evenly_spread(sources: list[Source], limit: int) -> list[Source]:
    """Return at most `limit` of them, from the first on at equal distances.

    Example:
        >>> evenly_spread(list("abcdef"), 3)
        ['a', 'c', 'e']
    """
    if len(sources) <= limit:
        return sources
    return [sources[index * len(sources) // limit] for index in range(limit)]


def utterance_of(source: Source) -> Utterance:
    """Return a source as an utterance; a recording has its path as id."""
    return source if isinstance(source, Utterance) else Utterance(id=str(source), audio=str(source))


def _sources(name: Path, lists: tuple[Path, ...]) -> list[Source]:
    """Return what a name stands for; `lists` are those that it was found in."""
    if str(name) == STDIN:
        return _from_stdin()
    if name.suffix == ".jsonl":
        return list(manifest.read(name))
    if name.is_dir():
        suffixes = (*audio.SUFFIXES, *audio.MEDIA_SUFFIXES, *audio.RAW_SUFFIXES)
        if not (found := audio.find(name, suffixes)):
            known = ", ".join(suffixes)
            raise AudioError("holds no recordings", where=name, remedy=f"Known suffixes: {known}.")
        return [_recording(path) for path in found]
    if name.suffix.lower() in LIST_SUFFIXES and name.is_file():
        if name.resolve() in lists:
            raise ManifestError("names itself", where=name, remedy="Remove the line.")
        try:
            text = name.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise ManifestError("is no list: not UTF-8 text", where=name, remedy="Write one path a line.") from None
        return _listed(text, name.parent, str(name), (*lists, name.resolve()))
    if glob.has_magic(str(name)) and not name.exists():
        paths = sorted(Path(found) for found in glob.glob(str(name), recursive=True))
        if not paths:
            raise AudioError("fits no file", where=name, remedy="Check the pattern; '**' stands for any folders.")
        return [source for path in paths for source in _sources(path, lists)]
    return [_recording(name)]


def _from_stdin() -> list[Source]:
    """Return the recording, or the recordings of the list, that standard input holds."""
    content = sys.stdin.buffer.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if any(ord(character) < 32 and not character.isspace() for character in text):
        return [Upload(content, STDIN)]
    return _listed(text, Path(), "stdin", ())


def _listed(text: str, folder: Path, where: str, lists: tuple[Path, ...]) -> list[Source]:
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise ManifestError("names no recordings", where=where, remedy="Write one path a line.")
    if STDIN in names:
        raise ManifestError("a list cannot name stdin", where=where, remedy="Remove the line '-'.")
    return [source for name in names for source in _sources(folder / name, lists)]


def _recording(path: Path) -> str:
    audio.require_utf8(path)
    return str(path)
