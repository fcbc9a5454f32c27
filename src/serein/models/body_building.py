"""Bodies by the names of recipes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from serein.errors import RecipeError
from serein.models.bodies import Cnn2dBody, CnnBlstmBody
from serein.models.hidden import Backbone
from serein.models.transformer import TransformerBody
from serein.recipe import Body as BodyOptions
from serein.recipe import CnnBlstm, Transformer

Body = Cnn2dBody | CnnBlstmBody | TransformerBody


def build_body(options: BodyOptions, backbone: Backbone) -> Body:
    """Return the body that a recipe names.

    Raises:
        RecipeError: It does not fit the backbone.
    """
    if isinstance(options, CnnBlstm):
        return CnnBlstmBody(options, backbone.sizes)
    if not backbone.num_channels:
        raise RecipeError(
            f"'{options.name}' reads mel bands, but the backbone has hidden layers",
            where="body.name",
            remedy="Choose 'cnn-blstm', or no body.",
        )
    bands = backbone.sizes[-1] // backbone.num_channels
    if isinstance(options, Transformer):
        return TransformerBody(options, bands, backbone.num_channels)
    return Cnn2dBody(options, bands, backbone.num_channels)


def body_groups(bodies: Sequence[Body]) -> dict[str, list[nn.Parameter]]:
    """Return every parameter of the members' bodies once, by the names that recipes freeze: `body`, or its parts."""
    groups: dict[str, list[nn.Parameter]] = {}
    for body in bodies:
        own = body.parameter_groups() if isinstance(body, TransformerBody) else {"body": list(body.parameters())}
        for name, parameters in own.items():
            groups.setdefault(name, []).extend(parameters)
    return groups or {"body": []}
