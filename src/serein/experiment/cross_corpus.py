"""Cross-corpus evaluation: train on one corpus, or on all but one, and test on a corpus that was not trained on."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from serein import recipe as recipes
from serein.choices import choose
from serein.corpora.prepare import NO_MAP, LabelMap, merge
from serein.data import manifest
from serein.data.files import write_text
from serein.data.manifest import Utterance
from serein.data.splits import make_folds
from serein.errors import LeakError, ManifestError, RecipeError, RunError
from serein.evaluation.intervals import interval_text
from serein.evaluation.plots import INK, MUTED, PAGE_WIDTH_IN, new_figure, save_figure
from serein.evaluation.predictions import (
    EvalPrediction,
    adapted,
    among,
    missing_predictions,
    read_predictions,
    read_run_predictions,
    write_predictions,
)
from serein.evaluation.scores import SCORE_TITLES, Scores, score_predictions
from serein.evaluation.tables import markdown_table
from serein.experiment.predict import evaluate
from serein.experiment.run import run, train
from serein.progress import Report
from serein.recipe import Protocol, Recipe
from serein.tasks.task import keep_labelled, without_dropped

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

OTHERS = "all others"
Choice = Literal["corpus", "adapted", "model"]
_TITLES: dict[Choice, str] = {
    "corpus": "UA, predicted among the classes of the tested corpus",
    "adapted": "UA, predicted among the classes of the tested corpus, adapted to it without labels",
    "model": "UA, predicted among all classes of the model",
}
_PANELS: dict[Choice, str] = {
    "corpus": "among the corpus's classes",
    "adapted": "the same, adapted",
    "model": "among all classes",
}


@dataclass(frozen=True)
class Cell:
    """The scores on one corpus of models that were trained on one corpus or on all others.

    Attributes:
        trained_on: A corpus, or `OTHERS`.
        tested_on: A corpus; on the diagonal, its unseen speakers as the recipe's protocol divides them.
        model: Scores over all classes of the model; `None` if the model has no class of the corpus.
        corpus: Scores restricted to the classes of the tested corpus; `None` if the model has fewer than two of them.
        adapted: The same, if the model is adapted to the tested utterances without their labels, by a bias.
        num_left_out: Utterances whose class the model does not have.
    """

    trained_on: str
    tested_on: str
    model: Scores | None
    corpus: Scores | None
    adapted: Scores | None
    num_left_out: int

    def scores(self, choice: Choice) -> Scores | None:
        """Return the scores over the model's classes, or restricted to the corpus's, without or with adaptation."""
        return {"corpus": self.corpus, "adapted": self.adapted, "model": self.model}[choice]

    def text(self, choice: Choice, num_classes: int) -> str:
        """Return UA and its interval; if the corpus has more classes, the number of tested ones and chance for them."""
        if (scores := self.scores(choice)) is None:
            return "–"
        text = f"{scores.pooled['ua']:.1f} {interval_text(scores.intervals['ua'])}".rstrip()
        tested = sum(each.support > 0 for each in scores.by_class)
        chance = "" if choice == "model" else f", chance {100 / tested:.1f}"
        return text if tested == num_classes else f"{text} ({tested} classes{chance})"

    def to_json(self) -> dict[str, Any]:
        """Return plain values; scores in per cent."""
        content: dict[str, Any] = {
            "trained_on": self.trained_on,
            "tested_on": self.tested_on,
            "num_left_out": self.num_left_out,
        }
        for name, scores in (
            ("model_classes", self.model),
            ("corpus_classes", self.corpus),
            ("adapted", self.adapted),
        ):
            content[name] = scores and {
                "classes": list(scores.classes),
                "chance": 100 / len(scores.classes),
                **{key: scores.pooled[key] for key in SCORE_TITLES},
                "intervals": {key: bounds and list(bounds) for key, bounds in scores.intervals.items()},
                "resampled": scores.resampled,
                "num_utterances": scores.num_utterances,
                "notes": list(scores.notes),
            }
        return content


def cell_of(trained_on: str, tested_on: str, predictions: Sequence[EvalPrediction], num_tested: int) -> Cell:
    """Score predictions on one corpus, over all classes and restricted to the corpus's own.

    Args:
        predictions: With probabilities of all classes of the model; those with another true class are left out.
        num_tested: Number of utterances of the corpus that have a label.
    """
    classes = tuple(predictions[0].probabilities or ()) if predictions else ()
    known = [p for p in predictions if p.truth in classes]
    num_ids = len({p.id for p in known})
    if not known:
        return Cell(trained_on, tested_on, None, None, None, num_tested)
    own = [name for name in classes if any(p.truth == name for p in known)]
    corpus = after = None
    if len(own) > 1:
        restricted = among(known, own)
        corpus, after = (score_predictions(each, own) for each in (restricted, adapted(restricted, own)))
    return Cell(trained_on, tested_on, score_predictions(known, classes), corpus, after, num_tested - num_ids)


@dataclass(frozen=True)
class CrossCorpus:
    """The scores of every pair of corpora, and those with each corpus left out.

    Attributes:
        corpora: Corpus -> its classes.
        cells: One for each pair, and one for each corpus tested with models of `OTHERS`.
        notes: Caveats for readers of the scores.
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
        """Return the rows of a table: one for each training corpus, one for all others, and chance."""
        rows = [
            (name, *(self.cell(name, other).text(choice, len(classes)) for other, classes in self.corpora.items()))
            for name in (*self.corpora, OTHERS)
        ]
        if choice != "model":
            rows.append(("chance", *(f"{100 / len(classes):.1f}" for classes in self.corpora.values())))
        return rows

    @property
    def headings(self) -> tuple[str, ...]:
        """The first row of a table."""
        return ("trained on", *(f"{name}, {len(classes)} classes" for name, classes in self.corpora.items()))

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes below the tables."""
        drawn: dict[str, dict[str, None]] = {name: {} for name in self.corpora}
        caveats: dict[str, None] = {}
        for each in self.cells:
            if scores := each.corpus or each.model:
                drawn[each.tested_on][scores.resampled] = None
                caveats |= dict.fromkeys(f"{each.tested_on}: {note}" for note in scores.notes)
        resampled = ", ".join(f"{' or '.join(units)} of {name}" for name, units in drawn.items() if units)
        left_out = [
            f"{each.tested_on} by {each.trained_on}: {each.num_left_out} utterances are left out because the model "
            "does not have their class."
            for each in self.cells
            if each.num_left_out
        ]
        adapted_how = (
            "Adapted: every model to the utterances that it is tested on, without their labels, assuming that their "
            "classes are equally frequent; on the diagonal, each fold by itself."
        )
        first = f"Per cent; 95 % intervals resample {resampled}." if resampled else "Per cent."
        return (first, adapted_how, *self.notes, *left_out, *caveats)

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
            lines += [f"## {title}", "", markdown_table(self.headings, self.rows(choice)), ""]
        return "\n".join([*lines, *(f"- {remark}" for remark in self.remarks), ""])

    def write(self, folder: str | Path) -> None:
        """Write `cross-corpus.json` and `cross-corpus.md` into a folder."""
        content = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        for suffix, text in (("json", content), ("md", self.markdown())):
            write_text(Path(folder) / f"cross-corpus.{suffix}", text)

    def picture(self) -> Figure:
        """Draw a heat map of UA for each choice of classes: trained on (row), tested on (column)."""
        columns, rows = list(self.corpora), [*self.corpora, OTHERS]
        size = PAGE_WIDTH_IN / len(_PANELS)
        with new_figure((PAGE_WIDTH_IN, 0.9 + size * len(rows) / max(len(columns), 2) * 0.62)) as figure:
            panels = figure.subplots(1, len(_PANELS), sharey=True)
            for axes, (choice, title) in zip(panels, _PANELS.items(), strict=True):
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
                axes.set_title(title, fontsize=9)
                axes.tick_params(length=0)
                axes.grid(visible=False)
                axes.spines[:].set_visible(False)
            panels[0].set_ylabel("trained on")
            figure.colorbar(image, ax=panels, label="UA, per cent", shrink=0.8)
        return figure


_DEV_OF_ANY_CORPUS = ("speakers", "random", "none")


@dataclass(frozen=True)
class _Corpus:
    """A corpus of the matrix.

    Attributes:
        folder: Its name in a form usable as a file name.
        recipe: The recipe, restricted to the classes that the corpus has.
        num_tested: Number of utterances that have a class, without changed copies.
    """

    name: str
    folder: str
    recipe: Recipe
    utterances: list[Utterance]
    classes: tuple[str, ...]
    num_tested: int


def cross_corpus(
    recipe: Recipe | str | Path,
    data: Sequence[str | Path],
    out: str | Path,
    *,
    labels: LabelMap = NO_MAP,
    resume: bool = False,
    num_jobs: int | None = None,
    device: str = "auto",
    progress: Report | None = None,
) -> CrossCorpus:
    """Train on each corpus and test on every other, test within each corpus, and leave each corpus out once.

    Within a corpus, the recipe's protocol divides the data. Each score is given three times: over all classes of the
    model; restricted to the classes of the tested corpus; and with the model also adapted to the tested utterances
    without their labels, by a bias as of `serein.adapt`, with equal priors. Three kinds of models are trained: the
    recipe's folds on each corpus, one model on the whole of each corpus, and the protocol `corpora-out` on all corpora
    together. With two corpora, leaving one out is the same as training on the other.

    Args:
        recipe: A recipe, or its file. Its own protocol must divide a single corpus. A corpus may lack some of the
            recipe's classes.
        data: Manifests, one or more for each corpus.
        out: Folder for the runs, predictions, `cross-corpus.json`, `cross-corpus.md` and `cross-corpus.png`.
        labels: Mapping of labels, as in `serein corpus merge`.
        resume: Continue a stopped run with the same recipe and data.
        num_jobs: Number of folds to train at once; see `serein.run`.
        device: Device for training and prediction; see `serein.run`.
        progress: Called with a label, the number of steps done, their total, and a detail.

    Raises:
        SereinError: Recipe, data and folder do not fit together; raised before any training.

    Example:
        >>> serein.cross_corpus("recipe.yaml", ["emodb.jsonl", "urdu.jsonl"], "runs/cross")  # doctest: +SKIP
    """
    recipe = recipe if isinstance(recipe, Recipe) else recipes.load(recipe)
    out, report = Path(out), progress or (lambda *_: None)
    merged = merge(
        [(Path(path).stem, manifest.read(path)) for path in data],
        labels,
        lambda done, total: report("looking for duplicates", done, total, f"{total} clips"),
    )
    corpus_of = {u.id: u.corpus for u in merged.utterances}
    if twice := [pair for pair in merged.duplicates if corpus_of[pair[0]] != corpus_of[pair[1]]]:
        raise LeakError(
            f"{len(twice)} recordings are in two corpora, for example {' and '.join(twice[0])}",
            where="--data",
            remedy="Remove them from one corpus: a model would be tested on recordings that it was trained on.",
        )
    corpora = _corpora(merged.utterances, recipe)
    together = _together(recipe, corpora)
    _start(out, recipe, merged.utterances, corpora, is_resumed=resume)
    cells, models = [], {}
    how: dict[str, Any] = {"num_jobs": num_jobs, "device": device, "progress": report}
    for corpus in corpora.values():
        _run(corpus.recipe, out / "data" / f"{corpus.folder}.jsonl", out / "within" / corpus.folder, **how)
        predictions = read_run_predictions(out / "within" / corpus.folder)
        cells.append(cell_of(corpus.name, corpus.name, predictions, len({p.id for p in predictions})))
    for corpus in corpora.values():
        folder = out / "trained" / corpus.folder
        models[corpus.name] = folder / "model"
        if not (folder / "model" / "model.json").exists():
            protocol = corpus.recipe.protocol  # with a dev rule that does not depend on the test set
            dev = protocol.dev if protocol.dev in (*_DEV_OF_ANY_CORPUS, "official") else "speakers"
            whole = corpus.recipe.model_copy(
                update={"protocol": protocol.model_copy(update={"dev": dev, "only": None})}
            )
            train(
                whole,
                out / "data" / f"{corpus.folder}.jsonl",
                folder,
                resume=(folder / "recipe.yaml").exists(),
                device=device,
                progress=report,
            )
    for trained in corpora.values():
        for tested in corpora.values():
            if trained is not tested:
                cells.append(_tested(models[trained.name], trained, tested, out, report, device=device))
    if len(corpora) > 2:
        _run(together, out / "data" / "all.jsonl", out / "corpora-out", **how)
        predictions = read_run_predictions(out / "corpora-out")
        for each in corpora.values():
            learned = {name for other in corpora.values() if other is not each for name in other.classes}
            own = [p for p in predictions if p.corpus == each.name and p.truth in learned]
            cells.append(cell_of(OTHERS, each.name, own, each.num_tested))
    else:
        pairs = {cell.tested_on: cell for cell in cells if cell.trained_on != cell.tested_on}
        cells += [replace(one, trained_on=OTHERS) for one in pairs.values()]
    found = CrossCorpus({each.name: each.classes for each in corpora.values()}, tuple(cells), _notes(recipe, corpora))
    found.write(out)
    save_figure(found.picture(), out / "cross-corpus.png")
    return found


def _corpora(utterances: Sequence[Utterance], recipe: Recipe) -> dict[str, _Corpus]:
    """Return the corpora with their recipes, after checking that the recipe's protocol divides each."""
    main = recipe.tasks.main
    if recipe.protocol.name == "corpora-out":
        raise RecipeError(
            "'corpora-out' does not divide a single corpus",
            where="protocol.name",
            remedy="Choose a protocol for a single corpus, such as speakers-out; each corpus is left out in addition.",
        )
    by_name: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_name[utterance.corpus or ""].append(utterance)
    if len(by_name) < 2:
        raise ManifestError(
            f"all utterances belong to one corpus: {', '.join(by_name)}",
            where="--data",
            remedy="Name two or more corpora.",
        )
    folders = {"": "all"}  # data/all.jsonl has all corpora
    for name in sorted(by_name):  # a resumed run may name them in another order
        folder = re.sub(r"[^\w.-]+", "-", name)
        while folder.casefold() in map(str.casefold, folders.values()):
            folder += "-2"
        folders[name] = folder
    corpora = {}
    for name, own in by_name.items():
        merging = recipe.labels.merge
        present = {merging.get(u.emotion, u.emotion) for u in own if u.emotion}
        named = recipe.labels.classes
        classes = None if named is None or main != "emotion" else tuple(each for each in named if each in present)
        theirs = recipe.model_copy(update={"labels": recipe.labels.model_copy(update={"classes": classes})})
        kept = without_dropped(own, recipe.labels.drop)
        task = choose("task", main).fit(main, theirs.tasks.chosen[main], theirs, kept)
        if not task.spec.classes:
            remedy = f"Leave out '{main}', or add a task with classes that precedes it in docs/recipes.md."
            raise RecipeError(f"'{main}' has no classes", where="tasks", remedy=remedy)
        labelled, _ = keep_labelled(kept, task, recipe.labels.unknown_labels)
        make_folds(labelled, recipe.protocol, {})  # reports mismatches before hours of training
        num_tested = sum(u.copy_of is None for u in labelled)
        corpora[name] = _Corpus(name, folders[name], theirs, own, task.spec.classes, num_tested)
    return corpora


