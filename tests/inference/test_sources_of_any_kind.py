"""Recordings of any kind are predicted or named: headerless PCM, pipes, containers in a folder."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serein.errors import AudioError, ManifestError, SereinError
from serein.inference.predictor import load
from serein.inference.recording import PredictOptions
from serein.inference.sources import sources_in, utterance_of
from speech_sounds import RATE_HZ, voiced


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return voiced(2.0, np.random.default_rng(0))


@pytest.mark.slow
def test_headerless_pcm_needs_its_rate(tmp_path: Path, speech: np.ndarray) -> None:
    path = tmp_path / "phone.raw"
    path.write_bytes((speech * 32767).astype("<i2").tobytes())
    model = load(device="cpu")
    with pytest.raises(AudioError, match="--raw-rate"):
        list(model.predict_files([path]))
    (raw,) = model.predict_files([path], options=PredictOptions(raw_rate_hz=RATE_HZ))
    soundfile.write(tmp_path / "same.wav", speech, RATE_HZ)
    (same,) = model.predict_files([tmp_path / "same.wav"])
    assert raw.label == same.label
    assert raw.duration_s == same.duration_s


def test_a_pipe_is_read_once(tmp_path: Path, speech: np.ndarray) -> None:
    soundfile.write(tmp_path / "a.wav", speech, RATE_HZ)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes((tmp_path / "a.wav").read_bytes()), daemon=True)
    writer.start()
    (prediction,) = load(device="cpu").predict_files([pipe], on_progress=lambda done_s, all_s: None)
    assert prediction.duration_s == pytest.approx(2.0)


def test_a_folder_holds_every_recording_that_can_be_named(tmp_path: Path) -> None:
    for name in ("a.wav", "b.m4a", "c.webm", "d.raw", "notes.md"):
        (tmp_path / name).touch()
    assert [Path(str(source)).name for source in sources_in([tmp_path])] == ["a.wav", "b.m4a", "c.webm", "d.raw"]


def test_a_folder_that_cannot_be_opened_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.wav", "locked/b.wav", "open/c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listed = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:  # permissions do not hold for root
        if folder.name == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    errors: list[SereinError] = []
    assert [Path(str(source)).name for source in sources_in([tmp_path], errors=errors)] == ["a.wav", "c.wav"]
    assert not sources_in([tmp_path / "locked"], errors=errors)
    says = f"{tmp_path / 'locked'}: cannot be opened (Permission denied). Check the path and its permissions."
    assert [str(error) for error in errors] == [says] * 2
    with pytest.raises(AudioError, match="locked: cannot be opened"):
        sources_in([tmp_path])


def test_a_folder_without_recordings_is_called_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    with pytest.raises(AudioError, match="is an empty folder. Known suffixes: .wav"):
        sources_in([tmp_path])
    (tmp_path / "deep" / "README.md").write_text("words", encoding="utf-8")
    with pytest.raises(AudioError, match="contains no recordings, but files such as README.md"):
        sources_in([tmp_path])
    with pytest.raises(AudioError, match="it is text"):
        load(device="cpu").predict(tmp_path / "deep" / "README.md")


def test_names_that_hold_nothing_do_not_keep_others_from_being_read(tmp_path: Path) -> None:
    for name in ("none", "bad"):
        (tmp_path / name).mkdir()
    (tmp_path / "a.wav").touch()
    (tmp_path / "bad" / "b.wav").touch()
    (tmp_path / "bad" / "b\n2.wav").touch()
    Path(os.fsdecode(os.fsencode(tmp_path / "bad") + b"/c\xff.wav")).touch()
    (tmp_path / "list.txt").write_text("a.wav\nlist.txt\nnone\n", encoding="utf-8")
    errors: list[SereinError] = []
    named = [tmp_path / name for name in ("none", "a.wav", "x*.wav", "none.jsonl", "bad", "list.txt")]
    found = sources_in(named, errors=errors)
    assert [Path(str(source)).name for source in found] == ["a.wav", "b.wav", "a.wav"]
    whats = [
        "is an empty folder",
        "matches no file",
        "no such",
        "name contains a control character",
        "name is not UTF-8",
        "names itself",
        "is an empty folder",
    ]
    assert len(errors) == len(whats)
    for error, what in zip(errors, whats, strict=True):
        assert what in error.what
    with pytest.raises(SereinError, match="empty folder"):
        sources_in(named)


def test_a_table_is_told_how_to_become_a_manifest(tmp_path: Path) -> None:
    table = tmp_path / "clips.CSV"
    table.write_text("file,emotion\na.wav,sad\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"is a table, not a recording.*corpus prepare csv .*clips.CSV"):
        sources_in([table])


def test_a_name_with_a_line_break_is_an_error_of_its_own() -> None:
    with pytest.raises(AudioError, match=r"a\\nb.wav: the name contains a control character. Rename it."):
        utterance_of("a\nb.wav")


def test_an_empty_name_is_called_empty() -> None:
    with pytest.raises(AudioError, match="name of the recording is empty"):
        utterance_of("")
