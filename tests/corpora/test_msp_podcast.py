"""MSP-Podcast: a miniature tree in the layout of the releases, with both forms of its detailed table, and defects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cli_fixtures import Call
from serein.choices import choose
from serein.corpora.msp_podcast import EMOTIONS, MSP_PODCAST, RELEASES, SECONDARY, answer, parse, remarks
from serein.corpora.prepare import Prepared, prepare
from serein.data import manifest
from serein.data.manifest import Rating, Utterance
from serein.errors import AudioError, ManifestError
from serein.recipe import Recipe
from serein.tasks.task import keep_labelled

CONSENSUS = """\
FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set
MSP-PODCAST_0001_0008.wav,N,2.2,4.0,2.6,30,Male,Test1
MSP-PODCAST_0002_0033.wav,A,5.4,2.8,5.2,127,Female,Train
MSP-PODCAST_0002_0039.wav,H,4.8,5.8,4.8,127,Female,Train
MSP-PODCAST_0003_0001_0002.wav,S,2.4,3.0,3.8,Unknown,Unknown,Train
MSP-PODCAST_0004_0005.wav,X,3.0,3.0,3.0,31,Male,Train
MSP-PODCAST_0004_0006.wav,O,3.0,3.0,3.0,31,Male,Train
MSP-PODCAST_0004_0007.wav,X,3.0,3.0,3.0,31,Male,Development
MSP-PODCAST_0005_0010.wav,D,4.0,2.0,4.0,32,Male,Development
MSP-PODCAST_0006_0011.wav,U,5.0,4.0,4.0,33,Female,Test2
"""
ANGRY = (  # four of five raters call it angry
    ("WORKER00000001", "Angry", "Angry,Frustrated"),
    ("WORKER00000018", "Angry", "Disgust"),
    ("WORKER00000021", "Other-fed up", "Annoyed,Other-fed up, really"),
    ("WORKER00000028", "Angry", ""),
    ("WORKER00000044", "Angry", "Angry"),
)
FORMS = {
    "2.0": "FileName,WorkerID,EmoClass_Major,EmoClass_Second,EmoAct,EmoVal,EmoDom",
    "1.12": "FileName,EmoDetail",
}


def names() -> list[str]:
    return [line.split(",")[0] for line in CONSENSUS.splitlines()[1:]]


def detailed(form: str) -> str:
    """Return the detailed table: the angry clip by its five raters, every other one by one."""
    lines = [FORMS[form]]
    for name in names():
        for worker, primary, secondary in ANGRY if name.endswith("0002_0033.wav") else (ANGRY[4],):
            if form == "2.0":
                lines.append(f'{name},{worker},{primary},"{secondary}",5,2,5')
            else:
                lines.append(f'{name},"{worker}; {primary}; {secondary}; A:5.000000; V:2.000000; D:5.000000;"')
    return "\n".join(lines) + "\n"


@pytest.fixture(params=FORMS)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A release: six clips with an emotion, three without, two of Test3 without a row."""
    for folder in ("Audios", "Labels", "Transcripts"):
        (tmp_path / folder).mkdir()
    (tmp_path / "Labels" / "labels_consensus.csv").write_text(CONSENSUS)
    (tmp_path / "Labels" / "labels_detailed.csv").write_text(detailed(request.param))
    for name in (*names(), "MSP-PODCAST_test3_0002.wav", "MSP-PODCAST_test3_0001.wav"):
        soundfile.write(tmp_path / "Audios" / name, np.full(800, 0.1), 16_000)
    for name in names():
        (tmp_path / "Transcripts" / name).with_suffix(".txt").write_text(f"... the words of {name}\n")
    return tmp_path


def by_id(root: Path) -> dict[str, Utterance]:
    return {u.id: u for u in parse(root)}


def edit(root: Path, table: str, old: str, new: str) -> None:
    path = root / "Labels" / f"labels_{table}.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def refusal(root: Path) -> str:
    with pytest.raises(ManifestError) as error:
        prepare(MSP_PODCAST, root)
    return str(error.value)


# -- the whole release -------------------------------------------------------------------------------------------------


