"""The same seed gives the same run, and a run that was killed anywhere goes on to the same scores, bit by bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from cli_fixtures import Call, ChildCall, StartChild, everything_in, train_and_die, write_recipe
from serein import recipe as recipes
from serein.data.dataset import ClipDataset, loader
from serein.data.files import is_leftover
from serein.errors import RunError
from serein.experiment import data as experiment_data
from serein.experiment import fold as folds
from serein.experiment import run as runs
from serein.training import checkpointing
from serein.training.module import StageModule
from serein.training.stages import TrainingData
from training.test_feature_cache import killed_at_second_epoch, prepared, save_wav2vec2, trained

CHANGING = ("metrics.jsonl", "environment.json", "report.html")  # hold times of day or durations


class Killed(BaseException):
    """Stands for a kill where a process of its own would be slow."""


def silent(label: str, done: int, total: int, detail: str) -> None:
    """A `Report` that tells nobody."""


def one_fold(folder: Path, tones: Path, stage: dict[str, Any] | None = None, seed: int = 0) -> None:
    """Train and predict the tiny recipe's first fold."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = recipes.load(write_recipe(folder / "r.yaml", {"seeds": [seed]}, stage))
    experiment = experiment_data.prepare(recipe, tones, silent)
    folds.run_fold(experiment, experiment.folds.folds[0], seed, folder, silent)


def results(run: Path) -> dict[str, object]:
    """Return whatever a run came to: every file but those with times in them, and the metrics without."""
    content: dict[str, object] = {
        name: data
        for name, data in everything_in(run).items()
        if Path(name).name not in CHANGING and "tensorboard" not in name and not name.startswith(".")
    }
    for path in run.rglob("metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        content[path.relative_to(run).as_posix()] = [
            {key: value for key, value in line.items() if key not in ("seconds", "audio_s_per_s")} for line in lines
        ]
    return content


def assert_same(first: Path, second: Path) -> None:
    one, other = results(first), results(second)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


# -- the same seed ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_same_seed_same_weights_same_predictions(tones: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        one_fold(tmp_path / name, tones)
    assert_same(tmp_path / "a", tmp_path / "b")
    assert len(results(tmp_path / "a")) > 8


@pytest.mark.slow
def test_another_seed_gives_another_model(tones: Path, tmp_path: Path) -> None:
    predictions = []
    for seed in (0, 1):
        one_fold(tmp_path / str(seed), tones, seed=seed)
        predictions.append((tmp_path / str(seed) / "fold-1" / f"seed-{seed}" / "predictions.jsonl").read_text())
    probabilities = [[json.loads(line)["probabilities"] for line in text.splitlines()] for text in predictions]
    assert probabilities[0] != probabilities[1]


