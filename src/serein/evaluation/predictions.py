"""Prediction files of any system: JSON Lines with one `EvalPrediction` per line.

A line must contain at least ``{"id": ..., "truth": ..., "prediction": ...}``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from serein.data.files import write_text
from serein.data.manifest import Age, Utterance
from serein.errors import RunError, expected_one_of
from serein.metrics import class_bias, class_priors
from serein.tasks.task import TaskSpec

PROBABILITIES_TOLERANCE = 1e-3
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # takes a tenth of the time, if PyYAML has it
_REMEDY = 'Write one JSON object per line, such as {"id": "a1", "truth": "sad", "prediction": "calm"}.'
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="ignore", coerce_numbers_to_str=True))
class EvalPrediction:
    """One model's prediction for one utterance, with its truth and what the evaluation groups and resamples by.

    Attributes:
        id: The utterance.
        truth: Its true class, transcript, or number in digits, or several numbers separated by spaces, with `nan` for
            unknown ones; `None` if nothing is known.
        prediction: The predicted class, transcript, or number or numbers in digits.
        probabilities: Class -> probability; they sum to 1. `None` if the model outputs none.
        speaker: The speaker; intervals resample speakers, and each utterance without one by itself.
        gender: The speaker's gender.
        age: The speaker's age in years.
        language: The spoken language, as a code such as `en`.
        fold: Name of the fold that the utterance was predicted in.
        seed: Seed of the training.
        duration_s: Length of the audio, in seconds.
        corpus: The corpus of the utterance; speakers are distinct within it.
        ratings: The classes that each rater gave; `None` if there are no ratings.
    """

    id: str
    truth: str | None
    prediction: str
    probabilities: dict[str, float] | None = None
    speaker: str | None = None
    gender: str | None = None
    age: Age | None = None
    language: str | None = None
    fold: str = "all"
    seed: int = 0
    duration_s: float | None = None
    corpus: str | None = None
    ratings: tuple[tuple[str, ...], ...] | None = None

    @classmethod
    def of(
        cls,
        utterance: Utterance,
        truth: str | None,
        prediction: str,
        probabilities: dict[str, float] | None = None,
        **more: Any,
    ) -> Self:
        """Return the prediction for an utterance, with the attributes that group and resample utterances.

        Args:
            more: Values of further fields, by name.
        """
        own = {name: getattr(utterance, name) for name in ("speaker", "gender", "age", "language", "corpus")}
        return cls(id=utterance.id, truth=truth, prediction=prediction, probabilities=probabilities, **own, **more)

    @property
    def confidence(self) -> float | None:
        """Probability of the predicted class."""
        return None if self.probabilities is None else self.probabilities[self.prediction]

    @property
    def value(self) -> float:
        """The predicted number.

        Raises:
            RunError: It is not a number.
        """
        return _number(self.prediction, "prediction", self.id)

    @property
    def values(self) -> list[float]:
        """The predicted numbers, one or more; see `value`."""
        return [_number(part, "prediction", self.id) for part in self.prediction.split()]

    @property
    def true_values(self) -> list[float]:
        """The true numbers, NaN where unknown; see `value`."""
        return [_number(part, "truth", self.id) for part in (self.truth or "").split()]

    @property
    def true_value(self) -> float | None:
        """The true number; `None` if unknown.

        Raises:
            RunError: It is not a number.
        """
        return None if self.truth is None else _number(self.truth, "truth", self.id)


def _number(text: str, key: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RunError(f"key '{key}': '{text}' is not a number", where=where, remedy="Write a number.") from None


_PREDICTION = TypeAdapter(EvalPrediction)
AdaptedTo = Literal["speaker", "corpus", "all"]
REJECTED = "(rejected)"  # the prediction for a recording that a system rejects
_FIELDS = tuple(field.name for field in dataclasses.fields(EvalPrediction))


class SpeakerKey(NamedTuple):
    """A speaker, distinct from one of the same name in another corpus."""

    corpus: str | None
    speaker: str

    def __str__(self) -> str:
        return self.speaker if self.corpus is None else f"{self.corpus}/{self.speaker}"


def speakers_of(*systems: Iterable[EvalPrediction]) -> dict[str, SpeakerKey]:
    """Return the known speaker of each utterance; if systems name different ones, that of the first system."""
    return {p.id: SpeakerKey(p.corpus, p.speaker) for rows in reversed(systems) for p in rows if p.speaker is not None}


@dataclasses.dataclass(frozen=True)
class CodedPredictions:
    """Labelled predictions as columns of numbers, one row each.

    Attributes:
        classes: Class names; ``truth`` and ``prediction`` index them.
        ids: Distinct utterances; ``utterance`` indexes them.
        folds: Distinct folds in natural order; ``fold`` indexes them.
        seeds: Distinct seeds in order; ``seed`` indexes them.
        speakers: Distinct speakers; ``speaker`` indexes them, and is `None` when any row lacks its speaker.
        clusters: Distinct speakers, and the ids of utterances without one; ``cluster`` indexes them.
    """

    classes: tuple[str, ...]
    ids: tuple[str, ...]
    folds: tuple[str, ...]
    seeds: tuple[int, ...]
    speakers: tuple[SpeakerKey, ...]
    truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    utterance: NDArray[np.int64]
    fold: NDArray[np.int64]
    seed: NDArray[np.int64]
    speaker: NDArray[np.int64] | None
    clusters: tuple[SpeakerKey | str, ...]
    cluster: NDArray[np.int64]

    @property
    def is_of_speakers(self) -> bool:
        """Whether the classes are the speakers themselves: speaker identification."""
        if self.speaker is None or len(self.classes) < 2:
            return False
        pairs = np.unique(self.truth * len(self.speakers) + self.speaker)
        truths, speakers = np.divmod(pairs, len(self.speakers))
        keys = [self.speakers[number] for number in speakers.tolist()]
        return all(self.classes[n] in (key.speaker, str(key)) for n, key in zip(truths.tolist(), keys, strict=True))

    def num_distinct(self, group: NDArray[np.int64], num_groups: int) -> list[int]:
        """Count the distinct utterances of each group, regardless of how many folds and seeds predicted them.

        Args:
            group: ``(rows of self,)`` number of each row's group.
            num_groups: Number of groups, including those without utterances.
        """
        pairs = np.unique(group * len(self.ids) + self.utterance)
        counts: list[int] = np.bincount(pairs // len(self.ids), minlength=num_groups).tolist()
        return counts

    def class_counts(self, row: NDArray[np.int64], num_rows: int) -> Any:
        """Count hits, true and predicted utterances of each class.

        The result is sparse: memory grows with the utterances, not with rows times classes.

        Args:
            row: ``(rows of self,)`` number of the row in which each is counted: its speaker, its fold and seed, ...
            num_rows: Number of rows, including those without utterances.

        Returns:
            A `scipy.sparse.csr_array` ``(num_rows, 3 * classes)``: hits, then true, then predicted utterances.
        """
        from scipy.sparse import csr_array

        num_classes, is_hit = len(self.classes), self.truth == self.prediction
        columns = (self.truth[is_hit], num_classes + self.truth, 2 * num_classes + self.prediction)
        rows = np.concatenate([row[is_hit], row, row])
        return csr_array((np.ones(len(rows)), (rows, np.concatenate(columns))), shape=(num_rows, 3 * num_classes))


def read_predictions(
    path: str | Path,
    classes: Sequence[str] | None = None,
    *,
    fold: str | None = None,
    seed: int | None = None,
    keep_probabilities: bool = True,
) -> list[EvalPrediction]:
    """Read a prediction file.

    Args:
        path: JSON Lines; keys other than those of `EvalPrediction` are ignored.
        classes: The classes that may occur; by default any.
        fold: The fold that this file belongs to: used for lines without one; a line with another one is an error.
        seed: The seed that this file belongs to, with the same rules.
        keep_probabilities: False checks and discards them: a thousand classes take a thousand times the memory.

    Raises:
        RunError: The file is missing or empty, or a line is invalid; names the line and the problem.
    """
    folder: dict[str, Any] = {key: value for key, value in (("fold", fold), ("seed", seed)) if value is not None}
    known = None if classes is None else frozenset(classes)
    line_of: dict[tuple[str, str, int], int] = {}
    predictions = []
    for number, line in _lines(Path(path)):
        where = f"{path}:{number}"
        try:
            prediction = _PREDICTION.validate_json(line)
        except ValidationError as error:
            raise RunError(first_problem(error, "not a prediction"), where=where, remedy=_REMEDY) from None
        if known is not None:
            _require_known_classes(prediction, known, where=where)
        if (probabilities := prediction.probabilities) is not None:
            total = sum(probabilities.values())
            if not abs(total - 1.0) <= PROBABILITIES_TOLERANCE:
                what, remedy = f"probabilities sum to {total:.4f}, not 1", "Give every class its probability."
                raise RunError(what, where=where, remedy=remedy)
            if min(probabilities.values()) < 0.0:
                lowest = min(probabilities, key=lambda name: probabilities[name])
                what, remedy = f"probability of '{lowest}' is negative", "Give probabilities, not logits."
                raise RunError(what, where=where, remedy=remedy)
            remedy = "Give the probability of each of the classes, and of no other."
            absent = sorted((known or {prediction.prediction}) - probabilities.keys())
            if absent:
                raise RunError(f"probabilities lack class '{absent[0]}'", where=where, remedy=remedy)
            foreign = sorted(probabilities.keys() - (known or probabilities.keys()))
            if foreign:
                raise RunError(f"probabilities contain an unknown class '{foreign[0]}'", where=where, remedy=remedy)
        differing = {key: value for key, value in folder.items() if getattr(prediction, key) != value}
        for key in differing.keys() & json.loads(line).keys() if differing else ():
            message = f"states {key} {getattr(prediction, key)}, but is in the folder of {key} {differing[key]}"
            raise RunError(message, where=where, remedy="Move the file to its own folder.")
        if differing:
            prediction = dataclasses.replace(prediction, **differing)
        first = line_of.setdefault((prediction.id, prediction.fold, prediction.seed), number)
        if first != number:
            message = f"id '{prediction.id}' was already given in line {first} for fold {prediction.fold}"
            remedy = "Give one prediction per utterance, fold and seed."
            raise RunError(f"{message} and seed {prediction.seed}", where=where, remedy=remedy)
        predictions.append(prediction if keep_probabilities else dataclasses.replace(prediction, probabilities=None))
    if not predictions:
        raise RunError("contains no predictions", where=path, remedy=_REMEDY)
    return predictions


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each non-blank line; a file need not fit into memory."""
    try:
        with path.open(encoding="utf-8-sig") as file:  # other systems may write a byte order mark
            yield from ((number, line) for number, line in enumerate(file, start=1) if not line.isspace())
    except FileNotFoundError:
        raise RunError("no such prediction file", where=path, remedy="Check the path.") from None
    except (IsADirectoryError, UnicodeDecodeError):
        raise RunError("is not a UTF-8 text file", where=path, remedy=_REMEDY) from None


