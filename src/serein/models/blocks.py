"""Building blocks of heads and encoders: poolings, attention, gradient reversal, cosines, fusion, positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from serein.errors import RecipeError

VARIANCE_FLOOR = 1e-5  # keeps the gradient of the square root finite for a clip of one frame


class AttentionBlock(nn.Module):
    """Multi-head self-attention (Vaswani 2017) without a residual path around it (park2023, section 3.1).

    Args:
        size: Features of a frame.
        num_heads: Number of attention heads, a divisor of `size`.
        dropout: Dropout of the attention weights.

    Raises:
        RecipeError: The heads do not divide the features.

    Example:
        >>> block = AttentionBlock(8, num_heads=4).eval()
        >>> block(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, size: int, num_heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        if size % num_heads:
            raise RecipeError(
                f"{num_heads} heads do not divide frames of {size} features",
                where="attention.heads",
                remedy="Choose a divisor, or a projection of another size at 'frames'.",
            )
        self.attention = nn.MultiheadAttention(size, num_heads, dropout=dropout, batch_first=True)

    def forward(self, frames: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
        """Attend from every frame to all real frames.

        Args:
            frames: (batch, frame, feature).
            is_frame: (batch, frame) bool, False on padding; at least one True in each clip.

        Returns:
            (batch, frame, feature); the values on padding are meaningless.
        """
        attended: torch.Tensor
        attended, _ = self.attention(frames, frames, frames, key_padding_mask=~is_frame, need_weights=False)
        return attended


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: torch.Tensor, scale: float) -> torch.Tensor:
        context.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -context.scale * gradient, None


class GradientReversal(nn.Module):
    """Gradient reversal: the layers below learn to make the head fail (Ganin 2016, section 3; gao2023, equation 2).

    Args:
        scale: The gradient is multiplied by minus this.

    Example:
        >>> values = torch.ones(2, requires_grad=True)
        >>> GradientReversal(0.5)(values).sum().backward()
        >>> values.grad
        tensor([-0.5000, -0.5000])
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values unchanged."""
        reversed_: torch.Tensor = _Reversal.apply(values, self.scale)  # type: ignore[no-untyped-call]
        return reversed_


class CosineClassifier(nn.Module):
    """Scaled cosines between vectors and class centres (Deng 2019), without margin, as in inference.

    Args:
        size: Features of a vector.
        num_classes: Number of centres.
        scale: Factor of the cosines, before the softmax.

    Attributes:
        weight: (class, feature), of which only the directions matter.
    """

    def __init__(self, size: int, num_classes: int, scale: float = 30.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, size))
        nn.init.xavier_uniform_(self.weight)
        self.scale = scale

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return (batch, class) float32, from -scale to scale."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self.scale * F.linear(F.normalize(vectors.float(), dim=1), F.normalize(self.weight.float(), dim=1))


