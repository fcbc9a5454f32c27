"""Corpora whose file names hold everything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serein.corpora import CORPORA, aesdd, jl, savee, shemo
from serein.corpora.corpus import Corpus, Expected
from serein.corpora.file_names import parse_names
from serein.data.utterance import Utterance
from serein.errors import ManifestError

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


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(("corpus", "name", "fields"), NAMES, ids=[f"{corpus}:{name}" for corpus, name, _ in NAMES])
def test_a_file_name_says_everything(corpus: str, name: str, fields: dict[str, str | None], tmp_path: Path) -> None:
    (utterance,) = CORPORA[corpus].parse(tree(tmp_path, name))
    assert utterance.audio == str(tmp_path / name)
    assert (utterance.style, utterance.corpus) == ("scripted", corpus)
    assert {field: getattr(utterance, field) for field in fields} == fields


@pytest.mark.parametrize("corpus", FOREIGN)
def test_a_foreign_name_stops(corpus: str, tmp_path: Path) -> None:
    for number, name in enumerate(FOREIGN[corpus]):
        with pytest.raises(ManifestError, match=f"not named as {re.escape(CORPORA[corpus].title)} names its clips"):
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


def test_utterances_come_by_speaker_whatever_the_folders(tmp_path: Path) -> None:
    def utterance(path: Path, parts: re.Match[str]) -> Utterance:
        return Utterance(id=path.stem, audio=str(path), speaker=parts["speaker"])

    root = tree(tmp_path, "b/z-1.wav", "a/y-2.flac", "c/x-2.wav")
    pattern = re.compile(r"[xyz]-(?P<speaker>\d)")
    found = parse_names(root, pattern, utterance, corpus="Toy", example="x-1.wav")
    assert [u.id for u in found] == ["z-1", "x-2", "y-2"]


# -- what single corpora have of their own ---------------------------------------------------------------------------


def test_savee_needs_the_folders_of_speakers(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no folder of a speaker \(DC, JE, JK, KL\)"):
        savee.parse(tree(tmp_path, "clips/a01.wav"))


def test_the_texts_of_jl_lie_beside_its_clips(tmp_path: Path) -> None:
    root = tree(tmp_path, "male1_sad_1a_1.wav", "male1_sad_1a_2.wav")
    (tmp_path / "male1_sad_1a_1.txt").write_bytes(b"Jack\x92s view\r\n")
    assert [u.transcript for u in jl.parse(root)] == ["Jack’s view", None]


def test_the_other_folders_of_jl_are_left_out(tmp_path: Path) -> None:
    clips = "Raw JL corpus (unchecked and unannotated)/JL(wav+txt)"
    root = tree(tmp_path, f"{clips}/male1_sad_1a_1.wav", "raw jl corpus/male1_sad_1a_1.wav", "Perception/x.wav")
    assert [u.audio for u in jl.parse(root)] == [str(tmp_path / clips / "male1_sad_1a_1.wav")]


def test_texts_of_shemo(tmp_path: Path) -> None:
    root = tree(tmp_path, "male/M02N14.wav", "male/M02N15.wav")
    (tmp_path / "shemo.json").write_text('[{"id": "M02N14", "transcript": "\\ufeff\\u0648 "}]', encoding="utf-8")
    assert [u.transcript for u in shemo.parse(root)] == ["و", None]


@pytest.mark.parametrize("text", ["{", "[1]", '[{"id": "M02N14"}]', '[{"id": "M02N14", "transcript": 1}]'])
def test_a_broken_list_of_texts_of_shemo_is_named(text: str, tmp_path: Path) -> None:
    (tree(tmp_path, "M02N14.wav") / "shemo.json").write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=r"shemo\.json: is no list of clips"):
        shemo.parse(tmp_path)


def test_the_broken_clip_of_aesdd_is_left_out_and_said(tmp_path: Path) -> None:
    root = tree(tmp_path, "sadness/s05 (3).wav", "sadness/s05 (4).wav")
    assert [u.id for u in aesdd.parse(root)] == ["s05 (4)"]
    assert aesdd.remarks(root) == ["left out 's05 (3)', which cannot be decoded in the release"]


@pytest.mark.parametrize("corpus", [corpus for corpus in CORPORA.values() if corpus.expected], ids=lambda c: c.name)
def test_who_may_use_it_and_what_to_cite_is_said(corpus: Corpus) -> None:
    assert corpus.licence
    assert corpus.citation
    assert re.search(r"\(20\d\d\)|\(19\d\d\)", corpus.citation)
    assert "https://" in corpus.citation
