"""Commands that test models under other conditions and on other corpora."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from serein.cli.app import (
    AllowSeenSpeakers,
    Classes,
    Data,
    Json,
    LabelMapFile,
    MovedBackbone,
    Overrides,
    app,
    print_tables,
)


def _names(value: str | None) -> list[str] | None:
    return None if value is None else [name.strip() for name in value.split(",") if name.strip()]


@app.command()
def robustness(
    data: Data,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Model folder, Hub name, or 'default'.", show_default=False)
    ] = None,
    answers: Annotated[
        list[str] | None,
        typer.Option(
            "--answers",
            metavar="CONDITION=FILE",
            help="Score the answers of another system (.jsonl) instead; may be repeated, one is named 'clean'.",
        ),
    ] = None,
    noises: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Recordings of noise.", show_default="skip recorded noise")
    ] = None,
    rooms: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Impulse responses of rooms.", show_default="skip reverberation"),
    ] = None,
    conditions: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Conditions, or kinds of them.", show_default="all")
    ] = None,
    label_map: LabelMapFile = None,
    classes: Classes = "model",
    allow_seen_speakers: AllowSeenSpeakers = False,
    max_clips: Annotated[
        int | None,
        typer.Option("--max-clips", help="Take at most this many clips, evenly spread.", show_default="all", min=1),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of noise, rooms, lost packets and cuts.", min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Also write the scores (.json, .md, .csv).")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="PICTURE", help="Draw the scores (.png, .svg, .pdf).")] = None,
    write_audio: Annotated[
        Path | None,
        typer.Option(
            "--write-audio",
            metavar="FOLDER",
            help="Write the changed recordings, with a manifest for each condition, for other systems.",
        ),
    ] = None,
    backbone: MovedBackbone = None,
    as_json: Json = False,
) -> None:
    """Score a model on recordings that are changed: level, silence, noise, rooms, codecs, lost packets, speed, cuts.

    Speech is found in each recording first. Intervals are over speakers. Conditions whose recordings are not given are
    skipped and named.
    """
    pairs = [each.partition("=") for each in answers or ()]
    if wrong := [name for name, sign, path in pairs if not (name and sign and path)]:
        raise typer.BadParameter(f"'{wrong[0]}' is not CONDITION=FILE", param_hint="'--answers'")
    if len({name for name, _, _ in pairs}) < len(pairs):
        raise typer.BadParameter("a condition is named twice", param_hint="'--answers'")
    if model is not None and answers:
        raise typer.BadParameter("name a model or the answers of another system, not both", param_hint="'--answers'")
    if label_map is not None and (answers or write_audio is not None):
        raise typer.BadParameter("it renames what a model is scored on", param_hint="'--map'")
    if model is None and not answers and write_audio is None:
        raise typer.BadParameter("name a model; or --answers, or --write-audio", param_hint="'MODEL'")
    from serein.corpora.prepare import NO_MAP, read_label_map
    from serein.data import manifest
    from serein.evaluation.plots import PICTURE_SUFFIXES, save_figure
    from serein.evaluation.robustness import require_suffix, score_answers
    from serein.experiment import robustness as changes
    from serein.inference.predictor import load
    from serein.progress import Bars

    if out is not None:
        require_suffix(out, (".json", ".md", ".csv"))
    if plot is not None:
        require_suffix(plot, PICTURE_SUFFIXES)
    with Bars() as bars:
        if write_audio is not None:
            manifests, skipped = changes.write_changed(
                data,
                write_audio,
                noises=noises,
                rooms=rooms,
                conditions=_names(conditions),
                max_clips=max_clips,
                seed=seed,
                progress=bars,
            )
            for name, path in manifests.items():
                print(f"{name}: {path}", file=sys.stderr if as_json else sys.stdout)
            for name, reason in skipped.items():
                print(f"skipped {name}: there is no {reason}", file=sys.stderr)
        if answers:
            found = score_answers({name: path for name, _, path in pairs}, manifest.read(data), classes)
        elif model is not None:
            found = changes.robustness(
                load(model, backbone=backbone),
                data,
                noises=noises,
                rooms=rooms,
                conditions=_names(conditions),
                labels=read_label_map(label_map) if label_map else NO_MAP,
                classes=classes,
                allow_seen_speakers=allow_seen_speakers,
                max_clips=max_clips,
                seed=seed,
                progress=bars,
            )
        else:
            return
    if out is not None:
        found.write(out)
    if plot is not None:
        save_figure(found.picture(), plot)
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False))
    else:
        print_tables([found.table()])


@app.command("cross-corpus")
def cross_corpus(
    recipe: Annotated[Path, typer.Argument(help="Recipe (.yaml); its protocol divides each corpus by itself.")],
    data: Annotated[list[Path], typer.Option("--data", help="Manifest (.jsonl) of a corpus; repeat it for each.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs, tables and the picture.")],
    overrides: Overrides = None,
    label_map: LabelMapFile = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue where it was stopped.")] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Folds to train in parallel.", show_default="by the size of the model", min=1)
    ] = None,
    as_json: Json = False,
) -> None:
    """Train on each corpus and test on every other, and leave each corpus out.

    Scores are given where all classes of the model may be predicted, and where only those of the tested corpus may be.
    """
    from serein import recipe as recipes

    resolved = recipes.load(recipe, overrides or ())
    from serein.corpora.prepare import NO_MAP, read_label_map
    from serein.experiment import cross_corpus as crossing
    from serein.progress import Bars

    with Bars() as bars:
        found = crossing.cross_corpus(
            resolved,
            data,
            out,
            labels=read_label_map(label_map) if label_map else NO_MAP,
            resume=resume,
            num_jobs=jobs,
            progress=bars,
        )
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False))
    else:
        print_tables(found.tables())
        print(f"picture: {out / 'cross-corpus.png'}")
