"""The documents say what is true: blocks run, the generated page is current, named files exist."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("espeakng_loader")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"RECIPES": ROOT / "recipes"}
    for block in re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL | re.MULTILINE
    ):
        exec(compile(block, "docs/tutorial.md", "exec"), names)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "made"), generator().PAGES.items())
def test_generated_pages_are_current(name: str, made: Callable[[], str]) -> None:
    assert made() == (ROOT / "docs" / name).read_text(encoding="utf-8"), "run: python docs/generate.py"


def test_every_option_has_a_meaning_and_shows_its_default() -> None:
    for path, command in generator().commands():
        for parameter in command.params:
            where = f"{path} {parameter.opts[0]}"
            assert getattr(parameter, "help", None), where
            assert "[" not in parameter.help, f"{where}: the default goes into show_default"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_local_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_architecture_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = [path.name for path in (ROOT / "src/serein").iterdir() if path.suffix == ".py" or path.is_dir()]
    missing = [room for room in rooms if room not in ("__init__.py", "__pycache__") and f"{room}" not in text]
    assert missing == []
