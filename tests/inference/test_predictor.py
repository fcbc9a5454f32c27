"""One way to predict: paths, samples and utterances; many files lazily; embeddings."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import serein
from cli_fixtures import environment
from serein.data import manifest
from serein.data.manifest import Utterance
from serein.errors import AudioError, ModelError, RecipeError
from serein.inference import predictor as module
from serein.inference import reading
from serein.inference.prediction import Prediction
from serein.inference.predictor import Predictor
from serein.inference.recording import PredictOptions, SlidingWindow
from serein.inference.runtimes import TorchRuntime
from speech_sounds import RATE_HZ, voiced

RNG = np.random.default_rng(3)
SILENCE = np.zeros(RATE_HZ, np.float32)
SPEECH = np.concatenate([SILENCE, voiced(5.0, RNG), SILENCE, voiced(0.8, RNG, 210.0), SILENCE])
NOISE = (0.01 * RNG.standard_normal(3 * RATE_HZ)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Predictor:
    return serein.load(tiny_run / "fold-1" / "seed-0" / "model", device="cpu")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "call.wav"
    soundfile.write(path, SPEECH, RATE_HZ, subtype="FLOAT")
    return path


def assert_same(one: Prediction, other: Prediction, tolerance: float = 1e-5) -> None:
    assert (one.label, one.rejected, len(one.segments)) == (other.label, other.rejected, len(other.segments))
    assert one.probabilities == pytest.approx(other.probabilities, abs=tolerance)
    for mine, theirs in zip(one.segments, other.segments, strict=True):
        assert (mine.start_s, mine.end_s) == pytest.approx((theirs.start_s, theirs.end_s), abs=0.05)


# -- one recording -----------------------------------------------------------------------------------------------------


def test_a_path_a_file_object_its_bytes_and_its_samples_are_one(model: Predictor, recording: Path) -> None:
    expected = model.predict(recording)
    assert (expected.file, expected.task) == (str(recording), "emotion")
    assert expected.label == max(expected.probabilities, key=expected.probabilities.__getitem__)
    assert expected.confidence == max(expected.probabilities.values())
    assert expected.model == {"name": model.checkpoint.name, "sha256": model.checkpoint.digest}
    content = recording.read_bytes()
    others = [
        model.predict(str(recording)),
        model.predict(content),
        model.predict(io.BytesIO(content)),
        model.predict(SPEECH, RATE_HZ),
        model.predict(torch.from_numpy(SPEECH), sampling_rate=RATE_HZ),
        model.predict(np.stack([SPEECH, SPEECH], axis=1), RATE_HZ),
        model.predict({"array": SPEECH, "sampling_rate": RATE_HZ}),
    ]
    for other in others:
        assert_same(other, expected)
    assert others[1].file == "-"
    assert_same(model.predict(np.round(SPEECH * 32767).astype(np.int16), RATE_HZ), expected, tolerance=0.02)


def test_what_other_libraries_hold(model: Predictor, recording: Path) -> None:
    expected = model.predict(recording).probabilities
    samples, rate_hz = soundfile.read(recording, dtype="float32")
    content = recording.read_bytes()
    for given in (
        {"bytes": content, "path": None},
        {"path": recording, "bytes": None},
        (samples, rate_hz),
        (rate_hz, samples),
    ):
        assert model.predict(given).probabilities == pytest.approx(expected, abs=1e-5)
        assert model.embed(given).shape == model.embed(recording).shape


def test_no_name_of_a_model() -> None:
    with pytest.raises(ModelError, match="is a int, not a name"):
        serein.load(5)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"no device 'gpu' on this machine\. Choose auto"):
        serein.load(device="gpu")


def test_samples_need_a_rate(model: Predictor) -> None:
    with pytest.raises(AudioError, match="sampling_rate"):
        model.predict(SPEECH)


def test_a_rate_is_for_samples_alone(model: Predictor, recording: Path) -> None:
    content = recording.read_bytes()
    for source in (recording, str(recording), [recording], content, io.BytesIO(content), {"path": recording}):
        for method in (model.predict, model.embed):
            with pytest.raises(AudioError, match=r"states its own sampling rate\. Leave sampling_rate out"):
                method(source, RATE_HZ)


def test_silent_samples_are_rejected_like_silent_files(model: Predictor) -> None:
    silence = np.zeros(RATE_HZ, np.float32)
    with pytest.raises(AudioError, match="^samples: silent"):
        model.predict(silence, RATE_HZ, segments="never")
    assert model.predict(silence, RATE_HZ).rejected == "no speech"


def test_a_recording_is_cut_and_an_utterance_is_not(model: Predictor, recording: Path) -> None:
    utterance = serein.Utterance(id="u1", audio=str(recording), start_s=0.5, end_s=3.5)
    whole = model.predict(utterance)
    assert (whole.id, whole.file, whole.start_s, whole.end_s) == ("u1", str(recording), 0.5, 3.5)
    assert [(each.start_s, each.end_s) for each in whole.segments] == [(0.5, 3.5)]
    samples = SPEECH[RATE_HZ // 2 : 7 * RATE_HZ // 2]
    assert_same(model.predict(samples, RATE_HZ, segments="never"), model.predict(samples, RATE_HZ, segments="never"))
    np.testing.assert_allclose(whole.embedding, model.predict_clips([samples])[0].embedding, atol=1e-6)
    cut = model.predict(utterance, segments="always")
    assert cut.segments[0].start_s == pytest.approx(0.9, abs=0.1)
    assert cut.segments[-1].end_s == pytest.approx(3.5, abs=0.1)
    assert model.predict(recording, segments="never").segments[0].end_s == pytest.approx(8.8)


def test_windows_and_the_reject_option_are_asked_for_by_name(model: Predictor, recording: Path) -> None:
    short = model.predict(recording, sliding_window=SlidingWindow(1.0, 1.0))
    assert short.probabilities != pytest.approx(model.predict(recording).probabilities, abs=1e-6)
    rejected = model.predict(recording, min_confidence=1.0)
    assert (rejected.label, rejected.rejected) == (None, "low confidence")
    assert model.predict(recording, min_duration_s=60.0).rejected == "too short"
    with pytest.raises(RecipeError, match="segments: unknown value 'maybe'"):
        model.predict(recording, segments="maybe")  # type: ignore[call-overload]


def test_no_speech_is_a_prediction_without_a_label(model: Predictor, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "rain.wav", NOISE, RATE_HZ)
    soundfile.write(tmp_path / "still.flac", SILENCE, RATE_HZ)
    for prediction in (
        model.predict(tmp_path / "rain.wav"),
        model.predict(NOISE, RATE_HZ),
        model.predict(tmp_path / "still.flac"),
        model.predict((tmp_path / "still.flac").read_bytes()),
    ):
        assert (prediction.label, prediction.rejected, prediction.segments) == (None, "no speech", ())
    assert model.predict(tmp_path / "rain.wav", segments="never").label


def test_it_says_what_it_is(model: Predictor) -> None:
    assert repr(model) == f"Predictor({model.checkpoint.name!r}, emotion: angry, happy, sad, device='cpu')"
    assert model.to("cpu") is model
    with pytest.raises(ModelError, match="no device 'quantum'"):
        model.to("quantum")
    with pytest.raises(ModelError):
        model.with_labels(["fury", "gloom"])  # its classes are fixed


# -- many --------------------------------------------------------------------------------------------------------------


def test_files_are_predicted_lazily_and_in_order(
    model: Predictor, tones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utterances = manifest.read(tones)
    monkeypatch.setattr(module, "BATCH_S", 2.0)
    monkeypatch.setattr(module, "READ_TOGETHER", 2)
    taken: list[str] = []

    def endless() -> Iterator[serein.Utterance]:
        while True:
            for utterance in utterances:
                taken.append(utterance.id)
                yield utterance

    found = list(islice(model.predict_files(endless()), 40))
    assert [each.id for each in found] == [u.id for u in [*utterances, *utterances][:40]]
    assert len(taken) < 40 + 2 * (2 * module.MOST_THREADS + 2)


@pytest.fixture
def same_threads_after() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("same_threads_after")
def test_threads_read_and_predict_as_one_does(
    model: Predictor, recording: Path, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long, short and broken recordings; a reader that stops early leaves no thread behind."""
    long = tmp_path / "long.wav"
    soundfile.write(long, np.tile(SPEECH, 12), RATE_HZ, subtype="FLOAT")
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    files = [long, *manifest.read(tones)[:5], broken, recording, long, recording]
    monkeypatch.setattr(module, "BATCH_S", 5.0)
    monkeypatch.setattr(reading, "STEP_S", 3.0)
    monkeypatch.setattr(module, "READ_TOGETHER", 2)
    found = {}
    for num_threads in (1, 3):
        monkeypatch.setattr(module, "MOST_THREADS", num_threads)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        found[num_threads] = list(model.predict_files(files, on_error="return"))
    for alone, together in zip(found[1], found[3], strict=True):
        if isinstance(alone, AudioError):
            assert str(alone) == str(together)
        else:
            assert_same(alone, together)
    next(model.predict_files(files))
    for thread in threading.enumerate():
        if thread.name.startswith("serein"):
            thread.join(60.0)
            assert not thread.is_alive()


