"""IEMOCAP: a miniature tree in the layout of the release with its oddities, and planted defects."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cli_fixtures import Call
from serein.corpora.iemocap import EMOTIONS, IEMOCAP, parse, remarks
from serein.corpora.prepare import prepare
from serein.data import manifest
from serein.data.manifest import Rating, Utterance, is_self_evaluation
from serein.errors import AudioError, ManifestError
from serein.tasks.classes import ClassLabels

EVALUATIONS = {
    "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": """\
% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[0.5000 - 1.2500]\tSes01F_impro01_F000\tneu\t[2.5000, 2.0000, 3.3333]
C-E2:\tNeutral;\t()
C-E3:\tNeutral; Frustration;\t(polite, a bit impatient/tired (at first), "Ironic")
C-E4:\tOther;\t( curious )
C-F1:\tSadness;\t(lonely)
A-E3:\tval 3; act 2; dom  2;\t()
A-E4:\tval 2; act 2; dom  ;\t(calm, collected)
A-F1:\tval 3; act 2; dom  1;\t()

[1.5000 - 2.0000]\tSes01F_impro01_M000\txxx\t[1.5000, 4.0000, 5.5000]
C-E1:\tAnger; Anger; Sadness;\t()
C-E3:\tFear;\t()
C-M1:\tDisgust;\t()

[2.0000 - 3.0000]\tSes01F_impro01_M001\toth\t[3.0000, 3.0000, 0.5000]
C-E1:\tOther;\t(relieved)
""",
    "Session1/dialog/EmoEvaluation/Ses01F_script01_1.txt": """\
% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[10.0000 - 11.5000]\tSes01F_script01_1_F000\texc\t[4.5000, 4.0000, 3.0000]
C-E1:\tExcited;\t()
C-E2:\tExcited; Happiness;\t()
C-E4:\tSurprise;\t()
""",
    "Session5/dialog/EmoEvaluation/Ses05M_script01_1b.txt": """\
% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[7.0000 - 8.0000]\tSes05M_script01_1b_M000\thap\t[4, 3.5, 3]
C-F5:\tHappiness;\t()
[8.0000 - 9.0000]\tSes05M_script01_1b_F000\tsad\t[1.0000, 1.0000, 1.0000]
C-E1:\tSadness;\t()
""",
}
TRANSCRIPTIONS = {
    "Session1/dialog/transcriptions/Ses01F_impro01.txt": """\
Ses01F_impro01_F000 [000.5000-001.2500]: Well [LAUGHTER], who: me?
M: Yeah.
Ses01F_impro01_M000 [001.5000-002.0000]: Go away.
Ses01F_impro01_MXX0 [001.9000-002.0000]: Mmhmm.
Ses01F_impro01_M001 [002.0000-003.0000]:
""",
    "Session1/dialog/transcriptions/Ses01F_script01_1.txt": """\
Ses01F_script01_1_F000 [010.0000-011.5000]: They are here!
""",
    "Session5/dialog/transcriptions/Ses05M_script01_1b.txt": """\
Ses05M_script01_1b_M000 [007.0000-008.0000]: Caf\xe9?
Ses05M_script01_1b_F000 [008.0000-009.0000]: No.
""",
}
IMPRO = next(iter(EVALUATIONS))
SPOKEN = next(iter(TRANSCRIPTIONS))
TURNS = (
    "Ses01F_impro01_F000",
    "Ses01F_impro01_M000",
    "Ses01F_impro01_M001",
    "Ses01F_script01_1_F000",
    "Ses05M_script01_1b_M000",
    "Ses05M_script01_1b_F000",
)


def recording(root: Path, turn: str) -> Path:
    return root / f"Session{turn[4]}" / "sentences" / "wav" / turn.rpartition("_")[0] / f"{turn}.wav"


def write(path: Path, content: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding=encoding)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two sessions, six turns; beside them what macOS and the single raters' folders leave there."""
    root = tmp_path / "IEMOCAP_full_release"
    for name, content in (EVALUATIONS | TRANSCRIPTIONS).items():
        write(root / name, content, "latin-1")
        write(root / Path(name).parent / f"._{Path(name).name}", "\x00\x05\x16\x07 Mac OS X")
    write(root / "Session1/dialog/EmoEvaluation/Categorical/Ses01F_impro01_e2_cat.txt", "Ses01F_impro01_F000 :Neutral;")
    write(root / "Session1/dialog/EmoEvaluation/Self-evaluation/Ses01F_impro01_f1.anvil", "<annotation/>")
    write(root / "Session1/dialog/EmoEvaluation/Advice/Ses01F_impro01.txt", "not to be read")
    for turn in TURNS:
        recording(root, turn).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(recording(root, turn), np.full(800, 0.1), 16_000)
        recording(root, turn).with_name(f"._{turn}.wav").write_bytes(b"\x00\x05\x16\x07")
    shutil.copy(recording(root, TURNS[0]), recording(root, "Ses01F_impro01_MXX0"))
    return root


