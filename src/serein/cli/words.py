"""Commands about words and their vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serein.cli.app import app

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
