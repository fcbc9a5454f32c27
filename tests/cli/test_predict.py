"""`serein predict` on recordings of any length and number: sources, formats, resuming, rejection, the default model."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import soundfile
import torch

import serein as package
from asr_models import write_whisper
from cli_fixtures import (
    Call,
    Outcome,
    StartChild,
    environment,
    read_answers,
    without_runtime,
    write_speech,
    write_wav,
)
from serein.data import manifest
from serein.errors import RunError
from serein.inference import predictor, processes, transcription
from speech_sounds import RATE_HZ, voiced

RNG = np.random.default_rng(5)
SILENCE = np.zeros(RATE_HZ, np.float32)


@pytest.fixture(scope="session")
def model(tiny_run: Path) -> Path:
    """A model folder; read only."""
    return tiny_run / "fold-1" / "seed-0" / "model"


@pytest.fixture(scope="session")
def call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 40 s: two stretches of speech of 12 s and 8 s."""
    path = tmp_path_factory.mktemp("calls") / "call.flac"
    parts = [SILENCE, voiced(12.0, RNG), np.zeros(10 * RATE_HZ, np.float32), voiced(8.0, RNG, 220.0)]
    soundfile.write(path, np.concatenate([*parts, np.zeros(9 * RATE_HZ, np.float32)]), RATE_HZ)
    return path


@pytest.fixture
def clips(tmp_path: Path) -> list[str]:
    """Five short recordings of speech in two folders."""
    places = [tmp_path / "in" / name for name in ("a.wav", "b.wav", "deep/a.wav", "deep/c.wav", "deep/d.wav")]
    return [str(write_speech(place, 1.0, 90.0 + 40 * number, number)) for number, place in enumerate(places)]


def rows(outcome: Outcome) -> list[dict[str, Any]]:
    assert outcome.status == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def confidences(outcome: Outcome) -> dict[str, tuple[str, float]]:
    return {row["file"]: (row["label"], row["confidence"]) for row in rows(outcome)}


def in_words(error: str) -> str:
    """Return a message of Typer without its frame."""
    return " ".join(error.replace("│", " ").split())


# -- what is named -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_files_folders_patterns_lists_and_stdin_are_one(
    model: Path, clips: list[str], tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = confidences(serein("predict", "--model", model, *clips, "--json"))
    assert len(expected) == 5
    assert len({confidence for _, confidence in expected.values()}) == 5
    (tmp_path / "in" / "names.txt").write_text("a.wav\n\nb.wav\ndeep\n", encoding="utf-8")
    stdin = io.TextIOWrapper(io.BytesIO("\n".join(clips).encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    for source in (tmp_path / "in", tmp_path / "in" / "**" / "*.wav", tmp_path / "in" / "names.txt", "-"):
        assert confidences(serein("predict", "--model", model, source, "--json")) == expected


def test_a_recording_on_stdin(model: Path, clips: list[str], serein: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    (expected,) = rows(serein("predict", "--model", model, clips[0], "--json"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(clips[0]).read_bytes())))
    (row,) = rows(serein("predict", "--model", model, "-", "--json"))
    assert row == {**expected, "file": "-"}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("*.ogg", None, "*.ogg: matches no file. Check the pattern"),
        ("empty.txt", b"\n \n", "empty.txt: names no recordings. Write one path per line."),
        ("bad.txt", b"\xff\xfe\x00", "bad.txt: is not a list: not UTF-8 text"),
        ("loop.txt", b"-\n", "loop.txt: a list cannot name stdin"),
        ("ring.txt", b"ring.txt\n", "ring.txt: names itself"),
        ("lost.txt", b"lost.wav\n", "lost.wav: no such file"),
    ],
)
def test_sources_that_name_nothing(
    name: str, content: bytes | None, says: str, model: Path, tmp_path: Path, serein: Call
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    outcome = serein("predict", "--model", model, tmp_path / name)
    assert (outcome.status, outcome.out) == (1, "")
    assert says in outcome.complaint


# -- the default model -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_a_model_the_default_one_predicts(
    model: Path, clips: list[str], tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model, tmp_path / "shipped" / "default")
    monkeypatch.setattr(predictor, "SHIPPED_MODELS", tmp_path / "shipped")
    expected = confidences(serein("predict", "--model", model, *clips, "--json"))
    assert confidences(serein("predict", *clips, "--json")) == expected
    assert confidences(serein("predict", tmp_path / "in", "--json")) == expected
    assert confidences(serein("predict", *clips, "--json", "--model", "default")) == expected
    prediction = package.load().predict(clips[0])
    assert (prediction.label, pytest.approx(prediction.confidence, abs=1e-5)) == expected[clips[0]]


