"""What a corpus does not say, said by models: gender and transcripts, kept apart from its labels.

Work of hours outlives a kill: each answer is appended to a file beside the result, and a second call goes on from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol

import numpy as np

from serein import hub
from serein.data import manifest
from serein.data.groups import speaker_key
from serein.data.utterance import Predicted, Utterance
from serein.errors import AudioError, LeakError, ModelError, RunError
from serein.evaluation.predictions import Prediction as RunPrediction
from serein.evaluation.predictions import class_names
from serein.evaluation.run_folder import read_json, read_run_predictions
from serein.inference.predictor import Prediction, Predictor, load
from serein.inference.transcription import Transcriber, load_transcriber, transcribe_each
from serein.progress import Report

GENDERS = ("female", "male")
A_GENDER_MODEL = "a model folder or Hub name of a model that serein trained on gender"

Outcome = str | AudioError | None
Field = Literal["gender", "transcript"]


class Annotator(Protocol):
    """Something that predicts one field of utterances.

    Attributes:
        field: Of `Predicted`.
        by: Its name and what it hashes to, for `Predicted.by`.
    """

    field: Field
    by: str

    def wanted(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Return those that it is to answer for, after the proof that it may."""
        ...

    def answers(self, utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, Outcome]]:
        """Yield each with its value, `None` where there is none, or what is wrong with its audio."""
        ...


@dataclass(frozen=True)
class AnnotationResult:
    """What came of filling a manifest.

    Attributes:
        utterances: All of the manifest, in its order.
        num_predicted: Field -> utterances that have a value by its source.
        broken: What could not be heard, when that was to be skipped; its utterance has no prediction.
    """

    utterances: list[Utterance]
    num_predicted: dict[Field, int]
    broken: list[AudioError]

    def agreement(self) -> tuple[int, int]:
        """Return how many predicted genders are the labelled one, and how many have a label to be compared with."""
        both = [u for u in self.utterances if u.gender is not None and u.predicted and u.predicted.gender is not None]
        return sum(u.predicted is not None and u.predicted.gender == u.gender for u in both), len(both)


class RunGenderAnnotator:
    """A run that learned gender: no utterance is answered for by a model that learned from it.

    Test predictions come first, then dev's; what no fold held, for want of a label perhaps, the first fold's model
    hears. Of what every fold learned from, as the train set of an official split, nothing is predicted.

    Args:
        run: Run folder; the probabilities of several seeds are averaged.

    Raises:
        RunError: It holds no predictions, or its classes are not female and male.
    """

    field: Field = "gender"

    def __init__(self, run: Path) -> None:
        self.run = run
        tested = read_run_predictions(run)
        _require_genders(class_names(tested), where=run)
        self._said: dict[str, list[RunPrediction]] = {}
        for predictions in (tested, read_run_predictions(run, kind="dev")):
            here = {prediction.id for prediction in predictions} - self._said.keys()
            for prediction in predictions:
                if prediction.id in here:
                    self._said.setdefault(prediction.id, []).append(prediction)
        self._learned = {name for fold in read_json(run / "folds.json").get("folds", ()) for name in fold["train"]}
        self.by = f"{run}, sha256 {_digest_of(sorted(map(repr, tested)))}"

    def wanted(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Return those that the run predicted, and those that it neither predicted nor learned from.

        Raises:
            RunError: The run is of other data, or its utterances of these names have other speakers.
        """
        lacking = [u.id for u in utterances if u.id not in self._said and u.id not in self._learned]
        if len(lacking) == len(utterances) or (lacking and self._model_folder() is None):
            raise RunError(
                f"{len(lacking)} of {len(utterances)} utterances have no prediction there, such as {lacking[0]}",
                where=self.run,
                remedy="Run the recipe on this manifest, or name a model folder instead: --gender MODEL.",
            )
        said = self._said
        foreign = [u.id for u in utterances if any(p.speaker not in (None, u.speaker) for p in said.get(u.id, ()))]
        if foreign:
            raise RunError(
                f"{len(foreign)} utterances have another speaker there, such as {foreign[0]}",
                where=self.run,
                remedy="Name a run on this manifest.",
            )
        return [u for u in utterances if u.id in self._said or u.id not in self._learned]

    def answers(self, utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, Outcome]]:
        """Yield the gender with the larger mean share."""
        for utterance in utterances:
            if utterance.id in self._said:
                yield utterance, self._gender(utterance.id)
        unsaid = [utterance for utterance in utterances if utterance.id not in self._said]
        if unsaid and (folder := self._model_folder()) is not None:
            yield from _heard(load(folder), unsaid)

    def _model_folder(self) -> Path | None:
        return next(iter(sorted(self.run.glob("fold-*/seed-*/model"))), None)

    def _gender(self, name: str) -> str:
        probabilities = [[_share(prediction, gender) for gender in GENDERS] for prediction in self._said[name]]
        return GENDERS[int(np.mean(probabilities, axis=0).argmax())]


class ModelGenderAnnotator:
    """A model that learned gender from other speakers.

    Args:
        name: Model folder or Hub name.
        seen_speakers: Whether it may have learned from speakers of the manifest.

    Raises:
        ModelError: There is no such model, or its classes are not female and male.
    """

    field: Field = "gender"

    def __init__(self, name: str, seen_speakers: Literal["refuse", "allow"]) -> None:
        folder = hub.folder_of(name, expected=A_GENDER_MODEL)
        self.name, self._seen_speakers = name, seen_speakers
        self._predictor: Predictor = load(folder)
        _require_genders(self._predictor.classes, where=name)
        self.by = f"{name}, sha256 {hub.folder_digest(folder)[:16]}"

    def wanted(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Return all.

        Raises:
            LeakError: The model learned from some of the speakers, and that is refused.
        """
        learned = set(self._predictor.content.training.get("speakers", []))
        shared = sorted({speaker_key(u) for u in utterances if u.speaker is not None} & learned)
        if shared and self._seen_speakers == "refuse":
            raise LeakError(
                f"the model learned from {len(shared)} of these speakers: {', '.join(shared[:5])}",
                where=self.name,
                remedy="Name a run of a gender recipe on this manifest, whose test predictions are taken, "
                "or allow it with --seen-speakers.",
            )
        return list(utterances)

    def answers(self, utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, Outcome]]:
        """Yield the gender with the larger share."""
        yield from _heard(self._predictor, utterances)


