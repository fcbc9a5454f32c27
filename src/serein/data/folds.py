"""Which utterances train, which choose, which test."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from serein.data.clip_folds import clips_out
from serein.data.utterance import Utterance
from serein.errors import ManifestError, RecipeError
from serein.recipe import Protocol

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

    def learns_as(self, other: Fold) -> bool:
        """Tell whether both have the same train and dev, as the test sides of an official split do."""
        return (self.train, self.dev) == (other.train, other.dev)


@dataclass(frozen=True)
class Folds:
    """All divisions of a protocol.

    Attributes:
        is_speaker_independent: No test speaker is heard in training.
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


def speaker_key(utterance: Utterance) -> str:
    """Return the speaker, told apart from those of other corpora: two corpora may both have a speaker '01'."""
    return f"{utterance.corpus or ''}/{utterance.speaker}"


def make_folds(utterances: Sequence[Utterance], protocol: Protocol, twins: Mapping[str, str] | None = None) -> Folds:
    """Divide utterances as a protocol says.

    Args:
        twins: Id -> id of an utterance with the same audio; `random` and `clips-out` keep them on one side.

    Raises:
        RecipeError: A named speaker does not occur, or there are too few.
        ManifestError: The field that the protocol needs is missing.
    """
    if protocol.name not in _WITHOUT_SPEAKERS:
        _require_field(utterances, "speaker", f"protocol '{protocol.name}'")
    tests = _TEST_PARTS[protocol.name](utterances, protocol, twins or {})
    following = [tested for _, _, tested in (*tests[1:], tests[0])]
    folds = [_with_dev(utterances, *test, protocol, after) for test, after in zip(tests, following, strict=True)]
    if protocol.only is not None:
        folds = _only(folds, protocol.only)
    notes = [*_allowed(utterances, folds), *_dependence(protocol), *_dev_note(protocol)]
    if unknown := sum(u.speaker is None for u in utterances):
        notes.append(f"{unknown} of {len(utterances)} utterances name no speaker: that these are new is not proven.")
    is_independent = not protocol.shares_speakers
    shares_dev = not is_independent or protocol.dev == "random-20"
    return Folds(protocol.name, tuple(folds), is_independent, shares_dev, tuple(notes))


# -- test parts: each protocol returns (name, groups, ids of the test side) of every fold ----------------------------

TestPart = tuple[str, tuple[str, ...], frozenset[str]]


def _by_group(
    utterances: Sequence[Utterance], protocol: Protocol, group_of: Callable[[Utterance], str], kind: str
) -> list[TestPart]:
    groups = sorted({group_of(u) for u in utterances}, key=_natural)
    named = protocol.folds or tuple((group,) for group in groups)
    unknown = sorted({g for fold in named for g in fold} - set(groups))
    if unknown:
        raise RecipeError(
            f"no {kind} {', '.join(unknown)} in the data; it has: {some(groups)}",
            where="protocol.folds",
            remedy=f"Name {kind}s of this manifest.",
        )
    repeated = sorted(group for group, times in Counter(g for fold in named for g in fold).items() if times > 1)
    if repeated:
        raise RecipeError(
            f"{kind} {', '.join(repeated)} is tested more than once",
            where="protocol.folds",
            remedy="Name each in one fold: pooled scores count every utterance once.",
        )
    if len(groups) < 2:
        raise RecipeError(
            f"{len(groups)} {kind} in the data",
            where="protocol",
            remedy=f"'{protocol.name}' needs at least two.",
        )
    names = [str(i + 1) for i in range(len(named))] if protocol.folds else [g.replace("/", "-") for g in groups]
    return [_test_part(utterances, name, fold, group_of) for name, fold in zip(names, named, strict=True)]


def _test_part(
    utterances: Sequence[Utterance], name: str, groups: Sequence[str], group_of: Callable[[Utterance], str]
) -> TestPart:
    ids = frozenset(u.id for u in utterances if group_of(u) in groups)
    return name, tuple(sorted(groups, key=_natural)), ids


