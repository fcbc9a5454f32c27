"""Scores of numbers and probabilities, which are not simply right or wrong.

For numbers: concordance, correlation and errors, of two lists or of sums over many sets at once. For probabilities and
similarities: calibration, distances of distributions, and the equal error rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serein.errors import RecipeError, expected_one_of
from serein.metrics.classes import FloatArray, ratio

_PENALTY = 0.3  # of the sum of squares, added to the clips' summed cross-entropy: a normal prior of deviation 1.3
_EXCLUDED = -30.0  # bias of a class with a prior of 0: its probability falls by a factor of 1e13


def moments(truth: ArrayLike, prediction: ArrayLike) -> FloatArray:
    """Return the terms of the scores of numbers, for each utterance; sums of rows are the moments of a set.

    Columns: 1, truth, prediction, their squares, their product, absolute error. The mean of the truth is subtracted
    from both, which changes no score and keeps the squares small.

    Args:
        truth: (utterance,) numbers.
        prediction: (utterance,) numbers.

    Returns:
        (utterance, 7).

    Example:
        >>> moments([1.0, 3.0], [1.0, 4.0]).tolist()
        [[1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 2.0, 1.0, 4.0, 2.0, 1.0]]
    """
    t, p = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    shift = t.mean() if t.size else 0.0
    t, p = t - shift, p - shift
    return np.stack([np.ones_like(t), t, p, t * t, p * p, t * p, np.abs(p - t)], axis=-1)


def _central(sums: FloatArray) -> tuple[FloatArray, ...]:
    """Return means of truth and prediction, their variances and covariance (Huygens), each (...), from (..., 7)."""
    n = np.maximum(sums[..., 0], 1.0)
    t, p, tt, pp, tp = (sums[..., column] / n for column in range(1, 6))
    rounding = 1e-12 * (tt + pp)  # error of the difference of two nearly equal numbers
    variances = (np.where(v <= rounding, 0.0, v) for v in (tt - t * t, pp - p * p))
    return t, p, *variances, tp - t * p


def concordance_of(sums: FloatArray) -> FloatArray:
    """Return the concordance of sets, (...), from sums of `moments`, (..., 7); see `concordance`."""
    t, p, var_t, var_p, cov = _central(sums)
    spread = var_t + var_p + (t - p) ** 2
    is_constant = (var_t == 0) | (var_p == 0)
    return np.where(is_constant, 0.0, 2 * cov / np.where(is_constant, 1.0, spread))


def pearson_of(sums: FloatArray) -> FloatArray:
    """Return Pearson's correlation of sets, (...), from sums of `moments`, (..., 7); see `pearson`."""
    _, _, var_t, var_p, cov = _central(sums)
    is_constant = (var_t == 0) | (var_p == 0)
    return np.where(is_constant, 0.0, cov / np.sqrt(np.where(is_constant, 1.0, var_t * var_p)))


def mean_absolute_error_of(sums: FloatArray) -> FloatArray:
    """Return the mean absolute error of sets, (...), from sums of `moments`, (..., 7)."""
    return np.asarray(sums[..., 6] / np.maximum(sums[..., 0], 1.0))


def root_mean_square_error_of(sums: FloatArray) -> FloatArray:
    """Return the root mean square error of sets, (...), from sums of `moments`, (..., 7)."""
    square = (sums[..., 3] + sums[..., 4] - 2 * sums[..., 5]) / np.maximum(sums[..., 0], 1.0)
    return np.asarray(np.sqrt(np.maximum(square, 0.0)))


