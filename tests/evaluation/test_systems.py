"""Systems beside each other: the same utterances in the same order, seeds averaged, and nothing left out silently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serein.errors import RunError
from serein.evaluation.predictions import EvalPrediction, write_predictions
from serein.evaluation.systems import AlignedPredictions, align_predictions, read_systems


def said(name: str, calm: float, **rest: object) -> EvalPrediction:
    """Return what is said of a calm utterance."""
    prediction = "calm" if calm >= 0.5 else "sad"
    fields = {"truth": "calm", "speaker": name[0], "probabilities": {"calm": calm, "sad": 1 - calm}} | rest
    return EvalPrediction(id=name, prediction=prediction, **fields)  # type: ignore[arg-type]


def write_system(folder: Path, *units: list[EvalPrediction], dev: list[EvalPrediction] | None = None) -> Path:
    """Write a run folder with the predictions of fold 1, fold 2, ..., and dev predictions of fold 1."""
    for number, predictions in enumerate(units, start=1):
        for seed in {p.seed for p in predictions}:
            of_seed = [replace(p, fold=str(number)) for p in predictions if p.seed == seed]
            write_predictions(of_seed, folder / f"fold-{number}" / f"seed-{seed}" / "predictions.jsonl")
    if dev:
        write_predictions([replace(p, fold="1") for p in dev], folder / "fold-1" / "seed-0" / "dev_predictions.jsonl")
    return folder


def beside(*paths: Path) -> AlignedPredictions:
    return align_predictions(read_systems(paths, "test"), "test")


# -- side by side ----------------------------------------------------------------------------------------------------


def test_order_and_form_do_not_matter(tmp_path: Path) -> None:
    run = write_system(tmp_path / "a", [said("u1", 0.9), said("v1", 0.2)], [said("w1", 0.3)])
    file = tmp_path / "b.jsonl"
    write_predictions([said("w1", 0.6, fold="2"), said("v1", 0.4, fold="1"), said("u1", 0.8, fold="1")], file)
    both = beside(run, file)
    assert [(row.id, row.fold) for row in both.rows] == [("u1", "1"), ("v1", "1"), ("w1", "2")]
    assert both.probabilities[:, :, 0].round(6).tolist() == [[0.9, 0.2, 0.3], [0.8, 0.4, 0.6]]
    assert both.folds == ("1", "2")


def test_seeds_are_averaged(tmp_path: Path) -> None:
    a = write_system(tmp_path / "a", [said("u1", 0.9), said("u1", 0.4, seed=1)])
    b = write_system(tmp_path / "b", [said("u1", 0.1)])
    assert beside(a, b).probabilities[:, 0, 0].tolist() == pytest.approx([0.65, 0.1])


def test_labels_are_as_long_as_they_must_be(tmp_path: Path) -> None:
    paths = [write_system(tmp_path / name, [said("u1", 0.9)]) for name in ("x/run", "y/run")]
    assert [system.label for system in read_systems(paths, "test")] == ["x/run", "y/run"]
    other = write_system(tmp_path / "y" / "other", [said("u1", 0.9)])
    assert [system.label for system in read_systems([paths[0], other], "test")] == ["run", "other"]


def test_who_knows_the_speaker_is_believed(tmp_path: Path) -> None:
    a = write_system(tmp_path / "a", [said("u1", 0.9, speaker=None)])
    b = write_system(tmp_path / "b", [said("u1", 0.9)])
    assert [str(speaker) for speaker in beside(a, b).speakers] == ["u"]


def test_utterances_without_truth_are_counted(tmp_path: Path) -> None:
    paths = [write_system(tmp_path / n, [said("u1", 0.9), said("u2", 0.9, truth=None)]) for n in ("a", "b")]
    both = beside(*paths)
    assert ([row.id for row in both.rows], both.num_unlabelled) == (["u1"], 1)


GOOD = [said("u1", 0.9), said("v1", 0.2)]
DIFFERENT: dict[str, tuple[list[list[EvalPrediction]], str]] = {
    "an utterance less": ([GOOD[:1]], "lacks 1 utterances that a predicted: v1 of fold 1"),
    "an utterance more": ([[*GOOD, said("w1", 0.1)]], "lacks 1 utterances that b predicted: w1 of fold 1"),
    "another truth": ([[GOOD[0], replace(GOOD[1], truth="sad")]], "the truth of 1 utterances differs from a: v1"),
    "another fold": ([GOOD[:1], GOOD[1:]], "has the folds 1, 2, and a 1"),
    "no probabilities": ([[GOOD[0], replace(GOOD[1], probabilities=None)]], "'v1' has no probabilities"),
    "numbers": ([[replace(p, truth="0.5", prediction="0", probabilities=None) for p in GOOD]], "has no probabilities"),
    "half a seed": ([[*GOOD, said("u1", 0.5, seed=1)]], "1 utterances lack a seed, such as 'v1' of fold 1"),
    "other classes": (
        [[replace(p, truth="calm", prediction="calm", probabilities={"calm": 0.5, "bored": 0.5}) for p in GOOD]],
        "has the classes bored, calm, and a calm, sad",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_systems_that_differ(name: str, tmp_path: Path) -> None:
    units, says = DIFFERENT[name]
    a, b = write_system(tmp_path / "a", GOOD), write_system(tmp_path / "b", *units)
    with pytest.raises(RunError) as caught:
        beside(a, b)
    assert says in str(caught.value)
    assert str(caught.value).startswith((f"{a}: ", f"{b}: "))


def test_probabilities_of_other_classes_than_the_rest(tmp_path: Path) -> None:
    a = write_system(tmp_path / "a", GOOD)
    b = write_system(tmp_path / "b", [GOOD[0], replace(GOOD[1], prediction="calm", probabilities={"calm": 1.0})])
    with pytest.raises(RunError, match="'v1' has probabilities of calm, but not of calm, sad"):
        beside(a, b)


def test_one_system_and_the_same_twice(tmp_path: Path) -> None:
    a = write_system(tmp_path / "a", GOOD)
    with pytest.raises(RunError, match="a single system"):
        read_systems([a], "test")
    with pytest.raises(RunError, match="is given twice"):
        read_systems([a, tmp_path / "x" / ".." / "a"], "test")


def test_unfinished_run(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", num_folds=2, with_embeddings=False)
    (run / "fold-2" / "seed-1" / "predictions.jsonl").unlink()
    with pytest.raises(RunError, match="Unfinished: fold 2, seed 1"):
        read_systems([run, write_system(tmp_path / "a", GOOD)], "test")


def test_dev_predictions_are_read_where_they_are(tmp_path: Path) -> None:
    a = write_system(tmp_path / "a", GOOD, dev=[said("w1", 0.7)])
    b = write_system(tmp_path / "b", GOOD)
    systems = read_systems([a, b], "test")
    assert [len(system.predictions["dev"]) for system in systems] == [1, 0]
    with pytest.raises(RunError, match="contains no dev predictions"):
        read_systems([a, b], "dev")