def test_a_missing_default_model_is_named(
    clips: list[str], tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "SHIPPED_MODELS", tmp_path / "none")
    outcome = serein("predict", *clips)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.complaint.startswith("error: serein: this installation has no default model. Name a model folder")


# -- segments ----------------------------------------------------------------------------------------------------------


def test_a_recording_is_cut_into_segments_of_speech(model: Path, call: Path, serein: Call) -> None:
    (row,) = rows(serein("predict", "--model", model, call, "--json"))
    assert (row["file"], row["id"], row["start_s"], row["end_s"]) == (str(call), None, 0.0, 40.0)
    segments = row["segments"]
    assert segments[0]["start_s"] == pytest.approx(0.9, abs=0.1)
    assert segments[-1]["end_s"] == pytest.approx(31.1, abs=0.1)
    assert sum(each["end_s"] - each["start_s"] for each in segments) == pytest.approx(20.4, abs=0.4)
    assert {each["label"] for each in segments} <= set(row["probabilities"])
    table = serein("predict", "--model", model, call).out
    assert table.count("%") == 3 + 3 * len(segments)
    assert "0:31." in table.splitlines()[-1]


@pytest.mark.slow
def test_windows_are_as_long_as_asked(model: Path, call: Path, serein: Call) -> None:
    (three,) = rows(serein("predict", "--model", model, call, "--json"))
    (one,) = rows(serein("predict", "--model", model, call, "--json", "--window", 1, "--step", 1))
    expected = package.load(model).predict(call, sliding_window=package.SlidingWindow(1.0, 1.0))
    assert one["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    assert one["probabilities"] != pytest.approx(three["probabilities"], abs=1e-4)


def test_one_switch_says_what_is_cut(model: Path, call: Path, tmp_path: Path, serein: Call) -> None:
    (whole,) = rows(serein("predict", "--model", model, call, "--json", "--segments", "never"))
    assert [(each["start_s"], each["end_s"]) for each in whole["segments"]] == [(0.0, 40.0)]
    manifest.write([package.Utterance(id="u1", audio=str(call), start_s=1.0, end_s=6.0)], tmp_path / "m.jsonl")
    (utterance,) = rows(serein("predict", "--model", model, tmp_path / "m.jsonl", "--json"))
    assert (utterance["id"], utterance["start_s"], utterance["end_s"]) == ("u1", 1.0, 6.0)
    assert [(each["start_s"], each["end_s"]) for each in utterance["segments"]] == [(1.0, 6.0)]
    (cut,) = rows(serein("predict", "--model", model, tmp_path / "m.jsonl", "--json", "--segments", "always"))
    assert cut["probabilities"] != pytest.approx(utterance["probabilities"], abs=1e-4)


def test_csv_has_a_row_for_each_segment(model: Path, call: Path, tmp_path: Path, serein: Call) -> None:
    soundfile.write(tmp_path / "rain.wav", 0.01 * RNG.standard_normal(RATE_HZ), RATE_HZ)
    outcome = serein("predict", "--model", model, call, tmp_path / "rain.wav", "--csv")
    assert outcome.status == 0
    *found, rain = csv.DictReader(io.StringIO(outcome.out))
    assert list(rain)[:7] == ["file", "id", "start_s", "end_s", "label", "confidence", "rejected"]
    segments = rows(serein("predict", "--model", model, call, "--json"))[0]["segments"]
    assert [float(row["start_s"]) for row in found] == [each["start_s"] for each in segments]
    assert [row["label"] for row in found] == [each["label"] for each in segments]
    assert [float(row["happy"]) for row in found] == [each["probabilities"]["happy"] for each in segments]
    assert (rain["label"], rain["rejected"], rain["happy"], float(rain["end_s"])) == ("", "no speech", "", 1.0)


@pytest.mark.slow
def test_labels_on_stdout_and_in_a_folder(
    model: Path, call: Path, clips: list[str], tmp_path: Path, serein: Call
) -> None:
    segments = rows(serein("predict", "--model", model, call, "--json"))[0]["segments"]
    printed = serein("predict", "--model", model, call, "--format", "audacity").out.splitlines()
    assert [float(line.split("\t")[0]) for line in printed] == pytest.approx(
        [each["start_s"] for each in segments], abs=1e-3
    )
    outcome = serein("predict", "--model", model, call, clips[0], "--format", "textgrid")
    assert outcome.status == 2
    assert "name a folder" in outcome.err
    sources = (clips[0], clips[2])
    assert serein("predict", "--model", model, *sources, "--format", "textgrid", "-o", tmp_path / "labels").status == 0
    names = sorted(path.relative_to(tmp_path / "labels").as_posix() for path in (tmp_path / "labels").rglob("*.*"))
    assert names == ["a.TextGrid", "deep/a.TextGrid"]


@pytest.mark.slow
def test_a_picture(model: Path, call: Path, tmp_path: Path, serein: Call) -> None:
    from matplotlib.image import imread

    assert serein("predict", "--model", model, call, "--plot", tmp_path / "call.png").status == 0
    pixels = imread(tmp_path / "call.png")
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 1000
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10
    outcome = serein("predict", "--model", model, call, call, "--plot", tmp_path / "two.png")
    assert outcome.status == 2
    assert "2 recordings do not fit into one picture" in in_words(outcome.err)


@pytest.mark.slow
def test_no_speech_is_a_rejected_prediction_in_every_format(model: Path, tmp_path: Path, serein: Call) -> None:
    path = tmp_path / "rain.wav"
    soundfile.write(path, 0.05 * RNG.standard_normal(31 * RATE_HZ), RATE_HZ)
    call = ("predict", "--model", model, path)
    (row,) = rows(serein(*call, "--json"))
    assert (row["label"], row["rejected"], row["confidence"]) == (None, "no speech", None)
    assert (row["probabilities"], row["segments"], row["end_s"]) == ({}, [], 31.0)
    table = serein(*call, "--plot", tmp_path / "rain.png")
    assert (table.status, without_runtime(table.err)) == (0, "")
    assert "no speech" in table.out
    assert (tmp_path / "rain.png").exists()
    assert serein(*call, "--format", "audacity").out == ""
    assert 'text = ""' in serein(*call, "--format", "textgrid").out
    (whole,) = rows(serein(*call, "--json", "--segments", "never"))
    assert whole["label"]


@pytest.mark.parametrize("workers", [1, 2])
def test_bfloat16_on_request(model: Path, call: Path, workers: int, serein: Call) -> None:
    exact, fast = (
        serein("predict", "--model", model, call, call, "--json", "--workers", workers, "--precision", precision)
        for precision in ("float32", "bfloat16")
    )
    assert "torch on cpu, float32" in exact.err
    assert "torch on cpu, bfloat16" in fast.err
    for one, other in zip(rows(exact), rows(fast), strict=True):
        assert one["probabilities"] != other["probabilities"]
        assert list(one["probabilities"].values()) == pytest.approx(list(other["probabilities"].values()), abs=0.02)


# -- what is rejected --------------------------------------------------------------------------------------------------


def test_short_recordings_are_rejected_when_asked(model: Path, tmp_path: Path, serein: Call) -> None:
    path = write_speech(tmp_path / "yes.wav", seconds=0.5)
    assert rows(serein("predict", "--model", model, path, "--json"))[0]["label"]
    (row,) = rows(serein("predict", "--model", model, path, "--json", "--min-duration", 0.8))
    assert (row["label"], row["rejected"]) == (None, "too short")
    assert "too short" in serein("predict", "--model", model, path, "--min-duration", 0.8).out
    (tiny,) = rows(serein("predict", "--model", model, write_wav(tmp_path / "t.wav", seconds=0.1), "--json"))
    assert (tiny["label"], tiny["rejected"], tiny["segments"]) == (None, "too short", [])


def test_what_the_model_is_not_sure_of_is_rejected(model: Path, clips: list[str], serein: Call) -> None:
    call = ("predict", "--model", model, *clips)
    predictions = rows(serein(*call, "--json"))
    middle = sorted(row["confidence"] for row in predictions)[2] - 1e-5
    rejected = rows(serein(*call, "--json", "--min-confidence", middle))
    expected = [row["label"] if row["confidence"] >= middle else None for row in predictions]
    assert [row["label"] for row in rejected] == expected
    assert expected.count(None) == 2
    assert serein(*call, "--csv", "--min-confidence", 1).out.count("low confidence") == 5


# -- many --------------------------------------------------------------------------------------------------------------


def test_predictions_are_appended_and_a_stopped_run_is_resumed(
    model: Path, clips: list[str], tmp_path: Path, serein: Call
) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    assert serein("predict", "--model", model, *clips, "--out", whole).status == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    printed = rows(serein("predict", "--model", model, *clips, "--json"))
    for line, row in zip(map(json.loads, lines), printed, strict=True):
        assert line.pop("fingerprint")
        assert line.pop("path") == row["file"]
        assert line == row
    part.write_bytes(b"".join(lines[:2]) + lines[2][:30])  # as a kill leaves it
    outcome = serein("predict", "--model", model, *clips, "--out", part)
    assert (outcome.status, outcome.out) == (0, "")
    (resumed, its_fractions), (expected, fractions) = read_answers(part), read_answers(whole)
    assert resumed == expected
    np.testing.assert_allclose(its_fractions, fractions, rtol=0, atol=1e-5)  # rounded, of other batches
    assert "predicting  3 recordings, 2 were done before" in outcome.err


def test_broken_recordings_are_listed_at_the_end_and_tried_again(
    model: Path, clips: list[str], tmp_path: Path, serein: Call
) -> None:
    out, lost = tmp_path / "predictions.jsonl", tmp_path / "in" / "0.wav"
    for _ in range(2):
        outcome = serein("predict", "--model", model, lost, *clips, "--out", out)
        assert outcome.status == 1
        assert outcome.err.splitlines()[-2].startswith(f"error: {lost}: no such file")
        assert outcome.err.splitlines()[-1] == "1 of 6 recordings could not be read."
        assert [json.loads(line)["file"] for line in out.read_text().splitlines()] == [str(lost), *clips]
    shutil.copy(clips[0], lost)
    assert serein("predict", "--model", model, lost, *clips, "--out", out).status == 0
    assert [json.loads(line)["file"] for line in out.read_text().splitlines()] == [str(lost), *clips, str(lost)]


def test_other_recordings_of_the_same_name_are_not_done(
    model: Path, clips: list[str], tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two recordings on stdin, on a pipe, and with one id in two manifests; the same manifest again adds nothing."""
    out, pipe = tmp_path / "predictions.jsonl", tmp_path / "pipe"
    os.mkfifo(pipe)
    utterances = [package.Utterance(id="1", audio=clips[0]), package.Utterance(id="1", audio=clips[0], start_s=0.25)]
    for clip, utterance in zip(clips[:2], [utterances[0], package.Utterance(id="1", audio=clips[1])], strict=True):
        content = Path(clip).read_bytes()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert serein("predict", "--model", model, "-", "--out", out).status == 0
        writer = threading.Thread(target=pipe.write_bytes, args=(content,))
        writer.start()
        assert serein("predict", "--model", model, pipe, "--out", out).status == 0
        writer.join()
        manifest.write([utterance], tmp_path / "m.jsonl")
        for _ in range(2):
            assert serein("predict", "--model", model, tmp_path / "m.jsonl", "--out", out).status == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["file"] for line in lines] == ["-", str(pipe), clips[0], "-", str(pipe), clips[1]]
    assert len({json.dumps(line["probabilities"]) for line in lines}) > 1
    manifest.write(utterances[1:], tmp_path / "m.jsonl")  # another part of a recording
    assert serein("predict", "--model", model, tmp_path / "m.jsonl", "--out", out).status == 0
    assert json.loads(out.read_text().splitlines()[-1])["start_s"] == 0.25


def test_a_relative_name_is_another_recording_in_another_folder(
    model: Path, clips: list[str], tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "predictions.jsonl"
    for name, clip in zip(("anna", "ben"), clips, strict=False):
        (tmp_path / name).mkdir()
        shutil.copy(clip, tmp_path / name / "1.wav")
        for folder, source in ((tmp_path / name, "1.wav"), (tmp_path, f"{name}/1.wav")):  # the second is the first
            monkeypatch.chdir(folder)
            assert serein("predict", "--model", model, source, "--out", out).status == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["file"] for line in lines] == ["1.wav", "1.wav"]
    assert [line["path"] for line in lines] == [str(tmp_path / name / "1.wav") for name in ("anna", "ben")]
    assert lines[0]["probabilities"] != lines[1]["probabilities"]


def test_only_a_file_can_be_resumed(clips: list[str], tmp_path: Path, serein: Call) -> None:
    for out in (tmp_path, "/dev/null", "/dev/full"):
        outcome = serein("predict", *clips, "--model", "none", "--out", out)
        assert (outcome.status, outcome.out) == (2, "")
        assert "name a file, or use --json" in in_words(outcome.err)


@pytest.mark.parametrize("content", [b'{"id": "a", "emotion": "sad"}\n', b"Dear diary,\n", b"Dear diary, no line ends"])
def test_foreign_files_are_not_appended_to(
    content: bytes, model: Path, clips: list[str], tmp_path: Path, serein: Call
) -> None:
    (tmp_path / "diary.txt").write_bytes(content)
    outcome = serein("predict", "--model", model, *clips, "--out", tmp_path / "diary.txt")
    assert outcome.status == 1
    assert "diary.txt:1: is not a prediction of serein. Choose another --out." in outcome.complaint
    assert (tmp_path / "diary.txt").read_bytes() == content


@pytest.mark.slow
def test_predictions_of_another_model_or_with_other_options_are_not_mixed(
    model: Path, clips: list[str], tmp_path: Path, tiny_run: Path, serein: Call
) -> None:
    out = tmp_path / "predictions.jsonl"
    serein("predict", "--model", model, clips[0], "--out", out)
    for others in (
        [tiny_run / "fold-2" / "seed-0" / "model"],
        [model, "--min-confidence", 0.5],
        [model, "--window", 2],
        [model, "--segments", "never"],
    ):
        outcome = serein("predict", "--model", *others, *clips, "--out", out)
        assert "predictions.jsonl:1: was predicted by another model or with other options" in outcome.complaint
    assert len(out.read_text().splitlines()) == 1


def test_two_processes_do_not_write_to_one_file(model: Path, clips: list[str], tmp_path: Path, serein: Call) -> None:
    import fcntl

    with open(tmp_path / "a.jsonl", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        outcome = serein("predict", "--model", model, *clips, "--out", tmp_path / "a.jsonl")
    assert "a.jsonl: another process writes to it. Wait for it" in outcome.complaint


def test_workers_do_not_ignore_a_gpu(model: Path, tones: Path, serein: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "load_for", lambda *_, **__: mock.Mock(device=torch.device("cuda")))
    outcome = serein("predict", "--model", model, tones, "--workers", 2)
    assert outcome.status == 2
    assert "processes predict on the CPU; add --device cpu" in " ".join(outcome.err.split())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [["--workers", 2], []], ids=["asked for", "many files"])
def test_workers_predict_alike_and_in_order(
    workers: list[object], model: Path, tones: Path, tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, with a broken recording in between."""
    in_processes = mock.Mock(wraps=processes.predict_in_processes)
    monkeypatch.setattr(processes, "predict_in_processes", in_processes)
    monkeypatch.setattr(processes, "FILES_PER_PROCESS", 10)
    monkeypatch.setattr(processes, "num_cores", lambda: 4)
    utterances = manifest.read(tones)
    lost = utterances[0].model_copy(update={"id": "lost", "audio": str(tmp_path / "lost.wav")})
    manifest.write([*utterances[:20], lost, *utterances[20:]], tmp_path / "m.jsonl")
    outcomes = [
        serein("predict", "--model", model, tmp_path / "m.jsonl", "--json", "--device", "cpu", *how)
        for how in (["--workers", 1], workers)
    ]
    (_, _, _, num_workers), _ = in_processes.call_args  # of the second alone
    assert (num_workers, in_processes.call_count) == (2, 1)
    left = [type(thread).__name__ for thread in threading.enumerate()]
    assert not [name for name in left if "Executor" in name]  # which would write to a closed pipe at the end
    alone, together = [[json.loads(line) for line in outcome.out.splitlines()] for outcome in outcomes]
    assert [outcome.status for outcome in outcomes] == [1, 1]
    assert outcomes[0].err == outcomes[1].err
    assert [row["id"] for row in together] == [utterance.id for utterance in utterances]
    for one, other in zip(alone, together, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--window", "0.01"], "sliding window: windows of 0.01 s every 0.005 s"),
        (["--window", "3", "--step", "4"], "windows of 3 s every 4 s"),
    ],
)
def test_windows_that_make_no_sense(options: list[str], says: str, model: Path, call: Path, serein: Call) -> None:
    outcome = serein("predict", "--model", model, call, *options)
    assert outcome.status == 1
    assert says in outcome.complaint


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--format", "csv", "--out", "a"], "not as csv"),
        (["--out", "a.csv"], "a.csv would contain JSON lines; name a .jsonl file"),
        (["--min-confidence", "2"], "'--min-confidence'"),
        (["--workers", "0"], "'--workers'"),
        (["--engine", "ray"], "'--engine'"),
        (["--format", "elan"], "'elan'"),
        (["--segments", "sometimes"], "'sometimes'"),
        (["--ensemble", "a.json"], "leave out --model and --knn"),
        (["--knn", "store", "--labels", "a,b"], "have fixed classes"),
    ],
)
def test_options_that_do_not_fit(options: list[str], says: str, model: Path, call: Path, serein: Call) -> None:
    outcome = serein("predict", "--model", model, call, *options)
    assert (outcome.status, outcome.out) == (2, "")
    assert says in in_words(outcome.err)


