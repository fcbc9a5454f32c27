"""Speech emotion recognition: train, compare and trust models that recognise emotions in speech.

Example:
    >>> import serein
    >>> model = serein.load("runs/demo/fold-1/seed-0/model")  # doctest: +SKIP
    >>> model.predict("clip.wav").label  # doctest: +SKIP
    'happy'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from serein.errors import (
    AudioError,
    LeakError,
    ManifestError,
    MissingExtraError,
    ModelError,
    RecipeError,
    RunError,
    SereinError,
)

if TYPE_CHECKING:
    from serein.data.manifest import read as read_manifest
    from serein.data.utterance import Rating, Utterance
    from serein.inference.predictor import Prediction, Predictor, load
    from serein.inference.segments import Segment, SlidingWindow, Timeline
    from serein.inference.streams import Stream, predict_recording
    from serein.recipe import Recipe
    from serein.recipe import load as load_recipe

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "LeakError",
    "ManifestError",
    "MissingExtraError",
    "ModelError",
    "Prediction",
    "Predictor",
    "Rating",
    "Recipe",
    "RecipeError",
    "RunError",
    "Segment",
    "SereinError",
    "SlidingWindow",
    "Stream",
    "Timeline",
    "Utterance",
    "load",
    "load_recipe",
    "predict_recording",
    "read_manifest",
]

_HOMES = {
    "Prediction": ("serein.inference.predictor", "Prediction"),
    "Predictor": ("serein.inference.predictor", "Predictor"),
    "Rating": ("serein.data.utterance", "Rating"),
    "Recipe": ("serein.recipe", "Recipe"),
    "Segment": ("serein.inference.segments", "Segment"),
    "SlidingWindow": ("serein.inference.segments", "SlidingWindow"),
    "Stream": ("serein.inference.streams", "Stream"),
    "Timeline": ("serein.inference.segments", "Timeline"),
    "Utterance": ("serein.data.utterance", "Utterance"),
    "load": ("serein.inference.predictor", "load"),
    "load_recipe": ("serein.recipe", "load"),
    "predict_recording": ("serein.inference.streams", "predict_recording"),
    "read_manifest": ("serein.data.manifest", "read"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import serein` stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'serein' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
