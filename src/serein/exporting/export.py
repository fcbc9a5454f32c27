"""`serein export`: write a model as an ONNX file that contains features, network and classifier, and check its parity.

The file takes a padded batch of waveforms and returns all outputs of the model.
"""

from __future__ import annotations

import copy
import importlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import parametrize

import serein
from serein.audio import SAMPLE_RATE_HZ, Waveform, trimmed, without_offset
from serein.checkpoint import FORMAT, AbsentModel, Checkpoint
from serein.data.dataset import fix_length
from serein.data.files import make_readable
from serein.data.manifest import Utterance
from serein.errors import ModelError, imported
from serein.inference.predictor import Predictor, load
from serein.inference.runtimes import (
    CONDITION,
    EMBEDDING,
    METADATA,
    NUM_SAMPLES,
    OUTPUT,
    PROBABILITIES,
    WAVEFORMS,
    EmbeddingSelection,
    ExportedFile,
    OnnxRuntime,
    TorchRuntime,
)
from serein.models.conditioning import GENDERS, attribute_vectors
from serein.models.model import SpeechModel
from serein.recipe import MAIN

TOLERANCE = 1e-4  # of logits in float32, relative to the largest where that is above 1
MOST_CHANGED = 0.05  # largest fraction of the predictions of given clips that int8 may change
MOST_DIFFERENCE = 0.05  # of equal numbers (dimensions, 0 to 1)
NUM_CALIBRATION = 16  # clips that determine the ranges of activations
BATCHES_S = ((1.0,), (0.4, 1.7, 3.1), (2.0, 2.0, 2.0, 2.0), (0.05, 7.3), (30.0,))  # lengths of the compared clips


