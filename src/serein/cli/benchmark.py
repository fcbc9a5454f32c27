"""The command that measures how fast a model runs on this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from serein.cli.app import Device, Json, MovedBackbone, Runtime, app, print_tables


@app.command()
def benchmark(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, Hub name, exported file, or 'default'.")],
    device: Device = "auto",
    runtime: Runtime = None,
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

    found = measure(load(model, device, runtime, backbone=backbone), clip_s=clip_s, seconds=seconds)
    if as_json:
        print(json.dumps(found.to_json()))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in found.rows():
        table.add_row(name, value)
    print_tables([table])
