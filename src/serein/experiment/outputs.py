"""A model's outputs for utterances: from their waveforms, or from the cached features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from serein.checkpoint import Checkpoint
from serein.data.dataset import (
    BucketSampler,
    ClipDataset,
    HiddenLayers,
    Recordings,
    TrainingConditions,
    batch_durations,
    collate,
)
from serein.device import all_gather, is_joined
from serein.inference.batching import ModelOutputs, embedding_selection, recording_outputs, require_finite
from serein.models.conditioning import ConditionSource, attribute_vectors
from serein.models.logmel import LogMelBackbone
from serein.progress import Progress, Report
from serein.recipe import Batches, FeatureCacheOptions, SpectrogramAugmentation, Stage
from serein.tasks.task import Decoded
from serein.training.batches import encode_batch
from serein.training.feature_cache import FeatureCache, cached_layers, only_backbone, reads_means

Part = tuple[NDArray[np.int64], ModelOutputs]  # rows, and their outputs


def cached_features(
    checkpoint: Checkpoint,
    recordings: Recordings,
    positions: Sequence[int],
    options: FeatureCacheOptions,
    *,
    precision: str,
    is_exact: bool,
    report: Report,
    label: str,
) -> HiddenLayers | None:
    """Return the features that a model's backbone computes from utterances, cached as those of training are.

    Args:
        precision: Precision in which missing features are computed, on the device of the model's weights.
        is_exact: Whether features must not be rounded to bfloat16.

    Returns:
        `None` if features cannot replace the waveforms: the cache is off, features would be rounded, an utterance is
        longer than a window, or there are several backbones or log-mel bands.
    """
    model, clips = checkpoint.model, checkpoint.options.clips
    stage = Stage(name="predict", tasks=checkpoint.answered)
    backbone = only_backbone(model, stage)
    longest_s = batch_durations(recordings, clips, is_training=False)[list(positions)].max(initial=0.0)
    is_off = options.dtype == "none" or longest_s > clips.window_s
    if is_off or backbone is None or isinstance(backbone, LogMelBackbone):
        return None
    layers, device = cached_layers(model, model.branches_of(stage.tasks)), next(model.parameters()).device
    cache = FeatureCache(backbone, layers, options, precision, device=device, means=reads_means(model, stage))
    if is_exact and cache.dtype != "float32":
        return None
    return cache.of(recordings, clips, positions, report, label)


def shared_outputs(
    checkpoint: Checkpoint,
    recordings: Recordings,
    positions: Sequence[int],
    condition_source: ConditionSource,
    on_progress: Progress | None = None,
    embedding: str | None = None,
    features: HiddenLayers | None = None,
) -> ModelOutputs:
    """Run a model on utterances, on the device of its weights; see `model_outputs`.

    Processes that train together each run a part, which contains clips of all lengths, and all return the whole.

    Args:
        features: Features of the utterances, which replace their waveforms; see `cached_features`.
    """
    rank, size = (distributed.get_rank(), distributed.get_world_size()) if is_joined() else (0, 1)
    own = np.arange(len(positions))
    if 1 < size <= len(positions):
        own = np.argsort([-recordings.durations_s[p] for p in positions], kind="stable")[rank::size]
    mine = [positions[row] for row in own.tolist()]
    if features is None:
        outputs = recording_outputs(checkpoint, recordings, mine, condition_source, on_progress, embedding)
    else:
        outputs = feature_outputs(checkpoint, recordings, mine, condition_source, features, embedding)
    return outputs if size == 1 else _in_order(all_gather((own, outputs)))


def feature_outputs(
    checkpoint: Checkpoint,
    recordings: Recordings,
    positions: Sequence[int],
    condition_source: ConditionSource,
    features: HiddenLayers,
    embedding: str | None = None,
) -> ModelOutputs:
    """Run a model's encoder and heads on features of utterances; see `model_outputs`."""
    outputs = _in_order(list(_batch_outputs(checkpoint, recordings, positions, condition_source, features, embedding)))
    require_finite(outputs, checkpoint)
    return outputs


@torch.no_grad()
def _batch_outputs(
    checkpoint: Checkpoint,
    recordings: Recordings,
    positions: Sequence[int],
    condition_source: ConditionSource,
    features: HiddenLayers,
    embedding: str | None,
) -> Iterator[Part]:
    """Yield the rows of the utterances of each batch, and their outputs."""
    model, options = checkpoint.model.eval(), checkpoint.options
    selection, device = embedding_selection(checkpoint, embedding), next(model.parameters()).device
    wanted = {*checkpoint.answered, selection.task}
    utterances = [recordings.utterances[position] for position in positions]
    known = attribute_vectors(utterances, options.tasks.conditions, condition_source, options.text.encoder)
    values = {name: np.zeros((len(recordings), vectors.shape[1]), np.float32) for name, vectors in known.items()}
    for name, vectors in known.items():
        values[name][list(positions)] = vectors
    dataset = ClipDataset(recordings, {}, options.clips, TrainingConditions(values), features=features)
    durations_s = batch_durations(recordings, options.clips, is_training=False)
    row_of = {position: row for row, position in enumerate(positions)}
    for items in BucketSampler(positions, durations_s, Batches(), is_training=False):
        batch = collate([dataset[item] for item in items]).to(device)
        encoded = encode_batch(model, batch, SpectrogramAugmentation(), model.branches_of(wanted))
        head_outputs = model.decode(encoded.hidden_states, encoded.conditions, wanted)
        vector = head_outputs
        if not selection.use_fusion:
            vector = model.decode(encoded.hidden_states, encoded.conditions, {selection.task}, use_fusion=False)
        decoded = {name: checkpoint.tasks[name].decode(head_outputs[name].output) for name in checkpoint.answered}
        rows = np.array([row_of[position] for _, position in items])
        yield rows, ModelOutputs(decoded, vector[selection.task].embedding.cpu().numpy())


def _in_order(parts: Sequence[Part]) -> ModelOutputs:
    """Return the outputs of all parts in the order of their rows, each row once."""
    place = np.unique(np.concatenate([rows for rows, _ in parts]), return_index=True)[1]
    decoded = {}
    for name in parts[0][1].decoded:
        whole = Decoded.concatenated([part.decoded[name] for _, part in parts])
        texts = None if whole.texts is None else tuple(whole.texts[row] for row in place)
        decoded[name] = Decoded(None if whole.values is None else whole.values[place], texts)
    return ModelOutputs(decoded, np.concatenate([part.embeddings for _, part in parts])[place])
