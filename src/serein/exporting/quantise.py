"""8-bit integers in an exported file: linear layers, and with speech to calibrate on, convolutions and activations."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from serein.audio import Waveform
from serein.inference.runtimes import METADATA, NUM_SAMPLES, WAVEFORMS, ExportedFile


def quantise(path: Path, out: Path, clips: Sequence[Waveform] | None = None) -> None:
    """Write an exported file with 8-bit weights, one scale for each output channel.

    Features of sound (spectra, mel bands) stay in float32, and so does attention.

    Args:
        path: A file in float32.
        out: The file to write.
        clips: Speech, whose activations' ranges are kept: convolutions and linear layers then compute in integers.
            Sounds that are no speech would not do: on RAVDESS, one label in eighteen changed. `None`: linear layers
            alone, the range of whose input is taken at each call.
    """
    onnx = importlib.import_module("onnx")
    quantization = importlib.import_module("onnxruntime.quantization")
    model = onnx.load(str(path))
    linear = [node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm") and _is_linear(node)]
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    with _quiet():
        if clips is None:
            quantization.quantize_dynamic(
                str(path),
                str(out),
                nodes_to_quantize=linear,
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
            )
        else:
            inputs = _inputs(clips, ExportedFile.open(path).about["conditions"])
            reader = type("Reader", (quantization.CalibrationDataReader,), {"get_next": lambda _: next(inputs, None)})
            quantization.quantize_static(
                str(path),
                str(out),
                reader(),
                nodes_to_quantize=linear + convolutions,
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
            )
    rounded = onnx.load(str(out))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    about = json.loads(metadata[METADATA]) | {"precision": "int8"}
    onnx.helper.set_model_props(rounded, metadata | {METADATA: json.dumps(about)})
    onnx.save(rounded, str(out))


def _is_linear(node: Any) -> bool:
    """Tell whether a product is that of a linear layer: the exporter notes the operation that it came from."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key.endswith("name_scopes")), "")
    return scopes.rstrip("]'").rpartition("'")[2].startswith(("linear", "addmm"))


def _inputs(clips: Sequence[Waveform], conditions: dict[str, int]) -> Iterator[dict[str, Any]]:
    for clip in clips:
        known = {f"condition.{name}": np.zeros((1, size), np.float32) for name, size in conditions.items()}
        yield {WAVEFORMS: clip[None], NUM_SAMPLES: np.array([len(clip)]), **known}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime from advising a preparation that has been made."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
