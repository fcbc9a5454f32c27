"""What is kept on disk: listed by kind, the longest unused cleared first, and nothing that a process uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli_fixtures import Call
from serein import cache
from serein.errors import RecipeError, counted

HOLDS = """
import sys
from pathlib import Path
from serein import cache
held = cache.claim(Path(sys.argv[1]))
print("held", flush=True)
input()
"""


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five entries of 1000 bytes, last used 5, 4, 3, 2 and 1 days ago."""
    monkeypatch.setenv("SEREIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    names = ("cache/features/b/last", "cache/features/b/4", "cache/sentences/e", "cache/vocabularies/v")
    for number, name in enumerate((*names, "runs/reproduce/stages/k")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.safetensors").write_bytes(b"x" * 1000)
        age_s = 86_400 * (5 - number)
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    (tmp_path / "cache/features/b/backbone.json").write_text("{}")
    return tmp_path


def names(kept: Path) -> list[str]:
    return [entry.path.name for entry in cache.entries([kept / "runs/reproduce/stages"])]


@pytest.mark.slow
def test_all_is_listed_the_longest_unused_first(kept: Path, serein: Call) -> None:
    assert names(kept) == ["last", "4", "e", "v", "k"]
    listed = json.loads(serein("cache", "--json").out)
    assert [entry["kind"] for entry in listed] == ["features", "features", "sentences", "vocabularies", "stages"]
    assert {entry["num_bytes"] for entry in listed} == {1000}
    assert [round(entry["age_s"] / 86_400) for entry in listed] == [5, 4, 3, 2, 1]
    assert "5 entries, 0.00 GB" in serein("cache").out


def test_paths_are_printed_as_they_are(kept: Path, serein: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEREIN_CACHE", str((kept / "cache").rename(kept / "für später")))
    assert "für später" in serein("cache", "--json").out


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ((), []),
        (("--kind", "features"), ["e", "v", "k"]),
        (("--max-size", "2KB"), ["v", "k"]),
        (("--unused-days", 2.5), ["v", "k"]),
        (("--unused-days", 2.5, "--max-size", "4kB"), ["4", "e", "v", "k"]),
        (("--kind", "stages", "--kind", "sentences"), ["last", "4", "v"]),
    ],
)
def test_what_is_cleared(options: tuple[object, ...], left: list[str], kept: Path, serein: Call) -> None:
    outcome = serein("cache", "clear", *options)
    assert outcome.status == 0
    assert outcome.out == f"removed {counted(5 - len(left), 'entry', 'entries')}, 0.00 GB\n"
    assert names(kept) == left
    assert not [path for path in kept.rglob(".*") if path.is_dir()]


def test_what_a_process_uses_stays(kept: Path, serein: Call) -> None:
    entry = kept / "cache/sentences/e"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(entry)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert names(kept)[-1] == "e"  # it was used just now
        outcome = serein("cache", "clear")
        assert (outcome.out, "1 entries remain" in outcome.err) == ("removed 4 entries, 0.00 GB\n", True)
        assert names(kept) == ["e"]
    finally:
        holder.kill()  # a killed process holds nothing
        holder.wait()
    assert serein("cache", "clear").out == "removed 1 entry, 0.00 GB\n"


def test_what_another_user_owns_stays(kept: Path, serein: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, foreign = os.replace, kept / "cache/features/b/last"

    def refuse(source: Path, target: Path) -> None:
        if source == foreign:
            raise PermissionError(13, "Permission denied", str(source))
        replace(source, target)

    monkeypatch.setattr(cache.os, "replace", refuse)
    outcome = serein("cache", "clear")
    assert (outcome.out, "1 entries remain" in outcome.err) == ("removed 4 entries, 0.00 GB\n", True)
    assert names(kept) == ["last"]
    monkeypatch.setenv("SEREIN_CACHE_SIZE", "0")
    assert cache.keep_within_limit() == []  # a training does not fail on it
    assert not [path for path in kept.rglob(".*") if path.is_dir()]


def test_a_limit_keeps_what_was_used_last(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEREIN_CACHE_SIZE", raising=False)
    assert cache.keep_within_limit() == []
    monkeypatch.setenv("SEREIN_CACHE_SIZE", "2 KB")
    cache.mark_used(kept / "cache/features/b/last")
    assert [entry.path.name for entry in cache.keep_within_limit()] == ["4", "e"]
    monkeypatch.setenv("SEREIN_CACHE_SIZE", "much")
    with pytest.raises(RecipeError, match="'much' is not a size. Write it like 20GB"):
        cache.keep_within_limit()


def test_without_a_setting_a_tenth_of_the_disk_is_the_limit(
    kept: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEREIN_CACHE_SIZE", raising=False)
    disk = type("Disk", (), {"total": 300e9})
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: disk)
    assert cache.size_limit() == 30e9
    assert "kept: at most 30.0 GB, not counting shared stages" in serein("cache").out
    disk.total = 1e9
    assert cache.size_limit() == cache.LEAST_LIMIT
    disk.total = 1e15
    assert cache.size_limit() == cache.MOST_LIMIT
    monkeypatch.setattr(cache, "LEAST_LIMIT", 2000.0)
    monkeypatch.setattr(cache, "MOST_LIMIT", 2000.0)
    removed = cache.keep_within_limit(stages=[kept / "runs/reproduce/stages"])
    assert [entry.path.name for entry in removed] == ["last", "4"]  # a stage neither counts nor goes
    monkeypatch.setenv("SEREIN_CACHE_SIZE", "none")
    assert cache.size_limit() == float("inf")
    assert "kept: no limit" in serein("cache").out
