"""The label tables of MSP-Podcast: their rows, and what every rater said.

`labels_detailed.csv` has two forms. Release 2.0 gives a rater's answers a column each; releases up to 1.12 put them
into one cell as in `labels.txt`: `WORKER00000001; Other-confused; Concerned,Confused; A:3.0; V:3.0; D:4.0;`.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from operator import itemgetter
from pathlib import Path

from serein.data.utterance import Rating
from serein.errors import ManifestError

OTHER = "other"
# What a rater may tick in the second question (the release's readme.txt); "Other" takes free text.
SECONDARY = frozenset(
    [
        "angry",
        "sad",
        "happy",
        "amused",
        "neutral",
        "frustrated",
        "depressed",
        "surprise",
        "concerned",
        "disgust",
        "disappointed",
        "excited",
        "confused",
        "annoyed",
        "fear",
        "contempt",
        "other",
    ]
)
RATING_COLUMNS = ("FileName", "WorkerID", "EmoClass_Major", "EmoClass_Second")
DETAIL_COLUMNS = ("FileName", "EmoDetail")

_DETAIL = re.compile(r"(?P<rater>[^;]+);(?P<labels>.+);\s*A:[^;]*;\s*V:[^;]*;\s*D:[^;]*;?\s*", re.DOTALL)
_OTHER = re.compile(r"other(?![a-z])[\s\-_:]*", re.IGNORECASE)
_SPELLING = {"dissapointed": "disappointed"}  # as several releases misspell it


def header(path: Path) -> list[str]:
    """Return the column names of a table.

    Raises:
        ManifestError: The file is empty or no text.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            names = next(csv.reader(file), [])
        except (csv.Error, UnicodeDecodeError) as error:
            raise _unreadable(f"{path}:1", error) from None
    if not any(names):
        raise ManifestError("the table is empty", where=path, remedy="Copy it again from the release.")
    return [name.strip() for name in names]


def rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the line number of every row below the header, and its cells of at least two `columns`.

    Raises:
        ManifestError: A column is missing, or a line is broken; names the line.
    """
    names = header(path)
    if missing := [column for column in columns if column not in names]:
        raise ManifestError(
            f"has no column {' and no column '.join(missing)}; its columns are: {', '.join(names)}",
            where=path,
            remedy="Use the table of release 1.10 or later as it was sent.",
        )
    pick = itemgetter(*(names.index(column) for column in columns))
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            next(reader)
            for row in reader:
                if len(row) == len(names):
                    yield reader.line_num, pick(row)
                elif any(row):
                    raise _cut_off(f"{path}:{reader.line_num}", len(row), len(names))
        except (csv.Error, UnicodeDecodeError) as error:
            raise _unreadable(f"{path}:{reader.line_num}", error) from None


def ratings(path: Path) -> dict[str, tuple[Rating, ...]]:
    """Return the ratings of every file in `labels_detailed.csv`, in its order.

    Raises:
        ManifestError: The table has neither of the two forms, or a row has no rater or no primary emotion.
    """
    said = cache(_said)  # raters give the same few answers a million times
    found: dict[str, list[Rating]] = defaultdict(list)
    for name, rater, primary, secondary in _answers(path):
        labels, comment = said(primary, secondary)
        found[name].append(Rating(labels=labels, comment=comment, rater=rater))
    return {name: tuple(given) for name, given in found.items()}


def rating(rater: str, primary: str, secondary: str) -> Rating:
    """Return what one rater said: the primary emotion first, then the secondary ones, each once.

    Args:
        primary: One emotion, or "Other-" and free text.
        secondary: Emotions separated by commas, possibly none; the free text of "Other-" may hold commas, too.

    Example:
        >>> rating("WORKER00000001", "Angry", "Angry,Frustrated,Other-bored, really")
        Rating(labels=('angry', 'frustrated', 'other'), comment='bored, really', rater='WORKER00000001')
    """
    labels, comment = _said(primary, secondary)
    return Rating(labels=labels, comment=comment, rater=rater)


def _said(primary: str, secondary: str) -> tuple[tuple[str, ...], str | None]:
    """Return the labels and the free text of one answer."""
    labels, comments = [_label(primary)], [_free_text(primary) if _OTHER.match(primary) else ""]
    is_free_text = False
    for word in filter(None, (word.strip() for word in secondary.split(","))):
        label = _label(word)
        is_free_text = label == OTHER or (is_free_text and label not in SECONDARY)
        labels.append(OTHER if is_free_text else label)
        comments.append(_free_text(word) if is_free_text else "")
    return tuple(dict.fromkeys(labels)), ", ".join(dict.fromkeys(filter(None, comments))) or None


def _label(word: str) -> str:
    if _OTHER.match(word):
        return OTHER
    return _SPELLING.get(word.lower(), word.lower())


def _free_text(word: str) -> str:
    return _OTHER.sub("", word, count=1).strip()


def _answers(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield file name, rater, primary and secondary emotions of every row, whichever form the table has."""
    is_one_cell = "EmoDetail" in header(path)
    for line, (name, *cells) in rows(path, DETAIL_COLUMNS if is_one_cell else RATING_COLUMNS):
        rater, primary, secondary = _split(cells[0]) if is_one_cell else cells
        if not rater.strip() or not primary.strip():
            raise ManifestError(
                f"is no rating: '{'; '.join(cells)}'",
                where=f"{path}:{line}",
                remedy="Copy the table again from the release: a rating names its rater and a primary emotion.",
            )
        yield name.strip(), rater.strip(), primary.strip(), secondary


def _split(detail: str) -> tuple[str, str, str]:
    """Return rater, primary and secondary emotions of a cell `EmoDetail`; empty where they cannot be found."""
    parts = _DETAIL.fullmatch(detail)
    if parts is None:
        return "", "", ""
    labels = parts["labels"].strip()
    if _OTHER.match(labels) and ";" in labels:  # the free text of the primary emotion may hold semicolons
        primary, _, secondary = labels.rpartition(";")
    else:
        primary, _, secondary = labels.partition(";")
    return parts["rater"], primary, secondary


def _cut_off(where: str, num_cells: int, num_columns: int) -> ManifestError:
    return ManifestError(
        f"has {num_cells} cells, the header has {num_columns}",
        where=where,
        remedy="Copy the table again from the release.",
    )


def _unreadable(where: str, error: Exception) -> ManifestError:
    what = "is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else f"is no readable CSV ({error})"
    return ManifestError(what, where=where, remedy="Copy the table again from the release.")
