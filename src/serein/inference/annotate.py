"""Annotate a corpus with models (pseudo-labels): gender and transcripts, stored separately from its labels.

An interrupted call can be continued: each prediction is appended to a file next to the result.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from serein import hub
from serein.data import manifest
from serein.data.files import lock
from serein.data.manifest import Predicted, Utterance
from serein.errors import AudioError, LeakError, ModelError, RunError
from serein.evaluation.predictions import EvalPrediction, class_names, read_json, read_run_predictions, read_specs
from serein.inference.prediction import Prediction
from serein.inference.predictor import Predictor, load
from serein.inference.transcription import Transcriber, load_transcriber, transcribe_each
from serein.progress import Report

GENDERS = ("female", "male")
A_GENDER_MODEL = "a model folder or Hub name of a model that serein trained on gender"

Value = str | AudioError | None
Field = Literal["gender", "transcript"]


@dataclass(frozen=True)
class AnnotationResult:
    """An annotated manifest.

    Attributes:
        utterances: All of the manifest, in its order.
        num_predicted: Field -> number of utterances with a predicted value.
        broken: Recordings that could not be read and were skipped; their utterances have no prediction.
    """

    utterances: list[Utterance]
    num_predicted: dict[Field, int]
    broken: list[AudioError]

    def agreement(self) -> tuple[int, int]:
        """Return the number of predicted genders that equal the label, and the number of utterances with both."""
        both = [u for u in self.utterances if u.gender is not None and u.predicted and u.predicted.gender is not None]
        return sum(u.predicted is not None and u.predicted.gender == u.gender for u in both), len(both)


class RunGenderAnnotator:
    """Annotator that uses a run on gender; no utterance is predicted by a model that was trained on it.

    Test predictions take precedence over dev predictions, which only a run's main task has. Utterances in no fold, for
    example without a label, are predicted by the first fold's model. Utterances in every fold's train set, as in an
    official split, are not predicted.

    Args:
        run: Run folder; the probabilities of several seeds are averaged.
        device: Device of its model, see `serein.load`.

    Raises:
        RunError: The run has no predictions, or its classes are not female and male.
    """

    field: Field = "gender"

    def __init__(self, run: Path, device: str = "auto") -> None:
        self.run, self._device = run, device
        is_further_task = any(spec.name == "gender" for spec in read_specs(run)[1:])
        tested = read_run_predictions(run, kind="gender" if is_further_task else "test")
        _require_genders(class_names(tested), where=run)
        self._predicted: dict[str, list[EvalPrediction]] = {}
        for predictions in (tested, [] if is_further_task else read_run_predictions(run, kind="dev")):
            here = {prediction.id for prediction in predictions} - self._predicted.keys()
            for prediction in predictions:
                if prediction.id in here:
                    self._predicted.setdefault(prediction.id, []).append(prediction)
        self._trained_on = {name for fold in read_json(run / "folds.json").get("folds", ()) for name in fold["train"]}
        self._model_folder = next(iter(sorted(run.glob("fold-*/seed-*/model"))), None)
        digest = hashlib.sha256("\n".join(sorted(map(repr, tested))).encode()).hexdigest()
        self.by = f"{run}, sha256 {digest[:16]}"

    def wanted(self, utterances: Sequence[Utterance], name: str) -> list[Utterance]:
        """Return the utterances that the run predicted, and those that it neither predicted nor was trained on.

        Raises:
            RunError: The run is on other data, or its utterances with these ids have other speakers.
        """
        lacking = [u.id for u in utterances if u.id not in self._predicted and u.id not in self._trained_on]
        if len(lacking) == len(utterances) or (lacking and self._model_folder is None):
            raise RunError(
                f"{len(lacking)} of {len(utterances)} utterances have no prediction there, such as {lacking[0]}",
                where=self.run,
                remedy="Run the recipe on this manifest, or name a model folder instead: --gender MODEL.",
            )
        known = self._predicted
        foreign = [u.id for u in utterances if any(p.speaker not in (None, u.speaker) for p in known.get(u.id, ()))]
        if foreign:
            raise RunError(
                f"{len(foreign)} utterances have another speaker there, such as {foreign[0]}",
                where=self.run,
                remedy="Name a run on this manifest.",
            )
        return [u for u in utterances if u.id in self._predicted or u.id not in self._trained_on]

    def predict(self, utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, Value]]:
        """Yield the gender with the larger mean probability."""
        for utterance in utterances:
            if utterance.id in self._predicted:
                probabilities = [
                    [float(p.prediction == g) if p.probabilities is None else p.probabilities[g] for g in GENDERS]
                    for p in self._predicted[utterance.id]
                ]
                yield utterance, GENDERS[int(np.mean(probabilities, axis=0).argmax())]
        others = [utterance for utterance in utterances if utterance.id not in self._predicted]
        if others and self._model_folder is not None:
            yield from ModelGenderAnnotator(str(self._model_folder), "allow", self._device).predict(others)


class ModelGenderAnnotator:
    """Annotator that uses a gender model trained on other speakers.

    Args:
        name: Model folder or Hub name.
        seen_speakers: Whether it may have been trained on speakers of the manifest.
        device: Device of the model, see `serein.load`.

    Raises:
        ModelError: There is no such model, or its classes are not female and male.
    """

    field: Field = "gender"

    def __init__(self, name: str, seen_speakers: Literal["refuse", "allow"], device: str = "auto") -> None:
        folder = hub.folder_of(name, expected=A_GENDER_MODEL)
        self.name, self._seen_speakers = name, seen_speakers
        self._predictor: Predictor = load(folder, device)
        if "gender" in self._predictor.checkpoint.answered:  # beside other tasks
            self._predictor = self._predictor.with_task("gender")
        _require_genders(self._predictor.classes, where=name)
        self.by = f"{name}, sha256 {hub.folder_digest(folder)[:16]}"

    def wanted(self, utterances: Sequence[Utterance], name: str) -> list[Utterance]:
        """Return all utterances.

        Args:
            name: Name of their manifest.

        Raises:
            LeakError: The model was trained on some of the speakers, and that is refused.
        """
        shared = self._predictor.checkpoint.learned_speakers(utterances, name)
        if shared and self._seen_speakers == "refuse":
            raise LeakError(
                f"the model was trained on {len(shared)} of these speakers: {', '.join(shared[:5])}",
                where=self.name,
                remedy="Name a run of a gender recipe on this manifest, whose test predictions are then used, "
                "or allow it with --allow-seen-speakers.",
            )
        return list(utterances)

    def predict(self, utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, Value]]:
        """Yield the gender with the larger probability."""
        results = self._predictor.predict_files(utterances, on_error="return")
        for utterance, outcome in zip(utterances, results, strict=True):
            if isinstance(outcome, Prediction):
                yield utterance, max(GENDERS, key=outcome.probabilities.__getitem__)
            else:
                yield utterance, outcome


class TranscriptAnnotator:
    """Annotator that uses a speech recognition model.

    Args:
        name: Folder or Hub name.
        which: Whether utterances with a transcript are transcribed as well.
        language: Spoken language; `None` uses each utterance's own.
        device: Device of the model, see `serein.load`.

    Raises:
        ModelError: There is no such model, or it does not support the language.
    """

    field: Field = "transcript"

    def __init__(self, name: str, which: Literal["missing", "all"], language: str | None, device: str = "auto") -> None:
        self._transcriber: Transcriber = load_transcriber(name, device, language)
        self._which, self._language = which, language
        setting = f", language {language}" if language else ""
        self.by = f"{name}, sha256 {hub.folder_digest(self._transcriber.folder)[:16]}{setting}"

    def wanted(self, utterances: Sequence[Utterance], name: str) -> list[Utterance]:
        """Return the utterances without a transcript, or all utterances."""
        return [u for u in utterances if self._which == "all" or not (u.transcript or "").strip()]

    def predict(self, utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, Value]]:
        """Yield the transcript of each utterance."""
        yield from transcribe_each(self._transcriber, utterances, language=self._language)


Annotator = RunGenderAnnotator | ModelGenderAnnotator | TranscriptAnnotator


def gender_annotator(name: str, seen_speakers: Literal["refuse", "allow"], device: str = "auto") -> Annotator:
    """Return the gender annotator of a run folder, a model folder, or a Hub name."""
    run = Path(name)
    if any(run.glob("fold-*")):
        return RunGenderAnnotator(run, device)
    return ModelGenderAnnotator(name, seen_speakers, device)


def annotate(
    manifest_path: Path, out: Path, annotators: Sequence[Annotator], *, broken: Literal["stop", "skip"], report: Report
) -> AnnotationResult:
    """Predict missing fields of a manifest, and write it with the predictions.

    Args:
        manifest_path: The manifest; its labels are not changed.
        out: File for the annotated manifest, which is written atomically at the end. If it exists, other fields that an
            earlier call predicted are kept for utterances that have not changed since.
        annotators: Annotators, which predict one field each.
        broken: Whether an utterance that cannot be read stops the work or is skipped.
        report: Called with the number of finished utterances and the rate.

    Raises:
        ManifestError: The manifest, or a file that is at `out`, is not a manifest.
        AudioError: An utterance cannot be read, and is not to be skipped.
        RunError: An unfinished earlier call was for other data or models, or another process writes to the file.
        SereinError: An annotator may not or cannot predict these utterances.
    """
    utterances = manifest.read(manifest_path)
    written = {u.id: u for u in manifest.read(out)} if out.exists() else {}
    wanted = [annotator.wanted(utterances, manifest_path.stem) for annotator in annotators]
    partial = out.with_name(f"{out.name}.partial")
    by: dict[str, str] = {annotator.field: annotator.by for annotator in annotators}
    inputs = [manifest.digest(utterances), *(f"{annotator.field}: {annotator.by}" for annotator in annotators)]
    key = hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:16]
    problems: list[AudioError] = []
    values_of: dict[Field, dict[str, str | None]] = {}  # field -> utterance id -> value, `None` if none was found
    with _notes(partial, key) as (finished, notes):
        for annotator, some in zip(annotators, wanted, strict=True):
            known = finished[annotator.field]
            todo = [u for u in some if u.id not in known]
            started, before = time.monotonic(), len(some) - len(todo)
            for number, (utterance, outcome) in enumerate(annotator.predict(todo), start=1):
                if isinstance(outcome, AudioError):
                    if broken == "stop":
                        raise outcome
                    problems.append(outcome)
                else:
                    known[utterance.id] = outcome
                    _note(notes, [annotator.field, utterance.id, outcome])  # immediately
                done, rate = before + number, number / max(time.monotonic() - started, 1e-3)
                report(annotator.field, done, len(some), f"{done}/{len(some)} clips, {rate:.1f} a second")
            values_of[annotator.field] = {u.id: known[u.id] for u in some if u.id in known}
    annotated = []
    for utterance in utterances:
        values: dict[str, str | None] = {name: of[utterance.id] for name, of in values_of.items() if utterance.id in of}
        earlier = utterance.predicted or Predicted()  # new predictions are added to these
        names = earlier.by | {name: by[name] for name in values}
        old = written.get(utterance.id)
        if old and old.predicted and old == utterance.model_copy(update={"predicted": old.predicted}):
            others = old.predicted.by.keys() - by.keys() - earlier.by.keys()
            values |= old.predicted.model_dump(include=others)
            names |= {name: old.predicted.by[name] for name in others}
        predicted = Predicted.model_validate(earlier.model_dump() | values | {"by": names})
        annotated.append(utterance.model_copy(update={"predicted": predicted}) if values else utterance)
    manifest.write(annotated, out)
    partial.unlink()
    num_predicted = {name: sum(value is not None for value in of.values()) for name, of in values_of.items()}
    return AnnotationResult(annotated, num_predicted, problems)


@contextmanager
def _notes(path: Path, key: str) -> Iterator[tuple[dict[str, dict[str, str | None]], IO[bytes]]]:
    """Open the file of finished values; yield its contents (field -> id -> value), and the file to append to.

    An incomplete last line, left by a killed process, is cut off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        lock(file, path, "another process is working on it")
        file.seek(0)
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        file.truncate(len(whole))
        if not whole:
            _note(file, {"for": key})
        known: dict[str, dict[str, str | None]] = defaultdict(dict)
        try:
            header, *notes = [json.loads(line) for line in whole.splitlines()] or [{"for": key}]
            is_ours = header["for"] == key
            for name, utterance, value in notes:
                known[name][utterance] = value
        except (ValueError, TypeError, KeyError):
            is_ours = False
        if not is_ours:
            raise RunError(
                "an unfinished earlier call was for other data, models or options",
                where=path,
                remedy="Delete it, or choose another file with --out.",
            )
        yield known, file


def _note(file: IO[bytes], what: object) -> None:
    file.write(json.dumps(what).encode() + b"\n")
    file.flush()


def _require_genders(classes: Sequence[str], *, where: str | Path) -> None:
    if set(classes) != set(GENDERS):
        raise ModelError(
            f"has {'the classes ' + ', '.join(classes) if classes else 'no classes'}, not {' and '.join(GENDERS)}",
            where=where,
            remedy="Name a model or run with the task 'gender'.",
        )
