"""The command line: parse, call, print, exit status. Results on stdout, complaints on stderr."""

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
