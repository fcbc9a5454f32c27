"""CREMA-D: names, the actors' sex and the listeners' votes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from serein.corpora.corpus import prepare
from serein.corpora.cremad import CREMAD, EMOTIONS, parse, remarks
from serein.errors import ManifestError

REAL = Path(os.environ.get("SEREIN_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))

VOTES = """"","A","D","F","H","N","S","fileName","numResponses"
"100062",2,1,0,0,1,0,"1001_DFA_ANG_XX",4
"200062",5,2,0,0,3,0,"1001_DFA_ANG_XX",10
"103234",0,0,1,0,0,1,"1040_ITH_SAD_XX",2
"""
PEOPLE = '"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","Caucasian","Not Hispanic"\n'


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def release(root: Path, *names: str) -> Path:
    tree(root, *names, "processedResults/tabulatedVotes.csv")
    (root / "processedResults" / "tabulatedVotes.csv").write_text(VOTES, encoding="utf-8")
    (root / "VideoDemographics.csv").write_text(PEOPLE, encoding="utf-8")
    return root


def test_a_file_name_and_two_tables_say_everything(tmp_path: Path) -> None:
    root = release(tmp_path, "AudioWAV/1001_DFA_ANG_XX.wav")
    (utterance,) = parse(root)
    assert utterance.model_dump(exclude_defaults=True) == {
        "id": "1001_DFA_ANG_XX",
        "audio": str(root / "AudioWAV" / "1001_DFA_ANG_XX.wav"),
        "speaker": "1001",
        "gender": "male",
        "emotion": "anger",
        "ratings": tuple({"labels": (label,)} for label in ("anger", "anger", "disgust", "neutral")),
        "transcript": "Don't forget a jacket",
        "style": "scripted",
        "language": "en",
        "corpus": "cremad",
    }
    assert remarks(root) == []


@pytest.mark.parametrize(("code", "emotion"), EMOTIONS.items())
def test_every_emotion_and_level(code: str, emotion: str, tmp_path: Path) -> None:
    levels = ("XX", "LO", "MD", "HI")
    root = tree(tmp_path, *(f"1091_IEO_{code}_{level}.wav" for level in levels))
    assert [u.emotion for u in parse(root)] == [emotion] * 4


def test_without_the_tables_nothing_is_guessed(tmp_path: Path) -> None:
    root = tree(tmp_path, "1001_DFA_ANG_XX.wav")
    (utterance,) = parse(root)
    assert (utterance.gender, utterance.ratings) == (None, ())
    assert remarks(root) == [
        "no VideoDemographics.csv, so no gender",
        "no processedResults/tabulatedVotes.csv, so no ratings",
    ]


def test_the_clip_of_another_name_has_its_votes(tmp_path: Path) -> None:
    (utterance,) = parse(release(tmp_path, "AudioWAV/1040_ITH_SAD_X.wav"))
    assert [rating.labels for rating in utterance.ratings] == [("fear",), ("sad",)]


@pytest.mark.parametrize("name", ["1001_XYZ_ANG_XX.wav", "1001_DFA_JOY_XX.wav", "1001_DFA_ANG.wav"])
def test_a_foreign_name_stops(name: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not named as CREMA-D names its clips, such as 1001_DFA_ANG_XX"):
        parse(tree(tmp_path, name))


def test_the_real_excerpt() -> None:
    if not (REAL / "cremad").is_dir():
        pytest.skip(f"no CREMA-D in {REAL}")
    with pytest.raises(ManifestError, match=r"found 300 of the 7442 utterances.*say --partial"):
        prepare(CREMAD, REAL / "cremad")
    prepared = prepare(CREMAD, REAL / "cremad", counts="partial")
    assert Counter(u.emotion for u in prepared.utterances) == dict.fromkeys(
        ("anger", "disgust", "fear", "happy", "sad"), 60
    )
    assert len({u.speaker for u in prepared.utterances}) == 87
    assert all(u.gender and 4 <= len(u.ratings) <= 12 for u in prepared.utterances)
    assert prepared.notes[0].startswith("found 300 of the 7442 utterances that CREMA-D publishes")
