"""Test `serein serve` with Schemathesis: valid and invalid requests drawn from its OpenAPI schema.

Responses must match the schema.

All of Schemathesis's checks run: no 5xx; statuses, headers, media types and bodies as described; invalid requests
refused; undefined methods answered with 405; keys required. OpenAPI cannot express that an upload must be a recording,
so half of the drawn uploads are recordings, and for other bytes 422 is also a valid response.

    python benchmarks/contract.py [--examples 200] [--seed 0] [--model FOLDER]

Exit status 1 if it finds a failure.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import schemathesis
from schemathesis.transport.serialization import Binary

from processes import served

from server.ingredients import encoded  # isort: skip  (processes adds the tests to the path)
from speech_sounds import voiced  # isort: skip

KEY = "0123456789abcdef0123456789abcdef"
_CONFIGURATION = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "401", "422", "429", "503"]
negative_data_rejection.expected-statuses = ["400", "401", "405", "413", "415", "422", "429", "503"]
"""
_RECORDING = encoded(voiced(0.2, np.random.default_rng(0)))  # short, because Schemathesis prints all of it


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Make every second upload a recording; Schemathesis finds this function through `SCHEMATHESIS_HOOKS`."""
    if not isinstance(body, dict):
        return body
    return {
        name: [_mapped(each) for each in value] if isinstance(value, list) else _mapped(value)
        for name, value in body.items()
    }


def _mapped(value: Any) -> Any:
    content = value.data if isinstance(value, Binary) else value
    return Binary(_RECORDING) if isinstance(content, str | bytes) and len(content) % 2 else value


def main() -> None:
    """Start a server that requires a key, and run Schemathesis against it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=200, help="number of examples per operation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        keys = Path(scratch) / "keys"
        keys.write_text(KEY)
        with served(options.model and options.model.resolve(), 1, "--api-key-file", keys) as server:
            command = [Path(sys.executable).with_name("schemathesis"), "run"]
            command += [f"http://{server.host}:{server.port}/openapi.json", "--checks", "all"]
            command += ["--max-examples", str(options.examples), "--seed", str(options.seed)]
            command += ["--header", f"Authorization: Bearer {KEY}", "--generation-database", "none"]
            paths = os.pathsep.join([str(Path(__file__).parent.resolve()), os.environ.get("PYTHONPATH", "")])
            surroundings = {**os.environ, "PYTHONPATH": paths, "SCHEMATHESIS_HOOKS": "contract"}
            (Path(scratch) / "schemathesis.toml").write_text(_CONFIGURATION)
            found = subprocess.run(command, env=surroundings, cwd=scratch)
            metrics = httpx.get(
                f"http://{server.host}:{server.port}/metrics", headers={"Authorization": f"Bearer {KEY}"}
            )
        print(*(line for line in metrics.text.splitlines() if line.startswith("serein_requests_total")), sep="\n")
    sys.exit(found.returncode)


if __name__ == "__main__":
    main()
