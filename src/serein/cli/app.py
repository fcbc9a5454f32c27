"""The program: its commands, error messages and exit status, and the options and tables that commands share."""

from __future__ import annotations

import codecs
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from serein.allocator import keep_freed_memory
from serein.errors import SereinError

if TYPE_CHECKING:
    from serein.evaluation.intervals import Difference
    from serein.evaluation.scores import Scores, TaskScore
    from serein.inference.recording import SlidingWindow
    from serein.inference.sources import Source

_STOPPED = 130
_INTERRUPTED = "interrupted from the keyboard. Continue a run with --resume, and predict --out with the same command."
# One group per line: use a model; deploy it; train and evaluate; data and the rest.
ORDER = (
    *("predict", "models", "stream", "embed", "serve", "transcribe", "verify"),
    *("adapt", "export", "benchmark", "bundle", "merge"),
    *("train", "run", "evaluate", "compare", "report", "robustness", "cross-corpus", "ensemble", "reproduce"),
    *("corpus", "knn", "words", "cache", "push"),
)


class CommandGroup(TyperGroup):
    """Commands, listed with the first sentence of their help."""

    def format_commands(self, context: Any, formatter: Any) -> None:
        """Write each first sentence in full; click would truncate it."""
        commands = [(name, self.commands[name]) for name in self.list_commands(context)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(1000)) for name, each in commands if not each.hidden])


class Commands(CommandGroup):
    """The commands of the program, listed in the order of `ORDER`."""

    def list_commands(self, context: Any) -> list[str]:
        """Return the command names; those missing from `ORDER` come last."""
        return sorted(self.commands, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


class Notes(logging.Handler):
    """Prints the package's log messages on stderr, each only once, such as the device that a model runs on."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, above any progress bars, which replace `sys.stderr`."""
        if (message := record.getMessage()) not in self.printed:
            self.printed.add(message)
            print(f"note: {message}", file=sys.stderr, flush=True)


app = typer.Typer(
    name="serein",
    cls=Commands,
    help="Speech emotion recognition: train, compare and use models that recognise emotions in speech.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # brackets in help texts are shown as they are
)
corpus = typer.Typer(cls=CommandGroup, help="Create and check manifests of recordings.", no_args_is_help=True)
app.add_typer(corpus, name="corpus")


def main() -> None:
    """Run the command line, and report every foreseeable failure as one line on stderr."""
    keep_freed_memory()
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115  (closed by the caller, `<&-`: nothing to read)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  (closed by the caller, `>&-`; otherwise,
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  other files would get their descriptors)
    codecs.register_error("json", _json_escapes)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (stream.encoding or "").lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="json")  # the terminal's encoding may lack a character
    package = logging.getLogger("serein")
    package.setLevel(logging.INFO)
    package.handlers, package.propagate = [Notes()], False  # a library may set up the root logger
    for before, given in pairwise(sys.argv):
        if not given.strip() or (given.startswith("--") and given.endswith("=")):
            _fail(f"{given.strip() or 'an argument'} is empty, after '{before}'. Give it a value, or leave it out.", 2)
    is_interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal is_interrupted
        is_interrupted = True
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        app(prog_name="serein")
    except SereinError as error:
        _fail(str(error))
    except SystemExit as stop:
        if stop.code == _STOPPED:  # typer's status of a keyboard interrupt
            _fail(_INTERRUPTED, _STOPPED)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except IsADirectoryError as error:
        _fail(f"{error.filename2 or error.filename}: is a folder. Name a file to write to.")
    except OSError as error:
        _fail(f"{error.filename2 or error.filename or 'system'}: {error.strerror or error}.")
    except Exception:
        if is_interrupted:  # compiled code may replace a KeyboardInterrupt by an error of its own
            _fail(_INTERRUPTED, _STOPPED)
        raise


