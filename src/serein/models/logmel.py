"""Log-mel bands as a backbone: one hidden layer, nothing learned but the corpus's mean and deviation per band."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional as F

from serein.errors import RecipeError
from serein.models.hidden_states import Backbone, HiddenStates, frame_mask
from serein.models.spectrum import power_spectrum
from serein.recipe import LogMel

FLOOR_POWER = 1e-10  # -100 dB: below the quantisation noise of 16-bit audio
DECIBELS = 10 / math.log(10)


class LogMelBackbone(Backbone):
    """Power spectrogram -> mel bands -> decibels -> normalised per band.

    Frame t is centred on sample t * hop and exists when that sample does; what lies outside the clip counts as zero,
    so a padded clip has the frames it has alone.

    Args:
        options: Bands, window, hop, normalisation.

    Raises:
        RecipeError: A band is too narrow to hold a frequency of the window's spectrum.
    """

    Options = LogMel

    hann: torch.Tensor
    filters: torch.Tensor
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, options: LogMel) -> None:
        super().__init__()
        self.options = options
        self.window = round(options.window_s * self.sample_rate_hz)
        self.hop = round(options.hop_s * self.sample_rate_hz)
        self.fft = 1 << (self.window - 1).bit_length()
        self.num_channels = len(options.normalisation)
        self.sizes = (options.n_mels * self.num_channels,)
        self.num_layers = 0
        self.frame_rate_hz = self.sample_rate_hz / self.hop
        hann = torch.hann_window(self.window)
        self.register_buffer("hann", hann, persistent=False)
        self.register_buffer("filters", _mel_filters(options, self.fft, hann), persistent=False)
        self.register_buffer("mean", torch.zeros(self.num_channels, options.n_mels))
        self.register_buffer("deviation", torch.ones(self.num_channels, options.n_mels))

    def forward(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> HiddenStates:
        """Return the normalised bands, (batch, frame, channel * band) float32, zero on padding."""
        bands_db, is_frame = self.bands(waveforms, num_samples)
        return HiddenStates((self.normalised(bands_db, is_frame),), is_frame)

    def bands(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the bands in dB below full scale, (batch, frame, band), and which frames are real."""
        is_sample = frame_mask(num_samples, waveforms.shape[1])
        with torch.autocast(waveforms.device.type, enabled=False):
            centred = F.pad(waveforms.float() * is_sample, (self.fft // 2, self.fft // 2))
            power = power_spectrum(centred, self.hann, self.fft, self.hop)
            bands_db = DECIBELS * (self.filters @ power).clamp_min(FLOOR_POWER).log()
        num_frames = (num_samples + self.hop - 1) // self.hop
        is_exporting = torch.compiler.is_exporting()  # lengths are then no numbers yet
        longest = (waveforms.shape[1] + self.hop - 1) // self.hop if is_exporting else int(num_frames.max())
        bands_db, is_frame = bands_db[..., :longest].transpose(1, 2), frame_mask(num_frames, longest)
        if self.options.top_db is not None:
            loudest = bands_db.masked_fill(~is_frame[..., None], -torch.inf).amax((1, 2), keepdim=True)
            bands_db = bands_db.maximum(loudest - self.options.top_db)
        return bands_db, is_frame

    def normalised(self, bands_db: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
        """Return (batch, frame, channel * band), each channel normalised as the options say, zero on padding."""
        mask = is_frame[..., None]
        channels = [
            (_in_own_terms(kind, bands_db, mask) - self.mean[index]) / self.deviation[index] * mask
            for index, kind in enumerate(self.options.normalisation)
        ]
        return torch.cat(channels, dim=2)

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Take mean and deviation of each band from training audio: pairs of waveforms and numbers of samples."""
        count = 0
        total, squares = torch.zeros(2, *self.mean.shape, dtype=torch.float64)
        for waveforms, num_samples in batches:
            bands_db, is_frame = self.bands(waveforms, num_samples)
            for index, kind in enumerate(self.options.normalisation):
                frames = _in_own_terms(kind, bands_db, is_frame[..., None])[is_frame].double()
                total[index] += frames.sum(0)
                squares[index] += frames.square().sum(0)
            count += int(is_frame.sum())
        mean = total / count
        self.mean.copy_(mean)
        self.deviation.copy_((squares / count - mean.square()).clamp_min(1e-6).sqrt())

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Nothing is learned by gradient."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return the options."""
        return self.options.model_dump(mode="json")

    @classmethod
    def from_options(cls, options: LogMel) -> Self:
        """Return the backbone of a recipe."""
        return cls(options)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """Return the backbone that `describe` described."""
        return cls(LogMel.model_validate(description))


def _mel_filters(options: LogMel, fft: int, hann: torch.Tensor) -> torch.Tensor:
    """Return (band, bin): triangles of unit area on the mel scale of O'Shaughnessy (1987), over the window's power."""

    def to_mel(hz: float) -> float:
        return 2595.0 * math.log10(1.0 + hz / 700.0)

    mels = torch.linspace(to_mel(options.low_hz), to_mel(options.high_hz), options.n_mels + 2, dtype=torch.float64)
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    bins = torch.arange(fft // 2 + 1, dtype=torch.float64) * Backbone.sample_rate_hz / fft
    low, centre, high = (edges[i : i + options.n_mels, None] for i in range(3))
    triangles = torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp_min(0.0)
    area = triangles.sum(1, keepdim=True)
    if num_empty := int((area == 0).sum()):
        raise RecipeError(
            f"{num_empty} of {options.n_mels} mel bands are narrower than the frequencies of a window tell apart",
            where="backbone",
            remedy="Choose fewer num_bands, or a longer window_s.",
        )
    return (triangles / area / hann.double().square().sum()).float()


def _in_own_terms(kind: str, bands_db: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Take off what a clip's own normalisation takes off: nothing, its level, or each band's mean and deviation."""
    if kind == "corpus":
        return bands_db
    if kind == "level":
        return bands_db - (bands_db * mask).sum((1, 2), keepdim=True) / (
            mask.sum((1, 2), keepdim=True) * bands_db.shape[2]
        )
    count = mask.sum(1, keepdim=True)
    centred = (bands_db - (bands_db * mask).sum(1, keepdim=True) / count) * mask
    return centred / (centred.square().sum(1, keepdim=True) / count + 1e-5).sqrt()
