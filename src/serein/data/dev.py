"""The dev set of a fold: what is held out of its training set to choose epochs and options."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from serein.data.groups import genders_of, require_field, speaker_key
from serein.data.utterance import Utterance
from serein.errors import ManifestError, RecipeError
from serein.recipe import Protocol


def dev_rule(
    rest: Sequence[Utterance],
    protocol: Protocol,
    fold: str,
    tested: Sequence[Utterance] = (),
    following: frozenset[str] = frozenset(),
) -> Callable[[Utterance], bool]:
    """Return which utterances of the training set become dev.

    Args:
        rest: The training set.
        fold: Name of the fold, part of what the draw follows from.
        tested: The test set.
        following: Ids of the test set of the next fold.
    """
    rng = np.random.default_rng([protocol.seed, *fold.encode()])
    if protocol.dev == "none":
        return lambda u: False
    if protocol.dev == "next-fold":
        return _is_of_next_fold(rest, following)
    if protocol.dev == "official":
        _require_dev_split(rest)
        return lambda u: u.split == "dev"
    if protocol.dev == "random" or protocol.name == "random":
        chosen = set(
            rng.permutation(sorted(u.id for u in rest))[: max(1, int(protocol.dev_fraction * len(rest)))].tolist()
        )
        return lambda u: u.id in chosen
    if protocol.dev == "dialogue-partner":
        return _is_partner(rest, tested)
    if protocol.dev == "sessions":
        require_field(rest, "session", f"protocol.dev '{protocol.dev}'")
        held_out = str(rng.choice(sorted({u.session or "" for u in rest})))
        return lambda u: u.session == held_out
    held_out_speakers = _dev_speakers(rest, protocol, rng)
    return lambda u: speaker_key(u) in held_out_speakers


def _is_of_next_fold(rest: Sequence[Utterance], following: frozenset[str]) -> Callable[[Utterance], bool]:
    if not any(u.id in following for u in rest):
        raise RecipeError(
            "there is no next fold whose test set could be dev",
            where="protocol.dev",
            remedy="Choose protocol.dev=random, or a protocol of several folds.",
        )
    return lambda u: u.id in following


def _is_partner(rest: Sequence[Utterance], tested: Sequence[Utterance]) -> Callable[[Utterance], bool]:
    """Return whether an utterance is of a session in which a test speaker speaks (wang2023)."""
    require_field([*rest, *tested], "session", "protocol.dev 'dialogue-partner'")
    sessions = {(u.corpus, u.session) for u in tested}
    if not any((u.corpus, u.session) in sessions for u in rest):
        raise RecipeError(
            "the test speakers have no partner in their sessions",
            where="protocol.dev",
            remedy="Choose protocol.dev=speakers, and for partners the protocol 'leave-one-speaker-out'.",
        )
    return lambda u: (u.corpus, u.session) in sessions


def _dev_speakers(rest: Sequence[Utterance], protocol: Protocol, rng: np.random.Generator) -> set[str]:
    """Draw `dev_fraction` of the training set's speakers, each from the gender that has the most left to draw."""
    gender = genders_of(rest, speaker_key)
    if len(gender) < 2:
        raise RecipeError(
            "the training set has one speaker, none can be held out for dev",
            where="protocol.dev",
            remedy="Choose protocol.dev=none or random.",
        )
    wanted = min(max(1, round(protocol.dev_fraction * len(gender))), len(gender) - 1)
    queues: dict[str, list[str]] = defaultdict(list)
    for speaker in (str(name) for name in rng.permutation(sorted(gender))):
        queues[gender[speaker]].append(speaker)
    chosen: set[str] = set()
    while len(chosen) < wanted:
        fullest = max(queues.values(), key=len)
        chosen.add(fullest.pop())
    return chosen


def _require_dev_split(rest: Sequence[Utterance]) -> None:
    if not any(u.split == "dev" for u in rest):
        raise ManifestError(
            "no utterance has the split 'dev'",
            where="protocol.dev",
            remedy="Choose protocol.dev=speakers or none.",
        )
