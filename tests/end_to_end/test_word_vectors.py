"""Word vectors as targets, from training to free labels at prediction time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import serein as public
from cli_fixtures import Call, write_recipe
from serein.data import manifest
from serein.data.manifest import Rating, Utterance
from serein.errors import VocabularyError
from serein.recipe import Nouns, Recipe, Words
from serein.tasks.classes import ClassLabels
from serein.tasks.word_vectors import NOUNS as NOUN_OF
from serein.tasks.word_vectors import WordClasses, WordVectorTask, mean_cosine, mean_vectors, word_classes
from serein.text.word_vectors import open_vocabulary, prepare

VECTORS = {
    "anger": [1.0, 0.0, 0.0, 0.1],
    "sadness": [0.0, 1.0, 0.0, 0.1],
    "happiness": [0.0, 0.0, 1.0, 0.1],
    "fury": [0.9, 0.1, 0.0, 0.0],
    "gloom": [0.1, 0.9, 0.0, 0.0],
    "joy": [0.0, 0.0, 0.9, 0.2],
    "tender": [0.0, 0.5, 0.5, 0.0],
}
NOUNS = ("anger", "happiness", "sadness")
CATEGORIES = ClassLabels(("angry", "happy", "sad"), {})


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    text = "".join(f"{word} {' '.join(map(str, vector))}\n" for word, vector in VECTORS.items())
    (folder / "tiny.txt").write_text(text)
    prepare(folder / "tiny.txt", folder / "tiny")
    return folder / "tiny"


def task_of(options: Words, nouns: Nouns) -> WordVectorTask:
    opened = open_vocabulary(nouns.vocabulary)
    return WordVectorTask(options, word_classes(CATEGORIES, opened, dict(NOUN_OF), nouns.vocabulary), nouns)


def rated(*labels: str, comment: str | None = None) -> Utterance:
    ratings = tuple(Rating(labels=(label,), comment=comment) for label in labels)
    return Utterance(id="a", audio="a.wav", emotion="sad", ratings=ratings)


def test_anger_and_twice_sadness_lie_a_third_of_the_way_from_sadness(vocabulary: Path) -> None:
    """Section 3.2's example."""
    opened = open_vocabulary(vocabulary)
    mean = mean_vectors([("anger", "sadness", "sadness"), ()], opened)
    anger, sadness = np.array(VECTORS["anger"]), np.array(VECTORS["sadness"])
    np.testing.assert_allclose(mean[0], sadness + (anger - sadness) / 3, atol=1e-6)
    assert not mean[1].any()


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ("s1", ["sadness"]),
        ("s2", ["anger", "sadness", "sadness"]),
        ("s3", ["anger", "sadness", "sadness"] + ["gloom"] * 3),
    ],
)
def test_targets_are_the_mean_of_a_label_sets_words(vocabulary: Path, targets: str, words: list[str]) -> None:
    task = task_of(Words(targets=targets), Nouns(vocabulary=str(vocabulary), scale="none"))
    values = task.targets([rated("angry", "sad", "sad", comment="gloom, quite unsure")]).values[0]
    np.testing.assert_allclose(values[:4], np.mean([VECTORS[word] for word in words], axis=0), atol=1e-6)
    assert values[4:].tolist() == [0.0, 0.0, 1.0]


def fitted(words: dict[str, object], options: Words, *utterances: Utterance) -> WordVectorTask:
    return WordVectorTask.fit("words", options, Recipe.model_validate({"name": "r", "words": words}), utterances)


@pytest.mark.parametrize("nouns", [{}, {"FURIOUS": "fury"}, {"furious": "fury"}])
def test_a_class_has_the_vector_of_its_targets_whatever_its_case(vocabulary: Path, nouns: dict[str, str]) -> None:
    utterances = [Utterance(id=name, audio="a.wav", emotion=name) for name in ("Sad ", "Furious" if nouns else "Angry")]
    task = fitted({"vocabulary": str(vocabulary), "nouns": nouns, "scale": "none"}, Words(), *utterances)
    vectors = {u.emotion: row for u, row in zip(utterances, task.targets(utterances).values[:, :4], strict=True)}
    for name, vector in zip(task.spec.classes, task.word_classes.vectors, strict=True):
        np.testing.assert_array_equal(vectors[name], vector)


