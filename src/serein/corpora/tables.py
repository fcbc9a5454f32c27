"""Tables and texts that accompany recordings: encodings, meanings of columns and cells, utterances from rows."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serein.data.manifest import Gender, Utterance
from serein.errors import ManifestError, imported

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
    "age": ("age_years", "speaker_age"),
    "start_s": ("start", "start_time", "start_sec", "begin", "begin_time", "onset", "tmin"),
    "end_s": ("end", "end_time", "end_sec", "stop", "tmax"),
    "split": ("subset", "partition"),
    "language": ("lang",),
    "corpus": ("dataset",),
}
FIELDS = tuple(
    name for name in Utterance.model_fields if name not in ("ratings", "predicted")
)  # a cell cannot contain several
GENDERS: dict[str, Gender] = {
    "m": "male",
    "male": "male",
    "man": "male",
    "f": "female",
    "female": "female",
    "woman": "female",
}
_CODES = """
aar:aa abk:ab afr:af aka:ak amh:am ara:ar arb:ar arg:an asm:as ava:av ave:ae aym:ay aze:az bak:ba bam:bm bel:be ben:bn
bis:bi bod:bo bos:bs bre:br bul:bg cat:ca ces:cs cha:ch che:ce chu:cu chv:cv cmn:zh cor:kw cos:co cre:cr cym:cy dan:da
deu:de div:dv dzo:dz ell:el eng:en epo:eo est:et eus:eu ewe:ee fao:fo fas:fa fij:fj fin:fi fra:fr fry:fy ful:ff gla:gd
gle:ga glg:gl glv:gv grn:gn guj:gu hat:ht hau:ha heb:he her:hz hin:hi hmo:ho hrv:hr hun:hu hye:hy ibo:ig ido:io iii:ii
iku:iu ile:ie ina:ia ind:id ipk:ik isl:is ita:it jav:jv jpn:ja kal:kl kan:kn kas:ks kat:ka kau:kr kaz:kk khm:km kik:ki
kin:rw kir:ky kom:kv kon:kg kor:ko kua:kj kur:ku lao:lo lat:la lav:lv lim:li lin:ln lit:lt ltz:lb lub:lu lug:lg mah:mh
mal:ml mar:mr mkd:mk mlg:mg mlt:mt mon:mn mri:mi msa:ms mya:my nau:na nav:nv nbl:nr nde:nd ndo:ng nep:ne nld:nl nno:nn
nob:nb nor:no nya:ny oci:oc oji:oj ori:or orm:om oss:os pan:pa pes:fa pli:pi pol:pl por:pt pus:ps que:qu roh:rm ron:ro
run:rn rus:ru sag:sg san:sa sin:si slk:sk slv:sl sme:se smo:sm sna:sn snd:sd som:so sot:st spa:es sqi:sq srd:sc srp:sr
ssw:ss sun:su swa:sw swe:sv tah:ty tam:ta tat:tt tel:te tgk:tg tgl:tl tha:th tir:ti ton:to tsn:tn tso:ts tuk:tk tur:tr
twi:tw uig:ug ukr:uk urd:ur uzb:uz ven:ve vie:vi vol:vo wln:wa wol:wo xho:xh yid:yi yor:yo zha:za zho:zh zul:zu
"""
LANGUAGES = dict(pair.split(":") for pair in _CODES.split())  # ISO 639-3 -> ISO 639-1
MISSING = frozenset(
    {"", "nan", "nat", "na", "n/a", "<na>", "none", "null", "?", "-", "''", '""'}
)  # in upper or lower case
MAYBE_EMOTION = frozenset(
    {"class", "classes", "target", "y", "emo", "emotions", "mood", "feeling", "affect", "annotation", "sentiment"}
)

_FIELD_OF = {name: name for name in FIELDS} | {alias: name for name, aliases in ALIASES.items() for alias in aliases}
_TIME = re.compile(
    r"(?:P?(?P<days>\d+) ?(?:days?|DT),? ?)?"
    r"(?:(?:(?:(?P<hours>\d+)[:H])?(?P<minutes>\d+)[:M])?(?P<seconds>\d+(?:[.,]\d+)?) ?[sS]?)?"
)
_TIMED = r"((seg(ment)?|utt(erance)?|audio|clip|speech|turn|sentence)[ _]?)?"
_UNIT = r"([ _]?(times?|positions?))?([ _([-]*([hms:.]+(ec(ond)?s?)?|milliseconds?|frames?|samples?)[])]?)?"
_MAYBE_TIME = re.compile(rf"{_TIMED}(start|begin|onset|offset|end|stop){_UNIT}|xmin|xmax", re.IGNORECASE)
_MAYBE_DURATION = re.compile(rf"{_TIMED}(duration|dur|length){_UNIT}", re.IGNORECASE)
_REMEDY = "Copy it again from the release."


def rows(
    path: Path, columns: Sequence[str], *, separator: str = ",", otherwise: str = "utf-8"
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the file and line of every row of a table, and its stripped cells by column.

    Args:
        columns: The columns that it must have.
        separator: Separator of cells; with a tab, quotation marks are ordinary characters.
        otherwise: Encoding of a table that is not UTF-8.

    Raises:
        ManifestError: It cannot be read, lacks a column, or a row is cut off.
    """
    text = io.StringIO(decoded(path, otherwise), newline="")
    reader = csv.DictReader(
        text, delimiter=separator, quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    )
    if lacking := [name for name in columns if name not in (reader.fieldnames or ())]:
        names = ", ".join(name or "(without a name)" for name in lacking)
        raise ManifestError(f"has no column {names}", where=path, remedy=_REMEDY)
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if any(row[name] is None for name in columns):
            raise ManifestError("the row is cut off", where=where, remedy=_REMEDY)
        yield where, {name: row[name].strip() for name in columns}


