"""Log-mel bands: right in frequency and level, right in number, and the same alone and in any batch."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank

from serein.errors import RecipeError
from serein.models.logmel import LogMelBackbone
from serein.recipe import LogMel

KINDS = ("corpus", "level", "clip")
NORMALISATIONS = [kinds for size in (1, 2, 3) for kinds in combinations(KINDS, size)]


def waves(*lengths: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise of some lengths, padded with what must not be heard."""
    generator = torch.Generator().manual_seed(seed)
    waveforms = 0.1 * torch.randn(len(lengths), max(lengths), generator=generator)
    return waveforms * torch.linspace(0.2, 2.0, max(lengths)), torch.tensor(lengths)


def sine(hz: float, num_samples: int = 16_000) -> torch.Tensor:
    return torch.sin(2 * math.pi * hz * torch.arange(num_samples, dtype=torch.float64) / 16_000).float()[None]


def edges_hz(options: LogMel) -> np.ndarray:
    """Return lower edge, centres and upper edge of the bands, 2595 log10(1 + f/700)."""
    mels = np.linspace(*(2595 * np.log10(1 + np.array([options.low_hz, options.high_hz]) / 700)), options.n_mels + 2)
    return np.asarray(700 * (10 ** (mels / 2595) - 1))


# -- what a band holds


@pytest.mark.parametrize("options", [LogMel(), LogMel(n_mels=40, window_s=0.025, low_hz=0.0, high_hz=4_000.0)])
def test_filters_are_those_of_transformers(options: LogMel) -> None:
    backbone = LogMelBackbone(options)
    theirs = mel_filter_bank(
        backbone.fft // 2 + 1, options.n_mels, options.low_hz, options.high_hz, 16_000, norm=None, mel_scale="htk"
    ).T
    theirs = theirs / theirs.sum(axis=1, keepdims=True) / np.square(np.hanning(backbone.window + 1)[:-1]).sum()
    np.testing.assert_allclose(backbone.filters, theirs, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("hz", [120.0, 1_000.0, 5_000.0])
def test_a_sine_peaks_in_its_band(hz: float) -> None:
    options = LogMel()
    bands_db, _ = LogMelBackbone(options).bands(sine(hz), torch.tensor([16_000]))
    edges = edges_hz(options)
    loudest = int(bands_db[0, 25].argmax())
    assert edges[loudest] < hz < edges[loudest + 2]


def test_a_full_scale_sine_has_its_level() -> None:
    """Parseval: over all bins of one frame, a sine of amplitude 1 has the power N/4 * sum of the squared window.

    A band is the mean over its bins, divided by that sum: where the filter is 1, it is N/4 / (its area in bins).
    """
    options = LogMel(n_mels=8, top_db=None)
    backbone, edges = LogMelBackbone(options), edges_hz(options)
    for band in range(8):
        bands_db, _ = backbone.bands(sine(edges[band + 1]), torch.tensor([16_000]))
        bins = (edges[band + 2] - edges[band]) / 2 / (16_000 / backbone.fft)
        expected_db = 10 * math.log10(backbone.fft / 4 / bins)
        assert abs(float(bands_db[0, 25, band]) - expected_db) < (1.0 if band == 0 else 0.35)  # a narrow filter is no 1


def test_white_noise_reads_its_power_in_every_band() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(1, 160_000, generator=generator)  # variance 0.01: -20 dB
    bands_db, _ = LogMelBackbone(LogMel()).bands(noise, torch.tensor([160_000]))
    power_db = 10 * torch.log10((10 ** (bands_db[0, 2:-2] / 10)).mean(dim=0))
    assert (power_db + 20).abs().max() < 1.2
    assert abs(float(power_db.mean()) + 20) < 0.2


def test_twice_the_amplitude_is_6_db_more() -> None:
    waveforms, num_samples = waves(8_000)
    backbone = LogMelBackbone(LogMel(top_db=None))
    gain_db = backbone.bands(2 * waveforms, num_samples)[0] - backbone.bands(waveforms, num_samples)[0]
    np.testing.assert_allclose(gain_db, 20 * math.log10(2), atol=1e-4)


def test_silence_is_at_the_floor() -> None:
    bands_db, _ = LogMelBackbone(LogMel()).bands(torch.zeros(1, 1_600), torch.tensor([1_600]))
    np.testing.assert_allclose(bands_db, -100.0, atol=1e-4)


def test_floor_db_raises_what_is_far_below_the_loudest() -> None:
    waveforms, num_samples = torch.cat([sine(1_000), 0 * sine(1_000)], dim=1), torch.tensor([32_000])
    floored = LogMelBackbone(LogMel(top_db=40.0)).bands(waveforms, num_samples)[0]
    free = LogMelBackbone(LogMel(top_db=None)).bands(waveforms, num_samples)[0]
    assert float(floored.max() - floored.min()) == pytest.approx(40.0, abs=1e-4)
    assert torch.equal(floored, free.maximum(free.max() - 40.0))
    assert free.min() == pytest.approx(-100.0, abs=1e-4)


def test_bands_narrower_than_a_bin_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"backbone: \d+ of 128 mel bands are narrower .* Choose a smaller n_mels"):
        LogMelBackbone(LogMel(n_mels=128, window_s=0.025))


# -- frames


@pytest.mark.parametrize(("num_samples", "num_frames"), [(1, 1), (320, 1), (321, 2), (640, 2), (641, 3), (16_000, 50)])
def test_a_frame_exists_when_its_sample_does(num_samples: int, num_frames: int) -> None:
    backbone = LogMelBackbone(LogMel())
    heard = backbone(torch.ones(1, num_samples), torch.tensor([num_samples]))
    assert heard.num_frames.tolist() == [num_frames]
    assert heard.layers[0].shape == (1, num_frames, 64)
    assert heard.layers[0].isfinite().all()
    assert backbone.frame_rate_hz == 50.0


