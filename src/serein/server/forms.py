"""What clients send, read strictly: forms of recordings, kept in memory and nowhere else, and options in the query."""

from __future__ import annotations

import unicodedata
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from serein.audio import Upload
from serein.server.limits import Limits
from serein.server.problems import HTTPProblem, gone, too_large

_LONGEST_NAME = 100
_FIELD_BYTES = 10_000  # of a text where a file belongs


async def recordings(request: Request, field: str, most: int, limits: Limits) -> list[Upload]:
    """Return the recordings of a form, in their order.

    Args:
        field: Name of the field that holds them; another one is refused.
        most: How many there may be; at least one.

    Raises:
        HTTPProblem: 415 for another body than a form, 400 for a broken one, 413 for too many or
            too large recordings, 422 for unknown fields, texts and missing recordings, 499 when the client is gone.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPProblem(
            415, "no-form", f"Send a multipart form with a field '{field}', as by: curl -F {field}=@call.wav."
        )
    try:
        async with aclosing(request.stream()) as stream:
            parser = MultiPartParser(request.headers, stream, max_part_size=_FIELD_BYTES)
            parser.spool_max_size = limits.memory_bytes  # so that nothing is written to a disk
            form = await parser.parse()
    except MultiPartException as error:
        raise HTTPProblem(400, "unreadable-form", f"The form cannot be read: {error.message}") from None
    except ClientDisconnect:
        raise gone() from None
    try:
        return [await _upload(name, value, field, limits) for name, value in _at_most(form.multi_items(), field, most)]
    finally:
        await form.close()


def _at_most(items: list[tuple[str, Any]], field: str, most: int) -> list[tuple[str, Any]]:
    if unknown := sorted({name for name, _ in items} - {field}):
        raise HTTPProblem(422, "wrong-request", f"Unknown field '{unknown[0]}'. Send '{field}' alone.")
    if not items:
        raise HTTPProblem(422, "wrong-request", f"The form holds no '{field}'.")
    if len(items) > most:
        many = "Send one recording in a request, or several to /v1/predict/batch."
        raise (
            HTTPProblem(422, "wrong-request", many)
            if most == 1
            else HTTPProblem(
                413,
                "too-large",
                f"A batch has at most {most} recordings; this one has {len(items)}. Send several batches.",
            )
        )
    return items


async def _upload(name: str, value: UploadFile | str, field: str, limits: Limits) -> Upload:
    if isinstance(value, str):
        what = f"'{name}' holds text. Send a file, as by: curl -F {field}=@call.wav."
        raise HTTPProblem(422, "wrong-request", what)
    if (value.size or 0) > limits.upload_bytes:
        raise too_large(limits.upload_bytes)
    return Upload(await value.read(), file_name(value.filename))


def require_known_options(request: Request) -> None:
    """Refuse options in the query that a route does not have, and one that is given twice.

    Raises:
        HTTPProblem: 422.
    """
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    require_options(request.query_params.multi_items(), known)


def require_options(given: list[tuple[str, str]], known: set[str]) -> None:
    """Refuse unknown options; see `require_known_options`."""
    names = [name for name, _ in given]
    if unknown := [name for name in names if name not in known]:
        has = f"It knows {', '.join(sorted(known))}." if known else "It has none."
        raise HTTPProblem(422, "wrong-request", f"Unknown option '{unknown[0][:_LONGEST_NAME]}'. {has}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise HTTPProblem(422, "wrong-request", f"Option '{twice[0]}' is given twice.")


def file_name(name: str | None) -> str:
    """Return what a client calls a recording, for messages only: no folders, nothing unprintable.

    Example:
        >>> file_name("../../etc/passwd"), file_name(None)
        ('passwd', 'upload')
    """
    last = (name or "").replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(each for each in last if unicodedata.category(each)[0] != "C")
    return shown[:_LONGEST_NAME] or "upload"


def form_schema(field: str, description: str, most: int) -> dict[str, Any]:
    """Return the OpenAPI of a route's form, which FastAPI does not see."""
    file = {"type": "string", "format": "binary", "description": description}
    shown: dict[str, Any] = file if most == 1 else {"type": "array", "items": file, "minItems": 1, "maxItems": most}
    form = {"type": "object", "required": [field], "additionalProperties": False, "properties": {field: shown}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


_FILE_STARTS = {
    b"RIFF": "WAV",
    b"RIFX": "WAV",
    b"RF64": "WAV",
    b"riff": "W64",
    b"FORM": "AIFF",
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"ID3": "MP3",
    b"\x1aE\xdf\xa3": "WebM",
    b"#!AMR": "AMR",
    b"caff": "CAF",
    b".snd": "AU",
    b"0&\xb2u\x8ef\xcf\x11": "WMA",
}
_KBPS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def file_kind(start: bytes) -> str | None:
    """Return what kind of sound file some bytes are the beginning of; `None` for samples.

    An MP3 or AAC without a tag has no magic number, only frames: two that follow each other are no accident.

    Example:
        >>> file_kind(b"RIFF$..."), file_kind(bytes(100))
        ('WAV', None)
    """
    for magic, kind in _FILE_STARTS.items():
        if start.startswith(magic):
            return kind
    if start[4:8] == b"ftyp":
        return "MP4"
    length = _frame_bytes(start)
    is_followed = length > 0 and start[length : length + 2] == start[:2] and _frame_bytes(start[length:]) > 0
    return ("MP3" if start[1] & 6 else "AAC") if is_followed else None


def _frame_bytes(start: bytes) -> int:
    """Return how long a frame of MPEG layer III (ISO 11172-3, 2.4.2.3) or ADTS (ISO 13818-7, 6.2) is; 0 for none."""
    head = int.from_bytes(start[:6].ljust(6, b"\0"), "big")
    if head >> 36 == 0xFFF and not head >> 33 & 3:
        return head >> 13 & 0x1FFF
    version, kbps_index, rate_index = head >> 35 & 3, head >> 28 & 15, head >> 26 & 3
    if head >> 37 != 0x7FF or head >> 33 & 3 != 1 or version == 1 or kbps_index in (0, 15) or rate_index == 3:
        return 0
    kbps = (_KBPS_MPEG1 if version == 3 else _KBPS_MPEG2)[kbps_index]
    rate_hz = (44_100, 48_000, 32_000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    return (144 if version == 3 else 72) * kbps * 1000 // rate_hz + (head >> 25 & 1)
