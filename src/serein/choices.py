"""Building blocks of recipes: the base class of their parts, and the choices they can name, extensible by users.

Each kind of choice has a dictionary at the end of the module that defines its entries, such as
`serein.models.blocks.POOLINGS`. Recipes check names against it, models are built from it, and the documentation lists
it, so a new choice takes one class and one line. A user's package adds its own choices without a fork, with `register`
or with an entry point in the group `serein.<kind>`, with `_` for `-`, which names of groups cannot contain:

    [project.entry-points."serein.pooling"]
    median = "my_package:MedianPooling"
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticKnownError

from serein.errors import RecipeError, expected_one_of

TABLES = {
    "pooling": "serein.models.blocks:POOLINGS",
    "loss": "serein.losses:LOSSES",
    "vector-loss": "serein.losses:VECTOR_LOSSES",
    "number-loss": "serein.losses:NUMBER_LOSSES",
    "encoder": "serein.models.encoders:ENCODERS",
    "backbone": "serein.models.backbones:BACKBONES",
    "corpus": "serein.corpora:CORPORA",
    "task": "serein.tasks:TASKS",
}


def table(kind: str) -> dict[str, Any]:
    """Return the dictionary of a kind of choice: name -> class, function or object.

    Raises:
        RecipeError: There is no such kind.
    """
    if kind not in TABLES:
        raise RecipeError(expected_one_of(kind, TABLES, kind="kind of choice"), remedy="Name one of these.")
    module, _, name = TABLES[kind].partition(":")
    choices: dict[str, Any] = getattr(import_module(module), name)
    return choices


def register(kind: str, name: str, choice: Any) -> None:
    """Add a choice that recipes can name from now on in this process.

    Processes that a run starts do not see it; for use in runs, put the choice into a package with an entry point.

    Args:
        kind: `pooling`, `loss`, `vector-loss`, `number-loss`, `encoder`, `backbone`, `corpus` or `task`.
        choice: The class or function; see the base class of its kind, e.g. `serein.models.blocks.Pooling`.

    Raises:
        RecipeError: There is no such kind, or the name is taken by another choice.
    """
    choices = table(kind)
    if choices.get(name, choice) is not choice:
        raise RecipeError(f"{kind} '{name}' already exists", remedy="Register it under another name.")
    choices[name] = choice


def _group(kind: str) -> str:
    return f"serein.{kind.replace('-', '_')}"


def choose(kind: str, name: str) -> Any:
    """Return a choice by name; names that are not the library's own are looked up in installed packages.

    Raises:
        RecipeError: There is no such choice, and the message lists the existing ones; or its package is damaged.
    """
    choices = table(kind)
    if name not in choices:
        for entry in entry_points(group=_group(kind), name=name):
            try:
                choices[name] = entry.load()
            except Exception as error:
                what = f"the entry point of {kind} '{name}' cannot be loaded: {error}"
                raise RecipeError(what, remedy="Correct it in its package, or install that package again.") from error
    if name not in choices:
        raise RecipeError(expected_one_of(name, names(kind), kind=kind), remedy="Name one of these.")
    return choices[name]


def names(kind: str) -> tuple[str, ...]:
    """Return the names of a kind of choice: the library's own, then those of installed packages."""
    found: Iterable[str] = (entry.name for entry in entry_points(group=_group(kind)))
    return tuple(dict.fromkeys((*table(kind), *found)))


@dataclass(frozen=True)
class Choice:
    """Marks a recipe's key as the name of a choice: `Annotated[str, AfterValidator(Choice("pooling"))]`.

    Raises:
        ValueError: Called with a name that is not a choice of this kind.
    """

    kind: str

    def __call__(self, name: str) -> str:
        """Return the name if it is one of the choices."""
        try:
            choose(self.kind, name)
        except RecipeError as error:
            raise ValueError(error.what) from None
        return name


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]  # names a file or folder
TaskName = Annotated[str, AfterValidator(Choice("task"))]


class Options(BaseModel):
    """Base of every part of a recipe: frozen, with finite numbers and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, serialize_by_alias=True)


class NamedOptions(Options):
    """Base of the options of a backbone or an encoder, which recipes choose by the key `name`."""

    name: str


@dataclass(frozen=True)
class OptionsOf:
    """Validates a part whose key `name` is one of the choices of a kind, with the `Options` of that choice.

    Raises:
        ValueError: There is no such choice, or its options reject a key or a value.
    """

    kind: str

    def __call__(self, values: Any) -> Any:
        """Return the options; a value that is not a mapping is left for pydantic to reject."""
        if not isinstance(values, Mapping):
            return values
        if "name" not in values:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "'name'"})
        return choose(self.kind, Choice(self.kind)(values["name"])).Options.model_validate(values)
