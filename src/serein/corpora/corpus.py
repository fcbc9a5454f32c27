"""What a corpus is to serein: a pure parser, a licence and published counts; and how one is prepared."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from serein import audio
from serein.corpora.label_map import NO_MAP, LabelMap, with_labels, with_one_spelling
from serein.data import manifest
from serein.data.protocols import alike_speakers
from serein.data.utterance import Utterance
from serein.errors import AudioError, ManifestError, expected_one_of

Counts = Literal["published", "partial"]
Unreadable = Literal["stop", "skip"]


@dataclass(frozen=True)
class Expected:
    """The counts that a corpus publishes, by itself or in the papers on it.

    Attributes:
        emotions: Utterances of each emotion, after `merged`.
        speakers: Utterances of each speaker, among those emotions; empty when they are not published.
        sessions: Utterances of each session, likewise.
        merged: Emotion of the corpus -> the one that it is counted as; the utterances themselves keep their own.
        num_others: Utterances of further emotions, or without one, which the other counts leave out.
        splits: Utterances of each split, of a corpus without emotions.
        num_speakers: Speakers, where utterances of each are not published.
    """

    emotions: Mapping[str, int] = field(default_factory=dict)
    speakers: Mapping[str, int] = field(default_factory=dict)
    sessions: Mapping[str, int] = field(default_factory=dict)
    merged: Mapping[str, str] = field(default_factory=dict)
    num_others: int = 0
    splits: Mapping[str, int] = field(default_factory=dict)
    num_speakers: int | None = None

    @property
    def num_utterances(self) -> int:
        """Number of utterances in the whole corpus."""
        return sum(self.emotions.values()) + self.num_others if self.emotions else sum(self.splits.values())

    def emotion(self, utterance: Utterance) -> str:
        """Return the emotion that an utterance is counted as."""
        return self.merged.get(utterance.emotion or "", utterance.emotion or "(none)")


def nothing_to_remark(root: Path) -> list[str]:
    """Return no notes: the parser of this corpus leaves nothing out, and nothing that is named is missing."""
    return []


@dataclass(frozen=True)
class Corpus:
    """A corpus that serein can read from its own layout.

    Attributes:
        name: The name on the command line.
        title: The name in a report.
        licence: Under which the recordings may be used; `None` when that is for the user to know.
        citation: The publication to cite; `None` for a user's own recordings.
        parse: From the corpus's folder to its utterances in a fixed order, without decoding audio.
        expected: The counts that the corpus publishes, if any; of one that comes in parts, those of the parts at hand.
        remarks: From the corpus's folder to notes on what `parse` leaves out.
        missing: From the corpus's folder to what its own lists name and it does not hold, said when counts differ.
        unpack: From the corpus's folder, and one to write recordings to that lie inside other files, to its utterances;
            `parse` then is for those whose recordings lie beside them.
        languages: Of the recordings, as ISO 639-1 codes; empty when they are not told, or are many.
    """

    name: str
    title: str
    licence: str | None
    citation: str | None
    parse: Callable[[Path], list[Utterance]]
    expected: Expected | Callable[[Sequence[Utterance]], Expected] | None = None
    remarks: Callable[[Path], list[str]] = nothing_to_remark
    missing: Callable[[Path], list[str]] = nothing_to_remark
    unpack: Callable[[Path, Path], list[Utterance]] | None = None
    languages: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return what it is; its numbers are `None` when it does not publish them, or comes in parts."""
        counts = self.expected if isinstance(self.expected, Expected) else None
        return {
            "name": self.name,
            "title": self.title,
            "languages": list(self.languages),
            "num_utterances": counts.num_utterances if counts else None,
            "num_speakers": (len(counts.speakers) or counts.num_speakers) if counts else None,
            "licence": self.licence,
            "citation": self.citation,
        }


