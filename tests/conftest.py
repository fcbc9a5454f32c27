"""What several tests share: recordings made on the spot, where real speech lies, and settings that make tests quick."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: threads cost more than such small sums

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import soundfile
from markupsafe import Markup

from cli_fixtures import in_child, nursery, serein, tiny, tiny_run, tones  # noqa: F401
from serein.data.manifest import Utterance

hypothesis.settings.register_profile("serein", deadline=None, derandomize=True)
hypothesis.settings.load_profile("serein")

RATE_HZ = 16_000
REAL = Path(os.environ.get("SEREIN_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

Record = Callable[..., Utterance]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Write a recording and return its utterance: `record("a", samples, rate_hz, emotion="sad")`."""

    def write(name: str, samples: np.ndarray, rate_hz: int = RATE_HZ, **fields: object) -> Utterance:
        path = tmp_path / (name if "." in name else f"{name}.wav")
        soundfile.write(path, samples, rate_hz, subtype="FLOAT" if path.suffix == ".wav" else None)
        return Utterance(id=name, audio=str(path), **({"speaker": "1", "emotion": "happy"} | fields))

    return write


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Return the folder of a real corpus, or skip: `real_data("ravdess")`."""

    def folder(name: str) -> Path:
        if not (REAL / name).is_dir():
            pytest.skip(f"no {name} in {REAL}; set SEREIN_TEST_DATA")
        return REAL / name

    return folder


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of recordings and tables that were once met badly, beside the real corpora; or skip."""
    if not (REAL.parent / "cases").is_dir():
        pytest.skip(f"no bad inputs in {REAL.parent / 'cases'}; set SEREIN_TEST_DATA to the folder 'data' beside them")
    return REAL.parent / "cases"


@pytest.fixture(autouse=True, scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from or written to the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEREIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="module")
def undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Reports outside of `evaluation` hold the words of their pictures: to draw takes longer than a tiny training."""

    def words(figure: Any, name: str) -> Markup:
        texts = (text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
        return Markup("<svg>{}</svg>").format(" ".join(texts))

    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name != "evaluation":
            patch.setattr("serein.evaluation.report.figure_svg", words)
        yield


SLOW_ROOMS = ("benchmarks", "end_to_end", "exporting")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep rooms whose tests train, export or run whole programs out of `make check`."""
    for item in items:
        if item.path.parent.name in SLOW_ROOMS:
            item.add_marker(pytest.mark.slow)
