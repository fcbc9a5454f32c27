"""Scores against hand-worked numbers, scikit-learn and torchmetrics."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import sklearn.metrics as sklearn_metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy
from scipy.stats import norm, pearsonr
from torchmetrics.functional import concordance_corrcoef
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from serein import metrics

NUM_CLASSES = 5


@st.composite
def labels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    pairs = st.tuples(st.integers(0, NUM_CLASSES - 1), st.integers(0, NUM_CLASSES - 1))
    truth, prediction = zip(*draw(st.lists(pairs, min_size=1, max_size=40)), strict=True)
    return np.array(truth), np.array(prediction)


def confusion(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    return metrics.confusion_matrix(truth, prediction, NUM_CLASSES)


def test_confusion_matrix_rows_are_truth() -> None:
    assert metrics.confusion_matrix([0, 0, 0], [1, 1, 0], 2).tolist() == [[1, 2], [0, 0]]


def test_hand_worked() -> None:
    counts = np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]])
    assert metrics.class_recalls(counts)[:2].tolist() == [0.75, 0.5]
    assert metrics.class_precisions(counts)[:2] == pytest.approx([3 / 5, 2 / 3])
    assert metrics.unweighted_accuracy_of(counts) == pytest.approx(0.625)
    assert metrics.weighted_accuracy_of(counts) == pytest.approx(5 / 8)
    assert metrics.macro_f1_of(counts) == pytest.approx((6 / 9 + 4 / 7) / 2)


def test_a_class_only_predicted_lowers_macro_f1_but_not_unweighted_accuracy() -> None:
    counts = np.array([[1, 1], [0, 0]])
    assert metrics.unweighted_accuracy_of(counts) == 0.5
    assert metrics.macro_f1_of(counts) == pytest.approx((2 / 3 + 0) / 2)


def test_nothing_counted_is_nan_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(np.isnan(score(np.zeros((2, 2)))) for score in metrics.SCORES.values())


@pytest.mark.slow
@settings(deadline=None)
@given(labels())
def test_like_scikit_learn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = pair
    counts, classes = confusion(truth, prediction), np.unique(truth)
    recalls = sklearn_metrics.recall_score(truth, prediction, labels=classes, average=None, zero_division=0)
    assert metrics.class_recalls(counts)[classes] == pytest.approx(recalls)
    assert metrics.unweighted_accuracy_of(counts) == pytest.approx(recalls.mean())
    assert metrics.weighted_accuracy_of(counts) == pytest.approx(sklearn_metrics.accuracy_score(truth, prediction))
    f1 = sklearn_metrics.f1_score(truth, prediction, average="macro", zero_division=0)
    assert metrics.macro_f1_of(counts) == pytest.approx(f1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        balanced = sklearn_metrics.balanced_accuracy_score(truth, prediction)
    assert metrics.unweighted_accuracy_of(counts) == pytest.approx(balanced)


@pytest.mark.slow
@settings(deadline=None)
@given(labels())
def test_precision_like_scikit_learn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = pair
    classes = np.unique(prediction)
    expected = sklearn_metrics.precision_score(truth, prediction, labels=classes, average=None, zero_division=0)
    assert metrics.class_precisions(confusion(truth, prediction))[classes] == pytest.approx(expected)


@settings(deadline=None)
@given(labels())
def test_like_torchmetrics(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = (torch.from_numpy(array) for array in pair)
    counts = confusion(*pair)
    assert counts.tolist() == multiclass_confusion_matrix(prediction, truth, NUM_CLASSES).tolist()
    f1 = multiclass_f1_score(prediction, truth, NUM_CLASSES, average="macro")
    assert metrics.macro_f1_of(counts) == pytest.approx(float(f1), abs=1e-6)
    micro = multiclass_accuracy(prediction, truth, NUM_CLASSES, average="micro")
    assert metrics.weighted_accuracy_of(counts) == pytest.approx(float(micro), abs=1e-6)


@given(st.lists(labels(), min_size=2, max_size=4))
def test_leading_axes_are_kept(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    stack = np.stack([confusion(*pair) for pair in pairs])[:, None]
    for score in metrics.SCORES.values():
        one_by_one = [score(counts[0]) for counts in stack]
        assert score(stack).shape == (len(pairs), 1)
        np.testing.assert_allclose(score(stack)[:, 0], one_by_one)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.001, 1.0), st.booleans()), min_size=1, max_size=50))
def test_calibration_error_like_torchmetrics(pairs: list[tuple[float, bool]]) -> None:
    confidence, is_correct = (np.array(column) for column in zip(*pairs, strict=True))
    inside = np.abs(confidence * 10 - np.round(confidence * 10)) > 1e-4
    confidence, is_correct = confidence[inside], is_correct[inside]
    if len(confidence) == 0:
        return
    expected = binary_calibration_error(torch.from_numpy(confidence), torch.from_numpy(is_correct).int(), n_bins=10)
    assert metrics.expected_calibration_error(confidence, is_correct) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([0, 1], [0], "truth has 2 labels and prediction 1"),
        ([0, 2], [0, 1], "truth ranges from 0 to 2; expected 0 to 1"),
        ([0.0, 1.0], [0, 1], "give one integer per utterance"),
    ],
)
def test_input_that_is_not_labels(truth: list[float], prediction: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.confusion_matrix(truth, prediction, 2)


# -- voices ------------------------------------------------------------------------------------------------------------


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Same and different pairs, at least one of each, with many ties."""
    pair = st.tuples(st.booleans(), st.integers(-4, 4))
    drawn = [*draw(st.lists(pair, max_size=40)), (True, draw(st.integers(-4, 4))), (False, draw(st.integers(-4, 4)))]
    is_same, similarity = zip(*drawn, strict=True)
    return np.array(is_same), np.array(similarity) / 4


