"""The page in a real browser: upload, microphone, complaints, keys, a phone's width, and nothing from elsewhere."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import pytest

pytest.importorskip("gradio")
pytest.importorskip("playwright")

import httpx
from playwright.sync_api import sync_playwright

from server.ingredients import encoded
from server.processes import Served, served
from server.proxy import needs_nginx, proxied
from speech_sounds import voiced

CHROMIUM = shutil.which("chromium")
KEY = "0123456789abcdef"
WAIT_MS = 60_000
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium"),
]


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of two voices with a pause."""
    rng = np.random.default_rng(3)
    pause = np.zeros(8_000, np.float32)
    sound = np.concatenate([pause, voiced(4.0, rng), pause, pause, voiced(3.0, rng, 220.0), pause])
    path = tmp_path_factory.mktemp("spoken") / "call <1>.wav"
    given = os.environ.get("SEREIN_PAGE_RECORDING")  # for pictures in the documentation
    path.write_bytes(Path(given).read_bytes() if given else encoded(sound))
    return path


@pytest.fixture(scope="module")
def server(tiny_run: Path) -> Iterator[Served]:
    model = Path(os.environ.get("SEREIN_PAGE_MODEL", next(tiny_run.glob("fold-*/seed-*/model"))))
    with served(model) as server:
        yield server


@pytest.fixture(scope="module")
def browser(spoken: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sound = tmp_path_factory.mktemp("microphone") / "sound.wav"  # its name stands in an option
    shutil.copy(spoken, sound)
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={sound}",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, server: Served) -> Iterator[Any]:
    """The page, opened; at the end it must have asked nobody else for anything."""
    context = browser.new_context(viewport={"width": 900, "height": 900}, permissions=["microphone"])
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
    page.goto(server.address)
    page.wait_for_selector("#recording input[type=file]", state="attached")
    yield page
    context.close()
    assert asked - {""} == {urlsplit(server.address).netloc}


def shot(page: Any, name: str) -> None:
    """Keep a picture for the documentation when asked to."""
    if folder := os.environ.get("SEREIN_SCREENSHOTS"):
        page.wait_for_timeout(500)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def test_upload(page: Any, spoken: Path) -> None:
    page.set_input_files("#recording input[type=file]", spoken)
    picture = page.wait_for_selector("#said img")
    assert picture.get_attribute("alt").startswith("Waveform of ")
    assert picture.evaluate("image => image.naturalWidth") > 500
    over_time = page.locator("#said table", has_text="Emotions over time")
    assert over_time.locator("tbody tr").count() >= 2
    probabilities = (
        page.locator("#said table", has_text="Class probabilities").locator("td.serein-number").all_inner_texts()
    )
    assert 98 <= sum(int(probability.split()[0]) for probability in probabilities) <= 102
    assert page.locator("#said").bounding_box()["width"] > 700  # of 900
    shot(page, "page")
    files = {}
    for link in page.locator("#said a[download]").all():
        with page.expect_download() as download:
            link.click()
        files[download.value.suggested_filename] = Path(download.value.path()).read_text()
    answer = json.loads(files["serein.json"])
    assert len(answer["segments"]) == over_time.locator("tbody tr").count()
    rows = list(csv.DictReader(io.StringIO(files["serein.csv"])))
    assert [row["label"] for row in rows] == [segment["label"] for segment in answer["segments"]]


def test_microphone(page: Any) -> None:
    page.get_by_label("Record audio").click()
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(4000)
    page.get_by_role("button", name="Stop", exact=True).first.click()
    page.wait_for_selector("#said img")
    assert page.locator("#said h2").inner_text()
    shot(page, "page-microphone")


def test_complaints_are_in_plain_words(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes.wav"
    path.write_bytes(b"These are my notes.")
    page.set_input_files("#recording input[type=file]", path)
    page.wait_for_selector("#said [role=alert]")
    assert page.locator("#said [role=alert]").inner_text().startswith("notes.wav: cannot be decoded as audio")
    shot(page, "page-error")


def test_keyboard_and_phone(page: Any, spoken: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "hear":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("#said [role=alert]")
    assert "no recording yet" in page.locator("#said").inner_text()
    page.set_input_files("#recording input[type=file]", spoken)
    page.wait_for_selector("#said img")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shot(page, "page-phone")


@needs_nginx
def test_through_nginx(browser: Any, server: Served, spoken: Path, tmp_path: Path) -> None:
    with proxied(server, tmp_path) as proxy:
        page = browser.new_context(ignore_https_errors=True).new_page()
        page.goto(f"https://{proxy.place}")
        page.wait_for_selector("#recording input[type=file]", state="attached")
        page.set_input_files("#recording input[type=file]", spoken)
        page.wait_for_selector("#said img")
        page.context.close()


@pytest.mark.parametrize("place", ["http://192.0.2.1/a.wav", "/etc/passwd", "there", "upload/../../there"])
@pytest.mark.parametrize("url", [None, "http://192.0.2.1/b.wav"])
def test_only_uploads_are_read(server: Served, spoken: Path, place: str, url: str | None) -> None:
    address, session = f"{server.address}/page/gradio_api", uuid4().hex
    uploaded = Path(httpx.post(f"{address}/upload", files={"files": ("a.wav", spoken.read_bytes())}).json()[0])
    path = place.replace("upload", str(uploaded.parent)).replace("there", str(spoken))
    said = []
    for named in (path, str(uploaded)):
        data = [{"path": named, "url": url, "meta": {"_type": "gradio.FileData"}}]
        joined = {"data": data, "fn_index": 2, "session_hash": session, "event_data": None, "trigger_id": None}
        httpx.post(f"{address}/queue/join", json=joined, timeout=20).raise_for_status()
        said.append(httpx.get(f"{address}/queue/data", params={"session_hash": session}, timeout=20).text)
    assert '"success":false' in said[0]
    assert "serein-" not in said[0]
    assert "Class probabilities" in said[1]


def test_keys_are_asked_for(tiny_run: Path, browser: Any, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    with served(next(tiny_run.glob("fold-*/seed-*/model")), "--api-key-file", keys) as server:
        page = browser.new_context().new_page()
        page.goto(server.address)
        page.wait_for_selector("input[type=password]")
        assert page.locator("#recording").count() == 0
        page.locator("input").first.fill("anna")
        page.locator("input[type=password]").fill(KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#recording")
        server.process.terminate()
        assert server.ended()[1] == ""
