"""`serein benchmark --runtimes`: the fastest runtime is named among those that keep the predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from cli_fixtures import Call
from serein.errors import ManifestError, ModelError
from serein.exporting import benchmark
from serein.exporting.benchmark import Benchmark, RuntimeComparison, RuntimeResult, compare_runtimes
from serein.exporting.export import export, made_sound
from serein.inference.predictor import load
from serein.metrics import unweighted_accuracy

MODEL = str(Path(__file__).parents[1] / "golden" / "models" / "classes")


def result(
    runtime: str, clips_per_s: float, latency_s: float, equal_labels: float = 1.0, precision: str = "float32"
) -> RuntimeResult:
    """Return what was measured of a runtime."""
    numbers: dict[str, Any] = dict.fromkeys(Benchmark.__dataclass_fields__, 1.0)
    numbers |= {"runtime": runtime, "device": "cpu", "precision": precision}
    speed = Benchmark(**numbers | {"clips_per_s": clips_per_s, "latency_p50_s": latency_s})
    return RuntimeResult(speed, 1.0, equal_labels, 0.001, num_bytes=1)


def test_the_fastest_keeps_the_predictions() -> None:
    results = (result("torch", 10, 0.02), result("onnx", 12, 0.01), result("openvino", 99, 0.001, equal_labels=0.9))
    compared = RuntimeComparison("FOLDER", results, {}, exported="float32")
    assert (compared.fastest.runtime, compared.quickest.runtime) == ("onnx", "onnx")
    assert compared.commands() == [
        "serein predict FOLDER --model FOLDER --runtime onnx",
        "serein serve --model FOLDER --runtime onnx",
    ]


def test_the_commands_export_a_model_that_is_not_exported() -> None:
    results = (result("torch", 20, 0.02), result("onnx", 12, 0.01))
    assert RuntimeComparison("default", results, {}, exported=None).commands() == [
        "serein export default -o model.onnx",
        "serein predict FOLDER --model default --runtime torch",
        "serein serve --model model.onnx --runtime onnx",
    ]
    assert RuntimeComparison("default", results[:1], {}, exported=None).commands() == [
        "serein predict FOLDER --model default --runtime torch",
        "serein serve --model default --runtime torch",
    ]


@pytest.mark.parametrize(
    ("best", "exported", "expected"),
    [
        (("torch", "bfloat16"), None, ["serein predict FOLDER --model default --runtime torch --precision bfloat16"]),
        (
            ("openvino", "bfloat16"),
            "float32",
            ["serein predict FOLDER --model default --runtime openvino --precision bfloat16"],
        ),
        (
            ("onnx", "int8"),
            "float32",
            [
                "serein export default -o model.int8.onnx --int8",
                "serein predict FOLDER --model model.int8.onnx --runtime onnx",
            ],
        ),
        (("onnx", "int8"), "int8", ["serein predict FOLDER --model default --runtime onnx"]),
    ],
)
def test_the_commands_name_the_precision(best: tuple[str, str], exported: str | None, expected: list[str]) -> None:
    runtime, precision = best
    results = (result(runtime, 1, 1.0, precision=precision),)
    compared = RuntimeComparison("default", results, {}, exported, names_precision=True)
    assert compared.commands()[:-1] == expected
    assert compared.to_dict()["fastest"] == {"runtime": runtime, "precision": precision}


@pytest.mark.slow
def test_every_runtime_is_measured_in_every_precision_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    openvino = pytest.importorskip("openvino")
    monkeypatch.setattr(benchmark, "NUM_SOUNDS", 4)
    monkeypatch.setattr(benchmark, "PEAK_SIZE", 64)
    monkeypatch.setattr(benchmark, "PEAK_S", 0.0)
    precisions = ("float32", "bfloat16", "int8")
    compared = compare_runtimes(
        MODEL, ("torch", "onnx", "openvino"), "cpu", precisions=precisions, clip_s=5.0, seconds=0.0
    )
    has_bfloat16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert [(each.benchmark.runtime, each.benchmark.precision) for each in compared.results] == [
        ("torch", "float32"),
        ("torch", "bfloat16"),
        ("onnx", "float32"),
        ("onnx", "int8"),
        ("openvino", "float32"),
        *([("openvino", "bfloat16")] if has_bfloat16 else []),
        ("openvino", "int8"),
    ]
    assert list(compared.missing) == ([] if has_bfloat16 else ["openvino, bfloat16"])


@pytest.mark.slow
def test_runtimes_are_measured_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(benchmark, "NUM_SOUNDS", 8)
    monkeypatch.setattr(benchmark, "PEAK_SIZE", 64)
    monkeypatch.setattr(benchmark, "PEAK_S", 0.0)
    compared = compare_runtimes(MODEL, ("torch", "onnx"), "cpu", clip_s=5.0, seconds=0.0)
    torch_result, onnx_result = compared.results
    assert (torch_result.ratio, torch_result.equal_labels, torch_result.largest_difference) == (1.0, 1.0, 0.0)
    assert onnx_result.keeps_predictions
    assert onnx_result.largest_difference < 1e-3
    assert onnx_result.ratio == pytest.approx(onnx_result.benchmark.clips_per_s / torch_result.benchmark.clips_per_s)
    assert compared.to_dict()["fastest"]["runtime"] in ("torch", "onnx")


def test_a_runtime_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from serein.errors import MissingExtraError

    def missing(*_: Any, **__: Any) -> None:
        raise MissingExtraError("openvino", "openvino")

    monkeypatch.setattr(benchmark, "load", missing)
    with pytest.raises(ModelError, match=r"none of these runtimes can be measured. Install it with: pip install"):
        compare_runtimes("default", ("openvino",))
    with pytest.raises(ModelError, match="unknown precision 'int4', expected one of: float32, bfloat16, int8"):
        compare_runtimes("default", ("torch",), precisions=("int4",))
    with pytest.raises(ModelError, match="unknown runtime 'tensorrt', expected one of: torch, onnx, openvino"):
        compare_runtimes("default", ("tensorrt",))


def test_what_cannot_be_exported_or_computed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from serein.errors import MissingExtraError

    def missing(*_: Any, **__: Any) -> None:
        raise MissingExtraError("onnxscript", "onnx")

    monkeypatch.setattr(benchmark, "export", missing)
    monkeypatch.setattr(benchmark, "NUM_SOUNDS", 1)
    monkeypatch.setattr(benchmark, "PEAK_SIZE", 64)
    monkeypatch.setattr(benchmark, "PEAK_S", 0.0)
    compared = compare_runtimes(MODEL, ("torch", "onnx", "openvino"), "cpu", clip_s=5.0, seconds=0.0)
    assert list(compared.missing) == ["onnx", "openvino"]
    with pytest.raises(ModelError, match="can be measured. None of them computes in int8"):
        compare_runtimes(MODEL, ("torch",), "cpu", precisions=("int8",))
    with pytest.raises(ModelError, match=r"no\.onnx: there is no such file"):
        compare_runtimes(str(tmp_path / "no.onnx"), ("onnx",))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--precisions", "int8"), "--precisions: compares runtimes, which are not named"),
        (("--data", "clips.jsonl"), "--data: compares runtimes, which are not named"),
        (("--runtimes", "torch", "--precision", "float32"), "--precision, --runtimes: cannot be combined"),
        (("--runtimes", "torch", "--precisions", ","), "--precisions: names nothing"),
    ],
)
def test_options_that_do_not_go_together(arguments: tuple[str, ...], complaint: str, serein: Call) -> None:
    outcome = serein("benchmark", MODEL, *arguments)
    assert outcome.status == 1
    assert complaint in outcome.err


@pytest.mark.slow
def test_labelled_clips_are_scored_in_every_runtime(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, serein: Call
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(benchmark, "PEAK_SIZE", 64)
    monkeypatch.setattr(benchmark, "PEAK_S", 0.0)
    model = load(MODEL, "cpu")
    waveforms = [made_sound(1.0 + seed % 3, seed) for seed in range(6)]
    labels = [str(clip.main.label) for clip in model.predict_clips(waveforms)]
    wrong = next(name for name in model.classes if name != labels[0])
    rows = []
    for number, waveform in enumerate(waveforms):
        soundfile.write(tmp_path / f"{number}.wav", waveform, 16_000, subtype="FLOAT")
        label = wrong if number == 0 else labels[number]
        rows.append({"id": str(number), "audio": f"{number}.wav", "emotion": label, "speaker": "new", "corpus": "own"})
    data = tmp_path / "clips.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = [labels[number] for number in range(6)]
    expected = unweighted_accuracy([row["emotion"] for row in rows], said)
    compared = compare_runtimes(MODEL, ("torch", "onnx"), "cpu", data=data, clip_s=5.0, seconds=0.0)
    assert expected < 1.0
    assert [each.ua for each in compared.results] == [pytest.approx(expected)] * 2
    assert compared.results[0].num_bytes == (Path(MODEL) / "model.safetensors").stat().st_size
    assert compared.num_learned_speakers == 0
    half = compare_runtimes(MODEL, ("torch",), "cpu", data=data, max_clips=3, clip_s=5.0, seconds=0.0)
    assert half.results[0].ua == pytest.approx(unweighted_accuracy([row["emotion"] for row in rows[::2]], said[::2]))
    outcome = serein("benchmark", MODEL, "--runtimes", "torch", "--data", data, "--seconds", "0.1", "--device", "cpu")
    assert outcome.status == 0
    assert outcome.out.splitlines()[0].split()[-1] == "UA"
    assert f"{100 * expected:.1f}" in outcome.out.splitlines()[1]


def test_a_manifest_of_copies_alone_has_nothing_to_compare(tmp_path: Path) -> None:
    data = tmp_path / "copies.jsonl"
    data.write_text(json.dumps({"id": "a~1", "audio": "a.wav", "copy_of": "a"}) + "\n")
    with pytest.raises(ManifestError, match="has only changed copies"):
        compare_runtimes(MODEL, ("torch",), data=data)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_batches_of_a_convolutional_network_are_computed_as_in_pytorch(runtime: Any, tmp_path: Path) -> None:
    for package in ("onnxscript", {"onnx": "onnxruntime"}.get(runtime, runtime)):
        pytest.importorskip(package)
    model = load("tiny", "cpu")
    export(model, tmp_path / "tiny.onnx")
    sounds = [made_sound(1.0 + seed % 3, seed) for seed in range(6)]
    expected = [list(clip.main.probabilities.values()) for clip in model.predict_clips(sounds)]
    found = load(tmp_path / "tiny.onnx", "cpu", runtime).predict_clips(sounds)
    np.testing.assert_allclose([list(clip.main.probabilities.values()) for clip in found], expected, atol=1e-4)


@pytest.mark.slow
def test_openvino_without_bfloat16_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    export(load(MODEL, "cpu"), tmp_path / "model.onnx")
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32"])
    with pytest.raises(ModelError, match="OpenVINO has no bfloat16 on this processor"):
        load(tmp_path / "model.onnx", "cpu", "openvino", precision="bfloat16")
    with pytest.raises(ModelError, match="computes only in float32, as it was exported"):
        load(tmp_path / "model.onnx", "cpu", "onnx", precision="bfloat16")


def test_a_folder_with_its_file_needs_no_export(tmp_path: Path) -> None:
    compared = RuntimeComparison(str(tmp_path), (result("onnx", 1, 1.0),), {}, exported="float32")
    assert compared.commands()[0] == f"serein predict FOLDER --model {tmp_path} --runtime onnx"
