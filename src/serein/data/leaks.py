"""The proof that no test set was ever seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from serein.data.protocols import some, speaker_key
from serein.data.splits import Fold, Folds
from serein.data.utterance import Utterance
from serein.errors import LeakError


def check_leaks(
    utterances: Sequence[Utterance],
    folds: Folds,
    duplicates: Mapping[str, str],
    seen: Mapping[str, str] | None = None,
) -> None:
    """Stop when a test set is not new: shared speakers, the same audio twice, or test data in an earlier training.

    Args:
        duplicates: Id -> id of an utterance with the same audio (`serein.data.dataset.duplicates`).
        seen: Id -> the earlier training that already learned from it.

    Raises:
        LeakError: Names the fold, the two parts and what they share.
    """
    speaker_of = {u.id: speaker_key(u) for u in utterances if u.speaker is not None}
    for fold in folds.folds:
        where = f"fold {fold.name}"
        for first, second in (("train", "test"), ("dev", "test"), ("train", "dev")):
            ids = getattr(fold, first), getattr(fold, second)
            _no_shared(ids, (first, second), where, "utterance", "Divide them.")
            if second == "dev" and folds.shares_dev:
                continue
            recordings = [[duplicates.get(i, i) for i in part] for part in ids]
            _no_shared(recordings, (first, second), where, "identical recording", _TWIN_REMEDY)
            if folds.is_speaker_independent:
                speakers = [[speaker_of[i] for i in part if i in speaker_of] for part in ids]
                _no_shared(speakers, (first, second), where, "speaker", _SPEAKER_REMEDY)
        tested = [(i, seen[i]) for i in fold.test if i in seen] if seen else []
        if tested:
            raise LeakError(
                f"{len(tested)} test utterances were already learned by {tested[0][1]}: {tested[0][0]}",
                where=where,
                remedy="Start from a model that was not trained on them.",
            )


def check_targets(taught: Mapping[str, Set[str]], fold: Fold, fields: Mapping[str, str]) -> None:
    """Stop when any task of any stage would learn, or choose by, what is to be predicted of the test set.

    Args:
        taught: Task -> ids of the utterances whose targets the training gets.
        fields: Task -> the field of an utterance that holds its target.

    Raises:
        LeakError: Names the task's target, the fold and some utterances.
    """
    tested = set(fold.test)
    for task, ids in taught.items():
        _no_shared(
            (sorted(ids), sorted(tested)),
            ("training", "test"),
            f"fold {fold.name}, tasks.{task}",
            fields[task],
            "Give a training the targets of its train and dev sets alone.",
        )


def check_origin(utterances: Sequence[Utterance], fold: Fold, speakers: Sequence[str], source: str) -> None:
    """Stop when a network that a branch starts from has learned speakers of the test set.

    Args:
        speakers: Those that it learned, as `speaker_key` names them.
        source: Where it comes from.

    Raises:
        LeakError: Names them.
    """
    speaker_of = {u.id: speaker_key(u) for u in utterances if u.speaker is not None}
    tested = sorted({speaker_of[name] for name in fold.test if name in speaker_of})
    _no_shared(
        (speakers, tested),
        (source, "test"),
        f"fold {fold.name}, branches",
        "speaker",
        "Start from a network that was not trained on them: of another corpus, or of a run with the same folds.",
    )


_SPEAKER_REMEDY = "Split by speaker, or ask for the protocol 'random', which the report marks as speaker-dependent."
_TWIN_REMEDY = "Remove one of each pair; 'serein corpus check' lists them."


def _no_shared(parts: Sequence[Sequence[str]], names: tuple[str, str], where: str, kind: str, remedy: str) -> None:
    shared = sorted(set(parts[0]) & set(parts[1]))
    if shared:
        kinds = kind if len(shared) == 1 else f"{kind}s"
        examples = some([name.removeprefix("/") for name in shared])
        raise LeakError(
            f"{len(shared)} {kinds} in both {names[0]} and {names[1]}: {examples}", where=where, remedy=remedy
        )
