"""The service over HTTP and WebSocket, and its page; it uses models independently of how they are trained."""

from __future__ import annotations
