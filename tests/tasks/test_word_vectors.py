"""Votes: which words raters give an utterance, worked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from serein.corpora import CORPORA, msp_podcast, synth
from serein.corpora import iemocap as iemocap_files
from serein.corpora import msp_podcast as msp_podcast_tables
from serein.corpora.corpus import Expected
from serein.corpora.synth import COMMENTS, CONFUSIONS
from serein.data.manifest import Rating, Utterance
from serein.errors import RecipeError
from serein.tasks.classes import ClassLabels
from serein.tasks.word_vectors import LABEL_SETS, NOUNS, LabelSet, distinct_targets, first_and_second, target_words

FOUR = ClassLabels(("anger", "happiness", "sadness", "neutral"), {"excited": "happiness"})
KNOWN = {"bitter", "ironic", "teasing", "self-conscious", "heartbroken", "other"}


def rated(*ratings: Rating, emotion: str | None = "sadness") -> Utterance:
    return Utterance(id="a", audio="a.wav", emotion=emotion, ratings=ratings)


def words(utterance: Utterance, label_set: LabelSet) -> tuple[str, ...]:
    return target_words(utterance, FOUR, label_set, NOUNS, KNOWN)


def test_the_papers_example_is_a_third_of_the_way_from_sadness_to_anger() -> None:
    utterance = rated(Rating(labels=("anger",)), Rating(labels=("sadness",)), Rating(labels=("sadness",)))
    found = words(utterance, "s2")
    assert sorted(found) == ["anger", "sadness", "sadness"]
    vectors = {"anger": np.array([0.0, 3.0]), "sadness": np.array([3.0, 0.0])}
    assert np.mean([vectors[word] for word in found], axis=0).tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("emotion", "expected"),
    [("anger", ("anger",)), ("excited", ("happiness",)), ("frustration", ()), (None, ())],
)
def test_s1_is_the_class_after_the_merge(emotion: str | None, expected: tuple[str, ...]) -> None:
    assert words(rated(Rating(labels=("fear",)), emotion=emotion), "s1") == expected


def test_s1_is_a_noun() -> None:
    class_labels = ClassLabels(("angry", "happy"), {"excited": "happy"})
    assert target_words(rated(emotion="excited"), class_labels, "s1", NOUNS, ()) == ("happiness",)


def test_raters_labels_become_nouns_and_are_not_merged() -> None:
    utterance = rated(Rating(labels=("excited", "Happy")), Rating(labels=("excited",)), emotion="excited")
    assert words(utterance, "s2") == ("excitement", "happiness", "excitement")


def test_s2_keeps_how_often_and_leaves_out_other_and_self_evaluations() -> None:
    utterance = rated(
        Rating(labels=("sad", "sad", "other"), rater="C-E1"),
        Rating(labels=("Other",), rater="C-E2"),
        Rating(labels=("frustrated",), rater="C-E4"),
        Rating(labels=("neutral",), rater="C-F1"),
        Rating(labels=("neutral",), rater="C-M1"),
    )
    assert words(utterance, "s2") == ("sadness", "sadness", "frustration")


def test_a_label_without_a_noun_stays() -> None:
    assert words(rated(Rating(labels=("Wistful",))), "s2") == ("wistful",)


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        (None, ()),
        ("", ()),
        ("bitter", ("bitter",)),
        ("Bitter, IRONIC", ("bitter", "ironic")),
        ("bitter,bitter", ("bitter", "bitter")),
        ("\"ironic\", 'teasing' , “bitter”", ("ironic", "teasing", "bitter")),
        ("a bit bitter, teasing", ("teasing",)),
        ("bitter/ironic", ()),
        ("bitter (ironic)", ()),
        ("biter, ironik", ()),
        ("self-conscious", ("self-conscious",)),
        (", ,,", ()),
    ],
)
def test_s3_adds_comments_of_one_known_word(comment: str | None, expected: tuple[str, ...]) -> None:
    utterance = rated(Rating(labels=("anger",), comment=comment), Rating(labels=("sadness",)))
    assert words(utterance, "s2") == ("anger", "sadness")
    assert words(utterance, "s3") == ("anger", "sadness", *expected)


def test_a_comment_beside_other_counts_and_one_of_a_self_evaluation_does_not() -> None:
    utterance = rated(
        Rating(labels=("other",), comment="teasing", rater="C-E1"),
        Rating(labels=("anger",), comment="bitter", rater="C-M3"),
    )
    assert words(utterance, "s3") == ("teasing",)


def test_two_words_that_the_dictionary_holds_as_one_are_still_two() -> None:
    utterance = rated(Rating(labels=(), comment="fed up, and/or"))
    assert target_words(utterance, FOUR, "s3", NOUNS, {"fed up", "and/or"}) == ()


@pytest.mark.parametrize("label_set", get_args(LabelSet))
def test_who_was_not_rated_has_no_words(label_set: LabelSet) -> None:
    assert words(rated(emotion=None), label_set) == ()


def test_an_unknown_label_set_is_answered_with_the_known_ones() -> None:
    assert get_args(LabelSet) == LABEL_SETS
    with pytest.raises(RecipeError, match="unknown label set 's4', expected one of: s1, s2, s3"):
        words(rated(), "s4")  # type: ignore[arg-type]


def test_every_label_of_every_corpus_has_a_noun_and_nouns_stay() -> None:
    labels = {
        *(
            name
            for corpus in CORPORA.values()
            if isinstance(corpus.expected, Expected)
            for name in corpus.expected.emotions
        ),
        *iemocap_files.EMOTIONS.values(),
        *msp_podcast.EMOTIONS.values(),
        *msp_podcast_tables.SECONDARY,
        *synth.EMOTIONS,
        *(word for confused in CONFUSIONS.values() for word in confused),
    }
    assert labels - NOUNS.keys() == {"other"}
    assert all(NOUNS.get(noun, noun) == noun for noun in NOUNS.values())


# -- counting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([], 0),
        ([(), ()], 0),
        ([("a", "b"), ("b", "a")], 1),
        ([("a", "b"), ("a", "b", "b")], 2),
        ([("a",), ("a", "a", "a")], 1),
        ([("a", "b"), ("a", "b", "a", "b"), ("a", "a", "b", "b", "b")], 2),
    ],
)
def test_targets_differ_when_their_means_do(targets: list[tuple[str, ...]], expected: int) -> None:
    assert distinct_targets(targets) == expected


ORDER = ("sadness", "anger")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("anger",), ("anger", None, False)),
        (("anger", "anger"), ("anger", None, False)),
        (("anger", "sadness", "sadness"), ("sadness", "anger", False)),
        (("anger", "sadness"), ("sadness", "anger", True)),
        (("fear", "anger"), ("anger", "fear", True)),
        (("zeal", "fear"), ("fear", "zeal", True)),
        (("fear", "fear", "anger", "sadness"), ("fear", "sadness", True)),
        (("fear", "fear", "fear", "anger", "anger", "sadness", "zeal"), ("fear", "anger", False)),
    ],
)
def test_the_two_most_frequent_words(given: tuple[str, ...], expected: tuple[str, str | None, bool]) -> None:
    assert first_and_second(given, ORDER) == expected
    assert first_and_second(given[::-1], ORDER) == expected


def test_without_words_there_is_no_most_frequent_one() -> None:
    with pytest.raises(RecipeError, match="without words"):
        first_and_second(())


# -- the embedded corpus -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded() -> list[Utterance]:
    """The embedded corpus as its raters judge it, without its sound."""
    return [synth.utterance(clip, Path(f"{clip.id}.wav"), 0) for clip in synth.plan(0, 10)]


def test_three_raters_of_the_embedded_corpus_give_nouns_and_comments(embedded: list[Utterance]) -> None:
    class_labels = ClassLabels(synth.EMOTIONS, {})
    known = {word for comments in COMMENTS.values() for word in comments}
    sets = {name: [target_words(u, class_labels, name, NOUNS, known) for u in embedded] for name in get_args(LabelSet)}
    assert {words[0] for words in sets["s1"]} == {"anger", "happiness", "neutral", "sadness"}
    for utterance, s2, s3 in zip(embedded, sets["s2"], sets["s3"], strict=True):
        assert len(s2) == sum(len(rating.labels) for rating in utterance.ratings)
        assert s3 == s2 + tuple(rating.comment for rating in utterance.ratings)
    numbers = [distinct_targets(sets[name]) for name in LABEL_SETS]
    assert numbers[0] == 4
    assert numbers[0] < numbers[1] < numbers[2]


def test_without_a_dictionary_no_comment_counts(embedded: list[Utterance]) -> None:
    class_labels = ClassLabels(synth.EMOTIONS, {})
    for utterance in embedded[:20]:
        found = [target_words(utterance, class_labels, name, NOUNS, ()) for name in ("s2", "s3")]
        assert found[0] == found[1]
