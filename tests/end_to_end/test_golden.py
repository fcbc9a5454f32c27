"""Today's predictions are those of serein before it was rebuilt: see tests/golden/README.md."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

import serein
from serein.data import manifest
from serein.data.manifest import Utterance
from serein.ensemble.predictor import EnsemblePredictor
from serein.evaluation.verification import speaker_pairs
from serein.inference.prediction import Prediction, RejectOption, Segment
from serein.inference.predictor import Predictor
from serein.inference.recording import PredictOptions, SlidingWindow
from serein.knn.building import build, tune
from serein.knn.predictor import KnnPredictor
from serein.text.word_vectors import open_vocabulary, prepare

GOLDEN = Path(__file__).parents[1] / "golden"
TINY: dict[str, Any] = json.loads((GOLDEN / "tiny.json").read_text(encoding="utf-8"))
DEFAULT: dict[str, Any] = json.loads((GOLDEN / "default.json").read_text(encoding="utf-8"))
RATE_HZ = 16_000
TOLERANCE = 1e-6  # of probabilities; the numbers in the files are rounded to 1e-8


# -- sounds, as the golden files were made ---------------------------------------------------------------------------


def clip_samples(number: int, seconds: float) -> np.ndarray:
    """Return (sample,) int16 of an amplitude-modulated harmonic sound with noise, some with silence at both ends."""
    rng = np.random.default_rng([13, number])
    num = round(seconds * RATE_HZ)
    times_s = np.arange(num) / RATE_HZ
    pitch_hz = rng.uniform(90.0, 320.0)
    glide, wobble = rng.uniform(-0.25, 0.25), rng.uniform(0.0, 0.06)
    track_hz = pitch_hz * (1.0 + glide * times_s / seconds + wobble * np.sin(2 * np.pi * 5.0 * times_s))
    phase = 2 * np.pi * np.cumsum(track_hz) / RATE_HZ
    tilt, num_harmonics = rng.uniform(0.4, 1.6), int(rng.integers(4, 16))
    wave = np.zeros(num)
    for harmonic in range(1, num_harmonics + 1):
        wave += harmonic**-tilt * np.sin(harmonic * phase + rng.uniform(0.0, 2 * np.pi))
    wave /= np.abs(wave).max()
    syllables_hz, depth = rng.uniform(2.0, 7.0), rng.uniform(0.3, 0.95)
    wave *= 1.0 - depth * 0.5 * (1.0 + np.cos(2 * np.pi * syllables_hz * times_s))
    wave += rng.uniform(0.002, 0.05) * rng.standard_normal(num)
    wave *= rng.uniform(0.1, 0.7) / np.abs(wave).max()
    if number % 3 == 0:  # near-silence at both ends, so that trimming cuts something
        edge = num // 5
        wave[:edge] *= 1e-3
        wave[-edge:] *= 1e-3
    return np.round(wave.astype(np.float32) * np.float32(32767.0)).astype(np.int16)


def voiced_samples(seconds: float = 40.0) -> np.ndarray:
    """Return (sample,) int16 that the detector takes for speech, with pauses of 0.2 and 1.0 s."""
    rng = np.random.default_rng([13, 999])
    times_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    pitch = 140.0 * (1 + 0.3 * np.sin(2 * np.pi * 0.06 * times_s) + 0.15 * np.sin(2 * np.pi * 0.7 * times_s))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE_HZ
    drift = np.sin(2 * np.pi * 2.1 * times_s)
    formants_hz = np.stack([500 + 250 * drift, 1500 - 500 * drift, 2500 + 0 * drift])
    wave = np.zeros(len(times_s))
    for harmonic in range(1, 26):
        gains = 1 / (1 + ((harmonic * pitch - formants_hz) / 120.0) ** 2)
        wave += gains.sum(axis=0) * np.sin(harmonic * phase) / harmonic**0.5
    wave *= np.clip(1.4 * np.sin(np.pi * 4 * times_s) ** 2, 0.05, 1) / np.abs(wave).max()
    wave *= 0.1 + 0.25 * (1 + np.sin(2 * np.pi * 0.11 * times_s))
    for start_s, end_s in ((2.0, 3.0), (7.0, 7.2), (14.0, 15.0), (26.0, 27.0), (28.5, 28.7), (37.0, 38.0)):
        wave[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)] = 0.0
    wave += 0.001 * rng.standard_normal(len(wave))
    return np.round(wave.astype(np.float32) * np.float32(32767.0)).astype(np.int16)


def require_same(samples: np.ndarray, sha256: str) -> None:
    """Skip where NumPy draws or rounds otherwise: no difference of serein."""
    if hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest() != sha256:
        pytest.skip("this NumPy makes other samples of the same formulas")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the clips, `manifest.jsonl` of 14 utterances, and `datastore.jsonl` of 26."""
    folder = tmp_path_factory.mktemp("golden")
    for name, clip in TINY["clips"].items():
        samples = clip_samples(clip["number"], clip["seconds"])
        require_same(samples, clip["sha256"])
        soundfile.write(folder / f"{name}.wav", samples, RATE_HZ, subtype="PCM_16")
    for name in ("manifest", "datastore"):
        lines = "".join(json.dumps(row) + "\n" for row in TINY[name])
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def utterances(sounds: Path) -> list[Utterance]:
    return manifest.read(sounds / "manifest.jsonl")


