"""Losses: one function per formula, with its source. Truth before prediction; each returns one value per utterance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch

SPREAD_FLOOR = 1e-8  # of the concordance's denominator: two equal constants do not give 0 / 0
ABSENT_LOGIT = -1e4  # of a class with probability 0; finite in float16 and bfloat16, too
SINE_FLOOR = 1e-6  # of a squared sine: keeps the gradient of its root finite at cosines of 1 and -1


def cross_entropy(
    truth: torch.Tensor,
    logits: torch.Tensor,
    class_weights: torch.Tensor | None = None,
    smoothing: float = 0.0,
    is_absent: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy against class probabilities.

    Smoothing g leaves 1-g to the true class and gives g/(K-1) to each other class (diatlova2024). `torch` spreads its
    argument over all K classes instead, so torch's g' = g*K/(K-1).

    Args:
        truth: (batch, class) probabilities that sum to 1.
        logits: (batch, class).
        class_weights: (class,), factors of the terms of the classes.
        smoothing: g, in [0, 1).
        is_absent: (batch, class) bool, classes that take no part in a clip's loss; K counts the others.

    Returns:
        (batch,) not reduced; `weighted_mean` divides by the weights as `torch` does.

    Example:
        >>> cross_entropy(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
        tensor([0.6931])
    """
    probabilities = _smoothed(truth, smoothing, is_absent)
    if is_absent is not None:
        logits = logits.masked_fill(is_absent, ABSENT_LOGIT)
    if class_weights is not None:
        probabilities = probabilities * class_weights
    return -(probabilities * logits.log_softmax(dim=1)).sum(dim=1)


def _smoothed(truth: torch.Tensor, smoothing: float, is_absent: torch.Tensor | None) -> torch.Tensor:
    if is_absent is None:
        return truth * (1 - smoothing) + (1 - truth) * smoothing / (truth.shape[1] - 1)
    num_others = ((~is_absent).sum(dim=1, keepdim=True) - 1).clamp_min(1)
    return (truth * (1 - smoothing) + (1 - truth) * smoothing / num_others).masked_fill(is_absent, 0.0)


def weighted_mean(losses: torch.Tensor, truth: torch.Tensor, class_weights: torch.Tensor | None) -> torch.Tensor:
    """Mean over the batch, each utterance weighted by its class, as `torch` reduces weighted losses.

    The sum if no class of the batch has a weight, as in a dev batch of classes that do not occur in training.

    Args:
        losses: (batch,).
        truth: (batch, class) probabilities.
        class_weights: (class,) or `None` for the plain mean.
    """
    if class_weights is None:
        return losses.mean()
    total = (truth * class_weights).sum()
    return losses.sum() / torch.where(total > 0, total, 1.0)


def balanced_class_weights(counts: torch.Tensor) -> torch.Tensor:
    """N_total / (num_classes * N_class), which gives rare classes more weight.

    Equation 8 of diatlova2024, as printed, gives frequent classes more weight; this is the usual formula.

    Args:
        counts: (class,) training utterances of each class; a class without any has weight 0.

    Example:
        >>> balanced_class_weights(torch.tensor([30.0, 10.0]))
        tensor([0.6667, 2.0000])
    """
    present = counts > 0
    return torch.where(present, counts.sum() / (len(counts) * counts.clamp_min(1)), torch.zeros_like(counts))


