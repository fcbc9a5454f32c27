"""A training step never waits for the device, and has all of its tensors there (tests/simulated_gpu.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.data._utils.pin_memory import pin_memory

from asr_models import write_whisper
from cli_fixtures import TINY, environment
from serein.data import manifest
from serein.data.dataset import Batch
from serein.data.manifest import Rating
from training.test_feature_cache import save_wav2vec2

AUGMENTATION = {
    "tempo": 0.1,
    "vtlp": 0.1,
    "band_shift": 1.0,
    "gain_db": 3,
    "equaliser_db": 3,
    "equaliser_probability": 1.0,
    "noise_probability": 1.0,
    "time_masks": 1,
    "frequency_masks": 1,
    "mixup": 0.3,
    "mixup_probability": 1.0,
}
MASKS = {"time_masks": 1, "frequency_masks": 1}
SECOND_VIEW = {"name": "noise", "num_views": 2}
CONTRASTIVE = {"contrastive": {"weight": 0.5, "temperature": 0.5}}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "bands": {"stage": {"spectrogram_augmentation": AUGMENTATION, "ema_decay": 0.9, "clip_norm": 5}},
    "fresh-bands": {"feature_cache": {"dtype": "none"}, "stage": {"spectrogram_augmentation": AUGMENTATION}},
    "plain-bands": {"stage": {"clip_value": 1.0}},
    "gender": {"tasks": {"emotion": {}, "gender": {"pooling": "mean"}}, "stage": {"main_task_weight": 0.9}},
    "contrastive": {"tasks": {"emotion": CONTRASTIVE}, "stage": {"waveform_augmentation": SECOND_VIEW}},
    "balanced": {"tasks": {"emotion": {"class_weights": "balanced"}}},
    "arousal": {"tasks": {"arousal": {}}},
    "arousal-mae": {"tasks": {"arousal": {"loss": "mae"}}},
    "dimensions": {"tasks": {"dimensions": {"names": ["arousal", "valence"]}}},
    "raters": {"labels": {"target": "distribution", "raters": "each"}},
    "arcface": {"tasks": {"emotion": {"loss": "arcface"}}},
    "transformer": {"encoder": {"name": "transformer", "layers": 1, "heads": 2}},
}
POOLINGS = ("std", "attention", "vector-attention", "channel-attention", "max")
PRETRAINED: Mapping[str, Mapping[str, Any]] = {
    "frozen": {"stage": {"trainable": ["heads"]}},
    "layers": {"stage": {"trainable": ["layers 2-2", "heads"]}, "tasks": {"emotion": {"layer": "weighted"}}},
    "all": {"stage": {"trainable": ["transformer", "heads"]}, "feature_cache": {"dtype": "none"}},
    "lora": {
        "adapter": {"name": "lora", "rank": 2, "alpha": 4, "targets": ["query", "value"]},
        "stage": {"trainable": ["adapter", "heads"]},
    },
}


TESTS = Path(__file__).parents[1]


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own: the device stays in the one that knows it."""
    found = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, env=environment(PYTHONPATH=found), capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture
def kinds(tmp_path: Path) -> list[Path]:
    """A recipe of each kind."""
    sources = {"wav2vec2": save_wav2vec2(tmp_path / "wav2vec2"), "whisper": write_whisper(tmp_path / "whisper")}
    own: dict[str, Mapping[str, Any]] = {**KINDS}
    own |= {name: {"tasks": {"emotion": {"pooling": name}}} for name in POOLINGS}
    for family, source in sources.items():
        backbone = {"backbone": {"name": "huggingface", "source": str(source)}, "encoder": None}
        own |= {f"{family}-{name}": {**backbone, **changes} for name, changes in PRETRAINED.items()}
    own["whisper-masks"] = {**own["whisper-all"], "stage": {"spectrogram_augmentation": MASKS}}
    paths = []
    for name, changes in own.items():
        stage = {**TINY["stages"][0], "spectrogram_augmentation": {}, **changes.get("stage", {})}
        values = {**TINY, "name": name, **changes, "stages": [stage]}
        values = {key: value for key, value in values.items() if key != "stage" and value is not None}
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(yaml.safe_dump(values), encoding="utf-8")
    return paths


@pytest.fixture
def rated(tones: Path, tmp_path: Path) -> Path:
    """A manifest with raters, and an arousal that not every clip has."""
    utterances = []
    for number, utterance in enumerate(manifest.read(tones)):
        given = [Rating(labels=(label,), rater=f"r{n}") for n, label in enumerate((utterance.emotion, "sad"))]
        arousal = None if number % 5 == 0 else number % 3 / 2
        utterances.append(
            utterance.model_copy(update={"arousal": arousal, "valence": 0.5, "ratings": tuple(given[: number % 3])})
        )
    manifest.write(utterances, tmp_path / "rated.jsonl")
    return tmp_path / "rated.jsonl"


@pytest.mark.slow
def test_a_step_never_waits_for_the_device(kinds: list[Path], rated: Path) -> None:
    outcome = python(TESTS / "simulated_gpu.py", rated, *kinds)
    assert outcome.returncode == 0, outcome.stderr


def test_the_simulation_notices_a_wait_and_a_tensor_elsewhere() -> None:
    checks = """
import torch, simulated_gpu as gpu
gpu.start()
with gpu.SimulatedGpu():
    there = torch.ones(3).to(gpu.DEVICE)
asked = [
    lambda: there.sum().item(),
    lambda: bool(there.any()),
    lambda: there[there > 0],
    lambda: there.nonzero(),
    lambda: there.cpu(),
    lambda: torch.ones(3).to(gpu.DEVICE),
    lambda: there.tolist(),
    lambda: there + torch.ones(3),
]
with gpu.SimulatedGpu(), gpu.watched(on=True):
    (there * 2 + 1).sum()
    torch.ones(3).to(gpu.DEVICE, non_blocking=True)
    for number, ask in enumerate(asked):
        try:
            ask()
        except RuntimeError as error:
            print(number, error)
"""
    outcome = python("-c", checks)
    assert [line.split()[0] for line in outcome.stdout.splitlines()] == [str(n) for n in range(8)], outcome.stderr
    assert "different devices" in outcome.stdout


def test_a_loader_pins_what_is_copied_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that may be paged out is copied while the host waits."""
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: pinned.append(self) or self)
    one = torch.zeros(1)
    batch = Batch(
        one, one + 1, one, {"emotion": one + 2}, {"emotion": one > 0}, one, {"gender": one + 3}, {"last": one + 4}
    )
    pin_memory(batch)
    assert sorted(float(each) for each in pinned) == [1.0, 2.0, 3.0, 4.0]
