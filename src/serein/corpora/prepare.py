"""Manifests from corpora: compare counts, unify labels, open files; and merge several corpora into one."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from serein import audio
from serein.corpora.corpus import Corpus
from serein.corpora.tables import is_missing
from serein.data import manifest
from serein.data.check import audio_digests
from serein.data.manifest import Utterance, absent_labels, plain_label
from serein.data.protocols import alike_speakers
from serein.errors import AudioError, ManifestError, expected_one_of
from serein.recipe import parse_yaml

Counts = Literal["published", "partial"]
Unreadable = Literal["stop", "skip"]

HEADERS_AT_ONCE = 8  # files opened in parallel: a disk serves several requests in the time of one

_REMEDY = "Write one line per label, such as 'Angry: angry'; for a single corpus, 'emodb: {Wut: anger}'."


@dataclass(frozen=True)
class LabelMap:
    """A mapping of labels; labels that it does not contain stay unchanged.

    Attributes:
        of_all: Label in lower case -> new label; `None` removes it.
        of_corpus: Corpus -> such a mapping for its utterances only, which takes precedence over `of_all`.
    """

    of_all: Mapping[str, str | None] = field(default_factory=dict)
    of_corpus: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)

    def of(self, label: str | None, corpus: str | None) -> str | None:
        """Return the new label for a label of a corpus.

        Example:
            >>> labels = LabelMap({"angry": "anger", "calm": "neutral", "bored": None}, {"ravdess": {"calm": "calm"}})
            >>> [labels.of(*pair) for pair in (("Angry", None), ("calm", "ravdess"), ("bored", None), ("sad", None))]
            ['anger', 'calm', None, 'sad']
        """
        if label is None:
            return None
        key = plain_label(label)
        own = self.of_corpus.get(corpus or "", {})
        return own[key] if key in own else self.of_all.get(key, label)


NO_MAP = LabelMap()


def read_label_map(path: Path | None) -> LabelMap:
    """Read a label map from YAML: `Angry: angry`, or a mapping of such entries under the name of a corpus.

    A missing value ("", null, none, -) removes the label. Without a file, labels stay as they are.

    Raises:
        ManifestError: The file does not exist, is not a mapping of words, or maps one label twice.
        RecipeError: It is not YAML.
    """
    if path is None:
        return NO_MAP
    try:
        content = parse_yaml(path.read_text(encoding="utf-8-sig"), where=str(path), as_text=True)
    except FileNotFoundError:
        raise ManifestError("no such file", where=path, remedy="Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"cannot be read ({error})", where=path, remedy=_REMEDY) from None
    if not isinstance(content, dict) or not content:
        raise ManifestError("is not a mapping of labels", where=path, remedy=_REMEDY)
    sections = {name: values for name, values in content.items() if isinstance(values, dict)}
    labels = {name: value for name, value in content.items() if name not in sections}
    return LabelMap(_entries(labels, path), {name: _entries(values, path) for name, values in sections.items()})


def _entries(labels: Mapping[object, object], path: Path) -> dict[str, str | None]:
    entries: dict[str, str | None] = {}
    for label, value in labels.items():
        if not isinstance(label, str) or not isinstance(value, str):
            raise ManifestError(f"'{label}' is mapped to '{value}'", where=path, remedy=_REMEDY)
        target = None if is_missing(value) else value.strip()
        if entries.setdefault(plain_label(label), target) != target:
            raise ManifestError(f"maps '{label}' twice, in two spellings", where=path, remedy="Keep one of them.")
    return entries


def with_labels(utterances: Sequence[Utterance], labels: LabelMap) -> tuple[list[Utterance], list[str]]:
    """Return utterances with mapped emotions and raters' labels, and notes on the changes."""
    changed: Counter[tuple[str, str | None]] = Counter()
    mapped = []
    for utterance in utterances:
        emotion = labels.of(utterance.emotion, utterance.corpus)
        if emotion != utterance.emotion:
            changed[utterance.emotion or "", emotion] += 1
        ratings = tuple(
            rating.model_copy(
                update={"labels": tuple(filter(None, (labels.of(x, utterance.corpus) for x in rating.labels)))}
            )
            for rating in utterance.ratings
        )
        mapped.append(utterance.model_copy(update={"emotion": emotion, "ratings": ratings}))
    notes = [f"{count} labels '{old}' became {f'{new!r}' if new else 'none'}" for (old, new), count in changed.items()]
    of_corpus: defaultdict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        of_corpus[utterance.corpus or ""].append(utterance)
    if absent := absent_labels(utterances, labels.of_all):
        notes.append(f"no utterance is labelled {', '.join(absent)}, which the label map contains")
    if unknown := sorted(labels.of_corpus.keys() - of_corpus.keys()):
        notes.append(f"no utterance has the corpus {', '.join(unknown)}, which the label map contains")
    for corpus, own in labels.of_corpus.items():
        if corpus in of_corpus and (absent := absent_labels(of_corpus[corpus], own)):
            notes.append(f"no utterance of {corpus} is labelled {', '.join(absent)}, which the label map contains")
    return mapped, notes


