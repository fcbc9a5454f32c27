"""Commands that train, evaluate, compare and combine models, also under other conditions and on other corpora."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from serein.cli.app import (
    AllowSeenSpeakers,
    Classes,
    Data,
    Device,
    Json,
    LabelMapFile,
    Model,
    MovedBackbone,
    Out,
    Overrides,
    Prior,
    Split,
    Task,
    app,
    finish,
    not_a_table,
    points_of,
    print_json,
    print_scores,
    print_tables,
    priors_of,
)
from serein.errors import RecipeError

if TYPE_CHECKING:
    from serein.recipe import Recipe

_SPLITS = {"test": "test predictions", "dev": "dev predictions"}
_FITTED_BY = {
    "dev": "each fold's weights were fitted to its dev predictions and are evaluated on its test set",
    "nested folds": "each fold's weights were fitted to the predictions of the other folds (nested folds)",
    "nested speakers": "each part's weights were fitted to the predictions for other speakers (nested folds)",
    "nested utterances": "each part's weights were fitted to the predictions for other utterances (nested folds)",
    "none": "nothing is fitted",
    "file": "the weights come from the file; nothing is fitted",
}


@app.command()
def ensemble(
    systems: Annotated[
        list[Path], typer.Argument(metavar="RUN|PREDICTIONS...", help="Run folders, or prediction files (.jsonl).")
    ],
    method: Annotated[
        str,
        typer.Option(metavar="cobyla|mean|FILE", help="Fit the weights, use equal weights, or read them from a file."),
    ] = "cobyla",
    split: Annotated[Split, typer.Option(help="Which predictions to evaluate.")] = "test",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write an ensemble file (.json) for serein predict --ensemble.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random starts and of the folds over speakers.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Combine several systems with one weight per system and class, and evaluate the ensemble and each system."""
    from rich.table import Table
    from rich.text import Text

    from serein.ensemble import evaluation as fusing
    from serein.ensemble.predictor import write_ensemble
    from serein.evaluation.tables import number
    from serein.progress import Bars

    with Bars() as bars:
        found = fusing.fit_ensemble(systems, method=method, split=split, seed=seed, report=bars)
    if out is not None:
        write_ensemble(found.ensemble, out)
    if as_json:
        print_json(found.to_json())
    else:
        scores = Table(title="Scores in per cent; each class: F1")
        scores.add_column("system", overflow="fold")
        for name in ("macro-F1", "UA", "WA", *found.ensemble.classes):
            scores.add_column(Text(name), justify="right")
        values = [(row, [row.macro_f1, row.ua, row.wa, *row.f1.values()]) for row in found.rows]
        rivals = [own for row, own in values if row.kind != "in sample"]
        best = [max((v for v in column if v is not None), default=0.0) for column in zip(*rivals, strict=True)]
        num_systems = sum(row.kind == "system" for row in found.rows)
        for place, (row, own) in enumerate(values, start=1):
            is_rival = row.kind != "in sample"
            cells = [
                Text(number(value), "bold" if is_rival and value == most else "")
                for value, most in zip(own, best, strict=True)
            ]
            style = None if is_rival else "dim"
            scores.add_row(Text(row.label), *cells, end_section=place == num_systems, style=style)
        weights = Table(title="Weights")
        weights.add_column("system", overflow="fold")
        for name in found.ensemble.classes:
            weights.add_column(Text(name), justify="right")
        for model, each in zip(found.ensemble.models, found.ensemble.weights, strict=True):
            weights.add_row(Text(model.label), *(f"{weight:.2f}" for weight in each))
        print_tables([scores, weights])
        how = f"{found.num_utterances} {_SPLITS[found.split]}; {_FITTED_BY[found.fitted_by]}."
        print(f"Evaluated on {how}")
        print(f"The best system, {found.best}, was chosen on the same predictions, which favours it.")
        print(f"Ensemble minus {found.best}: {points_of(found.to_best['macro_f1'], 'macro-F1')}")
        if found.to_mean is not None:
            print(f"Ensemble minus mean of all: {points_of(found.to_mean['macro_f1'], 'macro-F1')}")
        for note in found.notes:
            print(note)
    if out is not None:
        print(f"ensemble: {out}", file=sys.stderr if as_json else sys.stdout)


