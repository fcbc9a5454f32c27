"""Commands for trained models (list, adapt, measure, export, merge, bundle) and for the cache."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from serein.cli.app import (
    CommandGroup,
    Device,
    Json,
    Model,
    MovedBackbone,
    Out,
    Precision,
    Prior,
    Recordings,
    Runtime,
    app,
    exit_if_unread,
    print_json,
    print_tables,
    priors_of,
    recordings_in,
)
from serein.errors import ModelError, counted, expected_one_of

NUM_COMPARED = 64  # utterances; int8 is calibrated on a quarter of them


@app.command()
def adapt(
    sources: Recordings,
    out: Out,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model folder or Hub name.", show_default="the default model")
    ] = None,
    method: Annotated[
        Literal["bias", "mean"] | None,
        typer.Option(
            "--method",
            help="What is changed: the mean of the features, or a bias per class.",
            show_default="mean if the model contains that of its training data and there is no --prior, or else bias",
        ),
    ] = None,
    prior: Prior = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="FILE|FOLDER|PATTERN|LIST|MANIFEST",
            help="For the mean: recordings like the training data, if the model does not contain their mean.",
        ),
    ] = None,
    device: Device = "auto",
    backbone: MovedBackbone = None,
    as_json: Json = False,
) -> None:
    """Adapt a model to recordings without labels: a new speaker, microphone, language or corpus.

    mean: the features of recordings of one speaker or corpus are shifted, such that they have the mean of the training
    data. bias: a bias per class brings the mean probabilities close to the expected frequencies; --prior CLASS=0
    excludes a class. If classes are not equally frequent and no --prior says so, fewer predictions may be correct: most
    speech is neutral. The new folder is used like any other model.
    """
    from rich.table import Table

    from serein.inference.adaptation import adapt as write
    from serein.inference.predictor import load
    from serein.progress import Bars

    priors = priors_of(prior)
    recordings, num_failed = recordings_in(sources)
    references, num_lost = ([], 0) if reference is None else recordings_in([reference])
    num_all = counted(len(recordings) + len(references), "recording")
    with Bars() as bars:
        found = write(
            recordings,
            out,
            model=load(model, device, backbone=backbone),
            method=method,
            priors=priors,
            reference=references or None,
            on_error="return",
            on_progress=lambda done, total: bars("predicting", done, total, num_all),
        )
    for error in found.unread:
        print(f"error: {error}", file=sys.stderr)
    if as_json:
        said = asdict(found) | {"unread": [str(error) for error in found.unread], "out": str(out)}
        print_json(said)
    else:
        if found.method == "bias":
            table = Table("class", "mean probability", "prior", "bias", box=None, pad_edge=False)
            for name, expected in found.priors.items():
                row = f"{found.before[name]:.3f}", f"{expected:.3f}", f"{found.bias[name]:+.2f}"
                table.add_row(name, *row)
            print_tables([table])
        print(f"{out}: adapted to {found.num_segments} segments of {found.num_recordings} recordings")
    exit_if_unread(num_failed + num_lost + len(found.unread))


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, Hub name or 'default'.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="File to write, such as model.onnx.")],
    int8: Annotated[bool, typer.Option("--int8", help="Store weights as 8-bit integers.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="MANIFEST",
            help="Speech for the comparison and for the calibration of int8.",
            show_default="generated sounds",
        ),
    ] = None,
    backbone: MovedBackbone = None,
    as_json: Json = False,
) -> None:
    """Write a model as one ONNX file: waveforms in, probabilities out.

    The file runs in onnxruntime and OpenVINO, without PyTorch and serein; docs/deployment.md shows how. A report next
    to it states how exactly it reproduces the model.
    """
    from serein.exporting.benchmark import ComparedClips
    from serein.exporting.export import export as write
    from serein.inference.predictor import load

    predictor = load(model, "cpu", backbone=backbone)
    clips = utterances = None
    if data is not None:
        given = ComparedClips.read(data, NUM_COMPARED)
        clips, utterances = given.waveforms, given.utterances
    report = write(predictor, out, int8=int8, clips=clips, utterances=utterances)
    if as_json:
        print_json(report)
        return
    size = report["bytes"] / 1e6
    print(f"{out}: {size:.1f} MB, {report['precision']}, tasks: {', '.join(report['tasks'])}")
    print(f"largest difference of outputs {report['difference']['output']:.1e} (of {report['largest_output']:.1f})")
    sounds = sum(map(len, report["batches_s"]))
    noun, compared = "labels" if predictor.classes else "numbers", "clips" if data else "generated sounds"
    print(f"equal {noun}: {100 * report['equal_labels']:.1f} % of {sounds} {compared}")
    for name in report["left_out"]:
        print(f"'{name}' is left out: decoding words (CTC) is a search, which is not part of the file")


@app.command()
def benchmark(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, Hub name, exported file or 'default'.")],
    device: Device = "auto",
    runtime: Runtime = None,
    precision: Precision = None,
    runtimes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Compare these runtimes, separated by commas: torch,onnx,openvino. Those that are not installed are "
            "left out; the fastest one that preserves the predictions is named.",
        ),
    ] = None,
    precisions: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="With --runtimes, also compare each runtime in these precisions: float32,bfloat16,int8.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="MANIFEST",
            help="With --runtimes, compare the predictions for its utterances, and print their UA.",
            show_default="generated sounds",
        ),
    ] = None,
    max_clips: Annotated[
        int, typer.Option("--max-clips", help="Compare at most this many utterances of --data, evenly spread.", min=1)
    ] = 200,
    clip_s: Annotated[float, typer.Option("--clip", metavar="SECONDS", help="Length of a clip.", min=0.1)] = 3.0,
    seconds: Annotated[float, typer.Option(metavar="SECONDS", help="Duration of the measurement.", min=0.1)] = 10.0,
    backbone: MovedBackbone = None,
    as_json: Json = False,
) -> None:
    """Measure a model on this machine: speed in batches, latency of a single clip, memory, processor or GPU usage.

    Speed is that of generated clips, so decoding and speech detection are not measured.
    """
    from rich.table import Table

    from serein.exporting.benchmark import compare_runtimes, measure
    from serein.inference.predictor import load

    for option, value in (("--precisions", precisions), ("--data", data)):
        if value is not None and runtimes is None:
            remedy = "Add, for instance, --runtimes torch,onnx,openvino."
            raise ModelError("compares runtimes, which are not named", where=option, remedy=remedy)
    if runtimes is not None:
        if runtime is not None:
            remedy = "Name one runtime with --runtime, or several with --runtimes."
            raise ModelError("both are given", where="--runtime, --runtimes", remedy=remedy)
        if precision is not None:
            remedy = "Name several precisions with --precisions, or one runtime with --runtime."
            raise ModelError("cannot be combined", where="--precision, --runtimes", remedy=remedy)
        names, chosen = (
            [name for part in (text or "").split(",") if (name := part.strip())] for text in (runtimes, precisions)
        )
        for option, given, text in (("--runtimes", names, runtimes), ("--precisions", chosen, precisions)):
            if text is not None and not given:
                raise ModelError("names nothing", where=option, remedy="Name some, separated by commas.")
        how: Any = {"data": data, "max_clips": max_clips, "clip_s": clip_s, "seconds": seconds, "backbone": backbone}
        compared = compare_runtimes(model, names, device, precisions=chosen or None, **how)
        if as_json:
            print_json(compared.to_dict())
            return
        columns = ["runtime", "MB", "clips/s", "ratio", "p50", "equal labels", "difference"]
        has_ua = any(each.ua is not None for each in compared.results)
        table = Table(*columns, *(["UA"] if has_ua else []), box=None, pad_edge=False)
        for each in compared.results:
            speed = each.benchmark
            table.add_row(
                f"{speed.runtime}, {speed.precision}, {speed.device}",
                f"{each.num_bytes / 1e6:.1f}",
                f"{speed.clips_per_s:.1f}",
                f"{each.ratio:.2f}",
                f"{1e3 * speed.latency_p50_s:.1f} ms",
                f"{100 * each.equal_labels:.1f} %",
                f"{each.largest_difference:.1e}",
                *([] if each.ua is None else [f"{100 * each.ua:.1f}"]),
            )
        print_tables([table])
        if has_ua and compared.num_learned_speakers:
            print(f"SPEAKER-DEPENDENT UA: the model was trained on {compared.num_learned_speakers} of the speakers.")
        for name, remedy in compared.missing.items():
            print(f"{name}: {remedy}" if "," in name else f"{name} is not installed. {remedy}")
        many, single = (f"{best.runtime}, {best.precision}" for best in (compared.fastest, compared.quickest))
        print(f"fastest for many files: {many}; for a single clip: {single}")
        print("\n".join(compared.commands()))
        return
    found = measure(
        load(model, device, runtime, precision=precision, backbone=backbone), clip_s=clip_s, seconds=seconds
    )
    if as_json:
        print_json(asdict(found))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in found.rows():
        table.add_row(name, value)
    print_tables([table])


@app.command()
def merge(model: Model, out: Out, backbone: MovedBackbone = None) -> None:
    """Merge a model's LoRA adapter into its backbone; the new folder contains all weights and does not need peft."""
    from serein import checkpoint as checkpoints
    from serein.inference.predictor import model_folder

    checkpoints.merge(checkpoints.load(model_folder(model), backbone=backbone), out)
    print(out)


