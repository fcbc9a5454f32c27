"""The report of a run: one self-contained HTML file with scores, plots and provenance."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from serein.data.files import write_text
from serein.evaluation import plots
from serein.evaluation.calibration import RunCalibration, run_calibration
from serein.evaluation.graded import graded_rows, one_more_rater
from serein.evaluation.groups import HEADINGS
from serein.evaluation.intervals import NUM_RESAMPLES, interval_text
from serein.evaluation.plots import emotion_colours, figure_svg
from serein.evaluation.predictions import (
    EvalPrediction,
    fold_run_paths,
    missing_predictions,
    read_json,
    read_metrics,
    read_predictions,
    read_recipe,
    read_run_predictions,
    read_specs,
    run_classes,
)
from serein.evaluation.scores import SCORE_TITLES, Scores, score_predictions
from serein.evaluation.tables import deviation, notices, number, plain_reading, task_rows
from serein.evaluation.task_scores import task_scores
from serein.evaluation.verification import read_embeddings, run_verification
from serein.metrics.titles import METRICS

NUM_MISTAKES = 10


@dataclass(frozen=True)
class EmbeddingPicture:
    """A t-SNE picture of one model's embeddings, and the name of the model."""

    picture: Markup
    model: str


def write_report(run: str | Path) -> Path:
    """Write ``report.html`` into a run folder, atomically, using only the files in it.

    Returns:
        The path of the report.

    Raises:
        RunError: The folder contains no predictions, or a file in it is broken. Absent optional files are no error.
    """
    run = Path(run)
    has_classes = read_specs(run)[0].has_classes
    classes = run_classes(run) if has_classes else None
    predictions = read_run_predictions(run, classes)
    scores = score_predictions(predictions, classes) if has_classes else None
    recipe, data, folds = read_recipe(run), read_json(run / "data.json"), read_json(run / "folds.json")
    calibration = None if scores is None else run_calibration(run, predictions, scores.classes)
    # Stages of the run that started from the weights of another stage, that stage, and the hash of its weights.
    paths = fold_run_paths(run, "*/initial_weights.json")
    starts = [(" ".join(each.path.parts[-4:-1]), read_json(each.path)) for each in paths]
    tasks, task_curves = task_scores(run), read_task_curves(run)
    figures = _figures(run, scores, calibration, task_curves)
    contents = {
        "name": str(recipe.get("name") or run.resolve().name),
        "description": recipe.get("description") or "",
        "corpora": ", ".join(map(str, data.get("corpora") or ())),
        "protocol": folds.get("protocol") or (recipe.get("protocol") or {}).get("name") or "",
        "num_utterances": len({p.id for p in predictions}),
        "notices": notices(scores, recipe, data, folds, missing_predictions(run, predictions)),
        "scores": scores,
        "group_headings": HEADINGS,
        "class_noun": read_specs(run)[0].field,
        "verification": run_verification(run),
        "num_resamples": NUM_RESAMPLES,
        "test_speakers": {str(fold["name"]): fold.get("test_speakers") or () for fold in folds.get("folds") or ()},
        "tasks": [(score, task_rows(score)) for score in tasks],
        "task_notes": list(dict.fromkeys(note for score in tasks for note in score.notes)),
        "distribution": [] if scores is None else graded_rows(scores.distribution),
        "one_more_rater": "" if scores is None else one_more_rater(scores.distribution),
        "conflicts": mean_cosines(task_curves),
        "starts": [(name, str(start["stage"]), str(start["weights_sha256"])) for name, start in starts],
        "recipe_text": (run / "recipe.yaml").read_text(encoding="utf-8") if (run / "recipe.yaml").is_file() else "",
        **_provenance(run, data, folds),
        # The report's parts on classes; empty if none are predicted.
        "reading": "" if scores is None else plain_reading(scores, folds),
        "headlines": []
        if scores is None
        else [
            {
                "title": title,
                "meaning": METRICS[name].meaning,
                "pooled": number(scores.pooled[name]),
                "interval": interval_text(scores.intervals[name]).strip("[]").replace(", ", " to "),
                "mean": f"{number(scores.mean[name])} {deviation(scores, name)}".strip(),
            }
            for name, title in SCORE_TITLES.items()
        ],
        "colours": {} if scores is None else emotion_colours(scores.classes),
        "calibration": calibration,
        "embedding": None if scores is None else _embedding_picture(run, scores),
        "mistakes": () if scores is None else worst_mistakes(predictions),
        "pictures": {name: figure_svg(each, name=name) for name, each in figures.items()},
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["score"] = number
    source = files("serein.evaluation").joinpath("report.html.jinja").read_text(encoding="utf-8")
    path = run / "report.html"
    write_text(path, environment.from_string(source).render(contents))
    return path


def _figures(
    run: Path,
    scores: Scores | None,
    calibration: RunCalibration | None,
    task_curves: Sequence[plots.StageCurves],
) -> dict[str, Any]:
    """Draw the figures that the run has data for; other figures have no key."""
    figures = {}
    if scores is not None:
        if scores.confusion.size:
            figures["confusion"] = plots.confusion_picture(scores.confusion, scores.classes)
        if len(scores.classes) <= plots.MOST_NAMED_CLASSES:
            figures["classes"] = plots.class_picture(scores.by_class)
        if scores.speakers:
            figures["speakers"] = plots.speaker_picture(scores.speakers, scores.pooled["ua"])
    if calibration is not None:
        after = "calibrated" if calibration.is_applied else "with temperatures (not applied)"
        columns = {"as predicted": calibration.probabilities, after: calibration.calibrated}
        if calibration.after is None:
            columns = {"": calibration.probabilities}
        confidences = {
            name: (probabilities.max(axis=1), probabilities.argmax(axis=1) == calibration.truth)
            for name, probabilities in columns.items()
        }
        figures["reliability"] = plots.reliability_picture(confidences)
        figures["coverage"] = plots.coverage_picture(calibration.coverage)
    if curves := read_curves(run):
        figures["curves"] = plots.curves_picture(curves)
    if task_curves:
        figures["tasks"] = plots.task_curves_picture(task_curves)
    return figures


def worst_mistakes(predictions: Sequence[EvalPrediction]) -> list[EvalPrediction]:
    """Return the mistakes with the highest confidence, one per utterance.

    Example:
        >>> sure = EvalPrediction(id="a", truth="sad", prediction="calm", probabilities={"sad": 0.1, "calm": 0.9})
        >>> unsure = EvalPrediction(id="b", truth="sad", prediction="calm", probabilities={"sad": 0.4, "calm": 0.6})
        >>> [mistake.id for mistake in worst_mistakes([unsure, sure])]
        ['a', 'b']
    """
    wrong = [p for p in predictions if p.truth not in (None, p.prediction) and p.probabilities]
    by_id: dict[str, EvalPrediction] = {}
    for prediction in sorted(wrong, key=lambda p: -(p.confidence or 0.0)):
        by_id.setdefault(prediction.id, prediction)
    return list(by_id.values())[:NUM_MISTAKES]


def read_curves(run: Path) -> list[plots.Curve]:
    """Read the training curves of every fold, seed and stage.

    Raises:
        RunError: A line is not a JSON object, or has no epoch.
    """
    curves = []
    specs = {spec.name: spec for spec in read_specs(run)}
    stages = read_recipe(run).get("stages") or []
    monitors = {}  # the score that each stage monitors
    for own in stages:
        first = specs.get((own.get("tasks") or [next(iter(specs))])[0])
        monitors[own.get("name")] = own.get("monitor") or (first.monitor if first else "ua")
    for fold, seed, path in fold_run_paths(run, "*/metrics.jsonl"):
        if not (epochs := read_metrics(path)):
            continue
        columns = {}
        stage = path.parent.name.partition("-")[2] or path.parent.name
        score = monitors.get(stage, "ua")
        for name, key in {"train_loss": "train_loss", "dev_loss": "dev_loss", "dev_score": f"dev_{score}"}.items():
            values = (metrics.get(key) for metrics in epochs.values())
            columns[name] = tuple(float("nan") if value is None else float(value) for value in values)
        name = f"fold {fold}, seed {seed}"
        curves.append(plots.Curve(run=name, stage=stage, epoch=tuple(epochs), score=score, **columns))
    return curves


def read_task_curves(run: Path) -> list[plots.StageCurves]:
    """Read the curves of a run that learned several tasks; return an empty list for other runs."""
    specs = {spec.name: spec for spec in read_specs(run)}
    stages = read_recipe(run).get("stages") or []
    if len(specs) < 2:
        return []
    curves = []
    for place, stage in enumerate(stages):
        learned = [specs[name] for name in stage.get("tasks") or specs]
        columns = {
            ("dev_" if number == 0 else f"dev_{spec.name}_") + spec.monitor: spec.name
            if spec.has_classes
            else f"{spec.name}: {spec.monitor.replace('_', ' ')}"
            for number, spec in enumerate(learned)
        }
        tasks = [spec.name for spec in learned]
        pairs = {f"cosine_{one}_{other}": f"{one} and {other}" for one in tasks for other in tasks if one != other}
        scores: dict[str, plots.Series] = defaultdict(lambda: defaultdict(list))
        cosines: dict[str, plots.Series] = defaultdict(lambda: defaultdict(list))
        for path in sorted(run.glob(f"fold-*/seed-*/{place}-{stage['name']}/metrics.jsonl")):
            for epoch, metrics in read_metrics(path).items():
                for titles, series in ((columns, scores), (pairs, cosines)):
                    for column, title in titles.items():
                        if metrics.get(column) is not None:
                            series[title][epoch].append(float(metrics[column]))
        if scores or cosines:
            curves.append(plots.StageCurves(stage["name"], dict(scores), dict(cosines)))
    return curves


def mean_cosines(curves: Sequence[plots.StageCurves]) -> list[tuple[str, str, float, float]]:
    """Return stage, pair, mean cosine over all epochs, trainings and runs, and the fraction of cosines below 0."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for each in curves:
        for pair, series in each.cosines.items():
            values[each.stage, pair] += [value for epoch in series.values() for value in epoch]
    return [
        (stage, pair, float(np.mean(own)), float(np.mean(np.array(own) < 0))) for (stage, pair), own in values.items()
    ]


def _embedding_picture(run: Path, scores: Scores) -> EmbeddingPicture | None:
    """Draw the embeddings of the model whose UA is closest to the mean: every model has its own space."""
    by_distance = sorted(scores.folds, key=lambda fold: abs(fold.ua - scores.mean["ua"]))
    folders = [(fold, run / f"fold-{fold.fold}" / f"seed-{fold.seed}") for fold in by_distance]
    found = next((each for each in folders if (each[1] / "embeddings.safetensors").is_file()), None)
    if found is None:
        return None
    fold, folder = found
    predictions = read_predictions(folder / "predictions.jsonl", fold=fold.fold, seed=fold.seed)
    embeddings = read_embeddings(folder / "embeddings.safetensors", len(predictions))
    is_drawn = np.isfinite(embeddings).all(axis=1) & np.array([p.truth is not None for p in predictions])
    drawn = [p for p, is_inside in zip(predictions, is_drawn, strict=True) if is_inside]
    if len(np.unique(embeddings[is_drawn], axis=0)) < plots.FEWEST_EMBEDDINGS or embeddings.shape[1] < 2:
        return None
    speakers = [p.speaker for p in drawn if p.speaker is not None]
    figure = plots.embedding_picture(
        embeddings[is_drawn],
        [p.truth for p in drawn if p.truth is not None],
        speakers if len(speakers) == len(drawn) else None,
        scores.classes,
    )
    return EmbeddingPicture(figure_svg(figure, name="embedding"), f"fold {fold.fold}, seed {fold.seed}")


def _provenance(run: Path, data: dict[str, Any], folds: dict[str, Any]) -> dict[str, Any]:
    """Return the origin, data and environment of a run; unknown facts are left out."""
    environment = read_json(run / "environment.json")
    finished_s = environment.get("finished_s")
    classes = (data.get("classes") or {}).items()
    facts = {
        "data": [
            ("Utterances", f"{data['num_utterances']:,}" if "num_utterances" in data else ""),
            ("Speakers", str(data.get("speakers") or "")),
            ("Duration", duration(data["duration_s"]) if data.get("duration_s") else ""),
            ("Classes", ", ".join(f"{name} {count}" for name, count in classes)),
        ],
        "made": [
            ("Command", _plain(environment.get("command"))),
            ("Duration", duration(float(finished_s)) if finished_s is not None else ""),
            ("Manifest", _plain(data.get("manifest"))),
            ("Manifest SHA-256", _plain(data.get("sha256"))),
            ("Folds SHA-256", _plain(folds.get("sha256"))),
        ],
        "environment": [(key, _plain(environment[key])) for key in environment if key not in ("command", "finished_s")],
    }
    licences, citations = data.get("licences") or {}, data.get("citations") or {}
    sources = [
        {"corpus": name, "licence": str(licences.get(name) or ""), "citation": str(citations.get(name) or "")}
        for name in dict.fromkeys((*map(str, data.get("corpora") or ()), *licences, *citations))
        if licences.get(name) or citations.get(name)
    ]
    return {name: [fact for fact in some if fact[1]] for name, some in facts.items()} | {"sources": sources}


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
