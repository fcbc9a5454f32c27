"""One set of labels: spellings that mean one class, and a user's own mapping of labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from serein.corpora.cells import is_missing
from serein.data.utterance import Utterance
from serein.errors import ManifestError

_REMEDY = "Write one line a label, such as 'Angry: angry'; a corpus of its own as 'emodb: {Wut: anger}'."


@dataclass(frozen=True)
class LabelMap:
    """What labels become; a label of neither stays.

    Attributes:
        of_all: Label, in small letters -> the one it becomes; `None` takes it away.
        of_corpus: Corpus -> likewise, of its utterances alone; goes before `of_all`.
    """

    of_all: Mapping[str, str | None] = field(default_factory=dict)
    of_corpus: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)

    def of(self, label: str | None, corpus: str | None) -> str | None:
        """Return what a label of a corpus becomes.

        Example:
            >>> labels = LabelMap({"angry": "anger", "calm": "neutral", "bored": None}, {"ravdess": {"calm": "calm"}})
            >>> [labels.of(*pair) for pair in (("Angry", None), ("calm", "ravdess"), ("bored", None), ("sad", None))]
            ['anger', 'calm', None, 'sad']
        """
        if label is None:
            return None
        key = _plain(label)
        own = self.of_corpus.get(corpus or "", {})
        return own[key] if key in own else self.of_all.get(key, label)


NO_MAP = LabelMap()


def read_label_map(path: Path) -> LabelMap:
    """Read a mapping of labels from YAML: `Angry: angry`, or a mapping of them below the name of a corpus.

    What stands for a missing value ("", null, none, -) takes the label away.

    Raises:
        ManifestError: There is no such file, it is no mapping of words, or it maps one label twice.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)  # noqa: S506 (makes text only)
    except FileNotFoundError:
        raise ManifestError("no such file", where=path, remedy="Check the path.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ManifestError(f"is no YAML ({error})", where=path, remedy=_REMEDY) from None
    if not isinstance(content, dict) or not content:
        raise ManifestError("is no mapping of labels", where=path, remedy=_REMEDY)
    sections = {name: values for name, values in content.items() if isinstance(values, dict)}
    labels = {name: value for name, value in content.items() if name not in sections}
    return LabelMap(_entries(labels, path), {name: _entries(values, path) for name, values in sections.items()})


def _entries(labels: Mapping[object, object], path: Path) -> dict[str, str | None]:
    entries: dict[str, str | None] = {}
    for label, value in labels.items():
        if not isinstance(label, str) or not isinstance(value, str):
            raise ManifestError(f"'{label}' is mapped to '{value}'", where=path, remedy=_REMEDY)
        target = None if is_missing(value) else value.strip()
        if entries.setdefault(_plain(label), target) != target:
            raise ManifestError(f"maps '{label}' twice, in two spellings", where=path, remedy="Keep one of them.")
    return entries


def with_labels(utterances: Sequence[Utterance], labels: LabelMap) -> tuple[list[Utterance], list[str]]:
    """Return utterances whose emotions and raters' labels are mapped, and notes on what became what."""
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
    met = {_plain(u.emotion) for u in utterances if u.emotion}
    named = {*labels.of_all, *(label for own in labels.of_corpus.values() for label in own)}
    if unmet := sorted(named - met):
        notes.append(f"no utterance is labelled {', '.join(unmet)}, which the label map names")
    return mapped, notes


def with_one_spelling(utterances: Sequence[Utterance]) -> tuple[list[Utterance], list[str]]:
    """Join emotions that differ by case or spaces alone: each is spelt as most are, of equally many in small letters.

    Returns:
        The utterances, and a note on each class that had several spellings.
    """
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for utterance in utterances:
        if utterance.emotion:
            spellings[_plain(utterance.emotion)][utterance.emotion] += 1
    several = {plain: counts for plain, counts in spellings.items() if len(counts) > 1}
    chosen = {
        plain: max(counts, key=lambda name: (counts[name], name == plain, name)) for plain, counts in several.items()
    }
    notes = [
        f"the spellings {', '.join(f'{name!r} ({count})' for name, count in counts.most_common())} "
        f"were joined into {chosen[plain]!r}"
        for plain, counts in several.items()
    ]
    joined = [
        u.model_copy(update={"emotion": chosen.get(_plain(u.emotion), u.emotion)}) if u.emotion else u
        for u in utterances
    ]
    return joined, notes


def _plain(label: str) -> str:
    return " ".join(label.split()).casefold()