def test_an_utterance_says_all_that_the_release_says(root: Path) -> None:
    utterance = by_id(root)["MSP-PODCAST_0001_0008"]
    assert utterance.model_dump(exclude_defaults=True) == {
        "id": "MSP-PODCAST_0001_0008",
        "audio": str(root / "Audios" / "MSP-PODCAST_0001_0008.wav"),
        "speaker": "30",
        "gender": "male",
        "emotion": "neutral",
        "valence": 4.0,
        "arousal": 2.2,
        "dominance": 2.6,
        "ratings": ({"labels": ("angry",), "rater": "WORKER00000044"},),
        "transcript": "... the words of MSP-PODCAST_0001_0008.wav",
        "style": "natural",
        "split": "test1",
        "language": "en",
        "corpus": "msp-podcast",
    }


def test_order_and_splits(root: Path) -> None:
    assert [(u.id.removeprefix("MSP-PODCAST_"), u.emotion, u.split) for u in parse(root)] == [
        ("0001_0008", "neutral", "test1"),
        ("0002_0033", "angry", "train"),
        ("0002_0039", "happy", "train"),
        ("0003_0001_0002", "sad", "train"),
        ("0004_0005", None, "train"),
        ("0004_0006", None, "train"),
        ("0004_0007", None, "dev"),
        ("0005_0010", "disgust", "dev"),
        ("0006_0011", "surprise", "test2"),
        ("test3_0001", None, "test3"),
        ("test3_0002", None, "test3"),
    ]


def test_raters_who_disagree_are_kept_for_distributions_and_dimensions_alone(root: Path) -> None:
    """As recipes for classes counted them before utterances without an emotion became part of the manifest."""
    disputed = {"MSP-PODCAST_0004_0005", "MSP-PODCAST_0004_0006", "MSP-PODCAST_0004_0007"}
    utterances = parse(root)
    assert {u.id for u in utterances if u.emotion is None and u.ratings} == disputed
    for changes, expected in (
        ({}, set()),
        ({"labels": {"target": "distribution"}}, set()),
        ({"labels": {"target": "distribution", "unlabelled": "keep"}}, disputed),
        ({"tasks": {"emotion": None, "valence": {}}}, disputed),
    ):
        recipe = Recipe.model_validate({"name": "r", "stages": [{"name": "a"}], **changes})
        main = recipe.tasks.main
        task = choose("task", main).fit(main, recipe.tasks.chosen[main], recipe, utterances)
        kept, _ = keep_labelled(utterances, task, "drop")
        assert {u.id for u in kept} & disputed == expected
        assert len(kept) == 6 + len(expected)


def test_an_unknown_speaker_and_gender_are_none(root: Path) -> None:
    utterance = by_id(root)["MSP-PODCAST_0003_0001_0002"]
    assert (utterance.speaker, utterance.gender) == (None, None)


def test_test3_is_heard_but_nothing_is_known_of_it(root: Path) -> None:
    utterance = by_id(root)["MSP-PODCAST_test3_0001"]
    assert utterance.model_dump(exclude_none=True, exclude_defaults=True).keys() == {
        "id", "audio", "style", "split", "language", "corpus"
    }  # fmt: skip


def test_test3_may_also_stand_in_the_table_with_hidden_labels(root: Path) -> None:
    path = root / "Labels" / "labels_consensus.csv"
    path.write_text(CONSENSUS + "MSP-PODCAST_test3_0001.wav,,,,,Unknown,Unknown,Test3\n")
    assert [(u.id, u.emotion, u.ratings) for u in parse(root) if u.split == "test3"] == [
        ("MSP-PODCAST_test3_0001", None, ()),
        ("MSP-PODCAST_test3_0002", None, ()),
    ]


def test_every_rating_is_there_with_the_primary_emotion_first(root: Path) -> None:
    ratings = by_id(root)["MSP-PODCAST_0002_0033"].ratings
    assert ratings == (
        Rating(rater="WORKER00000001", labels=("angry", "frustrated")),
        Rating(rater="WORKER00000018", labels=("angry", "disgust")),
        Rating(rater="WORKER00000021", labels=("other", "annoyed"), comment="fed up, really"),
        Rating(rater="WORKER00000028", labels=("angry",)),
        Rating(rater="WORKER00000044", labels=("angry",)),
    )


def test_four_of_five_can_be_read_off(root: Path) -> None:
    utterance = by_id(root)["MSP-PODCAST_0002_0033"]
    primary = [given.labels[0] for given in utterance.ratings]
    assert primary.count(utterance.emotion or "") / len(primary) == 4 / 5


