"""`serein predict` on recordings of any length and number: sources, forms, resuming, what is rejected, the box."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

import serein as package
from cli_fixtures import Call, command, environment, write_wav
from serein.data import manifest
from serein.inference import predictor as box
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
    """Five short recordings in two folders."""
    places = [tmp_path / "in" / name for name in ("a.wav", "b.wav", "deep/a.wav", "deep/c.wav", "deep/d.wav")]
    return [str(write_wav(place, 300.0 * (number + 1), seed=number)) for number, place in enumerate(places)]


def heard(out: str) -> dict[str, str]:
    return {answer["file"]: answer["label"] for answer in map(json.loads, out.splitlines())}


# -- what is named ---------------------------------------------------------------------------------------------------


def test_files_folders_patterns_lists_and_stdin_are_one(
    model: Path, clips: list[str], tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = heard(serein("predict", "--model", model, *clips, "--json").out)
    assert len(expected) == 5
    (tmp_path / "in" / "names.txt").write_text("a.wav\n\nb.wav\ndeep\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(clips)))
    for source in (tmp_path / "in", tmp_path / "in" / "**" / "*.wav", tmp_path / "in" / "names.txt", "-"):
        assert heard(serein("predict", "--model", model, source, "--json").out) == expected


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("*.ogg", None, "*.ogg: fits no file. Check the pattern"),
        ("empty.txt", b"\n \n", "empty.txt: names no recordings. Write one path a line."),
        ("bad.txt", b"\xff\xfe\x00", "bad.txt: is no list: not UTF-8 text"),
        ("loop.txt", b"-\n", "loop.txt: a list cannot name stdin"),
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


# -- the model in the box --------------------------------------------------------------------------------------------


def test_without_a_model_the_one_in_the_box_answers(
    model: Path, clips: list[str], tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box, "FOLDER", shutil.copytree(model, tmp_path / "box"))
    expected = heard(serein("predict", "--model", model, *clips, "--json").out)
    assert heard(serein("predict", *clips, "--json").out) == expected
    assert heard(serein("predict", tmp_path / "in", "--json").out) == expected
    assert heard(serein("predict", *clips, "--json", "--model", model).out) == expected
    answer = package.load().predict(clips[0])
    assert isinstance(answer, package.Prediction)
    assert answer.label == expected[clips[0]]


def test_an_empty_box_is_named(clips: list[str], tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box, "FOLDER", tmp_path / "none")
    outcome = serein("predict", *clips)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.complaint.startswith("error: serein: this installation has no default model. Name a model folder")


# -- over time -------------------------------------------------------------------------------------------------------


def test_a_long_recording_is_heard_over_time(model: Path, call: Path, serein: Call) -> None:
    answer = json.loads(serein("predict", "--model", model, call, "--json").out)
    assert answer["duration_s"] == 40.0
    assert answer["speech_s"] == pytest.approx(20.4, abs=0.4)
    segments = answer["segments"]
    assert segments[0]["start_s"] == pytest.approx(0.9, abs=0.1)
    assert segments[-1]["end_s"] == pytest.approx(31.1, abs=0.1)
    assert {each["label"] for each in segments} <= set(answer["probabilities"])
    lengths = {round(each["end_s"] - each["start_s"], 3) for each in answer["windows"]}
    assert lengths == {3.0}
    table = serein("predict", "--model", model, call).out
    assert table.count("%") == 3 + 3 * len(segments)
    assert "0:0" in table.splitlines()[-1] or "0:3" in table.splitlines()[-1]


def test_windows_are_as_long_as_asked(model: Path, call: Path, serein: Call) -> None:
    answer = json.loads(serein("predict", "--model", model, call, "--json", "--window", 2, "--step", 2).out)
    starts = [each["start_s"] for each in answer["windows"]]
    assert starts[1] - starts[0] == pytest.approx(2.0)
    whole = json.loads(serein("predict", "--model", model, call, "--json", "--segments", "never").out)
    assert "windows" not in whole


def test_csv_has_a_row_for_each_passage_when_windows_are_asked_for(model: Path, call: Path, serein: Call) -> None:
    (row,) = csv.DictReader(io.StringIO(serein("predict", "--model", model, call, "--csv").out))
    assert list(row)[:2] == ["file", "label"]
    rows = list(csv.DictReader(io.StringIO(serein("predict", "--model", model, call, "--csv", "--window", 3).out)))
    segments = json.loads(serein("predict", "--model", model, call, "--json").out)["segments"]
    assert [float(row["start_s"]) for row in rows] == [each["start_s"] for each in segments]
    assert [row["label"] for row in rows] == [each["label"] for each in segments]


def test_labels_on_stdout_and_in_a_folder(
    model: Path, call: Path, clips: list[str], tmp_path: Path, serein: Call
) -> None:
    segments = json.loads(serein("predict", "--model", model, call, "--json").out)["segments"]
    lines = [
        line.split("\t") for line in serein("predict", "--model", model, call, "--format", "audacity").out.splitlines()
    ]
    assert [float(line[0]) for line in lines] == pytest.approx([each["start_s"] for each in segments], abs=1e-3)
    outcome = serein("predict", "--model", model, call, clips[0], "--format", "textgrid")
    assert outcome.status == 2
    assert "name a folder" in outcome.err
    spoken = tmp_path / "in" / "deep" / "spoken.wav"
    soundfile.write(spoken, voiced(2.0, RNG), RATE_HZ)
    shutil.copy(spoken, tmp_path / "in" / "spoken.wav")
    sources = (spoken, tmp_path / "in" / "spoken.wav")
    assert serein("predict", "--model", model, *sources, "--format", "textgrid", "-o", tmp_path / "labels").status == 0
    names = sorted(path.relative_to(tmp_path / "labels").as_posix() for path in (tmp_path / "labels").rglob("*.*"))
    assert names == ["deep/spoken.TextGrid", "spoken.TextGrid"]


def test_a_picture(model: Path, call: Path, tmp_path: Path, serein: Call) -> None:
    from matplotlib.image import imread

    assert serein("predict", "--model", model, call, "--plot", tmp_path / "call.png").status == 0
    pixels = imread(tmp_path / "call.png")
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 1000
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10
    outcome = serein("predict", "--model", model, call, call, "--plot", tmp_path / "two.png")
    assert outcome.status == 2
    assert "2 recordings do not fit into one picture" in " ".join(outcome.err.replace("│", " ").split())


def test_no_speech_in_a_long_recording(model: Path, tmp_path: Path, serein: Call) -> None:
    path = tmp_path / "rain.wav"
    soundfile.write(path, 0.05 * RNG.standard_normal(31 * RATE_HZ), RATE_HZ)
    outcome = serein("predict", "--model", model, path)
    assert (outcome.status, outcome.out) == (1, "")
    assert "rain.wav: no speech was found. Predict it whole with --segments never" in outcome.complaint
    assert serein("predict", "--model", model, path, "--segments", "never").status == 0


# -- what is rejected ------------------------------------------------------------------------------------------------


def test_short_clips_are_answered_or_not_as_asked(model: Path, tmp_path: Path, serein: Call) -> None:
    path = write_wav(tmp_path / "yes.wav", seconds=0.2)
    assert json.loads(serein("predict", "--model", model, path, "--json").out)["label"]
    outcome = serein("predict", "--model", model, path, "--json", "--min-duration", 0.3)
    answer = json.loads(outcome.out)
    assert (outcome.status, answer["label"], answer["rejected"]) == (0, None, "too short")
    assert "too short" in serein("predict", "--model", model, path, "--min-duration", 0.3).out


def test_what_the_model_is_not_sure_of_is_not_answered(model: Path, clips: list[str], serein: Call) -> None:
    answers = [json.loads(line) for line in serein("predict", "--model", model, *clips, "--json").out.splitlines()]
    middle = sorted(answer["confidence"] for answer in answers)[2] - 1e-5
    careful = serein("predict", "--model", model, *clips, "--json", "--min-confidence", middle)
    said = [json.loads(line) for line in careful.out.splitlines()]
    expected = [answer["label"] if answer["confidence"] >= middle else None for answer in answers]
    assert [answer["label"] for answer in said] == expected
    assert expected.count(None) == 2
    assert serein("predict", "--model", model, *clips, "--csv", "--min-confidence", 1).out.count("low confidence") == 5


# -- many ------------------------------------------------------------------------------------------------------------


def test_answers_are_appended_and_a_stopped_run_goes_on(
    model: Path, clips: list[str], tmp_path: Path, serein: Call
) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    assert serein("predict", "--model", model, *clips, "--out", whole).status == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["file"] for line in lines] == clips
    part.write_bytes(b"".join(lines[:2]) + lines[2][:30])  # as a kill leaves it
    outcome = serein("predict", "--model", model, *clips, "--out", part)
    assert (outcome.status, outcome.out) == (0, "")
    assert part.read_bytes() == whole.read_bytes()
    assert "predicting  3 recordings, 2 were done before" in outcome.err


def test_broken_recordings_are_listed_at_the_end_and_tried_again(
    model: Path, clips: list[str], tmp_path: Path, serein: Call
) -> None:
    out, lost = tmp_path / "answers.jsonl", tmp_path / "in" / "0.wav"
    for _ in range(2):
        outcome = serein("predict", "--model", model, lost, *clips, "--out", out)
        assert outcome.status == 1
        assert outcome.err.splitlines()[-2].startswith(f"error: {lost}: no such file")
        assert outcome.err.splitlines()[-1] == "1 of 6 recordings could not be read."
        assert [json.loads(line)["file"] for line in out.read_text().splitlines()] == [str(lost), *clips]
    shutil.copy(clips[0], lost)
    assert serein("predict", "--model", model, lost, *clips, "--out", out).status == 0
    assert [json.loads(line)["file"] for line in out.read_text().splitlines()] == [str(lost), *clips, str(lost)]


@pytest.mark.parametrize("content", [b'{"id": "a", "emotion": "sad"}\n', b"Dear diary,\n", b"Dear diary, no line ends"])
def test_foreign_files_are_not_appended_to(
    content: bytes, model: Path, clips: list[str], tmp_path: Path, serein: Call
) -> None:
    (tmp_path / "diary.txt").write_bytes(content)
    outcome = serein("predict", "--model", model, *clips, "--out", tmp_path / "diary.txt")
    assert outcome.status == 1
    assert "diary.txt:1: is not a prediction of serein. Choose another --out." in outcome.complaint
    assert (tmp_path / "diary.txt").read_bytes() == content


def test_answers_of_another_model_or_manner_are_not_mixed(
    model: Path, clips: list[str], tmp_path: Path, tiny_run: Path, serein: Call
) -> None:
    out = tmp_path / "answers.jsonl"
    serein("predict", "--model", model, clips[0], "--out", out)
    for others in (
        [tiny_run / "fold-2" / "seed-0" / "model"],
        [model, "--min-confidence", 0.5],
        [model, "--window", 2],
    ):
        outcome = serein("predict", "--model", *others, *clips, "--out", out)
        assert "answers.jsonl:1: was predicted by another model or with other options" in outcome.complaint
    assert len(out.read_text().splitlines()) == 1


def test_two_processes_do_not_write_to_one_file(model: Path, clips: list[str], tmp_path: Path, serein: Call) -> None:
    import fcntl

    with open(tmp_path / "a.jsonl", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        outcome = serein("predict", "--model", model, *clips, "--out", tmp_path / "a.jsonl")
    assert "a.jsonl: another process writes to it. Wait for it" in outcome.complaint


def test_workers_answer_alike_and_in_order(model: Path, tones: Path, tmp_path: Path) -> None:
    """Two processes, with a broken recording in between."""
    utterances = manifest.read(tones)
    lost = utterances[0].model_copy(update={"id": "lost", "audio": str(tmp_path / "lost.wav")})
    manifest.write([*utterances[:20], lost, *utterances[20:]], tmp_path / "m.jsonl")
    outcomes = [
        subprocess.run(
            command("predict", "--model", model, tmp_path / "m.jsonl", "--json", "--workers", workers),
            capture_output=True,
            text=True,
            env=environment(),
            timeout=120,
        )
        for workers in (1, 2)
    ]
    alone, align_predictions = [[json.loads(line) for line in outcome.stdout.splitlines()] for outcome in outcomes]
    assert [outcome.returncode for outcome in outcomes] == [1, 1]
    assert outcomes[0].stderr == outcomes[1].stderr
    assert [answer["file"] for answer in align_predictions] == [utterance.audio for utterance in utterances]
    for one, other in zip(alone, align_predictions, strict=True):
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
        (["--segments", "never", "--window", "3"], "windows, label files and plots need segments"),
        (["--format", "csv", "--out", "a"], "not as csv"),
        (["--min-confidence", "2"], "'--min-confidence'"),
        (["--workers", "0"], "'--workers'"),
        (["--format", "srt"], "'srt'"),
    ],
)
def test_options_that_do_not_fit(options: list[str], says: str, model: Path, call: Path, serein: Call) -> None:
    outcome = serein("predict", "--model", model, call, *options)
    assert (outcome.status, outcome.out) == (2, "")
    assert says in " ".join(outcome.err.replace("│", " ").split())
