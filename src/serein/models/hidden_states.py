"""What a backbone hands on: the hidden layers of every clip, and which of their frames are real.

Adapters are small matrices that learn beside a pretrained backbone's own weights (LoRA, Hu 2022), by `peft`.
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
        layers: One tensor per layer, each ``(batch, frames, features)``. ``layers[0]`` enters the first
            transformer layer; ``layers[i]`` is the output of transformer layer ``i``.
        is_frame: ``(batch, frames)`` bool, False on padding.
        output: What the model hands on at its end where that is not ``layers[-1]``: large wav2vec 2.0, HuBERT and
            WavLM models close with a layer norm. ``None`` elsewhere.
    """

    layers: tuple[torch.Tensor, ...]
    is_frame: torch.Tensor
    output: torch.Tensor | None = None

    @property
    def last(self) -> torch.Tensor:
        """The end of the model (Transformers' ``last_hidden_state``): ``(batch, frames, features)``."""
        return self.layers[-1] if self.output is None else self.output

    @property
    def num_frames(self) -> torch.Tensor:
        """Real frames of each clip: ``(batch,)`` long."""
        return self.is_frame.sum(dim=1)


def frame_mask(num_frames: torch.Tensor, length: int, device: torch.device | None = None) -> torch.Tensor:
    """Mark the first ``num_frames[b]`` of ``length`` frames of each clip.

    Args:
        num_frames: ``(batch,)`` long, real frames of each clip.
        length: Frames of the padded batch.
        device: Of the mask; ``None``: that of ``num_frames``.

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
    """Return the name that a weight has without an adapter.

    Example:
        >>> plain_name("layers.0.self_attn.q_proj.base_layer.bias")
        'layers.0.self_attn.q_proj.bias'
    """
    return name.replace(".base_layer.", ".")


def own_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a module's weights without those of its adapter, under the names that they have without it."""
    state = module.state_dict()
    return {plain_name(name): tensor for name, tensor in state.items() if not ADAPTER_WEIGHT.search(name)}


class Backbone(nn.Module, ABC):
    """From waveforms to hidden layers. Batching never changes the output.

    Attributes:
        Options: What recipes say of such a backbone; its `name` is that of the choice.
        sizes: Feature size of each entry of ``HiddenStates.layers``.
        num_layers: Transformer layers, so ``len(sizes) == num_layers + 1``.
        frame_rate_hz: Frames per second.
        sample_rate_hz: Samples per second that ``forward`` expects.
        num_channels: Images that stand side by side in the features of a frame; 0 when they are no image.
        adapter: Options of the matrices beside a pretrained backbone's own; ``None``: there are none.
        max_s: Seconds of the longest clip that ``forward`` takes; ``None``: no limit.
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
            waveforms: ``(batch, samples)`` float32; what lies past a clip's own length is ignored.
            num_samples: ``(batch,)`` long, real samples of each clip, on the host: shapes follow from them, and a
                device would have to be waited for.
        """

    @property
    def repeated_blocks(self) -> list[nn.Module]:
        """The modules that run one after the other, each of which `torch.compile` takes alone: transformer layers."""
        return []

    def num_fixed_layers(self) -> int:
        """Return how many entries of ``HiddenStates.layers``, from the lowest on, depend on nothing that learns.

        All are fixed when the whole backbone is frozen. Those that ``resume`` cannot go on from count as 0.
        """
        return 0 if any(parameter.requires_grad for parameter in self.parameters()) else len(self.sizes)

    def weights_of(self, number: int) -> dict[str, torch.Tensor]:
        """Return the weights that the entry `number` of ``HiddenStates.layers`` hangs on, and maybe others."""
        return self.state_dict()

    def resume(self, below: HiddenStates) -> HiddenStates:
        """Run what lies above the fixed hidden layers.

        Args:
            below: The highest fixed layer, and those below it that are wanted; the places of others hold anything.

        Returns:
            The hidden layers of ``forward``, maybe padded to more frames.
        """
        raise NotImplementedError

    def add_adapter(self, options: Lora) -> None:
        """Put new matrices beside a pretrained model's own, which freeze.

        Raises:
            RecipeError: The backbone has no place for them.
            MissingExtraError: `peft` is not installed.
        """
        raise RecipeError("this backbone takes no adapter", where="adapter", remedy="Choose a pretrained one.")

    def merge_adapter(self) -> None:
        """Add an adapter to the weights that it stands beside; the outputs stay the same."""
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
        """Every parameter exactly once, by the name that a recipe freezes: ``cnn``, ``layer 1``, ..."""

    @classmethod
    def from_options(cls, options: Any) -> Self:
        """Return the backbone that a recipe's `Options` mean; by default, made from them alone."""
        return cls(options)

    @classmethod
    def check(cls, options: Any) -> None:
        """Refuse what `from_options` cannot load, before anything else is done; reads no weights."""
        return None

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """Return the architecture that ``describe`` described, without its weights; by default, from its options."""
        return cls.from_options(cls.Options.model_validate(description))

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """A JSON-serialisable description from which the same architecture can be built again; its ``name`` first."""

    def untouched_source(self) -> dict[str, Any] | None:
        """Return where weights can be had again that are its source's own; `None`: nowhere, or they were trained."""
        return None


class Encoder(nn.Module, ABC):
    """From the hidden layers of a backbone to hidden layers: trained layers between a backbone and the heads.

    Attributes:
        Options: What recipes say of such an encoder; its `name` is that of the choice.
        size: Features of a frame of the last layer.
        sizes: Features of each hidden layer.
    """

    Options: ClassVar[type[NamedOptions]]

    size: int
    sizes: tuple[int, ...]

    @classmethod
    @abstractmethod
    def from_options(cls, options: Any, backbone: Backbone) -> Self:
        """Return the encoder that a recipe's `Options` mean.

        Raises:
            RecipeError: It does not fit the backbone.
        """

    @abstractmethod
    def forward(self, hidden: HiddenStates) -> HiddenStates:
        """Encode; what padding holds never changes what real frames become."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, by the name that a recipe freezes."""
        return {"encoder": list(self.parameters())}
