"""Scores of models on corpora that they were not trained on: every pair of corpora, and each against all others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from serein.data.files import write_text
from serein.errors import ManifestError
from serein.evaluation.intervals import interval_text
from serein.evaluation.plots import INK, MUTED, PAGE_WIDTH_IN, new_figure
from serein.evaluation.predictions import Prediction, among
from serein.evaluation.scores import SCORE_TITLES, Scores, score_predictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

OTHERS = "all others"
Choice = Literal["corpus", "model"]
_TITLES: dict[Choice, str] = {
    "corpus": "UA, predicted among the classes of the tested corpus",
    "model": "UA, predicted among all classes of the model",
}


@dataclass(frozen=True)
class Cell:
    """Models that were trained on one corpus, or on all others, and their scores on a corpus.

    Attributes:
        trained_on: A corpus, or `OTHERS`.
        tested_on: A corpus; on the diagonal, its unseen speakers by the recipe's protocol.
        model: Scores where any class of the model may be predicted; `None` where the model has no class of the corpus.
        corpus: Scores where only classes of the tested corpus may be; `None` where the model has fewer than two.
        num_left_out: Utterances whose class the model does not have.
    """

    trained_on: str
    tested_on: str
    model: Scores | None
    corpus: Scores | None
    num_left_out: int

    def scores(self, choice: Choice) -> Scores | None:
        """Return the scores where the classes of the model, or of the corpus, may be predicted."""
        return self.corpus if choice == "corpus" else self.model

    def text(self, choice: Choice, num_classes: int) -> str:
        """Return UA and interval; the number of tested classes where the corpus has more of them."""
        if (scores := self.scores(choice)) is None:
            return "–"
        text = f"{scores.pooled['ua']:.1f} {interval_text(scores.intervals['ua'])}".rstrip()
        tested = sum(each.support > 0 for each in scores.by_class)
        return text if tested == num_classes else f"{text} ({tested} classes)"

    def to_json(self) -> dict[str, Any]:
        """Return plain values; scores in per cent."""
        content: dict[str, Any] = {
            "trained_on": self.trained_on,
            "tested_on": self.tested_on,
            "num_left_out": self.num_left_out,
        }
        for name, scores in (("model_classes", self.model), ("corpus_classes", self.corpus)):
            content[name] = scores and {
                "classes": list(scores.classes),
                **{key: scores.pooled[key] for key in SCORE_TITLES},
                "intervals": {key: bounds and list(bounds) for key, bounds in scores.intervals.items()},
                "resampled": scores.resampled,
                "num_utterances": scores.num_utterances,
            }
        return content


def classes_of_corpus(
    predictions: Sequence[Prediction], classes: Sequence[str], *, where: str | Path
) -> tuple[str, ...]:
    """Return those of the model's classes that are the truth of some prediction.

    Raises:
        ManifestError: There is one: a choice among it says nothing.
    """
    present = {p.truth for p in predictions}
    names = tuple(name for name in classes if name in present)
    if len(names) < 2:
        raise ManifestError(
            f"its utterances have one class of the model: {', '.join(names)}",
            where=where,
            remedy="Evaluate among all classes of the model (--classes model).",
        )
    return names


def cell_of(trained_on: str, tested_on: str, predictions: Sequence[Prediction], num_tested: int) -> Cell:
    """Return the scores of predictions of one corpus, among all classes and among the corpus's own.

    Args:
        predictions: With probabilities of all classes of the model; those whose truth is another are left out.
        num_tested: Utterances of the corpus that have a label.
    """
    classes = tuple(predictions[0].probabilities or ()) if predictions else ()
    known = [p for p in predictions if p.truth in classes]
    num_ids = len({p.id for p in known})
    if not known:
        return Cell(trained_on, tested_on, None, None, num_tested)
    own = [name for name in classes if any(p.truth == name for p in known)]
    told = score_predictions(among(known, own), own) if len(own) > 1 else None
    return Cell(trained_on, tested_on, score_predictions(known, classes), told, num_tested - num_ids)


@dataclass(frozen=True)
class CrossCorpus:
    """The scores of every pair of corpora, and of leaving one corpus out.

    Attributes:
        corpora: Corpus -> its classes.
        cells: One for each pair, and one for each corpus by models of `OTHERS`.
        notes: What a reader of the scores must know.
    """

    corpora: dict[str, tuple[str, ...]]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]

    def cell(self, trained_on: str, tested_on: str) -> Cell:
        """Return the scores of a pair."""
        return next(each for each in self.cells if (each.trained_on, each.tested_on) == (trained_on, tested_on))

    def to_json(self) -> dict[str, Any]:
        """Return plain values; scores in per cent."""
        corpora = {
            name: {"classes": list(classes), "chance": 100 / len(classes)} for name, classes in self.corpora.items()
        }
        return {"corpora": corpora, "cells": [each.to_json() for each in self.cells], "notes": list(self.notes)}

    def rows(self, choice: Choice) -> list[tuple[str, ...]]:
        """Return what a table shows: a row for each corpus that was trained on, all others, and chance."""
        rows = [
            (name, *(self.cell(name, other).text(choice, len(classes)) for other, classes in self.corpora.items()))
            for name in (*self.corpora, OTHERS)
        ]
        if choice == "corpus":
            rows.append(("chance", *(f"{100 / len(classes):.1f}" for classes in self.corpora.values())))
        return rows

    @property
    def headings(self) -> tuple[str, ...]:
        """The first row of a table."""
        return ("trained on", *(f"{name}, {len(classes)} classes" for name, classes in self.corpora.items()))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What stands below the tables."""
        resampled = next((scores.resampled for each in self.cells if (scores := each.model)), "speakers")
        unit = "utterances" if "utterances" in resampled else "speakers"
        left_out = [
            f"{each.tested_on} by {each.trained_on}: {each.num_left_out} utterances of classes that the model does not "
            "have are left out."
            for each in self.cells
            if each.num_left_out
        ]
        return (f"Per cent; 95 % intervals over {unit} of the tested corpus.", *self.notes, *left_out)

    def tables(self) -> list[Table]:
        """Return tables to print."""
        from rich.table import Table
        from rich.text import Text

        tables = []
        for choice, title in _TITLES.items():
            caption = Text("\n".join(self.remarks) if choice == "model" else "")
            table = Table(title=title, caption=caption, caption_justify="left")
            for number, heading in enumerate(self.headings):
                table.add_column(heading, justify="right" if number else "left", no_wrap=True)
            for row in self.rows(choice):
                if row[0] == OTHERS:
                    table.add_section()
                table.add_row(*map(Text, row))
            tables.append(table)
        return tables

    def markdown(self) -> str:
        """Return the tables as Markdown."""
        lines = []
        for choice, title in _TITLES.items():
            rows = [self.headings, ("---",) * len(self.headings), *self.rows(choice)]
            lines += [f"## {title}", "", *("| " + " | ".join(row) + " |" for row in rows), ""]
        return "\n".join([*lines, *(f"- {remark}" for remark in self.remarks), ""])

    def write(self, folder: str | Path) -> None:
        """Write `cross-corpus.json` and `cross-corpus.md` into a folder."""
        content = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        for suffix, text in (("json", content), ("md", self.markdown())):
            write_text(Path(folder) / f"cross-corpus.{suffix}", text)

    def picture(self) -> Figure:
        """Draw a heat map of UA for each choice of classes: trained on (row), tested on (column)."""
        columns, rows = list(self.corpora), [*self.corpora, OTHERS]
        size = PAGE_WIDTH_IN / 2
        with new_figure((PAGE_WIDTH_IN, 0.9 + size * len(rows) / max(len(columns), 2) * 0.62)) as figure:
            panels = figure.subplots(1, len(_TITLES), sharey=True)
            for axes, (choice, title) in zip(panels, _TITLES.items(), strict=True):
                scores_of = [[self.cell(row, column).scores(choice) for column in columns] for row in rows]
                values = [[np.nan if scores is None else scores.pooled["ua"] for scores in row] for row in scores_of]
                image = axes.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto")
                for y, row in enumerate(scores_of):
                    for x, scores in enumerate(row):
                        if scores is None:
                            axes.text(x, y, "–", ha="center", va="center", color=MUTED)
                            continue
                        ink = "white" if scores.pooled["ua"] > 60 else INK
                        axes.text(x, y - 0.1, f"{scores.pooled['ua']:.0f}", ha="center", va="center", color=ink)
                        if (bounds := scores.intervals["ua"]) is not None:
                            text = f"{bounds[0]:.0f} to {bounds[1]:.0f}"
                            axes.text(x, y + 0.22, text, ha="center", va="center", color=ink, fontsize=6.5)
                axes.axhline(len(columns) - 0.5, color="white", linewidth=3)
                axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right", rotation_mode="anchor")
                axes.set_yticks(range(len(rows)), rows)
                axes.set(xlabel="tested on")
                axes.set_title(title.removeprefix("UA, predicted "), fontsize=9)
                axes.tick_params(length=0)
                axes.grid(visible=False)
                axes.spines[:].set_visible(False)
            panels[0].set_ylabel("trained on")
            figure.colorbar(image, ax=panels, label="UA, per cent", shrink=0.8)
        return figure