def _speakers_out(utterances: Sequence[Utterance], protocol: Protocol, twins: Mapping[str, str]) -> list[TestPart]:
    group_of = _group_of(utterances, "speaker")
    if protocol.folds:
        return _by_group(utterances, protocol, group_of, "speaker")
    speakers = sorted({group_of(u) for u in utterances}, key=_natural)
    if len(speakers) < protocol.num_folds:
        raise RecipeError(
            f"{protocol.num_folds} folds of {len(speakers)} speakers",
            where="protocol.num_folds",
            remedy="Ask for fewer folds, at most one per speaker.",
        )
    dealt = _deal(utterances, group_of, protocol.num_folds, np.random.default_rng(protocol.seed))
    return [_test_part(utterances, str(i), speakers, group_of) for i, speakers in enumerate(dealt, start=1)]


def _leave_one_speaker_out(
    utterances: Sequence[Utterance], protocol: Protocol, twins: Mapping[str, str]
) -> list[TestPart]:
    single = protocol.model_copy(update={"folds": None})
    return _by_group(utterances, single, _group_of(utterances, "speaker"), "speaker")


def _sessions_out(utterances: Sequence[Utterance], protocol: Protocol, twins: Mapping[str, str]) -> list[TestPart]:
    _require_field(utterances, "session", f"protocol '{protocol.name}'")
    return _by_group(utterances, protocol, _group_of(utterances, "session"), "session")


def _corpora_out(utterances: Sequence[Utterance], protocol: Protocol, twins: Mapping[str, str]) -> list[TestPart]:
    _require_field(utterances, "corpus", f"protocol '{protocol.name}'")
    return _by_group(utterances, protocol, lambda u: u.corpus or "", "corpus")


def _official(utterances: Sequence[Utterance], protocol: Protocol, twins: Mapping[str, str]) -> list[TestPart]:
    _require_field(utterances, "split", f"protocol '{protocol.name}'")
    names = sorted({u.split or "" for u in utterances if (u.split or "").startswith("test")})
    if not names or not any(u.split == "train" for u in utterances):
        found = ", ".join(sorted({u.split or "" for u in utterances}))
        raise ManifestError(
            f"the official split needs 'train' and 'test', but the manifest has: {found}",
            where="split",
            remedy="Set the field 'split' of every utterance to train, dev or test.",
        )
    unused = sorted({u.split or "" for u in utterances} - {"train", "dev", *names})
    if unused:
        raise ManifestError(
            f"utterances of the split {', '.join(unused)} would be left out",
            where="split",
            remedy="Set the field 'split' of every utterance to train, dev or test, or remove them.",
        )
    return [_test_part(utterances, name, (name,), lambda u: u.split or "") for name in names]


def _random(utterances: Sequence[Utterance], protocol: Protocol, twins: Mapping[str, str]) -> list[TestPart]:
    units = sorted({twins.get(u.id, u.id) for u in utterances})
    rng = np.random.default_rng(protocol.seed)
    fold_of = dict(zip(units, rng.permutation(len(units)) % protocol.num_folds, strict=True))
    return [
        (str(i + 1), (), frozenset(u.id for u in utterances if fold_of[twins.get(u.id, u.id)] == i))
        for i in range(protocol.num_folds)
    ]


def _clips_out(utterances: Sequence[Utterance], protocol: Protocol, twins: Mapping[str, str]) -> list[TestPart]:
    return clips_out(utterances, protocol.folds, twins)


_WITHOUT_SPEAKERS = (
    "random",
    "official",
    "corpora-out",
    "clips-out",
)  # the others divide by speaker, or sessions of speakers

_TEST_PARTS: dict[str, Callable[[Sequence[Utterance], Protocol, Mapping[str, str]], list[TestPart]]] = {
    "speakers-out": _speakers_out,
    "leave-one-speaker-out": _leave_one_speaker_out,
    "sessions-out": _sessions_out,
    "corpora-out": _corpora_out,
    "official": _official,
    "random": _random,
    "clips-out": _clips_out,
}


