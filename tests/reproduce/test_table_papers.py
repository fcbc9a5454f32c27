"""What the recipes of the papers take from the papers, letter by letter, and their other readings as rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serein import recipe as recipes
from serein.cli.reproduce import with_manifests
from serein.data import manifest
from serein.data.manifest import Utterance
from serein.reproduce.table import load
from serein.reproduce.trials import row_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def value(document: Any, key: str) -> Any:
    """Return what a dotted key leads to."""
    for part in key.split("."):
        document = document[int(part)] if isinstance(document, list | tuple) else document[part]
    return document


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        ("wang2023/recipe", "stages.0.optimizer.momentum", 0),
        ("wang2023/recipe", "stages.0.optimizer.weight_decay", 0),
        ("wang2023/recipe", "stages.0.schedule.monitor", "loss"),
        ("wang2023/recipe", "stages.0.schedule.patience", 20),
        ("wang2023/recipe", "stages.0.trainable", ["all"]),
        ("wang2023/recipe", "clips.max_s", 7.5),
        ("wang2023/recipe", "clips.crop_s", None),
        ("wang2023/recipe", "tasks.emotion.contrastive.reduction", "mean"),
        ("stanley2023/recipe", "protocol.dev", "random"),
        ("stanley2023/recipe", "protocol.dev_fraction", 0.2),
        ("stanley2023/recipe", "encoder.num_pooled", 2),
        ("stanley2023/recipe", "tasks.words.dropout_at", "hidden"),
        ("stanley2023/recipe", "stages.0.schedule.final_divisor", 10000),
        ("stanley2023/recipe", "stages.0.schedule.cycle_momentum", True),
        ("diatlova2024/baseline", "tasks.emotion.dropout_at", "hidden"),
        ("park2023/emotion", "clips.pad_mode", "repeat-whole"),
        ("park2023/emotion", "clips.min_s", 3),
        ("park2023/emotion", "protocol.dev", "speakers"),
        ("gao2023/recipe", "stages.0.batches.max_clips", 16),
        ("gao2023/recipe", "stages.0.batches.max_seconds", 560),  # 16 of IEMOCAP's longest clips, of 34.1 s
        ("gao2023/recipe", "stages.1.trainable", ["layers 5-12", "heads"]),
    ],
)
def test_recipes_are_as_printed(name: str, key: str, expected: Any) -> None:
    assert value(recipes.load(RECIPES / f"{name}.yaml").model_dump(mode="json", by_alias=True), key) == expected


@pytest.mark.parametrize(
    ("table", "row", "key", "expected"),
    [
        ("wang2023/table1", "s2-sum", "tasks.emotion.contrastive.reduction", "sum"),
        ("wang2023/table1", "s2-cnn-frozen", "stages.0.trainable", ["transformer", "heads"]),
        ("wang2023/table1", "s2-momentum", "stages.0.optimizer.momentum", 0.9),
        ("stanley2023/table1", "m1-lc-speakers", "protocol.dev", "speakers"),
        ("stanley2023/table1", "m1-lc-pooled", "encoder.num_pooled", 3),
        ("diatlova2024/table3", "attention", "tasks.emotion.pooling", "vector-attention"),
        ("diatlova2024/table3", "attentive-statistics", "tasks.emotion.pooling", "attention"),
        ("diatlova2024/table3", "std-free-layers", "tasks.emotion.layer", "weighted-free"),
        ("park2023/table6", "alone-arcface-k4-eight-speakers", "protocol.dev", "none"),
        ("gao2023/table1", "n12-eight-speakers", "protocol.dev", "none"),
        ("gao2023/table1", "n12-specaugment", "backbone.overrides.apply_spec_augment", True),
    ],
)
def test_another_reading_is_one_named_row(table: str, row: str, key: str, expected: Any) -> None:
    loaded = load(str(RECIPES / table.replace("/", "/tables/")) + ".yaml")
    (picked,) = loaded.picked([row])
    assert value(row_recipe(loaded, picked).model_dump(mode="json", by_alias=True), key) == expected


@pytest.mark.parametrize(
    ("table", "number"), [("stanley2023/table2", 4), ("wang2023/table4", 6), ("gao2023/table4", 6)]
)
def test_quoted_rows_have_scores_and_train_nothing(table: str, number: int) -> None:
    quoted = [row for row in load(str(RECIPES / table.replace("/", "/tables/")) + ".yaml").rows if row.quoted]
    assert len(quoted) == number
    assert all(row.published.ua is not None or row.published.wa is not None for row in quoted)


def test_the_words_that_stanley2023_prints() -> None:
    """Three models of four classes in Table 5, one target of S1 and S2 and two of S3 in Table 4; five words each."""
    numbers = {name: load(str(RECIPES / f"stanley2023/tables/{name}.yaml")).neighbours for name in ("table4", "table5")}
    assert {name: len(found) for name, found in numbers.items()} == {"table4": 4, "table5": 12}
    assert all(len(each.words) == 5 for found in numbers.values() for each in found)
    assert not load(str(RECIPES / "stanley2023/tables/table4.yaml")).is_trained


def test_a_table_of_the_embedded_corpus_is_not_measured_on_the_papers() -> None:
    """Its numbers are IEMOCAP's; `reproduce all --data IEMOCAP=...` must not train its recipe there."""
    tables = [load(name) for name in ("stanley2023/synth", "stanley2023/table1")]
    found = with_manifests(tables, ["IEMOCAP=a.jsonl"])
    assert [(table.name, str(path)) for table, path in found] == [(tables[1].name, "a.jsonl")]
    found = with_manifests(tables, ["synth=s.jsonl"])
    assert [table.name for table, _ in found] == [tables[0].name]


def test_a_lone_manifest_is_for_the_tables_of_its_corpora(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`reproduce diatlova2024 --data msp.jsonl` must not try the table of RAVDESS; of one table, any corpus may do."""
    tables = [load(name) for name in ("diatlova2024/ravdess", "diatlova2024/table3", "gao2023/table1")]
    found = {}
    for corpora in (("msp-podcast",), ("ravdess", "iemocap"), ("mine",)):
        path = tmp_path / "m.jsonl"
        manifest.write([Utterance(id=name, audio="a.wav", corpus=name) for name in corpora], path)
        found[corpora] = [table.corpus for table, _ in with_manifests(tables, [str(path)])]
        assert len(with_manifests(tables[:1], [str(path)])) == 1
    assert list(found.values()) == [["MSP-Podcast"], ["RAVDESS", "IEMOCAP"], ["RAVDESS", "MSP-Podcast", "IEMOCAP"]]
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2
    assert notes[0].endswith("diatlova2024-ravdess (RAVDESS), gao2023-table1 (IEMOCAP)")
