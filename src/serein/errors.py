"""Errors, each with its location, cause and remedy in one line."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from typing import Any


class SereinError(Exception):
    """Base of every error that a user can cause and fix.

    Args:
        what: What is wrong, as a sentence that does not repeat `where`.
        where: The file, line, recipe key or option at fault.
        remedy: What to do about it, as an imperative.

    Example:
        >>> print(SereinError("no such file", where="a.wav", remedy="Check the path."))
        a.wav: no such file. Check the path.
    """

    def __init__(self, what: str, *, where: object = None, remedy: str | None = None) -> None:
        self.what = _printable(what.strip().rstrip("."))
        self.where = None if where is None else _printable(str(where))
        self.remedy = remedy
        place = f"{self.where}: " if self.where else ""
        super().__init__(" ".join(f"{place}{self.what}. {remedy or ''}".split()))

    def to_dict(self) -> dict[str, str | None]:
        """Return `where`, `what` and `remedy`, the form of errors in JSON."""
        return {"where": self.where, "what": self.what, "remedy": self.remedy}

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), where=self.where, remedy=self.remedy), (self.what,)


def _printable(text: str) -> str:
    """Return text that any UTF-8 terminal can print; bytes of a file name that are not UTF-8 are shown as \\udcff."""
    return text.encode(errors="backslashreplace").decode()


class AudioError(SereinError):
    """A recording that cannot be read, or contains no sound."""


class ManifestError(SereinError):
    """A manifest or corpus folder that lacks required information."""


class VocabularyError(SereinError):
    """Word vectors that cannot be read, or a word that has none."""


class RecipeError(SereinError):
    """A recipe that names an unknown choice, or whose parts do not fit together."""


class LeakError(SereinError):
    """Folds whose test set has been seen before."""


class ModelError(SereinError):
    """A model folder or Hub name that cannot be loaded."""


class RunError(SereinError):
    """A run folder that is missing, foreign or unfinished."""


class MissingExtraError(SereinError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package '{package}', which is not installed",
            remedy=f"Install it with: pip install 'serein[{extra}]'.",
        )
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple[object, ...]:
        return MissingExtraError, (self.package, self.extra)


def imported(module: str, extra: str) -> Any:
    """Return a module of a package that an extra installs.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError({"faiss": "faiss-cpu"}.get(module, module.replace("_", "-")), extra) from error


def first_of(names: Sequence[str], most: int = 12) -> str:
    """Return a text with the first names, for a message.

    Example:
        >>> first_of(["anna", "ben", "carl"], 2)
        'anna, ben and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """Return a number with its noun, for a message.

    Args:
        nouns: The plural; by default, the noun with an `s`.

    Example:
        >>> counted(1, "clip"), counted(0, "clip"), counted(2, "entry", "entries")
        ('1 clip', '0 clips', '2 entries')
    """
    return f"{number} {noun if number == 1 else nouns or f'{noun}s'}"


def expected_one_of(choice: object, choices: object, *, kind: str) -> str:
    """Return the error message for a name that is not one of the choices.

    Example:
        >>> expected_one_of("men", ["mean", "std"], kind="pooling")
        "unknown pooling 'men', expected one of: mean, std"
    """
    names = ", ".join(str(name) for name in choices)  # type: ignore[attr-defined]
    given = str(choice) if len(str(choice)) <= 80 else f"{str(choice)[:80]}…"
    return f"unknown {kind} '{given}', expected one of: {names}"
