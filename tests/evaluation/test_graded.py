"""Scores of numbers and distributions: whole sets, speakers as units, pairs on the same draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serein import metrics
from serein.cli.app import print_scores
from serein.data.manifest import Rating, Utterance
from serein.errors import RunError
from serein.evaluation.graded import (
    graded_differences,
    graded_scores,
    measured_distributions,
    measured_numbers,
    one_more_rater,
    rater_agreement,
)
from serein.evaluation.intervals import SPEAKERS_UNKNOWN
from serein.evaluation.predictions import EvalPrediction
from serein.evaluation.scores import score_predictions
from serein.evaluation.tables import task_rows
from serein.evaluation.task_scores import score_task
from serein.tasks.task import TaskSpec

CLASSES = ("calm", "sad")


def numbers(noise: float, seed: int = 0, speakers: int = 8) -> list[EvalPrediction]:
    rng = np.random.default_rng(seed)
    truths = np.random.default_rng(9).uniform(size=(speakers * 5, 2))
    said = truths + rng.normal(0, noise, truths.shape)
    return [
        EvalPrediction(
            id=str(i), truth="{:.6g} {:.6g}".format(*t), prediction="{:.6g} {:.6g}".format(*p), speaker=str(i // 5)
        )
        for i, (t, p) in enumerate(zip(truths, said, strict=True))
    ]


def rated(name: str, sad: float, *labels: str, speaker: str | None = "s") -> EvalPrediction:
    ratings = tuple((label,) for label in labels)
    probabilities = {"calm": 1 - sad, "sad": sad}
    return EvalPrediction(name, None, "sad" if sad > 0.5 else "calm", probabilities, speaker, ratings=ratings)


def test_numbers_are_scored_as_a_whole_and_one_by_one() -> None:
    rows = numbers(0.1)
    found = graded_scores(measured_numbers(rows, ("arousal", "valence")))
    each = [metrics.concordance([p.true_values[i] for p in rows], [p.values[i] for p in rows]) for i in (0, 1)]
    assert [found["ccc arousal"].value, found["ccc valence"].value] == pytest.approx(each)
    assert found["ccc"].value == pytest.approx(np.mean(each))
    interval = found["ccc"].interval
    assert interval is not None
    assert interval[0] < found["ccc"].value < interval[1]


def test_seeds_are_averaged() -> None:
    first, second = numbers(0.1), [replace(p, seed=1) for p in numbers(0.3, seed=1)]
    names = ("arousal", "valence")
    each = [graded_scores(measured_numbers(rows, names))["mae"].value for rows in (first, second)]
    assert graded_scores(measured_numbers(first + second, names))["mae"].value == pytest.approx(np.mean(each))


def test_intervals_state_few_and_unknown_speakers() -> None:
    """As those of classes do; a run of numbers with one unknown speaker had no interval, and no reason for that."""
    few, names = numbers(0.1)[:30], ("arousal", "valence")
    spec = TaskSpec("dimensions", "arousal", "regression", dimensions=names)
    for rows, note in (
        (few, "Only 6 speakers: a bootstrap interval over so few is too narrow."),
        (
            [replace(few[0], speaker=None), *few[1:]],
            "1 of 30 utterances have no speaker, and are drawn one by one: intervals are too narrow if their speakers "
            "repeat.",
        ),
        ([replace(each, speaker=None) for each in few], SPEAKERS_UNKNOWN),
    ):
        score = score_task(spec, rows)
        assert score.interval is not None
        assert score.notes == (note,)
    (note,) = score_task(spec, few[:10]).notes
    assert "No intervals: 2 speakers" in note
    genders = [EvalPrediction(p.id, "female", "female", speaker=p.speaker) for p in few]
    assert "Only 6 speakers" in score_task(TaskSpec("gender", "gender", "classes"), genders).notes[0]


def test_unknown_numbers_are_left_out_of_their_dimension_alone() -> None:
    rows = numbers(0.1)
    holed = [replace(rows[0], truth=f"nan {rows[0].true_values[1]}"), *rows[1:]]
    found = graded_scores(measured_numbers(holed, ("arousal", "valence")))
    known = rows[1:]
    expected = metrics.mean_absolute_error([p.true_values[0] for p in known], [p.values[0] for p in known])
    assert found["mae arousal"].value == pytest.approx(expected)
    with pytest.raises(RunError, match="2 numbers"):
        measured_numbers(rows, ("arousal",))


def test_a_dimension_without_any_truth_has_no_score() -> None:
    """Sums of nothing are 0, which as errors would be perfect."""
    names = ("arousal", "valence")
    blank = [[replace(p, truth=f"{p.true_values[0]} nan") for p in numbers(noise)] for noise in (0.1, 0.2)]
    found = graded_scores(measured_numbers(blank[0], names))
    assert all(np.isnan(found[f"{score} valence"].value) for score in ("ccc", "pearson", "mae", "rmse"))
    assert found["mae valence"].interval is None
    assert found["mae"].value == found["mae arousal"].value
    difference = graded_differences(*(measured_numbers(rows, names) for rows in blank))["mae valence"]
    assert (difference.interval, difference.to_json()["a"]) == (None, None)
    score = score_task(TaskSpec("dimensions", "arousal", "regression", dimensions=names), blank[0])
    assert [row[1:] for row in task_rows(score) if row[0] == "mae valence"] == [("–", "–")]
    assert score.to_json()["others"]["mae valence"] is None


def test_a_resample_without_a_truth_of_a_dimension_counts_in_no_interval() -> None:
    rows = [p if p.speaker == "0" else replace(p, truth=f"{p.true_values[0]} nan") for p in numbers(0.1)]
    found = graded_scores(measured_numbers(rows, ("arousal", "valence")))["mae valence"]
    assert found.interval == pytest.approx((found.value, found.value))  # one speaker has no spread


def test_the_better_of_two_systems_is_found_whichever_way_a_score_goes() -> None:
    good, bad = (measured_numbers(numbers(noise), ("arousal", "valence")) for noise in (0.05, 0.4))
    found = graded_differences(good, bad)
    assert found["ccc"].difference > 0 > found["mae"].difference
    assert found["ccc"].probability_of_improvement == found["mae"].probability_of_improvement == 1.0
    assert graded_differences(good, good)["ccc"].probability_of_improvement == 0.5  # neither is better
    with pytest.raises(RunError, match="1 utterances are not in both"):
        graded_differences(good, measured_numbers(numbers(0.05)[1:], ("arousal", "valence")))


def test_distributions_by_hand() -> None:
    rows = [rated("a", 0.75, "sad", "sad", "calm", speaker="1"), rated("b", 0.25, "calm", speaker="2")]
    measured = measured_distributions(rows, CLASSES)
    assert measured is not None
    found = graded_scores(measured)
    assert found["brier"].value == pytest.approx((2 * (0.75 - 2 / 3) ** 2 + 2 * 0.25**2) / 2)
    assert found["agreement_model"].value == pytest.approx(2 / 3)  # the second has one rater only
    assert found["agreement_rater"].value == pytest.approx(1 / 3)
    assert found["one_more_rater"].value == pytest.approx(1 / 3)
    assert measured_distributions([replace(rows[0], ratings=None)], CLASSES) is None


@pytest.mark.parametrize(
    ("sad", "verdict"), [(0.9, "It is as good as one more rater"), (0.1, "It is not as good as one more rater")]
)
def test_whether_a_model_is_as_good_as_one_more_rater(sad: float, verdict: str) -> None:
    rows = [rated(str(i), sad, "sad", "sad", "sad", "sad", "calm", speaker=str(i)) for i in range(6)]
    measured = measured_distributions(rows, CLASSES)
    assert measured is not None
    assert verdict in one_more_rater(graded_scores(measured))


def test_the_sentence_on_raters_stands_below_their_scores_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """It was a note of the scores, so a table of several models repeated it without naming the model."""
    rows = [replace(rated(str(i), 0.9, "sad", "sad", "calm", speaker=str(i)), truth="sad") for i in range(6)]
    scores = score_predictions(rows, CLASSES)
    assert not any("rater" in note for note in scores.notes)
    print_scores(scores, as_json=False)
    assert capsys.readouterr().out.count("The model agrees with") == 1


def test_agreement_of_raters_by_corpus() -> None:
    ratings = (Rating(labels=("sad",)), Rating(labels=("sad", "calm")), Rating(labels=("calm",), rater="C-F1"))
    other = (Rating(labels=("calm",)), Rating(labels=("calm",)))
    utterances = [
        Utterance(id="a", audio="a", ratings=ratings, corpus="x"),
        Utterance(id="b", audio="b", ratings=other, corpus="x"),
    ]
    assert rater_agreement([*utterances, Utterance(id="c", audio="c")]) == {"x": 1.0}
