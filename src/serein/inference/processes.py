"""Prediction in several processes on this machine or a Ray cluster, each with its own model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from serein.device import begin_worker, num_cores, ray_cluster, worker_context
from serein.errors import RunError
from serein.inference.predictor import Predictor, load
from serein.inference.recording import PredictOptions
from serein.inference.runtimes import PrecisionName, RuntimeName
from serein.inference.sources import Source, without_pipe

CLIPS_AT_ONCE = 64  # files in one part of the work
THREADS_PER_PROCESS = 2  # more would wait for Python's lock
FILES_PER_PROCESS = 256  # minimum: starting a process takes as long as predicting some files
MOST_PROCESSES = 8  # unless more are requested; each takes some 400 MB for PyTorch and a model
PARTS_IN_HAND = 2  # of each process of a cluster, so that it never waits for its next part
PARTS_AHEAD = 16  # of each process, which may be finished before an earlier part
MOST_RESTARTS = 3  # of a process that died; its part is repeated

_worker: tuple[Predictor, PredictOptions] | None = None  # of a process initialised by `_start`


def suitable_processes(num_files: int) -> int:
    """Return the number of processes, with two threads each, for predicting so many files on the CPU."""
    return max(1, min(num_cores() // THREADS_PER_PROCESS, MOST_PROCESSES, num_files // FILES_PER_PROCESS))


def load_for(
    model: str | None,
    runtime: RuntimeName | None = None,
    *,
    device: str,
    precision: PrecisionName | None = None,
    backbone: Path | None = None,
    task: str | None = None,
    labels: Sequence[str] | None = None,
) -> Predictor:
    """Load a model for one of its tasks, or with words as its classes; see `load`, `with_task` and `with_labels`."""
    predictor = load(model, device, runtime, precision=precision, backbone=backbone)
    predictor = predictor if task is None else predictor.with_task(task)
    return predictor if labels is None else predictor.with_labels(labels)


def predict_in_processes(
    load_model: Callable[..., Predictor], files: Sequence[Source], options: PredictOptions, num_workers: int
) -> Iterator[Any]:
    """Yield a prediction, or the error, for each file in order, as `Predictor.predict_files` does.

    Args:
        load_model: Called in each process with its device, `load_model(device="cpu")`; must be picklable.

    Raises:
        RunError: A process was killed.
    """
    num_threads = max(1, torch.get_num_threads() // num_workers)
    origin = (dict(os.environ), load_model, options, num_threads)
    pool = ProcessPoolExecutor(num_workers, worker_context(__name__), _start, origin)
    waiting: deque[Future[list[Any]]] = deque()
    try:
        for start in range(0, len(files), CLIPS_AT_ONCE):
            part = [without_pipe(file) for file in files[start : start + CLIPS_AT_ONCE]]
            waiting.append(pool.submit(_predict_part, part))
            if len(waiting) > 2 * num_workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
        pool.shutdown()  # otherwise it ends with the interpreter, and writes to a closed pipe
    except BrokenProcessPool:
        raise RunError(
            "a process was killed, perhaps because memory ran out",
            where="--workers",
            remedy="Use fewer processes; with --out, finished predictions are kept.",
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start(
    environment: dict[str, str], load_model: Callable[..., Predictor], options: PredictOptions, num_threads: int
) -> None:
    global _worker
    begin_worker(environment)
    torch.set_num_threads(num_threads)
    _worker = (load_model(device="cpu"), options)


def _predict_part(files: Sequence[Source]) -> list[Any]:
    assert _worker is not None
    predictor, options = _worker
    return list(predictor.predict_files(files, options=options, on_error="return"))


def predict_over_ray(
    load_model: Callable[..., Predictor],
    files: Sequence[Source],
    options: PredictOptions,
    num_workers: int | None = None,
    device: str = "auto",
) -> Iterator[Any]:
    """Yield a prediction, or the error, for each file in order, as `Predictor.predict_files` does, over a Ray cluster.

    All machines need the audio and the model folder under the same paths. Work in progress on a machine that is lost is
    repeated on another.

    Args:
        load_model: Called in each process with its device; must be picklable.
        num_workers: Number of processes; `None`: one per GPU of the cluster, or one per core without GPUs.
        device: Device of each process; with `cpu`, GPUs are not used.

    Raises:
        MissingExtraError: Ray is not installed.
        RunError: The process of a part died repeatedly.
    """
    with ray_cluster() as ray:
        has = ray.cluster_resources()
        num_gpus = 0 if device == "cpu" else int(has.get("GPU", 0))
        most = num_gpus or int(has.get("CPU", 1))  # one more would wait forever
        num_parts = -(-len(files) // CLIPS_AT_ONCE)
        num_workers = max(1, min(num_workers or most, most, num_parts))
        kind = ray.remote(RayWorker).options(
            num_cpus=1, num_gpus=1 if num_gpus else 0, max_restarts=MOST_RESTARTS, max_task_retries=MOST_RESTARTS
        )
        workers = [kind.remote(load_model, options, os.getcwd(), device) for _ in range(num_workers)]
        idle = deque(workers * PARTS_IN_HAND)
        busy: dict[Any, Any] = {}  # part -> its process
        waiting: deque[Any] = deque()
        try:
            for start in range(0, len(files), CLIPS_AT_ONCE):
                while not idle:
                    (done, *_), _ = ray.wait(list(busy), num_returns=1)
                    idle.append(busy.pop(done))
                worker = idle.popleft()
                some = [without_pipe(file) for file in files[start : start + CLIPS_AT_ONCE]]
                waiting.append(part := worker.predict.remote(some))
                busy[part] = worker
                while waiting and (waiting[0] not in busy or len(waiting) > PARTS_AHEAD * num_workers):
                    yield from ray.get(waiting.popleft())
            while waiting:
                yield from ray.get(waiting.popleft())
        except ray.exceptions.RayError as error:
            first = str(error).strip().splitlines()[0]
            what, remedy = f"a process of the cluster died ({first})", "With --out, finished predictions are kept."
            raise RunError(what, where="--engine ray", remedy=remedy) from None


class RayWorker:
    """A process of a Ray cluster with its own model.

    Args:
        load_model: Called with the device.
        folder: Working directory, which relative paths start from.
        device: Device of the model.
    """

    def __init__(self, load_model: Callable[..., Predictor], options: PredictOptions, folder: str, device: str) -> None:
        os.chdir(folder)
        torch.set_num_threads(1)
        self.predictor, self.options = load_model(device=device), options

    def predict(self, files: Sequence[Source]) -> list[Any]:
        """Return a prediction, or the error, for each file."""
        return list(self.predictor.predict_files(files, options=self.options, on_error="return"))
