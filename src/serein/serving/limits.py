"""Limits of a service, for one client and for all together."""

from __future__ import annotations

from dataclasses import dataclass, fields

from serein.errors import RecipeError

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Upper limits of a service.

    Attributes:
        upload_bytes: Size of one recording, as sent.
        upload_s: Seconds until a request has arrived in full.
        recording_s: Length of one recording, in seconds.
        num_files: Recordings in one batch.
        at_once: Concurrent requests of all clients.
        per_client: Concurrent requests and streams of one client.
        memory_bytes: All uploads in memory together.
        answer_s: Seconds from a request's arrival to its response.
        streams: Concurrent streams.
        stream_s: Length of one stream, in seconds.
        idle_s: Seconds without a message after which a stream is closed.

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
