"""Makes the model that ships inside the package, and its card.

The six folds of its recipe give scores and probabilities on unseen speakers, to which its temperature is fitted; then
one model learns from everybody and is evaluated on corpora that it never saw. Goes on where it was stopped.

    make default-model RAVDESS=<folder> EMODB=<folder> URDU=<table.csv>
    python tools/default_model.py --data ravdess.jsonl --other emodb=emodb.jsonl --other urdu=urdu.jsonl
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from serein import checkpoint as model_folder
from serein.checkpoint import Calibration, Checkpoint
from serein.corpora import citation_of
from serein.data.files import replacing
from serein.evaluation.calibration import fitted_temperature
from serein.evaluation.predictions import Prediction, read_run_predictions
from serein.evaluation.scores import Scores, score_predictions, score_run
from serein.experiment.predict import evaluate

FOLDER = Path(__file__).parents[1] / "src" / "serein" / "default_model"
LARGEST_BYTES = 10_000_000


@dataclass(frozen=True)
class Elsewhere:
    """Scores of the model on a corpus that it was not trained on.

    Attributes:
        free: Any of the model's classes may be predicted.
        shared: Only the classes that the corpus has may be predicted.
    """

    name: str
    free: Scores
    shared: Scores


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="manifest to learn from")
    parser.add_argument(
        "--other", action="append", default=[], metavar="NAME=MANIFEST", help="never seen, evaluated on"
    )
    parser.add_argument("--recipe", type=Path, default=Path("recipes/default_model.yaml"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--work", type=Path, default=Path("runs/default-model"), help="folder of the trainings")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    overrides = [part for each in options.overrides for part in ("--set", each)]
    for command, out in (("run", "folds"), ("train", "whole")):
        train(command, options.recipe, options.data, options.work / out, overrides)
    checkpoint = model_folder.load(options.work / "whole" / "model")
    predictions = read_run_predictions(options.work / "folds", checkpoint.class_labels.classes)
    checkpoint.calibration = calibration_of(predictions, checkpoint.class_labels.classes)
    staged = options.work / "model"
    model_folder.save(staged, checkpoint, "")
    others = [elsewhere(staged, *each.split("=", 1)) for each in options.other]
    text = card(checkpoint, score_run(options.work / "folds"), others, options)
    model_folder.save(staged, checkpoint, text)
    ship(staged, options.out)
    print(text)


def train(command: str, recipe: Path, data: Path, out: Path, overrides: Sequence[str]) -> None:
    """Run or train, or go on with it; nothing more when it is done."""
    is_begun = (out / "recipe.yaml").exists()
    is_done = (out / ("scores.json" if command == "run" else "model")).exists()
    resume = ["--resume"] if is_begun else []
    if not is_done:
        parts = [command, recipe, "--data", data, "--out", out, *overrides, *resume]
        subprocess.run(
            [sys.executable, "-m", "serein.cli", *map(str, parts)], check=True, stdout=2
        )  # what it prints is no card


def calibration_of(predictions: Sequence[Prediction], classes: Sequence[str]) -> Calibration:
    """Return the temperature of models of the same recipe on unseen speakers."""
    temperature = fitted_temperature(predictions, classes)
    if temperature is None:
        raise SystemExit("error: too few predictions of unseen speakers to fit a temperature to.")
    return Calibration(
        temperature=temperature,
        fitted_on="predictions of models of the same recipe for unseen speakers",
        num_utterances=len(predictions),
    )


def elsewhere(model: Path, name: str, manifest: str) -> Elsewhere:
    """Evaluate the model on a corpus that it was not trained on, with all its classes and with the corpus's alone."""
    predictions, free = evaluate(str(model), Path(manifest))
    present = {p.truth for p in predictions}
    names = [each for each in free.classes if each in present]
    return Elsewhere(name, free, score_predictions([among(p, names) for p in predictions], names))


def among(prediction: Prediction, names: Sequence[str]) -> Prediction:
    """Return a prediction that chooses among some of the classes."""
    given = np.array([(prediction.probabilities or {})[name] for name in names])
    probabilities = dict(zip(names, (given / given.sum()).tolist(), strict=True))
    return replace(
        prediction, prediction=max(probabilities, key=lambda name: probabilities[name]), probabilities=probabilities
    )


def ship(model: Path, folder: Path) -> None:
    """Copy the folder into the package, file by file."""
    size = sum(path.stat().st_size for path in model.iterdir())
    if size > LARGEST_BYTES:
        raise SystemExit(f"error: {model}: {size / 1e6:.1f} MB are more than a package should carry.")
    for path in sorted(model.iterdir()):
        with replacing(folder / path.name) as partial:
            partial.write_bytes(path.read_bytes())


# -- the card --------------------------------------------------------------------------------------------------------


