"""Commands that train and evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from serein.cli.app import app
from serein.cli.options import AllowSeenSpeakers, Data, Json, Model, Out, Overrides, Task, finish, print_scores


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe (.yaml).")],
    data: Data,
    overrides: Overrides = None,
    task: Task = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder.", show_default="runs/NAME-TIME")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped run.")] = False,
    folds: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME", help="Train these folds only; --resume can train others.", show_default="all"
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Folds to train in parallel.", show_default="by the size of the model", min=1)
    ] = None,
    as_json: Json = False,
) -> None:
    """Train, predict, score and report every fold and seed of a recipe."""
    from serein import recipe as recipes

    resolved = recipes.load(recipe, overrides or (), task=task)
    from serein.experiment import run as runs
    from serein.progress import Bars

    folder = out or runs.new_folder(resolved)

    with Bars() as bars:
        names = None if folds is None else [name.strip() for name in folds.split(",") if name.strip()]
        runs.run(resolved, data, folder, resume=resume, folds=names, num_jobs=jobs, progress=bars)
    finish(folder, as_json)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe (.yaml).")],
    data: Data,
    out: Out,
    overrides: Overrides = None,
    task: Task = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped training.")] = False,
) -> None:
    """Train one model on the train and dev sets of a manifest."""
    from serein import recipe as recipes

    resolved = recipes.load(recipe, overrides or (), task=task)
    from serein.experiment import run as runs
    from serein.progress import Bars

    with Bars() as bars:
        folder = runs.train(resolved, data, out, resume=resume, progress=bars)
    print(folder)


@app.command()
def evaluate(
    model: Model,
    data: Data,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the predictions (.jsonl).")] = None,
    allow_seen_speakers: AllowSeenSpeakers = False,
    conditions: Annotated[
        Literal["predicted", "oracle"] | None,
        typer.Option(help="Source of a conditioned model's gender and text.", show_default="the recipe's"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on a manifest that it was not trained on."""
    from serein.evaluation.predictions import write_predictions
    from serein.experiment.predict import evaluate
    from serein.progress import Bars

    with Bars() as bars:
        predictions, scores = evaluate(
            model,
            data,
            allow_seen_speakers=allow_seen_speakers,
            conditions=conditions,
            on_progress=lambda done, total: bars("predicting", done, total, f"{total} clips"),
        )
    if out is not None:
        write_predictions(predictions, out)
    print_scores(scores, as_json)


@app.command()
def merge(model: Model, out: Out) -> None:
    """Merge a model's LoRA adapter into its backbone: a folder that holds all weights and needs no peft."""
    from serein import checkpoint
    from serein.inference.predictor import model_folder

    checkpoint.merge(checkpoint.load(model_folder(model)), out)
    print(out)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    as_json: Json = False,
) -> None:
    """Score a finished run again and write its report.html."""
    finish(run, as_json)
