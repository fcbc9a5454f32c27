"""Errors of requests as problem details (RFC 9457)."""

from __future__ import annotations

import math
from http import HTTPStatus

from fastapi import HTTPException
from fastapi.responses import JSONResponse

from serein.audio import TooLongAudioError
from serein.errors import AudioError

MEDIA_TYPE = "application/problem+json"
GONE = 499  # nginx's status for a client that closed the connection; only the metrics see it


class HTTPProblem(HTTPException):
    """An error response.

    Args:
        kind: Identifies the kind of problem, for programs.
        detail: The problem in a sentence, for people.
        retry_after_s: Seconds after which a client should try again.
    """

    def __init__(self, status: int, kind: str, detail: str, *, retry_after_s: float | None = None) -> None:
        headers = {} if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, detail, headers)
        self.kind = kind

    def to_json(self) -> dict[str, object]:
        """Return the members of RFC 9457, section 3.1."""
        return {
            "type": f"urn:problem-type:serein:{self.kind}",
            "title": self.kind.replace("-", " "),
            "status": self.status_code,
            "detail": self.detail,
        }


def response(problem: HTTPProblem) -> JSONResponse:
    """Return a problem as a response."""
    return JSONResponse(problem.to_json(), problem.status_code, dict(problem.headers or {}), MEDIA_TYPE)


def of_recording(error: AudioError) -> HTTPProblem:
    """Return what is wrong with a recording.

    Example:
        >>> of_recording(AudioError("silent", where="a.wav", remedy="Record it again.")).detail
        'a.wav: silent. Record it again.'
    """
    kind = "too-long" if isinstance(error, TooLongAudioError) else "unusable-recording"
    return HTTPProblem(422, kind, str(for_clients(error)))


def for_clients(error: AudioError) -> AudioError:
    """Return an error without its remedy if that is about the command line."""
    remedied = error.remedy and "--" not in error.remedy and "list" not in error.remedy
    return error if remedied else AudioError(error.what, where=error.where)


def unauthorised() -> HTTPProblem:
    return HTTPProblem(401, "unauthorised", "Send your key: 'Authorization: Bearer KEY'.")


def foreign_host(host: str) -> HTTPProblem:
    what = f"This service is not '{host[:100]}'. Start it with --allowed-hosts if it is."
    return HTTPProblem(421, "foreign-host", what)


def foreign_origin(origin: str) -> HTTPProblem:
    what = f"Pages of '{origin[:100]}' may not use this service. Start it with --allowed-origins if they may."
    return HTTPProblem(403, "foreign-origin", what)


def too_large(most_bytes: int) -> HTTPProblem:
    what = f"At most {most_bytes / 1e6:g} MB are accepted. Send less, or FLAC instead of WAV."
    return HTTPProblem(413, "too-large", what)


def too_many(most: int) -> HTTPProblem:
    return HTTPProblem(
        429, "too-many-requests", f"You have {most} requests in progress. Wait for their responses.", retry_after_s=1
    )


def busy(what: str, retry_after_s: float) -> HTTPProblem:
    return HTTPProblem(503, "busy", f"{what} Try again later.", retry_after_s=retry_after_s)


def gone() -> HTTPProblem:
    return HTTPProblem(GONE, "gone", "The client closed the connection before the response.")
