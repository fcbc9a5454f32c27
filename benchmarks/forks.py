"""`serein` in a process forked from one that has imported it, which starts at once and can be killed like any other."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from serein import cli
from serein.device import begin_worker, worker_context


def start(arguments: Sequence[object], *, out: Path, err: Path, folder: Path | None = None) -> BaseProcess:
    """Start the command line in its own process group, which ends with this process.

    Args:
        out: File for its stdout.
        err: File for its stderr.
        folder: Its working directory; `None` uses the current one.
    """
    context = worker_context("serein.experiment.run", "serein.reproduce.reproduction")
    given = (dict(os.environ), [*map(str, arguments)], out.absolute(), err.absolute(), folder or Path.cwd())
    process: BaseProcess = context.Process(target=_run, args=given)  # type: ignore[attr-defined]
    process.start()
    return process


def _run(environment: Mapping[str, str], arguments: list[str], out: Path, err: Path, folder: Path) -> None:
    os.setsid()
    begin_worker(environment)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    os.chdir(folder)
    sys.argv = ["serein", *arguments]
    cli.main()
