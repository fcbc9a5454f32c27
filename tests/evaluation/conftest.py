"""A made-up run folder: six folds of four speakers, eight emotions, as a run on RAVDESS would leave it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from serein.evaluation.predictions import EvalPrediction, write_predictions

CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
ACTED = {name: 4 if name == "neutral" else 8 for name in CLASSES}
CONFUSED_WITH = {"neutral": "calm", "calm": "neutral", "happy": "surprised", "sad": "calm", "fearful": "sad"}
EASE = dict(zip(CLASSES, (0.0, 1.0, 0.1, -0.4, 1.1, 0.4, 0.6, 0.9), strict=True))


def fake_predictions(
    speakers: list[str], fold: str, seed: int, *, corpus: str | None = "ravdess"
) -> tuple[list[EvalPrediction], np.ndarray]:
    """Make up what a fair model might say, and its embeddings ``(utterances, 16)``."""
    rng = np.random.default_rng([seed, *fold.encode()])
    predictions, embeddings = [], []
    for speaker in speakers:
        skill = np.random.default_rng([*speaker.encode(), 1]).normal(0.3, 0.6)
        for name, count in ACTED.items():
            for take in range(count):
                logits = rng.normal(0.0, 0.8, len(CLASSES))
                logits[CLASSES.index(name)] += 1.4 + skill + EASE[name]
                logits[CLASSES.index(CONFUSED_WITH.get(name, "angry"))] += 0.7
                predictions.append(_prediction(speaker, name, take, logits, fold=fold, seed=seed, corpus=corpus))
                embeddings.append(np.concatenate([logits, rng.normal(0.4 * skill, 0.5, 8)]))
    return predictions, np.array(embeddings, np.float32)


def _prediction(speaker: str, name: str, take: int, logits: np.ndarray, **rest: Any) -> EvalPrediction:
    probabilities = np.exp(1.5 * logits) / np.exp(1.5 * logits).sum()
    return EvalPrediction(
        id=f"{speaker}-{name}-{take}",
        truth=name,
        prediction=CLASSES[int(probabilities.argmax())],
        probabilities=dict(zip(CLASSES, probabilities.tolist(), strict=True)),
        speaker=speaker,
        gender="female" if speaker[-1] in "02468" else "male",
        duration_s=3.5,
        **rest,
    )


def write_run(run: Path, *, seeds: tuple[int, ...] = (0, 1), num_folds: int = 6, with_embeddings: bool = True) -> Path:
    """Write a whole made-up run folder and return it."""
    actors = [f"{actor:02d}" for actor in range(1, 25)]
    folds = []
    for number in range(num_folds):
        speakers = actors[number::6]
        for seed in seeds:
            folder = run / f"fold-{number + 1}" / f"seed-{seed}"
            predictions, embeddings = fake_predictions(speakers, str(number + 1), seed)
            write_predictions(predictions, folder / "predictions.jsonl")
            if with_embeddings:
                save_file({"embeddings": embeddings}, folder / "embeddings.safetensors")
            _write_metrics(folder / "1-emotion" / "metrics.jsonl", number, seed)
        test = [p.id for p in predictions]
        folds.append({"name": str(number + 1), "train": [], "dev": [], "test": test, "test_speakers": speakers})
    _write_facts(run, folds, seeds)
    return run


def _write_metrics(path: Path, fold: int, seed: int) -> None:
    rng = np.random.default_rng([fold, seed])
    epochs = np.arange(1, rng.integers(22, 31))
    fall = np.exp(-epochs / 8.0)
    lines = [
        {
            "epoch": int(epoch),
            "train_loss": float(0.35 + 1.7 * f + rng.normal(0, 0.03)),
            "dev_loss": float(0.95 + 1.1 * f + 0.012 * epoch + rng.normal(0, 0.05)),
            "dev_ua": float(np.clip(0.66 - 0.5 * f + rng.normal(0, 0.02), 0, 1)),
            "learning_rate": 1e-3,
            "seconds": 21.0,
            "audio_s_per_s": 180.0,
        }
        for epoch, f in zip(epochs, fall, strict=True)
    ]
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_facts(run: Path, folds: list[dict[str, Any]], seeds: tuple[int, ...]) -> None:
    recipe = {
        "name": "ravdess-logmel-cnn",
        "description": "A small convolutional network on log-mel bands, trained from nothing.",
        "labels": {"classes": list(CLASSES)},
        "protocol": {"name": "speakers-out", "num_folds": 6, "dev": "speakers"},
        "stages": [{"name": "emotion", "epochs": 30, "checkpoint": "best", "optimizer": {"learning_rate": 1e-3}}],
        "seeds": list(seeds),
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    _dump(
        run / "environment.json",
        {
            "serein": "0.1.0",
            "python": "3.11.7",
            "torch": "2.13.0+cpu",
            "transformers": "5.23.0",
            "platform": "Linux-6.1-x86_64",
            "cpu": "Intel Xeon Platinum 8480+",
            "num_threads": 2,
            "precision": "bfloat16",
            "command": "serein train recipes/ravdess/recipe.yaml --data ravdess.jsonl --out runs/ravdess",
            "started": "2026-11-20T23:15:00Z",
            "finished_s": 5162.4,
        },
    )
    _dump(
        run / "data.json",
        {
            "manifest": "ravdess.jsonl",
            "sha256": "3b1f0c7a9f5f5a4be0a0b28d8fd0ba1c2c7d4b4ff2f5f0a57ec3f7b2ff8a9d10",
            "corpora": ["ravdess"],
            "num_utterances": 1440,
            "duration_s": 5330.0,
            "classes": {name: 24 * count for name, count in ACTED.items()},
            "speakers": 24,
            "licences": {"ravdess": "CC BY-NC-SA 4.0"},
            "citations": {
                "ravdess": "Livingstone & Russo (2018). The Ryerson Audio-Visual Database of Emotional "
                "Speech and Song (RAVDESS). PLoS ONE 13(5). https://doi.org/10.1371/journal.pone.0196391"
            },
        },
    )
    _dump(
        run / "folds.json",
        {
            "protocol": "speakers-out",
            "sha256": "94e1a3d55ce0b54ae6a1a75a9bb1dcdbb2a53d4dbf1a9f6fd5ff0b6c9a5a1ed2",
            "is_speaker_independent": True,
            "notes": ["Train and test share both sentences: all speakers say the same two."],
            "folds": folds,
        },
    )


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


@pytest.fixture
def make_run() -> Callable[..., Path]:
    """`write_run`, for a run to be changed or broken."""
    return write_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run folder; read only."""
    return write_run(tmp_path_factory.mktemp("run"))
