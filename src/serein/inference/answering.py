"""Many clips heard in batches of like length: what each task of a model says of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from serein.data.audio import SAMPLE_RATE_HZ, Waveform
from serein.data.batches import fitted
from serein.data.recordings import Recordings
from serein.data.utterance import Utterance
from serein.errors import ModelError, expected_one_of
from serein.labels.attributes import Told, attribute_vectors
from serein.labels.transcripts import Alphabet
from serein.models.folder import ModelFolder
from serein.models.heads import joined_by
from serein.recipe import Clips, Inference
from serein.tasks.transcript import heard_texts

Progress = Callable[[int, int], None]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class ModelOutputs:
    """What a model says of clips, in their order.

    Attributes:
        probabilities: Task of classes -> (clip, class) probabilities.
        embeddings: (clip, feature), what the output layer of one task reads.
        texts: Task of transcripts -> what was said in each clip.
    """

    probabilities: Mapping[str, Vectors]
    embeddings: Vectors
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class EmbeddingSelection:
    """Which vector of a model is meant.

    Attributes:
        task: Whose output layer reads it.
        use_fusion: `False` is before other networks' vectors join.
    """

    task: str
    use_fusion: bool = True


def embedding_selection(content: ModelFolder, name: str | None) -> EmbeddingSelection:
    """Return the vector of a name.

    Args:
        name: A task: its own vector, before others join; `fused`: that of the main task with all that join it; `None`:
            that of the main task, as its output layer reads it.

    Raises:
        ModelError: The model has no such vector; names those it has.
    """
    tasks = content.options.tasks
    if name is None:
        return EmbeddingSelection(tasks.main)
    fusing = [task for task, head in tasks.chosen.items() if joined_by(head)]
    known = [*tasks.chosen, *(["fused"] if tasks.main in fusing else [])]
    if name not in known:
        remedy = "Name one of these, or take another model."
        raise ModelError(expected_one_of(name, known, kind="vector of this model"), remedy=remedy)
    return (
        EmbeddingSelection(tasks.main) if name == "fused" else EmbeddingSelection(name, use_fusion=name not in fusing)
    )


def conditions_of(content: ModelFolder, utterances: Sequence[Utterance], told: Told) -> dict[str, Vectors]:
    """Return what a conditioned model is told of utterances: attribute -> (utterance, feature)."""
    return attribute_vectors(utterances, content.conditions, told, content.options.text.encoder)


def answers(
    content: ModelFolder,
    waveform_of: Callable[[int], Waveform],
    num_samples: Sequence[int],
    conditions: Mapping[str, Vectors] | None = None,
    on_progress: Progress | None = None,
    of: str | None = None,
) -> ModelOutputs:
    """Hear many clips in batches of like length.

    Args:
        waveform_of: Position -> (sample,) float32.
        num_samples: Length of each clip, for sorting.
        conditions: Attribute -> (clip, feature), what a conditioned model is told; what is not given is unknown.
        on_progress: Told how many of all clips are done.
        of: Whose embeddings are returned, see `embedding_selection`.

    Raises:
        ModelError: The model has no such vector.
    """
    hear = partial(_hear, content, embedding_selection(content, of))
    options = content.options
    of_clip: dict[int, ModelOutputs] = {}
    for positions in _batches(num_samples, options.clips, options.inference):
        windows = [_windows(fitted(waveform_of(p), options.clips), options.clips) for p in positions]
        flat = [window for each in windows for window in each]
        clip_of = np.repeat(positions, [len(each) for each in windows])
        told = {name: vectors[clip_of] for name, vectors in (conditions or {}).items()}
        heard = _hear_in_parts(hear, flat, told, options.inference)
        start = 0
        for position, own in zip(positions, windows, strict=True):
            of_clip[position] = _joined(heard, start, own)
            start += len(own)
        if on_progress:
            on_progress(len(of_clip), len(num_samples))
    return _stacked([of_clip[position] for position in range(len(num_samples))])


def recording_outputs(
    content: ModelFolder,
    recordings: Recordings,
    positions: Sequence[int],
    told: Told,
    on_progress: Progress | None = None,
    of: str | None = None,
) -> ModelOutputs:
    """Hear utterances of a manifest; see `answers`."""
    lengths = [round(float(recordings.durations_s[p]) * SAMPLE_RATE_HZ) for p in positions]
    conditions = conditions_of(content, [recordings.utterances[p] for p in positions], told)
    return answers(content, lambda i: recordings[positions[i]], lengths, conditions, on_progress, of)


def _hear_in_parts(
    hear: Callable[[Sequence[Waveform], Mapping[str, Vectors]], ModelOutputs],
    windows: Sequence[Waveform],
    told: Mapping[str, Vectors],
    inference: Inference,
) -> ModelOutputs:
    """Hear windows, of a recording of hours perhaps, no more seconds at once than the options say."""
    longest = max(len(window) for window in windows)
    size = max(1, int(inference.batch_s * SAMPLE_RATE_HZ) // longest)
    return _stacked(
        [
            hear(windows[i : i + size], {name: vectors[i : i + size] for name, vectors in told.items()})
            for i in range(0, len(windows), size)
        ]
    )


@torch.inference_mode()
def _hear(
    content: ModelFolder, of: EmbeddingSelection, waveforms: Sequence[Waveform], told: Mapping[str, Vectors]
) -> ModelOutputs:
    model, precision = content.model.eval(), content.options.inference.precision
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    num_samples = torch.tensor([len(waveform) for waveform in waveforms], device=device)
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(w) for w in waveforms], batch_first=True).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        conditions = {name: torch.from_numpy(vectors).to(device) for name, vectors in told.items()}
        asked = {*content.answered, of.task}
        sounds = model.hear(padded, num_samples, model.branches_of(asked))
        readings = model.read(sounds, conditions, asked)
        vector = readings if of.use_fusion else model.read(sounds, conditions, {of.task}, of.use_fusion)
    probabilities: dict[str, Vectors] = {}
    texts: dict[str, Sequence[str]] = {}
    for name in content.answered:
        meaning, output = content.labels[name], readings[name].output
        if isinstance(meaning, Alphabet):
            texts[name] = heard_texts(output, meaning)
        else:
            probabilities[name] = content.probabilities(output, name)
    return ModelOutputs(probabilities, vector[of.task].embedding.cpu().numpy(), texts)


def _joined(heard: ModelOutputs, start: int, windows: Sequence[Waveform]) -> ModelOutputs:
    """Return the answer for one clip: its windows' probabilities averaged, weighted by length; their texts in a row."""
    part = slice(start, start + len(windows))
    weights = np.array([len(window) for window in windows], np.float64)

    def mean(values: Vectors) -> Vectors:
        return np.average(values[part], axis=0, weights=weights).astype(np.float32)[None]

    probabilities = {name: mean(values) for name, values in heard.probabilities.items()}
    texts = {name: [" ".join(text for text in said[part] if text)] for name, said in heard.texts.items()}
    return ModelOutputs(probabilities, mean(heard.embeddings), texts)


def _stacked(parts: Sequence[ModelOutputs]) -> ModelOutputs:
    first = parts[0]
    return ModelOutputs(
        {name: np.concatenate([part.probabilities[name] for part in parts]) for name in first.probabilities},
        np.concatenate([part.embeddings for part in parts]),
        {name: [text for part in parts for text in part.texts[name]] for name in first.texts},
    )


def _windows(waveform: Waveform, clips: Clips) -> list[Waveform]:
    """Cut a clip longer than `clips.window_s` into windows of equal length."""
    num_windows = -(-len(waveform) // round(clips.window_s * SAMPLE_RATE_HZ))
    return np.array_split(waveform, num_windows) if num_windows > 1 else [waveform]


def _batches(num_samples: Sequence[int], clips: Clips, inference: Inference) -> list[list[int]]:
    shortest = round(clips.min_s * SAMPLE_RATE_HZ)
    order = sorted(range(len(num_samples)), key=lambda i: -num_samples[i])
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        longest = max(num_samples[order[start]], shortest, 1)
        size = max(1, int(inference.batch_s * SAMPLE_RATE_HZ) // longest)
        batches.append(order[start : start + size])
        start += size
    return batches