def by_id(root: Path) -> dict[str, Utterance]:
    return {u.id: u for u in parse(root)}


def edit(root: Path, name: str, old: str, new: str) -> None:
    content = (root / name).read_text(encoding="latin-1")
    assert old in content
    write(root / name, content.replace(old, new, 1), "latin-1")


def refusal(root: Path) -> str:
    with pytest.raises(ManifestError) as error:
        prepare(IEMOCAP, root, counts="partial")
    return str(error.value)


# -- what the release says ---------------------------------------------------------------------------------------------


def test_an_utterance_says_all_that_the_release_says(root: Path) -> None:
    utterance = by_id(root)["Ses01F_impro01_F000"]
    assert utterance.model_dump(exclude_defaults=True) == {
        "id": "Ses01F_impro01_F000",
        "audio": str(recording(root, "Ses01F_impro01_F000")),
        "speaker": "Ses01F",
        "gender": "female",
        "session": "Ses01",
        "emotion": "neutral",
        "valence": 2.5,
        "arousal": 2.0,
        "dominance": 3.3333,
        "ratings": (
            {"labels": ("neutral",), "rater": "C-E2"},
            {
                "labels": ("neutral", "frustration"),
                "comment": 'polite, a bit impatient/tired (at first), "Ironic"',
                "rater": "C-E3",
            },
            {"labels": ("other",), "comment": "curious", "rater": "C-E4"},
            {"labels": ("sadness",), "comment": "lonely", "rater": "C-F1"},
        ),
        "transcript": "Well [LAUGHTER], who: me?",
        "style": "improvised",
        "language": "en",
        "corpus": "iemocap",
    }


def test_every_evaluated_turn_is_there_in_order_whether_raters_agreed_or_not(root: Path) -> None:
    assert [(u.id, u.emotion) for u in parse(root)] == list(
        zip(TURNS, ("neutral", None, "other", "excited", "happiness", "sadness"), strict=True)
    )


def test_the_speaker_is_who_speaks_and_not_who_wears_the_markers(root: Path) -> None:
    assert [(u.speaker, u.gender, u.session, u.style) for u in parse(root)] == [
        ("Ses01F", "female", "Ses01", "improvised"),
        ("Ses01M", "male", "Ses01", "improvised"),
        ("Ses01M", "male", "Ses01", "improvised"),
        ("Ses01F", "female", "Ses01", "scripted"),
        ("Ses05M", "male", "Ses05", "scripted"),
        ("Ses05F", "female", "Ses05", "scripted"),
    ]


def test_labels_of_one_rater_keep_order_and_multiplicity(root: Path) -> None:
    utterance = by_id(root)["Ses01F_impro01_M000"]
    assert utterance.ratings == (
        Rating(labels=("anger", "anger", "sadness"), rater="C-E1"),
        Rating(labels=("fear",), rater="C-E3"),
        Rating(labels=("disgust",), rater="C-M1"),
    )
    assert [is_self_evaluation(rating) for rating in utterance.ratings] == [False, False, True]


@pytest.mark.parametrize(("code", "emotion"), EMOTIONS.items())
def test_every_emotion_code(root: Path, code: str, emotion: str) -> None:
    edit(root, IMPRO, "\tneu\t", f"\t{code}\t")
    assert by_id(root)["Ses01F_impro01_F000"].emotion == emotion


def test_transcripts_may_be_latin_1_or_utf_8_and_an_empty_one_is_none(root: Path) -> None:
    assert by_id(root)["Ses05M_script01_1b_M000"].transcript == "Café?"
    assert by_id(root)["Ses01F_impro01_M001"].transcript is None
    name = list(TRANSCRIPTIONS)[2]
    write(root / name, TRANSCRIPTIONS[name])
    assert by_id(root)["Ses05M_script01_1b_M000"].transcript == "Café?"


def test_windows_line_ends_change_nothing(root: Path) -> None:
    before = parse(root)
    for name in (IMPRO, SPOKEN):
        (root / name).write_bytes((root / name).read_bytes().replace(b"\n", b"\r\n"))
    assert parse(root) == before


def test_a_recipe_merges_excitement_into_happiness_and_not_the_adapter(root: Path) -> None:
    four = ClassLabels(("anger", "happiness", "sadness", "neutral"), {"excited": "happiness"})
    assert [four.label(u) for u in parse(root)] == ["neutral", None, None, "happiness", "happiness", "sadness"]


