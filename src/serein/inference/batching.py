"""Run a model on many clips, in batches of similar length: the outputs of each of its tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from serein.audio import SAMPLE_RATE_HZ, Waveform
from serein.checkpoint import Checkpoint
from serein.data.dataset import Recordings, fix_length
from serein.device import MOST_THREADS, core_threads, memory_errors
from serein.errors import ModelError, RunError, expected_one_of
from serein.inference.runtimes import EmbeddingSelection, Runtime, TorchRuntime
from serein.models.conditioning import ConditionSource, attribute_vectors
from serein.progress import Progress
from serein.tasks.task import Decoded

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class ModelOutputs:
    """A model's outputs for clips, in their order.

    Attributes:
        decoded: Task -> its decoded outputs for the clips.
        embeddings: (clip, feature), the input of one task's output layer.
    """

    decoded: Mapping[str, Decoded]
    embeddings: Vectors


def embedding_selection(checkpoint: Checkpoint, name: str | None) -> EmbeddingSelection:
    """Return the embedding with a given name.

    Args:
        name: A task: its own embedding, before fusion; `fused`: the main task's embedding, after fusion; `None`: the
            input of the main task's output layer.

    Raises:
        ModelError: The model has no such embedding; the error names those it has.
    """
    tasks = checkpoint.options.tasks
    if name is None:
        return EmbeddingSelection(tasks.main)
    fusing = [task for task, head in tasks.chosen.items() if head.fusion_inputs]
    known = [*tasks.chosen, *(["fused"] if tasks.main in fusing else [])]
    if name not in known:
        remedy = "Choose one of these, or another model."
        raise ModelError(expected_one_of(name, known, kind="embedding of this model"), remedy=remedy)
    return (
        EmbeddingSelection(tasks.main) if name == "fused" else EmbeddingSelection(name, use_fusion=name not in fusing)
    )


def model_outputs(
    checkpoint: Checkpoint,
    waveform_of: Callable[[int], Waveform],
    num_samples: Sequence[int],
    conditions: Mapping[str, Vectors] | None = None,
    on_progress: Progress | None = None,
    embedding: str | None = None,
    runtime: Runtime | None = None,
) -> ModelOutputs:
    """Run a model on many clips, in batches of similar length.

    Args:
        waveform_of: Position -> (sample,) float32.
        num_samples: Length of each clip, for sorting.
        conditions: Attribute -> (clip, feature), for a conditioned model; attributes that are not given are unknown.
        on_progress: Called with the number of finished clips and of all clips.
        embedding: Which embeddings to return, see `embedding_selection`.
        runtime: Runtime of the network; `None`: PyTorch, on the device of the weights.

    Raises:
        ModelError: The model has no such embedding, or its outputs are not finite numbers.
    """
    selection = embedding_selection(checkpoint, embedding)
    clips, most_samples = checkpoint.options.clips, int(checkpoint.options.inference.batch_s * SAMPLE_RATE_HZ)
    shortest = max(1, round(clips.min_s * SAMPLE_RATE_HZ))
    runtime = runtime or TorchRuntime(checkpoint)
    of_clip: dict[int, ModelOutputs] = {}

    def predict(positions: Sequence[int]) -> dict[int, ModelOutputs]:
        windows = []  # of equal length if a clip is longer than `clips.window_s`
        for position in positions:
            waveform = fix_length(waveform_of(position), clips)
            num_windows = -(-len(waveform) // round(clips.window_s * SAMPLE_RATE_HZ))
            windows.append(np.array_split(waveform, num_windows) if num_windows > 1 else [waveform])
        flat = [window for each in windows for window in each]
        clip_of = np.repeat(positions, [len(each) for each in windows])
        size = max(1, most_samples // max(map(len, flat)))  # one recording may last hours
        parts = []
        for start in range(0, len(flat), size):
            rows = clip_of[start : start + size]
            known = {name: vectors[rows] for name, vectors in (conditions or {}).items()}
            parts.append(_forward(checkpoint, selection, runtime, flat[start : start + size], known))
        outputs = _stacked(parts)
        found, start = {}, 0
        for position, own in zip(positions, windows, strict=True):  # means weighted by length; joined texts
            part, weights = slice(start, start + len(own)), np.array([len(window) for window in own], np.float64)
            vector = np.average(outputs.embeddings[part], axis=0, weights=weights).astype(np.float32)
            decoded = {name: each.mean(part, weights) for name, each in outputs.decoded.items()}
            found[position] = ModelOutputs(decoded, vector[None])
            start += len(own)
        return found

    batches = batches_by_length(num_samples, most_samples, shortest)
    is_side_by_side = runtime.device.type == "cpu" and isinstance(runtime, TorchRuntime)
    num_threads = min(torch.get_num_threads(), MOST_THREADS, len(batches)) if is_side_by_side else 1
    # `autocast` keeps the weights that `run` casts for all batches
    with torch.autocast(runtime.device.type, enabled=False), core_threads(num_threads) as threads:
        for found in (threads.map if threads else map)(predict, batches):
            of_clip |= found
            if on_progress:
                on_progress(len(of_clip), len(num_samples))
    outputs = _stacked([of_clip[position] for position in range(len(num_samples))])
    require_finite(outputs, checkpoint)
    return outputs


def require_finite(outputs: ModelOutputs, checkpoint: Checkpoint) -> None:
    """Raise ModelError if any output is not a finite number."""
    values = [decoded.values for decoded in outputs.decoded.values() if decoded.values is not None]
    if not all(np.isfinite(each).all() for each in (outputs.embeddings, *values)):
        remedy = "Copy the model again, or train it with a lower learning rate."
        raise ModelError(
            "its outputs are not finite numbers", where=checkpoint.folder or checkpoint.task, remedy=remedy
        )


def recording_outputs(
    checkpoint: Checkpoint,
    recordings: Recordings,
    positions: Sequence[int],
    condition_source: ConditionSource,
    on_progress: Progress | None = None,
    embedding: str | None = None,
) -> ModelOutputs:
    """Run a model on utterances of a manifest; see `model_outputs`."""
    lengths = [round(float(recordings.durations_s[p]) * SAMPLE_RATE_HZ) for p in positions]
    conditions = attribute_vectors(
        [recordings.utterances[p] for p in positions],
        checkpoint.options.tasks.conditions,
        condition_source,
        checkpoint.options.text.encoder,
    )
    return model_outputs(checkpoint, lambda i: recordings[positions[i]], lengths, conditions, on_progress, embedding)


def _forward(
    checkpoint: Checkpoint,
    selection: EmbeddingSelection,
    runtime: Runtime,
    waveforms: Sequence[Waveform],
    conditions: Mapping[str, Vectors],
) -> ModelOutputs:
    """Run one batch, or its halves if a GPU has too little memory for it."""
    try:
        with memory_errors():
            outputs, embeddings = runtime.run(waveforms, conditions, checkpoint.answered, selection)
        return ModelOutputs({name: checkpoint.tasks[name].decode(outputs[name]) for name in outputs}, embeddings)
    except torch.OutOfMemoryError:
        pass  # within this block, the error would keep all tensors in memory
    if len(waveforms) == 1:
        raise RunError(
            f"the device has too little memory for a clip of {len(waveforms[0]) / SAMPLE_RATE_HZ:.1f} s",
            where=str(runtime.device),
            remedy="Choose a smaller clips.window_s, or --device cpu.",
        )
    middle = len(waveforms) // 2
    halves = [
        (waveforms[part], {name: vectors[part] for name, vectors in conditions.items()})
        for part in (slice(None, middle), slice(middle, None))
    ]
    return _stacked([_forward(checkpoint, selection, runtime, *half) for half in halves])


def _stacked(parts: Sequence[ModelOutputs]) -> ModelOutputs:
    decoded = {name: Decoded.concatenated([part.decoded[name] for part in parts]) for name in parts[0].decoded}
    return ModelOutputs(decoded, np.concatenate([part.embeddings for part in parts]))


def batches_by_length(lengths: Sequence[float], most: float, shortest: float) -> list[list[int]]:
    """Divide clips into batches of similar length, longest first; return their positions.

    Args:
        most: Length of a batch after padding: the number of its clips times the longest of them.
        shortest: A shorter clip counts as this long.

    Example:
        >>> batches_by_length([1.0, 25.0, 2.0, 30.0], most=60.0, shortest=0.1)
        [[3, 1], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        size = max(1, int(most / max(lengths[order[start]], shortest)))
        batches.append(order[start : start + size])
        start += size
    return batches