def _together(recipe: Recipe, corpora: Mapping[str, _Corpus]) -> Recipe:
    """Return the recipe that leaves out each corpus in turn."""
    dev = recipe.protocol.dev if recipe.protocol.dev in _DEV_OF_ANY_CORPUS else "speakers"
    changes = {"name": "corpora-out", "folds": None, "only": None, "speakers": "apart", "dev": dev}
    protocol = Protocol.model_validate(recipe.protocol.model_dump() | changes)
    classes = recipe.labels.classes
    if classes is not None and recipe.tasks.main == "emotion":
        present = {name for each in corpora.values() for name in each.classes}
        classes = tuple(name for name in classes if name in present)
    labels = recipe.labels.model_copy(update={"classes": classes})
    return recipe.model_copy(update={"protocol": protocol, "labels": labels})


def _start(
    out: Path, recipe: Recipe, utterances: Sequence[Utterance], corpora: Mapping[str, _Corpus], *, is_resumed: bool
) -> None:
    """Write the recipe and manifests, or check that the stopped run used the same ones."""
    path = out / "recipe.yaml"
    if is_resumed:
        if not path.exists():
            raise RunError(
                "there is nothing to resume", where=out, remedy="Leave out --resume, or name the run's folder."
            )
        if recipes.load(path) != recipe:
            raise RunError("was started with a different recipe", where=out, remedy="Use the same one, or a new --out.")
        if manifest.digest(manifest.read(out / "data" / "all.jsonl")) != manifest.digest(utterances):
            raise RunError("was started with different data", where=out, remedy="Use the same data, or a new --out.")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        remedy = "Resume it with --resume, or name another --out." if path.exists() else "Name another --out."
        raise RunError("already exists", where=out, remedy=remedy)
    (out / "data").mkdir(parents=True, exist_ok=True)
    manifest.write(utterances, out / "data" / "all.jsonl")
    for corpus in corpora.values():
        manifest.write(corpus.utterances, out / "data" / f"{corpus.folder}.jsonl")
    write_text(path, recipes.dump(recipe))  # last: a folder with a recipe can be resumed


