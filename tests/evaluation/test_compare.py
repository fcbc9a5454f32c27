"""Comparison of runs, beside SciPy's permutation test and Holm's correction by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import permutation_test as scipy_permutation_test

from cli_fixtures import Call
from serein.data.splits import NO_TEST_SET
from serein.errors import RecipeError, RunError
from serein.evaluation import compare as comparing
from serein.evaluation.compare import compare, holm
from serein.evaluation.intervals import paired_difference, resampling_units
from serein.evaluation.predictions import EvalPrediction, code, write_predictions
from serein.evaluation.task_scores import compare_runs
from serein.metrics import concordance, macro_f1, mean_absolute_error, root_mean_square_error, unweighted_accuracy
from serein.tasks.task import TaskSpec

CLASSES = ("angry", "calm", "sad")


def said(skill: float, num_speakers: int = 6, draw: int = 1, seed: int = 0) -> list[EvalPrediction]:
    """Make up predictions of which about `skill` are right, always of the same utterances."""
    truths = np.random.default_rng(0).integers(3, size=(num_speakers, 9))
    random = np.random.default_rng(draw)
    return [
        EvalPrediction(
            id=f"s{speaker}-{place}",
            truth=CLASSES[truth],
            prediction=CLASSES[truth if random.random() < skill else random.integers(3)],
            speaker=f"s{speaker}",
            seed=seed,
        )
        for speaker, row in enumerate(truths)
        for place, truth in enumerate(row)
    ]


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., list[Path]]:
    def write(*systems: Sequence[EvalPrediction]) -> list[Path]:
        paths = [tmp_path / f"{name}.jsonl" for name in "abcdef"[: len(systems)]]
        for path, predictions in zip(paths, systems, strict=True):
            write_predictions(predictions, path)
        return paths

    return write


def scipy_p_value(a: list[EvalPrediction], b: list[EvalPrediction], num_resamples: float = np.inf) -> float:
    """Exchange whole speakers between two systems, as SciPy does with paired samples."""
    speakers = sorted({str(p.speaker) for p in a})
    of_speaker = [[[p for p in system if p.speaker == s] for s in speakers] for system in (a, b)]

    def difference(first: np.ndarray, second: np.ndarray) -> float:
        scores = []
        for chosen in (first, second):
            rows = [p for n in chosen for p in of_speaker[n // len(speakers)][n % len(speakers)]]
            scores.append(unweighted_accuracy([p.truth for p in rows], [p.prediction for p in rows]))
        return scores[0] - scores[1]

    numbers = np.arange(2 * len(speakers)).reshape(2, -1)
    found = scipy_permutation_test(
        (numbers[0], numbers[1]), difference, permutation_type="samples", n_resamples=num_resamples, rng=0
    )
    return float(found.pvalue)


@pytest.mark.parametrize("skill", [0.5, 0.65, 0.9])
def test_the_exact_p_value_is_scipys(skill: float, files: Callable[..., list[Path]]) -> None:
    a, b = said(0.6), said(skill, draw=2)
    (pair,) = compare(files(a, b)).pairs
    assert (pair.num_permutations, pair.is_exact, pair.permuted) == (64, True, "6 speakers")
    assert pair.p_value == pytest.approx(scipy_p_value(b, a))
    assert pair.adjusted_p_value == pair.p_value


@pytest.mark.slow
def test_drawn_permutations_are_near_scipys_and_the_same_each_time(files: Callable[..., list[Path]]) -> None:
    a, b = said(0.55, 16), said(0.68, 16, draw=2)
    paths = files(a, b)
    (pair,) = compare(paths).pairs
    assert (pair.num_permutations, pair.is_exact) == (10_000, False)
    assert pair.p_value == pytest.approx(scipy_p_value(a, b, 2000), abs=0.03)
    assert compare(paths).pairs == (pair,)


def test_one_speaker_each_by_hand(files: Callable[..., list[Path]]) -> None:
    """Three speakers, each better by the same: two of eight exchanges differ as much."""
    truth = [
        EvalPrediction(id=f"{s}{n}", truth=CLASSES[n], prediction=CLASSES[n], speaker=s)
        for s in "xyz"
        for n in range(3)
    ]
    wrong = [replace(p, prediction="sad") for p in truth]
    (pair,) = compare(files(wrong, truth)).pairs
    assert (pair.difference, pair.p_value) == (pytest.approx(200 / 3), 2 / 8)
    assert any("the smallest possible p is 0.25" in note for note in compare(files(wrong, truth)).notes)


def test_the_difference_and_its_interval_are_those_of_the_bootstrap(files: Callable[..., list[Path]]) -> None:
    a, b = said(0.5), said(0.9, draw=2)
    found = paired_difference(b, a, CLASSES, rng=np.random.default_rng(0))["macro_f1"]
    (pair,) = compare(files(a, b), score="macro_f1").pairs
    assert pair.difference == pytest.approx(100 * found.difference)
    assert pair.interval == pytest.approx(tuple(100 * bound for bound in found.interval or ()))


def test_seeds_are_averaged_and_may_differ_in_number(files: Callable[..., list[Path]]) -> None:
    a = [*said(0.5, seed=0), *said(0.6, draw=5, seed=1)]
    b = said(0.9, draw=2, seed=7)
    found = compare(files(a, b))
    assert [run.num_seeds for run in found.runs] == [2, 1]
    each = [unweighted_accuracy([p.truth for p in own], [p.prediction for p in own]) for own in (a[:54], a[54:])]
    assert found.runs[0].score == pytest.approx(100 * np.mean(each))
    assert "Scores are means over seeds; seeds: a 2, b 1." in found.notes


def mixed(first: list[EvalPrediction], second: list[EvalPrediction], speakers: Sequence[str]) -> list[EvalPrediction]:
    """Return the predictions of one run, with some speakers' from another."""
    return [q if p.speaker in speakers else p for p, q in zip(first, second, strict=True)]


