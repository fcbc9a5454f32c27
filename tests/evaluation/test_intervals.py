"""The bootstrap against a slow loop, and what intervals and paired differences promise."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as sklearn_metrics

from serein.errors import RunError
from serein.evaluation.intervals import (
    bootstrap_intervals,
    class_scores,
    draw_counts,
    paired_difference,
    point_scores,
    resampled_scores,
    resampling_units,
)
from serein.evaluation.predictions import EvalPrediction, code
from serein.evaluation.scores import score_predictions
from serein.metrics import SCORES

CLASSES = ("angry", "calm", "sad")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def said(
    num_speakers: int = 6, each: int = 12, *, seeds: tuple[int, ...] = (0,), skill: float = 0.6, draw: int = 1
) -> list[EvalPrediction]:
    """Make up predictions of which about `skill` are right; speakers differ in size."""
    random = rng(draw)
    truth = [(f"s{s}", f"s{s}-{i}", CLASSES[random.integers(3)]) for s in range(num_speakers) for i in range(each + s)]
    return [
        EvalPrediction(
            id=name,
            truth=emotion,
            prediction=emotion if random.random() < skill else CLASSES[random.integers(3)],
            speaker=speaker,
            seed=seed,
        )
        for seed in seeds
        for speaker, name, emotion in truth
    ]


def slow_scores(predictions: list[EvalPrediction]) -> dict[str, float]:
    truth, prediction = [p.truth for p in predictions], [p.prediction for p in predictions]
    present = sorted({name for name in truth if name})
    recall = sklearn_metrics.recall_score(truth, prediction, labels=present, average="macro", zero_division=0)
    f1 = sklearn_metrics.f1_score(truth, prediction, average="macro", zero_division=0)
    return {"ua": recall, "wa": sklearn_metrics.accuracy_score(truth, prediction), "macro_f1": f1}


def test_resamples_are_those_of_a_slow_loop() -> None:
    predictions = said(seeds=(0, 1))
    units = resampling_units(code(predictions, CLASSES))
    fast = resampled_scores(units, rng(3), num_resamples=20).scores
    for row, counts in enumerate(draw_counts(units, rng(3), 20)):
        for seed in (0, 1):
            drawn = [
                p for s, c in enumerate(counts) for p in predictions * c if p.speaker == f"s{s}" and p.seed == seed
            ]
            expected = slow_scores(drawn)
            assert {name: fast[name][row, seed] for name in SCORES} == pytest.approx(expected)


def test_intervals_average_seeds_inside_each_resample() -> None:
    units = resampling_units(code(said(seeds=(0, 1, 2)), CLASSES))
    expected = np.percentile(resampled_scores(units, rng(), 500).scores["ua"].mean(axis=1), [2.5, 97.5])
    assert bootstrap_intervals(units, rng(), 500)[0]["ua"] == pytest.approx(tuple(expected))


def test_interval_holds_the_score_and_is_wider_with_fewer_speakers() -> None:
    widths = []
    for num_speakers in (6, 40):
        units = resampling_units(code(said(num_speakers), CLASSES))
        bounds = bootstrap_intervals(units, rng())[0]["ua"]
        assert bounds is not None
        assert bounds[0] < point_scores(units)["ua"][0] < bounds[1]
        widths.append(bounds[1] - bounds[0])
    assert widths[0] > widths[1]


def test_uneven_speakers_widen_the_interval_beyond_that_of_utterances() -> None:
    good, bad = said(8, 40, skill=1.0), said(8, 40, skill=0.0, draw=2)
    uneven = [*good, *(replace(p, id=f"x{p.id}", speaker=f"x{p.speaker}") for p in bad)]
    anonymous = [replace(p, speaker=None) for p in uneven]
    widths = []
    for predictions, kind in ((uneven, "speakers"), (anonymous, "utterances")):
        units = resampling_units(code(predictions, CLASSES))
        assert units.kind == kind
        low, high = bootstrap_intervals(units, rng())[0]["ua"] or (0.0, 0.0)
        widths.append(high - low)
    assert widths[0] > 3 * widths[1]


def test_alike_utterances_share_a_row_and_change_nothing() -> None:
    predictions = [replace(p, speaker=None) for p in said(seeds=(0, 1))]
    coded = code(predictions, CLASSES)
    units = resampling_units(coded)
    assert len(units.multiplicity) <= 27
    assert units.num_units == len(coded.ids)
    counts = coded.class_counts(coded.utterance * 2 + coded.seed, 2 * len(coded.ids)).reshape(len(coded.ids), -1)
    one_by_one = replace(units, sums=counts.tocsr(), multiplicity=np.ones(len(coded.ids), int))
    for name in SCORES:
        assert point_scores(units)[name] == pytest.approx(point_scores(one_by_one)[name])
        spread, expected = (resampled_scores(u, rng(), 4000).scores[name].std() for u in (units, one_by_one))
        assert spread == pytest.approx(expected, rel=0.08)


def test_an_utterance_tested_in_two_folds_counts_twice() -> None:
    twice = [EvalPrediction(id="a", truth="sad", prediction=p, fold=f) for f, p in (("1", "sad"), ("2", "calm"))]
    assert point_scores(resampling_units(code(twice, CLASSES)))["wa"] == pytest.approx([0.5])


@pytest.mark.parametrize(("num_speakers", "reason"), [(1, "1 speaker,"), (2, "2 speakers,"), (3, None)])
def test_too_few_speakers_give_no_interval_and_a_reason(num_speakers: int, reason: str | None) -> None:
    units = resampling_units(code(said(num_speakers), CLASSES))
    assert (bootstrap_intervals(units, rng())[0]["ua"] is None) == (reason is not None)
    assert (units.too_few or "").startswith(reason or "")


def test_blocks_of_resamples_draw_the_same_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    units = resampling_units(code(said(), CLASSES))
    whole = resampled_scores(units, rng(), 50).scores
    monkeypatch.setattr("serein.evaluation.intervals._NUMBERS_AT_ONCE", 7 * 9)
    assert resampled_scores(units, rng(), 50).scores["ua"].tolist() == whole["ua"].tolist()


def test_a_system_does_not_differ_from_itself() -> None:
    for difference in paired_difference(said(), said(), CLASSES, rng=rng()).values():
        assert difference.difference == 0.0
        assert difference.interval == (0.0, 0.0)
        assert difference.probability_of_improvement == 0.5  # 0 would be a victory of the second


def test_a_better_system_is_better_and_the_order_is_its_sign() -> None:
    good, bad = said(skill=0.9, draw=1), said(skill=0.9, draw=1)
    bad = [replace(p, prediction="sad") for p in bad]
    there, back = paired_difference(good, bad, CLASSES, rng=rng()), paired_difference(bad, good, CLASSES, rng=rng())
    assert there["ua"].difference > 0.3
    assert there["ua"].probability_of_improvement == 1.0
    assert there["ua"].resampled == "6 speakers"
    assert back["ua"].difference == -there["ua"].difference
    assert back["ua"].interval == pytest.approx(tuple(-bound for bound in reversed(there["ua"].interval or ())))


def test_pairs_are_tighter_than_two_systems_apart() -> None:
    a = said(30, skill=0.5)
    b = [replace(p, prediction=str(p.truth)) if i % 10 == 0 else p for i, p in enumerate(a)]
    low, high = paired_difference(b, a, CLASSES, rng=rng())["ua"].interval or (0.0, 0.0)
    alone = bootstrap_intervals(resampling_units(code(a, CLASSES)), rng())[0]["ua"] or (0.0, 0.0)
    assert 0.0 < low < high
    assert high - low < 0.6 * (alone[1] - alone[0])


def test_systems_may_differ_in_seeds_folds_and_who_names_the_speakers() -> None:
    a = said(seeds=(0, 1, 2))
    b = [replace(p, speaker=None, fold="other") for p in said(seeds=(7,))]
    difference = paired_difference(a, b, CLASSES, rng=rng())["wa"]
    assert difference.resampled == "6 speakers"
    assert difference.a == pytest.approx(np.mean([slow_scores([p for p in a if p.seed == s])["wa"] for s in (0, 1, 2)]))
    assert difference.b == pytest.approx(slow_scores(b)["wa"])


def test_other_utterances_or_other_truths_cannot_be_compared() -> None:
    a = said()
    with pytest.raises(RunError, match=r"the second system has no prediction for 1 utterances: s0-0"):
        paired_difference(a, a[1:], CLASSES, rng=rng())
    with pytest.raises(RunError, match=r"the first system has no prediction"):
        paired_difference(a[1:], a, CLASSES, rng=rng())
    other = [replace(a[0], truth="calm" if a[0].truth != "calm" else "sad"), *a[1:]]
    with pytest.raises(RunError, match=r"the truth of 1 utterances differs: s0-0"):
        paired_difference(a, other, CLASSES, rng=rng())


def spoken(*rows: tuple[str, str, str], each: int = 4) -> list[EvalPrediction]:
    """Return `each` predictions for every speaker, truth and prediction."""
    return [
        EvalPrediction(id=f"{speaker}-{truth}-{n}", truth=truth, prediction=predicted, speaker=speaker)
        for speaker, truth, predicted in rows
        for n in range(each)
    ]


def test_a_model_that_always_answers_the_same_is_not_flattered_by_resamples_that_lack_classes() -> None:
    classes = ("angry", "calm", "happy", "sad")
    speaks = [(f"s{n}", truth, "happy") for n in range(8) for truth in (classes[n % 4], classes[(n + 1) % 4])]
    scores = score_predictions(spoken(*speaks), classes)
    assert scores.pooled["ua"] == 25.0
    assert scores.intervals["ua"] == (25.0, 25.0)
    assert scores.pooled["macro_f1"] == pytest.approx(10.0)
    _, high = scores.intervals["macro_f1"] or (0.0, 100.0)
    assert high < 100 * 2 * 0.75 / 1.75 / 4  # three of four utterances are happy: more than that is no chance
    (note,) = (note for note in scores.notes if "resamples lack a class with few speakers" in note)
    assert "it counts there with its score on all test data" in note


def test_an_absent_class_counts_with_its_score_on_all_data_by_hand() -> None:
    of_all = np.array([3.0, 1.0, 2.0, 4.0, 4.0, 2.0, 5.0, 3.0, 2.0])  # recalls 3/4, 1/4, 1; F1 2/3, 2/7, 1
    resample = np.array([2.0, 0.0, 1.0, 2.0, 0.0, 2.0, 2.0, 1.0, 1.0])  # recalls 1, -, 1/2; F1 1, -, 2/3
    found = class_scores(resample, of_all)
    assert found["ua"] == pytest.approx((1 + 1 / 4 + 1 / 2) / 3)
    assert found["macro_f1"] == pytest.approx((1 + 2 / 7 + 2 / 3) / 3)
    assert found["wa"] == pytest.approx(3 / 4)
    assert class_scores(resample)["ua"] == pytest.approx((1 + 1 / 2) / 2)


def test_resamples_with_all_classes_need_no_note_but_on_few_speakers() -> None:
    units = resampling_units(code(said(), CLASSES))
    few = ["Only 6 speakers: a bootstrap interval over so few is too narrow."]
    assert bootstrap_intervals(units, rng(), 200, CLASSES)[1] == few


def test_classes_of_one_speaker_each_have_no_interval_over_speakers() -> None:
    rows = [("a", "angry", "angry"), ("b", "calm", "sad"), ("c", "sad", "sad"), ("d", "sad", "calm")]
    bounds, notes = bootstrap_intervals(resampling_units(code(spoken(*rows), CLASSES)), rng())
    assert bounds["ua"] is bounds["macro_f1"] is None
    assert bounds["wa"] is not None  # which needs no classes
    why = "2 of 3 classes have only one speaker, so other speakers cannot be drawn"
    assert notes[0] == f"No intervals of UA and macro-F1: {why}."
    difference = paired_difference(spoken(*rows), spoken(*rows), CLASSES, rng=rng())["ua"]
    assert (difference.interval, difference.notes) == (None, (f"No intervals of UA and macro-F1: {why}.",))


@pytest.mark.slow
def test_memory_grows_with_utterances_and_not_with_speakers_times_classes_squared() -> None:
    """Confusion matrices of 400 speakers and 400 classes would take 512 MB for each system."""
    classes = [f"c{number:03d}" for number in range(400)]
    random = rng(2)
    truth, first, second = random.integers(400, size=(3, 4000))
    systems = [
        [
            EvalPrediction(id=str(n), truth=classes[truth[n]], prediction=classes[said[n]], speaker=f"s{n % 400}")
            for n in range(4000)
        ]
        for said in (
            np.where(random.random(4000) < 0.8, truth, first),
            np.where(random.random(4000) < 0.5, truth, second),
        )
    ]
    tracemalloc.start()
    difference = paired_difference(*systems, classes, rng=rng(), num_resamples=200)["ua"]
    score_predictions(systems[0], classes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert difference.difference > 0.2
    assert peak < 200e6


def test_an_utterance_without_a_speaker_is_drawn_beside_whole_speakers() -> None:
    """One unknown speaker made every interval one of utterances: a tenth of the true width here."""

    def rows(num_unknown: int) -> list[EvalPrediction]:
        """Return 20 speakers of 100 utterances each, right for half of the speakers and wrong for the others."""
        known = [EvalPrediction(f"{s}-{n}", "a", "ab"[s % 2], speaker=str(s)) for s in range(20) for n in range(100)]
        return [*known, *(EvalPrediction(f"x{n}", "a", "a") for n in range(num_unknown))]

    def width(predictions: list[EvalPrediction]) -> tuple[float, str, list[str]]:
        units = resampling_units(code(predictions, ["a", "b"]))
        bounds, notes = bootstrap_intervals(units, np.random.default_rng(0), classes=["a", "b"])
        assert bounds["wa"] is not None
        return bounds["wa"][1] - bounds["wa"][0], f"{units.num_units} {units.kind}", notes

    known, mixed, unknown = width(rows(0)), width(rows(1)), width([replace(p, speaker=None) for p in rows(0)])
    assert (known[1], mixed[1], unknown[1]) == ("20 speakers", "21 speakers and utterances", "2000 utterances")
    assert mixed[0] == pytest.approx(known[0], rel=0.1)
    assert unknown[0] < 0.15 * known[0]
    assert mixed[2] == [
        "1 of 2001 utterances have no speaker, and are drawn one by one: intervals are too narrow if their speakers "
        "repeat."
    ]