@app.command()
def bundle(
    model: Model,
    out: Out,
    backbone: MovedBackbone = None,
) -> None:
    """Copy a model together with its pretrained backbone into a self-contained folder."""
    from serein import checkpoint as checkpoints
    from serein.inference.predictor import model_folder

    folder = model_folder(model)
    loaded = checkpoints.load(folder, backbone=backbone)
    card = folder / "README.md"
    checkpoints.save(out, loaded, card.read_text(encoding="utf-8") if card.is_file() else "", backbone="bundle")
    print(out)


@app.command(hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def push() -> None:
    """Explain how to publish a model; serein itself uploads nothing."""
    raise ModelError(
        "serein uploads nothing",
        where="push",
        remedy="Publish a model folder with the Hub's program: hf upload NAME FOLDER. Then load it by NAME.",
    )


@app.command()
def models(as_json: Json = False) -> None:
    """List the models that ship with the package: classes, size, speed, languages, licences, scores.

    Run one with 'serein predict --model NAME'.
    """
    from serein import checkpoint as checkpoints
    from serein.inference.predictor import model_folder, shipped_models

    found = []
    for name in shipped_models():
        folder = model_folder(name)
        checkpoint = checkpoints.load(folder)
        found.append(
            {
                "name": name,
                "classes": list(checkpoint.class_labels.classes),
                "languages": checkpoint.training.get("languages", []),
                "parameters": sum(weight.numel() for weight in checkpoint.model.parameters()),
                "megabytes": round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 1),
                "speed": checkpoint.training.get("speed"),
                "corpora": checkpoint.training["licences"],
                "scores": checkpoint.training.get("scores", {}),
                "card": str(folder / "README.md"),
            }
        )
    if as_json:
        print_json(found, indent=1)
        return
    from rich.table import Table

    tables = []
    for each in found:
        table = Table(title=each["name"], title_style="bold", title_justify="left", show_header=False)
        first = {on: ua for on, ua in each["scores"].items() if "restricted" not in on and "left out" not in on}
        scores = ", ".join(f"{ua:.1f} ({on})" for on, ua in first.items())
        for row in (
            ("classes", ", ".join(each["classes"])),
            ("languages", ", ".join(each["languages"]) or "not stated"),
            ("size", f"{each['parameters']:,} parameters, {each['megabytes']} MB"),
            ("speed", each["speed"] or "not measured"),
            ("UA, per cent", scores or "in its card"),
            ("corpora, licences", ", ".join(f"{corpus} ({licence})" for corpus, licence in each["corpora"].items())),
            ("card", each["card"]),
        ):
            table.add_row(*row)
        tables.append(table)
    print_tables(tables)


