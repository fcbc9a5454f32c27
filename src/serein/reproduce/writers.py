"""A comparison as a table for the terminal, as Markdown and as JSON."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from serein.data.files import write_text
from serein.evaluation.intervals import interval_text
from serein.evaluation.predictions import natural_key
from serein.evaluation.scores import SCORE_TITLES
from serein.evaluation.tables import number, table_of
from serein.reproduce.comparison import Comparison, MeasuredRow

if TYPE_CHECKING:
    from rich.table import Table as RichTable

MISSING = "–"


def paths(comparison: Comparison, out: Path) -> tuple[Path, Path]:
    """Return the paths of a comparison's files: `<paper>-<table>.md` and `.json`."""
    name = comparison.table.name + ("" if comparison.split == "test" else f"-{comparison.split}")
    return out / f"{name}.md", out / f"{name}.json"


# -- JSON ------------------------------------------------------------------------------------------------------------


def as_json(comparison: Comparison, out: Path) -> dict[str, Any]:
    """Return plain lists and numbers, per cent, unrounded; run folders relative to `out`."""
    table, data, rows = comparison.table, comparison.data, []
    for measured in comparison.rows:
        row, against, scores, ours = measured.row, measured.against, measured.scores, None
        if scores is not None:
            bounds = {f"{name}_interval": value and list(value) for name, value in scores.intervals.items()}
            ours = scores.pooled | bounds | {"f1": {score.name: score.f1 for score in scores.by_class}}
        compared = against and {
            "row": against.row.name,
            "difference": against.difference,
            "interval": against.interval and list(against.interval),
            "probability_of_improvement": against.probability_of_improvement,
        }
        document = {
            "name": row.name,
            "label": row.title,
            "configuration": row.configuration,
            "published": row.published.model_dump(exclude_none=True),
            "ours": ours,
            "difference": difference(measured, table.metric),
            "compared": compared,
            "seeds": list(measured.seeds),
            "runs": [place.relative_to(out.absolute()).as_posix() for place in measured.places],
        }
        rows.append(document)
    return {
        "paper": table.paper,
        "table": table.table,
        "caption": table.caption,
        "metric": table.metric,
        "unit": "per cent",
        "published_on": {"corpus": table.corpus, "split": table.published_on},
        "measured_on": {
            "manifest": str(data.manifest),
            "sha256": data.sha256,
            "split": comparison.split,
            "num_utterances": data.num_utterances,
            "num_available": data.num_available,
            "limit": data.limit,
        },
        "overrides": list(comparison.overrides),
        "reference": table.reference.name,
        "rows": rows,
        "further": [asdict(extra) for extra in comparison.extras],
        "picture": comparison.picture and comparison.picture.name,
        "notes": list(comparison.notes),
    }


def difference(measured: MeasuredRow, metric: str) -> float | None:
    """Return ours minus published, in percentage points; `None` if either is missing."""
    published = getattr(measured.row.published, metric)
    return None if measured.scores is None or published is None else measured.scores.pooled[metric] - published


# -- cells, the same for the terminal and Markdown ---------------------------------------------------------------------