def _with_labels(recipe: Recipe, path: Path | None) -> Recipe:
    """Return the recipe with the label map of a file added, so that the run folder records it."""
    from serein.corpora.prepare import read_label_map

    if path is None:
        return recipe
    found = read_label_map(path)
    if found.of_corpus:
        remedy = "Merge the manifests instead: serein corpus merge A.jsonl B.jsonl --labels YAML."
        raise RecipeError(f"renames labels of single corpora: {', '.join(found.of_corpus)}", where=path, remedy=remedy)
    merge = {label: name for label, name in found.of_all.items() if name is not None}
    drop = tuple(label for label, name in found.of_all.items() if name is None)
    own = recipe.labels
    labels = own.model_copy(update={"merge": {**own.merge, **merge}, "drop": (*own.drop, *drop)})
    return recipe.model_copy(update={"labels": labels})


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|PREDICTIONS...", help="Run folders, or prediction files (.jsonl); the first is the baseline."
        ),
    ],
    score: Annotated[
        str | None,
        typer.Option(
            metavar="ua|wa|macro_f1|ccc|pearson|mae|rmse|wer",
            help="Score to compare, one of those of the runs' task; for one of several dimensions: 'ccc valence'. "
            "Prediction files of numbers or transcripts alone need it.",
            show_default="ua, ccc or wer",
        ),
    ] = None,
    adapt: Annotated[
        Literal["speaker", "corpus", "all"] | None,
        typer.Option(
            help="Also compare each run with itself, adapted without labels to the test utterances of each speaker, "
            "each corpus, or all of a fold, as 'serein adapt --method bias' does.",
            show_default="not adapted",
        ),
    ] = None,
    prior: Prior = None,
    all_pairs: Annotated[bool, typer.Option("--all-pairs", help="Compare every pair of runs.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the comparison to a file: .json, .csv or .md.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the resamples and permutations.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Compare runs on the same test utterances: differences with intervals over speakers, and p-values.

    With --adapt, one run suffices.
    """
    if prior and adapt is None:
        raise typer.BadParameter("needs --adapt", param_hint="'--prior'")
    from rich.table import Table
    from rich.text import Text

    from serein.evaluation import compare as comparing

    priors = priors_of(prior)
    found = comparing.compare(runs, score=score, adapt=adapt, priors=priors, all_pairs=all_pairs, seed=seed)
    if as_json:
        print_json(found.to_json())
    else:
        table = Table(title=f"{found.num_utterances} utterances that all runs predicted")
        titles, rows = found.table()
        for title in titles:
            table.add_column(title, justify="left" if title in ("run", "baseline") else "right")
        for row in rows:
            table.add_row(*map(Text, row))
        print_tables([table])
        for note in found.notes:
            print(note)
    if out is not None:
        found.write(out)
        print(f"comparison: {out}", file=sys.stderr if as_json else sys.stdout)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe (.yaml).")],
    data: Data,
    overrides: Overrides = None,
    task: Task = None,
    label_map: LabelMapFile = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder.", show_default="runs/NAME-TIME")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run, or add seeds.")] = False,
    folds: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME", help="Train only these folds; --resume can train others.", show_default="all"
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Folds to train in parallel.", show_default="by the size of the model", min=1)
    ] = None,
    device: Device = "auto",
    shared: Annotated[
        Path | None,
        typer.Option(
            "--share-stages",
            metavar="FOLDER",
            help="Reuse identical stages of other runs in this folder, and store new ones.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train and evaluate every fold and seed of a recipe, and write a report."""
    from serein import recipe as recipes

    resolved = _with_labels(recipes.load(recipe, overrides or (), task=task), label_map)
    from serein.experiment import run as runs
    from serein.progress import Bars

    folder = out or runs.new_folder(resolved)

    with Bars() as bars:
        names = None if folds is None else [name.strip() for name in folds.split(",") if name.strip()]
        how: dict[str, Any] = {"folds": names, "num_jobs": jobs, "shared": shared, "device": device}
        runs.run(resolved, data, folder, resume=resume, progress=bars, **how)
    finish(folder, as_json)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe (.yaml).")],
    data: Data,
    out: Out,
    overrides: Overrides = None,
    task: Task = None,
    label_map: LabelMapFile = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted training.")] = False,
    device: Device = "auto",
) -> None:
    """Train one model on the train and dev sets of a manifest."""
    from serein import recipe as recipes

    resolved = _with_labels(recipes.load(recipe, overrides or (), task=task), label_map)
    from serein.experiment import run as runs
    from serein.progress import Bars

    with Bars() as bars:
        folder = runs.train(resolved, data, out, resume=resume, device=device, progress=bars)
    print(folder)


@app.command()
def evaluate(
    model: Model,
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Also write the predictions (.jsonl).", callback=not_a_table),
    ] = None,
    allow_seen_speakers: AllowSeenSpeakers = False,
    conditions: Annotated[
        Literal["predicted", "known", "oracle"] | None,
        typer.Option(help="Source of the gender and text for a conditioned model.", show_default="the recipe's"),
    ] = None,
    label_map: LabelMapFile = None,
    classes: Classes = "model",
    device: Device = "auto",
    backbone: MovedBackbone = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on a manifest that it was not trained on."""
    from serein.corpora.prepare import read_label_map
    from serein.evaluation.predictions import write_predictions
    from serein.experiment.predict import evaluate
    from serein.progress import Bars

    with Bars() as bars:
        predictions, scores = evaluate(
            model,
            data,
            allow_seen_speakers=allow_seen_speakers,
            conditions=conditions,
            labels=read_label_map(label_map),
            classes=classes,
            device=device,
            backbone=backbone,
            on_progress=lambda done, total: bars("predicting", done, total, f"{total} clips"),
        )
    if out is not None:
        write_predictions(predictions, out)
    print_scores(scores, as_json)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="RUN",
            help="Compare RUN with this run on the same utterances.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a finished run again and write its report.html."""
    if against is None:
        finish(run, as_json)
        return
    from serein.evaluation.tables import differences_table
    from serein.evaluation.task_scores import compare_runs

    found = compare_runs(run, against)
    if as_json:
        print_json({task: {name: each.to_json() for name, each in own.items()} for task, own in found.items()})
        return
    print_tables([differences_table(own, (str(run), str(against)), task) for task, own in found.items()])


@app.command()
def robustness(
    data: Data,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Model folder, Hub name or 'default'; or a run, whose folds each predict their own test set.",
            show_default=False,
        ),
    ] = None,
    predictions: Annotated[
        list[str] | None,
        typer.Option(
            "--predictions",
            metavar="CONDITION=FILE",
            help="Score another system's predictions (.jsonl) instead; may be repeated; one condition must be 'clean'.",
        ),
    ] = None,
    noises: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Noise recordings, also in subfolders.", show_default="skip recorded noise"
        ),
    ] = None,
    rooms: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Room impulse responses, also in subfolders.", show_default="skip reverberation"
        ),
    ] = None,
    conditions: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Conditions, or kinds of conditions.", show_default="all")
    ] = None,
    label_map: LabelMapFile = None,
    classes: Classes = "model",
    allow_seen_speakers: AllowSeenSpeakers = False,
    max_clips: Annotated[
        int | None,
        typer.Option("--max-clips", help="Use at most this many clips, evenly spread.", show_default="all", min=1),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise, rooms, lost packets and cuts.", min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Also write the scores (.json, .md, .csv).")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="PICTURE", help="Draw the scores (.png, .svg, .pdf).")] = None,
    write_audio: Annotated[
        Path | None,
        typer.Option(
            "--write-audio",
            metavar="FOLDER",
            help="Write the modified recordings, with a manifest for each condition, for other systems.",
        ),
    ] = None,
    device: Device = "auto",
    backbone: MovedBackbone = None,
    as_json: Json = False,
) -> None:
    """Score a model on modified recordings: level, silence, noise, rooms, codecs, lost packets, speed, cuts.

    Speech is detected in each recording first. Intervals are over speakers. Conditions whose recordings are not given
    are skipped and listed.
    """
    pairs = [each.partition("=") for each in predictions or ()]
    names = None if conditions is None else [name.strip() for name in conditions.split(",") if name.strip()]
    if wrong := [name for name, sign, path in pairs if not (name and sign and path)]:
        raise typer.BadParameter(f"'{wrong[0]}' is not CONDITION=FILE", param_hint="'--predictions'")
    if len({name for name, _, _ in pairs}) < len(pairs):
        raise typer.BadParameter("a condition is named twice", param_hint="'--predictions'")
    if model is not None and predictions:
        raise typer.BadParameter("name a model or another system's predictions, not both", param_hint="'--predictions'")
    if label_map is not None and (predictions or write_audio is not None):
        raise typer.BadParameter("labels are renamed only when a model is scored", param_hint="'--map'")
    if model is None and not predictions and write_audio is None:
        raise typer.BadParameter("name a model, or use --predictions or --write-audio", param_hint="'MODEL'")
    from serein.corpora.prepare import read_label_map
    from serein.data import manifest
    from serein.data.files import require_suffix
    from serein.evaluation.plots import PICTURE_SUFFIXES, save_figure
    from serein.evaluation.robustness import score_system_predictions
    from serein.experiment import robustness as changes
    from serein.progress import Bars

    if out is not None:
        require_suffix(out, (".json", ".md", ".csv"))
    if plot is not None:
        require_suffix(plot, PICTURE_SUFFIXES)
    how: dict[str, Any] = {"noises": noises, "rooms": rooms, "conditions": names, "max_clips": max_clips, "seed": seed}
    with Bars() as bars:
        how["progress"] = bars
        if write_audio is not None:
            manifests, skipped = changes.write_changed(data, write_audio, **how)
            for name, path in manifests.items():
                print(f"{name}: {path}", file=sys.stderr if as_json else sys.stdout)
            for name, reason in skipped.items():
                print(f"skipped {name} for lack of {reason}", file=sys.stderr)
        if predictions:
            found = score_system_predictions({name: path for name, _, path in pairs}, manifest.read(data), classes)
        elif model is not None:
            how["labels"] = read_label_map(label_map)
            how |= {"classes": classes, "allow_seen_speakers": allow_seen_speakers, "device": device}
            found = changes.robustness(model, data, backbone=backbone, **how)
        else:
            return
    if out is not None:
        found.write(out)
    if plot is not None:
        save_figure(found.picture(), plot)
    if as_json:
        print_json(found.to_json())
    else:
        print_tables([found.table()])