cache = typer.Typer(cls=CommandGroup, help="List and clear the cache of computed results.")
app.add_typer(cache, name="cache")

Stages = Annotated[
    list[Path] | None,
    typer.Option("--stages", metavar="FOLDER", help="Folder of shared stages.", show_default="runs/reproduce/stages"),
]
Features = Annotated[
    list[Path] | None,
    typer.Option(
        "--features", metavar="FOLDER", help="Additional folder of features, as in a recipe's feature_cache.folder."
    ),
]
DEFAULT_STAGES = (Path("runs/reproduce/stages"),)


@cache.callback(invoke_without_command=True)
def cache_list(context: typer.Context, stages: Stages = None, features: Features = None, as_json: Json = False) -> None:
    """List the cache: features of frozen backbones, text vectors, transcripts, vocabularies, shared stages.

    Its size is limited to a tenth of the disk, from 10 to 100 GB, or to $SEREIN_CACHE_SIZE (20GB, none). The least
    recently used entries are removed first, except those that a process uses. Shared stages count only if
    $SEREIN_CACHE_SIZE is set.
    """
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from serein.cache import cache_folder, entries, size_limit

    found = entries(stages or DEFAULT_STAGES, features or ())
    if as_json:
        listed = [
            {"kind": e.kind, "path": str(e.path), "num_bytes": e.num_bytes, "age_s": round(e.age_s, 1)} for e in found
        ]
        print_json(listed)
        return
    table = Table(title=f"Cached in {cache_folder()} and in folders of shared stages")
    for heading in ("kind", "folder", "MB", "used"):
        table.add_column(heading, overflow="fold", justify="right" if heading in ("MB", "used") else "left")
    for entry in reversed(found):
        table.add_row(
            entry.kind, str(entry.path), f"{entry.num_bytes / 1e6:.1f}", f"{entry.age_s / 86_400:.1f} days ago"
        )
    print_tables([table])
    limit = "no limit" if math.isinf(size_limit()) else f"at most {size_limit() / 1e9:.1f} GB"
    without = "" if os.environ.get("SEREIN_CACHE_SIZE") else ", not counting shared stages"
    print(f"{counted(len(found), 'entry', 'entries')}, {sum(entry.num_bytes for entry in found) / 1e9:.2f} GB")
    print(f"kept: {limit}{without}; set $SEREIN_CACHE_SIZE to a size, or to none")


