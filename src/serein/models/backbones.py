"""Backbones from Transformers: wav2vec 2.0 and its relatives, whose output does not depend on the batch."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from serein.errors import AudioError
from serein.models.hidden_states import Backbone, HiddenStates, frame_mask
from serein.models.masking import add_positions, encode, fasten, prepare_waveforms
from serein.models.pretrained import (
    DEFAULT_OVERRIDES,
    MASK_EMBEDDING,
    ORIGIN,
    Place,
    build_config,
    checked_overrides,
    do_normalize_of,
    new_model,
    weights_hash,
)


class HuggingFaceBackbone(Backbone):
    """A speech model of Transformers: waveform -> convolutions -> projection -> transformer layers.

    A clip's hidden layers are those that Transformers gives for the clip alone, whatever it is batched with. Frozen
    parts run in evaluation mode, and no graph is kept of those below the lowest trainable one.

    Args:
        model: `Wav2Vec2Model` or another class of `FAMILIES`; its modules are run, its `forward` is not.
        do_normalize: Whether each clip is brought to zero mean and unit variance first.
        origin: What `describe` says of the weights: source, revision, overrides, weights_sha256.
        gradient_checkpointing: Trade time for memory in training.

    Example:
        >>> tiny = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8,
        ...         "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "conv_dim": [8] * 7}
        >>> backbone = HuggingFaceBackbone.from_config({"model_type": "wavlm", **tiny}).eval()
        >>> hidden = backbone(torch.randn(2, 16_000), torch.tensor([16_000, 5_000]))
        >>> [tuple(layer.shape) for layer in hidden.layers], hidden.num_frames.tolist()
        ([(2, 49, 8), (2, 49, 8), (2, 49, 8)], [49, 15])
    """

    def __init__(
        self,
        model: Any,
        *,
        do_normalize: bool,
        origin: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        fasten(model)
        if not hasattr(model, MASK_EMBEDDING):  # or the names of weights would depend on an override
            model.masked_spec_embed = nn.Parameter(torch.zeros(model.config.hidden_size))
        self.model = model
        self.do_normalize = do_normalize
        self.gradient_checkpointing = gradient_checkpointing
        self._origin = {**ORIGIN, **(origin or {})}
        self.num_layers = len(model.encoder.layers)
        self.sizes = (model.config.hidden_size,) * (self.num_layers + 1)
        self._kernels, self._strides = tuple(model.config.conv_kernel), tuple(model.config.conv_stride)
        self.receptive_field = _receptive_field(self._kernels, self._strides)
        self.frame_rate_hz = self.sample_rate_hz / math.prod(self._strides)
        family = model.config.model_type
        self._has_position_bias = family == "wavlm"
        self._norms_first = family != "data2vec-audio" and bool(getattr(model.config, "do_stable_layer_norm", False))

    @classmethod
    def from_source(
        cls,
        source: str,
        *,
        overrides: Mapping[str, Any] | None = None,
        revision: str | None = None,
        gradient_checkpointing: bool = False,
    ) -> HuggingFaceBackbone:
        """Load a pretrained model, whole or not at all.

        Args:
            source: Local folder, which is never looked up elsewhere, or a name on the Hugging Face Hub. Checkpoints of
                pretraining, CTC or classification models serve as well; their heads are left out.
            overrides: Changes of the model's configuration, of the keys of `OVERRIDES`. SpecAugment and layer drop
                are off unless they are named here.
            revision: Commit, tag or branch on the Hub.
            gradient_checkpointing: Trade time for memory in training.

        Raises:
            ModelError: There is no such model, its family is not supported, or weights are missing or damaged.
            RecipeError: An override is unknown or out of range.
        """
        changes = checked_overrides(overrides or {})
        place = Place.of(source, revision)
        config = build_config(place.read_config(), changes, where=source)
        do_normalize = do_normalize_of(config, place.read_preprocess(), where=source)
        origin = {"source": source, "revision": place.commit(), "overrides": dict(overrides or {})}
        model = place.load(config)
        backbone = cls(model, do_normalize=do_normalize, origin=origin, gradient_checkpointing=gradient_checkpointing)
        backbone._origin["weights_sha256"] = weights_hash(backbone)
        return backbone.eval()

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        preprocess: Mapping[str, Any] | None = None,
        *,
        gradient_checkpointing: bool = False,
    ) -> HuggingFaceBackbone:
        """Build the architecture with random weights, to be loaded strictly or trained from scratch.

        Under `torch.device("meta")` hardly any memory is taken, for `load_state_dict(..., assign=True)`.

        Args:
            config: What `describe` returned, or a configuration of Transformers (`config.json`).
            preprocess: Beside a configuration: what `preprocessor_config.json` holds, if there is one.
            gradient_checkpointing: Trade time for memory in training.

        Raises:
            ModelError: The family is not supported, or the configuration is not valid.
        """
        if "config" in config:
            built = build_config(config["config"], {}, where="config")
            do_normalize = bool(config.get("do_normalize", do_normalize_of(built, None, where="config")))
            origin = {key: config[key] for key in ORIGIN if key in config}
        else:
            built = build_config(config, DEFAULT_OVERRIDES, where="config")
            do_normalize, origin = do_normalize_of(built, preprocess, where="config"), {}
        model = new_model(built)
        return cls(
            model, do_normalize=do_normalize, origin=origin, gradient_checkpointing=gradient_checkpointing
        ).eval()

    def forward(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> HiddenStates:
        """Encode a padded batch; a clip shorter than the receptive field (25 ms) is filled up with zeros to one frame.

        Args:
            waveforms: (batch, sample) float32 at 16 kHz; what lies past a clip's own length is ignored.
            num_samples: (batch,) long, real samples of each clip.

        Returns:
            Hidden layers as wide as the longest clip; what they hold on padding means nothing.

        Raises:
            AudioError: A clip has no samples, or more than its row.
        """
        if self.training:
            self._settle_frozen()
        lengths = _checked_lengths(waveforms, num_samples)
        clips = prepare_waveforms(waveforms, lengths, normalise=self.do_normalize, at_least=self.receptive_field)
        num_frames = self.num_frames(torch.tensor(lengths))
        is_frame = frame_mask(num_frames, int(num_frames.max())).to(clips.device)
        mask = None if num_frames.min() == num_frames.max() else is_frame
        layers, output = self._run(clips, [max(length, self.receptive_field) for length in lengths], mask)
        return HiddenStates(layers, is_frame, output)

    def num_frames(self, num_samples: torch.Tensor) -> torch.Tensor:
        """Return the frames of clips of so many samples: (batch,) long."""
        frames = num_samples.clamp_min(self.receptive_field)
        for kernel, stride in zip(self._kernels, self._strides, strict=True):
            frames = (frames - kernel) // stride + 1
        return frames

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter exactly once: `cnn`, `projection` (all that is neither), `layer 1` to `layer N`."""
        groups: dict[str, list[nn.Parameter]] = {"cnn": list(self.model.feature_extractor.parameters())}
        groups["projection"] = []
        for number, layer in enumerate(self.model.encoder.layers, start=1):
            groups[f"layer {number}"] = list(layer.parameters())
        named = {id(parameter) for group in groups.values() for parameter in group}
        groups["projection"] = [parameter for parameter in self.parameters() if id(parameter) not in named]
        return groups

    def describe(self) -> dict[str, Any]:
        """Return what `from_config` builds the same architecture from, and where the weights came from."""
        config = json.loads(self.model.config.to_json_string(use_diff=False))
        return {
            "name": "huggingface",
            "config": {key: value for key, value in config.items() if not key.startswith("_")},
            "do_normalize": self.do_normalize,
            **self._origin,
        }

    def untouched_source(self) -> dict[str, Any] | None:
        """Return source, revision and sha256 of the weights if they can be had again there, else `None`."""
        digest = self._origin["weights_sha256"]
        if self._origin["source"] is None or digest != weights_hash(self):
            return None
        return {"source": self._origin["source"], "revision": self._origin["revision"], "sha256": digest}

    def train(self, mode: bool = True) -> HuggingFaceBackbone:
        """Switch to training mode, in which frozen parts stay in evaluation mode."""
        super().train(mode)
        if mode:
            self._settle_frozen()
        return self

    def _settle_frozen(self) -> None:
        """Dropout only where something learns. Called at each forward: `requires_grad` is anybody's to change."""
        encoder, groups = self.model.encoder, self.parameter_groups()
        modules = {"cnn": [self.model.feature_extractor]}
        modules["projection"] = [
            self.model.feature_projection,
            encoder.pos_conv_embed,
            encoder.layer_norm,
            encoder.dropout,
        ]
        modules |= {f"layer {number}": [layer] for number, layer in enumerate(encoder.layers, start=1)}
        learns = {name: any(parameter.requires_grad for parameter in group) for name, group in groups.items()}
        self.model.train(any(learns.values()))
        for name, parts in modules.items():
            for part in parts:
                part.train(learns[name])

    def _num_frozen_below(self) -> int:
        """Return how many groups from the bottom hold nothing that learns."""
        if not torch.is_grad_enabled():
            return 0
        for index, parameters in enumerate(self.parameter_groups().values()):
            if any(parameter.requires_grad for parameter in parameters):
                return index
        return self.num_layers + 2

    def _run(
        self, waveforms: torch.Tensor, num_samples: list[int], is_frame: torch.Tensor | None
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
        """Run the model's parts in order; `is_frame` is `None` when nothing is padded."""
        frozen = 0 if waveforms.requires_grad else self._num_frozen_below()
        with _graph(frozen < 1):
            frames = encode(self.model.feature_extractor, waveforms.to(self._dtype), num_samples, self._call)
        with _graph(frozen < 2):
            hidden = self._project(frames, is_frame)
        layers, position_bias = [hidden], None
        mask = self._attention_mask(hidden, is_frame)
        for index, layer in enumerate(self.model.encoder.layers):
            if not self._drops(layer, index):
                with _graph(frozen < index + 3):
                    hidden, position_bias = self._transform(layer, hidden, mask, position_bias)
            layers.append(hidden)
        return tuple(layers), self._closed(hidden)

    def _project(self, frames: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor:
        projected = self.model.feature_projection(frames)
        hidden = projected[0] if isinstance(projected, tuple) else projected
        hidden = self._spec_augment(hidden, is_frame)
        hidden = add_positions(self.model.encoder.pos_conv_embed, hidden, is_frame)
        if not self._norms_first:
            hidden = self.model.encoder.layer_norm(hidden)
        dropped: torch.Tensor = self.model.encoder.dropout(hidden)
        return dropped

    def _transform(
        self, layer: nn.Module, hidden: torch.Tensor, mask: torch.Tensor | None, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self._has_position_bias:
            return self._call(layer, hidden, attention_mask=mask, position_bias=bias)  # type: ignore[no-any-return]
        return self._call(layer, hidden, attention_mask=mask), None

    def _closed(self, hidden: torch.Tensor) -> torch.Tensor | None:
        return self.model.encoder.layer_norm(hidden) if self._norms_first else None

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False, **kwargs)
        return function(*args, **kwargs)

    def _attention_mask(self, hidden: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor | None:
        """Return the mask in the form that the model's kind of attention takes."""
        if is_frame is None or self._has_position_bias:
            return is_frame
        masks = importlib.import_module("transformers.masking_utils")
        mask: torch.Tensor | None = masks.create_bidirectional_mask(self.model.config, hidden, is_frame)
        return mask

    def _spec_augment(self, hidden: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor:
        """Mask frames and features as Transformers does, from NumPy's random state; not clips shorter than a mask."""
        config = self.model.config
        if not (self.model.training and config.apply_spec_augment) or hidden.shape[1] < config.mask_time_length:
            return hidden
        masked: torch.Tensor = self.model._mask_hidden_states(hidden.clone(), attention_mask=is_frame)
        return masked

    def _drops(self, layer: nn.Module, index: int) -> bool:
        """Layer drop (Fan 2020). WavLM's first layer stays: it makes the position bias of all."""
        rate = self.model.config.layerdrop
        if not (layer.training and rate > 0.0) or (index == 0 and self._has_position_bias):
            return False
        return bool(torch.rand([]) < rate)

    @property
    def _dtype(self) -> torch.dtype:
        weight: torch.Tensor = self.model.feature_projection.projection.weight
        return weight.dtype


def _checked_lengths(waveforms: torch.Tensor, num_samples: torch.Tensor) -> list[int]:
    lengths: list[int] = num_samples.tolist()
    if waveforms.ndim != 2 or len(lengths) != len(waveforms):
        shapes = f"{tuple(waveforms.shape)} and {tuple(num_samples.shape)}"
        raise AudioError(f"waveforms and num_samples are {shapes}, expected (batch, sample) and (batch,)")
    for index, length in enumerate(lengths):
        if not 1 <= length <= waveforms.shape[1]:
            raise AudioError(f"clip {index} of a batch of {waveforms.shape[1]} samples has length {length}")
    return lengths


def _receptive_field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return the receptive field of a frame, in samples."""
    field = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        field = (field - 1) * stride + kernel
    return field


def _graph(is_kept: bool) -> AbstractContextManager[Any]:
    return nullcontext() if is_kept else torch.no_grad()
