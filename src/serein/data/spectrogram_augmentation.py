"""Changes of log-mel frames for training: what is drawn for a clip follows from its seed alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from serein.recipe import SpectrogramAugmentation

NEPERS = math.log(10) / 10  # of power, per decibel
RIPPLE_DB = 0.9  # deviation of a mel band's power from frame to frame in steady noise


class SpectrogramAugmenter:
    """Stretches, shifts, filters, adds noise to bands in dB; masks and mixes normalised frames.

    Args:
        options: Ranges and probabilities.
        seeds: (batch,) of a batch's clips; every draw follows from them.
    """

    def __init__(self, options: SpectrogramAugmentation, seeds: torch.Tensor) -> None:
        self.options = options
        self.rngs = [np.random.default_rng(int(seed)) for seed in seeds]

    def augment(self, bands_db: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Change tempo, mel axis, level, spectrum and noise.

        Args:
            bands_db: (batch, frame, band).
            num_frames: (batch,) long.

        Returns:
            The changed bands and numbers of frames.
        """
        options = self.options
        if options.tempo or options.vtlp or options.band_shift:
            tempo = torch.from_numpy(np.exp(self._draw(-options.tempo, options.tempo))).float()
            scale = torch.from_numpy(1 + self._draw(-options.vtlp, options.vtlp)).float()
            shift = torch.from_numpy(self._draw(-options.band_shift, options.band_shift)).float()
            before = num_frames.cpu()
            after = (before * tempo).round().long().clamp_min(1)
            step = (before - 1) / (after - 1).clamp_min(1)
            frame = torch.arange(int(after.max()))[None] * step[:, None]
            band = torch.arange(bands_db.shape[2])[None] * scale[:, None] + shift[:, None]
            # interpolated at (batch, new frame) x (batch, new band), the edges continued
            last_frame, last_band = max(bands_db.shape[1] - 1, 1), max(bands_db.shape[2] - 1, 1)
            rows = (2 * frame / last_frame - 1)[:, :, None].expand(-1, -1, band.shape[1])
            columns = (2 * band / last_band - 1)[:, None].expand(-1, frame.shape[1], -1)
            grid = torch.stack([columns, rows], dim=-1).to(bands_db)
            bands_db = F.grid_sample(bands_db[:, None], grid, padding_mode="border", align_corners=True)[:, 0]
            num_frames = after.to(num_frames.device)
        curves = np.zeros((len(self.rngs), bands_db.shape[2]), np.float32)  # level and random curves, in dB
        for curve, rng in zip(curves, self.rngs, strict=True):
            curve += rng.uniform(-options.gain_db, options.gain_db)
            if options.equaliser_db and rng.random() < options.equaliser_probability:
                curve += _random_curve(len(curve), options.equaliser_db, rng)
        bands_db = bands_db + torch.from_numpy(curves).to(bands_db)[:, None]
        if not options.noise_probability:
            return bands_db, num_frames
        is_frame = torch.arange(bands_db.shape[1], device=bands_db.device) < num_frames[:, None].to(bands_db.device)
        peaks = bands_db.masked_fill(~is_frame[..., None], -torch.inf).amax(dim=(1, 2)).tolist()
        noises_db = np.full(bands_db.shape, -300.0, np.float32)
        for noise_db, rng, peak, length in zip(noises_db, self.rngs, peaks, num_frames.tolist(), strict=True):
            if rng.random() < options.noise_probability:
                slope = np.linspace(rng.uniform(-5, 15), rng.uniform(-15, 5), noise_db.shape[1])
                ripple = RIPPLE_DB * rng.standard_normal((length, noise_db.shape[1]), np.float32)
                noise_db[:length] = peak - rng.uniform(*options.noise_below_peak_db) + slope + ripple
        noise = torch.from_numpy(noises_db).to(bands_db)
        return torch.logaddexp(bands_db * NEPERS, noise * NEPERS) / NEPERS, num_frames

    def mask(self, frames: torch.Tensor, num_frames: torch.Tensor, num_channels: int) -> torch.Tensor:
        """Set random stretches of time and of bands to zero, which is the corpus's mean (SpecAugment, Park 2019).

        Args:
            frames: (batch, frame, channel * band), normalised.
            num_channels: Channels that share their masks.
        """
        options = self.options
        lengths = [int(n) for n in num_frames]
        time = self._kept(frames.shape[1], lengths, options.time_masks, options.max_time_mask)
        n_mels = frames.shape[2] // num_channels
        band = self._kept(n_mels, [n_mels] * len(lengths), options.frequency_masks, options.max_frequency_mask)
        return frames * time.to(frames)[:, :, None] * band.repeat(1, num_channels).to(frames)[:, None]

    def mixing(self) -> tuple[torch.Tensor, float] | None:
        """Draw partners, (batch,) long, and the share of each clip's own, at least a half; `None` leaves the batch."""
        rng = self.rngs[0]
        if not self.options.mixup or rng.random() >= self.options.mixup_probability:
            return None
        share = rng.beta(self.options.mixup, self.options.mixup)
        return torch.from_numpy(rng.permutation(len(self.rngs))), max(share, 1 - share)

    def _draw(self, low: float, high: float) -> NDArray[np.float64]:
        return np.array([rng.uniform(low, high) for rng in self.rngs])

    def _kept(self, size: int, lengths: Sequence[int], num_masks: int, share: float) -> torch.Tensor:
        kept = torch.ones(len(lengths), size)
        for row, rng, length in zip(kept, self.rngs, lengths, strict=True):
            for _ in range(num_masks):
                width = int(rng.uniform(0, share) * length)
                start = int(rng.integers(length - width + 1))
                row[start : start + width] = 0.0
        return kept


def _random_curve(size: int, greatest_db: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a curve of straight lines between three to six knots (FilterAugment, Nam 2022)."""
    num_knots = int(rng.integers(3, 7))
    knots = np.sort(np.concatenate([[0, size - 1], rng.uniform(0, size - 1, num_knots - 2)]))
    curve: NDArray[np.float64] = np.interp(np.arange(size), knots, rng.uniform(-greatest_db, greatest_db, num_knots))
    return curve
