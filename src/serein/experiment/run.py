"""Run folders: start, lock, resume and finish them; train their folds one after another or in parallel processes."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from serein import recipe as recipes
from serein.checkpoint import withdraw_calibration
from serein.corpora import citation_of, licence_of
from serein.data import manifest
from serein.data.files import is_leftover, lock, write_text
from serein.data.protocols import speaker_key
from serein.data.splits import Fold, make_folds
from serein.device import (
    begin_worker,
    distributed_info,
    join_processes,
    num_cores,
    own_device,
    peer_errors,
    processor_name,
    without_interrupt,
    worker_context,
)
from serein.errors import RunError, first_of
from serein.evaluation.calibration import run_calibration
from serein.evaluation.predictions import read_json, read_run_predictions, read_specs, run_classes
from serein.experiment.build import (
    check_origins,
    hashes_of_origins,
    require_same_origins,
    require_trainable,
    task_specs,
)
from serein.experiment.data import Divide, Experiment, prepare, train_and_dev
from serein.experiment.fold import run_fold, train_fold
from serein.experiment.predict import fold_run_folder
from serein.inference.runtimes import predicting_precision
from serein.progress import Report
from serein.recipe import Recipe
from serein.training.stages import chosen_precision, require_compiler

_START = (".lock", "environment.json", "data.json", "folds.json")  # written before recipe.yaml


def new_folder(recipe: Recipe) -> Path:
    """Return the folder of a run for which none was named.

    Raises:
        RunError: Several processes train together; their time stamps could differ.
    """
    if distributed_info().size > 1:
        raise RunError("processes that train together need the same folder", where="--out", remedy="Name one.")
    return Path("runs") / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"


def run(
    recipe: Recipe | str | Path,
    data: str | Path,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    folds: Sequence[str] | None = None,
    num_jobs: int | None = None,
    shared: str | Path | None = None,
    device: str = "auto",
    progress: Report | None = None,
) -> Path:
    """Train and predict every fold and seed of a recipe.

    Args:
        recipe: A recipe, or its file.
        data: The manifest.
        out: The run folder; new unless `resume`. `None` uses `runs/NAME-TIME`.
        resume: Continue a stopped run of the same recipe and data, or add seeds to a run.
        folds: Names of the folds to train now; `None` trains all. A later `resume` can train others.
        num_jobs: Number of folds to train at once; `None` uses one per core for a small log-mel model on CPU, else one.
        shared: Folder of stages that runs share: a run that begins with the same stage as another loads its weights.
            `None` shares nothing.
        device: Device for training and prediction: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        progress: Called with a label, the number of steps done, their total, and a detail.

    Returns:
        The run folder.

    Raises:
        SereinError: Recipe, data and folder do not fit together; raised before any training.
    """
    started = time.time()
    recipe = recipe if isinstance(recipe, Recipe) else recipes.load(recipe)
    out, manifest_path = Path(out) if out is not None else new_folder(recipe), Path(data)
    on_gpu = own_device(device).type == "cuda"
    join_processes(uses_gpus=on_gpu)
    report = progress if progress is not None and distributed_info().is_first else (lambda *_: None)
    experiment = _startable(recipe, manifest_path, out, report, make_folds, is_resumed=resume, device=device)
    experiment.shared = None if shared is None else Path(shared).absolute()
    known = [fold.name for fold in experiment.folds.folds]
    if unknown := [name for name in folds or () if name not in known]:
        raise RunError(
            f"no fold {', '.join(unknown)}; the folds are: {first_of(known)}",
            where="folds",
            remedy="Name one of these.",
        )
    asked = [fold for fold in experiment.folds.folds if folds is None or fold.name in folds]
    asked_names = {name for fold in asked for name in (fold.name, experiment.fold_with_same_training(fold).name)}
    with _locked(out), peer_errors(out):
        fold_runs = experiment.fold_runs()
        is_small = recipe.backbone.name == "logmel" and not on_gpu and distributed_info().size == 1
        suitable = min(num_cores(), 8) if is_small else 1  # small models train faster one per core
        jobs = min(num_jobs or read_json(out / "environment.json").get("jobs") or suitable, len(fold_runs))
        if distributed_info().is_first:
            _write_start(out, experiment, jobs, started)
        wanting = [
            (fold, seed)
            for fold, seed in fold_runs
            if fold.name in asked_names and not (fold_run_folder(out, fold, seed) / "predictions.jsonl").exists()
        ]
        learners = [fold_run for fold_run in wanting if experiment.fold_with_same_training(fold_run[0]) is fold_run[0]]
        others = [fold_run for fold_run in wanting if fold_run not in learners]  # they use the learners' models
        for trained in (learners, others):
            if jobs > 1 and trained and distributed_info().size == 1:
                run_parallel(experiment, out, trained, jobs, report)
            else:
                for fold, seed in trained:
                    run_fold(experiment, fold, seed, out, report)
        if distributed_info().is_first:
            _write_finish(out, started)
            withdraw_temperatures(out)
    return out


def withdraw_temperatures(run: Path) -> None:
    """Remove the temperatures from a run's models if they make the calibration of all test sets together worse.

    Labels and scores do not change, except for the calibration of the models' later predictions.
    """
    if not read_specs(run)[0].has_classes:
        return
    classes = run_classes(run)
    found = run_calibration(run, read_run_predictions(run, classes), classes)
    if found is not None and found.fitted_on == "dev" and not found.is_applied:
        for folder in sorted(run.glob("fold-*/seed-*/model")):
            withdraw_calibration(folder, f"They are uncalibrated. {found}")


def train(
    recipe: Recipe | str | Path,
    data: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    progress: Report | None = None,
) -> Path:
    """Train one model on a manifest's train and dev sets, or on all of it, with dev drawn by the recipe; see `run`.

    Returns:
        The model folder, `out/model`.
    """
    started = time.time()
    recipe = recipe if isinstance(recipe, Recipe) else recipes.load(recipe)
    out, manifest_path = Path(out), Path(data)
    join_processes(uses_gpus=own_device(device).type == "cuda")
    report = progress if progress is not None and distributed_info().is_first else (lambda *_: None)
    experiment = _startable(recipe, manifest_path, out, report, train_and_dev, is_resumed=resume, device=device)
    with _locked(out), peer_errors(out):
        if distributed_info().is_first:
            _write_start(out, experiment, 1, started)
        train_fold(experiment, experiment.folds.folds[0], recipe.seeds[0], out, report, label=recipe.name)
        if distributed_info().is_first:
            _write_finish(out, started)
    return out / "model"


def _startable(
    recipe: Recipe, manifest_path: Path, out: Path, report: Report, divide: Divide, *, is_resumed: bool, device: str
) -> Experiment:
    """Return the experiment after checking everything that can be wrong with it, before anything is written."""
    is_first = distributed_info().is_first  # the others would find the folder that the first one creates
    has_run = (out / "recipe.yaml").exists()
    if is_first and is_resumed and not has_run:
        raise RunError("there is no run to resume", where=out, remedy="Leave out --resume, or name the run's folder.")
    if is_first and not is_resumed and out.exists():
        files = [path.relative_to(out) for path in out.rglob("*") if not path.is_dir() and not is_leftover(path)]
        # files of a run that was killed before it wrote its recipe
        is_started = all(str(path) in _START or path.match("fold-*/test.jsonl") for path in files)
        if not out.is_dir() or not is_started:
            remedy = "Resume it with --resume, or name another --out." if has_run else "Name another --out."
            raise RunError("already exists", where=out, remedy=remedy)
    experiment = prepare(recipe, manifest_path, report, divide)
    if is_first and is_resumed:
        before, seeds = recipes.load(out / "recipe.yaml"), experiment.recipe.seeds
        may_differ = {"seeds": seeds, "description": experiment.recipe.description}
        if before.model_copy(update=may_differ) != experiment.recipe or seeds[: len(before.seeds)] != before.seeds:
            raise RunError(
                "was started with a different recipe",
                where=out,
                remedy="Use the same recipe and --set (seeds may be appended), or a new --out.",
            )
        if read_json(out / "data.json").get("sha256") != manifest.digest(experiment.utterances):
            raise RunError(
                "was started with different data", where=out, remedy="Use the same manifest, or a new --out."
            )
        size = distributed_info().size
        if (earlier_size := read_json(out / "environment.json").get("processes", size)) != size:
            raise RunError(
                f"the number of processes that train together was {earlier_size}, and is now {size}",
                where=out,
                remedy="Start as many, since the batches depend on it, or name a new --out.",
            )
        places = [(fold.name, seed) for fold, seed in experiment.fold_runs()]
        require_same_origins(out, experiment.recipe, places)
    notes = check_origins(experiment)
    experiment.folds = replace(experiment.folds, notes=(*experiment.folds.notes, *notes))
    require_trainable(experiment)
    experiment.device = device
    own = own_device(device)
    if (number := next((i for i, stage in enumerate(recipe.stages) if stage.compile), None)) is not None:
        require_compiler(own, f"stages.{number}.compile")
    precisions = list(dict.fromkeys(chosen_precision(stage.precision, own) for stage in recipe.stages))
    predicting = predicting_precision(recipe.inference.precision, own)
    runtime = f"the model trains with torch on {own}, in {' and '.join(precisions)}, and predicts in {predicting}"
    for note in (runtime, *experiment.folds.notes):
        report("note:", 1, 1, note)
    return experiment


def _write_start(out: Path, experiment: Experiment, jobs: int, started: float) -> None:
    utterances, folds = experiment.utterances, experiment.folds
    places = [(fold.name, seed) for fold, seed in experiment.fold_runs()]
    corpora = sorted({u.corpus or "own" for u in utterances})
    notes = [*folds.notes]
    if experiment.left_out:
        counts = ", ".join(f"{count} {name}" for name, count in experiment.left_out.most_common())
        notes.append(f"Left out, as the recipe specifies: {counts}.")
    by_id = {u.id: u for u in utterances}
    out.mkdir(parents=True, exist_ok=True)
    for path in list(filter(is_leftover, out.rglob(".*"))):  # left behind by a killed process
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    earlier = read_json(out / "environment.json")
    documents = {
        "environment.json": environment(jobs, started, experiment.device)
        | {name: earlier[name] for name in ("started", "finished_s") if name in earlier},
        "data.json": {
            "manifest": str(experiment.manifest),
            "sha256": manifest.digest(utterances),
            "corpora": corpora,
            "num_utterances": len(utterances),
            "duration_s": round(float(experiment.recordings.durations_s.sum()), 1),
            "classes": experiment.class_counts(),
            "tasks": [asdict(spec) for spec in task_specs(experiment)],
            "speakers": len({speaker_key(u) for u in utterances if u.speaker is not None}),
            "licences": {name: licence_of(name) or "not stated" for name in corpora},
            "origins": hashes_of_origins(experiment.recipe, places),
            "citations": {name: text for name in corpora if (text := citation_of(name))},
        },
        "folds.json": {
            "protocol": folds.protocol,
            "sha256": folds.sha256,
            "is_speaker_independent": folds.is_speaker_independent,
            "notes": notes,
            "folds": [
                asdict(fold) | {"test_speakers": sorted({by_id[i].speaker or "" for i in fold.test} - {""})}
                for fold in folds.folds
            ],
        },
    }
    for name, document in documents.items():
        write_text(out / name, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    for fold in folds.folds:
        if fold.test:
            manifest.write((by_id[i] for i in fold.test), out / f"fold-{fold.name}" / "test.jsonl")
    write_text(out / "recipe.yaml", recipes.dump(experiment.recipe))  # last: a folder with a recipe can be resumed


def environment(jobs: int, started: float, device: str = "auto") -> dict[str, Any]:
    """Return the environment of a run: versions, machine, command, start.

    Args:
        jobs: Number of folds trained at once.
        started: Seconds since the epoch.
        device: Name of the device used for training.
    """
    own = own_device(device)
    return {
        **{name: version(name) for name in ("serein", "torch", "transformers", "lightning", "numpy")},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor_name(),
        "device": str(own),
        "gpu": torch.cuda.get_device_name(own) if own.type == "cuda" else None,
        "num_threads": torch.get_num_threads(),
        "jobs": jobs,
        "processes": distributed_info().size,
        "command": " ".join(["serein", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
    }


def _write_finish(out: Path, started: float) -> None:
    path = out / "environment.json"
    document = read_json(path)
    document["finished_s"] = round(document.get("finished_s", 0.0) + time.time() - started, 1)
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Lock a run folder against other processes."""
    if not distributed_info().is_first:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as file:
        lock(file, out, "another process is using it")
        yield


