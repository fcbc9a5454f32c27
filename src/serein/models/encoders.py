"""Trained layers between a backbone and the heads."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional as F

from serein.choices import NamedOptions, choose
from serein.errors import RecipeError
from serein.models.blocks import sinusoids
from serein.models.heads import LayerSelection, VectorNorm
from serein.models.hidden_states import Backbone, Encoder, HiddenStates, frame_mask
from serein.models.masking import WordDropout, attend
from serein.recipe import Cnn2d, CnnBlstm, FeatureProjection, Transformer


class Cnn2dEncoder(Encoder):
    """Two-dimensional convolutions over (time, band), followed by a projection to one vector per remaining frame.

    Padding is set to zero before every convolution and pooling, as if the clip were alone. Pooling keeps a last odd
    frame (`ceil_mode`), so no clip is too short.

    Args:
        options: Channels, blocks, dropout.
        bands: Bands of each channel.
        num_channels: Number of images concatenated in the backbone's features.
    """

    Options = Cnn2d

    def __init__(self, options: Cnn2d, bands: int, num_channels: int) -> None:
        super().__init__()
        self.num_channels = num_channels
        has_strided_stem = options.stem == "stride"
        self.strides = [2 if has_strided_stem else 1] + [1] * (len(options.channels) - 1)
        self.pools = []  # (frames, bands) pooled after each block: `time_downsampling` counts a strided stem
        left = options.time_downsampling - has_strided_stem
        for index in range(1, len(options.channels)):
            if index == 1 and has_strided_stem:
                self.pools.append((1, 1))
            else:
                self.pools.append((2 if left > 0 else 1, 2))
                left -= 1
        self.pools.append((1, 1))
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
        """Return the encoder for a backbone whose output is images."""
        return cls(options, bands_of(backbone, options.name), backbone.num_channels)

    def forward(self, hidden: HiddenStates) -> HiddenStates:
        """Return one layer with fewer frames."""
        flat = hidden.layers[-1]
        images = flat.view(*flat.shape[:2], self.num_channels, -1).transpose(1, 2)
        images = images.contiguous(memory_format=torch.channels_last)  # (batch, channel, frame, band)
        num_frames = hidden.num_frames
        for block, pool, stride in zip(self.blocks, self.pools, self.strides, strict=True):
            # rounded up by an addition: other runtimes divide negative numbers towards zero
            num_frames = (num_frames + stride - 1) // stride
            images = block(images, frame_mask(num_frames, (images.shape[2] + stride - 1) // stride), pool)
            num_frames = (num_frames + pool[0] - 1) // pool[0]
        is_frame = frame_mask(num_frames, images.shape[2])
        frames = self.join(self.dropout(images.permute(0, 2, 3, 1).flatten(2)))
        frames = self.norm(frames.float().transpose(1, 2)).transpose(1, 2).relu()
        return HiddenStates((frames * is_frame[..., None],), is_frame)


class ConvolutionBlock(nn.Module):
    """Repeated convolution, batch norm and ReLU, with padding set to zero after each; then pooling.

    Args:
        before: Input channels.
        after: Output channels.
        num_convolutions: Number of convolutions; two or more get a residual path around them (He 2016).
        stride: Stride of the first convolution, 1 or 2; with 2, it is 5x5.
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

    def forward(self, images: torch.Tensor, is_frame: torch.Tensor, pool: tuple[int, int]) -> torch.Tensor:
        """Convolve (batch, channel, frame, band).

        Args:
            is_frame: (batch, frame) bool, after the first convolution's stride.
            pool: Frames and bands of the max pooling, which comes before ReLU: the result is the same, from fewer
                numbers.
        """
        path = None if self.path is None else self.path(images)
        last = len(self.convolutions) - 1
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            images = norm(convolution(images))
            if index == last and path is not None:
                images = images + path
            images = zero_before_relu(images, is_frame)
            if index == last and pool != (1, 1):
                images = F.max_pool2d(images, pool, ceil_mode=True)
            images = F.relu(images, inplace=True)
        return images


