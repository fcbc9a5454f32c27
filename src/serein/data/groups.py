"""Who utterances are by: speakers, sessions and corpora, told apart where two corpora name them alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from serein.data.utterance import Utterance
from serein.errors import ManifestError


def speaker_key(utterance: Utterance) -> str:
    """Return the speaker, told apart from those of other corpora: two corpora may both have a speaker '01'."""
    return f"{utterance.corpus or ''}/{utterance.speaker}"


def genders_of(utterances: Sequence[Utterance], group_of: Callable[[Utterance], str]) -> dict[str, str]:
    """Return each speaker's gender, "" when unknown; of a speaker of two, the same one in whatever order."""
    gender: dict[str, str] = defaultdict(str)
    for utterance in utterances:
        gender[group_of(utterance)] = max(gender[group_of(utterance)], utterance.gender or "")
    return gender


def grouping(utterances: Sequence[Utterance], attribute: str) -> Callable[[Utterance], str]:
    """Return the plain value when the corpora share none, else told apart by corpus."""
    owners: dict[str, set[str | None]] = defaultdict(set)
    for utterance in utterances:
        owners[getattr(utterance, attribute)].add(utterance.corpus)
    if all(len(corpora) == 1 for corpora in owners.values()):
        return lambda u: str(getattr(u, attribute))
    return lambda u: f"{u.corpus or ''}/{getattr(u, attribute)}"


def require_field(utterances: Sequence[Utterance], attribute: str, choice: str) -> None:
    """Raise ManifestError when an utterance lacks what a choice of the protocol needs."""
    lacking = [u.id for u in utterances if getattr(u, attribute) is None]
    if lacking:
        raise ManifestError(
            f"{len(lacking)} utterances have no {attribute}, for instance {lacking[0]}",
            where=choice,
            remedy=f"Fill in '{attribute}', or choose {_WITHOUT.get(attribute, 'another')}.",
        )


_WITHOUT = {"speaker": "the protocol 'random', which is marked speaker-dependent"}


def natural(name: str) -> tuple[int, str]:
    """Return what sorts 2 before 10."""
    return (int(name), name) if name.isdecimal() else (1 << 30, name)


def some(names: Sequence[str]) -> str:
    """Return the first dozen names, for a message."""
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
