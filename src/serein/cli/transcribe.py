"""The command that transcribes recordings."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from serein.cli.app import app
from serein.cli.options import Json, Recordings, print_tables

if TYPE_CHECKING:
    from serein.data.utterance import Utterance

    Transcript = tuple[Utterance, str]


@app.command()
def transcribe(
    sources: Recordings,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="A model trained on the task 'asr', or a Whisper or CTC model of Transformers."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Transcribe recordings; for manifests with transcripts, also print the word error rate.

    With --json the word error rate goes to stderr. The exit status is 1 if any recording could not be read.
    """
    from serein.errors import AudioError
    from serein.inference.predictor import utterance_of
    from serein.inference.sources import sources_in
    from serein.inference.transcription import transcribe_with

    utterances = [utterance_of(source) for source in sources_in(sources)]
    transcripts: list[Transcript] = []
    num_failed = 0
    for utterance, text in transcribe_with(model, utterances):
        if isinstance(text, AudioError):
            num_failed += 1
            print(f"error: {text}", file=sys.stderr)
            continue
        transcripts.append((utterance, text))
        if as_json:
            truth = {} if utterance.transcript is None else {"truth": utterance.transcript}
            print(json.dumps({"file": utterance.audio, "transcript": text, **truth}, ensure_ascii=False), flush=True)
    if transcripts and not as_json:
        _print_table(transcripts)
    if summary := _word_error_rate(transcripts):
        print(summary, file=sys.stderr if as_json else sys.stdout)
    if num_failed:
        print(f"{num_failed} of {len(utterances)} recordings could not be read.", file=sys.stderr)
        raise typer.Exit(1)


def _print_table(transcripts: Sequence[Transcript]) -> None:
    from rich.table import Table
    from rich.text import Text

    has_truth = any(utterance.transcript for utterance, _ in transcripts)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("recording", *(["truth"] if has_truth else []), "prediction"):
        table.add_column(name, overflow="fold", style="bold" if name == "prediction" else None)
    for utterance, text in transcripts:
        truth = [Text(utterance.transcript or "")] if has_truth else []
        table.add_row(Text(utterance.audio), *truth, Text(text))
    print_tables([table])


def _word_error_rate(transcripts: Sequence[Transcript]) -> str:
    """Return the word error rate as text, "" where no recording has a transcript."""
    from serein.evaluation.predictions import Prediction
    from serein.evaluation.task_scores import score_transcripts
    from serein.tasks.ctc import normalised

    rows = [
        Prediction(id=u.id, truth=u.transcript, prediction=text, speaker=u.speaker, corpus=u.corpus)
        for u, text in transcripts
        if normalised(u.transcript)
    ]
    if not rows:
        return ""
    scores = score_transcripts(rows)
    bounds = "" if scores.interval is None else f" [{scores.interval[0]:.1f}, {scores.interval[1]:.1f}]"
    return (
        f"word error rate {scores.word_error_rate:.1f} %{bounds}, letter error rate {scores.letter_error_rate:.1f} %, "
        f"{scores.exact:.1f} % of {scores.num_utterances} recordings without errors"
    )
