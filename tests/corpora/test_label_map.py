"""One set of labels: spellings joined, labels mapped."""

from __future__ import annotations

from pathlib import Path

import pytest

from serein.corpora.label_map import LabelMap, read_label_map, with_labels, with_one_spelling
from serein.data.utterance import Rating, Utterance
from serein.errors import ManifestError


def labelled(*emotions: str | None, corpus: str | None = None) -> list[Utterance]:
    return [
        Utterance(id=str(number), audio=f"{number}.wav", emotion=emotion, corpus=corpus)
        for number, emotion in enumerate(emotions)
    ]


def test_spellings_are_joined_into_the_most_frequent_and_said() -> None:
    joined, notes = with_one_spelling(labelled("Happy", "Happy", "happy", "HAPPY ", "sad", None))
    assert [u.emotion for u in joined] == ["Happy"] * 4 + ["sad", None]
    assert notes == ["the spellings 'Happy' (2), 'happy' (1), 'HAPPY ' (1) were joined into 'Happy'"]


@pytest.mark.parametrize("order", [("Sad", "sad"), ("sad", "Sad")])
def test_of_equally_many_small_letters_are_taken(order: tuple[str, str]) -> None:
    joined, _ = with_one_spelling(labelled(*order))
    assert {u.emotion for u in joined} == {"sad"}


def test_one_spelling_stays_as_it_is() -> None:
    utterances = labelled("Anger", "Pleasant  surprise", None)
    assert with_one_spelling(utterances) == (utterances, [])


def test_labels_and_raters_labels_become_what_the_map_says() -> None:
    (utterance,) = labelled("Angry")
    rated = utterance.model_copy(update={"ratings": (Rating(labels=("ANGRY", "calm", "bored"), rater="r"),)})
    (mapped,), notes = with_labels([rated], LabelMap({"angry": "anger", "bored": None, "sad": "sadness"}))
    assert mapped.emotion == "anger"
    assert mapped.ratings == (Rating(labels=("anger", "calm"), rater="r"),)
    assert notes == [
        "1 labels 'Angry' became 'anger'",
        "no utterance is labelled bored, sad, which the label map names",
    ]


def test_a_label_may_be_taken_away_and_the_utterance_stays() -> None:
    mapped, notes = with_labels(labelled("boredom", "sad"), LabelMap({"boredom": None}))
    assert [u.emotion for u in mapped] == [None, "sad"]
    assert notes == ["1 labels 'boredom' became none"]


def test_a_map_is_read_with_sections_for_corpora(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("Angry: angry\nno: neutral\n1: happy\nboredom: null\nravdess:\n  calm: neutral\n", encoding="utf-8")
    assert read_label_map(path) == LabelMap(
        {"angry": "angry", "no": "neutral", "1": "happy", "boredom": None}, {"ravdess": {"calm": "neutral"}}
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is no mapping of labels"),
        ("- a\n", "is no mapping of labels"),
        ("a: [b]\n", "'a' is mapped to"),
        ("a: {b: {c: d}}\n", "'b' is mapped to"),
        ("a: b\nA: c\n", "maps 'A' twice, in two spellings"),
        ("a: {\n", "is no YAML"),
    ],
)
def test_what_is_no_map_is_named(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=what) as error:
        read_label_map(tmp_path / "map.yaml")
    assert error.value.remedy


def test_a_map_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        read_label_map(tmp_path / "map.yaml")
