"""Measure how fast a model runs on this machine, and find the fastest runtime that preserves its predictions."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Waveform
from serein.data import manifest
from serein.data.manifest import Utterance
from serein.device import processor_name
from serein.errors import ManifestError, MissingExtraError, ModelError, expected_one_of
from serein.exporting.export import MOST_DIFFERENCE, export, made_sound
from serein.inference.predictor import BATCH_S, Predictor, load, model_folder
from serein.inference.runtimes import EXPORTED, FILE_RUNTIMES, RUNTIMES, ExportedFile
from serein.metrics import unweighted_accuracy

PEAK_SIZE, PEAK_S = 2048, 0.5  # of the matrix product that is timed


@dataclass(frozen=True)
class Benchmark:
    """The results of a benchmark.

    Attributes:
        clips_per_s: Throughput in batches of `BATCH_S` seconds of audio.
        times_real_time: Seconds of audio processed per second.
        latency_p50_s: Median latency of a single clip, from samples to prediction.
        memory_bytes: Peak memory of the process; on a GPU, PyTorch's peak memory there.
        flops: Floating-point operations of the network for one clip in PyTorch; `None` for other runtimes, which do not
            report them.
        peak_flops_per_s: Speed of a product of large matrices on this device, in the model's precision.
        share_of_peak: The model's operations per second as a fraction of that peak.
    """

    model: str
    runtime: str
    device: str
    processor: str
    num_threads: int
    precision: str
    clip_s: float
    clips_per_s: float
    times_real_time: float
    latency_p50_s: float
    latency_p95_s: float
    memory_bytes: int
    flops: float | None
    peak_flops_per_s: float
    share_of_peak: float | None

    def rows(self) -> list[tuple[str, str]]:
        """Return the rows of a table."""
        share = "unknown in this runtime" if self.share_of_peak is None else f"{100 * self.share_of_peak:.1f} %"
        return [
            ("model", f"{self.model}, {self.runtime}, {self.precision}"),
            ("device", f"{self.device}, {self.processor}, {self.num_threads} threads"),
            ("speed", f"{self.clips_per_s:.1f} clips of {self.clip_s:g} s per second"),
            ("times real time", f"{self.times_real_time:.0f}"),
            ("latency p50, p95", f"{1e3 * self.latency_p50_s:.1f} ms, {1e3 * self.latency_p95_s:.1f} ms"),
            ("memory", f"{self.memory_bytes / 1e6:.0f} MB"),
            ("matrix peak", f"{self.peak_flops_per_s / 1e9:.0f} GFLOP/s"),
            ("share of that peak", share),
        ]


def measure(predictor: Predictor, *, clip_s: float = 3.0, seconds: float = 10.0) -> Benchmark:
    """Measure a model's speed on clips of noise.

    Args:
        clip_s: Length of the clips.
        seconds: Total duration of the measurements of speed and latency.
    """
    import resource  # not on Windows, where the rest of this module works

    device, runtime = predictor.runtime.device, predictor.runtime
    rng = np.random.default_rng(0)
    size = round(clip_s * SAMPLE_RATE_HZ)
    clips: list[Waveform] = list(0.1 * rng.standard_normal((max(1, int(BATCH_S / clip_s)), size)).astype(np.float32))
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    batches_s = _timed(lambda: predictor.predict_clips(clips), seconds / 2)
    alone_s = _timed(lambda: predictor.predict_clips(clips[:1]), seconds / 2)
    clips_per_s = len(clips) / float(np.median(batches_s))
    unit = 1024 if sys.platform == "linux" else 1  # of ru_maxrss
    memory = torch.cuda.max_memory_allocated(device) if on_gpu else 0
    flops = None
    if runtime.name == "torch":
        learning = [each for each in predictor.model.parameters() if each.requires_grad]
        for each in learning:  # the counter tracks gradients, which a weight norm does not have here
            each.requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            predictor.predict_clips(clips[:1])
        for each in learning:
            each.requires_grad_(True)
        flops = float(counter.get_total_flops())
    peak = matrix_peak(device, runtime.precision)
    return Benchmark(
        model=predictor.checkpoint.name,
        runtime=runtime.name,
        device=str(device),
        processor=torch.cuda.get_device_name(device) if on_gpu else processor_name(),
        num_threads=torch.get_num_threads(),
        precision=runtime.precision,
        clip_s=clip_s,
        clips_per_s=clips_per_s,
        times_real_time=clips_per_s * clip_s,
        latency_p50_s=float(np.quantile(alone_s, 0.5)),
        latency_p95_s=float(np.quantile(alone_s, 0.95)),
        memory_bytes=memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        flops=flops,
        peak_flops_per_s=peak,
        share_of_peak=None if flops is None else flops * clips_per_s / peak,
    )


def matrix_peak(device: torch.device, precision: str, size: int = PEAK_SIZE) -> float:
    """Return the floating-point operations per second of a large matrix product, as the machine's peak.

    Args:
        precision: `bfloat16`; any other precision is timed in float32.
        size: Number of rows and columns of the matrices.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    one, other = torch.randn(2, size, size, device=device).to(dtype)

    def product() -> None:
        torch.mm(one, other)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    return 2.0 * size**3 / min(_timed(product, PEAK_S))