def card(checkpoint: Checkpoint, scores: Scores, others: Sequence[Elsewhere], options: argparse.Namespace) -> str:
    """Return the card as Markdown: what it is, learned from, scores, where it fails."""
    training, corpora = checkpoint.training, sorted(checkpoint.training["licences"])
    licences = "\n".join(f"- {name}: {text}" for name, text in training["licences"].items())
    citations = "\n".join(f"- {text}" for name in corpora if (text := citation_of(name)))
    return f"""# The default model

`serein predict` uses it if no model is named: probabilities of {len(scores.classes)} emotions,
{", ".join(scores.classes)}, of speech in recordings of any length. It has no pretrained weights; its recipe is
`{options.recipe}`, and `make default-model` makes it.

## Training data and licence

{training["num_utterances"]} utterances of {training["num_speakers"]} speakers:

{licences}

**The weights inherit these conditions**, whatever the licence of the code: where the data is non-commercial, so are
they.

{citations}

## Unseen speakers

{len(scores.folds)} folds of unseen speakers, each predicted by a model of the same recipe that was trained on
the others. The
model in this folder was trained on all of them. Per cent; intervals are 95 %, {scores.resampled} resampled.

{_table([("the same corpus, unseen speakers", scores)])}

Recall: {_recalls(scores)}.{_genders(scores)}

{_calibrated(checkpoint, scores)}

## Unseen corpora

{_table([row for each in others for row in _rows(each)]) if others else "None was tried."}

{_chances(others)}

## Where it fails

{_failures(scores, others)}
It was trained on actors who say a few sentences in a quiet room. Spontaneous speech, other languages, noise,
telephones,
children and old people are unlike its training data; so is speech without any of its emotions, for which it still
predicts one of them (`--min-confidence` rejects such predictions). It recognises how speech sounds, not what a person
feels: no decision about a person should rest on it.
"""


def _rows(each: Elsewhere) -> list[tuple[str, Scores]]:
    num = len(each.shared.classes)
    return [
        (f"{each.name}, {each.free.num_utterances} utterances, any of its {len(each.free.classes)} classes", each.free),
        (f"{each.name}, only the {num} classes it has: {', '.join(each.shared.classes)}", each.shared),
    ]


def _table(rows: Sequence[tuple[str, Scores]]) -> str:
    lines = ["| | UA | WA | macro-F1 |", "|---|---|---|---|"]
    for title, scores in rows:
        lines.append(f"| {title} | " + " | ".join(_cell(scores, name) for name in ("ua", "wa", "macro_f1")) + " |")
    return "\n".join(lines)


def _cell(scores: Scores, name: str) -> str:
    bounds = scores.intervals[name]
    return f"{scores.pooled[name]:.1f}" + (f" [{bounds[0]:.1f}, {bounds[1]:.1f}]" if bounds else "")


def _recalls(scores: Scores) -> str:
    return ", ".join(f"{each.name} {each.recall:.1f}" for each in scores.by_class if each.recall is not None)


def _genders(scores: Scores) -> str:
    return "".join(f" {each.name.capitalize()} speakers: UA {each.ua:.1f}." for each in scores.genders)


def _calibrated(checkpoint: Checkpoint, scores: Scores) -> str:
    found = scores.calibration
    if found is None or found.after is None or checkpoint.calibration is None:
        return ""
    half = [point for point in found.coverage if point.min_confidence >= 0.5]
    rejecting = ""
    if half:
        coverage, accuracy = f"{half[-1].coverage:.0f} %", f"{half[-1].accuracy:.1f} %"
        rejecting = (
            f" With `--min-confidence 0.5`, {coverage} of the clips are kept, and {accuracy} of those are correct;"
        )
        rejecting += f" without it, {found.coverage[-1].accuracy:.1f} %."
    return (
        f"Its probabilities are calibrated: a temperature of {checkpoint.calibration.temperature:.2f}, fitted to"
        f" {checkpoint.calibration.fitted_on}. On folds that the temperature was not fitted to, the expected"
        f" calibration error is {found.before.expected_calibration_error:.1f} points before and"
        f" {found.after.expected_calibration_error:.1f} after.{rejecting}"
    )


def _chances(others: Sequence[Elsewhere]) -> str:
    chances = [f"{each.name} {100 / len(each.shared.classes):.0f}" for each in others]
    left = [f"{each.name}: {note}" for each in others for note in each.free.notes if note.startswith("Left out")]
    return " ".join([f"Chance with the corpus's classes: {', '.join(chances)}." if chances else "", *left]).strip()


def _failures(scores: Scores, others: Sequence[Elsewhere]) -> str:
    known = sorted((each.recall, each.name) for each in scores.by_class if each.recall is not None)
    lines = ["Lowest recall on unseen speakers: " + ", ".join(f"{name} ({recall:.0f} %)" for recall, name in known[:3])]
    taken = scores.confusion * (1 - np.eye(len(scores.classes), dtype=int))
    true, predicted = np.unravel_index(int(taken.argmax()), taken.shape)
    lines.append(f"most frequent confusion: {scores.classes[true]}, predicted as {scores.classes[predicted]}")
    sentences = ["; ".join(lines) + "."]
    for each in others:
        lost = scores.pooled["ua"] - each.free.pooled["ua"]
        sentences.append(f"On {each.name} its UA is {lost:.0f} points lower than on its training corpus.")
    return "\n".join(sentences)


if __name__ == "__main__":
    main()
