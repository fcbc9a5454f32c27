"""From the frames of a clip to one vector. Padding never counts."""

from __future__ import annotations

import torch
from torch import nn

VARIANCE_FLOOR = 1e-5  # keeps the gradient of the square root finite for a clip of one frame


class Pooling(nn.Module):
    """Base of the poolings.

    Args:
        frame_size: Features of a frame.
        size: Features of the pooled vector; `None`: as many as of a frame.

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
        """Pool float32 frames; what a pooling implements."""
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
    """Greatest value over time (park2023, section 3.1).

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
        bottleneck: Units of the hidden layer that scores frames.
        num_scores: 1: one weight per frame, as printed; `frame_size`: one per frame and feature (Desplanques 2020).
    """

    def __init__(self, frame_size: int, bottleneck: int = 128, num_scores: int = 1) -> None:
        super().__init__(frame_size, 2 * frame_size)
        self.score = nn.Sequential(nn.Linear(frame_size, bottleneck), nn.Tanh(), nn.Linear(bottleneck, num_scores))

    def pool(self, frames: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
        scores = self.score(frames).masked_fill(~is_frame[..., None], float("-inf"))
        return _weighted_statistics(frames, scores.softmax(dim=1))


class VectorAttentionPooling(AttentionPooling):
    """Attentive statistics whose frames one vector p scores: softmax(p . tanh(Z)) (diatlova2024, equation 4)."""

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
