"""Commands about models as they are: list, measure, export, merge, bundle."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from serein.cli.app import Device, Json, Model, MovedBackbone, Out, Runtime, app, print_tables
from serein.errors import ModelError

NUM_COMPARED = 64  # utterances, of which int8 is calibrated on a quarter


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or Hub name, or 'default'.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write: model.onnx.")],
    int8: Annotated[bool, typer.Option("--int8", help="Store weights as 8-bit integers; measured on --data.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="MANIFEST",
            help="Speech to compare on and to calibrate int8.",
            show_default="sounds made",
        ),
    ] = None,
    backbone: MovedBackbone = None,
    as_json: Json = False,
) -> None:
    """Write a model as one ONNX file: waveforms in, probabilities out.

    The file runs in onnxruntime and OpenVINO, without PyTorch and serein; docs/deployment.md shows how. Beside it, a
    report tells how exactly it repeats the model.
    """
    from serein import audio
    from serein.data import manifest
    from serein.exporting.export import export as write
    from serein.inference.predictor import load

    clips = None
    if data is not None:
        utterances = manifest.read(data)
        some = utterances[:: -(-len(utterances) // NUM_COMPARED)]
        clips = [audio.load(utterance.audio, utterance.start_s, utterance.end_s) for utterance in some]
    report = write(load(model, "cpu", backbone=backbone), out, int8=int8, clips=clips)
    if as_json:
        print(json.dumps(report))
        return
    size = report["bytes"] / 1e6
    print(f"{out}: {size:.1f} MB, {report['precision']}, tasks: {', '.join(report['tasks'])}")
    print(f"largest difference of outputs {report['difference']['output']:.1e} (of {report['largest_output']:.1f})")
    sounds = sum(map(len, report["batches_s"]))
    print(f"equal labels: {100 * report['equal_labels']:.1f} % of {sounds} {'clips' if data else 'sounds made'}")
    for name in report["left_out"]:
        print(f"'{name}' is left out: words are searched for (CTC), which is no part of the file")


@app.command()
def benchmark(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, Hub name, exported file, or 'default'.")],
    device: Device = "auto",
    runtime: Runtime = None,
    runtimes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Compare these runtimes, with commas between: torch,onnx,openvino. Those that are not installed are "
            "left out; the fastest that keeps the predictions is named.",
        ),
    ] = None,
    clip_s: Annotated[float, typer.Option("--clip", metavar="SECONDS", help="Length of a clip.", min=0.1)] = 3.0,
    seconds: Annotated[float, typer.Option(metavar="SECONDS", help="Time to measure for.", min=0.1)] = 10.0,
    backbone: MovedBackbone = None,
    as_json: Json = False,
) -> None:
    """Measure a model on this machine: speed in batches, delay of a lone clip, memory, use of the processor or GPU.

    Clips are made, not read: decoding and the search for speech are not measured.
    """
    from rich.table import Table

    from serein.inference.benchmark import measure
    from serein.inference.predictor import load

    if runtimes is not None:
        if runtime is not None:
            remedy = "Name one runtime by --runtime, or several by --runtimes."
            raise ModelError("both are given", where="--runtime, --runtimes", remedy=remedy)
        from serein.exporting.comparing import compare_runtimes

        names = [name.strip() for name in runtimes.split(",")]
        compared = compare_runtimes(model, names, device, clip_s=clip_s, seconds=seconds, backbone=backbone)
        if as_json:
            print(json.dumps(compared.to_dict()))
            return
        table = Table("runtime", "clips/s", "ratio", "p50", "equal labels", "difference", box=None, pad_edge=False)
        for each in compared.results:
            speed = each.benchmark
            table.add_row(
                f"{speed.runtime}, {speed.precision}, {speed.device}",
                f"{speed.clips_per_s:.1f}",
                f"{each.ratio:.2f}",
                f"{1e3 * speed.latency_p50_s:.1f} ms",
                f"{100 * each.equal_labels:.1f} %",
                f"{each.largest_difference:.1e}",
            )
        print_tables([table])
        for name, remedy in compared.missing.items():
            print(f"{name} is not installed. {remedy}")
        print(f"fastest for many files: {compared.fastest}; for a lone clip: {compared.quickest}")
        print("\n".join(compared.commands()))
        return
    found = measure(load(model, device, runtime, backbone=backbone), clip_s=clip_s, seconds=seconds)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in found.rows():
        table.add_row(name, value)
    print_tables([table])


@app.command()
def merge(model: Model, out: Out, backbone: MovedBackbone = None) -> None:
    """Merge a model's LoRA adapter into its backbone: a folder that holds all weights and needs no peft."""
    from serein import checkpoint
    from serein.inference.predictor import model_folder

    checkpoint.merge(checkpoint.load(model_folder(model), backbone=backbone), out)
    print(out)


@app.command()
def bundle(
    model: Model,
    out: Out,
    backbone: MovedBackbone = None,
) -> None:
    """Copy a model together with its pretrained backbone: a folder that needs no other."""
    from serein import checkpoint
    from serein.inference.predictor import model_folder

    folder = model_folder(model)
    loaded = checkpoint.load(folder, backbone=backbone)
    card = folder / "README.md"
    checkpoint.save(out, loaded, card.read_text(encoding="utf-8") if card.is_file() else "", backbone="bundle")
    print(out)


@app.command(hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def push() -> None:
    """Say how a model is published; serein uploads nothing itself."""
    raise ModelError(
        "serein uploads nothing",
        where="push",
        remedy="Publish a model folder with the Hub's program: hf upload NAME FOLDER. It is then loaded by NAME.",
    )


@app.command()
def models(as_json: Json = False) -> None:
    """List the models inside the package: classes, size, licences, scores. 'serein predict --model NAME' runs one."""
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
                "parameters": sum(weight.numel() for weight in checkpoint.model.parameters()),
                "megabytes": round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 1),
                "corpora": checkpoint.training["licences"],
                "scores": checkpoint.training.get("scores", {}),
                "card": str(folder / "README.md"),
            }
        )
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    from rich.table import Table

    table = Table("name", "classes", "parameters", "MB", "corpora and licences")
    for each in found:
        corpora = ", ".join(f"{corpus} ({licence})" for corpus, licence in each["corpora"].items())
        row = (each["name"], ", ".join(each["classes"]), f"{each['parameters']:,}", f"{each['megabytes']}", corpora)
        table.add_row(*row)
    print_tables([table])
    print("Scores and limits: README.md in each model's folder, " + str(Path(found[0]["card"]).parents[1]))
