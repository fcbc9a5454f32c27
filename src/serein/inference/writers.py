"""Emotions over time as other programs read them: Praat and ELAN (TextGrid), Audacity (label track)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from serein.errors import RunError, SereinError
from serein.inference.prediction import Prediction, Segment
from serein.inference.predictor import Source, id_of
from serein.inference.sources import utterance_of


def textgrid(prediction: Prediction) -> str:
    """Return a TextGrid of two interval tiers, label and confidence; where there is no speech both are empty.

    Source: the Praat manual, "TextGrid file formats", the long text format.
    """
    tiers = [
        (prediction.task, _tiled(prediction, lambda segment: segment.text)),
        ("confidence", _tiled(prediction, lambda segment: _percent(segment))),
    ]
    start, end = f"{prediction.start_s:.6f}", f"{prediction.end_s:.6f}"
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        f"xmin = {start}",
        f"xmax = {end}",
        "tiers? <exists>",
    ]
    lines += [f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers, start=1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += [f"        xmin = {start}", f"        xmax = {end}", f"        intervals: size = {len(intervals)}"]
        for place, (low, high, text) in enumerate(intervals, start=1):
            lines += [f"        intervals [{place}]:", f"            xmin = {low}", f"            xmax = {high}"]
            lines.append(f'            text = "{_quoted(text)}"')
    return "\n".join(lines) + "\n"


def audacity(prediction: Prediction) -> str:
    """Return a label track: one line for each segment, with start, end, label and confidence.

    Source: the Audacity manual, "Importing and Exporting Labels".
    """
    return "".join(
        f"{segment.start_s:.6f}\t{segment.end_s:.6f}\t{segment.text} {_percent(segment)}\n"
        for segment in prediction.segments
    )


def clock(seconds: float) -> str:
    """Return a time in a recording as minutes and seconds.

    Example:
        >>> clock(4.25), clock(75), clock(3725.5)
        ('0:04.2', '1:15.0', '1:02:05.5')
    """
    minutes, rest_s = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest_s:04.1f}" if hours else f"{minutes}:{rest_s:04.1f}"


def _tiled(prediction: Prediction, text_of: Callable[[Segment], str]) -> Sequence[tuple[str, str, str]]:
    """Return intervals that fill the recording without a gap, as TextGrids must."""
    intervals: list[tuple[str, str, str]] = []
    place = f"{prediction.start_s:.6f}"
    for segment in prediction.segments:
        start, end = f"{segment.start_s:.6f}", f"{min(segment.end_s, prediction.end_s):.6f}"
        if start != place:
            intervals.append((place, start, ""))
        intervals.append((start, end, text_of(segment)))
        place = end
    end = f"{prediction.end_s:.6f}"
    return intervals if place == end else [*intervals, (place, end, "")]


def _percent(segment: Segment) -> str:
    return "" if segment.confidence is None else f"{segment.confidence:.2f}"


def _quoted(text: str) -> str:
    return text.replace('"', '""')


WRITERS: dict[str, Callable[[Prediction], str]] = {"textgrid": textgrid, "audacity": audacity}
SUFFIXES = {"textgrid": ".TextGrid", "audacity": ".txt"}


def error_dict(source: Source, error: SereinError) -> dict[str, Any]:
    """Return what stands in the place of a prediction for a recording that cannot be read, see docs/formats.md."""
    utterance = utterance_of(source)
    id = utterance.id if utterance.id != utterance.audio else None
    return {"file": utterance.audio, "id": id, "error": error.to_dict()}


_START = b'{"file": '


class PredictionFile:
    """A prediction file that can be continued.

    Each line is a prediction, or the error of a recording that could not be read; those are tried again.

    Args:
        path: Created when it does not exist.
        fingerprint: Identifies the model and the options; written into every line.

    Attributes:
        done: Utterances (by id) and recordings (by path) whose predictions are in the file.

    Raises:
        RunError: It is not a prediction file, it is of another model or other options, or another process writes to it.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: IO[bytes] = open(path, "a+b")  # noqa: SIM115  (closed by __exit__)
        try:
            self._lock()
            self._errors: dict[str, dict[str, Any]] = {}
            self.done = self._read()
        except BaseException:
            self.file.close()
            raise

    def write(self, prediction: Prediction) -> None:
        """Append a prediction; when this returns, other processes see it."""
        self._append(prediction.to_dict())

    def write_error(self, source: Source, error: SereinError) -> None:
        """Append why a recording cannot be read, unless the file says so already."""
        if self._errors.get(id_of(source)) != error.to_dict():
            self._append(error_dict(source, error))

    def _append(self, content: Mapping[str, Any]) -> None:
        line = {**content, "fingerprint": self.fingerprint}
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
        done = set()
        self.file.seek(0)
        place = 0
        for number, line in enumerate(self.file, start=1):
            if not line.endswith(b"\n"):
                self._require_torn(line, number)
                break
            key, error = self._parse(line, number)
            if error is None:
                done.add(key)
            else:
                self._errors[key] = error
            place += len(line)
        self.file.truncate(place)
        self.file.seek(0, os.SEEK_END)
        return done

    def _require_torn(self, line: bytes, number: int) -> None:
        """Refuse to cut off a last line that was not left by a killed process."""
        if not line.startswith(_START[: len(line)]):
            raise RunError(
                "is not a prediction of serein", where=f"{self.path}:{number}", remedy="Choose another --out."
            )

    def _parse(self, line: bytes, number: int) -> tuple[str, dict[str, Any] | None]:
        """Return which utterance or recording a line is about, and its error."""
        where, remedy = f"{self.path}:{number}", "Choose another --out."
        try:
            content: Any = json.loads(line)
            key, fingerprint = content["id"] or content["file"], content["fingerprint"]
        except (ValueError, KeyError, TypeError):
            raise RunError("is not a prediction of serein", where=where, remedy=remedy) from None
        if fingerprint != self.fingerprint:
            raise RunError("was predicted by another model or with other options", where=where, remedy=remedy)
        return str(key), content.get("error")
