"""The page: static files that any server could serve, tried in a real browser against a real service."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from cli_fixtures import Call, without_runtime, write_recipe
from serein import run
from serein.data import manifest
from serein.server.app import FOLDER, POLICY
from server.ingredients import encoded
from server.processes import Served, served
from server.proxy import needs_nginx, proxied
from speech_sounds import voiced

CHROMIUM = shutil.which("chromium")
KEY = "0123456789abcdef"
WAIT_MS = 180_000
REFERENCE = re.compile(r"""(?:src|href|from|import|addModule)\s*[=(]?\s*(?:new URL\()?["']([^"'#]+)["']""")
in_browser = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium"),
]


def test_the_page_and_its_files_are_served(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == POLICY
    assert client.head("/").status_code == 200
    for path in FOLDER.iterdir():
        answer = client.get(f"/page/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["", "none.js", "..%2fapp.py", "../app.py", "%2e%2e/app.py", "/etc/passwd"])
def test_nothing_else_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_files_refer_to_each_other_and_to_nothing_else(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"'.]*", text)) <= {"http://www", "https://"}  # SVG's namespace; a sentence
    for place in REFERENCE.findall(text) if path.suffix in (".html", ".js") else ():
        name = place.removeprefix("page/").removeprefix("./")
        assert (FOLDER / name).is_file() or place == "openapi.json", place
    if path.suffix == ".html":
        assert not re.search(r"<style|style=|<script>|\son\w+=", text)  # the policy would block them


def test_a_service_without_a_page(make_service: Any) -> None:
    from serein.server.app import create_app

    with TestClient(create_app(make_service(), has_page=False)) as client:
        assert client.get("/").status_code == client.get("/page/page.js").status_code == 404


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of two voices with a pause."""
    rng = np.random.default_rng(3)
    pause = np.zeros(8_000, np.float32)
    sound = np.concatenate([pause, voiced(4.0, rng), pause, pause, voiced(3.0, rng, 220.0), pause])
    path = tmp_path_factory.mktemp("spoken") / "call <b>1.wav"
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
    sync_api = pytest.importorskip("playwright.sync_api")
    sound = tmp_path_factory.mktemp("microphone") / "sound.wav"  # its name stands in an option
    shutil.copy(spoken, sound)
    with sync_api.sync_playwright() as play:
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


@pytest.fixture(scope="module")
def rated_server(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with a model of two dimensions, and no classes."""
    folder = tmp_path_factory.mktemp("rated")
    given = os.environ.get("SEREIN_PAGE_RATED_MODEL")  # for pictures in the documentation
    with served(Path(given) if given else rated_model(tones, folder)) as server:
        yield server


def rated_model(tones: Path, folder: Path) -> Path:
    places = {"angry": (0.9, 0.1), "happy": (0.7, 0.9), "sad": (0.1, 0.2)}
    rated = []
    for utterance in manifest.read(tones):
        arousal, valence = places[utterance.emotion or ""]
        rated.append(utterance.model_copy(update={"arousal": arousal, "valence": valence}))
    manifest.write(rated, folder / "m.jsonl")
    tasks = {"emotion": None, "dimensions": {"names": ["arousal", "valence"], "pooling": "mean"}}
    stages = [{"name": "dimensions", "epochs": 1, "batches": {"max_clips": 12}}]
    recipe = {"tasks": tasks, "stages": stages, "protocol": {"name": "speakers-out", "only": ["1"]}}
    run(write_recipe(folder / "r.yaml", recipe), folder / "m.jsonl", folder / "run", num_jobs=1)
    return folder / "run/fold-1/seed-0/model"


@pytest.fixture
def page(browser: Any, server: Served) -> Iterator[Any]:
    """The page, opened."""
    with opened(browser, server) as page:
        yield page


@contextmanager
def opened(browser: Any, server: Served) -> Iterator[Any]:
    """Open the page; at the end it must have asked nobody else for anything, and broken no rule of its own."""
    context = browser.new_context(viewport={"width": 1000, "height": 900}, permissions=["microphone"])
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    asked: set[str] = set()
    faults: list[str] = []
    page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: "Content Security Policy" in message.text and faults.append(message.text))
    page.goto(server.address)
    page.wait_for_selector("#hint:has-text('25')")
    yield page
    context.close()
    assert asked - {""} == {urlsplit(server.address).netloc}
    assert faults == []


CUT_OFF = """() => {
    const plane = document.querySelector("svg.plane").getBoundingClientRect();
    const words = [...document.querySelectorAll("svg.plane text")].filter((word) => {
        const box = word.getBoundingClientRect();
        return box.left < plane.left || box.right > plane.right;
    });
    const rooms = [...document.querySelectorAll(".scroll, html")].filter((room) => room.scrollWidth > room.clientWidth);
    return [...words, ...rooms].map((each) => each.textContent.trim().slice(0, 40));
}"""  # what does not fit into its place


def shot(page: Any, name: str) -> None:
    """Keep a picture for the documentation when asked to."""
    if folder := os.environ.get("SEREIN_SCREENSHOTS"):
        page.wait_for_timeout(800)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def downloaded(page: Any, suffix: str, within: str = "#result") -> str:
    """Click a link to a file, and return its content."""
    with page.expect_download() as download:
        page.locator(f"{within} a[download$='{suffix}']").click()
    return Path(download.value.path()).read_bytes().decode()


def rows_of(table: str) -> list[list[str]]:
    """Return the cells of a table, numbers to three decimals: batches differ in the last ones."""
    rows = csv.reader(io.StringIO(table))
    return [[f"{float(cell):.3f}" if re.fullmatch(r"[\d.]+", cell) else cell for cell in row] for row in rows]


def without_last_digits(grid: str) -> str:
    """Return a TextGrid with times in milliseconds, as JSON has them."""
    return re.sub(r"\d+\.\d{6}", lambda time: f"{float(time[0]):.3f}", grid)


class TestInABrowser:
    """What a visitor does."""

    pytestmark = in_browser

    @pytest.mark.slow
    def test_upload(self, page: Any, spoken: Path) -> None:
        page.set_input_files("#files", spoken)
        page.wait_for_selector("figure svg path[stroke]")  # the waveform, once it is decoded
        assert page.locator("#result-title").inner_text() == spoken.name
        assert page.locator("figure svg").get_attribute("aria-label").startswith("Emotions over time: 0:0")
        shot(page, "page")
        prediction = json.loads(downloaded(page, ".json"))
        assert prediction["file"] == spoken.name
        rows = page.locator("#segments tbody tr")
        assert rows.count() == len(prediction["segments"]) >= 2
        assert prediction["label"] in page.locator(".headlines").inner_text()
        percents = page.locator(".bars td.number").all_inner_texts()
        assert len(percents) == len(prediction["probabilities"])
        assert 97 <= sum(int(percent[:-1]) for percent in percents) <= 103
        table = list(csv.DictReader(io.StringIO(downloaded(page, ".csv"))))
        assert [float(row["end_s"]) for row in table] == [part["end_s"] for part in prediction["segments"]]
        grid = downloaded(page, ".TextGrid")
        assert grid.startswith('File type = "ooTextFile"')
        assert f'name = "{prediction["task"]}"' in grid
        assert f"xmax = {prediction['end_s']:.6f}" in grid
        assert prediction["model"]["sha256"][:12] in page.locator("#result").inner_text()

    @pytest.mark.slow
    def test_dimensions_are_drawn_over_time_and_in_the_plane(
        self, rated_server: Served, browser: Any, spoken: Path
    ) -> None:
        with opened(browser, rated_server) as page:
            page.set_input_files("#files", spoken)
            page.wait_for_selector("figure path.spoken")  # the waveform, once it is decoded
            shot(page, "dimensions-page")
            prediction = json.loads(downloaded(page, ".json"))
            assert page.locator("#model").inner_text().endswith(f": {', '.join(prediction['dimensions'])}")
            numbers = {name: f"{number:.2f}" for name, number in prediction["dimensions"].items()}
            assert page.locator(".headlines b").all_inner_texts()[:-1] == list(numbers.values())
            titles = page.locator("figure path.curve title").evaluate_all("all => all.map((each) => each.textContent)")
            assert titles == [f"{name} {number}" for name, number in numbers.items()]
            steps = page.locator("figure path.curve").first.get_attribute("d").count("H")
            assert steps == len(prediction.get("curve") or prediction["segments"]) >= 2
            place = page.locator("svg.plane").get_attribute("aria-label")
            assert place == f"Valence {numbers['valence']}, arousal {numbers['arousal']}, each from 0 to 1"
            heads = page.locator("#segments thead th").all_inner_texts()  # those that are shown
            assert heads == ["From", "To", *(name.capitalize() for name in numbers)]
            for width in (1000, 320):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate(CUT_OFF) == []

    @pytest.mark.slow
    def test_downloads_are_those_of_the_command_line(
        self, page: Any, spoken: Path, tiny_run: Path, serein: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copy(spoken, tmp_path / "call.wav")
        monkeypatch.chdir(tmp_path)  # so that both name the file alike
        page.set_input_files("#files", tmp_path / "call.wav")
        page.wait_for_selector(".headlines")
        model = next(tiny_run.glob("fold-*/seed-*/model"))
        table = serein("predict", "call.wav", "--model", model, "--csv").out
        assert rows_of(downloaded(page, ".csv")) == rows_of(table)
        grid = serein("predict", "call.wav", "--model", model, "--format", "textgrid").out
        assert without_last_digits(downloaded(page, ".TextGrid")) == without_last_digits(grid)

    @pytest.mark.slow
    def test_the_whole_of_it(self, page: Any, spoken: Path) -> None:
        page.uncheck("#find-speech")
        page.set_input_files("#files", spoken)
        page.wait_for_selector("figure svg")
        assert page.locator("#segments tbody tr").count() == 1

    @pytest.mark.slow
    def test_microphone(self, page: Any) -> None:
        page.get_by_role("button", name="Record", exact=True).click()
        page.get_by_role("button", name="Stop and predict").wait_for()
        page.wait_for_timeout(6000)
        shot(page, "page-recording")
        page.keyboard.press("Enter")  # the button has the focus
        page.wait_for_selector(".headlines")
        prediction = json.loads(downloaded(page, ".json"))
        assert prediction["file"] == "recording-1.wav"
        assert 4 < prediction["end_s"] < 15
        page.get_by_role("button", name="Record", exact=True).click()
        page.get_by_role("button", name="Discard").click()
        assert page.locator("#list").is_hidden()

    @pytest.mark.slow
    def test_several_files_and_refusals_in_the_servers_words(self, page: Any, spoken: Path, tmp_path: Path) -> None:
        notes, large, faint = tmp_path / "notes.wav", tmp_path / "large.wav", tmp_path / "faint.wav"
        notes.write_bytes(b"These are my notes.")
        large.write_bytes(encoded(np.zeros(19_500_000, np.float32)))  # 39 MB
        faint.write_bytes(encoded(1e-3 * np.random.default_rng(0).standard_normal(32_000)))
        assert large.stat().st_size > 39_000_000
        page.set_input_files("#files", [notes, large, faint, spoken])
        page.wait_for_selector("#items tr:nth-child(4) td.number")
        rows = page.locator("#items tr").all_inner_texts()
        assert "refused: notes.wav: cannot be decoded as audio" in rows[0]
        assert "refused: At most 25 MB are accepted. Send less, or FLAC instead of WAV." in rows[1]
        assert "no label: no speech" in rows[2]
        page.get_by_role("button", name="notes.wav").click()
        assert page.locator("#result [role=alert]").inner_text().startswith("notes.wav: cannot be decoded as audio")
        shot(page, "page-list")
        page.get_by_role("button", name="faint.wav").click()
        assert "No speech was found" in page.locator("#result").inner_text()
        assert len(downloaded(page, ".jsonl", "#list").splitlines()) == 2

    @pytest.mark.slow
    def test_a_server_that_is_gone(self, page: Any, spoken: Path) -> None:
        page.route("**/v1/predict*", lambda route: route.abort())
        page.set_input_files("#files", spoken)
        assert "failed before it answered" in page.locator("#result [role=alert]").inner_text()
        page.unroute("**/v1/predict*")
        page.get_by_role("button", name="Try again").click()
        page.wait_for_selector("figure svg")

    @pytest.mark.parametrize(
        ("status", "kind", "body", "said"),
        [
            (
                429,
                "application/problem+json",
                '{"detail": "You have 32 requests in progress."}',
                "You have 32 requests",
            ),
            (
                503,
                "application/problem+json",
                '{"detail": "Busy. Try again later."}',
                "The server asks you to wait 7\u00a0s.",
            ),
            (413, "text/html", "<h1>Too large</h1>", "too large for a proxy"),
            (502, "text/html", "<h1>Bad gateway</h1>", "The response was 502"),
        ],
    )
    def test_what_others_answer(self, page: Any, spoken: Path, status: int, kind: str, body: str, said: str) -> None:
        answer = {"status": status, "headers": {"Content-Type": kind, "Retry-After": "7"}, "body": body}
        page.route("**/v1/predict*", lambda route: route.fulfill(**answer))
        page.set_input_files("#files", spoken)
        assert said in page.locator("#result [role=alert]").inner_text()

    def test_keyboard(self, page: Any) -> None:
        reached = []
        for _ in range(4):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert reached == ["record", "choose", "find-speech", "openapi.json"]

    @pytest.mark.slow
    def test_no_microphone(self, browser: Any, server: Served) -> None:
        context = browser.new_context()
        page = context.new_page()
        page.add_init_script(
            "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotFoundError'))"
        )
        page.goto(server.address)
        page.get_by_role("button", name="Record", exact=True).click()
        page.wait_for_selector("#capture-problem:has-text('No microphone was found')")
        context.close()

    @pytest.mark.slow
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_a_phone_shows_all_of_it(self, page: Any, spoken: Path, scheme: str) -> None:
        page.set_viewport_size({"width": 320, "height": 700})
        page.emulate_media(color_scheme=scheme)
        page.set_input_files("#files", [spoken, spoken])
        page.wait_for_selector("figure svg path[stroke]")
        shot(page, f"page-phone-{scheme}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        box = page.locator("figure svg").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 320

    @pytest.mark.slow
    def test_keys_are_asked_for(self, tiny_run: Path, browser: Any, tmp_path: Path, spoken: Path) -> None:
        keys = tmp_path / "keys"
        keys.write_text(KEY)
        with served(next(tiny_run.glob("fold-*/seed-*/model")), "--api-key-file", keys) as server:
            page = browser.new_context().new_page()
            page.goto(server.address)
            page.wait_for_selector("#key")
            assert page.locator("#capture").is_hidden()
            page.fill("#key", "wrong")
            page.keyboard.press("Enter")
            page.wait_for_selector("#key-problem:has-text('does not accept')")
            page.fill("#key", KEY)
            page.keyboard.press("Enter")
            page.wait_for_selector("#capture:visible")
            page.set_input_files("#files", spoken)
            page.wait_for_selector(".headlines")
            page.reload()
            page.wait_for_selector("#capture:visible")  # this tab has the key
            page.context.close()
            server.process.terminate()
            assert without_runtime(server.ended()[1]) == ""

    @needs_nginx
    def test_through_nginx(self, browser: Any, server: Served, spoken: Path, tmp_path: Path) -> None:
        with proxied(server, tmp_path) as proxy:
            page = browser.new_context(ignore_https_errors=True).new_page()
            page.goto(f"https://{proxy.place}")
            page.wait_for_selector("#hint:has-text('25')")
            page.set_input_files("#files", spoken)
            page.wait_for_selector("figure svg")
            page.context.close()
