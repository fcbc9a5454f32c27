"""The hidden layers that training uses, augmented when a stage says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from serein.data.augmentation import SpectrogramAugmenter
from serein.data.batches import Batch
from serein.errors import RecipeError
from serein.models.branches import HiddenStatesByBranch
from serein.models.hidden import Backbone, HiddenStates, frame_mask
from serein.models.logmel import LogMelBackbone
from serein.models.speech import SpeechModel
from serein.recipe import MAIN, SpectrogramAugmentation


@dataclass(frozen=True)
class EncodedBatch:
    """Hidden layers of each branch, and the targets and conditions that go with them, mixed alike."""

    hidden_states: HiddenStatesByBranch
    targets: Mapping[str, torch.Tensor]
    has_target: Mapping[str, torch.Tensor]
    conditions: Mapping[str, torch.Tensor]


def encode_batch(
    model: SpeechModel, batch: Batch, augmentation: SpectrogramAugmentation, branches: Sequence[str] = (MAIN,)
) -> EncodedBatch:
    """Return what a training step learns from. A batch that carries hidden layers never touches a backbone.

    All branches get the same augmentation of a clip: what is drawn follows from its seed.

    Raises:
        RecipeError: A spectrogram is to be changed, but a backbone makes none.
    """
    mixing = None
    if batch.layers:
        hidden_states = model.encode_with(lambda backbone: _stored(backbone, batch), branches)
    elif augmentation == SpectrogramAugmentation():
        hidden_states = model.encode(batch.waveforms, batch.num_samples, branches)
    else:
        augmenters: list[SpectrogramAugmenter] = []
        hidden_states = model.encode_with(
            lambda backbone: _changed(backbone, batch, augmentation, augmenters), branches
        )
        mixing = augmenters[0].mixing()
    encoded = EncodedBatch(hidden_states, batch.targets, batch.has_target, batch.conditions)
    return encoded if mixing is None else _mixed(encoded, *mixing)


def _changed(
    backbone: Backbone, batch: Batch, augmentation: SpectrogramAugmentation, augmenters: list[SpectrogramAugmenter]
) -> HiddenStates:
    """Return the hidden states of augmented spectrograms, and add the augmenter to `augmenters`."""
    require_bands(backbone, augmentation)
    assert isinstance(backbone, LogMelBackbone)
    augmenter = SpectrogramAugmenter(augmentation, batch.seeds)
    augmenters.append(augmenter)
    bands_db, is_frame = backbone.bands(batch.waveforms, batch.num_samples)
    bands_db, num_frames = augmenter.augment(bands_db, is_frame.sum(dim=1))
    is_frame = frame_mask(num_frames, bands_db.shape[1])
    frames = augmenter.mask(backbone.normalised(bands_db, is_frame), num_frames, backbone.num_channels)
    return HiddenStates((frames,), is_frame)


def _stored(backbone: Backbone, batch: Batch) -> HiddenStates:
    """Return the hidden layers that a batch carries, float32; those that nobody taps are empty."""
    stored = {name: frames.float() for name, frames in batch.layers.items()}
    nothing = batch.num_frames.new_zeros(0, dtype=torch.float32)
    layers = tuple(stored.get(str(number), nothing) for number in range(len(backbone.sizes)))
    longest = next(iter(stored.values())).shape[1]
    return HiddenStates(layers, frame_mask(batch.num_frames, longest), stored.get("last"))


def require_bands(
    backbone: Backbone, augmentation: SpectrogramAugmentation, where: str = "stages.spectrogram_augmentation"
) -> None:
    """Raise RecipeError when a spectrogram is to be changed, but the backbone makes none."""
    if augmentation != SpectrogramAugmentation() and not isinstance(backbone, LogMelBackbone):
        raise RecipeError("spectrogram augmentation needs the backbone 'logmel'", where=where, remedy="Leave it out.")


def _mixed(encoded: EncodedBatch, partners: torch.Tensor, share: float) -> EncodedBatch:
    """Mix each clip with its partner (mixup, Zhang 2018): frames, targets, conditions; the longer of the two counts."""
    partners = partners.to(next(iter(encoded.hidden_states.values())).is_frame.device)

    def mix(values: torch.Tensor) -> torch.Tensor:
        return share * values + (1 - share) * values[partners]

    hidden_states = {
        name: HiddenStates(tuple(mix(layer) for layer in own.layers), own.is_frame | own.is_frame[partners])
        for name, own in encoded.hidden_states.items()
    }
    targets = {name: mix(target) for name, target in encoded.targets.items()}
    has_target = {name: mask & mask[partners] for name, mask in encoded.has_target.items()}
    conditions = {name: mix(values) for name, values in encoded.conditions.items()}
    return EncodedBatch(hidden_states, targets, has_target, conditions)
