"""The output of a backbone: the hidden layers of every clip, and which of their frames are real.

Adapters are small trainable matrices added to a pretrained backbone's own weights (LoRA, Hu 2022), by `peft`.
"""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import nn

from serein.choices import NamedOptions
from serein.device import sent
from serein.errors import RecipeError
from serein.recipe import Lora


@dataclass(frozen=True)
class HiddenStates:
    """The hidden layers of a batch of clips.

    Attributes:
        layers: One tensor per layer, each ``(batch, frames, features)``. ``layers[0]`` is the input of the first
            transformer layer; ``layers[i]`` is the output of transformer layer ``i``.
        is_frame: ``(batch, frames)`` bool, False on padding.
        output: The final output of the model if it is not ``layers[-1]``: large wav2vec 2.0, HuBERT and WavLM models
            end with a layer norm. ``None`` otherwise.
    """

    layers: tuple[torch.Tensor, ...]
    is_frame: torch.Tensor
    output: torch.Tensor | None = None

    @property
    def last(self) -> torch.Tensor:
        """The final output of the model (Transformers' ``last_hidden_state``): ``(batch, frames, features)``."""
        return self.layers[-1] if self.output is None else self.output

    @property
    def num_frames(self) -> torch.Tensor:
        """Number of real frames of each clip: ``(batch,)`` long."""
        return self.is_frame.sum(dim=1)


def frame_mask(num_frames: torch.Tensor, length: int, device: torch.device | None = None) -> torch.Tensor:
    """Mark the first ``num_frames[b]`` of ``length`` frames of each clip.

    Args:
        num_frames: ``(batch,)`` long, real frames of each clip.
        length: Frames of the padded batch.
        device: Device of the mask; ``None``: that of ``num_frames``.

    Returns:
        ``(batch, length)`` bool, False on padding.

    Example:
        >>> frame_mask(torch.tensor([1, 3]), 3).tolist()
        [[True, False, False], [True, True, True]]
    """
    ends = num_frames if device is None else sent(num_frames, device)
    return torch.arange(length, device=ends.device)[None, :] < ends[:, None]


ADAPTER_WEIGHT = re.compile(r"\.lora_\w+\.")  # in the names of weights


def plain_name(name: str) -> str:
    """Return a weight's name without an adapter.

    Example:
        >>> plain_name("layers.0.self_attn.q_proj.base_layer.bias")
        'layers.0.self_attn.q_proj.bias'
    """
    return name.replace(".base_layer.", ".")


def own_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a module's weights except those of its adapter, under the names that they have without it."""
    state = module.state_dict()
    return {plain_name(name): tensor for name, tensor in state.items() if not ADAPTER_WEIGHT.search(name)}


class Backbone(nn.Module, ABC):
    """From waveforms to hidden layers. Batching never changes the output.

    Attributes:
        Options: The backbone's options in a recipe; their `name` is the name of the choice.
        sizes: Feature size of each entry of ``HiddenStates.layers``.
        num_layers: Number of transformer layers, so ``len(sizes) == num_layers + 1``.
        frame_rate_hz: Frames per second.
        sample_rate_hz: Samples per second that ``forward`` expects.
        num_channels: Number of images that are concatenated in the features of a frame; 0 if they are no image.
        adapter: Options of the matrices added to a pretrained backbone's own; ``None``: there are none.
        max_s: Seconds of the longest clip that ``forward`` accepts; ``None``: no limit.
    """

    Options: ClassVar[type[NamedOptions]]

    sizes: tuple[int, ...]
    num_layers: int
    frame_rate_hz: float
    sample_rate_hz: int = 16_000
    num_channels: int = 0
    max_s: float | None = None
    adapter: Lora | None = None

    @abstractmethod
    def forward(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> HiddenStates:
        """Encode a padded batch.

        Args:
            waveforms: ``(batch, samples)`` float32; samples past a clip's own length are ignored.
            num_samples: ``(batch,)`` long, real samples of each clip, on the host: shapes depend on them, and reading
                them from a device would block.
        """

    @property
    def repeated_blocks(self) -> list[nn.Module]:
        """The modules that run in sequence, each of which `torch.compile` compiles separately: transformer layers."""
        return []

    def num_fixed_layers(self) -> int:
        """Return how many entries of ``HiddenStates.layers``, from the lowest up, depend on no trainable parameter.

        All are fixed if the whole backbone is frozen. The number is 0 if ``resume`` cannot continue from them.
        """
        return 0 if any(parameter.requires_grad for parameter in self.parameters()) else len(self.sizes)

    def weights_of(self, number: int) -> dict[str, torch.Tensor]:
        """Return the weights that the entry `number` of ``HiddenStates.layers`` depends on, and possibly others."""
        return self.state_dict()

    def resume(self, below: HiddenStates) -> HiddenStates:
        """Run the layers above the fixed hidden layers.

        Args:
            below: The fixed layers, of which the highest and the required ones have their values; the others may have
                any.

        Returns:
            The hidden layers that ``forward`` returns, possibly padded to more frames.
        """
        raise NotImplementedError

    def add_adapter(self, options: Lora) -> None:
        """Add new matrices to a pretrained model's own, which are frozen.

        Raises:
            RecipeError: The backbone does not support adapters.
            MissingExtraError: `peft` is not installed.
        """
        raise RecipeError("this backbone takes no adapter", where="adapter", remedy="Choose a pretrained one.")

    def merge_adapter(self) -> None:
        """Merge the adapter into the weights that it adapts; the outputs stay the same."""
        if self.adapter is None:
            return
        layer_class = importlib.import_module("peft.tuners.lora").LoraLayer
        for module in list(self.modules()):
            for name, child in module.named_children():
                if isinstance(child, layer_class):
                    child.merge(safe_merge=True)  # W + (alpha / rank) B A
                    setattr(module, name, child.get_base_layer())
        self.adapter = None

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return every parameter exactly once, by the group name that recipes use: ``cnn``, ``layer 1``, ..."""

    @classmethod
    def from_options(cls, options: Any) -> Self:
        """Return the backbone that a recipe's `Options` specify; by default, built from them alone."""
        return cls(options)

    @classmethod
    def check(cls, options: Any) -> None:
        """Reject options that `from_options` cannot load, before anything else is done; no weights are read."""
        return None

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """Return the architecture that ``describe`` described, without weights; by default, built from its options."""
        return cls.from_options(cls.Options.model_validate(description))

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return a JSON-serialisable description from which the architecture can be rebuilt, with ``name`` first."""

    def untouched_source(self) -> dict[str, Any] | None:
        """Return the source that provides the same weights; `None`: there is none, or the weights were trained."""
        return None


class Encoder(nn.Module, ABC):
    """Trained layers between a backbone and the heads, from hidden layers to hidden layers.

    Attributes:
        Options: The encoder's options in a recipe; their `name` is the name of the choice.
        size: Features of a frame of the last layer.
        sizes: Features of each hidden layer.
    """

    Options: ClassVar[type[NamedOptions]]

    size: int
    sizes: tuple[int, ...]

    @classmethod
    @abstractmethod
    def from_options(cls, options: Any, backbone: Backbone) -> Self:
        """Return the encoder that a recipe's `Options` specify.

        Raises:
            RecipeError: The encoder does not fit the backbone.
        """

    @abstractmethod
    def forward(self, hidden: HiddenStates) -> HiddenStates:
        """Encode the hidden states; the values of padding never affect real frames."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return every parameter once, by the group name that recipes use."""
        return {"encoder": list(self.parameters())}
