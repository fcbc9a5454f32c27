"""CaFE: twelve French Canadians say six sentences in seven emotions, mildly and strongly (Gournay et al. 2018).

The file name holds everything: `01-C-1-1.wav` is speaker 01, emotion C (colère), intensity 1 (mild) and sentence 1.
"""

from __future__ import annotations

import re
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected
from serein.corpora.file_names import parse_names
from serein.data.utterance import Utterance

# The letter is that of the French word: colère, dégoût, joie, neutre, peur, surprise, tristesse.
EMOTIONS = {
    "C": "anger",
    "D": "disgust",
    "J": "happiness",
    "N": "neutral",
    "P": "fear",
    "S": "surprise",
    "T": "sadness",
}
SPEAKERS = tuple(f"{speaker:02d}" for speaker in range(1, 13))
SENTENCES = {
    "1": "Un cheval fou dans mon jardin",
    "2": "Deux ânes aigris au pelage brun",
    "3": "Trois cygnes aveugles au bord du lac",
    "4": "Quatre vieilles truies éléphantesques",
    "5": "Cinq pumas fiers et passionnés",
    "6": "Six ours aimants domestiqués",
}

_NAME = re.compile(rf"(?P<speaker>{'|'.join(SPEAKERS)})-(?P<emotion>[{''.join(EMOTIONS)}])-[12]-(?P<sentence>[1-6])")


def parse(root: Path) -> list[Utterance]:
    """Return every clip below `root`, by speaker and name.

    Raises:
        ManifestError: No folder, no audio, a foreign file name, or one clip in two places.
    """
    return parse_names(root, _NAME, _utterance, corpus="CaFE", example="01-C-1-1.wav")


def _utterance(path: Path, parts: re.Match[str]) -> Utterance:
    return Utterance(
        id=path.stem,
        audio=str(path),
        speaker=parts["speaker"],
        gender="male" if int(parts["speaker"]) % 2 else "female",
        emotion=EMOTIONS[parts["emotion"]],
        transcript=SENTENCES[parts["sentence"]],
        style="scripted",
        language="fr",
        corpus="cafe",
    )


CAFE = Corpus(
    name="cafe",
    title="CaFE",
    licence="CC BY-NC-SA 4.0",
    citation=(
        "Gournay, P., Lahaie, O. and Lefebvre, R. (2018). A Canadian French Emotional Speech Dataset. "
        "ACM Multimedia Systems Conference 2018, 399-402. https://doi.org/10.1145/3204949.3208121"
    ),
    parse=parse,
    # neutral was spoken at one intensity only
    expected=Expected(
        emotions={emotion: 72 if emotion == "neutral" else 144 for emotion in EMOTIONS.values()},
        speakers=dict.fromkeys(SPEAKERS, 78),
    ),
    languages=("fr",),
)