def concordance(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Return the concordance correlation coefficient (Lin 1989), -1 to 1: 2 cov / (var + var + (mean - mean)^2).

    Variances and covariance divide by the number of utterances. If truth or prediction is constant, it is 0.

    Args:
        truth: (utterance,) numbers.
        prediction: (utterance,) numbers.

    Example:
        >>> round(concordance([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]), 4)
        0.5714
    """
    return float(concordance_of(moments(truth, prediction).sum(axis=0)))


def pearson(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Return Pearson's correlation of numbers, both (utterance,), -1 to 1; 0 if truth or prediction is constant.

    Example:
        >>> round(pearson([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]), 4)
        1.0
    """
    return float(pearson_of(moments(truth, prediction).sum(axis=0)))


def mean_absolute_error(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Return the mean absolute error of numbers, both (utterance,).

    Example:
        >>> mean_absolute_error([1.0, 2.0], [1.0, 4.0])
        1.0
    """
    return float(mean_absolute_error_of(moments(truth, prediction).sum(axis=0)))


def root_mean_square_error(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Return the root mean square error of numbers, both (utterance,).

    Example:
        >>> root_mean_square_error([1.0, 2.0], [4.0, 2.0 - 3.0])
        3.0
    """
    return float(root_mean_square_error_of(moments(truth, prediction).sum(axis=0)))


NUMBER_SCORES: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "ccc": concordance,
    "pearson": pearson,
    "mae": mean_absolute_error,
    "rmse": root_mean_square_error,
}


NUMBER_SCORES_OF: dict[str, Callable[[FloatArray], FloatArray]] = {  # the same, from sums of `moments`
    "ccc": concordance_of,
    "pearson": pearson_of,
    "mae": mean_absolute_error_of,
    "rmse": root_mean_square_error_of,
}


def reliability(confidence: ArrayLike, is_correct: ArrayLike, num_bins: int = 10) -> tuple[FloatArray, ...]:
    """Compare a model's confidence with its accuracy, in equally wide bins of confidence.

    Args:
        confidence: ``(utterances,)`` probability of the predicted class, 0 to 1.
        is_correct: ``(utterances,)`` bool.
        num_bins: Bins ``(low, high]`` between 0 and 1; the first includes 0.

    Returns:
        Mean confidence, accuracy and count of every bin, each ``(bins,)``; both means are NaN for an empty bin.

    Example:
        >>> promised, kept, count = reliability([0.2, 0.9, 0.8], [False, True, False], num_bins=2)
        >>> promised.round(2).tolist(), kept.tolist(), count.tolist()
        ([0.2, 0.85], [0.0, 0.5], [1.0, 2.0])
    """
    promised, kept = np.asarray(confidence, float), np.asarray(is_correct, float)
    position = np.ceil(promised * num_bins).astype(int) - 1
    index = np.clip(position, 0, num_bins - 1)
    count = np.bincount(index, minlength=num_bins).astype(float)
    sums = (np.bincount(index, weights=values, minlength=num_bins) for values in (promised, kept))
    return *(ratio(total, count) for total in sums), count


def expected_calibration_error(confidence: ArrayLike, is_correct: ArrayLike, num_bins: int = 10) -> float:
    """Return the expected calibration error: the mean distance of confidence and accuracy, weighted by bin size.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.

    Example:
        >>> expected_calibration_error([0.75, 0.75, 0.75, 0.75], [True, True, True, False])
        0.0
    """
    promised, kept, count = reliability(confidence, is_correct, num_bins)
    return float(np.nansum(np.abs(promised - kept) * count) / max(count.sum(), 1.0))


class EqualError(NamedTuple):
    """The equal error rate, at which false acceptances and false rejections are equally frequent.

    Attributes:
        rate: The rate, 0 to 1.
        threshold: The corresponding similarity: from it upwards, two clips count as the same voice.
    """

    rate: float
    threshold: float


def equal_error_rate(is_same: ArrayLike, similarity: ArrayLike) -> EqualError:
    """Return the rate at which misses and false alarms are equal, interpolated linearly between operating points.

    Misses are same pairs below a threshold, false alarms different pairs not below it. Pairs of equal similarity are
    accepted or rejected together. A threshold is midway between the similarities that it separates.

    Source: Martin et al. 1997, "The DET Curve in Assessment of Detection Task Performance".

    Args:
        is_same: ``(pairs,)`` bool, whether one person speaks in both clips.
        similarity: ``(pairs,)`` finite numbers, greater for more similar voices.

    Returns:
        NaN for both when there are no same or no different pairs.

    Example:
        >>> equal_error_rate([True, True, False, False], [0.9, 0.4, 0.6, 0.2])
        EqualError(rate=0.5, threshold=0.5)
        >>> equal_error_rate([True, True, False], [0.9, 0.8, 0.2])
        EqualError(rate=0.0, threshold=0.5)
    """
    same, values = np.asarray(is_same, bool), np.asarray(similarity, float)
    if same.all() or not same.any():
        return EqualError(np.nan, np.nan)
    order = np.argsort(-values)
    same, values = same[order], values[order]
    is_last = np.append(values[1:] < values[:-1], True)
    num_same, num_taken = np.cumsum(same)[is_last], np.flatnonzero(is_last) + 1
    misses = np.append(1.0, 1.0 - num_same / same.sum())
    alarms = np.append(0.0, (num_taken - num_same) / (~same).sum())
    steps = values[is_last]
    thresholds = np.concatenate([steps[:1], (steps[:-1] + steps[1:]) / 2, steps[-1:]])
    after = int(np.argmax(alarms >= misses))
    gap = misses - alarms
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    rate, threshold = (float(v[after - 1] + share * (v[after] - v[after - 1])) for v in (alarms, thresholds))
    return EqualError(rate, threshold)


def tempered(probabilities: NDArray[Any], temperature: float | FloatArray) -> NDArray[Any]:
    """Return probabilities softened (temperature above 1) or sharpened (below), which changes no prediction.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 9: softmax(logits / temperature);
    here with the logarithms of probabilities, which equal the logits up to a constant per row. Mean probabilities of
    several networks are tempered after averaging (Rahaman and Thiery 2021).

    Args:
        probabilities: ``(utterances, classes)``, each row summing to 1.
        temperature: A number above 0; or ``(utterances, 1)``, one for each row.

    Example:
        >>> tempered(np.array([[0.8, 0.2]]), 2.0).round(3).tolist()
        [[0.667, 0.333]]
    """
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), np.finfo(np.float32).tiny)) / temperature
    softened = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[Any] = (softened / softened.sum(axis=-1, keepdims=True)).astype(np.asarray(probabilities).dtype)
    return result


