"""A datastore of a million clips with 256 features: build, open and search it, exactly and approximately.

Embeddings are drawn around the centres of 8 classes, within which each of 500 speakers has a centre, in 32 of 256
directions, with a little noise in all directions: like a model's embeddings, they have fewer effective dimensions than
features. `--shape gaussian` draws independent numbers instead, the worst case for an approximate search. Queries are
new vectors of the same kind, searched one at a time, as recordings arrive.

    taskset -c 0,1 python benchmarks/neighbours.py [--clips 1000000] [--shape gaussian] [--folder /tmp] [--json]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from serein.data.manifest import Utterance
from serein.knn.datastore import Datastore, Embeddings, Header, open_datastore, write_datastore
from serein.nearest import recall

SIZE, K, NUM_QUERIES = 256, 8, 200
CLASSES = tuple(f"class {number}" for number in range(8))
NUM_SPEAKERS, NUM_DIRECTIONS = 500, 32


def drawn(num: int, shape: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors, (num, SIZE) float32, and class numbers."""
    labels = rng.integers(0, len(CLASSES), num)
    vectors = rng.standard_normal((num, SIZE), np.float32)
    if shape == "gaussian":
        return vectors, labels
    fixed = np.random.default_rng(1)
    directions = fixed.normal(size=(NUM_DIRECTIONS, SIZE)).astype(np.float32) / SIZE**0.5
    classes = 2.0 * fixed.normal(size=(len(CLASSES), NUM_DIRECTIONS)).astype(np.float32)
    speakers = fixed.normal(size=(NUM_SPEAKERS, NUM_DIRECTIONS)).astype(np.float32)
    inside = rng.standard_normal((num, NUM_DIRECTIONS), np.float32)
    inside += classes[labels] + speakers[rng.integers(0, NUM_SPEAKERS, num)]
    vectors *= 0.02
    vectors += inside @ directions
    return vectors, labels


def build(folder: Path, num: int, shape: str, kind: str) -> float:
    """Write a datastore, and return the seconds it took."""
    vectors, labels = drawn(num, shape, np.random.default_rng(0))
    keys = np.arange(2 * num).reshape(num, 2)
    clips = [Utterance(id=str(n), audio=f"{n}.wav", emotion=CLASSES[label]) for n, label in enumerate(labels)]
    header = Header(
        model="-", model_sha256="-", task="emotion", classes=CLASSES, size=0, num_clips=0, corpora={}, licences={}
    )
    started = time.perf_counter()
    write_datastore(
        folder, header, Embeddings(vectors, labels, keys), clips, indexed_from=num if kind == "faiss" else num + 1
    )
    return time.perf_counter() - started


def ask(folder: Path, shape: str) -> dict[str, Any]:
    """Open a datastore and search for one query after another."""
    started = time.perf_counter()
    datastore = open_datastore(folder)
    opened = time.perf_counter() - started
    queries, _ = drawn(NUM_QUERIES, shape, np.random.default_rng(2))
    datastore.embeddings.nearest(queries[:1], K)
    times, rows = [], []
    for query in queries:
        started = time.perf_counter()
        rows.append(datastore.embeddings.nearest(query[None], K).rows[0])
        times.append(1000 * (time.perf_counter() - started))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    median, slow = np.percentile(times, [50, 95])
    figures = {"opened_s": opened, "p50_ms": median, "p95_ms": slow, "memory_gib": memory}
    return figures | {"recall": _recall(datastore, queries, np.array(rows))}


def _recall(datastore: Datastore, queries: np.ndarray, rows: np.ndarray) -> float:
    return recall(datastore.embeddings.exact.search(queries, K)[0], rows)


def _in_a_process(*arguments: object) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout))


def measure(folder: Path, num: int, shape: str) -> dict[str, dict[str, Any]]:
    """Return the figures of both searches; each is built and searched in separate processes."""
    found = {}
    for kind in ("exact", "faiss"):
        datastore = folder / kind
        built = _in_a_process("--build", datastore, "--kind", kind, "--clips", num, "--shape", shape)
        size_gib = sum(path.stat().st_size for path in datastore.iterdir()) / 2**30
        index = json.loads((datastore / "datastore.json").read_text())["index"]
        asked = _in_a_process("--ask", datastore, "--shape", shape)
        found[kind] = {**built, "size_gib": size_gib, "index": index, **asked}
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--shape", choices=["classes", "gaussian"], default="classes")
    parser.add_argument("--folder", help="where to write [a temporary folder]")
    parser.add_argument("--json", action="store_true")
    for name in ("--build", "--ask", "--kind"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        seconds = build(Path(options.build), options.clips, options.shape, options.kind)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"built_s": seconds, "build_memory_gib": memory}))
        return
    if options.ask:
        print(json.dumps(ask(Path(options.ask), options.shape)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder), options.clips, options.shape)
    if options.json:
        print(json.dumps(found))
        return
    for kind, figures in found.items():
        print(f"{kind}:")
        for name, value in figures.items():
            print(f"  {name:18} {value:.3f}" if isinstance(value, float) else f"  {name:18} {value}")


if __name__ == "__main__":
    main()
