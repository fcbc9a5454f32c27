"""Finished models that training starts from: find them in run and model folders, check them, load their weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from serein import checkpoint as checkpoints
from serein.checkpoint import Checkpoint, is_model_folder
from serein.data.augmentation import WaveformAugmenter
from serein.data.dataset import batch_durations
from serein.data.files import cached_sha256
from serein.data.protocols import learned_speakers, speaker_key
from serein.data.splits import Fold, check_origin
from serein.errors import ModelError, RecipeError, RunError
from serein.evaluation.predictions import read_json
from serein.experiment.data import Experiment, targets_of, tasks_of
from serein.hub import SHIPPED_MODELS
from serein.inference.predictor import model_folder, shipped_models
from serein.models.backbones import HuggingFaceBackbone
from serein.models.heads import PooledHead
from serein.models.hidden_states import Backbone
from serein.models.model import EnsembleMember, SpeechModel, assemble, new_backbone
from serein.models.pretrained import is_own
from serein.recipe import MAIN, HuggingFace, Lora, Recipe
from serein.tasks.task import Task, TaskSpec
from serein.training.batches import require_bands

_SHAPING = (
    "layer",
    "projection",
    "projection_at",
    "projection_kind",
    "pooling",
    "batch_norm",
    "conditioning",
    "hidden",
)


@dataclass(frozen=True)
class PretrainedBranch:
    """A finished model and the branch that is initialised from it.

    Attributes:
        branch: The branch's name in the recipe.
        where: The model folder.
    """

    branch: str
    where: Path
    checkpoint: Checkpoint

    @property
    def member(self) -> EnsembleMember:
        """The encoder and heads; for an ensemble, those of its first member."""
        return self.checkpoint.model.ensemble[0]

    def backbone(self, adapter: Lora | None) -> Backbone:
        """Return the model's backbone, with a new adapter if the recipe specifies one and the backbone has none.

        The backbone of a shipped model is then recorded under that model's name instead of its original source, so
        loading it needs no network access.
        """
        backbone: Backbone = self.checkpoint.model.backbone
        if self.where.parent == SHIPPED_MODELS and isinstance(backbone, HuggingFaceBackbone):
            backbone.lies_in(self.where.name)
        if adapter is not None and backbone.adapter is None:
            backbone.add_adapter(adapter)
        elif adapter != backbone.adapter and adapter is not None:
            raise ModelError(
                f"already has an adapter, {backbone.adapter}, but the recipe specifies {adapter}",
                where=self.where,
                remedy="Merge it into the weights (serein merge MODEL -o FOLDER) and name that folder.",
            )
        return backbone


def resolve(source: str, fold: str, seed: int) -> Path:
    """Return the model folder that a `from` or `teacher` value refers to.

    The value names a model folder, a run folder or a shipped model. From a run, the model of the same fold and seed is
    used, or else its only one.

    Raises:
        ModelError: There is no such model, or the run has several and none for this fold.
    """
    root = Path(source).expanduser()
    places = [root, root / "model", root / f"fold-{fold}" / f"seed-{seed}" / "model"]
    for place in places:
        if is_model_folder(place):
            return place
    folds = sorted(root.glob("fold-*/seed-*/model"))
    own = [path for path in folds if path.parts[-3] == f"fold-{fold}"] or folds
    if len({path.parts[-3] for path in own}) == 1:
        return own[0]
    if folds:
        names = ", ".join(sorted({path.parts[-3].removeprefix("fold-") for path in folds}))
        raise ModelError(
            f"has models for folds {names}, but none for fold '{fold}'",
            where=root,
            remedy="Name a single model folder, or train the run with the same protocol.",
        )
    if not root.exists() and source in shipped_models():
        return model_folder(source)
    if not root.is_dir():
        raise ModelError("no such run or model", where=root, remedy="Train one, or name another 'from'.")
    raise ModelError("contains no finished model", where=root, remedy="Finish the run: serein run --resume.")


def origins_of(recipe: Recipe) -> dict[str, str]:
    """Return the finished models that a recipe starts from: branch, backbone or teacher -> value of the recipe."""
    origins = {name: branch.start for name, branch in recipe.branches.items() if branch.start is not None}
    backbones = {} if MAIN in origins else {"backbone": recipe.backbone}
    backbones |= {f"backbone of {name}": branch.backbone for name, branch in recipe.branches.items() if branch.backbone}
    for name, options in backbones.items():
        if isinstance(options, HuggingFace) and is_own(options.source):
            origins[name] = options.source
    teachers = {f"teacher of {name}": head.taught_by for name, head in recipe.tasks.chosen.items()}
    return origins | {name: options.teacher for name, options in teachers.items() if options}


def hashes_of_origins(recipe: Recipe, fold_runs: Iterable[tuple[str, int]]) -> dict[str, list[str]]:
    """Return the SHA-256 of the finished models' weights that a recipe starts from: origin -> those of folds and seeds.

    Args:
        fold_runs: Name of the fold, and seed.

    Raises:
        ModelError: There is no such model.
    """
    places = list(fold_runs)
    return {
        name: sorted({cached_sha256(resolve(source, *place) / "model.safetensors") for place in places})
        for name, source in origins_of(recipe).items()
    }


def require_same_origins(run: Path, recipe: Recipe, fold_runs: Iterable[tuple[str, int]]) -> None:
    """Check that the finished models that a run started from have not been trained again.

    Raises:
        RunError: One has other weights; its predictions would be mixed with, or taken for, those of the new one.
        ModelError: There is no such model any more.
    """
    before, sources = read_json(run / "data.json").get("origins", {}), origins_of(recipe)
    for name, hashes in hashes_of_origins(recipe, fold_runs).items():
        if not set(before.get(name, hashes)) <= set(hashes):
            raise RunError(
                f"was started from another {sources[name]} ({name}), which has been trained again since",
                where=run,
                remedy="Restore that model, or name another --out.",
            )


def training_of(folder: Path) -> dict[str, Any]:
    """Return the description of a finished model's training; empty if its folder has none."""
    training: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8")).get("training", {})
    return training