@pytest.mark.slow
@given(pairs())
@settings(max_examples=200, deadline=None)
def test_equal_error_rate_is_where_scikit_learns_curve_crosses(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    """The usual recipe: a root of 1 - x - ROC(x), by scipy; on a vertical piece the root is the piece's place."""
    is_same, similarity = drawn
    alarms, hits, _ = sklearn_metrics.roc_curve(is_same, similarity, drop_intermediate=False)

    def gap(x: float) -> float:
        return 1.0 - x - float(np.interp(x, alarms, hits))

    at_once = [a for a in np.unique(alarms) if hits[alarms == a].min() <= 1 - a <= hits[alarms == a].max()]
    expected = at_once[0] if at_once else brentq(gap, 0.0, 1.0)
    assert metrics.equal_error_rate(is_same, similarity).rate == pytest.approx(expected, abs=1e-9)


@given(pairs())
@settings(max_examples=100, deadline=None)
def test_equal_error_rate_knows_no_sides_and_no_numbers(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    """Same and different pairs change places when similarity is turned round; the mix of pairs does not matter."""
    is_same, similarity = drawn
    rate, threshold = metrics.equal_error_rate(is_same, similarity)
    assert similarity.min() <= threshold <= similarity.max()
    assert metrics.equal_error_rate(~is_same, -similarity) == pytest.approx((rate, -threshold))
    times = np.where(is_same, 1, 3)
    assert metrics.equal_error_rate(is_same.repeat(times), similarity.repeat(times)) == pytest.approx((rate, threshold))


def test_equal_error_rate_by_hand() -> None:
    is_same = [True, True, True, False, False, False]
    assert metrics.equal_error_rate(is_same, [6, 5, 2, 4, 3, 1]) == pytest.approx((1 / 3, 3.5))
    assert metrics.equal_error_rate(is_same, [6, 5, 4, 3, 2, 1]) == pytest.approx((0.0, 3.5))
    assert metrics.equal_error_rate(is_same, [1, 2, 3, 4, 5, 6]) == pytest.approx((1.0, 3.5))
    assert metrics.equal_error_rate(is_same, [1] * 6).rate == 0.5
    # misses and alarms are (1/3, 0) at 4.5, then (1/3, 1/2) at 3: they are equal after 2/3 of the way
    assert metrics.equal_error_rate([True, True, False, True, False], [9, 5, 4, 2, 1]) == pytest.approx((1 / 3, 3.5))


def test_without_both_kinds_of_pairs_there_is_no_rate() -> None:
    for is_same in ([True, True], [False, False], []):
        assert np.isnan(metrics.equal_error_rate(is_same, [0.5] * len(is_same))).all()


def test_equal_error_rate_of_two_normal_distributions() -> None:
    """Two normal distributions two deviations apart cross where each has the tail beyond one deviation: 15.9 %."""
    rng = np.random.default_rng(0)
    similarity = np.concatenate([rng.normal(2, 1, 100_000), rng.normal(0, 1, 200_000)])
    rate, threshold = metrics.equal_error_rate(np.arange(300_000) < 100_000, similarity)
    assert rate == pytest.approx(norm.sf(1), abs=2e-3)
    assert threshold == pytest.approx(1.0, abs=0.02)


# -- numbers -----------------------------------------------------------------------------------------------------------


@st.composite
def numbers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two rows of as many numbers, two or more, neither of them constant."""
    size = draw(st.integers(2, 30))
    one = st.lists(st.integers(-50, 50), min_size=size, max_size=size).filter(lambda values: len(set(values)) > 1)
    return np.array(draw(one)) / 8, np.array(draw(one)) / 8


@given(numbers())
@settings(max_examples=100, deadline=None)
def test_concordance_is_torchmetrics(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    """torchmetrics divides by n - 1; the ratio of variances with n must be the formula of Lin, so means differ."""
    truth, prediction = drawn
    n = len(truth)
    shift = (truth.mean() - prediction.mean()) ** 2
    spread = truth.var(ddof=1) + prediction.var(ddof=1)
    theirs = float(concordance_corrcoef(torch.from_numpy(prediction), torch.from_numpy(truth)))
    covariance = theirs * (spread + shift) / 2 * (n - 1) / n
    expected = 2 * covariance / (spread * (n - 1) / n + shift)
    assert metrics.concordance(truth, prediction) == pytest.approx(expected, abs=1e-5)


@given(numbers())
@settings(max_examples=100, deadline=None)
def test_errors_of_numbers_are_scikit_learns(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = drawn
    absolute, square = metrics.mean_absolute_error(truth, prediction), metrics.root_mean_square_error(truth, prediction)
    assert absolute == pytest.approx(sklearn_metrics.mean_absolute_error(truth, prediction))
    assert square == pytest.approx(sklearn_metrics.root_mean_squared_error(truth, prediction))
    assert absolute <= square + 1e-12


@pytest.mark.parametrize("score", [metrics.concordance, metrics.pearson, metrics.mean_absolute_error])
def test_a_number_that_is_missing_makes_no_score(score: Callable[..., float]) -> None:
    assert np.isnan(score([1.0, 2.0, 3.0], [1.0, np.nan, 3.0]))


def test_concordance_by_hand() -> None:
    assert metrics.concordance([1, 2, 3], [1, 2, 3]) == 1.0
    assert metrics.concordance([1, 2, 3], [3, 2, 1]) == -1.0
    assert metrics.concordance([1, 2, 3], [2, 2, 2]) == 0.0  # the mean of all: right on average, and of no use
    assert metrics.concordance([2, 2, 2], [2, 2, 2]) == 0.0
    assert metrics.concordance([0, 2], [0, 4]) == pytest.approx(2 * 2 / (1 + 4 + 1))  # halved by the wrong scale


@pytest.mark.slow
@given(numbers())
@settings(max_examples=100, deadline=None)
def test_sums_of_moments_score_a_set_whatever_its_level(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = drawn
    rows = metrics.moments(truth, prediction)
    parts = rows[: len(rows) // 2].sum(axis=0) + rows[len(rows) // 2 :].sum(axis=0)
    for name, score in metrics.NUMBER_SCORES.items():
        expected = score(truth, prediction)
        assert float(metrics.NUMBER_SCORES_OF[name](parts)) == pytest.approx(expected, abs=1e-9)
        assert score(truth + 1e6, prediction + 1e6) == pytest.approx(expected, abs=1e-6)
    assert metrics.pearson(truth, prediction) == pytest.approx(pearsonr(truth, prediction).statistic, abs=1e-9)
    assert abs(metrics.concordance(truth, prediction)) <= abs(metrics.pearson(truth, prediction)) + 1e-9


# -- distributions -----------------------------------------------------------------------------------------------------


@st.composite
def distributions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two rows of counts as shares, with zeros among them."""
    row = st.lists(st.integers(0, 5), min_size=4, max_size=4).filter(any)
    truth, prediction = np.array(draw(row), float), np.array(draw(row), float)
    return truth / truth.sum(), prediction / prediction.sum()


@given(distributions())
@settings(max_examples=100, deadline=None)
def test_distances_of_distributions_are_scipys(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = drawn
    assert metrics.jensen_shannon(truth, prediction) == pytest.approx(
        jensenshannon(truth, prediction, 2) ** 2, abs=1e-7
    )
    assert metrics.entropy(truth) == pytest.approx(scipy_entropy(truth))
    if (prediction > 0).all():
        divergence = metrics.cross_entropy(truth, prediction) - metrics.entropy(truth)
        assert divergence == pytest.approx(scipy_entropy(truth, prediction), abs=1e-9)
    assert 0 <= metrics.jensen_shannon(truth, prediction) <= 1
    assert metrics.brier_score(truth, prediction) == pytest.approx(np.linalg.norm(truth - prediction) ** 2)


def test_krippendorffs_alpha_of_krippendorffs_example() -> None:
    """Krippendorff 2011, section C: four observers, twelve units, five categories, missing values: 0.743."""
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
        [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
    ]
    counts = [[[row[unit] for row in observers].count(value) for value in range(1, 6)] for unit in range(12)]
    assert metrics.krippendorff_alpha(counts) == pytest.approx(0.743, abs=5e-4)


def test_krippendorffs_alpha_at_its_ends() -> None:
    assert metrics.krippendorff_alpha([[3, 0], [0, 3]]) == 1.0
    assert metrics.krippendorff_alpha([[1, 1]] * 50) < 0.0
    assert np.isnan(metrics.krippendorff_alpha([[3, 0], [2, 0]]))
    assert np.isnan(metrics.krippendorff_alpha([[1, 0], [0, 1]]))
    rng = np.random.default_rng(0)
    assert metrics.krippendorff_alpha(rng.multinomial(5, [0.5, 0.3, 0.2], size=20_000)) == pytest.approx(0.0, abs=0.01)


def test_one_more_rater_by_hand() -> None:
    ratings = [[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]  # the last one gave two labels
    found = metrics.held_out_agreement(ratings, [0.2, 0.7, 0.1])
    assert found.model == pytest.approx((0 + 0 + 1 + 0.5) / 4)
    pairs = [1, 0, 0.5, 0, 0.5, 0.5]  # of each two raters
    assert found.rater == pytest.approx(np.mean(pairs))
    assert found.others == pytest.approx((0.5 + 0.5 + 0 + 0.5) / 4)  # [1.5 1.5], [1.5 1.5], [2.5 0.5], [2 1]
    assert np.isnan(metrics.held_out_agreement([[1, 0]], [0.5, 0.5])).all()


def test_a_model_that_is_one_of_the_raters_agrees_as_one() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        shares = rng.dirichlet([1, 1, 1])
        labels = np.eye(3)[rng.choice(3, size=6, p=shares)]
        found.append(metrics.held_out_agreement(labels[1:], labels[0]))
    model, rater, others = np.mean(found, axis=0)
    assert model == pytest.approx(rater, abs=0.01)
    assert others > rater + 0.03