def _json_escapes(error: UnicodeError) -> tuple[str, int]:
    r"""Return the characters that an encoding lacks as JSON may contain them, `\u00f6`, not as `\xf6`."""
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def _fail(message: str, status: int = 1) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def print_version(is_asked: bool) -> None:
    """Print the version and exit, if requested."""
    if is_asked:
        import serein

        print(f"serein {serein.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


LabelMapFile = Annotated[
    Path | None,
    typer.Option("--map", metavar="YAML", help="File that renames labels, one per line: 'Angry: anger'."),
]
Metric = Literal["ua", "wa", "macro_f1"]
Split = Literal["test", "dev"]

AllowSeenSpeakers = Annotated[
    bool, typer.Option("--allow-seen-speakers", help="Allow speakers that the model was trained on.")
]
Classes = Annotated[
    Literal["model", "corpus"],
    typer.Option(help="Classes that may be predicted: all classes of the model, or only those in the manifest."),
]
Data = Annotated[Path, typer.Option("--data", help="Manifest (.jsonl).")]
MovedBackbone = Annotated[
    Path | None,
    typer.Option(
        "--backbone", metavar="FOLDER", help="Current folder of the model's pretrained backbone, if it has moved."
    ),
]
DefaultModel = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Model folder, Hub name or exported file.", show_default="the default model"),
]
Device = Annotated[str, typer.Option(help="Device to run the model on: auto, cpu, cuda, cuda:1 or mps.")]
Runtime = Annotated[
    Literal["torch", "onnx", "openvino"] | None,
    typer.Option(
        "--runtime",
        help="Runtime of the network; onnx and openvino need a file written by serein export.",
        show_default="onnx for a .onnx file, else torch",
    ),
]
Precision = Annotated[
    Literal["float32", "bfloat16"] | None,
    typer.Option(
        help="Precision of the network; bfloat16 is faster if the processor or GPU supports it.",
        show_default="the model's",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Model folder or Hub name.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the recipe; may be repeated."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Output path.")]
Prior = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CLASS=PROBABILITY",
        help="Expected frequency of a class in the recordings; the others divide the rest; may be repeated.",
        show_default="all classes equally frequent",
    ),
]


def priors_of(options: Sequence[str] | None) -> dict[str, float]:
    """Return the class and the probability of each `--prior`."""
    priors = {}
    for each in options or ():
        name, _, probability = each.partition("=")
        try:
            value = float(probability)
        except ValueError:
            raise typer.BadParameter(f"'{each}' is not CLASS=PROBABILITY", param_hint="'--prior'") from None
        if name.strip() in priors:
            raise typer.BadParameter(f"'{name.strip()}' is given twice", param_hint="'--prior'")
        priors[name.strip()] = value
    return priors


def not_a_table(out: Path | None) -> Path | None:
    """Return the file for a manifest or predictions; the suffix of a table is an error.

    Raises:
        BadParameter: It has one.
    """
    from serein.data.manifest import TABLE_SUFFIXES

    if out is not None and out.suffix.lower() in TABLE_SUFFIXES:
        raise typer.BadParameter(f"{out} would contain JSON lines; name a .jsonl file", param_hint="'--out'")
    return out


ManifestOut = Annotated[Path, typer.Option("--out", "-o", help="Output path.", callback=not_a_table)]
Recordings = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE|FOLDER|PATTERN|LIST|MANIFEST|-...",
        help="Recordings; - reads a recording or a list of recordings from stdin.",
    ),
]
Task = Annotated[
    str | None,
    typer.Option("--task", help="Train only this task, for example 'gender'.", show_default="the recipe's tasks"),
]
Segments = Annotated[
    Literal["auto", "always", "never"],
    typer.Option(
        "--segments",
        help="Which recordings to cut into segments of speech; auto: all except the utterances of a manifest.",
    ),
]

Window = Annotated[
    float | None,
    typer.Option(
        "--window", metavar="SECONDS", help="Length of the windows that speech is cut into.", show_default="3"
    ),
]
Step = Annotated[
    float | None,
    typer.Option(
        "--step",
        metavar="SECONDS",
        help="Time from the start of one window to the start of the next.",
        show_default="half a window",
    ),
]
MinConfidence = Annotated[
    float,
    typer.Option(
        "--min-confidence", metavar="PROBABILITY", help="Reject predictions with a lower confidence.", min=0, max=1
    ),
]
MinDuration = Annotated[
    float, typer.Option("--min-duration", metavar="SECONDS", help="Reject predictions based on less speech.", min=0)
]