def _deal(
    utterances: Sequence[Utterance],
    group_of: Callable[[Utterance], str],
    num_hands: int,
    rng: np.random.Generator,
) -> list[list[str]]:
    """Deal speakers into hands: one gender after the other, the largest speakers first.

    Each goes to the hand with the fewest speakers, then the fewest of this gender, then the fewest utterances.
    """
    size = Counter(group_of(u) for u in utterances)
    gender = _genders(utterances, group_of)
    shuffled = [str(name) for name in rng.permutation(sorted(size))]
    hands: list[list[str]] = [[] for _ in range(num_hands)]
    for speaker in sorted(shuffled, key=lambda name: (gender[name], -size[name])):
        fewest = min(
            hands,
            key=lambda hand: (
                len(hand),
                sum(gender[s] == gender[speaker] for s in hand),
                sum(size[s] for s in hand),
            ),
        )
        fewest.append(speaker)
    return hands


def _genders(utterances: Sequence[Utterance], group_of: Callable[[Utterance], str]) -> dict[str, str]:
    """Return each speaker's gender, "" when unknown; of a speaker of two, the same one in whatever order."""
    gender: dict[str, str] = defaultdict(str)
    for utterance in utterances:
        gender[group_of(utterance)] = max(gender[group_of(utterance)], utterance.gender or "")
    return gender


# -- dev ------------------------------------------------------------------------------------------------------------


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


