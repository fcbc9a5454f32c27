"""Where the trials of a table are trained: one after the other here, or in parallel on a Ray cluster."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from serein.errors import MissingExtraError, RunError, SereinError
from serein.progress import Report
from serein.reproduce.trials import BusyError, Trial, train

Outcome = tuple[Trial, SereinError | None]
Engine = Callable[[Sequence[Trial], Path, int | None, Report], Iterator[Outcome]]

WAIT_S = 1.0


def locally(trials: Sequence[Trial], data: Path, num_jobs: int | None, report: Report) -> Iterator[Outcome]:
    """Train trials one after the other, each with its folds in parallel; yield each with its error or `None`.

    A trial that another process is training is put last, and waited for.
    """
    waiting, num_busy = deque(trials), 0
    while waiting:
        trial = waiting.popleft()
        try:
            train(trial, data, num_jobs, _labelled(report, trial))
        except BusyError:
            waiting.append(trial)
            num_busy += 1
            if num_busy >= len(waiting):
                time.sleep(WAIT_S)
            continue
        except SereinError as error:
            yield trial, error
        else:
            yield trial, None
        num_busy = 0


def _labelled(report: Report, trial: Trial) -> Report:
    return lambda label, done, total, detail: report(f"{trial.row}  {label}", done, total, detail)


# -- Ray -------------------------------------------------------------------------------------------------------------


def over_ray(trials: Sequence[Trial], data: Path, num_jobs: int | None, report: Report) -> Iterator[Outcome]:
    """Train every trial as a task of a Ray cluster, or on this machine if there is none.

    Tasks share only the run folders and the audio, under the same paths on every machine. A task whose machine is
    lost is started again and resumes from its run folder.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    ray = _ray()
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray)
    try:
        task = _task(ray, num_jobs)
        waiting = {task.remote(trial, data, num_jobs or 1): trial for trial in trials}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), _outcome(ray, done)
    finally:
        if is_ours:
            ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "cluster") from None
    return ray


def _connect(ray: Any) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError:
        ray.init(include_dashboard=False, **quiet)


def _task(ray: Any, num_jobs: int | None) -> Any:
    has = ray.cluster_resources()
    num_cpus = max(1, min(num_jobs or 1, int(has.get("CPU", 1))))  # a task that wants more would wait for ever
    return ray.remote(_train_alone).options(num_cpus=num_cpus, num_gpus=1 if has.get("GPU") else 0)


def _train_alone(trial: Trial, data: Path, num_jobs: int) -> SereinError | None:
    """Train a trial within a task; errors are returned, because Ray would wrap them in a traceback."""
    while True:
        try:
            train(trial, data, num_jobs, _no_progress)
        except BusyError:
            time.sleep(WAIT_S)
        except SereinError as error:
            return error
        else:
            return None


def _no_progress(label: str, done: int, total: int, detail: str) -> None:
    """Progress of a task is not shown; the waiting process reports its result."""


def _outcome(ray: Any, done: Any) -> SereinError | None:
    try:
        outcome: SereinError | None = ray.get(done)
    except ray.exceptions.RayError as error:
        first = str(error).strip().splitlines()[0]
        return RunError(f"a Ray task died ({first})", remedy="Run it again: finished folds are kept.")
    return outcome


ENGINES: dict[str, Engine] = {"local": locally, "ray": over_ray}
