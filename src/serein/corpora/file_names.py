"""Corpora whose file names hold everything: one pattern, one utterance a file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from serein.corpora.corpus import audio_files, require_one_file_each
from serein.data.utterance import Utterance
from serein.errors import ManifestError


def parse_names(
    root: Path,
    pattern: re.Pattern[str],
    utterance: Callable[[Path, re.Match[str]], Utterance],
    *,
    corpus: str,
    example: str,
) -> list[Utterance]:
    """Return an utterance of every audio file below `root`, by speaker and id.

    Args:
        pattern: Of a file's name without its suffix.
        utterance: From a file and the parts of its name.
        corpus: Its title, for the complaint about a foreign file name; likewise `example`, one of its own.

    Raises:
        ManifestError: No folder, no audio, a foreign file name, or one clip in two places.
    """
    utterances = [utterance(path, name_parts(path, pattern, corpus, example)) for path in audio_files(root)]
    require_one_file_each(utterances, root)
    return sorted(utterances, key=lambda u: (u.speaker or "", u.id))


def name_parts(path: Path, pattern: re.Pattern[str], corpus: str, example: str) -> re.Match[str]:
    """Return the parts of a file's name.

    Raises:
        ManifestError: It is not named as the corpus names its clips.
    """
    parts = pattern.fullmatch(path.stem)
    if parts is None:
        raise ManifestError(
            f"is not named as {corpus} names its clips, such as {example}",
            where=path,
            remedy="Name the corpus's own folder of clips, or move this file out of it.",
        )
    return parts
