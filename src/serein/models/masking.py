"""The parts of a Transformers speech model that depend on where a clip ends, and a fast implementation of each.

The model's own modules keep their names and weights; these functions run them. Frames are always (batch, frame,
feature): on CPU, oneDNN convolves and layer norm reads this layout without a copy.
"""

from __future__ import annotations

import importlib
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from serein.models.hidden_states import frame_mask

NORMALISATION_EPSILON = 1e-7  # of Transformers' Wav2Vec2FeatureExtractor
MOST_PLAIN_FRAMES = 512
FEW_FRAMES = 160  # for fewer, oneDNN takes longer to reorder the weights than it saves
_CPUINFO = Path("/proc/cpuinfo")
IS_AMD = "AuthenticAMD" in (  # a constant, which torch.compile can resolve
    _CPUINFO.read_text(errors="replace") if _CPUINFO.is_file() else platform.processor()
)

Runner = Callable[..., torch.Tensor]  # calls its first argument with the others, possibly with checkpointing


def prepare_waveforms(
    waveforms: torch.Tensor, num_samples: torch.Tensor, *, level_db: float | None, at_least: int
) -> torch.Tensor:
    """Set samples past each clip's own length to zero, normalise each clip separately, and pad the batch.

    Args:
        waveforms: (batch, sample); samples past a clip's own length are not read.
        num_samples: (batch,) long, real samples of each clip.
        level_db: Each clip is normalised to zero mean and to this root mean square over its real samples, in dB
            relative to 1.0: 0 is unit variance. `None` leaves it unchanged.
        at_least: Minimum number of samples of the batch, to which clips are padded.

    Returns:
        (batch, sample) float32.
    """
    is_padding = ~frame_mask(num_samples, waveforms.shape[1])
    clips = waveforms.float().masked_fill(is_padding, 0.0)
    if level_db is not None:
        count = num_samples[:, None]
        clips = (clips - clips.sum(dim=1, keepdim=True) / count).masked_fill(is_padding, 0.0)
        variance = clips.square().sum(dim=1, keepdim=True) / count
        clips = clips / torch.sqrt(variance + NORMALISATION_EPSILON) * 10 ** (level_db / 20)
    missing = torch.sym_max(0, at_least - clips.shape[1])  # type: ignore[no-untyped-call]
    return F.pad(clips, (0, missing))


def add_positions(embedding: nn.Module, frames: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor:
    """Add the convolutional position embedding, with zeros past a clip's end.

    Args:
        embedding: One convolution, or data2vec's stack, in which each layer's output past the end must not reach the
            next.
        frames: (batch, frame, feature).
        is_frame: (batch, frame) bool, False on padding; `None` when nothing is padded.
    """
    layers: Any = getattr(embedding, "layers", [embedding])
    positions = frames
    for layer in layers:
        if getattr(layer, "batch_norm", None) is not None:
            positions = normed_over_batch(layer.batch_norm, positions, is_frame)
        if is_frame is not None:
            positions = positions.masked_fill(~is_frame.unsqueeze(-1), 0.0)
        positions = convolve(layer.conv, positions)[:, : frames.shape[1]]  # an even kernel returns one frame too many
        if hasattr(layer, "layer_norm"):
            positions = layer.layer_norm(positions)
        positions = layer.activation(positions)
    return frames + positions


def drop(input: torch.Tensor, probability: float) -> torch.Tensor:
    """Return `input` with that fraction of its elements set to zero and the rest scaled up.

    On the CPU, each random word provides four mask elements, where PyTorch draws two words per element; the fraction is
    exact to 1/65536. Otherwise, a fine-tuning step of wav2vec2-base would spend a quarter of its time on these draws.
    """
    words = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    draws = words.view(torch.int16)[: input.numel()].view(input.shape)
    kept = (draws >= round(65536 * probability) - 32768).to(input.dtype)
    return input * kept.mul_(1.0 / (1.0 - probability))


def takes_plain_products(query: torch.Tensor) -> bool:
    """Return whether attention trains faster with plain matrix products than with PyTorch's fused kernel.

    On a processor in bfloat16, the gradient of the fused kernel takes up to three times as long if the attention
    weights are few (benchmarks/attention.py).

    Args:
        query: (batch, head, frame, feature).
    """
    is_few = query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] <= MOST_PLAIN_FRAMES
    return is_few and query.requires_grad


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    dropout: float,
    scale: float = 1.0,
) -> torch.Tensor:
    """Return the values weighted by the softmax of query times key, (batch, head, frame, feature) like all three.

    Args:
        mask: (batch, 1 or head, 1 or frame, frame): bool, False on padding, or numbers to add to the scores. `None`: no
            mask.
        dropout: Dropout of the weights.
        scale: Factor of the scores.
    """
    if takes_plain_products(query):
        return weighted(query, key, value, mask, dropout=dropout, scale=scale)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, scale=scale)