def test_the_statistic_is_the_reported_difference_of_the_means_over_seeds(files: Callable[..., list[Path]]) -> None:
    """Macro-F1 of pooled seeds is another number than their mean, here even of the other sign."""
    guessing = [said(0.0, 4, draw=3)]
    constant = [[replace(p, prediction=name, seed=n) for p in guessing[0]] for n, name in enumerate(CLASSES)]

    def difference(speakers: Sequence[str]) -> float:
        scores = [
            [macro_f1([p.truth for p in rows], [p.prediction for p in rows]) for rows in pair]
            for a in constant
            for b in guessing
            for pair in [(mixed(a, b, speakers), mixed(b, a, speakers))]
        ]
        return float(np.mean([a - b for a, b in scores]))

    speakers = [f"s{n}" for n in range(4)]
    chosen = [[s for n, s in enumerate(speakers) if number >> n & 1] for number in range(2**4)]
    all_differences = np.abs([difference(each) for each in chosen])
    (pair,) = compare(files(guessing[0], sum(constant, [])), score="macro_f1").pairs
    assert pair.difference == pytest.approx(100 * difference([]))
    assert pair.difference < 0
    assert pair.p_value == np.mean(all_differences >= all_differences[0] - 1e-12)
    (other,) = compare(files(sum(constant, []), guessing[0]), score="macro_f1").pairs
    assert (other.difference, other.p_value) == (pytest.approx(-pair.difference), pair.p_value)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]


def test_the_first_run_is_the_baseline_or_all_are_paired(files: Callable[..., list[Path]]) -> None:
    paths = files(said(0.5), said(0.7, draw=2), said(0.9, draw=3))
    found = compare(paths)
    assert [(pair.run, pair.baseline) for pair in found.pairs] == [("b", "a"), ("c", "a")]
    assert [pair.adjusted_p_value for pair in found.pairs] == holm([pair.p_value for pair in found.pairs])
    every = compare(paths, all_pairs=True)
    assert [(pair.run, pair.baseline) for pair in every.pairs] == [("b", "a"), ("c", "a"), ("c", "b")]
    assert any("corrected for 3 comparisons" in note for note in every.notes)


def inclined(by: str) -> list[EvalPrediction]:
    """Make up predictions that differ in how often each speaker, each corpus or all are predicted to be sad."""
    shift = {"all": lambda corpus, speaker: 0.2, "corpus": lambda corpus, speaker: 0.2 * (2 * corpus - 1)}
    shift["speaker"] = lambda corpus, speaker: 0.2 * (2 * ((corpus + speaker) % 2) - 1)
    rows = []
    for corpus, speaker, number in product(range(2), range(4), range(50)):
        truth, level = ("sad", 0.55) if number % 2 else ("calm", 0.45)
        sad = level + shift[by](corpus, speaker)
        probabilities = {"calm": 1 - sad, "sad": sad}
        one = EvalPrediction(f"{corpus}-{speaker}-{number}", truth, max(probabilities, key=probabilities.__getitem__))
        rows.append(replace(one, probabilities=probabilities, speaker=f"s{speaker}", corpus=f"c{corpus}"))
    return rows


