"""The recordings that a person names: files, folders with files below them, manifests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from serein.data import audio, manifest
from serein.data.utterance import Utterance
from serein.errors import AudioError


def utterances_in(sources: Sequence[Path]) -> list[Utterance]:
    """Return the named files, every audio file below the named folders, and the utterances of named manifests.

    Raises:
        AudioError: A folder holds no audio.
        ManifestError: A `.jsonl` file is no manifest.
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
    if source.suffix == ".jsonl":
        return manifest.read(source)
    if not source.is_dir():
        return [_bare(source)]
    found = audio.find(source)
    if not found:
        raise AudioError("holds no recordings", where=source, remedy=f"Known suffixes: {', '.join(audio.SUFFIXES)}.")
    return [_bare(path) for path in found]


def _bare(path: Path) -> Utterance:
    audio.require_utf8(path)
    return Utterance(id=str(path), audio=str(path))