def class_bias(probabilities: NDArray[Any], priors: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Return the bias to add to the log-probability of each class, (class,).

    Without the penalty, the mean probability of each class would equal its prior. Labels would add nothing: they enter
    the likelihood only by their frequencies.

    Sources: Saerens, Latinne and Decaestecker 2002, "Adjusting the Outputs of a Classifier to New a Priori
    Probabilities"; Zhou et al. 2024, "Batch Calibration", which equalises the mean log-probabilities instead.

    Args:
        probabilities: (clip, class), each row with a sum of 1.
        priors: (class,) expected frequency in the clips, with a sum of 1. A class with a prior of 0 is excluded: its
            probability falls by a factor of 1e13.
        weights: (clip,) how many clips each one counts as; `None`: one.

    Example:
        >>> probabilities = np.tile([[0.9, 0.1], [0.6, 0.4]], (500, 1))
        >>> class_bias(probabilities, np.array([0.5, 0.5])).round(2)
        array([-0.65,  0.65])
    """
    from scipy.optimize import minimize

    log_probabilities, is_kept = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)), priors > 0
    weights = np.ones(len(probabilities)) if weights is None else weights
    own, counts = log_probabilities[:, is_kept], weights.sum() * priors[is_kept]

    def loss(bias: FloatArray) -> tuple[float, FloatArray]:
        log_sums = np.logaddexp.reduce(own + bias, axis=1)
        gradient = weights @ np.exp(own + bias - log_sums[:, None]) - counts + 2 * _PENALTY * bias
        return float(_PENALTY * (bias**2).sum() + weights @ log_sums - counts @ bias), gradient

    bias = np.full(len(priors), _EXCLUDED)
    bias[is_kept] = minimize(loss, np.zeros(int(is_kept.sum())), jac=True, method="L-BFGS-B").x
    return bias


def class_priors(classes: Sequence[str], priors: Mapping[str, float]) -> FloatArray:
    """Return the prior of each class, (class,); classes that are not named divide the rest equally.

    Raises:
        RecipeError: A class is unknown, a prior is not from 0 to 1, or they cannot have a sum of 1.

    Example:
        >>> class_priors(("angry", "happy", "neutral"), {"neutral": 0.5})
        array([0.25, 0.25, 0.5 ])
    """
    for name, prior in priors.items():
        if name not in classes:
            raise RecipeError(expected_one_of(name, classes, kind="class"), where="priors", remedy="Name one of these.")
        if not 0.0 <= prior <= 1.0:
            raise RecipeError(f"'{name}' has a prior of {prior:g}", where="priors", remedy="Choose one from 0 to 1.")
    left, rest = [name for name in classes if name not in priors], 1.0 - sum(priors.values())
    if left and -1e-6 <= rest <= 1e-6:
        what = f"nothing remains for {', '.join(left)}"
        raise RecipeError(what, where="priors", remedy="Give them a prior of 0, too, if they are to be excluded.")
    if rest < -1e-6 or (not left and rest > 1e-6):
        what = f"the priors have a sum of {1 - rest:g}"
        raise RecipeError(what, where="priors", remedy="Choose priors with a sum of 1, or leave classes out.")
    found = np.array([priors.get(name, rest / max(len(left), 1)) for name in classes])
    found[found < 1e-9] = 0.0
    normalised: FloatArray = found / found.sum()
    return normalised


def log_loss(truth: NDArray[np.int64], probabilities: NDArray[Any]) -> float:
    """Return the mean negative logarithm of the true class's probability (Guo et al. 2017, equation 6, per utterance).

    Args:
        truth: ``(utterances,)`` class numbers.
        probabilities: ``(utterances, classes)``.

    Example:
        >>> round(log_loss(np.array([0, 1]), np.array([[0.5, 0.5], [0.75, 0.25]])), 4)
        1.0397
    """
    given = np.asarray(probabilities, np.float64)[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(given, np.finfo(np.float32).tiny)).mean())


def entropy(probabilities: ArrayLike) -> FloatArray:
    """Return the entropy of each row, in nats: (...) from (..., class).

    Example:
        >>> entropy([[0.5, 0.5], [1.0, 0.0]]).round(4).tolist()
        [0.6931, 0.0]
    """
    p = np.asarray(probabilities, np.float64)
    return np.asarray(np.sum(p * -np.log(np.where(p > 0, p, 1.0)), axis=-1))


def cross_entropy(truth: ArrayLike, prediction: ArrayLike) -> FloatArray:
    """Return -sum of truth * log(prediction) of each row, in nats: (...) from two (..., class).

    Its minimum is the entropy of the truth.

    Example:
        >>> cross_entropy([[0.5, 0.5]], [[0.25, 0.75]]).round(4).tolist()
        [0.837]
    """
    logs = np.log(np.maximum(np.asarray(prediction, np.float64), np.finfo(np.float32).tiny))
    return np.asarray(-np.sum(np.asarray(truth, np.float64) * logs, axis=-1))


def jensen_shannon(truth: ArrayLike, prediction: ArrayLike) -> FloatArray:
    """Return the Jensen-Shannon divergence of each row, in bits, 0 (equal) to 1 (disjoint): (...) from (..., class).

    Source: Lin 1991, "Divergence measures based on the Shannon entropy", equation 4.1 with equal weights.

    Example:
        >>> jensen_shannon([[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]).tolist()
        [1.0, 0.0]
    """
    t, p = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    bits = (entropy((t + p) / 2) - (entropy(t) + entropy(p)) / 2) / np.log(2)
    return np.asarray(np.maximum(bits, 0.0))


def brier_score(truth: ArrayLike, prediction: ArrayLike) -> FloatArray:
    """Return the squared distance of each row, 0 to 2: (...) from two (..., class).

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability", over all classes.

    Example:
        >>> brier_score([[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]).tolist()
        [2.0, 0.0]
    """
    return np.asarray(np.square(np.asarray(prediction, np.float64) - np.asarray(truth, np.float64)).sum(axis=-1))


DISTRIBUTION_SCORES: dict[str, Callable[[ArrayLike, ArrayLike], FloatArray]] = {
    "js": jensen_shannon,
    "brier": brier_score,
    "cross_entropy": cross_entropy,
}
