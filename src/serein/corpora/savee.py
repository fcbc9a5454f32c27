"""SAVEE: four British men say TIMIT's sentences in seven emotions (Haq & Jackson 2010).

`AudioData/DC/a01.wav` in the corpus's own release, `DC_a01.wav` in copies of it: speaker, emotion, sentence.
"""

from __future__ import annotations

import re
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected
from serein.corpora.file_names import parse_names
from serein.data.utterance import Utterance
from serein.errors import ManifestError

EMOTIONS = {
    "a": "anger",
    "d": "disgust",
    "f": "fear",
    "h": "happiness",
    "n": "neutral",
    "sa": "sadness",
    "su": "surprise",
}
SPEAKERS = ("DC", "JE", "JK", "KL")

_NAME = re.compile(rf"(?:(?P<speaker>{'|'.join(SPEAKERS)})_)?(?P<emotion>{'|'.join(EMOTIONS)})(?P<sentence>\d\d)")


def parse(root: Path) -> list[Utterance]:
    """Return every clip below `root`, by speaker and name; the id is that of the second layout, such as DC_a01.

    Raises:
        ManifestError: No folder, no audio, a foreign file name, an unknown speaker, or one clip in two places.
    """
    return parse_names(root, _NAME, _utterance, corpus="SAVEE", example="DC/a01.wav")


def _utterance(path: Path, parts: re.Match[str]) -> Utterance:
    speaker = parts["speaker"] or path.parent.name
    if speaker not in SPEAKERS:
        raise ManifestError(
            f"lies in no folder of a speaker ({', '.join(SPEAKERS)})",
            where=path,
            remedy="Name the corpus's own folder, AudioData.",
        )
    return Utterance(
        id=f"{speaker}_{parts['emotion']}{parts['sentence']}",
        audio=str(path),
        speaker=speaker,
        gender="male",
        emotion=EMOTIONS[parts["emotion"]],
        style="scripted",
        language="en",
        corpus="savee",
    )


SAVEE = Corpus(
    name="savee",
    title="SAVEE",
    licence="for research, on registration with the University of Surrey",
    citation=(
        "Haq, S. and Jackson, P. J. B. (2010). Multimodal Emotion Recognition. In W. Wang (ed.), Machine Audition: "
        "Principles, Algorithms and Systems, IGI Global, 398-423. https://doi.org/10.4018/978-1-61520-919-4.ch017"
    ),
    parse=parse,
    expected=Expected(
        emotions={emotion: 120 if emotion == "neutral" else 60 for emotion in EMOTIONS.values()},
        speakers=dict.fromkeys(SPEAKERS, 120),
    ),
    languages=("en",),
)
