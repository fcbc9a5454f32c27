"""Metrics: `unweighted_accuracy(truth, prediction)` and others; pure functions that return fractions from 0 to 1.

Those whose names end with `_of` take counts ``(..., classes, classes)``, rows truth and columns prediction, and keep
the leading axes, so that thousands of bootstrap resamples are scored at once. A quantity that does not exist (the
recall of a class that never occurs) is NaN, never 0, and is left out of means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Counts = NDArray[Any]


def confusion_matrix(truth: ArrayLike, prediction: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Count how often each class was taken for each other.

    Args:
        truth: ``(utterances,)`` integers below `num_classes`.
        prediction: ``(utterances,)`` integers below `num_classes`.
        num_classes: Size of the matrix; classes that never occur have rows and columns of zeros.

    Returns:
        ``(classes, classes)`` counts, rows truth and columns prediction.

    Raises:
        ValueError: The arrays differ in shape, or hold something other than class numbers.

    Example:
        >>> confusion_matrix([0, 0, 1], [0, 1, 1], num_classes=2).tolist()
        [[1, 1], [0, 1]]
    """
    rows = _class_numbers(truth, num_classes, name="truth")
    columns = _class_numbers(prediction, num_classes, name="prediction")
    if rows.shape != columns.shape:
        raise ValueError(f"truth has {len(rows)} labels and prediction {len(columns)}; give one of each per utterance.")
    cells = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def class_recalls(confusion: Counts) -> FloatArray:
    """Return the share of each class's utterances that were recognised; NaN for a class absent from truth.

    Returns:
        ``(..., classes)``.

    Example:
        >>> class_recalls(np.array([[3, 1], [0, 2]])).tolist()
        [0.75, 1.0]
    """
    return ratio(_correct(confusion), confusion.sum(axis=-1))


def class_precisions(confusion: Counts) -> FloatArray:
    """Return the share of each class's predictions that are right; NaN for a class never predicted.

    Returns:
        ``(..., classes)``.

    Example:
        >>> class_precisions(np.array([[3, 1], [0, 3]])).tolist()
        [1.0, 0.75]
    """
    return ratio(_correct(confusion), confusion.sum(axis=-2))


def class_f1(confusion: Counts) -> FloatArray:
    """Return the harmonic mean of precision and recall of each class, ``2 TP / (2 TP + FP + FN)``.

    NaN for a class in neither truth nor prediction; 0 for one that occurs and is never hit.

    Returns:
        ``(..., classes)``.

    Example:
        >>> class_f1(np.array([[2, 1, 0], [1, 2, 0], [0, 0, 0]])).round(3).tolist()
        [0.667, 0.667, nan]
    """
    occurrences = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    return ratio(2 * _correct(confusion), occurrences)


def unweighted_accuracy_of(confusion: Counts) -> FloatArray:
    """Return the mean of the class recalls over the classes that occur in truth (UA, balanced accuracy, UAR).

    Returns:
        ``(...)``; NaN when nothing was counted.

    Example:
        >>> float(unweighted_accuracy_of(np.array([[3, 1], [0, 2]])))
        0.875
    """
    return mean_of_known(class_recalls(confusion))