def zero_before_relu(images: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
    """Set padding to zero, in place; the next operation must be ReLU, or pooling followed by ReLU.

    Args:
        images: (batch, channel, frame, band).
        is_frame: (batch, frame) bool.
    """
    if torch.compiler.is_exporting() or _is_for_onnx():
        return images * is_frame[:, None, :, None].to(images.dtype)  # a float32 mask would widen bfloat16
    zeroed: torch.Tensor = _ZeroBeforeRelu.apply(images, is_frame)  # type: ignore[no-untyped-call]
    return zeroed


class _ZeroBeforeRelu(torch.autograd.Function):
    """Zero only the frames that some clip lacks; the gradient is passed on unchanged, as ReLU blocks it at zeros."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
        on_host = is_frame.device.type == "cpu"  # reading it from a GPU would block
        shortest = int(is_frame.sum(1).min()) if on_host else 0
        images[:, :, shortest:].mul_(is_frame[:, None, shortest:, None])
        ctx.mark_dirty(images)
        return images

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


class CnnBlstmEncoder(Encoder):
    """Three one-dimensional convolutions with max pooling and two bidirectional LSTM layers (Stanley 2023, Figure 1).

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
        """Return the encoder for any backbone."""
        return cls(options, backbone.sizes)

    def forward(self, hidden: HiddenStates) -> HiddenStates:
        """Return one layer of frames, with the units of both directions."""
        is_frame, num_frames = hidden.is_frame, hidden.num_frames
        images = (self.layer_selection(hidden) * is_frame[..., None]).transpose(1, 2)
        for number, convolution in enumerate(self.convolutions):
            images = F.relu(convolution(images)) * is_frame[:, None]  # or a last odd frame is pooled with padding
            if number >= self.num_pooled:
                continue
            images = F.max_pool1d(images, 2, ceil_mode=True)
            num_frames = (num_frames + 1) // 2
            is_frame = frame_mask(num_frames, images.shape[2])
        if _is_for_onnx():
            return HiddenStates((onnx_lstm(self.lstm, images.transpose(1, 2), num_frames),), is_frame)
        packed = nn.utils.rnn.pack_padded_sequence(
            images.transpose(1, 2), num_frames.cpu(), batch_first=True, enforce_sorted=False
        )
        frames, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return HiddenStates((self.dropout(frames),), is_frame[:, : frames.shape[1]])


def _is_for_onnx() -> bool:
    """Return whether this is an export to ONNX without importing the exporter, which takes longer than a prediction."""
    return "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export()


def onnx_lstm(lstm: nn.LSTM, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    """Return the output of a bidirectional LSTM for packed clips, using ONNX's own operator, which takes their lengths.

    Args:
        frames: (batch, frame, feature).
        num_frames: (batch,) long: the backward direction starts at a clip's own end.
    """
    frames, lengths = frames.transpose(0, 1), num_frames.int()  # (frame, batch, feature)
    length, batch, _ = frames.shape
    hidden = lstm.hidden_size
    onnx_order = [*range(hidden), *range(3 * hidden, 4 * hidden), *range(hidden, 3 * hidden)]  # of an LSTM's four gates
    for layer in range(lstm.num_layers):
        parameters: dict[str, torch.Tensor] = {}
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            both = torch.stack([getattr(lstm, f"{name}_l{layer}{suffix}") for suffix in ("", "_reverse")])
            parameters[name] = both[:, onnx_order]
        bias = torch.cat([parameters["bias_ih"], parameters["bias_hh"]], dim=1)
        (output,) = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            (frames, parameters["weight_ih"], parameters["weight_hh"], bias, lengths),
            {"hidden_size": hidden, "direction": "bidirectional"},
            dtypes=(frames.dtype,),
            shapes=((length, 2, batch, hidden),),
        )
        frames = output.transpose(1, 2).reshape(length, batch, 2 * hidden)
    return frames.transpose(0, 1)


class TransformerLayer(nn.Module):
    """Self-attention and two fully connected layers, each with a norm before and a residual path around (Xiong 2020).

    Args:
        size: Features of a frame.
        num_heads: Number of attention heads, a divisor of `size`.
        feed_forward_size: Features between the two fully connected layers.
        dropout: Dropout of these features, and of the output of either part.
    """

    def __init__(self, size: int, num_heads: int, feed_forward_size: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.inner_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.attention_output = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.widened, self.narrowed = nn.Linear(size, feed_forward_size), nn.Linear(feed_forward_size, size)
        self.dropout = WordDropout(dropout)

    def forward(self, frames: torch.Tensor, is_frame: torch.Tensor) -> torch.Tensor:
        """Return (batch, frame, feature), with padding masked."""
        batch, length, size = frames.shape
        qkv = self.qkv(self.attention_norm(frames)).view(batch, length, 3, self.num_heads, size // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, head, frame, feature)
        scale = query.shape[-1] ** -0.5
        context = attend(query, key, value, is_frame[:, None, None], dropout=0.0, scale=scale)
        attended = self.attention_output(context.transpose(1, 2).reshape(batch, length, size))
        frames = frames + self.dropout(attended)
        inner = self.dropout(F.gelu(self.widened(self.inner_norm(frames))))
        summed: torch.Tensor = frames + self.dropout(self.narrowed(inner))
        return summed


class ProjectedFrames(nn.Module):
    """Hidden layer of a backbone -> layer norm -> neighbouring frames, concatenated and projected.

    Args:
        options: Layer, stride, features.
        sizes: Feature sizes of the backbone's layers.
    """

    def __init__(self, options: FeatureProjection, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.layer_selection = LayerSelection(options.layer, sizes)
        self.norm = nn.LayerNorm(self.layer_selection.size)
        self.stride = options.stride
        self.projection = nn.Conv1d(self.layer_selection.size, options.size, options.stride, options.stride)

    def forward(self, hidden: HiddenStates) -> HiddenStates:
        """Return one layer; a last group with fewer frames is padded with zeros, as if the clip were alone."""
        frames = self.norm(self.layer_selection(hidden)) * hidden.is_frame[..., None]
        frames = self.projection(F.pad(frames, (0, 0, 0, self.stride - 1)).transpose(1, 2)).transpose(1, 2)
        num_frames = (hidden.num_frames + self.stride - 1) // self.stride
        return HiddenStates((frames,), frame_mask(num_frames, frames.shape[1]))


class TransformerEncoder(Encoder):
    """Convolutions or a projection -> sinusoidal positions -> transformer layers, any of which a head may select.

    Args:
        options: Options of the stem, which produces the input frames, and of the layers.
        backbone: The backbone whose hidden layers it reads.

    Attributes:
        sizes: Features of each hidden layer; layer 0 is the input of the first transformer layer, as in a backbone.

    Raises:
        RecipeError: The heads do not divide the features.
    """

    Options = Transformer

    def __init__(self, options: Transformer, backbone: Backbone) -> None:
        super().__init__()
        self.stem_name = "cnn" if options.projection is None else "projection"
        size = (options.projection or options.cnn).size
        if size % options.heads or size % 2:
            raise RecipeError(
                f"{options.heads} heads do not divide {size} features, or the number of features is odd",
                where="encoder.heads",
                remedy=f"Choose an even encoder.{self.stem_name}.size that is a multiple of encoder.heads.",
            )
        if options.projection is not None:
            self.projection = ProjectedFrames(options.projection, backbone.sizes)
        else:
            self.cnn = Cnn2dEncoder(options.cnn, bands_of(backbone, options.name), backbone.num_channels)
        self.dropout = WordDropout(options.dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(size, options.heads, options.feed_forward_size, options.dropout)
            for _ in range(options.layers)
        )
        self.size, self.sizes = size, (size,) * (options.layers + 1)

    @classmethod
    def from_options(cls, options: Transformer, backbone: Backbone) -> Self:
        """Return the encoder for a backbone whose output is images, or for any backbone if frames are projected."""
        return cls(options, backbone)

    @property
    def stem(self) -> nn.Module:
        """The module that produces the input frames of the first layer."""
        stem: nn.Module = getattr(self, self.stem_name)  # stored under its own name in the weights
        return stem

    def forward(self, hidden: HiddenStates) -> HiddenStates:
        """Return the hidden layers; their values on padding are meaningless."""
        stem = self.stem(hidden)
        frames = stem.layers[-1]
        positions = sinusoids(torch.arange(frames.shape[1], device=frames.device), self.size).to(frames)
        layers = [self.dropout(frames + positions)]
        for layer in self.layers:
            layers.append(layer(layers[-1], stem.is_frame))
        return HiddenStates(tuple(layers), stem.is_frame)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return every parameter once, by group: `encoder cnn` (or `encoder projection`), `encoder layer 1`, ..."""
        numbered = enumerate(self.layers, start=1)
        layers = {f"encoder layer {number}": list(layer.parameters()) for number, layer in numbered}
        return {f"encoder {self.stem_name}": list(self.stem.parameters()), **layers}

    def train(self, mode: bool = True) -> TransformerEncoder:
        """Set the training mode; frozen parts stay in evaluation mode, without dropout."""
        super().train(mode)
        for part in (self.stem, *self.layers):
            part.train(mode and any(parameter.requires_grad for parameter in part.parameters()))
        self.dropout.train(self.stem.training)
        return self


def bands_of(backbone: Backbone, encoder: str) -> int:
    """Return the number of bands of each image that a backbone outputs.

    Args:
        encoder: Name of the encoder that reads them.

    Raises:
        RecipeError: The backbone outputs no images.
    """
    if not backbone.num_channels:
        raise RecipeError(
            f"'{encoder}' reads mel bands, but the backbone outputs hidden layers",
            where="encoder.name",
            remedy="Choose 'cnn-blstm', 'transformer' with a projection, or no encoder.",
        )
    return backbone.sizes[-1] // backbone.num_channels


def build_encoder(options: NamedOptions, backbone: Backbone) -> Encoder:
    """Return the encoder that a recipe specifies.

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