@cache.command("clear")
def cache_clear(
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND", help="Only features, sentences, transcripts, vocabularies or stages; may be repeated."
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Remove least recently used entries only until this size remains, such as 20GB."
        ),
    ] = None,
    unused_days: Annotated[float | None, typer.Option(help="Only entries not used for this many days.", min=0)] = None,
    stages: Stages = None,
    features: Features = None,
    as_json: Json = False,
) -> None:
    """Clear the cache, except entries that a process uses. Everything can be computed again."""
    from serein.cache import KINDS, STAGES, entries, parse_size, remove, trim

    for name in kind or ():
        if name not in (*KINDS, STAGES):
            raise typer.BadParameter(expected_one_of(name, (*KINDS, STAGES), kind="kind"), param_hint="'--kind'")
    found = [entry for entry in entries(stages or DEFAULT_STAGES, features or ()) if kind is None or entry.kind in kind]
    old = [entry for entry in found if unused_days is None or entry.age_s >= 86_400 * unused_days]
    if max_size is None:
        removed = [entry for entry in old if remove(entry)]
    else:
        others = sum(entry.num_bytes for entry in found) - sum(entry.num_bytes for entry in old)
        removed = trim(old, parse_size(max_size, where="--max-size") - others)
    in_use = len(old) - len(removed) if max_size is None else 0
    num_bytes = sum(entry.num_bytes for entry in removed)
    if as_json:
        print_json({"removed": [str(e.path) for e in removed], "num_bytes": num_bytes, "in_use": in_use})
    else:
        print(f"removed {counted(len(removed), 'entry', 'entries')}, {num_bytes / 1e9:.2f} GB")
    if in_use:
        print(
            f"note: {in_use} entries remain because a process uses them, or they belong to another user",
            file=sys.stderr,
        )
