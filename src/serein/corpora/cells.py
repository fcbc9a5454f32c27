"""What the columns and cells of people's tables mean: their names, what is missing, times, genders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from serein.data.utterance import Gender, Utterance
from serein.errors import ManifestError

ALIASES = {
    "audio": (
        "path",
        "file",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "audio_path",
        "audio_file",
        "wav",
    ),
    "transcript": ("text", "sentence", "transcription"),
    "emotion": ("label", "category"),
    "arousal": ("activation",),
    "speaker": ("speaker_id", "spk"),
    "gender": ("sex",),
    "start_s": ("start", "begin", "onset"),
    "end_s": ("end",),
    "split": ("subset", "partition"),
    "language": ("lang",),
    "corpus": ("dataset",),
}
FIELDS = tuple(
    name for name in Utterance.model_fields if name not in ("ratings", "predicted")
)  # a cell cannot hold several
GENDERS: dict[str, Gender] = {
    "m": "male",
    "male": "male",
    "man": "male",
    "f": "female",
    "female": "female",
    "woman": "female",
}
MISSING = frozenset({"", "nan", "nat", "na", "n/a", "<na>", "none", "null", "?", "-", "''", '""'})  # in any case
MAYBE_EMOTION = frozenset(
    {"class", "classes", "target", "y", "emo", "emotions", "mood", "feeling", "affect", "annotation"}
)

_FIELD_OF = {name: name for name in FIELDS} | {alias: name for name, aliases in ALIASES.items() for alias in aliases}
_TIMES = ("start_s", "end_s")
_NUMBERS = ("valence", "arousal", "dominance")
_TIME = re.compile(
    r"(?:P?(?P<days>\d+) ?(?:days?|DT),? ?)?"
    r"(?:(?:(?:(?P<hours>\d+)[:H])?(?P<minutes>\d+)[:M])?(?P<seconds>\d+(?:[.,]\d+)?) ?[sS]?)?"
)


def field_of(column: str) -> str | None:
    """Return the field of an utterance that a column holds; `None` when its name is not known.

    Example:
        >>> field_of("Speaker ID"), field_of("mood")
        ('speaker', None)
    """
    return _FIELD_OF.get(column.strip().lower().replace(" ", "_"))


def is_missing(cell: str) -> bool:
    """Tell whether a cell says that its value is missing.

    Example:
        >>> [is_missing(cell) for cell in ("", "NaN", "N/A", "?", "sad")]
        [True, True, True, True, False]
    """
    return cell.strip().lower() in MISSING


def seconds(cell: str) -> float:
    """Return a time in seconds: of a number, of minutes and seconds, or as pandas writes it.

    Raises:
        ValueError: It is none of them.

    Example:
        >>> [seconds(cell) for cell in ("1.5", "00:01.5", "1:00:01", "0 days 00:00:01.500000", "P0DT0H0M1.5S")]
        [1.5, 1.5, 3601.0, 1.5, 1.5]
    """
    parts = _TIME.fullmatch(cell.strip())
    if parts is None or not any(parts.groups()):
        raise ValueError(cell)
    number = float((parts["seconds"] or "0").replace(",", "."))
    return number + 60 * (int(parts["minutes"] or 0) + 60 * (int(parts["hours"] or 0) + 24 * int(parts["days"] or 0)))


def part_id(audio: Path, start_s: float | None, end_s: float | None) -> str:
    """Return the path without its suffix, and `#start-end` when it is a part of the file.

    Example:
        >>> part_id(Path("a/show.wav"), 0.0, 1.5), part_id(Path("b.wav"), None, None)
        ('a/show#0-1.5', 'b')
    """
    name = audio.as_posix().removesuffix(audio.suffix)
    if start_s is None and end_s is None:
        return name
    start, end = (f"{time:.6f}".rstrip("0").rstrip(".") if time is not None else "" for time in (start_s, end_s))
    return f"{name}#{start or '0'}-{end or 'end'}"


def utterance(cells: Mapping[str, str], folder: Path, *, where: str, columns: Mapping[str, str]) -> Utterance:
    """Return the utterance of a row.

    Args:
        cells: By field of an utterance; those that say that they are missing are left out.
        folder: To which the audio path is relative.
        where: The row, for complaints.
        columns: Field -> name of its column, where it has another, for complaints.

    Raises:
        ManifestError: There is no path, or a cell is not of its field; names the column.
    """
    audio_cell = cells.get("audio", "").strip()
    if not audio_cell:
        raise ManifestError("the audio path is empty", where=where, remedy="Fill it in, or remove the row.")
    audio = Path(audio_cell.replace("\\", "/"))
    values: dict[str, object] = {field: cell for field, cell in cells.items() if not is_missing(cell)}
    for field in _TIMES:
        if field in values:
            values[field] = _time(cells[field], where, columns.get(field, field))
    for field in _NUMBERS:
        if field in values:
            values[field] = cells[field].replace(",", ".")
    if "gender" in values:
        values["gender"] = GENDERS.get(cells["gender"].lower(), cells["gender"].lower())
    times = (values.get("start_s"), values.get("end_s"))
    values |= {"id": values.get("id") or part_id(audio, *times), "audio": str(folder / audio)}  # type: ignore[arg-type]
    try:
        return Utterance.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        field = str(problem["loc"][0])
        what = f"column '{columns.get(field, field)}' holds '{problem['input']}': {problem['msg']}"
        raise ManifestError(what, where=where, remedy="Correct the cell, or leave it empty.") from None


def _time(cell: str, where: str, column: str) -> float:
    try:
        return seconds(cell)
    except ValueError:
        raise ManifestError(
            f"column '{column}' holds '{cell}', which is no time",
            where=where,
            remedy="Write it as seconds (1.5), as 00:01.5, or as 0 days 00:00:01.5.",
        ) from None
