"""The files of IEMOCAP: what was heard in every turn (`dialog/EmoEvaluation`), what was said (`dialog/transcriptions`).

An evaluation is a block of lines: the consensus with the means of valence, activation and dominance, the labels of the
evaluators (C-E...) and of the actors judging themselves (C-F..., C-M...), and the attributes that each of them gave:

    [6.2901 - 8.2357]   Ses01F_impro01_F000     neu     [2.5000, 2.5000, 2.5000]
    C-E2:   Neutral;        ()
    C-E4:   Neutral; Frustration;   (polite, impatient)
    C-F1:   Neutral;        ()
    A-E3:   val 3; act 2; dom  2;   ()
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from serein.data.utterance import Gender, Rating, Style
from serein.errors import ManifestError, expected_one_of

EMOTIONS = {  # in the words in which raters choose them
    "ang": "anger",
    "hap": "happiness",
    "exc": "excited",
    "sad": "sadness",
    "neu": "neutral",
    "fru": "frustration",
    "sur": "surprise",
    "fea": "fear",
    "dis": "disgust",
    "oth": "other",
}
NO_AGREEMENT = "xxx"

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_CONSENSUS = re.compile(rf"\[[^\]]*\]\s+(?P<name>\S+)\s+(?P<code>\S+)\s+\[{_NUMBER},{_NUMBER},{_NUMBER}\]")
_RATING = re.compile(r"(?P<rater>C-[EFM]\d+):(?P<labels>[^(]*)\((?P<comment>.*)\)")
_ATTRIBUTES = re.compile(r"A-[EFM]\d+:[^(]*\((?P<comment>.*)\)")
_TURN = re.compile(r"(?P<dialog>Ses\d\d[FM]_(?P<style>impro|script)\w+)_(?P<gender>[FM])[^\W_]+")
_TRANSCRIPT = re.compile(r"(?P<name>Ses\S+)\s+\[[^\]]*\]:(?P<text>.*)")
_STYLES: dict[str, Style] = {"impro": "improvised", "script": "scripted"}
_GENDERS: dict[str, Gender] = {"F": "female", "M": "male"}


@dataclass(frozen=True)
class Turn:
    """A turn and how it was judged.

    Attributes:
        dialog: The dialogue it is cut from; its name holds the gender of who wore the markers, not of who speaks.
        emotion: In the words of `EMOTIONS`; `None` when the evaluators did not agree.
        valence: Mean of the evaluators' answers, nominally from 1 to 5; so are `arousal` and `dominance`.
        ratings: Evaluators and self-evaluations, line by line.
        attribute_comments: What stands beside the single raters' attributes.
    """

    name: str
    dialog: str
    gender: Gender
    style: Style
    emotion: str | None
    valence: float
    arousal: float
    dominance: float
    ratings: list[Rating] = field(default_factory=list)
    attribute_comments: list[str] = field(default_factory=list)

    @property
    def session(self) -> str:
        """The session as the turn's name has it: "Ses01" to "Ses05"."""
        return self.name[:5]

    @property
    def speaker(self) -> str:
        """The actor: a session has one woman and one man."""
        return self.session + self.gender[0].upper()


def is_self_evaluation(rating: Rating) -> bool:
    """Tell whether an actor judged their own turns: the corpus calls such raters C-F1 or C-M3, evaluators C-E2.

    Example:
        >>> [is_self_evaluation(Rating(rater=name)) for name in ("C-F1", "C-E2", "rater1", None)]
        [True, False, False, False]
    """
    return re.fullmatch(r"C-[FM]\d+", rating.rater or "") is not None


def evaluations(path: Path) -> list[Turn]:
    """Return the turns of a dialogue, in the order of its file in `EmoEvaluation`.

    Raises:
        ManifestError: A line is none of the five kinds, names an unknown emotion, or a turn of another dialogue.
    """
    turns: list[Turn] = []
    for where, line in _lines(path):
        if line.startswith("["):
            turns.append(_turn(line, path.stem, where))
        elif turns and line.startswith("C-"):
            turns[-1].ratings.append(_rating(line, where))
        elif turns and line.startswith("A-"):
            turns[-1].attribute_comments.extend(_attribute_comment(line, where))
        elif not line.startswith("%"):
            raise _broken(f"'{line}' is no line of an evaluation", where)
    return turns


def transcripts(path: Path) -> tuple[dict[str, str], list[str]]:
    """Return the texts of a dialogue as they are written, with marks such as [LAUGHTER], and the lines of no turn.

    Raises:
        ManifestError: A line that begins with a turn's name is cut off, or a turn has two texts.
    """
    texts: dict[str, str] = {}
    of_no_turn: list[str] = []  # such as "M: Yeah."
    for where, line in _lines(path):
        if parts := _TRANSCRIPT.fullmatch(line):
            text = parts["text"].strip()
            if texts.setdefault(parts["name"], text) != text:
                raise _broken(f"{parts['name']} has another text in a line before", where)
        elif line.startswith("Ses"):
            raise _broken(f"'{line}' is no transcript, such as 'Ses01F_impro01_F000 [006.2901-008.2357]: Text'", where)
        else:
            of_no_turn.append(line)
    return texts, of_no_turn


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield file and number of every line that is not empty, and the line."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # some transcriptions of the release are
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def _turn(line: str, dialog: str, where: str) -> Turn:
    parts = _CONSENSUS.fullmatch(line)
    if parts is None:
        raise _broken(
            f"'{line}' is no consensus: [start - end], turn, emotion, [valence, activation, dominance]", where
        )
    name, code, *numbers = parts.groups()
    words = _TURN.fullmatch(name)
    if words is None or words["dialog"] != dialog:
        raise _broken(f"'{name}' is no turn of the dialogue {dialog}, such as {dialog}_F000", where)
    if code not in EMOTIONS and code != NO_AGREEMENT:
        raise _broken(expected_one_of(code, (*EMOTIONS, NO_AGREEMENT), kind="emotion"), where)
    style, gender = _STYLES[words["style"]], _GENDERS[words["gender"]]
    valence, arousal, dominance = (float(number) for number in numbers)
    return Turn(name, dialog, gender, style, EMOTIONS.get(code), valence, arousal, dominance)


def _rating(line: str, where: str) -> Rating:
    parts = _RATING.fullmatch(line)
    if parts is None:
        raise _broken(f"'{line}' is no rating, such as 'C-E2: Neutral; (comment)'", where)
    labels = (label.strip().lower() for label in parts["labels"].split(";"))
    return Rating(labels=tuple(filter(None, labels)), comment=parts["comment"].strip() or None, rater=parts["rater"])


def _attribute_comment(line: str, where: str) -> list[str]:
    parts = _ATTRIBUTES.fullmatch(line)
    if parts is None:
        raise _broken(f"'{line}' is no rating of attributes, such as 'A-E3: val 3; act 2; dom 2; (comment)'", where)
    return [parts["comment"]] if parts["comment"].strip() else []


def _broken(what: str, where: str) -> ManifestError:
    return ManifestError(what, where=where, remedy="Copy the file again from the release.")
