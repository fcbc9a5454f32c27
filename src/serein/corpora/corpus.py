"""The definition of a corpus (a pure parser, a licence and published counts), and functions that parsers share."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serein import audio
from serein.data.manifest import Gender, Utterance
from serein.errors import ManifestError


@dataclass(frozen=True)
class Expected:
    """The published counts of a corpus, from its release or from papers about it.

    Attributes:
        emotions: Emotion -> number of utterances, after `merged`.
        speakers: Speaker -> number of utterances with those emotions; empty when not published.
        sessions: Session -> number of utterances with those emotions; empty when not published.
        merged: Emotion of the corpus -> the one that it is counted as; the utterances themselves keep their own.
        num_others: Number of utterances of further emotions, or without one, which the other counts exclude.
        splits: Split -> number of utterances, for a corpus without emotions.
        num_speakers: Number of speakers, if the utterances of each are not published.
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

    def differences(self, utterances: Sequence[Utterance]) -> list[str]:
        """Return texts such as 'speaker 05: 59 of 60' for all speakers, sessions, emotions and splits that differ."""
        is_other = [bool(self.num_others) and self.emotion(u) not in self.emotions for u in utterances]
        counted = [u for u, other in zip(utterances, is_other, strict=True) if not other]
        differences = [
            f"{kind} {name}: {found[name]} of {published.get(name, 0)}"
            for kind, published, found in (
                ("speaker", self.speakers, Counter(u.speaker or "(none)" for u in counted)),
                ("session", self.sessions, Counter(u.session or "(none)" for u in counted)),
                ("emotion", self.emotions, Counter(self.emotion(u) for u in counted)),
                ("split", self.splits, Counter(u.split or "(none)" for u in counted)),
            )
            if published
            for name in sorted({*published, *found})
            if found[name] != published.get(name, 0)
        ]
        if sum(is_other) != self.num_others:
            differences.append(f"other emotions or none: {sum(is_other)} of {self.num_others}")
        num_speakers = len({u.speaker for u in utterances} - {None})
        if self.num_speakers not in (None, num_speakers):
            differences.append(f"speakers: {num_speakers} of {self.num_speakers}")
        return differences


