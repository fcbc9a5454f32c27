"""The recipes that are written for a corpus name its emotions as its parser does."""

from __future__ import annotations

from pathlib import Path

import pytest

from serein import recipe as recipes
from serein.corpora import CORPORA
from serein.corpora.corpus import Expected

RECIPES = Path(__file__).parents[2] / "recipes"
OF_CORPORA = [
    (path, name)
    for name in ("ravdess", "emodb", "nemo")
    for folder in (".", "ideas", "pretrained")
    for path in sorted((RECIPES / folder).glob(f"*{name}*.yaml"))
]


def test_there_are_some() -> None:
    assert {name for _, name in OF_CORPORA} == {"ravdess", "emodb", "nemo"}
    assert len(OF_CORPORA) > 12


@pytest.mark.parametrize(
    ("path", "name"), OF_CORPORA, ids=[path.relative_to(RECIPES).as_posix() for path, _ in OF_CORPORA]
)
def test_a_recipe_names_the_emotions_of_its_corpus(path: Path, name: str) -> None:
    expected, labels = CORPORA[name].expected, recipes.load(path).labels
    assert isinstance(expected, Expected)
    assert labels.classes
    assert set(labels.classes) <= {labels.merge.get(emotion, emotion) for emotion in expected.emotions}
