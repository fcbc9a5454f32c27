"""Compare each row's finished runs with the published scores, in per cent; write tables, Markdown, JSON and HTML."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from serein.corpora import licence_of
from serein.data.files import write_text
from serein.errors import RunError
from serein.evaluation.intervals import Bounds, interval_text, paired_difference
from serein.evaluation.predictions import (
    EvalPrediction,
    fold_run_paths,
    natural_key,
    read_json,
    read_predictions,
    read_recipe,
    run_classes,
)
from serein.evaluation.scores import SCORE_TITLES, Scores, score_predictions
from serein.evaluation.systems import Split
from serein.evaluation.tables import markdown_table, notices, number, table_of
from serein.reproduce.extras import MISSING, ExtraTable, extra_tables
from serein.reproduce.table import Published, Row, Table
from serein.reproduce.trials import (
    PREDICTIONS,
    Data,
    Trial,
    chosen_note,
    is_evaluated_with_knn,
    is_finished,
    row_recipe,
)

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_FILES: dict[Split, str] = {"test": "predictions.jsonl", "dev": "dev_predictions.jsonl"}


@dataclass(frozen=True)
class RowDifference:
    """The difference between two rows in percentage points, paired on the same utterances.

    Attributes:
        row: The other row.
    """

    row: Row
    difference: float
    interval: Bounds | None
    probability_of_improvement: float | None


@dataclass(frozen=True)
class MeasuredRow:
    """A row and the scores of its runs.

    Attributes:
        scores: Over all its finished seeds; `None` if none is finished.
        seeds: The finished seeds.
        places: Their run folders; for an ensemble, its prediction files.
        against: Difference from `Table.compared_with`; `None` for the reference, and if the two cannot be compared.
    """

    row: Row
    scores: Scores | None
    seeds: tuple[int, ...]
    places: tuple[Path, ...]
    against: RowDifference | None


@dataclass(frozen=True)
class Comparison:
    """A reproduced table.

    Attributes:
        split: Split whose predictions are scored.
        overrides: `--set` changes, the same for every row.
        notes: Caveats for readers of the numbers.
        extras: Further tables.
        picture: Path of the figure, or `None`.
    """

    table: Table
    data: Data
    split: Split
    overrides: tuple[str, ...]
    rows: tuple[MeasuredRow, ...]
    notes: tuple[str, ...]
    extras: tuple[ExtraTable, ...] = ()
    picture: Path | None = None

    @property
    def is_measured(self) -> bool:
        """Whether a row has scores, or the table needs no model."""
        return not self.table.is_trained or any(row.scores for row in self.rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the first measured row."""
        return next((row.scores.classes for row in self.rows if row.scores), ())


@dataclass(frozen=True)
class RowPredictions:
    """Predictions of a row's models.

    Attributes:
        places: Run folders, or prediction files of an ensemble.
    """

    predictions: list[EvalPrediction]
    classes: tuple[str, ...]
    seeds: tuple[int, ...]
    places: tuple[Path, ...]


