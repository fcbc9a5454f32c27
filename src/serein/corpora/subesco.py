"""SUBESCO: twenty Bangla actors say ten sentences in seven emotions, five times each (Sultana et al. 2021).

The file name holds everything: `F_02_MONIKA_S_1_NEUTRAL_5.wav` is gender, number and name of the speaker, sentence,
emotion, take.
"""

from __future__ import annotations

import re
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected
from serein.corpora.file_names import parse_names
from serein.data.utterance import Utterance

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
SPEAKERS = tuple(f"{gender}_{number:02d}" for gender in "FM" for number in range(1, 11))

_NAME = re.compile(rf"(?P<speaker>{'|'.join(SPEAKERS)})_[A-Z]+_S_\d+_(?P<emotion>{'|'.join(EMOTIONS).upper()})_\d+")


def parse(root: Path) -> list[Utterance]:
    """Return every clip below `root`, by speaker and name.

    Raises:
        ManifestError: No folder, no audio, a foreign file name, or one clip in two places.
    """
    return parse_names(root, _NAME, _utterance, corpus="SUBESCO", example="F_02_MONIKA_S_1_NEUTRAL_5.wav")


def _utterance(path: Path, parts: re.Match[str]) -> Utterance:
    return Utterance(
        id=path.stem,
        audio=str(path),
        speaker=parts["speaker"],
        gender="female" if parts["speaker"].startswith("F") else "male",
        emotion=parts["emotion"].lower(),
        style="scripted",
        language="bn",
        corpus="subesco",
    )


SUBESCO = Corpus(
    name="subesco",
    title="SUBESCO",
    licence="CC BY 4.0",
    citation=(
        "Sultana, S., Rahman, M. S., Selim, M. R. and Iqbal, M. Z. (2021). SUST Bangla Emotional Speech Corpus "
        "(SUBESCO): An audio-only emotional speech corpus for Bangla. PLoS ONE 16(4): e0250173. "
        "https://doi.org/10.1371/journal.pone.0250173"
    ),
    parse=parse,
    expected=Expected(emotions=dict.fromkeys(EMOTIONS, 1000), speakers=dict.fromkeys(SPEAKERS, 350)),
    languages=("bn",),
)
