"""Evaluate a trained model on a manifest, after checking that its speakers are new to the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from serein.data import manifest
from serein.data.dataset import Recordings
from serein.data.protocols import speaker_key
from serein.data.utterance import Utterance
from serein.errors import LeakError, ManifestError
from serein.evaluation.calibration import model_calibration, with_temperature
from serein.evaluation.predictions import Prediction
from serein.evaluation.scores import Scores, score_predictions
from serein.experiment.predict import predictions_of
from serein.inference.predictor import load
from serein.models.conditioning import require_attributes
from serein.tasks.task import keep_labelled

Progress = Callable[[int, int], None]


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    allow_seen_speakers: bool = False,
    conditions: Literal["predicted", "oracle"] | None = None,
    on_progress: Progress | None = None,
) -> tuple[list[Prediction], Scores]:
    """Predict and score a manifest.

    Utterances whose class the model does not have are left out; the notes of the scores count them.

    Args:
        model: Folder or Hub name.
        data: The manifest.
        allow_seen_speakers: Score speakers that the model was trained on, too; the scores then say so.
        conditions: Source of a conditioned model's conditions; `None` takes the recipe's.

    Raises:
        ManifestError: No utterance has a class of the model, or no utterance has the conditions.
        LeakError: The model was trained on speakers of the manifest, which is not allowed.
    """
    manifest_path = Path(data)
    checkpoint = load(model).checkpoint
    utterances, left_out = keep_labelled(manifest.read(manifest_path), checkpoint.tasks[checkpoint.task])
    if not utterances:
        raise ManifestError(
            f"no utterance has a class of the model; it has {', '.join(left_out)}",
            where=manifest_path,
            remedy=f"The model knows: {', '.join(checkpoint.tasks[checkpoint.task].spec.classes)}.",
        )
    notes = [f"Left out because the model has no such class: {count} {name}." for name, count in left_out.most_common()]
    shared = _shared_speakers(utterances, checkpoint.training.get("speakers", []))
    if shared and not allow_seen_speakers:
        raise LeakError(
            f"the model was trained on {len(shared)} of these speakers: {', '.join(shared[:5])}",
            where=manifest_path,
            remedy="Take new speakers, or allow it with --allow-seen-speakers, which the scores then say.",
        )
    if shared:
        notes.append(f"SPEAKER-DEPENDENT: the model was trained on {len(shared)} of these speakers.")
    condition_source = conditions or checkpoint.options.inference.conditions
    require_attributes(utterances, checkpoint.conditions, condition_source)
    if checkpoint.conditions:
        notes.append(f"Conditions of each clip: {', '.join(checkpoint.conditions)} ({condition_source}).")
    recordings = Recordings(utterances, trim_db=checkpoint.options.clips.trim_db)
    positions = range(len(utterances))
    said = predictions_of(
        checkpoint,
        recordings,
        positions,
        fold="all",
        seed=0,
        condition_source=condition_source,
        on_progress=on_progress,
    )
    predictions = said.by_task[checkpoint.task]
    classes, brought = checkpoint.tasks[checkpoint.task].spec.classes, checkpoint.calibration
    calibration = model_calibration(predictions, classes, None if brought is None else brought.temperature)
    if brought is not None:
        predictions = with_temperature(predictions, brought.temperature)
        notes.append(f"Probabilities are calibrated by the model's temperature of {brought.temperature:.2f}.")
    return predictions, replace(score_predictions(predictions, classes, notes=tuple(notes)), calibration=calibration)


def _shared_speakers(utterances: Sequence[Utterance], learned: Sequence[str]) -> list[str]:
    return sorted({speaker_key(u) for u in utterances if u.speaker is not None} & set(learned))
