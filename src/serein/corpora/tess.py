"""TESS: two Canadian actresses, a young and an old one, say 200 words in seven emotions (Dupuis & Pichora-Fuller 2010).

The file name holds everything: `OAF_back_angry.wav` is the older actress, who says "Say the word back", angrily; the
emotion "ps" is pleasant surprise. One file of the release is misnamed: `OA_bite_neutral.wav` is the older actress's.
"""

from __future__ import annotations

import re
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected
from serein.corpora.file_names import parse_names
from serein.data.utterance import Utterance

EMOTIONS = {
    "angry": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happy",
    "neutral": "neutral",
    "ps": "pleasant surprise",
    "sad": "sad",
}
SPEAKERS = {"OAF": "OAF", "OA": "OAF", "YAF": "YAF"}

_NAME = re.compile(rf"(?P<speaker>{'|'.join(SPEAKERS)})_(?P<word>[A-Za-z]+)_(?P<emotion>{'|'.join(EMOTIONS)})")


def parse(root: Path) -> list[Utterance]:
    """Return every clip below `root`, by speaker and name.

    Raises:
        ManifestError: No folder, no audio, a foreign file name, or one clip in two places.
    """
    return parse_names(root, _NAME, _utterance, corpus="TESS", example="OAF_back_angry.wav")


def _utterance(path: Path, parts: re.Match[str]) -> Utterance:
    return Utterance(
        id=path.stem,
        audio=str(path),
        speaker=SPEAKERS[parts["speaker"]],
        gender="female",
        emotion=EMOTIONS[parts["emotion"]],
        transcript=f"Say the word {parts['word'].lower()}",
        style="scripted",
        language="en",
        corpus="tess",
    )


TESS = Corpus(
    name="tess",
    title="TESS",
    licence="CC BY-NC-ND 4.0",
    citation=(
        "Pichora-Fuller, M. K. and Dupuis, K. (2020). Toronto emotional speech set (TESS). Borealis. "
        "https://doi.org/10.5683/SP2/E8H2MF"
    ),
    parse=parse,
    expected=Expected(emotions=dict.fromkeys(EMOTIONS.values(), 400), speakers={"OAF": 1400, "YAF": 1400}),
    languages=("en",),
)