@dataclass(frozen=True)
class Prepared:
    """The utterances of a corpus, and what did not become one.

    Attributes:
        utterances: In the parser's order, with absolute audio paths; write them with `manifest.write`.
        skipped: (path, reason) of every file that could not be read.
        notes: What was left out on purpose, in words.
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
    unpacked: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Parse a corpus, compare its counts with the published ones, unite its labels, open the header of every file.

    Args:
        corpus: One of `CORPORA`.
        root: The corpus's folder, or for "csv" the table itself.
        counts: "published" stops when the corpus's own counts are not met; "partial" notes what is missing.
        unreadable: "stop" stops at the first missing or broken file; "skip" lists it in `Prepared.skipped`.
        labels: What its emotions become; spellings that differ by case or spaces alone are joined in any case.
        unpacked: Folder for recordings that lie inside other files.
        on_progress: Called with (files opened, files in all).

    Raises:
        ManifestError: The folder is missing, is not the corpus, or is incomplete.
        AudioError: A file is missing or broken, and `unreadable` is "stop".
    """
    _require_choice(counts, ("published", "partial"), kind="counts")
    _require_choice(unreadable, ("stop", "skip"), kind="way with unreadable files")
    root = Path(root).absolute()
    utterances = _parse(corpus, root, unpacked)
    notes = corpus.remarks(root) + _count_notes(corpus, utterances, counts, where=root)
    utterances, mapped = with_labels(utterances, labels)
    utterances, joined = with_one_spelling(utterances)
    notes += mapped + joined
    notes += [f"speakers differ by case or spaces alone: {', '.join(names)}" for names in alike_speakers(utterances)]
    skipped = _unreadable([u.audio for u in utterances], unreadable, on_progress)
    kept = [u for u in utterances if u.audio not in skipped]
    if not kept:
        path, reason = next(iter(skipped.items()))
        raise ManifestError(
            f"none of {len(skipped)} files can be read; {path}: {reason}",
            where=root,
            remedy="Copy the corpus again.",
        )
    return Prepared(kept, list(skipped.items()), notes)


def audio_files(root: Path) -> list[Path]:
    """Return every audio file below `root`, sorted.

    Raises:
        ManifestError: `root` is no folder, or holds no audio; says what it holds instead.
    """
    require_folder(root)
    if paths := audio.find(root):
        for path in paths:
            audio.require_utf8(path)
        return paths
    found = summary_by_suffix(audio.find_files(root))
    raise ManifestError(
        f"holds no audio ({'found ' + found if found else 'the folder is empty'})",
        where=root,
        remedy=_remedy_for(found),
    )


def require_folder(root: Path) -> None:
    """Raise ManifestError unless `root` is a folder."""
    if root.is_file():
        raise ManifestError("is a file, not a folder", where=root, remedy="Unpack it if need be, and name the folder.")
    if not root.is_dir():
        raise ManifestError("no such folder", where=root, remedy="Name the folder of the corpus.")