@pytest.mark.parametrize(("letter", "emotion"), EMOTIONS.items())
def test_every_class_is_a_word_that_raters_use(root: Path, letter: str, emotion: str) -> None:
    edit(root, "consensus", "0008.wav,N", f"0008.wav,{letter}")
    assert by_id(root)["MSP-PODCAST_0001_0008"].emotion == emotion
    assert emotion in SECONDARY


def test_what_is_left_out_and_what_is_lacking_is_counted(root: Path) -> None:
    known = "release 1.10 104267, release 1.11 149307, release 1.12 203936, release 2.0 264705"
    assert prepare(MSP_PODCAST, root).notes == [
        f"9 rows in labels_consensus.csv, unlike any known release ({known}); "
        "by split: train 5, dev 2, test1 1, test2 1, test3 2",
        "3 utterances have ratings but no emotion: Other 1, No agreement 2",
        "of 9 rated utterances, 1 have no speaker and 1 no gender",
        "2 utterances have no transcript (2 of test3); 0 of the files are empty",
    ]


def test_a_release_is_recognised_by_its_number_of_rows(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RELEASES, 9, "release 0.9")
    assert remarks(root)[0].startswith("9 rows in labels_consensus.csv, as many as in release 0.9; by split: train 5")


def test_the_known_releases_are_the_published_sums() -> None:
    published = {
        "release 1.10": 63_076 + 10_999 + 16_903 + 13_289,
        "release 1.11": 84_030 + 19_815 + 30_647 + 14_815,
        "release 1.12": 207_136 - 3_200,
        "release 2.0": 169_190 + 34_399 + 46_294 + 14_822,
        "the challenge release (Train, Development and Test3 only)": 84_260 + 31_961,
    }
    assert {name: number for number, name in RELEASES.items()} == published


# -- one rating --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("primary", "secondary", "labels", "comment"),
    [
        ("Happy", "Amused,Happy,Excited", ("happy", "amused", "excited"), None),
        ("Other-confused", "Concerned,Confused", ("other", "concerned", "confused"), "confused"),
        ("Other", "Other", ("other",), None),
        ("Other - calm; composed", "Neutral", ("other", "neutral"), "calm; composed"),
        ("Sad", "Other-tired, worn out,Depressed", ("sad", "other", "depressed"), "tired, worn out"),
        ("Sad", "Dissapointed,,", ("sad", "disappointed"), None),
        ("Neutral", "Curious", ("neutral", "curious"), None),
    ],
)
def test_a_rating(primary: str, secondary: str, labels: tuple[str, ...], comment: str | None) -> None:
    assert answer(primary, secondary) == (labels, comment)


@pytest.mark.parametrize("root", ["1.12"], indirect=True)
@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("W1; Angry; Angry,Frustrated; A:5; V:2; D:5;", ("angry", "frustrated")),
        ("W1; Angry; ; A:5.0; V:NaN; D:5.0;", ("angry",)),
        ("W1; Angry; A:5.0; V:2.0; D:5.0", ("angry",)),
        ("W1; Other-calm; cool; Neutral; A:5.0; V:2.0; D:5.0;", ("other", "neutral")),
    ],
)
def test_a_rating_in_one_cell(root: Path, cell: str, labels: tuple[str, ...]) -> None:
    edit(root, "detailed", '"WORKER00000044; Angry; Angry; A:5.000000; V:2.000000; D:5.000000;"', f'"{cell}"')
    assert by_id(root)["MSP-PODCAST_0001_0008"].ratings[0].labels == labels


# -- defects -----------------------------------------------------------------------------------------------------------


def remove_audio(root: Path) -> None:
    (root / "Audios" / "MSP-PODCAST_0002_0039.wav").unlink()


def empty_audio(root: Path) -> None:
    (root / "Audios" / "MSP-PODCAST_0002_0039.wav").write_bytes(b"")


@pytest.mark.parametrize(
    ("plant", "reason"), [(remove_audio, "no such file"), (empty_audio, "the file is empty (0 bytes)")]
)
def test_a_missing_or_broken_recording_stops_or_is_listed(
    root: Path, plant: Callable[[Path], None], reason: str
) -> None:
    plant(root)
    path = root / "Audios" / "MSP-PODCAST_0002_0039.wav"
    with pytest.raises(AudioError) as error:
        prepare(MSP_PODCAST, root)
    assert str(error.value).startswith(f"{path}: {reason}")
    skipping: Prepared = prepare(MSP_PODCAST, root, unreadable="skip")
    assert skipping.skipped == [(str(path), reason)]
    assert len(skipping.utterances) == 10


