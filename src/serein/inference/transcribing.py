"""Transcribe recordings with a model trained by serein, or with a speech recogniser: one text per recording."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from serein.data import audio
from serein.data.audio import Waveform
from serein.data.utterance import Utterance
from serein.errors import AudioError, ModelError
from serein.inference.answering import conditions_of, model_outputs
from serein.inference.predictor import predict_in_batches
from serein.inference.transcription import Transcriber, load_transcriber, transcribe_each
from serein.models import folder as model_folder
from serein.models.folder import Checkpoint, is_model_folder

TASK = "asr"


def transcribe_with(model: str | Path, utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, str | AudioError]]:
    """Yield the transcript, or the error, of each recording.

    Args:
        model: A model folder whose last stage learned transcription, which keeps the order; or a speech recogniser
            (Whisper or CTC), by folder or Hub name, which starts with the longest.

    Raises:
        ModelError: The model cannot be loaded, or did not learn transcription.
    """
    if is_model_folder(model):
        return _by_own(_with_transcripts(model_folder.load(model), model), utterances)
    return _by_recogniser(load_transcriber(str(model)), utterances)


def _with_transcripts(checkpoint: Checkpoint, model: str | Path) -> Checkpoint:
    if TASK not in checkpoint.answered:
        raise ModelError(
            f"predicts {', '.join(checkpoint.answered)}, not transcripts",
            where=model,
            remedy="Name the model of a stage that learned 'asr', below the stage's folder when it is not the last.",
        )
    return checkpoint


def _by_own(checkpoint: Checkpoint, utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, str | AudioError]]:
    def transcribe(waveforms: Sequence[Waveform], some: Sequence[Utterance]) -> Sequence[str]:
        if not waveforms:
            return []
        cut = [audio.trimmed(waveform, checkpoint.options.clips.trim_db) for waveform in waveforms]
        conditions = conditions_of(checkpoint, some, "known")
        return model_outputs(checkpoint, cut.__getitem__, [len(waveform) for waveform in cut], conditions).texts[TASK]

    yield from zip(utterances, predict_in_batches(utterances, transcribe), strict=True)


def _by_recogniser(
    transcriber: Transcriber, utterances: Sequence[Utterance]
) -> Iterator[tuple[Utterance, str | AudioError]]:
    for utterance, text in transcribe_each(transcriber, utterances):
        yield utterance, "" if text is None else text
