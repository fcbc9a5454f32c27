"""MELD: utterances of the series Friends, with who says them, the text and one of seven emotions (Poria et al. 2019).

Three tables, `train_sent_emo.csv`, `dev_sent_emo.csv` and `test_sent_emo.csv`, and a folder of clips for each:
`train_splits/dia0_utt0.mp4`, `dev_splits_complete/`, `output_repeated_splits_test/`. Where the last holds
`final_videos_testdia0_utt0.mp4` as well, that is the corrected clip. Clips may be audio that was taken out
of the videos.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serein import audio
from serein.corpora.corpus import Corpus, Expected, require_folder
from serein.corpora.tables import rows
from serein.data.utterance import Utterance
from serein.errors import ManifestError

EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
BROKEN = frozenset({"train_dia125_utt3", "dev_dia110_utt7"})  # cannot be decoded; is not in the release
VIDEO = ".mp4"

_CORRECTED = "final_videos_test"
_COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
_C1 = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}  # quotes of a Windows text


@dataclass(frozen=True)
class _Row:
    split: str
    dialogue: str
    name: str
    speaker: str | None
    emotion: str
    text: str | None

    @property
    def id(self) -> str:
        """Name of the utterance in the corpus; dialogues are numbered anew in each split."""
        return f"{self.split}_{self.name}"


def parse(root: Path) -> list[Utterance]:
    """Return every row of the three tables but two without a clip, in their order; the session is the dialogue.

    Raises:
        ManifestError: No folder, a table or its folder of clips is missing, or a row is not of the corpus.
    """
    require_folder(root)
    utterances = []
    for split, folder in FOLDERS.items():
        clips = _clips(root, folder)
        for row in _rows(root, split):
            if row.id not in BROKEN:
                utterances.append(_utterance(row, clips, root / folder))
    return utterances


def remarks(root: Path) -> list[str]:
    """Return a note on the rows that have no clip in the release."""
    found = sorted(row.id for split in FOLDERS for row in _rows(root, split) if row.id in BROKEN)
    return [f"left out {', '.join(found)}: the release has no clip of it that can be decoded"] if found else []


def _utterance(row: _Row, clips: dict[str, Path], folder: Path) -> Utterance:
    path = clips.get(f"{_CORRECTED}{row.name}") or clips.get(row.name) or folder / f"{row.name}{VIDEO}"
    return Utterance(
        id=row.id,
        audio=str(path),
        speaker=row.speaker,
        session=f"{row.split}_{row.dialogue}",
        emotion=row.emotion,
        transcript=row.text,
        style="scripted",
        split=row.split,
        language="en",
        corpus="meld",
    )


def _clips(root: Path, folder: str) -> dict[str, Path]:
    """Return the clips of a split by their names without suffix; audio goes before video."""
    known = (VIDEO, *reversed(audio.SUFFIXES))
    found = [path for path in audio.find_files(root) if path.parent.name == folder and path.suffix.lower() in known]
    return {path.stem: path for path in sorted(found, key=lambda path: known.index(path.suffix.lower()))}


def _rows(root: Path, split: str) -> Iterator[_Row]:
    name = f"{split}_sent_emo.csv"
    paths = sorted(path for path in root.rglob(name) if path.is_file())
    if not paths:
        raise ManifestError(f"holds no {name}", where=root, remedy="Name the folder MELD.Raw, unpacked.")
    for where, row in rows(paths[0], _COLUMNS, otherwise="cp1252"):
        emotion = row["Emotion"].lower()
        if emotion not in EMOTIONS:
            raise ManifestError(f"unknown emotion '{emotion}'", where=where, remedy="Copy the table again.")
        dialogue = f"dia{row['Dialogue_ID']}"
        text = row["Utterance"].translate(_C1)
        yield _Row(
            split, dialogue, f"{dialogue}_utt{row['Utterance_ID']}", row["Speaker"] or None, emotion, text or None
        )


MELD = Corpus(
    name="meld",
    title="MELD",
    licence="GPL-3.0 (tables); the clips are from a television series",
    citation=(
        "Poria, S., Hazarika, D., Majumder, N., Naik, G., Cambria, E. and Mihalcea, R. (2019). MELD: A Multimodal "
        "Multi-Party Dataset for Emotion Recognition in Conversations. ACL 2019, 527-536. "
        "https://doi.org/10.18653/v1/P19-1050"
    ),
    parse=parse,
    # of 13,708 rows; the two without a clip are neutral
    expected=Expected(
        emotions={
            "anger": 1607,
            "disgust": 361,
            "fear": 358,
            "joy": 2308,
            "neutral": 6434,
            "sadness": 1002,
            "surprise": 1636,
        },
        splits={"train": 9988, "dev": 1108, "test": 2610},
    ),
    remarks=remarks,
    languages=("en",),
)
