"""Robustness of a model to everyday changes of recordings: level, silence, noise, rooms, codecs, cuts."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Upload, Waveform
from serein.corpora.prepare import NO_MAP, LabelMap
from serein.data import manifest
from serein.data.conditions import CONDITIONS, NEEDS, Condition, Surroundings
from serein.data.dataset import draw_seed
from serein.data.files import replacing
from serein.data.manifest import Utterance
from serein.errors import AudioError, ManifestError, RecipeError, RunError, counted, expected_one_of
from serein.evaluation.predictions import REJECTED, EvalPrediction, among, natural_key, trained_folds
from serein.evaluation.robustness import CLEAN, Robustness, score_conditions
from serein.evaluation.scores import classes_of_corpus
from serein.experiment.predict import AllowedClasses, scored_utterances
from serein.inference.predictor import Predictor, load
from serein.inference.recording import PredictOptions
from serein.inference.sources import evenly_spread
from serein.progress import Report

_CLEAN = Condition("clean", lambda waveform, rng, around: waveform)


def robustness(
    model: Predictor | str | Path | None,
    data: str | Path,
    *,
    noises: str | Path | None = None,
    rooms: str | Path | None = None,
    conditions: Sequence[str] | None = None,
    labels: LabelMap = NO_MAP,
    classes: AllowedClasses = "model",
    allow_seen_speakers: bool = False,
    max_clips: int | None = None,
    seed: int = 0,
    device: str = "auto",
    backbone: Path | None = None,
    progress: Report | None = None,
) -> Robustness:
    """Score a model on a manifest's recordings, unchanged and under every condition.

    Changed recordings pass through the whole pipeline, including speech detection (`segments="always"`), in memory; no
    file is changed. A recording that can no longer be predicted counts as rejected; the notes name the first one.

    Args:
        model: A predictor, a folder or a Hub name; `None` uses the default model. For a run folder, the model of each
            fold's first seed predicts the recordings that the fold was tested on, and all are scored together.
        data: The manifest.
        noises: Folder of noise recordings; without it, conditions that need them are skipped.
        rooms: Folder of impulse responses; without it, conditions that need them are skipped.
        conditions: Names from `serein.data.conditions.CONDITIONS`, or kinds such as `noise`; `None` uses all.
        labels: Manifest label -> the model's label; case and spaces are always ignored.
        classes: Classes that may be predicted: all of the `model`'s, or only those that occur in the `corpus`.
        allow_seen_speakers: Also score speakers that the model was trained on; a note then states this.
        max_clips: Use at most this many clips, evenly spread; for a run, an equal share from each fold.
        seed: Seed for noise, rooms, lost packets and cuts; a clip's draws depend on its id, not on other clips.
        device: Device that a model given by name runs on.
        backbone: Current location of its pretrained backbone, if it has moved.
        progress: Called with a label, the number of steps done, their total, and a detail.

    Raises:
        RecipeError: The model's main task has no classes, or a condition is unknown.
        ManifestError: No utterance has a class of the model, or none was tested in the run.
        LeakError: The model was trained on speakers of the manifest, and `allow_seen_speakers` is false.
        AudioError: A recording cannot be read.

    Example:
        >>> serein.robustness("runs/mine/model", "test.jsonl", conditions=["level", "8 kHz"])  # doctest: +SKIP
    """
    surroundings = Surroundings.read(Path(noises) if noises else None, Path(rooms) if rooms else None)
    chosen, skipped = chosen_conditions(conditions, surroundings)
    predictions: dict[str, list[EvalPrediction]] = {CLEAN: [], **{name: [] for name in chosen}}
    notes: list[str] = []
    parts = tested_models(model, Path(data))
    for number, (part, only) in enumerate(parts[:max_clips]):
        predictor = part if isinstance(part, Predictor) else load(part, device, backbone=backbone)
        task = predictor.checkpoint.tasks[predictor.task]
        if task.spec.problem != "classes" and not task.spec.classes:
            raise RecipeError(f"'{predictor.task}' has no classes", where="model", remedy="Name a model with classes.")
        utterances, left_out_notes = scored_utterances(
            predictor.checkpoint, Path(data), allow_seen_speakers=allow_seen_speakers, labels=labels, only=only
        )
        if max_clips is not None:
            share = max_clips // len(parts) + (number < max_clips % len(parts))
            utterances = evenly_spread(utterances, share)
        changed = changed_recordings(utterances, chosen, surroundings, seed)
        failed = predict_changed(predictor, changed, predictions, len(utterances), progress or (lambda *_: None))
        notes += [note for note in (*left_out_notes, *failed) if note not in notes]
    skipped |= {name: NEEDS[chosen[name].needs or ""] for name in chosen if not predictions[name]}
    predictions = {name: own for name, own in predictions.items() if own}
    names = predictor.classes
    if classes == "corpus":
        names = classes_of_corpus(predictions[CLEAN], names, where=data)
        predictions = {name: among(own, names) for name, own in predictions.items()}
        notes.append(f"Predictions are restricted to the classes of the corpus: {', '.join(names)}.")
    of = str(model) if parts[0][1] else predictor.identity["name"]
    return score_conditions(predictions, names, model=of, skipped=skipped, notes=notes)


def tested_models(
    model: Predictor | str | Path | None, data: Path
) -> list[tuple[Predictor | str | Path | None, set[str] | None]]:
    """Return a model with `None`, or for a run, each fold's model with the ids of `data` that the fold was tested on.

    Raises:
        ManifestError: No finished fold was tested on any of them.
    """
    if model is None or isinstance(model, Predictor) or not any(Path(model).glob("fold-*")):
        return [(model, None)]
    known = {utterance.id for utterance in manifest.read(data)}
    parts: list[tuple[Predictor | str | Path | None, set[str] | None]] = []
    trained = trained_folds(Path(model))
    for fold in sorted(Path(model).glob("fold-*"), key=natural_key):
        name = fold.name.removeprefix("fold-")
        of_seeds = sorted(fold.with_name(f"fold-{trained.get(name, name)}").glob("seed-*/model"), key=natural_key)
        if of_seeds and (own := known & {utterance.id for utterance in manifest.read(fold / "test.jsonl")}):
            parts.append((of_seeds[0], own))
    if not parts:
        remedy = "Name the manifest that the run was tested on, or the model of one fold."
        raise ManifestError(f"no finished fold of {model} was tested on this data", where=data, remedy=remedy)
    return parts


def predict_changed(
    predictor: Predictor,
    recordings: Iterable[tuple[str, Utterance, Waveform]],
    predictions: Mapping[str, list[EvalPrediction]],
    num_clips: int,
    report: Report,
) -> list[str]:
    """Predict changed recordings, and add the predictions to `predictions` under their conditions.

    Returns:
        A note on how many could not be predicted; empty if all could.
    """
    task = predictor.checkpoint.tasks[predictor.task]
    under: list[tuple[str, Utterance]] = []

    def uploads() -> Iterator[Upload]:
        for name, utterance, waveform in recordings:
            under.append((name, utterance))
            buffer = io.BytesIO()
            soundfile.write(buffer, waveform, SAMPLE_RATE_HZ, format="WAV", subtype="FLOAT")
            yield Upload(buffer.getvalue(), f"{utterance.id} ({name})")

    failed: list[AudioError] = []
    total = num_clips * len(predictions)
    detail = f"{counted(num_clips, 'clip')}, {counted(len(predictions), 'condition')}"
    predicted = predictor.predict_files(uploads(), options=PredictOptions("always"), on_error="return")
    for number, outcome in enumerate(predicted):
        name, utterance = under[number]
        is_failed = isinstance(outcome, AudioError)
        failed += [outcome] if is_failed else []
        predictions[name].append(
            EvalPrediction.of(
                utterance,
                str(task.truth(utterance)),
                REJECTED if is_failed or outcome.label is None else outcome.label,
                None if is_failed else dict(outcome.probabilities) or None,
            )
        )
        report("predicting", number + 1, total, detail)
    report("predicting", 1, 1, counted(len(under), "recording"))
    if not failed:
        return []
    return [f"{len(failed)} of {len(under)} recordings could not be predicted; the first: {failed[0]}"]


def chosen_conditions(
    names: Sequence[str] | None, surroundings: Surroundings
) -> tuple[dict[str, Condition], dict[str, str]]:
    """Return the selected conditions, and for those that cannot be applied, what is missing.

    Args:
        names: Names of conditions or kinds; `None` selects all.

    Raises:
        RecipeError: There is no such condition or kind.
    """
    kinds = list(dict.fromkeys(each.kind for each in CONDITIONS.values()))
    for name in names or ():
        if name not in CONDITIONS and name not in kinds:
            known = [*kinds, *CONDITIONS]
            raise RecipeError(
                expected_one_of(name, known, kind="condition"), where="conditions", remedy="Choose from these."
            )
    chosen, skipped = {}, {}
    for name, condition in CONDITIONS.items():
        if names is not None and name not in names and condition.kind not in names:
            continue
        lacking = None if condition.needs == "others" else condition.lacking(surroundings)  # depends on the clip
        if lacking is None:
            chosen[name] = condition
        else:
            skipped[name] = lacking
    return chosen, skipped


def changed_recordings(
    utterances: Sequence[Utterance], conditions: Mapping[str, Condition], surroundings: Surroundings, seed: int
) -> Iterator[tuple[str, Utterance, Waveform]]:
    """Yield each clip unchanged, under the name `clean`, and under every condition; each clip is decoded once.

    A clip is joined only with another clip of the same speaker and emotion; if there is none, it is left out there.

    Raises:
        AudioError: A recording cannot be read.
    """
    alike: dict[tuple[str | None, ...], list[Utterance]] = {}
    for utterance in utterances:
        alike.setdefault((utterance.corpus, utterance.speaker, utterance.emotion), []).append(utterance)
    for utterance in utterances:
        waveform = audio.load(utterance.audio, utterance.start_s, utterance.end_s)
        for name, condition in {CLEAN: _CLEAN, **conditions}.items():
            rng, around = np.random.default_rng(draw_seed(seed, 0, f"{name}/{utterance.id}")), surroundings
            if condition.needs == "others":
                key = (utterance.corpus, utterance.speaker, utterance.emotion)
                others = [u for u in alike[key] if u.id != utterance.id] if utterance.speaker else []
                if not others:
                    continue
                other = others[int(rng.integers(len(others)))]
                around = replace(surroundings, others=(audio.load(other.audio, other.start_s, other.end_s),))
            yield name, utterance, np.asarray(condition.apply(waveform, rng, around), np.float32)


def write_changed(
    data: str | Path,
    folder: str | Path,
    *,
    noises: str | Path | None = None,
    rooms: str | Path | None = None,
    conditions: Sequence[str] | None = None,
    max_clips: int | None = None,
    seed: int = 0,
    progress: Report | None = None,
) -> tuple[dict[str, Path], dict[str, str]]:
    """Write the recordings of every condition, to evaluate other systems: WAV files, and a manifest for each condition.

    They are the recordings that `robustness` predicts with the same arguments: mono, 16 kHz, 32-bit floating point, so
    levels above full scale are not clipped.

    Returns:
        Condition -> its manifest, `clean` first; and skipped condition -> what was missing for it.

    Raises:
        RunError: The folder is not empty.
        AudioError: A recording cannot be read.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError("already exists", where=folder, remedy="Name another folder.")
    everything = [u for u in manifest.read(data) if u.copy_of is None]
    utterances = everything if max_clips is None else evenly_spread(everything, max_clips)
    surroundings = Surroundings.read(Path(noises) if noises else None, Path(rooms) if rooms else None)
    chosen, skipped = chosen_conditions(conditions, surroundings)
    written: dict[str, list[Utterance]] = {CLEAN: [], **{name: [] for name in chosen}}
    number_of = {utterance.id: number for number, utterance in enumerate(utterances)}
    for name, utterance, waveform in changed_recordings(utterances, chosen, surroundings, seed):
        number, stem = number_of[utterance.id], re.sub(r"[^A-Za-z0-9.-]+", "_", utterance.id)[-80:]
        path = folder / _slug(name) / f"{number:05d}-{stem}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            soundfile.write(partial, waveform, SAMPLE_RATE_HZ, format="WAV", subtype="FLOAT")
        written[name].append(
            utterance.model_copy(update={"audio": str(path.absolute()), "start_s": 0.0, "end_s": None})
        )
        if progress:
            progress("writing", number + 1, len(utterances), f"{len(utterances)} clips, {len(written)} conditions")
    skipped |= {name: NEEDS[chosen[name].needs or ""] for name in chosen if not written[name]}
    manifests = {name: folder / f"{_slug(name)}.jsonl" for name, own in written.items() if own}
    for name, path in manifests.items():
        manifest.write(written[name], path)
    return manifests, skipped


def _slug(name: str) -> str:
    """Return a condition's name in a form usable as a file name: `level +10 dB` becomes `level-plus-10-dB`.

    Example:
        >>> _slug("level +10 dB"), _slug("level -10 dB"), _slug("packet loss 5 %")
        ('level-plus-10-dB', 'level-minus-10-dB', 'packet-loss-5-percent')
    """
    for sign, word in ((" +", "-plus-"), (" -", "-minus-"), ("%", "percent"), ("/", "-per-")):
        name = name.replace(sign, word)
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
