"""The programs that a user types first, as they are typed; on tiny models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import serein
from cli_fixtures import Call, write_speech
from speech_sounds import voiced


@pytest.fixture(autouse=True)
def default_model(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model in the place of the default one."""
    folder = tmp_path / "shipped" / "default"
    shutil.copytree(tiny_run / "fold-1" / "seed-0" / "model", folder)
    monkeypatch.setattr("serein.inference.predictor.SHIPPED_MODELS", folder.parent)
    return folder


@pytest.mark.slow
def test_a_recording_is_predicted_as_by_the_command(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A recording over 30 s, which the two used to predict differently."""
    command: Call = request.getfixturevalue("serein")  # the name is the package's here
    call = write_speech(tmp_path / "call.wav", seconds=33.0)
    prediction = serein.load().predict(call)
    assert json.loads(command("predict", call, "--json").out) == prediction.to_dict()
    for segment in prediction.segments:
        assert (segment.start_s < segment.end_s, segment.label in prediction.probabilities) == (True, True)


def test_samples_and_their_rate(tmp_path: Path) -> None:
    """As `librosa.load` and `torchaudio.load` return them."""
    samples, sampling_rate = soundfile.read(write_speech(tmp_path / "call.wav"), dtype="float32")
    prediction = serein.load().predict(samples, sampling_rate=sampling_rate)
    assert prediction.label
    assert prediction.probabilities == pytest.approx(
        serein.load().predict(tmp_path / "call.wav").probabilities, abs=1e-5
    )


def test_many_files_and_their_embeddings_on_a_device(tmp_path: Path) -> None:
    files = [write_speech(tmp_path / f"{number}.wav", seed=number) for number in range(3)]
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    model = serein.load().to("cpu")
    assert [item.file for item in model.predict_files([*files, broken], on_error="skip")] == [str(f) for f in files]
    vectors = model.embed(files)
    assert (vectors.shape, vectors.dtype) == ((3, 8), np.float32)


@pytest.mark.slow
def test_training_running_and_evaluating(tiny: Path, tones: Path, tmp_path: Path) -> None:
    changed = serein.load_recipe(tiny, ["stages.0.epochs=1"])
    run = serein.run(changed, data=tones, out=tmp_path / "run")
    assert (run / "fold-1" / "seed-0" / "predictions.jsonl").is_file()
    model = serein.train(changed, data=tones, out=tmp_path / "trained")
    predictions, scores = serein.evaluate(model, tones, allow_seen_speakers=True)
    assert len(predictions) == scores.num_utterances == 36


def test_metrics_take_truth_and_prediction() -> None:
    truth, prediction = ["sad", "sad", "sad", "happy"], ["sad", "sad", "happy", "happy"]
    assert serein.metrics.unweighted_accuracy(truth, prediction) == pytest.approx((2 / 3 + 1) / 2)
    assert serein.metrics.weighted_accuracy(truth, prediction) == 0.75
    assert serein.metrics.macro_f1(truth, prediction) == pytest.approx((0.8 + 2 / 3) / 2)


def test_a_stream_of_a_telephone() -> None:
    stream = serein.load().stream(sampling_rate=8_000)
    samples = voiced(4.0, np.random.default_rng(0))[::2]
    segments = [each for start in range(0, len(samples), 800) for each in stream.feed(samples[start : start + 800])]
    assert segments + stream.finish()
    assert stream.prediction.label


def test_a_prediction_as_a_dictionary_and_as_a_table(tmp_path: Path) -> None:
    prediction = serein.load().predict(write_speech(tmp_path / "call.wav"))
    content = prediction.to_dict()
    assert (content["label"], len(content["segments"])) == (prediction.label, len(prediction.to_frame()))
    assert len(repr(prediction)) < 400


def test_the_package_shows_what_there_is() -> None:
    assert {"load", "Predictor", "Prediction", "Segment", "run", "train", "evaluate", "metrics"} <= set(dir(serein))
    assert all(hasattr(serein, name) for name in serein.__all__)


def test_the_models_inside_the_package_are_listed(request: pytest.FixtureRequest) -> None:
    command: Call = request.getfixturevalue("serein")
    (found,) = json.loads(command("models", "--json").out)
    assert found["name"] == "default"
    assert found["classes"] == list(serein.load().classes)
    assert found["parameters"] > 0
    listed = command("models").out
    assert all(part in listed for part in ("default", f"{found['parameters']:,} parameters", "speed", "languages"))