@pytest.mark.parametrize(
    "command",
    [
        ["corpus", "prepare", "folder", "."],
        ["corpus", "merge", "m.jsonl"],
        ["corpus", "augment", "m.jsonl"],
        ["corpus", "annotate", "m.jsonl"],
        ["evaluate", "--model", "m", "--data", "m.jsonl"],
    ],
)
def test_json_lines_do_not_get_the_name_of_a_table(command: list[str], tmp_path: Path, serein: Call) -> None:
    outcome = serein(*command, "--out", tmp_path / "a.TSV")
    assert (outcome.status, outcome.out) == (2, "")
    assert "'--out'" in outcome.err
    assert "name a .jsonl file" in in_words(outcome.err)
    assert not list(tmp_path.iterdir())


def test_an_audformat_database_of_a_folder(model: Path, clips: list[str], tmp_path: Path, serein: Call) -> None:
    (tmp_path / "in" / "broken.wav").write_text("no sound")
    arguments = ("predict", "--model", model, tmp_path / "in", "--format", "audformat")
    assert serein(*arguments).status == 2
    assert serein(*arguments, "--out", tmp_path / "db").status == 1
    outcome = serein("corpus", "prepare", "audformat", tmp_path / "db", "--out", tmp_path / "m.jsonl")
    assert outcome.status == 0, outcome.err
    assert {u.audio for u in manifest.read(tmp_path / "m.jsonl")} == set(clips)


