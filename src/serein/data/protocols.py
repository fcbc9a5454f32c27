"""The test sets of every protocol, by speaker, session or corpus; names that corpora share are qualified by corpus."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from serein.data.manifest import Utterance, plain_label
from serein.errors import ManifestError, RecipeError, first_of
from serein.recipe import Protocol


def speaker_key(utterance: Utterance) -> str:
    """Return the speaker, qualified by corpus: two corpora may both have a speaker '01'."""
    return f"{utterance.corpus or ''}/{utterance.speaker}"


def speaker_keys(utterance: Utterance, name: str) -> set[str]:
    """Return the names by which a model may know the speaker: `speaker_key` before and after `serein corpus merge`.

    Args:
        name: Name of the utterance's manifest, which `merge` uses as the corpus of utterances without one.

    Example:
        >>> sorted(speaker_keys(Utterance(id="a", audio="a.wav", speaker="anna"), "mine"))
        ['/anna', 'mine/anna']
    """
    return {speaker_key(utterance), f"{utterance.corpus or name}/{utterance.speaker}"}


def learned_speakers(utterances: Iterable[Utterance], learned: Iterable[str], name: str) -> list[str]:
    """Return the speakers of utterances that a model was trained on, as named by `speaker_key`, sorted.

    Args:
        learned: All speakers that it was trained on, as named by `speaker_keys`.
        name: Name of the manifest of the utterances.
    """
    known = set(learned)
    return sorted({speaker_key(u) for u in utterances if u.speaker is not None and speaker_keys(u, name) & known})


def alike_speakers(utterances: Sequence[Utterance]) -> list[tuple[str, ...]]:
    """Return the groups of speakers of one corpus that differ only in case, spaces or Unicode form.

    Example:
        >>> alike_speakers([Utterance(id=name, audio="a.wav", speaker=name) for name in ("anna", "Anna ", "ben")])
        [('Anna ', 'anna')]
    """
    spellings: dict[str, set[str]] = defaultdict(set)
    for utterance in utterances:
        if utterance.speaker is not None:
            spellings[plain_label(speaker_key(utterance)).replace(" ", "")].add(utterance.speaker)
    return [tuple(sorted(names)) for names in spellings.values() if len(names) > 1]


def require_distinct_speakers(utterances: Sequence[Utterance]) -> None:
    """Raise ManifestError when speakers of one corpus differ only in case, spaces or Unicode form."""
    if alike := [" and ".join(repr(name) for name in names) for names in alike_speakers(utterances)]:
        raise ManifestError(
            f"speakers differ only in case, spaces or Unicode form: {first_of(alike)}",
            where="speaker",
            remedy="Use one spelling for each speaker, and more distinct names for different speakers.",
        )


def genders_of(utterances: Sequence[Utterance], group_of: Callable[[Utterance], str]) -> dict[str, str]:
    """Return each speaker's gender, "" when unknown; for a speaker with two genders, the order does not matter."""
    gender: dict[str, str] = defaultdict(str)
    for utterance in utterances:
        gender[group_of(utterance)] = max(gender[group_of(utterance)], utterance.gender or "")
    return gender


def grouping(utterances: Sequence[Utterance], attribute: str) -> Callable[[Utterance], str]:
    """Return the function from utterance to group: the plain value, qualified by corpus if corpora share one."""
    owners: dict[str, set[str | None]] = defaultdict(set)
    for utterance in utterances:
        owners[getattr(utterance, attribute)].add(utterance.corpus)
    if all(len(corpora) == 1 for corpora in owners.values()):
        return lambda u: str(getattr(u, attribute))
    return lambda u: f"{u.corpus or ''}/{getattr(u, attribute)}"


def require_field(utterances: Sequence[Utterance], attribute: str, choice: str) -> None:
    """Raise ManifestError when an utterance lacks a field that a choice of the protocol needs."""
    lacking = [u.id for u in utterances if getattr(u, attribute) is None]
    if lacking:
        raise ManifestError(
            f"{len(lacking)} utterances have no {attribute}, for example {lacking[0]}",
            where=choice,
            remedy=f"Fill in '{attribute}', or choose {_WITHOUT.get(attribute, 'another')}.",
        )


_WITHOUT = {"speaker": "the protocol 'random', which is marked speaker-dependent"}