def test_what_is_left_out_and_what_is_lacking_is_counted(root: Path) -> None:
    assert remarks(root) == [
        "of 6 turns, 1 have no emotion because the evaluators did not agree",
        "1 turns have no rating by an evaluator, such as Ses05M_script01_1b_M000",
        "1 turns have no transcript, such as Ses01F_impro01_M001",
        "left out lines of the transcriptions: 1 that name no turn, 1 of turns that were not evaluated, such as "
        "Ses01F_impro01_MXX0",
        "left out 1 comments on individual raters' valence, activation and dominance (lines A-...)",
        "left out 1 recordings that were not evaluated, such as Ses01F_impro01_MXX0.wav",
    ]


# -- counts ------------------------------------------------------------------------------------------------------------

PUBLISHED = {"ang": 1103, "hap": 595, "exc": 1041, "sad": 1084, "neu": 1708}
BY_SESSION = (1085, 1023, 1151, 1031, 1241)
OTHERS = {"fru": 1849, "sur": 107, "fea": 40, "dis": 2, "oth": 3, "xxx": 2507}


def whole(root: Path) -> Path:
    """Write the evaluations of a corpus as large as the real one, one recording for all of them."""
    codes = [code for code, count in PUBLISHED.items() for _ in range(count)]
    others = [code for code, count in OTHERS.items() for _ in range(count)]
    for number, size in enumerate(BY_SESSION, start=1):
        mine, codes = codes[:size], codes[size:]
        mine += others if number == len(BY_SESSION) else []
        dialog = f"Ses0{number}F_impro01"
        lines = [f"[0.0 - 1.0]\t{dialog}_M{place:03d}\t{code}\t[3, 3, 3]\n" for place, code in enumerate(mine)]
        write(root / f"Session{number}/dialog/EmoEvaluation/{dialog}.txt", "".join(lines))
        (root / f"Session{number}/sentences/wav").mkdir(parents=True)
    return root


@pytest.mark.slow
def test_the_whole_corpus_has_the_published_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serein.audio.info", lambda path: None)
    root = whole(tmp_path)
    prepared = prepare(IEMOCAP, root)
    assert len(prepared.utterances) == 10_039
    four = ClassLabels(("anger", "happiness", "sadness", "neutral"), {"excited": "happiness"})
    assert Counter(four.label(u) for u in prepared.utterances) == {
        "anger": 1103,
        "happiness": 1636,
        "sadness": 1084,
        "neutral": 1708,
        None: 4508,
    }
    path = "Session2/dialog/EmoEvaluation/Ses02F_impro01.txt"
    edit(root, path, "_M100\thap", "_M100\tfru")
    with pytest.raises(ManifestError) as error:
        prepare(IEMOCAP, root)
    assert str(error.value) == (
        f"{root}: found 10039 of the 10039 utterances that IEMOCAP publishes (session Ses02: 1022 of 1023; "
        "emotion happiness: 1635 of 1636; other emotions or none: 4509 of 4508). "
        "Copy the labels again from the release, or use --partial."
    )


def test_a_part_stops_and_is_accepted_when_asked_for(root: Path) -> None:
    what = (
        "found 6 of the 10039 utterances that IEMOCAP publishes (session Ses01: 2 of 1085; session Ses02: 0 of 1023; "
        "session Ses03: 0 of 1151; session Ses04: 0 of 1031; 6 more)"
    )
    with pytest.raises(ManifestError) as error:
        prepare(IEMOCAP, root)
    assert str(error.value) == f"{root}: {what}. Download the rest, or use --partial."
    prepared = prepare(IEMOCAP, root, counts="partial")
    assert prepared.notes[-1] == what
    assert len(prepared.utterances) == 6


