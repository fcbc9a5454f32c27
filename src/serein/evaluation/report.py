"""The report of a run: one self-contained HTML file with scores, plots and provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from serein.data.files import write_text
from serein.errors import RunError
from serein.evaluation import plots
from serein.evaluation import plots as confidence_plots
from serein.evaluation.calibration import RunCalibration, run_calibration
from serein.evaluation.figures import mean_cosines, read_task_curves, task_curves_picture
from serein.evaluation.intervals import NUM_RESAMPLES
from serein.evaluation.plots import emotion_colours, figure_svg
from serein.evaluation.predictions import (
    Prediction,
    missing_predictions,
    natural_key,
    read_json,
    read_predictions,
    read_recipe,
    read_run_predictions,
    read_specs,
    run_classes,
)
from serein.evaluation.scores import SCORE_TITLES, Scores, score_predictions
from serein.evaluation.tables import deviation, interval, notices, number, plain_reading, task_rows
from serein.evaluation.task_scores import task_scores
from serein.evaluation.verification import read_embeddings, run_verification

NUM_MISTAKES = 10


@dataclass(frozen=True)
class EmbeddingPicture:
    """t-SNE of one model's embeddings, and which model that is."""

    picture: Markup
    model: str


def write_report(run: str | Path) -> Path:
    """Write ``report.html`` into a run folder, atomically, from nothing but the files in it.

    Returns:
        The path of the report.

    Raises:
        RunError: The folder holds no predictions, or a file in it is broken. Absent optional files are none.
    """
    run = Path(run)
    has_classes = read_specs(run)[0].has_classes
    classes = run_classes(run) if has_classes else None
    predictions = read_run_predictions(run, classes)
    scores = score_predictions(predictions, classes) if has_classes else None
    path = run / "report.html"
    write_text(path, _template().render(_contents(run, predictions, scores)))
    return path


