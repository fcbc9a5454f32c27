"""MESD: Mexican women, men and children say single words in six emotions (Duville et al. 2021).

The file name holds emotion, voice (F, M, C for a child), list of words and word: `Happiness_F_A_de_nada.wav`. It does
not tell which of the eleven speakers it is, so no utterance has a speaker.
"""

from __future__ import annotations

import re
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected
from serein.corpora.file_names import parse_names
from serein.data.utterance import Gender, Utterance

EMOTIONS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness")

_GENDERS: dict[str, Gender | None] = {"F": "female", "M": "male", "C": None}
_NAME = re.compile(rf"(?P<emotion>{'|'.join(EMOTIONS)})_(?P<voice>[FMC])_[AB]_(?P<word>.+)", re.IGNORECASE)


def parse(root: Path) -> list[Utterance]:
    """Return every clip below `root`, by name.

    Raises:
        ManifestError: No folder, no audio, a foreign file name, or one clip in two places.
    """
    return parse_names(root, _NAME, _utterance, corpus="MESD", example="Happiness_F_A_de_nada.wav")


def _utterance(path: Path, parts: re.Match[str]) -> Utterance:
    return Utterance(
        id=path.stem,
        audio=str(path),
        gender=_GENDERS[parts["voice"].upper()],
        emotion=parts["emotion"].lower(),
        transcript=parts["word"].replace("_", " "),
        style="scripted",
        language="es",
        corpus="mesd",
    )


MESD = Corpus(
    name="mesd",
    title="MESD",
    licence="CC BY 4.0",
    citation=(
        "Duville, M. M., Alonso-Valerdi, L. M. and Ibarra-Zarate, D. I. (2021). Mexican Emotional Speech Database "
        "Based on Semantic, Frequency, Familiarity, Concreteness, and Cultural Shaping of Affective Prosody. "
        "Data 6(12), 130. https://doi.org/10.3390/data6120130"
    ),
    parse=parse,
    # 864 were recorded; the release (version 5) holds 862, which EmoBox lists (Ma et al. 2024)
    expected=Expected(
        emotions={emotion: 143 if emotion in ("anger", "neutral") else 144 for emotion in EMOTIONS},
    ),
    languages=("es",),
)
