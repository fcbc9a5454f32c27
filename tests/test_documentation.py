"""The documents say what is true: blocks run, the generated page is current, named files exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from cli_fixtures import Call, write_corpus, write_speech
from speech_sounds import RATE_HZ, voiced

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


NOT_RUN = {  # the start of a README's command, and why the tests do not run it
    "serein cross-corpus": "needs corpora that are not here; tests/experiment/test_cross_corpus.py runs it",
    "make": "it runs the tests themselves, and takes minutes",
    "pip": "it installs from the network",
    "serein stream": "it opens the microphone; tests/cli/test_serve.py pipes samples into it",
    "serein serve": "it runs until it is stopped; tests/server starts it",
    "serein reproduce": "it trains for hours; tests/reproduce trains tiny tables",
}


@pytest.mark.slow
def test_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serein: Call) -> None:
    """Run every command and every Python block, in order, on tiny data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    write_corpus(tmp_path / "recordings")
    write_speech(tmp_path / "interviews/a.wav")
    soundfile.write(tmp_path / "call.wav", voiced(4.0, np.random.default_rng(0)), RATE_HZ)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pattern = r"^```python\n([\s\S]*?)^```|^    (\S.*?)(?:  +#.*)?$"
    steps = re.findall(pattern, text, re.MULTILINE)
    for block, command in steps:
        if block:
            exec(compile(block, "README.md", "exec"), {})
        elif not command.startswith(tuple(NOT_RUN)):
            program, *arguments = shlex.split(command)
            assert program == "serein"
            quick = ["--set", "stages.0.epochs=1", "--set", "protocol.num_folds=2"] if arguments[0] == "run" else []
            outcome = serein(*arguments, *quick)
            assert outcome.status == 0, f"{command}: {outcome.err}"
    assert (tmp_path / "runs/mine/report.html").exists()
    assert (tmp_path / "predictions.jsonl").exists()


@pytest.mark.slow
def test_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("espeakng_loader")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"RECIPES": ROOT / "recipes"}
    text = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(compile(block, "docs/tutorial.md", "exec"), names)


def test_extending_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's blocks run, and what they add goes again; an entry point is found like a choice of the library."""
    from importlib.metadata import EntryPoint

    from serein import choices

    monkeypatch.chdir(tmp_path)
    before = {kind: dict(choices.table(kind)) for kind in ("pooling", "loss")}
    names: dict[str, object] = {"__name__": "extending"}
    text = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    try:
        for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            exec(compile(block, "docs/extending.md", "exec"), names)
        assert choices.choose("pooling", "median") is names["MedianPooling"]
    finally:
        for kind, table in before.items():
            choices.table(kind).clear()
            choices.table(kind).update(table)
    point = EntryPoint("flat", "serein.models.blocks:MeanPooling", "serein.pooling")
    monkeypatch.setattr(choices, "entry_points", lambda group, name=None: [point] if group == "serein.pooling" else [])
    try:
        assert choices.choose("pooling", "flat") is choices.choose("pooling", "mean")
        assert "flat" in choices.names("pooling")
    finally:
        choices.table("pooling").pop("flat", None)


def test_groups_of_entry_points_have_names_that_packages_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    from serein import choices

    groups: list[str] = []
    monkeypatch.setattr(choices, "entry_points", lambda group, name=None: groups.append(group) or [])
    for kind in choices.TABLES:
        assert "no-such-choice" not in choices.names(kind)
    text = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    for group in groups:
        assert re.fullmatch(r"\w+(\.\w+)*", group), "the packaging specification allows no other characters"
        assert f"`{group}`" in text


def test_the_source_distribution_contains_what_its_pages_name() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = built["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {page.relative_to(ROOT).parts[0] for page in PAGES} <= {*included}
    assert {"Makefile", "constraints.txt", *built["project"]["license-files"]} <= {*included}
    assert all((ROOT / name).exists() for name in included)


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


def test_every_extra_that_is_named_can_be_installed() -> None:
    """In calls such as `imported("jiwer", "asr")`, in messages and in pages; and `all` installs every one but `dev`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in [*(ROOT / "src").rglob("*.py"), *PAGES])
    calls = re.findall(r"""\b(?:imported|MissingExtraError|parquet_rows)\([^()]+, "(\w+)"\)""", sources)
    written = re.findall(r"(?:serein|\.)\[(\w+)\]'|\bextra `(\w+)`", sources)
    assert "asr" in calls
    assert {*calls, *("".join(each) for each in written)} <= extras.keys()
    assert sorted(re.findall(r"\w+", extras["all"][0].removeprefix("serein"))) == sorted(extras.keys() - {"all", "dev"})


def test_architecture_names_every_room() -> None:
    """Every folder and top-level file of the package, as `name/` or `name.py`."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    paths = [path for path in (ROOT / "src/serein").iterdir() if not path.name.startswith("__")]
    rooms = [f"{path.name}/" if path.is_dir() else path.name for path in paths if path.is_dir() or path.suffix == ".py"]
    assert [room for room in rooms if f"`{room}`" not in text] == []
