"""The command that writes a model as one file for other runtimes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from serein.cli.app import Json, MovedBackbone, app


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or Hub name, or 'default'.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write: model.onnx.")],
    int8: Annotated[bool, typer.Option("--int8", help="Store weights as 8-bit integers; best with --data.")] = False,
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
        some = utterances[:: -(-len(utterances) // 16)]
        clips = [audio.load(utterance.audio, utterance.start_s, utterance.end_s) for utterance in some]
    report = write(load(model, "cpu", backbone=backbone), out, int8=int8, clips=clips)
    if as_json:
        print(json.dumps(report))
        return
    size = report["bytes"] / 1e6
    print(f"{out}: {size:.1f} MB, {report['precision']}, tasks: {', '.join(report['tasks'])}")
    print(f"largest difference of outputs {report['difference']['output']:.1e} (of {report['largest_output']:.1f})")
    print(f"equal labels: {100 * report['equal_labels']:.1f} %")
    for name in report["left_out"]:
        print(f"'{name}' is left out: words are searched for (CTC), which is no part of the file")