_experiment: Experiment | None = None
_messages: Any = None


def run_parallel(
    experiment: Experiment, out: Path, fold_runs: list[tuple[Fold, int]], num_jobs: int, report: Report
) -> None:
    """Run folds in `num_jobs` processes, each with its share of the cores.

    Raises:
        SereinError: The first error that any fold raised; the others are stopped, and can be resumed.
        RunError: A process was killed.
    """
    context = worker_context(__name__)
    messages = context.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(messages, report), daemon=True)
    listener.start()
    threads = max(1, torch.get_num_threads() // num_jobs)  # not by the folds left: sums' last bits depend on it
    num_processes = min(num_jobs, len(fold_runs))
    start = (dict(os.environ), experiment, messages, threads)
    pool = ProcessPoolExecutor(num_processes, context, _start_worker, start)
    try:
        with without_interrupt():
            futures = [pool.submit(_run_in_worker, fold.name, seed, out) for fold, seed in fold_runs]
        for future in as_completed(futures):
            future.result()
    except BaseException as error:
        for process in list((pool._processes or {}).values()):
            process.kill()  # files are written atomically; a gentler signal could wait for a dead process's lock
        if isinstance(error, BrokenProcessPool):
            raise RunError(
                "a training process was killed, perhaps because memory ran out",
                where=out,
                remedy="Continue with --resume and fewer --jobs.",
            ) from None
        raise
    else:
        pool.shutdown()  # a pool that shuts down with the interpreter would write to a closed pipe
        messages.put(None)
        listener.join(timeout=5)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _listen(messages: Any, report: Report) -> None:
    while (message := messages.get()) is not None:
        report(*message)


def _start_worker(environment: dict[str, str], experiment: Experiment, messages: Any, threads: int) -> None:
    global _experiment, _messages
    begin_worker(environment)
    torch.set_num_threads(threads)
    _experiment, _messages = experiment, messages
    _experiment.recordings.prefetch()


def _run_in_worker(fold_name: str, seed: int, out: Path) -> None:
    assert _experiment is not None
    fold = next(fold for fold in _experiment.folds.folds if fold.name == fold_name)
    run_fold(_experiment, fold, seed, out, lambda *progress: _messages.put(progress))
