"""The command line: parse, call, print, exit status. Results on stdout, complaints on stderr."""

from serein.cli import answers, corpora, experiments, fusion, neighbours, reproduce, words  # noqa: F401  (adds commands)
from serein.cli.app import app, main

__all__ = ["app", "main"]
