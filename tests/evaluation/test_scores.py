"""Scores of folds, pools, classes and speakers by hand, and the file they are written to."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from serein.errors import RunError
from serein.evaluation.predictions import EvalPrediction, write_predictions
from serein.evaluation.scores import score_predictions, score_run, write_scores
from serein.evaluation.tables import notices, scores_table


def said(*rows: tuple[str, str], fold: str = "1", seed: int = 0, **rest: str) -> list[EvalPrediction]:
    return [
        EvalPrediction(id=f"{fold}-{i}{rest.get('speaker', '')}", truth=t, prediction=p, fold=fold, seed=seed, **rest)
        for i, (t, p) in enumerate(rows)
    ]


FIRST = said(("sad", "sad"), ("sad", "calm"), ("calm", "calm"), speaker="a", gender="female")
SECOND = said(("sad", "sad"), ("calm", "sad"), fold="2", speaker="b", gender="male")


def test_mean_over_folds_and_pooled_are_two_things() -> None:
    scores = score_predictions([*FIRST, *SECOND])
    assert [fold.ua for fold in scores.folds] == [75.0, 50.0]
    assert scores.mean["ua"] == 62.5
    assert scores.standard_deviation["ua"] == pytest.approx(np.std([75, 50], ddof=1))
    assert scores.pooled["ua"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert scores.pooled["wa"] == pytest.approx(60.0)


def test_seeds_are_averaged_not_pooled() -> None:
    right, wrong = said(("sad", "sad"), ("calm", "calm")), said(("sad", "calm"), ("calm", "calm"), seed=1)
    scores = score_predictions([*right, *wrong])
    assert scores.pooled["macro_f1"] == pytest.approx((100 + 100 * (0 + 2 / 3) / 2) / 2)
    assert [seed.ua for seed in scores.seeds] == [100.0, 50.0]
    assert scores.num_utterances == 2
    assert [score.support for score in scores.by_class] == [1, 1]
    assert scores.confusion.tolist() == [[2, 0], [1, 1]]


def test_classes_speakers_and_groups() -> None:
    scores = score_predictions([*FIRST, *SECOND], ["sad", "calm"])
    sad, calm = scores.by_class
    assert (sad.name, sad.support, calm.support) == ("sad", 3, 2)
    assert sad.recall == pytest.approx(200 / 3)
    assert sad.precision == pytest.approx(200 / 3)
    assert calm.f1 == pytest.approx(50.0)
    assert [(s.name, s.gender, s.ua, s.num_utterances) for s in scores.speakers] == [
        ("a", "female", 75.0, 3),
        ("b", "male", 50.0, 2),
    ]
    assert [(g.name, g.ua) for g in scores.groups] == [("female", 75.0), ("male", 50.0)]
    assert scores.to_json()["groups"][0]["interval"] is None  # of one speaker


def test_a_class_absent_from_a_fold_is_noted_and_left_out_of_its_ua() -> None:
    scores = score_predictions([*FIRST, *said(("sad", "sad"), ("sad", "sad"), fold="2", speaker="b")])
    assert scores.folds[1].ua == 100.0
    assert scores.folds[1].absent_classes == ("calm",)
    assert any("Fold 2 has no utterance of calm" in note for note in scores.notes)


def test_a_class_nobody_says_or_hears_has_no_scores() -> None:
    absent = score_predictions(FIRST, ["sad", "calm", "angry"]).by_class[2]
    assert (absent.recall, absent.precision, absent.f1, absent.support) == (None, None, None, 0)


def test_notes_say_what_the_intervals_are_worth() -> None:
    few = score_predictions([*FIRST, *SECOND])
    assert few.intervals == {"ua": None, "wa": None, "macro_f1": None}
    assert any("No intervals: 2 speakers" in note for note in few.notes)
    anonymous = score_predictions(said(("sad", "sad"), ("calm", "calm"), ("calm", "sad")))
    assert anonymous.intervals["ua"] is not None
    assert anonymous.resampled == "3 utterances"
    assert any("Speakers are unknown" in note for note in anonymous.notes)


def test_predictions_without_truth_are_left_out_and_counted() -> None:
    scores = score_predictions([*FIRST, EvalPrediction(id="x", truth=None, prediction="sad")])
    assert scores.num_utterances == 3
    assert any("1 predictions have no truth" in note for note in scores.notes)


def test_speakers_of_two_corpora_carry_their_corpus() -> None:
    both = [EvalPrediction(id=c, truth="sad", prediction="sad", speaker="1", corpus=c) for c in ("x", "y")]
    assert [speaker.name for speaker in score_predictions(both).speakers] == ["x/1", "y/1"]


def test_same_predictions_same_scores() -> None:
    predictions = [p for s in "abcd" for p in said(("sad", "sad"), ("calm", "sad"), speaker=s)]
    assert score_predictions(predictions).to_json() == score_predictions(predictions).to_json()


@pytest.mark.slow
def test_scores_of_a_run_are_written_as_agreed(finished_run: Path) -> None:
    scores = score_run(finished_run)
    written = json.loads(write_scores(scores, finished_run).read_text())
    assert set(written["mean"]) == {"ua", "wa", "macro_f1"}
    assert written["pooled"]["ua"] == scores.pooled["ua"]
    low, high = written["pooled"]["ua_interval"]
    assert low < written["pooled"]["ua"] < high
    first = written["folds"][0]
    assert (first["fold"], first["seed"], first["num_utterances"], first["num_speakers"]) == ("1", 0, 240, 4)
    assert len(written["folds"]) == 12
    assert written["confusion_matrix"]["classes"] == [
        "neutral",
        "calm",
        "happy",
        "sad",
        "angry",
        "fearful",
        "disgust",
        "surprised",
    ]
    assert written["notes"] == []


def test_what_a_run_still_lacks_is_noted(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run = make_run(tmp_path, seeds=(0,), num_folds=2, with_embeddings=False)
    path = run / "fold-1" / "seed-0" / "predictions.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[10:]))
    (run / "fold-2" / "seed-0" / "predictions.jsonl").unlink()
    assert list(score_run(run).notes)[:2] == [
        "Unfinished: fold 1, seed 0 lacks 10 of 240 test predictions.",
        "Unfinished: fold 2, seed 0 lacks 240 of 240 test predictions.",
    ]


def test_a_folder_of_predictions_alone_is_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "fold-a" / "seed-3"
    folder.mkdir(parents=True)
    (folder / "predictions.jsonl").write_text('{"id": "u", "truth": "sad", "prediction": "sad"}\n')
    scores = score_run(tmp_path)
    assert [(fold.fold, fold.seed, fold.ua) for fold in scores.folds] == [("a", 3, 100.0)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("recipe.yaml", "a: [", "recipe.yaml: cannot be read"), ("data.json", "[]", "data.json: contains no keys")],
)
def test_broken_files_of_a_run_are_named(
    tmp_path: Path, make_run: Callable[..., Path], name: str, content: str, message: str
) -> None:
    run = make_run(tmp_path, seeds=(0,), num_folds=1, with_embeddings=False)
    (run / "recipe.yaml").unlink()
    (run / name).write_text(content)
    with pytest.raises(RunError, match=message):
        score_run(run)


def test_an_empty_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="contains no predictions"):
        score_run(tmp_path)


def test_a_prediction_file_is_scored_like_its_predictions(tmp_path: Path) -> None:
    predictions = said(("calm", "calm"), ("sad", "calm"), speaker="s")
    write_predictions(predictions, tmp_path / "p.jsonl")
    assert score_predictions(str(tmp_path / "p.jsonl")).pooled == score_predictions(predictions).pooled
    with pytest.raises(RunError, match=r"p\.jsonl:1: .*unknown class 'calm'"):
        score_predictions(tmp_path / "p.jsonl", ["happy", "sad"])


@pytest.mark.slow
def test_the_table_fits_a_terminal_of_80_columns(finished_run: Path) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(scores_table(score_run(finished_run)))
    text = console.export_text()
    assert "…" not in text
    assert "mean ± sd" in text
    assert "Recall: neutral" in text


def test_the_table_shows_names_as_they_are() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(scores_table(score_predictions(said(("[red]sad", "[red]sad"), fold="[bold]1"))))
    text = console.export_text()
    assert "[red]sad" in text
    assert "[bold]1" in text


@pytest.mark.parametrize(
    ("protocol", "dev", "said"),
    [
        ("random", "speakers", " (a random part of the training data, which shares its speakers)"),
        ("random", "official", " (the corpus's own dev set)"),
        ("speakers-out", "speakers", " (held-out training speakers)"),
    ],
)
def test_the_dev_set_that_was_drawn_is_named(protocol: str, dev: str, said: str) -> None:
    recipe = {"protocol": {"name": protocol, "dev": dev}, "stages": [{"checkpoint": "best"}]}
    (notice,) = notices(None, recipe, {}, {})
    assert f"on dev{said}; nothing was selected on test data." in notice.text
