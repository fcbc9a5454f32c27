"""Predict many recordings, each whole or in segments of speech, in this process or in several."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Literal

import torch

from serein import audio
from serein.data.utterance import Utterance
from serein.distributed import end_with_parent
from serein.errors import AudioError, RunError
from serein.inference.predictor import CLIPS_AT_ONCE, Prediction, Predictor, load
from serein.inference.segments import NO_REJECT_OPTION, SLIDING_WINDOW, RejectOption, SlidingWindow, Timeline
from serein.inference.streams import Progress, predict_recording

RecordingResult = Prediction | Timeline | AudioError


@dataclass(frozen=True)
class PredictOptions:
    """How recordings are predicted.

    Attributes:
        segments: Which recordings are cut into segments of speech: `always`, `never`, or `auto`: those longer than the
            model's window (`clips.window_s` of its recipe).
        sliding_window: How speech is cut.
        reject_option: When a prediction is rejected.
    """

    segments: Literal["auto", "always", "never"] = "auto"
    sliding_window: SlidingWindow = SLIDING_WINDOW
    reject_option: RejectOption = NO_REJECT_OPTION


def predict_recordings(
    predictor: Predictor, utterances: Sequence[Utterance], options: PredictOptions, on_progress: Progress | None = None
) -> Iterator[RecordingResult]:
    """Yield a prediction, or the error, for each recording in order; a few are in memory at once.

    Args:
        on_progress: Called with the seconds done and all seconds of a recording that is cut into segments.
    """
    for start in range(0, len(utterances), CLIPS_AT_ONCE):
        some = utterances[start : start + CLIPS_AT_ONCE]
        is_segmented = [_is_segmented(predictor, utterance, options) for utterance in some]
        whole = [utterance for utterance, is_cut in zip(some, is_segmented, strict=True) if not is_cut]
        predictions = predictor.predict_each(whole)
        for utterance, is_cut in zip(some, is_segmented, strict=True):
            result = _in_segments(predictor, utterance, options, on_progress) if is_cut else next(predictions)
            yield options.reject_option.applied_to(result) if isinstance(result, Prediction) else result


def predict_in_processes(
    model: str | None,
    labels: Sequence[str] | None,
    utterances: Sequence[Utterance],
    options: PredictOptions,
    num_workers: int,
) -> Iterator[RecordingResult]:
    """Predict as `predict_recordings` does, in processes that share the cores.

    Args:
        model: Is loaded in each process; `None` is the default model.
        labels: Words to use as classes, for a model of words.

    Raises:
        RunError: A process was killed.
    """
    parts = [utterances[i : i + CLIPS_AT_ONCE] for i in range(0, len(utterances), CLIPS_AT_ONCE)]
    num_threads = max(1, torch.get_num_threads() // num_workers)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, _start, (model, labels, options, num_threads))
    waiting: deque[Future[list[RecordingResult]]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(_predict_part, part))
            if len(waiting) > 2 * num_workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool:
        raise RunError(
            "a process was killed, perhaps because memory ran out",
            where="--workers",
            remedy="Use fewer; with --out, finished predictions are kept.",
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_predict: Callable[[Sequence[Utterance]], Iterator[RecordingResult]] | None = None


def _start(model: str | None, labels: Sequence[str] | None, options: PredictOptions, num_threads: int) -> None:
    """Load the model in a new process; it ends with its parent, which handles the keyboard interrupt."""
    global _predict
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(num_threads)
    predictor = load(model) if labels is None else load(model).with_labels(labels)
    _predict = lambda utterances: predict_recordings(predictor, utterances, options)  # noqa: E731  (kept for the process's life)


def _predict_part(utterances: Sequence[Utterance]) -> list[RecordingResult]:
    assert _predict is not None
    return list(_predict(utterances))


def _is_segmented(predictor: Predictor, utterance: Utterance, options: PredictOptions) -> bool:
    if options.segments != "auto":
        return options.segments == "always"
    try:
        duration_s = audio.info(utterance.audio, utterance.start_s, utterance.end_s).duration_s
    except AudioError:
        return False  # predicting it raises the error again
    return duration_s > predictor.checkpoint.options.clips.window_s


def _in_segments(
    predictor: Predictor, utterance: Utterance, options: PredictOptions, on_progress: Progress | None
) -> Timeline | AudioError:
    try:
        return predict_recording(
            predictor,
            utterance.audio,
            utterance.start_s,
            utterance.end_s,
            sliding_window=options.sliding_window,
            reject_option=options.reject_option,
            on_progress=on_progress,
        )
    except AudioError as error:
        return error
