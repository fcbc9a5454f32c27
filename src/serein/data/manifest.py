"""Utterances and their manifests: JSON Lines, one utterance per line, audio paths relative to the manifest's folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from serein.data.files import write_text
from serein.errors import ManifestError

Gender = Literal["female", "male", "other"]
Style = Literal["scripted", "improvised", "natural"]
Age = Annotated[float, Field(ge=0.0, le=120.0)]
Consensus = Annotated[float, Field(allow_inf_nan=False)]

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")


def without_control_characters(value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    """Return one or several names unchanged if they contain no control characters.

    Raises:
        PydanticCustomError: A name contains a NUL, tab, line break or similar, which tables and file names cannot.

    Example:
        >>> without_control_characters("müde")
        'müde'
    """
    if found := re.search(r"[\x00-\x1f\x7f]", "".join(value or ())):
        raise PydanticCustomError(
            "control_character", "contains the control character {found}", {"found": repr(found[0])}
        )
    return value


class Rating(BaseModel):
    """One rater's labels for one utterance.

    Attributes:
        labels: Categories that the rater chose, in the corpus's own words; repetitions count.
        comment: The rater's free text.
        rater: The rater's name in the corpus.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: tuple[str, ...] = ()
    comment: str | None = None
    rater: str | None = None

    _names = field_validator("labels", "rater")(without_control_characters)


class Predicted(BaseModel):
    """Values that a model predicted, whether or not the corpus has a label; always kept separate from the labels.

    Attributes:
        by: Field -> the model that predicted it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gender: Gender | None = None
    transcript: str | None = None
    by: dict[str, str] = {}


class Utterance(BaseModel):
    """A recording, or a part of one, with its labels. A field the corpus lacks is `None`, never a guess.

    Attributes:
        id: Unique within the manifest.
        audio: Path of the file; absolute once a manifest is loaded, relative to the manifest on disk.
        start_s: Start of the utterance within the file, in seconds.
        end_s: End of the utterance, in seconds; `None` for the end of the file.
        speaker: The speaker's name; unique within the corpus.
        gender: `female`, `male` or `other`.
        age: The speaker's age when recorded, in years.
        session: The recording session or dialogue, by which some protocols split.
        emotion: Consensus or ground-truth category in the corpus's own words.
        valence: Unpleasant to pleasant, the raters' consensus on the corpus's own scale.
        arousal: Calm to excited, the raters' consensus on the corpus's own scale; also called activation.
        dominance: Weak to strong, the raters' consensus on the corpus's own scale.
        ratings: One entry per rater: `labels`, `comment`, `rater`.
        transcript: The spoken words.
        style: How the speech was produced: `scripted`, `improvised` or `natural`.
        split: The corpus's official split: `train`, `dev`, `test`, `test2`, ...
        language: The spoken language, as a code such as `en`.
        corpus: The corpus that the utterance comes from.
        copy_of: Id of the original, if this is a changed copy (`serein corpus augment`). A copy is in the training
            set whenever its original is, and never in dev or test.
        predicted: Values that models predicted for `serein corpus annotate`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    audio: str = Field(min_length=1)
    start_s: float = Field(default=0.0, ge=0.0)
    end_s: float | None = Field(default=None, gt=0.0)
    speaker: str | None = None
    gender: Gender | None = None
    age: Age | None = None
    session: str | None = None
    emotion: str | None = None
    valence: Consensus | None = None
    arousal: Consensus | None = None
    dominance: Consensus | None = None
    ratings: tuple[Rating, ...] = ()
    transcript: str | None = None
    style: Style | None = None
    split: str | None = None
    language: str | None = None
    corpus: str | None = None
    copy_of: str | None = None
    predicted: Predicted | None = None

    _names = field_validator("id", "speaker", "session", "emotion", "split", "language", "corpus", "copy_of")(
        without_control_characters
    )


def is_self_evaluation(rating: Rating) -> bool:
    """Return whether an actor rated their own turns: IEMOCAP names such raters C-F1 or C-M3, and evaluators C-E2.

    Example:
        >>> [is_self_evaluation(Rating(rater=name)) for name in ("C-F1", "C-E2", "rater1", None)]
        [True, False, False, False]
    """
    return re.fullmatch(r"C-[FM]\d+", rating.rater or "") is not None


def plain_label(label: str) -> str:
    r"""Return the common form of labels that differ only in case, spaces or Unicode form (`ä` as one character or two).

    Example:
        >>> plain_label(" Happy "), plain_label("very  SAD"), plain_label("A\u0308rger") == "\u00e4rger"
        ('happy', 'very sad', True)
    """
    return unicodedata.normalize("NFC", " ".join(label.split()).casefold())


