"""Folds: the test sets of a protocol, the dev sets held out of training, and utterances without a main-task label.

Every fold is checked for leaks: no test set may have been seen in training.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np

from serein.data.manifest import Utterance
from serein.data.protocols import (
    TEST_SETS,
    WITHOUT_SPEAKERS,
    genders_of,
    require_distinct_speakers,
    require_field,
    speaker_key,
)
from serein.errors import LeakError, ManifestError, RecipeError, counted, first_of
from serein.recipe import Protocol


def dev_rule(
    rest: Sequence[Utterance],
    protocol: Protocol,
    fold: str,
    tested: Sequence[Utterance] = (),
    following: frozenset[str] = frozenset(),
) -> Callable[[Utterance], bool]:
    """Return the rule by which utterances of the training set become dev.

    Args:
        rest: The training set.
        fold: Name of the fold, which is part of the seed.
        tested: The test set.
        following: Ids of the test set of the next fold.

    Raises:
        RecipeError: The training set contains nothing that the rule could hold out.
        ManifestError: No utterance has the split `dev`, or the field that the rule needs.
    """
    rng = np.random.default_rng([protocol.seed, *fold.encode()])
    if protocol.dev == "none":
        return lambda u: False
    if protocol.dev == "next-fold":
        if not any(u.id in following for u in rest):
            raise RecipeError(
                "there is no next fold whose test set could serve as dev",
                where="protocol.dev",
                remedy="Choose protocol.dev=random, or a protocol of several folds.",
            )
        return lambda u: u.id in following
    if protocol.dev == "official":
        if not any(u.split == "dev" for u in rest):
            raise ManifestError(
                "no utterance has the split 'dev'",
                where="protocol.dev",
                remedy="Choose protocol.dev=speakers or none.",
            )
        return lambda u: u.split == "dev"
    if protocol.dev == "random" or protocol.name == "random":
        number = max(1, int(protocol.dev_fraction * len(rest)))
        chosen = set(rng.permutation(sorted(u.id for u in rest))[:number].tolist())
        return lambda u: u.id in chosen
    if protocol.dev == "dialogue-partner":  # all who speak in a test speaker's sessions (wang2023)
        require_field([*rest, *tested], "session", "protocol.dev 'dialogue-partner'")
        sessions = {(u.corpus, u.session) for u in tested}
        if not any((u.corpus, u.session) in sessions for u in rest):
            raise RecipeError(
                "the test speakers have no partner in their sessions",
                where="protocol.dev",
                remedy="Choose protocol.dev=speakers, or the protocol 'leave-one-speaker-out' for dialogue partners.",
            )
        return lambda u: (u.corpus, u.session) in sessions
    if protocol.dev == "sessions":
        require_field(rest, "session", f"protocol.dev '{protocol.dev}'")
        held_out = str(rng.choice(sorted({u.session or "" for u in rest})))
        return lambda u: u.session == held_out
    gender = genders_of(rest, speaker_key)
    if len(gender) < 2:
        raise RecipeError(
            "the training set has only one speaker, so none can be held out for dev",
            where="protocol.dev",
            remedy="Choose protocol.dev=none or random.",
        )
    wanted = min(max(1, round(protocol.dev_fraction * len(gender))), len(gender) - 1)
    # each speaker is drawn from the gender with the most speakers left
    queues: dict[str, list[str]] = defaultdict(list)
    for speaker in (str(name) for name in rng.permutation(sorted(gender))):
        queues[gender[speaker]].append(speaker)
    chosen_speakers: set[str] = set()
    while len(chosen_speakers) < wanted:
        fullest = max(queues.values(), key=len)
        chosen_speakers.add(fullest.pop())
    return lambda u: speaker_key(u) in chosen_speakers


NO_TEST_SET = (
    "No test utterance has a label: dev is scored. If checkpoints were selected on it, its scores are optimistic."
)

Part = tuple[str, ...]  # ids of utterances, in the manifest's order


@dataclass(frozen=True)
class Fold:
    """One division into three disjoint sets.

    Attributes:
        name: "1", "2", ...; or the speaker, session or corpus that is tested.
        groups: Test speakers (or sessions, corpora).
    """

    name: str
    train: Part
    dev: Part
    test: Part
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folds:
    """All folds of a protocol.

    Attributes:
        is_speaker_independent: No test speaker occurs in training.
        shares_dev: Dev may share speakers and recordings with train, because the protocol specifies it.
        notes: Overlaps that the protocol allows, and other facts that a reader of the scores must know.
    """

    protocol: str
    folds: tuple[Fold, ...]
    is_speaker_independent: bool
    shares_dev: bool
    notes: tuple[str, ...] = field(default=())

    @property
    def sha256(self) -> str:
        """Hash of the exact division; equal for the same utterances in the same sets."""
        parts = [[f.name, sorted(f.train), sorted(f.dev), sorted(f.test)] for f in self.folds]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def make_folds(
    utterances: Sequence[Utterance], protocol: Protocol, duplicates: Mapping[str, str] | None = None
) -> Folds:
    """Divide utterances into the folds of a protocol.

    Args:
        utterances: Changed copies are in the training set whenever their originals are, and never in dev or test.
        duplicates: Id -> id of an utterance with the same audio; `random` and `clips-out` keep them in one set.

    Raises:
        RecipeError: A named speaker does not occur, or there are too few.
        ManifestError: A field that the protocol needs is missing, or speakers differ only in case, spaces or Unicode
            form.
    """
    everything, copies = utterances, [u for u in utterances if u.copy_of is not None]
    utterances = [u for u in utterances if u.copy_of is None]
    if protocol.name not in WITHOUT_SPEAKERS:
        require_field(utterances, "speaker", f"protocol '{protocol.name}'")
    if not protocol.shares_speakers:
        require_distinct_speakers(utterances)
    tests = TEST_SETS[protocol.name](utterances, protocol, duplicates or {})
    following = [tested for _, _, tested in (*tests[1:], tests[0])]
    folds = []
    for (name, groups, tested), after in zip(tests, following, strict=True):
        rest = [u for u in utterances if u.id not in tested]
        if protocol.name == "official":
            rest = [u for u in rest if u.split in ("train", "dev")]
        is_dev = dev_rule(rest, protocol, name, [u for u in utterances if u.id in tested], after)
        train = tuple(u.id for u in rest if not is_dev(u))
        dev = tuple(u.id for u in rest if is_dev(u))
        test = tuple(u.id for u in utterances if u.id in tested)
        if not train or not (test or (protocol.name == "official" and dev)):
            raise RecipeError(
                f"fold {name} has {len(train)} training and {len(test)} test utterances",
                where="protocol",
                remedy="Choose fewer test groups, or a protocol that leaves utterances for training.",
            )
        learned = set(train)
        train += tuple(u.id for u in copies if u.copy_of in learned)
        folds.append(Fold(name, train, dev, test, groups))
    if protocol.only is not None:
        unknown = sorted(set(protocol.only) - {fold.name for fold in folds})
        if unknown:
            raise RecipeError(
                f"no fold {', '.join(unknown)}; the folds are: {first_of([f.name for f in folds])}",
                where="protocol.only",
                remedy="Specify folds of the protocol.",
            )
        folds = [fold for fold in folds if fold.name in protocol.only]
    notes = _notes(everything, folds, protocol)
    return Folds(protocol.name, tuple(folds), not protocol.shares_speakers, protocol.shares_dev, notes)


_DEV_NOTES = {
    "next-fold": "Dev is the test set of the next fold.",
    "dialogue-partner": "Dev consists of the test speaker's dialogue partners, in the same dialogues.",
    "none": "No dev set: every stage was trained for a fixed number of epochs, and its last weights were evaluated.",
}


def _notes(utterances: Sequence[Utterance], folds: Sequence[Fold], protocol: Protocol) -> tuple[str, ...]:
    """Return what train and test share because the protocol allows it, and other notes for readers of the scores."""
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
    if protocol.shares_speakers:
        ways = {"random": "were divided at random", "clips-out": "are divided clip by clip"}
        divided = ways.get(protocol.name, "are divided by the corpus itself")
        notes.append(
            f"SPEAKER-DEPENDENT: utterances {divided}, so the test speakers occur in training. "
            "The scores do not apply to new speakers and are not comparable with speaker-independent ones."
        )
    if protocol.dev == "random" and protocol.name != "random":
        notes.append("Dev was drawn at random from the training set and shares its speakers.")
    elif protocol.dev in _DEV_NOTES:
        notes.append(_DEV_NOTES[protocol.dev])
    if not any(fold.test for fold in folds):
        notes.append(NO_TEST_SET)
    if unknown := sum(u.speaker is None for u in utterances):
        notes.append(f"{unknown} of {len(utterances)} utterances have no speaker, so these are not proven to be new.")
    return tuple(notes)


def class_notes(labels: Mapping[str, str], speakers: Mapping[str, str], folds: Sequence[Fold]) -> tuple[str, ...]:
    """Return notes on classes that cannot be learned or tested properly, for the report and during training.

    Args:
        labels: Class of each utterance, by id; of originals, not of changed copies.
        speakers: Speaker of each utterance, by id, if known.
        folds: The folds that are trained.
    """
    notes = []
    if single := sorted(name for name, count in Counter(labels.values()).items() if count == 1):
        notes.append(f"Only one clip of {first_of(single)}: it is used for training or testing, never both.")
    classes_of: dict[str, set[str]] = defaultdict(set)
    for name, speaker in speakers.items():
        classes_of[speaker].add(labels[name])
    monotone = sorted(speaker for speaker, classes in classes_of.items() if len(classes) == 1)
    if monotone and len(set(labels.values())) > 1:
        notes.append(
            f"{len(monotone)} of {len(classes_of)} speakers have only one class ({first_of(monotone)}): "
            "a model may learn the voice instead."
        )
    for fold in folds:
        learned, tested = ({labels[i] for i in part if i in labels} for part in (fold.train, fold.test))
        if missing := sorted(tested - learned):
            notes.append(
                f"Fold {fold.name} tests {first_of(missing)} without any training examples: always wrong there."
            )
    return tuple(notes)


# -- utterances without a label of the main task: other tasks learn from them, and no test set contains them ----------


def add_unlabelled(
    folds: Folds,
    utterances: Sequence[Utterance],
    unlabelled: Sequence[Utterance],
    protocol: Protocol,
    duplicates: Mapping[str, str],
    *,
    main: str,
) -> Folds:
    """Add utterances without a label of the main task to the training set of every fold, or to dev with their speaker.

    A fold leaves out those that share a speaker, audio, or the group that the protocol divides by with its test set.

    Args:
        utterances: All utterances, in the manifest's order.
        unlabelled: Those that the protocol did not divide; changed copies follow their originals, as in `make_folds`.
        duplicates: Id -> id of an utterance with the same audio.
        main: The task for which they have no label.
    """
    if not unlabelled:
        return folds
    by_id = {u.id: u for u in utterances}
    position = {u.id: number for number, u in enumerate(utterances)}
    extended, added = [], []
    for fold in folds.folds:
        tested = [by_id[i] for i in fold.test]
        audio = {duplicates.get(u.id, u.id) for u in tested}
        speakers = {speaker_key(u) for u in tested if u.speaker is not None} if folds.is_speaker_independent else set()
        sessions = {(u.corpus, u.session) for u in tested} if protocol.name == "sessions-out" else set()
        corpora = {u.corpus for u in tested} if protocol.name == "corpora-out" else set()
        new = [
            u
            for u in unlabelled
            if not (u.speaker is not None and speaker_key(u) in speakers)
            and duplicates.get(u.id, u.id) not in audio
            and (u.corpus, u.session) not in sessions
            and u.corpus not in corpora
        ]
        if protocol.name == "official":
            new = [u for u in new if u.split in (None, "train", "dev")]
        copies = [u for u in new if u.copy_of is not None]
        new = [u for u in new if u.copy_of is None]
        if not fold.dev or folds.shares_dev:
            in_dev = {u.id for u in new if fold.dev and u.split == "dev"}
        else:
            of_dev = {speaker_key(by_id[i]) for i in fold.dev if by_id[i].speaker is not None}
            of_train = {speaker_key(by_id[i]) for i in fold.train if by_id[i].speaker is not None}
            in_dev = {u.id for u in new if speaker_key(u) in of_dev}
            strangers = [u for u in new if speaker_key(u) not in of_dev | of_train]
            named = [u for u in strangers if u.speaker is not None]
            if protocol.dev == "official":
                in_dev |= {u.id for u in strangers if u.split == "dev"}
            elif len({speaker_key(u) for u in named}) > 1:  # dev gets the same share of them as of the fold's own
                is_dev = dev_rule(named, protocol.model_copy(update={"dev": "speakers"}), fold.name)
                in_dev |= {u.id for u in named if is_dev(u)}
        dev_audio = {duplicates.get(i, i) for i in fold.dev}
        train = [u.id for u in new if u.id not in in_dev and duplicates.get(u.id, u.id) not in dev_audio]
        learned = {*fold.train, *train}
        train += [u.id for u in copies if u.copy_of in learned and duplicates.get(u.id, u.id) not in dev_audio]
        train_audio = {duplicates.get(i, i) for i in (*fold.train, *train)}
        dev = [u.id for u in new if u.id in in_dev and duplicates.get(u.id, u.id) not in train_audio]
        added.append(len(train) + len(dev))
        train, dev = (sorted(ids, key=position.__getitem__) for ids in ([*fold.train, *train], [*fold.dev, *dev]))
        extended.append(replace(fold, train=tuple(train), dev=tuple(dev)))
    low, high = min(added), max(added)
    note = (
        f"{len(unlabelled)} utterances have no {main}: other tasks or a teacher's predictions are learned from "
        f"{low if low == high else f'{low} to {high}'} of them in each fold; none is tested."
    )
    nameless = sum(u.speaker is None for u in unlabelled)
    if nameless and folds.is_speaker_independent and any(fold.test for fold in folds.folds):
        note += f" {nameless} of them have no speaker, so the test speakers are not proven to be new."
    return replace(folds, folds=tuple(extended), notes=(*folds.notes, note))


# -- leak checks: no test set may have been seen in training ----------------------------------------------------------


def check_leaks(utterances: Sequence[Utterance], folds: Folds, duplicates: Mapping[str, str]) -> None:
    """Raise an error unless every test set is new: no shared speakers, no shared audio.

    Args:
        duplicates: Id -> id of an utterance with the same audio (`serein.data.dataset.duplicates`).

    Raises:
        LeakError: A test set is not new; names the fold, the two sets and what they share.
    """
    speaker_of = {u.id: speaker_key(u) for u in utterances if u.speaker is not None}
    for fold in folds.folds:
        where = f"fold {fold.name}"
        for first, second in (("train", "test"), ("dev", "test"), ("train", "dev")):
            ids = getattr(fold, first), getattr(fold, second)
            _no_shared(ids, (first, second), where, "utterance", "Put each into only one of them.")
            if second == "dev" and folds.shares_dev:
                continue
            recordings = [[duplicates.get(i, i) for i in part] for part in ids]
            _no_shared(recordings, (first, second), where, "identical recording", _TWIN_REMEDY)
            if folds.is_speaker_independent:
                speakers = [[speaker_of[i] for i in part if i in speaker_of] for part in ids]
                _no_shared(speakers, (first, second), where, "speaker", _SPEAKER_REMEDY)


def check_targets(taught: Mapping[str, Set[str]], fold: Fold, fields: Mapping[str, str]) -> None:
    """Raise an error if any task of any stage would train on, or select checkpoints by, targets of the test set.

    Args:
        taught: Task -> ids of the utterances whose targets are used in training.
        fields: Task -> the field of an utterance that contains its target.

    Raises:
        LeakError: It would; names the task's target, the fold and some utterances.
    """
    tested = set(fold.test)
    for task, ids in taught.items():
        _no_shared(
            (sorted(ids), sorted(tested)),
            ("training", "test"),
            f"fold {fold.name}, tasks.{task}",
            fields[task],
            "Use only targets of the train and dev sets in training.",
        )


def check_origin(shared: Sequence[str], fold: Fold, source: str) -> None:
    """Raise an error if a model that training starts from, or a teacher, has learned speakers of the test set.

    Args:
        shared: Those speakers.
        source: The model.

    Raises:
        LeakError: There are some; names them.
    """
    _no_shared(
        (shared, shared),
        (source, "test"),
        f"fold {fold.name}, branches",
        "speaker",
        "Start from a network that was not trained on them: from another corpus, or from a run with the same folds.",
    )


_SPEAKER_REMEDY = "Split by speaker, or choose the protocol 'random', which the report marks as speaker-dependent."
_TWIN_REMEDY = "Remove one of each pair; 'serein corpus check' lists them."


def _no_shared(parts: Sequence[Sequence[str]], names: tuple[str, str], where: str, kind: str, remedy: str) -> None:
    if shared := sorted(set(parts[0]) & set(parts[1])):
        examples = first_of([name.removeprefix("/") for name in shared])
        raise LeakError(
            f"{counted(len(shared), kind)} in both {names[0]} and {names[1]}: {examples}", where=where, remedy=remedy
        )
