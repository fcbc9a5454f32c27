"""The trials of a table: one run folder per configuration, seed and data, shared by all rows and tables.

Finished trials are evaluated again with their nearest training clips (wang2023, S3), and combined into an ensemble.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from pydantic import BaseModel

from serein import recipe as recipes
from serein.checkpoint import is_model_folder
from serein.data import manifest
from serein.data.files import sha256, try_lock, write_text
from serein.data.manifest import Utterance
from serein.ensemble.evaluation import held_out_probabilities
from serein.errors import ModelError, RecipeError, RunError
from serein.evaluation.predictions import read_json, write_predictions
from serein.evaluation.scores import score_run, write_scores
from serein.evaluation.systems import Split, align_predictions, read_systems
from serein.evaluation.task_scores import task_scores
from serein.experiment import run as runs
from serein.experiment.build import require_same_origins
from serein.inference.predictor import shipped_models
from serein.knn.evaluation import KnnOptions
from serein.progress import Report
from serein.recipe import Recipe
from serein.reproduce.table import Row, Table

_NOT_CONFIGURATION = {"name", "description", "seeds"}
_HASH_LENGTH = 12
_LAST_FILE = "predictions.jsonl"  # of a fold
SHARED_STAGES = "stages"


@dataclass(frozen=True)
class Data:
    """The data of a table.

    Attributes:
        manifest: The user's manifest, or a fair part of it.
        sha256: Digest of its utterances.
        num_available: Number of utterances in the user's manifest.
        limit: Maximum number of utterances of each cell; `None` uses all.
        has_test_set: Whether an utterance of a split 'test', 'test1', ... has an emotion.
    """

    manifest: Path
    sha256: str
    num_utterances: int
    num_available: int
    limit: int | None
    has_test_set: bool = False


@dataclass(frozen=True)
class Trial:
    """One configuration with one seed.

    Attributes:
        row: A row that it belongs to.
        recipe: The recipe with this one seed, named by the hash of its configuration and data.
        title: Readable name of the configuration: the name of the row's recipe, and the row.
        out: Folder of all trials.
    """

    row: str
    recipe: Recipe
    title: str = field(compare=False)
    out: Path

    @property
    def folder(self) -> Path:
        """Its run folder, `out/<title>-<hash>/seed-<seed>`; an existing folder with the hash, whatever its title."""
        found = sorted(self.out.glob(f"*{self.recipe.name}"))
        return (found[0] if found else self.out / f"{self.title}-{self.recipe.name}") / f"seed-{self.seed}"

    @property
    def seed(self) -> int:
        """Its only seed."""
        return self.recipe.seeds[0]


class BusyError(RunError):
    """Another process is training this trial."""


# -- data ------------------------------------------------------------------------------------------------------------


def take_data(path: Path, limit: int | None, out: Path) -> Data:
    """Return the data of a table; if the manifest is limited, write the part that is used below `out`.

    Raises:
        ManifestError: The manifest is missing or invalid.
    """
    utterances = manifest.read(path)
    has_test_set = any((u.split or "").startswith("test") and u.emotion is not None for u in utterances)
    if limit is None:
        number = len(utterances)
        return Data(path.absolute(), manifest.digest(utterances), number, number, None, has_test_set)
    part = fair_part(utterances, limit)
    digest = manifest.digest(part)
    target = (out / f"data-{digest[:_HASH_LENGTH]}.jsonl").absolute()
    if not target.exists():
        manifest.write(part, target)
    return Data(target, digest, len(part), len(utterances), limit, has_test_set)


def fair_part(utterances: Sequence[Utterance], limit: int) -> list[Utterance]:
    """Return at most `limit` utterances of each speaker, session, split and emotion, in the manifest's order.

    The selection depends only on ids, and a smaller limit selects a subset of a larger one. Every speaker, session and
    emotion is kept.

    Example:
        >>> many = [Utterance(id=str(n), audio="a.wav", speaker="anna", emotion="sad") for n in range(5)]
        >>> len(fair_part(many, 2)), set(fair_part(many, 2)) <= set(fair_part(many, 3))
        (2, True)
    """
    cells: dict[tuple[str | None, ...], list[str]] = defaultdict(list)
    for u in utterances:
        cells[u.corpus, u.speaker, u.session, u.split, u.emotion].append(u.id)
    taken = {
        name
        for cell in cells.values()
        for name in sorted(cell, key=lambda name: hashlib.sha256(name.encode()).digest())[:limit]
    }
    return [u for u in utterances if u.id in taken]


# -- configurations --------------------------------------------------------------------------------------------------


def row_recipe(table: Table, row: Row, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a row: its file or the table's base, changed by its `set:` and then by `--set`.

    Raises:
        RecipeError: A key or value is invalid; the error names table and row.
    """
    path = Path(os.path.normpath(table.path.parent / (row.recipe or table.base or "")))
    own = [f"{key}={json.dumps(value)}" for key, value in row.changes.items()]  # JSON is YAML
    try:
        return recipes.load(path, [*own, *overrides])
    except RecipeError as error:
        where = f"{table.path}: row '{row.name}': {error.where}"
        raise RecipeError(error.what, where=where, remedy=error.remedy) from None