@pytest.mark.usefixtures("same_threads_after")
def test_nothing_waits_for_a_pipe_but_the_caller(
    model: Predictor, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that does would keep Python from ending."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(recording.read_bytes()))
    writer.start()
    readers: dict[str, threading.Thread] = {}
    opened = reading.audio.open
    monkeypatch.setattr(module, "MOST_THREADS", 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(module, "READ_TOGETHER", 1)

    def spy(content: Any, **how: Any) -> Any:
        readers[Path(content).name] = threading.current_thread()
        return opened(content, **how)

    monkeypatch.setattr(reading.audio, "open", spy)
    from_pipe, from_file = model.predict_files([pipe, recording])
    writer.join()
    assert_same(from_pipe, from_file)
    assert (readers["pipe"] is threading.main_thread(), readers["call.wav"] is threading.main_thread()) == (True, False)


def test_a_single_file_is_no_list_of_letters(model: Predictor, recording: Path, tmp_path: Path) -> None:
    for source in (recording, str(recording), Utterance(id="a", audio=str(recording))):
        (prediction,) = model.predict_files(source, on_error="skip")
        assert prediction.file == str(recording)
    with pytest.raises(AudioError, match=r"files: is the content of a file"):
        next(model.predict_files(recording.read_bytes(), on_error="skip"))  # type: ignore[arg-type]
    with pytest.raises(AudioError, match=r"is a folder, not a recording"):
        list(model.predict_files(str(tmp_path)))


def test_what_is_no_model_folder_is_named_as_what_it_is(recording: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"{recording.name}: is a file, not a model folder"):
        serein.load(recording)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"pretrained backbone.*--set backbone.source="):
        serein.load(tmp_path)


def test_batches_change_nothing(
    model: Predictor, recording: Path, tones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [recording, *manifest.read(tones)[:6], recording]
    together = list(model.predict_files(files))
    monkeypatch.setattr(module, "BATCH_S", 0.01)
    for one, other in zip(together, model.predict_files(files), strict=True):
        assert_same(one, other)
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-5)


def test_speech_of_short_recordings_is_detected_together(
    model: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between them lie a recording too long for that, one that cannot be read, and one without speech."""
    paths = []
    for number, seconds in enumerate([0.02, 0.7, 2.0, 3.3, 12.0, 1.1, 4.0] + [0.5] * 20):
        sound = np.concatenate([SILENCE[:3000], voiced(seconds, RNG, 120.0 + 5 * number), SILENCE[: 100 * number]])
        paths.append(tmp_path / f"{number}.wav")
        soundfile.write(paths[-1], sound, RATE_HZ, subtype="FLOAT")
    soundfile.write(paths[2], NOISE, RATE_HZ, subtype="FLOAT")
    paths[5].write_bytes(b"no audio")
    together: list[int] = []
    feed_all = reading.feed_all
    monkeypatch.setattr(reading, "feed_all", lambda some, parts: together.append(len(some)) or feed_all(some, parts))
    found = list(model.predict_files(paths, on_error="return"))
    assert sorted(number for number in together if number) == [11, 14]
    assert [Path(each.file).name for each in found if isinstance(each, Prediction)] == [
        path.name for path in paths if path != paths[5]
    ]
    assert isinstance(found[5], AudioError)
    monkeypatch.setattr(reading, "SHORT_S", 0.0)
    for path, among_others in zip(paths, found, strict=True):
        if path != paths[5]:
            assert_same(model.predict(path), among_others)
    assert sorted(number for number in together if number) == [11, 14]


def test_a_broken_file_stops_is_skipped_or_returned(model: Predictor, recording: Path, tmp_path: Path) -> None:
    lost = tmp_path / "lost.wav"
    files = [recording, lost, recording]
    with pytest.raises(AudioError, match=r"lost\.wav: no such file"):
        list(model.predict_files(files))
    with pytest.raises(AudioError, match=r"lost\.wav"):
        model.predict(files)
    assert [each.file for each in model.predict_files(files, on_error="skip")] == [str(recording)] * 2
    _, error, last = model.predict_files(files, on_error="return")
    assert isinstance(error, AudioError)
    assert last.file == str(recording)
    with pytest.raises(RecipeError, match="on_error: unknown value 'hope', expected one of: raise, skip, return"):
        next(model.predict_files(files, on_error="hope"))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="segments: 'options' contain 'segments', too"):
        next(model.predict_files(files, options=PredictOptions(), segments="never"))


def test_a_list_is_a_list_of_predictions(model: Predictor, recording: Path) -> None:
    first, second = model.predict([recording, str(recording)])
    assert_same(first, second)
    assert model.predict([]) == []
    with pytest.raises(AudioError, match="a list of 2 arrays, not one recording"):
        model.predict([SPEECH, SPEECH], RATE_HZ)


def test_equal_predictions_are_equal(model: Predictor, recording: Path) -> None:
    one, same = model.predict([recording, recording])
    assert one == same
    assert one != model.predict(recording, min_confidence=1.0)


def test_progress_is_told_in_seconds(model: Predictor, recording: Path) -> None:
    told: list[tuple[float, float]] = []
    list(model.predict_files([recording], on_progress=lambda done, total: told.append((done, total))))
    assert (
        [done for done, _ in told] == [total for _, total in told] == [pytest.approx(8.8)] * len(told)
    )  # shorter than a block


# -- embeddings --------------------------------------------------------------------------------------------------------


def test_embeddings_are_those_of_predictions(model: Predictor, recording: Path, tones: Path) -> None:
    files = [str(recording), *manifest.read(tones)[:2]]
    vectors = model.embed(files)
    assert (vectors.shape, vectors.dtype) == ((3, 8), np.float32)
    np.testing.assert_allclose(vectors, [each.embedding for each in model.predict(files)], atol=1e-6)
    for source in (recording, recording.read_bytes()):
        np.testing.assert_allclose(model.embed(source), vectors[0], atol=1e-5)
    np.testing.assert_allclose(model.embed(SPEECH, RATE_HZ, embedding="emotion"), vectors[0], atol=1e-5)


def test_what_has_no_embedding_is_named(model: Predictor, recording: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "rain.wav", NOISE, RATE_HZ)
    with pytest.raises(AudioError, match=r"rain\.wav: cannot be embedded: no speech\. .*segments='never'"):
        model.embed([recording, tmp_path / "rain.wav"])
    assert model.embed([recording, tmp_path / "rain.wav"], segments="never").shape == (2, 8)
    with pytest.raises(AudioError, match="there are no recordings to embed"):
        model.embed([])
    with pytest.raises(ModelError, match="unknown embedding of this model 'speaker', expected one of: emotion"):
        model.embed(recording, embedding="speaker")


# -- loading -----------------------------------------------------------------------------------------------------------


def test_a_model_is_named_by_its_folder_or_a_file_in_it(model: Predictor, tiny_run: Path) -> None:
    folder = tiny_run / "fold-1" / "seed-0" / "model"
    for name in (folder, str(folder), folder / "model.json"):
        assert serein.load(name, "cpu").identity == model.identity
    with pytest.raises(ModelError):
        serein.load(tiny_run / "none")


def test_the_default_model_ships_with_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert module.model_folder() == module.model_folder("default") == module.SHIPPED_MODELS / "default"
    assert [module.model_folder(name).name for name in module.shipped_models()] == module.shipped_models()
    monkeypatch.setattr(module, "SHIPPED_MODELS", tmp_path)
    with pytest.raises(ModelError, match="serein: this installation has no default model"):
        serein.load()


def test_each_shipped_model_says_what_it_is() -> None:
    for name in module.shipped_models():
        training = module.load(name, "cpu").checkpoint.training
        assert all(training[key] for key in ("languages", "licences", "scores", "speed")), name


def test_how_recordings_are_predicted_has_one_default() -> None:
    assert PredictOptions() == PredictOptions("auto", SlidingWindow())


FORKED = """
import multiprocessing, sys, numpy, torch, serein
torch.set_num_threads(2)
model = serein.load(sys.argv[1], device="cpu")
samples = numpy.random.default_rng(0).standard_normal(480_000).astype(numpy.float32) / 10
torch.randn(500, 500) @ torch.randn(500, 500)  # starts torch's threads
predict = lambda _: model.predict(samples, 16_000, segments="never").label
expected = predict(0)
connection, other = multiprocessing.Pipe()
child = multiprocessing.get_context("fork").Process(target=lambda: other.send((torch.get_num_threads(), predict(0))))
child.start()
print(connection.poll(60) and connection.recv() == (1, expected))
child.kill()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_predicts_after_its_parent_has(model: Predictor) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(model.checkpoint.folder)],
        capture_output=True,
        text=True,
        env=environment(OMP_NUM_THREADS="2"),
        timeout=120,
    )
    assert done.stdout == "True\n", done.stderr


