"""Classification scores: accuracies, recalls, F1, and the agreement of raters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Counts = NDArray[Any]


def confusion_matrix(truth: ArrayLike, prediction: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Count how often each class was predicted as each class.

    Args:
        truth: ``(utterances,)`` integers below `num_classes`.
        prediction: ``(utterances,)`` integers below `num_classes`.
        num_classes: Size of the matrix; classes that never occur have rows and columns of zeros.

    Returns:
        ``(classes, classes)`` counts, rows truth and columns prediction.

    Raises:
        ValueError: The arrays differ in shape, or contain something other than class numbers.

    Example:
        >>> confusion_matrix([0, 0, 1], [0, 1, 1], num_classes=2).tolist()
        [[1, 1], [0, 1]]
    """
    labels = {"truth": np.asarray(truth), "prediction": np.asarray(prediction)}
    for name, numbers in labels.items():
        if numbers.size == 0:
            labels[name] = np.zeros(0, np.int64)
        elif numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
            form = f"{name} has shape {numbers.shape} and type {numbers.dtype}"
            raise ValueError(f"{form}; give one integer per utterance.")
        elif numbers.min() < 0 or numbers.max() >= num_classes:
            raise ValueError(f"{name} ranges from {numbers.min()} to {numbers.max()}; expected 0 to {num_classes - 1}.")
    rows, columns = (numbers.astype(np.int64) for numbers in labels.values())
    if rows.shape != columns.shape:
        raise ValueError(f"truth has {len(rows)} labels and prediction {len(columns)}; give one of each per utterance.")
    cells = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def class_recalls(confusion: Counts) -> FloatArray:
    """Return the fraction of each class's utterances that were recognised; NaN for a class absent from truth.

    Returns:
        ``(..., classes)``.

    Example:
        >>> class_recalls(np.array([[3, 1], [0, 2]])).tolist()
        [0.75, 1.0]
    """
    return ratio(_correct(confusion), confusion.sum(axis=-1))


def class_precisions(confusion: Counts) -> FloatArray:
    """Return the fraction of each class's predictions that are correct; NaN for a class never predicted.

    Returns:
        ``(..., classes)``.

    Example:
        >>> class_precisions(np.array([[3, 1], [0, 3]])).tolist()
        [1.0, 0.75]
    """
    return ratio(_correct(confusion), confusion.sum(axis=-2))


def class_f1(confusion: Counts) -> FloatArray:
    """Return the harmonic mean of precision and recall of each class, ``2 TP / (2 TP + FP + FN)``.

    NaN for a class in neither truth nor prediction; 0 for one that occurs but is never predicted correctly.

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
    """Return the fraction of utterances that were recognised, regardless of class (WA, plain accuracy).

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
    """Return the mean over the last axis of the values that are not NaN; NaN where all are.

    Example:
        >>> mean_of_known(np.array([[1.0, np.nan, 3.0], [np.nan] * 3])).tolist()
        [2.0, nan]
    """
    is_known = ~np.isnan(values)
    return ratio(np.where(is_known, values, 0.0).sum(axis=-1), is_known.sum(axis=-1))


def ratio(numerator: Counts, denominator: Counts) -> FloatArray:
    """Return ``numerator / denominator``, of equal shape; NaN where the denominator is 0."""
    ratio: FloatArray = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=ratio, where=np.asarray(denominator) > 0)
    return ratio


def unweighted_accuracy(truth: Sequence[object], prediction: Sequence[object]) -> float:
    """Return the mean of the class recalls, 0 to 1 (UA, UAR, balanced accuracy).

    Args:
        truth: The class of each utterance, of any type that can be compared.
        prediction: The predicted class of each utterance, in the same order.

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


def krippendorff_alpha(counts: ArrayLike) -> float:
    """Return Krippendorff's alpha of categories: 1 - observed / expected disagreement; 1 is full agreement, 0 chance.

    Units with fewer than two ratings are uninformative and left out. NaN when there can be no disagreement: no unit is
    left, or only one category was ever given.

    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C.

    Args:
        counts: (unit, category), the number of raters who gave it.

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
    """How often others agree with a rater of an utterance, 0 to 1.

    Attributes:
        model: Agreement of the model's most probable class.
        rater: Agreement of another rater of the utterance: the worth of one more rater.
        others: Agreement of the class that most of the other raters gave: the worth of knowing them all.
    """

    model: float
    rater: float
    others: float


def held_out_agreement(ratings: ArrayLike, probabilities: ArrayLike) -> HeldOutAgreement:
    """Hold out each rater of an utterance in turn and measure who agrees; NaN with fewer than two raters.

    Agreement with a rater who gave several labels is fractional; ties among the classes of the others are averaged.

    Args:
        ratings: (rater, class), the labels that each rater gave; rows of any sum.
        probabilities: (class,) probabilities of the model.

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


def _correct(confusion: Counts) -> Counts:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


SCORES: dict[str, Callable[[Counts], FloatArray]] = {
    "ua": unweighted_accuracy_of,
    "wa": weighted_accuracy_of,
    "macro_f1": macro_f1_of,
}
