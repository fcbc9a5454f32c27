"""Generate documentation from the code: `python docs/generate.py`. A test checks that it is current.

Whole files: recipes.md, commands.md, api.md, prediction.schema.json. Between markers: tables of corpora.md, formats.md.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import serein
from serein import metrics, recipe
from serein.choices import Choice, NamedOptions, OptionsOf, choose, table
from serein.cli import app
from serein.corpora import CORPORA
from serein.data.manifest import Utterance
from serein.evaluation.predictions import EvalPrediction
from serein.inference import prediction as schemas
from serein.recipe import Options, Recipe

DOCS = Path(__file__).parent

RECIPES_HEAD = """# Recipes

Every key of a recipe with its default and meaning, generated from the schema by `python docs/generate.py`.
Unknown keys are refused, and the nearest known key is suggested. `base:` names a recipe to start from; other keys are
merged over it (a mapping with another `name` replaces the whole mapping); `set:` changes single values by dotted path,
like `--set`:

```yaml
base: ../recipe.yaml
set:
  tasks.emotion.pooling: std
  stages.0.epochs: 10
```
"""


def recipes_page() -> str:
    """Return docs/recipes.md, generated from the schema of recipes."""
    parts = [RECIPES_HEAD]
    seen: list[type[Options]] = []
    _describe(Recipe, "", parts, seen)
    return "\n".join(parts)


def _describe(part: type[Options], path: str, parts: list[str], seen: list[type[Options]]) -> None:
    if part in seen:
        return
    seen.append(part)
    summary, meanings = _docstring(part)
    inherited = [_docstring(base)[1] for base in part.__mro__[1:] if issubclass(base, Options)]
    meanings = {name: text for own in (*reversed(inherited), meanings) for name, text in own.items()}
    choice = part.model_fields.get("name")
    name = f" `name: {choice.default}`" if choice is not None and part not in (Recipe, recipe.Stage) and path else ""
    is_choice = name and len(get_args(choice.annotation)) == 1  # type: ignore[union-attr]
    title = f"`{path}`{name if is_choice else ''}" if path else "The whole recipe"
    parts.append(f"## {title}\n\n{summary}\n\n| key | default | meaning |\n|---|---|---|")
    fields = _tasks() if part is recipe.Tasks else part.model_fields
    for key, info in fields.items():
        if not (key == "name" and is_choice):
            shown = info.alias or key
            meaning = " ".join(filter(None, (meanings.get(key), _named(info)))) or _choices(info)
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


def _docstring(part: type[Any]) -> tuple[str, dict[str, str]]:
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


def corpora_table() -> str:
    """Return the table of the corpora that serein supports."""
    rows = []
    for corpus in CORPORA.values():
        about = corpus.to_json()
        numbers = [about["num_utterances"], about["num_speakers"]]
        shown = ["" if number is None else f"{number:,}" for number in numbers]
        rows.append([f"`{corpus.name}`", corpus.title, ", ".join(corpus.languages), *shown, corpus.licence or "yours"])
    return markdown_table(["name", "corpus", "language", "utterances", "speakers", "licence"], rows)


def schema_table(part: type[BaseModel]) -> str:
    """Return the table of a pydantic model's fields; fields that may be absent are optional."""
    rows = [
        [f"`{name}`", _type(info.annotation), "" if info.is_required() else "optional", info.description or ""]
        for name, info in part.model_fields.items()
    ]
    return markdown_table(["field", "type", "", "meaning"], rows)


def docstring_table(part: type[Any]) -> str:
    """Return the table of a dataclass's or pydantic model's fields, with the meanings from its docstring."""
    meanings = _docstring(part)[1]
    if dataclasses.is_dataclass(part):
        names = [field.name for field in dataclasses.fields(part)]
    else:
        names = list(part.model_fields)
    return markdown_table(["field", "meaning"], [[f"`{name}`", meanings.get(name, "")] for name in names])


def markdown_table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _type(annotation: Any) -> str:
    """Return the JSON name of a type."""
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    if type(None) in get_args(annotation):
        return f"{_type(arguments[0])} or null"
    if arguments and all(isinstance(argument, str) for argument in arguments):
        return " or ".join(f"`{argument}`" for argument in arguments)
    if getattr(annotation, "__origin__", None) is list:
        return f"list of {_type(arguments[0])}"
    if getattr(annotation, "__origin__", None) is dict:
        return f"object of {_type(arguments[1])}"
    if hasattr(annotation, "__metadata__"):
        return _type(arguments[0])
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation.__name__.removesuffix("Schema").removesuffix("Details").lower()
    return {str: "string", float: "number"}[annotation]


