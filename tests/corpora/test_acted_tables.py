"""Acted corpora with tables or texts beside their clips."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from serein.corpora.acted_tables import (
    CREMAD,
    CREMAD_NAMES,
    NEMO,
    cremad_remarks,
    nemo_missing,
    parse_cremad,
    parse_esd,
    parse_jl,
    parse_nemo,
    parse_shemo,
)
from serein.corpora.prepare import prepare
from serein.errors import ManifestError

REAL = Path(os.environ.get("SEREIN_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


# -- CREMA-D: names, the actors' sex and the listeners' votes ----------------------------------------------------------


VOTES = """"","A","D","F","H","N","S","fileName","numResponses"
"100062",2,1,0,0,1,0,"1001_DFA_ANG_XX",4
"200062",5,2,0,0,3,0,"1001_DFA_ANG_XX",10
"103234",0,0,1,0,0,1,"1040_ITH_SAD_XX",2
"""
PEOPLE = '"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","Caucasian","Not Hispanic"\n'


def cremad(root: Path, *names: str) -> Path:
    tree(root, *names, "processedResults/tabulatedVotes.csv")
    (root / "processedResults" / "tabulatedVotes.csv").write_text(VOTES, encoding="utf-8")
    (root / "VideoDemographics.csv").write_text(PEOPLE, encoding="utf-8")
    return root


def test_a_file_name_and_two_tables_say_everything(tmp_path: Path) -> None:
    root = cremad(tmp_path, "AudioWAV/1001_DFA_ANG_XX.wav")
    (utterance,) = parse_cremad(root)
    assert utterance.model_dump(exclude_defaults=True) == {
        "id": "1001_DFA_ANG_XX",
        "audio": str(root / "AudioWAV" / "1001_DFA_ANG_XX.wav"),
        "speaker": "1001",
        "gender": "male",
        "age": 51.0,
        "emotion": "anger",
        "ratings": tuple({"labels": (label,)} for label in ("anger", "anger", "disgust", "neutral")),
        "transcript": "Don't forget a jacket",
        "style": "scripted",
        "language": "en",
        "corpus": "cremad",
    }
    assert cremad_remarks(root) == []


def test_clips_that_the_repository_has_twice_are_read_once(tmp_path: Path) -> None:
    root = cremad(tmp_path, "AudioWAV/1001_DFA_ANG_XX.wav", "AudioMP3/1001_DFA_ANG_XX.mp3")
    (utterance,) = parse_cremad(root)
    assert utterance.audio == str(root / "AudioWAV" / "1001_DFA_ANG_XX.wav")
    assert [utterance] == parse_cremad(root / "AudioWAV")
    (compressed,) = parse_cremad(root / "AudioMP3")
    assert (compressed.age, len(compressed.ratings)) == (51.0, 4)
    assert cremad_remarks(root / "AudioWAV") == []


@pytest.mark.parametrize(("code", "emotion"), CREMAD_NAMES.emotions.items())
def test_every_emotion_and_level(code: str, emotion: str, tmp_path: Path) -> None:
    levels = ("XX", "LO", "MD", "HI")
    root = tree(tmp_path, *(f"1091_IEO_{code}_{level}.wav" for level in levels))
    assert [u.emotion for u in parse_cremad(root)] == [emotion] * 4


def test_without_the_tables_nothing_is_guessed(tmp_path: Path) -> None:
    root = tree(tmp_path, "1001_DFA_ANG_XX.wav")
    (utterance,) = parse_cremad(root)
    assert (utterance.gender, utterance.age, utterance.ratings) == (None, None, ())
    assert cremad_remarks(root) == [
        "no VideoDemographics.csv, so no gender and age",
        "no processedResults/tabulatedVotes.csv, so no ratings",
    ]


def test_the_clip_of_another_name_has_its_votes(tmp_path: Path) -> None:
    (utterance,) = parse_cremad(cremad(tmp_path, "AudioWAV/1040_ITH_SAD_X.wav"))
    assert [rating.labels for rating in utterance.ratings] == [("fear",), ("sad",)]


@pytest.mark.parametrize("name", ["1001_XYZ_ANG_XX.wav", "1001_DFA_JOY_XX.wav", "1001_DFA_ANG.wav"])
def test_a_foreign_name_stops(name: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="does not match the clip names of CREMA-D, such as 1001_DFA_ANG_XX"):
        parse_cremad(tree(tmp_path, name))


@pytest.mark.slow
def test_the_real_excerpt() -> None:
    if not (REAL / "cremad").is_dir():
        pytest.skip(f"no CREMA-D in {REAL}")
    with pytest.raises(ManifestError, match=r"found 300 of the 7442 utterances.*use --partial"):
        prepare(CREMAD, REAL / "cremad")
    prepared = prepare(CREMAD, REAL / "cremad", counts="partial")
    assert Counter(u.emotion for u in prepared.utterances) == dict.fromkeys(
        ("anger", "disgust", "fear", "happy", "sad"), 60
    )
    assert len({u.speaker for u in prepared.utterances}) == 87
    assert all(u.gender and u.age and 4 <= len(u.ratings) <= 12 for u in prepared.utterances)
    assert prepared.notes[0].startswith("found 300 of the 7442 utterances that CREMA-D publishes")


# -- nEMO: names and data.tsv ------------------------------------------------------------------------------------------


TABLE = (
    "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage\n"
    'WR0_surprised_64.wav\tsurprised\tUcho "wykrywa" dźwięki.\tucho\t        WR0\tmale\t23\n'
    "EB0_neutral_13.wav\tneutral\tInteresuje mnie historia Polski.\tinteresuje\t        EB0\tfemale\t27\n"
)


def nemo(root: Path, *names: str) -> Path:
    for name in names:
        (root / "samples" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "samples" / name).touch()
    (root / "data.tsv").write_text(TABLE, encoding="utf-8")
    return root


def test_name_and_table_say_everything_whatever_the_suffix(tmp_path: Path) -> None:
    root = nemo(tmp_path, "WR0_surprised_64.ogg", "EB0_neutral_13.wav")
    first, second = parse_nemo(root)
    assert first.id == "EB0_neutral_13"
    assert second.model_dump(exclude_defaults=True) == {
        "id": "WR0_surprised_64",
        "audio": str(root / "samples" / "WR0_surprised_64.ogg"),
        "speaker": "WR0",
        "gender": "male",
        "age": 23.0,
        "emotion": "surprised",
        "transcript": 'Ucho "wykrywa" dźwięki.',
        "style": "scripted",
        "language": "pl",
        "corpus": "nemo",
    }


def test_a_clip_that_lies_nowhere_is_named(tmp_path: Path) -> None:
    assert nemo_missing(nemo(tmp_path, "EB0_neutral_13.wav")) == ["no WR0_surprised_64"]


def test_what_is_not_of_the_corpus_stops(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"WR0_surprised_65\.wav: is not listed in data\.tsv"):
        parse_nemo(nemo(tmp_path / "a", "WR0_surprised_65.wav"))
    with pytest.raises(ManifestError, match="does not match the clip names of nEMO"):
        parse_nemo(nemo(tmp_path / "b", "WR0_surprise_64.wav"))
    (tmp_path / "b" / "data.tsv").unlink()
    with pytest.raises(ManifestError, match=r"contains no data\.tsv"):
        parse_nemo(tmp_path / "b")


@pytest.mark.slow
def test_the_real_corpus_is_complete() -> None:
    if not (REAL / "nemo").is_dir():
        pytest.skip(f"no nEMO in {REAL}")
    prepared = prepare(NEMO, REAL / "nemo")
    assert (len(prepared.utterances), prepared.skipped, prepared.notes) == (4481, [], [])
    assert all(u.gender and u.transcript for u in prepared.utterances)
    assert len({u.transcript for u in prepared.utterances}) == 90


# -- ESD: folders of speakers and emotions, texts in many encodings ----------------------------------------------------


def test_folders_and_the_texts_say_everything(tmp_path: Path) -> None:
    root = tree(tmp_path, "0001/Angry/0001_000351.wav")
    (root / "0001" / "0001.txt").write_bytes("0001_000351\t打远一看\t生气\n".encode("gb2312"))
    (utterance,) = parse_esd(root)
    assert utterance.model_dump(exclude_defaults=True) == {
        "id": "0001_000351",
        "audio": str(root / "0001" / "Angry" / "0001_000351.wav"),
        "speaker": "0001",
        "gender": "female",
        "emotion": "angry",
        "transcript": "打远一看",
        "style": "scripted",
        "language": "zh",
        "corpus": "esd",
    }


@pytest.mark.parametrize(("folder", "split"), [("train", "train"), ("evaluation", "dev"), ("test", "test")])
def test_the_splits_of_the_copies_that_have_them(folder: str, split: str, tmp_path: Path) -> None:
    root = tree(tmp_path, f"Emotion Speech Dataset/0020/Surprise/{folder}/0020_001401.wav")
    (utterance,) = parse_esd(root)
    assert (utterance.split, utterance.emotion, utterance.gender, utterance.language) == (
        split,
        "surprise",
        "male",
        "en",
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
@pytest.mark.parametrize("line", ["0015_000137\tLet é be.\tNeutral", "0015_000137 Let é be.\tNeutral"])
def test_texts_in_any_encoding_and_with_a_tab_lost(encoding: str, line: str, tmp_path: Path) -> None:
    root = tree(tmp_path, "0015/Neutral/0015_000137.wav", "0015/Neutral/0015_000138.wav")
    (root / "0015" / "0015.txt").write_bytes(f"{line}\r\n\r\nno text\r\n0015_000138\t\tNeutral\r\n".encode(encoding))
    assert [u.transcript for u in parse_esd(root)] == ["Let é be.", None]


def test_a_clip_in_no_folder_of_an_emotion_and_a_foreign_name_stop(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"is not in an emotion's folder \(Angry, Happy, Neutral, Sad, Surprise\)"):
        parse_esd(tree(tmp_path / "a", "0001/0001_000351.wav"))
    with pytest.raises(ManifestError, match="does not match the clip names of ESD"):
        parse_esd(tree(tmp_path / "b", "0001/Angry/0021_000351.wav"))


# -- JL-Corpus, ShEMO: texts -------------------------------------------------------------------------------------------


def test_the_texts_of_jl_lie_beside_its_clips(tmp_path: Path) -> None:
    root = tree(tmp_path, "male1_sad_1a_1.wav", "male1_sad_1a_2.wav")
    (tmp_path / "male1_sad_1a_1.txt").write_bytes(b"Jack\x92s view\r\n")
    assert [u.transcript for u in parse_jl(root)] == ["Jack’s view", None]


def test_the_other_folders_of_jl_are_left_out(tmp_path: Path) -> None:
    clips = "Raw JL corpus (unchecked and unannotated)/JL(wav+txt)"
    root = tree(tmp_path, f"{clips}/male1_sad_1a_1.wav", "raw jl corpus/male1_sad_1a_1.wav", "Perception/x.wav")
    assert [u.audio for u in parse_jl(root)] == [str(tmp_path / clips / "male1_sad_1a_1.wav")]


def test_texts_of_shemo(tmp_path: Path) -> None:
    root = tree(tmp_path, "male/M02N14.wav", "male/M02N15.wav")
    (tmp_path / "shemo.json").write_text('[{"id": "M02N14", "transcript": "\\ufeff\\u0648 "}]', encoding="utf-8")
    assert [u.transcript for u in parse_shemo(root)] == ["و", None]


@pytest.mark.parametrize("text", ["{", "[1]", '[{"id": "M02N14"}]', '[{"id": "M02N14", "transcript": 1}]'])
def test_a_broken_list_of_texts_of_shemo_is_named(text: str, tmp_path: Path) -> None:
    (tree(tmp_path, "M02N14.wav") / "shemo.json").write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=r"shemo\.json: is not a list of clips"):
        parse_shemo(tmp_path)
