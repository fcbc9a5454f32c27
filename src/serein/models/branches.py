"""Networks side by side: each branch has a backbone and encoder of its own for the same clips (park2023, Figure 3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from serein.models.body_building import Encoder
from serein.models.hidden import Backbone, HiddenStates
from serein.models.pretrained import ORIGIN

HiddenStatesByBranch = Mapping[str, HiddenStates]  # branch -> hidden states of a batch


class Branch(nn.Module):
    """A backbone with its encoder, beside the main one.

    Args:
        backbone: From waveforms to hidden layers.
        encoder: Trained layers before the heads, or `None`.
    """

    def __init__(self, backbone: Backbone, encoder: Encoder | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder

    @property
    def sizes(self) -> tuple[int, ...]:
        """Feature sizes of the layers that heads read."""
        return self.backbone.sizes if self.encoder is None else self.encoder.sizes

    def forward(self, hidden: HiddenStates) -> HiddenStates:
        """Encode the hidden states of the backbone."""
        worked_out: HiddenStates = hidden if self.encoder is None else self.encoder(hidden)
        return worked_out


def are_equal(one: Backbone, other: Backbone) -> bool:
    """Tell whether two backbones are equal: the same architecture with the same weights, wherever these came from."""
    first, second = (
        {name: value for name, value in each.describe().items() if name not in ORIGIN} for each in (one, other)
    )
    if first != second:
        return False
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def is_frozen(backbone: Backbone) -> bool:
    """Tell whether nothing of a backbone learns."""
    return not any(parameter.requires_grad for parameter in backbone.parameters())
