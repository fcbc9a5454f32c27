"""Commands for words and their vectors."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serein.cli.app import MovedBackbone, Recordings, Segments, app, exit_if_unread, recordings_in

if TYPE_CHECKING:
    from serein.inference.prediction import Prediction
    from serein.text.word_vectors import Vocabulary

words = typer.Typer(help="Vocabularies of word vectors, and models that predict words.", no_args_is_help=True)
app.add_typer(words, name="words")

WordModel = Annotated[
    str, typer.Option("--model", "-m", help="Folder or Hub name of a model that predicts word vectors.")
]


@words.command("prepare")
def words_prepare(
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the vocabulary.")],
    source: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="GloVe text, word2vec text or binary; also .gz.")
    ] = None,
    sentence_transformer: Annotated[
        str | None,
        typer.Option("--sentence-transformer", metavar="NAME", help="Encode the words of this model's tokenizer."),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store float16: half the size, three digits.")] = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out and count wrong lines.")] = False,
) -> None:
    """Convert a file of word vectors, so that it opens fast and is searched fast."""
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
        "wrong lines left out": header.num_skipped,
        "with letters that are not UTF-8": header.num_mended,
    }
    notes = "".join(f", {count} {what}" for what, count in counts.items() if count)
    print(f"{out}: {header.num_words} words of {header.size} numbers{notes}")


@words.command("nearest")
def words_nearest(
    sources: Recordings,
    model: WordModel,
    k: Annotated[int, typer.Option("-k", help="Number of words.", min=1)] = 10,
    index: Annotated[
        Literal["exact", "faiss"], typer.Option(help="faiss is approximate; its index is built at the first use.")
    ] = "exact",
    segments: Segments = "auto",
    backbone: MovedBackbone = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each recording.")] = False,
) -> None:
    """Print the words of the vocabulary nearest to each recording.

    The exit status is 1 if any recording could not be read.
    """
    import numpy as np

    predictions, vocabulary, num_failed = _predict(model, sources, segments, backbone=backbone)
    if predictions:
        found, cosines = vocabulary.nearest(np.stack([prediction.embedding for prediction in predictions]), k, index)
        for prediction, near, values in zip(predictions, found, cosines, strict=True):
            if as_json:
                words = [{"word": word, "cosine": round(float(c), 6)} for word, c in zip(near, values, strict=True)]
                print(json.dumps({"file": prediction.file, "words": words}, ensure_ascii=False))
            else:
                print(f"{prediction.file}: {', '.join(f'{w} {c:.2f}' for w, c in zip(near, values, strict=True))}")
    exit_if_unread(num_failed)


@words.command("find")
def words_find(
    sources: Recordings,
    text: Annotated[
        str, typer.Option("--text", metavar="WORDS", help="What to search for, for instance 'tender sadness'.")
    ],
    model: WordModel,
    max_files: Annotated[
        int | None,
        typer.Option("--max-files", help="Print at most this many, the most similar first.", show_default="all", min=1),
    ] = None,
    segments: Segments = "auto",
    backbone: MovedBackbone = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each recording.")] = False,
) -> None:
    """Rank recordings by their similarity to free text.

    The exit status is 1 if any recording could not be read.
    """
    import numpy as np

    from serein.tasks.word_vectors import similarity

    predictions, vocabulary, num_failed = _predict(model, sources, segments, text, backbone=backbone)
    if predictions:
        cosines = similarity([prediction.embedding for prediction in predictions], text, vocabulary)
        for place in np.argsort(-cosines, kind="stable")[:max_files]:
            file, cosine = predictions[place].file, float(cosines[place])
            if as_json:
                print(json.dumps({"file": file, "cosine": round(cosine, 6)}, ensure_ascii=False))
            else:
                print(f"{cosine:6.3f}  {file}")
    exit_if_unread(num_failed)


def _predict(
    model: str, sources: Sequence[Path], segments: Segments, text: str | None = None, *, backbone: Path | None
) -> tuple[list[Prediction], Vocabulary, int]:
    """Return the predictions of a model of words, its vocabulary, and the number of unreadable recordings.

    A text that has no vector is refused before any prediction.
    """
    import numpy as np

    from serein.errors import ModelError
    from serein.inference.prediction import Prediction
    from serein.inference.predictor import load
    from serein.progress import Bars
    from serein.tasks.word_vectors import similarity

    predictor = load(model, backbone=backbone)
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
    predictions: list[Prediction] = []
    failed: list[str] = []
    with Bars() as bars:
        for number, result in enumerate(predictor.predict_files(files, segments=segments, on_error="return"), start=1):
            if isinstance(result, Prediction) and len(result.embedding):
                predictions.append(result)
            else:
                failed.append(f"{result.file}: {result.rejected}" if isinstance(result, Prediction) else str(result))
            bars("predicting", number, len(files), f"{len(files)} recordings")
    for problem in failed:
        print(f"error: {problem}", file=sys.stderr)
    return predictions, vocabulary, len(failed) + num_absent
