"""Losses against torch, scikit-learn and numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from serein.losses import (
    LOSSES,
    VECTOR_LOSSES,
    arcface,
    balanced_class_weights,
    cross_entropy,
    supervised_contrastive,
    weighted_mean,
)

CLASSES = 5
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.25, 3.0], dtype=torch.float64)


def batch(size: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return labels, their probabilities, and logits."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    logits = 3 * torch.randn(size, CLASSES, generator=generator, dtype=torch.float64)
    return labels, F.one_hot(labels, CLASSES).double(), logits


def soft(size: int = 9) -> torch.Tensor:
    return torch.rand(size, CLASSES, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(dim=1)


def torchs(smoothing: float) -> float:
    """Return torch's argument for a smoothing g of diatlova2024: g' = g * K / (K - 1)."""
    return smoothing * CLASSES / (CLASSES - 1)


def test_cross_entropy_by_hand() -> None:
    """Probabilities of 3/4 and 1/4; of a smoothing of 0.2 the true class keeps 0.8 and the other two get 0.1 each."""
    logits = torch.tensor([[math.log(3), 0.0]])
    assert cross_entropy(torch.tensor([[0.0, 1.0]]), logits).tolist() == pytest.approx([math.log(4)])
    three = torch.tensor([[math.log(2), 0.0, 0.0]])  # probabilities 1/2, 1/4, 1/4
    smoothed = cross_entropy(torch.tensor([[1.0, 0.0, 0.0]]), three, smoothing=0.2)
    assert smoothed.tolist() == pytest.approx([0.8 * math.log(2) + 0.2 * math.log(4)])
    weighted = cross_entropy(torch.tensor([[1.0, 0.0, 0.0]]), three, torch.tensor([2.0, 3.0, 5.0]), 0.2)
    assert weighted.tolist() == pytest.approx([2 * 0.8 * math.log(2) + (3 + 5) * 0.1 * math.log(4)])


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.2, 0.7])
def test_cross_entropy_of_labels_is_that_of_torch(weights: torch.Tensor | None, smoothing: float) -> None:
    labels, truth, logits = batch()
    each = cross_entropy(truth, logits, weights, smoothing)
    theirs = F.cross_entropy(logits, labels, weights, label_smoothing=torchs(smoothing), reduction="none")
    np.testing.assert_allclose(each, theirs, rtol=1e-12)
    mean = F.cross_entropy(logits, labels, weights, label_smoothing=torchs(smoothing))
    assert float(weighted_mean(each, truth, weights)) == pytest.approx(float(mean), rel=1e-12)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_probabilities_is_that_of_torch(weights: torch.Tensor | None, smoothing: float) -> None:
    truth, (_, _, logits) = soft(), batch()
    theirs = F.cross_entropy(logits, truth, weights, label_smoothing=torchs(smoothing), reduction="none")
    np.testing.assert_allclose(cross_entropy(truth, logits, weights, smoothing), theirs, rtol=1e-12)


def test_the_least_loss_is_the_entropy_of_the_probabilities() -> None:
    truth = soft()
    entropy = -(truth * truth.log()).sum(dim=1)
    np.testing.assert_allclose(cross_entropy(truth, truth.log() + 7.0), entropy, rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_gradients_are_right(name: str, weights: torch.Tensor | None) -> None:
    truth, logits = soft(4), batch(4)[2].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](truth, x, weights, 0.1), logits)


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_stay_finite(name: str) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = LOSSES[name](torch.tensor([[0.0, 1.0, 0.0]]), logits, None, 0.1).sum()
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_weighted_mean_counts_each_by_its_class() -> None:
    """(1 x 2 + 4 x 1) / (2 + 1), the losses being weighted already."""
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert weighted_mean(torch.tensor([2.0, 4.0]), truth, torch.tensor([2.0, 1.0])).item() == 2.0
    assert weighted_mean(torch.tensor([2.0, 4.0]), truth, None).item() == 3.0


def test_a_batch_of_classes_that_do_not_occur_in_training_has_no_loss() -> None:
    truth, weights = torch.tensor([[0.0, 1.0], [0.0, 1.0]]), balanced_class_weights(torch.tensor([8.0, 0.0]))
    assert weighted_mean(cross_entropy(truth, torch.zeros(2, 2), weights), truth, weights).item() == 0.0
    assert weighted_mean(cross_entropy(truth, torch.zeros(2, 2), weights, 0.1), truth, weights).isfinite()


def test_balanced_weights_by_hand() -> None:
    """Forty utterances, four classes: N / (4 * N_class); a class that does not occur weighs nothing."""
    assert balanced_class_weights(torch.tensor([20.0, 10.0, 10.0, 0.0])).tolist() == [0.5, 1.0, 1.0, 0.0]


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.random.default_rng(0).choice(CLASSES, 200, p=[0.4, 0.3, 0.2, 0.07, 0.03])
    counts = torch.from_numpy(np.bincount(labels, minlength=CLASSES)).double()
    theirs = compute_class_weight("balanced", classes=np.arange(CLASSES), y=labels)
    np.testing.assert_allclose(balanced_class_weights(counts), theirs, rtol=1e-12)
    assert float((balanced_class_weights(counts) * counts).sum()) == pytest.approx(200)  # the weights' mean is 1


FORMULAS = {
    "mse": lambda truth, output: ((output - truth) ** 2).mean(dim=1),
    "mae": lambda truth, output: (output - truth).abs().mean(dim=1),
    "log-cosh": lambda truth, output: torch.log(torch.cosh(output - truth)).mean(dim=1),
}


@pytest.mark.parametrize("name", VECTOR_LOSSES)
def test_vector_losses_are_their_formulas_with_their_gradients(name: str) -> None:
    truth = torch.randn(5, 7, dtype=torch.float64)
    outputs = [torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    ours, theirs = (each.requires_grad_() for each in outputs)
    mine, written = VECTOR_LOSSES[name](truth, ours), FORMULAS[name](truth, theirs)
    assert torch.allclose(mine, written, atol=1e-12)
    mine.sum().backward()
    written.sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)
    assert torch.autograd.gradcheck(lambda output: VECTOR_LOSSES[name](truth, output), (ours,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [1e4, -1e4, 88.8, 1e-4, 0.0])
def test_log_cosh_never_overflows(dtype: torch.dtype, distance: float) -> None:
    output = torch.tensor([[distance]], dtype=dtype, requires_grad=True)
    loss = VECTOR_LOSSES["log-cosh"](torch.zeros(1, 1, dtype=dtype), output)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert output.grad.item() == pytest.approx(math.tanh(distance), abs=1e-5)
    exact = abs(distance) + math.log1p(math.exp(-2 * abs(distance))) - math.log(2)
    assert loss.item() == pytest.approx(exact, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(
    "labels",
    [
        [0, 0, 1, 1, 2, 2, 2, 0],
        [0, 0, 1, 2, 3, 4, 4, 4],  # classes of one member: their anchors are left out
        [5] * 8,
    ],
)
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_supervised_contrastive_loss_is_pytorch_metric_learnings(labels: list[int], temperature: float) -> None:
    others = pytest.importorskip("pytorch_metric_learning.losses", reason="pip install 'serein[dev]'")
    classes = torch.tensor(labels)
    ours, theirs = (torch.randn(8, 6, generator=torch.Generator().manual_seed(3)).requires_grad_() for _ in range(2))
    mine = supervised_contrastive(classes, ours, temperature)
    reference = others.SupConLoss(temperature=temperature)(theirs, classes)
    assert mine.item() == pytest.approx(reference.item(), rel=1e-5)
    mine.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0]])
def test_without_a_positive_the_contrast_is_nothing(labels: list[int]) -> None:
    embeddings = torch.randn(len(labels), 4, requires_grad=True)
    loss = supervised_contrastive(torch.tensor(labels), embeddings)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))


def test_contrast_is_computed_in_float32_under_autocast() -> None:
    labels, embeddings = torch.tensor([0, 0, 1, 1]), torch.randn(4, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = supervised_contrastive(labels, embeddings)
    assert inside.dtype == torch.float32
    assert inside.item() == pytest.approx(supervised_contrastive(labels, embeddings).item(), abs=1e-6)


# -- ArcFace


def cosines(
    num_clips: int = 12, num_classes: int = 5, size: int = 7
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return labels, vectors and centres: some vectors nearly at their own centre, some nearly opposite."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(num_clips) % num_classes
    vectors = torch.randn(num_clips, size, generator=generator, dtype=torch.float64)
    centres = torch.randn(num_classes, size, generator=generator, dtype=torch.float64)
    vectors[:3] = 2 * centres[labels[:3]] + 0.05 * vectors[:3]
    vectors[3:6] = -centres[labels[3:6]] + 0.05 * vectors[3:6]
    return labels, vectors, centres


@pytest.mark.parametrize(("scale", "margin"), [(30.0, 0.3), (64.0, 0.5), (1.0, 0.3), (30.0, 0.0)])
def test_arcface_is_pytorch_metric_learnings(scale: float, margin: float) -> None:
    """In value and in the gradients of vectors and centres, beyond an angle of pi - margin too."""
    others = pytest.importorskip("pytorch_metric_learning.losses", reason="pip install 'serein[dev]'")
    labels, vectors, centres = cosines()
    angles = F.cosine_similarity(vectors, centres[labels]).acos()
    assert (angles > math.pi - 0.3).sum() == 3
    theirs = others.ArcFaceLoss(5, 7, margin=math.degrees(margin), scale=scale)
    theirs.W.data = centres.T.clone()
    own, other, own_centres = (t.clone().requires_grad_() for t in (vectors, vectors, centres))
    logits = scale * F.normalize(own) @ F.normalize(own_centres).T
    mine = arcface(F.one_hot(labels, 5).double(), logits, scale=scale, margin=margin).mean()
    reference = theirs(other, labels)
    assert mine.item() == pytest.approx(reference.item(), rel=1e-9)
    mine.backward()
    reference.backward()
    torch.testing.assert_close(own.grad, other.grad, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(own_centres.grad, theirs.W.grad.T, rtol=1e-6, atol=1e-9)


def test_arcface_by_hand() -> None:
    """A clip at 60 degrees from its class, 90 from the other: cos(60 + 30 degrees) is 0, and both weigh alike."""
    logits = 30 * torch.tensor([[0.5, 0.0]])
    loss = arcface(torch.tensor([[1.0, 0.0]]), logits, margin=math.radians(30))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_arcface_without_a_margin_is_cross_entropy_of_scaled_cosines(weights: torch.Tensor | None) -> None:
    labels, vectors, centres = cosines()
    logits = 30 * F.normalize(vectors) @ F.normalize(centres).T
    without = arcface(F.one_hot(labels, 5).double(), logits, weights, 0.1, margin=0.0)
    np.testing.assert_allclose(without, cross_entropy(F.one_hot(labels, 5).double(), logits, weights, 0.1), rtol=1e-12)


def test_a_margin_makes_the_true_class_harder_wherever_the_clip_is() -> None:
    for degrees in (0, 1, 45, 90, 135, 170, 179, 180):
        logits = 30 * torch.tensor([[math.cos(math.radians(degrees)), 0.2]], dtype=torch.float64)
        truth = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        assert arcface(truth, logits) > cross_entropy(truth, logits) + 1e-9 * (degrees > 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0000001, -1.01, 0.0])
def test_arcface_is_finite_at_the_poles(cosine: float, dtype: torch.dtype) -> None:
    logits = (30 * torch.tensor([[cosine, -cosine, 0.0]])).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = arcface(torch.tensor([[1.0, 0.0, 0.0]]), logits)
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()


def test_arcface_takes_mixed_truth() -> None:
    """Half of each class has half of each margin; at 90 degrees from both it does not matter whose."""
    logits = torch.zeros(1, 3)
    half = arcface(torch.tensor([[0.5, 0.5, 0.0]]), logits, scale=1.0, margin=0.3)
    lowered = -0.5 * math.sin(0.3)
    assert half.item() == pytest.approx(math.log(2 * math.exp(lowered) + 1) - lowered, abs=1e-6)


def test_equation_1_of_wang2023_as_printed_is_a_sum_over_anchors() -> None:
    labels, embeddings = torch.tensor([0, 0, 1, 1, 2]), torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    mean, total = (supervised_contrastive(labels, embeddings, reduction=each) for each in ("mean", "sum"))
    assert total.item() == pytest.approx(4 * mean.item(), rel=1e-6)  # the fifth has no other clip of its class
