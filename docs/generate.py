"""Writes docs/recipes.md from the schema of recipes, and the table of docs/corpora.md: `python docs/generate.py`.

Tests hold them equal.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from serein import recipe
from serein.choices import Choice, choose, table
from serein.corpora import CORPORA
from serein.recipe import Options, Recipe
from serein.recipe.options import NamedOptions, OptionsOf

HEAD = """# Recipes

Every key of a recipe, its default and its meaning; made from the schema by `python docs/generate.py`.
Unknown keys are refused, with the nearest known one. `base:` names a recipe to start from; other keys are merged over
it (a mapping with another `name` replaces the whole mapping); `set:` changes single values by dotted path, as `--set`:

```yaml
base: ../recipe.yaml
set:
  tasks.emotion.pooling: std
  stages.0.epochs: 10
```
"""


def page() -> str:
    """Return the page's text."""
    parts = [HEAD]
    seen: list[type[Options]] = []
    _describe(Recipe, "", parts, seen)
    return "\n".join(parts)


def _describe(part: type[Options], path: str, parts: list[str], seen: list[type[Options]]) -> None:
    if part in seen:
        return
    seen.append(part)
    summary, label_encoders = _docstring(part)
    inherited = [_docstring(base)[1] for base in part.__mro__[1:] if issubclass(base, Options)]
    label_encoders = {name: text for own in (*reversed(inherited), label_encoders) for name, text in own.items()}
    choice = part.model_fields.get("name")
    name = f" `name: {choice.default}`" if choice is not None and part not in (Recipe, recipe.Stage) and path else ""
    is_choice = name and len(get_args(choice.annotation)) == 1  # type: ignore[union-attr]
    title = f"`{path}`{name if is_choice else ''}" if path else "The whole recipe"
    parts.append(f"## {title}\n\n{summary}\n\n| key | default | meaning |\n|---|---|---|")
    fields = _tasks() if part is recipe.Tasks else part.model_fields
    for key, info in fields.items():
        if not (key == "name" and is_choice):
            shown = info.alias or key
            meaning = " ".join(filter(None, (label_encoders.get(key), _named(info)))) or _choices(info)
            parts.append(f"| `{shown}` | {_default(info)} | {meaning} |")
    parts.append("")
    for key, info in fields.items():
        for child in _parts_of(info):
            _describe(child, f"{path}.{key}".lstrip("."), parts, seen)


def _tasks() -> dict[str, FieldInfo]:
    """Return the tasks of the library as if they were keys of `tasks`."""
    main = recipe.Tasks().main
    options = {name: choose("task", name).Options for name in table("task")}
    return {
        name: FieldInfo(annotation=own | None, default=own() if name == main else None) for name, own in options.items()
    }


def _docstring(part: type[Options]) -> tuple[str, dict[str, str]]:
    summary, _, attributes = inspect.cleandoc(part.__doc__ or "").partition("Attributes:")
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", attributes, re.MULTILINE)
    return " ".join(summary.split()), {name: " ".join(text.split()).replace("|", "\\|") for name, text in entries}


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value: Any = info.get_default(call_default_factory=True)
    if isinstance(value, Options) or (isinstance(value, tuple) and value and isinstance(value[0], Options)):
        return "see below"
    return "none" if value is None else f"`{list(value) if isinstance(value, tuple) else value}`"


def _named(info: FieldInfo) -> str:
    """Return the choices of a key that names one, each with the first sentence of its docstring."""
    kinds = [each.func.kind for each in info.metadata if isinstance(getattr(each, "func", None), Choice)]
    choices = table(kinds[0]) if kinds and kinds[0] != "task" else {}
    summaries = {name: " ".join((choice.__doc__ or "").split("\n\n")[0].split()) for name, choice in choices.items()}
    return " ".join(f"`{name}`: {text.replace('|', chr(92) + '|')}" for name, text in summaries.items())


def _choices(info: FieldInfo) -> str:
    literals = [str(choice) for choice in get_args(info.annotation) if isinstance(choice, str)]
    if literals:
        return "one of " + ", ".join(f"`{choice}`" for choice in literals)
    return "see below" if _parts_of(info) else ""


def _parts_of(info: FieldInfo) -> list[type[Options]]:
    return [part for annotation in (info.annotation, *info.metadata) for part in _options_in(annotation)]


def _options_in(annotation: Any) -> list[type[Options]]:
    if isinstance(getattr(annotation, "func", None), OptionsOf):
        kind = annotation.func.kind
        return [choose(kind, name).Options for name in table(kind)]
    if inspect.isclass(annotation) and issubclass(annotation, Options):
        return [] if annotation is NamedOptions else [annotation]
    nested = (*get_args(annotation), *getattr(annotation, "__metadata__", ()))
    return [part for argument in nested for part in _options_in(argument)]


CORPORA_PAGE = Path(__file__).with_name("corpora.md")


def corpora_page() -> str:
    """Return docs/corpora.md with the table of the corpora that serein knows."""
    rows = ["| name | corpus | language | utterances | speakers | licence |", "|---|---|---|---|---|---|"]
    for corpus in CORPORA.values():
        about = corpus.to_json()
        numbers = [about["num_utterances"], about["num_speakers"]]
        shown = ["" if number is None else f"{number:,}" for number in numbers]
        licence = corpus.licence or "yours"
        rows.append(
            " | ".join([f"| `{corpus.name}`", corpus.title, ", ".join(corpus.languages), *shown, f"{licence} |"])
        )
    before, _, rest = CORPORA_PAGE.read_text(encoding="utf-8").partition("-->\n")
    return f"{before}-->\n" + "\n".join(rows) + "\n<!-- end" + rest.partition("<!-- end")[2]


if __name__ == "__main__":
    Path(__file__).with_name("recipes.md").write_text(page(), encoding="utf-8")
    CORPORA_PAGE.write_text(corpora_page(), encoding="utf-8")
