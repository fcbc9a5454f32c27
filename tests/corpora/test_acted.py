"""Acted corpora whose file names hold everything."""

from __future__ import annotations

import csv
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from serein.corpora import CORPORA
from serein.corpora.acted import (
    EMODB,
    EMODB_NAMES,
    RAVDESS,
    RAVDESS_NAMES,
    parse_ravdess,
    parse_savee,
    ravdess_remarks,
)
from serein.corpora.corpus import Acted, Corpus, Expected
from serein.corpora.prepare import prepare
from serein.errors import ManifestError

REAL = Path(os.environ.get("SEREIN_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


NAMES: list[tuple[str, str, dict[str, str | None]]] = [
    (
        "emovo",
        "EMOVO/f1/dis-f1-b1.wav",
        {
            "id": "dis-f1-b1",
            "speaker": "f1",
            "gender": "female",
            "emotion": "disgust",
            "transcript": "Gli operai si alzano presto.",
            "language": "it",
        },
    ),
    ("emovo", "gio-m3-d2.wav", {"speaker": "m3", "gender": "male", "emotion": "joy"}),
    (
        "tess",
        "OAF_Pleasant_surprise/OAF_back_ps.wav",
        {
            "id": "OAF_back_ps",
            "speaker": "OAF",
            "gender": "female",
            "emotion": "pleasant surprise",
            "transcript": "Say the word back",
            "language": "en",
        },
    ),
    ("tess", "OAF_neutral/OA_bite_neutral.wav", {"speaker": "OAF", "emotion": "neutral"}),
    ("tess", "YAF_dog_angry.wav", {"speaker": "YAF", "emotion": "angry", "transcript": "Say the word dog"}),
    (
        "savee",
        "AudioData/DC/sa03.wav",
        {
            "id": "DC_sa03",
            "speaker": "DC",
            "gender": "male",
            "emotion": "sadness",
            "transcript": None,
            "language": "en",
        },
    ),
    ("savee", "KL_a15.wav", {"id": "KL_a15", "speaker": "KL", "emotion": "anger"}),
    (
        "jl",
        "female1_angry_10a_1.wav",
        {
            "id": "female1_angry_10a_1",
            "speaker": "female1",
            "gender": "female",
            "emotion": "angry",
            "transcript": None,
            "language": "en",
        },
    ),
    ("jl", "male2_encouraging_6b_2.wav", {"speaker": "male2", "gender": "male", "emotion": "encouraging"}),
    (
        "cafe",
        "Colère/Faible/01-C-1-3.wav",
        {
            "id": "01-C-1-3",
            "speaker": "01",
            "gender": "male",
            "emotion": "anger",
            "transcript": "Trois cygnes aveugles au bord du lac",
            "language": "fr",
        },
    ),
    ("cafe", "12-T-2-1.aiff", {"speaker": "12", "gender": "female", "emotion": "sadness"}),
    (
        "shemo",
        "female/F01A01.wav",
        {
            "id": "F01A01",
            "speaker": "F01",
            "gender": "female",
            "emotion": "anger",
            "transcript": None,
            "language": "fa",
        },
    ),
    ("shemo", "male/M56W02.wav", {"speaker": "M56", "gender": "male", "emotion": "surprise"}),
    (
        "subesco",
        "F_02_MONIKA_S_10_NEUTRAL_5.wav",
        {
            "id": "F_02_MONIKA_S_10_NEUTRAL_5",
            "speaker": "F_02",
            "gender": "female",
            "emotion": "neutral",
            "transcript": None,
            "language": "bn",
        },
    ),
    ("subesco", "M_10_X_S_1_SURPRISE_1.wav", {"speaker": "M_10", "gender": "male", "emotion": "surprise"}),
    (
        "aesdd",
        "anger/a06 (5)b.wav",
        {
            "id": "a06 (5)b",
            "speaker": "5",
            "gender": None,
            "emotion": "anger",
            "transcript": None,
            "language": "el",
        },
    ),
    ("aesdd", "fear/f10 (01).wav", {"speaker": "1", "emotion": "fear"}),
    (
        "mesd",
        "Happiness_F_A_de_nada.wav",
        {
            "id": "Happiness_F_A_de_nada",
            "speaker": None,
            "gender": "female",
            "emotion": "happiness",
            "transcript": "de nada",
            "language": "es",
        },
    ),
    ("mesd", "Fear_C_B_arana.wav", {"gender": None, "emotion": "fear", "transcript": "arana"}),
]
FOREIGN = {
    "emovo": ("neu-f4-b1.wav", "xyz-f1-b1.wav", "neu-f1-b9.wav"),
    "tess": ("OAF_back.wav", "YAF_back_surprise.wav", "XAF_back_sad.wav"),
    "savee": ("DC_x01.wav", "DC_a1.wav"),
    "jl": ("female3_angry_1a_1.wav", "female1_bored_1a_1.wav", "female1_angry_1c_1.wav"),
    "cafe": ("13-C-1-1.wav", "01-X-1-1.wav", "01-C-3-1.wav", "01-C-1-7.wav"),
    "shemo": ("X01A01.wav", "F01B01.wav", "F1A01.wav"),
    "subesco": ("F_11_X_S_1_SAD_1.wav", "F_02_X_S_1_CALM_1.wav", "F_02_X_T_1_SAD_1.wav"),
    "aesdd": ("a06.wav", "x06 (5).wav", "a06 (0).wav"),
    "mesd": ("Joy_F_A_no.wav", "Anger_X_A_no.wav", "Anger_F_A_.wav"),
}


@pytest.mark.parametrize(("corpus", "name", "fields"), NAMES, ids=[f"{corpus}:{name}" for corpus, name, _ in NAMES])
def test_a_file_name_says_everything(corpus: str, name: str, fields: dict[str, str | None], tmp_path: Path) -> None:
    (utterance,) = CORPORA[corpus].parse(tree(tmp_path, name))
    assert utterance.audio == str(tmp_path / name)
    assert (utterance.style, utterance.corpus) == ("scripted", corpus)
    assert {field: getattr(utterance, field) for field in fields} == fields


@pytest.mark.parametrize("corpus", FOREIGN)
def test_a_foreign_name_stops(corpus: str, tmp_path: Path) -> None:
    for number, name in enumerate(FOREIGN[corpus]):
        with pytest.raises(ManifestError, match=f"does not match the clip names of {re.escape(CORPORA[corpus].title)}"):
            CORPORA[corpus].parse(tree(tmp_path / str(number), name))


@pytest.mark.parametrize("corpus", FOREIGN)
def test_one_clip_in_two_places_is_refused(corpus: str, tmp_path: Path) -> None:
    name = next(Path(name) for known, name, _ in NAMES if known == corpus)
    root = tree(tmp_path, f"a/{name}", f"b/{name}")
    with pytest.raises(ManifestError, match="1 names occur twice"):
        CORPORA[corpus].parse(root)


@pytest.mark.parametrize(
    ("corpus", "number", "num_speakers"),
    [
        ("emovo", 588, 6),
        ("tess", 2800, 2),
        ("savee", 480, 4),
        ("jl", 2400, 4),
        ("cafe", 936, 12),
        ("shemo", 3000, 87),
        ("subesco", 7000, 20),
        ("aesdd", 604, 6),
        ("mesd", 862, None),
        ("nemo", 4481, 9),
        ("cremad", 7442, 91),
        ("esd", 35_000, 20),
        ("meld", 13_706, None),
    ],
)
def test_the_published_counts(corpus: str, number: int, num_speakers: int | None) -> None:
    expected = CORPORA[corpus].expected
    assert isinstance(expected, Expected)
    assert expected.num_utterances == number
    assert (len(expected.speakers) or expected.num_speakers) == num_speakers
    assert sum(expected.splits.values()) in (0, number)


def test_a_corpus_without_published_counts_is_not_listed_as_empty() -> None:
    assert replace(CORPORA["emodb"], expected=Expected()).to_json()["num_utterances"] is None


def test_utterances_come_by_speaker_whatever_the_folders(tmp_path: Path) -> None:
    root = tree(tmp_path, "b/z-1.wav", "a/y-2.flac", "c/x-2.wav")
    toy = Acted("toy", "Toy", ("en",), "CC0", "Nobody", "x-1.wav", r"[xyz]-(?P<speaker>\d)", Expected())
    assert [u.id for u in toy.parse(root)] == ["z-1", "x-2", "y-2"]


# -- what single corpora have of their own ---------------------------------------------------------------------------


def test_savee_needs_the_folders_of_speakers(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"not in a speaker's folder \(DC, JE, JK, KL\)"):
        parse_savee(tree(tmp_path, "clips/a01.wav"))


def test_the_broken_clip_of_aesdd_is_left_out_and_said(tmp_path: Path) -> None:
    root = tree(tmp_path, "sadness/s05 (3).wav", "sadness/s05 (4).wav")
    assert [u.id for u in CORPORA["aesdd"].parse(root)] == ["s05 (4)"]
    assert CORPORA["aesdd"].remarks(root) == ["left out 's05 (3)', which cannot be decoded in the release"]


@pytest.mark.parametrize("corpus", [corpus for corpus in CORPORA.values() if corpus.expected], ids=lambda c: c.name)
def test_who_may_use_it_and_what_to_cite_is_said(corpus: Corpus) -> None:
    assert corpus.licence
    assert corpus.citation
    assert re.search(r"\(20\d\d\)|\(19\d\d\)", corpus.citation)
    assert "https://" in corpus.citation


# -- EmoDB -------------------------------------------------------------------------------------------------------------


needs_emodb = pytest.mark.skipif(not (REAL / "emodb").is_dir(), reason=f"no EmoDB in {REAL}")


def test_a_file_name_says_everything_in_emodb(tmp_path: Path) -> None:
    (utterance,) = EMODB.parse(tree(tmp_path, "wav/03a01Fa.wav"))
    assert utterance.model_dump(exclude_defaults=True) == {
        "id": "03a01Fa",
        "audio": str(tmp_path / "wav" / "03a01Fa.wav"),
        "speaker": "03",
        "gender": "male",
        "age": 31.0,
        "emotion": "happiness",
        "transcript": "Der Lappen liegt auf dem Eisschrank.",
        "style": "scripted",
        "language": "de",
        "corpus": "emodb",
    }


@pytest.mark.parametrize(("letter", "emotion"), EMODB_NAMES.emotions.items())
def test_every_emotion_letter(tmp_path: Path, letter: str, emotion: str) -> None:
    (utterance,) = EMODB.parse(tree(tmp_path, f"16b10{letter}b.flac"))
    assert (utterance.emotion, utterance.gender) == (emotion, "female")


def test_five_women_and_five_men_say_ten_sentences() -> None:
    assert sorted(EMODB_NAMES.genders.values()) == ["female"] * 5 + ["male"] * 5
    assert len(EMODB_NAMES.texts) == 10


@pytest.mark.parametrize("name", ["04a01Fa.wav", "03a03Fa.wav", "03a01Xa.wav", "03a01F1.wav", "song.wav"])
def test_a_foreign_name_stops_in_emodb(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="does not match the clip names of EmoDB"):
        EMODB.parse(tree(tmp_path, "03a01Fa.wav", name))


def test_two_formats_of_one_clip_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"such as wav/03a01Fa\.flac and wav/03a01Fa\.wav"):
        EMODB.parse(tree(tmp_path, "wav/03a01Fa.wav", "wav/03a01Fa.flac"))


def test_the_published_counts_agree_with_each_other() -> None:
    assert isinstance(EMODB.expected, Expected)
    assert EMODB.expected.num_utterances == 535 == sum(EMODB.expected.speakers.values())


@pytest.mark.slow
@needs_emodb
def test_the_real_corpus_is_complete() -> None:
    prepared = prepare(EMODB, REAL / "emodb")
    assert (len(prepared.utterances), prepared.skipped, prepared.notes) == (535, [], [])
    assert len({u.transcript for u in prepared.utterances}) == 10


# -- RAVDESS -----------------------------------------------------------------------------------------------------------


needs_ravdess = pytest.mark.skipif(not (REAL / "ravdess").is_dir(), reason=f"no RAVDESS in {REAL}")


def test_a_file_name_says_everything_in_ravdess(tmp_path: Path) -> None:
    (utterance,) = parse_ravdess(tree(tmp_path, "Actor_12/03-01-06-01-02-01-12.wav"))
    assert utterance.model_dump(exclude_defaults=True) == {
        "id": "03-01-06-01-02-01-12",
        "audio": str(tmp_path / "Actor_12" / "03-01-06-01-02-01-12.wav"),
        "speaker": "12",
        "gender": "female",
        "emotion": "fearful",
        "transcript": "Dogs are sitting by the door",
        "style": "scripted",
        "language": "en",
        "corpus": "ravdess",
    }


@pytest.mark.parametrize(("code", "emotion"), RAVDESS_NAMES.emotions.items())
def test_every_emotion_code(tmp_path: Path, code: str, emotion: str) -> None:
    (utterance,) = parse_ravdess(tree(tmp_path, f"03-01-{code}-01-01-02-07.flac"))
    assert (utterance.emotion, utterance.gender) == (emotion, "male")
    assert utterance.transcript == "Kids are talking by the door"


@pytest.mark.parametrize("prefix", ["", "Actor_01/", "Audio_Speech_Actors_01-24/Actor_01/"])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3"])
def test_the_layout_and_the_suffix_do_not_matter(tmp_path: Path, prefix: str, suffix: str) -> None:
    root = tree(tmp_path, *(f"{prefix}03-01-0{emotion}-01-01-01-01{suffix}" for emotion in (4, 1)))
    assert [u.id for u in parse_ravdess(root)] == ["03-01-01-01-01-01-01", "03-01-04-01-01-01-01"]


def test_the_order_is_by_actor_whatever_the_folders(tmp_path: Path) -> None:
    root = tree(tmp_path, "b/03-01-01-01-01-01-02.wav", "a/03-01-02-01-01-01-10.wav", "c/03-01-08-01-01-01-01.wav")
    assert [u.speaker for u in parse_ravdess(root)] == ["01", "02", "10"]


def test_song_and_video_are_left_out_and_counted(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "Actor_01/03-01-01-01-01-01-01.wav",
        "Actor_01/01-01-01-01-01-01-01.wav",
        "Song/Actor_01/03-02-01-01-01-01-01.wav",
        "Song/Actor_01/03-02-01-01-01-02-01.wav",
        "__MACOSX/Actor_01/._03-01-01-01-01-01-01.wav",
    )
    assert [u.id for u in parse_ravdess(root)] == ["03-01-01-01-01-01-01"]
    assert ravdess_remarks(root) == ["left out 2 clips of song", "left out 1 clips of video"]


def test_a_folder_of_song_only_says_so(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no audio-only speech clips \(left out 1 clips of song\)"):
        parse_ravdess(tree(tmp_path, "03-02-01-01-01-01-01.wav"))


@pytest.mark.parametrize(
    "name", ["holiday.wav", "03-01-09-01-01-01-01.wav", "03-01-01-01-01-01-25.wav", "03-01-01-01-01-01.wav"]
)
def test_a_foreign_name_stops_in_ravdess(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="does not match the clip names of RAVDESS"):
        parse_ravdess(tree(tmp_path, "03-01-01-01-01-01-01.wav", name))


def test_the_doubled_download_is_refused(tmp_path: Path) -> None:
    """The copy on Kaggle holds every clip twice, in Actor_NN/ and in audio_speech_actors_01-24/Actor_NN/."""
    name = "Actor_01/03-01-01-01-01-01-01.wav"
    root = tree(tmp_path, name, f"audio_speech_actors_01-24/{name}")
    with pytest.raises(ManifestError, match="1 names occur twice.*Specify the folder of one copy"):
        parse_ravdess(root)


def test_missing_folder_file_and_archive(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such folder"):
        parse_ravdess(tmp_path / "none")
    with pytest.raises(ManifestError, match="Unpack it"):
        parse_ravdess(tree(tmp_path, "Audio_Speech_Actors_01-24.zip") / "Audio_Speech_Actors_01-24.zip")
    with pytest.raises(ManifestError, match=r"found 1 \.zip.*Unpack the archive"):
        parse_ravdess(tmp_path)


@pytest.mark.slow
@needs_ravdess
def test_the_real_corpus_is_complete_and_agrees_with_its_table() -> None:
    prepared = prepare(RAVDESS, REAL / "ravdess")
    assert len(prepared.utterances) == 1440
    assert not prepared.skipped
    assert not prepared.notes
    with (REAL / "ravdess" / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = {Path(row["path"]).stem: row for row in csv.DictReader(file)}
    for u in prepared.utterances:
        row = rows.pop(u.id)
        assert (u.speaker, (u.gender or "")[0], u.emotion, u.transcript) == (
            row["speaker"],
            row["gender"],
            row["emotion"],
            row["text"],
        )
    assert not rows
