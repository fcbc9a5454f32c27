"""Trained layers between a backbone and the heads."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Self

import torch
from torch import nn
from torch.nn import functional as F

from serein.choices import NamedOptions, choose
from serein.errors import RecipeError
from serein.models.blocks import sinusoids
from serein.models.heads import LayerSelection, VectorNorm
from serein.models.hidden_states import Backbone, Encoder, HiddenStates, frame_mask
from serein.models.masking import WordDropout
from serein.recipe import Cnn2d, CnnBlstm, Transformer


class Cnn2dEncoder(Encoder):
    """Two-dimensional convolutions over (time, band), then one vector per remaining frame.

    Padding is set to zero before every convolution, as if the clip stood alone;
    pooling keeps a last odd frame (`ceil_mode`), so that no clip is too short.

    Args:
        options: Channels, blocks, dropout.
        bands: Bands of each channel.
        num_channels: Images side by side in the backbone's features.
    """

    Options = Cnn2d

    def __init__(self, options: Cnn2d, bands: int, num_channels: int) -> None:
        super().__init__()
        self.num_channels = num_channels
        has_strided_stem = options.stem == "stride"
        self.strides = [2 if has_strided_stem else 1] + [1] * (len(options.channels) - 1)
        self.pools = [(1, 1)]  # (frames, bands) pooled before each block: frames as often as time is downsampled
        left = options.time_downsampling - has_strided_stem
        for index in range(1, len(options.channels)):
            if index == 1 and has_strided_stem:
                self.pools.append((1, 1))
            else:
                self.pools.append((2 if left > 0 else 1, 2))
                left -= 1
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

    @classmethod
    def from_options(cls, options: Cnn2d, backbone: Backbone) -> Self:
        """Return the encoder of a backbone that makes images."""
        return cls(options, bands_of(backbone, options.name), backbone.num_channels)

    def forward(self, hidden: HiddenStates) -> HiddenStates:
        """Return one layer of fewer frames."""
        align_predictions = hidden.layers[-1]
        images = align_predictions.view(*align_predictions.shape[:2], self.num_channels, -1).transpose(1, 2)
        images = images.contiguous(memory_format=torch.channels_last)  # (batch, channel, frame, band)
        num_frames = hidden.num_frames
        for block, pool, stride in zip(self.blocks, self.pools, self.strides, strict=True):
            if pool != (1, 1):
                images = F.max_pool2d(images, pool, ceil_mode=True)
            shrink = pool[0] * stride  # rounded up by a sum: other runtimes divide negative numbers towards zero
            num_frames = (num_frames + shrink - 1) // shrink
            is_frame = frame_mask(num_frames, (images.shape[2] + stride - 1) // stride)
            images = block(images, is_frame[:, None, :, None])
        frames = self.join(self.dropout(images.permute(0, 2, 3, 1).flatten(2)))
        frames = self.norm(frames.float().transpose(1, 2)).transpose(1, 2).relu()
        return HiddenStates((frames * is_frame[..., None],), is_frame)


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
        """Convolve (batch, channel, frame, band); `mask` is (batch, 1, frame, 1) bool, False on padding."""
        path = None if self.path is None else self.path(images)
        last = len(self.convolutions) - 1
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            images = norm(convolution(images))
            if index == last and path is not None:
                images = images + path
            images = F.relu(images, inplace=True) * mask.to(images.dtype)  # a float32 mask would widen bfloat16
        return images


class CnnBlstmEncoder(Encoder):
    """Stanley 2023, Figure 1: three one-dimensional convolutions with max pooling, two bidirectional LSTM.

    Args:
        options: Channels, kernels, hidden units, dropout.
        sizes: Feature sizes of the backbone's layers.
    """

    Options = CnnBlstm

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
        self.num_pooled = len(options.channels) if options.num_pooled is None else options.num_pooled
        self.shrinks = 2 ** min(self.num_pooled, len(options.channels))

    @classmethod
    def from_options(cls, options: CnnBlstm, backbone: Backbone) -> Self:
        """Return the encoder of any backbone."""
        return cls(options, backbone.sizes)

    def forward(self, hidden: HiddenStates) -> HiddenStates:
        """Return one layer of frames, each of both directions' units."""
        is_frame, num_frames = hidden.is_frame, hidden.num_frames
        images = (self.layer_selection(hidden) * is_frame[..., None]).transpose(1, 2)
        for number, convolution in enumerate(self.convolutions):
            images = F.relu(convolution(images)) * is_frame[:, None]  # else a last odd frame is pooled with padding
            if number >= self.num_pooled:
                continue
            images = F.max_pool1d(images, 2, ceil_mode=True)
            num_frames = (num_frames + 1) // 2
            is_frame = frame_mask(num_frames, images.shape[2])
        if torch.compiler.is_exporting():
            return HiddenStates((run_lstm(self.lstm, images.transpose(1, 2), num_frames),), is_frame)
        packed = nn.utils.rnn.pack_padded_sequence(
            images.transpose(1, 2), num_frames.cpu(), batch_first=True, enforce_sorted=False
        )
        frames, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return HiddenStates((self.dropout(frames),), is_frame[:, : frames.shape[1]])


