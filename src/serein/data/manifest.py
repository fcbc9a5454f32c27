"""Manifests: JSON Lines, one `Utterance` a line, audio paths relative to the manifest's folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from serein.data.files import write_text
from serein.data.utterance import Utterance
from serein.errors import ManifestError


def read(path: str | Path) -> list[Utterance]:
    """Read a manifest; the audio paths come back absolute.

    Raises:
        ManifestError: The file is missing, empty, or a line is no utterance; names the line and the field.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ManifestError("no such manifest", where=path, remedy="Make one: serein corpus prepare --help.") from None
    except IsADirectoryError:
        raise ManifestError(
            "is a folder, not a manifest",
            where=path,
            remedy="Make one: serein corpus prepare folder FOLDER -o m.jsonl.",
        ) from None
    except UnicodeDecodeError:
        raise ManifestError(
            "is not a text file in UTF-8", where=path, remedy="Name the .jsonl manifest, not a recording."
        ) from None
    utterances, folder = [], path.parent.absolute()
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
            raise ManifestError(what, where=where, remedy="Each line holds one JSON object.") from None
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(str(part) for part in problem["loc"]) or "line"
            raise ManifestError(
                f"field '{field}': {problem['msg'][0].lower()}{problem['msg'][1:]}",
                where=where,
                remedy=f"The fields are: {', '.join(Utterance.model_fields)}.",
            ) from None
    if not utterances:
        raise ManifestError("holds no utterances", where=path, remedy="Prepare it: serein corpus prepare --help.")
    require_unique_ids(utterances, where=path)
    return utterances


def write(utterances: Iterable[Utterance], path: str | Path) -> None:
    """Write a manifest atomically, audio paths relative to its folder and fields without a value left out."""
    path = Path(path)
    lines = []
    for utterance in utterances:
        fields = utterance.model_dump(mode="json", exclude_defaults=True)
        if Path(utterance.audio).is_absolute():
            fields["audio"] = Path(os.path.relpath(utterance.audio, path.parent.absolute())).as_posix()
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
    """Return the SHA-256 of what the utterances say, whatever the order and wherever the audio lies."""
    lines = []
    for utterance in utterances:
        lacking = {name for name in _LATER_FIELDS if getattr(utterance, name) is None}
        lines.append(utterance.model_dump_json(exclude={"audio", *lacking}) + Path(utterance.audio).name)
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


_LATER_FIELDS = ("valence", "arousal", "dominance", "copy_of")  # without them, the data of older runs keeps its digest