def weighted(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    dropout: float,
    scale: float = 1.0,
) -> torch.Tensor:
    """Return the same as `attend`, (batch, head, frame, feature), using plain matrix products."""
    batch, heads, length, size = query.shape
    query, key, value = (each.reshape(batch * heads, length, size) for each in (query, key, value))
    if mask is None:
        scores = (query * scale) @ key.transpose(1, 2)
    else:
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=query.dtype, device=mask.device).masked_fill_(~mask, -math.inf)
        added = mask.to(query.dtype).expand(batch, heads, length, length).reshape(batch * heads, length, length)
        scores = torch.baddbmm(added, query, key.transpose(1, 2), alpha=scale)
    weights = scores.softmax(dim=-1, dtype=scores.dtype)
    weights = drop(weights, dropout) if dropout > 0.0 else weights
    return (weights.to(value.dtype) @ value).view(batch, heads, length, size)


def attend_in_transformers(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attend with the signature that Transformers expects; return (batch, frame, head, feature) and no weights."""
    if not takes_plain_products(query) or options.get("position_bias") is not None:
        theirs = importlib.import_module("transformers.integrations.sdpa_attention").sdpa_attention_forward
        found: tuple[torch.Tensor, None] = theirs(module, query, key, value, attention_mask, **options)
        return found
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    dropout = options.get("dropout", 0.0)
    attended = weighted(query, key, value, attention_mask, dropout=dropout, scale=scale)
    return attended.transpose(1, 2).contiguous(), None


class GatedAttention(nn.Module):
    """WavLM's attention (Chen 2022, eq. 4-6: gated relative position bias) through PyTorch's fused kernel.

    It takes over the parameters of a `WavLMAttention` under their names and is called in the same way. The original
    also computes all attention weights and their mean over heads, which are not used.

    Args:
        attention: The module that it replaces.
    """

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear
    gru_rel_pos_linear: nn.Linear
    gru_rel_pos_const: nn.Parameter
    rel_attn_embed: nn.Embedding  # only in the first layer

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.gru_rel_pos_const = attention.gru_rel_pos_const
        for name, module in attention.named_children():
            self.add_module(name, module)
        self.num_heads: int = attention.num_heads
        self.dropout: float = attention.dropout
        self.num_buckets: int = attention.num_buckets
        self.max_distance: int = attention.max_distance

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None, torch.Tensor]:
        """Attend.

        Args:
            hidden_states: (batch, frame, feature).
            attention_mask: (batch, frame) bool, False on padding.
            position_bias: (head, query, key) from the first layer, or `None` in that layer.

        Returns:
            (batch, frame, feature), `None`, and the position bias.
        """
        if position_bias is None:
            position_bias = self.position_bias(hidden_states.shape[1])
        by_head = (*hidden_states.shape[:-1], self.num_heads, -1)
        gates = self.gru_rel_pos_linear(hidden_states.view(by_head).transpose(1, 2))
        update, reset = torch.sigmoid(gates.view(*gates.shape[:-1], 2, 4).sum(-1)).chunk(2, dim=-1)
        gate = update * (reset * self.gru_rel_pos_const - 1.0) + 2.0  # (batch, head, query, 1)
        bias = gate * position_bias
        if attention_mask is not None:
            bias = bias.masked_fill(~attention_mask[:, None, None], -torch.inf)
        query, key, value = (
            projected(hidden_states).view(by_head).transpose(1, 2)
            for projected in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        scale = query.shape[-1] ** -0.5
        mixed = attend(query, key, value, bias.to(query.dtype), dropout=dropout, scale=scale)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None, position_bias

    def position_bias(self, num_frames: int) -> torch.Tensor:
        """Return (head, query, key): one number per distance, placed along the diagonals.

        Buckets of the distance key - query are exact for small distances, logarithmic for large ones (Raffel 2020).
        """
        weight = self.rel_attn_embed.weight
        distances = torch.arange(1 - num_frames, num_frames, device=weight.device)
        half = self.num_buckets // 2
        exact = half // 2
        steps = distances.abs()
        logarithms = torch.log(steps.float().clamp_min(1) / exact) / math.log(self.max_distance / exact)
        far = (exact + logarithms * (half - exact)).long().clamp_max(half - 1)
        buckets = (distances > 0).long() * half + torch.where(steps < exact, steps, far)
        by_distance = weight[buckets].T
        if torch.compiler.is_exporting():  # ONNX has no views
            frames = torch.arange(num_frames, device=weight.device)
            return by_distance[:, frames[None, :] - frames[:, None] + num_frames - 1]
        return by_distance.unfold(1, num_frames, 1).flip(1)


class OneDnnLinear(nn.Linear):
    """A linear layer that runs as a 1 x 1 convolution where that is faster: in float32 on AMD processors.

    PyTorch multiplies float32 matrices with MKL, which uses its AVX-512 kernels only on Intel processors; it convolves
    with oneDNN, which has no such limit. The convolution computes the same sums in another order, 2.2 times as fast on
    an EPYC 9005. It is not used if a gradient is required: the backward pass of a convolution costs more than its
    forward pass saves.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return (..., out_features) for (..., in_features)."""
        convolves = (
            not torch.compiler.is_exporting()
            and input.device.type == "cpu"
            and input.dtype == self.weight.dtype == torch.float32
            and input.numel() >= FEW_FRAMES * self.in_features
            and not torch.is_autocast_enabled("cpu")
            and not (torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad))
            and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
            and IS_AMD
        )
        if not convolves:
            return F.linear(input, self.weight, self.bias)
        rows = input.reshape(1, -1, self.in_features).transpose(1, 2).unsqueeze(2)
        # A stride over the axis of length one changes nothing, but makes a single thread use oneDNN too.
        output = F.conv2d(rows, self.weight[:, :, None, None], self.bias, stride=(2, 1))
        return output.squeeze(2).transpose(1, 2).view(*input.shape[:-1], self.out_features)


class WordDropout(nn.Dropout):
    """Dropout whose masks are drawn by `drop`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return `input` with a fraction `p` of its elements set to zero and the rest scaled up."""
        if not self.training or not 0.0 < self.p < 1.0 or input.device.type != "cpu":
            return super().forward(input)
        return drop(input, self.p)


def fasten(model: nn.Module) -> None:
    """Switch attention, linear layers and dropout to fast implementations; parameters keep their names and values."""
    config: Any = getattr(model, "config", None)
    if getattr(config, "_attn_implementation", None) == "sdpa":
        masks = importlib.import_module("transformers.masking_utils")
        masks.AttentionMaskInterface.register("serein", masks.sdpa_mask)
        importlib.import_module("transformers.modeling_utils").AttentionInterface.register(
            "serein", attend_in_transformers
        )
        config._attn_implementation = "serein"
    for module in list(model.modules()):
        for name, child in module.named_children():
            if hasattr(child, "gru_rel_pos_const") and not isinstance(child, GatedAttention):
                setattr(module, name, GatedAttention(child))
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear  # the object itself stays: others may already refer to it
        elif type(module) is nn.Dropout:
            module.__class__ = WordDropout


def feature_encoder_layer(layer: Any, frames: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
    """Run a layer of Transformers' convolutional feature encoder.

    Args:
        frames: (batch, frame, channel); for the first layer, (batch, sample, 1), zero on padding.
        num_samples: (batch,) long, real samples of each clip, at least the receptive field.

    Returns:
        (batch, frame, channel).
    """
    norm = getattr(layer, "layer_norm", None)
    if isinstance(norm, nn.GroupNorm):
        frames = normed_over_time(layer, frames.squeeze(-1), num_samples)
    else:
        frames = convolve(layer.conv, frames)
        frames = frames if norm is None else norm(frames)
    activated: torch.Tensor = layer.activation(frames)
    return activated


def normed_over_time(layer: Any, waveforms: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
    """Convolve one channel of samples and normalise each output channel over the clip's real frames.

    A channel's mean and variance follow from those of its input windows: E[w'x] = w'm and Var[w'x] = w'Cw. The norm
    then becomes a scale of the weights and a shift, which saves its two passes over the largest tensor of the model. A
    bias of the convolution has no effect, because the norm removes it.

    Returns:
        (batch, frame, channel).
    """
    conv, norm = layer.conv, layer.layer_norm
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    num_windows = (num_samples - kernel) // stride + 1
    count = num_windows[:, None, None]
    if torch.compiler.is_exporting():  # for runtimes without float64, where the covariance of windows is too inexact
        frames = convolve(conv, waveforms.unsqueeze(-1))
        is_padding = ~frame_mask(num_windows, frames.shape[1])[..., None]
        centred = frames - frames.masked_fill(is_padding, 0.0).sum(dim=1, keepdim=True) / count
        variance = centred.masked_fill(is_padding, 0.0).square().sum(dim=1, keepdim=True) / count
        normed: torch.Tensor = centred * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias
        return normed
    windows = waveforms.unfold(1, kernel, stride)
    # In float64 if the device supports it: a channel that responds to little of its input has a variance far below
    # that of its windows.
    exact = torch.float32 if windows.device.type == "mps" else torch.float64
    is_padding = ~frame_mask(num_windows, windows.shape[1])[..., None]
    real = windows.to(exact).masked_fill(is_padding, 0.0)
    mean = real.sum(dim=1, keepdim=True) / count
    centred = (real - mean).masked_fill_(is_padding, 0.0)
    covariance = centred.transpose(1, 2) @ centred / count
    weight = conv.weight[:, 0].to(exact)
    variance = torch.einsum("ci,bij,cj->bc", weight, covariance, weight)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    shift = norm.bias - scale * (mean.squeeze(1) @ weight.T)
    # each window gets a final one, which is multiplied by the shift: this takes half the time of a product plus a shift
    weights = torch.cat([(weight * scale.unsqueeze(-1)).transpose(1, 2), shift.unsqueeze(1)], dim=1)
    ended = torch.cat([windows, windows.new_ones(*windows.shape[:2], 1)], dim=2)
    return torch.bmm(ended.to(conv.weight.dtype), weights.to(conv.weight.dtype))


def normed_over_batch(norm: nn.Module, frames: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor:
    """Apply batch norm (HuBERT's `conv_pos_batch_norm`) only to the real frames."""
    if is_frame is None or not norm.training:  # then frames are independent
        every: torch.Tensor = norm(frames.flatten(0, 1)).view_as(frames)
        return every if is_frame is None else every.masked_fill(~is_frame[..., None], 0.0)
    real: torch.Tensor = norm(frames[is_frame])
    return real.new_zeros(frames.shape).masked_scatter(is_frame.unsqueeze(-1), real)


def convolve(conv: nn.Module, frames: torch.Tensor) -> torch.Tensor:
    """Convolve over time: (batch, frame, channel) to (batch, frame, channel); a sequence of modules runs in order.

    On CPU, frames are convolved as an image of height one in channels-last layout, for which oneDNN is 1.5 to 2.4 times
    as fast as for the same `conv1d`. Narrow groups are convolved in float32: with AMX, oneDNN's bfloat16 convolution of
    fewer than 16 channels per group and a kernel of 16 or more returns wrong sums (error as large as the values; seen
    with torch 2.13).
    """
    if not isinstance(conv, nn.Conv1d):
        for part in conv.children():
            frames = convolve(part, frames) if isinstance(part, nn.Conv1d) else part(frames)
        return frames
    channels_first = frames.transpose(1, 2)
    weight = conv.weight  # read once: a weight norm is computed here
    stride, padding, groups = conv.stride[0], int(conv.padding[0]), conv.groups
    is_bfloat16 = frames.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    if frames.device.type == "cpu" and is_bfloat16 and groups > 1 and conv.in_channels < 16 * groups:
        bias = None if conv.bias is None else conv.bias.float()
        with torch.autocast("cpu", enabled=False):
            output = F.conv1d(channels_first.float(), weight.float(), bias, stride, padding, 1, groups)
        return output.to(frames.dtype).transpose(1, 2)
    if torch.compiler.is_exporting():
        return F.conv1d(channels_first, weight, conv.bias, stride, padding, 1, groups).transpose(1, 2)
    is_small = frames.shape[0] * frames.shape[1] < FEW_FRAMES * stride
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if is_small or frames.device.type != "cpu" or not has_onednn:
        return F.conv1d(channels_first, weight, conv.bias, stride, padding, 1, groups).transpose(1, 2)
    image, weight = channels_first.unsqueeze(2), weight.unsqueeze(2)
    if conv.in_channels == 1:  # then the layout cannot be inferred from the input alone
        weight = weight.contiguous(memory_format=torch.channels_last)
    output = F.conv2d(image, weight, conv.bias, (1, stride), (0, padding), 1, groups)
    return output.squeeze(2).transpose(1, 2)
