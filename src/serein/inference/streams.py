"""Audio that arrives in pieces: a microphone, a socket, a pipe."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, BinaryIO, Protocol

import numpy as np

from serein import audio
from serein.audio import LONGEST_START, SAMPLE_RATE_HZ, Resampler, Waveform
from serein.errors import AudioError, counted
from serein.inference.prediction import ClipPrediction, Prediction, Segment
from serein.inference.recording import PredictOptions, Recording, Window
from serein.inference.vad import feed_all


class WindowPredictor(Protocol):
    """The interface that a stream needs of its model, a `serein.Predictor`.

    Attributes:
        task: The main task.
    """

    task: str

    @property
    def identity(self) -> dict[str, str]:
        """Name and SHA-256 of the model."""

    def predict_clips(self, waveforms: Sequence[Waveform], /) -> list[ClipPrediction]:
        """Run the model on windows of speech, (sample,) float32 mono at 16 kHz each."""


class Stream:
    """One audio stream, and a model's predictions for it: the same as for a file with the same samples.

    Args:
        predictor: The model; many streams may share one.
        sampling_rate: Sampling rate of the stream, in Hz.
        options: How speech is cut into windows, and when a prediction is rejected.

    Example:
        >>> stream = serein.load().stream(sampling_rate=8000)  # doctest: +SKIP
        >>> for segment in stream.feed(samples):  # doctest: +SKIP
        ...     print(segment.start_s, segment.end_s, segment.label, segment.confidence)
        >>> stream.finish(), stream.prediction  # doctest: +SKIP
    """

    def __init__(
        self, predictor: WindowPredictor, sampling_rate: int = SAMPLE_RATE_HZ, options: PredictOptions | None = None
    ) -> None:
        self.predictor = predictor
        self.resampler = Resampler(audio.rate_hz(sampling_rate))
        self.recording = Recording(predictor.task, options or PredictOptions(), is_live=True)

    @property
    def position_s(self) -> float:
        """Seconds that have arrived."""
        return self.recording.duration_s

    @property
    def prediction(self) -> Prediction:
        """The prediction for everything that has been fed and predicted."""
        return self.recording.prediction(model=self.predictor.identity)

    def prediction_of(self, segment: Segment) -> Prediction:
        """Return one segment as the prediction for a recording that contains nothing else."""
        return Prediction(
            segment.label,
            segment.confidence,
            segment.probabilities,
            segment.value,
            segment.dimensions,
            file="-",
            task=self.predictor.task,
            rejected=segment.rejected,
            segments=(segment,),
            model=self.predictor.identity,
            start_s=segment.start_s,
            duration_s=segment.duration_s,
            speech_s=segment.duration_s,
        )

    def feed(self, samples: Any) -> list[Segment]:
        """Predict the windows completed by these samples.

        Args:
            samples: (sample,), of any float or integer type; or with channels. May be empty.

        Raises:
            AudioError: The samples are invalid, or the stream is finished.
        """
        if self.recording.is_read:
            raise AudioError("is finished", where="stream", remedy="Open another one for further samples.")
        shape = [len(samples)] if isinstance(samples, list | tuple) else getattr(samples, "shape", ())
        return [] if 0 in shape else self.predict(self.cut(audio.as_mono(samples)))

    def finish(self) -> list[Segment]:
        """Predict the last windows, after the last sample.

        Returns:
            The segments that `feed` has not returned. If all speech fits into one window, it is also predicted at once,
            like that of a file; only `prediction` contains this.
        """
        return self.predict(self.cut_end())

    def predict(self, windows: Sequence[Window]) -> list[Segment]:
        """Predict windows that were cut."""
        predicted = self.predictor.predict_clips([window.waveform for window in windows])
        segments = [self.recording.add(window, each) for window, each in zip(windows, predicted, strict=True)]
        return [segment for segment in segments if segment is not None]

    def cut(self, samples: Waveform) -> list[Window]:
        """Return the windows completed by these samples, (sample,) float32, not yet predicted, to batch streams."""
        return cut_all([self], [samples])[0]

    def cut_end(self) -> list[Window]:
        """Return the last windows, without predicting them."""
        return self.recording.feed(self.resampler.rest()) + self.recording.finish()


def cut_all(streams: Sequence[Stream], samples: Sequence[Waveform]) -> list[list[Window]]:
    """Return each stream's windows completed by its samples, (sample,) float32; speech is detected in one batch."""
    resampled = [stream.resampler(each) for stream, each in zip(streams, samples, strict=True)]
    detectors = [stream.recording.cutter.detector for stream in streams if stream.recording.cutter is not None]
    speech = feed_all(detectors, resampled)
    return [stream.recording.feed(*each) for stream, *each in zip(streams, resampled, speech, strict=True)]


