"""The command line: parse, call, print, exit status. Results on stdout, complaints on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serein.errors import SereinError

if TYPE_CHECKING:
    from serein.evaluation.scores import Scores
    from serein.inference.predictor import Answer

app = typer.Typer(
    name="serein",
    help="Speech emotion recognition: train, compare and trust models that hear emotions in speech.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
corpus = typer.Typer(help="Make and check manifests of recordings.", no_args_is_help=True)
app.add_typer(corpus, name="corpus")


class CorpusName(StrEnum):
    """Layouts that `corpus prepare` reads."""

    ravdess = "ravdess"
    emodb = "emodb"
    folder = "folder"
    csv = "csv"


Data = Annotated[Path, typer.Option("--data", help="Manifest (.jsonl).")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write.")]


_STOPPED = 130


def main() -> None:
    """Run the command line; every foreseeable failure is one line on stderr."""
    try:
        app(prog_name="serein")
    except SereinError as error:
        _fail(str(error))
    except SystemExit as stop:
        if stop.code == _STOPPED:  # typer's word for the keyboard's interrupt
            _fail("stopped by the keyboard. A run goes on with --resume.", _STOPPED)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        _fail(f"{error.filename2 or error.filename or 'system'}: {error.strerror or error}.")


def _fail(message: str, status: int = 1) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def _version(is_asked: bool) -> None:
    if is_asked:
        import serein

        print(f"serein {serein.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


# -- corpora --------------------------------------------------------------------------------------------------------


@corpus.command("prepare")
def corpus_prepare(
    name: Annotated[CorpusName, typer.Argument(help="The corpus, or a generic layout: 'folder', 'csv'.")],
    root: Annotated[Path, typer.Argument(help="Its folder (or the CSV file).")],
    out: Out = Path("manifest.jsonl"),
    partial: Annotated[bool, typer.Option("--partial", help="Accept fewer recordings than published.")] = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out broken files, listed.")] = False,
) -> None:
    """Read a corpus from its own layout and write a manifest."""
    from serein.data import manifest
    from serein.data.corpora import corpus_named
    from serein.data.corpora.corpus import prepare
    from serein.progress import Bars

    with Bars() as bars:
        prepared = prepare(
            corpus_named(name.value),
            root,
            counts="partial" if partial else "published",
            unreadable="skip" if skip_broken else "stop",
            on_progress=lambda done, total: bars("reading headers", done, total, f"{total} files"),
        )
    manifest.write(prepared.utterances, out)
    for path, reason in prepared.skipped:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    for note in prepared.notes:
        print(f"note: {note}", file=sys.stderr)
    skipped = f", {len(prepared.skipped)} skipped" if prepared.skipped else ""
    print(f"{out}: {len(prepared.utterances)} utterances{skipped}")


@corpus.command("synth")
def corpus_synth(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the recordings and the manifest.")],
    seed: Annotated[int, typer.Option(help="Another seed, other speakers.", min=0)] = 0,
    clips: Annotated[int, typer.Option(help="Clips of each speaker and emotion.", min=1)] = 10,
) -> None:
    """Make the embedded synthetic corpus: 10 speakers, 4 emotions, spoken by espeak-ng."""
    from serein.data import manifest
    from serein.data.corpora import synth
    from serein.progress import Bars

    with Bars() as bars:
        utterances = synth.build(
            out,
            seed=seed,
            clips_per_speaker_and_emotion=clips,
            on_progress=lambda done, total: bars("speaking", done, total, f"{total} clips"),
        )
    manifest.write(utterances, out / "manifest.jsonl")
    print(f"{out / 'manifest.jsonl'}: {len(utterances)} utterances")


@corpus.command("check")
def corpus_check(
    data: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest (.jsonl).")],
    min_s: Annotated[float, typer.Option(help="Shorter is too short.", min=0)] = 0.3,
    max_s: Annotated[float, typer.Option(help="Longer is too long.", min=0)] = 30.0,
    as_json: Json = False,
) -> None:
    """Decode every recording and say what is wrong with the data; exit status 1 when something must be mended."""
    from serein.data import manifest
    from serein.data.check import check
    from serein.progress import Bars

    utterances = manifest.read(data)
    with Bars() as bars:
        found = check(
            utterances,
            min_s=min_s,
            max_s=max_s,
            on_progress=lambda done, total: bars("listening", done, total, f"{total} clips"),
        )
    if as_json:
        print(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
    else:
        _print_tables(found.tables())
    if not found.is_sound:
        raise typer.Exit(1)


# -- experiments ----------------------------------------------------------------------------------------------------


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe (.yaml).")],
    data: Data,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder [runs/NAME-TIME].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Folds at once [as suits the model].", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Train, predict, score and report every fold and seed of a recipe."""
    from serein import recipe as recipes

    resolved = recipes.load(recipe, overrides or ())
    from serein import runs
    from serein.progress import Bars

    folder = out or runs.new_folder(resolved)

    with Bars() as bars:
        runs.run(resolved, data, folder, is_resumed=resume, num_jobs=jobs, report=bars)
    _finish(folder, as_json)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe (.yaml).")],
    data: Data,
    out: Out,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped training.")] = False,
) -> None:
    """Train one model on a manifest's train and dev."""
    from serein import recipe as recipes

    resolved = recipes.load(recipe, overrides or ())
    from serein import runs
    from serein.progress import Bars

    with Bars() as bars:
        folder = runs.train(resolved, data, out, is_resumed=resume, report=bars)
    print(folder)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder or Hub name.")],
    data: Data,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the predictions (.jsonl).")] = None,
    seen_speakers: Annotated[
        bool, typer.Option("--seen-speakers", help="Allow speakers that the model learned from.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score a model on a manifest that it never saw."""
    from serein.evaluation.predictions import write_predictions
    from serein.judging import judge
    from serein.progress import Bars

    with Bars() as bars:
        predictions, scores = judge(
            model,
            data,
            seen_speakers="allow" if seen_speakers else "refuse",
            on_progress=lambda done, total: bars("hearing", done, total, f"{total} clips"),
        )
    if out is not None:
        write_predictions(predictions, out)
    _print_scores(scores, as_json)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    as_json: Json = False,
) -> None:
    """Score a run folder again and write its report.html."""
    _finish(run, as_json)


def _finish(run: Path, as_json: bool) -> None:
    from serein.evaluation.report import write_report
    from serein.evaluation.scores import score_run, write_scores
    from serein.world import world

    if not world().is_first:
        return
    scores = score_run(run)
    write_scores(scores, run)
    path = write_report(run)
    _print_scores(scores, as_json)
    print(f"report: {path}", file=sys.stderr if as_json else sys.stdout)


# -- answers --------------------------------------------------------------------------------------------------------


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="Model folder or Hub name.")],
    sources: Annotated[list[Path], typer.Argument(metavar="FILE|FOLDER|MANIFEST...", help="Recordings.")],
    limit: Annotated[int | None, typer.Option(help="Hear so many of them, evenly spread.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per recording.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values.")] = False,
) -> None:
    """Say which emotions are heard in recordings; exit status 1 when any could not be heard."""
    from serein.inference.predictor import Answer, load
    from serein.inference.sources import evenly_spread, utterances_in

    utterances = utterances_in(sources)
    utterances = utterances if limit is None else evenly_spread(utterances, limit)
    predictor = load(model)
    answers: list[tuple[Answer, str | None]] = []
    num_failed = 0
    for utterance, outcome in zip(utterances, predictor.predict_each(utterances), strict=True):
        if isinstance(outcome, Answer):
            answers.append((outcome, utterance.emotion))
            if as_json:
                print(json.dumps(outcome.to_json(), ensure_ascii=False), flush=True)
        else:
            num_failed += 1
            print(f"error: {outcome}", file=sys.stderr)
    if as_csv:
        _print_csv([answer for answer, _ in answers], predictor.classes)
    elif not as_json and answers:
        _print_answers(answers, predictor.classes)
    if num_failed:
        print(f"{num_failed} of {len(utterances)} recordings could not be heard.", file=sys.stderr)
        raise typer.Exit(1)