def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["score"] = number
    source = files("serein.evaluation").joinpath("report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(source)


def _contents(run: Path, predictions: Sequence[Prediction], scores: Scores | None) -> dict[str, Any]:
    recipe, data, folds = read_recipe(run), read_json(run / "data.json"), read_json(run / "folds.json")
    environment = read_json(run / "environment.json")
    return {
        "name": str(recipe.get("name") or run.resolve().name),
        "description": recipe.get("description") or "",
        "corpora": ", ".join(map(str, data.get("corpora") or ())),
        "protocol": folds.get("protocol") or (recipe.get("protocol") or {}).get("name") or "",
        "num_utterances": len({p.id for p in predictions}),
        "notices": notices(scores, recipe, data, folds, missing_predictions(run, predictions)),
        "scores": scores,
        "class_noun": read_specs(run)[0].field,
        "verification": run_verification(run),
        "num_resamples": NUM_RESAMPLES,
        "test_speakers": {str(fold["name"]): fold.get("test_speakers") or () for fold in folds.get("folds") or ()},
        "tasks": [(score, task_rows(score)) for score in task_scores(run)],
        "conflicts": mean_cosines(read_task_curves(run)),
        "starts": _starts(run),
        "data": _data_facts(data),
        "sources": _sources(data),
        "made": _making(environment, data, folds),
        "recipe_text": _text(run / "recipe.yaml"),
        "environment": _environment(environment),
        **_class_contents(run, predictions, scores, folds),
    }


def _class_contents(
    run: Path, predictions: Sequence[Prediction], scores: Scores | None, folds: dict[str, Any]
) -> dict[str, Any]:
    """Return what the report says of classes; pictures of the training alone where none are predicted."""
    if scores is None:
        absent: dict[str, Any] = {"reading": "", "headlines": (), "colours": {}, "calibration": None, "embedding": None}
        return {**absent, "mistakes": (), "pictures": _inlined(_training_figures(run))}
    calibration = run_calibration(run, predictions, scores.classes)
    return {
        "reading": plain_reading(scores, folds),
        "headlines": _headlines(scores),
        "colours": emotion_colours(scores.classes),
        "calibration": calibration,
        "embedding": _embedding_picture(run, scores),
        "mistakes": worst_mistakes(predictions),
        "pictures": _inlined(_class_figures(scores, calibration) | _training_figures(run)),
    }


def worst_mistakes(predictions: Sequence[Prediction], count: int = NUM_MISTAKES) -> list[Prediction]:
    """Return the mistakes with the highest confidence, one per utterance.

    Example:
        >>> sure = Prediction(id="a", truth="sad", prediction="calm", probabilities={"sad": 0.1, "calm": 0.9})
        >>> unsure = Prediction(id="b", truth="sad", prediction="calm", probabilities={"sad": 0.4, "calm": 0.6})
        >>> [mistake.id for mistake in worst_mistakes([unsure, sure])]
        ['a', 'b']
    """
    wrong = [p for p in predictions if p.truth not in (None, p.prediction) and p.probabilities]
    by_id: dict[str, Prediction] = {}
    for prediction in sorted(wrong, key=lambda p: -(p.confidence or 0.0)):
        by_id.setdefault(prediction.id, prediction)
    return list(by_id.values())[:count]


def read_curves(run: Path) -> list[plots.Curve]:
    """Read the training curves of every fold, seed and stage; of an epoch trained twice the later counts.

    Raises:
        RunError: A line is not a JSON object, or names no epoch.
    """
    paths = sorted(run.glob("fold-*/seed-*/*/metrics.jsonl"), key=natural_key)
    return [curve for path in paths if (curve := _read_curve(path)).epoch]


def _read_curve(path: Path) -> plots.Curve:
    fold, seed, stage = path.parts[-4:-1]
    epochs: dict[int, dict[str, Any]] = {}
    for place, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            epoch = _epoch(line, where=f"{path}:{place}")
            epochs[int(epoch["epoch"])] = epoch
    columns = {
        key: tuple(_value(epochs[e], key) for e in sorted(epochs)) for key in ("train_loss", "dev_loss", "dev_ua")
    }
    name = f"{fold.replace('-', ' ', 1)}, {seed.replace('-', ' ', 1)}"
    return plots.Curve(run=name, stage=stage.partition("-")[2] or stage, epoch=tuple(sorted(epochs)), **columns)


def _epoch(line: str, *, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise RunError(f"not JSON ({error.msg})", where=where, remedy="Delete the line, or train again.") from None
    if not isinstance(fields, dict) or "epoch" not in fields:
        raise RunError("names no epoch", where=where, remedy='Each line holds {"epoch": ..., "train_loss": ...}.')
    return fields


def _value(fields: Mapping[str, Any], key: str) -> float:
    value = fields.get(key)
    return float("nan") if value is None else float(value)


def _headlines(scores: Scores) -> list[dict[str, str]]:
    long_titles = {
        "ua": "unweighted accuracy",
        "wa": "weighted accuracy",
        "macro_f1": "mean F1 of classes",
    }
    return [
        {
            "title": title,
            "meaning": long_titles[name],
            "pooled": number(scores.pooled[name]),
            "interval": interval(scores, name).strip("[]").replace(", ", " to "),
            "mean": f"{number(scores.mean[name])} {deviation(scores, name)}".strip(),
        }
        for name, title in SCORE_TITLES.items()
    ]


def _class_figures(scores: Scores, calibration: RunCalibration | None) -> dict[str, Any]:
    """Draw what the run has data for; an absent picture is an absent key."""
    figures = {"confusion": plots.confusion_picture(scores.confusion, scores.classes)}
    if len(scores.classes) <= plots.MOST_NAMED_CLASSES:
        figures["classes"] = plots.class_picture(scores.by_class)
    if scores.speakers:
        figures["speakers"] = plots.speaker_picture(scores.speakers, scores.pooled["ua"])
    return figures if calibration is None else figures | _confidence_figures(calibration)


def _training_figures(run: Path) -> dict[str, Any]:
    figures = {}
    if curves := read_curves(run):
        figures["curves"] = plots.curves_picture(curves)
    if task_curves := read_task_curves(run):
        figures["tasks"] = task_curves_picture(task_curves)
    return figures


def _inlined(figures: dict[str, Any]) -> dict[str, Markup]:
    return {name: _inline(figure, name) for name, figure in figures.items()}


def _confidence_figures(calibration: RunCalibration) -> dict[str, Any]:
    columns = {"as predicted": calibration.probabilities, "calibrated": calibration.calibrated}
    if calibration.after is None:
        columns = {"": calibration.probabilities}
    confidences = {
        name: (probabilities.max(axis=1), probabilities.argmax(axis=1) == calibration.truth)
        for name, probabilities in columns.items()
    }
    return {
        "reliability": confidence_plots.reliability_picture(confidences),
        "coverage": confidence_plots.coverage_picture(calibration.coverage),
    }


def _starts(run: Path) -> list[tuple[str, str, str]]:
    """Return fold, seed and stage of every training that started from another, that one, and its weights' hash."""
    paths = sorted(run.glob("fold-*/seed-*/*/initial_weights.json"), key=natural_key)
    starts = [(path, read_json(path)) for path in paths]
    return [(" ".join(p.parts[-4:-1]), str(start["stage"]), str(start["weights_sha256"])) for p, start in starts]


def _inline(figure: Any, name: str) -> Markup:
    """Matplotlib escapes every text it draws, so that its SVG may stand in the page as it is."""
    return Markup(figure_svg(figure, name=name))  # noqa: S704


def _embedding_picture(run: Path, scores: Scores) -> EmbeddingPicture | None:
    """Draw the embeddings of the model whose UA is closest to the mean: every model has its own space."""
    for fold in sorted(scores.folds, key=lambda fold: abs(fold.ua - scores.mean["ua"])):
        folder = run / f"fold-{fold.fold}" / f"seed-{fold.seed}"
        if (folder / "embeddings.safetensors").is_file():
            predictions = read_predictions(folder / "predictions.jsonl", fold=fold.fold, seed=fold.seed)
            embeddings = read_embeddings(folder / "embeddings.safetensors", len(predictions))
            picture = _draw_embeddings(embeddings, predictions, scores.classes)
            model = f"fold {fold.fold}, seed {fold.seed}"
            return None if picture is None else EmbeddingPicture(picture, model)
    return None


def _draw_embeddings(
    embeddings: np.ndarray[Any, Any], predictions: Sequence[Prediction], classes: Sequence[str]
) -> Markup | None:
    is_drawn = np.isfinite(embeddings).all(axis=1) & np.array([p.truth is not None for p in predictions])
    drawn = [p for p, is_inside in zip(predictions, is_drawn, strict=True) if is_inside]
    if len(np.unique(embeddings[is_drawn], axis=0)) < plots.FEWEST_EMBEDDINGS or embeddings.shape[1] < 2:
        return None
    speakers = [p.speaker for p in drawn if p.speaker is not None]
    figure = plots.embedding_picture(
        embeddings[is_drawn],
        [p.truth for p in drawn if p.truth is not None],
        speakers if len(speakers) == len(drawn) else None,
        classes,
    )
    return _inline(figure, "embedding")


def _data_facts(data: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("Utterances", f"{data['num_utterances']:,}" if "num_utterances" in data else ""),
        ("Speakers", str(data.get("speakers") or "")),
        ("Duration", duration(data["duration_s"]) if data.get("duration_s") else ""),
        ("Classes", ", ".join(f"{name} {count}" for name, count in (data.get("classes") or {}).items())),
    ]
    return [(title, text) for title, text in facts if text]


def _sources(data: dict[str, Any]) -> list[dict[str, str]]:
    licences, citations = data.get("licences") or {}, data.get("citations") or {}
    return [
        {"corpus": name, "licence": str(licences.get(name) or ""), "citation": str(citations.get(name) or "")}
        for name in dict.fromkeys((*map(str, data.get("corpora") or ()), *licences, *citations))
        if licences.get(name) or citations.get(name)
    ]


def _making(environment: dict[str, Any], data: dict[str, Any], folds: dict[str, Any]) -> list[tuple[str, str]]:
    finished_s = environment.get("finished_s")
    facts = [
        ("Command", _plain(environment.get("command"))),
        ("Duration", duration(float(finished_s)) if finished_s is not None else ""),
        ("Manifest", _plain(data.get("manifest"))),
        ("Manifest SHA-256", _plain(data.get("sha256"))),
        ("Folds SHA-256", _plain(folds.get("sha256"))),
    ]
    return [(title, text) for title, text in facts if text]


def _environment(environment: dict[str, Any]) -> list[tuple[str, str]]:
    elsewhere = ("command", "finished_s")
    facts = [(key, _plain(value)) for key, value in environment.items() if key not in elsewhere]
    return [(key, text) for key, text in facts if text]


def duration(seconds: float) -> str:
    """Return a duration as text.

    Example:
        >>> duration(42.4), duration(200), duration(5400)
        ('42 s', '3 min 20 s', '1 h 30 min')
    """
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"


def _plain(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(value)
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
