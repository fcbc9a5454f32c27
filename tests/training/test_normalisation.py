"""Stored features normalised by speaker, by hand-worked numbers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from serein.models.feature_norm import FeatureNorm
from serein.training.normalisation import NormalisedFeatures, fit, mean_features


class Stored:
    """Utterances of one feature in one layer: the frames of each, of which the last `overhang` are not real."""

    def __init__(self, *utterances: list[float], overhang: int = 0) -> None:
        self.utterances, self.overhang = utterances, overhang

    def __getitem__(self, position: int) -> Mapping[str, torch.Tensor]:
        return {"0": torch.tensor(self.utterances[position], dtype=torch.bfloat16)[:, None]}


CLIPS = Stored([0.0, 2.0], [5.0], [10.0], [14.0])  # their means over time are 1, 5, 10 and 14
TWO_SPEAKERS = {0: "a", 1: "a", 2: "b", 3: "b"}


def fitted(features: Stored, train: list[int], group_of: Mapping[int, str]) -> tuple[float, float]:
    norm = FeatureNorm((1,))
    fit(norm, features, train, group_of)
    return float(norm.mean_of("0")), float(norm.deviation[0])


def test_the_mean_and_deviation_of_training_clips() -> None:
    assert fitted(CLIPS, [0, 1, 2], {}) == pytest.approx((16 / 3, (122 / 9) ** 0.5))


def test_each_speaker_counts_once_and_the_deviation_is_within_speakers() -> None:
    assert fitted(CLIPS, [0, 1, 2, 3], TWO_SPEAKERS) == pytest.approx(((3 + 12) / 2, 2.0))
    assert fitted(CLIPS, [0, 1, 2], TWO_SPEAKERS) == pytest.approx(((3 + 10) / 2, (8 / 3) ** 0.5))


def test_clips_without_a_speaker_count_for_the_deviation() -> None:
    mean, deviation = fitted(CLIPS, [0, 1, 2], {0: "a", 1: "a"})
    assert (mean, deviation) == pytest.approx((3.0, ((4 + 4 + 49) / 3) ** 0.5))


def test_normalised_speakers_have_the_mean_that_the_model_subtracts() -> None:
    norm = FeatureNorm((1,))
    norm.set_means({"0": torch.tensor([100.0])})
    features = NormalisedFeatures.of(CLIPS, {0: "a", 1: "a", 3: "b"}, norm)
    assert [features[n]["0"].flatten().tolist() for n in range(4)] == [[97.0, 99.0], [102.0], [10.0], [100.0]]


def test_frames_that_are_not_real_have_no_part_in_a_mean() -> None:
    features = Stored([1.0, 3.0, 50.0], [4.0, -9.0], overhang=1)
    assert mean_features(features, [0, 1])["0"].tolist() == [[2.0], [4.0]]
    assert NormalisedFeatures.of(features, {0: "a"}, FeatureNorm((1,))).overhang == 1
