"""Categories: a corpus word has one class or none, and nothing is left out in silence."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from serein.data.manifest import Utterance
from serein.errors import RecipeError
from serein.recipe import Category, Labels
from serein.tasks.classes import ClassLabels, ClassTask, class_labels_of
from serein.tasks.task import keep_labelled, without_dropped

CATEGORIES = ClassLabels(("sad", "happy", "calm"), {"excited": "happy", "bored": "weary"})
TASK = ClassTask(Category(), CATEGORIES)


def labelled(*emotions: str | None) -> list[Utterance]:
    return [Utterance(id=str(i), audio=f"{i}.wav", emotion=emotion) for i, emotion in enumerate(emotions)]


@pytest.mark.parametrize(
    ("word", "name", "probabilities"),
    [
        ("sad", "sad", [1, 0, 0]),
        ("happy", "happy", [0, 1, 0]),
        ("excited", "happy", [0, 1, 0]),
        ("bored", None, [0, 0, 0]),  # merged into what is no class
        ("Happy", "happy", [0, 1, 0]),  # case and spaces do not count
        ("EXCITED ", "happy", [0, 1, 0]),
        ("", None, [0, 0, 0]),
        (None, None, [0, 0, 0]),
    ],
)
def test_what_a_word_means(word: str | None, name: str | None, probabilities: list[float]) -> None:
    assert CATEGORIES.of(word) == name
    assert CATEGORIES.label(Utterance(id="a", audio="a.wav", emotion=word)) == name
    assert CATEGORIES.probabilities(Utterance(id="a", audio="a.wav", emotion=word)).tolist() == probabilities
    assert CATEGORIES.probabilities(Utterance(id="a", audio="a.wav", emotion=word)).dtype == np.float32


def test_classes_keep_the_order_of_the_recipe() -> None:
    class_labels = class_labels_of(labelled("happy", "sad", "calm"), Labels(classes=("sad", "calm", "happy")))
    assert class_labels.classes == ("sad", "calm", "happy")


def test_unnamed_classes_are_those_of_the_data_after_merging() -> None:
    utterances = labelled("sad", "excited", "happy", "calm", None, "sad")
    assert class_labels_of(utterances, Labels()).classes == ("calm", "excited", "happy", "sad")
    assert class_labels_of(utterances, Labels(merge={"excited": "happy"})).classes == ("calm", "happy", "sad")


@pytest.mark.parametrize(
    ("emotions", "labels", "message"),
    [
        (["sad", "sad"], Labels(), "1 emotion classes in the data. Provide at least two"),
        ([None], Labels(), "0 emotion classes"),
        (["sad", "calm"], Labels(classes=("sad",)), "1 emotion classes"),
        (["sad", "calm"], Labels(classes=("sad", "calm", "sad")), "a class is named twice"),
        (
            ["sad", "calm"],
            Labels(classes=("sad", "joy", "fear")),
            "no utterance is labelled joy, fear; the data has: calm",
        ),
        (["sad", "calm"], Labels(classes=("sad", "calm"), merge={"sad": "calm"}), "no utterance is labelled sad"),
    ],
)
def test_classes_that_do_not_fit_the_data(emotions: list[str | None], labels: Labels, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        class_labels_of(labelled(*emotions), labels)
    assert f"labels.classes: {message}" in str(error.value)
    assert error.value.remedy


def test_what_has_no_class_is_an_error_that_counts_it() -> None:
    utterances = labelled("sad", "weary", None, "weary", "excited")
    with pytest.raises(
        RecipeError, match=r"3 utterances belong to none of the classes: 2 weary, 1 \(no emotion\)\. Add"
    ):
        keep_labelled(utterances, TASK, "error")


def test_what_has_no_class_can_be_left_out_and_is_counted() -> None:
    utterances = labelled("sad", "weary", None, "weary", "excited")
    kept, left_out = keep_labelled(utterances, TASK, "drop")
    assert [u.id for u in kept] == ["0", "4"]
    assert left_out == Counter({"weary": 2, "(no emotion)": 1})


def test_only_emotions_must_be_known() -> None:
    utterances = [Utterance(id=str(name), audio="-", gender=name) for name in ("female", "male", None)]
    gender = ClassTask(Category(), ClassLabels(("female", "male"), {}, "gender"))
    assert keep_labelled(utterances, gender, "error") == (utterances[:2], Counter({"(no gender)": 1}))


@pytest.mark.parametrize("others", ["error", "drop"])
def test_nothing_is_left_out_when_all_have_a_class(others: str) -> None:
    utterances = labelled("sad", "happy")
    assert keep_labelled(utterances, TASK, others) == (utterances, Counter())


def test_composed_and_decomposed_accents_are_one_class() -> None:
    composed, decomposed = "\u00e4rger", "A\u0308rger"
    utterances = [Utterance(id=word, audio="-", emotion=word) for word in (composed, decomposed, "freude")]
    found = class_labels_of(utterances, Labels())
    assert found.classes == ("freude", composed)
    assert found.label(utterances[1]) == composed
    assert class_labels_of(utterances, Labels(merge={decomposed: "anger"})).classes == ("anger", "freude")
    assert without_dropped(utterances, [decomposed]) == utterances[2:]


def test_spellings_of_a_class_are_one() -> None:
    words = ("Happy", "happy", "happy ", "SAD", "sad", "Angry")
    utterances = [Utterance(id=str(number), audio="-", emotion=word) for number, word in enumerate(words)]
    found = class_labels_of(utterances, Labels())
    assert found.classes == ("Angry", "happy", "sad")
    assert [found.label(u) for u in utterances] == ["happy", "happy", "happy", "sad", "sad", "Angry"]
    merged = class_labels_of(utterances, Labels(merge={"ANGRY": "cross"}))
    assert merged.classes == ("cross", "happy", "sad")
    assert merged.label(utterances[-1]) == "cross"
    with pytest.raises(RecipeError, match="a class is named twice"):
        class_labels_of(utterances, Labels(classes=("happy", "Happy", "sad")))
