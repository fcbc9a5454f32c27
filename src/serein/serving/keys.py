"""API keys from a file, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from serein.errors import SereinError

SHORTEST = 16


class Keys:
    """The keys that are accepted.

    Example:
        >>> keys = Keys(["correct-horse-battery"])
        >>> keys.accepts("correct-horse-battery"), keys.accepts("correct"), keys.allows("Bearer correct-horse-battery")
        (True, False, True)
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def accepts(self, key: str) -> bool:
        """Return whether a key is one of them; takes as long for a near miss as for any other."""
        digest = _digest(key)
        return sum(hmac.compare_digest(digest, each) for each in self._digests) > 0  # all are compared

    def allows(self, authorization: str | None) -> bool:
        """Return whether a header `Authorization` carries a key."""
        scheme, _, key = (authorization or "").partition(" ")
        return scheme.lower() == "bearer" and self.accepts(key.strip())


def read_keys(path: str | Path) -> Keys:
    """Read a file with one key per line; empty lines and lines that start with # are skipped.

    Raises:
        SereinError: The file cannot be read, holds no key, or holds one that is too short.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise SereinError(f"the keys cannot be read ({reason})", where=path, remedy="Name a file of keys.") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or min(map(len, keys)) < SHORTEST:
        what = f"a key has fewer than {SHORTEST} characters" if keys else "holds no key"
        raise SereinError(what, where=path, remedy="Make one with: openssl rand -hex 32.")
    return Keys(keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()
