"""nginx as docs/deployment.md sets it up, before a server of a test."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.processes import Served

DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment.md"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")
needs_nginx = pytest.mark.skipif(NGINX is None or shutil.which("openssl") is None, reason="no nginx or openssl")


@dataclass(frozen=True)
class Proxy:
    """Where nginx listens, and who believes its certificate."""

    place: str
    trusted: ssl.SSLContext


def block(language: str) -> str:
    """Return the file of this language that stands in the page."""
    found = re.search(rf"^```{language}\n(.*?)^```", DEPLOYMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@contextmanager
def proxied(server: Served, folder: Path) -> Iterator[Proxy]:
    """Start nginx by the page's snippet; changed are ports and where the certificate lies, and nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(NGINX), "-p", str(folder), "-c", str(_configuration(server, folder, port))]
    trusted = _certificate(folder)
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield Proxy(f"localhost:{port}", trusted)
    finally:
        process.terminate()
        process.wait(10)


def _configuration(server: Served, folder: Path, port: int) -> Path:
    snippet = block("nginx").replace("/etc/ssl/serein", str(folder)).replace("443", str(port))
    snippet = snippet.replace("127.0.0.1:8000", server.address.split("//")[1])
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    user = "user root; " if os.geteuid() == 0 else ""  # else nginx's own cannot write below the folder
    path = folder / "nginx.conf"
    path.write_text(
        f"{user}daemon off; pid {folder}/pid; error_log {folder}/log; events {{}}\n"
        f"http {{\naccess_log off;\n{folders}{snippet}}}\n"
    )
    return path


def _certificate(folder: Path) -> ssl.SSLContext:
    files = ["-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2", *files, *name]
    subprocess.run(made, check=True, capture_output=True)
    return ssl.create_default_context(cafile=folder / "fullchain.pem")


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("nginx does not listen")
