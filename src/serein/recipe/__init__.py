"""A recipe: the complete description of an experiment, as data. Unknown keys are rejected.

A recipe is a YAML file. `base:` names another recipe to start from; `set:` changes single values by dotted path:

    base: ../recipe.yaml
    set:
      tasks.emotion.pooling: std
      stages.0.epochs: 10
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy, deepcopy
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from yaml.composer import Composer, ComposerError

from serein.choices import Options, choose, names
from serein.errors import RecipeError, expected_one_of
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
    FeatureNormalisation,
    FeatureProjection,
    HuggingFace,
    LayerChoice,
    LogMel,
    Lora,
    Transformer,
)
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
    "FeatureNormalisation",
    "FeatureProjection",
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


def load(path: str | Path, overrides: Iterable[str] = (), task: str | None = None) -> Recipe:
    """Read a recipe file, its bases, and `key.path=value` overrides.

    Args:
        path: The file; a relative path below `recipes` is also found in the source checkout and in the package.
        task: Train only this task, with the options of the recipe's main task if it has none of its own.

    Raises:
        RecipeError: The file is missing or not YAML, or a key or value is unknown; the message names the key and the
            nearest known one.

    Example:
        >>> load("recipes/demo.yaml", ["stages.0.epochs=3"]).stages[0].epochs
        3
    """
    path = Path(path)
    if not path.exists() and path.parts[:1] == ("recipes",):
        package = Path(str(resources.files("serein")))
        path = next((found for folder in (package.parents[1], package) if (found := folder / path).is_file()), path)
    values = _read(path, ())
    for override in [overrides] if isinstance(overrides, str) else overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"'{override}' is not KEY=VALUE", where="--set", remedy="Write: --set stages.0.epochs=3.")
        _set(values, key.strip(), parse_yaml(text, where=f"--set {override}"), where="--set")
    recipe = validate(values, where=path)
    if task is None:
        return recipe
    if task not in names("task"):
        what = expected_one_of(task, names("task"), kind="task")
        raise RecipeError(what, where="--task", remedy="Name one of these.")
    name = recipe.name if task == recipe.tasks.main else f"{recipe.name}-{task}"
    tasks, monitors = recipe.tasks.only(task), (None, "loss", *choose("task", task).monitors)
    stages = [stage for stage in recipe.stages if stage.tasks is None or task in stage.tasks] or recipe.stages
    idle: dict[str, Any] = {"tasks": None, "main_task_weight": None, "weights": {}}
    alone = tuple(
        stage.model_copy(update=idle | {"monitor": stage.monitor if stage.monitor in monitors else None})
        for stage in stages
    )
    read = {name: branch for name, branch in recipe.branches.items() if name in (MAIN, tasks.chosen[task].branch)}
    changed = recipe.model_copy(update={"tasks": tasks, "stages": alone, "name": name, "branches": read})
    return validate(changed.model_dump(mode="json"), where=f"{path} --task {task}")


def validate(values: Mapping[str, Any], *, where: str | Path) -> Recipe:
    """Return the recipe that `values` describe, or raise RecipeError, which names the key at fault."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        location = _as_written(problem["loc"], values)
        if problem["type"] == "missing" and isinstance(problem["loc"][-1], str):
            location = [*location, problem["loc"][-1]]
        key = str(problem["loc"][-1]) if problem["loc"] else ""
        remedy = "See docs/recipes.md for the keys of a recipe."
        if problem["type"] == "extra_forbidden":
            known = {info.alias or name for part in _subclasses(Options) for name, info in part.model_fields.items()}
            alike = difflib.get_close_matches(key, sorted(known - {key}), n=20, cutoff=0.7)
            near = [name for name in alike if _is_key(name, location, values)][:1]
            usual = [Recipe(name="any"), Recipe(name="any", backbone=HuggingFace(source="any"))]
            paths = [path for each in usual for path in _paths_of(key, each.model_dump(mode="json"))]
            if ".".join(location) in paths:  # a key of the other backbone
                paths = [f"backbone.name: {each.backbone.name}" for each in usual if hasattr(each.backbone, key)]
            meant = list(dict.fromkeys([*near, *paths]))
            what, remedy = f"unknown key '{key}'", f"Did you mean {' or '.join(map(repr, meant))}?" if meant else remedy
        elif problem["type"] == "missing":
            what, remedy = "a value is missing" if key.isdecimal() else f"the key '{key}' is missing", "Add it."
        elif problem["type"] == "union_tag_not_found":
            what, remedy = "the key 'name' is missing", "Add it."
        elif problem["type"] == "union_tag_invalid":
            what = f"unknown name '{problem['ctx']['tag']}', expected one of: {problem['ctx']['expected_tags']}"
        else:  # a union reports a problem for each member
            every = [other["msg"] for other in error.errors() if _as_written(other["loc"], values) == location]
            message = ", or ".join(every or [problem["msg"]])
            message = message.removeprefix("Value error, ").replace(", or Input", ", or input")
            message = re.sub(r" or instance of \w+", "", message)
            what = message.replace("valid tuple", "list").replace("Tuple should", "The list should")
        place = f"{where}: {'.'.join(location)}" if location else str(where)
        raise RecipeError(what[0].lower() + what[1:], where=place, remedy=remedy) from None