def test_a_saved_task_keeps_the_nouns_and_the_scale(vocabulary: Path) -> None:
    utterances = [Utterance(id=name, audio="a.wav", emotion=name) for name in ("rage", "sad")]
    words = {"vocabulary": str(vocabulary), "nouns": {"Rage": "anger"}, "scale": "none"}
    task = fitted(words, Words(), *utterances)
    saved = WordVectorTask.from_json("words", Words(), json.loads(json.dumps(task.to_json())))
    np.testing.assert_array_equal(saved.targets(utterances).values, task.targets(utterances).values)
    assert saved.targets(utterances).values[0, 0] == 1.0


def test_labels_of_raters(vocabulary: Path) -> None:
    """An empty one is none, several words are the mean of their vectors, and one without a vector is named."""
    task = task_of(Words(targets="s2"), Nouns(vocabulary=str(vocabulary), scale="none"))
    known = task.targets([rated("", " ", "tender joy"), rated("")])
    np.testing.assert_allclose(known.values[0, :4], np.mean([VECTORS["tender"], VECTORS["joy"]], axis=0), atol=1e-6)
    assert known.is_known.tolist() == [True, False]
    with pytest.raises(VocabularyError) as error:
        task.targets([rated("sad", "aggravated"), rated("Aggravated").model_copy(update={"id": "b"}), rated("xqzzy")])
    assert error.value.what.startswith("the raters' label 'aggravated' of 2 utterances, such as a, is represented by '")
    assert "words.nouns: {aggravated: NOUN}" in str(error.value)
    others = [Utterance(id=name, audio="a.wav", emotion=name) for name in ("bored", "sad")]
    with pytest.raises(VocabularyError, match="the class 'bored' is represented by 'boredom'.* {bored: NOUN}"):
        fitted({"vocabulary": str(vocabulary)}, Words(), *others)


def test_scaled_targets_have_a_root_mean_square_of_one_over_the_classes(vocabulary: Path) -> None:
    task = task_of(Words(), Nouns(vocabulary=str(vocabulary)))
    utterances = [Utterance(id=name, audio="a.wav", emotion=name) for name in CATEGORIES.classes]
    targets = task.targets(utterances).values[:, :4]
    assert np.sqrt(np.mean(targets**2)) == pytest.approx(1.0)
    assert np.allclose(targets / targets[0, 0], task.word_classes.vectors / task.word_classes.vectors[0, 0])


def test_scores_follow_from_the_nearest_class(vocabulary: Path) -> None:
    task = task_of(Words(), Nouns(vocabulary=str(vocabulary)))
    utterances = [Utterance(id=name, audio="a.wav", emotion=name) for name in CATEGORIES.classes]
    truth = torch.from_numpy(task.targets(utterances).values)
    right = truth[:, :4] * torch.tensor([[5.0], [0.1], [1.0]])  # a cosine does not see lengths
    assert task.scores(truth, right)["ua"] == 1.0
    assert task.scores(truth, right)["cosine"] == pytest.approx(1.0)
    assert task.scores(truth, right[[1, 1, 2]])["ua"] == pytest.approx(2 / 3)
    assert task.loss(truth, truth[:, :4]).item() == pytest.approx(0.0, abs=1e-6)


