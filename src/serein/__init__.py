"""Speech emotion recognition: train, compare and trust models that recognise emotions in speech.

Example:
    >>> import serein
    >>> model = serein.load()  # the default model; or a folder, or a name on the Hugging Face Hub  # doctest: +SKIP
    >>> model.predict("call.wav").label  # doctest: +SKIP
    'happy'

Predict: `load`, `Predictor`, `Prediction`, `Segment`, `SlidingWindow`, `Stream`.
Adapt: `adapt`.
Deploy: `export`.
Train: `run`, `train`, `evaluate`, `load_recipe`, `Recipe`.
Test on other data: `robustness`, `cross_corpus`.
Data: `read_manifest`, `Utterance`, `Rating`, `make_splits`.
Measure: `metrics`, `score`.
Extend: `register`.
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
    from serein import metrics
    from serein.choices import register
    from serein.data.manifest import Rating, Utterance
    from serein.data.manifest import read as read_manifest
    from serein.data.splits import make_folds as make_splits
    from serein.evaluation.compare import compare
    from serein.evaluation.scores import score_predictions as score
    from serein.experiment.cross_corpus import cross_corpus
    from serein.experiment.predict import evaluate
    from serein.experiment.robustness import robustness
    from serein.experiment.run import run, train
    from serein.exporting.export import export
    from serein.inference.adaptation import adapt
    from serein.inference.prediction import Prediction, Segment
    from serein.inference.predictor import Predictor, load
    from serein.inference.recording import SlidingWindow
    from serein.inference.streams import Stream
    from serein.recipe import Recipe
    from serein.recipe import load as load_recipe

__version__ = "0.1.0"

_HOMES = {
    "load": "serein.inference.predictor:load",
    "Predictor": "serein.inference.predictor:Predictor",
    "Prediction": "serein.inference.prediction:Prediction",
    "Segment": "serein.inference.prediction:Segment",
    "SlidingWindow": "serein.inference.recording:SlidingWindow",
    "Stream": "serein.inference.streams:Stream",
    "adapt": "serein.inference.adaptation:adapt",
    "export": "serein.exporting.export:export",
    "run": "serein.experiment.run:run",
    "train": "serein.experiment.run:train",
    "evaluate": "serein.experiment.predict:evaluate",
    "robustness": "serein.experiment.robustness:robustness",
    "cross_corpus": "serein.experiment.cross_corpus:cross_corpus",
    "load_recipe": "serein.recipe:load",
    "Recipe": "serein.recipe:Recipe",
    "read_manifest": "serein.data.manifest:read",
    "Utterance": "serein.data.manifest:Utterance",
    "Rating": "serein.data.manifest:Rating",
    "make_splits": "serein.data.splits:make_folds",
    "metrics": "serein.metrics",
    "score": "serein.evaluation.scores:score_predictions",
    "compare": "serein.evaluation.compare:compare",
    "register": "serein.choices:register",
}

__all__ = [
    "load",
    "Predictor",
    "Prediction",
    "Segment",
    "SlidingWindow",
    "Stream",
    "adapt",
    "export",
    "run",
    "train",
    "evaluate",
    "robustness",
    "cross_corpus",
    "load_recipe",
    "Recipe",
    "read_manifest",
    "Utterance",
    "Rating",
    "make_splits",
    "metrics",
    "score",
    "compare",
    "register",
    "AudioError",
    "LeakError",
    "ManifestError",
    "MissingExtraError",
    "ModelError",
    "RecipeError",
    "RunError",
    "SereinError",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import serein` stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'serein' has no attribute '{name}'")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(module), attribute) if attribute else import_module(module)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*__all__, "__version__"])