class TranscriptAnnotator:
    """A speech recognition model.

    Args:
        name: Folder or Hub name.
        which: Whether utterances with a transcript are transcribed as well.
        language: What is spoken; `None` goes by what the utterances say.

    Raises:
        ModelError: There is no such model, or it does not know the language.
    """

    field: Field = "transcript"

    def __init__(self, name: str, which: Literal["missing", "all"], language: str | None) -> None:
        self._transcriber: Transcriber = load_transcriber(name)
        self._which, self._language = which, language
        if language is not None and not self._transcriber.knows(language):
            raise ModelError(
                f"cannot be told to expect the language '{language}'",
                where=name,
                remedy="Leave out --language, or name a multilingual Whisper and a language that it knows.",
            )
        told = f", language {language}" if language else ""
        self.by = f"{name}, sha256 {hub.folder_digest(self._transcriber.folder)[:16]}{told}"

    def wanted(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Return those without a transcript, or all."""
        return [u for u in utterances if self._which == "all" or not (u.transcript or "").strip()]

    def answers(self, utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, Outcome]]:
        """Yield the words of each."""
        yield from transcribe_each(self._transcriber, utterances, language=self._language)


def gender_annotator(name: str, seen_speakers: Literal["refuse", "allow"]) -> Annotator:
    """Return the source of genders that a person names: a run folder, a model folder, or a Hub name."""
    run = Path(name)
    if any(run.glob("fold-*")):
        return RunGenderAnnotator(run)
    return ModelGenderAnnotator(name, seen_speakers)


def annotate(
    manifest_path: Path, out: Path, sources: Sequence[Annotator], *, broken: Literal["stop", "skip"], report: Report
) -> AnnotationResult:
    """Have models predict what is missing, and write the manifest with it.

    Args:
        manifest_path: Its labels stay as they are.
        out: Where the manifest goes; written whole when all is done.
        sources: What predicts.
        broken: Whether an utterance that cannot be heard stops the work or is skipped.
        report: Told how many utterances are done, and how many a second.

    Raises:
        AudioError: An utterance cannot be heard, and that is not to be skipped.
        RunError: What an earlier call left was for other data or models, or another process is at it.
        SereinError: A source may not or cannot answer for these utterances.
    """
    utterances = manifest.read(manifest_path)
    wanted = [source.wanted(utterances) for source in sources]
    watch = _Watch(broken, report)
    partial = out.with_name(f"{out.name}.partial")
    key = _digest_of([manifest.digest(utterances), *(f"{source.field}: {source.by}" for source in sources)])
    with _notes(partial, key) as (known, notes):
        said = {
            source.field: _Said(source.by, _answered(source, some, known[source.field], notes, watch))
            for source, some in zip(sources, wanted, strict=True)
        }
    filled = [_with_predictions(utterance, said) for utterance in utterances]
    manifest.write(filled, out)
    partial.unlink()
    return AnnotationResult(filled, {name: each.num_values for name, each in said.items()}, watch.problems)


@dataclass(frozen=True)
class _Said:
    """What a source said: utterance id -> value, `None` where it found none."""

    by: str
    values: dict[str, str | None]

    @property
    def num_values(self) -> int:
        return sum(value is not None for value in self.values.values())


@dataclass
class _Watch:
    """What becomes of broken audio, and who is told."""

    broken: Literal["stop", "skip"]
    report: Report
    problems: list[AudioError] = dataclasses.field(default_factory=list)


def _answered(
    source: Annotator, wanted: Sequence[Utterance], known: dict[str, str | None], notes: IO[bytes], watch: _Watch
) -> dict[str, str | None]:
    """Ask for what is not known yet, note each answer at once, and return all that were wanted."""
    todo = [u for u in wanted if u.id not in known]
    started, before = time.monotonic(), len(wanted) - len(todo)
    for number, (utterance, outcome) in enumerate(source.answers(todo), start=1):
        if isinstance(outcome, AudioError):
            if watch.broken == "stop":
                raise outcome
            watch.problems.append(outcome)
        else:
            known[utterance.id] = outcome
            _note(notes, [source.field, utterance.id, outcome])
        done, rate = before + number, number / max(time.monotonic() - started, 1e-3)
        watch.report(source.field, done, len(wanted), f"{done}/{len(wanted)} clips, {rate:.1f} a second")
    return {u.id: known[u.id] for u in wanted if u.id in known}


@contextmanager
def _notes(path: Path, key: str) -> Iterator[tuple[dict[str, dict[str, str | None]], IO[bytes]]]:
    """Open the file of answers: what it holds (field -> id -> value), and the file to append to.

    A kill may leave half a line at its end, which is cut off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        _lock(file, path)
        file.seek(0)
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        file.truncate(len(whole))
        if not whole:
            _note(file, {"for": key})
        known: dict[str, dict[str, str | None]] = defaultdict(dict)
        for name, utterance, value in _read_notes(whole, key, path):
            known[name][utterance] = value
        yield known, file


def _note(file: IO[bytes], what: object) -> None:
    file.write(json.dumps(what).encode() + b"\n")
    file.flush()


def _read_notes(content: bytes, key: str, path: Path) -> list[list[str]]:
    try:
        header, *notes = [json.loads(line) for line in content.splitlines()] or [{"for": key}]
        is_ours = header["for"] == key and all(len(note) == 3 for note in notes)
    except (ValueError, TypeError, KeyError):
        is_ours = False
    if not is_ours:
        raise RunError(
            "what an earlier call left belongs to other data, models or options",
            where=path,
            remedy="Delete it, or name another file with --out.",
        )
    return notes


def _lock(file: IO[bytes], path: Path) -> None:
    """Keep a second process out; a killed one leaves no lock behind."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # no such lock on Windows
    except BlockingIOError:
        raise RunError("another process is working on it", where=path, remedy="Wait for it or stop it.") from None


def _with_predictions(utterance: Utterance, said: Mapping[Field, _Said]) -> Utterance:
    """Return an utterance with what was predicted now beside what was before."""
    values = {name: each.values[utterance.id] for name, each in said.items() if utterance.id in each.values}
    if not values:
        return utterance
    before = utterance.predicted or Predicted()
    by = before.by | {name: said[name].by for name in values}
    predicted = Predicted.model_validate(before.model_dump() | values | {"by": by})
    return utterance.model_copy(update={"predicted": predicted})


def _share(prediction: RunPrediction, gender: str) -> float:
    if prediction.probabilities is None:
        return float(prediction.prediction == gender)
    return prediction.probabilities[gender]


def _heard(predictor: Predictor, utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, Outcome]]:
    for utterance, outcome in zip(utterances, predictor.predict_each(utterances), strict=True):
        yield utterance, _larger(outcome) if isinstance(outcome, Prediction) else outcome


def _larger(answer: Prediction) -> str:
    return max(GENDERS, key=lambda gender: answer.probabilities[gender])


def _require_genders(classes: Sequence[str], *, where: str | Path) -> None:
    if set(classes) != set(GENDERS):
        raise ModelError(
            f"says {', '.join(classes)}, not {' and '.join(GENDERS)}",
            where=where,
            remedy="Name a model or run of a gender recipe.",
        )


def _digest_of(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