@pytest.fixture(autouse=True)
def stored_text_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the stored sentence vectors, whatever version of Sentence-Transformers is installed."""
    stored = load_file(GOLDEN / "text_vectors.safetensors")
    nothing = np.zeros(384, np.float32)
    monkeypatch.setattr("serein.text.sentences.SentenceEncoder.__init__", lambda self, name: None)
    monkeypatch.setattr(
        "serein.text.sentences.SentenceEncoder.vectors",
        lambda self, texts: np.stack([stored[text] if text else nothing for text in texts]),
    )


def model(kind: str) -> Predictor:
    return serein.load(GOLDEN / "models" / kind, device="cpu")


# -- comparing ---------------------------------------------------------------------------------------------------------


def assert_embedding(vector: np.ndarray, expected: Mapping[str, Any]) -> None:
    assert len(vector) == expected["size"]
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    assert norm == pytest.approx(expected["norm"], rel=1e-5)
    assert vector[: len(expected["first"])].tolist() == pytest.approx(expected["first"], abs=1e-5 * norm)


def assert_predictions(
    predictions: Sequence[Prediction], expected: Mapping[str, Mapping[str, Any]], key: str = "probabilities"
) -> None:
    """Compare all that the golden file says of each utterance; `key`: probabilities before or after calibration."""
    assert [prediction.id for prediction in predictions] == list(expected)
    for prediction, row in zip(predictions, expected.values(), strict=True):
        assert (prediction.label or "") == (row["label"] or ""), prediction.id
        assert prediction.probabilities == pytest.approx(row.get(key) or row.get("probabilities", {}), abs=TOLERANCE)
        assert set(prediction.tasks) == set(row.get("tasks", {}))
        for name, other in row.get("tasks", {}).items():
            assert (prediction.tasks[name].label or "") == other["label"], (prediction.id, name)
            assert prediction.tasks[name].probabilities == pytest.approx(other.get("probabilities", {}), abs=TOLERANCE)
        if "duration_s" in row:
            assert prediction.duration_s == pytest.approx(row["duration_s"], abs=1e-4)
        if "embedding" in row:
            assert_embedding(prediction.embedding, row["embedding"])
        for neighbour, (id, label, distance) in zip(prediction.neighbours, row.get("neighbours", []), strict=True):
            assert (neighbour.id, neighbour.label) == (id, label)
            assert neighbour.distance == pytest.approx(distance, rel=2e-5, abs=1e-6)


def assert_segments(segments: Sequence[Segment], expected: Sequence[Sequence[Any]]) -> None:
    assert len(segments) == len(expected)
    for segment, (start_s, end_s, label, rejected, *probabilities) in zip(segments, expected, strict=True):
        assert (segment.start_s, segment.end_s) == pytest.approx((start_s, end_s), abs=1e-6)
        assert (segment.label, segment.rejected) == (label, rejected)
        assert list(segment.probabilities.values()) == pytest.approx(probabilities, abs=TOLERANCE)


def assert_recording(prediction: Prediction, windows: Sequence[Segment], expected: Mapping[str, Any]) -> None:
    assert prediction.duration_s == pytest.approx(expected["duration_s"], abs=1e-6)
    assert prediction.speech_s == pytest.approx(expected["speech_s"], abs=1e-6)
    assert (prediction.label, prediction.rejected) == (expected["label"], expected["rejected"])
    assert prediction.probabilities == pytest.approx(expected["probabilities"], abs=TOLERANCE)
    assert_segments(prediction.segments, expected["segments"])
    assert_segments(windows, expected["windows"])
    assert_embedding(prediction.embedding, expected["embedding"])


def windows_of(predictor: Predictor, samples: np.ndarray, options: PredictOptions) -> list[Segment]:
    """Return the windows that a stream of the samples predicts."""
    stream = predictor.stream(options=options)
    found = [each for start in range(0, len(samples), 5000) for each in stream.feed(samples[start : start + 5000])]
    return found + stream.finish()


# -- tiny models of each kind ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TINY["models"])
def test_utterances(kind: str, utterances: list[Utterance]) -> None:
    predictor, expected = model(kind), TINY["models"][kind]
    assert (predictor.task, list(predictor.checkpoint.answered)) == (expected["task"], expected["answered"])
    assert_predictions(predictor.predict(utterances), expected["predictions"])
    if predictor.checkpoint.calibration is not None:
        raw = predictor.uncalibrated()
        for prediction in raw.predict(utterances):
            row = expected["predictions"][prediction.id]
            assert prediction.probabilities == pytest.approx(row["uncalibrated"], abs=TOLERANCE)


def test_embeddings_of_two_networks(utterances: list[Utterance]) -> None:
    predictor = model("branches")
    for name, expected in TINY["embeddings"].items():
        for vector, each in zip(predictor.embed(utterances, embedding=name), expected.values(), strict=True):
            assert_embedding(vector, each)
    vectors = predictor.embed(utterances, embedding="speaker")
    verification = predictor.checkpoint.verification
    assert verification is not None
    pairs = speaker_pairs([u.id for u in utterances], list(vectors), verification.threshold)
    for pair, (first, second, cosine, is_same) in zip(pairs, TINY["speaker_pairs"], strict=True):
        assert (pair.first, pair.second, pair.is_same_speaker) == (first, second, is_same)
        assert pair.cosine == pytest.approx(cosine, abs=1e-5)


def test_other_words_as_labels(utterances: list[Utterance], tmp_path: Path) -> None:
    """The vocabulary is prepared anew, and the model's reference to it made to fit."""
    shutil.copy(GOLDEN / "vocabulary.txt", tmp_path / "tiny.txt")
    prepare(str(tmp_path / "tiny.txt"), str(tmp_path / "tiny"))
    folder = shutil.copytree(GOLDEN / "models" / "words", tmp_path / "words")
    labels = json.loads((folder / "labels.json").read_text())
    labels["words"]["vocabulary"] = str(tmp_path / "tiny")
    labels["words"]["vocabulary_digest"] = open_vocabulary(str(tmp_path / "tiny")).digest
    (folder / "labels.json").write_text(json.dumps(labels))
    expected = TINY["relabelled"]
    predictor = serein.load(folder, "cpu").with_labels(expected["labels"])
    assert_predictions(predictor.predict(utterances), expected["predictions"])


