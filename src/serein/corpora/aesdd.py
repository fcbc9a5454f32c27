"""AESDD: Greek actors say twenty sentences in five emotions (Vryzas et al. 2018); the release grows with actors.

The file name holds emotion, sentence, speaker and, where there are several, take: `a06 (5)b.wav`. Which speakers are
women is not told.
"""

from __future__ import annotations

import re
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected, audio_files
from serein.corpora.file_names import parse_names
from serein.data.utterance import Utterance

EMOTIONS = {
    "a": "anger",
    "d": "disgust",
    "f": "fear",
    "h": "happiness",
    "s": "sadness",
}
BROKEN = "s05 (3)"  # the release's own file cannot be decoded

_NAME = re.compile(rf"(?P<emotion>[{''.join(EMOTIONS)}])\d\d \(0?(?P<speaker>[1-9]\d?)\)[a-z]?")


def parse(root: Path) -> list[Utterance]:
    """Return every clip below `root` but the broken one, by speaker and name.

    Raises:
        ManifestError: No folder, no audio, a foreign file name, or one clip in two places.
    """
    return [u for u in parse_names(root, _NAME, _utterance, corpus="AESDD", example="a06 (5)b.wav") if u.id != BROKEN]


def remarks(root: Path) -> list[str]:
    """Return a note on the clip that cannot be decoded, when it is there."""
    is_there = any(path.stem == BROKEN for path in audio_files(root))
    return [f"left out '{BROKEN}', which cannot be decoded in the release"] if is_there else []


def _utterance(path: Path, parts: re.Match[str]) -> Utterance:
    return Utterance(
        id=path.stem,
        audio=str(path),
        speaker=parts["speaker"],
        emotion=EMOTIONS[parts["emotion"]],
        style="scripted",
        language="el",
        corpus="aesdd",
    )


AESDD = Corpus(
    name="aesdd",
    title="AESDD",
    licence="not stated by its publisher, Aristotle University of Thessaloniki",
    citation=(
        "Vryzas, N., Kotsakis, R., Liatsou, A., Dimoulas, C. A. and Kalliris, G. (2018). Speech Emotion Recognition "
        "for Performance Interaction. Journal of the Audio Engineering Society 66(6), 457-467. "
        "https://doi.org/10.17743/jaes.2018.0036"
    ),
    parse=parse,
    # of the release with six speakers, whose files EmoBox lists (Ma et al. 2024)
    expected=Expected(
        emotions={"anger": 121, "disgust": 122, "fear": 120, "happiness": 119, "sadness": 122},
        speakers={"1": 100, "2": 100, "3": 98, "4": 99, "5": 107, "6": 100},
    ),
    remarks=remarks,
    languages=("el",),
)