def absent_labels(utterances: Sequence[Utterance], labels: Iterable[str]) -> list[str]:
    """Return those of the labels that neither an utterance nor a rater uses, as `plain_label` writes them, sorted."""
    used = {plain_label(u.emotion) for u in utterances if u.emotion}
    used |= {plain_label(label) for u in utterances for rating in u.ratings for label in rating.labels}
    return sorted({*map(plain_label, labels)} - used)


def read(path: str | Path) -> list[Utterance]:
    """Read a manifest and make its audio paths absolute.

    Raises:
        ManifestError: The file is missing or empty, or a line is not an utterance; names the line and the field.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(
            "no such manifest", where=path, remedy="Create one; see serein corpus prepare --help."
        ) from None
    except IsADirectoryError:
        raise ManifestError(
            "is a folder, not a manifest",
            where=path,
            remedy="Create one: serein corpus prepare folder FOLDER -o m.jsonl.",
        ) from None
    except UnicodeDecodeError:
        raise ManifestError(
            "is not a UTF-8 text file", where=path, remedy="Specify the .jsonl manifest, not a recording."
        ) from None
    utterances, folder = [], path.parent.resolve()
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() would cut at U+2028 within a transcript
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            fields = json.loads(line)
            if isinstance(fields, dict) and isinstance(fields.get("audio"), str) and fields["audio"]:
                fields["audio"] = os.path.normpath(folder / fields["audio"])
            utterances.append(Utterance.model_validate(fields))
        except json.JSONDecodeError as error:
            what = f"not JSON ({error.msg} at column {error.colno})"
            remedy = "Write one JSON object per line."
            if path.suffix.lower() in TABLE_SUFFIXES:
                remedy = f"Make a manifest from the table: serein corpus prepare csv {path} -o manifest.jsonl."
            raise ManifestError(what, where=where, remedy=remedy) from None
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(str(part) for part in problem["loc"]) or "line"
            raise ManifestError(
                f"field '{field}': {problem['msg'][0].lower()}{problem['msg'][1:]}",
                where=where,
                remedy=f"The fields are: {', '.join(Utterance.model_fields)}.",
            ) from None
    if not utterances:
        raise ManifestError(
            "contains no utterances", where=path, remedy="Prepare it; see serein corpus prepare --help."
        )
    require_unique_ids(utterances, where=path)
    return utterances


def write(utterances: Iterable[Utterance], path: str | Path) -> None:
    """Write a manifest atomically, with audio paths relative to its folder and without empty fields.

    Raises:
        ManifestError: Two utterances share an id.
    """
    path, utterances = Path(path), list(utterances)
    require_unique_ids(utterances, where=path)
    folder, without_links, lines = path.parent.absolute(), path.parent.resolve(), []
    for utterance in utterances:
        fields = utterance.model_dump(mode="json", exclude_defaults=True)
        if Path(utterance.audio).is_absolute():
            relative = os.path.relpath(utterance.audio, folder)
            if relative.startswith("..") and folder != without_links:  # ".." of a link is the folder that it points to
                audio = Path(utterance.audio)
                relative = os.path.relpath(audio.parent.resolve() / audio.name, without_links)
            fields["audio"] = Path(relative).as_posix()
        lines.append(json.dumps(fields, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def require_unique_ids(utterances: Sequence[Utterance], *, where: str | Path) -> None:
    """Raise ManifestError when two utterances share an id."""
    repeated = [name for name, count in Counter(u.id for u in utterances).items() if count > 1]
    if repeated:
        raise ManifestError(
            f"{len(repeated)} ids occur more than once: {', '.join(repeated[:3])}",
            where=where,
            remedy="Give every utterance its own id.",
        )


def digest(utterances: Iterable[Utterance]) -> str:
    """Return the SHA-256 of the utterances, independent of their order and of the location of the audio.

    Ages are excluded, because nothing learns from them and the data of older runs keeps its digest.
    """
    lines = []
    for utterance in utterances:
        lacking = {name for name in _LATER_FIELDS if getattr(utterance, name) is None}
        lines.append(utterance.model_dump_json(exclude={"audio", "age", *lacking}) + Path(utterance.audio).name)
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


_LATER_FIELDS = (
    "valence",
    "arousal",
    "dominance",
    "copy_of",
)  # left out if empty: the data of older runs keeps its digest