def test_probabilities_have_their_largest_at_the_largest_cosine() -> None:
    rng = np.random.default_rng(0)
    classes = WordClasses(CATEGORIES, NOUNS, rng.standard_normal((3, 5)).astype(np.float32))
    vectors = rng.standard_normal((50, 5))
    probabilities = classes.probabilities(vectors)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    lengths = np.linalg.norm(vectors, axis=1)[:, None] * np.linalg.norm(classes.vectors, axis=1)
    assert (probabilities.argmax(axis=1) == (vectors @ classes.vectors.T / lengths).argmax(axis=1)).all()
    assert mean_cosine(vectors, -2 * vectors) == pytest.approx(-1.0)


@pytest.fixture(scope="module")
def word_run(tones: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from serein import recipe as recipes
    from serein.experiment import run as runs

    folder = tmp_path_factory.mktemp("run")
    words = {"emotion": None, "words": {"pooling": "mean", "loss": "mse"}}
    recipe = write_recipe(folder / "r.yaml", {"tasks": words, "words": {"vocabulary": str(vocabulary)}}, {"epochs": 12})
    loaded = recipes.load(recipe)
    runs.run(loaded, tones, folder / "run", resume=False, num_jobs=1, progress=lambda *_: None)
    return folder / "run"


def test_a_model_of_words_learns_and_keeps_its_vectors(word_run: Path, tones: Path, serein: Call) -> None:
    outcome = serein("report", word_run, "--json")
    assert json.loads(outcome.out)["pooled"]["ua"] > 60  # chance is 33
    unit = word_run / "fold-1" / "seed-0"
    assert load_file(unit / "embeddings.safetensors")["embeddings"].shape[1] == 4
    labels = json.loads((unit / "model" / "labels.json").read_text())["words"]
    assert labels["nouns"] == list(NOUNS)
    np.testing.assert_allclose(labels["vectors"], [VECTORS[noun] for noun in NOUNS], atol=1e-6)
    lines = [json.loads(line) for line in (unit / "0-emotion" / "metrics.jsonl").read_text().splitlines()]
    assert all({"dev_ua", "dev_cosine", "dev_loss"} <= line.keys() for line in lines)


def test_any_words_answer_without_training(word_run: Path, tones: Path, serein: Call) -> None:
    model = word_run / "fold-1" / "seed-0" / "model"
    clip = manifest.read(tones)[0].audio
    plain = json.loads(serein("predict", "--model", model, clip, "--segments", "never", "--json").out)
    assert set(plain["probabilities"]) == {"angry", "happy", "sad"}
    free = json.loads(
        serein("predict", "--model", model, clip, "--segments", "never", "--json", "--labels", "fury, gloom,joy").out
    )
    assert list(free["probabilities"]) == ["fury", "gloom", "joy"]
    near = {"fury": "angry", "gloom": "sad", "joy": "happy"}
    assert near[free["label"]] == plain["label"]
    assert public.load(model).predict(clip, labels=["fury", "gloom", "joy"], segments="never").label == free["label"]
    phrase = json.loads(
        serein("predict", "--model", model, clip, "--segments", "never", "--json", "--labels", "tender gloom,fury").out
    )
    assert list(phrase["probabilities"]) == ["tender gloom", "fury"]


def test_a_word_without_a_vector_lists_the_nearest_spellings(word_run: Path, tones: Path, serein: Call) -> None:
    model = word_run / "fold-1" / "seed-0" / "model"
    clip = manifest.read(tones)[0].audio
    outcome = serein("predict", "--model", model, clip, "--labels", "furi,joy")
    assert outcome.status == 1
    assert "furi" in outcome.complaint
    assert "fury" in outcome.complaint
    assert "two or more" in serein("predict", "--model", model, clip, "--labels", "joy").complaint


def test_a_model_of_classes_refuses_other_labels(tiny_run: Path, tones: Path, serein: Call) -> None:
    model = tiny_run / "fold-1" / "seed-0" / "model"
    outcome = serein("predict", "--model", model, manifest.read(tones)[0].audio, "--labels", "joy,fury")
    assert "has the fixed classes angry, happy, sad" in outcome.complaint