def weighted_accuracy_of(confusion: Counts) -> FloatArray:
    """Return the share of utterances that were recognised, whatever their class (WA, plain accuracy).

    Returns:
        ``(...)``; NaN when nothing was counted.

    Example:
        >>> round(float(weighted_accuracy_of(np.array([[3, 1], [0, 2]]))), 3)
        0.833
    """
    return ratio(_correct(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def macro_f1_of(confusion: Counts) -> FloatArray:
    """Return the mean class F1 over the classes that occur in truth or in prediction, as scikit-learn does.

    Returns:
        ``(...)``; NaN when nothing was counted.

    Example:
        >>> round(float(macro_f1_of(np.array([[3, 1], [0, 2]]))), 3)
        0.829
    """
    return mean_of_known(class_f1(confusion))


def mean_of_known(values: FloatArray) -> FloatArray:
    """Return the mean over the last axis of the values that are not NaN; NaN where none is.

    Example:
        >>> mean_of_known(np.array([[1.0, np.nan, 3.0], [np.nan] * 3])).tolist()
        [2.0, nan]
    """
    is_known = ~np.isnan(values)
    return ratio(np.where(is_known, values, 0.0).sum(axis=-1), is_known.sum(axis=-1))


def reliability(confidence: ArrayLike, is_correct: ArrayLike, num_bins: int = 10) -> tuple[FloatArray, ...]:
    """Compare what a model promises with what it keeps, in equally wide bins of confidence.

    Args:
        confidence: ``(utterances,)`` share given to the predicted class, 0 to 1.
        is_correct: ``(utterances,)`` bool.
        num_bins: Bins ``(low, high]`` between 0 and 1; the first includes 0.

    Returns:
        Mean confidence, share correct and count of every bin, each ``(bins,)``; NaN means for an empty bin.

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
    """Return the expected calibration error: mean distance of confidence and accuracy, bins weighted.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.

    Example:
        >>> expected_calibration_error([0.75, 0.75, 0.75, 0.75], [True, True, True, False])
        0.0
    """
    promised, kept, count = reliability(confidence, is_correct, num_bins)
    return float(np.nansum(np.abs(promised - kept) * count) / max(count.sum(), 1.0))


class EqualError(NamedTuple):
    """The equal error rate: where false acceptances and false rejections are equally frequent.

    Attributes:
        rate: That share, 0 to 1.
        threshold: The similarity from which on two clips count as one voice there.
    """

    rate: float
    threshold: float


def equal_error_rate(is_same: ArrayLike, similarity: ArrayLike) -> EqualError:
    """Return the rate at which misses and false alarms are equal, on straight lines between the operating points.

    Misses are same pairs below a threshold, false alarms different pairs not below it. Pairs of one similarity are
    taken or left together. A threshold stands midway between the similarities that it divides.

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
    here of the logarithms of probabilities, which are logits up to a constant of each row. Probabilities that are means
    of several networks' are tempered after the mean (Rahaman and Thiery 2021).

    Args:
        probabilities: ``(utterances, classes)``, each row summing to 1.
        temperature: Above 0; or ``(utterances, 1)``, one for each row.

    Example:
        >>> tempered(np.array([[0.8, 0.2]]), 2.0).round(3).tolist()
        [[0.667, 0.333]]
    """
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), np.finfo(np.float32).tiny)) / temperature
    softened = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[Any] = (softened / softened.sum(axis=-1, keepdims=True)).astype(np.asarray(probabilities).dtype)
    return result


def log_loss(truth: NDArray[np.int64], probabilities: NDArray[Any]) -> float:
    """Return the mean negative logarithm of the true class's share (Guo et al. 2017, equation 6, per utterance).

    Args:
        truth: ``(utterances,)`` class numbers.
        probabilities: ``(utterances, classes)``.

    Example:
        >>> round(log_loss(np.array([0, 1]), np.array([[0.5, 0.5], [0.75, 0.25]])), 4)
        1.0397
    """
    given = np.asarray(probabilities, np.float64)[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(given, np.finfo(np.float32).tiny)).mean())


def _class_numbers(labels: ArrayLike, num_classes: int, *, name: str) -> NDArray[np.int64]:
    numbers = np.asarray(labels)
    if numbers.size == 0:
        return np.zeros(0, np.int64)
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"{name} has shape {numbers.shape} and type {numbers.dtype}; give one integer per utterance.")
    if numbers.min() < 0 or numbers.max() >= num_classes:
        raise ValueError(f"{name} goes from {numbers.min()} to {numbers.max()}; expected 0 to {num_classes - 1}.")
    return numbers.astype(np.int64)


def _correct(confusion: Counts) -> Counts:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def ratio(numerator: Counts, denominator: Counts) -> FloatArray:
    """Return ``numerator / denominator``, of one shape; NaN where nothing is to divide by."""
    ratio: FloatArray = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=ratio, where=np.asarray(denominator) > 0)
    return ratio


def unweighted_accuracy(truth: Sequence[object], prediction: Sequence[object]) -> float:
    """Return the mean of the class recalls, 0 to 1 (UA, UAR, balanced accuracy).

    Args:
        truth: The class of each utterance, of any type that can be compared.
        prediction: What was predicted, in the same order.

    Raises:
        ValueError: They differ in length.

    Example:
        >>> unweighted_accuracy(["sad", "sad", "calm"], ["sad", "calm", "calm"])
        0.75
    """
    return float(unweighted_accuracy_of(_confusion(truth, prediction)))


def weighted_accuracy(truth: Sequence[object], prediction: Sequence[object]) -> float:
    """Return the fraction of utterances whose class was recognised, 0 to 1 (WA, accuracy); see `unweighted_accuracy`.

    Example:
        >>> round(weighted_accuracy(["sad", "sad", "calm"], ["sad", "calm", "calm"]), 3)
        0.667
    """
    return float(weighted_accuracy_of(_confusion(truth, prediction)))


def macro_f1(truth: Sequence[object], prediction: Sequence[object]) -> float:
    """Return the mean F1 of the classes that occur in truth or prediction, 0 to 1; see `unweighted_accuracy`.

    Example:
        >>> round(macro_f1(["sad", "sad", "calm"], ["sad", "calm", "calm"]), 3)
        0.667
    """
    return float(macro_f1_of(_confusion(truth, prediction)))


def moments(truth: ArrayLike, prediction: ArrayLike) -> FloatArray:
    """Return what scores of numbers are made of, for each utterance; sums of rows are the moments of a set.

    Columns: 1, truth, prediction, their squares, their product, absolute error; both less the mean of the truth, on
    which no score depends, so that squares stay small.

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
    rounding = 1e-12 * (tt + pp)  # of the difference of two nearly equal numbers
    variances = (np.where(v > rounding, v, 0.0) for v in (tt - t * t, pp - p * p))
    return t, p, *variances, tp - t * p


def concordance_of(sums: FloatArray) -> FloatArray:
    """Return the concordance of sets, (...), from sums of `moments`, (..., 7); see `concordance`."""
    t, p, var_t, var_p, cov = _central(sums)
    spread = var_t + var_p + (t - p) ** 2
    has_spread = (var_t > 0) & (var_p > 0)
    return np.where(has_spread, 2 * cov / np.where(has_spread, spread, 1.0), 0.0)


def pearson_of(sums: FloatArray) -> FloatArray:
    """Return Pearson's correlation of sets, (...), from sums of `moments`, (..., 7); see `pearson`."""
    _, _, var_t, var_p, cov = _central(sums)
    has_spread = (var_t > 0) & (var_p > 0)
    return np.where(has_spread, cov / np.sqrt(np.where(has_spread, var_t * var_p, 1.0)), 0.0)


def mean_absolute_error_of(sums: FloatArray) -> FloatArray:
    """Return the mean absolute error of sets, (...), from sums of `moments`, (..., 7)."""
    return np.asarray(sums[..., 6] / np.maximum(sums[..., 0], 1.0))


def root_mean_square_error_of(sums: FloatArray) -> FloatArray:
    """Return the root of the mean square error of sets, (...), from sums of `moments`, (..., 7)."""
    square = (sums[..., 3] + sums[..., 4] - 2 * sums[..., 5]) / np.maximum(sums[..., 0], 1.0)
    return np.asarray(np.sqrt(np.maximum(square, 0.0)))


def concordance(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Concordance correlation coefficient (Lin 1989), -1 to 1: 2 cov / (var + var + (mean - mean)^2).

    Variances and covariance divide by the number of utterances; where truth or prediction is constant, it is 0.

    Args:
        truth: (utterance,) numbers.
        prediction: (utterance,) numbers.

    Example:
        >>> round(concordance([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]), 4)
        0.5714
    """
    return float(concordance_of(moments(truth, prediction).sum(axis=0)))


def pearson(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Pearson's correlation, -1 to 1, of numbers, both (utterance,); 0 where truth or prediction is constant.

    Example:
        >>> round(pearson([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]), 4)
        1.0
    """
    return float(pearson_of(moments(truth, prediction).sum(axis=0)))


def mean_absolute_error(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Mean absolute error of numbers, both (utterance,).

    Example:
        >>> mean_absolute_error([1.0, 2.0], [1.0, 4.0])
        1.0
    """
    return float(mean_absolute_error_of(moments(truth, prediction).sum(axis=0)))


def root_mean_square_error(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Root of the mean square error of numbers, both (utterance,).

    Example:
        >>> root_mean_square_error([1.0, 2.0], [4.0, 2.0 - 3.0])
        3.0
    """
    return float(root_mean_square_error_of(moments(truth, prediction).sum(axis=0)))


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

    Its least value is the entropy of the truth.

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


def krippendorff_alpha(counts: ArrayLike) -> float:
    """Return Krippendorff's alpha of categories: 1 - observed / expected disagreement; 1 is full agreement, 0 chance.

    Units with fewer than two ratings say nothing and are left out. NaN when nothing can disagree: no unit is left, or
    one category was ever given.

    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C.

    Args:
        counts: (unit, category), how many raters gave it.

    Example:
        >>> krippendorff_alpha([[2, 0], [0, 2], [1, 1]])
        0.4444444444444444
    """
    given = np.asarray(counts, np.float64)
    given = given[given.sum(axis=1) >= 2]
    per_unit, per_category = given.sum(axis=1), given.sum(axis=0)
    total = per_unit.sum()
    expected = (total**2 - np.square(per_category).sum()) / max(total - 1, 1.0)
    if expected <= 0:
        return float("nan")
    observed = ((per_unit**2 - np.square(given).sum(axis=1)) / (per_unit - 1)).sum()
    return float(1 - observed / expected)


class HeldOutAgreement(NamedTuple):
    """How often a rater of an utterance is agreed with, 0 to 1.

    Attributes:
        model: By the model's most probable class.
        rater: By another rater of the utterance: what one more rater is worth.
        others: By the class that most of the other raters gave: as much as knowing them all is worth.
    """

    model: float
    rater: float
    others: float


def held_out_agreement(ratings: ArrayLike, probabilities: ArrayLike) -> HeldOutAgreement:
    """Hold out each rater of an utterance in turn and ask who agrees; NaN with fewer than two raters.

    A rater who gave several labels is agreed with in parts; equally frequent classes of the others share.

    Args:
        ratings: (rater, class), the labels that each gave; rows of any sum.
        probabilities: (class,) of the model.

    Example:
        >>> held_out_agreement([[1, 0], [1, 0], [0, 1]], [0.6, 0.4])
        HeldOutAgreement(model=0.6666666666666666, rater=0.3333333333333333, others=0.3333333333333333)
    """
    rows = np.asarray(ratings, np.float64)
    if len(rows) < 2:
        return HeldOutAgreement(np.nan, np.nan, np.nan)
    shares = rows / rows.sum(axis=1, keepdims=True)
    total = shares.sum(axis=0)
    pairs = float((total**2).sum() - (shares**2).sum()) / (len(rows) * (len(rows) - 1))
    rest = total - shares
    is_most = rest >= rest.max(axis=1, keepdims=True) - 1e-9
    others = float(((shares * is_most).sum(axis=1) / is_most.sum(axis=1)).mean())
    return HeldOutAgreement(float(shares[:, int(np.argmax(probabilities))].mean()), pairs, others)


def _confusion(truth: Sequence[object], prediction: Sequence[object]) -> NDArray[np.int64]:
    classes = sorted({*truth, *prediction}, key=str)
    number = {name: place for place, name in enumerate(classes)}
    rows, columns = ([number[name] for name in labels] for labels in (truth, prediction))
    return confusion_matrix(rows, columns, len(classes))


SCORES: dict[str, Callable[[Counts], FloatArray]] = {
    "ua": unweighted_accuracy_of,
    "wa": weighted_accuracy_of,
    "macro_f1": macro_f1_of,
}

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
DISTRIBUTION_SCORES: dict[str, Callable[[ArrayLike, ArrayLike], FloatArray]] = {
    "js": jensen_shannon,
    "brier": brier_score,
    "cross_entropy": cross_entropy,
}
