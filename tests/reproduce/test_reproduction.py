"""A table end to end on the corpus of tones, through the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli_fixtures import Call, StartChild, write_recipe
from serein.data import manifest
from serein.errors import RecipeError, RunError, SereinError
from serein.evaluation.predictions import read_predictions
from serein.evaluation.scores import score_predictions
from serein.reproduce.reproduction import ENGINES, Request, reproduce
from serein.reproduce.table import load
from serein.reproduce.trials import Trial

pytestmark = pytest.mark.slow

ROWS: list[dict[str, Any]] = [
    {"name": "mean", "label": "average", "published": {"macro_f1": 30, "f1": {"Sad": 12, "disgust": 3}}},
    {"name": "std", "set": {"tasks.emotion.pooling": "std"}, "published": {"macro_f1": 31}},
]
ONE_JOB = ("--jobs", 1)


def write_table(folder: Path, name: str = "t", **changes: Any) -> Path:
    """Write a table of two tiny rows, and its base beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_recipe(folder / "tiny.yaml", {"seeds": [9]}, {"epochs": 1})
    content = {"paper": "doe2020", "table": 1, "caption": "Pooling.", "corpus": "TalkShow", "published_on": "dev"}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**content, "base": "tiny.yaml", "rows": ROWS, **changes}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def out(table: Path, tones: Path, tmp_path_factory: pytest.TempPathFactory, in_child: StartChild) -> Path:
    """The table finished with two seeds; read only."""
    folder = tmp_path_factory.mktemp("reproduced") / "out"
    arguments = ("reproduce", table, "--data", tones, "--out", folder, "--seeds", 2, "--jobs", 1, "--json")
    outcome = in_child(*arguments).wait()
    assert outcome.status == 0, outcome.err
    (folder / "stdout").write_text(outcome.out)
    (folder / "stderr").write_text(outcome.err)
    return folder