def test_an_extra_column_is_noted(root: Path) -> None:
    path = root / "Labels" / "labels_consensus.csv"
    path.write_text("".join(f"{line},x\n" for line in CONSENSUS.replace("Split_Set", "Split_Set,Mood").splitlines()))
    path.write_text(path.read_text().replace("Mood,x", "Mood"))
    assert len(parse(root)) == 11
    assert "left out 1 unknown columns of labels_consensus.csv: Mood" in remarks(root)


def test_the_order_of_the_columns_does_not_matter(root: Path) -> None:
    before = parse(root)
    path = root / "Labels" / "labels_consensus.csv"
    path.write_text("\n".join(",".join(reversed(line.split(","))) for line in CONSENSUS.splitlines()))
    assert parse(root) == before


@pytest.mark.parametrize(("table", "column"), [("consensus", "EmoClass"), ("detailed", "FileName")])
def test_a_missing_column_is_named_beside_those_there_are(root: Path, table: str, column: str) -> None:
    edit(root, table, column, "Klasse")
    what = refusal(root)
    assert f"labels_{table}.csv: has no column {column}; its columns are: " in what
    assert "Klasse" in what


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (",A,", ",Q,", "unknown EmoClass 'Q', expected one of: N, H, A, S, C, U, D, F, O, X"),
        (",A,", ",,", "unknown EmoClass '', expected one of"),
        ("127,Female", "127,F", "unknown Gender 'F', expected one of: Male, Female, Unknown"),
        ("Female,Train", "Female,Test9", "unknown Split_Set 'Test9', expected one of: Train, Development, Test1"),
        ("MSP-PODCAST_0002_0033.wav", "0002_0033.wav", "'0002_0033.wav' does not match the file names of MSP-Podcast"),
        ("MSP-PODCAST_0002_0033.wav", "MSP-PODCAST_0001_0008.wav", "MSP-PODCAST_0001_0008.wav is listed in line 2"),
        (",Female,Train\n", ",Fem\n", "has 7 cells, but the header has 8"),
        (",5.4,", ",NaN,", "column EmoAct contains 'NaN', which is not a mean of answers from 1 to 7"),
    ],
)
def test_a_foreign_or_cut_off_row_stops_with_its_line(root: Path, old: str, new: str, what: str) -> None:
    edit(root, "consensus", old, new)
    assert f"labels_consensus.csv:3: {what}" in refusal(root)


@pytest.mark.parametrize("table", ["consensus", "detailed"])
def test_an_open_quote_swallows_nothing(root: Path, table: str) -> None:
    edit(root, table, "\nMSP-PODCAST_0002_0039.wav,", '\nMSP-PODCAST_0002_0039.wav,"A,')
    assert f"labels_{table}.csv:" in refusal(root)


def test_splits_of_an_earlier_release_name_the_supported_ones(root: Path) -> None:
    edit(root, "consensus", "Female,Train", "Female,Validation")
    assert "Copy the table again from release 1.10 to 2.0; serein does not support others." in refusal(root)


@pytest.mark.parametrize("table", ["consensus", "detailed"])
def test_a_table_in_another_encoding_is_refused(root: Path, table: str) -> None:
    path = root / "Labels" / f"labels_{table}.csv"
    path.write_bytes(path.read_bytes() + b"caf\xe9")
    assert "is not UTF-8 text" in refusal(root)


@pytest.mark.parametrize("root", ["1.12"], indirect=True)
def test_a_cell_that_is_no_rating_stops_with_its_line(root: Path) -> None:
    edit(root, "detailed", "WORKER00000001; Angry; Angry,Frustrated; ", "WORKER00000001 Angry ")
    assert "labels_detailed.csv:3: is not a rating: 'WORKER00000001 Angry A:5.000000; V:2" in refusal(root)


def test_a_rating_without_a_primary_emotion_stops(root: Path) -> None:
    edit(root, "detailed", "Other-fed up", "")
    assert "labels_detailed.csv:5: is not a rating: " in refusal(root)