def load_pretrained_branches(recipe: Recipe, fold: str, seed: int) -> dict[str, PretrainedBranch]:
    """Load the finished models that a recipe's branches start from, by branch; other branches have no entry.

    Raises:
        ModelError: A model does not exist, has branches of its own, or has a different network from the recipe's.
    """
    pretrained_branches = {}
    for name, branch in recipe.branches.items():
        if branch.start is not None:
            where = resolve(branch.start, fold, seed)
            pretrained_branches[name] = PretrainedBranch(name, where, checkpoints.load(where))
            require_same_network(pretrained_branches[name], recipe)
    return pretrained_branches


def load_pretrained(model: SpeechModel, pretrained: PretrainedBranch, tasks: Mapping[str, Task]) -> None:
    """Load a finished model's weights into a branch: its encoder and the heads that use it.

    A fusion keeps its trained rows; rows for newly added vectors are initialised as the recipe specifies. An output
    layer keeps the rows of the classes that both models have, matched by name; rows of other classes start untrained.

    Raises:
        ModelError: The names or shapes of the weights do not match.
    """
    member = model.ensemble[0]
    encoder = member.encoder if pretrained.branch == MAIN else model.branches[pretrained.branch].encoder
    if encoder is not None and pretrained.member.encoder is not None:
        _load(encoder, pretrained.member.encoder.state_dict(), pretrained, "encoder")
    for task, own in tasks.items():
        if own.options.branch != pretrained.branch or task not in pretrained.member.heads:
            continue
        head, other = member.heads[task], pretrained.member.heads[task]
        state, fresh = dict(other.state_dict()), head.state_dict()
        if isinstance(head, PooledHead) and isinstance(other, PooledHead) and head.fusion and other.fusion:
            num_inputs = len(head.fusion.matrix) - len(other.fusion.matrix)
            if num_inputs > 0:
                wider = other.fusion.extended(num_inputs, float(head.fusion.matrix[-1, 0].detach()))
                state |= {f"fusion.{name}": tensor for name, tensor in wider.state_dict().items()}
        known, wanted = pretrained.checkpoint.tasks[task].spec.classes, own.spec.classes
        for name in [name for name in state if name.startswith("output.")]:
            if own.problem == "classes" and len(state[name]) == len(known) and len(fresh[name]) == len(wanted):
                rows = zip(wanted, fresh[name], strict=True)
                state[name] = torch.stack(
                    [state[name][known.index(each)] if each in known else row for each, row in rows]
                )
            elif state[name].shape != fresh[name].shape:
                state[name] = fresh[name]
        _load(head, state, pretrained, f"tasks.{task}")