def times(folder: Path) -> dict[str, int]:
    """Return when each file of the run folders was written."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent != folder and path.suffix != ".lock")
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files}


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


# -- what it says ------------------------------------------------------------------------------------------------------


def test_published_beside_ours(out: Path) -> None:
    content = read_json(out / "doe2020-table1.json")
    assert content == json.loads((out / "stdout").read_text())
    assert (content["reference"], content["unit"]) == ("mean", "per cent")
    assert content["published_on"] == {"corpus": "TalkShow", "split": "dev"}
    mean, std = content["rows"]
    assert [row["published"]["macro_f1"] for row in (mean, std)] == [30, 31]
    assert mean["compared"] is None
    for row in (mean, std):
        assert row["seeds"] == [0, 1]
        assert row["difference"] == pytest.approx(row["ours"]["macro_f1"] - row["published"]["macro_f1"])
        low, high = row["ours"]["macro_f1_interval"]
        assert 0 <= low <= row["ours"]["macro_f1"] <= high <= 100
    assert std["compared"]["difference"] == pytest.approx(std["ours"]["macro_f1"] - mean["ours"]["macro_f1"])
    low, high = std["compared"]["interval"]
    assert low <= std["compared"]["difference"] <= high


def test_ours_is_what_the_run_folders_say(out: Path) -> None:
    """By hand: the mean over seeds of each run's pooled macro-F1; the interval over both seeds' predictions."""
    for row in read_json(out / "doe2020-table1.json")["rows"]:
        runs = [out / name for name in row["runs"]]
        assert [run.name for run in runs] == ["seed-0", "seed-1"]
        by_seed = [read_json(run / "scores.json")["pooled"]["macro_f1"] for run in runs]
        assert row["ours"]["macro_f1"] == pytest.approx(sum(by_seed) / 2)
        said = [
            p for run in runs for path in run.glob("fold-*/seed-*/predictions.jsonl") for p in read_predictions(path)
        ]
        scores = score_predictions(said, ["angry", "happy", "sad"])
        assert row["ours"]["macro_f1_interval"] == pytest.approx(list(scores.intervals["macro_f1"] or ()))
        assert row["ours"]["f1"] == pytest.approx({score.name: score.f1 for score in scores.by_class})


def test_markdown_says_what_json_says(out: Path) -> None:
    content = read_json(out / "doe2020-table1.json")
    text = (out / "doe2020-table1.md").read_text()
    for row in content["rows"]:
        ours, (low, high) = row["ours"]["macro_f1"], row["ours"]["macro_f1_interval"]
        published = row["published"]["macro_f1"]
        start = (
            f"| {row['label']} | {published:.1f} | {ours:.1f} | [{low:.1f}, {high:.1f}] | {row['difference']:+.1f} |"
        )
        assert start.replace("| -", "| −") in text
    sad = content["rows"][0]["ours"]["f1"]["sad"]
    assert "| row | F1 | Sad | disgust | angry | happy |" in text
    assert "| average | published | 12.0 | 3.0 | – | – |" in text
    assert f"|  | ours | {sad:.1f} | – |" in text
    assert [line[2:] for line in text.splitlines() if line.startswith("- ")] == content["notes"]


def test_notes_say_what_was_measured_on(out: Path, serein: Call, table: Path, tones: Path) -> None:
    notes = " ".join(read_json(out / "doe2020-table1.json")["notes"])
    assert "Published: doe2020, Table 1, TalkShow, dev set." in notes
    assert "Ours: test predictions for 36 utterances of tones (licence not stated)" in notes
    assert "Only 6 speakers" in notes
    printed = serein("reproduce", table, "--data", tones, "--out", out, "--seeds", 2)
    assert (printed.status, "doe2020, Table 1: macro-F1 in per cent" in printed.out) == (0, True)
    assert "Only 6 speakers" in printed.out


def test_synthetic_speech_is_called_so(table: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    data = tmp_path / "m.jsonl"
    manifest.write((u.model_copy(update={"corpus": "synth"}) for u in manifest.read(tones)), data)
    rows = ("--rows", "mean", "--seeds", 1, "--jobs", 1)
    outcome = serein("reproduce", table, "--data", data, "--out", tmp_path / "out", *rows, "--json")
    notes = " ".join(json.loads(outcome.out)["notes"])
    assert "Synthetic corpus: these voices were computed" in notes


def test_progress_names_row_and_score(out: Path) -> None:
    told = (out / "stderr").read_text()
    score = read_json(out / "doe2020-table1.json")["rows"][1]["ours"]["macro_f1"]
    assert "row 2 of 2, seed 1: std  macro-F1 " in told
    assert "4 of 4 runs" in told
    assert score > 0


# -- what it does not do twice -----------------------------------------------------------------------------------------


def test_a_second_call_trains_nothing(out: Path, table: Path, tones: Path, serein: Call) -> None:
    before, text = times(out), (out / "doe2020-table1.md").read_bytes()
    outcome = serein("reproduce", table, "--data", tones, "--out", out, "--seeds", 2, "--json")
    assert (outcome.status, outcome.out) == (0, (out / "stdout").read_text())
    assert "4 of 4 runs already finished" in outcome.err
    assert times(out) == before
    assert (out / "doe2020-table1.md").read_bytes() == text


def test_the_same_configuration_in_another_table_is_trained_once(
    out: Path, tones: Path, tmp_path: Path, serein: Call
) -> None:
    rows = [{"name": "zero", "set": {"tasks.emotion.label_smoothing": 0.0, "name": "other", "seeds": [1, 2]}}]
    other = write_table(tmp_path / "elsewhere", "u", table=2, rows=rows)
    before = times(out)
    outcome = serein("reproduce", other, "--data", tones, "--out", out, "--seeds", 2, "--json")
    assert times(out) == before
    assert json.loads(outcome.out)["rows"][0]["runs"] == read_json(out / "doe2020-table1.json")["rows"][0]["runs"]


def test_rows_seeds_and_set(table: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    """One row only; then one seed more, which leaves the first alone; then another configuration of both."""
    out = tmp_path / "out"
    call = ("reproduce", table, "--data", tones, "--out", out, "--jobs", 1, "--rows", "std", "--limit", 1, "--json")
    first = json.loads(serein(*call, "--seeds", 1).out)
    assert [row["seeds"] for row in first["rows"]] == [[], [0]]
    assert first["rows"][0]["ours"] is None
    assert first["measured_on"]["num_utterances"] == 18
    assert any("18 of the manifest's 36 utterances (--limit 1" in note for note in first["notes"])
    before = times(out)
    second = json.loads(serein(*call, "--seeds", 2).out)
    after = times(out)
    assert [row["seeds"] for row in second["rows"]] == [[], [0, 1]]
    assert {name: after[name] for name in before} == before
    new = (name for name in after.keys() - before.keys() if not name.startswith("stages/"))
    assert all("/seed-1/" in name for name in new)
    third = json.loads(serein(*call, "--seeds", 1, "--set", "tasks.emotion.pooling=mean").out)
    assert "Changes to every row: tasks.emotion.pooling=mean." in third["notes"]
    assert [row["runs"] for row in third["rows"]] == [third["rows"][1]["runs"]] * 2  # now the rows are the same


def test_on_dev(out: Path, table: Path, tones: Path, serein: Call) -> None:
    outcome = serein("reproduce", table, "--data", tones, "--out", out, "--seeds", 2, "--split", "dev", "--json")
    content = json.loads(outcome.out)
    assert content == read_json(out / "doe2020-table1-dev.json")
    run = out / content["rows"][0]["runs"][0]
    num_dev = len({p.id for path in run.glob("fold-*/*/dev_predictions.jsonl") for p in read_predictions(path)})
    assert f"Ours: dev predictions for {num_dev} utterances" in " ".join(content["notes"])
    assert "so they are optimistic" in " ".join(content["notes"])


def test_a_row_that_fuses_the_others(out: Path, table: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    """Evaluated on the same utterances as the rows; fused once; no score when a row lacks its runs."""
    rows = [*ROWS, {"name": "both", "ensemble": True, "published": {"macro_f1": 35}}]
    fusing = write_table(tmp_path, table=7, rows=rows)
    call = ("reproduce", fusing, "--data", tones, "--out", out, "--seeds", 2, "--json")
    before = times(out)
    first = serein(*call)
    assert first.status == 0, first.err
    content = json.loads(first.out)
    ensemble = content["rows"][2]
    assert (ensemble["seeds"], ensemble["published"]["macro_f1"]) == ([0, 1], 35)
    predictions = [read_predictions(out / name) for name in ensemble["runs"]]
    by_seed = [score_predictions(said, ["angry", "happy", "sad"]).pooled["macro_f1"] for said in predictions]
    assert all(len({p.id for p in said}) == 36 for said in predictions)
    assert ensemble["ours"]["macro_f1"] == pytest.approx(sum(by_seed) / 2)
    difference = ensemble["ours"]["macro_f1"] - content["rows"][0]["ours"]["macro_f1"]
    assert ensemble["compared"]["difference"] == pytest.approx(difference)
    fitted_to = "a fold's dev predictions, or, if a row has none or other ones, to the other folds."
    assert f"Ensemble: for each seed, one weight per row and class, fitted by COBYLA to {fitted_to}" in content["notes"]
    after = times(out)
    assert {name: after[name] for name in before} == before
    assert serein(*call).out == first.out
    assert times(out) == after
    outcome = serein(*call[:-1], "--set", "tasks.emotion.pooling=mean", "--rows", "both")
    assert (
        outcome.status,
        "row 'both': the rows that it combines are one and the same model" in outcome.complaint,
    ) == (1, True)


# -- kills and company -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("predictions.jsonl", 2),
        ("recipe.yaml", 1),
        ("scores.json", 1),
    ],
)
def test_a_killed_one_goes_on(
    name: str, count: int, out: Path, table: Path, tones: Path, tmp_path: Path, serein: Call, in_child: StartChild
) -> None:
    """To the same scores as one that was not killed."""
    call = ("reproduce", table, "--data", tones, "--out", tmp_path / "o", "--seeds", 1, "--jobs", 1, "--rows", "mean")
    assert in_child(*call, dies=(name, count)).wait().status == 9
    assert not (tmp_path / "o" / "doe2020-table1.json").exists()
    before = times(tmp_path / "o")
    outcome = serein(*call, "--json")
    assert outcome.status == 0
    after = times(tmp_path / "o")
    kept = [path for path in before if path.endswith("/predictions.jsonl")]
    assert [path for path in kept if after[path] != before[path]] == []
    run = json.loads(outcome.out)["rows"][0]["runs"][0]
    assert (tmp_path / "o" / run / "scores.json").read_bytes() == (out / run / "scores.json").read_bytes()


def test_two_at_once_share_the_work(table: Path, tones: Path, tmp_path: Path, in_child: StartChild) -> None:
    arguments = ("reproduce", table, "--data", tones, "--out", tmp_path / "o", "--seeds", 1, "--jobs", 1, "--json")
    calls = [in_child(*arguments) for _ in range(2)]
    outcomes = [call.wait() for call in calls]
    assert [outcome.status for outcome in outcomes] == [0, 0], outcomes
    assert outcomes[0].out == outcomes[1].out
    trained = [line for outcome in outcomes for line in outcome.err.splitlines() if "fold 1  seed 0" in line]
    assert len(trained) == 2  # each row by one of them


# -- complaints --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("doe2020/table7",), "unknown table 'doe2020/table7', expected one of: "),
        (("none.yaml",), "none.yaml: no such table file"),
        (("TABLE", "--rows", "std,max"), "unknown row 'max', expected one of: mean, std"),
        (("TABLE", "--set", "membrs=2"), "row 'mean': "),
        (("TABLE", "--set", "ensemble_size"), "'ensemble_size' is not KEY=VALUE"),
        (("TABLE", "--set", "protocol.dev=none", "--split", "dev"), "--split dev: the rows mean, std have no dev set"),
    ],
)
def test_bad_input(
    arguments: tuple[str, ...], complaint: str, table: Path, tones: Path, tmp_path: Path, serein: Call
) -> None:
    named = [str(table) if argument == "TABLE" else argument for argument in arguments]
    outcome = serein("reproduce", *named, "--data", tones, "--out", tmp_path / "out")
    assert (outcome.status, outcome.out) == (1, "")
    assert complaint in outcome.complaint
    assert not (tmp_path / "out").exists()


def test_a_missing_manifest(table: Path, tmp_path: Path, serein: Call) -> None:
    outcome = serein("reproduce", table, "--data", tmp_path / "no.jsonl", "--out", tmp_path / "out")
    assert (outcome.status, "no such manifest" in outcome.complaint) == (1, True)


def test_a_row_that_fails_leaves_the_others(tones: Path, tmp_path: Path, serein: Call) -> None:
    rows = [{"name": "bad", "set": {"labels.classes": ["sad", "bored"]}, "configuration": {"depth": 3}}]
    rows.append({key: ROWS[1][key] for key in ("name", "set")})
    table = write_table(tmp_path, rows=rows)
    outcome = serein(
        "reproduce", table, "--data", tones, "--out", tmp_path / "out", "--seeds", 2, "--json", "--jobs", 1
    )
    assert outcome.status == 1
    assert "row 'bad': labels.classes: no utterance is labelled bored" in outcome.complaint
    bad, std = json.loads(outcome.out)["rows"]
    assert (bad["ours"], bad["seeds"], std["seeds"]) == (None, [], [0, 1])
    assert std["compared"] is None
    text = (tmp_path / "out" / "doe2020-table1.md").read_text()
    assert "| row | depth | ours | 95 % interval | to 'bad' | its interval | seeds |" in text
    assert "| bad | 3 | – | – | reference | – | – |" in text
    assert "There are no published scores to compare with." in text


def test_a_table_that_cannot_be_reproduced_leaves_the_others(
    tones: Path, tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "recipes" / "doe2020" / "tables"
    write_table(folder, "table1", base="../tiny.yaml", rows=[{"name": "mean", "set": {"protocol.dev": "none"}}])
    write_table(folder, "table2", base="../tiny.yaml", rows=ROWS[:1], table=2)
    (folder / "tiny.yaml").rename(folder.parent / "tiny.yaml")
    monkeypatch.chdir(tmp_path)
    outcome = serein("reproduce", "doe2020", "--data", tones, "--split", "dev", "--seeds", 1, "--json", *ONE_JOB)
    assert outcome.status == 1
    assert outcome.complaint.startswith("error: doe2020-table1: --split dev: the rows mean have no dev set")
    (found,) = json.loads(outcome.out)
    assert found["rows"][0]["ours"] is not None


def test_rows_of_other_utterances_are_not_compared(tones: Path, tmp_path: Path, serein: Call) -> None:
    rows = [ROWS[0], {"name": "two", "set": {"labels.classes": ["sad", "angry"], "labels.unknown_labels": "drop"}}]
    table = write_table(tmp_path, rows=rows)
    outcome = serein(
        "reproduce", table, "--data", tones, "--out", tmp_path / "out", "--seeds", 1, "--json", "--jobs", 1
    )
    content = json.loads(outcome.out)
    assert content["rows"][1]["ours"]["macro_f1"] is not None
    assert content["rows"][1]["compared"] is None
    assert any("'two' and 'average' cannot be compared in pairs: " in note for note in content["notes"])


def test_other_defaults_are_not_passed_off(out: Path, tmp_path: Path, table: Path, tones: Path, serein: Call) -> None:
    copy = Path(shutil.copytree(out, tmp_path / "out"))
    path = next(copy.glob("*/seed-0/recipe.yaml"))
    path.write_text(path.read_text().replace("ensemble_size: 1", "ensemble_size: 2"))
    outcome = serein("reproduce", table, "--data", tones, "--out", copy, "--seeds", 2)
    assert (outcome.status, "with other defaults" in outcome.complaint) == (1, True)
    outcome = serein("reproduce", table, "--data", tones, "--out", copy, "--seeds", 2, "--plan", "--json")
    assert (outcome.status, "with other defaults" in json.loads(outcome.out)[0]["problem"]) == (1, True)
    assert "error: doe2020-table1: " in outcome.complaint
    rows = {row["label"]: row for row in read_json(out / "doe2020-table1.json")["rows"]}
    changed = next(name for name, row in rows.items() if path.parent.relative_to(copy).as_posix() in row["runs"])
    (other,) = (row["name"] for name, row in rows.items() if name != changed)
    outcome = serein("reproduce", table, "--data", tones, "--out", copy, "--seeds", 2, "--rows", other, "--json")
    content = json.loads(outcome.out)
    assert (outcome.status, {row["label"]: row["seeds"] for row in content["rows"]}[changed]) == (0, [1])
    note = f"'{changed}' leaves out seed 0, which was trained by a version of serein with other defaults."
    assert note in content["notes"]


def test_set_concerns_the_rows_that_are_trained(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that was not asked for may lack the key, unless all rows are combined."""
    trained: list[str] = []

    def engine(trials: Sequence[Trial], *_: object) -> Iterator[tuple[Trial, SereinError]]:
        trained.extend(trial.row for trial in trials)
        return ((trial, RunError("not trained")) for trial in trials)

    monkeypatch.setitem(ENGINES, "none", engine)
    stages = [{"name": "first", "epochs": 1}, {"name": "second", "epochs": 1}]
    rows = [ROWS[0], {**ROWS[1], "set": {"stages": stages}}, {"name": "both", "ensemble": True}]
    path = write_table(tmp_path, rows=rows)
    request = Request(num_seeds=1, overrides=("stages.1.epochs=2",), out=tmp_path / "out", engine="none")
    reproduce(load(str(path)), tones, replace(request, rows=("std",)), lambda *_: None)
    assert trained == ["std"]
    for names in (("mean",), ("both",), None):
        with pytest.raises(RecipeError, match=r"row 'mean': --set: '1' in 'stages\.1\.epochs'"):
            reproduce(load(str(path)), tones, replace(request, rows=names), lambda *_: None)