@dataclass(frozen=True)
class Corpus:
    """A corpus that serein can read in its original layout.

    Attributes:
        name: The name on the command line.
        title: The name in a report.
        licence: The licence of the recordings; `None` if only the user knows it.
        citation: The publication to cite; `None` for a user's own recordings.
        parse: (folder) -> the utterances in a fixed order, without decoding audio.
        expected: The published counts, if any; for a corpus that comes in parts, a function of the utterances at hand.
        remarks: (folder) -> notes on what `parse` leaves out.
        missing: (folder) -> items in the corpus's own lists that the folder lacks, reported when counts differ.
        unpack: (folder, folder for recordings that are stored inside other files) -> the utterances; `parse` then
            supports only recordings that are separate files.
        languages: Languages of the recordings as ISO 639-1 codes; empty if they are not stated, or are many.
    """

    name: str
    title: str
    licence: str | None
    citation: str | None
    parse: Callable[[Path], list[Utterance]]
    expected: Expected | Callable[[Sequence[Utterance]], Expected] | None = None
    remarks: Callable[[Path], list[str]] = lambda root: []
    missing: Callable[[Path], list[str]] = lambda root: []
    unpack: Callable[[Path, Path], list[Utterance]] | None = None
    languages: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return plain values; the counts are `None` if they are not published, or if the corpus comes in parts."""
        counts = self.expected if isinstance(self.expected, Expected) else None
        return {
            "name": self.name,
            "title": self.title,
            "languages": list(self.languages),
            "num_utterances": (counts.num_utterances or None) if counts else None,
            "num_speakers": (len(counts.speakers) or counts.num_speakers) if counts else None,
            "licence": self.licence,
            "citation": self.citation,
        }


def audio_files(root: Path) -> list[Path]:
    """Return every audio file below `root`, sorted.

    Raises:
        ManifestError: `root` is not a folder or contains no audio; lists what it contains instead.
    """
    require_folder(root)
    if paths := audio.find(root):
        for path in paths:
            audio.require_valid_name(path)
        return paths
    found = summary_by_suffix(audio.find_files(root))
    is_packed = any(suffix in found for suffix in (".zip", ".tar", ".gz", ".7z", ".rar"))
    convert = f"serein reads {', '.join(audio.SUFFIXES)}; convert others with: ffmpeg -i IN OUT.flac."
    raise ManifestError(
        f"contains no audio ({'found ' + found if found else 'the folder is empty'})",
        where=root,
        remedy="Unpack the archive first." if is_packed else convert,
    )


def require_folder(root: Path) -> None:
    """Raise ManifestError unless `root` is a folder."""
    if root.is_file():
        raise ManifestError(
            "is a file, not a folder", where=root, remedy="Unpack it if necessary, and specify the folder."
        )
    if not root.is_dir():
        raise ManifestError("no such folder", where=root, remedy="Specify the folder of the corpus.")


def summary_by_suffix(paths: Iterable[Path]) -> str:
    """Count files by suffix.

    Example:
        >>> summary_by_suffix([Path("a.txt"), Path("b.TXT"), Path("README")])
        '2 .txt, 1 without suffix'
    """
    numbers = Counter(path.suffix.lower() or "without suffix" for path in paths)
    return ", ".join(f"{number} {suffix}" for suffix, number in numbers.most_common())


def name_parts(
    path: Path,
    pattern: str,
    *,
    corpus: str,
    example: str,
    remedy: str = "Specify the corpus's own folder of clips, or move this file out of it.",
) -> re.Match[str]:
    """Return the parts of a file's name.

    Args:
        pattern: Regular expression for the name without its suffix.
        corpus: Title of the corpus, for the error message.
        example: A valid file name, for the error message.

    Raises:
        ManifestError: It does not match the clip names of the corpus.
    """
    parts = re.fullmatch(pattern, path.stem)
    if parts is None:
        raise ManifestError(f"does not match the clip names of {corpus}, such as {example}", where=path, remedy=remedy)
    return parts


def require_one_file_each(utterances: Sequence[Utterance], root: Path) -> None:
    """Raise ManifestError when two files yield the same id, as in a corpus unpacked twice or converted in place."""
    first: dict[str, str] = {}
    repeated = [u for u in utterances if first.setdefault(u.id, u.audio) != u.audio]
    if repeated:
        pair = [os.path.relpath(path, root) for path in (first[repeated[0].id], repeated[0].audio)]
        raise ManifestError(
            f"{len(repeated)} names occur twice, such as {' and '.join(pair)}",
            where=root,
            remedy="Specify the folder of one copy, or remove the other.",
        )


def in_order(utterances: list[Utterance], root: Path) -> list[Utterance]:
    """Return the utterances sorted by speaker and id.

    Raises:
        ManifestError: A clip is in two places.
    """
    require_one_file_each(utterances, root)
    return sorted(utterances, key=lambda u: (u.speaker or "", u.id))


@dataclass(frozen=True)
class Acted:
    """An acted corpus: the naming scheme of its clips, and its published counts.

    Attributes:
        name: The name on the command line.
        title: The name in a report.
        languages: ISO 639-1 codes; utterances get the first.
        licence: The licence of the recordings.
        citation: The publication to cite.
        example: An example of a file name.
        pattern: Regular expression for a file name without its suffix, with any of the groups `speaker`, `emotion`,
            `gender` and `text`.
        expected: The published counts.
        emotions: Code of the group `emotion` -> emotion; without codes, the group in lower case is the emotion.
        speakers: Code of the group `speaker` -> speaker, if it is not the code itself.
        genders: Code of the group `gender` -> gender; for a pattern without that group, speaker -> gender.
        ages: Speaker -> age in years, as published.
        texts: Code of the group `text` -> transcript; without codes, the group is the words, joined by underscores.
        carrier: Sentence around a group `text` that is a single word, with `{}` in its place.
        broken: Names of clips, without suffix, that cannot be decoded in the release; they are left out.
    """

    name: str
    title: str
    languages: tuple[str, ...]
    licence: str
    citation: str
    example: str
    pattern: str
    expected: Expected
    emotions: Mapping[str, str] = field(default_factory=dict)
    speakers: Mapping[str, str] = field(default_factory=dict)
    genders: Mapping[str, Gender] = field(default_factory=dict)
    ages: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    carrier: str = ""
    broken: tuple[str, ...] = ()

    def utterance(self, path: Path) -> Utterance:
        """Return the utterance that a file's name describes.

        Raises:
            ManifestError: The name does not match the clip names of the corpus.
        """
        parts = name_parts(path, self.pattern, corpus=self.title, example=self.example).groupdict()
        speaker, emotion, text = (parts.get(group) or "" for group in ("speaker", "emotion", "text"))
        speaker = self.speakers.get(speaker, speaker)
        words = self.carrier.format(text.lower()) if self.carrier else self.texts.get(text) or text.replace("_", " ")
        return Utterance(
            id=path.stem,
            audio=str(path),
            speaker=speaker or None,
            gender=self.genders.get(parts.get("gender") or speaker),
            age=self.ages.get(speaker),
            emotion=self.emotions.get(emotion) or emotion.lower() or None,
            transcript=words or None,
            style="scripted",
            language=self.languages[0],
            corpus=self.name,
        )

    def parse(self, root: Path) -> list[Utterance]:
        """Return every clip below `root` except the broken ones, sorted by speaker and id.

        Raises:
            ManifestError: There is no folder or no audio, a file name does not match, or a clip is in two places.
        """
        return in_order([u for u in map(self.utterance, audio_files(root)) if u.id not in self.broken], root)

    def remarks(self, root: Path) -> list[str]:
        """Return a note on each broken clip that is present."""
        broken = [path.stem for path in audio_files(root) if path.stem in self.broken]
        return [f"left out '{name}', which cannot be decoded in the release" for name in broken]

    def corpus(
        self,
        parse: Callable[[Path], list[Utterance]] | None = None,
        remarks: Callable[[Path], list[str]] | None = None,
        missing: Callable[[Path], list[str]] = lambda root: [],
    ) -> Corpus:
        """Return the corpus.

        Args:
            parse: Parser of its own, if the file names do not contain everything.
            remarks: As in `Corpus.remarks`.
            missing: As in `Corpus.missing`.
        """
        return Corpus(
            name=self.name,
            title=self.title,
            licence=self.licence,
            citation=self.citation,
            parse=parse or self.parse,
            expected=self.expected,
            remarks=remarks or self.remarks,
            missing=missing,
            languages=self.languages,
        )
