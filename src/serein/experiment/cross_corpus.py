"""Every corpus against every other: trained on one, or on all but one, and tested where nothing was learned."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serein import recipe as recipes
from serein.choices import choose
from serein.corpora.prepare import NO_MAP, LabelMap, merge
from serein.data import manifest
from serein.data.files import write_text
from serein.data.splits import make_folds
from serein.data.utterance import Utterance
from serein.errors import LeakError, ManifestError, RecipeError, RunError
from serein.evaluation.cross_corpus import OTHERS, Cell, CrossCorpus, cell_of
from serein.evaluation.plots import save_figure
from serein.evaluation.predictions import (
    missing_predictions,
    read_predictions,
    read_run_predictions,
    write_predictions,
)
from serein.experiment.predict import evaluate
from serein.experiment.run import run, train
from serein.progress import Report
from serein.recipe import Protocol, Recipe
from serein.tasks.task import keep_labelled

_DEV_OF_ANY_CORPUS = ("speakers", "random", "none")


@dataclass(frozen=True)
class _Corpus:
    """A corpus of the matrix.

    Attributes:
        folder: Its name as that of a file.
        recipe: The recipe, with those of its classes that the corpus has.
        num_tested: Utterances that have a class, changed copies left out.
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
    """Train on each corpus and test on every other; on itself by the recipe's protocol; and leave each corpus out.

    Each score is given twice: where all classes of the model may be predicted, and where only those of the tested
    corpus may be. Trained are: the recipe's folds on each corpus, one model on all of each corpus, and the protocol
    `corpora-out` on all of them together. Of two corpora, leaving one out is training on the other.

    Args:
        recipe: A recipe, or its file. Its own protocol must divide a single corpus. A corpus may lack some of its
            classes.
        data: Manifests, one or more for each corpus.
        out: Folder of the runs, predictions, `cross-corpus.json`, `cross-corpus.md` and `cross-corpus.png`.
        labels: What labels become, as in `serein corpus merge`.
        resume: Go on where it was stopped, with the same recipe and data.
        num_jobs: Folds at once, see `serein.run`.
        device: Where models train and predict, see `serein.run`.
        progress: Called with a label, what is done, all there is, and a detail.

    Raises:
        SereinError: Before any training, when recipe, data and folder do not fit.

    Example:
        >>> serein.cross_corpus("recipe.yaml", ["emodb.jsonl", "urdu.jsonl"], "runs/cross")  # doctest: +SKIP
    """
    recipe = recipe if isinstance(recipe, Recipe) else recipes.load(recipe)
    out, report = Path(out), progress or (lambda *said: None)
    merged = merge(
        [(Path(path).stem, manifest.read(path)) for path in data],
        labels,
        lambda done, total: report("looking for duplicates", done, total, f"{total} clips"),
    )
    corpus_of = {u.id: u.corpus for u in merged.utterances}
    if twice := [pair for pair in merged.duplicates if corpus_of[pair[0]] != corpus_of[pair[1]]]:
        raise LeakError(
            f"{len(twice)} recordings are in two corpora, for instance {' and '.join(twice[0])}",
            where="--data",
            remedy="Remove them from one: a model would be tested on what it was trained on.",
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
            protocol = corpus.recipe.protocol  # with a rule for dev that does not hang on what is tested
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
        cells += [Cell(OTHERS, name, one.model, one.corpus, one.num_left_out) for name, one in pairs.items()]
    found = CrossCorpus({each.name: each.classes for each in corpora.values()}, tuple(cells), _notes(recipe, corpora))
    found.write(out)
    save_figure(found.picture(), out / "cross-corpus.png")
    return found


def _corpora(utterances: Sequence[Utterance], recipe: Recipe) -> dict[str, _Corpus]:
    """Return the corpora with their recipes, after the recipe's protocol has divided each."""
    main = recipe.tasks.main
    if recipe.protocol.name == "corpora-out":
        raise RecipeError(
            "'corpora-out' does not divide a single corpus",
            where="protocol.name",
            remedy="Choose the protocol of a corpus by itself, such as speakers-out; corpora are left out besides.",
        )
    by_name: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_name[utterance.corpus or ""].append(utterance)
    if len(by_name) < 2:
        raise ManifestError(
            f"all utterances are of one corpus: {', '.join(by_name)}",
            where="--data",
            remedy="Name two or more corpora.",
        )
    corpora = {}
    for name, own in by_name.items():
        merging = recipe.labels.merge
        present = {merging.get(u.emotion, u.emotion) for u in own if u.emotion}
        named = recipe.labels.classes
        classes = None if named is None or main != "emotion" else tuple(each for each in named if each in present)
        theirs = recipe.model_copy(update={"labels": recipe.labels.model_copy(update={"classes": classes})})
        task = choose("task", main).fit(main, theirs.tasks.chosen[main], theirs, own)
        if not task.spec.classes:
            raise RecipeError(f"'{main}' has no classes", where="tasks", remedy="Choose a task of classes first.")
        labelled, _ = keep_labelled(own, task, recipe.labels.unknown_labels if main == "emotion" else "drop")
        make_folds(labelled, recipe.protocol, {})  # what does not fit is said before hours of training
        num_tested = sum(u.copy_of is None for u in labelled)
        folder = re.sub(r"[^\w.-]+", "-", name)
        corpora[name] = _Corpus(name, folder, theirs, own, task.spec.classes, num_tested)
    return corpora


def _together(recipe: Recipe, corpora: Mapping[str, _Corpus]) -> Recipe:
    """Return the recipe on all corpora but one, each in turn."""
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
    """Write recipe and manifests, or check that what was stopped had the same ones."""
    path = out / "recipe.yaml"
    if is_resumed:
        if not path.exists():
            raise RunError(
                "there is nothing to go on with", where=out, remedy="Leave out --resume, or name its folder."
            )
        if recipes.load(path) != recipe:
            raise RunError("was started with another recipe", where=out, remedy="Use the same recipe, or a new --out.")
        if manifest.digest(manifest.read(out / "data" / "all.jsonl")) != manifest.digest(utterances):
            raise RunError("was started with other data", where=out, remedy="Use the same data, or a new --out.")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        remedy = "Go on with it by --resume, or name another --out." if path.exists() else "Name another --out."
        raise RunError("exists already", where=out, remedy=remedy)
    (out / "data").mkdir(parents=True, exist_ok=True)
    manifest.write(utterances, out / "data" / "all.jsonl")
    for corpus in corpora.values():
        manifest.write(corpus.utterances, out / "data" / f"{corpus.folder}.jsonl")
    write_text(path, recipes.dump(recipe))  # last: what has a recipe can be resumed


def _run(recipe: Recipe, data: Path, out: Path, **how: Any) -> None:
    """Run a recipe, go on with its run, or do nothing when it is finished; `how`: see `serein.run`."""
    is_begun = (out / "recipe.yaml").exists()
    has_some = next(out.glob("fold-*/seed-*/predictions.jsonl"), None) is not None
    if has_some and not missing_predictions(out, read_run_predictions(out)):
        return
    run(recipe, data, out, resume=is_begun, **how)


def _tested(model: Path, trained: _Corpus, tested: _Corpus, out: Path, report: Report, *, device: str) -> Cell:
    """Return the scores of a model on another corpus; its predictions are kept."""
    path = out / "predictions" / f"{trained.folder}-on-{tested.folder}.jsonl"
    if not set(trained.classes) & set(tested.classes):
        return Cell(trained.name, tested.name, None, None, tested.num_tested)
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
    notes = [f"The diagonal is by the recipe's protocol, '{protocol.name}': other models than in the rest of a row."]
    if protocol.shares_speakers:
        notes.append("SPEAKER-DEPENDENT: on the diagonal, test speakers occur in training.")
    if len(corpora) == 2:
        notes.append("Of two corpora, leaving one out is training on the other.")
    if len(seeds) > 1:
        notes.append(
            f"Models of one corpus are of seed {seeds[0]}; the other scores are means over {len(seeds)} seeds."
        )
    return tuple(notes)
