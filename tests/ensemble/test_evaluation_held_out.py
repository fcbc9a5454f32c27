"""What weights are fitted to never holds what they are evaluated on."""

from __future__ import annotations

import numpy as np
import pytest

from serein.ensemble.evaluation import dependence, divide
from serein.errors import LeakError, RunError
from serein.evaluation.predictions import EvalPrediction
from serein.evaluation.systems import AlignedPredictions


def rows(*names_and_folds: tuple[str, str]) -> AlignedPredictions:
    predictions = tuple(
        EvalPrediction(id=name, truth="calm", prediction="calm", speaker=name[0], fold=fold)
        for name, fold in names_and_folds
    )
    size = len(predictions)
    return AlignedPredictions(("calm", "sad"), predictions, np.zeros(size, np.int64), np.full((2, size, 2), 0.5))


def names(rows: AlignedPredictions) -> list[str]:
    return [f"{row.id}/{row.fold}" for row in rows.rows]


def test_weights_of_a_fold_see_its_dev_alone() -> None:
    evaluated, dev = rows(("u1", "1"), ("v1", "2")), rows(("w1", "1"), ("x1", "2"), ("y1", "3"))
    fitted_by, parts = divide(evaluated, dev, seed=0)
    assert fitted_by == "dev"
    assert [(names(part.fit), names(evaluated.only(part.evaluated))) for part in parts] == [
        (["w1/1"], ["u1/1"]),
        (["x1/2"], ["v1/2"]),
    ]


def test_dev_that_holds_test_utterances_is_refused() -> None:
    with pytest.raises(LeakError, match="1 utterances are in both dev and test of fold 1: u1"):
        divide(rows(("u1", "1")), rows(("u1", "1"), ("w1", "1")), seed=0)


def test_weights_of_a_fold_never_see_it() -> None:
    """Nor an utterance of it that is in another fold too."""
    evaluated = rows(("u1", "1"), ("v1", "1"), ("u1", "2"), ("w1", "2"))
    fitted_by, parts = divide(evaluated, None, seed=0)
    assert fitted_by == "nested folds"
    assert [names(part.fit) for part in parts] == [["w1/2"], ["v1/1"]]


def test_folds_of_the_same_utterances_are_refused() -> None:
    with pytest.raises(LeakError, match="all utterances of the other folds are in fold 1 too"):
        divide(rows(("u1", "1"), ("u1", "2")), None, seed=0)


def test_a_single_fold_is_divided_by_speakers() -> None:
    evaluated = rows(*((f"{speaker}{number}", "all") for speaker in "abcdefg" for number in range(3)))
    fitted_by, parts = divide(evaluated, None, seed=3)
    assert (fitted_by, len(parts)) == ("nested speakers", 5)
    assert sorted(position for part in parts for position in part.evaluated) == list(range(21))
    assert dependence(evaluated, parts) == []
    for part in parts:
        assert {name[0] for name in names(part.fit)} == set("abcdefg") - {
            name[0] for name in names(evaluated.only(part.evaluated))
        }
    again, other = divide(evaluated, None, seed=3)[1], divide(evaluated, None, seed=4)[1]
    assert [part.evaluated.tolist() for part in again] == [part.evaluated.tolist() for part in parts]
    assert [part.evaluated.tolist() for part in other] != [part.evaluated.tolist() for part in parts]


def test_one_speaker_is_divided_by_utterances_which_is_said() -> None:
    evaluated = rows(("u1", "all"), ("u2", "all"), ("u3", "all"))
    fitted_by, parts = divide(evaluated, None, seed=0)
    assert (fitted_by, len(parts)) == ("nested utterances", 3)
    assert dependence(evaluated, parts)[0].startswith("SPEAKER-DEPENDENT: weights are evaluated on 1 speakers")


def test_one_utterance_is_too_few() -> None:
    with pytest.raises(RunError, match="too few"):
        divide(rows(("u1", "all")), None, seed=0)
