"""The model of a recipe: branches of backbone and encoder, an ensemble of heads, and the names of its parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import torch
from torch import nn

from serein.choices import NamedOptions, choose
from serein.errors import ModelError, RecipeError
from serein.models.conditioning import NO_CONDITIONS, Conditions
from serein.models.encoders import build_encoder
from serein.models.feature_norm import FeatureNorm
from serein.models.heads import HEADS, HeadOutput, TaskHead, combine_members
from serein.models.hidden_states import Backbone, Encoder, HiddenStates
from serein.models.pretrained import ORIGIN
from serein.recipe import MAIN, Head, Lora


def expand(name: str, groups: Iterable[str]) -> list[str]:
    """Return the parameter groups that a name refers to.

    If a backbone has an adapter, `all` and `backbone` leave out the backbone's own weights.

    Args:
        name: `all`, `backbone`, `transformer` (the backbone without its CNN), `layers 5-12`, `encoder`,
            `encoder layers 3-4`, or a group; for another branch, with its name before a dot (`speaker.all` is the whole
            branch).
        groups: All groups of the model.

    Raises:
        RecipeError: There is no such group.

    Example:
        >>> expand("layers 1-2", ["cnn", "layer 1", "layer 2", "heads"])
        ['layer 1', 'layer 2']
        >>> expand("speaker.backbone", ["cnn", "heads", "speaker.cnn", "speaker.encoder"])
        ['speaker.cnn']
        >>> expand("all", ["cnn", "layer 1", "adapter", "heads"])
        ['adapter', 'heads']
    """
    groups = list(groups)
    frozen = {
        group
        for group in groups
        if f"{group[: group.rfind('.') + 1]}adapter" in groups
        and group[group.rfind(".") + 1 :].partition(" ")[0] not in ("adapter", "encoder", "heads")
    }
    if name == "all":
        return [group for group in groups if group not in frozen]
    branch, dot, part = name.rpartition(".")
    prefix = branch + dot
    own = [group.removeprefix(prefix) for group in groups if group.rpartition(".")[0] == branch]
    encoder = [group for group in own if group.partition(" ")[0] == "encoder"]
    backbone = [group for group in own if group != "heads" and group not in encoder]
    wholes = {"backbone": backbone, "transformer": [group for group in backbone if group not in ("cnn", "adapter")]}
    wholes |= {whole: parts for whole, parts in {"all": own, "encoder": encoder}.items() if parts}
    if part in wholes:
        found = [prefix + group for group in wholes[part]]
        return found if part == "transformer" else [group for group in found if group not in frozen]
    if layers := re.fullmatch(r"(encoder )?layers (\d+)-(\d+)", part):
        found = [f"{layers[1] or ''}layer {number}" for number in range(int(layers[2]), int(layers[3]) + 1)]
    else:
        found = [part]
    if not found or any(group not in own for group in found):
        raise RecipeError(
            f"'{name}' is not a part of this model; its parts are: {', '.join(groups)}",
            where="trainable",
            remedy="Name these, 'layers 5-12', 'transformer', 'backbone' or 'all'.",
        )
    return [prefix + group for group in found]


HiddenStatesByBranch = Mapping[str, HiddenStates]  # branch -> hidden states of a batch


class Branch(nn.Module):
    """A backbone with its encoder, in addition to the main one.

    Args:
        backbone: From waveforms to hidden layers.
        encoder: Trained layers before the heads, or `None`.
    """

    def __init__(self, backbone: Backbone, encoder: Encoder | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder

    def forward(self, hidden: HiddenStates) -> HiddenStates:
        """Encode the hidden states of the backbone."""
        return hidden if self.encoder is None else cast(HiddenStates, self.encoder(hidden))


def are_equal(one: Backbone, other: Backbone) -> bool:
    """Return whether two backbones have the same architecture and weights, regardless of where these came from."""
    first, second = (
        {name: value for name, value in each.describe().items() if name not in ORIGIN} for each in (one, other)
    )
    if first != second:
        return False
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def is_frozen(backbone: Backbone) -> bool:
    """Return whether no parameter of a backbone is trainable."""
    return not any(parameter.requires_grad for parameter in backbone.parameters())


class EnsembleMember(nn.Module):
    """An encoder and its heads.

    Args:
        encoder: Trained layers between the main backbone and the heads, or `None`.
        heads: Task -> head.
    """

    def __init__(self, encoder: Encoder | None, heads: Mapping[str, TaskHead]) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = cast(Mapping[str, TaskHead], nn.ModuleDict(heads))

    def forward(
        self,
        hidden_states: HiddenStatesByBranch,
        conditions: Conditions = NO_CONDITIONS,
        tasks: Container[str] | None = None,
        use_fusion: bool = True,
    ) -> dict[str, HeadOutput]:
        """Run every head, or those of the given tasks; see `SpeechModel.decode`."""
        if self.encoder is not None and MAIN in hidden_states:
            hidden_states = {**hidden_states, MAIN: self.encoder(hidden_states[MAIN])}
        wanted = [name for name in self.heads if tasks is None or name in tasks]
        head_outputs: dict[str, HeadOutput] = {}
        for name in self.in_order(wanted, use_fusion):
            head = self.heads[name]
            inputs = [head_outputs[other].embedding for other in head.fusion_inputs] if use_fusion else []
            head_outputs[name] = head(hidden_states[head.branch], conditions, inputs)
        return {name: head_outputs[name] for name in wanted}

    def in_order(self, tasks: Iterable[str], use_fusion: bool) -> list[str]:
        """Return the tasks whose heads run, those whose vectors enter the fusion of others first."""
        wanted = list(tasks)
        joining = [other for name in wanted for other in self.heads[name].fusion_inputs] if use_fusion else []
        return list(dict.fromkeys([*joining, *wanted]))


class SpeechModel(nn.Module):
    """Waveforms -> backbone -> ensemble of encoders, each with one head per task; their probabilities are averaged.

    Args:
        backbone: From waveforms to hidden layers.
        ensemble: At least one member; members differ in initial weights and in dropout.
        branches: Other networks for the same clips; each head names its branch.
        feature_norm: Standardises the hidden layers of the main backbone; `None`: they are left as they are.

    Attributes:
        sharing: Branches whose backbone equals the main one, which then runs once for both.
    """

    def __init__(
        self,
        backbone: Backbone,
        ensemble: Sequence[EnsembleMember],
        branches: Mapping[str, Branch] | None = None,
        feature_norm: FeatureNorm | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.feature_norm = feature_norm
        self.ensemble = cast(Sequence[EnsembleMember], nn.ModuleList(ensemble))
        self.branches = cast(Mapping[str, Branch], nn.ModuleDict(branches or {}))
        self.sharing: frozenset[str] = frozenset()

    def forward(
        self, waveforms: torch.Tensor, num_samples: torch.Tensor, conditions: Conditions = NO_CONDITIONS
    ) -> dict[str, HeadOutput]:
        """Encode a padded batch and run the head of every task.

        Args:
            waveforms: (batch, sample) float32 at 16 kHz.
            num_samples: (batch,) long, real samples of each clip.
            conditions: Attribute -> (batch, feature), the known conditions of the clips; missing ones are unknown.
        """
        return self.decode(self.encode(waveforms, num_samples, self.branches_of()), conditions)

    def encode(
        self, waveforms: torch.Tensor, num_samples: torch.Tensor, branches: Iterable[str]
    ) -> HiddenStatesByBranch:
        """Return the hidden states of some branches; backbones with the same weights run once."""
        return self.encode_with(lambda backbone: backbone(waveforms, num_samples), branches)

    def encode_with(self, encode: Callable[[Backbone], HiddenStates], branches: Iterable[str]) -> HiddenStatesByBranch:
        """Return the result of `encode` for each branch's backbone, calling it once for branches that share one."""
        source_of = {name: self.source_of(name) for name in branches}
        encoded = {source: encode(self.backbone_of(source)) for source in dict.fromkeys(source_of.values())}
        return {name: encoded[source] for name, source in source_of.items()}

    def decode(
        self,
        hidden_states: HiddenStatesByBranch,
        conditions: Conditions = NO_CONDITIONS,
        tasks: Container[str] | None = None,
        use_fusion: bool = True,
    ) -> dict[str, HeadOutput]:
        """Run the heads of tasks on hidden states.

        Args:
            hidden_states: Hidden states of the branches that the tasks need (`branches_of`).
            tasks: Tasks whose heads run; `None`: all.
            use_fusion: Whether vectors of other heads enter a head's fusion.
        """
        encoded = {
            name: self.branches[name](own) if name in self.branches else own for name, own in hidden_states.items()
        }
        if self.feature_norm is not None and MAIN in encoded:
            encoded[MAIN] = self.feature_norm(encoded[MAIN])
        head_outputs = [member(encoded, conditions, tasks, use_fusion) for member in self.ensemble]
        return {name: combine_members([head_output[name] for head_output in head_outputs]) for name in head_outputs[0]}

    @property
    def encoders(self) -> list[Encoder]:
        """The members' encoders, if they have any."""
        return [member.encoder for member in self.ensemble if member.encoder is not None]

    def branches_of(self, tasks: Iterable[str] | None = None, use_fusion: bool = True) -> list[str]:
        """Return the branches that some tasks' heads read, including the inputs of their fusion."""
        member = self.ensemble[0]
        running = member.in_order(member.heads if tasks is None else tasks, use_fusion)
        return list(dict.fromkeys(member.heads[name].branch for name in running))

    def source_of(self, branch: str) -> str:
        """Return the branch whose backbone runs for this branch."""
        return MAIN if branch in self.sharing else branch

    def backbone_of(self, branch: str) -> Backbone:
        """Return a branch's own backbone."""
        return self.backbone if branch == MAIN else self.branches[branch].backbone

    def share_backbones(self, branches: Iterable[str] | None = None) -> None:
        """Let branches (`None`: all) share the main backbone if their own is equal to it, so that it runs once."""
        wanted = self.branches if branches is None else branches
        self.sharing = frozenset(name for name in wanted if are_equal(self.backbone, self.backbone_of(name)))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return every parameter once, by the names for `trainable`: the backbone's, `encoder` or its parts, `heads`.

        The groups of other branches follow, with the branch's name before a dot.
        """
        groups: dict[str, list[nn.Parameter]] = {}
        for branch in (MAIN, *self.branches):
            encoded: dict[str, list[nn.Parameter]] = {}
            for encoder in self.encoders if branch == MAIN else [self.branches[branch].encoder]:
                for name, parameters in ({} if encoder is None else encoder.parameter_groups()).items():
                    encoded.setdefault(name, []).extend(parameters)
            own = self.backbone_of(branch).parameter_groups() | (encoded or {"encoder": []})
            if branch == MAIN:
                heads = [head for member in self.ensemble for head in member.heads.values()]
                own["heads"] = [parameter for head in heads for parameter in head.parameters()]
            groups |= {name if branch == MAIN else f"{branch}.{name}": parameters for name, parameters in own.items()}
        return groups

    def train_only(self, names: Iterable[str], tasks: Container[str] | None = None) -> None:
        """Make the named groups trainable and freeze all others.

        Args:
            names: See `serein.models.model.expand`.
            tasks: Tasks whose heads are trained, if heads are; `None`: all.

        Raises:
            RecipeError: There is no such group, or none of them has weights.
        """
        names = list(names)
        groups = self.parameter_groups()
        chosen = {group for name in names for group in expand(name, groups)}
        if not any(groups[group] for group in chosen):
            raise RecipeError(
                f"nothing to train: {', '.join(names) or 'no part'} has no weights in this model",
                where="trainable",
                remedy="Name a part that has weights, or 'all'.",
            )
        for group, parameters in groups.items():
            for parameter in parameters:
                parameter.requires_grad_(group in chosen)
        for member in self.ensemble:
            for task, head in member.heads.items():
                if tasks is not None and task not in tasks:
                    head.requires_grad_(False)
        self.share_backbones(
            name for name in self.branches if is_frozen(self.backbone) and is_frozen(self.backbone_of(name))
        )
        self.train(self.training)

    def train(self, mode: bool = True) -> SpeechModel:
        """Set the training mode, except for frozen batch norms, whose running statistics are frozen too.

        Frozen branches and heads stay in evaluation mode, without dropout.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        heads = [head for member in self.ensemble for head in member.heads.values()]
        encoders = [branch.encoder for branch in self.branches.values()]
        for part in (*heads, *encoders):
            if part is not None and not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self


