"""Public names are the words of the field: identifiers, options, help texts, recipe keys, JSON keys and the report.

Each list maps a word that must not occur to the word that stands for it. The table of words is in CONTRIBUTING.md.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from types import ModuleType

import click
import pytest
import typer
from pydantic import BaseModel

import serein
from serein.cli import app
from serein.errors import MissingExtraError

# As a part of any name: `said`, `label_said`, `SaidLabel`.
PARTS = {
    "shares": "probabilities",
    "said": "label",
    "heard": "segment, prediction",
    "hear": "predict, encode",
    "hears": "predicts",
    "hearer": "classifier",
    "told": "conditions, condition_source",
    "asking": "knn options",
    "caution": "reject_option",
    "cautious": "reject_option",
    "withheld": "rejected",
    "abstain": "min_confidence",
    "passage": "segment",
    "passages": "segments",
    "judge": "evaluate",
    "judged": "evaluated",
    "manner": "options",
    "tap": "layer, layer_selection",
    "reversed": "gradient_reversal",
    "twins": "duplicates",
    "shelf": "shard",
    "inbox": "buffer",
    "windowing": "sliding_window",
    "fuse": "ensemble",
    "fused": "ensemble",
    "reliance": "calibration_errors",
    "neighboured": "knn",
    "admission": "concurrency limiter",
    "tapped": "cached, layer",
    "watched": "monitored",
}
# As a whole name of a class, function, parameter, field or key.
NAMES = {
    "Answer": "Prediction",
    "Answers": "Predictions",
    "answers": "predictions",
    "TestSide": "TestSet",
    "Adaptation": "KnnAdaptation",
    "Body": "Encoder",
    "Centres": "CosineClassifier",
    "Changer": "WaveformAugmenter",
    "Cutting": "BatchedVad",
    "Ear": "Predictor",
    "Effects": "WaveformAugmentation",
    "EpochKeeper": "CheckpointCallback",
    "Gate": "Middleware",
    "LayerTap": "LayerSelection",
    "LeftOver": "unlabelled",
    "Meaning": "LabelEncoder",
    "Measures": "Metrics",
    "Member": "EnsembleMember",
    "Nearby": "Neighbours",
    "Outcome": "Result",
    "Reading": "HeadOutput",
    "Side": "Split",
    "SideBySide": "AlignedPredictions",
    "Sounds": "HiddenStatesByBranch",
    "Store": "Datastore",
    "Unit": "FoldRun, Trial",
    "VectorOf": "embedding of a task",
    "Voices": "VerificationThreshold",
    "abstain": "min_confidence",
    "average": "ema_decay",
    "band_mask_share": "max_frequency_mask",
    "band_masks": "frequency_masks",
    "band_stretch": "vtlp",
    "bend": "augment",
    "body": "encoder",
    "box": "default_model",
    "changer": "augmenter",
    "contrastive_share": "weight",
    "crop": "random_crop",
    "cut_s": "max_s",
    "effects": "waveform_augmentation",
    "extend": "pad_mode",
    "floor_db": "top_db",
    "hears_at_once_s": "max_window_s",
    "heard_by": "model",
    "hide": "condition_dropout",
    "hop_s": "step_s",
    "inner": "feed_forward_size",
    "is_told": "has_conditions",
    "joined": "inputs",
    "judged_on": "split",
    "keep": "checkpoint",
    "main_share": "main_task_weight",
    "members": "ensemble_size",
    "min_dev_share": "dev_fraction",
    "mixed_minus_model": "knn_minus_model",
    "mixup_share": "mixup_probability",
    "nearby": "neighbours",
    "noise_share": "noise_probability",
    "num_bands": "n_mels",
    "outcomes": "results",
    "over_time": "segments",
    "reversal": "gradient_reversal",
    "share": "probability, weight",
    "share_above_zero": "probability_of_improvement",
    "shortest_s": "min_duration_s",
    "shrink_time": "time_downsampling",
    "side": "split",
    "sides": "splits",
    "sound_s": "audio_s",
    "time_mask_share": "max_time_mask",
    "time_stretch": "tempo",
    "unit": "fold run, trial",
    "views": "num_views",
    "voices": "verification",
    "watch": "monitor",
    "world": "distributed_info",
}
OPTIONS = {
    "--abstain": "--min-confidence",
    "--alpha": "--knn-weight",
    "--attributes": "--conditions",
    "--by": "--metric",
    "--explain": "--show-neighbours",
    "--fuse": "--ensemble",
    "--hop": "--step",
    "--limit-files": "--max-files",
    "--neighbours": "--knn",
    "--of": "--task",
    "--on": "--split",
    "--seen-speakers": "--allow-seen-speakers",
    "--shortest": "--min-duration",
    "--whole": "--segments never",
    "--windows": "--window",
}
COMMANDS = {
    "neighbours": "knn",
    "speakers": "verify",
    "fill": "annotate",
    "listen": "stream",
    "fuse": "ensemble",
    "score": "evaluate",
}
PROSE = {
    r"shares?": "probability, probabilities",
    r"said": "predicted",
    r"hears?|heard": "predict, process",
    r"told": "given",
    r"ha(?:ve|s) a say": "are interpolated",
    r"judge[sd]?": "evaluate",
    r"withheld": "rejected",
    r"abstain": "reject",
    r"passages?": "segments",
    r"don't know": "low confidence",
    r"the box": "the default model",
    r"(?:dev|test|training) sides?": "dev set, test set",
    r"asks? (?:the )?neighbours": "use kNN",
    r"tells? nobody": "no network access",
}
ALLOWED_MODULES = (
    "serein.corpora",  # each corpus in its own words
    "serein.tasks.word_vectors",  # raters judge
    "serein.server.page",
    "serein.server.page_parts",
)
ALLOWED_NAMES = {
    "serein.data.splits.Folds.shares_dev": "the verb: train and dev share speakers",
    "serein.recipe.experiment.Protocol.shares_dev": "the verb: train and dev share speakers",
    "serein.recipe.experiment.Protocol.shares_speakers": "the verb: train and test share speakers",
    "serein.recipe.model.LogMel.hop_s": "the hop of a short-time Fourier transform is called so",
    "serein.models.logmel.LogMelBackbone.hop_s": "likewise",
    "serein.evaluation.scores.TaskScore.unit": "the unit that a score is in",
}


def parts_of(name: str) -> list[str]:
    """Return the lower-case words of a name in snake or camel case.

    Example:
        >>> parts_of("RunCalibration"), parts_of("num_clips")
        (['run', 'calibration'], ['num', 'clips'])
    """
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower())


def fault_of(name: str) -> str | None:
    """Return the standard word for a name that must not be used."""
    return NAMES.get(name) or next((PARTS[part] for part in parts_of(name) if part in PARTS), None)


@cache
def modules() -> tuple[ModuleType, ...]:
    found = []
    for info in pkgutil.walk_packages(serein.__path__, "serein."):
        if any(info.name == name or info.name.startswith(f"{name}.") for name in ALLOWED_MODULES):
            continue
        try:
            found.append(importlib.import_module(info.name))
        except (ImportError, MissingExtraError):
            continue  # an extra is not installed
    return tuple(found)


def own_objects(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Yield the public names that a module defines, not those that it imports."""
    for name in dir(module):
        value = getattr(module, name)
        is_own = getattr(value, "__module__", None) == module.__name__ or (
            name.isupper() and not inspect.isclass(value) and not inspect.isfunction(value)
        )
        if not name.startswith("_") and not inspect.ismodule(value) and is_own:
            yield name, value


