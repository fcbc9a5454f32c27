"""Encoders by the names of recipes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from serein.errors import RecipeError
from serein.models.bodies import Cnn2dEncoder, CnnBlstmEncoder
from serein.models.hidden import Backbone
from serein.models.transformer import TransformerEncoder
from serein.recipe import CnnBlstm, Transformer
from serein.recipe import Encoder as EncoderOptions

Encoder = Cnn2dEncoder | CnnBlstmEncoder | TransformerEncoder


def build_encoder(options: EncoderOptions, backbone: Backbone) -> Encoder:
    """Return the encoder that a recipe names.

    Raises:
        RecipeError: It does not fit the backbone.
    """
    if isinstance(options, CnnBlstm):
        return CnnBlstmEncoder(options, backbone.sizes)
    if not backbone.num_channels:
        raise RecipeError(
            f"'{options.name}' reads mel bands, but the backbone has hidden layers",
            where="encoder.name",
            remedy="Choose 'cnn-blstm', or no encoder.",
        )
    bands = backbone.sizes[-1] // backbone.num_channels
    if isinstance(options, Transformer):
        return TransformerEncoder(options, bands, backbone.num_channels)
    return Cnn2dEncoder(options, bands, backbone.num_channels)


def encoder_groups(encoders: Sequence[Encoder]) -> dict[str, list[nn.Parameter]]:
    """Return every parameter of the encoders once, by the names that recipes freeze: `encoder`, or its parts."""
    groups: dict[str, list[nn.Parameter]] = {}
    for encoder in encoders:
        own = (
            encoder.parameter_groups()
            if isinstance(encoder, TransformerEncoder)
            else {"encoder": list(encoder.parameters())}
        )
        for name, parameters in own.items():
            groups.setdefault(name, []).extend(parameters)
    return groups or {"encoder": []}
