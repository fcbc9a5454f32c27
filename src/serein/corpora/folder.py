"""A folder for every emotion: `ROOT/<emotion>/FILE` or `ROOT/<emotion>/<speaker>/FILE`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from serein.corpora.corpus import Corpus, audio_files, left_out, require_one_file_each
from serein.data.utterance import Utterance
from serein.errors import ManifestError

_LAYOUT = "Arrange them as ROOT/<emotion>/FILE or ROOT/<emotion>/<speaker>/FILE, or list them in a table ('csv')."
_SPLITS = frozenset({"train", "training", "dev", "devel", "val", "valid", "validation", "test", "testing", "eval"})


def parse(root: Path) -> list[Utterance]:
    """Return every audio file below `root`, by path; the id is the path below `root` without its suffix.

    Raises:
        ManifestError: No audio, files outside the layout, fewer than two emotions, or two files of one name.
    """
    paths = audio_files(root)
    _require_layout(paths, root)
    utterances = [_utterance(path, root) for path in paths]
    require_one_file_each(utterances, root)
    _require_emotions(sorted({u.emotion or "" for u in utterances}), root)
    return utterances


def remarks(root: Path) -> list[str]:
    """Return what was taken for emotions, so that folders of speakers are noticed; and what was left out."""
    emotions = sorted({path.relative_to(root).parts[0] for path in audio_files(root)})
    shown = ", ".join(emotions[:8]) + (", ..." if len(emotions) > 8 else "")
    return [f"took the names of {len(emotions)} folders for emotions: {shown}", *left_out(root)]


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
    if all(emotion.lower() in _SPLITS for emotion in emotions):
        raise ManifestError(
            f"the folders {', '.join(emotions)} look like splits, not emotions",
            where=root,
            remedy="Prepare each of them by itself, or list all files in a table with a column 'split'.",
        )


def _utterance(path: Path, root: Path) -> Utterance:
    emotion, *speaker, _ = path.relative_to(root).parts
    return Utterance(
        id=path.relative_to(root).with_suffix("").as_posix(),
        audio=str(path),
        speaker=speaker[0] if speaker else None,
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
