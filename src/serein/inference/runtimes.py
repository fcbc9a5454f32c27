"""Runtimes of a network: PyTorch, or onnxruntime or OpenVINO with an exported file. Everything else is the same."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, BinaryIO, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from serein import checkpoint as checkpoints
from serein.audio import Waveform
from serein.checkpoint import AbsentModel, Checkpoint
from serein.device import computes_bfloat16, sent
from serein.errors import ModelError, expected_one_of, imported
from serein.hub import SHIPPED_MODELS

RuntimeName = Literal["torch", "onnx", "openvino"]
PrecisionName = Literal["float32", "bfloat16"]
METADATA = "serein"  # the key of the model's description in an exported file's metadata
WAVEFORMS, NUM_SAMPLES, CONDITION = "waveforms", "num_samples", "condition."  # its inputs
OUTPUT, EMBEDDING, PROBABILITIES = ".output", ".embedding", ".probabilities"  # its outputs, after a task's name
EXPORTED = "model.onnx"  # next to the other parts of a model folder
_MOST_FEATURES = 1 << 16  # of a condition

Vectors = NDArray[np.float32]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddingSelection:
    """Selection of one of a model's embeddings.

    Attributes:
        task: The embedding is the input of this task's output layer.
        use_fusion: `False`: before the fusion with vectors of other networks.
    """

    task: str
    use_fusion: bool = True


class Runtime(ABC):
    """Runs a network on one batch.

    Attributes:
        name: Its name in `--runtime`.
        device: Device that it runs on.
        precision: Precision of its arithmetic.
    """

    name: ClassVar[RuntimeName]
    device: torch.device
    precision: str

    def __str__(self) -> str:
        """Return its name, device and precision."""
        return f"{self.name} on {self.device}, {self.precision}"

    @abstractmethod
    def run(
        self,
        waveforms: Sequence[Waveform],
        conditions: Mapping[str, Vectors],
        tasks: Collection[str],
        selection: EmbeddingSelection,
    ) -> tuple[dict[str, torch.Tensor], Vectors]:
        """Run a batch.

        Args:
            waveforms: (sample,) float32 each.
            conditions: Attribute -> (clip, feature); attributes that are not given are unknown.
            tasks: Tasks whose outputs to return.
            selection: Embedding to return.

        Returns:
            Task -> output of its head, (clip, ...); and embeddings, (clip, feature).
        """


def predicting_precision(precision: str, device: torch.device) -> str:
    """Return the precision on a device; `inference.precision: auto` is bfloat16 on a GPU that computes in it."""
    if precision != "auto":
        return precision
    return "bfloat16" if device.type == "cuda" and computes_bfloat16(device) else "float32"


def log_runtime(model: str, runtime: Runtime | str) -> None:
    """Log which model runs where; the command line prints it on stderr."""
    logger.info("model %s: %s", model, runtime)


class TorchRuntime(Runtime):
    """PyTorch with the network of a checkpoint."""

    name = "torch"

    def __init__(self, checkpoint: Checkpoint) -> None:
        if isinstance(checkpoint.model, AbsentModel):
            remedy = "Name the model folder that it was exported from."
            raise ModelError("an exported file does not run in PyTorch", where=checkpoint.name, remedy=remedy)
        self.model = checkpoint.model
        self.device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        self.precision = predicting_precision(checkpoint.options.inference.precision, self.device)

    @torch.no_grad()
    def run(
        self,
        waveforms: Sequence[Waveform],
        conditions: Mapping[str, Vectors],
        tasks: Collection[str],
        selection: EmbeddingSelection,
    ) -> tuple[dict[str, torch.Tensor], Vectors]:
        """Run a batch on the device of the model's weights."""
        model, wanted = self.model.eval(), {*tasks, selection.task}
        num_samples = torch.tensor([len(waveform) for waveform in waveforms])
        padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(w) for w in waveforms], batch_first=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            tensors = {name: sent(torch.from_numpy(vectors), self.device) for name, vectors in conditions.items()}
            hidden_states = model.encode(sent(padded, self.device), num_samples, model.branches_of(wanted))
            head_outputs = model.decode(hidden_states, tensors, wanted)
            vector = head_outputs
            if not selection.use_fusion:
                vector = model.decode(hidden_states, tensors, {selection.task}, use_fusion=False)
        embedding: Vectors = vector[selection.task].embedding.cpu().numpy()
        return {task: head_outputs[task].output for task in tasks}, embedding


class _About(BaseModel):
    """The entry `serein` of an exported file's metadata."""

    name: str
    sha256: str
    precision: str
    conditions: dict[str, Annotated[int, Field(gt=0, le=_MOST_FEATURES)]]
    outputs: list[str]
    description: dict[str, Any]
    labels: dict[str, Any]


