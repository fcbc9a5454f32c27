"""From a YAML file, its bases and its overrides to a recipe, with complaints that name the key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from serein.choices import names
from serein.errors import RecipeError, expected_one_of
from serein.recipe.experiment import Recipe
from serein.recipe.options import Options


def load(path: str | Path, overrides: Iterable[str] = (), task: str | None = None) -> Recipe:
    """Read a recipe file, its bases, and `key.path=value` overrides.

    Args:
        task: Learn this task alone, with the options of the recipe's main one where it has none of its own.

    Raises:
        RecipeError: Missing file, not YAML, unknown key or value; names the key, and the nearest known one.

    Example:
        >>> load("recipes/demo.yaml", ["stages.0.epochs=3"]).stages[0].epochs
        3
    """
    values = _read(Path(path), ())
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"'{override}' is no KEY=VALUE", where="--set", remedy="Write: --set stages.0.epochs=3.")
        _set(values, key.strip(), _parse_yaml(text, where=f"--set {override}"), where="--set")
    recipe = validate(values, where=path)
    return recipe if task is None else _only(recipe, task)


def _only(recipe: Recipe, task: str) -> Recipe:
    if task not in names("task"):
        raise RecipeError(
            expected_one_of(task, names("task"), kind="task"), where="--task", remedy="Name one of these."
        )
    name = recipe.name if task == recipe.tasks.main else f"{recipe.name}-{task}"
    stages = [stage for stage in recipe.stages if stage.tasks is None or task in stage.tasks] or recipe.stages
    alone = tuple(stage.model_copy(update={"tasks": None, "main_task_weight": None}) for stage in stages)
    return recipe.model_copy(update={"tasks": recipe.tasks.only(task), "stages": alone, "name": name})


def validate(values: Mapping[str, Any], *, where: str | Path) -> Recipe:
    """Return the recipe that `values` describe, or raise RecipeError naming the key at fault."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _explain(error, where, values) from None


def dump(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML; `load` gives the same recipe again."""
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
    content = _parse_yaml(text, where=str(path))
    if not isinstance(content, dict):
        raise RecipeError("holds no keys", where=path, remedy="A recipe is a YAML mapping: name, protocol, stages, ...")
    values: dict[str, Any] = content
    base, changes = values.pop("base", None), values.pop("set", {})
    if base is not None:
        target = (path.parent / str(base)).resolve()
        if target in (*seen, path.resolve()):
            raise RecipeError(f"'base: {base}' leads back to itself", where=path, remedy="Break the circle.")
        values = _merged(_read(target, (*seen, path.resolve())), values)
    values.setdefault("stages", [{}])  # the default one, so that `stages.0.epochs` can be set
    if not isinstance(changes, dict):
        raise RecipeError("'set' is no mapping", where=path, remedy="Write: set: {stages.0.epochs: 3}.")
    for key, value in changes.items():
        _set(values, str(key), value, where=str(path))
    return values


def _parse_yaml(text: str, *, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise RecipeError(f"not YAML ({problem})", where=place, remedy="Check indentation and colons.") from None


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; another `name` is another choice and replaces the whole mapping."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and not _are_two_choices(old, value):
            merged[key] = _merged(old, value)
        else:
            merged[key] = value
    return merged


def _are_two_choices(old: dict[str, Any], change: dict[str, Any]) -> bool:
    return "name" in old and "name" in change and old["name"] != change["name"]


def _set(values: dict[str, Any], dotted: str, value: Any, *, where: str) -> None:
    *path, last = dotted.split(".")
    target: Any = values
    for key in path:
        target = _step(target, key, dotted, where)
    if isinstance(target, list):
        index = _index(target, last, dotted, where)
        target[index] = value
    else:
        target[last] = value


def _step(target: Any, key: str, dotted: str, where: str) -> Any:
    is_list = isinstance(target, list)
    below = target[_index(target, key, dotted, where)] if is_list else target.setdefault(key, {})
    if not isinstance(below, dict | list):
        raise RecipeError(f"'{key}' in '{dotted}' has no keys below it", where=where, remedy="Check the path.")
    return below


def _index(target: list[Any], key: str, dotted: str, where: str) -> int:
    if not key.isdecimal() or int(key) >= len(target):
        raise RecipeError(
            f"'{key}' in '{dotted}' is no position of a list of {len(target)}",
            where=where,
            remedy="Count from 0.",
        )
    return int(key)


def _explain(error: ValidationError, where: str | Path, values: Mapping[str, Any]) -> RecipeError:
    first = error.errors()[0]
    location = _as_written(first["loc"], values)
    if first["type"] == "missing" and isinstance(first["loc"][-1], str):
        location = [*location, first["loc"][-1]]
    same = [p for p in error.errors() if _as_written(p["loc"], values) == location]  # a union has one for each member
    message, remedy = _said(first, [problem["msg"] for problem in same or [first]])
    place = f"{where}: {'.'.join(location)}" if location else str(where)
    return RecipeError(message[0].lower() + message[1:], where=place, remedy=remedy)


def _said(problem: ErrorDetails, messages: Sequence[str]) -> tuple[str, str]:
    """Return message and remedy for a key; `messages` is what each member of a union says of it."""
    key = str(problem["loc"][-1]) if problem["loc"] else ""
    see = "See the recipe's keys in docs/recipes.md."
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, sorted(_known_keys() - {key}), n=1)
        return f"unknown key '{key}'", f"Did you mean '{near[0]}'?" if near else see
    if problem["type"] == "missing":
        return "a value is missing" if key.isdecimal() else f"the key '{key}' is missing", "Add it."
    if problem["type"] == "union_tag_not_found":
        return "the key 'name' is missing", "Add it."
    if problem["type"] == "union_tag_invalid":
        return f"unknown name '{problem['ctx']['tag']}', expected one of: {problem['ctx']['expected_tags']}", see
    message = ", or ".join(messages).removeprefix("Value error, ").replace(", or Input", ", or input")
    message = re.sub(r" or instance of \w+", "", message)
    return message.replace("valid tuple", "list").replace("Tuple should", "The list should"), see


def _as_written(location: Sequence[int | str], values: Any) -> list[str]:
    """Return the keys and positions of a problem that stand in the file, without what pydantic puts in between."""
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


def _known_keys() -> set[str]:
    return {info.alias or key for part in _subclasses(Options) for key, info in part.model_fields.items()}


def _subclasses(kind: type[Options]) -> list[type[Options]]:
    return [found for child in kind.__subclasses__() for found in (child, *_subclasses(child))]
