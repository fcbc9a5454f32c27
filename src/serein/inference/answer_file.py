"""Answers appended to a file of JSON lines, so that a stopped run goes on behind the last whole line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from serein.data.utterance import Utterance
from serein.errors import RunError
from serein.inference.predictor import Prediction
from serein.inference.timeline import Timeline

_START = b'{"id": '


class PredictionFile:
    """A file of answers that is gone on with.

    Args:
        path: Made when it is not there.
        heard_by: What tells the model and the manner of hearing; every line says it.

    Attributes:
        answered: Ids of the utterances whose answers are there.

    Raises:
        RunError: The file is no file of answers, of another model or manner, or another process writes to it.
    """

    def __init__(self, path: Path, heard_by: str) -> None:
        self.path, self.heard_by = path, heard_by
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: IO[bytes] = open(path, "a+b")  # noqa: SIM115  (closed by __exit__)
        try:
            self._lock()
            self.answered = self._read()
        except BaseException:
            self.file.close()
            raise

    def write(self, utterance: Utterance, outcome: Prediction | Timeline) -> None:
        """Append an answer; when this returns, another process sees it."""
        line = {"id": utterance.id, **outcome.to_json(), "heard_by": self.heard_by}
        self.file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self.file.flush()

    def __enter__(self) -> PredictionFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def _lock(self) -> None:
        try:
            import fcntl

            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # no such lock on Windows
        except BlockingIOError:
            raise RunError("another process writes to it", where=self.path, remedy="Wait for it or stop it.") from None

    def _read(self) -> set[str]:
        answered = set()
        self.file.seek(0)
        place = 0
        for number, line in enumerate(self.file, start=1):
            if not line.endswith(b"\n"):
                self._require_torn(line, number)
                break
            answered.add(self._id_of(line, number))
            place += len(line)
        self.file.truncate(place)
        self.file.seek(0, os.SEEK_END)
        return answered

    def _require_torn(self, line: bytes, number: int) -> None:
        """Refuse to cut off a last line that no kill has left."""
        if not line.startswith(_START[: len(line)]):
            raise RunError("is no answer of serein", where=f"{self.path}:{number}", remedy="Name another --out.")

    def _id_of(self, line: bytes, number: int) -> str:
        where, remedy = f"{self.path}:{number}", "Name another --out."
        try:
            said: Any = json.loads(line)
            name, heard_by = said["id"], said["heard_by"]
        except (ValueError, KeyError, TypeError):
            raise RunError("is no answer of serein", where=where, remedy=remedy) from None
        if heard_by != self.heard_by:
            raise RunError("was answered by another model or with other options", where=where, remedy=remedy)
        return str(name)