@pytest.mark.parametrize("by", ["all", "corpus", "speaker"])
def test_a_model_is_adapted_to_each_group_and_compared_with_itself(
    by: str, files: Callable[..., list[Path]], serein: Call
) -> None:
    """A bias for several groups at once does not help if their inclinations are opposite."""
    (path,) = files(inclined(by))
    finest = ["all", "corpus", "speaker"]
    for to in finest:
        found = compare([path], adapt=to)
        pair = found.pairs[0]
        assert (pair.run, pair.baseline) == (f"a, adapted to {'' if to == 'all' else 'each '}{to}", "a")
        assert pair.difference == (50 if finest.index(to) >= finest.index(by) else 0)
        assert (found.runs[0].score, found.runs[1].score) == (50, 50 + pair.difference)
        assert found.notes[-1].endswith("Assumed frequencies of classes: equal.")
    assert f"adapted to {'' if by == 'all' else 'each '}{by}" in " ".join(
        serein("compare", path, "--adapt", by, "-o", path.with_suffix(".md")).out.split()
    )
    assert "+50.0" in path.with_suffix(".md").read_text()


def test_priors_are_brought_about(files: Callable[..., list[Path]], serein: Call) -> None:
    """All are predicted as sad; if a quarter is expected to be calm, the most probable one is."""
    rows = [
        EvalPrediction(f"{n}", "sad" if n % 4 else "calm", "sad", {"calm": p, "sad": 1 - p}, speaker=f"s{n % 5}")
        for n in range(400)
        for p in [0.02 if n % 4 else 0.4]
    ]
    (path,) = files(rows)
    assert compare([path], adapt="all", priors={"calm": 0.25}, score="wa").runs[1].score == 100
    said = serein("compare", path, "--adapt", "all", "--prior", "calm=1", "--prior", "sad=0", "--score", "wa")
    assert "25.0" in said.out
    assert "Assumed frequencies of classes: 1 calm, 0 sad, the others equal." in " ".join(said.out.split())
    with pytest.raises(RecipeError, match="unknown class 'clam'"):
        compare([path], adapt="all", priors={"clam": 0.5})
    outcome = serein("compare", path, path, "--prior", "calm=0.5")
    assert (outcome.status, "needs --adapt" in outcome.err) == (2, True)


def test_several_runs_are_adapted_each_and_the_first_is_still_the_baseline(files: Callable[..., list[Path]]) -> None:
    paths = files(inclined("speaker"), inclined("corpus"))
    found = compare(paths, adapt="corpus")
    assert [(pair.run, pair.baseline) for pair in found.pairs] == [
        ("b", "a"),
        ("a, adapted to each corpus", "a"),
        ("b, adapted to each corpus", "b"),
    ]
    assert [pair.difference for pair in found.pairs] == [0, 0, 50]
    assert len(compare(paths, adapt="corpus", all_pairs=True).pairs) == 6


def test_what_cannot_be_adapted_is_refused(files: Callable[..., list[Path]], tmp_path: Path) -> None:
    rows = inclined("all")
    (path,) = files([replace(p, probabilities=None) for p in rows])
    with pytest.raises(RunError, match=r"a\.jsonl: contains no probabilities"):
        compare([path], adapt="all")
    with pytest.raises(RunError, match="scored by wer cannot be adapted"):
        compare([path], adapt="all", score="wer")
    (path,) = files([rows[0], *(replace(p, probabilities=None) for p in rows[1:])])
    with pytest.raises(RunError, match="has no probabilities of calm, sad"):
        compare([path], adapt="all")
    (path,) = files([replace(rows[0], speaker=None), *rows[1:]])
    with pytest.raises(RunError, match=r"0-0-0: has no speaker\. Adapt to 'corpus' or 'all'"):
        compare([path], adapt="speaker")
    with pytest.raises(RunError, match="a single run cannot be compared"):
        compare([path])