def _run(recipe: Recipe, data: Path, out: Path, **how: Any) -> None:
    """Run a recipe, resume its run, or do nothing if it is finished; for `how`, see `serein.run`."""
    is_begun = (out / "recipe.yaml").exists()
    has_some = next(out.glob("fold-*/seed-*/predictions.jsonl"), None) is not None
    if has_some and not missing_predictions(out, read_run_predictions(out)):
        return
    run(recipe, data, out, resume=is_begun, **how)


def _tested(model: Path, trained: _Corpus, tested: _Corpus, out: Path, report: Report, *, device: str) -> Cell:
    """Score a model on another corpus, and keep its predictions."""
    path = out / "predictions" / f"{trained.folder}-on-{tested.folder}.jsonl"
    if not set(trained.classes) & set(tested.classes):
        return Cell(trained.name, tested.name, None, None, None, tested.num_tested)
    if not path.exists():
        predictions, _ = evaluate(
            model,
            out / "data" / f"{tested.folder}.jsonl",
            device=device,
            on_progress=lambda done, total: report(f"{trained.name} on {tested.name}", done, total, f"{total} clips"),
        )
        path.parent.mkdir(exist_ok=True)
        write_predictions(predictions, path)
    return cell_of(trained.name, tested.name, read_predictions(path), tested.num_tested)


def _notes(recipe: Recipe, corpora: Mapping[str, _Corpus]) -> tuple[str, ...]:
    protocol, seeds = recipe.protocol, recipe.seeds
    notes = [f"The diagonal uses the recipe's protocol, '{protocol.name}', and other models than the rest of the row."]
    if protocol.shares_speakers:
        notes.append("SPEAKER-DEPENDENT: on the diagonal, test speakers occur in training.")
    if len(corpora) == 2:
        notes.append("With two corpora, leaving one out is the same as training on the other.")
    if len(seeds) > 1:
        notes.append(
            f"Models of one whole corpus use seed {seeds[0]}; the other scores are means over {len(seeds)} seeds."
        )
    return tuple(notes)
