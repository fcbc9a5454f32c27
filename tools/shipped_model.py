"""Make a model that ships with the package, and its card.

Folds of unseen speakers over all corpora give its scores and its temperature, and predict changed recordings. Then each
corpus is left out once. Finally, one model is trained on everything. If it was stopped, it resumes.

    python tools/shipped_model.py default --recipe recipes/default.yaml --data all.jsonl --other neutral.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch

import serein
from serein import checkpoint as checkpoints
from serein import cli
from serein import recipe as recipes
from serein.checkpoint import Calibration, Checkpoint
from serein.corpora import citation_of
from serein.data import manifest
from serein.data.files import replacing
from serein.data.manifest import Utterance
from serein.device import processor_name
from serein.evaluation.calibration import fitted_temperature
from serein.evaluation.groups import HEADINGS
from serein.evaluation.predictions import EvalPrediction, adapted, among, read_run_predictions
from serein.evaluation.robustness import CLEAN, Robustness
from serein.evaluation.scores import Scores, score_predictions, score_run
from serein.experiment.predict import evaluate
from serein.experiment.robustness import robustness
from serein.inference.adaptation import contain_mean
from serein.models.backbones import HuggingFaceBackbone

PACKAGE = Path(__file__).parents[1] / "src" / "serein" / "shipped_models"
LARGEST_BYTES = 30_000_000
CLIPS_PER_CORPUS = 300  # of which the mean features of the training data are computed
LEFT_OUT = "corpus left out"
CHANGED = [
    *("level -20 dB", "level +20 dB", "offset 0.005", "silence of 2 s around", "silence of 1 s inside"),
    *("pink noise 10 dB", "recorded noise 10 dB", "reverberation", "8 kHz", "G.711 mu-law", "GSM 06.10"),
    *("MP3 32 kbit/s", "Opus 12 kbit/s", "packet loss 5 %"),
]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the model's name: default, free, small, tiny")
    parser.add_argument("--data", type=Path, required=True, help="training manifest, of one corpus or several")
    parser.add_argument("--other", action="append", default=[], metavar="NAME=MANIFEST", help="unseen data to score")
    parser.add_argument("--licence", action="append", default=[], metavar="CORPUS=TEXT", help="of a corpus of your own")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--noises", type=Path, help="folder of test noises that no copy in --data contains")
    parser.add_argument("--rooms", type=Path, help="folder of test room impulse responses that no copy contains")
    parser.add_argument("--max-clips", type=int, default=300, help="number of test clips under every condition")
    parser.add_argument("--teacher", metavar="NAME", help="model made before, whose runs are the teachers of these")
    parser.add_argument("--speakers-alone", action="store_true", help="do not also leave each corpus out once")
    parser.add_argument("--uncalibrated", action="store_true", help="keep the network's uncalibrated probabilities")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--work", type=Path, default=Path("runs/shipped"), help="folder of the training runs")
    parser.add_argument("--out", type=Path, default=PACKAGE)
    options = parser.parse_args(arguments)
    work = options.work / options.name
    overrides = [part for each in options.overrides for part in ("--set", each)]

    def taught(part: str) -> list[str]:
        """Return the overrides of a training, with the teacher's training of the same folds as its teacher."""
        key = f"tasks.emotion.distillation.teacher={options.work / str(options.teacher) / part}"
        return [*overrides, *(["--set", key] if options.teacher else [])]

    by_speaker = [*taught("speakers"), "--set", "protocol.name=speakers-out", "--set", "protocol.num_folds=3"]
    train("run", options.recipe, options.data, work / "speakers", by_speaker)
    runs = {"unseen speakers": work / "speakers"}
    if len(corpora := tested_corpora(options.data)) > 1 and not options.speakers_alone:
        left_out = ["--set", "protocol.name=corpora-out", "--set", f"protocol.only=[{','.join(corpora)}]"]
        train("run", options.recipe, options.data, work / "corpora", [*taught("corpora"), *left_out])
        runs[LEFT_OUT] = work / "corpora"
    train("train", options.recipe, options.data, work / "whole", taught("whole"))
    predictor = serein.load(work / "whole" / "model", "cpu")
    checkpoint = predictor.checkpoint
    if isinstance(checkpoint.model.backbone, HuggingFaceBackbone):  # shifted log-mel bands predict worse
        contain_mean(predictor, some_of_each_corpus(manifest.read(options.data), tested_corpora(options.data)))
    if source := getattr(recipes.load(options.recipe).backbone, "source", None):
        vars(checkpoint.model.backbone)["_origin"]["source"] = source  # --set may name a copy on disk
    checkpoint.training["licences"] |= dict(each.split("=", 1) for each in options.licence)
    classes = checkpoint.class_labels.classes
    if not options.uncalibrated:
        checkpoint.calibration = calibration_of(read_run_predictions(work / "speakers", classes), classes)
    rows = [row for kind, run in runs.items() for row in rows_of(kind, read_run_predictions(run, classes), classes)]
    staged = work / "model"
    checkpoints.save(staged, checkpoint, "", backbone="bundle", dtype=torch.float16)
    for name, _, path in (each.partition("=") for each in options.other):
        rows += rows_of(f"{name}, never seen", evaluate(str(staged), Path(path))[0], classes)
    checkpoint.training["speed"] = speed_of(staged, options.data, options.max_clips)
    checkpoint.training["scores"] = {title: scores.pooled["ua"] for title, scores in rows}
    how = {"noises": options.noises, "rooms": options.rooms, "max_clips": options.max_clips}
    changed = robustness(work / "speakers", options.data, conditions=CHANGED, **how)
    scores = score_run(work / "speakers")
    text = card(options.name, checkpoint, scores, rows, changed, options)
    checkpoints.save(staged, checkpoint, text, backbone="bundle", dtype=torch.float16)
    ship(staged, options.out / options.name)
    print(text)