@pytest.mark.slow
def test_number_of_loading_processes_changes_nothing(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for workers in (0, 2):
        monkeypatch.setattr(TrainingData, "num_workers", workers)
        one_fold(tmp_path / str(workers), tones, {"epochs": 2})
    assert_same(tmp_path / "0", tmp_path / "2")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_draws_of_a_clip_hang_on_seed_epoch_and_name_alone(workers: int, tones: Path, tmp_path: Path) -> None:
    """Neither the order, nor its neighbours in the batch, nor the process that decodes it."""
    recipe = recipes.load(write_recipe(tmp_path / "r.yaml", {"clips": {"crop_s": 0.1}}))
    recordings = experiment_data.prepare(recipe, tones, silent).recordings
    dataset = ClipDataset(recordings, {}, recipe.clips, seed=4, is_training=True)
    drawn = {}
    for positions in ([[0, 1, 2, 3]], [[3], [1, 0], [2]]):
        batches = loader(dataset, [[(7, position) for position in batch] for batch in positions], num_workers=workers)  # type: ignore[arg-type]
        for batch in batches:
            for position, waveform, seed in zip(batch.positions.tolist(), batch.waveforms, batch.seeds, strict=True):
                first_waveform, first_seed = drawn.setdefault(position, (waveform, seed))
                assert torch.equal(waveform, first_waveform)
                assert seed == first_seed
    assert len({int(seed) for _, seed in drawn.values()}) == 4
    again = dataset[(8, 0)]
    assert not np.array_equal(again.waveforms[0], drawn[0][0])  # another epoch, another place


@pytest.mark.slow
def test_masks_of_transformers_are_drawn_from_the_seed(tones: Path, tmp_path: Path) -> None:
    """Its SpecAugment draws from NumPy's global state."""
    masks = {"apply_spec_augment": True, "mask_time_prob": 0.5, "mask_time_length": 2}
    backbone = {"name": "huggingface", "source": str(save_wav2vec2(tmp_path / "source")), "overrides": masks}
    experiment = prepared(tones, tmp_path, {"backbone": backbone}, trainable=["transformer", "heads"], epochs=2)
    metrics, weights = trained(experiment, tmp_path / "whole")
    killed_at_second_epoch(experiment, tmp_path / "killed")
    again = trained(experiment, tmp_path / "killed")
    assert again[0] == metrics
    assert all(torch.equal(again[1][name], weight) for name, weight in weights.items())


# -- kills between files ---------------------------------------------------------------------------------------------

RESUME, BEST, METRICS = "resume.ckpt", ".best.weights.safetensors", "metrics.jsonl"
PLATEAU = {"name": "plateau", "factor": 0.5, "patience": 1}


def killed_after(monkeypatch: pytest.MonkeyPatch, name: str, count: int, train: Callable[[], None]) -> None:
    """Train until a file of this name was moved to its place for the `count`-th time."""
    left = count
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        nonlocal left
        real(source, target)
        left -= Path(target).name == name
        if left == 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            train()


@pytest.fixture(scope="module")
def one_fold_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe's first fold."""
    return write_recipe(tmp_path_factory.mktemp("fold") / "r.yaml", {"protocol": {"only": ["1"]}})


@pytest.fixture(scope="module")
def undisturbed(one_fold_recipe: Path, tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its run, left alone."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    runs.run(recipes.load(one_fold_recipe), tones, out, resume=False, num_jobs=1, progress=silent)
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "when"),
    [
        (BEST, 1, "before"),  # a temporary file is left
        (BEST, 1, "after"),  # weights, but no metrics and no state
        (METRICS, 1, "after"),  # metrics that tell of an epoch which is trained again
        (METRICS, 2, "before"),
        (RESUME, 1, "before"),
        (RESUME, 1, "after"),
        (RESUME, 2, "after"),
        (RESUME, 3, "after"),  # all epochs trained, the stage not yet marked as done
        ("weights.safetensors", 1, "after"),  # marked, the state not yet deleted
        ("model", 1, "before"),  # a folder that was not yet a model
        ("model", 1, "after"),  # a model, but no predictions
        ("dev_predictions.jsonl", 1, "after"),
        ("predictions.jsonl.new", 1, "after"),  # predictions, but no mark
        ("embeddings.safetensors", 1, "after"),
        ("predictions.jsonl", 1, "before"),
        ("predictions.jsonl", 1, "after"),
    ],
)
def test_kill_between_two_files(
    name: str,
    count: int,
    when: str,
    nursery: Any,
    one_fold_recipe: Path,
    tones: Path,
    tmp_path: Path,
    undisturbed: Path,
) -> None:
    out = tmp_path / "out"
    process = nursery.Process(target=train_and_die, args=(one_fold_recipe, tones, out, name, count, when))
    process.start()
    process.join(600)
    assert process.exitcode == 9
    assert_resumes(out, one_fold_recipe, tones, undisturbed)
    assert not list(out.rglob("*.ckpt"))
    assert not list(out.rglob("*.new"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        {"schedule": {"name": "constant"}},
        {"schedule": {"name": "cosine"}},
        {"schedule": {"name": "exponential", "factor": 0.5}},
        {"schedule": PLATEAU, "optimizer": {"learning_rate": 1e-6}},  # dev UA stands still
        {"patience": 1, "optimizer": {"learning_rate": 1e-6}},
        {"ema_decay": 0.9, "checkpoint": "last"},
        {"clip_norm": 0.1, "batches": {"accumulate": 2}, "optimizer": {"name": "sgd"}},
        {"precision": "bfloat16"},
    ],
    ids=lambda stage: "-".join(stage),
)
def test_every_kind_of_training_resumes(
    stage: dict[str, Any], tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = {"epochs": 5} | stage
    one_fold(tmp_path / "a", tones, stage)
    for count in (1, 2):
        folder = tmp_path / str(count)
        killed_after(monkeypatch, RESUME, count, lambda folder=folder: one_fold(folder, tones, stage))  # type: ignore[misc]
        one_fold(folder, tones, stage)
        assert_same(tmp_path / "a", folder)


@pytest.mark.slow
def test_kill_in_the_second_stage(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"name": "first", "epochs": 2, "precision": "float32"}
    recipe = recipes.load(write_recipe(tmp_path / "r.yaml", {"stages": [first, first | {"name": "second"}]}))
    experiment = experiment_data.prepare(recipe, tones, silent)

    def train(folder: Path) -> None:
        folds.run_fold(experiment, experiment.folds.folds[0], 0, folder, silent)

    train(tmp_path / "a")
    killed_after(monkeypatch, RESUME, 3, lambda: train(tmp_path / "b"))
    train(tmp_path / "b")
    assert_same(tmp_path / "a", tmp_path / "b")


@pytest.mark.slow
def test_metrics_have_one_line_per_epoch_after_kills(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (METRICS, RESUME, METRICS):
        killed_after(monkeypatch, name, 1, lambda: one_fold(tmp_path, tones, {"epochs": 4}))
    one_fold(tmp_path, tones, {"epochs": 4})
    (path,) = tmp_path.rglob("metrics.jsonl")
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [0, 1, 2, 3]


# -- the state to resume from ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_pickle_is_read(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resume state is read with `weights_only=True`, and nothing else is unpickled."""
    killed_after(monkeypatch, RESUME, 2, lambda: one_fold(tmp_path, tones))
    read = []
    real = torch.load

    def load(file: Any, *arguments: Any, **named: Any) -> Any:
        read.append((str(file), named.get("weights_only")))
        return real(file, *arguments, **named)

    def refuse(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(torch, "load", load)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    one_fold(tmp_path, tones)
    assert read
    assert {weights_only for _, weights_only in read} == {True}


def test_a_state_with_code_in_it_is_refused(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_after(monkeypatch, RESUME, 2, lambda: one_fold(tmp_path, tones))
    (state,) = tmp_path.rglob("resume.ckpt")
    content = torch.load(state, weights_only=True)
    witness = tmp_path / "witness"

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(witness),)

    torch.save(content | {"evil": Evil()}, state)
    with pytest.raises(RunError, match=r"resume\.ckpt: is damaged\. Delete it: the stage is trained again\."):
        one_fold(tmp_path, tones)
    assert not witness.exists()


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_a_damaged_state_is_named(kept: int, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_after(monkeypatch, RESUME, 2, lambda: one_fold(tmp_path, tones))
    (state,) = tmp_path.rglob("resume.ckpt")
    state.write_bytes(state.read_bytes()[:kept])
    with pytest.raises(RunError, match=r"resume\.ckpt: is damaged\. Delete it"):
        one_fold(tmp_path, tones)
    state.unlink()
    one_fold(tmp_path, tones)


def test_damaged_weights_are_named(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_after(monkeypatch, "model", 1, lambda: one_fold(tmp_path, tones))
    (weights,) = tmp_path.rglob("weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(RunError, match=r"weights\.safetensors: is damaged\. Delete it"):
        one_fold(tmp_path, tones)


def test_the_state_is_small_and_goes_when_the_stage_is_done(tones: Path, tmp_path: Path) -> None:
    one_fold(tmp_path, tones)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".ckpt", ".pt", ".pth", ".bin", ".pkl")]
    assert not any(map(is_leftover, tmp_path.rglob(".*")))


# -- true kills ------------------------------------------------------------------------------------------------------


def living(group: int) -> list[int]:
    """Return the processes of a group that still run; what waits to be reaped does not."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(int(path.parent.name))
    return found


def wait_until(is_true: Callable[[], object], seconds: float = 600.0) -> bool:
    """Wait; return whether it came true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_true():
            return True
        time.sleep(0.05)
    return False


def children(pid: int) -> list[int]:
    """Return the processes that train folds for this one: children of the server that it forks them from."""
    parents = {each: int(Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[1]) for each in living(pid)}
    return [each for each, parent in parents.items() if parents.get(parent) == pid]


def num_epochs(run: Path) -> int:
    """Count the epochs that a run has trained."""
    return sum(len(path.read_text().splitlines()) for path in run.rglob("metrics.jsonl"))


def start_and_wait(in_child: StartChild, out: Path, arguments: tuple[object, ...], further: int) -> ChildCall:
    """Start or resume a run, and return when it has trained so many epochs more."""
    enough = num_epochs(out) + further
    call = in_child(*arguments, "--out", out, *(["--resume"] if (out / "recipe.yaml").exists() else []))
    assert wait_until(lambda: num_epochs(out) >= enough or call.poll() is not None)
    assert call.poll() is None, call.err.read_text()
    return call


needs_proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for orphans in /proc")


@pytest.fixture(scope="module")
def long_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe, forty epochs long."""
    return write_recipe(tmp_path_factory.mktemp("long") / "r.yaml", stage={"epochs": 40})


@pytest.fixture(scope="module")
def left_alone(long_recipe: Path, tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of it that nobody disturbed, one fold after the other."""
    out = tmp_path_factory.mktemp("whole") / "out"
    runs.run(recipes.load(long_recipe), tones, out, resume=False, num_jobs=1, progress=silent)
    return out


def assert_resumes(out: Path, recipe: Path, tones: Path, left_alone: Path) -> None:
    """Go on to the end, and expect what the undisturbed run gave."""
    runs.run(recipes.load(recipe), tones, out, resume=True, num_jobs=None, progress=silent)
    assert_same(out, left_alone)
    assert not any(map(is_leftover, out.rglob(".*")))


@pytest.mark.slow
@needs_proc
def test_kill_nine_at_random_moments(
    long_recipe: Path, left_alone: Path, tones: Path, tmp_path: Path, in_child: StartChild
) -> None:
    rng = random.Random(2)
    for _ in range(2):
        arguments = ("run", long_recipe, "--data", tones, "--jobs", 1)
        call = start_and_wait(in_child, tmp_path / "out", arguments, rng.randint(1, 25))
        time.sleep(rng.uniform(0.0, 0.05))
        os.kill(call.pid, signal.SIGKILL)
        call.wait()
    assert_resumes(tmp_path / "out", long_recipe, tones, left_alone)


@pytest.mark.slow
@needs_proc
def test_kill_nine_of_a_run_with_children(
    long_recipe: Path, left_alone: Path, tones: Path, tmp_path: Path, in_child: StartChild
) -> None:
    """A child that dies stops the run; children end by themselves when their parent dies."""
    out, arguments = tmp_path / "out", ("run", long_recipe, "--data", tones, "--jobs", 2)
    call = start_and_wait(in_child, out, arguments, 3)
    os.kill(children(call.pid)[0], signal.SIGKILL)
    outcome = call.wait(60)
    assert outcome.status == 1
    assert f"error: {out}: a training process was killed, perhaps because memory ran out." in outcome.err
    assert wait_until(lambda: not living(call.pid), 30)

    call = start_and_wait(in_child, out, arguments, 5)
    assert len(children(call.pid)) == 2
    os.kill(call.pid, signal.SIGKILL)  # the main process only
    call.wait()
    assert wait_until(lambda: not living(call.pid), 30)

    assert json.loads((out / "environment.json").read_text())["jobs"] == 2
    assert_resumes(out, long_recipe, tones, left_alone)


@pytest.mark.slow
def test_a_loader_that_is_killed_is_an_error(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = StageModule.training_step

    def step(self: StageModule, batch: Any, index: int) -> torch.Tensor:
        if self.current_epoch == 1:
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
            time.sleep(60)  # until the signal that a child has ended
        return real(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingData, "num_workers", 1)
        patch.setattr(StageModule, "training_step", step)
        expected = r"0-emotion: a process that reads clips was stopped \(DataLoader .*\)\. .* Continue with --resume"
        with pytest.raises(RunError, match=expected):
            one_fold(tmp_path / "a", tones)
    for name in ("a", "b"):
        one_fold(tmp_path / name, tones)
    assert_same(tmp_path / "a", tmp_path / "b")


@pytest.mark.slow
def test_a_run_that_was_killed_while_it_started_can_be_started(
    tiny: Path, tones: Path, tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder has a lock and a few files, but no recipe: nothing to resume, and nothing to lose."""
    arguments = ("run", tiny, "--data", tones, "--out", tmp_path / "out", "--jobs", 1)

    def killed(*others: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(runs.recipes, "dump", killed)
        with pytest.raises(Killed):
            serein(*arguments)
    (tmp_path / "out" / ".data.json.abcd_123.json").write_text("half")
    assert (tmp_path / "out" / "folds.json").exists()
    assert "no run to resume" in serein(*arguments, "--resume").complaint
    outcome = serein(*arguments)
    assert outcome.status == 0
    assert not any(map(is_leftover, (tmp_path / "out").rglob(".*")))


def test_two_cannot_work_in_one_folder(tiny_run: Path, tiny: Path, tones: Path, serein: Call) -> None:
    fcntl = pytest.importorskip("fcntl")
    with open(tiny_run / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        outcome = serein("run", tiny, "--data", tones, "--out", tiny_run, "--resume", "--jobs", 1)
    assert outcome.status == 1
    assert outcome.complaint == f"error: {tiny_run}: another process is using it. Wait for it or stop it."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "says"),
    [
        (signal.SIGTERM, -signal.SIGTERM, ""),
        (
            signal.SIGINT,
            128 + signal.SIGINT,
            "error: interrupted from the keyboard. "
            "Continue a run with --resume, and predict --out with the same command.\n",
        ),
    ],
)
def test_gentle_signals_stop_a_run_too(
    number: signal.Signals, status: int, says: str, tones: Path, tmp_path: Path, in_child: StartChild
) -> None:
    """No status 0 for a run that is not done, no half-trained weights taken for whole ones."""
    recipe = write_recipe(tmp_path / "r.yaml", {"protocol": {"only": ["1"]}}, {"epochs": 5000})
    out = tmp_path / "out"
    call = in_child("run", recipe, "--data", tones, "--jobs", 1, "--out", out)
    assert wait_until(lambda: list(out.rglob("resume.ckpt"))), call.err.read_text()
    os.killpg(call.pid, number)
    outcome = call.wait()
    reading, device, note, *rest = outcome.err.splitlines(keepends=True)
    assert reading == "reading audio  36 clips\n"
    assert device.startswith("note: the model trains with torch on ")
    assert note.startswith("note: Train and test share sessions")
    assert "".join(rest) == says
    assert outcome.status == status
    assert not list(out.rglob("weights.safetensors")) + list(out.rglob("predictions.jsonl"))


@pytest.mark.parametrize(
    ("monitor", "shown"),
    [("ua", "dev UA 45.0 %"), ("wa", "dev WA 45.0 %"), ("ccc", "dev CCC 0.450"), ("own_score", "dev own score 0.450")],
)
def test_progress_names_the_monitored_score(monitor: str, shown: str) -> None:
    details: list[str] = []
    progress = checkpointing.StageProgress(lambda *given: details.append(str(given[-1])), "stage", f"dev_{monitor}")
    scores = {f"dev_{monitor}": torch.tensor(0.45)}
    trainer: Any = SimpleNamespace(callback_metrics=scores, current_epoch=0, max_epochs=1)
    progress.on_fit_end(trainer, cast(Any, None))
    assert shown in details[0]


def test_state_names_nothing_of_the_python_that_wrote_it() -> None:
    """The keeper's part of the state is plain numbers, so that `weights_only=True` reads it."""
    progress = checkpointing.StageProgress(lambda *_: None, "stage")
    keeper = checkpointing.CheckpointCallback(Path("nowhere"), "best", progress)
    keeper.history.append({"epoch": 0, "dev_ua": 0.5})
    restored = checkpointing.CheckpointCallback(Path("nowhere"), "best", progress)
    restored.load_state_dict(json.loads(json.dumps(keeper.state_dict())))
    assert restored.history == keeper.history
