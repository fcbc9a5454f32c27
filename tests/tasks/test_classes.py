"""The emotion task: targets, loss and score of whole sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch.nn import functional as F

from serein.data.manifest import Utterance
from serein.errors import RecipeError
from serein.losses import LOSSES
from serein.recipe import Category, Labels
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


def test_a_loss_that_returns_its_mean_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With class weights, its value would be divided by the size of the batch a second time."""
    monkeypatch.setitem(LOSSES, "mean", lambda truth, logits, class_weights, smoothing: F.cross_entropy(logits, truth))
    _, truth, logits = batch()
    with pytest.raises(RecipeError, match=r"tasks\.emotion\.loss: 'mean' returned .* \(\) for 12 clips"):
        task(loss="mean").loss(truth, logits)


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


# -- classes that a corpus lacks -------------------------------------------------------------------------------------


def corpora(**emotions: tuple[str, ...]) -> list[Utterance]:
    """Return utterances of several corpora, by name."""
    pairs = [(corpus, emotion) for corpus, each in emotions.items() for emotion in each]
    return [
        Utterance(id=str(i), audio=f"{i}.wav", corpus=corpus, emotion=emotion)
        for i, (corpus, emotion) in enumerate(pairs)
    ]


def test_classes_that_a_corpus_lacks_are_marked_unless_it_has_only_one() -> None:
    targets = task(absent_classes="mask").targets(corpora(a=("calm", "sad"), read=("calm",), b=("happy", "sad")))
    assert targets.values[:, :3].argmax(axis=1).tolist() == [0, 2, 0, 1, 2]
    assert targets.values[:, 3:].tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert targets.is_known.all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_masked_class_takes_no_part_in_the_loss(loss: str) -> None:
    """The loss is that of a task with only the classes of the corpus; the masked logit has no gradient."""
    masked = task(absent_classes="mask", label_smoothing=0.2, loss=loss)
    truth = torch.from_numpy(masked.targets(corpora(a=("calm", "sad", "sad"))).values)
    logits = batch(3)[2].requires_grad_()
    value = masked.loss(truth, logits)
    value.backward()
    two = ClassTask(Category(label_smoothing=0.2, loss=loss), ClassLabels(("calm", "sad"), {}))
    expected = two.loss(truth[:, [0, 2]], logits[:, [0, 2]])
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert logits.grad is not None
    assert logits.grad[:, 1].tolist() == [0, 0, 0]
    assert logits.grad[:, [0, 2]].abs().min() > 0


def test_a_mixed_clip_masks_what_both_corpora_lack() -> None:
    masked = task(absent_classes="mask")
    truth = torch.from_numpy(masked.targets(corpora(a=("calm", "sad"), b=("happy", "sad"))).values)
    both = 0.3 * truth[:1] + 0.7 * truth[2:3]
    logits = batch(1)[2]
    assert float(masked.loss(both, logits)) == pytest.approx(float(task().loss(both[:, :3], logits)), rel=1e-6)
    own = 0.3 * truth[:1] + 0.7 * truth[1:2]
    assert float(masked.loss(own, logits)) != pytest.approx(float(task().loss(own[:, :3], logits)), rel=1e-3)


def test_a_teachers_probability_of_a_masked_class_goes_to_the_others() -> None:
    masked = task(absent_classes="mask")
    taught = torch.tensor([[0.1, 0.1, 0.8, 0.0, 0.0, 1.0]])
    expected = task().loss(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.3, 0.1, -1e4]]))
    assert masked.loss(taught, torch.tensor([[0.3, 0.1, 2.0]])).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_loss_of_ones_own_must_know_how_to_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "own", lambda truth, output, weights, smoothing: (truth - output).square().sum(dim=1))
    assert task(loss="own").loss(*batch()[1:]) > 0
    with pytest.raises(RecipeError, match=r"tasks\.emotion\.absent_classes: the loss 'own' cannot mask classes"):
        task(loss="own", absent_classes="mask")


def test_masks_do_not_disturb_classes_and_scores() -> None:
    masked = task(absent_classes="mask", class_weights="balanced")
    truth = torch.from_numpy(masked.targets(corpora(a=("calm", "sad"), b=("happy", "sad"))).values)
    masked.prepare(truth)
    assert masked.class_weights is not None
    assert masked.class_weights.tolist() == pytest.approx([4 / 3, 4 / 3, 2 / 3])
    assert masked.classes(truth).tolist() == [0, 2, 1, 2]
    scores = masked.scores(truth, truth[:, :3] * 9)
    assert scores["ua"] == 1.0
    assert 0.0 < scores["loss"] < 0.01


def test_distributions_of_raters_cannot_be_masked() -> None:
    with pytest.raises(RecipeError, match=r"tasks\.emotion\.absent_classes: cannot mask classes"):
        ClassTask(Category(absent_classes="mask"), CATEGORIES, Labels(target="distribution"))