class ExportGraph(nn.Module):
    """A model with named inputs and outputs in a fixed order.

    Args:
        checkpoint: The model; it is not changed, adapters are merged into the weights of a copy.

    Attributes:
        tasks: Tasks whose outputs are in the file.
        left_out: Tasks whose outputs cannot be in the file, such as words, which need a search.
        conditions: Attribute -> number of features, for the inputs in addition to the audio.

    Raises:
        ModelError: The main task cannot be exported.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        of_tasks = {name: checkpoint.tasks[name] for name in checkpoint.answered}
        self.left_out = tuple(name for name, task in of_tasks.items() if task.spec.has_transcript)
        self.tasks = tuple(name for name in of_tasks if name not in self.left_out)
        if checkpoint.task in self.left_out:
            raise ModelError(
                f"predicts words with its task '{checkpoint.task}', and their search (CTC) cannot be exported",
                where=checkpoint.folder,
                remedy="Use the model folder.",
            )
        self.values = {name: of_tasks[name].values for name in self.tasks}
        sizes = {"gender": len(GENDERS), "text": checkpoint.options.text_size}
        self.conditions = {name: sizes[name] for name in checkpoint.options.tasks.conditions}
        # a copy on the CPU in float32, with adapters and weight norms merged into the weights
        self.model: SpeechModel = copy.deepcopy(checkpoint.model).cpu().float().eval()
        for name in (MAIN, *self.model.branches):
            self.model.backbone_of(name).merge_adapter()
        for module in self.model.modules():
            if parametrize.is_parametrized(
                module
            ):  # PyTorch's own way to remove them would change the original's class
                weights = {
                    name: getattr(module, name).detach() for name in cast(nn.ModuleDict, module.parametrizations)
                }
                del module._modules["parametrizations"]
                module.__class__ = type(module).__mro__[1]
                for name, weight in weights.items():
                    module.register_parameter(name, nn.Parameter(weight))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of `forward`'s arguments."""
        return (WAVEFORMS, NUM_SAMPLES, *(CONDITION + name for name in self.conditions))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs: for each task, its probabilities or numbers, its head's output, its embedding."""
        return tuple(task + kind for task in self.tasks for kind in (PROBABILITIES, OUTPUT, EMBEDDING))

    def longest_s(self, checkpoint: Checkpoint) -> float:
        """Return the longest clip that is compared: a window, or less if a backbone takes less."""
        limits_s = [self.model.backbone_of(name).max_s for name in self.model.branches_of(self.tasks)]
        return min([checkpoint.options.clips.window_s, *(limit_s for limit_s in limits_s if limit_s is not None)])

    def forward(
        self, waveforms: torch.Tensor, num_samples: torch.Tensor, *conditions: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return the outputs.

        Args:
            waveforms: (batch, sample) float32 at 16 kHz; samples past a clip's own length are ignored.
            num_samples: (batch,) long, number of real samples of each clip.
            conditions: (batch, feature) of each attribute, in the order of `conditions`.
        """
        hidden_states = self.model.encode(waveforms, num_samples, self.model.branches_of(self.tasks))
        known = dict(zip(self.conditions, conditions, strict=True))
        heads = self.model.decode(hidden_states, known, self.tasks)
        found: list[torch.Tensor] = []
        for task in self.tasks:
            found += [self.values[task](heads[task].output), heads[task].output, heads[task].embedding]
        return tuple(each.clone() for each in found)  # one tensor under two names would be one output


def export(
    model: Predictor | str | Path | None,
    out: str | Path,
    *,
    int8: bool = False,
    clips: Sequence[Waveform] | None = None,
    utterances: Sequence[Utterance] | None = None,
) -> dict[str, Any]:
    """Write a model as one ONNX file, with a report of how exactly it matches the model (`model.parity.json`).

    Args:
        model: A model folder, a name on the Hugging Face Hub, or a loaded model; `None` uses the default model.
        out: The output file, which ends in `.onnx`.
        int8: Store weights as 8-bit integers, a quarter of the size (`serein.exporting.export.quantise`).
        clips: Speech for the comparison and for calibrating int8, (sample,) float32 at 16 kHz; `None` uses synthetic
            sounds.
        utterances: Metadata of each clip, for models with conditions; `None`: gender and text are unknown.

    Returns:
        The contents of the parity report.

    Raises:
        ModelError: The model cannot be exported, or the file would not match it.
        MissingExtraError: `onnx`, `onnxscript` or `onnxruntime` is not installed.
    """
    out = Path(out)
    if out.suffix != ".onnx":
        raise ModelError("the name of an exported file must end in .onnx", where=out, remedy="Name it model.onnx.")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        imported(package, "onnx")
    predictor = model if isinstance(model, Predictor) else load(model, "cpu")
    if type(predictor) is not Predictor:
        what = f"a {type(predictor).__name__} combines a model with others or a datastore, which cannot be exported"
        raise ModelError(what, where="export", remedy="Export its model folders one by one.")
    checkpoint = predictor.checkpoint
    if isinstance(checkpoint.model, AbsentModel):
        remedy = "Name the model folder that it was exported from."
        raise ModelError("an exported file cannot be exported again", where=checkpoint.name, remedy=remedy)
    graph = ExportGraph(checkpoint)
    given = None if clips is None else GivenClips.of(checkpoint, graph, clips, utterances)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        exact = Path(folder) / out.name
        _trace(graph, checkpoint, exact)
        report = parity(checkpoint, graph, exact, given)
        if report["difference"]["output"] > TOLERANCE * max(1.0, report["largest_output"]):
            what = f"the file would differ from the model by {report['difference']['output']:.1e}"
            raise ModelError(what, where=checkpoint.folder, remedy="Report this with the model's model.json.")
        if int8:
            rounded = Path(folder) / "int8" / out.name
            rounded.parent.mkdir()
            quantise(exact, rounded, given)
            report = parity(checkpoint, graph, rounded, given)
            exact = rounded
            number = sum(map(len, report["batches_s"]))
            changed = round((1.0 - report["equal_labels"]) * number)
            if given is not None and changed > max(1.0, MOST_CHANGED * number):
                noun = "labels" if checkpoint.tasks[checkpoint.task].spec.has_classes else "numbers"
                what = f"int8 would change the {noun} of {changed} of {number} clips"
                remedy = "Export it in float32, without --int8."
                raise ModelError(what, where=checkpoint.folder, remedy=remedy)
        make_readable(exact)
        os.replace(exact, out)
        if (beside := Path(f"{exact}.data")).exists():  # weights of 2 GB and more
            os.replace(beside, out.parent / beside.name)
    report |= {"file": out.name, "bytes": out.stat().st_size}
    text = json.dumps(report, indent=2)
    out.with_suffix(".parity.json").write_text(text + "\n", encoding="utf-8")
    return report


@dataclass(frozen=True)
class GivenClips:
    """Speech for the comparison of a file with its model, and for the calibration of int8.

    Attributes:
        waveforms: (sample,) float32 at 16 kHz each, cut or padded as the model's input.
        conditions: Attribute -> (clip, feature).
    """

    waveforms: Sequence[Waveform]
    conditions: Mapping[str, NDArray[np.float32]]

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        graph: ExportGraph,
        clips: Sequence[Waveform],
        utterances: Sequence[Utterance] | None,
    ) -> GivenClips:
        """Return clips as the network gets them, with the conditions of their utterances."""
        options, most = checkpoint.options, round(graph.longest_s(checkpoint) * SAMPLE_RATE_HZ)
        cut = [trimmed(without_offset(clip), options.clips.trim_db)[:most] for clip in clips]
        known = utterances or [Utterance(id="-", audio="-")] * len(clips)
        conditions = attribute_vectors(known, options.tasks.conditions, "known", options.text.encoder)
        return cls([fix_length(clip, options.clips) for clip in cut], conditions)


def _trace(graph: ExportGraph, checkpoint: Checkpoint, path: Path) -> None:
    """Trace the graph with dynamic batch size and length, and write it with its metadata."""
    dynamic = torch.export.Dim.DYNAMIC
    waveforms = torch.from_numpy(np.stack([made_sound(1.0, seed) for seed in range(2)]))
    conditions = [torch.zeros(2, size) for size in graph.conditions.values()]
    inputs = (waveforms, torch.tensor([SAMPLE_RATE_HZ, 9000]), *conditions)
    shapes: list[Any] = [{0: dynamic, 1: dynamic}, {0: dynamic}]
    shapes += [tuple({0: dynamic} for _ in conditions)] if conditions else []
    with torch.no_grad(), _quiet("torch.onnx"):
        graph(*inputs)  # fills caches with real tensors
        program = torch.onnx.export(
            graph,
            inputs,
            dynamo=True,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=tuple(shapes),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata(graph, checkpoint))
    program.save(path)


def metadata(graph: ExportGraph, checkpoint: Checkpoint) -> dict[str, str]:
    """Return the metadata of a file: one entry for serein, and single entries for other programs."""
    calibration, clips = checkpoint.calibration, checkpoint.options.clips
    description = {
        "format": FORMAT,
        **checkpoint.options.model_dump(mode="json"),
        "training": checkpoint.training,
        "calibration": None if calibration is None else calibration.model_dump(),
        "verification": None if checkpoint.verification is None else checkpoint.verification.model_dump(),
        "answered": list(graph.tasks),
    }
    about = {
        "version": serein.__version__,
        "name": checkpoint.name,
        "sha256": checkpoint.digest,
        "precision": "float32",
        "conditions": graph.conditions,
        "outputs": graph.outputs,
        "description": description,
        "labels": {name: task.to_json() for name, task in checkpoint.tasks.items()},
    }
    classes = {name: checkpoint.tasks[name].spec.classes for name in graph.tasks}
    return {
        METADATA: json.dumps(about),
        "sampling_rate": str(SAMPLE_RATE_HZ),
        "task": checkpoint.task,
        "classes": json.dumps(classes),
        "temperature": str(1.0 if calibration is None else calibration.temperature),
        "trim_db": json.dumps(clips.trim_db),
        "clips": clips.model_dump_json(),
        "licences": json.dumps(checkpoint.training.get("licences", {})),
    }


def parity(checkpoint: Checkpoint, graph: ExportGraph, path: Path, given: GivenClips | None = None) -> dict[str, Any]:
    """Compare a file in onnxruntime with its model in PyTorch, on several lengths and batch sizes.

    Returns:
        The largest difference of outputs (logits) and embeddings, the fraction of clips with equal labels (of the main
        task; without classes, with numbers that differ by at most `MOST_DIFFERENCE`), and what was compared.
    """
    file = OnnxRuntime(ExportedFile.open(path), "cpu")
    network = TorchRuntime(checkpoint)
    network.model, network.device, network.precision = graph.model, torch.device("cpu"), "float32"
    rng = np.random.default_rng(0)
    batches: list[tuple[Sequence[Waveform], dict[str, NDArray[np.float32]]]] = []
    if given is None:
        most_s = graph.longest_s(checkpoint)
        for lengths_s in BATCHES_S:
            sounds = [made_sound(min(seconds, most_s), seed) for seed, seconds in enumerate(lengths_s)]
            drawn = {name: rng.random((len(sounds), size), np.float32) for name, size in graph.conditions.items()}
            batches.append(([fix_length(sound, checkpoint.options.clips) for sound in sounds], drawn))
    else:
        for start in range(0, len(given.waveforms), 4):
            rows = slice(start, start + 4)
            known = {name: vectors[rows] for name, vectors in given.conditions.items()}
            batches.append((given.waveforms[rows], known))
    has_classes = checkpoint.tasks[checkpoint.task].spec.has_classes
    furthest, largest, equal, number = {"output": 0.0, "embedding": 0.0}, 0.0, 0, 0
    for batch, known in batches:
        for task in graph.tasks:
            selection = EmbeddingSelection(task)
            ours, our_vectors = network.run(batch, known, graph.tasks, selection)
            theirs, their_vectors = file.run(batch, known, graph.tasks, selection)
            furthest["output"] = max(furthest["output"], float((ours[task] - theirs[task]).abs().max()))
            furthest["embedding"] = max(furthest["embedding"], float(np.abs(our_vectors - their_vectors).max()))
            largest = max(largest, float(ours[task].abs().max()))
        one, other = (graph.values[checkpoint.task](each[checkpoint.task]) for each in (ours, theirs))
        if has_classes:
            is_equal = one.argmax(dim=1) == other.argmax(dim=1)
        else:
            is_equal = ((one - other).abs() <= MOST_DIFFERENCE).all(dim=1)
        equal, number = equal + int(is_equal.sum()), number + len(batch)
    return {
        "model": checkpoint.name,
        "sha256": checkpoint.digest,
        "precision": file.precision,
        "tasks": list(graph.tasks),
        "left_out": list(graph.left_out),
        "difference": furthest,
        "largest_output": largest,
        "equal_labels": equal / number,
        "sounds": "made" if given is None else "given",
        "batches_s": [[round(len(clip) / SAMPLE_RATE_HZ, 3) for clip in batch] for batch, _ in batches],
    }


def made_sound(seconds: float, seed: int) -> Waveform:
    """Return a sound that resembles speech: syllables of decaying harmonics, pauses, faint noise."""
    rng = np.random.default_rng(seed)
    times_s = np.arange(max(1, round(seconds * SAMPLE_RATE_HZ))) / SAMPLE_RATE_HZ
    pitch_hz = rng.uniform(90, 250) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.5, 3) * times_s))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    voice = sum(np.sin(number * phase + rng.uniform(0, 6)) / number for number in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 5) * times_s + rng.uniform(0, 6)), 0, 1)
    return (0.1 * voice * syllables + 0.003 * rng.standard_normal(len(times_s))).astype(np.float32)


def quantise(path: Path, out: Path, given: GivenClips | None = None) -> None:
    """Write an exported file with 8-bit weights, one scale for each output channel.

    In a transformer, only the feed-forward layers compute in integers, with a separate scale for each frame of their
    input, because fixed ranges would change every third label; everything else stays in float32. In a network without
    such layers, linear layers and, with `given`, convolutions compute in integers. Audio features (spectra, mel bands)
    stay in float32.

    Args:
        path: A file in float32.
        out: The file to write.
        given: Speech, which determines the ranges of activations of convolutions and linear layers. Other sounds are
            not suitable: on RAVDESS, one label in eighteen changed. `None` quantises only linear layers, and determines
            the range of their input at each call.
    """
    onnx = importlib.import_module("onnx")
    quantization = importlib.import_module("onnxruntime.quantization")
    how = {"per_channel": True, "weight_type": quantization.QuantType.QInt8}
    model = onnx.load(str(path))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    shapes = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    feed_forward: list[str] = []
    others: list[str] = []
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm"):  # the exporter records the operation that a product comes from
            scopes = next((entry.value for entry in node.metadata_props if entry.key.endswith("name_scopes")), "")
            shape = shapes.get(node.input[1], ())
            if shape and scopes.rstrip("]'").rpartition("'")[2].startswith(("linear", "addmm")):
                is_outer = any(part in scopes for part in (".heads.", "attn", "attention"))
                is_inner = len(set(shape)) > 1 and ".layers." in scopes and not is_outer
                (feed_forward if is_inner else others).append(node.name)
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    with _quiet():  # onnxruntime recommends a preparation that has already been done
        if feed_forward or given is None:
            _scale_frames(model.graph, feed_forward)
            quantization.quantize_dynamic(model, str(out), nodes_to_quantize=feed_forward or others, **how)
        else:
            known = {CONDITION + name: vectors for name, vectors in given.conditions.items()}
            inputs = (
                {WAVEFORMS: clip[None], NUM_SAMPLES: np.array([len(clip)])}
                | {name: vectors[row : row + 1] for name, vectors in known.items()}
                for row, clip in list(enumerate(given.waveforms))[:: -(-len(given.waveforms) // NUM_CALIBRATION)]
            )
            reader = type("Reader", (quantization.CalibrationDataReader,), {"get_next": lambda _: next(inputs, None)})
            quantization.quantize_static(str(path), str(out), reader(), nodes_to_quantize=others + convolutions, **how)
    rounded = onnx.load(str(out))
    about = json.loads(metadata[METADATA]) | {"precision": "int8"}
    onnx.helper.set_model_props(rounded, metadata | {METADATA: json.dumps(about)})
    onnx.save(rounded, str(out))


def _scale_frames(graph: Any, names: Sequence[str]) -> None:
    """Divide each frame by its largest magnitude before the named products, and multiply by it after them."""
    onnx = importlib.import_module("onnx")
    node_of, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    axis, least = "frames.axis", "frames.least"
    graph.initializer.extend([tensor(np.array([-1]), axis), tensor(np.array(1e-9, np.float32), least)])
    nodes: list[Any] = []
    scaled: set[str] = set()
    for node in copy.deepcopy(list(graph.node)):
        if node.name not in names:
            nodes.append(node)
            continue
        frames, product = node.input[0], node.output[0]
        if frames not in scaled:
            scaled.add(frames)
            nodes += [
                node_of("Abs", [frames], [f"{frames}.sizes"]),
                node_of("ReduceMax", [f"{frames}.sizes", axis], [f"{frames}.peaks"]),
                node_of("Max", [f"{frames}.peaks", least], [f"{frames}.scales"]),
                node_of("Div", [frames, f"{frames}.scales"], [f"{frames}.scaled"]),
            ]
        node.input[0], node.output[0] = f"{frames}.scaled", f"{product}.of_scaled"
        nodes += [node, node_of("Mul", [f"{product}.of_scaled", f"{frames}.scales"], [product])]
    del graph.node[:]
    graph.node.extend(nodes)


@contextmanager
def _quiet(name: str | None = None) -> Iterator[None]:
    """Silence a logger below errors, and restrict attention to operations that ONNX supports."""
    has_fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(has_fastpath)
        logger.setLevel(level)
