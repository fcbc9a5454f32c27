"""By what names, and from which web pages, the service may be asked.

Without this, any web page could use the service through its visitors: it sends a form there (its `Origin` gives it
away), or lets its own name point there (DNS rebinding; then `Host` is that name).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from serein.errors import SereinError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY = "*"


@dataclass(frozen=True)
class Names:
    """Names and origins that a service answers to, beside loopback's and the address that a client connected to.

    Attributes:
        hosts: Names in lower case, without ports; `*` is any.
        origins: Such as `https://example.org`; `*` is any.
    """

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    def knows_host(self, scope: Scope) -> bool:
        """Return whether a request names a host that this service is; one without `Host` (HTTP/1.0) is no browser's."""
        host = Headers(scope=scope).get("host")
        if host is None or ANY in self.hosts:
            return True
        name = host_name(host)
        connected = (scope.get("server") or ("",))[0]  # an address cannot be rebound, only a name
        return name in self.hosts or name in LOOPBACK or name.endswith(".localhost") or name == connected

    def knows_origin(self, scope: Scope) -> bool:
        """Return whether a request comes from no web page, from the service's own, or from one that is allowed."""
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is None or ANY in self.origins or origin.lower() in self.origins:
            return True
        return bool(urlsplit(origin).netloc) and urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


def names(hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> Names:
    """Return what was given on a command line, checked; each may hold several, parted by commas.

    Raises:
        SereinError: An origin is none.

    Example:
        >>> sorted(names(["speech.example.org:8000,Other"]).hosts)
        ['other', 'speech.example.org']
    """
    split = [
        [part.strip().lower() for text in texts for part in text.split(",") if part.strip()]
        for texts in (hosts, origins)
    ]
    for origin in split[1]:
        parts = urlsplit(origin)
        if origin != ANY and (not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}"):
            raise SereinError("no origin", where=origin, remedy="Write it as https://example.org, without a path.")
    return Names(frozenset(map(host_name, split[0])), frozenset(split[1]))


def host_name(host: str) -> str:
    """Return a host without its port, in lower case, without the dot that may end it.

    Example:
        >>> host_name("Example.org:8000"), host_name("[::1]:8000"), host_name("127.0.0.1")
        ('example.org', '::1', '127.0.0.1')
    """
    name = host.lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name if name.count(":") > 1 else name.partition(":")[0].removesuffix(".")