def natural(name: str) -> tuple[int, str]:
    """Return a sort key that puts 2 before 10."""
    return (int(name), name) if name.isdecimal() else (1 << 30, name)


# -- test sets: name, groups and ids of every fold --------------------------------------------------------------------

TestSet = tuple[str, tuple[str, ...], frozenset[str]]
_WHERE = "protocol.folds"
_KINDS = {
    "speakers-out": "speaker",
    "leave-one-speaker-out": "speaker",
    "sessions-out": "session",
    "corpora-out": "corpus",
}


def groups_out(utterances: Sequence[Utterance], protocol: Protocol, duplicates: Mapping[str, str]) -> list[TestSet]:
    """Test the groups (speakers, sessions or corpora) that the protocol names, or each group on its own.

    Raises:
        ManifestError: An utterance lacks the field that names its group.
        RecipeError: A named group does not occur or is named twice, there are fewer than two, or two folds would have
            the same name.
    """
    kind = _KINDS[protocol.name]
    require_field(utterances, kind, f"protocol '{protocol.name}'")
    group_of = grouping(utterances, kind)
    groups = sorted({group_of(u) for u in utterances}, key=natural)
    folds = None if protocol.name == "leave-one-speaker-out" else protocol.folds
    named = folds or tuple((group,) for group in groups)
    unknown = sorted({g for fold in named for g in fold} - set(groups))
    if unknown:
        raise RecipeError(
            f"no {kind} {', '.join(unknown)} in the data, which has: {first_of(groups)}",
            where=_WHERE,
            remedy=f"Name {kind}s of this manifest.",
        )
    repeated = sorted(group for group, times in Counter(g for fold in named for g in fold).items() if times > 1)
    if repeated:
        raise RecipeError(
            f"{kind} {', '.join(repeated)} is tested more than once",
            where=_WHERE,
            remedy="List each in only one fold: pooled scores count every utterance once.",
        )
    if len(groups) < 2:
        raise RecipeError(
            f"{len(groups)} {kind} in the data",
            where="protocol",
            remedy=f"Provide at least two, which '{protocol.name}' needs.",
        )
    names = [str(i + 1) for i in range(len(named))] if folds else [g.replace("/", "-") for g in groups]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        alike = " and ".join(f"{kind} {group}" for group in groups if group.replace("/", "-") == name)
        raise RecipeError(
            f"the folds of {alike} would have the same name, {name}",
            where="protocol",
            remedy="Rename one of them in the manifest.",
        )
    return [_test_set(utterances, name, fold, group_of) for name, fold in zip(names, named, strict=True)]


def speakers_out(utterances: Sequence[Utterance], protocol: Protocol, duplicates: Mapping[str, str]) -> list[TestSet]:
    """Test the speakers that the protocol names, or distribute all over the folds, by gender and largest first.

    Each goes to the fold with the fewest speakers, then the fewest of this gender, then the fewest utterances.

    Raises:
        RecipeError: There are fewer speakers than folds; or as in `groups_out`, if the protocol names speakers.
    """
    if protocol.folds:
        return groups_out(utterances, protocol, duplicates)
    group_of = grouping(utterances, "speaker")
    size = Counter(group_of(u) for u in utterances)
    gender = genders_of(utterances, group_of)
    if len(size) < protocol.num_folds:
        raise RecipeError(
            f"{protocol.num_folds} folds for {len(size)} speakers",
            where="protocol.num_folds",
            remedy="Use fewer folds, at most one per speaker.",
        )
    shuffled = [str(name) for name in np.random.default_rng(protocol.seed).permutation(sorted(size))]
    hands: list[list[str]] = [[] for _ in range(protocol.num_folds)]
    for speaker in sorted(shuffled, key=lambda name: (gender[name], -size[name])):
        counts = [
            (len(hand), sum(gender[s] == gender[speaker] for s in hand), sum(size[s] for s in hand)) for hand in hands
        ]
        hands[counts.index(min(counts))].append(speaker)
    return [_test_set(utterances, str(i), speakers, group_of) for i, speakers in enumerate(hands, start=1)]


def _test_set(
    utterances: Sequence[Utterance], name: str, groups: Sequence[str], group_of: Callable[[Utterance], str]
) -> TestSet:
    ids = frozenset(u.id for u in utterances if group_of(u) in groups)
    return name, tuple(sorted(groups, key=natural)), ids


