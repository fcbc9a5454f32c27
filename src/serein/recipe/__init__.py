"""A recipe: everything that makes an experiment, as data. Unknown keys are refused.

A recipe is a YAML file. `base:` names another recipe that it changes; `set:` changes single values by dotted path:

    base: ../recipe.yaml
    set:
      tasks.emotion.pooling: std
      stages.0.epochs: 10
"""

from serein.recipe.data import Clips, Labels, Nouns, Protocol, Text
from serein.recipe.experiment import Inference, Recipe
from serein.recipe.learning import Batches, Effects, Features, Optimizer, Schedule, SpectrogramAugmentation, Stage
from serein.recipe.model import (
    ArcFace,
    AttentionBlocks,
    Backbone,
    Body,
    Category,
    Cnn2d,
    CnnBlstm,
    Conditioning,
    Contrastive,
    Fusion,
    Head,
    HuggingFace,
    LogMel,
    Tap,
    Tasks,
    Words,
)
from serein.recipe.options import Options
from serein.recipe.reading import dump, load, validate

__all__ = [
    "ArcFace",
    "AttentionBlocks",
    "Backbone",
    "Batches",
    "Body",
    "Category",
    "Clips",
    "Cnn2d",
    "CnnBlstm",
    "Conditioning",
    "Contrastive",
    "Effects",
    "Features",
    "Fusion",
    "Head",
    "HuggingFace",
    "Inference",
    "Labels",
    "Nouns",
    "LogMel",
    "Optimizer",
    "Options",
    "Protocol",
    "Recipe",
    "Schedule",
    "SpectrogramAugmentation",
    "Stage",
    "Tap",
    "Tasks",
    "Text",
    "Words",
    "dump",
    "load",
    "validate",
]
