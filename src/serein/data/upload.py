"""A recording that somebody sent, in memory: nothing of it reaches a path."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Upload:
    """A recording as bytes.

    Attributes:
        content: The whole file.
        name: What complaints call it; never a path.

    Example:
        >>> str(Upload(b"RIFF", "call.wav"))
        'call.wav'
    """

    content: bytes = field(repr=False)
    name: str = "upload"

    def __str__(self) -> str:
        return self.name


Source = str | Path | Upload