def run_lstm(lstm: nn.LSTM, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    """Return what a bidirectional LSTM returns for packed clips, without packing, which ONNX does not have.

    Args:
        frames: (batch, frame, feature).
        num_frames: (batch,) long: the way back starts at a clip's own end.
    """
    backwards = num_frames[:, None] - 1 - torch.arange(frames.shape[1], device=frames.device)
    backwards = torch.where(backwards < 0, backwards + frames.shape[1], backwards)[..., None]  # its own inverse
    state = frames.new_zeros(1, frames.shape[0], lstm.hidden_size)
    for layer in range(lstm.num_layers):
        directions = []
        for suffix in ("", "_reverse"):
            names = [f"{kind}_{source}_l{layer}{suffix}" for kind in ("weight", "bias") for source in ("ih", "hh")]
            order = backwards.expand(-1, -1, frames.shape[2])
            steps = frames.gather(1, order) if suffix else frames
            weights = [getattr(lstm, name) for name in names]
            output = torch.lstm(steps, [state, state], weights, True, 1, 0.0, False, False, True)[0]
            directions.append(output.gather(1, backwards.expand(-1, -1, lstm.hidden_size)) if suffix else output)
        frames = torch.cat(directions, dim=2)
    return frames


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
        batch, length, size = frames.shape
        qkv = self.qkv(self.attention_norm(frames)).view(batch, length, 3, self.num_heads, size // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, head, frame, feature)
        learned = self.training and query.device.type == "cpu"
        attend = dot_product_attention if learned else F.scaled_dot_product_attention
        context = attend(query, key, value, is_frame[:, None, None])
        attended = self.attention_output(context.transpose(1, 2).reshape(batch, length, size))
        frames = frames + self.dropout(attended)
        inner = self.dropout(F.gelu(self.widened(self.inner_norm(frames))))
        summed: torch.Tensor = frames + self.dropout(self.narrowed(inner))
        return summed


def dot_product_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_frame: torch.Tensor
) -> torch.Tensor:
    """Return what the fused attention returns, whose gradients in bfloat16 take five times as long on a processor."""
    batch, heads, length, size = query.shape
    query, key, value = (each.reshape(batch * heads, length, size) for each in (query, key, value))
    closed = torch.zeros(is_frame.shape, dtype=query.dtype).masked_fill_(~is_frame, -math.inf)
    closed = closed.expand(batch, heads, length, length).reshape(batch * heads, length, length)
    attention = torch.baddbmm(closed, query, key.transpose(1, 2), alpha=size**-0.5).softmax(dim=-1)
    return torch.bmm(attention.to(value.dtype), value).view(batch, heads, length, size)


class TransformerEncoder(Encoder):
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

    Options = Transformer

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

    @classmethod
    def from_options(cls, options: Transformer, backbone: Backbone) -> Self:
        """Return the encoder of a backbone that makes images."""
        return cls(options, bands_of(backbone, options.name), backbone.num_channels)

    def forward(self, hidden: HiddenStates) -> HiddenStates:
        """Return the hidden layers; what they hold on padding means nothing."""
        stem = self.cnn(hidden)
        positions = sinusoids(torch.arange(stem.layers[-1].shape[1]), self.size).to(stem.layers[-1])
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


def bands_of(backbone: Backbone, encoder: str) -> int:
    """Return the bands of each image that a backbone makes.

    Args:
        encoder: Name of the encoder that reads them.

    Raises:
        RecipeError: It makes none.
    """
    if not backbone.num_channels:
        raise RecipeError(
            f"'{encoder}' reads mel bands, but the backbone has hidden layers",
            where="encoder.name",
            remedy="Choose 'cnn-blstm', or no encoder.",
        )
    return backbone.sizes[-1] // backbone.num_channels


def build_encoder(options: NamedOptions, backbone: Backbone) -> Encoder:
    """Return the encoder that a recipe names.

    Raises:
        RecipeError: It does not fit the backbone.
    """
    encoder: Encoder = choose("encoder", options.name).from_options(options, backbone)
    return encoder


ENCODERS: dict[str, type[Encoder]] = {
    "cnn2d": Cnn2dEncoder,
    "cnn-blstm": CnnBlstmEncoder,
    "transformer": TransformerEncoder,
}