def with_one_spelling(utterances: Sequence[Utterance]) -> tuple[list[Utterance], list[str]]:
    """Merge emotions that differ only in case, spaces or Unicode form into the most frequent spelling.

    In a tie, the lower-case one is taken.

    Returns:
        The utterances, and a note on each class that had several spellings.
    """
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for utterance in utterances:
        if utterance.emotion:
            spellings[plain_label(utterance.emotion)][utterance.emotion] += 1
    several = {plain: counts for plain, counts in spellings.items() if len(counts) > 1}
    chosen = {
        plain: max(counts, key=lambda name: (counts[name], name == plain, name)) for plain, counts in several.items()
    }
    notes = [
        f"the spellings {', '.join(f'{name!r} ({count})' for name, count in counts.most_common())} "
        f"were merged into {chosen[plain]!r}"
        for plain, counts in several.items()
    ]
    joined = [
        u.model_copy(update={"emotion": chosen.get(plain_label(u.emotion), u.emotion)}) if u.emotion else u
        for u in utterances
    ]
    return joined, notes


@dataclass(frozen=True)
class Prepared:
    """The utterances of a corpus, and what was left out.

    Attributes:
        utterances: In the parser's order, with absolute audio paths; write them with `manifest.write`.
        skipped: (path, reason) of every file that could not be read.
        notes: Messages about what was left out on purpose.
    """

    utterances: list[Utterance]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def prepare(
    corpus: Corpus,
    root: str | Path,
    *,
    counts: Counts = "published",
    unreadable: Unreadable = "stop",
    labels: LabelMap = NO_MAP,
    language: str | None = None,
    unpacked: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Parse a corpus, compare its counts with the published ones, unify its labels, and open the header of every file.

    Args:
        corpus: One of `CORPORA`.
        root: The corpus's folder, or for "csv" the table itself.
        counts: "published" raises an error if the counts differ from the published ones; "partial" notes differences.
        unreadable: "stop" raises an error at the first missing or broken file; "skip" lists it in `Prepared.skipped`.
        labels: Map for its emotions; spellings that differ only in case, spaces or Unicode form are always merged.
        language: Language of the utterances for which the corpus names none, as a code such as `en`.
        unpacked: Folder for recordings that are stored inside other files.
        on_progress: Called with (files opened, total).

    Raises:
        ManifestError: The folder is missing, is not the corpus, or is incomplete.
        AudioError: A file is missing or broken, and `unreadable` is "stop".
    """
    for choice, known, kind in (
        (counts, ("published", "partial"), "counts"),
        (unreadable, ("stop", "skip"), "handling of unreadable files"),
    ):
        if choice not in known:
            raise ManifestError(expected_one_of(choice, known, kind=kind))
    root = Path(root).absolute()
    try:
        parsed = corpus.unpack(root, unpacked) if corpus.unpack and unpacked else corpus.parse(root)
    except ValidationError as refusal:
        problem = refusal.errors()[0]
        what = f"{'.'.join(map(str, problem['loc']))} {str(problem['input'])[:60]!r}: {problem['msg']}"
        raise ManifestError(what, where=root, remedy="Rename the file, folder or label that it comes from.") from None
    utterances = [
        u.model_copy(update={"audio": os.path.abspath(u.audio), "language": u.language or language}) for u in parsed
    ]
    manifest.require_unique_ids(utterances, where=root)
    notes = corpus.remarks(root) + _count_notes(corpus, utterances, counts, where=root)
    utterances, mapped = with_labels(utterances, labels)
    utterances, joined = with_one_spelling(utterances)
    notes += mapped + joined
    notes += [
        f"speakers differ only in case, spaces or Unicode form: {', '.join(names)}"
        for names in alike_speakers(utterances)
    ]
    skipped: dict[str, str] = {}
    distinct = list(dict.fromkeys(u.audio for u in utterances))
    pool = ThreadPoolExecutor(HEADERS_AT_ONCE)
    try:
        for done, (path, error) in enumerate(zip(distinct, pool.map(header_error, distinct), strict=True), start=1):
            if error is not None and unreadable == "stop":
                raise error
            if error is not None:
                skipped[path] = error.what
            if on_progress:
                on_progress(done, len(distinct))
    finally:
        pool.shutdown(cancel_futures=True)
    kept = [u for u in utterances if u.audio not in skipped]
    if not kept:
        path, reason = next(iter(skipped.items()))
        raise ManifestError(
            f"none of the {len(skipped)} files can be read; {path}: {reason}",
            where=root,
            remedy="Copy the corpus again.",
        )
    return Prepared(kept, list(skipped.items()), notes)


def header_error(path: str) -> AudioError | None:
    """Return why a file's header cannot be read, or `None`."""
    try:
        audio.info(path)
    except AudioError as error:
        return error
    return None


def _count_notes(corpus: Corpus, utterances: Sequence[Utterance], counts: Counts, *, where: Path) -> list[str]:
    """Compare a corpus's counts with the published ones: raise ManifestError, or note what a partial corpus lacks."""
    expected = corpus.expected(utterances) if callable(corpus.expected) else corpus.expected
    if expected is None or not (differences := expected.differences(utterances)):
        return []
    num_found, num_published = len(utterances), expected.num_utterances
    items = [*corpus.missing(where), *differences]
    rest = f"; {len(items) - 4} more" if len(items) > 4 else ""
    what = (
        f"found {num_found} of the {num_published} utterances "
        f"that {corpus.title} publishes ({'; '.join(items[:4])}{rest})"
    )
    if counts == "partial":
        return [what]
    if num_found == num_published:
        remedy = "Copy the labels again from the release"
    else:
        remedy = "Download the rest" if num_found < num_published else "Remove what is not part of it"
    raise ManifestError(what, where=where, remedy=f"{remedy}, or use --partial.")


@dataclass(frozen=True)
class Merged:
    """Several manifests merged into one.

    Attributes:
        utterances: In the order of the manifests; every one has a corpus, with which its id begins.
        num_repeated: Number of rows left out because an earlier manifest contains them.
        duplicates: (id, earlier id) of utterances with the same samples, which were kept.
        notes: Changes of labels, and labels that only one corpus has.
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
    """Merge manifests.

    Args:
        manifests: Name and utterances of each; the name is used as the corpus of utterances without one.
        labels: Label map; spellings that differ only in case, spaces or Unicode form are always merged.
        on_progress: Called with (utterances decoded, utterances to decode) during the search for duplicates.

    Raises:
        ManifestError: Two manifests with the same name have utterances without a corpus.
        ManifestError: Two manifests have one id for different utterances, or label one utterance differently.
        AudioError: A recording is missing or broken.
    """
    named: list[Utterance] = []
    without_corpus: dict[str, list[Utterance]] = {}
    for name, utterances in manifests:
        lacking = [utterance for utterance in utterances if not utterance.corpus]
        if lacking and without_corpus.setdefault(name, lacking) != lacking:
            raise ManifestError(
                f"two manifests are called '{name}', which would become the corpus of the utterances of both",
                where=name,
                remedy="Rename one of the files, or set the field 'corpus' of its utterances.",
            )
        for utterance in utterances:
            corpus = utterance.corpus or name
            prefix = "" if utterance.id.startswith(f"{corpus}/") else f"{corpus}/"
            original = None if utterance.copy_of is None else prefix + utterance.copy_of
            changes = {"corpus": corpus, "id": prefix + utterance.id, "copy_of": original}
            named.append(utterance.model_copy(update=changes))
    joined, notes = with_labels(named, labels)
    joined, spellings = with_one_spelling(joined)
    by_id: dict[str, Utterance] = {}
    for utterance in joined:
        before = by_id.setdefault(utterance.id, utterance)
        old_part, part = ((str(Path(u.audio).resolve()), u.start_s, u.end_s) for u in (before, utterance))
        for what, old, new in (
            ("recording", old_part, part),
            ("emotion", before.emotion, utterance.emotion),
            ("speaker", before.speaker, utterance.speaker),
        ):
            if old != new:
                shown = (str(value[0]) if isinstance(value, tuple) else repr(value) for value in (old, new))
                raise ManifestError(
                    f"two manifests give {utterance.id} another {what}: {' and '.join(shown)}",
                    where=utterance.id,
                    remedy="Set the field 'corpus' if they are from two corpora; correct one if they are the same.",
                )
    distinct = list(by_id.values())
    merged = Merged(distinct, len(joined) - len(distinct), duplicates(distinct, on_progress), [*notes, *spellings])
    corpora = {u.corpus for u in distinct}
    single = [f"{label} ({', '.join(counts)})" for label, counts in merged.labels().items() if len(counts) == 1]
    if single and len(corpora) > 1:
        merged.notes.append(f"labels that only one corpus has: {', '.join(single)}")
    return merged


def duplicates(
    utterances: Sequence[Utterance], on_progress: Callable[[int, int], None] | None = None
) -> list[tuple[str, str]]:
    """Return (id, earlier id) of utterances with the same samples; only those of equal length are decoded."""
    of_length: defaultdict[float, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        of_length[round(audio.info(utterance.audio, utterance.start_s, utterance.end_s).duration_s, 4)].append(
            utterance
        )
    suspects = {u.id for alike in of_length.values() if len(alike) > 1 for u in alike}
    digests = audio_digests([u for u in utterances if u.id in suspects], on_progress=on_progress)
    first: dict[str, str] = {}
    return [(name, first[digest]) for name, digest in digests.items() if first.setdefault(digest, name) != name]
