"""Several corpora as one: one set of labels, ids and speakers kept apart, duplicates found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from serein import audio
from serein.corpora.label_map import NO_MAP, LabelMap, with_labels, with_one_spelling
from serein.data.check import audio_digests
from serein.data.utterance import Utterance
from serein.errors import ManifestError


@dataclass(frozen=True)
class Merged:
    """Several manifests as one.

    Attributes:
        utterances: In the order of the manifests; every one names its corpus, and its id begins with it.
        num_repeated: Rows that an earlier manifest has already, which were left out.
        duplicates: (id, earlier id) of utterances with the same samples, which were kept.
        notes: What became of labels, and which of them a single corpus has.
    """

    utterances: list[Utterance]
    num_repeated: int
    duplicates: list[tuple[str, str]]
    notes: list[str]

    def labels(self) -> dict[str, dict[str, int]]:
        """Return label -> corpus -> utterances."""
        counts = Counter((u.emotion, u.corpus or "") for u in self.utterances if u.emotion)
        by_label: dict[str, dict[str, int]] = defaultdict(dict)
        for (label, corpus), count in sorted(counts.items()):
            by_label[label or ""][corpus] = count
        return dict(by_label)


def merge(
    manifests: Iterable[tuple[str, Sequence[Utterance]]],
    labels: LabelMap = NO_MAP,
    on_progress: Callable[[int, int], None] | None = None,
) -> Merged:
    """Join manifests.

    Args:
        manifests: Name and utterances of each; the name stands for the corpus where an utterance names none.
        labels: What labels become; spellings that differ by case or spaces alone are joined in any case.
        on_progress: Called with (utterances decoded, utterances to decode) while duplicates are looked for.

    Raises:
        ManifestError: Two manifests have one id for different utterances, or label one utterance differently.
        AudioError: A recording is missing or broken.
    """
    joined, notes = with_labels([_of_corpus(u, name) for name, utterances in manifests for u in utterances], labels)
    joined, spellings = with_one_spelling(joined)
    distinct = list(_distinct(joined).values())
    merged = Merged(distinct, len(joined) - len(distinct), duplicates(distinct, on_progress), [*notes, *spellings])
    corpora = {u.corpus for u in distinct}
    single = [f"{label} ({', '.join(counts)})" for label, counts in merged.labels().items() if len(counts) == 1]
    if single and len(corpora) > 1:
        merged.notes.append(f"labels that one corpus alone has: {', '.join(single)}")
    return merged


def duplicates(
    utterances: Sequence[Utterance], on_progress: Callable[[int, int], None] | None = None
) -> list[tuple[str, str]]:
    """Return (id, earlier id) of utterances with the same samples; only those of one length are decoded."""
    of_length: defaultdict[float, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        of_length[round(audio.info(utterance.audio, utterance.start_s, utterance.end_s).duration_s, 4)].append(
            utterance
        )
    suspects = {u.id for alike in of_length.values() if len(alike) > 1 for u in alike}
    digests = audio_digests([u for u in utterances if u.id in suspects], on_progress=on_progress)
    first: dict[str, str] = {}
    return [(name, first[digest]) for name, digest in digests.items() if first.setdefault(digest, name) != name]


def _of_corpus(utterance: Utterance, name: str) -> Utterance:
    corpus = utterance.corpus or name
    own_id = utterance.id if utterance.id.startswith(f"{corpus}/") else f"{corpus}/{utterance.id}"
    return utterance.model_copy(update={"corpus": corpus, "id": own_id})


def _distinct(utterances: Sequence[Utterance]) -> dict[str, Utterance]:
    """Return the utterances by id, those that occur twice once."""
    by_id: dict[str, Utterance] = {}
    for utterance in utterances:
        before = by_id.setdefault(utterance.id, utterance)
        for what, old, new in (
            ("recording", _part(before), _part(utterance)),
            ("emotion", before.emotion, utterance.emotion),
            ("speaker", before.speaker, utterance.speaker),
        ):
            if old != new:
                raise ManifestError(
                    f"two manifests give {utterance.id} another {what}: {_shown(old)} and {_shown(new)}",
                    where=utterance.id,
                    remedy="Set the field 'corpus' where they are two corpora; correct one where they are the same.",
                )
    return by_id


def _part(utterance: Utterance) -> tuple[str, float, float | None]:
    return str(Path(utterance.audio).resolve()), utterance.start_s, utterance.end_s


def _shown(value: object) -> str:
    return str(value[0]) if isinstance(value, tuple) else repr(value)
