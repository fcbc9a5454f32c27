"""The one assembly: a backbone hears, a body works it out, heads read."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from serein.errors import ModelError, RecipeError
from serein.models.body_building import Body, body_groups, build_body
from serein.models.conditioning import NOTHING_TOLD, Conditions
from serein.models.heads import Reading, TaskHead, build_head, joined
from serein.models.hidden import Backbone, HiddenStates
from serein.models.logmel import LogMelBackbone
from serein.recipe import Body as BodyOptions
from serein.recipe import Head, HuggingFace, LogMel


class Member(nn.Module):
    """What works out and reads a backbone's hidden layers.

    Args:
        body: Trained layers before the heads, or `None`.
        heads: Task -> head.
    """

    def __init__(self, body: Body | None, heads: Mapping[str, TaskHead]) -> None:
        super().__init__()
        self.body = body
        self.heads = nn.ModuleDict(heads)

    def forward(
        self, hidden: HiddenStates, conditions: Conditions = NOTHING_TOLD, tasks: Container[str] | None = None
    ) -> dict[str, Reading]:
        """Read every task, or those that are named."""
        if self.body is not None:
            hidden = self.body(hidden)
        return {name: head(hidden, conditions) for name, head in self.heads.items() if tasks is None or name in tasks}


class SpeechModel(nn.Module):
    """Waveforms -> backbone -> members, each a body with one head per task; their shares are averaged.

    Args:
        backbone: From waveforms to hidden layers.
        members: At least one; they differ in their first weights and in what is dropped out.
    """

    def __init__(self, backbone: Backbone, members: Sequence[Member]) -> None:
        super().__init__()
        self.backbone = backbone
        self.members = nn.ModuleList(members)

    def forward(
        self, waveforms: torch.Tensor, num_samples: torch.Tensor, conditions: Conditions = NOTHING_TOLD
    ) -> dict[str, Reading]:
        """Hear a padded batch and read every task.

        Args:
            waveforms: (batch, sample) float32 at 16 kHz.
            num_samples: (batch,) long, real samples of each clip.
            conditions: Attribute -> (batch, feature), what is told of the clips; what is not given is unknown.
        """
        return self.read(self.backbone(waveforms, num_samples), conditions)

    def read(
        self, hidden: HiddenStates, conditions: Conditions = NOTHING_TOLD, tasks: Container[str] | None = None
    ) -> dict[str, Reading]:
        """Read every task from the backbone's hidden layers, or those that are named."""
        readings = [member(hidden, conditions, tasks) for member in self.members]
        return {name: joined([reading[name] for reading in readings]) for name in readings[0]}

    @property
    def bodies(self) -> list[Body]:
        """The members' bodies, if they have any."""
        return [member.body for member in self.members if isinstance(member, Member) and member.body is not None]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, by the names that `trainable` knows: the backbone's, `body` or its parts, `heads`."""
        groups = self.backbone.parameter_groups()
        named = list(self.members.named_parameters())
        groups |= body_groups(self.bodies)
        groups["heads"] = [parameter for name, parameter in named if ".body." not in f".{name}"]
        return groups

    def train_only(self, names: Iterable[str], tasks: Container[str] | None = None) -> None:
        """Let the named groups learn and freeze all others.

        Args:
            tasks: Those whose heads learn, when heads do; `None`: all.
            names: `all`, `backbone`, `transformer` (the backbone without its CNN), or names of `parameter_groups`;
                `layers 5-12` is `layer 5` to `layer 12`.

        Raises:
            RecipeError: There is no such group, or none of them has weights.
        """
        names = list(names)
        groups = self.parameter_groups()
        chosen = {group for name in names for group in _expand(name, groups)}
        if not any(groups[group] for group in chosen):
            raise RecipeError(
                f"nothing learns: {', '.join(names) or 'no part'} has no weights in this model",
                where="trainable",
                remedy="Name a part that learns, or 'all'.",
            )
        for group, parameters in groups.items():
            for parameter in parameters:
                parameter.requires_grad_(group in chosen)
        self._freeze_other_heads(tasks)
        self.train(self.training)

    def _freeze_other_heads(self, tasks: Container[str] | None) -> None:
        for name, parameter in self.members.named_parameters():
            if tasks is not None and (head := _HEAD.match(name)) and head["task"] not in tasks:
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> SpeechModel:
        """Switch to training, all but frozen batch norms: their running statistics are frozen too."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        return self


_HEAD = re.compile(r"\d+\.heads\.(?P<task>\w+)\.")  # of a member


def _expand(name: str, groups: Mapping[str, object]) -> list[str]:
    if name == "all":
        return list(groups)
    body = [group for group in groups if group.partition(" ")[0] == "body"]
    backbone = [group for group in groups if group != "heads" and group not in body]
    if name == "body":
        return body
    if name == "backbone":
        return backbone
    if name == "transformer":
        return [group for group in backbone if group != "cnn"]
    if layers := re.fullmatch(r"(body )?layers (\d+)-(\d+)", name):
        names = [f"{layers[1] or ''}layer {number}" for number in range(int(layers[2]), int(layers[3]) + 1)]
    else:
        names = [name]
    unknown = [group for group in names if group not in groups]
    if unknown or not names:
        raise RecipeError(
            f"'{name}' is no part of this model; its parts are: {', '.join(groups)}",
            where="trainable",
            remedy="Name these, 'layers 5-12', 'transformer', 'backbone' or 'all'.",
        )
    return names


def new_backbone(options: LogMel | HuggingFace) -> Backbone:
    """Return the backbone that a recipe names, with the weights of its source."""
    if isinstance(options, LogMel):
        return LogMelBackbone(options)
    from serein.models.backbones import HuggingFaceBackbone

    return HuggingFaceBackbone.from_source(options.source, overrides=options.overrides, revision=options.revision)


def described_backbone(description: Mapping[str, Any]) -> Backbone:
    """Return a backbone without weights from its own description."""
    if description.get("name") == "logmel":
        return LogMelBackbone(LogMel.model_validate(description))
    if description.get("name") == "huggingface":
        from serein.models.backbones import HuggingFaceBackbone

        return HuggingFaceBackbone.from_config(description)
    raise ModelError(
        f"unknown backbone '{description.get('name')}'",
        where=Path("model.json"),
        remedy="The folder was written by a newer serein: upgrade.",
    )


def assemble(
    backbone: Backbone,
    body: BodyOptions | None,
    tasks: Mapping[str, tuple[Head, int]],
    num_members: int = 1,
    text_size: int = 0,
) -> SpeechModel:
    """Put a model together.

    Args:
        backbone: What hears.
        body: The recipe's body, or `None`.
        tasks: Task -> its options and number of outputs.
        num_members: Bodies with heads, side by side.
        text_size: Features of a sentence vector, for heads that are conditioned on the text.
    """
    return SpeechModel(backbone, [_member(backbone, body, tasks, text_size) for _ in range(num_members)])


def _member(
    backbone: Backbone, body: BodyOptions | None, tasks: Mapping[str, tuple[Head, int]], text_size: int
) -> Member:
    built = None if body is None else build_body(body, backbone)
    sizes = backbone.sizes if built is None else built.sizes
    heads = {name: build_head(options, sizes, outputs, text_size) for name, (options, outputs) in tasks.items()}
    return Member(built, heads)
