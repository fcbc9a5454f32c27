"""The recipes of licensed corpora, on stand-ins for these and a tiny pretrained model: prepared, trained, scored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import mock_releases
from cli_fixtures import Call
from models.test_backbones import CASES, plain_model, save
from serein.corpora import corpus_named
from serein.corpora.prepare import prepare
from serein.data import manifest
from serein.evaluation.predictions import read_run_predictions

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CORPORA = ("msp-podcast", "iemocap")
DIMENSIONS = ("arousal", "valence", "dominance")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(plain_model(*CASES["wavlm: group"]), tmp_path_factory.mktemp("source") / "wavlm")


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("releases")
    for name in CORPORA:
        mock_releases.RELEASES[name](folder / name, mock_releases.Size(part=0.0005))
        prepared = prepare(corpus_named(name), folder / name, counts="partial")
        manifest.write(prepared.utterances, folder / f"{name}.jsonl")
    return {name: folder / f"{name}.jsonl" for name in CORPORA}


def scores_of(serein: Call, recipe: str, data: Path, source: Path, out: Path, *changes: str) -> Any:
    quick = [f"backbone.source={source}", "stages.0.epochs=1", "seeds=[0]", *changes]
    options = [part for change in quick for part in ("--set", change)]
    run = serein("run", ROOT / "recipes" / recipe, "--data", data, "--out", out, "--jobs", 1, *options)
    assert run.status == 0, run.err
    return json.loads((out / "scores.json").read_text())


@pytest.mark.parametrize("name", ["emotion", "dimensions", "both"])
def test_msp_podcast(name: str, manifests: Mapping[str, Path], source: Path, tmp_path: Path, serein: Call) -> None:
    """Turns on whose class raters did not agree are scored as distributions and by their dimensions."""
    utterances = manifest.read(manifests["msp-podcast"])
    tested = [u for u in utterances if u.split in ("test1", "test2")]
    num_classes = sum(u.emotion is not None for u in tested)
    assert num_classes < len(tested)
    scores = scores_of(serein, f"msp-podcast/{name}.yaml", manifests["msp-podcast"], source, tmp_path / "run")
    if name != "dimensions":
        assert (scores["num_utterances"], scores["distribution"]["js"]["value"] > 0) == (num_classes, True)
        assert any("have no truth" in note for note in scores["notes"])
    if name != "emotion":
        own = scores["tasks"]["dimensions"]
        assert own["scale"] == "0 to 1 (1 to 7 in msp-podcast)"
        assert own["intervals"].keys() >= {f"ccc {dimension}" for dimension in DIMENSIONS}
        kind = {} if name == "dimensions" else {"kind": "dimensions"}
        assert len(read_run_predictions(tmp_path / "run", **kind)) == len(tested)


def test_iemocap(manifests: Mapping[str, Path], source: Path, tmp_path: Path, serein: Call) -> None:
    scores = scores_of(
        serein, "iemocap/both.yaml", manifests["iemocap"], source, tmp_path / "run", "protocol.only=[Ses01]"
    )
    assert scores["distribution"]["js"]["value"] > 0
    assert scores["tasks"]["dimensions"]["scale"] == "0 to 1 (1 to 5 in iemocap)"
