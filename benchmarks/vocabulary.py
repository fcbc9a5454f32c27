"""A vocabulary of 2.2 million words with 300 features: prepare, open and search it, compared with plain NumPy.

A synthetic text file as large as GloVe's 840B (independent Gaussian numbers, whose directions have no structure to
exploit) is prepared in a separate process, then opened and searched by others.

    python benchmarks/vocabulary.py [--words 2200000] [--folder /tmp] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from serein.text.word_vectors import Vocabulary, open_vocabulary

SIZE = 300
K = 10
NUM_QUERIES = 1000
ROWS = 1 << 14
SYLLABLES = [a + b for a in "bcdfghjklmnprstvwz" for b in "aeiou"]
OPENING = """
import sys, time
import numpy, serein.text.word_vectors as module
started = time.perf_counter()
vocabulary = module.open_vocabulary(sys.argv[1])
opened = time.perf_counter()
vocabulary.vectors([sys.argv[2]])
print(opened - started, time.perf_counter() - opened)
"""


def word(number: int) -> str:
    """Return a pronounceable word, a different one for each number."""
    syllables = []
    while number or len(syllables) < 2:
        number, place = divmod(number, len(SYLLABLES))
        syllables.append(SYLLABLES[place])
    return "".join(syllables)


def write_text(path: Path, num_words: int) -> None:
    """Write words and Gaussian numbers of eight characters, in the format of GloVe's text."""
    from scipy.stats import norm

    values = 0.4 * norm.ppf((np.arange(1 << 16) + 0.5) / (1 << 16))
    texts = [f" {value:.5f}"[:8] for value in values]
    table = np.frombuffer("".join(texts).encode(), np.uint64)
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for start in range(0, num_words, ROWS):
            count = min(ROWS, num_words - start)
            rows = table[rng.integers(0, 1 << 16, (count, SIZE), np.uint16)]
            file.write(b"".join(f"{word(start + i)}".encode() + row.tobytes() + b"\n" for i, row in enumerate(rows)))


def prepare(text: Path, folder: Path) -> tuple[float, float]:
    """Return the seconds and the peak memory in GiB of `serein words prepare`."""
    command = [sys.executable, "-m", "serein.cli", "words", "prepare", str(text), "-o", str(folder)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("preparing failed")
    return time.perf_counter() - started, usage.ru_maxrss / 2**20


def open_times(folder: Path, known: str) -> tuple[float, float]:
    """Return the milliseconds for opening and for the first word's vector, in a new process."""
    command = [sys.executable, "-c", OPENING, str(folder), known]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(3)]
    opened, first = zip(*runs, strict=True)
    return tuple(1000 * statistics.median(map(float, times)) for times in (opened, first))  # type: ignore[return-value]


def by_numpy(vectors: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and cosines found by a few lines of float32 NumPy, in blocks that fit in memory."""
    best_rows = np.zeros((len(queries), 0), np.int64)
    best = np.zeros((len(queries), 0), np.float32)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    for start in range(0, len(vectors), ROWS):
        block = vectors[start : start + ROWS]
        cosines = queries @ (block / np.linalg.norm(block, axis=1, keepdims=True)).T
        few = np.argpartition(-cosines, K, axis=1)[:, :K]
        best = np.hstack([best, np.take_along_axis(cosines, few, 1)])
        best_rows = np.hstack([best_rows, few + start])
        order = np.argsort(-best, axis=1)[:, :K]
        best, best_rows = np.take_along_axis(best, order, 1), np.take_along_axis(best_rows, order, 1)
    return best_rows, best


def seconds(work: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Return the median time and the last result."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        answer = work()
        times.append(time.perf_counter() - started)
    return statistics.median(times), answer


def search(vocabulary: Vocabulary, repeats: int) -> dict[str, Any]:
    """Search for the words nearest to random directions and to words moved by noise."""
    rng = np.random.default_rng(1)
    vectors = vocabulary.arrays["vectors"]
    rows = rng.integers(0, len(vocabulary), NUM_QUERIES)
    noise = rng.standard_normal((NUM_QUERIES, SIZE)).astype(np.float32)
    kinds = {"random directions": noise, "words moved by noise": vectors[rows] + 0.3 * noise}
    found: dict[str, Any] = {}
    for kind, queries in kinds.items():
        first, _ = seconds(lambda queries=queries: vocabulary.nearest(queries, K))
        own, (words, cosines) = seconds(lambda queries=queries: vocabulary.nearest(queries, K), repeats)
        other, (theirs, their_cosines) = seconds(lambda queries=queries: by_numpy(vectors, queries))
        same = np.mean([[vocabulary.word(r) for r in row] == some for row, some in zip(theirs, words, strict=True)])
        found[kind] = {
            "first_s": first,
            "serein_s": own,
            "numpy_s": other,
            "same_answers": float(same),
            "largest_difference": float(np.abs(cosines - their_cosines).max()),
        }
    found["one query"] = {"serein_s": seconds(lambda: vocabulary.nearest(noise[:1], K), 5)[0]}
    return found


def through_faiss(vocabulary: Vocabulary) -> dict[str, Any]:
    """Build faiss's index, and return the speed and recall of its search."""
    queries = np.random.default_rng(1).standard_normal((NUM_QUERIES, SIZE)).astype(np.float32)
    building, _ = seconds(lambda: vocabulary.nearest(queries[:1], K, "faiss"))
    answering, (words, _) = seconds(lambda: vocabulary.nearest(queries, K, "faiss"))
    exact, _ = vocabulary.nearest(queries, K)
    recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(exact, words, strict=True)])
    return {"building_s": building, "answering_s": answering, "recall": float(recall)}