def _load(module: nn.Module, state: Mapping[str, Any], pretrained: PretrainedBranch, where: str) -> None:
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(own.keys() | theirs.keys()):
        if own.get(name) != theirs.get(name):
            raise _another(
                pretrained, f"{where}: weights '{name}'", own.get(name, "absent"), theirs.get(name, "absent")
            )
    module.load_state_dict(dict(state), strict=True)


def require_same_network(pretrained: PretrainedBranch, recipe: Recipe) -> None:
    """Check that a finished model has the network that a branch of the recipe describes.

    Raises:
        ModelError: The model has branches, was not trained on the branch's tasks, or differs; the error names the first
            difference.
    """
    options = pretrained.checkpoint.options
    if options.branches:
        raise ModelError(
            "has branches of its own, but a branch must be a single network",
            where=pretrained.where,
            remedy="Name a model without branches.",
        )
    if pretrained.branch == MAIN and options.encoder != recipe.encoder:
        raise _another(pretrained, "encoder", recipe.encoder, options.encoder)
    own = {name: task for name, task in recipe.tasks.chosen.items() if task.branch == pretrained.branch}
    if not own.keys() & options.tasks.chosen.keys():
        raise ModelError(
            f"predicts {', '.join(options.tasks.chosen)}, but branch '{pretrained.branch}' requires {', '.join(own)}",
            where=pretrained.where,
            remedy="Name a model that was trained on one of them.",
        )
    for name in [name for name in recipe.finished if name in own]:
        if name not in options.tasks.chosen:
            raise ModelError(
                f"was not trained on '{name}', and no stage trains it",
                where=pretrained.where,
                remedy="Add the task to a stage.",
            )
    for name in own.keys() & options.tasks.chosen.keys():
        mine, theirs = own[name], options.tasks.chosen[name]
        shaping = (*_SHAPING, *(("loss",) if name in recipe.finished else ()))
        compared = [(key, getattr(mine, key, None), getattr(theirs, key, None)) for key in shaping]
        for key in ("blocks", "heads"):
            blocks, others = (getattr(getattr(each, "attention", None), key, None) for each in (mine, theirs))
            compared.append((f"attention.{key}", blocks, others))
        for key, value, other in compared:
            if value != other:
                raise _another(pretrained, f"tasks.{name}.{key}", value, other)


def _another(pretrained: PretrainedBranch, what: str, own: object, theirs: object) -> ModelError:
    return ModelError(
        f"has a different network: {what} is {theirs} there, but {own} in the recipe",
        where=pretrained.where,
        remedy=f"Make the recipe of branches.{pretrained.branch} match that model, or name another 'from'.",
    )


NOTHING: Mapping[str, PretrainedBranch] = {}


def check_origins(experiment: Experiment) -> list[str]:
    """Return notes on the finished models of a recipe that may have learned the test clips.

    Raises:
        ModelError: There is no such model.
        LeakError: A model was trained on test speakers, although the protocol separates speakers.
    """
    notes = []
    for name, source in origins_of(experiment.recipe).items():
        shared: set[str] = set()
        tested: set[str] = set()
        is_known = True
        for fold, seed in experiment.fold_runs():
            learned = training_of(resolve(source, fold.name, seed)).get("speakers", [])
            clips = [experiment.utterances[p] for p in experiment.positions(fold.test)]
            of_fold = learned_speakers(clips, learned, experiment.manifest.stem)
            if experiment.folds.is_speaker_independent:
                check_origin(of_fold, fold, source)
            shared.update(of_fold)
            tested.update(speaker_key(u) for u in clips if u.speaker is not None)
            is_known &= not clips or (bool(learned) and any(u.speaker is not None for u in clips))
        if shared:
            trained = f"was trained on {len(shared)} of {len(tested)} test speakers"
            notes.append(f"Training uses {source} ({name}), which {trained}: it may have learned the test clips.")
        elif not is_known:
            unknown = "its speakers or those of the test clips are unknown"
            notes.append(f"Training uses {source} ({name}), but {unknown}: it may have learned the test clips.")
    return notes


