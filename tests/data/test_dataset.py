"""Batches: no limit is exceeded, no clip is lost, and what is drawn for a clip follows from seed, epoch and name."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serein.audio import SAMPLE_RATE_HZ
from serein.data.augmentation import SpectrogramAugmenter
from serein.data.dataset import (
    BucketSampler,
    ClipDataset,
    Recordings,
    Targets,
    batch_durations,
    collate,
    draw_seed,
    fix_length,
    fixed_durations,
    loader,
    random_crop,
)
from serein.data.manifest import Utterance
from serein.recipe import Batches, Clips, SpectrogramAugmentation

Record = Callable[..., Utterance]

# -- the sampler

limits = st.builds(
    Batches, max_clips=st.integers(1, 8), max_seconds=st.floats(1.0, 40.0), num_buckets=st.integers(1, 4)
)
many_durations = st.lists(st.floats(0.01, 30.0), min_size=1, max_size=60).map(np.array)


def positions_of(sampler: BucketSampler) -> list[list[int]]:
    return [[position for _, position in items] for items in sampler]


@pytest.mark.parametrize("is_training", [True, False])
@settings(max_examples=30)
@given(durations_s=many_durations, batches=limits, seed=st.integers(0, 5))
def test_no_batch_exceeds_its_limits(durations_s: np.ndarray, batches: Batches, seed: int, is_training: bool) -> None:
    sampler = BucketSampler(range(len(durations_s)), durations_s, batches, seed=seed, is_training=is_training)
    plan = positions_of(sampler)
    assert len(sampler) == len(plan)
    for batch in plan:
        assert 1 <= len(batch) <= batches.max_clips
        padded_s = len(batch) * durations_s[batch].max()
        assert len(batch) == 1 or padded_s <= batches.max_seconds + 1e-9


@pytest.mark.parametrize("is_training", [True, False])
@settings(max_examples=30)
@given(durations_s=many_durations, batches=limits, epoch=st.integers(0, 3))
def test_every_clip_comes_once(durations_s: np.ndarray, batches: Batches, epoch: int, is_training: bool) -> None:
    drawn = list(range(0, len(durations_s), 2))
    sampler = BucketSampler(drawn, durations_s, batches, is_training=is_training)
    sampler.set_epoch(epoch)
    items = [item for batch in sampler for item in batch]
    assert sorted(items) == [(epoch, position) for position in drawn]


@pytest.mark.parametrize("is_training", [True, False])
@settings(max_examples=30)
@given(durations_s=many_durations, batches=limits, world_size=st.integers(2, 5))
def test_processes_share_the_batches(
    durations_s: np.ndarray, batches: Batches, world_size: int, is_training: bool
) -> None:
    def plan_of(rank: int, size: int) -> list[list[int]]:
        positions = range(len(durations_s))
        return positions_of(
            BucketSampler(positions, durations_s, batches, is_training=is_training, rank=rank, world_size=size)
        )

    alone, parts = plan_of(0, 1), [plan_of(rank, world_size) for rank in range(world_size)]
    together = sorted(batch for part in parts for batch in part)
    if is_training:  # each the same number of steps, so some batches come again
        assert {len(part) for part in parts} == {-(-len(alone) // world_size)}
        assert {tuple(batch) for batch in together} == {tuple(batch) for batch in alone}
    else:  # each clip is evaluated once
        assert together == sorted(alone)


def test_by_hand() -> None:
    durations_s = np.array([1.0, 4.0, 2.0, 3.0, 9.0])
    sampler = BucketSampler(range(5), durations_s, Batches(max_clips=3, max_seconds=8), is_training=False)
    assert positions_of(sampler) == [[4], [1, 3], [2, 0]]  # 9 s alone; 2 x 4 s; 2 x 2 s


def test_training_draws_anew_every_epoch_and_again_the_same() -> None:
    durations_s = np.random.default_rng(0).uniform(1, 5, 40)

    def plan(seed: int, epoch: int) -> list[list[int]]:
        sampler = BucketSampler(range(40), durations_s, Batches(max_clips=4, num_buckets=2), seed=seed)
        sampler.set_epoch(epoch)
        return positions_of(sampler)

    plans = [plan(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(one != other for one, other in pairwise(plans))
    assert plans == [plan(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]


def test_set_epoch_goes_back_and_forth() -> None:
    sampler = BucketSampler(range(20), np.ones(20), Batches(max_clips=4))
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_buckets_spare_padding() -> None:
    durations_s = np.random.default_rng(0).uniform(1, 10, 400)

    def padded_fraction(buckets: int) -> float:
        plan = positions_of(
            BucketSampler(range(400), durations_s, Batches(max_clips=8, max_seconds=1e9, num_buckets=buckets))
        )
        heard_s = sum(len(batch) * durations_s[batch].max() for batch in plan)
        return float(1 - durations_s.sum() / heard_s)

    assert padded_fraction(16) < 0.1 < 0.3 < padded_fraction(1)


# -- cutting and extending


def test_a_short_clip_is_repeated_or_followed_by_silence() -> None:
    waveform, least_s = np.array([1, 2, 3], np.float32), 7 / SAMPLE_RATE_HZ
    assert fix_length(waveform, Clips(min_s=least_s, pad_mode="repeat")).tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert fix_length(waveform, Clips(min_s=least_s, pad_mode="silence")).tolist() == [1, 2, 3, 0, 0, 0, 0]
    whole = Clips(min_s=least_s, pad_mode="repeat-whole")
    assert fix_length(waveform, whole).tolist() == [1, 2, 3] * 3
    assert fixed_durations(np.array([2.0, 2.9, 3.0]), Clips(min_s=3.0, pad_mode="repeat-whole")).tolist() == [4, 5.8, 3]
    assert fix_length(waveform, Clips(min_s=3 / SAMPLE_RATE_HZ)) is waveform
    assert fix_length(waveform, Clips()).dtype == np.float32


def test_long_clips_end_where_the_recipe_says() -> None:
    waveform = np.arange(10, dtype=np.float32)
    clips = Clips(max_s=4 / SAMPLE_RATE_HZ, min_s=3 / SAMPLE_RATE_HZ, pad_mode="repeat")
    assert fix_length(waveform, clips).tolist() == [0, 1, 2, 3]
    assert fix_length(waveform[:2], clips).tolist() == [0, 1, 0]
    assert fix_length(waveform, Clips()).tolist() == waveform.tolist()
    seconds = np.array([10.0, 2.0, 0.5])
    assert fixed_durations(seconds, Clips(max_s=4.0, min_s=1.0)).tolist() == [4.0, 2.0, 1.0]
    assert fixed_durations(seconds, Clips()).tolist() == seconds.tolist()


@pytest.mark.parametrize("length", [1, 3, 4, 9, 10])
def test_durations_are_those_of_what_is_heard(length: int) -> None:
    clips = Clips(max_s=4 / SAMPLE_RATE_HZ, min_s=3 / SAMPLE_RATE_HZ, pad_mode="repeat")
    samples = fixed_durations(np.array([length / SAMPLE_RATE_HZ]), clips)[0] * SAMPLE_RATE_HZ
    assert round(samples) == len(fix_length(np.zeros(length, np.float32), clips))


def test_a_crop_lies_anywhere_within_the_clip() -> None:
    waveform = np.arange(10, dtype=np.float32)
    crops = [random_crop(waveform, 4, np.random.default_rng(seed)) for seed in range(100)]
    assert all(np.array_equal(np.diff(crop), [1, 1, 1]) for crop in crops)
    assert {int(crop[0]) for crop in crops} == set(range(7))


@pytest.mark.parametrize("length", [10, 16_000])
def test_what_is_short_enough_stays_whole(length: int) -> None:
    waveform = np.arange(10, dtype=np.float32)
    assert random_crop(waveform, length, np.random.default_rng(0)) is waveform


# -- clips


@pytest.fixture
def recordings(record: Record) -> Recordings:
    rng = np.random.default_rng(0)
    return Recordings([record(f"u{i}", rng.normal(0, 0.1, 2_000 + 1_000 * i)) for i in range(5)])


TARGETS = {"emotion": Targets(np.eye(5, 3, dtype=np.float32), np.array([True, True, True, False, False]))}


def same(one: object, other: object) -> bool:
    return all(
        all(torch.equal(value[key], vars(other)[name][key]) for key in value)
        if isinstance(value, dict)
        else torch.equal(value, vars(other)[name])
        for name, value in vars(one).items()
    )


def test_a_clip_holds_its_samples_and_targets(recordings: Recordings) -> None:
    clip = ClipDataset(recordings, TARGETS, Clips())[0, 1]
    assert clip.positions.tolist() == [1]
    assert clip.num_samples.tolist() == [3_000]
    assert clip.audio_s == 3_000 / SAMPLE_RATE_HZ
    assert clip.targets["emotion"].tolist() == [[0, 1, 0]]
    assert clip.has_target["emotion"].tolist() == [True]
    np.testing.assert_array_equal(clip.waveforms[0].numpy(), recordings[1])


def test_collate_pads_with_zeros(recordings: Recordings) -> None:
    dataset = ClipDataset(recordings, TARGETS, Clips())
    batch = collate([dataset[0, position] for position in (3, 0, 4)])
    assert batch.positions.tolist() == [3, 0, 4]
    assert batch.num_samples.tolist() == [5_000, 2_000, 6_000]
    assert batch.waveforms.shape == (3, 6_000)
    assert batch.has_target["emotion"].tolist() == [False, True, False]
    for row, position in enumerate((3, 0, 4)):
        samples = recordings[position]
        np.testing.assert_array_equal(batch.waveforms[row, : len(samples)].numpy(), samples)
        assert not batch.waveforms[row, len(samples) :].any()
    assert same(batch, batch.to(torch.device("cpu")))


def test_only_training_is_cropped(recordings: Recordings) -> None:
    clips = Clips(crop_s=3_500 / SAMPLE_RATE_HZ, min_s=2_500 / SAMPLE_RATE_HZ)
    lengths = {
        is_training: [
            int(ClipDataset(recordings, {}, clips, is_training=is_training)[0, position].num_samples)
            for position in range(5)
        ]
        for is_training in (True, False)
    }
    assert lengths == {True: [2_500, 3_000, 3_500, 3_500, 3_500], False: [2_500, 3_000, 4_000, 5_000, 6_000]}
    for is_training, expected in lengths.items():
        durations_s = batch_durations(recordings, clips, is_training=is_training)
        assert (durations_s * SAMPLE_RATE_HZ).round().tolist() == expected


def test_a_crop_follows_from_seed_epoch_and_name_alone(recordings: Recordings) -> None:
    clips = Clips(crop_s=1_000 / SAMPLE_RATE_HZ)

    def crop(seed: int, epoch: int, position: int, within: Recordings = recordings) -> list[float]:
        return ClipDataset(within, {}, clips, seed=seed, is_training=True)[epoch, position].waveforms[0].tolist()

    fewer = Recordings(recordings.utterances[3:])
    assert crop(0, 0, 4) == crop(0, 0, 1, fewer)  # wherever the utterance stands in its list
    assert crop(0, 0, 4) != crop(0, 1, 4)
    assert crop(0, 0, 4) != crop(1, 0, 4)


def test_draws_of_two_clips_epochs_or_seeds_differ() -> None:
    draws = {draw_seed(seed, epoch, name) for seed in range(5) for epoch in range(5) for name in ("a", "b", "1", "11")}
    assert len(draws) == 100
    assert all(0 <= draw < 2**63 for draw in draws)


def test_the_place_of_a_crop_does_not_tell_the_tempo(record: Record) -> None:
    """Both follow from one seed; a shared stream would slow down whatever is cut from the start."""
    options = SpectrogramAugmentation(tempo=0.2)
    starts, lengths = [], []
    ramp = Recordings([record("u", np.arange(16_000) / 16_000)])
    dataset = ClipDataset(ramp, {}, Clips(crop_s=0.1), is_training=True)
    for epoch in range(200):
        clip = dataset[epoch, 0]
        starts.append(float(clip.waveforms[0, 0]))
        bent = SpectrogramAugmenter(options, clip.seeds).augment(torch.zeros(1, 1_000, 1), torch.tensor([1_000]))
        lengths.append(int(bent[1]))
    assert abs(np.corrcoef(starts, lengths)[0, 1]) < 0.2
    assert min(starts) < 0.03
    assert 0.87 < max(starts) <= 0.9


def test_workers_change_nothing(recordings: Recordings) -> None:
    dataset = ClipDataset(recordings, TARGETS, Clips(crop_s=0.1), seed=3, is_training=True)
    sampler = BucketSampler(range(5), recordings.durations_s, Batches(max_clips=2), seed=3)
    alone = list(loader(dataset, sampler))
    with_workers = list(loader(dataset, sampler, num_workers=2))
    assert len(alone) == len(with_workers) == len(sampler)
    assert all(same(one, other) for one, other in zip(alone, with_workers, strict=True))


# -- views


def halved(waveform: np.ndarray, seed: int) -> np.ndarray:
    return waveform / 2


def test_two_views_stand_beside_each_other(recordings: Recordings) -> None:
    """The clip as it is, then changed, cut at one place; each draws its own augmentation; targets are the clip's."""
    clips = Clips(crop_s=0.1)
    dataset = ClipDataset(recordings, TARGETS, clips, seed=1, is_training=True, augment=halved, num_views=2)
    batch = collate([dataset[0, 0], dataset[0, 4]])
    assert batch.positions.tolist() == [0, 0, 4, 4]
    assert batch.has_target["emotion"].tolist() == [True, True, False, False]
    assert len(set(batch.seeds.tolist())) == 4
    torch.testing.assert_close(batch.waveforms[0::2] / 2, batch.waveforms[1::2])
    assert ClipDataset(recordings, TARGETS, clips, augment=halved, num_views=2)[0, 0].positions.tolist() == [0]


