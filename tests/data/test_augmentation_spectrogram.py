"""Augmentation: each change is measured against what its name promises, and follows from a clip's own seed."""

from __future__ import annotations

import math
from itertools import groupby

import numpy as np
import pytest
import torch

from serein.data.augmentation import SpectrogramAugmenter
from serein.recipe import SpectrogramAugmentation

NUM_BANDS = 32
ALL = {
    "tempo": 0.2,
    "vtlp": 0.1,
    "band_shift": 3.0,
    "gain_db": 6.0,
    "equaliser_db": 6.0,
    "noise_probability": 1.0,
    "time_masks": 2,
    "frequency_masks": 2,
}


def augmenter(num_clips: int, first_seed: int = 0, **options: object) -> SpectrogramAugmenter:
    return SpectrogramAugmenter(SpectrogramAugmentation(**options), 1_000 + first_seed + torch.arange(num_clips))


def bent(bands_db: torch.Tensor, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    num_frames = torch.full((len(bands_db),), bands_db.shape[1])
    return augmenter(len(bands_db), **options).augment(bands_db, num_frames)


def ramps(num_clips: int, num_frames: int, *, along: str) -> torch.Tensor:
    """Return bands whose level in dB is the number of the frame, or of the band."""
    frame, band = torch.arange(num_frames).float()[:, None], torch.arange(NUM_BANDS).float()[None]
    return ((frame if along == "time" else band) + 0 * frame + 0 * band).repeat(num_clips, 1, 1)


# -- nothing asked for, nothing changed


@pytest.mark.parametrize(
    "options", [{}, {"equaliser_probability": 1.0, "max_time_mask": 1.0, "mixup_probability": 1.0}]
)
def test_off_is_the_identity(options: dict[str, object]) -> None:
    bands_db, num_frames = torch.randn(3, 20, NUM_BANDS), torch.tensor([20, 7, 1])
    untouched = augmenter(3, **options)
    after_db, frames_after = untouched.augment(bands_db, num_frames)
    assert torch.equal(after_db, bands_db)
    assert torch.equal(frames_after, num_frames)
    assert torch.equal(untouched.mask(bands_db, num_frames, 1), bands_db)
    assert untouched.mixing() is None


# -- what each promises


def test_tempo_changes_the_number_of_frames_by_a_factor_within_its_bounds() -> None:
    after_db, num_frames = bent(ramps(200, 1_000, along="time"), tempo=0.2)
    factors = num_frames.double() / 1_000
    assert math.exp(-0.2) - 1e-3 <= factors.min() < 0.85
    assert 1.18 < factors.max() <= math.exp(0.2) + 1e-3
    assert abs(factors.log().mean()) < 0.03  # as often slower as faster
    assert after_db.shape[1] == num_frames.max()
    for clip_db, number in zip(after_db, num_frames, strict=True):  # the same speech from first to last, evenly
        np.testing.assert_allclose(clip_db[:number, 0], np.linspace(0, 999, number), atol=0.01)


def test_a_single_frame_survives_any_tempo() -> None:
    after_db, num_frames = bent(torch.full((50, 1, NUM_BANDS), -20.0), tempo=1.0)
    assert num_frames.min() == 1
    assert torch.equal(after_db, torch.full_like(after_db, -20.0))


def test_band_shift_moves_the_mel_axis() -> None:
    after_db, num_frames = bent(ramps(200, 3, along="bands"), band_shift=3.0)
    shifts = after_db[:, 0, 16] - 16
    assert num_frames.tolist() == [3] * 200
    assert -3 <= shifts.min() < -2.5
    assert 2.5 < shifts.max() <= 3
    expected = (torch.arange(NUM_BANDS) + shifts[:, None]).clamp(0, NUM_BANDS - 1)  # the edges go on
    np.testing.assert_allclose(after_db[:, 1], expected, atol=1e-4)


def test_band_stretch_scales_the_mel_axis() -> None:
    after_db, _ = bent(ramps(200, 2, along="bands"), vtlp=0.1)
    scales = after_db[:, 0, 20] / 20
    assert 0.9 <= scales.min() < 0.92
    assert 1.08 < scales.max() <= 1.1
    expected = (torch.arange(NUM_BANDS) * scales[:, None]).clamp(0, NUM_BANDS - 1)
    np.testing.assert_allclose(after_db[:, 1], expected, atol=1e-4)


def test_a_gain_of_6_db_is_one_level_within_6_db() -> None:
    bands_db = torch.randn(200, 5, NUM_BANDS)
    gains = bent(bands_db, gain_db=6.0)[0] - bands_db
    np.testing.assert_allclose(gains, gains[:, :1, :1].expand_as(gains), atol=1e-5)
    assert -6 <= gains.min() < -5.5
    assert 5.5 < gains.max() <= 6
    assert abs(gains.mean()) < 1


def test_an_equaliser_is_a_curve_of_straight_lines_over_the_bands() -> None:
    curves = bent(torch.zeros(400, 2, NUM_BANDS), equaliser_db=6.0, equaliser_probability=0.25)[0]
    assert torch.equal(curves[:, 0], curves[:, 1])
    assert curves.abs().max() <= 6
    drawn = curves[:, 0][curves[:, 0].abs().amax(dim=1) > 0]
    assert 0.2 < len(drawn) / 400 < 0.3
    bends = (drawn.diff(n=2, dim=1).abs() > 1e-4).sum(dim=1)
    assert 0 < bends.max() <= 8  # at most four inner knots, each between two bands


def test_noise_is_as_far_below_the_peak_as_asked() -> None:
    """The loudest band is at -10 dB; noise 40 dB below it, but for a slope of up to 15 dB at either end."""
    bands_db = torch.full((100, 60, NUM_BANDS), -200.0)
    bands_db[:, 0, 0] = -10.0
    noise_db = bent(bands_db, noise_probability=1.0, noise_below_peak_db=(40.0, 40.0))[0][:, 1:]
    spectra = noise_db.mean(dim=1).double()
    expected = torch.from_numpy(np.linspace(0, 1, NUM_BANDS))
    ends = spectra[:, :1], spectra[:, -1:]
    np.testing.assert_allclose(spectra, ends[0] + (ends[1] - ends[0]) * expected, atol=0.8)
    assert -55.5 < ends[0].min() < ends[0].max() < -34.5
    assert -65.5 < ends[1].min() < ends[1].max() < -44.5
    assert 0.85 < (noise_db - spectra[:, None]).std() < 0.95  # from frame to frame


def test_noise_adds_power_to_a_share_of_the_clips() -> None:
    bands_db = -30 + 10 * torch.randn(400, 4, NUM_BANDS)
    after_db = bent(bands_db, noise_probability=0.25)[0]
    gains_db = after_db - bands_db
    assert gains_db.min() > -1e-4
    assert 0.2 < (gains_db.amax(dim=(1, 2)) > 0.01).float().mean() < 0.3
    quiet, loud = bands_db < -45, bands_db > -10
    assert gains_db[quiet].mean() > 10 * gains_db[loud].mean()  # where speech is loud, noise is not heard


def test_noise_follows_from_real_frames_alone() -> None:
    bands_db = torch.full((1, 10, NUM_BANDS), -40.0)
    louder = bands_db.clone()
    louder[:, 5:] = 0.0  # beyond the clip
    options = {"noise_probability": 1.0, "noise_below_peak_db": (20.0, 20.0)}
    one = augmenter(1, **options).augment(bands_db, torch.tensor([5]))[0]
    other = augmenter(1, **options).augment(louder, torch.tensor([5]))[0]
    assert torch.equal(one[:, :5], other[:, :5])


@pytest.mark.parametrize("kind", ["time", "frequency"])
def test_masks_are_as_many_and_as_wide_as_asked(kind: str) -> None:
    options = {f"{kind}_masks": 2, f"max_{kind}_mask": 0.25}
    size, num_frames = {"time": 40, "frequency": NUM_BANDS}[kind], torch.full((300,), 40)
    masked = augmenter(300, **options).mask(torch.ones(300, 40, NUM_BANDS), num_frames, 1)
    lines = masked[:, :, 0] if kind == "time" else masked[:, 0]
    assert torch.equal(masked, (lines[:, :, None] if kind == "time" else lines[:, None]).expand_as(masked))
    runs = [[len(list(run)) for value, run in groupby(line.tolist()) if value == 0.0] for line in lines]
    assert max(len(widths) for widths in runs) == 2
    assert max(sum(widths) for widths in runs) <= 2 * size // 4
    assert 0.12 < float((lines == 0).float().mean()) < 0.25  # twice an eighth, less where two overlap


def test_a_time_mask_is_a_share_of_the_clip_not_of_the_batch() -> None:
    masked = augmenter(100, time_masks=1, max_time_mask=0.5).mask(
        torch.ones(100, 100, NUM_BANDS), torch.full((100,), 10), 1
    )
    assert (masked[:, :10, 0] == 0).sum(dim=1).max() <= 5
    assert masked[:, 10:].all()


def test_channels_share_their_masks() -> None:
    masked = augmenter(50, frequency_masks=1, time_masks=1).mask(
        torch.ones(50, 9, 3 * NUM_BANDS), torch.full((50,), 9), num_channels=3
    )
    first, second, third = masked.split(NUM_BANDS, dim=2)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert not masked.all()


def test_mixup_keeps_at_least_half_of_a_clip() -> None:
    drawn = [augmenter(6, first_seed=10 * i, mixup=0.3, mixup_probability=0.25).mixing() for i in range(400)]
    mixed = [each for each in drawn if each is not None]
    assert 0.2 < len(mixed) / 400 < 0.3
    assert all(sorted(partners.tolist()) == [0, 1, 2, 3, 4, 5] for partners, _ in mixed)
    probabilities = [probability for _, probability in mixed]
    assert 0.5 <= min(probabilities) < 0.55
    assert np.mean(np.array(probabilities) > 0.9) > 0.4  # Beta(0.3, 0.3) leans to the ends


# -- what a clip gets follows from its seed


@pytest.mark.parametrize("names", [*([name] for name in ALL), list(ALL)], ids=lambda names: "+".join(names))
def test_a_clip_is_changed_alike_alone_and_beside_others(names: list[str]) -> None:
    options = {name: ALL[name] for name in names}
    bands_db = torch.randn(4, 50, NUM_BANDS) * 10 - 40
    num_frames = torch.tensor([50, 31, 12, 1])
    bands_db = torch.where(torch.arange(50)[None, :, None] < num_frames[:, None, None], bands_db, -120.0)

    def changed(clip: slice) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = SpectrogramAugmenter(SpectrogramAugmentation(**options), torch.arange(4)[clip])
        frames, number = chosen.augment(bands_db[clip, : int(num_frames[clip].max())], num_frames[clip])
        return chosen.mask(frames, number, 1), number

    together, numbers = changed(slice(None))
    for clip, number in enumerate(numbers):
        alone, number_alone = changed(slice(clip, clip + 1))
        assert number == number_alone
        np.testing.assert_allclose(together[clip, :number], alone[0, :number], atol=2e-3)  # dB


def measured(option: str, seed: int) -> list[float]:
    chosen = augmenter(1, first_seed=seed, **{option: ALL[option]})
    bands_db, number = chosen.augment(ramps(1, 100, along="time"), torch.tensor([100]))
    return [float(number), *chosen.mask(bands_db, number, 1).flatten().tolist()]


@pytest.mark.parametrize("option", [name for name in ALL if name != "vtlp" and name != "band_shift"])
def test_another_seed_draws_something_else(option: str) -> None:
    assert measured(option, 0) == measured(option, 0)
    assert len({tuple(measured(option, seed)) for seed in range(8)}) > 4


def test_gradients_and_types_pass() -> None:
    bands_db = torch.randn(2, 12, NUM_BANDS, requires_grad=True)
    chosen = augmenter(2, **ALL)
    after_db, number = chosen.augment(bands_db, torch.tensor([12, 9]))
    masked = chosen.mask(after_db, number, 1)
    masked.sum().backward()
    assert masked.dtype == torch.float32
    assert bands_db.grad is not None
    assert bands_db.grad.isfinite().all()