def names_within(value: object) -> Iterator[str]:
    """Yield parameters of a function; of a class its public attributes, fields and their parameters."""
    if inspect.isclass(value):
        yield from getattr(value, "__annotations__", {})
        for name, member in vars(value).items():
            if not name.startswith("_") or name == "__init__":
                yield name
                yield from names_within(getattr(member, "__func__", member))
    elif inspect.isfunction(value):
        yield from inspect.signature(value).parameters


def public_names() -> Iterator[tuple[str, str]]:
    """Yield where each public name stands, and the name."""
    for module in modules():
        for name, value in own_objects(module):
            yield f"{module.__name__}.{name}", name
            for inner in names_within(value):
                if not inner.startswith("_"):
                    yield f"{module.__name__}.{name}.{inner}", inner


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command of the command line by its words."""

    def walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield path, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(f"{path} {name}", inner)

    return walk("serein", typer.main.get_command(app))


def faults_of_prose(where: str, text: str) -> list[str]:
    return [
        f"{where}: '{found[0]}' (say {standard})"
        for pattern, standard in PROSE.items()
        if (found := re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE))
    ]


@pytest.mark.slow
def test_identifiers() -> None:
    faults = [
        f"{where} (say {standard})"
        for where, name in public_names()
        if (standard := fault_of(name)) and where not in ALLOWED_NAMES
    ]
    assert not faults, "\n".join(dict.fromkeys(faults))


def test_keys_of_recipes_and_json() -> None:
    faults = [
        f"{module.__name__}.{name}.{key} (say {standard})"
        for module in modules()
        for name, value in own_objects(module)
        if inspect.isclass(value) and issubclass(value, BaseModel)
        for key in {field.alias or key for key, field in value.model_fields.items()}
        if (standard := fault_of(key)) and f"{module.__name__}.{name}.{key}" not in ALLOWED_NAMES
    ]
    assert not faults, "\n".join(faults)


def test_commands_and_options() -> None:
    faults = []
    for path, command in commands():
        if (standard := COMMANDS.get(path.split()[-1])) is not None:
            faults.append(f"{path} (say {standard})")
        for parameter in command.params:
            faults += [f"{path} {option} (say {OPTIONS[option]})" for option in parameter.opts if option in OPTIONS]
    assert not faults, "\n".join(faults)


def test_help_texts() -> None:
    faults = []
    for path, command in commands():
        faults += faults_of_prose(path, command.help or "")
        for parameter in command.params:
            text = f"{getattr(parameter, 'help', None) or ''} {parameter.metavar or ''}"
            faults += faults_of_prose(f"{path} {parameter.opts[0]}", text)
    assert not faults, "\n".join(faults)


def test_the_report() -> None:
    template = files("serein.evaluation").joinpath("report.html.jinja").read_text(encoding="utf-8")
    body = re.sub(r"\{%.*?%\}", "", template[template.index("<body>") :], flags=re.DOTALL)
    assert not (faults := faults_of_prose("report.html", body)), "\n".join(faults)


@pytest.mark.parametrize("name", ["shares", "TrueShares", "abstain_below", "hears_at_once_s", "Answer"])
def test_old_words_are_found(name: str) -> None:
    assert fault_of(name)


@pytest.mark.parametrize(
    "name", ["probabilities", "shared_speakers", "max_window_s", "answered", "is_shared", "side_effect"]
)
def test_other_words_are_not(name: str) -> None:
    assert fault_of(name) is None
