"""The command line: parse, call, print, exit status. Results go to stdout, errors and notes to stderr."""

from serein.cli import (  # noqa: F401  (adds commands)
    corpora,
    experiment,
    knn,
    models,
    predict,
    reproduce,
    serve,
    speech,
)
from serein.cli.app import app, main

__all__ = ["app", "main"]
