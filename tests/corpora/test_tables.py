"""Tables and texts that corpora ship."""

from __future__ import annotations

from pathlib import Path

import pytest

from serein.corpora.tables import decoded, rows
from serein.errors import ManifestError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_a_text_is_read_in_its_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("生气\n".encode(encoding))
    assert decoded(path, "gb18030") == "生气\n"


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match=r"a\.txt: cannot be read as text"):
        decoded(tmp_path / "a.txt", "utf-8")
    with pytest.raises(ManifestError, match=r"b\.txt: cannot be read as text"):
        decoded(tmp_path / "b.txt", "utf-8")


def test_rows_come_with_their_lines_and_stripped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('x,y,z\n 1 ,"two\nlines",3\n4,5,6\n', encoding="utf-8")
    assert list(rows(path, ("x", "y"))) == [
        (f"{path}:3", {"x": "1", "y": "two\nlines"}),
        (f"{path}:4", {"x": "4", "y": "5"}),
    ]


def test_a_tab_leaves_quotes_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('x\ty\n"a\tb\n', encoding="utf-8")
    assert [row for _, row in rows(path, ("x", "y"), separator="\t")] == [{"x": '"a', "y": "b"}]


@pytest.mark.parametrize(("text", "what"), [("a,b\n", "has no column x, y"), ("x,y\n1\n", r"a\.csv:2: the row is cut")])
def test_what_a_table_lacks_is_named(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=what):
        list(rows(tmp_path / "a.csv", ("x", "y")))
