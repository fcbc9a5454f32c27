"""The command that writes down what is said."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serein.cli.app import app
from serein.cli.options import Json
from serein.cli.printing import print_tables

if TYPE_CHECKING:
    from serein.data.utterance import Utterance

    Heard = tuple[Utterance, str]


@app.command()
def transcribe(
    model: Annotated[str, typer.Argument(help="Folder of a model that learned 'asr', or a speech recogniser.")],
    sources: Annotated[list[Path], typer.Argument(metavar="FILE|FOLDER|MANIFEST...", help="Recordings.")],
    as_json: Json = False,
) -> None:
    """Write down what is said; of manifests with transcripts also the word error rate, on stderr with --json.

    Exit status 1 when any recording could not be heard.
    """
    from serein.errors import AudioError
    from serein.inference.sources import utterances_in
    from serein.inference.transcribing import transcribe_with

    utterances = utterances_in(sources)
    heard: list[Heard] = []
    num_failed = 0
    for utterance, text in transcribe_with(model, utterances):
        if isinstance(text, AudioError):
            num_failed += 1
            print(f"error: {text}", file=sys.stderr)
            continue
        heard.append((utterance, text))
        if as_json:
            said = {} if utterance.transcript is None else {"said": utterance.transcript}
            print(json.dumps({"audio": utterance.audio, "transcript": text, **said}, ensure_ascii=False), flush=True)
    if heard and not as_json:
        _print_table(heard)
    if summary := _word_error_rate(heard):
        print(summary, file=sys.stderr if as_json else sys.stdout)
    if num_failed:
        print(f"{num_failed} of {len(utterances)} recordings could not be heard.", file=sys.stderr)
        raise typer.Exit(1)


def _print_table(heard: Sequence[Heard]) -> None:
    from rich.table import Table
    from rich.text import Text

    has_said = any(utterance.transcript for utterance, _ in heard)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("recording", *(["said"] if has_said else []), "heard"):
        table.add_column(name, overflow="fold", style="bold" if name == "heard" else None)
    for utterance, text in heard:
        said = [Text(utterance.transcript or "")] if has_said else []
        table.add_row(Text(utterance.audio), *said, Text(text))
    print_tables([table])


def _word_error_rate(heard: Sequence[Heard]) -> str:
    """Return the error rate in words, nothing where no recording has a transcript."""
    from serein.evaluation.predictions import Prediction
    from serein.evaluation.transcripts import score_transcripts
    from serein.labels.transcripts import normalised

    rows = [
        Prediction(id=u.id, truth=u.transcript, prediction=text, speaker=u.speaker, corpus=u.corpus)
        for u, text in heard
        if normalised(u.transcript)
    ]
    if not rows:
        return ""
    scores = score_transcripts(rows)
    bounds = "" if scores.interval is None else f" [{scores.interval[0]:.1f}, {scores.interval[1]:.1f}]"
    return (
        f"word error rate {scores.word_error_rate:.1f} %{bounds}, letters {scores.letter_error_rate:.1f} %, "
        f"{scores.exact:.1f} % of {scores.num_utterances} recordings without an error"
    )
