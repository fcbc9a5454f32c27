"""The emotion task: targets, loss and score of whole sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch.nn import functional as F

from serein.data.manifest import Utterance
from serein.recipe import Category
from serein.tasks.classes import ClassLabels, ClassTask

CATEGORIES = ClassLabels(("calm", "happy", "sad"), {"excited": "happy"})


def task(**options: object) -> ClassTask:
    return ClassTask(Category(**options), CATEGORIES)


def utterances(*emotions: str | None) -> list[Utterance]:
    return [Utterance(id=str(i), audio=f"{i}.wav", emotion=emotion) for i, emotion in enumerate(emotions)]


def batch(size: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (size,), generator=generator)
    return labels, F.one_hot(labels, 3).float(), torch.randn(size, 3, generator=generator)


def test_targets_are_probabilities_and_say_where_they_lack() -> None:
    targets = task().targets(utterances("sad", None, "excited", "bored"))
    assert targets.values.tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert targets.values.dtype == np.float32
    assert targets.is_known.tolist() == [True, False, True, False]


def test_it_has_one_output_per_class() -> None:
    assert (task().name, task().num_outputs) == ("emotion", 3)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_torchs_cross_entropy(smoothing: float) -> None:
    labels, truth, logits = batch()
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing * 3 / 2)
    assert float(task(label_smoothing=smoothing).loss(truth, logits)) == pytest.approx(float(expected), rel=1e-6)


def test_balanced_weights_come_from_the_training_targets() -> None:
    labels, truth, logits = batch()
    balanced = task(class_weights="balanced")
    balanced.prepare(torch.eye(3)[[0, 0, 0, 0, 1, 2]])  # 6 / (3 * N)
    assert balanced.class_weights is not None
    assert balanced.class_weights.tolist() == [0.5, 2.0, 2.0]
    expected = F.cross_entropy(logits, labels, torch.tensor([0.5, 2.0, 2.0]))
    assert float(balanced.loss(truth, logits)) == pytest.approx(float(expected), rel=1e-6)


def test_utterances_without_a_class_weigh_nothing_in_the_balance() -> None:
    balanced = task(class_weights="balanced")
    balanced.prepare(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    assert balanced.class_weights is not None
    assert balanced.class_weights.tolist() == [1.0, 1.0, 1.0]


def test_without_balance_all_classes_weigh_alike() -> None:
    plain = task()
    plain.prepare(torch.eye(3)[[0, 0, 0, 1, 2]])
    assert plain.class_weights is None


def test_the_score_is_unweighted_accuracy_of_the_whole_set() -> None:
    """Recalls 1/2, 1 and 0 of the classes; classes that do not occur do not count."""
    truth = torch.eye(3)[[0, 0, 1, 2]]
    answers = torch.eye(3)[[0, 1, 1, 1]]
    assert task().scores(truth, answers)["ua"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert task().scores(truth[:3], answers[:3])["ua"] == pytest.approx((0.5 + 1) / 2)
    labels, probabilities, logits = batch(60)
    assert task().scores(probabilities, logits)["ua"] == pytest.approx(
        balanced_accuracy_score(labels, logits.argmax(dim=1))
    )