def arcface(
    truth: torch.Tensor,
    logits: torch.Tensor,
    class_weights: torch.Tensor | None = None,
    smoothing: float = 0.0,
    scale: float = 30.0,
    margin: float = 0.3,
    is_absent: torch.Tensor | None = None,
) -> torch.Tensor:
    """Additive angular margin loss (Deng 2019; park2023, equation 4): `margin` is added to the true class's angle.

    Beyond an angle of pi - margin, where cos(angle + margin) would rise again, cos(angle) - margin * sin(margin) is
    used instead, as in Deng's own code. A class with a fraction of the truth gets that fraction of the margin. With a
    margin of 0, the loss is the cross-entropy of the scaled cosines, which are the model's prediction.

    Args:
        truth: (batch, class) probabilities that sum to 1.
        logits: (batch, class) scaled cosines between clips and the classes' centres.
        class_weights: See `cross_entropy`.
        smoothing: See `cross_entropy`.
        scale: Factor of the cosines.
        margin: Margin in radians.
        is_absent: See `cross_entropy`.

    Returns:
        (batch,) not reduced, in float32 at least. Value and gradient are finite at cosines of 1 and -1.

    Example:
        >>> arcface(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), scale=1.0).round(decimals=4)
        tensor([0.8518])
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        cosines = (logits / scale).clamp(-1.0, 1.0)
        sines = (1.0 - cosines.square()).clamp_min(SINE_FLOOR).sqrt()
        widened = cosines * math.cos(margin) - sines * math.sin(margin)
        widened = torch.where(cosines >= -math.cos(margin), widened, cosines - margin * math.sin(margin))
        logits = logits + truth * (scale * widened - logits)
        return cross_entropy(truth, logits, class_weights, smoothing, is_absent)


def mean_square_error(truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Mean over the features of (f(x) - w)^2 (stanley2023, equation 1): (batch,) from two (batch, feature).

    Example:
        >>> mean_square_error(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]))
        tensor([5.])
    """
    return (output - truth).square().mean(dim=1)