def _on_lines(content: dict[str, Any]) -> str:
    """Return an object in JSON with a line for each key."""
    return (
        "{\n"
        + ",\n".join(f'  "{key}": {json.dumps(value, ensure_ascii=False)}' for key, value in content.items())
        + "\n}"
    )


def with_tables(name: str, tables: dict[str, Callable[[], str]]) -> str:
    """Return a page with the tables between its markers: `<!-- NAME: written by docs/generate.py -->`."""
    text = (DOCS / name).read_text(encoding="utf-8")
    for key, made in tables.items():
        start, end = f"<!-- {key}: written by docs/generate.py -->\n", f"<!-- end of {key} -->"
        before, _, rest = text.partition(start)
        text = f"{before}{start}{made()}\n{end}{rest.partition(end)[2]}"
    return text


COMMANDS_HEAD = """# Commands

Every command with its arguments, options and defaults, generated from the code by `python docs/generate.py`.
`serein COMMAND --help` prints the same. Results go to stdout, everything else to stderr. The exit status is 0 on
success, 1 after an error (also if a recording could not be read), 2 for an invalid command line, 130 after Ctrl-C.
"""


def commands_page() -> str:
    """Return docs/commands.md, generated from the command line."""
    found = [
        (path, command)
        for path, command in commands()
        if not getattr(command, "commands", {}) or getattr(command, "invoke_without_command", False)
    ]
    links = [f"- [`{path}`](#{path.replace(' ', '-')}): {_paragraphs(command.help)[0]}" for path, command in found]
    parts = [COMMANDS_HEAD, "\n".join(links), ""]
    for path, command in found:
        types = get_type_hints(inspect.unwrap(command.callback))
        names = " ".join(_spelled(each, None) for each in command.params if _is_argument(each))
        rows = [
            [f"`{_spelled(each, types[each.name])}`", _default_of(each), getattr(each, "help", None) or ""]
            for each in command.params
            if each.name != "help"
        ]
        parts += [f"## {path}", "", *(f"{text}\n" for text in _paragraphs(command.help))]
        parts += [f"    {' '.join([path, '[OPTIONS]', names]).rstrip()}", ""]
        parts += [markdown_table(["argument or option", "default", "meaning"], rows), ""]
    return "\n".join(parts)


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command of the command line with its path, such as `serein corpus prepare`."""

    def walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield path, command
        for name in command.list_commands(None) if hasattr(command, "list_commands") else ():
            yield from walk(f"{path} {name}", command.commands[name])

    return walk("serein", typer.main.get_command(app))


def _is_argument(parameter: Any) -> bool:
    return parameter.param_type_name == "argument"


def _spelled(parameter: Any, annotation: Any) -> str:
    """Return an argument or option as it is typed on the command line."""
    if _is_argument(parameter):
        return str(parameter.metavar or parameter.name.upper())
    names = ", ".join(sorted(parameter.opts, key=len))
    return names if parameter.is_flag else f"{names} {parameter.metavar or _metavar(annotation)}"


def _metavar(annotation: Any) -> str:
    """Return the placeholder for values of a type: the choices, or PATH, N, NUMBER, TEXT."""
    if isinstance(annotation, str):
        return annotation
    if found := [_metavar(each) for each in get_args(annotation) if each is not type(None)]:
        return "|".join(found)
    return {int: "N", float: "NUMBER", str: "TEXT"}.get(annotation, "PATH")


def _default_of(parameter: Any) -> str:
    shown, default = getattr(parameter, "show_default", None), parameter.default
    if parameter.required:
        return "required"
    if isinstance(shown, str):
        return shown
    return "off" if getattr(parameter, "is_flag", False) else "none" if default is None else f"`{default}`"


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(text or "").split("\n\n")]


API_HEAD = """# Python API

