"""From a recipe and its data to a model: what branches start from, what tasks mean, and whether all of it fits."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from serein.data.effects import WaveformAugmenter
from serein.data.folds import Fold
from serein.data.leaks import check_origin
from serein.models.origins import PretrainedBranch, learned_speakers, load_pretrained, load_pretrained_branches
from serein.models.speech import SpeechModel, assemble, new_backbone
from serein.preparation import Experiment, targets_of, tasks_of
from serein.recipe import MAIN, Recipe
from serein.tasks.task import Task
from serein.training.hearing import require_bands

NOTHING: Mapping[str, PretrainedBranch] = {}


def require_trainable(experiment: Experiment) -> None:
    """Build the model once and look at every stage, so that what does not fit is reported before anything is written.

    Raises:
        RecipeError: Backbone, encoder, head and stages do not fit.
        ModelError: The backbone, or what a branch starts from, cannot be loaded, or is another network.
        LeakError: What a branch starts from has learned test speakers.
    """
    recipe, fold = experiment.recipe, experiment.folds.folds[0]
    _require_unheard(experiment)
    pretrained_branches = load_pretrained_branches(recipe, fold.name, recipe.seeds[0])
    tasks = tasks_with(experiment, fold, pretrained_branches)
    if len(tasks) > 1 or recipe.tasks.main in ("asr", "speaker"):  # what these need may be missing in some folds
        for other in experiment.folds.folds:
            targets_of(experiment, other, tasks_with(experiment, other, pretrained_branches))
    model = new_model(recipe, tasks, pretrained_branches)
    for number, stage in enumerate(recipe.stages):
        model.train_only(stage.trainable, stage.tasks)
        for branch in model.branches_of(stage.tasks, stage.use_fusion):
            where = f"stages.{number}.spectrogram_augmentation"
            require_bands(model.backbone_of(branch), stage.spectrogram_augmentation, where=where)
        if stage.waveform_augmentation.name != "none":
            WaveformAugmenter(stage.waveform_augmentation)  # names a package that is missing


def _require_unheard(experiment: Experiment) -> None:
    """Raise LeakError when a branch starts from a model that has learned speakers of a test set."""
    recipe = experiment.recipe
    sources = [branch.start for branch in recipe.branches.values() if branch.start is not None]
    if experiment.folds.is_speaker_independent:
        for source, (fold, seed) in product(sources, experiment.fold_runs()):
            check_origin(experiment.utterances, fold, learned_speakers(source, fold.name, seed), source)


def tasks_with(
    experiment: Experiment, fold: Fold, pretrained_branches: Mapping[str, PretrainedBranch]
) -> dict[str, Task]:
    """Return the recipe's tasks on a fold; those that no stage learns mean what they meant where they were learned."""
    recipe = experiment.recipe
    finished = {}
    for name in recipe.finished:
        finished[name] = pretrained_branches[recipe.tasks.chosen[name].branch].checkpoint.classes_of(name)
    return tasks_of(experiment, fold, finished)


def new_model(
    recipe: Recipe, tasks: Mapping[str, Task], pretrained_branches: Mapping[str, PretrainedBranch] = NOTHING
) -> SpeechModel:
    """Return the model of a recipe, with the weights of what its branches start from.

    Raises:
        RecipeError, ModelError: Parts do not fit, or cannot be loaded.
    """
    heads = {name: (task.options, task.num_outputs) for name, task in tasks.items()}
    backbone = (
        pretrained_branches[MAIN].checkpoint.model.backbone
        if MAIN in pretrained_branches
        else new_backbone(recipe.backbone)
    )
    branches = {}
    for name, branch in recipe.branches.items():
        if name in pretrained_branches:
            branches[name] = (pretrained_branches[name].checkpoint.model.backbone, pretrained_branches[name].encoder)
        else:
            branches[name] = (new_backbone(branch.backbone or recipe.backbone), branch.encoder)
    branches.pop(MAIN, None)
    model = assemble(backbone, recipe.encoder, heads, recipe.ensemble_size, text_size(recipe), branches)
    for pretrained in pretrained_branches.values():
        load_pretrained(model, pretrained, recipe.tasks.chosen)
    return model


def text_size(recipe: Recipe) -> int:
    """Return the features of a sentence vector, 0 without text."""
    if "text" not in recipe.tasks.conditions:
        return 0
    from serein.labels.sentences import vector_size

    return vector_size(recipe.text.encoder)