class TensorFusion(nn.Module):
    """E = sum of W_i * h_i, feature by feature, over a network's own vectors and those of other networks.

    The rows of its own vectors start at 1, so training starts from their sum.

    Args:
        num_own: Number of the network's own vectors, k.
        size: Features of each vector.
        num_inputs: Number of vectors of other networks.
        start: Initial value of the rows of these inputs; with 0, the initial output is that of the own vectors alone.

    Example:
        >>> fusion = TensorFusion(num_own=2, size=1)
        >>> fusion([torch.tensor([[3.0]]), torch.tensor([[4.0]])]).tolist()
        [[7.0]]
    """

    def __init__(self, num_own: int, size: int, num_inputs: int = 0, start: float = 0.0) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.ones(num_own, size))
        self.inputs = nn.Parameter(torch.full((num_inputs, size), start)) if num_inputs else None

    @property
    def matrix(self) -> torch.Tensor:
        """(vector, feature): all rows, those of inputs last."""
        return self.own if self.inputs is None else torch.cat([self.own, self.inputs])

    def forward(self, own: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Fuse.

        Args:
            own: k vectors, each (batch, feature).
            inputs: As many vectors as there are rows for; or none, to fuse only the own vectors.

        Returns:
            (batch, feature) float32.
        """
        with torch.autocast(own[0].device.type, enabled=False):
            fused = (self.own * torch.stack(list(own), dim=1).float()).sum(dim=1)
            if inputs:
                assert self.inputs is not None
                fused = fused + (self.inputs * torch.stack(list(inputs), dim=1).float()).sum(dim=1)
            return fused

    def extended(self, num_inputs: int, start: float = 0.0) -> TensorFusion:
        """Return a fusion of more vectors, with these trained rows and new ones that start at `start`."""
        num_own, size = self.own.shape
        wider = TensorFusion(num_own, size, num_inputs + (0 if self.inputs is None else len(self.inputs)), start)
        with torch.no_grad():
            wider.own.copy_(self.own)
            if self.inputs is not None and wider.inputs is not None:
                wider.inputs[: len(self.inputs)] = self.inputs
        return wider


def sinusoids(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Return (position, feature): sines and cosines of decreasing frequency (Vaswani 2017, section 3.5)."""
    rates = torch.exp(torch.arange(0, size, 2, device=positions.device) * (-math.log(10_000.0) / size))
    angles = positions[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


class Pooling(nn.Module):
    """Base class of poolings, which turn the frames of a clip into one vector and ignore padding.

    Args:
        frame_size: Features of a frame.
        size: Features of the pooled vector; `None`: as many as in a frame.

    Attributes:
        size: Features of the pooled vector.
    """

    def __init__(self, frame_size: int, size: int | None = None) -> None:
        super().__init__()
        self.frame_size, self.size = frame_size, frame_size if size is None else size

    def forward(self, frames: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
        """Pool.

        Args:
            frames: (batch, frame, feature).
            is_frame: (batch, frame) bool, False on padding; at least one True in each clip.

        Returns:
            (batch, size) float32.
        """
        with torch.autocast(frames.device.type, enabled=False):
            return self.pool(frames.float(), is_frame)

    def pool(self, frames: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
        """Pool float32 frames; each pooling implements this method."""
        raise NotImplementedError


class MeanPooling(Pooling):
    """Mean over time.

    Example:
        >>> frames = torch.tensor([[[1.0], [3.0], [9.0]]])
        >>> MeanPooling(1)(frames, torch.tensor([[True, True, False]])).tolist()
        [[2.0]]
    """

    def pool(self, frames: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
        return (frames * _equal_weights(is_frame)).sum(dim=1)


class StdPooling(Pooling):
    """Mean and standard deviation over time, concatenated (diatlova2024, "STD pooling").

    Example:
        >>> frames = torch.tensor([[[1.0], [3.0], [9.0]]])
        >>> StdPooling(1)(frames, torch.tensor([[True, True, False]])).round(decimals=3).tolist()
        [[2.0, 1.0]]
    """

    def __init__(self, frame_size: int) -> None:
        super().__init__(frame_size, 2 * frame_size)

    def pool(self, frames: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
        return _weighted_statistics(frames, _equal_weights(is_frame))


class MaxPooling(Pooling):
    """Maximum over time (park2023, section 3.1).

    Example:
        >>> frames = torch.tensor([[[-1.0], [-3.0], [0.0]]])
        >>> MaxPooling(1)(frames, torch.tensor([[True, True, False]])).tolist()
        [[-1.0]]
    """

    def pool(self, frames: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
        return frames.masked_fill(~is_frame[..., None], float("-inf")).amax(dim=1)


class AttentionPooling(Pooling):
    """Attentive statistics (Okabe 2018, equations 3 to 7): weighted mean and weighted standard deviation.

    Args:
        frame_size: Features of a frame.
        bottleneck: Units of the hidden layer of the scoring network.
        num_scores: 1: one weight per frame, as in the paper; `frame_size`: one per frame and feature (Desplanques
            2020).
    """

    def __init__(self, frame_size: int, bottleneck: int = 128, num_scores: int = 1) -> None:
        super().__init__(frame_size, 2 * frame_size)
        self.score = nn.Sequential(nn.Linear(frame_size, bottleneck), nn.Tanh(), nn.Linear(bottleneck, num_scores))

    def pool(self, frames: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
        scores = self.score(frames).masked_fill(~is_frame[..., None], float("-inf"))
        return _weighted_statistics(frames, scores.softmax(dim=1))


class VectorAttentionPooling(AttentionPooling):
    """Attentive statistics with frames scored by one vector p: softmax(p . tanh(Z)) (diatlova2024, equation 4)."""

    def __init__(self, frame_size: int) -> None:
        super().__init__(frame_size)
        self.score = nn.Sequential(nn.Tanh(), nn.Linear(frame_size, 1, bias=False))


class ChannelAttentionPooling(AttentionPooling):
    """Attentive statistics with a weight for every frame and feature (Desplanques 2020, equation 5)."""

    def __init__(self, frame_size: int, bottleneck: int = 64) -> None:
        super().__init__(frame_size, bottleneck, num_scores=frame_size)


def _equal_weights(is_frame: torch.Tensor) -> torch.Tensor:
    mask = is_frame[..., None].float()
    return mask / mask.sum(dim=1, keepdim=True)


def _weighted_statistics(frames: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    mean = (frames * weights).sum(dim=1)
    variance = ((frames - mean[:, None]).square() * weights).sum(dim=1)
    return torch.cat([mean, variance.clamp_min(VARIANCE_FLOOR).sqrt()], dim=-1)


POOLINGS = {
    "mean": MeanPooling,
    "std": StdPooling,
    "max": MaxPooling,
    "attention": AttentionPooling,
    "vector-attention": VectorAttentionPooling,
    "channel-attention": ChannelAttentionPooling,
}