def test_other_utterances_labels_and_classes_are_refused(files: Callable[..., list[Path]]) -> None:
    a = said(0.5)
    with pytest.raises(RunError, match=r"b\.jsonl: b has no prediction for 2 utterances: s0-0, s0-1"):
        compare(files(a, a[2:]))
    with pytest.raises(RunError, match=r"a\.jsonl: a has no prediction for 1 utterances: new"):
        compare(files(a, [*a, replace(a[0], id="new")]))
    other = [replace(p, truth="calm" if p.truth == "sad" else "sad") for p in a[:3]]
    with pytest.raises(RunError, match=r"b\.jsonl: the truth of 3 utterances differs: s0-0, s0-1, s0-2"):
        compare(files(a, [*other, *a[3:]]))
    with pytest.raises(RunError, match=r"b\.jsonl: 34 utterances lack a seed, such as 's2-2'\. Predict every"):
        compare(files(a, [*a, *said(0.9, seed=1)[:20]]))
    with pytest.raises(RunError, match=r"a single run cannot be compared"):
        compare(files(a))
    with pytest.raises(RunError, match=r"a run is given twice"):
        compare(files(a) * 2)
    with pytest.raises(RunError, match="'f1'"):
        compare(files(a, a), score="f1")


def test_unknown_speakers_exchange_utterances_and_that_is_said(files: Callable[..., list[Path]]) -> None:
    a, b = ([replace(p, speaker=None) for p in system] for system in (said(0.5), said(0.9, draw=2)))
    found = compare(files(a, b))
    assert found.pairs[0].permuted == "54 utterances"
    assert any(note.startswith("Speakers are unknown") for note in found.notes)
    assert compare(files(said(0.5), b)).pairs[0].permuted == "6 speakers"  # one file that knows them is enough
    some = [p if n else replace(p, speaker=None) for n, p in enumerate(said(0.5))]
    assert compare(files(some, b)).pairs[0].permuted == "7 speakers and utterances"


def test_more_units_than_a_float_has_exponents_are_exchanged() -> None:
    a, b = ([replace(p, speaker=None) for p in said(skill, 120, draw)] for skill, draw in ((0.5, 1), (0.9, 2)))
    units = resampling_units(code(b, CLASSES), code(a, CLASSES))
    assert units.num_units == 1080
    p_value, count, is_exact = comparing.permutation_test(units, 1, "ua", np.random.default_rng(0))
    assert (p_value, count, is_exact) == (1 / 10_001, 10_000, False)


def test_like_utterances_in_one_row_are_exchanged_one_by_one() -> None:
    a, b = ([replace(p, speaker=None) for p in said(skill, 1)] for skill in (0.4, 0.8))
    units = resampling_units(code(b, CLASSES), code(a, CLASSES))
    assert len(units.multiplicity) < units.num_units == 9
    p_value, count, is_exact = comparing.permutation_test(units, 1, "ua", np.random.default_rng(0))
    assert (count, is_exact) == (512, True)
    own = [[replace(p, speaker=p.id) for p in system] for system in (b, a)]
    assert p_value == pytest.approx(scipy_p_value(*own))


def numbers_run(run: Path, spec: TaskSpec, predictions: list[EvalPrediction]) -> Path:
    write_predictions(predictions, run / "fold-1" / "seed-0" / "predictions.jsonl")
    (run / "data.json").write_text(json.dumps({"tasks": [asdict(spec)]}))
    return run


