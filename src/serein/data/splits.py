"""The dev set of a fold: what is held out of its training set to choose epochs and options."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from serein.data.protocols import (
    TEST_SIDES,
    WITHOUT_SPEAKERS,
    genders_of,
    require_distinct_speakers,
    require_field,
    some,
    speaker_key,
)
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


Part = tuple[str, ...]  # ids of utterances, in the manifest's order


@dataclass(frozen=True)
class Fold:
    """One division. The three parts are disjoint.

    Attributes:
        name: "1", "2", ...; or the speaker, session or corpus that tests.
        groups: Test speakers (or sessions, corpora).
    """

    name: str
    train: Part
    dev: Part
    test: Part
    groups: tuple[str, ...] = ()

    def has_same_training(self, other: Fold) -> bool:
        """Tell whether both have the same train and dev, as the test sets of an official split do."""
        return (self.train, self.dev) == (other.train, other.dev)


@dataclass(frozen=True)
class Folds:
    """All divisions of a protocol.

    Attributes:
        is_speaker_independent: No test speaker occurs in training.
        shares_dev: Dev may share speakers and recordings with train, because the protocol asks for it.
        notes: What the protocol allows, and whatever else a reader of the scores must know.
    """

    protocol: str
    folds: tuple[Fold, ...]
    is_speaker_independent: bool
    shares_dev: bool
    notes: tuple[str, ...] = field(default=())

    @property
    def sha256(self) -> str:
        """Hash of the exact division: the same for the same utterances in the same parts."""
        parts = [[f.name, sorted(f.train), sorted(f.dev), sorted(f.test)] for f in self.folds]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def make_folds(
    utterances: Sequence[Utterance], protocol: Protocol, duplicates: Mapping[str, str] | None = None
) -> Folds:
    """Divide utterances as a protocol says.

    Args:
        duplicates: Id -> id of an utterance with the same audio; `random` and `clips-out` keep them in one set.

    Raises:
        RecipeError: A named speaker does not occur, or there are too few.
        ManifestError: The field that the protocol needs is missing, or speakers differ by case or spaces alone.
    """
    if protocol.name not in WITHOUT_SPEAKERS:
        require_field(utterances, "speaker", f"protocol '{protocol.name}'")
    if not protocol.shares_speakers:
        require_distinct_speakers(utterances)
    tests = TEST_SIDES[protocol.name](utterances, protocol, duplicates or {})
    following = [tested for _, _, tested in (*tests[1:], tests[0])]
    folds = [_with_dev(utterances, *test, protocol, after) for test, after in zip(tests, following, strict=True)]
    if protocol.only is not None:
        folds = _only(folds, protocol.only)
    notes = [*_allowed(utterances, folds), *_dependence(protocol), *_dev_note(protocol)]
    if unknown := sum(u.speaker is None for u in utterances):
        notes.append(f"{unknown} of {len(utterances)} utterances name no speaker: that these are new is not proven.")
    is_independent = not protocol.shares_speakers
    shares_dev = not is_independent or protocol.dev == "random"
    return Folds(protocol.name, tuple(folds), is_independent, shares_dev, tuple(notes))


def _with_dev(
    utterances: Sequence[Utterance],
    name: str,
    groups: tuple[str, ...],
    tested: frozenset[str],
    protocol: Protocol,
    following: frozenset[str],
) -> Fold:
    rest = [u for u in utterances if u.id not in tested]
    if protocol.name == "official":
        rest = [u for u in rest if u.split in ("train", "dev")]
    is_dev = dev_rule(rest, protocol, name, [u for u in utterances if u.id in tested], following)
    train = tuple(u.id for u in rest if not is_dev(u))
    dev = tuple(u.id for u in rest if is_dev(u))
    test = tuple(u.id for u in utterances if u.id in tested)
    if not train or not test:
        raise RecipeError(
            f"fold {name} has {len(train)} utterances to train and {len(test)} to test",
            where="protocol",
            remedy="Choose fewer test groups, or a protocol that leaves some for training.",
        )
    return Fold(name, train, dev, test, groups)


# -- notes and checks -----------------------------------------------------------------------------------------------


def _dependence(protocol: Protocol) -> list[str]:
    if not protocol.shares_speakers:
        return []
    ways = {"random": "were divided at random", "clips-out": "are divided clip by clip"}
    divided = ways.get(protocol.name, "are divided by the corpus itself")
    return [
        f"SPEAKER-DEPENDENT: utterances {divided}, so the test speakers occur in training. "
        "The scores say nothing about new speakers and do not compare with speaker-independent ones."
    ]


def _dev_note(protocol: Protocol) -> list[str]:
    if protocol.dev == "random" and protocol.name != "random":
        return ["Dev was drawn at random from the training set and shares its speakers."]
    if protocol.dev == "next-fold":
        return ["Dev is the test set of the next fold."]
    if protocol.dev == "dialogue-partner":
        return ["Dev is who speaks with the test speaker, in the same dialogues."]
    if protocol.dev == "none":
        return ["No dev set: every stage trained a fixed number of epochs and its last weights were evaluated."]
    return []


def _allowed(utterances: Sequence[Utterance], folds: Sequence[Fold]) -> list[str]:
    """Name what train and test share although the protocol lets them: sessions and sentences."""
    by_id = {u.id: u for u in utterances}
    notes = []
    shareable: tuple[tuple[str, Callable[[Utterance], object]], ...] = (
        ("sessions (the partner of a test speaker's dialogue)", lambda u: u.session and (u.corpus, u.session)),
        ("sentences", lambda u: u.transcript),
    )
    for name, label_of in shareable:
        sharing = 0
        for fold in folds:
            sets = [{label_of(by_id[i]) for i in part} - {None, ""} for part in (fold.train, fold.test)]
            sharing += bool(sets[0] & sets[1])
        if sharing:
            notes.append(f"Train and test share {name} in {sharing} of {len(folds)} folds, which the protocol allows.")
    return notes


def _only(folds: list[Fold], names: tuple[str, ...]) -> list[Fold]:
    unknown = sorted(set(names) - {fold.name for fold in folds})
    if unknown:
        raise RecipeError(
            f"no fold {', '.join(unknown)}; there are: {some([f.name for f in folds])}",
            where="protocol.only",
            remedy="Name folds of the protocol.",
        )
    return [fold for fold in folds if fold.name in names]