def train(command: str, recipe: Path, data: Path, out: Path, overrides: Sequence[str]) -> None:
    """Run or train, or resume it; do nothing if it is done."""
    is_begun = (out / "recipe.yaml").exists()
    is_done = (out / ("scores.json" if command == "run" else "model")).exists()
    resume = ["--resume"] if is_begun else []
    if not is_done:
        parts = [command, recipe, "--data", data, "--out", out, *overrides, *resume]
        with contextlib.redirect_stdout(sys.stderr):  # its output is not part of the card
            if status := cli.app([*map(str, parts)], standalone_mode=False):
                raise SystemExit(status)


def tested_corpora(data: Path) -> list[str]:
    """Return the corpora that can be left out: those with at least two emotions."""
    emotions: dict[str, set[str | None]] = {}
    for utterance in manifest.read(data):
        emotions.setdefault(utterance.corpus or "", set()).add(utterance.emotion)
    return sorted(name for name, found in emotions.items() if name and len(found) > 1)


def some_of_each_corpus(utterances: Sequence[Utterance], corpora: Sequence[str]) -> list[Utterance]:
    """Return at most `CLIPS_PER_CORPUS` utterances of each corpus, evenly spaced, without changed copies."""
    chosen = []
    for corpus in corpora:
        own = [each for each in utterances if each.corpus == corpus and each.copy_of is None]
        places = np.linspace(0, len(own) - 1, CLIPS_PER_CORPUS).astype(int)
        chosen += [own[place] for place in sorted(set(places.tolist()))]
    return chosen


def calibration_of(predictions: Sequence[EvalPrediction], classes: Sequence[str]) -> Calibration | None:
    """Return the temperature of models of the same recipe on unseen speakers; `None` if it does not help others."""
    found = fitted_temperature(predictions, classes)
    if found is None:
        raise SystemExit("error: too few predictions of unseen speakers to fit a temperature.")
    if not found.helps:
        return None
    return Calibration(
        temperature=found.temperature,
        fitted_on="predictions of models of the same recipe for unseen speakers",
        num_utterances=len(predictions),
    )


