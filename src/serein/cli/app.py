"""The program: its commands, errors and exit status."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from serein.errors import SereinError

_STOPPED = 130

app = typer.Typer(
    name="serein",
    help="Speech emotion recognition: train, compare and use models that recognise emotions in speech.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # brackets in help texts are shown as they are
)
corpus = typer.Typer(help="Make and check manifests of recordings.", no_args_is_help=True)
app.add_typer(corpus, name="corpus")


def main() -> None:
    """Run the command line; every foreseeable failure is one line on stderr."""
    try:
        app(prog_name="serein")
    except SereinError as error:
        _fail(str(error))
    except SystemExit as stop:
        if stop.code == _STOPPED:  # typer's status of a keyboard interrupt
            _fail("stopped by the keyboard. Continue a run with --resume.", _STOPPED)
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
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