def write_predictions(predictions: Iterable[EvalPrediction], path: str | Path) -> None:
    """Write a prediction file atomically, leaving out keys without a value."""
    lines = []
    for prediction in predictions:
        fields = {name: getattr(prediction, name) for name in _FIELDS}
        known = {name: value for name, value in fields.items() if value is not None or name == "truth"}
        lines.append(json.dumps(known, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def class_names(predictions: Iterable[EvalPrediction]) -> tuple[str, ...]:
    """Return the classes that occur in truth, prediction or probabilities, in alphabetical order."""
    names: set[str] = set()
    for prediction in predictions:
        names.update((prediction.prediction, prediction.truth or prediction.prediction), prediction.probabilities or ())
    return tuple(sorted(names))


def among(predictions: Sequence[EvalPrediction], classes: Sequence[str]) -> list[EvalPrediction]:
    """Return predictions restricted to some of the classes, like those of a model restricted to a corpus's classes.

    Rejected ones stay unchanged. Of the raters' labels, only those among these classes count.

    Raises:
        RunError: A prediction has no probabilities of these classes.

    Example:
        >>> one = EvalPrediction("a", "sad", "calm", probabilities={"calm": 0.5, "sad": 0.375, "angry": 0.125})
        >>> chosen = among([one], ["sad", "angry"])[0]
        >>> chosen.prediction, chosen.probabilities
        ('sad', {'sad': 0.75, 'angry': 0.25})
    """
    chosen = []
    for prediction in predictions:
        if prediction.prediction == REJECTED:
            chosen.append(prediction)
            continue
        if not set(classes) <= (prediction.probabilities or {}).keys():
            raise RunError(
                f"has no probabilities of {', '.join(classes)}",
                where=prediction.id,
                remedy="Provide them, or evaluate among all classes of the system.",
            )
        given = np.array([(prediction.probabilities or {})[name] for name in classes])
        total = float(given.sum())
        given = given / total if total > 0 else np.full(len(classes), 1 / len(classes))
        best = classes[int(given.argmax())]
        probabilities = dict(zip(classes, given.tolist(), strict=True))
        votes = (tuple(label for label in labels if label in classes) for labels in prediction.ratings or ())
        ratings = tuple(labels for labels in votes if labels) or None
        chosen.append(dataclasses.replace(prediction, prediction=best, probabilities=probabilities, ratings=ratings))
    return chosen


def adapted(
    predictions: Sequence[EvalPrediction],
    classes: Sequence[str],
    *,
    to: AdaptedTo = "all",
    priors: Mapping[str, float] | None = None,
) -> list[EvalPrediction]:
    """Return predictions of a model that was adapted to these recordings without labels, by a bias (`serein.adapt`).

    The predictions of each fold and seed are those of one model.

    Args:
        predictions: With probabilities of exactly these classes, as from `among`.
        to: Adapt the model once, to `all` recordings of its fold, or to those of each `corpus` or each `speaker`.
        priors: Class -> expected frequency, 0 to 1; the other classes divide the rest equally.

    Raises:
        RecipeError: The priors do not fit the classes.
        RunError: A prediction has no speaker.
    """
    expected = class_priors(classes, priors or {})
    of_model: dict[tuple[str, int, Hashable], list[int]] = defaultdict(list)
    for number, prediction in enumerate(predictions):
        if prediction.prediction == REJECTED:
            continue
        if to == "speaker" and prediction.speaker is None:
            raise RunError("has no speaker", where=prediction.id, remedy="Adapt to 'corpus' or 'all'.")
        group = {"all": None, "corpus": prediction.corpus, "speaker": (prediction.corpus, prediction.speaker)}[to]
        of_model[prediction.fold, prediction.seed, group].append(number)
    found = list(predictions)
    for numbers in of_model.values():
        own = np.array([[(predictions[number].probabilities or {})[name] for name in classes] for number in numbers])
        moved = own * np.exp(class_bias(own, expected))
        for number, row in zip(numbers, moved / moved.sum(axis=1, keepdims=True), strict=True):
            probabilities = dict(zip(classes, row.tolist(), strict=True))
            best = classes[int(row.argmax())]
            found[number] = dataclasses.replace(found[number], prediction=best, probabilities=probabilities)
    return found


def code(
    predictions: Sequence[EvalPrediction], classes: Sequence[str], speakers: Mapping[str, SpeakerKey] | None = None
) -> CodedPredictions:
    """Turn predictions into columns of numbers; those without truth are left out.

    Args:
        speakers: Utterance -> its speaker, if other predictions of it have one.

    Raises:
        RunError: None of them has a truth, or one names a class that is not among `classes`.

    Example:
        >>> known = EvalPrediction(id="a", truth="sad", prediction="calm")
        >>> unknown = EvalPrediction(id="b", truth=None, prediction="sad")
        >>> coded = code([known, unknown], ["calm", "sad"])
        >>> coded.ids, coded.truth.tolist(), coded.prediction.tolist()
        (('a',), [1], [0])
    """
    labelled = [p for p in predictions if p.truth is not None]
    if not labelled:
        raise RunError("no prediction has a truth to be scored with", remedy='Add the key "truth" to every line.')
    known = frozenset(classes)
    for prediction in labelled:
        _require_known_classes(prediction, known, where=prediction.id)
    index = {name: position for position, name in enumerate(classes)}
    ids, utterance = numbered([p.id for p in labelled])
    folds, fold = numbered([p.fold for p in labelled], sort_by=natural_key)
    seeds, seed = numbered([p.seed for p in labelled], sort_by=int)
    known_speakers: tuple[SpeakerKey, ...] = ()
    speaker: NDArray[np.int64] | None = None
    own = ((p.id, None if p.speaker is None else SpeakerKey(p.corpus, p.speaker)) for p in labelled)
    cluster_keys = [(speakers or {}).get(name) or of_row or name for name, of_row in own]
    speaker_keys = [key for key in cluster_keys if isinstance(key, SpeakerKey)]
    clusters, cluster = numbered(cluster_keys)
    if len(speaker_keys) == len(labelled):
        known_speakers, speaker = numbered(speaker_keys, sort_by=natural_key)
        clusters, cluster = known_speakers, speaker
    truth = np.array([index[p.truth] for p in labelled if p.truth is not None], np.int64)
    prediction_column = np.array([index[p.prediction] for p in labelled], np.int64)
    return CodedPredictions(
        tuple(classes),
        ids,
        folds,
        seeds,
        known_speakers,
        truth,
        prediction_column,
        utterance,
        fold,
        seed,
        speaker,
        clusters,
        cluster,
    )


def natural_key(name: object) -> tuple[tuple[bool, int, str], ...]:
    """Return a key that sorts "2" before "10".

    Example:
        >>> sorted(["fold-10", "fold-2"], key=natural_key)
        ['fold-2', 'fold-10']
    """
    parts = re.findall(r"\d+|\D+", str(name))
    return tuple((False, int(part), "") if part.isdecimal() else (True, 0, part) for part in parts)


def first_problem(error: ValidationError, otherwise: str) -> str:
    """Describe the first problem of a record.

    Args:
        otherwise: The description of a record that has no keys: "not a prediction".
    """
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"key '{key}' is missing"
    if problem["type"] == "extra_forbidden":
        return f"key '{key}' is unknown"
    message = f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
    return f"key '{key}': {message}" if key else f"{otherwise} ({message})"


def _require_known_classes(prediction: EvalPrediction, classes: frozenset[str], *, where: str) -> None:
    for key, name in (("truth", prediction.truth), ("prediction", prediction.prediction)):
        if name is not None and name not in classes:
            message = f"key '{key}': {expected_one_of(name, sorted(classes), kind='class')}"
            raise RunError(message, where=where, remedy="Use the class names of the recipe.")


def numbered(values: Sequence[_Key], sort_by: Any = None) -> tuple[tuple[_Key, ...], NDArray[np.int64]]:
    """Return the distinct values, in order of appearance or of `sort_by`, and the number of each value.

    Example:
        >>> names, number = numbered(["b", "a", "b"])
        >>> names, number.tolist()
        (('b', 'a'), [0, 1, 0])
    """
    distinct = list(dict.fromkeys(values))
    names = distinct if sort_by is None else sorted(distinct, key=sort_by)
    index = {name: position for position, name in enumerate(names)}
    return tuple(names), np.array([index[value] for value in values], np.int64)


def read_recipe(run: Path) -> dict[str, Any]:
    """Read ``recipe.yaml`` of a run; empty when it is absent."""
    return _read(run / "recipe.yaml", partial(yaml.load, Loader=_YAML_LOADER), yaml.YAMLError)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty when the file is absent.

    Raises:
        RunError: The file is not a JSON object.
    """
    return _read(path, json.loads, json.JSONDecodeError)


def read_metrics(path: Path) -> dict[int, dict[str, Any]]:
    """Read a stage's ``metrics.jsonl``, empty when it is absent: epoch -> metrics, in the order of epochs.

    If an epoch was trained twice, the later one counts.

    Raises:
        RunError: A line is not a JSON object, or has no epoch.
    """
    epochs: dict[int, dict[str, Any]] = {}
    for number, line in _lines(path) if path.is_file() else ():
        where = f"{path}:{number}"
        try:
            metrics = json.loads(line)
        except json.JSONDecodeError as error:
            remedy = "Delete the line, or train again."
            raise RunError(f"not JSON ({error.msg})", where=where, remedy=remedy) from None
        if not isinstance(metrics, dict) or "epoch" not in metrics:
            remedy = 'Each line must contain {"epoch": ..., "train_loss": ...}.'
            raise RunError("has no epoch", where=where, remedy=remedy)
        epochs[int(metrics["epoch"])] = metrics
    return dict(sorted(epochs.items()))


class FoldRunPath(NamedTuple):
    """A file or folder of one fold and seed of a run."""

    fold: str
    seed: int
    path: Path


def fold_run_paths(run: Path, name: str) -> list[FoldRunPath]:
    """Return a file or folder of every fold and seed of a run that has it, fold 2 before fold 10.

    Args:
        name: Its path below the folder of the fold and seed, which may contain `*`.

    Raises:
        RunError: A seed is not a number.
    """
    found = []
    for path in sorted(run.glob(f"fold-*/seed-*/{name}"), key=natural_key):
        fold, seed = (part.partition("-")[2] for part in path.relative_to(run).parts[:2])
        if not seed.isdecimal():
            raise RunError(f"seed '{seed}' is not a number", where=path, remedy="Name the folder seed-0, seed-1, ...")
        found.append(FoldRunPath(fold, int(seed), path))
    return found


def read_run_predictions(
    run: Path, classes: Sequence[str] | None = None, kind: str = "test", *, keep_probabilities: bool = True
) -> list[EvalPrediction]:
    """Read the test predictions of every fold and seed of a run folder.

    Args:
        kind: `test`, `dev`, another task's name, or `predicted` or `oracle`: test predictions of a conditioned model
            with the source of conditions that is not the recipe's.
        keep_probabilities: As for `read_predictions`.

    Raises:
        RunError: There are none, or one of the files is broken.
    """
    paths = fold_run_paths(run, "predictions.jsonl" if kind == "test" else f"{kind}_predictions.jsonl")
    if not paths and kind == "test":
        raise RunError(
            "contains no predictions", where=run, remedy="Specify a run folder whose training has finished a fold."
        )
    predictions = []
    for fold, seed, path in paths:
        predictions += read_predictions(path, classes, fold=fold, seed=seed, keep_probabilities=keep_probabilities)
    return predictions


def has_test_set(run: Path) -> bool:
    """Return whether a run folder has a test set; without one, dev is scored, and `predictions.jsonl` is of dev."""
    folds = read_json(run / "folds.json").get("folds", ())
    return not folds or any(fold["test"] for fold in folds)


def trained_folds(run: Path) -> dict[str, str]:
    """Return for each fold of ``folds.json`` the first one with the same train and dev sets, whose models it uses."""
    trained: dict[tuple[tuple[str, ...], ...], str] = {}
    return {
        str(fold["name"]): trained.setdefault((tuple(fold["train"]), tuple(fold["dev"])), str(fold["name"]))
        for fold in read_json(run / "folds.json").get("folds", ())
    }


def read_specs(run: Path) -> tuple[TaskSpec, ...]:
    """Read the specifications of a run's tasks, the evaluated one first; by default, the classes are emotions.

    Raises:
        RunError: ``data.json`` is broken.
    """
    specs = read_json(run / "data.json").get("tasks") or [{"name": "emotion", "field": "emotion", "problem": "classes"}]
    try:
        return tuple(
            TaskSpec(**{**spec, **{key: tuple(spec.get(key, ())) for key in ("classes", "dimensions")}})
            for spec in specs
        )
    except TypeError as error:
        raise RunError(
            f"'tasks' cannot be read ({error})", where=run / "data.json", remedy="Start the run again."
        ) from None


def run_classes(run: Path) -> tuple[str, ...] | None:
    """Return the classes of a run in the order of its recipe, else of its data; `None` if neither names them."""
    named = (read_recipe(run).get("labels") or {}).get("classes")
    classes = read_specs(run)[0].classes or named or read_json(run / "data.json").get("classes")
    return tuple(str(name) for name in classes) if classes else None


def missing_predictions(run: Path, predictions: Sequence[EvalPrediction]) -> list[str]:
    """Return a sentence for each fold and seed that lacks test predictions."""
    predicted: dict[tuple[str, int], set[str]] = {}
    for p in predictions:
        predicted.setdefault((p.fold, p.seed), set()).add(p.id)
    seeds = read_recipe(run).get("seeds") or sorted({p.seed for p in predictions})
    expected = {
        (str(fold["name"]), seed): set(map(str, fold["test"]))
        for fold in read_json(run / "folds.json").get("folds", ())
        for seed in (seeds if isinstance(seeds, list) else [seeds])
    }
    lacking = {key: len(ids - predicted.get(key, set())) for key, ids in expected.items()}
    return [
        f"Unfinished: fold {fold}, seed {seed} lacks {count} of {len(expected[fold, seed])} test predictions."
        for (fold, seed), count in lacking.items()
        if count
    ]


def _read(path: Path, parse: Any, error: type[Exception]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (error, UnicodeDecodeError) as problem:
        raise RunError(f"cannot be read ({problem})", where=path, remedy="Start the run again.") from None
    if not isinstance(content, dict):
        raise RunError("contains no keys and values", where=path, remedy="Start the run again.")
    return content
