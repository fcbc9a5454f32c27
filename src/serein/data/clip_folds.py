"""Folds of clips whose ids match patterns: every speaker in train and test, as for speaker recognition."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from serein.data.utterance import Utterance
from serein.errors import RecipeError

_WHERE = "protocol.folds"


def clips_out(
    utterances: Sequence[Utterance], folds: Sequence[Sequence[str]] | None, duplicates: Mapping[str, str]
) -> list[tuple[str, tuple[str, ...], frozenset[str]]]:
    """Return name, patterns and test ids of every fold; what matches none is learned in every fold.

    Args:
        folds: Regular expressions of each, searched in ids.
        duplicates: Id -> id of an utterance with the same audio, beside which it is tested.

    Raises:
        RecipeError: A pattern is none, matches nothing, or tests what another fold tests.

    Example:
        >>> clips = [Utterance(id=f"anna-{take}", audio="a.wav") for take in "123"]
        >>> [(name, sorted(tested)) for name, _, tested in clips_out(clips, [["-1$"], ["-2$", "-3$"]], {})]
        [('1', ['anna-1']), ('2', ['anna-2', 'anna-3'])]
    """
    if not folds:
        raise RecipeError(
            "'clips-out' has no folds",
            where=_WHERE,
            remedy="Name them by patterns of ids: folds: [['-01$'], ['-02$']].",
        )
    compiled = [[_compiled(pattern) for pattern in patterns] for patterns in folds]
    fold_of = {u.id: _fold(u.id, compiled) for u in utterances}
    tests = []
    for number, patterns in enumerate(folds):
        tested = frozenset(u.id for u in utterances if fold_of[duplicates.get(u.id, u.id)] == number)
        if not tested:
            raise RecipeError(
                f"no id matches {' or '.join(patterns)}; the first is {utterances[0].id}",
                where=_WHERE,
                remedy="Correct the pattern.",
            )
        tests.append((str(number + 1), tuple(patterns), tested))
    return tests


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise RecipeError(f"'{pattern}' is no pattern ({error})", where=_WHERE, remedy="Correct it.") from None


def _fold(name: str, folds: Sequence[Sequence[re.Pattern[str]]]) -> int | None:
    matching = [number for number, patterns in enumerate(folds) if any(each.search(name) for each in patterns)]
    if len(matching) > 1:
        first, second = (number + 1 for number in matching[:2])
        raise RecipeError(
            f"{name} is tested in fold {first} and in fold {second}",
            where=_WHERE,
            remedy="Let each id match the patterns of one fold: pooled scores count every utterance once.",
        )
    return matching[0] if matching else None
