"""A batch in training: encoding, augmentation and mixup; and splitting into parts if it does not fit into memory.

A batch in parts is trained as in GradCache (Gao 2021, arXiv 2101.06983): the parts run without a graph, and the loss is
computed from the heads' outputs for all of their clips. Losses that compare clips with each other (contrastive,
concordance) or weight them (classes, transcripts) are thus those of the whole batch. Then each part runs again, with a
graph, and is backpropagated from the gradients of its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from serein.data.augmentation import SpectrogramAugmenter
from serein.data.dataset import Batch
from serein.device import sent
from serein.errors import RecipeError
from serein.models.backbones import HuggingFaceBackbone
from serein.models.heads import HeadOutput
from serein.models.hidden_states import Backbone, HiddenStates, frame_mask
from serein.models.logmel import BANDS, LogMelBackbone
from serein.models.model import HiddenStatesByBranch, SpeechModel
from serein.recipe import MAIN, SpectrogramAugmentation


@dataclass(frozen=True)
class EncodedBatch:
    """Hidden layers of each branch, with their targets and conditions, all mixed in the same way."""

    hidden_states: HiddenStatesByBranch
    targets: Mapping[str, torch.Tensor]
    has_target: Mapping[str, torch.Tensor]
    conditions: Mapping[str, torch.Tensor]

    def mixup(self, partners: torch.Tensor, weight: float) -> EncodedBatch:
        """Mix each clip's frames, targets and conditions with its partner's (Zhang 2018), at the longer's length."""
        rows = sent(partners, next(iter(self.hidden_states.values())).is_frame.device)

        def mix(values: torch.Tensor) -> torch.Tensor:
            return weight * values + (1 - weight) * values[rows]

        def mix_frames(frames: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
            if not frames.numel():  # a layer that is not read
                return frames
            return mix(frames.masked_fill(~is_frame[..., None], 0.0))  # values on padding are meaningless

        return EncodedBatch(
            {
                name: HiddenStates(
                    tuple(mix_frames(layer, own.is_frame) for layer in own.layers),
                    own.is_frame | own.is_frame[rows],
                    None if own.output is None else mix_frames(own.output, own.is_frame),
                )
                for name, own in self.hidden_states.items()
            },
            {name: mix(target) for name, target in self.targets.items()},
            {name: mask & mask[partners] for name, mask in self.has_target.items()},
            {name: mix(values) for name, values in self.conditions.items()},
        )


def bands_of(backbone: LogMelBackbone, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch's log-mel bands, stored ones if it has them, (batch, frame, band), and which frames are real."""
    if BANDS in batch.layers:
        return backbone.restored(batch.layers[BANDS], batch.num_frames)
    return backbone.bands(batch.waveforms, batch.num_samples)


def encode_batch(
    model: SpeechModel,
    batch: Batch,
    augmentation: SpectrogramAugmentation,
    branches: Sequence[str] = (MAIN,),
    *,
    goes_on: bool = False,
) -> EncodedBatch:
    """Return the input of a training step. A batch that contains hidden layers needs no waveforms.

    All branches get the same augmentation of a clip, because its seed determines the random draws.

    Args:
        model: The model, with `requires_grad` set as in the stage.
        batch: Waveforms, or hidden layers instead.
        augmentation: Augmentation of bands, and mixup.
        branches: Branches to encode.
        goes_on: Whether the batch's hidden layers are those below the trainable ones, which still have to run.

    Raises:
        RecipeError: A backbone does not support the augmentation.
    """
    augmenters: list[SpectrogramAugmenter] = []

    def stored(backbone: Backbone) -> HiddenStates:
        layers = {name: frames.float() for name, frames in batch.layers.items()}
        any_layer = next(iter(layers.values()))
        nothing = any_layer.new_zeros(0)  # in place of layers that are not read
        num_layers = 1 + max(map(int, layers)) if goes_on else len(backbone.sizes)
        kept = HiddenStates(
            tuple(layers.get(str(number), nothing) for number in range(num_layers)),
            frame_mask(batch.num_frames, any_layer.shape[1], any_layer.device),
            layers.get("last"),
        )
        return backbone.resume(kept) if goes_on else kept

    def normalised(backbone: Backbone) -> HiddenStates:
        assert isinstance(backbone, LogMelBackbone)
        bands_db, is_frame = bands_of(backbone, batch)
        return HiddenStates((backbone.normalised(bands_db, is_frame),), is_frame)

    def augmented(backbone: Backbone) -> HiddenStates:
        require_bands(backbone, augmentation)
        augmenter = SpectrogramAugmenter(augmentation, batch.seeds)
        augmenters.append(augmenter)
        if isinstance(backbone, HuggingFaceBackbone):
            masked: HiddenStates = backbone(
                batch.waveforms, batch.num_samples, lambda bands, lengths: augmenter.mask(bands, lengths, 1)
            )
            return masked
        assert isinstance(backbone, LogMelBackbone)
        bands_db, _ = bands_of(backbone, batch)
        num_frames = batch.num_frames if BANDS in batch.layers else backbone.num_frames(batch.num_samples)
        bands_db, num_frames = augmenter.augment(bands_db, num_frames)
        is_frame = frame_mask(num_frames, bands_db.shape[1], bands_db.device)
        frames = augmenter.mask(backbone.normalised(bands_db, is_frame), num_frames, backbone.num_channels)
        return HiddenStates((frames,), is_frame)

    if batch.layers and BANDS not in batch.layers:
        hidden_states = model.encode_with(stored, branches)
    elif augmentation.changes_bands:
        hidden_states = model.encode_with(augmented, branches)
    elif batch.layers:
        hidden_states = model.encode_with(normalised, branches)
    else:
        hidden_states = model.encode(batch.waveforms, batch.num_samples, branches)
    encoded = EncodedBatch(hidden_states, batch.targets, batch.has_target, batch.conditions)
    augmenter = augmenters[0] if augmenters else SpectrogramAugmenter(augmentation, batch.seeds)
    mixing = augmenter.mixing()
    return encoded if mixing is None else encoded.mixup(*mixing)


def require_bands(
    backbone: Backbone, augmentation: SpectrogramAugmentation, where: str = "stages.spectrogram_augmentation"
) -> None:
    """Raise RecipeError if the augmentation needs bands that the backbone does not have."""
    if isinstance(backbone, LogMelBackbone):
        return
    if augmentation.changes_decibels:
        raise RecipeError(
            "spectrogram augmentation other than masks and mixup needs the backbone 'logmel'",
            where=where,
            remedy="Leave it out, or use waveform_augmentation, which works with every backbone.",
        )
    has_bands = isinstance(backbone, HuggingFaceBackbone) and backbone.has_bands
    if augmentation.changes_bands and not has_bands:
        raise RecipeError(
            "masks need a backbone with log-mel bands: 'logmel', or Whisper's",
            where=where,
            remedy="Leave them out, or mask this model's frames: backbone.overrides: {apply_spec_augment: true}.",
        )


@dataclass(frozen=True)
class BatchOutputs:
    """The heads' outputs for a batch, and its targets, which mixup may have changed.

    Attributes:
        head_outputs: Task -> outputs and embeddings.
        targets: Task -> (batch, ...).
        has_target: Task -> (batch,) bool.
    """

    head_outputs: Mapping[str, HeadOutput]
    targets: Mapping[str, torch.Tensor]
    has_target: Mapping[str, torch.Tensor]


def split(batch: Batch, num_parts: int) -> list[Batch]:
    """Split a batch into `num_parts` parts of equal size, give or take a clip; fewer if it has fewer clips."""
    parts = []
    for rows in torch.arange(len(batch.num_samples)).tensor_split(min(num_parts, len(batch.num_samples))):
        own = slice(int(rows[0]), int(rows[-1]) + 1)
        parts.append(
            replace(
                batch,
                positions=batch.positions[own],
                waveforms=batch.waveforms[own],
                num_samples=batch.num_samples[own],
                targets={name: target[own] for name, target in batch.targets.items()},
                has_target={name: mask[own] for name, mask in batch.has_target.items()},
                seeds=batch.seeds[own],
                conditions={name: values[own] for name, values in batch.conditions.items()},
                layers={name: frames[own] for name, frames in batch.layers.items()},
                num_frames=batch.num_frames[own],
            )
        )
    return parts


class Parts:
    """A batch that is trained in parts.

    Args:
        parts: Parts of the batch.
        run: From a part and its number to the heads' outputs, with the same random draws at every call.
        model: The model, whose running statistics must count each part only once.
    """

    def __init__(self, parts: Sequence[Batch], run: Callable[[Batch, int], BatchOutputs], model: nn.Module) -> None:
        self.parts, self.run, self.model = parts, run, model
        self.leaves: dict[str, HeadOutput] = {}

    def decode(self) -> BatchOutputs:
        """Run all parts without a graph; return their outputs as one batch, from which a loss can be backpropagated."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        found = []
        with torch.no_grad():
            for number, part in enumerate(self.parts):
                found.append(self.run(part, number))
            for buffer, before in buffers:
                buffer.copy_(before)
        for name, first in found[0].head_outputs.items():
            own = [each.head_outputs[name] for each in found]
            widest = max(each.outputs.shape[2] for each in own)  # frames, if the head outputs frames
            padding = [(0, 0) * (each.outputs.ndim - 3) + (0, widest - each.outputs.shape[2]) for each in own]
            outputs = torch.cat([F.pad(each.outputs, pad) for each, pad in zip(own, padding, strict=True)], dim=1)
            embedding = torch.cat([each.embedding for each in own])
            self.leaves[name] = replace(first, outputs=outputs.requires_grad_(), embedding=embedding.requires_grad_())
        targets = {name: torch.cat([each.targets[name] for each in found]) for name in found[0].targets}
        has_target = {name: torch.cat([each.has_target[name] for each in found]) for name in found[0].has_target}
        return BatchOutputs(self.leaves, targets, has_target)

    def backward(self) -> None:
        """Run each part again and backpropagate to the weights, after the loss was backpropagated to the outputs."""
        start = 0
        for number, part in enumerate(self.parts):
            rows = slice(start, start + len(part.num_samples))
            start = rows.stop
            outputs, gradients = [], []
            for name, own in self.run(part, number).head_outputs.items():
                leaf = self.leaves[name]
                if leaf.outputs.grad is not None and own.outputs.requires_grad:
                    outputs.append(own.outputs)
                    gradients.append(leaf.outputs.grad[:, rows, : own.outputs.shape[2]])
                if leaf.embedding.grad is not None and own.embedding.requires_grad:
                    outputs.append(own.embedding)
                    gradients.append(leaf.embedding.grad[rows])
            torch.autograd.backward(outputs, gradients)
