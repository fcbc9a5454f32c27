"""EmoDB: ten German actors say ten sentences in seven emotions (Burkhardt et al. 2005).

The file name holds everything: `03a01Fa.wav` is speaker 03, text a01, emotion F (Freude) and version a.
"""

from __future__ import annotations

import re
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected
from serein.corpora.file_names import parse_names
from serein.data.utterance import Gender, Utterance

# The letter is that of the German word: Wut, Langeweile, Ekel, Angst, Freude, Trauer.
EMOTIONS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
GENDERS: dict[str, Gender] = {
    "03": "male",
    "08": "female",
    "09": "female",
    "10": "male",
    "11": "male",
    "12": "male",
    "13": "female",
    "14": "female",
    "15": "male",
    "16": "female",
}
TEXTS = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}

_NAME = re.compile(
    rf"(?P<speaker>{'|'.join(GENDERS)})(?P<text>{'|'.join(TEXTS)})(?P<emotion>[{''.join(EMOTIONS)}])[a-z]?"
)


def parse(root: Path) -> list[Utterance]:
    """Return every clip below `root`, by name.

    Raises:
        ManifestError: No folder, no audio, a foreign file name, or one clip in two places.
    """
    return parse_names(root, _NAME, _utterance, corpus="EmoDB", example="03a01Fa.wav")


def _utterance(path: Path, parts: re.Match[str]) -> Utterance:
    return Utterance(
        id=path.stem,
        audio=str(path),
        speaker=parts["speaker"],
        gender=GENDERS[parts["speaker"]],
        emotion=EMOTIONS[parts["emotion"]],
        transcript=TEXTS[parts["text"]],
        style="scripted",
        language="de",
        corpus="emodb",
    )


EMODB = Corpus(
    name="emodb",
    title="EmoDB",
    licence="CC BY 4.0",
    citation=(
        "Burkhardt, F., Paeschke, A., Rolfes, M., Sendlmeier, W. and Weiss, B. (2005). "
        "A Database of German Emotional Speech. Interspeech 2005, 1517-1520. https://doi.org/10.21437/Interspeech.2005-446"
    ),
    parse=parse,
    expected=Expected(
        emotions={
            "anger": 127,
            "boredom": 81,
            "disgust": 46,
            "fear": 69,
            "happiness": 71,
            "sadness": 62,
            "neutral": 79,
        },
        speakers={
            "03": 49,
            "08": 58,
            "09": 43,
            "10": 38,
            "11": 55,
            "12": 35,
            "13": 61,
            "14": 69,
            "15": 56,
            "16": 71,
        },
    ),
    languages=("de",),
)