def dump(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML, from which `load` returns the same recipe."""
    return str(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise RecipeError(
            "no such recipe", where=path, remedy="Name a .yaml file, for instance recipes/demo.yaml."
        ) from None
    except UnicodeDecodeError:
        raise RecipeError("is not a text file", where=path, remedy="Name a .yaml recipe.") from None
    content = parse_yaml(text, where=str(path))
    if not isinstance(content, dict):
        raise RecipeError("contains no keys", where=path, remedy="Write a YAML mapping: name, protocol, stages, ...")
    values: dict[str, Any] = content
    base, changes = values.pop("base", None), values.pop("set", {})
    if base is not None:
        target = (path.parent / str(base)).resolve()
        if target in (*seen, path.resolve()):
            raise RecipeError(f"'base: {base}' leads back to itself", where=path, remedy="Remove the cycle.")
        values = _merged(_read(target, (*seen, path.resolve())), values)
    values.setdefault("stages", [{}])  # the default one, so that `stages.0.epochs` can be set
    if not isinstance(changes, dict):
        raise RecipeError("'set' is not a mapping", where=path, remedy="Write: set: {stages.0.epochs: 3}.")
    for key, value in changes.items():
        _set(values, str(key), value, where=str(path))
    return values


class _UniqueKeys(Composer):
    """Rejects a key that a mapping has twice, of which PyYAML would use the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return a mapping as it is written, before other mappings are merged into it by `<<`."""
        mapping: yaml.MappingNode = super().compose_mapping_node(anchor)
        found = set()
        for key, _ in mapping.value:
            if key.value in found and key.value != "<<":
                raise ComposerError(None, None, f"the key '{key.value}' occurs twice", key.start_mark)
            found |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
        return mapping


class _UniqueKeyLoader(_UniqueKeys, yaml.SafeLoader):
    pass


class _TextLoader(_UniqueKeys, yaml.BaseLoader):
    pass


def parse_yaml(text: str, *, where: str, as_text: bool = False) -> Any:
    """Parse a recipe, a table, a label map or a value of `--set`.

    Args:
        text: YAML.
        where: Named by errors: a file or an option.
        as_text: Whether words such as `no` and numbers stay text.

    Raises:
        RecipeError: It is not YAML, or a mapping has a key twice; names the line.
    """
    try:
        return yaml.load(text, Loader=_TextLoader if as_text else _UniqueKeyLoader)  # noqa: S506 (both are safe)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        problem = getattr(error, "problem", None) or "cannot be parsed"
        remedy = "Check indentation and colons, and name each key once."
        raise RecipeError(f"not YAML ({problem})", where=place, remedy=remedy) from None


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; a different `name` is another choice and replaces the whole mapping."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            is_other_choice = "name" in old and value.get("name", old["name"]) != old["name"]
            merged[key] = value if is_other_choice else _merged(old, value)
        else:
            merged[key] = value
    return merged


def _set(values: dict[str, Any], dotted: str, value: Any, *, where: str) -> None:
    keys = dotted.split(".")
    target: Any = values
    for number, key in enumerate(keys, start=1):
        if isinstance(target, list) and (not key.isdecimal() or int(key) >= len(target)):
            what = f"'{key}' in '{dotted}' is not a position in a list of {len(target)}"
            raise RecipeError(what, where=where, remedy="Count positions from 0.")
        place: Any = int(key) if isinstance(target, list) else key
        if number == len(keys):
            target[place] = value
            return
        below = target[place] if isinstance(target, list) else target.get(place, {})
        if not isinstance(below, dict | list):
            raise RecipeError(f"'{key}' in '{dotted}' has no keys below it", where=where, remedy="Check the path.")
        target[place] = below = copy(below)  # a YAML anchor may put the same one in other places
        target = below


def _is_key(name: str, location: Sequence[str], values: Mapping[str, Any]) -> bool:
    """Return whether a recipe may have this key instead of the last one of a location."""
    changed = deepcopy(dict(values))
    part: Any = changed
    for step in location[:-1]:
        part = part[int(step)] if isinstance(part, list | tuple) else part[step]
    part[name] = part.pop(location[-1])
    try:
        Recipe.model_validate(changed)
    except ValidationError as error:
        unknown = [_as_written(each["loc"], changed) for each in error.errors() if each["type"] == "extra_forbidden"]
        return [*location[:-1], name] not in unknown
    return True


def _paths_of(key: str, values: Any, above: str = "") -> list[str]:
    """Return the dotted paths of a key in a recipe."""
    items = enumerate(values) if isinstance(values, list) else values.items() if isinstance(values, dict) else ()
    below = [(f"{above}{name}", name, value) for name, value in items]
    return [
        found
        for path, name, value in below
        for found in (*([path] if name == key else []), *_paths_of(key, value, f"{path}."))
    ]


def _as_written(location: Sequence[int | str], values: Any) -> list[str]:
    """Return the keys and positions of a problem that occur in the file, without those that pydantic inserts."""
    written = []
    for part in location:
        if isinstance(values, Mapping) and part in values:
            values = values[part]
        elif isinstance(values, list | tuple) and isinstance(part, int):
            values = values[part] if part < len(values) else None
        else:
            continue
        written.append(str(part))
    return written


def _subclasses(kind: type[Options]) -> list[type[Options]]:
    return [found for child in kind.__subclasses__() for found in (child, *_subclasses(child))]