@app.command("cross-corpus")
def cross_corpus(
    recipe: Annotated[Path, typer.Argument(help="Recipe (.yaml); its protocol is applied to each corpus separately.")],
    data: Annotated[list[Path], typer.Option("--data", help="Manifest (.jsonl) of a corpus; repeat for each corpus.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the runs, tables and picture.")],
    overrides: Overrides = None,
    label_map: LabelMapFile = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted call.")] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Folds to train in parallel.", show_default="by the size of the model", min=1)
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train on each corpus and test on every other one; also train on all corpora but one and test on that one.

    Scores are given for predictions among all classes of the model, among those of the tested corpus only, and the same
    after adapting the model to that corpus without its labels (as 'serein adapt --method bias' does).
    """
    from serein import recipe as recipes

    resolved = recipes.load(recipe, overrides or ())
    from serein.corpora.prepare import read_label_map
    from serein.experiment import cross_corpus as crossing
    from serein.progress import Bars

    with Bars() as bars:
        found = crossing.cross_corpus(
            resolved,
            data,
            out,
            labels=read_label_map(label_map),
            resume=resume,
            num_jobs=jobs,
            device=device,
            progress=bars,
        )
    if as_json:
        print_json(found.to_json())
    else:
        print_tables(found.tables())
        print(f"picture: {out / 'cross-corpus.png'}")
