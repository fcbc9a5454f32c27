"""What is near: clips of a store without their paths, and words of a model's vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from serein.errors import ModelError
from serein.inference.predictor import Predictor, load
from serein.knn import building as neighbour_building
from serein.server.app import create_app
from serein.server.service import open_neighbours
from server.ingredients import MakeService


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Path:
    return next(tiny_run.glob("fold-*/seed-*/model"))


@pytest.fixture(scope="module")
def datastore(model: Path, tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "store"
    neighbour_building.build(str(model), tones, folder, lambda *_: None)
    return folder


def test_a_clip_of_the_store_is_nearest_to_itself(
    make_service: MakeService, predictor: Predictor, model: Path, datastore: Path, tones: Path
) -> None:
    clip = tones.parent / "sad" / "anna" / "0.wav"
    service = make_service(neighbours=open_neighbours(predictor, datastore))
    with TestClient(create_app(service)) as client:
        answer = client.post("/v1/predict?segments=never", files={"file": clip.read_bytes()})
    first, *others = answer.json()["neighbours"]
    assert first == {
        "id": "anna-sad-0",
        "label": "sad",
        "speaker": "anna",
        "corpus": "tones",
        "distance": pytest.approx(0, abs=1e-3),
    }
    assert len(others) == 4
    assert answer.json().get("words") is None
    assert str(tones.parent) not in answer.text


def test_a_store_of_another_model_is_refused(tiny_run: Path, datastore: Path, model: Path) -> None:
    other = next(folder for folder in tiny_run.glob("fold-*/seed-*/model") if folder != model)
    with pytest.raises(ModelError):
        open_neighbours(load(other), datastore)
