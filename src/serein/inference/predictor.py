"""A loaded model and the one way to predict with it: recordings in, predictions out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray

from serein import audio, hub
from serein import checkpoint as checkpoints
from serein.audio import SAMPLE_RATE_HZ, Upload, Waveform
from serein.checkpoint import AbsentModel, Checkpoint
from serein.data.manifest import Utterance
from serein.device import MOST_THREADS, core_threads, device_of, num_cores
from serein.errors import AudioError, ModelError, RecipeError, expected_one_of
from serein.hub import SHIPPED_MODELS
from serein.inference.batching import embedding_selection, model_outputs
from serein.inference.prediction import ClipPrediction, Prediction, RejectOption
from serein.inference.reading import Item, Windows, length_s, read_ahead
from serein.inference.recording import SLIDING_WINDOW, PredictOptions, Recording, Segments, SlidingWindow
from serein.inference.runtimes import (
    FileRuntime,
    PrecisionName,
    Runtime,
    RuntimeName,
    TorchRuntime,
    log_runtime,
    open_runtime,
)
from serein.inference.sources import Source, is_list_of_files, utterance_of
from serein.inference.streams import Stream
from serein.metrics import tempered
from serein.models.conditioning import attribute_vectors
from serein.tasks.task import most_probable

BATCH_S = 30.0  # of audio predicted together; more does not fit into a core's cache, and takes a fifth longer
READ_TOGETHER = 16  # recordings that a thread reads one after the other; speech in short ones is detected in one batch
MOST_WAITING = 1024  # windows in a batch, which limits the number of very short windows
PARAMETER_SECONDS = 1e7  # of audio times parameters, from which another thread is worthwhile

if hasattr(os, "register_at_fork"):  # threads do not survive in a forked process, which would wait for them forever
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))

OnError = Literal["raise", "skip", "return"]
Progress = Callable[[float, float], None]  # finished seconds of a recording, and its total seconds


class Predictor:
    """A model that predicts recordings.

    Args:
        checkpoint: The loaded model.
        device: See `serein.device.device_of`.
        runtime: Runtime of the network; `None`: PyTorch.

    Example:
        >>> model = serein.load()  # doctest: +SKIP
        >>> model.predict("clip.wav")  # doctest: +SKIP
        Prediction(file='clip.wav', emotion='happy', confidence=0.832, segments=1)
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "auto", runtime: FileRuntime | None = None) -> None:
        self.checkpoint = checkpoint
        self.model = checkpoint.model.eval()
        self.task = checkpoint.task
        self.runtime: Runtime
        if runtime is None:
            self.to(device)
        else:
            self.runtime, self.device = runtime, runtime.device
        self.num_parameters = sum(parameter.numel() for parameter in self.model.parameters())

    def __repr__(self) -> str:
        """Return name, task, classes and device."""
        names = ", ".join(self.classes) or "no classes"
        return f"Predictor({self.checkpoint.name!r}, {self.task}: {names}, device={str(self.device)!r})"

    def to(self, device: str) -> Predictor:
        """Move the model permanently to a device, and return it.

        Raises:
            ModelError: There is no such device, or the model is an exported file, which stays where it was loaded.
        """
        if isinstance(self.model, AbsentModel):
            raise ModelError("an exported file stays where it was loaded", where="device", remedy="Load it there.")
        self.device = device_of(device)
        self.model.to(self.device)
        self.runtime = TorchRuntime(self.checkpoint)
        return self

    def _with(self, checkpoint: Checkpoint) -> Predictor:
        """Return the same network with another description."""
        runtime = self.runtime if isinstance(self.runtime, FileRuntime) else None
        return Predictor(checkpoint, str(self.device), runtime)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Name and SHA-256 of the model, as predictions state them."""
        return {"name": self.checkpoint.name, "sha256": self.checkpoint.digest}

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the main task; none if it predicts words or numbers."""
        return self.checkpoint.tasks[self.task].spec.classes

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the numbers that its tasks predict."""
        return tuple(name for task in self.checkpoint.answered for name in self.checkpoint.tasks[task].spec.numbers)

    @property
    def other_tasks(self) -> tuple[str, ...]:
        """Names of the tasks besides the main one that predict a class or words."""
        names = (name for name in self.checkpoint.answered if name != self.task)
        return tuple(name for name in names if not self.checkpoint.tasks[name].spec.numbers)

    def with_labels(self, labels: Sequence[str]) -> Predictor:
        """Return the same model with other words as classes, without any training (stanley2023, section 3.3).

        Args:
            labels: Words of the model's vocabulary; a label of several words is the mean of their vectors.

        Raises:
            ModelError: The model has fixed classes, or its vocabulary has changed.
            RecipeError: A word has no vector, or there are fewer than two labels.
        """
        tasks = {**self.checkpoint.tasks, self.task: self.checkpoint.tasks[self.task].with_labels(labels)}
        return self._with(replace(self.checkpoint, tasks=tasks, calibration=None))

    def with_task(self, name: str) -> Predictor:
        """Return the same model, restricted to one of its tasks.

        Raises:
            ModelError: It has no such task.
        """
        checkpoint = self.checkpoint
        if name not in checkpoint.answered:
            raise ModelError(
                f"the model does not predict '{name}', but: {', '.join(checkpoint.answered)}",
                where=checkpoint.name,
                remedy="Name one of these, or train a model of that task (docs/recipes.md).",
            )
        options = checkpoint.options.model_copy(update={"answered": (name,)})
        calibration = checkpoint.calibration if name == self.task else None
        return self._with(replace(checkpoint, options=options, calibration=calibration))

    def uncalibrated(self) -> Predictor:
        """Return the same model with its probabilities before calibration, for combining it with others."""
        return self._with(replace(self.checkpoint, calibration=None))

    @overload
    def predict(
        self,
        source: list[str] | list[Path] | list[Utterance],
        *,
        segments: Segments = ...,
        labels: Sequence[str] | None = ...,
        min_confidence: float = ...,
        min_duration_s: float = ...,
        sliding_window: SlidingWindow = ...,
    ) -> list[Prediction]: ...

    @overload
    def predict(
        self,
        source: Any,
        sampling_rate: float | None = ...,
        *,
        segments: Segments = ...,
        labels: Sequence[str] | None = ...,
        min_confidence: float = ...,
        min_duration_s: float = ...,
        sliding_window: SlidingWindow = ...,
    ) -> Prediction: ...

    def predict(
        self,
        source: Any,
        sampling_rate: float | None = None,
        *,
        segments: Segments = "auto",
        labels: Sequence[str] | None = None,
        min_confidence: float = 0.0,
        min_duration_s: float = 0.0,
        sliding_window: SlidingWindow = SLIDING_WINDOW,
    ) -> Prediction | list[Prediction]:
        """Predict one recording, or each of a list of files.

        Args:
            source: A path; samples: numpy, torch or lists, of any float or integer type, mono or with channels (two
                axes are always channels of one recording, never a batch);
                `{"array": ..., "sampling_rate": ...}`; a pair of samples and their rate; the bytes of a file, or a file
                object; an `Utterance`; or a list of paths and utterances.
            sampling_rate: Sampling rate of samples, in Hz; files and their bytes state their own.
            segments: `auto`: recordings are cut into segments of speech first, utterances of a manifest are not;
                `always`; `never`.
            labels: Words to use as classes, for a model of words.
            min_confidence: Reject predictions with a lower confidence.
            min_duration_s: Reject predictions based on less speech, in seconds.
            sliding_window: How to cut speech into windows.

        Raises:
            AudioError: A recording cannot be read, samples are invalid or a list of arrays, or a rate is given for a
                file.
        """
        model = self if labels is None else self.with_labels(labels)
        options = PredictOptions(segments, sliding_window, RejectOption(min_confidence, min_duration_s))
        predictions = model._predictions(source, sampling_rate, options)
        return predictions if is_list_of_files(source) else predictions[0]

    def predict_files(
        self,
        files: Source | Iterable[Source],
        *,
        options: PredictOptions | None = None,
        segments: Segments | None = None,
        on_error: OnError = "raise",
        embedding: str | None = None,
        on_progress: Progress | None = None,
    ) -> Iterator[Any]:
        """Yield a prediction for each file or utterance, in order; batched by length, in constant memory.

        Args:
            files: Any number of paths of recordings or utterances of a manifest, or a single one.
            options: Options of the prediction; `None`: the defaults, with `segments`.
            segments: See `predict`; `None`: `auto`, or what `options` contain.
            on_error: What to do with a recording that cannot be read: `raise`, `skip` it, or `return` the error in
                its place.
            embedding: Which of the model's embeddings to store in the predictions, see `embed`.
            on_progress: Called with the seconds read of the recording that is yielded next, and its total seconds.

        Raises:
            AudioError: A recording cannot be read, and `on_error` is `raise`; or `files` are bytes.
            RecipeError: There are `options` and `segments`.
        """
        if isinstance(files, bytes):  # whose numbers are not files
            raise AudioError("is the content of a file, not files", where="files", remedy="Use predict.")
        if options is not None and segments is not None:
            remedy = "Give PredictOptions(segments), or only segments."
            raise RecipeError("'options' contain 'segments', too", where="segments", remedy=remedy)
        if on_error not in ("raise", "skip", "return"):
            what = expected_one_of(on_error, ("raise", "skip", "return"), kind="value")
            raise RecipeError(what, where="on_error", remedy="Name one of these.")
        options = options or PredictOptions(segments or "auto")
        pending: deque[Item] = deque()

        def groups() -> Iterator[list[Item]]:
            sources = iter([files] if isinstance(files, Source) else files)
            while group := [self._item(source, options) for source in islice(sources, READ_TOGETHER)]:
                pending.extend(group)
                yield group

        is_on_cpu = self.device.type == "cpu"
        num_threads = min(torch.get_num_threads() if is_on_cpu else num_cores(), MOST_THREADS)
        batch_s = BATCH_S if is_on_cpu else self.checkpoint.options.inference.batch_s
        told: tuple[Item, float] | None = None
        waiting: Windows = []
        predicting: deque[tuple[Windows, Callable[[], list[ClipPrediction]]]] = deque()
        with core_threads(num_threads) as threads:
            # on the CPU, batches side by side on one core each take less time than one after the other on all cores
            own = threads if is_on_cpu and isinstance(self.runtime, TorchRuntime) else None
            for windows in read_ahead(groups(), threads, num_threads, measure=on_progress is not None):
                if on_progress and pending and (total_s := pending[0].duration_s) is not None:
                    done = (pending[0], min(pending[0].recording.duration_s, total_s))
                    if done != told:
                        on_progress(done[1], total_s)
                    told = done
                waiting += windows
                if length_s(waiting) >= batch_s or len(waiting) > MOST_WAITING:
                    predict = partial(self._predict_windows, waiting, embedding)
                    predicting.append((waiting, own.submit(predict).result if own else predict))
                    waiting = []
                while len(predicting) > (num_threads if own else 0):
                    _add(*predicting.popleft())
                yield from self._finished(pending, on_error)
            while predicting:
                _add(*predicting.popleft())
        _add(waiting, partial(self._predict_windows, waiting, embedding))
        yield from self._finished(pending, on_error)

    def _item(self, source: Source, options: PredictOptions) -> Item:
        utterance = utterance_of(source)
        is_whole = options.segments == "never" or (options.segments == "auto" and isinstance(source, Utterance))
        recording = Recording(self.task, options, is_whole=is_whole, start_s=utterance.start_s)
        return Item(utterance, source if isinstance(source, Upload) else utterance.audio, recording)

    def embed(
        self,
        source: Any,
        sampling_rate: float | None = None,
        *,
        embedding: str | None = None,
        segments: Segments = "auto",
    ) -> NDArray[np.float32]:
        """Return the embedding of a recording, (feature,), or of each of a list of files, (file, feature); float32.

        Args:
            source: As in `predict`.
            embedding: A task: its own embedding; `fused`: the main task's, after fusion; `None`: the input of the main
                task's output layer.

        Raises:
            AudioError: A recording cannot be read, or contains no speech; or the list is empty.
            ModelError: The model has no such embedding.
        """
        embedding_selection(self.checkpoint, embedding)
        predictions = self._predictions(source, sampling_rate, PredictOptions(segments), embedding)
        for prediction in predictions:
            if not len(prediction.embedding):
                remedy = "Remove it, or take it whole with segments='never'."
                raise AudioError(f"cannot be embedded: {prediction.rejected}", where=prediction.file, remedy=remedy)
        if not predictions:
            raise AudioError("there are no recordings to embed", where="source", remedy="Give at least one.")
        vectors = np.stack([prediction.embedding for prediction in predictions])
        return vectors if is_list_of_files(source) else vectors[0]

    def stream(self, sampling_rate: int = SAMPLE_RATE_HZ, *, options: PredictOptions | None = None) -> Stream:
        """Return a stream that takes samples as they arrive and predicts each window of speech in them."""
        return Stream(self, sampling_rate, options or PredictOptions())

    def predict_clips(
        self,
        waveforms: Sequence[Waveform],
        utterances: Sequence[Utterance] | None = None,
        embedding: str | None = None,
    ) -> list[ClipPrediction]:
        """Run the model on uncut clips, each (sample,) float32 mono at 16 kHz, in batches of similar length.

        Args:
            utterances: Metadata of each clip, for models with conditions.
            embedding: See `embed`.
        """
        if not len(waveforms):
            return []
        checkpoint, options = self.checkpoint, self.checkpoint.options
        cut = [audio.trimmed(audio.without_offset(waveform), options.clips.trim_db) for waveform in waveforms]
        known = utterances or [Utterance(id="-", audio="-")] * len(waveforms)
        conditions = attribute_vectors(known, options.tasks.conditions, "known", options.text.encoder)
        lengths = [len(waveform) for waveform in cut]
        # no more threads than help: on a busy machine, too many make a small model ten times slower
        most = torch.get_num_threads()
        useful = 1 + int(self.num_parameters * sum(lengths) / SAMPLE_RATE_HZ / PARAMETER_SECONDS)
        is_small = useful < most and self.device.type == "cpu"
        if is_small:
            torch.set_num_threads(useful)
        try:
            outputs = model_outputs(
                checkpoint, cut.__getitem__, lengths, conditions, embedding=embedding, runtime=self.runtime
            )
        finally:
            if is_small:
                torch.set_num_threads(most)
        said = {name: checkpoint.tasks[name].predictions(decoded) for name, decoded in outputs.decoded.items()}
        if checkpoint.calibration is not None:
            rows = np.array([list(each.probabilities.values()) for each in said[self.task]])
            calibrated = tempered(rows, checkpoint.calibration.temperature)
            named = (dict(zip(self.classes, map(float, row), strict=True)) for row in calibrated)
            said[self.task] = [most_probable(probabilities) for probabilities in named]
        main = said.pop(self.task)
        return [
            ClipPrediction(main[row], {name: own[row] for name, own in said.items()}, outputs.embeddings[row])
            for row in range(len(waveforms))
        ]

    def _predictions(
        self, source: Any, sampling_rate: float | None, options: PredictOptions, embedding: str | None = None
    ) -> list[Prediction]:
        """Predict any source of `predict`: files, one file, samples, the bytes of a file, or a file object."""
        if not is_list_of_files(source):
            source, sampling_rate = audio.unwrapped(source, sampling_rate)
        if is_list_of_files(source) or isinstance(source, str | Path | Utterance | Upload):
            files = source if is_list_of_files(source) else [source]
            if files:
                audio.require_no_rate(sampling_rate, utterance_of(files[0]).audio)
            return list(self.predict_files(files, options=options, embedding=embedding))
        recording = Recording(self.task, options, is_whole=options.segments == "never")
        if not (isinstance(source, bytes | bytearray | memoryview) or hasattr(source, "read")):
            waveform = audio.as_waveform(source, sampling_rate)
            if options.segments == "never":
                audio.require_audible(waveform, "samples")
            blocks: Iterable[Waveform] = [waveform]
        else:
            audio.require_no_rate(sampling_rate, "recording")
            blocks = [audio.load(source)] if options.segments == "never" else audio.blocks(source)
        windows = [window for block in blocks for window in recording.feed(block)] + recording.finish()
        predicted = self.predict_clips([window.waveform for window in windows], embedding=embedding)
        for window, each in zip(windows, predicted, strict=True):
            recording.add(window, each)
        return [recording.prediction(model=self.identity)]

    def _predict_windows(self, windows: Windows, embedding: str | None) -> list[ClipPrediction]:
        """Predict windows of several recordings as one batch."""
        waveforms, utterances = [window.waveform for _, window in windows], [item.utterance for item, _ in windows]
        return self.predict_clips(waveforms, utterances, embedding)

    def _finished(self, pending: deque[Item], on_error: OnError) -> Iterator[Any]:
        """Take the finished recordings from the front, in order."""
        while pending and (pending[0].error is not None or pending[0].recording.is_complete):
            item = pending.popleft()
            if item.error is None:
                utterance = item.utterance
                id = utterance.id if utterance.id != utterance.audio else None
                yield item.recording.prediction(utterance.audio, id, self.identity)
            elif on_error == "raise":
                raise item.error
            elif on_error == "return":
                yield item.error


def _add(windows: Windows, result: Callable[[], list[ClipPrediction]]) -> None:
    """Add the predictions for windows to their recordings, in order."""
    for (item, window), predicted in zip(windows, result(), strict=True):
        item.recording.add(window, predicted)


def load(
    name: str | Path | None = None,
    device: str = "auto",
    runtime: RuntimeName | None = None,
    *,
    precision: PrecisionName | None = None,
    backbone: str | Path | None = None,
) -> Predictor:
    """Load a model.

    Args:
        name: A model folder, or any file in it; a model of the Hugging Face Hub; `None` or `default`: the default
            model, which ships with the package; or the name of another shipped model (`serein models`).
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        runtime: Runtime of the network: `torch`; `onnx` or `openvino`, for files of `serein export`, which are named
            directly or are in the model folder as `model.onnx`; `None`: `onnx` for such a file, else `torch`.
        precision: Precision of the network, `float32` or `bfloat16`; `None`: the model's own (`inference.precision`).
            An exported file is computed in its own precision, or by OpenVINO in bfloat16.
        backbone: Folder of the pretrained backbone, for a model that does not contain it and whose backbone has moved.

    Raises:
        ModelError: There is no such model or precision, or the model is damaged, or it is an exported file of another
            precision.
        MissingExtraError: The runtime is not installed.
    """
    if precision not in (None, *get_args(PrecisionName)):
        what = expected_one_of(str(precision), get_args(PrecisionName), kind="precision")
        raise ModelError(what, where="precision", remedy="Name one of these.")
    is_exported = str(name).endswith(".onnx")
    if runtime not in (None, "torch") or (is_exported and runtime is None):
        path = Path(str(name)) if is_exported else model_folder(name)
        checkpoint, own = open_runtime(path, runtime or "onnx", device, precision)
        predictor = Predictor(checkpoint, runtime=own)
    elif is_exported:
        remedy = "Choose --runtime onnx, or the model folder."
        raise ModelError("an exported file does not run in PyTorch", where=str(name), remedy=remedy)
    else:
        checkpoint = checkpoints.load(model_folder(name), backbone=backbone)
        if precision is not None:
            inference = checkpoint.options.inference.model_copy(update={"precision": precision})
            checkpoint = replace(checkpoint, options=checkpoint.options.model_copy(update={"inference": inference}))
        predictor = Predictor(checkpoint, device)
    log_runtime(predictor.checkpoint.name, predictor.runtime)
    return predictor


def shipped_models() -> list[str]:
    """Return the names of the models that ship with the package."""
    return sorted(path.name for path in SHIPPED_MODELS.glob("*") if checkpoints.is_model_folder(path))


def model_folder(name: str | Path | None = None) -> Path:
    """Return the folder of a model by name, see `load`; a model on the Hub is downloaded.

    Raises:
        ModelError: There is no such model.
    """
    if not isinstance(name, str | os.PathLike | None):
        raise ModelError(f"is a {type(name).__name__}, not a name", where="model", remedy="Name a folder, or a model.")
    shipped = SHIPPED_MODELS / str(name or "default")
    if name is None or str(name) == "default" or (str(name) in shipped_models() and not Path(name).exists()):
        if not checkpoints.is_model_folder(shipped):
            remedy = "Name a model folder, or train one: serein train --help."
            raise ModelError("this installation has no default model", where="serein", remedy=remedy)
        return shipped
    if Path(name).is_file() and Path(name).name in checkpoints.PARTS:
        return Path(name).parent
    if not Path(name).exists() and "/" in str(name) and hub.NAME.fullmatch(str(name)):
        return Path(hub.folder_of(str(name), expected="a model folder"))
    if not Path(name).exists() and len(Path(name).parts) == 1:  # a word: maybe a misspelt model name
        remedy = f"Name a folder, or one of these: {', '.join(shipped_models())}."
        raise ModelError("no such model folder, and no shipped model of that name", where=name, remedy=remedy)
    return Path(name)
