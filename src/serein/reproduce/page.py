"""All tables and figures of a folder on one page."""

from __future__ import annotations

import base64
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from serein.data.files import write_text
from serein.evaluation.predictions import natural_key

PAGE = "report.html"


def write_page(out: Path) -> Path:
    """Write `<out>/report.html`, atomically: every `<paper>-<table>.md` there, with its figure inside.

    Returns:
        The path of the page, which needs no other file.
    """
    tables = [path for path in out.glob("*.md") if path.with_suffix(".json").exists()]
    sections = [(path.stem, _section(path)) for path in sorted(tables, key=natural_key)]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("serein.reproduce").joinpath("report.html.jinja").read_text("utf-8"))
    write_text(out / PAGE, template.render(sections=sections))
    return out / PAGE


def _section(path: Path) -> Markup:
    """Return a table's Markdown as HTML; HTML in its texts is escaped."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(path.read_text(encoding="utf-8"))
    for image in (child for token in tokens for child in token.children or () if child.type == "image"):
        image.attrs["src"] = _inside(path.parent / Path(str(image.attrs["src"])).name)
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))  # noqa: S704


def _inside(picture: Path) -> str:
    """Return a figure next to the table as a data URL; an empty string if there is none."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}" if picture.exists() else ""
