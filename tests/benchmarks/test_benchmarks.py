"""Every program of `benchmarks/` runs to its end, at a size at which its figures mean nothing."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest
import soundfile

from asr_models import write_ctc
from cli_fixtures import Call
from serein import recipe as recipes
from serein.experiment import run as runs
from speech_sounds import RATE_HZ, voiced

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHARED = {"backbones", "forks", "mock_releases", "processes"}  # what programs import

# name -> arguments, and packages without which it cannot run
QUICK: dict[str, tuple[str, tuple[str, ...]]] = {
    "attention": ("--frames 20 --json", ()),
    "batch_shapes": ("--network log-mel --steps 3 --multiple 16", ()),
    "cached_features": ("--thin --clips 10 --epochs 1 --json", ()),
    "finetuning": ("--thin --clips 2 --json", ("accelerate",)),
    "many_classes": ("--utterances 600 --classes 20", ()),
    "speaker_specific_time": ("--thin --repeats 1 --json", ()),
}
OF_PROCESSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "contract": ("--examples 1", ("fastapi", "uvicorn", "schemathesis")),
    "malformed": ("--count 40 --json", ("fastapi", "uvicorn")),
    "neighbours": ("--clips 9000 --json", ("faiss",)),
    "paper_tables": ("--only gao2023/table4", ()),
    "service": ("--clients 2 --recordings 4 --seconds 1 --json", ("fastapi", "uvicorn")),
    "streams": ("--streams 2 --seconds 4 --most-delay 60 --json", ("fastapi", "uvicorn", "websockets")),
    "vocabulary": ("--words 3000 --json", ()),
    "wavlm_large": ("--thin --crop 0.5 --clips 16", ()),
}
NEED_DATA = {
    "adaptation",
    "corpus_scale",
    "egemaps",
    "entry_points",
    "files",
    "kill_resume",
    "long_recording",
    "ordinary_recordings",
    "runtimes",
    "shifted_features",
    "speaker_normalisation",
    "transcripts",
}


def test_every_program_is_run() -> None:
    programs = {path.stem for path in BENCHMARKS.glob("*.py")} - SHARED
    assert programs == {*QUICK, *OF_PROCESSES, *NEED_DATA}  # adaptation in test_adaptation.py


def run_whole(run_benchmark: Call, name: str, arguments: str, packages: tuple[str, ...], *more: str) -> str:
    """Run a program, which must succeed, and return what it prints."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    outcome = run_benchmark(name, *arguments.split(), *more)
    assert outcome.status == 0, outcome.err
    return outcome.out


def numbers_in(value: Any) -> list[float]:
    """Return all numbers of a JSON value."""
    if isinstance(value, dict | list):
        return [
            number for each in (value.values() if isinstance(value, dict) else value) for number in numbers_in(each)
        ]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.slow
@pytest.mark.parametrize("name", [*QUICK, *OF_PROCESSES])
def test_it_runs(name: str, run_benchmark: Call) -> None:
    arguments, packages = (QUICK | OF_PROCESSES)[name]
    said = run_whole(run_benchmark, name, arguments, packages)
    assert said
    if "--json" in arguments:
        figures = numbers_in(json.loads(said.splitlines()[-1]))
        assert figures
        assert np.isfinite(figures).all()


@pytest.mark.slow
def test_runtimes(tones: Path, tiny_run: Path, run_benchmark: Call) -> None:
    model = tiny_run / "fold-1" / "seed-0" / "model"
    arguments, exports = f"--data {tones} --model {model} --every 6", ("--exports", "int8, calibrated")
    said = run_whole(run_benchmark, "runtimes", arguments, ("onnxscript", "onnxruntime"), *exports)
    assert "torch float32" in said
    assert "onnx int8, calibrated" in said


@pytest.mark.slow
def test_files(tmp_path: Path, tiny_run: Path, run_benchmark: Call) -> None:
    rng = np.random.default_rng(0)
    for number in range(9):
        soundfile.write(tmp_path / f"{number}.wav", voiced(1.0 + number / 5, rng), RATE_HZ)
    model = tiny_run / "fold-1" / "seed-0" / "model"
    said = run_whole(run_benchmark, "files", f"--data {tmp_path} --models {model} --precisions float32 --json", ())
    for row in json.loads(said)["rows"]:
        assert row["same_label"] == 1.0
        assert row["times_real_time"] > 0


@pytest.mark.slow
def test_long_recording(tmp_path: Path, run_benchmark: Call) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", voiced(2.0, rng), RATE_HZ)
    said = run_whole(run_benchmark, "long_recording", f"--data {tmp_path} --hours 0.003 --json", ())
    figures = json.loads(said)
    assert figures["segments"] >= 1
    assert 0 < figures["speech_s"] <= figures["duration_s"]


