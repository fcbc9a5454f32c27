"""`serein benchmark --runtimes`: the fastest runtime is named among those that keep the predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serein.errors import ModelError
from serein.exporting import benchmark
from serein.exporting.benchmark import Benchmark, RuntimeComparison, RuntimeResult, compare_runtimes

MODEL = str(Path(__file__).parents[1] / "golden" / "models" / "classes")


def result(runtime: str, clips_per_s: float, latency_s: float, equal_labels: float = 1.0) -> RuntimeResult:
    """Return what was measured of a runtime."""
    numbers: dict[str, Any] = dict.fromkeys(Benchmark.__dataclass_fields__, 1.0)
    speed = Benchmark(**numbers | {"runtime": runtime, "clips_per_s": clips_per_s, "latency_p50_s": latency_s})
    return RuntimeResult(speed, 1.0, equal_labels, 0.001)


def test_the_fastest_keeps_the_predictions() -> None:
    results = (result("torch", 10, 0.02), result("onnx", 12, 0.01), result("openvino", 99, 0.001, equal_labels=0.9))
    compared = RuntimeComparison("FOLDER", results, {}, is_exported=True)
    assert (compared.fastest, compared.quickest) == ("onnx", "onnx")
    assert compared.commands() == [
        "serein predict FOLDER --model FOLDER --runtime onnx",
        "serein serve --model FOLDER --runtime onnx",
    ]


def test_the_commands_export_a_model_that_is_not_exported() -> None:
    results = (result("torch", 20, 0.02), result("onnx", 12, 0.01))
    assert RuntimeComparison("default", results, {}, is_exported=False).commands() == [
        "serein export default -o model.onnx",
        "serein predict FOLDER --model default --runtime torch",
        "serein serve --model model.onnx --runtime onnx",
    ]
    assert RuntimeComparison("default", results[:1], {}, is_exported=False).commands() == [
        "serein predict FOLDER --model default --runtime torch",
        "serein serve --model default --runtime torch",
    ]


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
    assert compared.to_dict()["fastest"] in ("torch", "onnx")


def test_a_runtime_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from serein.errors import MissingExtraError

    def missing(*_: Any, **__: Any) -> None:
        raise MissingExtraError("openvino", "openvino")

    monkeypatch.setattr(benchmark, "load", missing)
    with pytest.raises(ModelError, match=r"none of these runtimes is installed. Install it with: pip install"):
        compare_runtimes("default", ("openvino",))
    with pytest.raises(ModelError, match="unknown runtime 'tensorrt', expected one of: torch, onnx, openvino"):
        compare_runtimes("default", ("tensorrt",))


def test_a_folder_with_its_file_needs_no_export(tmp_path: Path) -> None:
    compared = RuntimeComparison(str(tmp_path), (result("onnx", 1, 1.0),), {}, is_exported=True)
    assert compared.commands()[0] == f"serein predict FOLDER --model {tmp_path} --runtime onnx"
