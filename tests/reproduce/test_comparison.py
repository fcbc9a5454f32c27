"""The page of all tables of a folder: in natural order, pictures inside, nobody's HTML."""

from __future__ import annotations

import base64
from pathlib import Path

from serein.reproduce.comparison import write_page

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


def table(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    (folder / f"{name}.json").write_text("{}")


def test_tables_and_pictures_stand_on_one_page(tmp_path: Path) -> None:
    (tmp_path / "doe-figure2.png").write_bytes(PNG)
    table(tmp_path, "doe-table10", "# Ten\n\n| row | ours |\n| --- | ---: |\n| <b>a</b> | 1.5 |\n")
    table(tmp_path, "doe-figure2", "# Two\n\n![Vectors](doe-figure2.png)\n\n- a note\n")
    table(tmp_path, "doe-table9", "# Nine\n\n![Lost](lost.png)\n")
    (tmp_path / "mine.md").write_text("# Not of a table\n")
    page = write_page(tmp_path).read_text(encoding="utf-8")
    order = ['<section id="doe-figure2">', '<section id="doe-table9">', '<section id="doe-table10">']
    assert sorted(order, key=page.index) == order
    assert f'src="data:image/png;base64,{base64.b64encode(PNG).decode()}"' in page
    assert "&lt;b&gt;a&lt;/b&gt;" in page
    assert "<b>" not in page
    assert '<td style="text-align:right">1.5</td>' in page
    assert "lost.png" not in page
    assert "Not of a table" not in page


def test_a_picture_elsewhere_is_left_out(tmp_path: Path) -> None:
    """A caption may hold Markdown: what it names is not read from the disk unless it lies beside the table."""
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "out").mkdir()
    table(tmp_path / "out", "doe-table1", "# One\n\n![x](../secret.png)\n")
    assert "base64" not in write_page(tmp_path / "out").read_text(encoding="utf-8")