def dev_rule(
    rest: Sequence[Utterance],
    protocol: Protocol,
    fold: str,
    tested: Sequence[Utterance] = (),
    following: frozenset[str] = frozenset(),
) -> Callable[[Utterance], bool]:
    """Return which utterances of the training side become dev.

    Args:
        rest: The training side.
        fold: Name of the fold, part of what the draw follows from.
        tested: The test side.
        following: Ids of the test side of the next fold.
    """
    rng = np.random.default_rng([protocol.seed, *fold.encode()])
    if protocol.dev == "none":
        return lambda u: False
    if protocol.dev == "next-fold":
        return _is_of_next_fold(rest, following)
    if protocol.dev == "official":
        _require_dev_split(rest)
        return lambda u: u.split == "dev"
    if protocol.dev == "random-20" or protocol.name == "random":
        chosen = set(rng.permutation(sorted(u.id for u in rest))[: max(1, len(rest) // 5)].tolist())
        return lambda u: u.id in chosen
    if protocol.dev == "partner":
        return _is_partner(rest, tested)
    if protocol.dev == "sessions":
        _require_field(rest, "session", f"protocol.dev '{protocol.dev}'")
        held_out = str(rng.choice(sorted({u.session or "" for u in rest})))
        return lambda u: u.session == held_out
    held_out_speakers = _dev_speakers(rest, protocol, rng)
    return lambda u: speaker_key(u) in held_out_speakers


def _is_of_next_fold(rest: Sequence[Utterance], following: frozenset[str]) -> Callable[[Utterance], bool]:
    if not any(u.id in following for u in rest):
        raise RecipeError(
            "there is no next fold whose test side could be dev",
            where="protocol.dev",
            remedy="Choose protocol.dev=random-20, or a protocol of several folds.",
        )
    return lambda u: u.id in following


def _is_partner(rest: Sequence[Utterance], tested: Sequence[Utterance]) -> Callable[[Utterance], bool]:
    """Return whether an utterance is of a session in which a test speaker speaks (wang2023)."""
    _require_field([*rest, *tested], "session", "protocol.dev 'partner'")
    sessions = {(u.corpus, u.session) for u in tested}
    if not any((u.corpus, u.session) in sessions for u in rest):
        raise RecipeError(
            "the test speakers have no partner in their sessions",
            where="protocol.dev",
            remedy="Choose protocol.dev=speakers, and for partners the protocol 'leave-one-speaker-out'.",
        )
    return lambda u: (u.corpus, u.session) in sessions


def _dev_speakers(rest: Sequence[Utterance], protocol: Protocol, rng: np.random.Generator) -> set[str]:
    """Draw `dev_share` of the training side's speakers, each from the gender that has the most left to draw."""
    gender = _genders(rest, speaker_key)
    if len(gender) < 2:
        raise RecipeError(
            "the training side has one speaker, none can be held out for dev",
            where="protocol.dev",
            remedy="Choose protocol.dev=none or random-20.",
        )
    wanted = min(max(1, round(protocol.dev_share * len(gender))), len(gender) - 1)
    queues: dict[str, list[str]] = defaultdict(list)
    for speaker in (str(name) for name in rng.permutation(sorted(gender))):
        queues[gender[speaker]].append(speaker)
    chosen: set[str] = set()
    while len(chosen) < wanted:
        fullest = max(queues.values(), key=len)
        chosen.add(fullest.pop())
    return chosen


# -- notes and checks -----------------------------------------------------------------------------------------------


def _dependence(protocol: Protocol) -> list[str]:
    if not protocol.shares_speakers:
        return []
    ways = {"random": "were divided at random", "clips-out": "are divided clip by clip"}
    divided = ways.get(protocol.name, "are divided by the corpus itself")
    return [
        f"SPEAKER-DEPENDENT: utterances {divided}, so the test speakers were heard in training. "
        "The scores say nothing about new speakers and do not compare with speaker-independent ones."
    ]


def _dev_note(protocol: Protocol) -> list[str]:
    if protocol.dev == "random-20" and protocol.name != "random":
        return ["Dev was drawn at random from the training side and shares its speakers."]
    if protocol.dev == "next-fold":
        return ["Dev is the test side of the next fold."]
    if protocol.dev == "partner":
        return ["Dev is who speaks with the test speaker, in the same dialogues."]
    if protocol.dev == "none":
        return ["No dev set: every stage trained a fixed number of epochs and its last weights were judged."]
    return []


def _allowed(utterances: Sequence[Utterance], folds: Sequence[Fold]) -> list[str]:
    """Name what train and test share although the protocol lets them: sessions and sentences."""
    by_id = {u.id: u for u in utterances}
    notes = []
    shareable: tuple[tuple[str, Callable[[Utterance], object]], ...] = (
        ("sessions (the partner of a test speaker's dialogue)", lambda u: u.session and (u.corpus, u.session)),
        ("sentences", lambda u: u.transcript),
    )
    for name, value_of in shareable:
        sharing = 0
        for fold in folds:
            sides = [{value_of(by_id[i]) for i in part} - {None, ""} for part in (fold.train, fold.test)]
            sharing += bool(sides[0] & sides[1])
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


def _group_of(utterances: Sequence[Utterance], attribute: str) -> Callable[[Utterance], str]:
    """Return the plain value when the corpora share none, else told apart by corpus."""
    owners: dict[str, set[str | None]] = defaultdict(set)
    for utterance in utterances:
        owners[getattr(utterance, attribute)].add(utterance.corpus)
    if all(len(corpora) == 1 for corpora in owners.values()):
        return lambda u: str(getattr(u, attribute))
    return lambda u: f"{u.corpus or ''}/{getattr(u, attribute)}"


def _require_field(utterances: Sequence[Utterance], attribute: str, choice: str) -> None:
    lacking = [u.id for u in utterances if getattr(u, attribute) is None]
    if lacking:
        raise ManifestError(
            f"{len(lacking)} utterances have no {attribute}, for instance {lacking[0]}",
            where=choice,
            remedy=f"Fill in '{attribute}', or choose {_WITHOUT.get(attribute, 'another')}.",
        )


_WITHOUT = {"speaker": "the protocol 'random', which is marked speaker-dependent"}


def _require_dev_split(rest: Sequence[Utterance]) -> None:
    if not any(u.split == "dev" for u in rest):
        raise ManifestError(
            "no utterance has the split 'dev'",
            where="protocol.dev",
            remedy="Choose protocol.dev=speakers or none.",
        )


def _natural(name: str) -> tuple[int, str]:
    return (int(name), name) if name.isdecimal() else (1 << 30, name)


def some(names: Sequence[str]) -> str:
    """Return the first dozen names, for a message."""
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