def rows_of(kind: str, predictions: Sequence[EvalPrediction], classes: Sequence[str]) -> list[tuple[str, Scores]]:
    """Return the scores on each corpus, over all classes, restricted to those of the corpus, and adapted to it."""
    rows = []
    for corpus in sorted({each.corpus or "" for each in predictions}):
        own = [each for each in predictions if (each.corpus or "") == corpus and each.truth is not None]
        present = [name for name in classes if any(each.truth == name for each in own)]
        title = f"{corpus}, {kind}" if corpus else kind
        rows.append((title, score_predictions(own, list(classes))))
        restricted = among(own, present) if len(present) > 1 else own
        if 1 < len(present) < len(classes):
            title += f", restricted to its {len(present)} classes"
            rows.append((title, score_predictions(restricted, present)))
        if kind == LEFT_OUT:
            rows.append((f"{title}, adapted without labels", score_predictions(adapted(restricted, present), present)))
    return rows


def speed_of(model: Path, data: Path, max_clips: int) -> str:
    """Return how fast the model predicts recordings from files on this machine, speech detection included."""
    originals = [each for each in manifest.read(data) if each.copy_of is None]
    files = [each.audio for each in originals[:: -(-len(originals) // max_clips)]]
    predictor = serein.load(model)
    list(predictor.predict_files(files[:8], on_error="skip"))  # the preparations of the first call are not counted
    start = time.perf_counter()
    list(predictor.predict_files(files, on_error="skip"))
    elapsed_s = time.perf_counter() - start
    heard_s = sum(soundfile.info(file).duration for file in files)
    machine = f"{torch.get_num_threads()} threads, {processor_name()}"
    return f"{heard_s / elapsed_s:.0f} times real time, {len(files)} files, {machine}"


def ship(model: Path, folder: Path) -> None:
    """Copy the folder into the package, file by file."""
    size = sum(path.stat().st_size for path in model.iterdir())
    if size > LARGEST_BYTES:
        raise SystemExit(f"error: {model}: {size / 1e6:.1f} MB is more than a package should carry.")
    for path in sorted(model.iterdir()):
        with replacing(folder / path.name) as partial:
            partial.write_bytes(path.read_bytes())


def card(
    name: str,
    checkpoint: Checkpoint,
    scores: Scores,
    rows: Sequence[tuple[str, Scores]],
    changed: Robustness,
    options: argparse.Namespace,
) -> str:
    """Return the card as Markdown: purpose, training data, scores, also by group, and limits."""
    training, corpora = checkpoint.training, sorted(checkpoint.training["licences"])
    licences = "\n".join(f"- {corpus}: {text}" for corpus, text in training["licences"].items())
    citations = "\n".join(f"- {text}" for corpus in corpora if (text := citation_of(corpus)))
    table = ["| | UA | WA | utterances |", "|---|---|---|---|"]
    table += [
        f"| {title} | {_cell(each, 'ua')} | {_cell(each, 'wa')} | {each.num_utterances} |" for title, each in rows
    ]
    recalls = ", ".join(f"{each.name} {each.recall:.1f}" for each in scores.by_class if each.recall is not None)
    source = checkpoint.model.backbone.describe().get("source")
    begun = (
        f"\n\nThe encoder was initialised with the weights of `{source}`, whose licence also applies." if source else ""
    )
    languages = ", ".join(training["languages"]) or "not stated"
    num_parameters = sum(weight.numel() for weight in checkpoint.model.parameters())
    under = ["| condition | UA | vs unchanged, points | changed predictions | rejected |", "|---|---|---|---|---|"]
    for each in changed.conditions:
        condition, ua, points, share, _, rejected, _ = each.cells()
        under.append(f"| {condition} | {ua} | {points} | {share} | {rejected} |")
    groups = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    groups += [f"| {' | '.join(each.cells())} |" for each in scores.groups]
    taught = ""
    if options.teacher:
        taught = (
            "\n\nIt was trained on another model's predictions in addition to the labels; for each fold below, on those"
        )
        taught += "\nof a model that was not trained on the fold's speakers either."
    without, unseen_corpora = "", ""
    if any(LEFT_OUT in title for title, _ in rows):
        without = " *Corpus left out*: by a model that was trained only on the other corpora. *Adapted without labels*:"
        without += "\nby `serein adapt --method bias` to the corpus's own recordings, with equal priors of its classes."
        unseen_corpora = "; the rows *corpus left out* show what to expect for them"
    taken = scores.confusion * (1 - np.eye(len(scores.classes), dtype=int))
    true, predicted = np.unravel_index(int(taken.argmax()), taken.shape)
    return f"""# The model `{name}`

`serein predict --model {name}`: probabilities of {len(scores.classes)} emotions ({", ".join(scores.classes)})
for speech in recordings of any length. Its recipe is `recipes/{options.recipe.name}`. {num_parameters:,} parameters.
Languages: {languages}. Speed: {training["speed"]}.

## Training data and licence

{training["num_utterances"]} utterances, including changed copies, of {training["num_speakers"]} speakers:

{licences}

**The weights inherit these conditions**, whatever the licence of the code: if the data is non-commercial, so are
they.{begun}{taught}

{citations}

## Scores

Per cent; intervals are 95 %, over speakers. *Unseen speakers*: three folds over all corpora, each predicted by a model
of the same recipe that was trained on the other folds.{without}
*Restricted to its classes*: only classes that the corpus has may be predicted. The model in this folder was trained on
all of the data, so no score is its own.

{chr(10).join(table)}

All corpora, unseen speakers: recall {recalls}.

{_calibrated(checkpoint, scores)}

## Gender, age and language

Unseen speakers, over all corpora and for each; UA over the classes that a group has, and its difference from all
others with a known value, over the classes that both have. Over all corpora, groups also differ in their corpora.

{chr(10).join(groups)}

## Changed recordings

{changed[CLEAN].num_utterances} clips of unseen speakers, evenly distributed over the corpora, unchanged and changed;
speech is detected first. UA over all {len(scores.classes)} classes in per cent; a rejected recording counts as wrong.
The model was not trained with these noises and rooms.

{chr(10).join(under)}

{chr(10).join(f"- {remark}" for remark in changed.remarks)}

## Where it fails

Most frequent confusion on unseen speakers: {scores.classes[true]}, predicted as {scores.classes[predicted]}.
Most of its training data is acted: a few sentences, each spoken with several emotions. Spontaneous speech, children,
older people and other languages differ from it{unseen_corpora}. For speech with none of its emotions, the model still
predicts one of them (`--min-confidence` rejects such predictions). It recognises how speech sounds, not what a person
feels: no decision about a person should be based on it.
"""


def _cell(scores: Scores, name: str) -> str:
    bounds = scores.intervals[name]
    return f"{scores.pooled[name]:.1f}" + (f" [{bounds[0]:.1f}, {bounds[1]:.1f}]" if bounds else "")


def _calibrated(checkpoint: Checkpoint, scores: Scores) -> str:
    found = scores.calibration
    if found is None or found.after is None:
        return ""
    if checkpoint.calibration is None:
        return f"Its probabilities are uncalibrated. {found}"
    half = [point for point in found.coverage if point.min_confidence >= 0.5]
    rejecting = ""
    if half:
        coverage, accuracy = f"{half[-1].coverage:.0f} %", f"{half[-1].accuracy:.1f} %"
        rejecting = f" With `--min-confidence 0.5`, {coverage} of the clips are kept, and {accuracy} of those are"
        rejecting += f" correct; without it, {found.coverage[-1].accuracy:.1f} %."
    return (
        f"Its probabilities are calibrated with a temperature of {checkpoint.calibration.temperature:.2f}, fitted to"
        f" {checkpoint.calibration.fitted_on}. On folds that the temperature was not fitted to, the expected"
        f" calibration error is {found.before.expected_calibration_error:.1f} points before calibration and"
        f" {found.after.expected_calibration_error:.1f} after.{rejecting}"
    )


if __name__ == "__main__":
    main()