def new_backbone(options: NamedOptions, adapter: Lora | None = None) -> Backbone:
    """Return the backbone that a recipe specifies, with the weights of its source, and with a new adapter if any."""
    backbone: Backbone = choose("backbone", options.name).from_options(options)
    if adapter is not None:
        backbone.add_adapter(adapter)
    return backbone


def described_backbone(description: Mapping[str, Any]) -> Backbone:
    """Return a backbone from its own description, without weights.

    Raises:
        ModelError: There is no such backbone.
    """
    try:
        backbone: Backbone = choose("backbone", str(description.get("name"))).from_description(description)
    except RecipeError as error:
        raise ModelError(
            error.what,
            where=Path("model.json"),
            remedy="Install the package that it comes from, or a newer serein.",
        ) from None
    return backbone


def assemble(
    backbone: Backbone,
    encoder: NamedOptions | None,
    tasks: Mapping[str, tuple[Head, int]],
    ensemble_size: int = 1,
    text_size: int = 0,
    branches: Mapping[str, tuple[Backbone, NamedOptions | None]] | None = None,
    *,
    normalises_features: bool = False,
) -> SpeechModel:
    """Build a model from its parts.

    Args:
        backbone: The main branch's backbone.
        encoder: The recipe's encoder, or `None`.
        tasks: Task -> its options and number of outputs.
        ensemble_size: Number of parallel encoders with heads.
        text_size: Features of a sentence vector, for heads that are conditioned on the text.
        branches: Backbone and encoder of each other network; their heads are in `tasks`.
        normalises_features: Whether the main backbone's features are standardised.
    """
    others = {
        name: Branch(own, None if options is None else build_encoder(options, own))
        for name, (own, options) in (branches or {}).items()
    }
    ensemble = []
    for number in range(ensemble_size):
        own_encoder = None if encoder is None else build_encoder(encoder, backbone)
        networks = {**others, MAIN: Branch(backbone, own_encoder)}
        sizes = {  # of the layers that the heads of a branch read
            name: branch.backbone.sizes if branch.encoder is None else branch.encoder.sizes
            for name, branch in networks.items()
        }
        heads: dict[str, TaskHead] = {}
        join_others = {other for head, _ in tasks.values() for other in head.fusion_inputs}
        for name in sorted(tasks, key=lambda name: bool(tasks[name][0].fusion_inputs)):  # inputs of fusion first
            head, num_outputs = tasks[name]
            joining = {other: heads[other].size for other in head.fusion_inputs}
            is_drawn_apart = name in join_others
            with torch.random.fork_rng(devices=[], enabled=is_drawn_apart):
                if is_drawn_apart:  # seeded by name: later parts are initialised as if these weights were never drawn
                    torch.manual_seed((torch.initial_seed() + crc32(f"{number} {name}".encode())) % 2**63)
                heads[name] = HEADS[head.reads](head, sizes[head.branch], num_outputs, text_size, joining)
        ensemble.append(EnsembleMember(own_encoder, {name: heads[name] for name in tasks}))
    return SpeechModel(backbone, ensemble, others, FeatureNorm(backbone.sizes) if normalises_features else None)
