"""How each family of Transformers' speech models runs: its parts in order, each given the lengths of the clips.

An architecture wraps one family's modules. `HuggingFaceBackbone` calls them, manages gradients, freezing and
checkpointing.
"""

from __future__ import annotations

import importlib
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import nn

from serein.models.blocks import sinusoids
from serein.models.hidden_states import frame_mask
from serein.models.logmel import HOP, WINDOW, kaldi_fbank, whisper_log_mel
from serein.models.masking import Runner, add_positions, convolve, feature_encoder_layer, normed_over_batch
from serein.models.whisper import WhisperEncoder

Count = TypeVar("Count", int, torch.Tensor)

MASK_EMBEDDING = "masked_spec_embed"  # used only by SpecAugment; some checkpoints lack it


class Wav2Vec2:
    """wav2vec 2.0, HuBERT, data2vec-audio and UniSpeech; other families override what differs.

    Args:
        model: The Transformers model.

    Attributes:
        model: The model that runs.
        cnn: Modules of the group `cnn`.
        projection: Modules of the group `projection`: those before and after the layers.
        layers: The transformer layers.
        opening_norm: The norm of the frames that enter the layers; `None`: there is none.
        closing_norm: The norm that turns the last layer into Transformers' `last_hidden_state`; `None`: the two are
            equal.
        receptive_field: Samples of the shortest clip; shorter ones are padded with zeros.
        frame_samples: Samples from one frame to the next.
        band_samples: Samples from one frame of its log-mel bands to the next; `None`: its input has no log-mel bands,
            or no plain ones.
        max_frames: Frames of the longest clip that the model accepts; `None`: no limit.
        layerdrop: Layer drop rate in training.
        keeps_first_layer: Whether layer drop excludes the first layer.
    """

    band_samples: int | None = None
    max_frames: int | None = None
    keeps_first_layer = False

    def __init__(self, model: Any) -> None:
        self.model, self.config, encoder = model, model.config, model.encoder
        if not hasattr(model, MASK_EMBEDDING):  # otherwise the names of weights would depend on an override
            model.masked_spec_embed = nn.Parameter(torch.zeros(self.config.hidden_size))
        self.cnn: list[nn.Module] = [model.feature_extractor] if hasattr(model, "feature_extractor") else []
        norm: nn.Module | None = getattr(encoder, "layer_norm", None)
        parts = (model.feature_projection, getattr(encoder, "pos_conv_embed", None), norm, encoder.dropout)
        self.projection: list[nn.Module] = [part for part in parts if part is not None]
        self.layers: nn.ModuleList = encoder.layers
        self.layerdrop: float = self.config.layerdrop
        # data2vec-audio's configuration may set stable layer norm, which the model does not have.
        norms_last = self.config.model_type != "data2vec-audio" and getattr(self.config, "do_stable_layer_norm", False)
        self.opening_norm: nn.Module | None = None if norms_last else norm
        self.closing_norm: nn.Module | None = norm if norms_last else None
        self.convolutions: list[tuple[int, int]] = []  # kernel and stride
        if self.cnn:
            self.convolutions = list(zip(self.config.conv_kernel, self.config.conv_stride, strict=True))
        self.receptive_field, self.frame_samples = 1, 1
        for kernel, stride in reversed(self.convolutions):
            self.receptive_field = (self.receptive_field - 1) * stride + kernel
            self.frame_samples *= stride

    def num_frames(self, num_samples: Count) -> Count:
        """Return the number of frames of clips of `num_samples`, at least the receptive field: (batch,) long."""
        frames = num_samples
        for kernel, stride in self.convolutions:
            frames = (frames - kernel) // stride + 1
        return frames

    @property
    def blocks(self) -> list[nn.Module]:
        """The modules that `transform` calls."""
        return list(self.layers)

    def features(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
        """Return the input of the first module, for each clip as if it were alone.

        Args:
            waveforms: (batch, sample) float32, zero on padding.
            num_samples: (batch,) long, samples of each clip, at least the receptive field.
        """
        return waveforms

    def encode(self, features: torch.Tensor, num_samples: torch.Tensor, run: Runner) -> torch.Tensor:
        """Run the modules of `cnn`, each called by `run`; return (batch, frame, feature).

        A frame of an unpadded layer depends only on samples before its end, so a clip's own frames are the same in any
        batch. Only a norm over time (`feat_extract_norm="group"`) needs the lengths.
        """
        frames = features
        for extractor in self.cnn:
            frames = frames.unsqueeze(-1)  # the samples of one channel
            for layer in cast(nn.ModuleList, extractor.conv_layers):
                frames = run(feature_encoder_layer, layer, frames, num_samples)
        return frames

    def project(self, frames: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor:
        """Run the modules before the layers; in training, SpecAugment masks frames and features, using NumPy's state.

        Args:
            frames: (batch, frame, feature).
            is_frame: (batch, frame) bool, False on padding; `None` when nothing is padded.
        """
        projected = self.model.feature_projection(frames)
        hidden: torch.Tensor = projected[0] if isinstance(projected, tuple) else projected
        if self.augments(hidden.shape[1]):
            hidden = self.model._mask_hidden_states(hidden.clone(), attention_mask=is_frame)
        embedding = getattr(self.model.encoder, "pos_conv_embed", None)
        if embedding is not None:
            hidden = add_positions(embedding, hidden, is_frame)
        if self.opening_norm is not None:
            hidden = self.opening_norm(hidden)
        dropped: torch.Tensor = self.model.encoder.dropout(hidden)
        return dropped

    def mask(self, hidden: torch.Tensor, is_frame: torch.Tensor | None) -> Any:
        """Return the mask in the form that `transform` expects; `None` if nothing is padded."""
        if is_frame is None:
            return None
        if torch.compiler.is_exporting() or getattr(self.config, "_attn_implementation", "") == "eager":
            closed = torch.zeros(is_frame.shape, dtype=hidden.dtype, device=hidden.device)
            return closed.masked_fill(~is_frame, torch.finfo(hidden.dtype).min)[:, None, None]
        return is_frame[:, None, None]  # Transformers' own mask queries the device whether all frames are real

    def transform(
        self, layer: Any, hidden: torch.Tensor, mask: Any, positions: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run a layer.

        Args:
            hidden: (batch, frame, feature).
            mask: The return value of `mask`.
            positions: The positions that the previous layer returned; `None` in the first.

        Returns:
            (batch, frame, feature), and the positions for the next layer.
        """
        return layer(hidden, attention_mask=mask), positions

    def augments(self, num_frames: int) -> bool:
        """Return whether SpecAugment is applied; batches shorter than a mask are left unchanged."""
        is_on = self.model.training and self.config.apply_spec_augment
        return bool(is_on and num_frames >= self.config.mask_time_length)


class WavLM(Wav2Vec2):
    """WavLM: its first layer computes the position bias of all, and `GatedAttention` expects the frame mask."""

    keeps_first_layer = True

    def mask(self, hidden: torch.Tensor, is_frame: torch.Tensor | None) -> Any:
        """Return the frame mask unchanged."""
        return is_frame

    def transform(
        self, layer: Any, hidden: torch.Tensor, mask: Any, positions: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run a layer with the first layer's position bias, which is recomputed if that layer has not run."""
        first: Any = self.layers[0]
        if positions is None and layer is not first:
            positions = first.attention.position_bias(hidden.shape[1])
        hidden, positions = layer(hidden, attention_mask=mask, position_bias=positions)
        return hidden, positions


class Conformer(Wav2Vec2):
    """wav2vec2-conformer (Wang 2022, fairseq S2T): wav2vec 2.0's front end, Conformer layers and a closing norm."""

    def __init__(self, model: Any) -> None:
        model.encoder.embed_positions = None  # its tables are computed from the configuration
        model.encoder.pos_conv_embed = None  # it has weights, but never runs
        super().__init__(model)
        self.opening_norm, self.closing_norm = None, getattr(model.encoder, "layer_norm", None)

    @property
    def blocks(self) -> list[nn.Module]:
        """The modules that `transform` calls: those of the layers, whose convolutions it runs part by part."""
        return [module for layer in self.layers for module in layer.children()]

    def mask(self, hidden: torch.Tensor, is_frame: torch.Tensor | None) -> Any:
        """Return the frame mask, for convolutions, and the attention mask."""
        return is_frame, super().mask(hidden, is_frame)

    def transform(
        self, layer: Any, hidden: torch.Tensor, mask: Any, positions: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run a layer: half a feed-forward, attention, convolution, half a feed-forward (Gulati 2020, eq. 1).

        The first layer computes relative or rotary positions, if the configuration specifies them.
        """
        if positions is None and self.config.position_embeddings_type == "relative":
            positions = relative_positions(hidden)
        elif positions is None and self.config.position_embeddings_type == "rotary":
            positions = rotary_positions(hidden, self.config.num_attention_heads, self.config.rotary_embedding_base)
        is_frame, attention_mask = mask
        hidden = hidden + 0.5 * layer.ffn1(layer.ffn1_layer_norm(hidden))
        attended, _ = layer.self_attn(
            layer.self_attn_layer_norm(hidden), attention_mask=attention_mask, relative_position_embeddings=positions
        )
        hidden = hidden + layer.self_attn_dropout(attended)
        hidden = hidden + convolution_module(layer.conv_module, hidden, is_frame)
        hidden = hidden + 0.5 * layer.ffn2(layer.ffn2_layer_norm(hidden))
        return layer.final_layer_norm(hidden), positions


def relative_positions(hidden: torch.Tensor) -> torch.Tensor:
    """Return sinusoids of the distances between frames (Dai 2019), leftmost first: (1, distance, feature)."""
    _, num_frames, size = hidden.shape
    distances = torch.arange(num_frames - 1, -num_frames, -1, device=hidden.device)
    return sinusoids(distances, size)[None].to(hidden.dtype)


def rotary_positions(hidden: torch.Tensor, num_heads: int, base: float) -> torch.Tensor:
    """Return cosines and sines of each frame's rotation (Su 2021): (2, frame, 1, 1, feature of a head)."""
    _, num_frames, size = hidden.shape
    exact = torch.promote_types(hidden.dtype, torch.float32)
    head_size = size // num_heads
    rates = 1.0 / base ** (torch.arange(0, head_size, 2, device=hidden.device).float() / head_size)
    angles = torch.arange(num_frames, device=hidden.device)[:, None] * rates.to(exact).repeat(2)
    return torch.stack([angles.cos(), angles.sin()])[:, :, None, None].to(hidden.dtype)


def convolution_module(module: Any, frames: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor:
    """Run a Conformer layer's convolution, with zeros past a clip's end; w2v-BERT's is causal."""
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


class Wav2Vec2Bert(Conformer):
    """w2v-BERT 2.0 (Barrault 2023, SeamlessM4T v2): Conformer layers with causal convolutions on log-mel bands."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.receptive_field, self.frame_samples = WINDOW + HOP, 2 * HOP

    def num_frames(self, num_samples: Count) -> Count:
        """Return the number of frames of clips of `num_samples`: whole pairs of log-mel frames."""
        return ((num_samples - WINDOW) // HOP + 1) // 2

    def features(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
        """Return (batch, frame, 2 * band)."""
        return kaldi_fbank(waveforms, num_samples, self.config.feature_projection_input_dim // 2)


class Whisper(Wav2Vec2):
    """Whisper's encoder (Radford 2023). Transformers' own `forward` takes only clips padded to 30 s, unmasked."""

    band_samples = HOP

    def __init__(self, model: Any) -> None:  # it has none of wav2vec 2.0's modules
        model = WhisperEncoder.of(model)
        self.model, self.config = model, model.config
        self.cnn = [model.conv1, model.conv2]
        self.projection = [model.embed_positions, model.layer_norm]
        self.layers = model.layers
        self.layerdrop = self.config.encoder_layerdrop
        self.opening_norm, self.closing_norm = None, model.layer_norm
        self.max_frames = self.config.max_source_positions
        self.receptive_field, self.frame_samples = WINDOW, 2 * HOP

    def num_frames(self, num_samples: Count) -> Count:
        """Return the number of frames of clips of `num_samples`: half their log-mel frames, rounded up."""
        return (num_samples // HOP + 1) // 2

    def features(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
        """Return (batch, log-mel frame, band), masked by SpecAugment in training."""
        bands = whisper_log_mel(waveforms, num_samples, self.config.num_mel_bins)
        if not self.augments(bands.shape[1]):
            return bands
        mask_features = importlib.import_module("transformers").WhisperModel._mask_input_features
        is_real = frame_mask(num_samples // HOP, bands.shape[1])
        masked: torch.Tensor = mask_features(self.model, bands.transpose(1, 2).contiguous(), is_real)
        return masked.transpose(1, 2)

    def encode(self, features: torch.Tensor, num_samples: torch.Tensor, run: Runner) -> torch.Tensor:
        """Run the convolutions, with zeros past a clip's end."""
        is_real = frame_mask(num_samples // HOP, features.shape[1])

        def convolution(conv: nn.Conv1d, frames: torch.Tensor) -> torch.Tensor:
            return F.gelu(convolve(conv, frames.masked_fill(~is_real[..., None], 0.0)))

        frames = features
        for conv in self.cnn:
            frames = run(convolution, conv, frames)
        return frames

    def project(self, frames: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor:
        """Add the positions."""
        hidden = frames.contiguous() + self.model.embed_positions.weight[: frames.shape[1]]
        return F.dropout(hidden, self.config.dropout, training=self.model.embed_positions.training)


# `model_type` of config.json -> how it is run; families that are not listed here run like wav2vec 2.0.
ARCHITECTURES: dict[str, type[Wav2Vec2]] = {
    "wavlm": WavLM,
    "wav2vec2-conformer": Conformer,
    "wav2vec2-bert": Wav2Vec2Bert,
    "whisper": Whisper,
}