def test_what_serein_does_not_do_is_said(serein: Call) -> None:
    outcome = serein("push", "someone/emotions", "--private")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.complaint.startswith("error: push: serein uploads nothing. Publish a model folder")


def test_labels_in_brackets_are_no_markup(model: Path, clips: list[str], tmp_path: Path, serein: Call) -> None:
    labels = ["[laugh]", "[/laugh]", ":smile:"]
    utterances = [
        package.Utterance(id=f"[b]{place}", audio=clip, emotion=label)
        for place, (clip, label) in enumerate(zip(clips, labels, strict=False))
    ]
    manifest.write(utterances, tmp_path / "m.jsonl")
    _, *table = serein("predict", tmp_path / "m.jsonl", "--model", model).out.splitlines()
    assert [line.split()[:2] for line in table] == [[f"[b]{place}", label] for place, label in enumerate(labels)]


@pytest.mark.slow
def test_a_terminal_without_a_letter_loses_nothing(
    model: Path, tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_speech(tmp_path / "süß😀.wav")
    for form in ("--json", "--csv", "--format=table"):
        terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
        monkeypatch.setattr(sys, "stdout", terminal)
        assert serein("predict", "--model", model, path, form).status == 0
        printed = terminal.buffer.getvalue()  # type: ignore[attr-defined]
        assert rb"s\u00fc\u00df\ud83d\ude00.wav" in printed
        assert form != "--json" or json.loads(printed)["file"] == str(path)


@pytest.mark.slow
def test_a_closed_stdout_loses_nothing(model: Path, tmp_path: Path, in_child: StartChild) -> None:
    path, out = write_speech(tmp_path / "a.wav"), tmp_path / "out.jsonl"
    for closed in (("stdout",), ("stdout", "stderr")):
        assert in_child("predict", "--model", model, path, "--out", out, closed=closed).wait().status == 0
        (row,) = map(json.loads, out.read_text(encoding="utf-8").splitlines())
        assert row["file"] == str(path)
        out.unlink()
    refused = in_child("predict", "--model", model, path, closed=["stdout"]).wait()
    assert refused.status == 2
    assert "stdout is closed; name a file" in refused.err


@pytest.mark.slow
def test_a_closed_stdin_names_no_recordings(model: Path, in_child: StartChild) -> None:
    outcome = in_child("predict", "--model", model, "-", closed=["stdin"]).wait()
    assert outcome.status == 1
    assert outcome.err == "error: stdin: names no recordings. Write one path per line.\n"


def test_two_recordings_of_one_name_have_two_label_files(model: Path, tmp_path: Path, serein: Call) -> None:
    one, other = write_speech(tmp_path / "a.wav"), write_speech(tmp_path / "a.flac")
    parts = [{"id": f"{number}", "audio": str(one), "start_s": 0.5} for number in range(2)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, parts)), encoding="utf-8")
    sources = (one, other, tmp_path / "m.jsonl")
    outcome = serein("predict", "--model", model, *sources, "--format", "srt", "--out", tmp_path / "labels")
    assert outcome.status == 0, outcome.err
    found = {path.name for path in (tmp_path / "labels").iterdir()}
    assert found == {"a.wav.srt", "a.flac.srt", "a.wav-0.5-end.srt", "a.wav-0.5-end-2.srt"}