def _print_csv(answers: Iterable[Answer], classes: tuple[str, ...]) -> None:
    import csv

    writer = csv.writer(sys.stdout)
    writer.writerow(["audio", "emotion", *classes])
    for answer in answers:
        writer.writerow([answer.audio, answer.emotion, *(f"{answer.shares[name]:.4f}" for name in classes)])


def _print_answers(answers: Sequence[tuple[Answer, str | None]], classes: tuple[str, ...]) -> None:
    from rich.table import Table

    has_label = any(label is not None for _, label in answers)

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("recording", overflow="fold")
    for name in ("labelled", "heard") if has_label else ("heard",):
        table.add_column(name, style="bold" if name == "heard" else None)
    for name in classes:
        table.add_column(name, justify="right")
    for answer, label in answers:
        shares = [f"{100 * answer.shares[name]:.0f} %" for name in classes]
        table.add_row(answer.audio, *([label or ""] if has_label else []), answer.emotion, *shares)
    _print_tables([table])


def _print_scores(scores: Scores, as_json: bool) -> None:
    from serein.evaluation.tables import scores_table

    if as_json:
        print(json.dumps(scores.to_json(), ensure_ascii=False, allow_nan=False))
    else:
        _print_tables([scores_table(scores)])


def _print_tables(tables: Iterable[Any]) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 140)
    for table in tables:
        console.print(table)


if __name__ == "__main__":
    main()
