"""Conformers that know where a clip ends: wav2vec2-conformer and w2v-BERT 2.0, and the latter's log-mel features."""

from __future__ import annotations

import importlib
import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from serein.models.architectures import Count, Wav2Vec2
from serein.models.hidden_states import frame_mask
from serein.models.masking import Runner, convolve, normed_over_batch
from serein.models.spectrum import power_of_windows, windows_of

WINDOW = 400  # samples, 25 ms at 16 kHz
HOP = 160  # samples, 10 ms
FFT = 512
FULL_SCALE = 1 << 15  # Kaldi's samples are 16-bit integers
PREEMPHASIS = 0.97
FLOOR_POWER = 2.0**-23
NORMALISATION_EPSILON = 1e-7


class Conformer(Wav2Vec2):
    """wav2vec2-conformer (Wang 2022, fairseq S2T): wav2vec 2.0's front, Conformer layers, a closing norm."""

    def _set_up(self) -> None:
        super()._set_up()
        encoder = self.model.encoder
        encoder.embed_positions = None  # its tables follow from the configuration
        encoder.pos_conv_embed = None  # has weights, and is never run

    def projection(self) -> list[nn.Module]:
        """Return the modules of the group `projection`."""
        return [self.model.feature_projection, self.model.encoder.layer_norm, self.model.encoder.dropout]

    def project(self, frames: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor:
        """Project."""
        hidden: torch.Tensor = self.model.encoder.dropout(self._projected(frames, is_frame))
        return hidden

    def mask(self, hidden: torch.Tensor, is_frame: torch.Tensor | None) -> Any:
        """Return the mask of frames, for convolutions, and that of attention."""
        return is_frame, super().mask(hidden, is_frame)

    def positions(self, hidden: torch.Tensor) -> torch.Tensor | None:
        """Return relative or rotary positions, if the configuration says so."""
        if self.config.position_embeddings_type == "relative":
            return relative_positions(hidden)
        if self.config.position_embeddings_type == "rotary":
            return rotary_positions(hidden, self.config.num_attention_heads, self.config.rotary_embedding_base)
        return None

    def transform(
        self, layer: Any, hidden: torch.Tensor, mask: Any, positions: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run a layer: half a feed-forward, attention, convolution, half a feed-forward (Gulati 2020, eq. 1)."""
        is_frame, attention_mask = mask
        hidden = hidden + 0.5 * layer.ffn1(layer.ffn1_layer_norm(hidden))
        attended, _ = layer.self_attn(
            layer.self_attn_layer_norm(hidden), attention_mask=attention_mask, relative_position_embeddings=positions
        )
        hidden = hidden + layer.self_attn_dropout(attended)
        hidden = hidden + _convolution_module(layer.conv_module, hidden, is_frame)
        hidden = hidden + 0.5 * layer.ffn2(layer.ffn2_layer_norm(hidden))
        return layer.final_layer_norm(hidden), positions

    def close(self, hidden: torch.Tensor) -> torch.Tensor | None:
        """Run the closing norm."""
        closed: torch.Tensor = self.model.encoder.layer_norm(hidden)
        return closed


class Wav2Vec2Bert(Conformer):
    """w2v-BERT 2.0 (Barrault 2023, SeamlessM4T v2): Conformer layers with causal convolutions on log-mel bands."""

    def _spans(self) -> tuple[int, int]:
        return WINDOW + HOP, 2 * HOP

    def num_frames(self, num_samples: Count) -> Count:
        """Return the frames of clips of so many samples: whole pairs of bands' frames."""
        return ((num_samples - WINDOW) // HOP + 1) // 2

    def cnn(self) -> list[nn.Module]:
        """There are no convolutions before the layers."""
        return []

    def projection(self) -> list[nn.Module]:
        """Return the modules of the group `projection`."""
        return [self.model.feature_projection, self.model.encoder.dropout]

    def features(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
        """Return (batch, frame, 2 * band)."""
        return fbank(waveforms, num_samples, self.config.feature_projection_input_dim // 2)

    def encode(self, features: torch.Tensor, num_samples: torch.Tensor, run: Runner) -> torch.Tensor:
        """Return the features: nothing lies before the projection."""
        return features

    def close(self, hidden: torch.Tensor) -> torch.Tensor | None:
        """Nothing lies behind the layers."""
        return None


def relative_positions(hidden: torch.Tensor) -> torch.Tensor:
    """Return sinusoids of the distances between frames (Dai 2019), from the farthest left: (1, distance, feature)."""
    _, num_frames, size = hidden.shape
    distances = torch.arange(num_frames - 1, -num_frames, -1, device=hidden.device)
    rates = torch.exp(torch.arange(0, size, 2, device=hidden.device).float() * -(math.log(10_000.0) / size))
    angles = distances[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[None].to(hidden.dtype)


def rotary_positions(hidden: torch.Tensor, num_heads: int, base: float) -> torch.Tensor:
    """Return cosines and sines of each frame's rotation (Su 2021): (2, frame, 1, 1, feature of a head)."""
    _, num_frames, size = hidden.shape
    exact = torch.promote_types(hidden.dtype, torch.float32)
    head_size = size // num_heads
    rates = 1.0 / base ** (torch.arange(0, head_size, 2, device=hidden.device).float() / head_size)
    angles = torch.arange(num_frames, device=hidden.device)[:, None] * rates.to(exact).repeat(2)
    return torch.stack([angles.cos(), angles.sin()])[:, :, None, None].to(hidden.dtype)


def _convolution_module(module: Any, frames: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor:
    """Run a layer's convolution, which sees zeros where a clip ends; w2v-BERT's sees the past alone."""
    frames = F.glu(convolve(module.pointwise_conv1, module.layer_norm(frames)), dim=2)
    if is_frame is not None:
        frames = frames.masked_fill(~is_frame[..., None], 0.0)
    if hasattr(module, "depthwise_layer_norm"):
        past = module.depthwise_conv.kernel_size[0] - 1
        frames = module.depthwise_layer_norm(convolve(module.depthwise_conv, F.pad(frames, (0, 0, past, 0))))
    else:
        frames = normed_over_batch(module.batch_norm, convolve(module.depthwise_conv, frames), is_frame)
    dropped: torch.Tensor = module.dropout(convolve(module.pointwise_conv2, module.activation(frames)))
    return dropped


def fbank(waveforms: torch.Tensor, num_samples: torch.Tensor, n_mels: int) -> torch.Tensor:
    """Return the features of Transformers' `SeamlessM4TFeatureExtractor`: Kaldi's log-mel bands, two frames in a row.

    Frame t begins at sample 160 t and ends within the clip; each band has zero mean and unit variance over the clip.

    Args:
        waveforms: (batch, sample) float32 at 16 kHz.
        num_samples: (batch,) long, real samples of each clip, at least 560: two frames.
        n_mels: Mel bands.

    Returns:
        (batch, frame, 2 * band), zero past a clip's own frames.
    """
    exact = torch.float32 if waveforms.device.type == "mps" else torch.float64  # bands may hold 1e-12 of the power
    num_frames = (num_samples - WINDOW) // HOP + 1
    with torch.autocast(waveforms.device.type, enabled=False):
        frames = windows_of(waveforms.to(exact), WINDOW, HOP) * FULL_SCALE
        frames = frames - frames.mean(dim=2, keepdim=True)
        before = F.pad(frames, (1, 0), mode="replicate")[..., :-1]
        filters, window = _mel_filters(n_mels, waveforms.device, exact)
        bands = (power_of_windows((frames - PREEMPHASIS * before) * window, FFT) @ filters).clamp_min(FLOOR_POWER).log()
        bands = bands.float().to(exact)  # rounded as the published ones are
    is_padding = ~frame_mask(num_frames, bands.shape[1])[..., None]
    count = num_frames[:, None, None]
    mean = bands.masked_fill(is_padding, 0.0).sum(1, keepdim=True) / count
    centred = (bands - mean).masked_fill(is_padding, 0.0)
    variance = centred.square().sum(1, keepdim=True) / (count - 1)
    normalised = centred / (variance + NORMALISATION_EPSILON).sqrt()
    whole = normalised.shape[1] // 2 * 2
    pairs: torch.Tensor = normalised[:, :whole].reshape(normalised.shape[0], -1, 2 * n_mels)
    return pairs.masked_fill(~frame_mask(num_frames // 2, whole // 2)[..., None], 0.0).float()


@cache
def _mel_filters(n_mels: int, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Kaldi's triangles, (bin, band), and Povey's window, (sample,)."""
    audio_utils = importlib.import_module("transformers.audio_utils")
    filters = audio_utils.mel_filter_bank(
        num_frequency_bins=FFT // 2 + 1,
        num_mel_filters=n_mels,
        min_frequency=20,
        max_frequency=8000,
        sampling_rate=16_000,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    window = audio_utils.window_function(WINDOW, "povey", periodic=False)
    with torch.inference_mode(False):  # or a later call could not be differentiated
        return torch.tensor(filters, dtype=dtype, device=device), torch.tensor(window, dtype=dtype, device=device)
