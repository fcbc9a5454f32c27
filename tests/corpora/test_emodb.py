"""EmoDB: everything is in the file name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serein.corpora.corpus import Expected, prepare
from serein.corpora.emodb import EMODB, EMOTIONS, GENDERS, TEXTS, parse
from serein.errors import ManifestError

REAL = Path(os.environ.get("SEREIN_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
needs_emodb = pytest.mark.skipif(not (REAL / "emodb").is_dir(), reason=f"no EmoDB in {REAL}")


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_a_file_name_says_everything(tmp_path: Path) -> None:
    (utterance,) = parse(tree(tmp_path, "wav/03a01Fa.wav"))
    assert utterance.model_dump(exclude_defaults=True) == {
        "id": "03a01Fa",
        "audio": str(tmp_path / "wav" / "03a01Fa.wav"),
        "speaker": "03",
        "gender": "male",
        "emotion": "happiness",
        "transcript": "Der Lappen liegt auf dem Eisschrank.",
        "style": "scripted",
        "language": "de",
        "corpus": "emodb",
    }


@pytest.mark.parametrize(("letter", "emotion"), EMOTIONS.items())
def test_every_emotion_letter(tmp_path: Path, letter: str, emotion: str) -> None:
    (utterance,) = parse(tree(tmp_path, f"16b10{letter}b.flac"))
    assert (utterance.emotion, utterance.gender) == (emotion, "female")


def test_five_women_and_five_men_say_ten_sentences() -> None:
    assert sorted(GENDERS.values()) == ["female"] * 5 + ["male"] * 5
    assert len(TEXTS) == 10


@pytest.mark.parametrize("name", ["04a01Fa.wav", "03a03Fa.wav", "03a01Xa.wav", "03a01F1.wav", "song.wav"])
def test_a_foreign_name_stops(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="not named as EmoDB"):
        parse(tree(tmp_path, "03a01Fa.wav", name))


def test_two_formats_of_one_clip_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"such as wav/03a01Fa\.flac and wav/03a01Fa\.wav"):
        parse(tree(tmp_path, "wav/03a01Fa.wav", "wav/03a01Fa.flac"))


def test_the_published_counts_agree_with_each_other() -> None:
    assert isinstance(EMODB.expected, Expected)
    assert EMODB.expected.num_utterances == 535 == sum(EMODB.expected.speakers.values())


@needs_emodb
def test_the_real_corpus_is_complete() -> None:
    prepared = prepare(EMODB, REAL / "emodb")
    assert (len(prepared.utterances), prepared.skipped, prepared.notes) == (535, [], [])
    assert len({u.transcript for u in prepared.utterances}) == 10
