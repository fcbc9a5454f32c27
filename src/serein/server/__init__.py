"""The service over HTTP and WebSocket, and its page; it uses models and knows nothing of how they are trained."""

from __future__ import annotations
