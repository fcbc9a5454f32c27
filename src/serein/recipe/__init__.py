"""A recipe: everything that makes an experiment, as data. Unknown keys are refused.

A recipe is a YAML file. `base:` names another recipe that it changes; `set:` changes single values by dotted path:

    base: ../recipe.yaml
    set:
      tasks.emotion.pooling: std
      stages.0.epochs: 10
"""

from serein.recipe.experiment import Clips, Inference, Labels, Nouns, Protocol, Recipe, Text
from serein.recipe.learning import (
    Batches,
    FeatureCacheOptions,
    Optimizer,
    Schedule,
    SpectrogramAugmentation,
    Stage,
    WaveformAugmentation,
)
from serein.recipe.model import (
    MAIN,
    Backbone,
    Branch,
    Cnn2d,
    CnnBlstm,
    Encoder,
    HuggingFace,
    LayerChoice,
    LogMel,
    Lora,
    Transformer,
)
from serein.recipe.options import Options
from serein.recipe.reading import dump, load, validate
from serein.recipe.tasks import (
    ArcFace,
    AttentionBlocks,
    Category,
    Conditioning,
    Contrastive,
    Dimension,
    Dimensions,
    Distillation,
    Fusion,
    Head,
    Pooled,
    Tasks,
    Transcript,
    Words,
)

__all__ = [
    "MAIN",
    "ArcFace",
    "AttentionBlocks",
    "Backbone",
    "Batches",
    "Encoder",
    "Branch",
    "Category",
    "Clips",
    "Cnn2d",
    "CnnBlstm",
    "Conditioning",
    "Contrastive",
    "Distillation",
    "Dimension",
    "Dimensions",
    "WaveformAugmentation",
    "FeatureCacheOptions",
    "Fusion",
    "Head",
    "HuggingFace",
    "Inference",
    "Labels",
    "Nouns",
    "LogMel",
    "Lora",
    "Optimizer",
    "Options",
    "Pooled",
    "Protocol",
    "Recipe",
    "Schedule",
    "SpectrogramAugmentation",
    "Stage",
    "LayerChoice",
    "Tasks",
    "Text",
    "Transcript",
    "Transformer",
    "Words",
    "dump",
    "load",
    "validate",
]
