"""What the tests of the command line share: a corpus of tones that trains in a second, and `serein` called in-process.

`conftest.py` takes the fixtures from here, test modules the rest: `from cli_fixtures import Call, write_recipe`.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import typer
import yaml

from serein import cli
from serein.data import manifest
from serein.data.manifest import Utterance
from speech_sounds import voiced

get_command = cache(typer.main.get_command)  # made from all signatures, which takes longer than many a command
RATE_HZ = 16_000
TONES_HZ = {"angry": 2000.0, "happy": 900.0, "sad": 300.0}
SPEAKERS = ("anna", "ben", "cleo", "dan", "eva", "finn")
TINY = {
    "name": "tiny",
    "protocol": {"name": "speakers-out", "num_folds": 2, "dev": "speakers"},
    "backbone": {"name": "logmel", "n_mels": 16},
    "encoder": {"name": "cnn2d", "channels": [4, 8], "size": 8, "dropout": 0.1},
    "tasks": {"emotion": {"pooling": "mean", "dropout": 0.1}},
    "stages": [
        {
            "name": "emotion",
            "epochs": 3,
            "optimizer": {"learning_rate": 0.03},
            "batches": {"max_clips": 4, "num_buckets": 2},
            "spectrogram_augmentation": {"gain_db": 3, "time_masks": 1},
            "precision": "float32",
        }
    ],
}


@dataclass(frozen=True)
class Outcome:
    """What a call of the command line came to."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of complaint on stderr; fails when there is another number of them, or a traceback."""
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        return lines[0]


Call = Callable[..., Outcome]


def tone(frequency_hz: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return a tone that swells and fades, in noise 26 dB below it."""
    times_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    swell = np.sin(np.pi * times_s / seconds)
    wave = 0.2 * swell * np.sin(2 * np.pi * frequency_hz * times_s) + 0.01 * rng.standard_normal(len(times_s))
    return wave.astype(np.float32)


def write_wav(path: Path, frequency_hz: float = 440.0, seconds: float = 0.5, seed: int = 0) -> Path:
    """Write a recording of a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(frequency_hz, seconds, np.random.default_rng(seed)), RATE_HZ)
    return path


def write_speech(path: Path, seconds: float = 1.5, pitch_hz: float = 140.0, seed: int = 0) -> Path:
    """Write a recording that a voice activity detector takes for speech from end to end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, voiced(seconds, np.random.default_rng(seed), pitch_hz), RATE_HZ)
    return path


def write_corpus(folder: Path, *, speakers: tuple[str, ...] = SPEAKERS, clips: int = 2) -> list[Utterance]:
    """Write `<emotion>/<speaker>/<n>.wav` for every emotion and speaker, and return the utterances."""
    rng = np.random.default_rng(7)
    utterances = []
    for number, speaker in enumerate(speakers):
        for emotion, frequency_hz in TONES_HZ.items():
            for clip in range(clips):
                path = folder / emotion / speaker / f"{clip}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                pitch_hz = frequency_hz * rng.uniform(0.9, 1.1)
                soundfile.write(path, tone(pitch_hz, rng.uniform(0.3, 0.5), rng), RATE_HZ)
                utterances.append(
                    Utterance(
                        id=f"{speaker}-{emotion}-{clip}",
                        audio=str(path),
                        speaker=speaker,
                        gender="female" if number % 2 == 0 else "male",
                        session=f"session{number // 2 + 1}",
                        emotion=emotion,
                        corpus="tones",
                    )
                )
    return utterances


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `changes`, mapping by mapping."""
    result = dict(base)
    for key, value in changes.items():
        result[key] = merged(result[key], value) if isinstance(value, Mapping) and key in result else value
    return result