def compare(
    table: Table,
    trials: Mapping[str, Sequence[Trial]],
    ensemble: Mapping[int, Path],
    data: Data,
    *,
    split: Split,
    overrides: Sequence[str] = (),
) -> Comparison:
    """Score the finished runs of every row.

    Args:
        trials: Row name -> its trials, one per seed.
        ensemble: Seed -> predictions of the ensemble of all rows.

    Runs that are no longer those of their row count as not finished, with a note.

    Raises:
        RunError: A run folder is broken, or dev predictions are requested and it has none.
    """
    trained = [row for row in table.rows if row.is_trained]
    finished: dict[str, list[Trial]] = {row.name: [] for row in trained}
    notes: list[str] = []
    for row in trained:
        for trial in trials.get(row.name, ()):
            try:
                if is_finished(trial) and (row.knn is None or is_evaluated_with_knn(trial, row.knn)):
                    finished[row.name].append(trial)
            except RunError as error:
                notes.append(f"'{row.title}' leaves out seed {trial.seed}, which {error.what}.")
    by_row = {row.name: row_predictions(row, finished[row.name], split) for row in trained if finished[row.name]}
    for row in table.rows:
        if row.ensemble and ensemble and by_row:
            classes = next(iter(by_row.values())).classes
            predictions = [p for path in ensemble.values() for p in read_predictions(path, classes)]
            places = tuple(path.absolute() for path in ensemble.values())
            by_row[row.name] = RowPredictions(predictions, classes, tuple(ensemble), places)
    rows: list[MeasuredRow] = []
    for row in table.rows:
        other = table.compared_with(row)
        own, reference = by_row.get(row.name), by_row.get(other.name)
        if own is None:
            rows.append(MeasuredRow(row, None, (), (), None))
            continue
        against = None
        if reference is not None and reference is not own:
            try:
                found = paired_difference(
                    own.predictions, reference.predictions, own.classes, rng=np.random.default_rng(0)
                )[table.metric]
            except RunError as error:
                notes.append(f"'{row.title}' and '{other.title}' cannot be compared in pairs: {error.what}.")
            else:
                bounds = found.interval and (100 * found.interval[0], 100 * found.interval[1])
                against = RowDifference(other, 100 * found.difference, bounds, found.probability_of_improvement)
        scores = score_predictions(own.predictions, own.classes)
        rows.append(MeasuredRow(row, scores, own.seeds, own.places, against))
    notes += [chosen_note(row, finished[row.name]) for row in trained if row.knn and row.name in by_row]
    notes = [*provenance(table, data, split, overrides, rows), *notes]
    qualifications = [
        notice
        for row in rows
        if row.scores is not None and not row.row.ensemble
        for notice in notices(
            row.scores,
            read_recipe(row.places[0]),
            read_json(row.places[0] / "data.json"),
            read_json(row.places[0] / "folds.json"),
        )
    ]
    notes += [notice.text for level in ("warning", "note") for notice in qualifications if notice.level == level]
    targets_only = [row_recipe(table, row, overrides) for row in table.rows if row.targets_only]
    measured = [(row.row, row.places) for row in rows]
    extras = extra_tables(table.measures, measured, data.manifest, targets_only, table.neighbours)
    if table.neighbours:
        most = max(len(each.words) for each in table.neighbours)
        headings = ["of", "label", *(str(number + 1) for number in range(most))]
        published = [[each.of, each.label, *each.words] for each in table.neighbours]
        extras.insert(0, ExtraTable("Nearest words, as published", headings, published))
    return Comparison(table, data, split, tuple(overrides), tuple(rows), tuple(dict.fromkeys(notes)), tuple(extras))


def row_predictions(row: Row, trials: Sequence[Trial], split: Split) -> RowPredictions:
    """Read the predictions of a row's finished trials, all folds and seeds.

    Raises:
        RunError: A trial has no predictions of the split.
    """
    classes = run_classes(trials[0].folder) or ()
    name = _FILES[split] if row.knn is None else PREDICTIONS[row.knn]
    predictions = []
    for trial in trials:
        paths = [each for each in fold_run_paths(trial.folder, name) if each.seed == trial.seed]
        if not paths:
            raise RunError(
                f"contains no {split} predictions",
                where=trial.folder,
                remedy="Choose --split test, or a recipe whose protocol.dev is not 'none'.",
            )
        for fold, seed, path in paths:
            predictions += read_predictions(path, classes, fold=fold, seed=seed)
    seeds, places = tuple(trial.seed for trial in trials), tuple(trial.folder for trial in trials)
    return RowPredictions(predictions, classes, seeds, places)


