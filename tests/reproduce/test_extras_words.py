"""Cosines, neighbours and first labels of models of words, by hand and through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from cli_fixtures import Call, write_recipe
from serein import recipe as recipes
from serein.data import manifest
from serein.data.manifest import Rating, Utterance
from serein.reproduce.extras import WORD_MEASURES, WordRun, cosine_table, prediction_neighbours, top_table
from serein.reproduce.table import Published, Row
from serein.tasks.classes import ClassLabels
from serein.text.word_vectors import prepare

VECTORS = {
    "anger": [1.0, 0.0, 0.0],
    "sadness": [0.0, 1.0, 0.0],
    "happiness": [0.0, 0.0, 1.0],
    "fury": [0.9, 0.1, 0.0],
    "gloom": [0.1, 0.9, 0.0],
    **{f"filler{letter}": [-1.0, -1.0, 0.1 * number] for number, letter in enumerate("abcdefgh")},
}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    text = "".join(f"{word} {' '.join(map(str, vector))}\n" for word, vector in VECTORS.items())
    (folder / "tiny.txt").write_text(text)
    prepare(folder / "tiny.txt", folder / "tiny")
    return folder / "tiny"


def utterance(number: int, emotion: str, *labels: str) -> Utterance:
    ratings = tuple(Rating(labels=(label,)) for label in labels)
    return Utterance(id=str(number), audio="a.wav", emotion=emotion, speaker=str(number), ratings=ratings)


@pytest.fixture
def run(vocabulary: Path) -> WordRun:
    said = [
        utterance(0, "angry", "angry", "angry", "sad"),
        utterance(1, "sad", "sad", "sad", "sad"),
        utterance(2, "happy", "happy", "happy", "angry"),
    ]
    recipe = recipes.validate(
        {"name": "r", "tasks": {"emotion": None, "words": {}}, "words": {"vocabulary": str(vocabulary)}}, where="r"
    )
    row = Row(name="m", published=Published(values={"s1": 0.5, "s2 l1": 70}))
    vectors = np.array([[2.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], np.float32)
    return WordRun(recipe, ClassLabels(("angry", "happy", "sad"), {}), said, row, vectors)


def test_mean_cosines_by_hand(run: WordRun) -> None:
    """S1: cosines 1, 0, 1. S2: (2, 1, 0) and (1, 0, 0) have 2 / sqrt(5), as have (1, 0, 2) and (0, 0, 1)."""
    title, published, ours, *others = cosine_table([run]).rows[0]
    assert cosine_table([run]).title.endswith("different targets: S1 3, S2 3, S3 3")
    assert (title, published) == ("m", "0.500")
    assert ours.startswith("0.667 [")
    assert others[1].startswith(f"{(2 * 2 / np.sqrt(5)) / 3:.3f} [")


def test_first_and_second_labels_by_hand(run: WordRun) -> None:
    """13 words, the ten nearest of which hold every emotion: all first and second labels are met."""
    headings, cells = top_table([run]).headings, top_table([run]).rows[0]
    assert headings[1:5] == ["S2 L1 published", "S2 L1 ours", "S2 L2 published", "S2 L2 ours"]
    assert cells[1] == "70.00"
    assert cells[2].startswith("100.0")
    assert cells[4].startswith("100.0")  # the second utterance has one word only, and is left out


def test_words_near_the_mean_prediction(run: WordRun) -> None:
    rows = {cells[1]: cells[2:] for cells in prediction_neighbours([run]).rows}
    assert rows["angry"][:2] == ["anger", "fury"]
    assert rows["sad"][0] == "anger"
    assert rows["happy"][0] == "happiness"


@pytest.mark.slow
def test_a_table_with_every_measure(vocabulary: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    def with_ratings(u: Utterance) -> Utterance:
        other = "sad" if u.emotion != "sad" else "angry"
        ratings = (*(Rating(labels=(u.emotion or "",)) for _ in range(2)), Rating(labels=(other,), comment="gloom"))
        return u.model_copy(update={"ratings": ratings})

    manifest.write(map(with_ratings, manifest.read(tones)), tmp_path / "m.jsonl")
    tasks = {"emotion": None, "words": {"pooling": "mean"}}
    write_recipe(tmp_path / "r.yaml", {"tasks": tasks, "words": {"vocabulary": str(vocabulary)}}, {"epochs": 1})
    rows = [
        {"name": "m1", "published": {"values": {"s1": 0.789}}},
        {"name": "m3", "set": {"tasks.words.targets": "s3"}},
    ]
    content = {"paper": "doe2020", "table": 3, "caption": "Words.", "corpus": "TalkShow", "published_on": "test"}
    table = {**content, "base": "r.yaml", "metric": "ua", "measures": list(WORD_MEASURES), "rows": rows}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(table))
    out = tmp_path / "out"
    arguments = ("reproduce", tmp_path / "t.yaml", "--data", tmp_path / "m.jsonl", "--out", out, "--seeds", 1)
    outcome = serein(*arguments, "--jobs", 1, "--json")
    assert outcome.status == 0, outcome.err
    further = {extra["title"].split(",")[0].split(";")[0]: extra for extra in json.loads(outcome.out)["further"]}
    assert len(further) == len(WORD_MEASURES)
    assert [row[0] for row in further["Mean cosine of predictions and targets"]["rows"]] == ["m1", "m3"]
    markdown = (out / "doe2020-table3.md").read_text()
    assert all(f"## {extra['title']}" in markdown for extra in further.values())
    assert {row[0] for row in further["Words nearest to targets"]["rows"]} == {"s1", "s2", "s3"}


@pytest.mark.slow
def test_a_table_of_targets_trains_no_model(vocabulary: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    """Table 4 of stanley2023 needs the labels and the vocabulary alone."""
    tasks = {"emotion": None, "words": {"pooling": "mean"}}
    write_recipe(tmp_path / "r.yaml", {"tasks": tasks, "words": {"vocabulary": str(vocabulary)}}, {"epochs": 1})
    content = {"paper": "doe2020", "table": 4, "caption": "Words.", "corpus": "TalkShow", "published_on": "test"}
    rows = [{"name": "targets", "targets_only": True}]
    labels = ("anger, happiness", "anger, unheard-of")
    printed = [{"of": of, "label": label, "words": ["rage"]} for label in labels for of in ("S2", "M1")]
    table = {**content, "base": "r.yaml", "measures": ["target-neighbours"], "neighbours": printed, "rows": rows}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(table))
    out = tmp_path / "out"
    call = ("reproduce", tmp_path / "t.yaml", "--data", tones, "--out", out)
    outcome = serein(*call, "--json")
    assert outcome.status == 0, outcome.err
    _, further = json.loads(outcome.out)["further"]
    assert ["s1", "anger", "anger", "fury"] in [row[:4] for row in further["rows"]]
    (row,) = (row for row in further["rows"] if "printed" in row[0])  # the other label has a word without a vector
    assert row[:2] == ["S2, as printed", "anger, happiness"]
    assert {"anger", "happiness"} <= set(row[2:])
    assert not list(out.glob("*/recipe.yaml"))
    assert "| set | label |" in (out / "doe2020-table4.md").read_text()
    (plan,) = json.loads(serein(*call, "--plan", "--json").out)
    assert (plan["num_runs"], plan["hours"]) == (0, 0)


def test_an_unknown_measure_names_the_known(tmp_path: Path, tones: Path, serein: Call) -> None:
    write_recipe(tmp_path / "r.yaml")
    content = {"paper": "d", "table": 3, "caption": "W.", "corpus": "T", "published_on": "test", "base": "r.yaml"}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({**content, "measures": ["cosines"], "rows": [{"name": "a"}]}))
    outcome = serein("reproduce", tmp_path / "t.yaml", "--data", tones, "--out", tmp_path / "out")
    assert outcome.status == 1
    assert "'cosine'" in outcome.complaint
