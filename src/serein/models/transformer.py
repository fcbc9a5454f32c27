"""A small transformer over log-mel bands: convolutions, then layers that are named and frozen one by one."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from serein.errors import RecipeError
from serein.models.bodies import Cnn2dEncoder
from serein.models.hidden import HiddenStates
from serein.models.masking import WordDropout
from serein.recipe import Transformer


class TransformerLayer(nn.Module):
    """Self-attention and two fully connected layers, each normalised before and with a path around it (Xiong 2020).

    Args:
        size: Features of a frame.
        num_heads: A divisor of `size`.
        feed_forward_size: Features between the fully connected layers.
        dropout: Of the features between, and of what either part adds.
    """

    def __init__(self, size: int, num_heads: int, feed_forward_size: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.inner_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.attention_output = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.widened, self.narrowed = nn.Linear(size, feed_forward_size), nn.Linear(feed_forward_size, size)
        self.dropout = WordDropout(dropout)

    def forward(self, frames: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
        """Return (batch, frame, feature); padding is masked."""
        frames = frames + self.dropout(self._attend(self.attention_norm(frames), is_frame))
        inner = self.dropout(F.gelu(self.widened(self.inner_norm(frames))))
        summed: torch.Tensor = frames + self.dropout(self.narrowed(inner))
        return summed

    def _attend(self, frames: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
        batch, length, size = frames.shape
        qkv = self.qkv(frames).view(batch, length, 3, self.num_heads, size // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, head, frame, feature)
        learned = self.training and query.device.type == "cpu"
        context = (_attended if learned else F.scaled_dot_product_attention)(query, key, value, is_frame[:, None, None])
        attended: torch.Tensor = self.attention_output(context.transpose(1, 2).reshape(batch, length, size))
        return attended


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_heard: torch.Tensor) -> torch.Tensor:
    """Return what the fused attention returns, whose gradients in bfloat16 take five times as long on a processor."""
    batch, heads, length, size = query.shape
    query, key, value = (each.reshape(batch * heads, length, size) for each in (query, key, value))
    closed = torch.zeros(is_heard.shape, dtype=query.dtype).masked_fill_(~is_heard, -math.inf)
    closed = closed.expand(batch, heads, length, length).reshape(batch * heads, length, length)
    attention = torch.baddbmm(closed, query, key.transpose(1, 2), alpha=size**-0.5).softmax(dim=-1)
    return torch.bmm(attention.to(value.dtype), value).view(batch, heads, length, size)


class TransformerEncoder(nn.Module):
    """Convolutions over time and bands -> sinusoidal positions -> transformer layers, any of which a head may select.

    Args:
        options: Convolutions, layers, dropout.
        bands: Bands of each channel.
        num_channels: Images side by side in the backbone's features.

    Attributes:
        sizes: Features of each hidden layer; number 0 enters the first transformer layer, as in a backbone.

    Raises:
        RecipeError: The heads do not divide the features.
    """

    def __init__(self, options: Transformer, bands: int, num_channels: int) -> None:
        super().__init__()
        size = options.cnn.size
        if size % options.heads or size % 2:
            raise RecipeError(
                f"{options.heads} heads do not divide {size} features, or these are no pairs of sine and cosine",
                where="encoder.heads",
                remedy="Choose an even encoder.cnn.size that is a multiple of encoder.heads.",
            )
        self.cnn = Cnn2dEncoder(options.cnn, bands, num_channels)
        self.dropout = WordDropout(options.dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(size, options.heads, options.feed_forward_size, options.dropout)
            for _ in range(options.layers)
        )
        self.size, self.sizes = size, (size,) * (options.layers + 1)

    def forward(self, hidden: HiddenStates) -> HiddenStates:
        """Return the hidden layers; what they hold on padding means nothing."""
        stem = self.cnn(hidden)
        positions = _positions(stem.layers[-1].shape[1], self.size).to(stem.layers[-1])
        layers = [self.dropout(stem.layers[-1] + positions)]
        for layer in self.layers:
            layers.append(layer(layers[-1], stem.is_frame))
        return HiddenStates(tuple(layers), stem.is_frame)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, by the name that a recipe freezes: `encoder cnn`, `encoder layer 1`, ..."""
        numbered = enumerate(self.layers, start=1)
        layers = {f"encoder layer {number}": list(layer.parameters()) for number, layer in numbered}
        return {"encoder cnn": list(self.cnn.parameters()), **layers}

    def train(self, mode: bool = True) -> TransformerEncoder:
        """Switch to training mode, in which what is frozen stays in evaluation mode: no dropout."""
        super().train(mode)
        for part in (self.cnn, *self.layers):
            part.train(mode and any(parameter.requires_grad for parameter in part.parameters()))
        self.dropout.train(self.cnn.training)
        return self


def _positions(length: int, size: int) -> torch.Tensor:
    """Return (frame, feature): sines and cosines of falling frequency (Vaswani 2017, section 3.5)."""
    rates = torch.exp(torch.arange(0, size, 2) * (-math.log(10_000.0) / size))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
