"""Self-attention over the frames of a clip. Padding is masked as query and as key."""

from __future__ import annotations

import torch
from torch import nn

from serein.errors import RecipeError


class AttentionBlock(nn.Module):
    """Multi-head self-attention (Vaswani 2017) by itself, without a path around it (park2023, section 3.1).

    Args:
        size: Features of a frame.
        num_heads: A divisor of `size`.
        dropout: Of the attention's weights.

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
        """Let every frame look at all.

        Args:
            frames: (batch, frame, feature).
            is_frame: (batch, frame) bool, False on padding; at least one True in each clip.

        Returns:
            (batch, frame, feature); what it holds on padding means nothing.
        """
        attended: torch.Tensor
        attended, _ = self.attention(frames, frames, frames, key_padding_mask=~is_frame, need_weights=False)
        return attended
