"""Predictions appended to a file of JSON lines, so that a stopped run continues after the last whole line."""

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
    """A prediction file that can be continued.

    Args:
        path: Created when it does not exist.
        fingerprint: Identifies the model and the options; written into every line.

    Attributes:
        ids: Ids of the utterances whose predictions are in the file.

    Raises:
        RunError: It is not a prediction file, it is of another model or other options, or another process writes to it.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: IO[bytes] = open(path, "a+b")  # noqa: SIM115  (closed by __exit__)
        try:
            self._lock()
            self.ids = self._read()
        except BaseException:
            self.file.close()
            raise

    def write(self, utterance: Utterance, outcome: Prediction | Timeline) -> None:
        """Append a prediction; when this returns, other processes see it."""
        line = {"id": utterance.id, **outcome.to_json(), "fingerprint": self.fingerprint}
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
        ids = set()
        self.file.seek(0)
        place = 0
        for number, line in enumerate(self.file, start=1):
            if not line.endswith(b"\n"):
                self._require_torn(line, number)
                break
            ids.add(self._id_of(line, number))
            place += len(line)
        self.file.truncate(place)
        self.file.seek(0, os.SEEK_END)
        return ids

    def _require_torn(self, line: bytes, number: int) -> None:
        """Refuse to cut off a last line that was not left by a killed process."""
        if not line.startswith(_START[: len(line)]):
            raise RunError(
                "is not a prediction of serein", where=f"{self.path}:{number}", remedy="Choose another --out."
            )

    def _id_of(self, line: bytes, number: int) -> str:
        where, remedy = f"{self.path}:{number}", "Choose another --out."
        try:
            content: Any = json.loads(line)
            name, fingerprint = content["id"], content["fingerprint"]
        except (ValueError, KeyError, TypeError):
            raise RunError("is not a prediction of serein", where=where, remedy=remedy) from None
        if fingerprint != self.fingerprint:
            raise RunError("was predicted by another model or with other options", where=where, remedy=remedy)
        return str(name)