def test_tables_of_two_releases_are_refused(root: Path) -> None:
    edit(root, "consensus", "MSP-PODCAST_0006_0011.wav", "MSP-PODCAST_0007_0001.wav")
    assert (
        "labels_detailed.csv: contains no rating of 1 files of labels_consensus.csv, "
        "such as MSP-PODCAST_0007_0001.wav. Copy both tables again from the same release."
    ) in refusal(root)
    (root / "Labels" / "labels_consensus.csv").write_text(CONSENSUS[: CONSENSUS.index("MSP-PODCAST_0005")])
    what = "rates 2 files that labels_consensus.csv does not list, such as MSP-PODCAST_0005_0010.wav"
    assert what in refusal(root)


def test_absent_and_empty_transcripts_are_none_and_counted(root: Path) -> None:
    (root / "Transcripts" / "MSP-PODCAST_0002_0033.txt").unlink()
    (root / "Transcripts" / "MSP-PODCAST_0002_0039.txt").write_text(" \n")
    utterances = by_id(root)
    assert utterances["MSP-PODCAST_0002_0033"].transcript is utterances["MSP-PODCAST_0002_0039"].transcript is None
    assert remarks(root)[-1] == "4 utterances have no transcript (2 of test3); 1 of the files are empty"


def test_a_broken_transcript_stops_with_its_name(root: Path) -> None:
    (root / "Transcripts" / "MSP-PODCAST_0002_0033.txt").write_bytes(b"\xff\xfeno")
    assert "Transcripts/MSP-PODCAST_0002_0033.txt: cannot be read as UTF-8 text" in refusal(root)


def test_without_the_folder_of_transcripts_there_are_none(root: Path) -> None:
    for path in (root / "Transcripts").iterdir():
        path.unlink()
    (root / "Transcripts").rmdir()
    assert not any(u.transcript for u in parse(root))
    assert remarks(root)[-1].startswith("no folder Transcripts/")


def test_audio_that_no_row_names_is_noted(root: Path) -> None:
    (root / "Audios" / "MSP-PODCAST_0009_0001.wav").touch()
    (root / "Audios" / ".DS_Store").touch()
    assert len(parse(root)) == 11
    assert "left out 1 files in Audios/ that no row lists, such as MSP-PODCAST_0009_0001.wav" in remarks(root)


@pytest.mark.parametrize(
    ("part", "other", "found"),
    [
        ("Audios", "Audios.tar.gz", "Audios.tar.gz, Labels, Transcripts"),
        ("Labels", "label", "Audios, Transcripts, label"),
        ("Labels/labels_consensus.csv", "Labels/labels_concensus.csv", "labels_concensus.csv, labels_detailed.csv"),
        ("Labels/labels_detailed.csv", "Labels/labels_detailed.json", "labels_consensus.csv, labels_detailed.json"),
    ],
)
def test_another_layout_is_answered_with_what_is_there(root: Path, part: str, other: str, found: str) -> None:
    (root / part).rename(root / other)
    what = refusal(root)
    assert what.startswith(f"{root}: contains no {part}")
    assert f"found: {found}. Specify the folder of release 1.10 or later" in what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the table is empty"),
        (CONSENSUS[: CONSENSUS.index("\n")], "contains no rows below the header"),
    ],
)
def test_an_empty_table_is_refused(root: Path, text: str, what: str) -> None:
    (root / "Labels" / "labels_consensus.csv").write_text(text)
    assert f"labels_consensus.csv: {what}" in refusal(root)


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["1.12"], indirect=True)
def test_the_command_prepares_lists_and_counts(root: Path, tmp_path: Path, serein: Call) -> None:
    empty_audio(root)
    out = tmp_path / "manifest.jsonl"
    stopped = serein("corpus", "prepare", "msp-podcast", root, "-o", out)
    assert stopped.status != 0
    assert "MSP-PODCAST_0002_0039.wav: the file is empty" in stopped.complaint
    assert not out.exists()

    prepared = serein("corpus", "prepare", "msp-podcast", root, "-o", out, "--skip-broken")
    assert prepared.status == 0
    assert prepared.out.strip().endswith("10 utterances, 1 skipped")
    assert "note: 3 utterances have ratings but no emotion: Other 1, No agreement 2" in prepared.err
    assert len(manifest.read(out)) == 10