def pcm16(data: bytes) -> Waveform:
    """Return (sample,) float32 of little-endian 16-bit samples; an odd last byte is dropped.

    Example:
        >>> pcm16(b"\\x00\\x40\\x00\\x80").tolist()
        [0.5, -1.0]
    """
    samples: Waveform = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / np.float32(32768)
    return samples


def open_pcm(pipe: BinaryIO, sampling_rate: int | None, block_s: float) -> tuple[int, Iterator[Waveform]]:
    """Return the sampling rate of a pipe of 16-bit little-endian mono samples, in Hz, and the samples in blocks.

    Args:
        pipe: Samples, or a WAV of such samples, whose header states their rate.
        sampling_rate: In Hz; `None`: that of the header, or 16000 without one.

    Raises:
        AudioError: The pipe contains another kind of file or samples, or the header states another rate.
    """
    start = pipe.read(LONGEST_START)
    kind, header = audio.file_kind(start), audio.wav_header(start)
    if kind is not None and header is None:
        raise AudioError(f"{kind} file, not samples", where="stdin", remedy="Predict it with: serein predict -.")
    if header is not None:
        if (header.encoding, header.num_channels, header.bits) != (1, 1, 16):
            what = f"WAV file of {header.bits} bits and channels: {header.num_channels}, not 16-bit mono samples"
            raise AudioError(what, where="stdin", remedy="Predict it with: serein predict -.")
        if sampling_rate not in (None, header.rate_hz):
            what = f"the WAV header states {header.rate_hz} Hz, not {sampling_rate} Hz"
            raise AudioError(what, where="stdin", remedy="Leave --rate out.")
        start, sampling_rate = start[header.num_bytes :], header.rate_hz
    rate_hz = audio.rate_hz(SAMPLE_RATE_HZ if sampling_rate is None else sampling_rate)
    read = partial(pipe.read, 2 * round(block_s * rate_hz))
    return rate_hz, map(pcm16, chain([start], iter(read, b"")))


@dataclass
class Arrivals:
    """When the samples of a stream arrived.

    Example:
        >>> arrivals = Arrivals()
        >>> arrivals.record(0.5, at_s=100.0)
        >>> arrivals.record(1.0, at_s=100.5)
        >>> arrivals.delay_s(0.8, now_s=100.75)
        0.25
    """

    longest_s: float = 120.0
    places: deque[tuple[float, float]] = field(default_factory=deque)  # position, time

    def record(self, position_s: float, at_s: float) -> None:
        """Record when all samples up to a position had arrived; old records are dropped."""
        self.places.append((position_s, at_s))
        while self.places[0][0] < position_s - self.longest_s:
            self.places.popleft()

    def delay_s(self, end_s: float, now_s: float) -> float:
        """Return the seconds since the sample at `end_s` arrived; 0 when it has not."""
        return next((now_s - at_s for position_s, at_s in self.places if position_s >= end_s), 0.0)


def delay_summary(delays_s: Sequence[float]) -> str:
    """Return the median delay, its 95th percentile and the maximum.

    Example:
        >>> delay_summary([0.1] * 95 + [0.9] * 5)
        '100 windows; delay: median 0.10 s, 95th percentile 0.10 s, maximum 0.90 s'
    """
    if not delays_s:
        return "no speech was found"
    ordered = sorted(delays_s)
    median, high = (ordered[min(len(ordered) - 1, int(level * len(ordered) - 1e-9))] for level in (0.5, 0.95))
    return (
        f"{counted(len(ordered), 'window')}; delay: median {median:.2f} s, 95th percentile {high:.2f} s, "
        f"maximum {ordered[-1]:.2f} s"
    )
