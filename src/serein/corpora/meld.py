"""MELD: utterances of the series Friends, with who says them, the text and one of seven emotions (Poria et al. 2019).

Three tables, `train_sent_emo.csv`, `dev_sent_emo.csv` and `test_sent_emo.csv`, and a folder of clips for each:
`train_splits/dia0_utt0.mp4`, `dev_splits_complete/`, `output_repeated_splits_test/`. Where the last holds
`final_videos_testdia0_utt0.mp4` as well, that is the corrected clip. Clips may be audio that was taken out
of the videos.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from serein import audio
from serein.corpora import tables
from serein.corpora.corpus import Corpus, Expected, require_folder
from serein.data.utterance import Utterance
from serein.errors import ManifestError

EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
BROKEN = frozenset({"train_dia125_utt3", "dev_dia110_utt7"})  # cannot be decoded; is not in the release
VIDEO = ".mp4"

_COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
_C1 = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}  # quotes of a Windows text


def parse(root: Path) -> list[Utterance]:
    """Return every row of the three tables but two without a clip, in their order; the session is the dialogue.

    Raises:
        ManifestError: No folder, a table or its folder of clips is missing, or a row is not of the corpus.
    """
    require_folder(root)
    known = (VIDEO, *reversed(audio.SUFFIXES))  # audio goes before video
    utterances = []
    for split, folder in FOLDERS.items():
        found = [path for path in audio.find_files(root) if path.parent.name == folder and path.suffix.lower() in known]
        clips = {path.stem: path for path in sorted(found, key=lambda path: known.index(path.suffix.lower()))}
        for name, row in _rows(root, split):
            if name in BROKEN:  # dialogues are numbered anew in each split, so names begin with it
                continue
            clip = name.removeprefix(f"{split}_")
            path = clips.get(f"final_videos_test{clip}") or clips.get(clip) or root / folder / f"{clip}{VIDEO}"
            utterances.append(
                Utterance(
                    id=name,
                    audio=str(path),
                    speaker=row["Speaker"] or None,
                    session=f"{split}_dia{row['Dialogue_ID']}",
                    emotion=row["Emotion"].lower(),
                    transcript=row["Utterance"].translate(_C1) or None,
                    style="scripted",
                    split=split,
                    language="en",
                    corpus="meld",
                )
            )
    return utterances


def remarks(root: Path) -> list[str]:
    """Return a note on the rows that have no clip in the release."""
    found = sorted(name for split in FOLDERS for name, _ in _rows(root, split) if name in BROKEN)
    return [f"left out {', '.join(found)}: the release has no clip of it that can be decoded"] if found else []


def _rows(root: Path, split: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield name and cells of every utterance in the table of a split."""
    table = f"{split}_sent_emo.csv"
    paths = sorted(path for path in root.rglob(table) if path.is_file())
    if not paths:
        raise ManifestError(f"holds no {table}", where=root, remedy="Name the folder MELD.Raw, unpacked.")
    for where, row in tables.rows(paths[0], _COLUMNS, otherwise="cp1252"):
        if (emotion := row["Emotion"].lower()) not in EMOTIONS:
            raise ManifestError(f"unknown emotion '{emotion}'", where=where, remedy="Copy the table again.")
        yield f"{split}_dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}", row


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