def test_unknown_conditions(utterances: list[Utterance]) -> None:
    nothing = {"gender": None, "transcript": None, "predicted": None}
    predictions = model("conditioned-gender-text").predict([u.model_copy(update=nothing) for u in utterances])
    assert_predictions(predictions, TINY["without_conditions"])


# -- kNN and ensemble --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def datastore(sounds: Path) -> Path:
    build(str(GOLDEN / "models" / "classes"), sounds / "datastore.jsonl", sounds / "datastore", lambda *_: None)
    return sounds / "datastore"


@pytest.mark.parametrize("setting", TINY["knn"], ids=lambda s: f"k={s['k']} weight={s['knn_weight']} {s['votes']}")
def test_knn(setting: dict[str, Any], datastore: Path, utterances: list[Utterance]) -> None:
    given = {} if setting["is_default"] else {name: setting[name] for name in ("k", "knn_weight", "votes")}
    folder = GOLDEN / "models" / "classes"
    predictor = KnnPredictor(folder, datastore, **given, show_neighbours=True, device="cpu")
    assert predictor.interpolation.k == setting["k"]
    assert_predictions(predictor.predict(utterances), setting["predictions"])


@pytest.mark.parametrize("votes", TINY["knn_tuned"])
def test_knn_tuning(votes: Any, datastore: Path, sounds: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(datastore, tmp_path / "datastore")
    tuned = tune(folder, sounds / "manifest.jsonl", lambda *_: None, votes=votes).tuning
    found = {"k": tuned.k, "knn_weight": tuned.knn_weight, "score": tuned.score, "model_score": tuned.model_score}
    assert found == pytest.approx(TINY["knn_tuned"][votes])


def test_ensemble(utterances: list[Utterance]) -> None:
    predictor = EnsemblePredictor(GOLDEN / "ensemble.json", "cpu")
    assert_predictions(predictor.predict(utterances), TINY["ensemble"])


# -- a long recording --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expected", TINY["recording"]["predictions"], ids=lambda e: f"{e['model']} {e['window_s']:g} s"
)
def test_a_recording(expected: dict[str, Any], tmp_path: Path) -> None:
    samples = voiced_samples()
    require_same(samples, TINY["recording"]["sha256"])
    soundfile.write(tmp_path / "voiced.wav", samples, RATE_HZ, subtype="PCM_16")
    predictor = model(expected["model"])
    options = PredictOptions(
        sliding_window=SlidingWindow(expected["window_s"], expected["step_s"]),
        reject_option=RejectOption(expected["min_confidence"], expected["min_duration_s"]),
    )
    (prediction,) = predictor.predict_files([tmp_path / "voiced.wav"], options=options)
    assert_recording(prediction, windows_of(predictor, samples, options), expected)


