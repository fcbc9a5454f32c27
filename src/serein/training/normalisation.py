"""Normalisation by speaker or corpus: the features of a frozen backbone, less the mean of a group of clips."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from serein.data.dataset import HiddenLayers
from serein.models.feature_norm import FeatureNorm

LayerVectors = Mapping[str, torch.Tensor]  # layer -> (feature,)


@dataclass(frozen=True)
class NormalisedFeatures:
    """Features whose mean is the same in every group: the one that a model's standardisation then subtracts.

    Attributes:
        features: The features of a backbone.
        shift_of: Position -> what is added to each frame of an utterance; others are left as they are.
    """

    features: HiddenLayers
    shift_of: Mapping[int, LayerVectors]

    @classmethod
    def of(cls, features: HiddenLayers, group_of: Mapping[int, str], norm: FeatureNorm) -> Self:
        """Remove the mean of each group.

        Args:
            group_of: Position -> speaker or corpus, whose mean is that of these utterances.
            norm: The fitted standardisation.
        """
        positions: dict[str, list[int]] = defaultdict(list)
        for position, group in group_of.items():
            positions[group].append(position)
        shift_of: dict[int, LayerVectors] = {}
        for own in positions.values():
            means = mean_features(features, own)
            shift = {layer: norm.mean_of(layer).cpu() - each.mean(dim=0) for layer, each in means.items()}
            shift_of |= dict.fromkeys(own, shift)
        return cls(features, shift_of)

    @property
    def overhang(self) -> int:
        """Number of frames at the end of each clip that are not real."""
        return self.features.overhang

    def __getitem__(self, position: int) -> LayerVectors:
        """Return layer -> (frame, feature) of an utterance."""
        shift = self.shift_of.get(position)
        frames = self.features[position]
        return frames if shift is None else {layer: own.float() + shift[layer] for layer, own in frames.items()}


def mean_features(features: HiddenLayers, positions: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return layer -> (utterance, feature), the mean over the frames of each utterance."""
    rows: dict[str, list[torch.Tensor]] = defaultdict(list)
    for position in positions:
        for layer, frames in features[position].items():
            rows[layer].append(frames[: len(frames) - features.overhang].float().mean(dim=0))
    return {layer: torch.stack(own) for layer, own in rows.items()}


def fit(norm: FeatureNorm, features: HiddenLayers, train: Sequence[int], group_of: Mapping[int, str]) -> None:
    """Fit a standardisation to the features of training utterances.

    Args:
        group_of: Position -> speaker or corpus. If there are any, the mean is that of their means, and the deviation
            is that within them; utterances without one then count only for the deviation.
    """
    groups = [group_of.get(position) for position in train]
    names = sorted({name for name in groups if name is not None})
    means = mean_features(features, train)
    if not names:
        norm.set_means({layer: own.mean(dim=0) for layer, own in means.items()})
        norm.set_deviations({layer: own.std(dim=0, correction=0) for layer, own in means.items()})
        return
    row_of = {name: row for row, name in enumerate(names)}
    rows = torch.tensor([len(names) if name is None else row_of[name] for name in groups])
    for layer, own in means.items():
        of_group = torch.stack([own[rows == row].mean(dim=0) for row in range(len(names))])
        common = of_group.mean(dim=0)
        rest = own - torch.cat([of_group, common[None]])[rows]
        norm.set_means({layer: common})
        norm.set_deviations({layer: rest.square().mean(dim=0).sqrt()})