@dataclass(frozen=True)
class ExportedFile:
    """A file written by `serein export`, with its metadata.

    Attributes:
        path: The file.
        about: Name, hash and precision of the model, sizes of its conditions, its outputs, description and labels.
    """

    path: Path
    about: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> ExportedFile:
        """Read the metadata of a file.

        Raises:
            ModelError: The file was not exported by serein.
        """
        try:
            with path.open("rb") as file:
                about = _About.model_validate(checkpoints.parse_json(dict(_metadata(file))[METADATA]))
        except (OSError, ValueError, KeyError, IndexError, OverflowError, MemoryError):  # also for impossible lengths
            remedy = "Write one with: serein export MODEL -o model.onnx."
            raise ModelError("is not a model exported by serein", where=path, remedy=remedy) from None
        return cls(path, about.model_dump())

    def checkpoint(self) -> Checkpoint:
        """Return the model's description without its network, which a runtime reads from the file."""
        about = dict(self.about)
        digest = about["sha256"]
        if about["precision"] != "float32":  # other weights, other predictions
            digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        checkpoint = checkpoints.described(about["description"], about["labels"], self.path)
        checkpoint.identity = {"name": about["name"], "sha256": digest}
        return checkpoint


def _metadata(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """Yield key and value of an ONNX file's metadata without reading its weights.

    In protocol buffers, a field is its number and kind in a variable-length integer, then its content. Fields 14 of a
    ModelProto are messages with a key (1) and a value (2).
    """

    def integer() -> int | None:
        value, shift = 0, 0
        while byte := file.read(1):
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value
            shift += 7
        return None

    while (tag := integer()) is not None:
        if tag & 7 == 0:
            integer()
        elif tag & 7 == 2:
            length = integer() or 0
            if tag >> 3 != 14:
                file.seek(length, 1)
                continue
            end, texts = file.tell() + length, {}
            while file.tell() < end:
                if (field := integer()) is None:
                    raise ValueError("ends early")
                texts[field >> 3] = file.read(integer() or 0).decode()
            yield texts[1], texts.get(2, "")
        else:
            raise ValueError(f"a field of kind {tag & 7}")


class FileRuntime(Runtime):
    """Runs an exported file.

    Attributes:
        other_precisions: Precisions in which it can compute a file of float32 weights, besides float32.

    Args:
        file: The file.
        device: Device to run on.
        precision: Precision of the arithmetic; `None`: the file's own.

    Raises:
        MissingExtraError: The runtime is not installed.
        ModelError: The runtime has no such device or precision, or cannot read the file.
    """

    other_precisions: ClassVar[tuple[str, ...]] = ()

    def __init__(self, file: ExportedFile, device: str, precision: str | None = None) -> None:
        own = str(file.about["precision"])
        self.precision = precision or own
        if self.precision not in (own, *(self.other_precisions if own == "float32" else ())):
            remedy = "Leave out --precision, or use the model folder with --runtime torch."
            raise ModelError(f"computes only in {own}, as it was exported", where=file.path, remedy=remedy)
        self.conditions: dict[str, int] = file.about["conditions"]
        self.outputs = set(file.about["outputs"])
        self.device = self._start(file.path, device)

    @abstractmethod
    def _start(self, path: Path, device: str) -> torch.device:
        """Load the file and return where it runs."""

    @abstractmethod
    def _infer(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Return some outputs of a batch."""

    def run(
        self,
        waveforms: Sequence[Waveform],
        conditions: Mapping[str, Vectors],
        tasks: Collection[str],
        selection: EmbeddingSelection,
    ) -> tuple[dict[str, torch.Tensor], Vectors]:
        """Run a batch."""
        lengths = [len(waveform) for waveform in waveforms]
        padded = np.zeros((len(waveforms), max(lengths)), np.float32)
        for row, waveform in zip(padded, waveforms, strict=True):
            row[: len(waveform)] = waveform
        inputs: dict[str, NDArray[Any]] = {WAVEFORMS: padded, NUM_SAMPLES: np.array(lengths, np.int64)}
        for name, size in self.conditions.items():
            unknown = np.zeros((len(waveforms), size), np.float32)
            unknown[:, 0] = name == "gender"  # whose first feature stands for unknown
            inputs[CONDITION + name] = conditions.get(name, unknown)
        wanted = list(tasks)
        names = [task + OUTPUT for task in wanted] + [selection.task + EMBEDDING]
        if missing := [name for name in names if name not in self.outputs]:
            what = f"the exported file has no output '{missing[0]}'"
            raise ModelError(what, where="--runtime", remedy="Use the model folder with --runtime torch.")
        if not selection.use_fusion:
            what = f"the exported file has '{selection.task}' after fusion only"
            raise ModelError(what, where="embedding", remedy="Use the model folder with --runtime torch.")
        *outputs, embedding = self._infer(inputs, names)
        return {task: torch.from_numpy(output) for task, output in zip(wanted, outputs, strict=True)}, embedding


class OnnxRuntime(FileRuntime):
    """onnxruntime on the processor, or on CUDA if its package for CUDA is installed."""

    name = "onnx"

    def _start(self, path: Path, device: str) -> torch.device:
        onnxruntime = imported("onnxruntime", "onnx")
        known = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
        available = onnxruntime.get_available_providers()
        kind = ("cuda" if known["cuda"] in available else "cpu") if device == "auto" else device.partition(":")[0]
        if known.get(kind) not in available:
            what = f"onnxruntime has no '{device}' on this machine"
            raise ModelError(what, where="--device", remedy="Choose cpu; for CUDA install onnxruntime-gpu.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=[known[kind]])
        except Exception as error:  # of onnxruntime's own, undocumented kinds
            detail = " ".join(str(error).split())[:200]
            raise ModelError(f"onnxruntime cannot read it ({detail})", where=path, remedy="Export it again.") from None
        return torch.device("cpu" if kind == "cpu" else device.replace("auto", "cuda"))

    def _infer(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        results: list[NDArray[Any]] = self.session.run(list(outputs), dict(inputs))
        return results


class OpenVinoRuntime(FileRuntime):
    """OpenVINO on the processor, in float32, or in bfloat16 where the processor has instructions for it."""

    name = "openvino"
    other_precisions = ("bfloat16",)

    def _start(self, path: Path, device: str) -> torch.device:
        openvino = imported("openvino", "openvino")
        if device not in ("auto", "cpu"):
            what = f"serein runs OpenVINO on the processor, not on '{device}'"
            raise ModelError(what, where="--device", remedy="Choose cpu, or another --runtime.")
        core, hint = openvino.Core(), "bf16" if self.precision == "bfloat16" else "f32"
        if hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            remedy = "Leave out --precision."
            raise ModelError("OpenVINO has no bfloat16 on this processor", where="--precision", remedy=remedy)
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        try:
            compiled = core.compile_model(str(path), "CPU", settings)
        except RuntimeError as error:
            detail = " ".join(str(error).split())[:200]
            raise ModelError(f"OpenVINO cannot read it ({detail})", where=path, remedy="Export it again.") from None
        self.request = compiled.create_infer_request()
        self._lock = Lock()  # a request has one set of inputs and outputs; threads take turns
        return torch.device("cpu")

    def _infer(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        # clip by clip: in batches, OpenVINO 2026.4 computes convolutional networks wrongly
        parts = []
        for row, length in enumerate(inputs[NUM_SAMPLES].tolist()):
            clip = {name: values[row : row + 1] for name, values in inputs.items()}
            with self._lock:
                results = self.request.infer({**clip, WAVEFORMS: clip[WAVEFORMS][:, :length]})
                parts.append([np.array(results[name]) for name in outputs])  # copies: the next clip reuses their memory
        return [np.concatenate(each) for each in zip(*parts, strict=True)]


FILE_RUNTIMES: dict[str, type[FileRuntime]] = {"onnx": OnnxRuntime, "openvino": OpenVinoRuntime}
RUNTIMES = ("torch", *FILE_RUNTIMES)


def open_runtime(path: Path, runtime: str, device: str, precision: str | None = None) -> tuple[Checkpoint, FileRuntime]:
    """Return the description of an exported model, and its runtime.

    Args:
        path: The file, or the model folder that contains it as `model.onnx`.
        runtime: `onnx` or `openvino`.
        device: `auto`, or a device that the runtime supports.
        precision: See `FileRuntime`.

    Raises:
        ModelError: There is no such file or precision, or it was exported from a model other than that of the folder.
        MissingExtraError: The runtime is not installed.
    """
    if runtime not in FILE_RUNTIMES:
        raise ModelError(
            expected_one_of(runtime, FILE_RUNTIMES, kind="runtime of exported files"),
            where="--runtime",
            remedy="Choose one of these.",
        )
    folder = path if path.is_dir() else None
    path = path / EXPORTED if folder else path
    is_model = folder is not None and checkpoints.is_model_folder(folder)
    if folder and not is_model and not path.is_file():
        remedy = "Name a model folder or an exported file."
        raise ModelError(f"is not a model folder, and contains no {EXPORTED}", where=folder, remedy=remedy)
    remedy = f"Run: serein export {folder or 'MODEL'} -o {path}."
    if folder and folder.parent == SHIPPED_MODELS:  # an upgrade of the package would remove a file in it
        remedy = f"Run: serein export {folder.name} -o model.onnx; then use --model model.onnx."
    if not path.is_file():
        raise ModelError(f"there is no exported file for '{runtime}'", where=path, remedy=remedy)
    file = ExportedFile.open(path)
    if folder and is_model and file.about["sha256"] != checkpoints.parts_digest(folder):
        raise ModelError("was exported from another state of this model", where=path, remedy=remedy)
    return file.checkpoint(), FILE_RUNTIMES[runtime](file, device, precision)
