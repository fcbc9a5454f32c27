"""Log-mel bands: a backbone, and the input features of Whisper and w2v-BERT, computed for each clip independently."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from serein.errors import RecipeError
from serein.models.hidden_states import Backbone, HiddenStates, frame_mask
from serein.recipe import LogMel

FLOOR_POWER = 1e-10  # -100 dB: below the quantisation noise of 16-bit audio
BANDS = "bands"  # key of a clip's bands that are stored instead of hidden layers
DECIBELS = 10 / math.log(10)


# Whisper's and w2v-BERT's features
WINDOW = 400  # samples, 25 ms at 16 kHz
HOP = 160  # samples, 10 ms
DYNAMIC_RANGE = 8.0  # Whisper: range below a clip's loudest band, in powers of ten
KALDI_FFT = 512
KALDI_FULL_SCALE = 1 << 15  # Kaldi's samples are 16-bit integers
KALDI_PREEMPHASIS = 0.97
KALDI_FLOOR_POWER = 2.0**-23
KALDI_EPSILON = 1e-7  # added to the variance by which a band is normalised
KALDI_LOWEST_HZ = 20.0
HIGHEST_HZ = 8000.0  # of both


class LogMelBackbone(Backbone):
    """Log-mel bands as a backbone with one hidden layer; only the corpus's mean and deviation are fitted.

    Power spectrogram -> mel bands -> decibels -> normalised per band.

    Frame t is centred on sample t * hop and exists if that sample does. Samples outside the clip count as zero, so a
    clip has the same frames with and without padding.

    Args:
        options: Bands, window, hop, normalisation.

    Raises:
        RecipeError: A band is too narrow to contain a frequency of the window's spectrum.
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
        self.overhang = -(-self.window // 2 // self.hop)  # frames past a clip's end whose windows overlap it
        self.num_channels = len(options.normalisation)
        self.sizes = (options.n_mels * self.num_channels,)
        self.num_layers = 0
        self.frame_rate_hz = self.sample_rate_hz / self.hop
        hann = torch.hann_window(self.window, device="cpu")  # also if a model is built on the meta device
        self.register_buffer("hann", hann, persistent=False)
        self.register_buffer("filters", oshaughnessy_filters(options, self.fft, hann), persistent=False)
        self.register_buffer("mean", torch.zeros(self.num_channels, options.n_mels))
        self.register_buffer("deviation", torch.ones(self.num_channels, options.n_mels))

    def forward(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> HiddenStates:
        """Return the normalised bands, (batch, frame, channel * band) float32, zero on padding."""
        bands_db, is_frame = self.bands(waveforms, num_samples)
        return HiddenStates((self.normalised(bands_db, is_frame),), is_frame)

    def bands(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the bands in dB below full scale, (batch, frame, band), and which frames are real."""
        num_frames = self.num_frames(num_samples)
        is_exporting = torch.compiler.is_exporting()  # lengths are not yet numbers then
        longest = (waveforms.shape[1] + self.hop - 1) // self.hop if is_exporting else int(num_frames.max())
        return self.limited(self.unlimited_bands(waveforms, num_samples)[:, :longest], num_frames)

    def num_frames(self, num_samples: torch.Tensor) -> torch.Tensor:
        """Return the number of frames of clips of `num_samples`: (batch,) long."""
        return (num_samples + self.hop - 1) // self.hop

    def unlimited_bands(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
        """Return the bands in dB of all frames of the padded batch, before `top_db` limits their range."""
        is_sample = frame_mask(num_samples, waveforms.shape[1], waveforms.device)
        with torch.autocast(waveforms.device.type, enabled=False):
            centred = F.pad(waveforms.float() * is_sample, (self.fft // 2, self.fft // 2))
            power = power_spectrum(centred, self.hann, self.fft, self.hop)
            bands_db = DECIBELS * (self.filters @ power).clamp_min(FLOOR_POWER).log()
        return bands_db.transpose(1, 2)

    def kept_bands(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> list[torch.Tensor]:
        """Return (frame, band) for each clip, on the host, from which `restored` computes the bands of any batch."""
        wider = F.pad(waveforms, (0, self.overhang * self.hop))
        lengths = (self.num_frames(num_samples) + self.overhang).tolist()
        bands_db = self.unlimited_bands(wider, num_samples).cpu()
        return [own[:length] for own, length in zip(bands_db, lengths, strict=True)]

    def restored(self, kept: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same as `bands`, except for rounding, from a padded batch of kept bands.

        Args:
            kept: (batch, frame, band), any values on padding.
            num_frames: (batch,) long, without the overhang.
        """
        silence = DECIBELS * torch.full_like(kept[:1, :1], FLOOR_POWER).log()
        is_kept = frame_mask(num_frames + self.overhang, kept.shape[1], kept.device)
        bands_db = torch.where(is_kept[..., None], kept, silence)
        by_band = bands_db.transpose(1, 2).contiguous()  # the memory layout of `bands`; otherwise sums would differ
        return self.limited(by_band[..., : int(num_frames.max())].transpose(1, 2), num_frames)

    def limited(self, bands_db: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the bands, limited to `top_db` below each clip's loudest, and which frames are real."""
        is_frame = frame_mask(num_frames, bands_db.shape[1], bands_db.device)
        if self.options.top_db is not None:
            loudest = bands_db.masked_fill(~is_frame[..., None], -torch.inf).amax((1, 2), keepdim=True)
            bands_db = bands_db.maximum(loudest - self.options.top_db)
        return bands_db, is_frame

    def normalised(self, bands_db: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
        """Return (batch, frame, channel * band), each channel normalised as in the options, zero on padding."""
        mask = is_frame[..., None]
        channels = [
            (_in_own_terms(kind, bands_db, mask) - self.mean[index]) / self.deviation[index] * mask
            for index, kind in enumerate(self.options.normalisation)
        ]
        return torch.cat(channels, dim=2)

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Compute mean and deviation of each band from the results of `bands` for batches of training audio."""
        count = 0
        total, squares = torch.zeros(2, *self.mean.shape, dtype=torch.float64)
        for bands_db, is_frame in batches:
            for index, kind in enumerate(self.options.normalisation):
                frames = _in_own_terms(kind, bands_db, is_frame[..., None])[is_frame].double()
                total[index] += frames.sum(0)
                squares[index] += frames.square().sum(0)
            count += int(is_frame.sum())
        mean = total / count
        self.mean.copy_(mean)
        self.deviation.copy_((squares / count - mean.square()).clamp_min(1e-6).sqrt())

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return no parameters: nothing is trained by gradient descent."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return the options."""
        return self.options.model_dump(mode="json")


def oshaughnessy_filters(options: LogMel, fft: int, hann: torch.Tensor) -> torch.Tensor:
    """Return (band, bin): triangles of unit area on the mel scale of O'Shaughnessy (1987), over the window's power."""
    low_mel, high_mel = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in (options.low_hz, options.high_hz))
    mels = torch.linspace(low_mel, high_mel, options.n_mels + 2, dtype=torch.float64, device="cpu")
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    bins = torch.arange(fft // 2 + 1, dtype=torch.float64, device="cpu") * Backbone.sample_rate_hz / fft
    triangles = torch.from_numpy(mel_triangles(bins.numpy(), edges.numpy()))
    area = triangles.sum(1, keepdim=True)
    if num_empty := int((area == 0).sum()):
        raise RecipeError(
            f"{num_empty} of {options.n_mels} mel bands are narrower than the frequency resolution of a window",
            where="backbone",
            remedy="Choose a smaller n_mels, or a longer window_s.",
        )
    return (triangles / area / hann.double().square().sum()).float()


def mel_triangles(bins: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (band, bin): band i rises from edge i to 1 at edge i + 1 and falls to edge i + 2.

    Args:
        bins: (bin,), the frequencies of a spectrum, in the unit of `edges`.
        edges: (band + 2,), rising.

    Example:
        >>> mel_triangles(np.arange(4.0), np.array([0.0, 2.0, 4.0])).tolist()
        [[0.0, 0.5, 1.0, 0.5]]
    """
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.maximum(np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)), 0.0)


def slaney_filters(n_mels: int) -> NDArray[np.float64]:
    """Return Whisper's triangles, (bin, band), all with the same area over Hz.

    Slaney's mel scale (Auditory Toolbox, 1998) is 3/200 mel per Hz up to 1 kHz, and 27 mels from there to 6.4 kHz.
    """
    mels = np.linspace(0.0, 15.0 + 27.0 * math.log(HIGHEST_HZ / 1000.0, 6.4), n_mels + 2)
    edges_hz = np.where(mels < 15.0, 200.0 / 3.0 * mels, 1000.0 * 6.4 ** ((mels - 15.0) / 27.0))
    bins_hz = np.linspace(0.0, HIGHEST_HZ, WINDOW // 2 + 1)
    return mel_triangles(bins_hz, edges_hz).T * (2.0 / (edges_hz[2:] - edges_hz[:-2]))


def kaldi_filters(n_mels: int) -> NDArray[np.float64]:
    """Return Kaldi's triangles, (bin, band), which are linear in mel: 1127 ln(1 + Hz / 700)."""
    lowest, highest = (1127.0 * math.log1p(hz / 700.0) for hz in (KALDI_LOWEST_HZ, HIGHEST_HZ))
    bins = 1127.0 * np.log1p(np.linspace(0.0, HIGHEST_HZ, KALDI_FFT // 2 + 1) / 700.0)
    return mel_triangles(bins, np.linspace(lowest, highest, n_mels + 2)).T


def _in_own_terms(kind: str, bands_db: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Apply a clip's own normalisation: none, by its level, or by each band's mean and deviation."""
    if kind == "corpus":
        return bands_db
    if kind == "level":
        return bands_db - (bands_db * mask).sum((1, 2), keepdim=True) / (
            mask.sum((1, 2), keepdim=True) * bands_db.shape[2]
        )
    count = mask.sum(1, keepdim=True)
    centred = (bands_db - (bands_db * mask).sum(1, keepdim=True) / count) * mask
    return centred / (centred.square().sum(1, keepdim=True) / count + 1e-5).sqrt()


def whisper_log_mel(waveforms: torch.Tensor, num_samples: torch.Tensor, n_mels: int) -> torch.Tensor:
    """Return the features of Transformers' `WhisperFeatureExtractor`, for each clip as if it were alone.

    Frame t is centred on sample 160 t; a clip is padded by reflection at both ends, and has one frame per 160 samples.

    Args:
        waveforms: (batch, sample) float32 at 16 kHz.
        num_samples: (batch,) long, real samples of each clip, more than 200.
        n_mels: Mel bands: 80, or 128 from large-v3 on.

    Returns:
        (batch, frame, band), zero past a clip's own frames.
    """
    positions = torch.arange(-WINDOW // 2, waveforms.shape[1] + WINDOW // 2, device=waveforms.device).abs()
    last = num_samples[:, None] - 1
    positions = torch.where(positions > last, 2 * last - positions, positions).clamp_min(0)
    with torch.autocast(waveforms.device.type, enabled=False):
        reflected = waveforms.float().gather(1, positions)
        filters, window = _filters_and_window("whisper", n_mels, waveforms.device, torch.float32)
        power = power_spectrum(reflected, window, WINDOW, HOP)[..., : waveforms.shape[1] // HOP]
        bands = (filters.T.contiguous() @ power).clamp_min(FLOOR_POWER).log10().transpose(1, 2)
    is_padding = ~frame_mask(num_samples // HOP, bands.shape[1])[..., None]
    loudest = bands.masked_fill(is_padding, -torch.inf).amax((1, 2), keepdim=True)
    return ((bands.maximum(loudest - DYNAMIC_RANGE) + 4.0) / 4.0).masked_fill(is_padding, 0.0)


def kaldi_fbank(waveforms: torch.Tensor, num_samples: torch.Tensor, n_mels: int) -> torch.Tensor:
    """Return the features of Transformers' `SeamlessM4TFeatureExtractor`: Kaldi's log-mel bands, two frames in a row.

    Frame t begins at sample 160 t and ends within the clip; each band has zero mean and unit variance over the clip.

    Args:
        waveforms: (batch, sample) float32 at 16 kHz.
        num_samples: (batch,) long, real samples of each clip, at least 560: two frames.
        n_mels: Mel bands.

    Returns:
        (batch, frame, 2 * band), zero past a clip's own frames.
    """
    exact = torch.float32 if waveforms.device.type == "mps" else torch.float64  # bands may contain 1e-12 of the power
    num_frames = (num_samples - WINDOW) // HOP + 1
    with torch.autocast(waveforms.device.type, enabled=False):
        frames = windows_of(waveforms.to(exact), WINDOW, HOP) * KALDI_FULL_SCALE
        frames = frames - frames.mean(dim=2, keepdim=True)
        before = F.pad(frames, (1, 0), mode="replicate")[..., :-1]
        filters, window = _filters_and_window("kaldi", n_mels, waveforms.device, exact)
        power = power_of_windows((frames - KALDI_PREEMPHASIS * before) * window, KALDI_FFT)
        bands = (power @ filters).clamp_min(KALDI_FLOOR_POWER).log()
        bands = bands.float().to(exact)  # rounded like the published features
    is_padding = ~frame_mask(num_frames, bands.shape[1])[..., None]
    count = num_frames[:, None, None]
    mean = bands.masked_fill(is_padding, 0.0).sum(1, keepdim=True) / count
    centred = (bands - mean).masked_fill(is_padding, 0.0)
    variance = centred.square().sum(1, keepdim=True) / (count - 1)
    normalised = centred / (variance + KALDI_EPSILON).sqrt()
    whole = normalised.shape[1] // 2 * 2
    pairs: torch.Tensor = normalised[:, :whole].reshape(normalised.shape[0], -1, 2 * n_mels)
    return pairs.masked_fill(~frame_mask(num_frames // 2, whole // 2)[..., None], 0.0).float()


@cache
def _filters_and_window(
    scale: str, n_mels: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the triangles of a mel scale up to 8 kHz, (bin, band), and its Hann or Povey window, (sample,)."""
    filters = slaney_filters(n_mels) if scale == "whisper" else kaldi_filters(n_mels)
    with torch.inference_mode(False):  # otherwise a later call could not be differentiated
        if scale == "whisper":
            window = torch.hann_window(WINDOW, dtype=dtype, device=device)
        else:
            window = torch.tensor(np.hanning(WINDOW) ** 0.85, dtype=dtype, device=device)
        return torch.tensor(filters, dtype=dtype, device=device), window


def power_spectrum(samples: torch.Tensor, window: torch.Tensor, fft: int, hop: int) -> torch.Tensor:
    """Return the squared magnitude of the short-time Fourier transform, (batch, bin, frame).

    Args:
        samples: (batch, sample), padded by the caller: frame t begins at sample t * hop.
        window: (sample,), no longer than `fft`; shorter ones are centred in it.
        fft: Samples per transform.
        hop: Samples from one frame to the next.

    Example:
        >>> power_spectrum(torch.ones(1, 8), torch.ones(4), fft=4, hop=4)[0, 0].tolist()
        [16.0, 16.0]
    """
    if not torch.compiler.is_exporting():
        spectrum = torch.stft(
            samples, fft, hop, window=window, win_length=len(window), center=False, return_complex=True
        )
        parts = torch.view_as_real(spectrum).square()
        return parts[..., 0] + parts[..., 1]
    before = (fft - len(window)) // 2
    after = fft - len(window) - before
    windows = windows_of(samples[:, before : samples.shape[1] - after], len(window), hop) * window
    return power_of_windows(windows, fft).transpose(1, 2)


def windows_of(samples: torch.Tensor, length: int, hop: int) -> torch.Tensor:
    """Return every window of (batch, sample): (batch, window, length).

    Example:
        >>> windows_of(torch.arange(5.0)[None], 3, 2).tolist()
        [[[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]]
    """
    if not torch.compiler.is_exporting():
        return samples.unfold(1, length, hop)
    starts = torch.arange((samples.shape[1] - length) // hop + 1, device=samples.device) * hop
    return samples[:, starts[:, None] + torch.arange(length, device=samples.device)]  # ONNX has no views


def power_of_windows(windows: torch.Tensor, fft: int) -> torch.Tensor:
    """Return the squared magnitude of the Fourier transform of (..., sample), padded with zeros: (..., bin).

    An exported model multiplies by cosines and sines: onnxruntime's own transform takes 2.5 times as long, and the sums
    are equally exact.
    """
    if not torch.compiler.is_exporting():
        spectrum = torch.fft.rfft(windows, fft)
        whole: torch.Tensor = spectrum.real.square() + spectrum.imag.square()
        return whole
    angles = np.outer(np.arange(windows.shape[-1]), np.arange(fft // 2 + 1)) % fft * (2.0 * np.pi / fft)
    waves = torch.tensor(np.concatenate([np.cos(angles), np.sin(angles)], axis=1), dtype=windows.dtype)
    real, imaginary = (windows @ waves).chunk(2, dim=-1)
    power: torch.Tensor = real.square() + imaginary.square()
    return power
