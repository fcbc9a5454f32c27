"""Test scores of the other tasks, each by the model of the last stage that learned it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serein.data.files import write_text
from serein.evaluation.intervals import Bounds
from serein.evaluation.predictions import Prediction
from serein.evaluation.run_folder import read_recipe, read_run_predictions
from serein.evaluation.scores import score_predictions
from serein.evaluation.transcripts import score_transcripts

TRANSCRIPTS = "asr"
TASK_TITLES = {TRANSCRIPTS: "word error rate"}
_ORDER = ("emotion", "words", "gender", "asr", "style", "speaker")


@dataclass(frozen=True)
class TaskScore:
    """A task's score in per cent, pooled over folds, averaged over seeds.

    Attributes:
        name: What `value` is: unweighted accuracy ("UA"), or the word error rate of transcripts.
        interval: 95 % over speakers.
        stage: The stage whose model was evaluated; `None` for the last stage.
    """

    task: str
    name: str
    value: float
    interval: Bounds | None
    num_utterances: int
    stage: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        return asdict(self) | {"interval": self.interval and list(self.interval)}


def main_task(recipe: dict[str, Any]) -> str:
    """Return the main task of a run's recipe."""
    chosen = chosen_tasks(recipe)
    return chosen[0] if chosen else "emotion"


def chosen_tasks(recipe: dict[str, Any]) -> list[str]:
    """Return the tasks of a run's recipe, the main task first."""
    tasks = recipe.get("tasks") or {}
    return [name for name in _ORDER if tasks.get(name) is not None]


def task_scores(run: str | Path) -> list[TaskScore]:
    """Score every task of which a run folder has predictions, except the main task, unless that is `asr`.

    Raises:
        RunError: A file is broken.
    """
    run = Path(run)
    recipe = read_recipe(run)
    scores = []
    for number, name in enumerate(chosen_tasks(recipe)):
        if number == 0 and name != TRANSCRIPTS:
            continue
        predictions = read_run_predictions(run, kind="test" if number == 0 else name)
        if predictions:
            scores.append(score_task(name, predictions, _stage_of(recipe, name)))
    return scores


def write_task_scores(scores: Sequence[TaskScore], run: str | Path) -> dict[str, Any]:
    """Write ``scores.json`` of a run whose main task is `asr`, atomically, and return its content."""
    content = {"tasks": {score.task: score.to_json() for score in scores}}
    write_text(Path(run) / "scores.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return content


def score_task(name: str, predictions: Sequence[Prediction], stage: str | None = None) -> TaskScore:
    """Return one task's score."""
    if name == TRANSCRIPTS:
        asr = score_transcripts(predictions)
        return TaskScore(name, TASK_TITLES[name], asr.word_error_rate, asr.interval, asr.num_utterances, stage)
    scores = score_predictions(predictions)
    return TaskScore(name, "UA", scores.pooled["ua"], scores.intervals["ua"], scores.num_utterances, stage)


def _stage_of(recipe: dict[str, Any], task: str) -> str | None:
    """Return the last stage that learns a task, unless it is the last of all."""
    stages = recipe.get("stages") or []
    learning = [s for s in stages if s.get("tasks") is None or task in s["tasks"]]
    return None if not learning or learning[-1] is stages[-1] else str(learning[-1].get("name"))
