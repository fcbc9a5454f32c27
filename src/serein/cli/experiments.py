"""Commands that train and evaluate."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serein.cli.app import app
from serein.cli.options import Data, Json, Out, Overrides, SeenSpeakers, Task
from serein.cli.printing import finish, print_scores


class Attributes(StrEnum):
    """What a model is told of a clip beside its sound."""

    predicted = "predicted"
    oracle = "oracle"


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe (.yaml).")],
    data: Data,
    overrides: Overrides = None,
    task: Task = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder [runs/NAME-TIME].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Folds at once [as suits the model].", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Train, predict, score and report every fold and seed of a recipe."""
    from serein import recipe as recipes

    resolved = recipes.load(recipe, overrides or (), task=task)
    from serein import runs
    from serein.progress import Bars

    folder = out or runs.new_folder(resolved)

    with Bars() as bars:
        runs.run(resolved, data, folder, is_resumed=resume, num_jobs=jobs, report=bars)
    finish(folder, as_json)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe (.yaml).")],
    data: Data,
    out: Out,
    overrides: Overrides = None,
    task: Task = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped training.")] = False,
) -> None:
    """Train one model on a manifest's train and dev."""
    from serein import recipe as recipes

    resolved = recipes.load(recipe, overrides or (), task=task)
    from serein import runs
    from serein.progress import Bars

    with Bars() as bars:
        folder = runs.train(resolved, data, out, is_resumed=resume, report=bars)
    print(folder)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder or Hub name.")],
    data: Data,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the predictions (.jsonl).")] = None,
    seen_speakers: SeenSpeakers = False,
    attributes: Annotated[
        Attributes | None,
        typer.Option(help="What a conditioned model is told of gender and text [as the recipe says]."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a model on a manifest that it never saw."""
    from serein.evaluation.predictions import write_predictions
    from serein.judging import evaluate
    from serein.progress import Bars

    with Bars() as bars:
        predictions, scores = evaluate(
            model,
            data,
            seen_speakers="allow" if seen_speakers else "refuse",
            attributes=None if attributes is None else attributes.value,
            on_progress=lambda done, total: bars("hearing", done, total, f"{total} clips"),
        )
    if out is not None:
        write_predictions(predictions, out)
    print_scores(scores, as_json)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    as_json: Json = False,
) -> None:
    """Score a run folder again and write its report.html."""
    finish(run, as_json)