def write_recipe(path: Path, changes: Mapping[str, Any] | None = None, stage: Mapping[str, Any] | None = None) -> Path:
    """Write the tiny recipe with changes, and changes of its only stage."""
    values = merged(TINY, changes or {})
    values["stages"] = [merged(each, stage or {}) for each in values["stages"]]
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def everything_in(folder: Path) -> dict[str, bytes | None]:
    """Return path -> content of all that lies below a folder, hidden files too; `None` for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def train_and_die(recipe: Path, data: Path, out: Path, name: str, count: int, when: str) -> None:
    """Run a recipe, and end without a farewell `when` a file of this name is moved to its place the `count`-th time.

    For a process of its own: nothing is unwound, as with `kill -9`.
    """
    from serein import recipe as recipes
    from serein.experiment import run as runs

    left = count
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        nonlocal left
        left -= Path(target).name == name
        if left == 0 and when == "before":
            os._exit(9)
        real(source, target)
        if left == 0:
            os._exit(9)

    os.replace = replace
    runs.run(recipes.load(recipe), data, out, resume=False, num_jobs=1, progress=lambda *progress: None)


def command(*arguments: object) -> list[str]:
    """Return the command line that runs serein in a process of its own."""
    return [sys.executable, "-c", "from serein.cli import main; main()", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a subprocess: one thread, so that it draws and computes as any other with one."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


def call_in_child(
    arguments: Sequence[str], out: Path, err: Path, dies: tuple[str, int] | None, closed: Sequence[str]
) -> None:
    """Run serein as the first of its own group, what it says in files; for a process of its own.

    Args:
        closed: Of stdin, stdout and stderr, those that its caller has closed: `>&-`.
        dies: The process ends without a farewell, as with `kill -9`, when a file of this name is about to be moved to
            its place for the so-and-so-many-th time.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    for name in closed:
        os.close(("stdin", "stdout", "stderr").index(name))
        setattr(sys, name, None)
    if dies is not None:
        name, left = dies
        real = os.replace

        def replace(source: Any, target: Any) -> None:
            nonlocal left
            left -= Path(target).name == name
            if left == 0:
                os._exit(9)
            real(source, target)

        os.replace = replace
    sys.argv = ["serein", *arguments]
    cli.main()


class ChildCall:
    """A call of the command line in a process that was forked from one that has imported everything."""

    def __init__(self, context: Any, folder: Path, arguments: Sequence[object], *how: object) -> None:
        self.out, self.err = folder / "stdout", folder / "stderr"
        given = ([*map(str, arguments)], self.out, self.err, *how)
        self.process = context.Process(target=call_in_child, args=given)
        self.process.start()
        self.pid: int = self.process.pid

    def poll(self) -> int | None:
        """Return its status, or `None` while it runs."""
        status: int | None = self.process.exitcode
        return status

    def wait(self, seconds: float = 600.0) -> Outcome:
        """Wait until it ends, and return what it came to."""
        self.process.join(seconds)
        status = self.process.exitcode
        assert status is not None, f"it still runs after {seconds:g} s"
        return Outcome(status, self.out.read_text(encoding="utf-8"), self.err.read_text(encoding="utf-8"))


StartChild = Callable[..., ChildCall]


@pytest.fixture(scope="session")
def nursery() -> Any:
    """The context of processes that have imported everything, and have done nothing yet."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("no forkserver on this system")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "serein.experiment.run", "serein.reproduce.reproduction"])
    return context


@pytest.fixture(scope="session")
def in_child(nursery: Any, tmp_path_factory: pytest.TempPathFactory) -> StartChild:
    """Start the command line in a process that need not import anything: `in_child("run", recipe).wait().status`."""

    def start(*arguments: object, dies: tuple[str, int] | None = None, closed: Sequence[str] = ()) -> ChildCall:
        return ChildCall(nursery, tmp_path_factory.mktemp("child"), arguments, dies, closed)

    return start


def without_runtime(stderr: str) -> str:
    """Return what was said beside the lines that name what a model runs on."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not line.startswith("note: model "))


@pytest.fixture
def serein(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command line in this process: `serein("run", recipe, "--data", manifest).status`."""

    monkeypatch.setattr(typer.main, "get_command", get_command)
    monkeypatch.setattr(logging.getLogger("serein"), "propagate", True)  # again after the test

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["serein", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of the corpus of tones: 6 speakers, 3 sessions, 3 emotions, 2 clips each; read only."""
    folder = tmp_path_factory.mktemp("tones")
    path = folder / "manifest.jsonl"
    manifest.write(write_corpus(folder), path)
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe: two folds, three epochs, some 700 weights; read only."""
    return write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml")


@pytest.fixture(scope="session")
def tiny_run(tones: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny recipe; read only."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    argv, sys.argv = sys.argv, ["serein", "run", str(tiny), "--data", str(tones), "--out", str(folder), "--jobs", "1"]
    try:
        cli.app(standalone_mode=False)
    finally:
        sys.argv = argv
    return folder


def read_answers(path: Path) -> tuple[list[dict[str, Any]], list[float]]:
    """Return the answers of a JSON Lines file, by name, without their fractions, which hang on the batch; and these."""
    fractions: list[float] = []

    def kept(text: str) -> None:
        fractions.append(float(text))

    lines = sorted(path.read_text().splitlines(), key=lambda line: json.loads(line)["file"])
    return [json.loads(line, parse_float=kept) for line in lines], fractions