def configuration_hash(recipe: Recipe, data_sha256: str) -> str:
    """Return a hash of a recipe and its data, without the recipe's name, description and seeds.

    Defaults are left out, so that a new key in a later version does not change existing hashes.

    Example:
        >>> one, other = Recipe(name="a", seeds=(1,)), Recipe(name="b", description="the same")
        >>> configuration_hash(one, "0") == configuration_hash(other, "0")
        True
    """
    chosen = {key: value for key, value in _non_defaults(recipe).items() if key not in _NOT_CONFIGURATION}
    text = json.dumps([chosen, data_sha256], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]


def _non_defaults(value: Any) -> Any:
    """Return values that differ from the defaults; a `name` always, because it identifies a choice."""
    if isinstance(value, BaseModel):
        defaults = {
            key: field.get_default(call_default_factory=True) for key, field in type(value).model_fields.items()
        }
        own = {key: getattr(value, key) for key in defaults} | (value.model_extra or {})  # tasks are not fields
        return {
            key: _non_defaults(each)
            for key, each in own.items()
            if key == "name" or key not in defaults or each != defaults[key]
        }
    if isinstance(value, Mapping):
        return {key: _non_defaults(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_non_defaults(item) for item in value]
    return value


def trial_of(row: str, recipe: Recipe, seed: int, data: Data, out: Path) -> Trial:
    """Return the trial of a row and a seed."""
    name = configuration_hash(recipe, data.sha256)
    own = recipe.model_copy(update={"name": name, "description": "", "seeds": (seed,)})
    title = recipe.name if recipe.name.endswith(row) else f"{recipe.name}-{row}"
    return Trial(row, own, title, out.absolute())


# -- training --------------------------------------------------------------------------------------------------------


def require_pretrained(table: Table, trials: Sequence[Trial]) -> None:
    """Check that the finished models exist that the networks of trials start `from`.

    Raises:
        RecipeError: Some do not; the error names them and their rows.
    """
    rows_of: dict[str, dict[str, None]] = defaultdict(dict)
    for trial in trials:
        for branch in trial.recipe.branches.values():
            if branch.start is not None and branch.start not in shipped_models():
                root = Path(branch.start).expanduser()
                if not any(map(is_model_folder, (root, root / "model", *root.glob("fold-*/seed-*/model")))):
                    rows_of[branch.start][trial.row] = None
    if not rows_of:
        return
    needed = ", ".join(f"{source} (for {', '.join(rows)})" for source, rows in rows_of.items())
    readme = table.path.parent.parent / "README.md"
    commands = f" (commands: {readme})" if readme.is_file() else ""
    raise RecipeError(
        f"rows start from finished models that do not exist: {needed}",
        where=table.path,
        remedy=f"Train these first{commands}, or choose other rows with --rows.",
    )


def is_finished(trial: Trial) -> bool:
    """Return whether a trial has its scores and every fold's predictions.

    Raises:
        RunError: Its folder was created with other defaults, or from finished models that have been trained again,
            which the configuration's hash does not cover.
    """
    recipe = trial.folder / "recipe.yaml"
    if recipe.exists() and recipes.load(recipe) != trial.recipe:
        raise RunError(
            "was trained by a version of serein with other defaults", where=trial.folder, remedy="Name another --out."
        )
    folds = read_json(trial.folder / "folds.json").get("folds", ())
    if recipe.exists():
        with suppress(ModelError):  # a finished trial needs them no more; missing ones are reported before training
            require_same_origins(trial.folder, trial.recipe, [(fold["name"], trial.seed) for fold in folds])
    done = [(trial.folder / f"fold-{fold['name']}" / f"seed-{trial.seed}" / _LAST_FILE).exists() for fold in folds]
    return bool(done) and all(done) and (trial.folder / "scores.json").exists()


def train(trial: Trial, data: Path, num_jobs: int | None, report: Report, device: str = "auto") -> None:
    """Train, predict and score a trial, or finish the parts that are missing.

    Raises:
        BusyError: Another process is training it.
        SereinError: Recipe and data do not fit together.
    """
    trial.out.mkdir(parents=True, exist_ok=True)
    with open(trial.out / ".names.lock", "w") as names:  # two tables may give one configuration two titles
        try_lock(names, waits=True)
        trial.folder.parent.mkdir(exist_ok=True)
    with open(trial.folder.parent / f".{trial.folder.name}.lock", "w") as file:  # held until scored or dead
        if not try_lock(file):
            raise BusyError("another process is training it", where=trial.folder, remedy="Wait for it.")
        if is_finished(trial):  # by another process, while this one waited
            return
        is_resumed = (trial.folder / "recipe.yaml").exists()
        how: Any = {"num_jobs": num_jobs, "shared": trial.out / SHARED_STAGES, "device": device, "progress": report}
        runs.run(trial.recipe, data, trial.folder, resume=is_resumed, **how)
        scores = replace(score_run(trial.folder), tasks=tuple(task_scores(trial.folder)))
        write_scores(scores, trial.folder)


# -- further predictions of finished trials ----------------------------------------------------------------------------

Selection = Literal["dev", "oracle"]

PREDICTIONS: dict[Selection, str] = {
    "dev": "knn_predictions.jsonl",
    "oracle": "knn_oracle_predictions.jsonl",
}
_SUMMARIES: dict[Selection, str] = {"dev": "knn.json", "oracle": "knn_oracle.json"}  # written last


def is_evaluated_with_knn(trial: Trial, selection: Selection) -> bool:
    """Return whether a trial was evaluated with kNN as in a table: with k and the weight tuned, and default options."""
    found, options = read_json(trial.folder / _SUMMARIES[selection]), KnnOptions(selection)
    wanted = {name: getattr(options, name) for name in ("selection", "votes", "metric", "given")}
    return bool(found) and all(found.get(name, value) == value for name, value in wanted.items())


def chosen_note(row: Row, trials: Sequence[Trial]) -> str:
    """Return a note on the chosen values of k and the kNN weight, and the data they were chosen on."""
    selection = row.knn or "dev"
    chosen = [
        choice for trial in trials for choice in read_json(trial.folder / _SUMMARIES[selection]).get("trials", ())
    ]
    where = "the evaluated test sets themselves (oracle, optimistic)" if selection == "oracle" else "dev"
    ks, knn_weights = ([choice[name] for choice in chosen] for name in ("k", "knn_weight"))
    return (
        f"'{row.title}': k and kNN weight of each fold and seed chosen on {where}: k {min(ks)} to {max(ks)}, median "
        f"{median(ks):g}; kNN weight {min(knn_weights):g} to {max(knn_weights):g}, median {median(knn_weights):g}."
    )


def ensemble_rows(trials: Mapping[str, Sequence[Trial]], out: Path, split: Split, report: Report) -> dict[int, Path]:
    """Combine the models of all rows, for each seed that all rows have finished.

    Rows with the same configuration count as one model. A prediction file is computed again only if the predictions
    that it combines have changed; their SHA-256 is stored beside it.

    Args:
        trials: Row name -> its trials, one per seed.
        out: Folder for the predictions: `fusion-<rows' configurations>/seed-<seed>-<split>.jsonl`.

    Returns:
        Seed -> prediction file of the ensemble.

    Raises:
        RunError: The rows have fewer than two models, or did not predict the same utterances.
    """
    finished: dict[int, Path] = {}
    for of_seed in zip(*trials.values(), strict=True):
        if not all(is_finished(trial) for trial in of_seed):
            continue
        seed = of_seed[0].seed
        by_folder = {trial.folder: trial for trial in of_seed}
        folders = list(by_folder)
        if len(folders) < 2:
            raise RunError("the rows that it combines are one and the same model")
        configurations = " ".join(trial.recipe.name for trial in by_folder.values())
        # The name that earlier versions gave, so that their files still count.
        name = f"fusion-{hashlib.sha256(configurations.encode()).hexdigest()[:_HASH_LENGTH]}"
        finished[seed] = path = out / name / f"seed-{seed}-{split}.jsonl"
        combined = [
            sha256(own)
            for folder in folders
            for file in (_LAST_FILE, f"dev_{_LAST_FILE}")
            for own in sorted(folder.glob(f"fold-*/seed-{seed}/{file}"))
        ]
        description = path.with_suffix(".json")
        if path.exists() and read_json(description).get("combined") == combined:
            continue
        systems = read_systems(folders, split)
        evaluated = align_predictions(systems, split)
        probabilities, *_ = held_out_probabilities(systems, evaluated, split, seed, report)
        predictions = [
            replace(
                row,
                prediction=evaluated.classes[int(own.argmax())],
                probabilities=dict(zip(evaluated.classes, map(float, own), strict=True)),
                seed=seed,
            )
            for row, own in zip(evaluated.rows, probabilities, strict=True)
        ]
        write_predictions(predictions, path)
        write_text(description, json.dumps({"combined": combined}) + "\n")
    return finished
