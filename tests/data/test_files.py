"""Files and folders that replace others as a whole, and locks."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from serein.data.files import is_leftover, link_or_copy, lock, replacing_folder, try_lock
from serein.errors import RunError


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    for name in ("a.txt", "b.txt"):
        with replacing_folder(folder) as partial:
            assert is_leftover(partial)
            (partial / name).write_text("whole")
        assert [path.name for path in folder.iterdir()] == [name]
        assert [path.name for path in folder.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_the_old_folder_stays_if_the_exchange_fails(
    failure: type[BaseException], exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = tmp_path / "folder", os.replace
    if exists:
        folder.mkdir()
        (folder / "a.txt").write_text("old")

    def replace(source: Any, target: Any) -> None:
        if (Path(source) / "b.txt").exists():
            raise failure
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(failure), replacing_folder(folder) as partial:
        (partial / "b.txt").write_text("new")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.txt")] == ["folder/a.txt"] * exists
    assert [path.name for path in tmp_path.iterdir()] == ["folder"] * exists


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "folder").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "folder")
    with replacing_folder(tmp_path / "link") as partial:
        (partial / "a.txt").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "real" / "folder").iterdir()] == ["a.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_disk_without_hard_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("weights")
    target.write_text("old")
    link_or_copy(source, target)
    assert target.samefile(source)

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(source, tmp_path / "copy")
    assert not (tmp_path / "copy").samefile(source)
    assert sorted((path.name, path.read_text()) for path in tmp_path.iterdir()) == [
        ("copy", "weights"),
        ("source", "weights"),
        ("target", "weights"),
    ]


def test_a_lock_is_held_until_its_file_is_closed(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with open(tmp_path / "a", "w") as first, open(tmp_path / "a", "w") as second:
        assert try_lock(first, is_shared=True)
        assert try_lock(second, is_shared=True)
        assert not try_lock(second)
        with pytest.raises(RunError, match="a: it is used. Wait for it or stop it"):
            lock(second, tmp_path / "a", "it is used")
        first.close()
        lock(second, tmp_path / "a", "it is used")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_locks_stops_nobody(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", flock)
    with open(tmp_path / "a", "w") as file:
        assert try_lock(file, waits=True)
        lock(file, tmp_path / "a", "it is used")
