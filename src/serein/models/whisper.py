"""Whisper's encoder: log-mel features of each clip alone, two convolutions, and positions that are not learned."""

from __future__ import annotations

import importlib
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from serein.models.architectures import Count, Wav2Vec2
from serein.models.hidden_states import frame_mask
from serein.models.masking import Runner, convolve
from serein.models.spectrum import power_spectrum

FFT = 400  # samples, 25 ms at 16 kHz, which is also the length of the Hann window
HOP = 160  # samples, 10 ms
FLOOR_POWER = 1e-10
DYNAMIC_RANGE = 8.0  # powers of ten below a clip's loudest band that are told apart


class Whisper(Wav2Vec2):
    """The encoder of Whisper (Radford 2023). Transformers' own `forward` takes padded 30 s alone and masks nothing."""

    def _set_up(self) -> None:
        sinusoids = self.model.embed_positions
        weight = sinusoids.weight.detach()
        del sinusoids.weight
        sinusoids.register_buffer("weight", weight)  # so no stage can unfreeze them
        self.layers: nn.ModuleList = self.model.layers
        self.layerdrop: float = self.config.encoder_layerdrop
        self.max_frames: int = self.config.max_source_positions
        self.receptive_field, self.frame_samples = FFT, 2 * HOP

    def num_frames(self, num_samples: Count) -> Count:
        """Return the frames of clips of so many samples: half their log-mel frames, rounded up."""
        return (num_samples // HOP + 1) // 2

    def cnn(self) -> list[nn.Module]:
        """Return the two convolutions."""
        return [self.model.conv1, self.model.conv2]

    def projection(self) -> list[nn.Module]:
        """Return the closing norm, and the positions, which have no parameters."""
        return [self.model.embed_positions, self.model.layer_norm]

    def features(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
        """Return (batch, log-mel frame, band); SpecAugment masks them in training."""
        bands = log_mel(waveforms, num_samples, self.config.num_mel_bins)
        if not self.augments(bands.shape[1]):
            return bands
        mask_features = importlib.import_module("transformers").WhisperModel._mask_input_features
        is_real = _is_log_mel(bands, num_samples)
        masked: torch.Tensor = mask_features(self.model, bands.transpose(1, 2).contiguous(), is_real)
        return masked.transpose(1, 2)

    def encode(self, features: torch.Tensor, num_samples: torch.Tensor, run: Runner) -> torch.Tensor:
        """Run the convolutions, which see zeros where a clip ends."""
        is_real = _is_log_mel(features, num_samples)
        frames = features
        for conv in self.cnn():
            frames = run(_convolution, conv, frames, is_real)
        return frames

    def project(self, frames: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor:
        """Add the positions."""
        hidden = frames.contiguous() + self.model.embed_positions.weight[: frames.shape[1]]
        return F.dropout(hidden, self.config.dropout, training=self.model.embed_positions.training)

    def close(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return Transformers' `last_hidden_state`."""
        closed: torch.Tensor = self.model.layer_norm(hidden)
        return closed


def _is_log_mel(features: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
    return frame_mask(num_samples // HOP, features.shape[1])


def _convolution(conv: nn.Conv1d, frames: torch.Tensor, is_real: torch.Tensor) -> torch.Tensor:
    return F.gelu(convolve(conv, frames.masked_fill(~is_real[..., None], 0.0)))


def log_mel(waveforms: torch.Tensor, num_samples: torch.Tensor, n_mels: int) -> torch.Tensor:
    """Return the features of Transformers' `WhisperFeatureExtractor`, of each clip as if it were alone.

    Frame t is centred on sample 160 t; a clip is reflected at both ends, and has a frame for each 160 samples.

    Args:
        waveforms: (batch, sample) float32 at 16 kHz.
        num_samples: (batch,) long, real samples of each clip, more than 200.
        n_mels: Mel bands: 80, or 128 from large-v3 on.

    Returns:
        (batch, frame, band), zero past a clip's own frames.
    """
    positions = torch.arange(-FFT // 2, waveforms.shape[1] + FFT // 2, device=waveforms.device).abs()
    last = num_samples[:, None] - 1
    positions = torch.where(positions > last, 2 * last - positions, positions).clamp_min(0)
    with torch.autocast(waveforms.device.type, enabled=False):
        reflected = waveforms.float().gather(1, positions)
        filters, window = _mel_filters(n_mels, waveforms.device)
        power = power_spectrum(reflected, window, FFT, HOP)[..., : waveforms.shape[1] // HOP]
        bands = (filters @ power).clamp_min(FLOOR_POWER).log10().transpose(1, 2)
    is_padding = ~frame_mask(num_samples // HOP, bands.shape[1])[..., None]
    loudest = bands.masked_fill(is_padding, -torch.inf).amax((1, 2), keepdim=True)
    return ((bands.maximum(loudest - DYNAMIC_RANGE) + 4.0) / 4.0).masked_fill(is_padding, 0.0)


@cache
def _mel_filters(n_mels: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Slaney's triangles, (band, bin), and the Hann window, (sample,)."""
    mel_filter_bank = importlib.import_module("transformers.audio_utils").mel_filter_bank
    filters = mel_filter_bank(
        num_frequency_bins=FFT // 2 + 1,
        num_mel_filters=n_mels,
        min_frequency=0.0,
        max_frequency=8000.0,
        sampling_rate=16_000,
        norm="slaney",
        mel_scale="slaney",
    )
    with torch.inference_mode(False):  # or a later call could not be differentiated
        return torch.tensor(filters.T, dtype=torch.float32, device=device), torch.hann_window(FFT, device=device)
