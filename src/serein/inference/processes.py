"""Prediction in several processes, each with a model of its own."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from serein.distributed import end_with_parent
from serein.errors import RunError
from serein.inference.predictor import Predictor, load
from serein.inference.recording import PredictOptions
from serein.inference.runtimes import RuntimeName
from serein.inference.sources import Source

CLIPS_AT_ONCE = 32  # that a process predicts

_worker: tuple[Predictor, PredictOptions] | None = None  # of a process that `_start` made


def load_for(
    model: str | None,
    runtime: RuntimeName | None = None,
    *,
    device: str,
    backbone: Path | None = None,
    task: str | None = None,
    labels: Sequence[str] | None = None,
) -> Predictor:
    """Load a model for one of its tasks, or with words as its classes; see `load`, `with_task` and `with_labels`."""
    predictor = load(model, device, runtime, backbone=backbone)
    predictor = predictor if task is None else predictor.with_task(task)
    return predictor if labels is None else predictor.with_labels(labels)


def predict_in_processes(
    load_model: Callable[..., Predictor], files: Sequence[Source], options: PredictOptions, num_workers: int
) -> Iterator[Any]:
    """Yield a prediction, or the error, for each file in order, as `Predictor.predict_files` does.

    Args:
        load_model: Is called in each process with its device, `load_model(device="cpu")`; it can be pickled.

    Raises:
        RunError: A process was killed.
    """
    num_threads = max(1, torch.get_num_threads() // num_workers)
    pool = ProcessPoolExecutor(num_workers, get_context("spawn"), _start, (load_model, options, num_threads))
    waiting: deque[Future[list[Any]]] = deque()
    try:
        for start in range(0, len(files), CLIPS_AT_ONCE):
            waiting.append(pool.submit(_predict_part, files[start : start + CLIPS_AT_ONCE]))
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


def _start(load_model: Callable[..., Predictor], options: PredictOptions, num_threads: int) -> None:
    """Load the model in a new process; it ends with its parent, which handles the keyboard interrupt."""
    global _worker
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(num_threads)
    _worker = (load_model(device="cpu"), options)


def _predict_part(files: Sequence[Source]) -> list[Any]:
    assert _worker is not None
    predictor, options = _worker
    return list(predictor.predict_files(files, options=options, on_error="return"))
