"""The files of IEMOCAP: ratings of every turn (`dialog/EmoEvaluation`) and transcripts (`dialog/transcriptions`).

An evaluation is a block of lines: the consensus with the means of valence, activation and dominance, the labels by the
evaluators (C-E...) and by the actors rating themselves (C-F..., C-M...), and the attributes that each of them gave:

    [6.2901 - 8.2357]   Ses01F_impro01_F000     neu     [2.5000, 2.5000, 2.5000]
    C-E2:   Neutral;        ()
    C-E4:   Neutral; Frustration;   (polite, impatient)
    C-F1:   Neutral;        ()
    A-E3:   val 3; act 2; dom  2;   ()
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected, require_folder
from serein.data.manifest import Gender, Rating, Style, Utterance, is_self_evaluation
from serein.errors import ManifestError, expected_one_of

EMOTIONS = {  # in the terms that the raters used
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
    """A turn and its ratings.

    Attributes:
        dialog: The dialogue that it is cut from. Its name contains the gender of the actor who wore the markers, not
            of the speaker.
        emotion: One of the values of `EMOTIONS`; `None` when the evaluators did not agree.
        valence: Mean of the evaluators' answers. Each chose one of five self-assessment manikins, 1 to 5 (Busso et al.
            2008), which are whole numbers in the file. The same applies to `arousal` and `dominance`.
        ratings: Evaluators and self-evaluations, line by line.
        attribute_comments: Comments on the individual raters' attributes.
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
        """The session, from the turn's name: "Ses01" to "Ses05"."""
        return self.name[:5]

    @property
    def speaker(self) -> str:
        """The actor: a session has one woman and one man."""
        return self.session + self.gender[0].upper()


def evaluations(path: Path) -> list[Turn]:
    """Return the turns of a dialogue, in the order of its file in `EmoEvaluation`.

    Raises:
        ManifestError: A line is of none of the five kinds, or names an unknown emotion or a turn of another dialogue.
    """
    turns: list[Turn] = []
    for where, line in _lines(path):
        if line.startswith("["):
            if (parts := _CONSENSUS.fullmatch(line)) is None:
                what = "consensus: [start - end], turn, emotion, [valence, activation, dominance]"
                raise _broken(f"'{line}' is not a {what}", where)
            name, code, *numbers = parts.groups()
            words = _TURN.fullmatch(name)
            if words is None or words["dialog"] != path.stem:
                raise _broken(f"'{name}' is not a turn of the dialogue {path.stem}, such as {path.stem}_F000", where)
            if code not in EMOTIONS and code != NO_AGREEMENT:
                raise _broken(expected_one_of(code, (*EMOTIONS, NO_AGREEMENT), kind="emotion"), where)
            style, gender = _STYLES[words["style"]], _GENDERS[words["gender"]]
            valence, arousal, dominance = (float(number) for number in numbers)
            turns.append(Turn(name, path.stem, gender, style, EMOTIONS.get(code), valence, arousal, dominance))
        elif turns and line.startswith("C-"):
            if (parts := _RATING.fullmatch(line)) is None:
                raise _broken(f"'{line}' is not a rating, such as 'C-E2: Neutral; (comment)'", where)
            labels = tuple(filter(None, (label.strip().lower() for label in parts["labels"].split(";"))))
            comment = parts["comment"].strip() or None
            turns[-1].ratings.append(Rating(labels=labels, comment=comment, rater=parts["rater"]))
        elif turns and line.startswith("A-"):
            if (parts := _ATTRIBUTES.fullmatch(line)) is None:
                example = "A-E3: val 3; act 2; dom 2; (comment)"
                raise _broken(f"'{line}' is not a rating of attributes, such as '{example}'", where)
            if parts["comment"].strip():
                turns[-1].attribute_comments.append(parts["comment"])
        elif not line.startswith("%"):
            raise _broken(f"'{line}' is not a line of an evaluation", where)
    return turns


def transcripts(path: Path) -> tuple[dict[str, str], list[str]]:
    """Return the verbatim texts of a dialogue, with marks such as [LAUGHTER], and the lines that belong to no turn.

    Raises:
        ManifestError: A line that begins with a turn's name is cut off, or a turn has two texts.
    """
    texts: dict[str, str] = {}
    of_no_turn: list[str] = []  # such as "M: Yeah."
    for where, line in _lines(path):
        if parts := _TRANSCRIPT.fullmatch(line):
            text = parts["text"].strip()
            if texts.setdefault(parts["name"], text) != text:
                raise _broken(f"{parts['name']} has a different text in an earlier line", where)
        elif line.startswith("Ses"):
            raise _broken(
                f"'{line}' is not a transcript, such as 'Ses01F_impro01_F000 [006.2901-008.2357]: Text'", where
            )
        else:
            of_no_turn.append(line)
    return texts, of_no_turn


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield every non-empty line with its file and number."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # some transcriptions of the release are
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def _broken(what: str, where: str) -> ManifestError:
    return ManifestError(what, where=where, remedy="Copy the file again from the release.")


SESSIONS = tuple(f"Session{number}" for number in range(1, 6))
EVALUATIONS = Path("dialog", "EmoEvaluation")
TRANSCRIPTIONS = Path("dialog", "transcriptions")
RECORDINGS = Path("sentences", "wav")


@dataclass(frozen=True)
class _Release:
    """The contents of the release's folder.

    Attributes:
        turns: Every evaluated turn, with its session folder.
        texts: Turn -> transcript, including turns that were not evaluated.
        of_no_turn: Lines of the transcriptions that name no turn.
    """

    turns: list[tuple[Path, Turn]]
    texts: Mapping[str, str]
    of_no_turn: list[str]


