"""Names of a model's parts, as `trainable` has them: `layers 5-12`, `transformer`, `speaker.encoder`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from serein.errors import RecipeError


def expand(name: str, groups: Iterable[str]) -> list[str]:
    """Return the parameter groups that a name means.

    Args:
        name: `all`, `backbone`, `transformer` (the backbone without its CNN), `layers 5-12`, `encoder`,
            `encoder layers 3-4`, or a group; of another branch with its name before a dot (`speaker.all` is all of it).
        groups: All there are.

    Raises:
        RecipeError: There is no such group.

    Example:
        >>> expand("layers 1-2", ["cnn", "layer 1", "layer 2", "heads"])
        ['layer 1', 'layer 2']
        >>> expand("speaker.backbone", ["cnn", "heads", "speaker.cnn", "speaker.encoder"])
        ['speaker.cnn']
    """
    groups = list(groups)
    if name == "all":
        return groups
    branch, dot, part = name.rpartition(".")
    prefix = branch + dot
    own = [group.removeprefix(prefix) for group in groups if group.rpartition(".")[0] == branch]
    found = _within(part, own)
    if found is None:
        raise RecipeError(
            f"'{name}' is no part of this model; its parts are: {', '.join(groups)}",
            where="trainable",
            remedy="Name these, 'layers 5-12', 'transformer', 'backbone' or 'all'.",
        )
    return [prefix + group for group in found]


def _within(part: str, own: Sequence[str]) -> list[str] | None:
    """Return groups of one branch; `None` when it has no such part."""
    encoder = [group for group in own if group.partition(" ")[0] == "encoder"]
    backbone = [group for group in own if group != "heads" and group not in encoder]
    if part == "all" and own:
        return list(own)
    if part == "encoder" and encoder:
        return encoder
    if part == "backbone":
        return backbone
    if part == "transformer":
        return [group for group in backbone if group != "cnn"]
    if layers := re.fullmatch(r"(encoder )?layers (\d+)-(\d+)", part):
        names = [f"{layers[1] or ''}layer {number}" for number in range(int(layers[2]), int(layers[3]) + 1)]
    else:
        names = [part]
    return names if names and all(name in own for name in names) else None