Everything in `serein.__all__`, generated from the docstrings by `python docs/generate.py`. Names are imported on first
use, so `import serein` is fast. The [tutorial](tutorial.md) shows them in use.
"""


def api_page() -> str:
    """Return docs/api.md, generated from the docstrings of the public names."""
    errors = [name for name in serein.__all__ if name.endswith("Error")]
    parts = [API_HEAD]
    for name in serein.__all__:
        value = getattr(serein, name)
        if value is metrics:
            parts += [f"## {name}", "", "The truth is given before the prediction; scores are between 0 and 1.", ""]
            parts += [each for key, own in _functions_of(metrics) for each in _described(f"metrics.{key}", own, "###")]
        elif name not in errors:
            parts += _described(name, value, "##")
            parts += [each for key, own in _methods_of(value) for each in _described(f"{name}.{key}", own, "###")]
    parts += ["## Errors", "", "Each has `where`, `what` and `remedy`; its message is all three in one line.", ""]
    rows = [[f"`{name}`", _paragraphs(getattr(serein, name).__doc__)[0]] for name in errors]
    return "\n".join([*parts, markdown_table(["error", "meaning"], rows)]) + "\n"


def _functions_of(module: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name in module.__all__ if inspect.isfunction(value := getattr(module, name))]


def _methods_of(value: Any) -> list[tuple[str, Any]]:
    """Return the public methods and properties that a class defines itself."""
    if not inspect.isclass(value):
        return []
    return [
        (name, member)
        for name, member in vars(value).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    ]


def _described(name: str, value: Any, heading: str) -> list[str]:
    """Return a heading, the signature and the docstring."""
    is_property = isinstance(value, property)
    signature = [] if is_property else ["```python", f"{name}{_signature(value)}", "```", ""]
    return [f"{heading} {name}", "", *signature, *_docstring_lines(value.__doc__), ""]


def _signature(value: Any) -> str:
    """Return parameters with types and defaults, on one line or one line each."""
    signature = inspect.signature(value)
    own = [each for each in signature.parameters.values() if each.name != "self"]
    shown: list[str] = []
    for each in own:
        if each.kind is each.KEYWORD_ONLY and "*" not in shown and not any(text.startswith("*") for text in shown):
            shown.append("*")
        star = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        annotation = "" if each.annotation is each.empty else f": {_annotation(each.annotation)}"
        default = "" if each.default is each.empty else f" = {_value(each.default)}"
        shown.append(f"{star}{each.name}{annotation}{default}")
    is_class = inspect.isclass(value) or signature.return_annotation is signature.empty
    returned = "" if is_class else f" -> {_annotation(signature.return_annotation)}"
    line = f"({', '.join(shown)}){returned}"
    return line if len(line) < 90 else "(\n    " + ",\n    ".join(shown) + f",\n){returned}"


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _value(default: Any) -> str:
    return "..." if type(default).__repr__ is object.__repr__ or "factory" in repr(default) else repr(default)


def _docstring_lines(text: str | None) -> list[str]:
    """Return a Google docstring in Markdown: its sections as lists, its examples as code."""
    lines: list[str] = []
    section = ""
    for line in inspect.cleandoc(text or "").splitlines():
        if re.fullmatch(r"(Args|Attributes|Returns|Raises|Yields|Example|Examples|Source):", line):
            lines += ["```"] if section.startswith("Example") else []
            section = line[:-1]
            lines += [
                *([""] if lines and lines[-1] else []),
                f"**{section}**",
                "",
                *(["```python"] if section.startswith("Example") else []),
            ]
        elif section in ("Args", "Attributes", "Raises") and (entry := re.match(r"    (\S[^:]*): (.*)", line)):
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif section.startswith("Example"):
            lines.append(line.removeprefix("    ").split("  # doctest:")[0])
        else:
            lines.append(line.strip() if section in ("", "Returns", "Yields") else f"  {line.strip()}".rstrip())
    while lines and not lines[-1]:
        lines.pop()
    return [*lines, "```"] if section.startswith("Example") else lines


FORMATS = {
    "prediction": lambda: schema_table(schemas.PredictionSchema),
    "segment": lambda: schema_table(schemas.SegmentSchema),
    "task": lambda: schema_table(schemas.TaskSchema),
    "model": lambda: schema_table(schemas.ModelSchema),
    "neighbour": lambda: schema_table(schemas.NeighbourSchema),
    "word": lambda: schema_table(schemas.WordSchema),
    "error": lambda: schema_table(schemas.ErrorDetails),
    "example": lambda: f"```json\n{_on_lines(schemas.EXAMPLE)}\n```",
    "utterance": lambda: docstring_table(Utterance),
    "stored prediction": lambda: docstring_table(EvalPrediction),
}
PAGES: dict[str, Callable[[], str]] = {
    "recipes.md": recipes_page,
    "commands.md": commands_page,
    "api.md": api_page,
    "corpora.md": lambda: with_tables("corpora.md", {"corpora": corpora_table}),
    "formats.md": lambda: with_tables("formats.md", FORMATS),
    "prediction.schema.json": lambda: json.dumps(schemas.json_schema(), indent=1, ensure_ascii=False) + "\n",
}

if __name__ == "__main__":
    for name, made in PAGES.items():
        text = made()
        (DOCS / name).write_text(text, encoding="utf-8")
