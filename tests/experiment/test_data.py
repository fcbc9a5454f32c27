"""The data of an experiment: what raters agree on, and notes on the classes, both in the recipe's classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli_fixtures import TINY, merged
from serein import recipe as recipes
from serein.data import manifest
from serein.data.manifest import Rating, Utterance
from serein.data.splits import Fold, Folds
from serein.errors import ManifestError, RecipeError
from serein.experiment.data import prepare, with_agreement
from serein.recipe import Category, Labels
from serein.tasks.classes import ClassLabels, ClassTask

CLASSES = ClassLabels(("happy", "sad"), {"excited": "happy"})


def rated(name: str, emotion: str | None, *labels: str) -> Utterance:
    return Utterance(id=name, audio="-", emotion=emotion, ratings=tuple(Rating(labels=(each,)) for each in labels))


def agreed(least: float, *utterances: Utterance, **labels: Any) -> tuple[str, ...]:
    """Return the ids of those utterances that are learned."""
    folds = Folds("train", (Fold("1", tuple(u.id for u in utterances), (), ()),), True, False)
    main = ClassTask(Category(), CLASSES, Labels(**labels))
    return with_agreement(utterances, folds, main, least).folds[0].train


def test_raters_agree_if_they_name_the_same_class() -> None:
    utterances = [
        rated("spelling", "happy", "Happy ", "HAPPY"),
        rated("merged", "excited", "happy", "excited", "happy"),
        rated("both", "sad", "sad", "happy"),
        rated("another", "sad", "sad", "bored"),  # who chose no class disagrees as well
    ]
    assert agreed(0.9, *utterances) == ("spelling", "merged")
    assert agreed(0.5, *utterances) == ("spelling", "merged", "both", "another")


def test_raters_may_give_the_class() -> None:
    utterances = [rated("a", None, "sad", "sad", "sad"), rated("b", "sad", "happy", "excited", "happy", "sad")]
    assert agreed(0.75, *utterances, consensus="raters") == ("a", "b")
    assert agreed(0.8, *utterances, consensus="raters") == ("a",)


def test_a_training_set_on_which_nobody_agrees_is_named() -> None:
    with pytest.raises(RecipeError, match="90% of the raters agree on no training utterance of fold 1. Lower it"):
        agreed(0.9, rated("a", "sad", "sad", "happy"))


def test_notes_are_about_classes_not_labels(tones: Path, tmp_path: Path) -> None:
    utterances = manifest.read(tones)
    renamed = {"anna-happy-0": "excited", "ben-happy-0": "Joy"}
    data = tmp_path / "m.jsonl"
    manifest.write([u.model_copy(update={"emotion": renamed.get(u.id, u.emotion)}) for u in utterances], data)
    merge = {"excited": "happy", "joy": "happy"}
    changes = {"labels": {"merge": merge}, "protocol": {"name": "leave-one-speaker-out"}}
    made = recipes.validate(merged(TINY, changes), where="test")
    notes = prepare(made, data, lambda *_: None).folds.notes
    assert not [note for note in notes if "Only one clip" in note or "without any training examples" in note]
    manifest.write([u for u in utterances if u.speaker != "anna" or u.emotion != "angry"], data)
    made = recipes.validate(merged(TINY, {"labels": {"merge": {"sad": "happy"}}}), where="test")
    notes = prepare(made, data, lambda *_: None).folds.notes
    assert "1 of 6 speakers have only one class (tones/anna): a model may learn the voice instead." in notes


def test_clips_without_a_speaker_are_left_out_of_folds_of_genders(tones: Path, tmp_path: Path) -> None:
    """Folds of emotions refuse them; with genders, `corpus annotate` predicts them afterwards."""
    own = [u.model_copy(update={"speaker": None} if n < 2 else {}) for n, u in enumerate(manifest.read(tones))]
    manifest.write(own, tmp_path / "some.jsonl")
    genders = merged(TINY, {"tasks": {"emotion": None, "gender": {"pooling": "mean"}}})
    made = recipes.validate(genders, where="test")
    experiment = prepare(made, tmp_path / "some.jsonl", lambda *_: None)
    assert experiment.left_out == {"(no speaker)": 2}
    assert not [note for note in experiment.folds.notes if "have only one class" in note]  # each has one
    assert {u.id for u in own[2:]} == {name for fold in experiment.folds.folds for name in fold.test}
    with pytest.raises(ManifestError, match="2 utterances have no speaker"):
        prepare(recipes.validate(TINY, where="test"), tmp_path / "some.jsonl", lambda *_: None)


def test_labels_of_the_recipe_that_the_data_lacks_are_noted(tones: Path, tmp_path: Path) -> None:
    first, *others = manifest.read(tones)
    data = tmp_path / "m.jsonl"
    manifest.write([first.model_copy(update={"ratings": (Rating(labels=("Bored",)),)}), *others], data)
    labels = {"merge": {"hapy": "joy", "SAD": "joy", "bored": "joy"}, "drop": ["angri"]}
    made = recipes.validate(merged(TINY, {"labels": labels}), where="test")
    notes = prepare(made, data, lambda *_: None).folds.notes
    assert [note for note in notes if "labelled" in note] == [
        "No utterance is labelled hapy, which labels.merge contains.",
        "No utterance is labelled angri, which labels.drop contains.",
    ]
