"""Trained layers between a backbone and the heads."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from serein.models.heads import LayerSelection, VectorNorm
from serein.models.hidden import HiddenStates, frame_mask
from serein.recipe import Cnn2d, CnnBlstm


class Cnn2dEncoder(nn.Module):
    """Two-dimensional convolutions over (time, band), then one vector per remaining frame.

    Padding is set to zero before every convolution, as if the clip stood alone;
    pooling keeps a last odd frame (`ceil_mode`), so that no clip is too short.

    Args:
        options: Channels, blocks, dropout.
        bands: Bands of each channel.
        num_channels: Images side by side in the backbone's features.
    """

    def __init__(self, options: Cnn2d, bands: int, num_channels: int) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.pools = _pools(options)
        self.strides = [2 if options.stem == "stride" else 1] + [1] * (len(options.channels) - 1)
        inputs = (num_channels, *options.channels[:-1])
        self.blocks = nn.ModuleList(
            ConvolutionBlock(before, after, options.convolutions if index > 1 else 1, stride=self.strides[index])
            for index, (before, after) in enumerate(zip(inputs, options.channels, strict=True))
        )
        for pool in (self.strides[0], *(bands_pooled for _, bands_pooled in self.pools)):
            bands = -(-bands // pool)
        self.dropout = nn.Dropout(options.dropout)
        self.join = nn.Linear(options.channels[-1] * bands, options.size, bias=False)
        self.norm = VectorNorm(options.size)
        self.size, self.sizes = options.size, (options.size,)

    def forward(self, hidden: HiddenStates) -> HiddenStates:
        """Return one layer of fewer frames."""
        align_predictions = hidden.layers[-1]
        images = align_predictions.view(*align_predictions.shape[:2], self.num_channels, -1).transpose(1, 2)
        images = images.contiguous(memory_format=torch.channels_last)  # (batch, channel, frame, band)
        num_frames = hidden.num_frames
        for block, pool, stride in zip(self.blocks, self.pools, self.strides, strict=True):
            if pool != (1, 1):
                images = F.max_pool2d(images, pool, ceil_mode=True)
            num_frames = -(-num_frames // (pool[0] * stride))
            is_frame = frame_mask(num_frames, -(-images.shape[2] // stride))
            images = block(images, is_frame[:, None, :, None].to(images.dtype))
        frames = self.join(self.dropout(images.permute(0, 2, 3, 1).flatten(2)))
        frames = self.norm(frames.float().transpose(1, 2)).transpose(1, 2).relu()
        return HiddenStates((frames * is_frame[..., None],), is_frame)


def _pools(options: Cnn2d) -> list[tuple[int, int]]:
    """Return the (frames, bands) that are pooled before each block."""
    left = options.time_downsampling - (options.stem == "stride")
    pools = [(1, 1)]
    for index in range(1, len(options.channels)):
        if index == 1 and options.stem == "stride":
            pools.append((1, 1))
        else:
            pools.append((2 if left > 0 else 1, 2))
            left -= 1
    return pools


class ConvolutionBlock(nn.Module):
    """Convolution, batch norm, ReLU, repeated; masked after each.

    Args:
        before: Input channels.
        after: Output channels.
        num_convolutions: How many; with two or more, a residual path leads around them (He 2016).
        stride: Of the first, 1 or 2; with 2 it is 5x5.
    """

    def __init__(self, before: int, after: int, num_convolutions: int, *, stride: int = 1) -> None:
        super().__init__()
        width = 5 if stride > 1 else 3
        channels = [before] + [after] * num_convolutions
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, width, stride, padding=width // 2, bias=False) for a, b in pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _ in self.convolutions)
        has_path = num_convolutions > 1
        self.path = nn.Conv2d(before, after, 1, bias=False) if has_path else None

    def forward(self, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Convolve (batch, channel, frame, band); `mask` is (batch, 1, frame, 1), 0 on padding."""
        path = None if self.path is None else self.path(images)
        last = len(self.convolutions) - 1
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            images = norm(convolution(images))
            if index == last and path is not None:
                images = images + path
            images = F.relu(images, inplace=True) * mask
        return images


class CnnBlstmEncoder(nn.Module):
    """Stanley 2023, Figure 1: three one-dimensional convolutions with max pooling, two bidirectional LSTM.

    Args:
        options: Channels, kernels, hidden units, dropout.
        sizes: Feature sizes of the backbone's layers.
    """

    def __init__(self, options: CnnBlstm, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.layer_selection = LayerSelection(options.layer, sizes)
        inputs = (self.layer_selection.size, *options.channels[:-1])
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, kernel, padding="same")
            for before, after, kernel in zip(inputs, options.channels, options.kernels, strict=True)
        )
        self.lstm = nn.LSTM(
            options.channels[-1],
            options.hidden,
            options.layers,
            batch_first=True,
            bidirectional=True,
            dropout=options.dropout if options.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(options.dropout)
        self.size = 2 * options.hidden
        self.sizes = (self.size,)
        self.shrinks = 2 ** len(options.channels)

    def forward(self, hidden: HiddenStates) -> HiddenStates:
        """Return one layer of frames, each of both directions' units."""
        is_frame, num_frames = hidden.is_frame, hidden.num_frames
        images = (self.layer_selection(hidden) * is_frame[..., None]).transpose(1, 2)
        for convolution in self.convolutions:
            images = F.relu(convolution(images)) * is_frame[:, None]  # else a last odd frame is pooled with padding
            images = F.max_pool1d(images, 2, ceil_mode=True)
            num_frames = (num_frames + 1) // 2
            is_frame = frame_mask(num_frames, images.shape[2])
        packed = nn.utils.rnn.pack_padded_sequence(
            images.transpose(1, 2), num_frames.cpu(), batch_first=True, enforce_sorted=False
        )
        frames, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return HiddenStates((self.dropout(frames),), is_frame[:, : frames.shape[1]])