def measure(num_words: int, scratch: Path, has_faiss: bool) -> dict[str, Any]:
    text, folder = scratch / "made.txt", scratch / "vocabulary"
    write_text(text, num_words)
    text_gb = text.stat().st_size / 1e9
    preparing_s, peak_gib = prepare(text, folder)
    text.unlink()
    opening_ms, first_ms = open_times(folder, word(num_words // 2))
    vocabulary = open_vocabulary(folder)
    misspelt = word(num_words // 3).replace("a", "y", 1) + "x"
    spelling_s, spellings = seconds(lambda: vocabulary.spellings(misspelt), 3)
    result = {
        "words": num_words,
        "text_gb": text_gb,
        "folder_gb": sum(path.stat().st_size for path in folder.iterdir()) / 1e9,
        "preparing_s": preparing_s,
        "preparing_peak_gib": peak_gib,
        "opening_ms": opening_ms,
        "first_vector_ms": first_ms,
        "spellings_s": spelling_s,
        "spellings": [misspelt, *spellings],
        "threads": torch.get_num_threads(),
        "search": search(vocabulary, 3),
    }
    return result | ({"faiss": through_faiss(vocabulary)} if has_faiss else {})


def show(result: dict[str, Any]) -> None:
    print(f"{result['words']} words of {SIZE} numbers, text of {result['text_gb']:.1f} GB, {result['threads']} threads")
    print(f"  prepared in {result['preparing_s']:.0f} s with at most {result['preparing_peak_gib']:.2f} GiB", end="")
    print(f"; the folder has {result['folder_gb']:.1f} GB")
    print(f"  opened in {result['opening_ms']:.1f} ms, first vector after {result['first_vector_ms']:.1f} ms more")
    misspelt, *spellings = result["spellings"]
    print(f"  spelt most like '{misspelt}': {', '.join(spellings)}, in {result['spellings_s']:.2f} s")
    for kind, found in result["search"].items():
        if "numpy_s" not in found:
            print(f"  {kind}: {1000 * found['serein_s']:.0f} ms")
            continue
        print(
            f"  {NUM_QUERIES} x {K} nearest, {kind}: {found['serein_s']:.2f} s (first {found['first_s']:.2f} s), "
            f"numpy {found['numpy_s']:.1f} s: serein is {found['numpy_s'] / found['serein_s']:.1f} times as fast; "
            f"{100 * found['same_answers']:.1f} % of the lists are the same, "
            f"cosines differ by at most {found['largest_difference']:.1e}"
        )
    if "faiss" in result:
        found = result["faiss"]
        print(
            f"  faiss: built in {found['building_s']:.0f} s, {NUM_QUERIES} queries in {found['answering_s']:.2f} s, "
            f"{100 * found['recall']:.0f} % of the nearest found"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=2_200_000)
    parser.add_argument("--folder", type=Path, help="folder for the scratch files (10 GB)")
    parser.add_argument("--faiss", action="store_true", help="build and search faiss's index as well")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        result = measure(options.words, Path(scratch), options.faiss)
    if options.json:
        json.dump(result, sys.stdout)
    else:
        show(result)


if __name__ == "__main__":
    main()
