"""The whole recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from serein.choices import choose
from serein.recipe.data import Clips, Labels, Nouns, Protocol, Text
from serein.recipe.learning import FeatureCacheOptions, Stage
from serein.recipe.model import MAIN, Backbone, Branch, Encoder, LogMel, Lora
from serein.recipe.options import Count, Name, Options
from serein.recipe.tasks import Tasks


class Inference(Options):
    """How a trained model predicts.

    Attributes:
        batch_s: Seconds of audio in a batch.
        precision: `float32` gives the same predictions in any batch; `bfloat16` is faster where the processor has it.
        conditions: Which conditions conditioned models get for dev and test clips: those that models `predicted`
            (`serein corpus annotate`), or the corpus's labels (`oracle`). A run reports both where it can and is scored
            by this one.
    """

    batch_s: Annotated[float, Field(gt=0.0, le=36_000.0)] = 120.0
    precision: Literal["float32", "bfloat16"] = "float32"
    conditions: Literal["predicted", "oracle"] = "predicted"


class Recipe(Options):
    """A whole experiment.

    Attributes:
        adapter: Of the main backbone, and of branches that take one like it.
        branches: Name -> another network for the same clips. `main`, with `from` alone, starts the main one.
        ensemble_size: Encoders with heads trained side by side on one backbone, each from its own initial weights;
            their class probabilities are averaged (deep ensemble, Lakshminarayanan 2017).
    """

    name: Name
    description: str = ""
    labels: Labels = Labels()
    protocol: Protocol = Protocol()
    clips: Clips = Clips()
    text: Text = Text()
    words: Nouns = Nouns()
    backbone: Backbone = LogMel()
    adapter: Lora | None = None
    encoder: Encoder | None = None
    branches: dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_-]*$")], Branch] = {}
    ensemble_size: Count = 1
    tasks: Tasks = Field(default_factory=Tasks)
    feature_cache: FeatureCacheOptions = FeatureCacheOptions()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = (Stage(),)
    inference: Inference = Inference()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)

    def tasks_of(self, stage: Stage) -> tuple[str, ...]:
        """Return the tasks that a stage learns, the one that it watches first."""
        return stage.tasks or tuple(self.tasks.chosen)

    @property
    def finished(self) -> tuple[str, ...]:
        """Tasks that no stage learns, because a finished network has."""
        learned = {name for stage in self.stages for name in self.tasks_of(stage)}
        return tuple(name for name in self.tasks.chosen if name not in learned)

    def answered_after(self, number: int) -> tuple[str, ...] | None:
        """Return the tasks that a model predicts after a stage; `None`: all.

        Those that the stage learns; and those whose vectors join them, unless the stage moves what these read.
        """
        stage = self.stages[number]
        if stage.tasks is None:
            return None
        learned = set(stage.tasks)
        fusions = [task.fusion for name, task in self.tasks.pooled.items() if name in learned and task.fusion]
        joining = {name for fusion in fusions for name in fusion.inputs} if stage.use_fusion else set()
        moved = {"main" if "." not in part else part.partition(".")[0] for part in stage.trainable}
        kept = {
            name for name in joining if "all" not in stage.trainable and self.tasks.chosen[name].branch not in moved
        }
        return tuple(name for name in self.tasks.chosen if name in learned | kept)

    @model_validator(mode="after")
    def _branches_fit(self) -> Recipe:
        known = {MAIN, *self.branches}
        if self.branches and self.ensemble_size > 1:
            raise ValueError("an ensemble has one network: set ensemble_size to 1, or leave out 'branches'")
        if MAIN in self.branches and self.branches[MAIN].start is None:
            raise ValueError("branches.main is 'backbone' and 'encoder': it can only start 'from' a finished network")
        for name, task in self.tasks.chosen.items():
            if task.branch not in known:
                raise ValueError(f"tasks.{name} reads branch '{task.branch}', there is: {', '.join(sorted(known))}")
        if idle := set(self.branches) - {MAIN} - {task.branch for task in self.tasks.chosen.values()}:
            raise ValueError(f"no task reads branch '{min(idle)}': name it as a task's 'branch', or leave it out")
        joins = any(task.fusion and task.fusion.inputs for task in self.tasks.pooled.values())
        if joins and not self.stages[-1].use_fusion:
            raise ValueError(
                "the last stage has use_fusion false, so that no stage learns the weights of the fusion's inputs"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages share a name: {', '.join(names)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: one is named twice: {', '.join(map(str, self.seeds))}")
        kinds = {name: choose("task", name) for name in self.tasks.chosen}
        if self.ensemble_size > 1 and (unmixed := [name for name, kind in kinds.items() if not kind.mixes]):
            raise ValueError(
                f"an ensemble has no common output of '{unmixed[0]}': set ensemble_size to 1, or leave the task out"
            )
        if self.tasks.main not in self.tasks_of(self.stages[-1]):
            raise ValueError(f"the last stage does not learn '{self.tasks.main}', which the model is to predict")
        contrasts = any(task.contrastive for task in self.tasks.pooled.values())
        for stage in self.stages:
            self._stage_fits(stage)
        starts = {name for name, branch in self.branches.items() if branch.start is not None}
        if idle := [name for name in self.finished if self.tasks.chosen[name].branch not in starts]:
            raise ValueError(
                f"no stage learns {', '.join(idle)}: name it in a stage's tasks, leave it out of 'tasks', or let its "
                "branch start 'from' a finished network"
            )
        if others := [name for name in self.finished if kinds[name].problem != "classes"]:
            raise ValueError(f"no stage learns '{others[0]}': only classes can be taken from a finished network")
        for stage in self.stages:
            if contrasts and stage.spectrogram_augmentation.mixup:
                raise ValueError(
                    f"stage '{stage.name}' mixes clips of two classes, which 'contrastive' cannot tell apart: set "
                    "spectrogram_augmentation.mixup to 0, or leave out 'contrastive'"
                )
            if self.protocol.dev == "none" and (stage.patience or stage.schedule.name == "plateau"):
                raise ValueError(
                    f"stage '{stage.name}' monitors a dev score, but protocol.dev is 'none': choose a dev, or train a "
                    "fixed number of epochs"
                )
        return self

    def _stage_fits(self, stage: Stage) -> None:
        """Raise ValueError when a stage's tasks, monitored score or loss weights do not fit the recipe's tasks."""
        where, names = f"stage '{stage.name}'", self.tasks_of(stage)
        if unknown := [name for name in names if name not in self.tasks.chosen]:
            raise ValueError(f"{where} learns {', '.join(unknown)}, which 'tasks' does not have")
        if len(set(names)) < len(names):
            raise ValueError(f"{where} names a task twice: {', '.join(names)}")
        unmixed = [name for name in names if not choose("task", name).mixes]
        if stage.spectrogram_augmentation.mixup and unmixed:
            raise ValueError(
                f"{where} mixes clips, but '{unmixed[0]}' cannot be mixed: set spectrogram_augmentation.mixup to 0"
            )
        if stage.spectrogram_augmentation.mixup and self.labels.raters == "each":
            raise ValueError(
                f"{where} mixes clips, but labels.raters is 'each', and two raters have no mean: set "
                "spectrogram_augmentation.mixup to 0"
            )
        if stage.monitor == "js_similarity" and self.labels.target != "distribution":
            raise ValueError(f"{where} monitors 'js_similarity', which needs labels.target 'distribution'")
        first = choose("task", names[0])
        if stage.sampling != "all" and first.problem not in ("classes", "vector"):
            raise ValueError(f"{where} balances the classes of its first task, but '{names[0]}' has none")
        if stage.monitor not in (None, "loss", *first.monitors):
            raise ValueError(
                f"{where} monitors '{stage.monitor}', which its first task '{names[0]}' does not have, but "
                f"{', '.join(first.monitors)}"
            )
        if unlearned := [name for name in stage.weights if name not in names]:
            raise ValueError(f"{where} weighs {', '.join(unlearned)}, which it does not learn")
        if stage.main_task_weight is not None and stage.weights:
            raise ValueError(f"{where} has 'main_task_weight' and 'weights': leave out one")
        weighed = [name for name in names if self.tasks.chosen[name].weight != 1.0]
        if stage.main_task_weight is not None and weighed:
            raise ValueError(
                f"{where} has 'main_task_weight', which leaves no room for the weight of {', '.join(weighed)}"
            )
