"""What every part of a recipe is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticKnownError

from serein.choices import Choice, choose

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]  # names a file or folder


class Options(BaseModel):
    """Base of every part of a recipe: frozen, finite, and no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, serialize_by_alias=True)


class NamedOptions(Options):
    """Base of the options of a backbone or an encoder, which recipes choose by the key `name`."""

    name: str


@dataclass(frozen=True)
class OptionsOf:
    """Reads a part whose key `name` is one of the choices of a kind, by the `Options` of what it names.

    Raises:
        ValueError: There is no such choice, or its own options refuse a key or a value.
    """

    kind: str

    def __call__(self, values: Any) -> Any:
        """Return the options; what is no mapping is left for pydantic to refuse."""
        if not isinstance(values, Mapping):
            return values
        if "name" not in values:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "'name'"})
        return choose(self.kind, Choice(self.kind)(values["name"])).Options.model_validate(values)


TaskName = Annotated[str, AfterValidator(Choice("task"))]