def require_trainable(experiment: Experiment) -> None:
    """Build the model once and check every stage, to report mismatches before anything is written.

    Raises:
        RecipeError: Backbone, encoder, heads and stages do not fit together.
        ModelError: The backbone or the model of a branch cannot be loaded, or the network differs from the recipe's.
    """
    recipe, fold = experiment.recipe, experiment.folds.folds[0]
    pretrained_branches = load_pretrained_branches(recipe, fold.name, recipe.seeds[0])
    tasks = tasks_with(experiment, fold, pretrained_branches)
    if len(tasks) > 1 or tasks[recipe.tasks.main].fits_on == "train":  # some folds may lack the labels they need
        for other in experiment.folds.folds:
            targets_of(experiment, other, tasks_with(experiment, other, pretrained_branches))
    model = new_model(recipe, tasks, pretrained_branches)
    for number, stage in enumerate(recipe.stages):
        model.train_only(stage.trainable, stage.tasks)
        for branch in model.branches_of(stage.tasks, stage.use_fusion):
            where = f"stages.{number}.spectrogram_augmentation"
            require_bands(model.backbone_of(branch), stage.spectrogram_augmentation, where=where)
            max_s = model.backbone_of(branch).max_s
            if stage.compile and not model.backbone_of(branch).repeated_blocks:
                what, where = "this backbone has no transformer layers to compile", f"stages.{number}.compile"
                raise RecipeError(what, where=where, remedy="Leave it out, or choose the backbone 'huggingface'.")
            if max_s is None:
                continue
            longest_s = float(batch_durations(experiment.recordings, recipe.clips, is_training=False).max())
            if recipe.clips.window_s > max_s:
                what, where = f"windows of {recipe.clips.window_s:g} s", "clips.window_s"
            elif longest_s > max_s:  # test clips are cut into windows, other clips are not
                what, where = f"a clip of {longest_s:.1f} s", "clips.max_s"
            else:
                continue
            remedy = f"Set it to {max_s:g}."
            raise RecipeError(f"{what}, but the backbone accepts at most {max_s:g} s", where=where, remedy=remedy)
        if stage.waveform_augmentation.name != "none":
            WaveformAugmenter(stage.waveform_augmentation)  # raises an error that names a missing package


def tasks_with(
    experiment: Experiment, fold: Fold, pretrained_branches: Mapping[str, PretrainedBranch]
) -> dict[str, Task]:
    """Return the recipe's tasks for a fold; tasks that no stage trains are taken from the model that learned them."""
    recipe = experiment.recipe
    finished = {}
    for name in recipe.finished:
        finished[name] = pretrained_branches[recipe.tasks.chosen[name].branch].checkpoint.tasks[name]
    return tasks_of(experiment, fold, finished)


def task_specs(experiment: Experiment) -> list[TaskSpec]:
    """Return the specifications of a run's tasks, the evaluated one first; classes of some tasks differ by fold."""
    recipe, fold = experiment.recipe, experiment.folds.folds[0]
    pretrained = load_pretrained_branches(recipe, fold.name, recipe.seeds[0]) if recipe.finished else NOTHING
    specs = {name: task.spec for name, task in experiment.tasks.items()}
    for name in recipe.finished:
        specs[name] = pretrained[recipe.tasks.chosen[name].branch].checkpoint.tasks[name].spec
    return [specs[name] for name in recipe.tasks.chosen]


def new_model(
    recipe: Recipe, tasks: Mapping[str, Task], pretrained_branches: Mapping[str, PretrainedBranch] = NOTHING
) -> SpeechModel:
    """Build the model of a recipe, and load the weights that its branches start from.

    Raises:
        RecipeError, ModelError: Parts do not fit together or cannot be loaded.
    """
    heads = {name: (task.options, task.num_outputs) for name, task in tasks.items()}
    backbone = (
        pretrained_branches[MAIN].backbone(recipe.adapter)
        if MAIN in pretrained_branches
        else new_backbone(recipe.backbone, recipe.adapter)
    )
    branches = {}
    for name, branch in recipe.branches.items():
        if name in pretrained_branches:
            finished = pretrained_branches[name].checkpoint
            branches[name] = (finished.model.backbone, finished.options.encoder)
        else:
            own = (branch.backbone, branch.adapter) if branch.backbone else (recipe.backbone, recipe.adapter)
            branches[name] = (new_backbone(*own), branch.encoder)
    branches.pop(MAIN, None)
    model = assemble(
        backbone,
        recipe.encoder,
        heads,
        recipe.ensemble_size,
        text_size(recipe),
        branches,
        normalises_features=recipe.feature_normalisation is not None,
    )
    for pretrained in pretrained_branches.values():
        load_pretrained(model, pretrained, tasks)
    return model


def text_size(recipe: Recipe) -> int:
    """Return the number of features of a sentence vector; 0 if text is not a condition."""
    if "text" not in recipe.tasks.conditions:
        return 0
    from serein.text.sentences import SentenceEncoder

    return SentenceEncoder(recipe.text.encoder).size
