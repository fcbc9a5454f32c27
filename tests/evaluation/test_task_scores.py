"""Word error rates by hand, with intervals over speakers."""

from __future__ import annotations

import pytest

from serein.errors import RunError
from serein.evaluation.predictions import EvalPrediction
from serein.evaluation.task_scores import score_task, score_transcripts
from serein.metrics import FloatArray, root_mean_square_error
from serein.tasks import TASKS
from serein.tasks.dimensions import DimensionTask
from serein.tasks.task import TaskSpec


def said(name: str, truth: str | None, heard: str, speaker: str | None = "1", fold: str = "1") -> EvalPrediction:
    return EvalPrediction(id=name, truth=truth, prediction=heard, speaker=speaker, fold=fold)


def test_errors_are_pooled_over_words_not_averaged_over_clips() -> None:
    """One of one word wrong and none of four: 1 of 5, not the mean of 100 and 0 per cent."""
    scores = score_transcripts([said("a", "Yes!", "no"), said("b", "we can do it", "we can do it", fold="2")])
    assert scores.word_error_rate == pytest.approx(20.0)
    assert scores.folds == {"1": pytest.approx(100.0), "2": 0.0}
    assert scores.letter_error_rate == pytest.approx(100 * 3 / 15)
    assert (scores.exact, scores.num_utterances, scores.num_words) == (50.0, 2, 5)


def test_both_sides_are_normalised() -> None:
    assert score_transcripts([said("a", "Dogs, are SITTING.", "dogs are sitting")]).word_error_rate == 0.0


def test_more_can_be_heard_than_was_said() -> None:
    assert score_transcripts([said("a", "go", "go and stay")]).word_error_rate == pytest.approx(200.0)


def test_intervals_draw_speakers() -> None:
    """Speakers without any error and with nothing but errors: alike ones have no spread."""
    rows = [said(f"{s}-{n}", "a b", "a b" if s < 2 else "x y", speaker=str(s)) for s in range(4) for n in range(3)]
    scores = score_transcripts(rows)
    assert scores.word_error_rate == pytest.approx(50.0)
    assert scores.interval is not None
    low, high = scores.interval
    assert 0.0 <= low < 25.0
    assert 75.0 < high <= 100.0
    alike = score_transcripts([said(str(s), "a b", "a x", speaker=str(s)) for s in range(5)])
    assert alike.interval == pytest.approx((50.0, 50.0))


@pytest.mark.parametrize(
    ("speakers", "has_interval", "note"),
    [
        (("1", "2"), False, "No intervals: 2 speakers"),
        (("1", "2", None), True, "1 of 3 utterances have no speaker, and are drawn one by one"),
    ],
)
def test_too_few_or_unknown_speakers_are_stated(
    speakers: tuple[str | None, ...], has_interval: bool, note: str
) -> None:
    rows = [said(str(n), "a", "a", speaker=speaker) for n, speaker in enumerate(speakers)]
    scores = score_transcripts(rows)
    assert (scores.interval is not None) == has_interval
    assert scores.notes[0].startswith(note)


def test_what_nobody_knows_is_left_out_and_all_of_it_is_an_error() -> None:
    assert score_transcripts([said("a", "go", "go"), said("b", None, "stay")]).num_utterances == 1
    with pytest.raises(RunError, match="no transcript has a truth"):
        score_transcripts([said("a", None, "go"), said("b", "...", "go")])


def test_an_interval_of_own_scores_is_of_the_mean_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed is right and the other is off by 1: each draw of speakers has a mean error of 0.5."""

    class Own(DimensionTask):
        @classmethod
        def score_numbers(cls, truth: FloatArray, prediction: FloatArray) -> dict[str, float]:
            return {"own": root_mean_square_error(truth, prediction)}

    monkeypatch.setitem(TASKS, "own", Own)
    rows = [
        EvalPrediction(id=str(n), truth=str(n), prediction=str(n + seed), speaker=str(n % 5), seed=seed)
        for n in range(20)
        for seed in (0, 1)
    ]
    score = score_task(TaskSpec("own", "own", "regression"), rows)
    assert (score.value, score.interval) == (pytest.approx(0.5), pytest.approx((0.5, 0.5)))
