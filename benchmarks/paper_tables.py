"""Every table and figure of the five papers from start to finish, each killed and resumed once.

Releases are mock ones (mock_releases.py), and networks are thin ones with random weights, as deep as the papers' own.
Every stage has one epoch and every protocol one fold; everything else is as in the recipes. `serein reproduce` of each
table gets a SIGKILL at a random moment after its first epoch and is started again. All its rows must then have scores,
and finished work must not be repeated.

    python benchmarks/paper_tables.py [--only PAPER/TABLE] [--part 0.002] [--keep FOLDER]

Exit status 1 if a table is not completed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from backbones import THIN, WAV2VEC2_BASE, WAVLM_LARGE, configuration, save_backbone
from forks import start
from mock_releases import RELEASES, Size
from serein.corpora import corpus_named
from serein.corpora.prepare import prepare
from serein.data import manifest
from serein.data.manifest import Predicted
from serein.tasks.word_vectors import NOUNS

RECIPES = Path(__file__).parents[1] / "recipes"
DATA = {"IEMOCAP": "iemocap", "MSP-Podcast": "msp-challenge", "VoxCeleb1": "voxceleb1"}
DONE_BY = {"gender": "mock", "transcript": "mock"}
FOLDS = {"sessions-out": "Ses01", "leave-one-speaker-out": "Ses01F"}  # protocol -> its only fold
LONGEST_S = 1.0  # of a clip
MOMENT_S = 6.0  # the kill comes within this time after the first epoch


def paper_tables() -> dict[str, dict[str, Any]]:
    """Return `paper/table` -> content of every table and figure of the papers' own corpora."""
    found = {}
    for path in sorted(RECIPES.glob("*/tables/*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if content["corpus"] in DATA and path.stem != "synth":
            found[f"{path.parts[-3]}/{path.stem}"] = content
    return found


def write_workplace(root: Path, part: float, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Write everything tables need: mock manifests, thin backbones under the real names, words, one-epoch recipes."""
    has_speakers = any(name.startswith("park2023/") for name in tables)  # their networks learn VoxCeleb1's speakers
    for name in {DATA[table["corpus"]] for table in tables.values()} | ({"voxceleb1"} if has_speakers else set()):
        (root / name).mkdir()
        RELEASES[name](root / name, Size(part, sound_s=60.0, longest_s=LONGEST_S))
        found = prepare(corpus_named(name.replace("challenge", "podcast")), root / name, counts="partial").utterances
        said = [Predicted(gender=u.gender, transcript=u.transcript, by=DONE_BY) for u in found]
        filled = [u.model_copy(update={"predicted": own}) for u, own in zip(found, said, strict=True)]
        manifest.write(filled, root / f"{name}.jsonl")
    large = {**WAVLM_LARGE, "model_type": "wav2vec2"}
    for name, options in (
        ("facebook/wav2vec2-base", WAV2VEC2_BASE),
        ("facebook/wav2vec2-large-960h-lv60-self", large),
        ("microsoft/wavlm-large", WAVLM_LARGE),
    ):
        save_backbone(root / name, configuration(options, is_thin=True))
    rng = np.random.default_rng(0)
    words = sorted({*NOUNS.values(), "amazed", "impressed", "joking", "polite", "impatient", "worried", "joy", "bliss"})
    lines = [" ".join([word, *(f"{value:.4f}" for value in rng.standard_normal(300))]) for word in words]
    (root / "glove.txt").write_text("\n".join(lines) + "\n")
    serein(root, "words", "prepare", "glove.txt", "-o", "glove.840B.300d")
    shutil.copytree(RECIPES, root / "recipes")
    for path in (root / "recipes").rglob("*.yaml"):
        text = re.sub(r"epochs: \d+", "epochs: 1", path.read_text(encoding="utf-8"))
        text = text.replace("projection: 768", f"projection: {THIN['hidden_size']}")  # as wide as the backbone
        for protocol, fold in FOLDS.items():
            text = text.replace(f"  name: {protocol}\n", f"  name: {protocol}\n  only: [{fold}]\n")
        path.write_text(text, encoding="utf-8")
    for out, loss in (("vox", "arcface"), ("vox-ce", "cross-entropy")) if has_speakers else ():
        call = ("run", "recipes/park2023/speaker.yaml", "--data", "voxceleb1.jsonl", "--out", f"runs/{out}")
        serein(root, *call, "--set", f"tasks.speaker.loss={loss}")


def started(root: Path, *arguments: object) -> BaseProcess:
    """Start `serein` in the workplace, with its results in the file `stdout` and its progress in `stderr`."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    return start(arguments, out=root / "stdout", err=root / "stderr", folder=root)


def serein(root: Path, *arguments: object) -> str:
    """Run `serein` to its end and return its results.

    Raises:
        RuntimeError: It failed; contains its error messages.
    """
    process = started(root, *arguments)
    process.join()
    if process.exitcode:
        complaints = [line for line in (root / "stderr").read_text().splitlines() if line.strip()]
        raise RuntimeError("\n".join(complaints[-12:]))
    return (root / "stdout").read_text()


def finished(root: Path) -> dict[Path, int]:
    """Return the time at which each fold's predictions were written."""
    return {path: path.stat().st_mtime_ns for path in (root / "out").glob("*/seed-*/fold-*/seed-*/predictions.jsonl")}


def killed(root: Path, call: Sequence[object], rng: random.Random) -> str:
    """Start a reproduction, kill it at a random moment after its first epoch, and return its progress."""
    begin = time.time()
    process = started(root, *call)
    while process.exitcode is None:
        time.sleep(0.1)
        if any(path.stat().st_mtime > begin for path in (root / "out").rglob("metrics.jsonl")):
            time.sleep(rng.uniform(0.0, MOMENT_S))
            break
    process.kill()
    process.join()
    if process.exitcode == 0:
        return "ended before"
    new = [path for path, when in finished(root).items() if when > begin * 1e9]
    return f"after {len(new)} folds"


def reproduced(root: Path, name: str, table: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    """Reproduce a table with one kill, and return its figures.

    Raises:
        RuntimeError: It failed, a row has no scores, or a finished fold was predicted again.
    """
    call = ["reproduce", name, "--data", f"{DATA[table['corpus']]}.jsonl", "--out", "out", "--seeds", 1, "--jobs", 1]
    call += ["--split", "dev"] if table["corpus"] == "MSP-Podcast" else []
    begin = time.monotonic()
    state = killed(root, call, rng)
    before = finished(root)
    found = json.loads(serein(root, *call, "--json"))
    after = finished(root)
    if any(after[path] != when for path, when in before.items()):
        raise RuntimeError("a fold that was finished was predicted again")
    scoreless = [row["name"] for row in table["rows"] if row.get("quoted") or row.get("targets_only")]
    if without := [row["name"] for row in found["rows"] if row["ours"] is None and row["name"] not in scoreless]:
        raise RuntimeError(f"rows without scores: {', '.join(without)}")
    return {"rows": len(found["rows"]), "killed": state, "folds": len(after), "seconds": time.monotonic() - begin}


def main(arguments: Sequence[str] | None = None) -> None:
    """Reproduce the tables, one line each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--only", action="append", help="PAPER/TABLE; can be repeated")
    parser.add_argument("--part", type=float, default=0.002, help="fraction of the releases' turns")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--keep", type=Path, help="folder of the workplace, reused for the same tables")
    options = parser.parse_args(arguments)
    rng, failed = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as scratch:
        root = (options.keep or Path(scratch)).absolute()
        known = paper_tables()
        tables = {name: known[name] for name in options.only or known}
        if not (root / "ready").exists():
            root.mkdir(parents=True, exist_ok=True)
            write_workplace(root, options.part, tables)
            (root / "ready").touch()
        print(f"{'table':<22} {'rows':>4} {'killed':>16} {'folds':>6} {'seconds':>8}", flush=True)
        for name, table in tables.items():
            try:
                said = reproduced(root, name, table, rng)
            except RuntimeError as error:
                failed.append(name)
                print(f"{name:<22} FAILED: {error}", flush=True)
            else:
                counts = f"{said['rows']:>4} {said['killed']:>16} {said['folds']:>6} {said['seconds']:>8.0f}"
                print(f"{name:<22} {counts}", flush=True)
    print(f"{len(tables) - len(failed)} of {len(tables)} tables completed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