# -- balanced classes


@pytest.fixture
def unequal() -> np.ndarray:
    """Return classes of 60 clips: 30, 20 and 6 of three, and four clips of none."""
    return np.array([0] * 30 + [1] * 20 + [2] * 6 + [-1] * 4)


def test_balanced_epochs_hear_each_class_as_often(unequal: np.ndarray) -> None:
    sampler = BucketSampler(range(60), np.ones(60), Batches(max_clips=8), classes=unequal, seed=5)
    epochs = []
    for epoch in range(40):
        sampler.set_epoch(epoch)
        heard = [position for batch in sampler for _, position in batch]
        assert len(set(heard)) == len(heard) == 3 * 6 + 4
        assert np.bincount(unequal[heard] + 1).tolist() == [4, 6, 6, 6]
        assert len(sampler) == 3
        epochs.append(frozenset(heard))
    assert len(set(epochs)) == 40  # drawn anew
    assert frozenset.union(*epochs) == set(range(60))  # nothing is left out for good
    assert set(range(50, 60)) <= frozenset.intersection(*epochs)  # the rarest class, and clips of none


def test_balanced_draws_follow_from_the_seed(unequal: np.ndarray) -> None:
    def heard(seed: int, rank: int = 0, world_size: int = 1) -> list[tuple[int, int]]:
        sharing = {"rank": rank, "world_size": world_size}
        sampler = BucketSampler(range(60), np.ones(60), Batches(max_clips=8), classes=unequal, seed=seed, **sharing)
        return [item for batch in sampler for item in batch]

    assert heard(1) == heard(1)
    assert heard(1) != heard(2)
    assert set(heard(1)) <= set(heard(1, 0, 2)) | set(heard(1, 1, 2))  # processes share one draw


def test_balance_is_of_the_positions_that_are_drawn_from(unequal: np.ndarray) -> None:
    """Only two of class 1 are on the training set: two of each."""
    positions = [*range(10), 30, 31, 50, 51, 52]
    sampler = BucketSampler(positions, np.ones(60), Batches(max_clips=8), classes=unequal)
    heard = [position for batch in sampler for _, position in batch]
    assert set(heard) <= set(positions)
    assert np.bincount(unequal[heard]).tolist() == [2, 2, 2]


def test_weighted_epochs_draw_with_replacement_by_weight() -> None:
    weights = np.array([0.0] * 20 + [1.0] * 20 + [3.0] * 20)
    sampler = BucketSampler(range(60), np.ones(60), Batches(max_clips=8), weights=weights, num_drawn=4000)
    drawn = np.bincount([position for batch in sampler for _, position in batch], minlength=60)
    assert drawn.sum() == 4000
    assert drawn[:20].sum() == 0
    assert drawn[40:].sum() / drawn[20:40].sum() == pytest.approx(3.0, rel=0.1)
