"""How much a service takes on: of one client, and of all together."""

from __future__ import annotations

from dataclasses import dataclass, fields

from serein.errors import RecipeError

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Every number is a most.

    Attributes:
        upload_bytes: Size of one recording, as sent.
        upload_s: Seconds until a request has come in whole.
        recording_s: Length of one recording, in seconds.
        num_files: Recordings in one batch.
        at_once: Requests that are taken in or heard at once, of all clients.
        per_client: Requests and streams of one client at once.
        memory_bytes: All uploads that are in memory at once.
        answer_s: Seconds until an answer, from when a request has come.
        streams: Streams at once.
        stream_s: Length of one stream, in seconds.
        idle_s: Seconds without a sound after which a stream is ended.

    Raises:
        RecipeError: A number is not positive.
    """

    upload_bytes: int = 25 * MEGABYTE
    upload_s: float = 60.0
    recording_s: float = 600.0
    num_files: int = 16
    at_once: int = 64
    per_client: int = 32
    memory_bytes: int = 250 * MEGABYTE
    answer_s: float = 120.0
    streams: int = 200
    stream_s: float = 4 * 3600.0
    idle_s: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf"):
                raise RecipeError(f"{value:g} is no limit", where=field.name, remedy="Take more than 0.")