def official_split(utterances: Sequence[Utterance], protocol: Protocol, duplicates: Mapping[str, str]) -> list[TestSet]:
    """Test the corpus's official test sets: `test`, `test2`, ..., each in its own fold.

    Raises:
        ManifestError: There is no `train` or no test set, or an utterance is in none of the sets.
    """
    require_field(utterances, "split", f"protocol '{protocol.name}'")
    splits = {u.split or "" for u in utterances}
    names = sorted(name for name in splits if name.startswith("test"))
    if not names and splits == {"train", "dev"} and protocol.dev == "official":
        return [("official", (), frozenset())]  # a challenge does not publish its test labels: dev is scored
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
    return [_test_set(utterances, name, (name,), lambda u: u.split or "") for name in names]


def random_folds(utterances: Sequence[Utterance], protocol: Protocol, duplicates: Mapping[str, str]) -> list[TestSet]:
    """Divide utterances at random, keeping those with the same audio together."""
    units = sorted({duplicates.get(u.id, u.id) for u in utterances})
    rng = np.random.default_rng(protocol.seed)
    fold_of = dict(zip(units, rng.permutation(len(units)) % protocol.num_folds, strict=True))
    return [
        (str(i + 1), (), frozenset(u.id for u in utterances if fold_of[duplicates.get(u.id, u.id)] == i))
        for i in range(protocol.num_folds)
    ]


def clips_out(utterances: Sequence[Utterance], protocol: Protocol, duplicates: Mapping[str, str]) -> list[TestSet]:
    """Test the ids that match the patterns of each fold; the others are used for training in every fold.

    Args:
        duplicates: Id -> smallest of the ids with the same audio. All of them are tested in the fold of the first one
            that matches.

    Raises:
        RecipeError: A pattern is invalid, matches nothing, or matches an id that another fold tests.

    Example:
        >>> clips = [Utterance(id=f"anna-{take}", audio="a.wav") for take in "123"]
        >>> protocol = Protocol(name="clips-out", folds=(("-1$",), ("-2$", "-3$")))
        >>> [(name, sorted(tested)) for name, _, tested in clips_out(clips, protocol, {})]
        [('1', ['anna-1']), ('2', ['anna-2', 'anna-3'])]
    """
    if not protocol.folds:
        raise RecipeError(
            "'clips-out' has no folds",
            where=_WHERE,
            remedy="Define them by patterns of ids: folds: [['-01$'], ['-02$']].",
        )
    for pattern in (pattern for patterns in protocol.folds for pattern in patterns):
        try:
            re.compile(pattern)
        except re.error as error:
            raise RecipeError(
                f"'{pattern}' is not a valid pattern ({error})", where=_WHERE, remedy="Correct it."
            ) from None
    tested_in: dict[str, int] = {}
    for utterance in utterances:
        for number, patterns in enumerate(protocol.folds, start=1):
            if not any(re.search(pattern, utterance.id) for pattern in patterns):
                continue
            if (first := tested_in.setdefault(utterance.id, number)) != number:
                raise RecipeError(
                    f"{utterance.id} is tested in fold {first} and in fold {number}",
                    where=_WHERE,
                    remedy="Let each id match the patterns of only one fold: pooled scores count every utterance once.",
                )
    fold_of: dict[str, int] = {}  # of all utterances with the same audio
    for name in sorted(tested_in):
        fold_of.setdefault(duplicates.get(name, name), tested_in[name])
    tests = []
    for number, patterns in enumerate(protocol.folds, start=1):
        tested = frozenset(u.id for u in utterances if fold_of.get(duplicates.get(u.id, u.id)) == number)
        if not tested:
            raise RecipeError(
                f"no id matches {' or '.join(patterns)}; the first id is {utterances[0].id}",
                where=_WHERE,
                remedy="Correct the pattern.",
            )
        tests.append((str(number), patterns, tested))
    return tests


# The others divide by speaker, or by sessions of speakers.
WITHOUT_SPEAKERS = ("random", "official", "corpora-out", "clips-out")

TEST_SETS: dict[str, Callable[[Sequence[Utterance], Protocol, Mapping[str, str]], list[TestSet]]] = {
    "speakers-out": speakers_out,
    "leave-one-speaker-out": groups_out,
    "sessions-out": groups_out,
    "corpora-out": groups_out,
    "official": official_split,
    "random": random_folds,
    "clips-out": clips_out,
}
