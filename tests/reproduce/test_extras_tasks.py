"""Tables of every task and of gradient conflicts, from run folders written by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from serein.evaluation.predictions import EvalPrediction, write_predictions
from serein.metrics import concordance
from serein.reproduce.extras import conflict_table, task_table
from serein.reproduce.table import Published, Row
from serein.tasks.task import TaskSpec

SPECS = [
    TaskSpec("emotion", "emotion", "classes"),
    TaskSpec("gender", "gender", "classes"),
    TaskSpec("asr", "transcript", "sequence", monitor="word_accuracy"),
]
RECIPE: dict[str, Any] = {
    "tasks": {"emotion": {}, "gender": {}, "asr": {}},
    "stages": [{"name": "words", "tasks": ["asr", "gender"]}, {"name": "emotion", "tasks": ["emotion", "gender"]}],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three speakers; emotion half right, gender all right, one of four words wrong."""
    unit = tmp_path / "run" / "fold-1" / "seed-0"
    (unit / "0-words").mkdir(parents=True)
    (unit.parents[1] / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (unit.parents[1] / "data.json").write_text(json.dumps({"tasks": [asdict(spec) for spec in SPECS]}))
    said = {
        "predictions": [("happy", "happy"), ("sad", "happy"), ("sad", "sad"), ("happy", "sad")],
        "gender_predictions": [("female", "female"), ("male", "male"), ("male", "male"), ("female", "female")],
        "asr_predictions": [("go", "go"), ("go", "go"), ("stay", "say"), ("go", "go")],
    }
    for name, rows in said.items():
        lines = [
            json.dumps({"id": str(n), "truth": truth, "prediction": heard, "speaker": str(n % 3)}) + "\n"
            for n, (truth, heard) in enumerate(rows)
        ]
        (unit / f"{name}.jsonl").write_text("".join(lines))
    (unit / "0-words" / "metrics.jsonl").write_text(json.dumps({"epoch": 0, "cosine_asr_gender": -0.25}) + "\n")
    return tmp_path / "run"


def test_every_task_beside_what_was_published(run: Path) -> None:
    row = Row(name="a", label="ASR+gender, then SER", published=Published(ua=76.1, values={"wer": 22.8}))
    table = task_table([(row, [run]), (Row(name="b"), [])])
    assert table.headings == [
        "row",
        *(f"{title} {kind}" for title in ("UA", "WA", "UA gender", "WER") for kind in ("published", "ours")),
    ]
    ((title, ua_published, ua, wa_published, wa, gender_published, gender, wer_published, wer),) = table.rows
    assert (title, ua_published, wa_published, gender_published, wer_published) == (
        row.label,
        "76.10",
        "–",
        "–",
        "22.80",
    )
    assert ua.startswith("50.0 [")
    assert wa.startswith("50.0 [")
    assert gender == "100.0 [100.0, 100.0]"  # stage 2 learned it, too
    assert wer.startswith("25.0 [")
    assert wer.endswith("]*")  # stage 1 alone did


def test_numbers_keep_three_digits(run: Path) -> None:
    """They are no percentages: a CCC of 0.485 would be 0.5."""
    spec = TaskSpec("valence", "valence", "regression", monitor="ccc")
    (run / "data.json").write_text(json.dumps({"tasks": [asdict(each) for each in [SPECS[0], spec]]}))
    rows = [
        EvalPrediction(id=str(n), truth=str(n), prediction=str(n + n % 2 * 1.5), speaker=str(n % 3), fold="1")
        for n in range(4)
    ]
    write_predictions(rows, run / "fold-1" / "seed-0" / "valence_predictions.jsonl")
    table = task_table([(Row(name="a", published=Published(values={"ccc valence": 0.512})), [run])])
    (cells,) = table.rows
    found = concordance([float(p.truth or 0) for p in rows], [p.value for p in rows])
    assert table.headings[-2:] == ["CCC valence published", "CCC valence ours"]
    assert cells[-2] == "0.512"
    assert cells[-1].startswith(f"{found:.3f} [")


def test_conflicts(run: Path) -> None:
    table = conflict_table([(Row(name="a"), [run, run]), (Row(name="b"), [])])  # two seeds share a line
    assert table.rows == [["a", "words", "asr and gender", "−0.250", "100 %"]]
