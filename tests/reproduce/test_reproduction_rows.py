"""Rows with kNN, and pictures of rows, through the command line on the corpus of tones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli_fixtures import Call, write_recipe
from serein.evaluation.predictions import read_predictions
from serein.evaluation.scores import score_predictions

ROWS: list[dict[str, Any]] = [
    {"name": "alone"},
    {"name": "knn", "knn": "dev"},
    {"name": "std", "set": {"tasks.emotion.pooling": "std"}},
    {"name": "oracle", "set": {"tasks.emotion.pooling": "std"}, "knn": "oracle", "against": "std"},
]
CONTENT = {"paper": "doe2020", "table": "figure1", "caption": "Who.", "corpus": "T", "published_on": "test"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("table") / "tiny.yaml", {}, {"epochs": 1})


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reproduced") / "out"


def write(recipe: Path, name: str, **changes: Any) -> Path:
    content = {**CONTENT, "base": recipe.name, "rows": ROWS, **changes}
    path = recipe.with_name(f"{name}.yaml")
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def reproduced(serein: Call, table: Path, data: Path, out: Path, *more: object) -> dict[str, Any]:
    call = ("reproduce", table, "--data", data, "--out", out, "--seeds", 1, "--jobs", 1, "--json", *more)
    outcome = serein(*call)
    assert outcome.status == 0, outcome.err
    content: dict[str, Any] = json.loads(outcome.out)
    return content


@pytest.mark.slow
def test_rows_with_neighbours_train_nothing_more(serein: Call, recipe: Path, tones: Path, out: Path) -> None:
    """Two configurations stand in four rows; each neighboured row has the score of its own predictions."""
    content = reproduced(serein, write(recipe, "t", picture={"name": "confusion"}), tones, out)
    alone, knn, std, oracle = content["rows"]
    assert (knn["runs"], oracle["runs"]) == (alone["runs"], std["runs"])
    assert len({tuple(row["runs"]) for row in content["rows"]}) == 2
    for row, name in ((knn, "knn"), (oracle, "knn_oracle")):
        folder = out / row["runs"][0]
        said = [p for path in folder.glob(f"fold-*/seed-0/{name}_predictions.jsonl") for p in read_predictions(path)]
        assert len({p.id for p in said}) == 36
        own = score_predictions(said, ["angry", "happy", "sad"]).pooled["macro_f1"]
        assert row["ours"]["macro_f1"] == pytest.approx(own)
    assert (knn["compared"]["row"], oracle["compared"]["row"], content["reference"]) == ("alone", "std", "alone")
    difference = oracle["ours"]["macro_f1"] - std["ours"]["macro_f1"]
    assert oracle["compared"]["difference"] == pytest.approx(difference)
    notes = " ".join(content["notes"])
    assert "'knn': k and kNN weight of each fold and seed chosen on dev: k " in notes
    assert "'oracle': k and kNN weight of each fold and seed chosen on the evaluated test sets themselves" in notes
    text = (out / "doe2020-figure1.md").read_text()
    assert "# doe2020, Figure 1:" in text
    assert "(to 'std')" in text
    assert f"![Who.]({content['picture']})" in text
    assert (out / content["picture"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_asked_once(serein: Call, recipe: Path, tones: Path, out: Path) -> None:
    table = write(recipe, "t", picture={"name": "confusion"})
    first = reproduced(serein, table, tones, out)
    asked = {path: path.stat().st_mtime_ns for path in out.rglob("knn*.json")}
    assert len(asked) == 2
    assert reproduced(serein, table, tones, out) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("knn*.json")} == asked


@pytest.mark.slow
@pytest.mark.parametrize(("name", "more"), [("embeddings", {}), ("sweep", {"x": "l"})])
def test_every_picture_is_drawn(
    name: str, more: dict[str, str], serein: Call, recipe: Path, tones: Path, out: Path
) -> None:
    rows = [{**row, "configuration": {"l": number}} for number, row in enumerate(ROWS)]
    table = write(recipe, name, picture={"name": name, **more}, table=name, rows=rows)
    content = reproduced(serein, table, tones, out)
    assert content["picture"] == f"doe2020-{name}.png"
    assert (out / content["picture"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": [{"name": "a", "against": "b"}]}, "row 'a' is compared with 'b', which is not another row"),
        ({"rows": [{"name": "a", "against": "a"}]}, "row 'a' is compared with 'a', which is not another row"),
        ({"picture": {"name": "sweep"}}, "'x' is required for a 'sweep', and allowed only there"),
        ({"picture": {"name": "sweep", "x": "l"}}, "row 'alone' has no 'l' in its configuration to draw it at"),
        ({"rows": [*ROWS, {"name": "f", "ensemble": True, "knn": "dev"}]}, "it cannot have recipe, set, knn"),
    ],
)
def test_tables_that_make_no_sense(changes: dict[str, Any], said: str, serein: Call, recipe: Path, tones: Path) -> None:
    outcome = serein("reproduce", write(recipe, "wrong", **changes), "--data", tones)
    assert (outcome.status, said in outcome.complaint) == (1, True), outcome.complaint


def test_knn_cannot_be_evaluated_on_dev(serein: Call, recipe: Path, tones: Path, tmp_path: Path) -> None:
    outcome = serein("reproduce", write(recipe, "t"), "--data", tones, "--out", tmp_path / "o", "--split", "dev")
    assert (outcome.status, "the rows knn, oracle use kNN" in outcome.complaint) == (1, True)
    assert not (tmp_path / "o").exists()