def provenance(
    table: Table, data: Data, split: Split, overrides: Sequence[str], rows: Sequence[MeasuredRow]
) -> list[str]:
    """Return notes on the origin of the published scores and of ours, and on the differences between them."""
    is_published = bool(table.neighbours) or any(row.published != Published() for row in table.rows)
    notes = ["There are no published scores to compare with."]
    if is_published:
        best = " The paper reports its best scores there." if table.published_on == "dev" else ""
        notes = [f"Published: {table.paper}, {table.title}, {table.corpus}, {table.published_on} set.{best}"]
    folder = next((row.places[0] for row in rows if row.places and not row.row.ensemble), None)
    if not table.is_trained:
        notes.append(f"Ours: the labels of {data.num_utterances} utterances; no model is needed.")
    elif folder is None:
        notes.append("Ours: no run is finished.")
    else:
        corpora = read_json(folder / "data.json").get("corpora", ())
        numbers = sorted({row.scores.num_utterances for row in rows if row.scores})
        drawn = [row.scores.resampled for row in rows if row.scores]
        names = ", ".join(f"{name} ({licence_of(name) or 'licence not stated'})" for name in corpora)
        ours = (
            f"Ours: {split} predictions for {' or '.join(map(str, numbers))} utterances of {names}, pooled over folds "
            f"and averaged over seeds; 95 % intervals resample {' or '.join(dict.fromkeys(drawn))}."
        )
        if is_published and {plain_name(name) for name in corpora} != {plain_name(table.corpus)}:
            ours += " The data differs from the paper's, so compare the order of the rows, not the numbers."
        notes.append(ours)
    if data.limit is not None:
        notes.append(
            f"Ours used {data.num_utterances} of the manifest's {data.num_available} utterances (--limit {data.limit}, "
            "the most of each speaker, session, split and emotion)."
        )
    if overrides:
        notes.append(f"Changes to every row: {', '.join(overrides)}.")
    if split == "dev":
        notes.append("Our scores are on dev, where each row's checkpoint was chosen, so they are optimistic.")
    if len({row.seeds for row in rows if row.seeds}) > 1:
        notes.append("Rows have different numbers of finished seeds.")
    combined = next((row.scores for row in rows if row.row.ensemble and row.scores), None)
    if combined is not None:
        divided = "speakers" if len(combined.speakers) > 1 else "utterances"
        is_one_fold = len({fold.fold for fold in combined.folds}) == 1
        fitted_to = f"the other of five parts, which divide the {divided}" if is_one_fold else "the other folds"
        if split == "test":
            fitted_to = f"a fold's dev predictions, or, if a row has none or other ones, to {fitted_to}"
        notes.append(f"Ensemble: for each seed, one weight per row and class, fitted by COBYLA to {fitted_to}.")
    return notes


def plain_name(name: str) -> str:
    """Return the letters and digits of a corpus's name, in lower case."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def paths(comparison: Comparison, out: Path) -> tuple[Path, Path]:
    """Return the paths of a comparison's files: `<paper>-<table>.md` and `.json`."""
    name = comparison.table.name + ("" if comparison.split == "test" else f"-{comparison.split}")
    return out / f"{name}.md", out / f"{name}.json"


# -- JSON ------------------------------------------------------------------------------------------------------------


def as_json(comparison: Comparison, out: Path) -> dict[str, Any]:
    """Return plain lists and numbers, in per cent and unrounded; run folders are relative to `out`."""
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

    The columns of published scores are left out if no row has one.
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
    """Return headings and rows of the F1 of each class, published and ours; `None` if the paper reports none."""
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
        parts.append(markdown_table(*main_cells(comparison)))
    by_class = class_cells(comparison)
    if by_class is not None:
        parts += ["## F1 of each class, in per cent", markdown_table(*by_class)]
    for extra in comparison.extras:
        parts += [f"## {extra.title}", markdown_table(extra.headings, extra.rows)]
    if comparison.picture is not None:
        parts.append(f"![{comparison.table.caption}]({comparison.picture.name})")
    parts.append("\n".join(f"- {note}" for note in comparison.notes))
    return "\n\n".join(parts) + "\n"


def _title(comparison: Comparison) -> str:
    table = comparison.table
    title = f"{table.paper}, {table.title}"
    return f"{title}: {SCORE_TITLES[table.metric]} in per cent" if table.is_trained else title


def as_tables(comparison: Comparison) -> list[RichTable]:
    """Return the comparison's tables for the terminal, without its notes."""
    by_class = class_cells(comparison)
    tables = [table_of(_title(comparison), *main_cells(comparison))] if comparison.table.is_trained else []
    if by_class is not None:
        tables.append(table_of("F1 of each class, in per cent", *by_class))
    return tables + [table_of(extra.title, extra.headings, extra.rows) for extra in comparison.extras]


PAGE = "report.html"


def write_page(out: Path) -> Path:
    """Write `<out>/report.html` atomically, with every `<paper>-<table>.md` of the folder and its figure embedded.

    Returns:
        The path of the page, which needs no other files.
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
