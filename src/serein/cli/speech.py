"""Commands for speech content and speakers: transcripts, speaker verification, embeddings, word vectors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serein.cli.app import (
    CommandGroup,
    Device,
    Json,
    Model,
    MovedBackbone,
    Recordings,
    Segments,
    app,
    exit_if_unread,
    print_json,
    print_tables,
    recordings_in,
)
from serein.errors import counted, imported

if TYPE_CHECKING:
    from serein.checkpoint import Checkpoint
    from serein.data.manifest import Utterance
    from serein.inference.prediction import Prediction
    from serein.inference.predictor import Predictor
    from serein.inference.sources import Source
    from serein.text.word_vectors import Vocabulary

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
    language: Annotated[
        str | None, typer.Option(help="Spoken language, for Whisper.", show_default="each utterance's own")
    ] = None,
    device: Device = "auto",
    backbone: MovedBackbone = None,
    as_json: Json = False,
) -> None:
    """Transcribe recordings; for manifests with transcripts, also print the word error rate.

    With --json the word error rate goes to stderr. The exit status is 1 if any recording could not be read.
    """
    from serein.errors import AudioError
    from serein.evaluation.predictions import EvalPrediction
    from serein.evaluation.task_scores import score_transcripts
    from serein.inference.transcription import transcribe_with
    from serein.tasks.ctc import normalised

    files, num_failed = recordings_in(sources)
    num_all = len(files) + num_failed
    transcripts: list[Transcript] = []
    for utterance, text in transcribe_with(model, files, language=language, device=device, backbone=backbone):
        if isinstance(text, AudioError):
            num_failed += 1
            print(f"error: {text}", file=sys.stderr)
            continue
        transcripts.append((utterance, text))
        if as_json:
            known = {} if utterance.transcript is None else {"truth": utterance.transcript}
            own = {} if utterance.id == utterance.audio else {"id": utterance.id}
            print_json({"file": utterance.audio, **own, "transcript": text, **known})
    if transcripts and not as_json:
        from rich.table import Table
        from rich.text import Text

        has_truth = any(utterance.transcript for utterance, _ in transcripts)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("recording", *(["truth"] if has_truth else []), "prediction"):
            table.add_column(name, overflow="fold", style="bold" if name == "prediction" else None)
        for utterance, text in transcripts:
            truth = [Text(utterance.transcript or "")] if has_truth else []
            table.add_row(Text(utterance.id), *truth, Text(text))
        print_tables([table])
    rows = [
        EvalPrediction(id=u.id, truth=u.transcript, prediction=text, speaker=u.speaker, corpus=u.corpus)
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
            *(scores.notes if bounds else ()),
            sep="\n",
            file=sys.stderr if as_json else sys.stdout,
        )
    exit_if_unread(num_failed, num_all)


@app.command()
def verify(
    sources: Recordings,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Folder or Hub name of a model trained on speaker recognition.")
    ],
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Minimum cosine of two recordings of the same speaker.",
            show_default="the model's, from its dev set",
            min=-1,
            max=1,
        ),
    ] = None,
    segments: Segments = "auto",
    is_scored: Annotated[
        bool, typer.Option("--score", help="Print error rates; requires manifests with speakers.")
    ] = False,
    device: Device = "auto",
    backbone: MovedBackbone = None,
    as_json: Json = False,
) -> None:
    """Decide for each pair of recordings whether they have the same speaker.

    The exit status is 1 if any recording could not be read.
    """
    from rich.table import Table

    from serein.evaluation.verification import MOST_TRIALS, speaker_pairs
    from serein.inference.predictor import load
    from serein.inference.sources import utterance_of

    files, num_absent = recordings_in(sources)
    if len(files) < 2:
        raise typer.BadParameter("name at least two recordings", param_hint="'FILE|FOLDER|MANIFEST...'")
    if not is_scored and (num_pairs := len(files) * (len(files) - 1) // 2) > MOST_TRIALS:
        what = (
            f"{len(files):,} recordings are {num_pairs:,} pairs, more than {MOST_TRIALS:,}; use --score or serein embed"
        )
        raise typer.BadParameter(what, param_hint="'FILE|FOLDER|MANIFEST...'")
    predictor = load(model, device, backbone=backbone)
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
        [utterance_of(source).id for source, _ in embedded], [said.embedding for _, said in embedded], threshold
    )
    if as_json:
        result: dict[str, object] = {"threshold": threshold, "pairs": [pair.to_json() for pair in pairs]}
        if checkpoint.verification is not None:
            result["threshold_from"] = checkpoint.verification.model_dump()
        print_json(result)
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
            "The model has no threshold because its dev set has too few clips per speaker; only cosines are printed. "
            "Set one with --threshold.",
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
            "--out", "-o", help="Output path; its suffix sets the format: .safetensors .npz .npy .parquet .csv."
        ),
    ] = Path("embeddings.safetensors"),
    task: Annotated[
        str | None,
        typer.Option(
            help="Task whose embedding to write: 'emotion', 'speaker', ...; or 'fused'.", show_default="the main task"
        ),
    ] = None,
    segments: Segments = "auto",
    device: Device = "auto",
    backbone: MovedBackbone = None,
) -> None:
    """Write the embeddings of recordings, with their ids and times.

    The exit status is 1 if any recording could not be read.
    """
    from serein.data.files import require_suffix
    from serein.inference.predictor import load
    from serein.inference.writers import EMBEDDING_SUFFIXES, write_embeddings

    require_suffix(out, EMBEDDING_SUFFIXES)
    if out.suffix.lower() == ".parquet":
        imported("pyarrow", "hub")  # fail now, not after an hour
    files, num_absent = recordings_in(sources)
    predictor = load(model, device, backbone=backbone)
    embedded, num_failed = _embed(predictor, files, task, segments)
    if embedded:
        predictions, name = [prediction for _, prediction in embedded], task or predictor.checkpoint.task
        write_embeddings(predictions, out, {"task": name, "model": model})
        print(f"{out}: {counted(len(embedded), 'embedding')} of {len(predictions[0].embedding)} numbers ({name})")
    exit_if_unread(num_failed + num_absent, len(files) + num_absent)


def _embed(
    predictor: Predictor, files: Sequence[Source], task: str | None, segments: Segments
) -> tuple[list[Embedded], int]:
    """Return the predictions of readable recordings with speech, with embeddings, and the number of the others."""
    from serein.inference.batching import embedding_selection
    from serein.inference.prediction import Prediction
    from serein.inference.sources import utterance_of
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
                    f"{utterance_of(source).id}: {result.rejected}" if isinstance(result, Prediction) else str(result)
                )
            bars("embedding", number, len(files), counted(len(files), "recording"))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return embedded, len(problems)


def _print_score(
    checkpoint: Checkpoint, embedded: Sequence[Embedded], threshold: float | None, *, as_json: bool
) -> None:
    """Print how well the embeddings distinguish the named speakers."""
    from dataclasses import asdict

    import numpy as np

    from serein.data.manifest import Utterance
    from serein.data.protocols import speaker_key
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
            f"{len(named)} recordings name {len(set(keys))} speakers, but two speakers are needed, one of them twice",
            where="--score",
            remedy="Give a manifest with several clips of several speakers.",
        )
    known = set(keys) & set(checkpoint.training.get("speakers", ()))
    if as_json:
        print_json({**asdict(found), "model_threshold": threshold, "num_training_speakers": len(known)})
        return
    drawn = "all" if found.num_same + found.num_different == found.num_possible else "drawn with seed 0 from all"
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


words = typer.Typer(
    cls=CommandGroup, help="Vocabularies of word vectors, and models that predict words.", no_args_is_help=True
)
app.add_typer(words, name="words")

WordModel = Annotated[
    str, typer.Option("--model", "-m", help="Folder or Hub name of a model that predicts word vectors.")
]


@words.command("prepare")
def words_prepare(
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the vocabulary.")],
    source: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="GloVe text, word2vec text or binary; also .gz.")
    ] = None,
    sentence_transformer: Annotated[
        str | None,
        typer.Option("--sentence-transformer", metavar="NAME", help="Encode the words of this model's tokenizer."),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store float16: half the size, three digits.")] = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Skip and count malformed lines.")] = False,
) -> None:
    """Convert a file of word vectors into a vocabulary that is fast to open and to search."""
    from serein.progress import Bars
    from serein.text.word_vectors import prepare, prepare_encoder

    if (source is None) == (sentence_transformer is None):
        raise typer.BadParameter("name a file, or --sentence-transformer", param_hint="'FILE'")
    with Bars() as bars:

        def on_progress(what: str, done: int, total: int) -> None:
            size = f"{total / 1e9:.1f} GB" if total >= 1e8 else f"{total / 1e6:.1f} MB"
            bars(what, done, total, size if what == "reading" else f"{total} words")

        if sentence_transformer is not None:
            header = prepare_encoder(sentence_transformer, out, on_progress)
        else:
            header = prepare(
                source or "",
                out,
                on_progress,
                dtype="float16" if half else "float32",
                on_error="skip" if skip_broken else "stop",
            )
    counts = {
        "duplicates left out": header.num_duplicates,
        "malformed lines skipped": header.num_skipped,
        "with characters that are not UTF-8": header.num_mended,
    }
    notes = "".join(f", {count} {what}" for what, count in counts.items() if count)
    print(f"{out}: {header.num_words} words of {header.size} numbers{notes}")


@words.command("nearest")
def words_nearest(
    sources: Recordings,
    model: WordModel,
    k: Annotated[int, typer.Option("-k", help="Number of words.", min=1)] = 10,
    index: Annotated[
        Literal["exact", "faiss"], typer.Option(help="faiss is approximate; its index is built on first use.")
    ] = "exact",
    segments: Segments = "auto",
    device: Device = "auto",
    backbone: MovedBackbone = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each recording.")] = False,
) -> None:
    """Print the words of the vocabulary nearest to each recording.

    The exit status is 1 if any recording could not be read.
    """
    import numpy as np

    predictions, vocabulary, num_failed = _word_vectors(model, sources, segments, device=device, backbone=backbone)
    if predictions:
        found, cosines = vocabulary.nearest(np.stack([prediction.embedding for prediction in predictions]), k, index)
        for prediction, near, values in zip(predictions, found, cosines, strict=True):
            if as_json:
                words = [{"word": word, "cosine": round(float(c), 6)} for word, c in zip(near, values, strict=True)]
                print_json({"file": prediction.file, "words": words})
            else:
                print(f"{prediction.file}: {', '.join(f'{w} {c:.2f}' for w, c in zip(near, values, strict=True))}")
    exit_if_unread(num_failed)


@words.command("find")
def words_find(
    sources: Recordings,
    text: Annotated[
        str, typer.Option("--text", metavar="WORDS", help="Text to search for, for example 'tender sadness'.")
    ],
    model: WordModel,
    max_files: Annotated[
        int | None,
        typer.Option(
            "--max-files", help="Print at most this many recordings, most similar first.", show_default="all", min=1
        ),
    ] = None,
    segments: Segments = "auto",
    device: Device = "auto",
    backbone: MovedBackbone = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each recording.")] = False,
) -> None:
    """Rank recordings by their similarity to free text.

    The exit status is 1 if any recording could not be read.
    """
    import numpy as np

    from serein.tasks.word_vectors import similarity

    predictions, vocabulary, num_failed = _word_vectors(
        model, sources, segments, text, device=device, backbone=backbone
    )
    if predictions:
        cosines = similarity([prediction.embedding for prediction in predictions], text, vocabulary)
        for place in np.argsort(-cosines, kind="stable")[:max_files]:
            file, cosine = predictions[place].file, float(cosines[place])
            if as_json:
                print_json({"file": file, "cosine": round(cosine, 6)})
            else:
                print(f"{cosine:6.3f}  {file}")
    exit_if_unread(num_failed)


def _word_vectors(
    model: str,
    sources: Sequence[Path],
    segments: Segments,
    text: str | None = None,
    *,
    device: str,
    backbone: Path | None,
) -> tuple[list[Prediction], Vocabulary, int]:
    """Return the predictions of a model of words, its vocabulary, and the number of unreadable recordings.

    A text without a vector raises an error before any prediction.
    """
    import numpy as np

    from serein.errors import ModelError
    from serein.inference.predictor import load
    from serein.tasks.word_vectors import similarity

    predictor = load(model, device, backbone=backbone)
    vocabulary = predictor.checkpoint.tasks[predictor.task].vocabulary
    if vocabulary is None:
        raise ModelError(
            f"has the fixed classes {', '.join(predictor.classes)} and predicts no word vectors",
            where="--model",
            remedy="Choose a model whose task is 'words'.",
        )
    if text is not None:
        similarity([np.zeros(vocabulary.size, np.float32)], text, vocabulary)
    files, num_absent = recordings_in(sources)
    embedded, num_failed = _embed(predictor, files, None, segments)
    return [prediction for _, prediction in embedded], vocabulary, num_failed + num_absent
