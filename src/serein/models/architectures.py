"""How the families of Transformers' speech models run: their parts in order, each told where a clip ends.

An architecture knows one family's modules. `HuggingFaceBackbone` calls them, keeps graphs, freezes and checkpoints.
"""

from __future__ import annotations

import importlib
import math
from typing import Any, TypeVar

import torch
from torch import nn

from serein.models.masking import Runner, add_positions, encode

Count = TypeVar("Count", int, torch.Tensor)

MASK_EMBEDDING = "masked_spec_embed"  # for SpecAugment alone; some checkpoints lack it


class Wav2Vec2:
    """wav2vec 2.0, HuBERT and UniSpeech; other families override what they do otherwise.

    Args:
        model: Transformers' model.

    Attributes:
        receptive_field: Samples of the shortest clip; shorter ones are filled up with zeros.
        frame_samples: Samples from one frame to the next.
        max_frames: Frames of the longest clip that the model takes; `None`: no limit.
        layerdrop: Rate of dropped layers in training.
        keeps_first_layer: Layer drop spares the first layer.
    """

    max_frames: int | None = None
    keeps_first_layer = False

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config
        self._set_up()

    def _set_up(self) -> None:
        if not hasattr(self.model, MASK_EMBEDDING):  # or the names of weights would depend on an override
            self.model.masked_spec_embed = nn.Parameter(torch.zeros(self.config.hidden_size))
        self.layers: nn.ModuleList = self.model.encoder.layers
        self.layerdrop: float = self.config.layerdrop
        self.norms_last = bool(getattr(self.config, "do_stable_layer_norm", False))
        self.receptive_field, self.frame_samples = self._spans()

    def _spans(self) -> tuple[int, int]:
        """Return the samples of the shortest clip, and those from one frame to the next."""
        kernels, strides = self.config.conv_kernel, self.config.conv_stride
        field = 1
        for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
            field = (field - 1) * stride + kernel
        return field, math.prod(strides)

    def num_frames(self, num_samples: Count) -> Count:
        """Return the frames of clips of so many samples, at least the receptive field: (batch,) long."""
        frames = num_samples
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            frames = (frames - kernel) // stride + 1
        return frames

    def cnn(self) -> list[nn.Module]:
        """Return the modules of the group `cnn`."""
        return [self.model.feature_extractor]

    def projection(self) -> list[nn.Module]:
        """Return the modules of the group `projection`: those before and behind the layers."""
        encoder = self.model.encoder
        return [self.model.feature_projection, encoder.pos_conv_embed, encoder.layer_norm, encoder.dropout]

    def features(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
        """Return what enters the first module, of each clip as if it were alone.

        Args:
            waveforms: (batch, sample) float32, zero on padding.
            num_samples: (batch,) long, samples of each clip, at least the receptive field.
        """
        return waveforms

    def encode(self, features: torch.Tensor, num_samples: torch.Tensor, run: Runner) -> torch.Tensor:
        """Run the modules of `cnn`, each called by `run`; return (batch, frame, feature)."""
        return encode(self.model.feature_extractor, features, num_samples, run)

    def project(self, frames: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor:
        """Run what lies before the layers.

        Args:
            frames: (batch, frame, feature).
            is_frame: (batch, frame) bool, False on padding; `None` when nothing is padded.
        """
        hidden = add_positions(self.model.encoder.pos_conv_embed, self._projected(frames, is_frame), is_frame)
        if not self.norms_last:
            hidden = self.model.encoder.layer_norm(hidden)
        dropped: torch.Tensor = self.model.encoder.dropout(hidden)
        return dropped

    def mask(self, hidden: torch.Tensor, is_frame: torch.Tensor | None) -> Any:
        """Return the mask in the form that `transform` takes; `None` when nothing is padded."""
        if is_frame is None:
            return None
        if torch.compiler.is_exporting():  # the library's way asks whether all is real
            closed = torch.zeros(is_frame.shape, dtype=hidden.dtype, device=hidden.device)
            return closed.masked_fill(~is_frame, torch.finfo(hidden.dtype).min)[:, None, None]
        masks = importlib.import_module("transformers.masking_utils")
        return masks.create_bidirectional_mask(self.config, hidden, is_frame)

    def positions(self, hidden: torch.Tensor) -> torch.Tensor | None:
        """Return what the first layer is told of positions."""
        return None

    def transform(
        self, layer: Any, hidden: torch.Tensor, mask: Any, positions: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run a layer; return (batch, frame, feature), and what the next layer is told of positions."""
        return layer(hidden, attention_mask=mask), positions

    def close(self, hidden: torch.Tensor) -> torch.Tensor | None:
        """Run what lies behind the last layer; `None`: nothing does."""
        return self.model.encoder.layer_norm(hidden) if self.norms_last else None

    def augments(self, num_frames: int) -> bool:
        """Tell whether SpecAugment is on; batches shorter than a mask are left alone."""
        is_on = self.model.training and self.config.apply_spec_augment
        return bool(is_on and num_frames >= self.config.mask_time_length)

    def _projected(self, frames: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor:
        """Project, and mask frames and features as Transformers does, from NumPy's random state."""
        projected = self.model.feature_projection(frames)
        hidden: torch.Tensor = projected[0] if isinstance(projected, tuple) else projected
        if self.augments(hidden.shape[1]):
            hidden = self.model._mask_hidden_states(hidden.clone(), attention_mask=is_frame)
        return hidden


class Data2VecAudio(Wav2Vec2):
    """data2vec-audio: its configuration may speak of stable layer norm, which it does not have."""

    def _set_up(self) -> None:
        super()._set_up()
        self.norms_last = False


class WavLM(Wav2Vec2):
    """WavLM: its first layer makes the position bias of all, and `GatedAttention` takes the mask of frames."""

    keeps_first_layer = True

    def mask(self, hidden: torch.Tensor, is_frame: torch.Tensor | None) -> Any:
        """Return the mask of frames as it is."""
        return is_frame

    def transform(
        self, layer: Any, hidden: torch.Tensor, mask: Any, positions: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run a layer, with the position bias of the first."""
        hidden, positions = layer(hidden, attention_mask=mask, position_bias=positions)
        return hidden, positions