def years(cell: str) -> float | None:
    """Return an age in years; `None` for a cell that is empty or uses words, such as "adult".

    Example:
        >>> years("34"), years("61,5"), years("twenties")
        (34.0, 61.5, None)
    """
    return float(cell.replace(",", ".")) if re.fullmatch(r"\d+([.,]\d+)?", cell) else None


def decoded(path: Path, otherwise: str) -> str:
    """Return a text that is in UTF-16 with a byte order mark, in UTF-8, or else in the given encoding.

    Raises:
        ManifestError: It cannot be read, or is in none of these encodings.
    """
    try:
        content = path.read_bytes()
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return content.decode("utf-16")
        with contextlib.suppress(UnicodeDecodeError):
            return content.decode("utf-8-sig")
        return content.decode(otherwise)
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"cannot be read as text ({error})", where=path, remedy=_REMEDY) from None


def parquet_rows(path: Path, extra: str) -> Iterator[dict[str, object]]:
    """Yield the rows of a Parquet file as column -> cell.

    Args:
        extra: The extra of serein that installs pyarrow.

    Raises:
        MissingExtraError: pyarrow is not installed.
        ManifestError: It is not a readable Parquet file.
    """
    imported("pyarrow", extra)
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except (OSError, ArrowException) as error:
        raise ManifestError(f"is not a readable Parquet file ({error})", where=path, remedy=_REMEDY) from None


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of every non-blank line of a table, without its line ending.

    Raises:
        ManifestError: It cannot be read, or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"is not UTF-8 text ({error})", where=path, remedy=_REMEDY) from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def field_of(column: str) -> str | None:
    """Return the field of an utterance that a column contains; `None` when its name is unknown.

    Example:
        >>> field_of("Speaker ID"), field_of("mood")
        ('speaker', None)
    """
    return _FIELD_OF.get(column.strip().lower().replace(" ", "_"))


def require_known_times(columns: Sequence[str], *, where: Path) -> None:
    """Raise ManifestError if a column of unknown name may specify a part of the file, in other words or units.

    A duration does so next to a start or an end alone.
    """
    fields = {field_of(name) for name in columns}
    has_one_time = ("start_s" in fields) != ("end_s" in fields)
    for name in columns:
        is_time = _MAYBE_TIME.fullmatch(name) or (has_one_time and _MAYBE_DURATION.fullmatch(name))
        if is_time and not field_of(name):
            remedy = "Give times in seconds, in columns 'start' and 'end'; or remove the column."
            raise ManifestError(f"column '{name}' may specify a part of the file", where=where, remedy=remedy)


def is_missing(cell: str) -> bool:
    """Return whether a cell marks a missing value.

    Example:
        >>> [is_missing(cell) for cell in ("", "NaN", "N/A", "?", "sad")]
        [True, True, True, True, False]
    """
    return cell.strip().lower() in MISSING


def seconds(cell: str) -> float:
    """Return a time in seconds, given as a number, as minutes and seconds, or in pandas' format.

    Raises:
        ValueError: The cell has none of these formats.

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
    """Return the path without its suffix, followed by `#start-end` for a part of the file.

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
        cells: Field of an utterance -> cell; cells that mark a missing value are left out.
        folder: Folder to which the audio path is relative.
        where: The row, for error messages.
        columns: Field -> name of its column if it differs, for error messages.

    Raises:
        ManifestError: The path is missing, or a cell is not valid for its field; names the column.
    """
    audio_cell = cells.get("audio", "").strip()
    if not audio_cell:
        raise ManifestError("the audio path is empty", where=where, remedy="Fill it in, or remove the row.")
    audio = Path(audio_cell.replace("\\", "/"))
    values: dict[str, object] = {field: cell for field, cell in cells.items() if not is_missing(cell)}
    for field in ("start_s", "end_s"):
        if field in values:
            try:
                values[field] = seconds(cells[field])
            except ValueError:
                raise ManifestError(
                    f"column '{columns.get(field, field)}' contains '{cells[field]}', which is not a time",
                    where=where,
                    remedy="Write it as seconds (1.5), as 00:01.5, or as 0 days 00:00:01.5.",
                ) from None
    for field in ("valence", "arousal", "dominance"):
        if field in values:
            values[field] = cells[field].replace(",", ".")
    if "gender" in values:
        values["gender"] = GENDERS.get(cells["gender"].lower(), cells["gender"].lower())
    if "language" in values:
        values["language"] = LANGUAGES.get(cells["language"].lower(), cells["language"])
    if "age" in values:
        values["age"] = years(cells["age"])
    times: Any = (values.get("start_s"), values.get("end_s"))
    if times[1] is not None and (times[0] or 0.0) >= times[1]:
        what = f"ends at {times[1]:g} s and starts at {times[0] or 0.0:g} s"
        raise ManifestError(what, where=where, remedy="Correct the times; the end is a time, not a duration.")
    values |= {"id": values.get("id") or part_id(audio, *times), "audio": str(folder / audio)}
    try:
        return Utterance.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        field = str(problem["loc"][0])
        what = f"column '{columns.get(field, field)}' contains '{problem['input']}': {problem['msg']}"
        raise ManifestError(what, where=where, remedy="Correct the cell, or leave it empty.") from None