def test_runs_of_numbers_are_compared_by_ccc_mae_and_rmse(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    truth = random.normal(3, 1, 60)
    spec, runs, values = TaskSpec("arousal", "arousal", "regression"), [], []
    for name, noise in (("rough", 1.5), ("fine", 0.3)):
        values.append(truth + random.normal(0, noise, 60))
        rows = [
            EvalPrediction(
                id=str(n), truth=str(truth[n]), prediction=str(values[-1][n]), speaker=f"s{n % 10}", fold="1"
            )
            for n in range(60)
        ]
        runs.append(numbers_run(tmp_path / name, spec, rows))
    for score, metric in (("ccc", concordance), ("mae", mean_absolute_error), ("rmse", root_mean_square_error)):
        found = compare(runs, score=score)
        assert [run.score for run in found.runs] == pytest.approx([metric(truth, own) for own in values])
        assert found.pairs[0].p_value == pytest.approx(2 / 1024)
        assert (found.pairs[0].difference > 0) == (score == "ccc")
    assert any("lower is better" in note for note in found.notes)
    assert compare(runs).score == "ccc"
    with pytest.raises(RunError, match="'ua'"):
        compare(runs, score="ua")


def test_files_have_the_task_of_the_score_or_of_the_runs_beside_them(
    tmp_path: Path, files: Callable[..., list[Path]], serein: Call
) -> None:
    random = np.random.default_rng(0)
    truth = random.integers(1, 6, (30, 2))
    systems = []
    for noise in (1.5, 0.3):
        values = (truth + random.normal(0, noise, truth.shape)).round(3)
        systems.append(
            [
                EvalPrediction(str(n), *(" ".join(map(str, each[n].tolist())) for each in (truth, values)))
                for n in range(30)
            ]
        )
    one = [[replace(p, truth=p.truth.split()[0], prediction=p.prediction.split()[0]) for p in own] for own in systems]
    paths = files(*one)
    complaint = serein("compare", *paths).complaint
    assert "a.jsonl: its labels do not look like classes, such as " in complaint
    assert "Name the score of the task: --score ccc for numbers" in complaint
    values = [[p.value for p in own] for own in one]
    assert [run.score for run in compare(paths, score="ccc").runs] == pytest.approx(
        [concordance(truth[:, 0], own) for own in values]
    )
    run = numbers_run(
        tmp_path / "run", TaskSpec("arousal", "arousal", "regression"), [replace(p, fold="1") for p in one[0]]
    )
    assert compare([run, paths[1]]).score == "ccc"
    paths = files(*systems)
    own = [p.values[1] for p in systems[1]]
    assert compare(paths, score="ccc 2").runs[1].score == pytest.approx(concordance(truth[:, 1], own))
    sentences = [
        [EvalPrediction(str(n), f"words {n}", f"words {n} {end}") for n in range(30)] for end in ("and", "or so")
    ]
    paths = files(*sentences)
    assert [run.score for run in compare(paths, score="wer").runs] == [50, 100]
    with pytest.raises(RunError, match="do not look like classes, .* wer for transcripts"):
        compare(paths)
    digits = [[replace(p, truth=str(n % 3), prediction=str(n % k)) for n, p in enumerate(one[0])] for k in (2, 3)]
    assert compare(files(*digits)).score == "ua"


def test_runs_of_several_dimensions_are_compared_by_their_mean_and_by_each(tmp_path: Path, serein: Call) -> None:
    """The truth of some utterances is known of one dimension alone."""
    random = np.random.default_rng(1)
    truth = random.normal(3, 1, (60, 2))
    is_known = np.ones((60, 2), bool)
    is_known[:20, 1] = False
    spec, runs, values = TaskSpec("dimensions", "arousal", "regression", dimensions=("arousal", "valence")), [], []
    for name, noises in (("rough", (1.5, 0.2)), ("fine", (0.3, 0.2))):
        values.append(truth + random.normal(0, noises, (60, 2)))
        cells = [np.where(is_known, truth, np.nan), values[-1]]
        texts = [[" ".join(map(str, row)) for row in each.tolist()] for each in cells]
        rows = [
            EvalPrediction(id=str(n), truth=known, prediction=said, speaker=f"s{n % 10}", fold="1")
            for n, (known, said) in enumerate(zip(*texts, strict=True))
        ]
        runs.append(numbers_run(tmp_path / name, spec, rows))
    of_each = np.array(
        [[concordance(truth[is_known[:, d], d], own[is_known[:, d], d]) for d in range(2)] for own in values]
    )
    assert [run.score for run in compare(runs).runs] == pytest.approx(of_each.mean(axis=1))
    found = json.loads(serein("compare", *runs, "--score", "ccc valence", "--json").out)
    assert [run["score"] for run in found["runs"]] == pytest.approx(of_each[:, 1])
    assert found["pairs"][0]["p_value"] > 0.05  # equally good
    assert "CCC arousal" in serein("compare", *runs, "--score", "ccc arousal").out
    with pytest.raises(RunError, match="'ccc joy'"):
        compare(runs, score="ccc joy")
    nobody = [[EvalPrediction(str(n), "1 nan", "2 3", speaker=f"s{n % 10}", fold="1") for n in range(60)]] * 2
    blank = [numbers_run(tmp_path / f"blank {n}", spec, rows) for n, rows in enumerate(nobody)]
    assert compare(blank, score="mae").pairs[0].difference == 0
    with pytest.raises(RunError, match="no utterance has a truth of 'valence'"):
        compare(blank, score="mae valence")
    alone = [EvalPrediction(id=str(n), truth="1", prediction="2", speaker="s", fold="1") for n in range(60)]
    one = numbers_run(tmp_path / "one", TaskSpec("arousal", "arousal", "regression"), alone)
    with pytest.raises(RunError, match="predicts arousal, and rough arousal, valence"):
        compare([runs[0], one])


def test_runs_of_words_are_compared_by_word_errors(tmp_path: Path, serein: Call) -> None:
    spec, words, runs = TaskSpec("asr", "transcript", "sequence"), ["one", "two", "three", "four"], []
    for name, num_wrong in (("rough", 2), ("fine", 1)):
        said = " ".join(["wrong"] * num_wrong + words[num_wrong:])
        rows = [
            EvalPrediction(id=str(n), truth=" ".join(words), prediction=said, speaker=f"s{n % 5}", fold="1")
            for n in range(20)
        ]
        runs.append(numbers_run(tmp_path / name, spec, rows))
    found = json.loads(serein("compare", *runs, "--json").out)
    assert (found["score"], [run["score"] for run in found["runs"]]) == ("wer", [50, 25])
    (pair,) = found["pairs"]
    assert (pair["difference"], pair["interval"]) == (-25, [-25, -25])
    assert pair["p_value"] == pytest.approx(2 / 2**5)  # all speakers agree: the two exchanges of all of them
    assert "lower is better" in serein("compare", *runs).out


def test_few_speakers_and_a_scored_dev_set_are_said(tmp_path: Path, files: Callable[..., list[Path]]) -> None:
    few = "Only 6 speakers: a bootstrap interval over so few is too narrow."
    assert few in compare(files(said(0.5), said(0.9, draw=2))).notes
    many = compare(files(said(0.5, 15), said(0.9, 15, draw=2)))
    assert not [note for note in many.notes if note.startswith("Only")]
    spec, runs = TaskSpec("emotion", "emotion", "classes", CLASSES), []
    for name, skill in (("one", 0.5), ("other", 0.9)):
        runs.append(numbers_run(tmp_path / name, spec, [replace(p, fold="1") for p in said(skill)]))
        folds = [{"name": "1", "train": [], "dev": [], "test": []}]
        (runs[-1] / "folds.json").write_text(json.dumps({"folds": folds}))
    assert compare(runs).notes[0] == f"one, other: {NO_TEST_SET}"
    (differences,) = compare_runs(*runs).values()
    assert differences["ua"].notes == (NO_TEST_SET, few)


def test_files_are_written_by_their_suffix(tmp_path: Path, files: Callable[..., list[Path]]) -> None:
    found = compare(files(said(0.5), said(0.9, draw=2)))
    found.write(tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text())["pairs"][0]["baseline"] == "a"
    found.write(tmp_path / "c.csv")
    (row,) = csv.DictReader((tmp_path / "c.csv").open())
    assert (row["run"], float(row["difference"])) == ("b", found.pairs[0].difference)
    found.write(tmp_path / "c.md")
    assert (tmp_path / "c.md").read_text().startswith("| run | UA | baseline | UA | difference |")
    with pytest.raises(RunError, match=r"unknown suffix '\.txt', expected one of: \.json, \.csv, \.md"):
        found.write(tmp_path / "c.txt")


def test_the_command_prints_and_writes(tmp_path: Path, files: Callable[..., list[Path]], serein: Call) -> None:
    paths = files(said(0.5), said(0.9, draw=2))
    outcome = serein("compare", *paths, "-o", tmp_path / "c.md")
    assert outcome.status == 0
    assert "54 utterances that all runs predicted" in outcome.out
    assert "two-sided; all 64 exchanges of 6 speakers between the two runs" in outcome.out
    assert f"comparison: {tmp_path / 'c.md'}" in outcome.out
    found = json.loads(serein("compare", *paths, "--json", "--score", "wa").out)
    assert (found["score"], found["unit"], len(found["pairs"])) == ("wa", "%", 1)
    assert "no such prediction file" in serein("compare", paths[0], tmp_path / "none").complaint
