"""Recordings predicted in several processes that share the cores."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from serein.distributed import end_with_parent
from serein.errors import RunError
from serein.inference.predictor import Predictor, Source, load
from serein.inference.recording import PredictOptions

CLIPS_AT_ONCE = 32

_worker: tuple[Predictor, PredictOptions] | None = None  # of a process that `_start` made


def predict_in_processes(
    model: str | None,
    labels: Sequence[str] | None,
    files: Sequence[Source],
    options: PredictOptions,
    num_workers: int,
) -> Iterator[Any]:
    """Yield a prediction, or the error, for each file in order, as `Predictor.predict_files` does.

    Args:
        model: Is loaded in each process; `None` is the default model.
        labels: Words to use as classes, for a model of words.

    Raises:
        RunError: A process was killed.
    """
    parts = [files[i : i + CLIPS_AT_ONCE] for i in range(0, len(files), CLIPS_AT_ONCE)]
    num_threads = max(1, torch.get_num_threads() // num_workers)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, _start, (model, labels, options, num_threads))
    waiting: deque[Future[list[Any]]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(_predict_part, part))
            if len(waiting) > 2 * num_workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool:
        raise RunError(
            "a process was killed, perhaps because memory ran out",
            where="--workers",
            remedy="Use fewer; with --out, finished predictions are kept.",
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start(model: str | None, labels: Sequence[str] | None, options: PredictOptions, num_threads: int) -> None:
    """Load the model in a new process; it ends with its parent, which handles the keyboard interrupt."""
    global _worker
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(num_threads)
    predictor = load(model, "cpu")
    _worker = (predictor if labels is None else predictor.with_labels(labels), options)


def _predict_part(files: Sequence[Source]) -> list[Any]:
    assert _worker is not None
    predictor, options = _worker
    return list(predictor.predict_files(files, options=options, on_error="return"))
