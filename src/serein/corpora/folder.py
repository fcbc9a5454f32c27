"""A folder for every emotion: `ROOT/<emotion>/FILE` or `ROOT/<emotion>/<speaker>/FILE`.

`ROOT/<speaker>/<emotion>/FILE` is understood as well, when the lower folders are named as emotions and no upper one is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from serein.corpora.corpus import Corpus, audio_files, left_out, require_one_file_each
from serein.data.utterance import Utterance
from serein.errors import ManifestError

_WORDS = """
afraid amused amusement anger angry annoyed anxiety anxious bored boredom calm confused contempt disgust disgusted
excited excitement fear fearful frustrated frustration happiness happy joy joyful neutral other sad sadness
surprise surprised ang dis exc fea fru hap neu sur
"""
EMOTIONS = frozenset(_WORDS.split())

_LAYOUT = "Arrange them as ROOT/<emotion>/FILE or ROOT/<emotion>/<speaker>/FILE, or list them in a table ('csv')."
_SPLITS = frozenset({"train", "training", "dev", "devel", "val", "valid", "validation", "test", "testing", "eval"})
_SPEAKER = re.compile(r"(?:actor|speaker|spk|subject|session|ses|id|s|p|f|m)?[ _-]?\d+", re.IGNORECASE)


def parse(root: Path) -> list[Utterance]:
    """Return every audio file below `root`, by path; the id is the path below `root` without its suffix.

    Raises:
        ManifestError: No audio, files outside the layout, fewer than two emotions, folders that look like speakers or
            splits, or two files of one name.
    """
    paths = audio_files(root)
    _require_layout(paths, root)
    is_exchanged = _is_exchanged(paths, root)
    utterances = [_utterance(path, root, is_exchanged) for path in paths]
    require_one_file_each(utterances, root)
    _require_emotions(sorted({u.emotion or "" for u in utterances}), root)
    return utterances


def remarks(root: Path) -> list[str]:
    """Return what was taken for emotions, so that folders of speakers are noticed; and what was left out."""
    paths = audio_files(root)
    is_exchanged = _is_exchanged(paths, root)
    emotions = sorted({_utterance(path, root, is_exchanged).emotion or "" for path in paths})
    shown = ", ".join(emotions[:8]) + (", ..." if len(emotions) > 8 else "")
    notes = [f"took the names of {len(emotions)} folders for emotions: {shown}"]
    if is_exchanged:
        notes.append("took the upper folders for speakers, because those below them are named as emotions")
    return [*notes, *left_out(root)]


def _is_exchanged(paths: Sequence[Path], root: Path) -> bool:
    """Tell whether speakers stand above emotions: all lower folders are named as emotions, and no upper one is."""
    below = [path.relative_to(root).parts for path in paths]
    upper = {parts[0].lower() for parts in below}
    lower = {parts[1].lower() for parts in below if len(parts) == 3}
    return all(len(parts) == 3 for parts in below) and lower <= EMOTIONS and not upper & (EMOTIONS | _SPLITS)


def _require_layout(paths: Sequence[Path], root: Path) -> None:
    below = [path.relative_to(root) for path in paths]
    for wrong, what in (
        ([path for path in below if len(path.parts) == 1], "lie directly in the folder"),
        ([path for path in below if len(path.parts) > 3], "lie deeper than <emotion>/<speaker>"),
    ):
        if wrong:
            raise ManifestError(
                f"{len(wrong)} of {len(paths)} files {what}, such as {wrong[0].as_posix()}",
                where=root,
                remedy=_LAYOUT,
            )


def _require_emotions(emotions: Sequence[str], root: Path) -> None:
    if len(emotions) < 2:
        raise ManifestError(f"holds one emotion only: {emotions[0]}", where=root, remedy=_LAYOUT)
    shown = ", ".join(emotions[:8]) + (", ..." if len(emotions) > 8 else "")
    if all(emotion.lower() in _SPLITS for emotion in emotions):
        raise ManifestError(
            f"the folders {shown} look like splits, not emotions",
            where=root,
            remedy="Prepare each of them by itself, or list all files in a table with a column 'split'.",
        )
    if all(_SPEAKER.fullmatch(emotion) for emotion in emotions):
        raise ManifestError(
            f"the folders {shown} look like speakers, not emotions",
            where=root,
            remedy=f"{_LAYOUT} If they are codes of emotions, name the folders after the emotions.",
        )


def _utterance(path: Path, root: Path, is_exchanged: bool) -> Utterance:
    upper, *lower, _ = path.relative_to(root).parts
    emotion, speaker = (lower[0], upper) if is_exchanged else (upper, lower[0] if lower else None)
    return Utterance(
        id=path.relative_to(root).with_suffix("").as_posix(),
        audio=str(path),
        speaker=speaker,
        emotion=emotion,
    )


FOLDER = Corpus(
    name="folder",
    title="Folder per emotion",
    licence=None,
    citation=None,
    parse=parse,
    remarks=remarks,
)