# -- defects -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plant", "reason"),
    [(Path.unlink, "no such file"), (lambda path: path.write_bytes(b""), "the file is empty (0 bytes)")],
)
def test_a_missing_or_broken_recording_stops_or_is_listed(
    root: Path, plant: Callable[[Path], object], reason: str
) -> None:
    path = recording(root, "Ses01F_impro01_M000")
    plant(path)
    with pytest.raises(AudioError) as error:
        prepare(IEMOCAP, root, counts="partial")
    assert str(error.value).startswith(f"{path}: {reason}")
    skipping = prepare(IEMOCAP, root, counts="partial", unreadable="skip")
    assert skipping.skipped == [(str(path), reason)]
    assert len(skipping.utterances) == 5


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        (
            "\tneu\t",
            "\tmad\t",
            3,
            "unknown emotion 'mad', expected one of: ang, hap, exc, sad, neu, fru, sur, fea, dis",
        ),
        ("\t[2.5000, 2.0000, 3.3333]", "", 3, "is not a consensus: [start - end], turn, emotion, [valence"),
        ("2.5000, 2.0000, 3.3333", "2.5000, 2.0000", 3, "is not a consensus"),
        ("2.5000, 2.0000", "2.5000, NaN", 3, "is not a consensus"),
        (
            "Ses01F_impro01_F000",
            "Ses01F_impro02_F000",
            3,
            "'Ses01F_impro02_F000' is not a turn of the dialogue Ses01F_imp",
        ),
        ("Ses01F_impro01_F000", "Ses01F_impro01_X000", 3, "'Ses01F_impro01_X000' is not a turn of the dialogue"),
        ("C-E2:\tNeutral;\t()", "C-E2:\tNeu", 4, "'C-E2: Neu' is not a rating, such as 'C-E2: Neutral; (comment)'"),
        ("C-E2:\t", "C-X2:\t", 4, "is not a rating"),
        ("C-E2:\t", "E2:\t", 4, "is not a line of an evaluation"),
        ("(calm, collected)", "(calm, coll", 9, "is not a rating of attributes"),
        (
            "[0.5000 - 1.2500]\tSes01F_impro01_F000\tneu\t[2.5000, 2.0000, 3.3333]\n",
            "",
            3,
            "is not a line of an evalua",
        ),
    ],
)
def test_a_broken_or_foreign_line_stops_with_its_number(root: Path, old: str, new: str, line: int, what: str) -> None:
    edit(root, IMPRO, old, new)
    complaint = refusal(root)
    assert complaint.startswith(f"{root / IMPRO}:{line}: ")
    assert what in complaint
    assert complaint.endswith("Copy the file again from the release.")


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        (
            "Ses01F_impro01_M000 [001.5000-002.0000]: Go",
            "Ses01F_impro01_M000 [001.5",
            3,
            "is not a transcript, such as",
        ),
        (
            "Ses01F_impro01_MXX0",
            "Ses01F_impro01_M000",
            4,
            "Ses01F_impro01_M000 has a different text in an earlier line",
        ),
    ],
)
def test_a_broken_or_contradictory_transcript_stops(root: Path, old: str, new: str, line: int, what: str) -> None:
    edit(root, SPOKEN, old, new)
    complaint = refusal(root)
    assert complaint.startswith(f"{root / SPOKEN}:{line}: ")
    assert what in complaint


def test_a_turn_that_is_evaluated_twice_is_refused(root: Path) -> None:
    edit(root, IMPRO, "Ses01F_impro01_M001", "Ses01F_impro01_M000")
    assert "1 ids occur more than once: Ses01F_impro01_M000" in refusal(root)


def test_without_transcriptions_no_utterance_has_a_transcript(root: Path) -> None:
    shutil.rmtree(root / "Session1/dialog/transcriptions")
    (root / "Session5/dialog/transcriptions/Ses05M_script01_1b.txt").unlink()
    assert {u.transcript for u in parse(root)} == {None}
    assert "6 turns have no transcript, such as Ses01F_impro01_F000" in remarks(root)


def test_a_dialogue_without_evaluation_is_noted_by_its_recordings(root: Path) -> None:
    (root / "Session1/dialog/EmoEvaluation/Ses01F_script01_1.txt").unlink()
    assert len(parse(root)) == 5
    assert "left out 2 recordings that were not evaluated, such as Ses01F_impro01_MXX0.wav" in remarks(root)


def test_a_file_of_another_session_is_refused(root: Path) -> None:
    shutil.copy(root / IMPRO, root / "Session5/dialog/EmoEvaluation/Ses01F_impro01.txt")
    assert "EmoEvaluation/Ses01F_impro01.txt: belongs to a session other than Ses05" in refusal(root)


@pytest.mark.parametrize("part", ["dialog/EmoEvaluation", "sentences/wav"])
def test_a_session_without_labels_or_recordings_is_refused(root: Path, part: str) -> None:
    shutil.rmtree(root / "Session5" / part)
    assert refusal(root).startswith(f"{root / 'Session5' / part}: no such folder. Unpack")


def test_another_folder_is_answered_with_what_is_there(root: Path) -> None:
    complaint = refusal(root.parent)
    assert (
        "contains no folder Session1 to Session5; found: IEMOCAP_full_release. Specify the unpacked folder" in complaint
    )
    for name in EVALUATIONS:
        (root / name).unlink()
    assert "the files in dialog/EmoEvaluation name no turn" in refusal(root)


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_command_checks_counts_and_the_manifest_keeps_everything(root: Path, tmp_path: Path, serein: Call) -> None:
    out = tmp_path / "manifest.jsonl"
    stopped = serein("corpus", "prepare", "iemocap", root, "-o", out)
    assert stopped.status != 0
    assert "found 6 of the 10039 utterances" in stopped.complaint
    assert not out.exists()

    prepared = serein("corpus", "prepare", "iemocap", root, "-o", out, "--partial")
    assert prepared.status == 0
    assert prepared.out.strip().endswith("6 utterances")
    assert "note: 1 turns have no rating by an evaluator" in prepared.err
    assert manifest.read(out) == parse(root)
