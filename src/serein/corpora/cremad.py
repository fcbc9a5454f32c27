"""CREMA-D: 91 American actors say twelve sentences in six emotions, judged by a crowd (Cao et al. 2014).

The file name holds actor, sentence, emotion and level: `1001_DFA_ANG_XX.wav`. Beside the folders of clips lie
`VideoDemographics.csv`, for the actors' sex, and `processedResults/tabulatedVotes.csv`, which counts what listeners
heard in each clip. Only votes on the voice alone become ratings; those on the face, and on both, are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected
from serein.corpora.file_names import parse_names
from serein.corpora.tables import rows
from serein.data.utterance import Gender, Rating, Utterance

EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
SENTENCES = {
    "DFA": "Don't forget a jacket",
    "IEO": "It's eleven o'clock",
    "IOM": "I'm on my way to the meeting",
    "ITH": "I think I have a doctor's appointment",
    "ITS": "I think I've seen this before",
    "IWL": "I would like a new alarm clock",
    "IWW": "I wonder what this is about",
    "MTI": "Maybe tomorrow it will be cold",
    "TAI": "The airplane is almost full",
    "TIE": "That is exactly what happened",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
ACTORS = tuple(str(actor) for actor in range(1001, 1092))

DEMOGRAPHICS = Path("VideoDemographics.csv")
VOTES = Path("processedResults", "tabulatedVotes.csv")

_NAME = re.compile(
    rf"(?P<actor>1\d\d\d)_(?P<sentence>{'|'.join(SENTENCES)})_(?P<emotion>{'|'.join(EMOTIONS)})_(?:XX|LO|MD|HI|X)"
)
_GENDERS: dict[str, Gender] = {"Male": "male", "Female": "female"}
_VOICE = "1"  # rows are numbered 100001... for the voice, 200001... for the face, 300001... for both


def parse(root: Path) -> list[Utterance]:
    """Return every clip below `root`, by actor and name, with the sex of its actor and the votes of its listeners.

    Raises:
        ManifestError: No folder, no audio, a foreign file name, a clip in two places, or a broken table.
    """
    genders = _genders(root / DEMOGRAPHICS)
    votes = _votes(root / VOTES)

    def utterance(path: Path, parts: re.Match[str]) -> Utterance:
        return Utterance(
            id=path.stem,
            audio=str(path),
            speaker=parts["actor"],
            gender=genders.get(parts["actor"]),
            emotion=EMOTIONS[parts["emotion"]],
            ratings=votes.get(path.stem) or votes.get(f"{path.stem}X", ()),  # 1040_ITH_SAD_X is listed as ..._XX
            transcript=SENTENCES[parts["sentence"]],
            style="scripted",
            language="en",
            corpus="cremad",
        )

    return parse_names(root, _NAME, utterance, corpus="CREMA-D", example="1001_DFA_ANG_XX.wav")


def remarks(root: Path) -> list[str]:
    """Return a note on each table that does not lie beside the clips."""
    lacking = {DEMOGRAPHICS: "gender", VOTES: "ratings"}
    return [f"no {path.as_posix()}, so no {field}" for path, field in lacking.items() if not (root / path).is_file()]


def _genders(path: Path) -> dict[str, Gender]:
    if not path.is_file():
        return {}
    return {row["ActorID"]: _GENDERS[row["Sex"]] for _, row in rows(path, ("ActorID", "Sex")) if row["Sex"] in _GENDERS}


def _votes(path: Path) -> dict[str, tuple[Rating, ...]]:
    """Return what was heard in each clip: one rating a listener; who it was is not told."""
    letters = {emotion[0].upper(): emotion for emotion in EMOTIONS.values()}
    votes: dict[str, tuple[Rating, ...]] = {}
    if not path.is_file():
        return votes
    for _, row in rows(path, ("", "fileName", *letters)):
        if row[""].startswith(_VOICE):
            counts = {emotion: int(row[letter]) for letter, emotion in letters.items()}
            heard = [Rating(labels=(emotion,)) for emotion, count in counts.items() for _ in range(count)]
            votes[row["fileName"]] = tuple(heard)
    return votes


CREMAD = Corpus(
    name="cremad",
    title="CREMA-D",
    licence="ODbL 1.0 (database), DbCL 1.0 (contents)",
    citation=(
        "Cao, H., Cooper, D. G., Keutmann, M. K., Gur, R. C., Nenkova, A. and Verma, R. (2014). CREMA-D: Crowd-sourced "
        "Emotional Multimodal Actors Dataset. IEEE Transactions on Affective Computing 5(4), 377-390. "
        "https://doi.org/10.1109/TAFFC.2014.2336244"
    ),
    parse=parse,
    expected=Expected(
        emotions={emotion: 1087 if emotion == "neutral" else 1271 for emotion in EMOTIONS.values()},
        speakers=dict.fromkeys(ACTORS, 82) | {"1002": 81, "1008": 76, "1009": 76, "1019": 76, "1076": 81},
    ),
    remarks=remarks,
    languages=("en",),
)
