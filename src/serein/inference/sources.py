"""The recordings that a person names: files, and folders with files below them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from serein.data import audio
from serein.errors import AudioError


def recordings_in(sources: Sequence[Path]) -> list[Path]:
    """Return the named files, and every audio file below the named folders.

    Raises:
        AudioError: A folder holds no audio.
    """
    paths: list[Path] = []
    for source in sources:
        if not source.is_dir():
            paths.append(source)
            continue
        found = audio.find(source)
        if not found:
            raise AudioError(
                "holds no recordings", where=source, remedy=f"Known suffixes: {', '.join(audio.SUFFIXES)}."
            )
        paths += found
    return paths
