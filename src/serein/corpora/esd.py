"""ESD: ten Mandarin and ten English speakers say 350 sentences each in five emotions (Zhou et al. 2022).

`0001/Angry/0001_000351.wav`, in some copies `0001/Angry/train/0001_000351.wav`; `0001/0001.txt` holds the texts, in
whatever encoding, each line with the clip's name, its text and its emotion.
"""

from __future__ import annotations

import re
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected, audio_files
from serein.corpora.file_names import parse_names
from serein.corpora.tables import decoded
from serein.data.utterance import Utterance
from serein.errors import ManifestError

EMOTIONS = {"Angry": "angry", "Happy": "happy", "Neutral": "neutral", "Sad": "sad", "Surprise": "surprise"}
SPLITS = {"train": "train", "evaluation": "dev", "test": "test"}
SPEAKERS = tuple(f"{speaker:04d}" for speaker in range(1, 21))
MEN = frozenset({"0004", "0005", "0006", "0008", "0010", "0011", "0012", "0013", "0014", "0020"})
MANDARIN = frozenset(SPEAKERS[:10])

_NAME = re.compile(rf"(?P<speaker>{'|'.join(SPEAKERS)})_\d{{6}}")
_LABELS = (*EMOTIONS, "生气", "快乐", "中立", "伤心", "惊喜")
_TEXT = re.compile(rf"(?P<name>\d{{4}}_\d{{6}})(?P<text>\s.*?)(?:\s+(?:{'|'.join(_LABELS)}))?\s*")


def parse(root: Path) -> list[Utterance]:
    """Return every clip below `root`, by speaker and name.

    Raises:
        ManifestError: No folder, no audio, a foreign file name, a clip in no folder of an emotion, or in two places.
    """
    texts = _texts({path.parent for path in audio_files(root)}, root)

    def utterance(path: Path, parts: re.Match[str]) -> Utterance:
        speaker, folders = parts["speaker"], path.relative_to(root.parent).parts[:-1]
        return Utterance(
            id=path.stem,
            audio=str(path),
            speaker=speaker,
            gender="male" if speaker in MEN else "female",
            emotion=EMOTIONS[_emotion(path, folders)],
            transcript=texts.get(path.stem),
            style="scripted",
            split=next((SPLITS[name] for name in folders if name in SPLITS), None),
            language="zh" if speaker in MANDARIN else "en",
            corpus="esd",
        )

    return parse_names(root, _NAME, utterance, corpus="ESD", example="0001_000351.wav")


def _emotion(path: Path, folders: tuple[str, ...]) -> str:
    found = [name for name in folders if name in EMOTIONS]
    if not found:
        raise ManifestError(
            f"lies in no folder of an emotion ({', '.join(EMOTIONS)})",
            where=path,
            remedy="Name the corpus's own folder, with 0001/ to 0020/.",
        )
    return found[-1]


def _texts(folders: set[Path], root: Path) -> dict[str, str]:
    """Return the texts of the speakers above some folders of clips; lines that are no text are passed over."""
    texts: dict[str, str] = {}
    above = {parent for folder in folders for parent in (folder, *folder.parents) if parent.is_relative_to(root)}
    for folder in sorted(above):
        path = folder / f"{folder.name}.txt"
        if folder.name in SPEAKERS and path.is_file():
            lines = decoded(path, "gb18030" if folder.name in MANDARIN else "latin-1").splitlines()
            texts |= {parts["name"]: parts["text"].strip() for line in lines if (parts := _TEXT.fullmatch(line))}
    return {name: text for name, text in texts.items() if text}


ESD = Corpus(
    name="esd",
    title="ESD",
    licence="for research only, on signing its licence",
    citation=(
        "Zhou, K., Sisman, B., Liu, R. and Li, H. (2022). Emotional voice conversion: Theory, databases and ESD. "
        "Speech Communication 137, 1-18. https://doi.org/10.1016/j.specom.2021.11.006"
    ),
    parse=parse,
    expected=Expected(emotions=dict.fromkeys(EMOTIONS.values(), 7000), speakers=dict.fromkeys(SPEAKERS, 1750)),
    languages=("zh", "en"),
)
