"""Commands for what is said and who speaks: transcripts, speaker verification, embeddings."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serein.cli.app import (
    Json,
    Model,
    MovedBackbone,
    Recordings,
    Segments,
    app,
    exit_if_unread,
    print_tables,
    recordings_in,
)

if TYPE_CHECKING:
    from serein.checkpoint import Checkpoint
    from serein.data.utterance import Utterance
    from serein.inference.prediction import Prediction
    from serein.inference.predictor import Predictor
    from serein.inference.sources import Source

    Transcript = tuple[Utterance, str]
    Embedded = tuple[Source, Prediction]


@app.command()
def transcribe(
    sources: Recordings,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="A model trained on the task 'asr', or a Whisper or CTC model of Transformers."
        ),
    ],
    backbone: MovedBackbone = None,
    as_json: Json = False,
) -> None:
    """Transcribe recordings; for manifests with transcripts, also print the word error rate.

    With --json the word error rate goes to stderr. The exit status is 1 if any recording could not be read.
    """
    from serein.errors import AudioError
    from serein.evaluation.predictions import Prediction
    from serein.evaluation.task_scores import score_transcripts
    from serein.inference.sources import utterance_of
    from serein.inference.transcription import transcribe_with
    from serein.tasks.ctc import normalised

    files, num_failed = recordings_in(sources)
    utterances, num_all = [utterance_of(source) for source in files], len(files) + num_failed
    transcripts: list[Transcript] = []
    for utterance, text in transcribe_with(model, utterances, backbone=backbone):
        if isinstance(text, AudioError):
            num_failed += 1
            print(f"error: {text}", file=sys.stderr)
            continue
        transcripts.append((utterance, text))
        if as_json:
            known = {} if utterance.transcript is None else {"truth": utterance.transcript}
            print(json.dumps({"file": utterance.audio, "transcript": text, **known}, ensure_ascii=False), flush=True)
    if transcripts and not as_json:
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
    rows = [
        Prediction(id=u.id, truth=u.transcript, prediction=text, speaker=u.speaker, corpus=u.corpus)
        for u, text in transcripts
        if normalised(u.transcript)
    ]
    if rows:
        scores = score_transcripts(rows)
        bounds = "" if scores.interval is None else f" [{scores.interval[0]:.1f}, {scores.interval[1]:.1f}]"
        print(
            f"word error rate {scores.word_error_rate:.1f} %{bounds}, "
            f"letter error rate {scores.letter_error_rate:.1f} %, "
            f"{scores.exact:.1f} % of {scores.num_utterances} recordings without errors",
            file=sys.stderr if as_json else sys.stdout,
        )
    exit_if_unread(num_failed, num_all)


@app.command()
def verify(
    sources: Recordings,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Folder or Hub name of a model that learned speaker recognition.")
    ],
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Least cosine of two recordings of one speaker.",
            show_default="the model's, from its dev set",
            min=-1,
            max=1,
        ),
    ] = None,
    segments: Segments = "auto",
    is_scored: Annotated[
        bool, typer.Option("--score", help="Print error rates; needs manifests with speakers.")
    ] = False,
    backbone: MovedBackbone = None,
    as_json: Json = False,
) -> None:
    """Decide for each pair of recordings whether they have the same speaker.

    The exit status is 1 if any recording could not be read.
    """
    from rich.table import Table

    from serein.evaluation.verification import speaker_pairs
    from serein.inference.predictor import load
    from serein.inference.sources import id_of

    files, num_absent = recordings_in(sources)
    if len(files) < 2:
        raise typer.BadParameter("name at least two recordings", param_hint="'FILE|FOLDER|MANIFEST...'")
    predictor = load(model, backbone=backbone)
    checkpoint = predictor.checkpoint
    embedded, num_failed = _embed(predictor, files, "speaker", segments)
    origin = "given" if threshold is not None else "the model's, from its dev set"
    if threshold is None and checkpoint.verification is not None:
        threshold = checkpoint.verification.threshold
    if is_scored:
        _print_score(checkpoint, embedded, threshold, as_json=as_json)
        exit_if_unread(num_failed + num_absent, len(files) + num_absent)
        return
    pairs = speaker_pairs(
        [id_of(source) for source, _ in embedded], [said.embedding for _, said in embedded], threshold
    )
    if as_json:
        result: dict[str, object] = {"threshold": threshold, "pairs": [pair.to_json() for pair in pairs]}
        if checkpoint.verification is not None:
            result["threshold_from"] = checkpoint.verification.model_dump()
        print(json.dumps(result, ensure_ascii=False))
    elif pairs:
        labels = {True: "same speaker", False: "different speakers", None: "–"}
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("first", "second"):
            table.add_column(name, overflow="fold")
        table.add_column("cosine", justify="right")
        table.add_column("", style="bold")
        for pair in pairs:
            table.add_row(pair.first, pair.second, f"{pair.cosine:.3f}", labels[pair.is_same_speaker])
        print_tables([table])
    if threshold is None:
        print(
            "The model has no threshold, because its dev set has too few clips of a speaker: only cosines are printed. "
            "Set one by --threshold.",
            file=sys.stderr,
        )
    elif not as_json and pairs:
        print(f"threshold {threshold:.3f}, {origin}")
    exit_if_unread(num_failed + num_absent, len(files) + num_absent)


@app.command()
def embed(
    sources: Recordings,
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Output path; its suffix is the format: .safetensors .npz .npy .parquet .csv."
        ),
    ] = Path("embeddings.safetensors"),
    task: Annotated[
        str | None,
        typer.Option(
            help="Task whose embedding to write: 'emotion', 'speaker', ...; or 'fused'.", show_default="the main task"
        ),
    ] = None,
    segments: Segments = "auto",
    backbone: MovedBackbone = None,
) -> None:
    """Write the embeddings of recordings, with their ids and times.

    The exit status is 1 if any recording could not be read.
    """
    from serein.inference.embeddings import require_suffix, write_embeddings
    from serein.inference.predictor import load

    require_suffix(out)
    files, num_absent = recordings_in(sources)
    predictor = load(model, backbone=backbone)
    embedded, num_failed = _embed(predictor, files, task, segments)
    if embedded:
        predictions, name = [prediction for _, prediction in embedded], task or predictor.checkpoint.task
        write_embeddings(predictions, out, {"task": name, "model": model})
        print(f"{out}: {len(embedded)} embeddings of {len(predictions[0].embedding)} numbers ({name})")
    exit_if_unread(num_failed + num_absent, len(files) + num_absent)


def _embed(
    predictor: Predictor, files: Sequence[Source], task: str | None, segments: Segments
) -> tuple[list[Embedded], int]:
    """Return the predictions, with embeddings, of readable recordings that hold speech, and the number of others."""
    from serein.inference.batching import embedding_selection
    from serein.inference.prediction import Prediction
    from serein.inference.sources import id_of
    from serein.progress import Bars

    embedding_selection(predictor.checkpoint, task)
    embedded: list[Embedded] = []
    problems: list[str] = []
    with Bars() as bars:
        results = predictor.predict_files(files, segments=segments, on_error="return", embedding=task)
        for number, (source, result) in enumerate(zip(files, results, strict=True), start=1):
            if isinstance(result, Prediction) and len(result.embedding):
                embedded.append((source, result))
            else:
                problems.append(
                    f"{id_of(source)}: {result.rejected}" if isinstance(result, Prediction) else str(result)
                )
            bars("embedding", number, len(files), f"{len(files)} recordings")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return embedded, len(problems)


def _print_score(
    checkpoint: Checkpoint, embedded: Sequence[Embedded], threshold: float | None, *, as_json: bool
) -> None:
    """Print how well embeddings tell the named speakers apart."""
    from dataclasses import asdict

    import numpy as np

    from serein.data.protocols import speaker_key
    from serein.data.utterance import Utterance
    from serein.errors import ManifestError
    from serein.evaluation.verification import score_verification

    named = [
        (speaker_key(u), said.embedding) for u, said in embedded if isinstance(u, Utterance) and u.speaker is not None
    ]
    keys = [key for key, _ in named]
    vectors = np.stack([vector for _, vector in named]) if named else np.zeros((0, 1), np.float32)
    found = score_verification(vectors, keys, np.random.default_rng(0), threshold=threshold)
    if found is None:
        raise ManifestError(
            f"{len(named)} recordings name {len(set(keys))} speakers: two of one speaker and two speakers are needed",
            where="--score",
            remedy="Give a manifest with several clips of several speakers.",
        )
    known = set(keys) & set(checkpoint.training.get("speakers", ()))
    if as_json:
        print(json.dumps({**asdict(found), "model_threshold": threshold, "num_training_speakers": len(known)}))
        return
    drawn = "all" if found.num_same + found.num_different == found.num_possible else "drawn by seed 0 of all"
    print(
        f"{found.num_same} pairs of the same speaker and {found.num_different} of different ones, "
        f"{drawn} {found.num_possible}"
    )
    print(f"{found.num_speakers} speakers, {len(known)} of them in the model's training data")
    print(f"equal error rate {100 * found.equal_error_rate:.1f} % (at {found.threshold:.3f})")
    if found.misses is not None and found.false_alarms is not None:
        print(
            f"at the threshold {threshold:.3f}: {100 * found.misses:.1f} % of same-speaker pairs missed, "
            f"{100 * found.false_alarms:.1f} % of different-speaker pairs accepted"
        )
