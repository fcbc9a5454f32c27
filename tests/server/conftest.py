"""A service with the tiny model, and recordings to send it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serein.inference.predictor import Predictor, load
from server.ingredients import RATE_HZ, MakeService, Waiting, encoded
from speech_sounds import voiced


@pytest.fixture(scope="session")
def predictor(tiny_run: Path) -> Predictor:
    return load(next(tiny_run.glob("fold-*/seed-*/model")))


@pytest.fixture
def make_service(predictor: Predictor) -> Iterator[MakeService]:
    """Make services that are closed at the end: `make_service(limits=...)`."""
    from serein.server.service import Service, ServiceInfo

    made: list[Service] = []

    def make(model: Predictor = predictor, **options: Any) -> Service:
        made.append(Service(model, ServiceInfo("tiny", "1"), **options))
        return made[-1]

    yield make
    for service in made:
        if isinstance(service.predictor, Waiting):
            service.predictor.may_predict.set()
        service.close()


@pytest.fixture
def client(make_service: MakeService) -> Iterator[Any]:
    from fastapi.testclient import TestClient

    from serein.server.app import create_app

    with TestClient(create_app(make_service())) as client:
        yield client


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """Four seconds that a voice activity detector takes for speech, between silences."""
    silence = np.zeros(RATE_HZ // 2, np.float32)
    return np.concatenate([silence, voiced(4.0, np.random.default_rng(3)), silence])


@pytest.fixture(scope="session")
def short() -> bytes:
    """A recording of half a second."""
    return encoded(voiced(0.5, np.random.default_rng(1)))
