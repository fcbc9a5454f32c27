"""Folds side by side: one process each, which ends with its parent."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from serein.data.splits import Fold
from serein.distributed import begin_worker, without_interrupt, worker_context
from serein.errors import RunError
from serein.experiment.data import Experiment, prepare
from serein.experiment.fold import run_fold
from serein.progress import Report
from serein.recipe import Recipe

_experiment: Experiment | None = None
_messages: Any = None


def run_parallel(
    experiment: Experiment, out: Path, fold_runs: list[tuple[Fold, int]], num_jobs: int, report: Report
) -> None:
    """Run units in `num_jobs` processes, each with its share of the cores.

    Raises:
        SereinError: The first that any unit raised; the others are stopped, and can be resumed.
        RunError: A process ended by itself.
    """
    # glibc in the children keeps what a batch frees for the next: 5 to 15 % faster
    for name, size in (("MMAP_THRESHOLD", 2 << 30), ("TRIM_THRESHOLD", 8 << 30), ("TOP_PAD", 256 << 20)):
        os.environ.setdefault(f"MALLOC_{name}_", str(size - 1))
    context = worker_context(__name__)
    messages = context.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(messages, report), daemon=True)
    listener.start()
    threads = max(1, torch.get_num_threads() // num_jobs)  # not by what is left to do: a sum's last bits hang on it
    num_processes = min(num_jobs, len(fold_runs))
    origin = (experiment.recipe, experiment.manifest, experiment.shared, experiment.device)
    pool = ProcessPoolExecutor(num_processes, context, _start, (dict(os.environ), origin, messages, threads))
    try:
        with without_interrupt():
            futures = [pool.submit(_run, fold.name, seed, out) for fold, seed in fold_runs]
        for future in as_completed(futures):
            future.result()
    except BaseException as error:
        for process in list((pool._processes or {}).values()):
            process.kill()  # every file is whole or not there; a gentler signal could wait for a lock of a dead one
        if isinstance(error, BrokenProcessPool):
            raise RunError(
                "a training process was ended from outside, perhaps for want of memory",
                where=out,
                remedy="Go on with --resume, and fewer --jobs.",
            ) from None
        raise
    else:
        messages.put(None)
        listener.join(timeout=5)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _listen(messages: Any, report: Report) -> None:
    while (message := messages.get()) is not None:
        report(*message)


def _start(
    environment: dict[str, str], origin: tuple[Recipe, Path, Path | None, str], messages: Any, threads: int
) -> None:
    global _experiment, _messages
    begin_worker(environment)
    torch.set_num_threads(threads)
    _messages = messages
    recipe, manifest, shared, device = origin
    _experiment = prepare(recipe, manifest, lambda *progress: None)
    _experiment.shared, _experiment.device = shared, device


def _run(fold_name: str, seed: int, out: Path) -> None:
    assert _experiment is not None
    fold = next(fold for fold in _experiment.folds.folds if fold.name == fold_name)
    run_fold(_experiment, fold, seed, out, lambda *progress: _messages.put(progress))
