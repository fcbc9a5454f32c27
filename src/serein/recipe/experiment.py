"""The whole recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from serein.recipe.data import Clips, Labels, Nouns, Protocol, Text
from serein.recipe.learning import Features, Stage
from serein.recipe.model import Backbone, Body, LogMel, Tasks
from serein.recipe.options import Count, Name, Options, Positive


class Inference(Options):
    """How a trained model answers.

    Attributes:
        batch_s: Seconds of audio heard at once.
        precision: `float32` answers alike in any batch; `bfloat16` is faster where the processor has it.
        attributes: What conditioned models are told of dev and test clips: what models `predicted` (`serein corpus
            fill`), or the corpus's labels (`oracle`). A run reports both where it can; this one is its score.
    """

    batch_s: Positive = 120.0
    precision: Literal["float32", "bfloat16"] = "float32"
    attributes: Literal["predicted", "oracle"] = "predicted"


class Recipe(Options):
    """A whole experiment.

    Attributes:
        members: Bodies with heads that learn side by side on one backbone, each from its own first weights; their
            class shares are averaged (deep ensemble, Lakshminarayanan 2017).
    """

    name: Name
    description: str = ""
    labels: Labels = Labels()
    protocol: Protocol = Protocol()
    clips: Clips = Clips()
    text: Text = Text()
    words: Nouns = Nouns()
    backbone: Backbone = LogMel()
    body: Body | None = None
    members: Count = 1
    tasks: Tasks = Tasks()
    features: Features = Features()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = (Stage(),)
    inference: Inference = Inference()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages share a name: {', '.join(names)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: one is named twice: {', '.join(map(str, self.seeds))}")
        contrasts = any(task.contrastive for task in self.tasks.chosen.values())
        for stage in self.stages:
            if contrasts and stage.augmentation.mixup:
                raise ValueError(
                    f"stage '{stage.name}' mixes clips of two classes, which 'contrastive' cannot tell apart: set "
                    "augmentation.mixup to 0, or leave out 'contrastive'"
                )
            if self.protocol.dev == "none" and (stage.patience or stage.schedule.name == "plateau"):
                raise ValueError(
                    f"stage '{stage.name}' watches a dev score, but protocol.dev is 'none': choose a dev, or train a "
                    "fixed number of epochs"
                )
        return self
