"""Commands about words and their vectors."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serein.cli.app import app

if TYPE_CHECKING:
    from serein.errors import AudioError
    from serein.inference.predictor import Prediction
    from serein.labels.vocabulary import Vocabulary

words = typer.Typer(help="Vocabularies of word vectors, and what models say in words.", no_args_is_help=True)
app.add_typer(words, name="words")


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
    half: Annotated[bool, typer.Option("--half", help="Store float16: half the size, 3 digits.")] = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out wrong lines, counted.")] = False,
) -> None:
    """Store a file of word vectors once, so that it opens at once and is searched quickly."""
    from serein.labels.preparing import prepare, prepare_encoder
    from serein.progress import Bars

    if (source is None) == (sentence_transformer is None):
        raise typer.BadParameter("name a file, or --sentence-transformer", param_hint="'FILE'")
    with Bars() as bars:

        def on_progress(what: str, done: int, total: int) -> None:
            bars(what, done, total, _amount(total) if what == "reading" else f"{total} words")

        if sentence_transformer is not None:
            header = prepare_encoder(sentence_transformer, out, on_progress)
        else:
            header = prepare(
                source or "",
                out,
                on_progress,
                dtype="float16" if half else "float32",
                broken="skip" if skip_broken else "stop",
            )
    counts = {
        "that came again left out": header.num_duplicates,
        "wrong lines left out": header.num_skipped,
        "with letters that are no UTF-8": header.num_mended,
    }
    notes = "".join(f", {count} {what}" for what, count in counts.items() if count)
    print(f"{out}: {header.num_words} words of {header.size} numbers{notes}")


def _amount(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


class IndexName(StrEnum):
    """Ways to search a vocabulary."""

    exact = "exact"
    faiss = "faiss"


@words.command("nearest")
def words_nearest(
    model: Annotated[str, typer.Argument(help="Folder or Hub name of a model of words.")],
    sources: Annotated[list[Path], typer.Argument(metavar="FILE|FOLDER|MANIFEST...", help="Recordings.")],
    k: Annotated[int, typer.Option("-k", help="How many words.", min=1)] = 10,
    index: Annotated[
        IndexName, typer.Option(help="'faiss' may miss some; its index is built at the first use.")
    ] = IndexName.exact,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per recording.")] = False,
) -> None:
    """Say which words of the vocabulary are nearest to what is heard; exit status 1 when any could not be heard."""
    import numpy as np

    heard, vocabulary, num_failed = _heard(model, sources)
    if heard:
        found, cosines = vocabulary.nearest(np.stack([answer.embedding for answer in heard]), k, index.value)
        for answer, near, values in zip(heard, found, cosines, strict=True):
            if as_json:
                words = [{"word": word, "cosine": round(float(c), 6)} for word, c in zip(near, values, strict=True)]
                print(json.dumps({"audio": answer.audio, "words": words}, ensure_ascii=False))
            else:
                print(f"{answer.audio}: {', '.join(f'{w} {c:.2f}' for w, c in zip(near, values, strict=True))}")
    _finish(num_failed)


@words.command("find")
def words_find(
    model: Annotated[str, typer.Argument(help="Folder or Hub name of a model of words.")],
    text: Annotated[str, typer.Argument(help="What to listen for: 'tender sadness'.")],
    sources: Annotated[list[Path], typer.Argument(metavar="FILE|FOLDER|MANIFEST...", help="Recordings.")],
    limit: Annotated[int | None, typer.Option(help="Show so many of the nearest.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per recording.")] = False,
) -> None:
    """Rank recordings by how near they sound to free text; exit status 1 when any could not be heard."""
    import numpy as np

    from serein.inference.words import similarity

    heard, vocabulary, num_failed = _heard(model, sources, text)
    if heard:
        cosines = similarity([answer.embedding for answer in heard], text, vocabulary)
        for place in np.argsort(-cosines, kind="stable")[:limit]:
            audio, cosine = heard[place].audio, float(cosines[place])
            if as_json:
                print(json.dumps({"audio": audio, "cosine": round(cosine, 6)}, ensure_ascii=False))
            else:
                print(f"{cosine:6.3f}  {audio}")
    _finish(num_failed)


def _heard(model: str, sources: Sequence[Path], text: str | None = None) -> tuple[list[Prediction], Vocabulary, int]:
    """Return what a model of words hears, its vocabulary, and how many recordings could not be heard.

    A text that has no vector is refused before anything is heard.
    """
    import numpy as np

    from serein.inference.predictor import Prediction, load
    from serein.inference.sources import utterances_in
    from serein.inference.words import similarity, vocabulary_of_model
    from serein.progress import Bars

    predictor = load(model)
    vocabulary = vocabulary_of_model(predictor)
    if text is not None:
        similarity([np.zeros(vocabulary.size, np.float32)], text, vocabulary)
    utterances = utterances_in(sources)
    heard: list[Prediction] = []
    failed: list[AudioError] = []
    with Bars() as bars:
        for number, outcome in enumerate(predictor.predict_each(utterances), start=1):
            if isinstance(outcome, Prediction):
                heard.append(outcome)
            else:
                failed.append(outcome)
            bars("hearing", number, len(utterances), f"{len(utterances)} recordings")
    for problem in failed:
        print(f"error: {problem}", file=sys.stderr)
    return heard, vocabulary, len(failed)


def _finish(num_failed: int) -> None:
    if num_failed:
        print(f"{num_failed} recordings could not be heard.", file=sys.stderr)
        raise typer.Exit(1)
