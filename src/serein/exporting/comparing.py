"""Which runtime is the fastest for a model on this machine, among those that keep its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from serein.audio import Waveform
from serein.errors import MissingExtraError, ModelError, expected_one_of
from serein.exporting.export import export, made_sound
from serein.inference.benchmark import Benchmark, measure
from serein.inference.predictor import Predictor, load, model_folder
from serein.inference.runtimes import EXPORTED, RUNTIMES

NUM_SOUNDS = 64
LEAST_EQUAL_LABELS, MOST_DIFFERENCE = 0.99, 0.05  # of what keeps the predictions: so do 8-bit weights that are good


@dataclass(frozen=True)
class RuntimeResult:
    """One runtime beside the first.

    Attributes:
        benchmark: Its speed.
        ratio: Clips in a second, divided by the first runtime's.
        equal_labels: Share of sounds whose label is the first runtime's.
        largest_difference: From the first runtime's probabilities or numbers.
    """

    benchmark: Benchmark
    ratio: float
    equal_labels: float
    largest_difference: float

    @property
    def keeps_predictions(self) -> bool:
        """Whether it predicts what the first runtime does."""
        return self.equal_labels >= LEAST_EQUAL_LABELS and self.largest_difference <= MOST_DIFFERENCE


@dataclass(frozen=True)
class RuntimeComparison:
    """Runtimes of one model on one machine, measured one after the other.

    Attributes:
        model: As it was named.
        results: Of the runtimes that are installed, in the order in which they were asked for.
        missing: Runtime -> how it is installed.
        is_exported: Whether the file that runtimes read is already where they look for it.
    """

    model: str
    results: tuple[RuntimeResult, ...]
    missing: dict[str, str]
    is_exported: bool

    @property
    def fastest(self) -> str:
        """The runtime with the most clips in a second, of those that keep the predictions."""
        kept = [each.benchmark for each in self.results if each.keeps_predictions]
        return max(kept, key=lambda each: each.clips_per_s).runtime

    @property
    def quickest(self) -> str:
        """The runtime with the shortest delay of a lone clip, of those that keep the predictions."""
        kept = [each.benchmark for each in self.results if each.keeps_predictions]
        return min(kept, key=lambda each: each.latency_p50_s).runtime

    def commands(self) -> list[str]:
        """Return the command lines that use the fastest for many files, and the quickest to serve."""
        uses_file = not self.is_exported and {self.fastest, self.quickest} != {"torch"}
        commands = [f"serein export {self.model} -o {EXPORTED}"] if uses_file else []
        for command, runtime in (("predict FOLDER", self.fastest), ("serve", self.quickest)):
            model = EXPORTED if uses_file and runtime != "torch" else self.model
            commands.append(f"serein {command} --model {model} --runtime {runtime}")
        return commands

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON states it."""
        rows = [asdict(each) | {"keeps_predictions": each.keeps_predictions} for each in self.results]
        chosen = {"fastest": self.fastest, "quickest": self.quickest, "commands": self.commands()}
        return {"model": self.model, "runtimes": rows, "missing": self.missing, **chosen}


def compare_runtimes(
    model: str,
    runtimes: Sequence[str] = RUNTIMES,
    device: str = "auto",
    *,
    clip_s: float = 3.0,
    seconds: float = 10.0,
    backbone: str | Path | None = None,
) -> RuntimeComparison:
    """Measure a model in several runtimes, and compare what each predicts with what the first does.

    Args:
        model: A model folder or name, which is exported into a temporary file unless it holds an exported one; or an
            exported file.
        runtimes: Their names; those that are not installed are left out.
        device: Where they run.
        clip_s: Length of the clips, which are made.
        seconds: How long each is measured.
        backbone: See `serein.load`.

    Raises:
        ModelError: There is no such runtime, or none is installed.
    """
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            what = expected_one_of(runtime, RUNTIMES, kind="runtime")
            raise ModelError(what, where="--runtimes", remedy="Name some of these, with commas between.")
    is_exported = model.endswith(".onnx") or (model_folder(model) / EXPORTED).exists()
    sounds = [made_sound(1.0 + seed % 4, seed) for seed in range(NUM_SOUNDS)]
    results: list[RuntimeResult] = []
    missing: dict[str, str] = {}
    first: tuple[list[str | None], np.ndarray] | None = None
    with TemporaryDirectory() as folder:
        file = model if is_exported else str(Path(folder) / EXPORTED)
        for runtime in dict.fromkeys(runtimes):
            try:
                if runtime != "torch" and not is_exported and not Path(file).exists():
                    export(load(model, "cpu", backbone=backbone), file)
                predictor = load(model if runtime == "torch" else file, device, runtime, backbone=backbone)  # type: ignore[arg-type]
            except MissingExtraError as error:
                missing[runtime] = error.remedy or ""
                continue
            labels, numbers = _predictions(predictor, sounds)
            first = first or (labels, numbers)
            speed = measure(predictor, clip_s=clip_s, seconds=seconds)
            ratio = speed.clips_per_s / (results[0].benchmark.clips_per_s if results else speed.clips_per_s)
            equal = float(np.mean([own == other for own, other in zip(labels, first[0], strict=True)]))
            results.append(RuntimeResult(speed, ratio, equal, float(np.abs(numbers - first[1]).max(initial=0.0))))
    if not results:
        raise ModelError("none of these runtimes is installed", where="--runtimes", remedy=" ".join(missing.values()))
    return RuntimeComparison(model, tuple(results), missing, is_exported)


def _predictions(predictor: Predictor, sounds: Sequence[Waveform]) -> tuple[list[str | None], np.ndarray]:
    """Return the main task's label of each sound, and its probabilities and other numbers, (sound, number)."""
    said = [clip.main for clip in predictor.predict_clips(sounds)]
    rows = [[*each.probabilities.values(), *each.dimensions.values(), each.value or 0.0] for each in said]
    return [each.label for each in said], np.array(rows)