def parse(root: Path) -> list[Utterance]:
    """Return every evaluated turn, ordered by session, dialogue and position in the dialogue's file.

    Raises:
        ManifestError: A folder is missing, or a line is malformed or unexpected; names the line.
    """
    release = _read(root)
    return [
        Utterance(
            id=turn.name,
            audio=str(_recording(session, turn)),
            speaker=turn.speaker,
            gender=turn.gender,
            session=turn.session,
            emotion=turn.emotion,
            valence=turn.valence,
            arousal=turn.arousal,
            dominance=turn.dominance,
            ratings=tuple(turn.ratings),
            transcript=release.texts.get(turn.name) or None,
            style=turn.style,
            language="en",
            corpus="iemocap",
        )
        for session, turn in release.turns
    ]


def remarks(root: Path) -> list[str]:
    """Return notes on what `parse` leaves out or finds missing, with counts."""
    release, notes = _read(root), []
    turns = [turn for _, turn in release.turns]
    if num_without := sum(turn.emotion is None for turn in turns):
        notes.append(f"of {len(turns)} turns, {num_without} have no emotion because the evaluators did not agree")
    if lacking := [turn for turn in turns if all(is_self_evaluation(rating) for rating in turn.ratings)]:
        notes.append(f"{len(lacking)} turns have no rating by an evaluator, such as {lacking[0].name}")
    if lacking := [turn for turn in turns if not release.texts.get(turn.name)]:
        notes.append(f"{len(lacking)} turns have no transcript, such as {lacking[0].name}")
    others = sorted(release.texts.keys() - {turn.name for turn in turns})
    parts = [f"{len(release.of_no_turn)} that name no turn"] if release.of_no_turn else []
    parts += [f"{len(others)} of turns that were not evaluated, such as {others[0]}"] if others else []
    if parts:
        notes.append(f"left out lines of the transcriptions: {', '.join(parts)}")
    if num_comments := sum(len(turn.attribute_comments) for turn in turns):
        beside = "on individual raters' valence, activation and dominance (lines A-...)"
        notes.append(f"left out {num_comments} comments {beside}")
    named = {_recording(session, turn) for session, turn in release.turns}
    found = (path for session in _sessions(root) for path in sorted((session / RECORDINGS).glob("*/*.wav")))
    if unnamed := [path for path in found if path not in named and not path.name.startswith(".")]:
        notes.append(f"left out {len(unnamed)} recordings that were not evaluated, such as {unnamed[0].name}")
    return notes


def _read(root: Path) -> _Release:
    turns: list[tuple[Path, Turn]] = []
    texts: dict[str, str] = {}
    of_no_turn: list[str] = []
    for session in _sessions(root):
        turns += [(session, turn) for path in _files(session / EVALUATIONS) for turn in evaluations(path)]
        for path in _files(session / TRANSCRIPTIONS):
            found, others = transcripts(path)
            texts |= found
            of_no_turn += others
    if not turns:
        raise ManifestError(
            f"the files in {EVALUATIONS.as_posix()} name no turn", where=root, remedy="Unpack the release again."
        )
    return _Release(turns, texts, of_no_turn)


def _sessions(root: Path) -> list[Path]:
    require_folder(root)
    sessions = [root / name for name in SESSIONS if (root / name).is_dir()]
    if not sessions:
        found = sorted(name for name in os.listdir(root) if not name.startswith("."))
        raise ManifestError(
            f"contains no folder {SESSIONS[0]} to {SESSIONS[-1]}; found: {', '.join(found[:12]) or 'nothing'}",
            where=root,
            remedy="Specify the unpacked folder IEMOCAP_full_release.",
        )
    for folder in (session / part for session in sessions for part in (EVALUATIONS, RECORDINGS)):
        if not folder.is_dir():
            raise ManifestError("no such folder", where=folder, remedy="Unpack the release again, or all of it.")
    return sessions


def _files(folder: Path) -> list[Path]:
    """Return the files of dialogues in a folder; those of individual raters, in subfolders, are not read."""
    paths = sorted(folder.glob("Ses*.txt"))
    session = f"Ses0{folder.parts[-3].removeprefix('Session')}"
    foreign = [path for path in paths if not path.name.startswith(session)]
    if foreign:
        raise ManifestError(
            f"belongs to a session other than {session}", where=foreign[0], remedy="Unpack the release again."
        )
    return paths


def _recording(session: Path, turn: Turn) -> Path:
    return session / RECORDINGS / turn.dialog / f"{turn.name}.wav"


IEMOCAP = Corpus(
    name="iemocap",
    title="IEMOCAP",
    licence="release licence of USC, on request from its SAIL lab: for research, not to be passed on",
    citation=(
        "Busso, C., Bulut, M., Lee, C.-C., Kazemzadeh, A., Mower, E., Kim, S., Chang, J. N., Lee, S. and "
        "Narayanan, S. S. (2008). IEMOCAP: interactive emotional dyadic motion capture database. "
        "Language Resources and Evaluation 42(4), 335-359. https://doi.org/10.1007/s10579-008-9076-6"
    ),
    parse=parse,
    # The four classes of stanley2023, gao2023 and most papers: 5531 of 10039 turns.
    expected=Expected(
        emotions={"anger": 1103, "happiness": 1636, "sadness": 1084, "neutral": 1708},
        sessions={"Ses01": 1085, "Ses02": 1023, "Ses03": 1151, "Ses04": 1031, "Ses05": 1241},
        merged={"excited": "happiness"},
        num_others=4508,
    ),
    remarks=remarks,
    languages=("en",),
)