# -- the model of RAVDESS, which was the default one ----------------------------


@pytest.mark.slow
def test_ravdess_model_on_utterances(real_data: Callable[[str], Path]) -> None:
    folder = real_data("ravdess")
    utterances = [Utterance(id=name, audio=str(folder / name)) for name in DEFAULT["utterances"]]
    assert_predictions(serein.load("ravdess", device="cpu").predict(utterances), DEFAULT["utterances"])


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFAULT["recordings"])
def test_ravdess_model_on_recordings(name: str, real_data: Callable[[str], Path], tmp_path: Path) -> None:
    """Clips of one actor joined, as the golden file says."""
    folder, expected = real_data("ravdess"), DEFAULT["recordings"][name]
    cut, gap = expected["cut_samples_at_each_end"], np.zeros(expected["zeros_between"], np.int16)
    pieces: list[np.ndarray] = []
    for part in expected["parts"]:
        samples, _ = soundfile.read(folder / part, dtype="int16")
        pieces += [samples[cut : len(samples) - cut], gap]
    joined = np.concatenate(pieces[:-1])
    assert hashlib.sha256(joined.astype("<i2").tobytes()).hexdigest() == expected["sha256"]
    soundfile.write(tmp_path / name, joined, RATE_HZ, subtype="PCM_16")
    predictor = serein.load("ravdess", device="cpu")
    assert_recording(predictor.predict(tmp_path / name), windows_of(predictor, joined, PredictOptions()), expected)
