"""Many, slow and vanished clients: what they meet, and that they cost nothing once they are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("fastapi")

from serein.inference.predictor import Predictor
from serein.server.app import create_app
from serein.server.limits import Limits
from serein.server.service import Service
from server.ingredients import MakeService, Waiting

HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
FOOT = b"\r\n--x--\r\n"
Sent = list[dict[str, Any]]


class Client:
    """One request, by hand: its body comes when told, and it can vanish."""

    def __init__(self, app: Any, host: str = "anna") -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: Sent = []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/predict",
            "raw_path": b"/v1/predict",
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [(b"content-type", b"multipart/form-data; boundary=x")],
            "client": (host, 1),
            "server": ("test", 80),
        }
        self.task = asyncio.ensure_future(app(scope, self.messages.get, self._keep))

    async def _keep(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def post(self, content: bytes, more_body: bool = False) -> Client:
        self.messages.put_nowait({"type": "http.request", "body": content, "more_body": more_body})
        return self

    def vanish(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})

    async def status(self) -> int:
        await asyncio.wait_for(self.task, 20)
        return int(self.sent[0]["status"])


async def until(is_so: Callable[[], Any]) -> None:
    """Wait for something that other threads do."""
    for _ in range(1000):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to pass")


def run(service: Service, scenario: Callable[[Any], Awaitable[None]]) -> None:
    asyncio.run(scenario(create_app(service)))  # type: ignore[arg-type]


@pytest.fixture
def waiting(predictor: Predictor) -> Waiting:
    return Waiting(predictor)


def test_requests_that_come_together_are_heard_together(
    make_service: MakeService, waiting: Waiting, short: bytes
) -> None:
    service = make_service(waiting)

    async def scenario(app: Any) -> None:
        clients = [Client(app).post(HEAD + short + FOOT)]
        await until(waiting.has_started.is_set)
        clients += [Client(app).post(HEAD + short + FOOT) for _ in range(5)]
        await until(lambda: len(service.batcher.waiting) == 5)
        waiting.may_predict.set()
        assert [await client.status() for client in clients] == [200] * 6

    run(service, scenario)
    assert waiting.batches == [1, 5]


def test_one_more_than_allowed(make_service: MakeService, waiting: Waiting, short: bytes) -> None:
    service = make_service(waiting, limits=Limits(at_once=3, per_client=2))

    async def scenario(app: Any) -> None:
        body = HEAD + short + FOOT
        first = [Client(app, host).post(body) for host in ("anna", "anna", "ben")]
        await until(lambda: service.limiter.of_kind["request"] == 3)
        assert await Client(app, "cleo").post(body).status() == 503
        service.limiter.limits = Limits(at_once=9, per_client=2)
        assert await Client(app, "anna").post(body).status() == 429
        waiting.may_predict.set()
        assert [await client.status() for client in first] == [200] * 3
        assert await Client(app, "anna").post(body).status() == 200

    run(service, scenario)


def test_a_vanished_client_is_not_heard(make_service: MakeService, waiting: Waiting, short: bytes) -> None:
    service = make_service(waiting)

    async def scenario(app: Any) -> None:
        stays = Client(app).post(HEAD + short + FOOT)
        await until(waiting.has_started.is_set)
        goes = Client(app).post(HEAD + short + FOOT)
        await until(lambda: len(service.batcher.waiting) == 1)
        goes.vanish()
        await goes.task
        assert service.limiter.of_kind["request"] == 1
        waiting.may_predict.set()
        assert await stays.status() == 200

    run(service, scenario)
    service.batcher.close()
    assert waiting.batches == [1]
    assert service.limiter.num_bytes == 0


def test_who_vanishes_during_the_upload_gives_everything_back(make_service: MakeService, short: bytes) -> None:
    service = make_service()

    async def scenario(app: Any) -> None:
        client = Client(app).post(HEAD + short[:5000], more_body=True)
        await until(lambda: service.limiter.num_bytes)
        client.vanish()
        await asyncio.wait({client.task}, timeout=20)
        assert client.task.done()

    run(service, scenario)
    assert service.limiter.of_kind["request"] == service.limiter.num_bytes == 0


def test_slow_uploads_end(make_service: MakeService, short: bytes) -> None:
    service = make_service(limits=Limits(upload_s=0.2))

    async def scenario(app: Any) -> None:
        assert await Client(app).post(HEAD + short[:5000], more_body=True).status() == 408

    run(service, scenario)
    assert service.limiter.num_bytes == 0


def test_uploads_share_their_memory(make_service: MakeService, waiting: Waiting, short: bytes) -> None:
    service = make_service(waiting, limits=Limits(memory_bytes=25_000))

    async def scenario(app: Any) -> None:
        first = Client(app).post(HEAD + short + FOOT)
        await until(waiting.has_started.is_set)
        assert await Client(app).post(HEAD + short + FOOT).status() == 503
        waiting.may_predict.set()
        assert await first.status() == 200

    run(service, scenario)


def test_answers_that_take_too_long(make_service: MakeService, waiting: Waiting, short: bytes) -> None:
    service = make_service(waiting, limits=Limits(answer_s=0.2))

    async def scenario(app: Any) -> None:
        client = Client(app).post(HEAD + short + FOOT)
        assert await client.status() == 503
        assert dict(client.sent[0]["headers"])[b"retry-after"] == b"10"

    run(service, scenario)