def mean_absolute_error(truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Mean over the features of |f(x) - w| (stanley2023, equation 2): (batch,) from two (batch, feature).

    Example:
        >>> mean_absolute_error(torch.zeros(1, 2), torch.tensor([[1.0, -3.0]]))
        tensor([2.])
    """
    return (output - truth).abs().mean(dim=1)


def log_cosh(truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Mean over the features of log(cosh(f(x) - w)) (stanley2023, equation 3): (batch,) from two (batch, feature).

    Computed as |d| + log(1 + exp(-2|d|)) - log 2, which does not overflow for any difference.

    Example:
        >>> log_cosh(torch.zeros(1, 1), torch.tensor([[10000.0]]))
        tensor([9999.3066])
    """
    distance = (output - truth).abs()
    return (distance + torch.nn.functional.softplus(-2 * distance) - math.log(2)).mean(dim=1)


def concordance(truth: torch.Tensor, output: torch.Tensor, is_known: torch.Tensor | None = None) -> torch.Tensor:
    """1 - the concordance correlation coefficient (Lin 1989) of each dimension over the batch, 0 to 2.

    As in `serein.metrics.concordance`, variances and covariance are divided by the number of clips. If truth or output
    is constant over the batch, as in a batch of one, there is no correlation: the loss is 1 and has no gradient.

    Args:
        truth: (batch, dimension).
        output: (batch, dimension).
        is_known: (batch, dimension) bool, the clips that count for each dimension; `None`: all.

    Returns:
        (dimension,) not reduced, in float32 at least.

    Example:
        >>> concordance(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[2.0], [3.0], [4.0]])).round(decimals=4)
        tensor([0.4286])
    """
    with torch.autocast(output.device.type, enabled=False):
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        truth = truth.to(output.dtype)
        share = torch.ones_like(output) if is_known is None else is_known.to(output.dtype)
        share = share / share.sum(dim=0).clamp_min(1.0)
        first, second = truth - (truth * share).sum(dim=0), output - (output * share).sum(dim=0)
        variances = ((first.square() + second.square()) * share).sum(dim=0)
        spread = variances + ((truth - output) * share).sum(dim=0).square()
        return 1.0 - 2.0 * (first * second * share).sum(dim=0) / spread.clamp_min(SPREAD_FLOOR)


def kl_divergence(
    truth: torch.Tensor,
    logits: torch.Tensor,
    class_weights: torch.Tensor | None = None,
    smoothing: float = 0.0,
    is_absent: torch.Tensor | None = None,
) -> torch.Tensor:
    """Kullback-Leibler divergence of predicted probabilities from true ones: cross-entropy less the truth's entropy.

    The gradient is that of `cross_entropy`. The value is 0 if the prediction equals the truth, so its curve shows the
    remaining distance.

    Args:
        truth: (batch, class) probabilities that sum to 1.
        logits: (batch, class).
        class_weights: See `cross_entropy`.
        smoothing: See `cross_entropy`.
        is_absent: See `cross_entropy`.

    Returns:
        (batch,) not reduced.

    Example:
        >>> kl_divergence(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.zeros(2, 2)).round(decimals=4)
        tensor([0.0000, 0.6931])
    """
    smoothed = _smoothed(truth, smoothing, is_absent)
    terms = torch.xlogy(smoothed, smoothed)
    own = terms if class_weights is None else terms * class_weights
    return cross_entropy(truth, logits, class_weights, smoothing, is_absent) + own.sum(dim=1)


def supervised_contrastive(
    labels: torch.Tensor,
    embeddings: torch.Tensor,
    temperature: float = 0.07,
    reduction: Literal["mean", "sum"] = "mean",
) -> torch.Tensor:
    """Supervised contrastive loss (wang2023, equation 1; Khosla 2020, L_out), over clips of one or more views.

    Embeddings are normalised to unit length and compared in float32. An anchor without another clip of its class is
    left out of the mean. The loss is 0 for a batch without such pairs, and for a batch of one class, which has no
    contrast.

    Args:
        labels: (clip,) class numbers; the views of a clip have its label.
        embeddings: (clip, feature).
        temperature: Divides the cosines.
        reduction: Over anchors; equation 1 uses the sum.

    Returns:
        A scalar.

    Example:
        >>> four = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> supervised_contrastive(torch.tensor([0, 0, 1, 1]), four, temperature=1.0).round(decimals=4)
        tensor(0.5514)
    """
    nothing = embeddings.sum() * 0.0
    if len(labels) < 2:
        return nothing
    with torch.autocast(embeddings.device.type, enabled=False):
        vectors = torch.nn.functional.normalize(embeddings.float(), dim=1)
        is_self = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        is_positive = (labels[:, None] == labels[None, :]) & ~is_self
        cosines = (vectors @ vectors.T / temperature).masked_fill(is_self, float("-inf"))
        log_probabilities = cosines - cosines.logsumexp(dim=1, keepdim=True)
        num_positives = is_positive.sum(dim=1)
        sums = torch.where(is_positive, log_probabilities, log_probabilities.new_zeros(())).sum(dim=1)
        loss = -(sums / num_positives.clamp_min(1)).sum()  # 0 for clips without another of their class
        if reduction == "mean":
            loss = loss / (num_positives > 0).sum().clamp_min(1)
        return torch.where((labels == labels[0]).all(), nothing.to(loss.dtype), loss)


def ctc(
    truth: Sequence[torch.Tensor], scores: torch.Tensor, num_frames: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Connectionist temporal classification (Graves 2006), each clip's loss divided by its number of letters.

    A transcript needs a frame for every letter and one for the blank between two equal letters. If a clip has fewer
    frames, or a transcript has no letters, the loss is 0 without a gradient; torch's loss would be infinite.

    Args:
        truth: For each clip (letter,) symbols above 0; 0 is the blank.
        scores: (batch, frame, symbol), not normalised.
        num_frames: (batch,) long, real frames of each clip.

    Returns:
        (batch,) losses, and (batch,) bool, whether each transcript is possible.

    Example:
        >>> two_frames = torch.zeros(1, 2, 2)  # three of four paths say it: a-, -a, aa
        >>> ctc([torch.tensor([1])], two_frames, torch.tensor([2]))
        (tensor([0.2877]), tensor([True]))
    """
    num_letters = torch.tensor([len(letters) for letters in truth])
    num_repeats = torch.tensor([int((letters[1:] == letters[:-1]).sum()) for letters in truth])
    is_possible = (num_letters + num_repeats <= num_frames.cpu()) & (num_letters > 0)
    empty = torch.zeros(0, dtype=torch.long, device=scores.device)
    each = torch.nn.functional.ctc_loss(
        scores.float().log_softmax(dim=-1).transpose(0, 1),
        torch.cat([empty, *(letters for letters, is_said in zip(truth, is_possible, strict=True) if is_said)]),
        num_frames.cpu(),
        torch.where(is_possible, num_letters, 0),
        reduction="none",
        zero_infinity=True,
    )
    is_possible = is_possible.to(scores.device)
    return torch.where(is_possible, each / num_letters.clamp_min(1).to(scores.device), 0.0), is_possible


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "cross-entropy": cross_entropy,
    "kl-divergence": kl_divergence,
    "arcface": arcface,
}
NUMBER_LOSSES = {"ccc": concordance, "mse": mean_square_error, "mae": mean_absolute_error}
VECTOR_LOSSES = {"mse": mean_square_error, "mae": mean_absolute_error, "log-cosh": log_cosh}