def test_a_small_model_takes_one_thread_and_gives_the_others_back(
    model: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    model.predict_clips([np.full(16_000, 0.1, np.float32)])
    assert asked == [1, 8]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no memory"), RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")]
)
def test_a_batch_beyond_the_memory_is_predicted_in_halves(
    error: RuntimeError, model: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    clips = [0.1 * rng.standard_normal(size).astype(np.float32) for size in (8000, 8100, 8200, 8300, 8400)]
    whole = [clip.embedding for clip in model.predict_clips(clips)]
    run, sizes = TorchRuntime.run, []

    def scarce(self: TorchRuntime, waveforms: list[np.ndarray], *arguments: Any) -> Any:
        sizes.append(len(waveforms))
        if len(waveforms) > 2:
            raise error
        return run(self, waveforms, *arguments)

    monkeypatch.setattr(TorchRuntime, "run", scarce)
    np.testing.assert_allclose([clip.embedding for clip in model.predict_clips(clips)], whole, atol=1e-5)
    assert sizes[0] == 5
    assert sorted(size for size in sizes if size <= 2) == [1, 2, 2]


@pytest.mark.parametrize("kind", ["emotion-gender", "conditioned-gender-text", "emotion-asr"])
def test_one_task_alone_says_what_it_says_among_others(kind: str) -> None:
    model = serein.load(Path(__file__).parents[1] / "golden" / "models" / kind, device="cpu")
    clip = voiced(1.0, np.random.default_rng(0))
    together = model.predict(clip, RATE_HZ, segments="never")
    said = {model.task: (together.label, together.probabilities)}
    said |= {name: (each.label, each.probabilities) for name, each in together.tasks.items()}
    for name, (label, probabilities) in said.items():
        alone = model.with_task(name).predict(clip, RATE_HZ, segments="never")
        assert (alone.task, alone.label, dict(alone.tasks)) == (name, label, {})
        assert alone.probabilities == pytest.approx(dict(probabilities), abs=1e-6)
        assert alone.model == together.model
    with pytest.raises(ModelError, match=r"does not predict 'arousal', but: emotion"):
        model.with_task("arousal")