def finish(run: Path, as_json: bool) -> None:
    """Score a run folder, write its report, and print the scores."""
    from serein.device import distributed_info
    from serein.evaluation.predictions import read_specs
    from serein.evaluation.report import write_report
    from serein.evaluation.scores import score_run, write_scores
    from serein.evaluation.task_scores import task_scores

    if not distributed_info().is_first:
        return
    tasks = tuple(task_scores(run))
    scores = replace(score_run(run), tasks=tasks) if read_specs(run)[0].has_classes else tasks
    write_scores(scores, run)
    path = write_report(run)
    print_scores(scores, as_json)
    print(f"report: {path}", file=sys.stderr if as_json else sys.stdout)


def print_scores(scores: Scores | Sequence[TaskScore], as_json: bool) -> None:
    """Print the scores of a classification, or of all tasks, as tables or as one JSON object."""
    from serein.evaluation.graded import graded_rows, one_more_rater
    from serein.evaluation.scores import Scores
    from serein.evaluation.tables import scores_table, table_of, tasks_table

    tasks = scores.tasks if isinstance(scores, Scores) else scores
    if as_json:
        content = scores.to_json() if isinstance(scores, Scores) else {"tasks": {s.task: s.to_json() for s in scores}}
        print_json(content)
        return
    if isinstance(scores, Scores):
        print_tables([scores_table(scores)])
        if rows := graded_rows(scores.distribution):
            table = table_of("Distributions of raters", ("score", "pooled", "95 % interval"), rows)
            table.caption, table.caption_justify = one_more_rater(scores.distribution) or None, "left"
            print_tables([table])
    if tasks:
        print_tables([tasks_table(tasks)])


def print_json(content: Any, *, indent: int | None = None) -> None:
    """Print the result of a command as JSON, in one line unless `indent` is given."""
    print(json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False), flush=True)


def print_tables(tables: Iterable[Any]) -> None:
    """Print rich tables."""
    from rich.console import Console

    # tables in files do not wrap; a label such as [laugh] is not markup
    console = Console(width=None if sys.stdout.isatty() else 10_000, markup=False, emoji=False)
    for table in tables:
        console.print(table)


def sliding_window_of(window_s: float | None, step_s: float | None) -> SlidingWindow:
    """Return a sliding window; its step is half its length unless it is given."""
    from serein.inference.recording import SLIDING_WINDOW, SlidingWindow

    length_s = SLIDING_WINDOW.window_s if window_s is None else window_s
    return SlidingWindow(length_s, length_s / 2 if step_s is None else step_s)


def points_of(found: Difference, score: str) -> str:
    """Return the difference of a score in points, with its interval, as text."""
    points = f"{100 * found.difference:+.1f} points of {score}"
    if found.interval is None:
        return f"{points} (no interval: {found.resampled})"
    low, high = (100 * bound for bound in found.interval)
    return f"{points}, 95 % interval [{low:+.1f}, {high:+.1f}] over {found.resampled}"


def recordings_in(names: Sequence[Path]) -> tuple[list[Source], int]:
    """Return the named recordings and the number of names without any, whose errors are printed on stderr.

    Raises:
        typer.Exit: No name contains a recording.
    """
    from serein.inference.sources import sources_in

    errors: list[SereinError] = []
    sources = sources_in(names, errors=errors)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if errors and not sources:
        raise typer.Exit(1)
    return sources, len(errors)


def require_confidence(min_confidence: float, classes: Sequence[str]) -> None:
    """Refuse a minimum confidence for a model without classes, whose predictions have no confidence.

    Raises:
        BadParameter: There is a minimum, and there are no classes.
    """
    if min_confidence and not classes:
        what = "the model predicts no classes, so its predictions have no confidence; leave it out"
        raise typer.BadParameter(what, param_hint="'--min-confidence'")


def exit_if_unread(num_failed: int, num_all: int | None = None) -> None:
    """Print how many recordings could not be read, and exit with status 1 if there are any."""
    if num_failed:
        of_all = "" if num_all is None else f" of {num_all}"
        print(f"{num_failed}{of_all} recordings could not be read.", file=sys.stderr)
        raise typer.Exit(1)