@pytest.mark.slow
def test_egemaps(tones: Path, tiny_run: Path, run_benchmark: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """openSMILE is replaced by spectral centroids, which tell the tones' emotions apart."""

    class Smile:
        def __init__(self, *_: str) -> None:
            pass

        def process_signal(self, waveform: Any, rate_hz: int) -> Any:
            spectrum = np.abs(np.fft.rfft(waveform, 16_000))
            return pandas.DataFrame([{"centroid": np.average(np.arange(len(spectrum)), weights=spectrum)}])

    names = SimpleNamespace(eGeMAPSv02="e", Functionals="f")
    fake = SimpleNamespace(Smile=Smile, FeatureSet=names, FeatureLevel=names)
    monkeypatch.setitem(sys.modules, "opensmile", fake)
    said = run_whole(run_benchmark, "egemaps", f"{tiny_run / 'recipe.yaml'} --data {tones}", ())
    assert "eGeMAPSv02, 1 features, 36 utterances" in said
    assert float(said.split("UA ")[1].split()[0]) > 50


@pytest.mark.slow
def test_speaker_normalisation(
    tones: Path, tmp_path: Path, run_benchmark: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEREIN_CACHE", str(tmp_path / "cache"))
    recipe, backbone = BENCHMARKS.parent / "recipes" / "pretrained" / "frozen-linear.yaml", write_ctc(tmp_path / "ctc")
    arguments = f"{recipe} --data {tones} --out {tmp_path / 'out'} --set backbone.source={backbone} --sizes 2"
    said = run_whole(run_benchmark, "speaker_normalisation", f"{arguments} --neutral happy --share 0.5", ())
    assert said.startswith("plain: ua ")
    for system in ("normalised, speaker unknown", "normalised, 2 recordings", "normalised, 0.5 happy"):
        assert f"  {system}: " in said
    assert "plain, adapted to each speaker: " in said
    assert "plain, 0.5 happy, adapted to each speaker, assuming {'happy': 0.5}: " in said


@pytest.mark.slow
def test_shifted_features(tones: Path, tmp_path: Path, run_benchmark: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEREIN_CACHE", str(tmp_path / "cache"))
    changes = [f"backbone.source={write_ctc(tmp_path / 'ctc')}", "stages.0.epochs=1", "protocol.num_folds=3"]
    recipe = recipes.load(BENCHMARKS.parent / "recipes" / "pretrained" / "frozen-linear.yaml", changes)
    fold = runs.run(recipe, tones, tmp_path / "run", folds=["1"]) / "fold-1"
    arguments = f"--model {fold / 'seed-0' / 'model'} --data {fold / 'test.jsonl'} --out {tmp_path / 'out'}"
    said = run_whole(run_benchmark, "shifted_features", f"{arguments} --neutral happy --share 0.5", ())
    assert "test: 3 classes: angry, happy, sad\nas they are: ua " in said
    for system in ("bias", "mean of the corpus", "mean of each speaker", "0.5 happy, mean of these"):
        assert f"  {system}: " in said


@pytest.mark.slow
def test_entry_points(tmp_path: Path, run_benchmark: Call) -> None:
    soundfile.write(tmp_path / "a.wav", voiced(6.0, np.random.default_rng(0)), RATE_HZ)
    said = run_whole(run_benchmark, "entry_points", f"--data {tmp_path} --recordings 1 --json", ())
    figures = json.loads(said)
    assert figures["seconds"] > 31
    for row in figures["entries"].values():
        assert (row["other_labels"], row["other_segments"]) == (0, 0)
        assert row["largest_difference"] < 1e-5


@pytest.mark.slow
def test_ordinary_recordings(tmp_path: Path, run_benchmark: Call) -> None:
    soundfile.write(tmp_path / "a.wav", voiced(2.0, np.random.default_rng(0)), RATE_HZ)
    said = run_whole(run_benchmark, "ordinary_recordings", f"--data {tmp_path} --clips 1 --json", ())
    figures = json.loads(said)
    assert figures["clips"] == 1
    assert set(figures["changed"].values()) <= {0, 1}


@pytest.mark.slow
def test_kill_resume(tones: Path, run_benchmark: Call) -> None:
    said = run_whole(run_benchmark, "kill_resume", f"--data {tones} --kills 1 --jobs 1 --epochs 1", ())
    assert "1 kills: 1 resumed, 1 with equal results, 0 orphans" in said
