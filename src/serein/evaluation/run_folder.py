"""Reading of run folders, with errors that name the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from serein.errors import RunError
from serein.evaluation.predictions import Prediction, natural_key, read_predictions


def read_recipe(run: Path) -> dict[str, Any]:
    """Read ``recipe.yaml`` of a run; empty when it is absent."""
    return _read(run / "recipe.yaml", yaml.safe_load, yaml.YAMLError)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty when the file is absent.

    Raises:
        RunError: The file is not a JSON object.
    """
    return _read(path, json.loads, json.JSONDecodeError)


def read_run_predictions(run: Path, classes: Sequence[str] | None = None, kind: str = "test") -> list[Prediction]:
    """Read the test predictions of every fold and seed of a run folder.

    Args:
        kind: `test`, `dev`, another task's name, or `predicted` or `oracle`: test predictions of a conditioned model
            with the other source of conditions than the recipe's.

    Raises:
        RunError: There are none, or one of the files is broken.
    """
    name = "predictions.jsonl" if kind == "test" else f"{kind}_predictions.jsonl"
    paths = sorted(run.glob(f"fold-*/seed-*/{name}"), key=natural_key)
    if not paths and kind == "test":
        raise RunError(
            "holds no predictions", where=run, remedy="Name a run folder whose training has finished a fold."
        )
    return [prediction for path in paths for prediction in _read_fold(path, classes)]


def run_classes(run: Path) -> tuple[str, ...] | None:
    """Return the classes of a run in the order of its recipe, else of its data; `None` if neither names them."""
    recipe = read_recipe(run)
    is_about_emotion = (recipe.get("tasks") or {"emotion": True}).get("emotion") is not None
    named = (recipe.get("labels") or {}).get("classes") if is_about_emotion else None
    classes = named or read_json(run / "data.json").get("classes")
    return tuple(str(name) for name in classes) if classes else None


def missing_predictions(run: Path, predictions: Sequence[Prediction]) -> list[str]:
    """Return a sentence for each fold and seed that lacks test predictions."""
    predicted: dict[tuple[str, int], set[str]] = {}
    for p in predictions:
        predicted.setdefault((p.fold, p.seed), set()).add(p.id)
    seeds = read_recipe(run).get("seeds") or sorted({p.seed for p in predictions})
    expected = {
        (str(fold["name"]), seed): set(map(str, fold["test"]))
        for fold in read_json(run / "folds.json").get("folds", ())
        for seed in (seeds if isinstance(seeds, list) else [seeds])
    }
    lacking = {key: len(ids - predicted.get(key, set())) for key, ids in expected.items()}
    return [
        f"Unfinished: fold {fold}, seed {seed} lacks {count} of {len(expected[fold, seed])} test predictions."
        for (fold, seed), count in lacking.items()
        if count
    ]


def _read_fold(path: Path, classes: Sequence[str] | None) -> list[Prediction]:
    fold, seed = path.parts[-3].removeprefix("fold-"), path.parts[-2].removeprefix("seed-")
    if not seed.isdecimal():
        raise RunError(f"seed '{seed}' is not a number", where=path, remedy="Name the folder seed-0, seed-1, ...")
    return read_predictions(path, classes, fold=fold, seed=int(seed))


def _read(path: Path, parse: Any, error: type[Exception]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (error, UnicodeDecodeError) as problem:
        raise RunError(f"cannot be read ({problem})", where=path, remedy="Start the run again.") from None
    if not isinstance(content, dict):
        raise RunError("holds no keys and values", where=path, remedy="Start the run again.")
    return content
