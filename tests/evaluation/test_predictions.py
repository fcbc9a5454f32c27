"""Prediction files: what is read back, and what is refused with line and reason."""

from __future__ import annotations

import cProfile
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serein.errors import RunError
from serein.evaluation.predictions import (
    EvalPrediction,
    SpeakerKey,
    among,
    code,
    fold_run_paths,
    natural_key,
    read_predictions,
    write_predictions,
)
from serein.evaluation.scores import score_predictions

CLASSES = ["calm", "sad"]
MINIMAL = {"id": "a", "truth": "sad", "prediction": "calm"}


def write_lines(folder: Path, *lines: object) -> Path:
    path = folder / "predictions.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_minimal_lines_of_anybody_are_enough(tmp_path: Path) -> None:
    path = write_lines(tmp_path, MINIMAL, "", {**MINIMAL, "id": 7, "truth": None, "colour": "blue"})
    first, second = read_predictions(path, CLASSES)
    assert first == EvalPrediction(id="a", truth="sad", prediction="calm", fold="all", seed=0)
    assert (second.id, second.truth) == ("7", None)


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    path = write_lines(tmp_path, MINIMAL)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [each.id for each in read_predictions(path)] == ["a"]


names = st.text(min_size=1, max_size=5)


@pytest.mark.slow
@given(
    st.builds(
        EvalPrediction,
        id=names,
        truth=st.none() | names,
        prediction=st.just("sad"),
        probabilities=st.none()
        | st.floats(0, 1).map(lambda probability: {"sad": probability, "calm": 1.0 - probability}),
        speaker=st.none() | names,
        gender=st.none() | names,
        fold=names,
        seed=st.integers(0, 99),
        duration_s=st.none() | st.floats(0.01, 100),
        corpus=st.none() | names,
    )
)
def test_what_is_written_is_read_back(prediction: EvalPrediction) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_predictions([prediction], Path(folder) / "p.jsonl")
        assert read_predictions(Path(folder) / "p.jsonl") == [prediction]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "b", "prediction": "sad"}, ":2: key 'truth' is missing"),
        ({**MINIMAL, "id": "b", "truth": "sud"}, ":2: key 'truth': unknown class 'sud', expected one of: calm, sad"),
        ({**MINIMAL, "id": "b", "prediction": "x"}, ":2: key 'prediction': unknown class 'x'"),
        ({**MINIMAL, "id": "b", "probabilities": {"sad": 0.5, "calm": 0.6}}, ":2: probabilities sum to 1.1000, not 1"),
        ({**MINIMAL, "id": "b", "probabilities": {"sad": 1.5, "calm": -0.5}}, ":2: probability of 'calm' is negative"),
        ({**MINIMAL, "id": "b", "probabilities": {"calm": 1.0}}, ":2: probabilities lack class 'sad'"),
        ({**MINIMAL, "id": "b", "probabilities": {}}, ":2: probabilities sum to 0.0000"),
        ({**MINIMAL, "id": "b", "probabilities": {"sad": 0.5, "calm": 0.5, "x": 0}}, "unknown class 'x'"),
        ('{"id": "b", "truth": "sad", "prediction": "sad", "probabilities": {"sad": NaN, "calm": 1}}', "sum to nan"),
        ({**MINIMAL, "id": "b", "seed": "two"}, ":2: key 'seed': "),
        ({**MINIMAL}, ":2: id 'a' was already given in line 1 for fold all and seed 0"),
        ("{", ":2: not a prediction (invalid JSON"),
        ("[1]", ":2: not a prediction ("),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    path = write_lines(tmp_path, MINIMAL, line)
    with pytest.raises(RunError) as caught:
        read_predictions(path, CLASSES)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_the_same_id_in_another_fold_or_seed_is_welcome(tmp_path: Path) -> None:
    assert len(read_predictions(write_lines(tmp_path, MINIMAL, {**MINIMAL, "seed": 1}, {**MINIMAL, "fold": 2}))) == 3


def test_the_folder_says_what_the_line_does_not(tmp_path: Path) -> None:
    path = write_lines(tmp_path, MINIMAL, {**MINIMAL, "id": "b", "fold": 3, "seed": 2})
    assert {(p.fold, p.seed) for p in read_predictions(path, fold="3", seed=2)} == {("3", 2)}
    with pytest.raises(RunError, match=r":2: states fold 3, but is in the folder of fold 4"):
        read_predictions(path, fold="4")