def text_lines(path: Path, remedy: str = "Copy it again from the release.") -> Iterator[tuple[int, str]]:
    """Yield the number and the text of every line of a table that is not blank, without what ends it.

    Raises:
        ManifestError: It cannot be read, or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"is no text in UTF-8 ({error})", where=path, remedy=remedy) from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def left_out(root: Path) -> list[str]:
    """Return a note on the files below `root` whose suffix is not one of audio."""
    others = [path for path in audio.find_files(root) if path.suffix.lower() not in audio.SUFFIXES]
    return [f"left out what is not audio: {summary_by_suffix(others)}"] if others else []


def summary_by_suffix(paths: Iterable[Path]) -> str:
    """Count files by suffix.

    Example:
        >>> summary_by_suffix([Path("a.txt"), Path("b.TXT"), Path("README")])
        '2 .txt, 1 without suffix'
    """
    numbers = Counter(path.suffix.lower() or "without suffix" for path in paths)
    return ", ".join(f"{number} {suffix}" for suffix, number in numbers.most_common())


def require_one_file_each(utterances: Sequence[Utterance], root: Path) -> None:
    """Raise ManifestError when two files give one id: a corpus unpacked twice, or converted in place."""
    first: dict[str, str] = {}
    repeated = [u for u in utterances if first.setdefault(u.id, u.audio) != u.audio]
    if repeated:
        pair = [os.path.relpath(path, root) for path in (first[repeated[0].id], repeated[0].audio)]
        raise ManifestError(
            f"{len(repeated)} names occur twice, such as {' and '.join(pair)}",
            where=root,
            remedy="Name the folder of one copy, or remove the other.",
        )


def _require_choice(choice: str, known: Collection[str], *, kind: str) -> None:
    if choice not in known:
        raise ManifestError(expected_one_of(choice, known, kind=kind))


def _parse(corpus: Corpus, root: Path, unpacked: Path | None) -> list[Utterance]:
    parsed = corpus.unpack(root, unpacked) if corpus.unpack and unpacked else corpus.parse(root)
    utterances = [_with_plain_path(u) for u in parsed]
    manifest.require_unique_ids(utterances, where=root)
    return utterances


def _with_plain_path(utterance: Utterance) -> Utterance:
    path = os.path.abspath(utterance.audio)
    return utterance.model_copy(update={"audio": path})


def _count_notes(corpus: Corpus, utterances: Sequence[Utterance], counts: Counts, *, where: Path) -> list[str]:
    expected = corpus.expected(utterances) if callable(corpus.expected) else corpus.expected
    if expected is None or not (differences := _differences(expected, utterances)):
        return []
    what = (
        f"found {len(utterances)} of the {expected.num_utterances} utterances "
        f"that {corpus.title} publishes ({_enumerate([*corpus.missing(where), *differences])})"
    )
    if counts == "partial":
        return [what]
    raise ManifestError(what, where=where, remedy=_remedy_for_counts(len(utterances), expected.num_utterances))


def _remedy_for_counts(num_found: int, num_published: int) -> str:
    if num_found < num_published:
        return "Download the rest, or say --partial."
    if num_found > num_published:
        return "Remove what is not part of it, or say --partial."
    return "Copy the labels again from the release, or say --partial."


def _differences(expected: Expected, utterances: Sequence[Utterance]) -> list[str]:
    """Return 'speaker 05: 59 of 60' for every speaker, session, emotion and split of another count than published."""
    is_other = [bool(expected.num_others) and expected.emotion(u) not in expected.emotions for u in utterances]
    counted = [u for u, other in zip(utterances, is_other, strict=True) if not other]
    differences = [
        f"{kind} {name}: {found[name]} of {published.get(name, 0)}"
        for kind, published, found in (
            ("speaker", expected.speakers, Counter(u.speaker or "(none)" for u in counted)),
            ("session", expected.sessions, Counter(u.session or "(none)" for u in counted)),
            ("emotion", expected.emotions, Counter(expected.emotion(u) for u in counted)),
            ("split", expected.splits, Counter(u.split or "(none)" for u in counted)),
        )
        if published
        for name in sorted({*published, *found})
        if found[name] != published.get(name, 0)
    ]
    if sum(is_other) != expected.num_others:
        differences.append(f"other emotions or none: {sum(is_other)} of {expected.num_others}")
    num_speakers = len({u.speaker for u in utterances} - {None})
    if expected.num_speakers not in (None, num_speakers):
        differences.append(f"speakers: {num_speakers} of {expected.num_speakers}")
    return differences


def _enumerate(items: Sequence[str], most: int = 4) -> str:
    rest = f"; {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + rest


def _unreadable(
    paths: Sequence[str], unreadable: Unreadable, on_progress: Callable[[int, int], None] | None
) -> dict[str, str]:
    """Open every file once; return path -> reason for those that cannot be read."""
    skipped: dict[str, str] = {}
    distinct = list(dict.fromkeys(paths))
    for done, path in enumerate(distinct, start=1):
        try:
            audio.info(path)
        except AudioError as error:
            if unreadable == "stop":
                raise
            skipped[path] = error.what
        if on_progress:
            on_progress(done, len(distinct))
    return skipped


def _remedy_for(found: str) -> str:
    if any(suffix in found for suffix in (".zip", ".tar", ".gz", ".7z", ".rar")):
        return "Unpack the archive first."
    return f"serein reads {', '.join(audio.SUFFIXES)}; convert others with: ffmpeg -i IN OUT.flac."