def _timed(work: Callable[[], object], seconds: float) -> list[float]:
    """Return the duration in seconds of each of at least three calls, after one call that is not counted."""
    work()
    took_s: list[float] = []
    while len(took_s) < 3 or sum(took_s) < seconds:
        started_s = time.perf_counter()
        work()
        took_s.append(time.perf_counter() - started_s)
    return took_s


NUM_SOUNDS = 64
INT8_EXPORTED = "model.int8.onnx"
PRECISIONS: dict[str, tuple[str, ...]] = {
    "torch": ("float32", "bfloat16")
}  # runtime -> what it can compute in; files also have weights of int8
PRECISIONS |= {name: ("float32", *runtime.other_precisions, "int8") for name, runtime in FILE_RUNTIMES.items()}
ALL_PRECISIONS = tuple(dict.fromkeys(name for each in PRECISIONS.values() for name in each))
LEAST_EQUAL_LABELS = 0.99  # for preserved predictions, with MOST_DIFFERENCE; good 8-bit weights meet both


@dataclass(frozen=True)
class ComparedClips:
    """The clips whose predictions are compared between runtimes.

    Attributes:
        waveforms: (sample,) float32 at 16 kHz each.
        utterances: Their metadata and labels; `None` for generated sounds.
        name: Name of their manifest.
    """

    waveforms: Sequence[Waveform]
    utterances: Sequence[Utterance] | None = None
    name: str = ""

    @classmethod
    def generated(cls) -> ComparedClips:
        """Return `NUM_SOUNDS` generated sounds of 1 to 4 s."""
        return cls([made_sound(1.0 + seed % 4, seed) for seed in range(NUM_SOUNDS)])

    @classmethod
    def read(cls, path: Path, max_clips: int) -> ComparedClips:
        """Return at most `max_clips` utterances of a manifest, evenly spread, without changed copies.

        Raises:
            ManifestError: The manifest has only changed copies.
            AudioError: A recording cannot be read.
        """
        originals = [each for each in manifest.read(path) if each.copy_of is None]
        if not originals:
            raise ManifestError("has only changed copies", where=path, remedy="Name a manifest with their originals.")
        chosen = originals[:: -(-len(originals) // max_clips)]
        return cls([audio.load(each.audio, each.start_s, each.end_s) for each in chosen], chosen, path.stem)

    def ua(self, predictor: Predictor, labels: Sequence[str | None]) -> float | None:
        """Return the unweighted accuracy of a model's labels, 0 to 1; `None` if no clip has one of its classes."""
        task = predictor.checkpoint.tasks[predictor.task]
        if self.utterances is None or not task.spec.has_classes:
            return None
        pairs = [(task.truth(each), str(label)) for each, label in zip(self.utterances, labels, strict=True)]
        known = [(str(truth), label) for truth, label in pairs if truth is not None]
        return unweighted_accuracy([truth for truth, _ in known], [label for _, label in known]) if known else None


@dataclass(frozen=True)
class RuntimeResult:
    """One runtime, in one precision, compared with the first.

    Attributes:
        benchmark: Its speed.
        ratio: Clips per second, divided by the first runtime's.
        equal_labels: Fraction of clips that get the same label as in the first runtime.
        largest_difference: Largest difference from the first runtime's probabilities or numbers.
        num_bytes: Size of the file with the weights.
        ua: Unweighted accuracy, 0 to 1; `None` for clips without labels.
    """

    benchmark: Benchmark
    ratio: float
    equal_labels: float
    largest_difference: float
    num_bytes: int
    ua: float | None = None

    @property
    def keeps_predictions(self) -> bool:
        """Whether its predictions match the first runtime's."""
        return self.equal_labels >= LEAST_EQUAL_LABELS and self.largest_difference <= MOST_DIFFERENCE


@dataclass(frozen=True)
class RuntimeComparison:
    """Runtimes of one model on one machine, measured one after another.

    Attributes:
        model: The model as it was named.
        results: Results of the installed runtimes, in the requested order.
        missing: Runtime -> how to install it, or "runtime, precision" -> why it was not measured.
        exported: Precision of the exported file where the runtimes look for it; `None` if there is none.
        names_precision: Whether precisions were compared, so that PyTorch's must be named.
        num_learned_speakers: Number of speakers of the clips that the model was trained on.
    """

    model: str
    results: tuple[RuntimeResult, ...]
    missing: dict[str, str]
    exported: str | None
    names_precision: bool = False
    num_learned_speakers: int = 0

    @property
    def fastest(self) -> Benchmark:
        """The one with the most clips per second, among those that preserve the predictions."""
        kept = [each.benchmark for each in self.results if each.keeps_predictions]
        return max(kept, key=lambda each: each.clips_per_s)

    @property
    def quickest(self) -> Benchmark:
        """The one with the lowest latency for a single clip, among those that preserve the predictions."""
        kept = [each.benchmark for each in self.results if each.keeps_predictions]
        return min(kept, key=lambda each: each.latency_p50_s)

    def commands(self) -> list[str]:
        """Return the command lines that use the fastest runtime for many files and the quickest for serving."""
        exports, commands = [], []
        for command, best in (("predict FOLDER", self.fastest), ("serve", self.quickest)):
            model, precision = self.model, ""
            is_int8 = best.precision == "int8"
            if best.runtime != "torch" and self.exported != ("int8" if is_int8 else "float32"):
                model = INT8_EXPORTED if is_int8 else EXPORTED
                exports.append(f"serein export {self.model} -o {model}{' --int8' if is_int8 else ''}")
            if best.runtime == "torch":
                precision = f" --precision {best.precision}" if self.names_precision else ""
            elif best.precision == "bfloat16":
                precision = " --precision bfloat16"
            commands.append(f"serein {command} --model {model} --runtime {best.runtime}{precision}")
        return [*dict.fromkeys(exports), *commands]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        rows = [asdict(each) | {"keeps_predictions": each.keeps_predictions} for each in self.results]
        best = {"fastest": self.fastest, "quickest": self.quickest}
        chosen = {name: {"runtime": each.runtime, "precision": each.precision} for name, each in best.items()}
        return {"model": self.model, "runtimes": rows, "missing": self.missing, **chosen, "commands": self.commands()}


def compare_runtimes(
    model: str,
    runtimes: Sequence[str] = RUNTIMES,
    device: str = "auto",
    *,
    precisions: Sequence[str] | None = None,
    data: Path | None = None,
    max_clips: int = 200,
    clip_s: float = 3.0,
    seconds: float = 10.0,
    backbone: str | Path | None = None,
) -> RuntimeComparison:
    """Measure a model in several runtimes, and compare the predictions of each with those of the first.

    Args:
        model: A model folder or name, which is exported to a temporary file unless it contains an exported one; or an
            exported file.
        runtimes: Names of the runtimes; those that are not installed are left out.
        device: Device that they run on.
        precisions: Names of `PRECISIONS`; each runtime is measured in those that it has on this machine. `None`:
            PyTorch in the model's own precision, the others in that of the file, float32 if there is none.
        data: Manifest of the utterances whose predictions are compared; `None`: generated sounds.
        max_clips: Compare at most this many utterances, evenly spread.
        clip_s: Length of the generated clips that speed is measured with.
        seconds: Duration of each measurement.
        backbone: See `serein.load`.

    Raises:
        ModelError: There is no such runtime, precision or file, or nothing can be measured.
        ManifestError: The manifest has only changed copies.
        AudioError: A recording cannot be read.
    """
    for found, known, kind in ((runtimes, RUNTIMES, "runtime"), (precisions or (), ALL_PRECISIONS, "precision")):
        if unknown := [name for name in found if name not in known]:
            what = expected_one_of(unknown[0], known, kind=kind)
            raise ModelError(what, where=f"--{kind}s", remedy="Choose from these, separated by commas.")
    path = Path(model) if model.endswith(".onnx") else model_folder(model) / EXPORTED
    if model.endswith(".onnx") and not path.is_file():
        raise ModelError("there is no such file", where=model, remedy="Name a file of serein export, or a model.")
    uses_files = any(runtime != "torch" for runtime in runtimes)
    exported = str(ExportedFile.open(path).about["precision"]) if uses_files and path.is_file() else None
    own = exported or "float32"
    wanted: list[tuple[str, str | None]] = [
        (runtime, precision)
        for runtime in dict.fromkeys(runtimes)
        for precision in ((None if runtime == "torch" else own,) if precisions is None else dict.fromkeys(precisions))
        if precision in (None, *PRECISIONS[runtime])
    ]
    clips = ComparedClips.generated() if data is None else ComparedClips.read(data, max_clips)
    results: list[RuntimeResult] = []
    missing: dict[str, str] = {}
    first: tuple[list[str | None], np.ndarray] | None = None
    num_learned = 0
    with TemporaryDirectory() as folder:
        files = ModelFiles(model, Path(folder), {exported: path} if exported else {}, backbone)
        for runtime, precision in wanted:
            try:
                predictor, path_of_weights = files.load(runtime, precision, device)
            except MissingExtraError as error:
                missing[runtime] = error.remedy or ""
                continue
            except ModelError as error:
                if precisions is None or precision == "float32":
                    raise
                missing[f"{runtime}, {precision}"] = f"{error.what[0].upper()}{error.what[1:]}."
                continue
            labels, numbers = _predictions(predictor, clips)
            first = first or (labels, numbers)
            num_learned = len(predictor.checkpoint.learned_speakers(clips.utterances or (), clips.name))
            speed = measure(predictor, clip_s=clip_s, seconds=seconds)
            results.append(
                RuntimeResult(
                    benchmark=speed,
                    ratio=speed.clips_per_s / (results[0].benchmark.clips_per_s if results else speed.clips_per_s),
                    equal_labels=float(np.mean([own == other for own, other in zip(labels, first[0], strict=True)])),
                    largest_difference=float(np.abs(numbers - first[1]).max(initial=0.0)),
                    num_bytes=path_of_weights.stat().st_size,
                    ua=clips.ua(predictor, labels),
                )
            )
    if not results:
        remedy = " ".join(missing.values()) or f"None of them computes in {', '.join(precisions or ())}: name others."
        raise ModelError("none of these runtimes can be measured", where="--runtimes", remedy=remedy)
    return RuntimeComparison(model, tuple(results), missing, exported, precisions is not None, num_learned)


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model that runtimes load; it is exported when a runtime first needs that.

    Attributes:
        model: A model folder or name, or an exported file.
        folder: Folder for the files.
        files: Type of the weights, `float32` or `int8` -> the exported file; at first the model's own, if it has one.
        backbone: See `serein.load`.
    """

    model: str
    folder: Path
    files: dict[str, Path]
    backbone: str | Path | None

    def load(self, runtime: str, precision: str | None, device: str) -> tuple[Predictor, Path]:
        """Load the model for a runtime; also return the file that contains its weights.

        Args:
            precision: One of `PRECISIONS`; `None`: the model's own.

        Raises:
            MissingExtraError: The runtime or the exporter is not installed.
            ModelError: The runtime or the file does not have this precision.
        """
        weights = "int8" if precision == "int8" else "float32"
        if runtime != "torch" and weights not in self.files:
            if self.model.endswith(".onnx"):
                remedy = "Name the model folder."
                raise ModelError(f"has weights of {', '.join(self.files)} only", where=self.model, remedy=remedy)
            path = self.folder / f"{weights}.onnx"
            export(load(self.model, "cpu", backbone=self.backbone), path, int8=weights == "int8")
            self.files[weights] = path
        file = model_folder(self.model) / "model.safetensors" if runtime == "torch" else self.files[weights]
        source = file if file.parent == self.folder else self.model
        how: Any = {"precision": None if weights == "int8" else precision, "backbone": self.backbone}
        return load(source, device, runtime, **how), file  # type: ignore[arg-type]


def _predictions(predictor: Predictor, clips: ComparedClips) -> tuple[list[str | None], np.ndarray]:
    """Return the main task's label of each clip, and its probabilities and other numbers, (clip, number)."""
    predictions = [clip.main for clip in predictor.predict_clips(clips.waveforms, clips.utterances)]
    rows = [[*each.probabilities.values(), *each.dimensions.values(), each.value or 0.0] for each in predictions]
    return [each.label for each in predictions], np.array(rows)