@pytest.mark.parametrize("content", [None, "", "\n\n", b"\xff\xfe"])
def test_files_without_predictions(tmp_path: Path, content: str | bytes | None) -> None:
    path = tmp_path / "p.jsonl"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunError, match=r"p\.jsonl: (no such|contains no|is not a UTF-8 text)"):
        read_predictions(path)


def test_a_line_separator_inside_a_name_is_not_the_end_of_a_line(tmp_path: Path) -> None:
    strange = EvalPrediction(id="a\u2028b\x85", truth="sad", prediction="sad")
    write_predictions([strange], tmp_path / "p.jsonl")
    assert read_predictions(tmp_path / "p.jsonl") == [strange]


def test_writing_replaces_the_file_whole(tmp_path: Path) -> None:
    path = write_lines(tmp_path, MINIMAL)
    with pytest.raises(AttributeError):
        write_predictions([EvalPrediction(id="b", truth="sad", prediction="sad"), None], path)  # type: ignore[list-item]
    assert [p.id for p in read_predictions(path)] == ["a"]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_speakers_of_the_same_name_in_two_corpora_are_two() -> None:
    said = [EvalPrediction(id=c, truth="sad", prediction="sad", speaker="01", corpus=c) for c in ("x", "y")]
    coded = code(said, CLASSES)
    assert coded.speakers == (SpeakerKey("x", "01"), SpeakerKey("y", "01"))
    assert coded.speaker is not None
    assert coded.speaker.tolist() == [0, 1]


def test_one_unknown_speaker_makes_speakers_unknown() -> None:
    said = [EvalPrediction(id=str(i), truth="sad", prediction="sad", speaker=s) for i, s in enumerate(("a", None))]
    assert code(said, CLASSES).speaker is None


def test_nothing_to_judge_by() -> None:
    with pytest.raises(RunError, match="no prediction has a truth"):
        code([EvalPrediction(id="a", truth=None, prediction="sad")], CLASSES)


def test_natural_order() -> None:
    assert sorted(["10", "2", "a2", "a10", "1"], key=natural_key) == ["1", "2", "10", "a2", "a10"]


def test_the_folds_and_seeds_of_a_run(tmp_path: Path) -> None:
    for place in ("fold-10/seed-0", "fold-2/seed-10", "fold-2/seed-3", "fold-a-b/seed-0"):
        (tmp_path / place / "0-first").mkdir(parents=True)
        (tmp_path / place / "0-first" / "metrics.jsonl").touch()
    found = fold_run_paths(tmp_path, "*/metrics.jsonl")
    assert [each[:2] for each in found] == [("2", 3), ("2", 10), ("10", 0), ("a-b", 0)]
    assert found[0].path == tmp_path / "fold-2" / "seed-3" / "0-first" / "metrics.jsonl"
    (tmp_path / "fold-2" / "seed-old" / "0-first").mkdir(parents=True)
    with pytest.raises(RunError, match="seed-old.*seed 'old' is not a number"):
        fold_run_paths(tmp_path, "0-first")


def test_twice_the_lines_take_twice_the_calls(tmp_path: Path) -> None:
    """Counted, not timed: the same on every processor; a look back at all lines, for each line, would show."""

    def calls(num_lines: int) -> int:
        probabilities = {"calm": 0.25, "sad": 0.75}
        lines = (
            EvalPrediction(id=f"u{i}", truth="sad", prediction="sad", probabilities=probabilities)
            for i in range(num_lines)
        )
        write_predictions(lines, tmp_path / "p.jsonl")
        with cProfile.Profile() as profile:
            assert len(read_predictions(tmp_path / "p.jsonl", CLASSES)) == num_lines
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(2_000) == pytest.approx(2 * calls(1_000), rel=0.01)


def test_raters_count_among_the_classes_that_are_told() -> None:
    ratings = (("sad", "calm"), ("calm",))
    probabilities = {"calm": 0.5, "sad": 0.375, "angry": 0.125}
    said = EvalPrediction("a", "sad", "calm", probabilities=probabilities, ratings=ratings)
    (told,) = among([said], ["sad", "angry"])
    assert told.ratings == (("sad",),)
    assert np.isfinite(score_predictions([told] * 3, ["sad", "angry"]).pooled["ua"])
