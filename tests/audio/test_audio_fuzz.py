"""Damaged recordings of every container: sound or an AudioError, without a crash, a hang or much memory.

`SEREIN_FUZZ` says how many, 2,000 otherwise. They are read in a process of their own, so that a crash is seen as one:

    SEREIN_FUZZ=20000 pytest tests/test_audio_fuzz.py
    python tests/test_audio_fuzz.py 17 1        # the seventeenth alone; written to fuzz-17-<container>
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

NUM_RECORDINGS = int(os.environ.get("SEREIN_FUZZ", "2000"))
MOST_MB = 500.0


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a recording with one of its regions changed: its start and end, where headers stand, more often."""
    changed = bytearray(content)
    first, last = [(0, 400), (len(content) - 1_300, len(content)), (0, len(content))][rng.integers(3)]
    first, last = max(first, 0), min(last, len(content))
    place, source = rng.integers(first, last, 2)
    size = int(rng.integers(1, 200))
    match rng.integers(8):
        case 0:  # single bytes
            for place in rng.integers(first, last, rng.integers(1, 12)):
                changed[place] = rng.integers(256)
        case 1:  # a run of equal bytes
            changed[place : place + size] = bytes([rng.choice([0, 255, 127, 128])]) * min(size, len(content) - place)
        case 2:
            del changed[place:]
        case 3:
            del changed[place : place + size]
        case 4:
            changed[place:place] = rng.bytes(size)
        case 5:  # a copy from elsewhere
            changed[place : place + size] = changed[source : source + size]
        case _:  # a number at the edge of its type
            width = int(rng.choice([2, 4, 8]))
            number = ((1 << int(rng.integers(8 * width + 1))) - int(rng.integers(2))) % (1 << 8 * width)
            changed[place : place + width] = number.to_bytes(width, str(rng.choice(["little", "big"])))
    return bytes(changed) or b"\0"


def read_damaged(start: int, num: int, folder: str) -> dict[str, float]:
    """Read `num` damaged recordings from number `start` on; what they are follows from their numbers.

    Half of them are files, in `folder`, half are bytes.
    """
    from audio_files import containers, encoded
    from serein import audio
    from serein.errors import AudioError

    names = containers()
    for name in names:  # loads all libraries, too
        audio.load(encoded(name))
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    num_read = 0
    for number in range(start, start + num):
        rng = np.random.default_rng([number])
        name = names[number % len(names)]
        content = encoded(name)
        for _ in range(rng.integers(1, 4)):
            content = damaged(content, rng)
        source = Path(f"fuzz-{number}-{name}") if num == 1 else Path(folder, "damaged") if number % 2 else content
        if isinstance(source, Path):
            source.write_bytes(content)
        print(number, name, file=sys.stderr, flush=True)
        faulthandler.dump_traceback_later(600, exit=True)  # a hang, even on the busiest machine
        try:
            with audio.open(source) as recording:
                recording.info()
                waveform = recording.waveform()
            assert len(waveform)
            assert np.isfinite(waveform).all()
            num_read += 1
        except AudioError:
            pass
    faulthandler.cancel_dump_traceback_later()
    peak_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024
    return {"read": num_read, "peak_mb": peak_mb}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux alone")
def test_damaged_recordings() -> None:
    done = subprocess.run(
        [sys.executable, __file__, "0", str(NUM_RECORDINGS)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3_000:]
    report = json.loads(done.stdout)
    assert 0.1 < report["read"] / NUM_RECORDINGS < 0.9  # the damage is neither nothing nor all
    assert report["peak_mb"] < MOST_MB


if __name__ == "__main__":
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(read_damaged(int(sys.argv[1]), int(sys.argv[2]), folder)))
