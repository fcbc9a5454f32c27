"""The encoder of Whisper (Radford 2023), with the same computation and weight names as Transformers' `WhisperEncoder`.

It is reimplemented here because importing Transformers takes longer than everything else in a prediction.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, model_validator
from torch import nn

from serein.models.masking import attend

FLOAT16_MARGIN = 1000.0  # Transformers keeps float16 frames this far from infinity


class WhisperConfig(BaseModel):
    """The encoder's configuration, with Transformers' names and defaults; the decoder's keys are ignored.

    Raises:
        ValueError: A value is of the wrong type, or the heads do not divide the features.

    Example:
        >>> WhisperConfig.from_dict({"d_model": 512, "encoder_attention_heads": 8, "decoder_layers": 6}).hidden_size
        512
    """

    model_config = ConfigDict(protected_namespaces=())

    model_type: Literal["whisper"] = "whisper"
    num_mel_bins: PositiveInt = 80
    max_source_positions: PositiveInt = 1500
    d_model: PositiveInt = 384
    encoder_layers: NonNegativeInt = 4
    encoder_attention_heads: PositiveInt = 6
    encoder_ffn_dim: PositiveInt = 1536
    encoder_layerdrop: float = 0.0
    activation_function: Literal["gelu"] = "gelu"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    apply_spec_augment: bool = False
    mask_time_prob: float = 0.05
    mask_time_length: PositiveInt = 10
    mask_time_min_masks: NonNegativeInt = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: PositiveInt = 10
    mask_feature_min_masks: NonNegativeInt = 0

    @model_validator(mode="after")
    def _heads_divide_features(self) -> Self:
        if self.d_model % 2 or self.d_model % self.encoder_attention_heads:
            raise ValueError(f"2 and {self.encoder_attention_heads} heads do not divide d_model, {self.d_model}")
        return self

    @property
    def hidden_size(self) -> int:
        """Features of a frame, under the name that other families use."""
        return self.d_model

    @property
    def num_hidden_layers(self) -> int:
        """Number of encoder layers, under the name that other families use."""
        return self.encoder_layers

    @num_hidden_layers.setter
    def num_hidden_layers(self, value: int) -> None:
        self.encoder_layers = value

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Return the configuration in config.json, like Transformers' classes."""
        return cls.model_validate(content)

    def to_dict(self) -> dict[str, Any]:
        """Return the content that `from_dict` reads, like Transformers' classes."""
        return self.model_dump(mode="json")


class WhisperAttention(nn.Module):
    """Multi-head self-attention (Vaswani 2017), whose keys have no bias.

    Args:
        config: The encoder's configuration.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        size = config.d_model
        self.num_heads, self.dropout = config.encoder_attention_heads, config.attention_dropout
        self.head_size = size // self.num_heads
        self.k_proj = nn.Linear(size, size, bias=False)
        self.v_proj = nn.Linear(size, size)
        self.q_proj = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, size)

    def forward(self, frames: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Attend from every frame to all real frames; return (batch, frame, feature)."""
        shape = (*frames.shape[:-1], self.num_heads, self.head_size)
        query, key, value = (
            projected.view(shape).transpose(1, 2)
            for projected in (self.q_proj(frames) * self.head_size**-0.5, self.k_proj(frames), self.v_proj(frames))
        )
        attended = attend(query, key, value, attention_mask, dropout=self.dropout if self.training else 0.0)
        mixed: torch.Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return mixed


class WhisperLayer(nn.Module):
    """A transformer layer that normalises before attention and before the feed-forward network.

    Args:
        config: The encoder's configuration.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.self_attn = WhisperAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.dropout, self.activation_dropout = config.dropout, config.activation_dropout

    def forward(self, frames: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Run the layer.

        Args:
            frames: (batch, frame, feature).
            attention_mask: (batch, 1, 1, frame): bool, False on padding, or numbers to add to the scores. `None` if
                nothing is padded.
        """
        attended = self.self_attn(self.self_attn_layer_norm(frames), attention_mask)
        frames = frames + F.dropout(attended, self.dropout, self.training)
        inner = F.dropout(F.gelu(self.fc1(self.final_layer_norm(frames))), self.activation_dropout, self.training)
        frames = frames + F.dropout(self.fc2(inner), self.dropout, self.training)
        if frames.dtype == torch.float16:
            limit = torch.finfo(torch.float16).max - FLOAT16_MARGIN
            frames = frames.clamp(-limit, limit)
        return frames


class Sinusoids(nn.Module):
    """Whisper's positions, stored as a buffer so that no training stage can unfreeze them.

    Sines come first, followed by cosines, with wavelengths from 2 pi to 20,000 pi frames.

    Args:
        length: Number of positions.
        size: Features per position; an even number.

    Attributes:
        weight: (position, feature).
    """

    weight: torch.Tensor

    def __init__(self, length: int, size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(length, size))
        if not self.weight.is_meta:  # arithmetic on the meta device would import PyTorch's compiler, which takes 1.5 s
            self.weight.copy_(self.computed())

    def computed(self) -> torch.Tensor:
        """Return the positions computed from their formula, (position, feature)."""
        length, size = self.weight.shape
        rates = torch.exp(-math.log(10_000.0) / max(size // 2 - 1, 1) * torch.arange(size // 2))
        angles = torch.arange(length)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    def is_computed(self, dtype: torch.dtype) -> bool:
        """Return whether the positions equal `computed`, to a floating-point type's precision for values up to 1."""
        return torch.allclose(self.weight.cpu().float(), self.computed(), rtol=0, atol=torch.finfo(dtype).eps)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        state_dict.setdefault(f"{prefix}weight", self.weight)  # files may omit it, since it is computed
        super()._load_from_state_dict(state_dict, prefix, *others)


class WhisperEncoder(nn.Module):
    """Two convolutions, positions, transformer layers and a closing norm, which `architectures.Whisper` runs.

    Args:
        config: Sizes and dropout; weights are initialised as in Transformers.

    Example:
        >>> encoder = WhisperEncoder(WhisperConfig(d_model=8, encoder_attention_heads=2, encoder_layers=1))
        >>> encoder.layers[0](torch.randn(1, 5, 8)).shape
        torch.Size([1, 5, 8])
    """

    config_class = WhisperConfig

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, kernel_size=3, stride=2, padding=1)
        self.embed_positions = Sinusoids(config.max_source_positions, config.d_model)
        self.layers = nn.ModuleList(WhisperLayer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d) and not module.weight.is_meta:  # as in `Sinusoids`
                nn.init.normal_(module.weight, std=config.init_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @classmethod
    def of(cls, model: Any) -> WhisperEncoder:
        """Return an encoder that shares the weights of Transformers' `WhisperEncoder` without copying them."""
        if isinstance(model, cls):
            return model
        with torch.device("meta"):
            encoder = cls(WhisperConfig.from_dict(model.config.to_dict()))
        encoder.load_state_dict(model.state_dict(), assign=True)
        return encoder.train(model.training)
