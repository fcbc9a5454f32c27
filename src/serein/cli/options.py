"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ScoreName(StrEnum):
    """What is compared or chosen by."""

    ua = "ua"
    wa = "wa"
    macro_f1 = "macro_f1"


Data = Annotated[Path, typer.Option("--data", help="Manifest (.jsonl).")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write.")]
SeenSpeakers = Annotated[bool, typer.Option("--seen-speakers", help="Allow speakers that the model learned from.")]
Task = Annotated[str | None, typer.Option("--task", help="Learn this task alone, for instance 'gender'.")]
