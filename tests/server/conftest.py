"""A service with the tiny model, and recordings to send it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

from serein.inference.predictor import Predictor, load
from server.ingredients import RATE_HZ, Live, MakeService, Waiting, encoded
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


@pytest.fixture
def live(make_service: MakeService) -> Iterator[Callable[..., Live]]:
    """Serve from a thread of this process, at a free port: `live(keys=..., limits=...)`."""
    from serein.server.app import bound, create_app, uvicorn_server

    with ExitStack() as ending:

        def serve(*model: Any, keys: Any = None, names: Any = None, **options: Any) -> Live:
            service, is_ready = make_service(*model, **options), Event()
            server = uvicorn_server(create_app(service, keys, names), is_ready.set)
            listening = ending.enter_context(bound("127.0.0.1", 0))
            thread = Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
            thread.start()
            ending.callback(thread.join, 20)
            ending.callback(setattr, server, "should_exit", True)
            assert is_ready.wait(20)
            return Live(service, listening.getsockname())

        yield serve


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """Four seconds that a voice activity detector takes for speech, between silences."""
    silence = np.zeros(RATE_HZ // 2, np.float32)
    return np.concatenate([silence, voiced(4.0, np.random.default_rng(3)), silence])


@pytest.fixture(scope="session")
def short() -> bytes:
    """A recording of half a second."""
    return encoded(voiced(0.5, np.random.default_rng(1)))
