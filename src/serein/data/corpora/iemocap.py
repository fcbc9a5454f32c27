"""IEMOCAP: ten actors in five dialogues of two, scripted and improvised, judged turn by turn (Busso et al. 2008).

The release's own layout: `Session1` to `Session5`, each with `dialog/EmoEvaluation/*.txt`,
`dialog/transcriptions/*.txt` and `sentences/wav/<dialogue>/<turn>.wav`. Every evaluated turn becomes an utterance, also
without agreement or of a rare emotion, for its ratings say something. Happiness and excitement stay two emotions: a
recipe that wants the usual four classes merges them (`labels.merge: {excited: happiness}`) and drops the others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serein.data.corpora.corpus import Corpus, Expected, require_folder
from serein.data.corpora.iemocap_files import Turn, evaluations, is_self_evaluation, transcripts
from serein.data.utterance import Utterance
from serein.errors import ManifestError

SESSIONS = tuple(f"Session{number}" for number in range(1, 6))
EVALUATIONS = Path("dialog", "EmoEvaluation")
TRANSCRIPTIONS = Path("dialog", "transcriptions")
RECORDINGS = Path("sentences", "wav")


@dataclass(frozen=True)
class _Release:
    """What the folder of the release says.

    Attributes:
        turns: Every evaluated turn, with the session folder that it lies in.
        texts: Turn -> transcript, of turns that were not evaluated, too.
        of_no_turn: Lines of the transcriptions that name no turn.
    """

    turns: list[tuple[Path, Turn]]
    texts: Mapping[str, str]
    of_no_turn: list[str]


def parse(root: Path) -> list[Utterance]:
    """Return every evaluated turn: by session, dialogue and place in the dialogue's file.

    Raises:
        ManifestError: A folder is missing, or a line is broken or foreign; names the line.
    """
    release = _read(root)
    return [_utterance(session, turn, release.texts.get(turn.name)) for session, turn in release.turns]


def remarks(root: Path) -> list[str]:
    """Return notes on what `parse` leaves out or finds missing, with counts."""
    release = _read(root)
    notes = (_disagreement(release), _unrated(release), _without_text(release), _other_lines(release))
    return [note for note in (*notes, _attributes(release), _unnamed_recordings(root, release)) if note]


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
            f"holds no folder {SESSIONS[0]} to {SESSIONS[-1]}; found: {', '.join(found[:12]) or 'nothing'}",
            where=root,
            remedy="Name the folder IEMOCAP_full_release, unpacked.",
        )
    for folder in (session / part for session in sessions for part in (EVALUATIONS, RECORDINGS)):
        if not folder.is_dir():
            raise ManifestError("no such folder", where=folder, remedy="Unpack the release again, or all of it.")
    return sessions


def _files(folder: Path) -> list[Path]:
    """Return the files of dialogues in a folder; those of single raters lie in folders below it, unread."""
    paths = sorted(folder.glob("Ses*.txt"))
    session = f"Ses0{folder.parts[-3].removeprefix('Session')}"
    foreign = [path for path in paths if not path.name.startswith(session)]
    if foreign:
        raise ManifestError(
            f"belongs to another session than {session}", where=foreign[0], remedy="Unpack the release again."
        )
    return paths


def _utterance(session: Path, turn: Turn, text: str | None) -> Utterance:
    return Utterance(
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
        transcript=text or None,
        style=turn.style,
        language="en",
        corpus="iemocap",
    )


def _recording(session: Path, turn: Turn) -> Path:
    return session / RECORDINGS / turn.dialog / f"{turn.name}.wav"


# -- notes: each returns "" when there is nothing to say ---------------------------------------------------------------


def _disagreement(release: _Release) -> str:
    num_without = sum(turn.emotion is None for _, turn in release.turns)
    if not num_without:
        return ""
    return f"of {len(release.turns)} turns, {num_without} have no emotion because the evaluators did not agree"


def _unrated(release: _Release) -> str:
    lacking = [turn for _, turn in release.turns if all(is_self_evaluation(rating) for rating in turn.ratings)]
    return f"{len(lacking)} turns have no rating by an evaluator, such as {lacking[0].name}" if lacking else ""


def _without_text(release: _Release) -> str:
    lacking = [turn for _, turn in release.turns if not release.texts.get(turn.name)]
    return f"{len(lacking)} turns have no transcript, such as {lacking[0].name}" if lacking else ""


def _other_lines(release: _Release) -> str:
    evaluated = {turn.name for _, turn in release.turns}
    others = sorted(release.texts.keys() - evaluated)
    parts = [f"{len(release.of_no_turn)} that name no turn"] if release.of_no_turn else []
    parts += [f"{len(others)} of turns that were not evaluated, such as {others[0]}"] if others else []
    return f"left out lines of the transcriptions: {', '.join(parts)}" if parts else ""


def _attributes(release: _Release) -> str:
    num_comments = sum(len(turn.attribute_comments) for _, turn in release.turns)
    if not num_comments:
        return ""
    return f"left out {num_comments} comments beside single raters' valence, activation and dominance (lines A-...)"


def _unnamed_recordings(root: Path, release: _Release) -> str:
    named = {_recording(session, turn) for session, turn in release.turns}
    found = (path for session in _sessions(root) for path in sorted((session / RECORDINGS).glob("*/*.wav")))
    others = [path for path in found if path not in named and not path.name.startswith(".")]
    return f"left out {len(others)} recordings that were not evaluated, such as {others[0].name}" if others else ""


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
)