def test_one_task_is_chosen(serein: Call, tmp_path: Path) -> None:
    model, clip = Path(__file__).parents[1] / "golden" / "models" / "emotion-gender", write_speech(tmp_path / "a.wav")
    (row,) = [json.loads(serein("predict", clip, "--model", model, "--task", "gender", "--json").out)]
    assert (row["task"], row["tasks"]) == ("gender", {})
    outcome = serein("predict", clip, "--model", model, "--task", "arousal")
    assert outcome.status == 1
    assert "the model does not predict 'arousal', but: emotion, gender" in outcome.complaint


@pytest.mark.slow
def test_a_name_that_holds_nothing_does_not_keep_others_from_being_predicted(serein: Call, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    clip = write_speech(tmp_path / "a.wav")
    outcome = serein("predict", clip, tmp_path / "none", "--json")
    assert (outcome.status, json.loads(outcome.out)["file"]) == (1, str(clip))
    assert "none: is an empty folder" in outcome.complaint
    assert outcome.err.endswith("1 of 2 recordings could not be read.\n")
    outcome = serein("predict", tmp_path / "none", tmp_path / "none", "--format", "textgrid")
    assert (outcome.status, outcome.out, outcome.err.count("is an empty folder")) == (1, "", 2)


@pytest.mark.parametrize(
    "arguments", [["predict", ""], ["predict", "a.wav", "--model", " "], ["run", "r.yaml", "--data="]]
)
def test_an_empty_argument_is_not_the_current_folder(arguments: list[str], serein: Call) -> None:
    outcome = serein(*arguments)
    assert outcome.status == 2
    assert "is empty, after '" in outcome.complaint


def test_an_address_is_no_file(serein: Call) -> None:
    outcome = serein("predict", "https://example.org/a.wav")
    assert "download it first" in outcome.complaint


def test_formats_that_contradict_and_pictures_of_no_kind_are_refused(model: Path, call: Path, serein: Call) -> None:
    for options in (("--json", "--csv"), ("--format", "textgrid", "--json")):
        refused = serein("predict", call, "--model", model, *options)
        assert refused.status == 2
        assert "choose one format" in refused.err
    refused = serein("predict", call, "--model", model, "--plot", "x.doc")
    assert refused.status == 2
    assert "name a .png, .svg or .pdf" in refused.err
    misspelt = serein("predict", call, "--model", "ravdes")
    assert "no such model folder" in misspelt.complaint
    assert "ravdess" in misspelt.complaint


@pytest.fixture
def recogniser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A recogniser that tells the number of samples, and fails once it `is_full`."""

    def transcribe(waveforms: Sequence[np.ndarray], language: str | None) -> list[str | None]:
        if fake.is_full:
            raise RunError("the device has too little memory", where="cuda", remedy="Choose a smaller model.")
        return [f"{len(each)} samples" for each in waveforms]

    fake = SimpleNamespace(
        folder=tmp_path, min_s=0.0, batch_s=60.0, transcribe=transcribe, language_code=str.lower, is_full=False
    )
    monkeypatch.setattr(transcription, "load_transcriber", lambda *_: fake)
    monkeypatch.setenv("SEREIN_CACHE", str(tmp_path / "cache"))
    return fake


def test_a_transcript_and_other_tasks_are_in_every_format_or_refused(
    recogniser: SimpleNamespace, clips: list[str], tmp_path: Path, serein: Call
) -> None:
    model = Path(__file__).parents[1] / "golden" / "models" / "emotion-gender"
    call = ("predict", clips[0], tmp_path / "quiet.wav", "--model", model, "--transcribe", "w", "--out", tmp_path / "o")
    soundfile.write(tmp_path / "quiet.wav", SILENCE, RATE_HZ)
    row, quiet = csv.DictReader(io.StringIO(serein(*call[:-2], "--csv").out))
    gender = row["gender"]
    assert gender in ("female", "male")
    assert row["asr"] == f"{RATE_HZ} samples"
    assert (quiet["rejected"], quiet["gender"], quiet["asr"]) == ("no speech", "", "")
    assert serein(*call, "--format", "audformat").status == 0
    row, quiet = csv.DictReader((tmp_path / "o" / "db.predictions.csv").read_text().splitlines())
    assert (row["gender"], row["asr"], quiet["asr"]) == (gender, f"{RATE_HZ} samples", "")
    assert serein(*call, "--format", "textgrid").status == 0
    grid = next((tmp_path / "o").rglob("a.TextGrid")).read_text()
    assert f'text = "{RATE_HZ} samples"' in grid.partition('name = "asr"')[2]
    assert f'text = "{gender}"' in grid.partition('name = "gender"')[2]
    for name in ("srt", "audacity", "msp-challenge"):
        refused = serein(*call, "--format", name)
        assert (refused.status, refused.out) == (2, "")
        assert f"a transcript does not fit into {name}" in in_words(refused.err)


def test_what_was_not_transcribed_is_tried_again(
    recogniser: SimpleNamespace, model: Path, clips: list[str], tmp_path: Path, serein: Call
) -> None:
    call = ("predict", clips[0], "--model", model, "--transcribe", "w", "--out", tmp_path / "p.jsonl")
    recogniser.is_full = True
    failed = serein(*call)
    assert (failed.status, (tmp_path / "p.jsonl").read_text()) == (1, "")
    assert "is not transcribed" in failed.complaint
    recogniser.is_full = False
    assert serein(*call).status == 0
    (row,) = map(json.loads, (tmp_path / "p.jsonl").read_text().splitlines())
    assert row["tasks"]["asr"]["label"] == f"{RATE_HZ} samples"


@pytest.mark.slow
def test_words_stand_beside_the_emotion(
    model: Path, tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEREIN_CACHE", str(tmp_path / "cache"))
    whisper, recording = write_whisper(tmp_path / "whisper"), write_speech(tmp_path / "a.wav")
    told = serein("predict", recording, "--model", model, "--transcribe", whisper, "--json")
    assert told.status == 0, told.err
    words = json.loads(told.out)["tasks"]["asr"]
    heard = json.loads(serein("transcribe", recording, "--model", whisper, "--json").out)
    assert words == {"label": heard["transcript"], "confidence": None, "probabilities": {}}
    assert "asr" not in json.loads(serein("predict", recording, "--model", model, "--json").out)["tasks"]
    refused = serein("predict", "-", "--model", model, "--transcribe", whisper)
    assert refused.status == 2
    assert "a pipe can be read only once" in refused.err


def test_recordings_that_cannot_be_transcribed_keep_their_emotions(
    model: Path, clips: list[str], tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headerless samples have the given rate for the transcript too; the second recording needs too much memory."""
    waveform, _ = soundfile.read(clips[0], dtype="int16")
    (tmp_path / "x.raw").write_bytes(waveform.tobytes())
    calls: list[str | None] = []

    def transcribe(waveforms: Sequence[np.ndarray], language: str | None) -> list[str | None]:
        calls.append(language)
        if len(calls) == 2:
            raise RunError("the device has too little memory", where="cuda", remedy="Choose a smaller model.")
        return [f"{len(each)} samples" for each in waveforms]

    fake = SimpleNamespace(folder=tmp_path, min_s=0.0, batch_s=0.1, transcribe=transcribe, language_code=str.lower)
    fake.batches = lambda durations_s: [range(len(durations_s))]
    monkeypatch.setattr(transcription, "load_transcriber", lambda *_: fake)
    monkeypatch.setenv("SEREIN_CACHE", str(tmp_path / "cache"))
    call = ("predict", tmp_path / "x.raw", *clips[1:3], "--model", model, "--raw-rate", 16000, "--transcribe", "w")
    outcome = serein(*call, "--json", "--language", "DE")
    assert outcome.status == 1
    assert f"error: {clips[1]}: is not transcribed: the device has too little memory. Choose" in outcome.complaint
    tasks = {row["file"]: row["tasks"] for row in map(json.loads, outcome.out.splitlines()) if row["label"]}
    words = {file: of["asr"]["label"] if "asr" in of else None for file, of in tasks.items()}
    assert words == {str(tmp_path / "x.raw"): f"{RATE_HZ} samples", clips[1]: None, clips[2]: f"{RATE_HZ} samples"}
    assert calls == ["de"] * 3
    heard = serein("transcribe", clips[1], "--model", "openai/whisper-tiny", "--language", "pl", "--json")
    assert (json.loads(heard.out)["transcript"], calls[3:]) == (f"{RATE_HZ} samples", ["pl"])
    refused = serein("predict", clips[0], "--model", model, "--language", "de")
    assert refused.status == 2
    assert "add --transcribe" in refused.err


@pytest.mark.slow
def test_a_prediction_does_not_load_what_transcribes(model: Path, call: Path) -> None:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('loaded', 'serein.inference.transcription' in sys.modules))\n"
        "from serein.cli.app import main\n"
        "main()\n"
    )
    arguments = [sys.executable, "-c", code, "predict", str(call), "--model", str(model)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout.endswith("loaded False\n")


def test_notes_appear_once_if_a_library_sets_up_the_root_logger(
    tones: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(sys.stderr)])
    said = serein("predict", tones.parent / "angry" / "eva" / "0.wav", "--model", "tiny", "--segments", "never").err
    assert said.count("model tiny: torch on cpu") == 1