def main_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: published, ours with its interval, their difference, and that to the reference.

    There is no column of published scores if no row has one.
    """
    table, rows, metric = comparison.table, comparison.rows, comparison.table.metric
    keys = dict.fromkeys(name for row in table.rows for name in row.configuration)
    columns = [(table.rows_are, [row.row.title for row in rows])]
    columns += [(key, [str(row.row.configuration.get(key, MISSING)) for row in rows]) for key in keys]
    published = [getattr(row.row.published, metric) for row in rows]
    has_published = any(value is not None for value in published)
    if has_published:
        columns.append(("published", [number(value) for value in published]))
    columns.append(("ours", [number(row.scores.pooled[metric] if row.scores else None) for row in rows]))
    intervals = [row.scores.intervals[metric] if row.scores else None for row in rows]
    columns.append(("95 % interval", [interval_text(bounds) or MISSING for bounds in intervals]))
    if has_published:
        columns.append(("ours − published", [_signed(difference(row, metric)) for row in rows]))
    to_other = []
    for row in rows:
        if row.row is table.reference:
            to_other.append("reference")
            continue
        other, text = table.compared_with(row.row), _signed(row.against.difference if row.against else None)
        to_other.append(f"{text} (to '{other.title}')" if row.against and other is not table.reference else text)
    columns.append((f"to '{table.reference.title}'", to_other))
    intervals = [row.against.interval if row.against else None for row in rows]
    texts = [interval_text(bounds, "+.1f").replace("-", "−") or MISSING for bounds in intervals]
    columns.append(("its interval", texts))
    columns.append(("seeds", [str(len(row.seeds)) if row.seeds else MISSING for row in rows]))
    cells = [list(row) for row in zip(*(own for _, own in columns), strict=True)]
    return [heading for heading, _ in columns], cells


def class_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]] | None:
    """Return headings and rows of the F1 of each class, published and ours; `None` when the paper gives none."""
    published = list(dict.fromkeys(name for row in comparison.table.rows for name in row.published.f1))
    if not published:
        return None
    by_name = {name.casefold(): name for name in (*comparison.classes, *published)}  # the paper's spelling wins
    names = list(dict.fromkeys(by_name[name.casefold()] for name in (*published, *comparison.classes)))
    headings = [comparison.table.rows_are, "F1", *names]
    cells = []
    for row in comparison.rows:
        printed = {name.casefold(): value for name, value in row.row.published.f1.items()}
        ours = {score.name.casefold(): score.f1 for score in row.scores.by_class} if row.scores else {}
        cells.append([row.row.title, "published", *(number(printed.get(name.casefold())) for name in names)])
        cells.append(["", "ours", *(number(ours.get(name.casefold())) for name in names)])
    return headings, cells


def _signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.1f}".replace("-", "−")


# -- Markdown and terminal ---------------------------------------------------------------------------------------------


def as_markdown(comparison: Comparison) -> str:
    """Return the tables and the notes below them."""
    parts = [f"# {_title(comparison)}", comparison.table.caption]
    if comparison.table.is_trained:
        parts.append(_markdown(*main_cells(comparison)))
    by_class = class_cells(comparison)
    if by_class is not None:
        parts += ["## F1 of each class, in per cent", _markdown(*by_class)]
    for extra in comparison.extras:
        parts += [f"## {extra.title}", _markdown(extra.headings, extra.rows)]
    if comparison.picture is not None:
        parts.append(f"![{comparison.table.caption}]({comparison.picture.name})")
    parts.append("\n".join(f"- {note}" for note in comparison.notes))
    return "\n\n".join(parts) + "\n"


def _title(comparison: Comparison) -> str:
    table = comparison.table
    title = f"{table.paper}, {table.title}"
    return f"{title}: {SCORE_TITLES[table.metric]} in per cent" if table.is_trained else title


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in headings[1:])]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in (headings, rule, *rows))


def as_tables(comparison: Comparison) -> list[RichTable]:
    """Return the comparison's tables for the terminal, without its notes."""
    by_class = class_cells(comparison)
    tables = [table_of(_title(comparison), *main_cells(comparison))] if comparison.table.is_trained else []
    if by_class is not None:
        tables.append(table_of("F1 of each class, in per cent", *by_class))
    return tables + [table_of(extra.title, extra.headings, extra.rows) for extra in comparison.extras]


PAGE = "report.html"


def write_page(out: Path) -> Path:
    """Write `<out>/report.html`, atomically: every `<paper>-<table>.md` there, with its figure inside.

    Returns:
        The path of the page, which needs no other file.
    """
    tables = [path for path in out.glob("*.md") if path.with_suffix(".json").exists()]
    markdown, sections = MarkdownIt("commonmark", {"html": False}).enable("table"), []  # HTML in texts is escaped
    for path in sorted(tables, key=natural_key):
        tokens = markdown.parse(path.read_text(encoding="utf-8"))
        for image in (child for token in tokens for child in token.children or () if child.type == "image"):
            picture = path.parent / Path(str(image.attrs["src"])).name
            encoded = base64.b64encode(picture.read_bytes()).decode() if picture.exists() else None
            image.attrs["src"] = f"data:image/png;base64,{encoded}" if encoded is not None else ""
        html = Markup(markdown.renderer.render(tokens, markdown.options, {}))  # noqa: S704
        sections.append((path.stem, html))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("serein.reproduce").joinpath("report.html.jinja").read_text("utf-8"))
    write_text(out / PAGE, template.render(sections=sections))
    return out / PAGE
