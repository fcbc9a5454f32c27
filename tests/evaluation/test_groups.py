"""Groups of speakers: who belongs to which, their scores by hand, and intervals that draw the same speakers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from serein.errors import RunError
from serein.evaluation.groups import group_scores
from serein.evaluation.predictions import EvalPrediction, read_predictions

CLASSES = ["sad", "calm"]


def clips(speaker: str, said: str, **about: object) -> list[EvalPrediction]:
    """Give one clip for each letter: s and c are right, x is a sad clip and y a calm one predicted as the other."""
    answers = {"s": ("sad", "sad"), "c": ("calm", "calm"), "x": ("sad", "calm"), "y": ("calm", "sad")}
    rows = [answers[letter] for letter in said]
    return [
        EvalPrediction(id=f"{speaker}{i}{about}", truth=t, prediction=p, speaker=speaker, **about)  # type: ignore[arg-type]
        for i, (t, p) in enumerate(rows)
    ]


def test_each_attribute_that_has_two_groups_or_more() -> None:
    women = clips("a", "sc", gender="female", age=29.5, language="de") + clips("b", "sy", gender="female", age=61)
    men = clips("c", "xy", gender="male", age=30, language="de")
    scores = {(g.attribute, g.name): g for g in group_scores([*women, *men], CLASSES)}
    assert {key: g.ua for key, g in scores.items()} == {
        ("gender", "female"): 75.0,
        ("gender", "male"): 0.0,
        ("age", "below 30"): 100.0,
        ("age", "30 to 44"): 0.0,
        ("age", "60 and above"): 50.0,
    }
    female = scores["gender", "female"]
    assert (female.to_others, female.num_speakers, female.num_utterances) == (75.0, 2, 4)
    assert scores["age", "below 30"].to_others == pytest.approx(100 - 25)


def test_unknown_values_are_no_group_and_no_others() -> None:
    known = [*clips("a", "sc", gender="female"), *clips("b", "xy", gender="male")]
    groups = group_scores([*known, *clips("c", "ss")], CLASSES)
    assert [(g.name, g.to_others) for g in groups] == [("female", 100.0), ("male", -100.0)]


def test_several_corpora_are_scored_together_and_one_by_one() -> None:
    one = clips("a", "sc", gender="female", corpus="one") + clips("b", "sy", gender="male", corpus="one")
    other = clips("a", "xy", gender="female", corpus="other")  # another speaker of that name, and no man
    groups = group_scores([*one, *other], CLASSES)
    assert [(g.corpus, g.name, g.ua, g.num_speakers) for g in groups] == [
        (None, "female", 50.0, 2),
        (None, "male", 50.0, 1),
        ("one", "female", 100.0, 1),
        ("one", "male", 50.0, 1),
    ]
    assert groups[2].cells() == ("gender: female", "one", "100.0", "+50.0", "1", "2")
    nameless = clips("c", "sc", gender="female") + clips("d", "sy", gender="male")
    corpora = [g.cells()[1] for g in group_scores([*one, *nameless], CLASSES)]
    assert corpora == ["all", "all", "own", "own", "one", "one"]


def test_intervals_are_those_of_drawing_speakers_by_hand() -> None:
    rng = np.random.default_rng(1)
    is_female, hits = np.arange(60) < 24, rng.binomial(8, rng.beta(2, 1, (60, 1)), (60, 2))  # of 8 sad and 8 calm clips
    rows = [
        clip
        for speaker, (sad, calm) in enumerate(hits)
        for clip in clips(
            f"v{speaker:02d}",
            "s" * sad + "x" * (8 - sad) + "c" * calm + "y" * (8 - calm),
            gender="female" if is_female[speaker] else "male",
        )
    ]
    female, male = group_scores(rows, CLASSES)
    drawn = rng.integers(60, size=(20_000, 60))
    of_all = 100 * hits.mean(axis=1)[drawn] / 8
    women = np.nanmean(np.where(is_female[drawn], of_all, np.nan), axis=1)
    men = np.nanmean(np.where(is_female[drawn], np.nan, of_all), axis=1)
    assert female.interval == pytest.approx(tuple(np.percentile(women, [2.5, 97.5])), abs=1)
    assert male.interval == pytest.approx(tuple(np.percentile(men, [2.5, 97.5])), abs=1)
    low, high = np.percentile(women - men, [2.5, 97.5])
    assert female.to_others_interval == pytest.approx((low, high), abs=1)
    assert male.to_others_interval == pytest.approx((-high, -low), abs=1)


def test_without_speakers_or_with_two_of_them_there_is_no_interval() -> None:
    nameless = [
        EvalPrediction(id=f"{gender}{i}", truth="sad", prediction="sad", gender=gender)
        for gender in ("female", "male")
        for i in range(9)
    ]
    assert [(g.interval, g.to_others_interval, g.num_speakers) for g in group_scores(nameless, CLASSES)] == [
        (None, None, None)
    ] * 2
    few = [c for i, n in enumerate("abcde") for c in clips(n, "sc", gender="female" if i < 2 else "male")]
    female, male = group_scores(few, CLASSES)
    assert (female.interval, female.to_others_interval, male.to_others_interval) == (None, None, None)
    assert male.interval == (100.0, 100.0)


def test_seeds_are_averaged_and_json_is_plain() -> None:
    rows = [
        EvalPrediction(id=g + str(i), truth="sad", prediction=p, speaker=g + str(i), gender=g, seed=seed)
        for seed, p in enumerate(CLASSES)
        for g in ("female", "male")
        for i in range(4)
    ]
    groups = group_scores(rows, CLASSES)
    assert [(g.ua, g.num_utterances) for g in groups] == [(50.0, 4)] * 2
    assert json.loads(json.dumps(groups[0].to_json()))["interval"] == [50.0, 50.0]


def test_groups_are_compared_by_the_classes_that_both_have() -> None:
    women = [clip for name in "abc" for clip in clips(name, "sxcc", gender="female")]
    men = [clip for name in "def" for clip in clips(name, "sx", gender="male")]
    female, male = group_scores([*women, *men], CLASSES)
    assert (female.ua, female.to_others, female.to_others_interval) == (75.0, 0.0, (0.0, 0.0))
    assert (male.ua, male.to_others) == (50.0, 0.0)
    (one, other) = group_scores([*clips("a", "s", gender="female"), *clips("b", "c", gender="male")], CLASSES)
    assert (one.cells()[3], other.to_json()["to_others"]) == ("–", None)


def test_an_age_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    for age in ("NaN", "-1", "1e9", '"adult"'):
        path = tmp_path / "predictions.jsonl"
        path.write_text(f'{{"id": "a", "truth": "sad", "prediction": "sad", "age": {age}}}\n', encoding="utf-8")
        with pytest.raises(RunError, match="key 'age'"):
            read_predictions(path)
