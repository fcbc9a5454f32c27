"""Utterances without a label of the main task: other tasks learn from them, and no test set has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from serein.data.protocols import speaker_key
from serein.data.splits import Fold, Folds, dev_rule
from serein.data.utterance import Utterance
from serein.recipe import Protocol


@dataclass(frozen=True)
class Unlabelled:
    """What a protocol did not divide.

    Attributes:
        main: The task of which the utterances have no label.
    """

    main: str
    utterances: Sequence[Utterance]


def add_unlabelled(
    folds: Folds,
    utterances: Sequence[Utterance],
    unlabelled: Unlabelled,
    protocol: Protocol,
    duplicates: Mapping[str, str],
) -> Folds:
    """Add what has no label of the main task to the training set of every fold, or to dev with its speaker.

    Left out of a fold is what shares with its test set: a speaker, audio, or the group that the protocol divides by.

    Args:
        utterances: All, in the manifest's order.
        duplicates: Id -> id of an utterance with the same audio.
    """
    if not unlabelled.utterances:
        return folds
    by_id = {u.id: u for u in utterances}
    order = {u.id: position for position, u in enumerate(utterances)}
    extended = [_extended(fold, folds, by_id, unlabelled.utterances, protocol, duplicates) for fold in folds.folds]
    ordered = tuple(replace(fold, train=_sorted(fold.train, order), dev=_sorted(fold.dev, order)) for fold in extended)
    added = [
        len(new.train) + len(new.dev) - len(old.train) - len(old.dev)
        for new, old in zip(ordered, folds.folds, strict=True)
    ]
    note = (
        f"{len(unlabelled.utterances)} utterances have no {unlabelled.main}: other tasks learn from "
        f"{_range(added)} of them in each fold; none is tested."
    )
    return replace(folds, folds=ordered, notes=(*folds.notes, note))


def _extended(
    fold: Fold,
    folds: Folds,
    by_id: Mapping[str, Utterance],
    extras: Sequence[Utterance],
    protocol: Protocol,
    duplicates: Mapping[str, str],
) -> Fold:
    is_tested = _shares_with([by_id[i] for i in fold.test], folds, protocol, duplicates)
    new = [u for u in extras if not is_tested(u)]
    if protocol.name == "official":
        new = [u for u in new if u.split in (None, "train", "dev")]
    in_dev = {speaker_key(by_id[i]) for i in fold.dev if by_id[i].speaker is not None}
    in_train = {speaker_key(by_id[i]) for i in fold.train if by_id[i].speaker is not None}
    dev_audio = {duplicates.get(i, i) for i in fold.dev}
    is_drawn = _dev_rule([u for u in new if speaker_key(u) not in in_dev | in_train], fold, protocol)

    def is_dev(utterance: Utterance) -> bool:
        if not fold.dev or folds.shares_dev:
            return bool(fold.dev) and utterance.split == "dev"
        key = speaker_key(utterance)
        return key in in_dev or (key not in in_train and is_drawn(utterance))

    train = [u.id for u in new if not is_dev(u) and duplicates.get(u.id, u.id) not in dev_audio]
    dev = [u.id for u in new if is_dev(u)]
    train_audio = {duplicates.get(i, i) for i in (*fold.train, *train)}
    dev = [i for i in dev if duplicates.get(i, i) not in train_audio]
    return replace(fold, train=(*fold.train, *train), dev=(*fold.dev, *dev))


def _shares_with(
    tested: Sequence[Utterance], folds: Folds, protocol: Protocol, duplicates: Mapping[str, str]
) -> Callable[[Utterance], bool]:
    """Return what may not be learned beside a test set."""
    audio = {duplicates.get(u.id, u.id) for u in tested}
    speakers = {speaker_key(u) for u in tested if u.speaker is not None} if folds.is_speaker_independent else set()
    sessions = {(u.corpus, u.session) for u in tested} if protocol.name == "sessions-out" else set()
    corpora = {u.corpus for u in tested} if protocol.name == "corpora-out" else set()

    def overlaps(u: Utterance) -> bool:
        is_known = u.speaker is not None and speaker_key(u) in speakers
        return (
            is_known or duplicates.get(u.id, u.id) in audio or (u.corpus, u.session) in sessions or u.corpus in corpora
        )

    return overlaps


def _dev_rule(new: Sequence[Utterance], fold: Fold, protocol: Protocol) -> Callable[[Utterance], bool]:
    """Return which utterances of speakers that the fold does not have become dev: as large a share as of its own."""
    if protocol.dev == "official":
        return lambda u: u.split == "dev"
    if len({speaker_key(u) for u in new if u.speaker is not None}) < 2:
        return lambda u: False
    named = [u for u in new if u.speaker is not None]
    rule = dev_rule(named, protocol.model_copy(update={"dev": "speakers"}), fold.name)
    return lambda u: u.speaker is not None and rule(u)


def _sorted(ids: Sequence[str], order: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(sorted(ids, key=order.__getitem__))


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
