"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Metric = Literal["ua", "wa", "macro_f1"]
Split = Literal["test", "dev"]

AllowSeenSpeakers = Annotated[
    bool, typer.Option("--allow-seen-speakers", help="Allow speakers that the model was trained on.")
]
Data = Annotated[Path, typer.Option("--data", help="Manifest (.jsonl).")]
DefaultModel = Annotated[str | None, typer.Option("--model", "-m", help="Model folder or Hub name [default model].")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Model folder or Hub name.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write.")]
Recordings = Annotated[
    list[Path],
    typer.Argument(metavar="FILE|FOLDER|PATTERN|LIST|MANIFEST|-...", help="Recordings; - reads a list from stdin."),
]
Task = Annotated[str | None, typer.Option("--task", help="Learn this task alone, for instance 'gender'.")]

Window = Annotated[
    float | None, typer.Option("--window", metavar="SECONDS", help="Predict speech in windows of this length [3].")
]
Step = Annotated[
    float | None, typer.Option("--step", metavar="SECONDS", help="From one window's start to the next [half a window].")
]
MinConfidence = Annotated[
    float,
    typer.Option(
        "--min-confidence", metavar="PROBABILITY", help="Reject predictions with a lower confidence.", min=0, max=1
    ),
]
MinDuration = Annotated[
    float, typer.Option("--min-duration", metavar="SECONDS", help="Reject predictions of shorter recordings.", min=0)
]
