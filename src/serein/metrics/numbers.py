"""Scores of numbers: concordance, correlation, errors; of two lists, or of sums over many sets at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from serein.metrics.classes import FloatArray


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