def test_a_frame_is_centred_on_its_sample() -> None:
    click = torch.zeros(1, 3_200)
    click[0, 5 * 320] = 1.0
    bands_db, _ = LogMelBackbone(LogMel(top_db=None)).bands(click, torch.tensor([3_200]))
    level_db = bands_db[0].mean(dim=1)
    assert int(level_db.argmax()) == 5
    np.testing.assert_allclose(level_db[4], level_db[6], atol=1e-3)


@pytest.mark.parametrize("normalisation", NORMALISATIONS, ids="+".join)
def test_a_clip_is_heard_alike_alone_and_in_a_batch(normalisation: tuple[str, ...]) -> None:
    backbone = LogMelBackbone(LogMel(n_mels=32, normalisation=normalisation))
    waveforms, num_samples = waves(9_000, 1, 4_321, 320, 100)
    backbone.fit([backbone.bands(*waves(8_000, 16_000, seed=1))])
    together = backbone(waveforms, num_samples)
    assert together.layers[0].shape == (5, 29, 32 * len(normalisation))
    assert backbone.sizes == (32 * len(normalisation),)
    assert backbone.num_channels == len(normalisation)
    for row, length in enumerate(num_samples.tolist()):
        alone = backbone(waveforms[row : row + 1, :length], torch.tensor([length]))
        number = int(alone.num_frames)
        assert number == int(together.num_frames[row]) == alone.layers[0].shape[1]
        np.testing.assert_allclose(together.layers[0][row, :number], alone.layers[0][0], atol=1e-5)
        assert not together.layers[0][row, number:].any()


@pytest.mark.parametrize("top_db", [None, 30.0])
def test_kept_bands_give_those_of_any_batch(top_db: float | None) -> None:
    backbone = LogMelBackbone(LogMel(n_mels=20, window_s=0.025, hop_s=0.01, top_db=top_db))
    lengths = (4_000, 3_999, 161, 1)
    waveforms = [torch.randn(length, generator=torch.Generator().manual_seed(length)) for length in lengths]
    kept = [backbone.kept_bands(each[None], torch.tensor([len(each)]))[0] for each in waveforms]
    for rows in ((0, 1, 2, 3), (3, 2), (1,)):
        num_samples = torch.tensor([lengths[row] for row in rows])
        padded, padded_bands = (
            torch.nn.utils.rnn.pad_sequence([every[row] for row in rows], batch_first=True)
            for every in (waveforms, kept)
        )
        expected, is_frame = backbone.bands(padded, num_samples)
        found, is_kept = backbone.restored(padded_bands, backbone.num_frames(num_samples))
        assert torch.equal(is_kept, is_frame)
        torch.testing.assert_close(
            found, expected, rtol=1e-5, atol=1e-5
        )  # on padding, too, where augmentation may look


def test_what_it_hears_stays_float32_under_autocast() -> None:
    backbone, (waveforms, num_samples) = LogMelBackbone(LogMel()), waves(4_000)
    with torch.autocast("cpu", torch.bfloat16):
        bands_db = backbone.bands(waveforms, num_samples)[0]
    assert torch.equal(bands_db, backbone.bands(waveforms, num_samples)[0])


# -- normalisation


@pytest.mark.parametrize("kind", ["corpus", "level", "clip"])
def test_fit_brings_the_training_audio_to_mean_0_and_deviation_1(kind: str) -> None:
    backbone = LogMelBackbone(LogMel(n_mels=24, normalisation=(kind, "corpus")))
    batches = [waves(9_000, 4_000, 500), waves(16_000, 1, seed=1)]
    backbone.fit(backbone.bands(*batch) for batch in batches)
    frames = torch.cat([heard.layers[0][heard.is_frame] for heard in (backbone(*batch) for batch in batches)])
    np.testing.assert_allclose(frames.mean(dim=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(frames.std(dim=0, correction=0), 1.0, atol=1e-4)


def test_fit_does_not_depend_on_the_batches() -> None:
    waveforms, num_samples = waves(9_000, 4_000, 500)
    one, other = (LogMelBackbone(LogMel(normalisation=("corpus", "level", "clip"))) for _ in range(2))
    one.fit([one.bands(waveforms, num_samples)])
    other.fit(other.bands(waveforms[i : i + 1], num_samples[i : i + 1]) for i in range(3))
    np.testing.assert_allclose(one.mean, other.mean, atol=1e-4)
    np.testing.assert_allclose(one.deviation, other.deviation, atol=1e-4)


def test_a_level_is_taken_off_and_a_clips_own_deviation_too() -> None:
    waveforms, num_samples = waves(9_000)
    for kind, gain, is_same in (("corpus", 0.5, False), ("level", 0.5, True), ("clip", 0.5, True)):
        backbone = LogMelBackbone(LogMel(normalisation=(kind,)))
        loud, soft = (backbone(factor * waveforms, num_samples).layers[0] for factor in (1.0, gain))
        assert torch.allclose(loud, soft, atol=1e-3) == is_same
    own = LogMelBackbone(LogMel(normalisation=("clip",)))(waveforms, num_samples).layers[0][0]
    np.testing.assert_allclose(own.mean(dim=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(own.std(dim=0, correction=0), 1.0, atol=1e-3)


def test_nothing_is_learned_by_gradient_and_the_description_builds_it_again() -> None:
    options = LogMel(n_mels=20, normalisation=("level", "clip"))
    backbone = LogMelBackbone(options)
    assert backbone.parameter_groups() == {}
    assert set(backbone.state_dict()) == {"mean", "deviation"}
    assert LogMel.model_validate(backbone.describe()) == options
