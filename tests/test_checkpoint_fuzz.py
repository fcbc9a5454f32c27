"""Damaged model folders: a model that predicts, or a SereinError, without a crash, a hang or much memory.

`SEREIN_MODEL_FUZZ` says how many, 500 otherwise. They are loaded in a process of their own, so that a crash is seen:

    python tests/test_checkpoint_fuzz.py 17 1        # the seventeenth alone, with its damage and its traceback
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NUM_MODELS = int(os.environ.get("SEREIN_MODEL_FUZZ", "500"))
MOST_MB = 300.0
GOLDEN = Path(__file__).parent / "golden" / "models"
NAMES = ("classes", "words", "emotion-gender", "branches", "conditioned-text", "classes-wav2vec2", "asr")
WRONG: list[Any] = [
    *(-1, 0, 1, 3, 1_000, 10**6, 10**9, 2**31, 2**63, 10**40, -(10**12)),
    *(0.5, -1.0, 1e-300, 1e308, float("nan"), float("inf"), -float("inf")),
    *(None, True, False, "", "x", "x" * 100_000, [], {}, [[]], [1, 2], ["a", "a"], {"a": 1}, [10**9], [1] * 5_000),
]


def places(document: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value of a JSON document."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [*([place] if place else []), *(found for key, value in items for found in places(value, (*place, key)))]


def damage_json(path: Path, rng: np.random.Generator) -> str:
    """Change values of a JSON document, or its bytes; return what was done."""
    content = path.read_bytes()
    document = json.loads(content)
    match rng.integers(8):
        case 0:
            path.write_bytes(content[: rng.integers(len(content))])
            return "cut"
        case 1:
            changed = bytearray(content)
            for place in rng.integers(0, len(content), rng.integers(1, 20)):
                changed[place] = rng.integers(256)
            path.write_bytes(changed)
            return "bytes"
        case 2:
            depth = int(rng.choice([100, 10_000, 1_000_000]))
            every = places(document)
            key = every[rng.integers(len(every))][0]
            document[key] = "HERE"
            bracket = ("[", "]") if rng.random() < 0.5 else ('{"a":', "}")
            deep = bracket[0] * depth + "1" + bracket[1] * depth
            path.write_text(json.dumps(document).replace('"HERE"', deep))
            return f"{key} {depth} deep"
    done = []
    for _ in range(rng.integers(1, 3)):
        if not (every := places(document)):
            break
        *way, last = every[rng.integers(len(every))]
        holder = document
        for key in way:
            holder = holder[key]
        if rng.random() < 0.15:
            del holder[last]
            done.append(f"no {(*way, last)}")
        else:
            holder[last] = deepcopy(WRONG[rng.integers(len(WRONG))])
            done.append(f"{(*way, last)} = {str(holder[last])[:40]}")
    path.write_text(json.dumps(document))
    return ", ".join(done)


def damage_weights(path: Path, rng: np.random.Generator) -> str:
    """Change header or numbers of a file of weights; return what was done."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8 : 8 + size]), content[8 + size :]
    match rng.integers(6):
        case 0:
            path.write_bytes(content[: rng.integers(len(content))])
            return "cut"
        case 1:
            claimed = int(rng.choice([0, 1, size + 1, 2**31, 2**40, 2**62]))
            path.write_bytes(claimed.to_bytes(8, "little") + content[8:])
            return f"header of {claimed}"
        case 2:
            values = np.frombuffer(numbers, "<f4").copy() if len(numbers) % 4 == 0 else np.zeros(1, "<f4")
            values[rng.integers(0, len(values), 3)] = rng.choice([np.nan, np.inf, -np.inf, 3e38])
            path.write_bytes(content[: 8 + size] + values.tobytes())
            return "not finite"
        case 3:
            changed = bytearray(content)
            for place in rng.integers(0, len(content), 10):
                changed[place] = rng.integers(256)
            path.write_bytes(changed)
            return "bytes"
    name = list(header)[rng.integers(len(header))]
    field = str(rng.choice(["dtype", "shape", "data_offsets"]))
    wrong = {
        "dtype": ["F16", "F64", "I64", "BOOL", "F8_E4M3", "x"],
        "shape": [[], [10**9, 10**9], [2**31], [0], [1] * 2_000, [-1]],
        "data_offsets": [[0, 2**40], [5, 1], [0, 0]],
    }
    if isinstance(header[name], dict):
        header[name][field] = wrong[field][rng.integers(len(wrong[field]))]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + numbers)
    return f"{name}.{field}"


def load_damaged(start: int, num: int, folder: Path) -> dict[str, Any]:
    """Load `num` damaged model folders from number `start` on; what they are follows from their numbers."""
    from serein.errors import SereinError
    from serein.inference.predictor import load

    clip = np.random.default_rng(0).standard_normal(8_000).astype(np.float32) * 0.1
    for name in NAMES:  # loads all libraries, too
        load(GOLDEN / name, "cpu").predict_clips([clip])
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: Counter[str] = Counter()
    faults = []
    for number in range(start, start + num):
        rng = np.random.default_rng([number])
        name = NAMES[number % len(NAMES)]
        part = str(rng.choice(["model.json", "labels.json", "model.safetensors"], p=[0.55, 0.2, 0.25]))
        for path in (GOLDEN / name).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        done = (damage_json if part.endswith("json") else damage_weights)(folder / part, rng)
        print(number, name, part, done, file=sys.stderr, flush=True)
        faulthandler.dump_traceback_later(600, exit=True)  # a hang, even on the busiest machine
        try:
            (prediction,) = load(folder, "cpu").predict_clips([clip])
            finite = np.isfinite(list(prediction.main.probabilities.values())).all()
            outcomes["predicted" if finite else "not finite"] += 1
            if not finite:
                faults.append(f"{number} {name} {part} {done}: not finite")
        except SereinError as error:
            outcomes["refused"] += 1
            if len(str(error).splitlines()) > 1 or len(str(error)) > 1_000:
                faults.append(f"{number} {name} {part} {done}: says {str(error)[:150]}")
        except Exception as error:
            faults.append(f"{number} {name} {part} {done}: {type(error).__name__} {str(error)[:150]}")
            if num == 1:
                raise
    faulthandler.cancel_dump_traceback_later()
    peak_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024
    return {"outcomes": outcomes, "faults": faults, "peak_mb": peak_mb}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux alone")
def test_damaged_model_folders() -> None:
    done = subprocess.run(
        [sys.executable, __file__, "0", str(NUM_MODELS)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3_000:]
    report = json.loads(done.stdout)
    assert report["faults"] == []
    assert 0.05 < report["outcomes"]["predicted"] / NUM_MODELS < 0.7  # the damage is neither nothing nor all
    assert report["peak_mb"] < MOST_MB


if __name__ == "__main__":
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(load_damaged(int(sys.argv[1]), int(sys.argv[2]), Path(folder)), indent=1))
