"""Every command end to end on a corpus of tones: results on stdout, progress and complaints on stderr."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import serein as package
from cli_fixtures import TONES_HZ, Call, command, environment, without_runtime, write_corpus, write_recipe, write_wav
from serein import cli, metrics
from serein.cli.app import ORDER, Commands, app
from serein.data import manifest
from serein.evaluation.predictions import read_predictions

CLASSES = sorted(TONES_HZ)
SCORES = ("ua", "wa", "macro_f1")


@pytest.fixture(scope="session")
def model(tiny_run: Path) -> Path:
    """A model folder; read only."""
    return tiny_run / "fold-1" / "seed-0" / "model"


@pytest.fixture
def strangers(tmp_path: Path) -> Path:
    """A manifest of two speakers that no model met."""
    path = tmp_path / "strangers.jsonl"
    manifest.write(write_corpus(tmp_path / "strangers", speakers=("yan", "zoe")), path)
    return path


def test_an_interrupt_that_compiled_code_replaces_is_one() -> None:
    """safetensors raises ValueError if a KeyboardInterrupt meets it in the middle of a tensor."""
    script = """
import signal, sys
from serein import cli
def replaced(**_):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pass
    raise ValueError("could not determine the shape of a storage")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
sys.modules["serein.cli.app"].app = replaced
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment())
    assert done.returncode == 130
    assert done.stderr.startswith("error: interrupted from the keyboard. ")
    assert done.stderr.count("\n") == 1


# -- help ------------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "lightning", "sklearn", "matplotlib", "scipy", "soundfile", "huggingface_hub"}
    script = f"""
import sys
from serein.cli import main
sys.argv = ["serein", "--help"]
try:
    main()
except SystemExit as stop:
    assert stop.code == 0
print("imported:", sorted({heavy} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment())
    assert done.stderr == ""
    assert done.stdout.endswith("imported: []\n")
    for name in ("corpus", "run", "train", "evaluate", "predict", "report"):
        assert name in done.stdout


def test_version(serein: Call) -> None:
    assert serein("--version").out == f"serein {package.__version__}\n"


@pytest.mark.parametrize(
    "name", ["run", "train", "evaluate", "predict", "report", "corpus prepare", "corpus check", "corpus synth"]
)
def test_every_command_explains_itself(name: str, serein: Call) -> None:
    outcome = serein(*name.split(), "--help")
    assert (outcome.status, outcome.err) == (0, "")
    assert f"Usage: serein {name}" in outcome.out


# -- corpora ---------------------------------------------------------------------------------------------------------


def test_commands_are_listed_as_a_user_meets_them(serein: Call) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, Commands)
    assert group.list_commands(None) == list(ORDER)  # every command has its place
    listed = serein("--help").out.partition("Commands:")[2].splitlines()
    names = [line.split()[0] for line in listed if re.match(r"  \S", line)]
    assert names == [name for name in ORDER if not group.commands[name].hidden]
    assert names[0] == "predict"
    assert "..." not in "".join(listed)  # sentences in full


@pytest.mark.slow
def test_the_corpora_are_listed(serein: Call) -> None:
    shown = serein("corpus", "list")
    assert (shown.status, shown.err) == (0, "")
    assert all(word in shown.out for word in ("ravdess", "1,440", "CC BY-NC-SA 4.0"))
    (emodb,) = (row for row in json.loads(serein("corpus", "list", "--json").out) if row["name"] == "emodb")
    assert (emodb["num_utterances"], emodb["num_speakers"], emodb["languages"]) == (535, 10, ["de"])
    assert "Burkhardt" in emodb["citation"]


def test_prepare_a_folder_of_emotions(tones: Path, tmp_path: Path, serein: Call) -> None:
    out = tmp_path / "new" / "m.jsonl"
    outcome = serein("corpus", "prepare", "folder", tones.parent, "--out", out)
    assert (outcome.status, outcome.out) == (0, f"{out}: 36 utterances\n")
    assert "note: used the names of 3 folders as emotions: angry, happy, sad" in outcome.err
    prepared = manifest.read(out)
    assert {(u.speaker, u.emotion, u.audio) for u in prepared} == {
        (u.speaker, u.emotion, u.audio) for u in manifest.read(tones)
    }
    assert not [path for path in out.parent.iterdir() if path != out]


def test_labels_are_joined_and_mapped(tmp_path: Path, serein: Call) -> None:
    for name in "abc":
        write_wav(tmp_path / f"{name}.wav")
    (tmp_path / "t.csv").write_text("path,emotion\na.wav,Happy\nb.wav,happy\nc.wav,Wut\n", encoding="utf-8")
    (tmp_path / "map.yaml").write_text("wut: angry\n", encoding="utf-8")
    out = tmp_path / "m.jsonl"
    outcome = serein("corpus", "prepare", "csv", tmp_path / "t.csv", "-o", out, "--map", tmp_path / "map.yaml")
    assert (outcome.status, [u.emotion for u in manifest.read(out)]) == (0, ["happy", "happy", "angry"])
    assert "note: 1 labels 'Wut' became 'angry'" in outcome.err
    assert "note: the spellings 'Happy' (1), 'happy' (1) were merged into 'happy'" in outcome.err


def test_a_language_is_given_to_utterances_without_one(tmp_path: Path, serein: Call) -> None:
    for name in "ab":
        write_wav(tmp_path / f"{name}.wav")
    (tmp_path / "t.csv").write_text("path,emotion,language\na.wav,happy,\nb.wav,sad,de\n", encoding="utf-8")
    out = tmp_path / "m.jsonl"
    outcome = serein("corpus", "prepare", "csv", tmp_path / "t.csv", "-o", out, "--language", "ur")
    assert (outcome.status, [u.language for u in manifest.read(out)]) == (0, ["ur", "de"])


def test_corpora_are_merged(tmp_path: Path, serein: Call) -> None:
    for name in ("a", "b"):
        write_wav(tmp_path / f"{name}.wav")
        row = {"id": "1", "audio": f"{name}.wav", "speaker": "x", "emotion": name}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (tmp_path / "map.yaml").write_text("a: sad\nb: {b: sad}\n", encoding="utf-8")
    out = tmp_path / "all.jsonl"
    command = ("corpus", "merge", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--labels", tmp_path / "map.yaml")
    outcome = serein(*command, "-o", out)
    assert outcome.out == f"sad: a 1, b 1\n{out}: 2 utterances, 2 corpora, 1 label, 1 duplicate\n"
    assert "duplicate: b/1 has the same samples as a/1" in outcome.err
    assert [(u.id, u.corpus) for u in manifest.read(out)] == [("a/1", "a"), ("b/1", "b")]
    assert json.loads(serein(*command, "-o", out, "--json").out)["duplicates"] == [["b/1", "a/1"]]


def test_prepare_a_table(tmp_path: Path, serein: Call) -> None:
    write_wav(tmp_path / "a.wav")
    write_wav(tmp_path / "b.wav")
    (tmp_path / "t.csv").write_text("path;label;speaker;sex;pages\na.wav;sad;1;m;7\nb.wav;happy;2;F;\n")
    outcome = serein("corpus", "prepare", "csv", tmp_path / "t.csv", "-o", tmp_path / "m.jsonl")
    assert outcome.out == f"{tmp_path / 'm.jsonl'}: 2 utterances\n"
    assert "left out 1 unknown columns: pages" in outcome.err
    assert [(u.id, u.emotion, u.gender) for u in manifest.read(tmp_path / "m.jsonl")] == [
        ("a", "sad", "male"),
        ("b", "happy", "female"),
    ]


def test_prepare_without_the_broken(tmp_path: Path, serein: Call) -> None:
    write_wav(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_text("no audio")
    (tmp_path / "t.csv").write_text("audio,emotion\na.wav,sad\nb.wav,happy\n")
    outcome = serein("corpus", "prepare", "csv", tmp_path / "t.csv", "-o", tmp_path / "m.jsonl", "--skip-broken")
    assert (outcome.status, outcome.out) == (0, f"{tmp_path / 'm.jsonl'}: 1 utterance, 1 skipped\n")
    assert f"skipped {tmp_path / 'b.wav'}: cannot be decoded" in outcome.err


def test_copies_are_renewed_in_a_manifest_that_has_some(tmp_path: Path, serein: Call) -> None:
    write_wav(tmp_path / "a.wav")
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "a", "audio": "a.wav"}\n', encoding="utf-8")
    augment = ("corpus", "augment", path, "-o", path, "--copies")
    assert serein(*augment, 2).out == f"{path}: 1 utterance and 2 copies\n"
    assert serein(*augment, 1, "--speeds", 1).out == f"{path}: 1 utterance and 3 copies\n"
    assert [(u.id, u.copy_of) for u in manifest.read(path)] == [
        ("a", None),
        ("a~2", "a"),
        ("a~1", "a"),
        ("a~s1", "a"),
    ]
    before = path.read_bytes()
    outcome = serein(*augment, 1, "--seed", 5)
    assert outcome.status != 0
    assert "1 copies there are of other recordings" in outcome.complaint
    assert path.read_bytes() == before


@pytest.mark.slow
def test_synth(tmp_path: Path, serein: Call) -> None:
    pytest.importorskip("espeakng_loader", reason="pip install 'serein[synth]'")
    outcome = serein("corpus", "synth", "--out", tmp_path / "synth", "--clips", 1)
    assert (outcome.status, outcome.out) == (0, f"{tmp_path / 'synth' / 'manifest.jsonl'}: 40 utterances\n")
    assert len(manifest.read(tmp_path / "synth" / "manifest.jsonl")) == 40


def test_check_of_sound_data(tones: Path, serein: Call) -> None:
    outcome = serein("corpus", "check", tones)
    assert outcome.status == 0
    assert "36" in outcome.out
    assert "angry" in outcome.out


def test_check_that_finds_something(tmp_path: Path, tones: Path, serein: Call) -> None:
    rows = manifest.read(tones)
    silent = tmp_path / "silent.wav"
    package_wav(silent, np.zeros(8000))
    path = tmp_path / "m.jsonl"
    manifest.write([rows[0].model_copy(update={"audio": str(silent)}), *rows[1:]], path)
    outcome = serein("corpus", "check", path, "--json")
    assert outcome.status == 1
    found = json.loads(outcome.out)
    assert found["is_sound"] is False
    assert [(problem["kind"], problem["where"]) for problem in found["problems"]] == [("silent", rows[0].id)]
    table = serein("corpus", "check", path)
    assert table.status == 1
    assert "silent" in table.out


def package_wav(path: Path, samples: np.ndarray) -> None:
    import soundfile

    soundfile.write(path, samples, 16_000)


# -- experiments -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_run_prints_one_json_object(tiny: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    out = tmp_path / "run"
    outcome = serein("run", tiny, "--data", tones, "--out", out, "--jobs", 1, "--json")
    assert outcome.status == 0
    scores = json.loads(outcome.out)
    assert [fold["fold"] for fold in scores["folds"]] == ["1", "2"]
    for part in (scores["mean"], scores["pooled"], *scores["folds"]):
        assert all(0 <= part[name] <= 100 for name in SCORES)
    for name in SCORES:
        low, high = scores["pooled"][f"{name}_interval"]
        assert 0 <= low <= scores["pooled"][name] <= high <= 100
    assert "fold 1  seed 0  emotion" in outcome.err
    assert f"report: {out / 'report.html'}" in outcome.err


def test_scores_are_those_of_the_predictions(tiny_run: Path) -> None:
    """By hand: the mean recall of each fold, in per cent, and their mean."""
    scores = json.loads((tiny_run / "scores.json").read_text())
    by_hand = []
    for fold in ("1", "2"):
        predictions = read_predictions(tiny_run / f"fold-{fold}" / "seed-0" / "predictions.jsonl")
        recalls = [
            np.mean([p.prediction == p.truth for p in predictions if p.truth == name])
            for name in {p.truth for p in predictions}
        ]
        by_hand.append(100 * float(np.mean(recalls)))
    assert [fold["ua"] for fold in scores["folds"]] == pytest.approx(by_hand)
    assert scores["mean"]["ua"] == pytest.approx(np.mean(by_hand))


def test_the_tones_are_learned(tiny_run: Path) -> None:
    assert json.loads((tiny_run / "scores.json").read_text())["pooled"]["ua"] > 60  # 33 is chance


@pytest.mark.slow
def test_train_gives_one_model(tiny: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    out = tmp_path / "trained"
    arguments = ("train", tiny, "--data", tones, "--out", out, "--set", "stages.0.epochs=1")
    outcome = serein(*arguments)
    assert (outcome.status, outcome.out) == (0, f"{out / 'model'}\n")
    weights = (out / "model" / "model.safetensors").read_bytes()
    assert serein("predict", "--model", out / "model", tones, "--max-files", 1).status == 0
    assert serein(*arguments, "--resume").out == f"{out / 'model'}\n"
    assert (out / "model" / "model.safetensors").read_bytes() == weights


def test_train_keeps_the_manifests_own_dev(tiny: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    rows = manifest.read(tones)
    split = {"anna": "dev", "ben": "test"}
    path = tmp_path / "m.jsonl"
    manifest.write((u.model_copy(update={"split": split.get(u.speaker or "", "train")}) for u in rows), path)
    assert serein("train", tiny, "--data", path, "--out", tmp_path / "t", "--set", "stages.0.epochs=1").status == 0
    (fold,) = json.loads((tmp_path / "t" / "folds.json").read_text())["folds"]
    speakers = {part: {name.split("-")[0] for name in fold[part]} for part in ("train", "dev", "test")}
    assert speakers == {"train": {"cleo", "dan", "eva", "finn"}, "dev": {"anna"}, "test": set()}


@pytest.mark.slow
def test_report_again(tiny_run: Path, tmp_path: Path, serein: Call) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    before = (run / "scores.json").read_bytes()
    for name in ("scores.json", "report.html"):
        (run / name).unlink()
    outcome = serein("report", run)
    assert outcome.status == 0
    assert "pooled" in outcome.out
    assert outcome.out.endswith(f"report: {run / 'report.html'}\n")
    assert (run / "scores.json").read_bytes() == before
    assert "<html" in (run / "report.html").read_text()
    assert json.loads(serein("report", run, "--json").out)["pooled"] == json.loads(before)["pooled"]


# -- evaluating --------------------------------------------------------------------------------------------------------


def test_evaluate_on_strangers(model: Path, strangers: Path, tmp_path: Path, serein: Call) -> None:
    out = tmp_path / "p.jsonl"
    outcome = serein("evaluate", "--model", model, "--data", strangers, "--out", out, "--json")
    assert outcome.status == 0
    scores = json.loads(outcome.out)
    predictions = read_predictions(out)
    assert [p.id for p in predictions] == [u.id for u in manifest.read(strangers)]
    confusion = metrics.confusion_matrix(
        np.array([CLASSES.index(p.truth or "") for p in predictions]),
        np.array([CLASSES.index(p.prediction) for p in predictions]),
        len(CLASSES),
    )
    assert scores["pooled"]["ua"] == pytest.approx(100 * metrics.unweighted_accuracy_of(confusion))
    assert scores["num_utterances"] == 12
    assert "UA" in serein("evaluate", "--model", model, "--data", strangers).out


@pytest.mark.slow
def test_labels_are_mapped_in_run_and_evaluate(
    tiny: Path, tones: Path, model: Path, tmp_path: Path, serein: Call
) -> None:
    renamed = {"angry": "Anger", "happy": "HAPPY", "sad": "unclear"}
    utterances = [u.model_copy(update={"emotion": renamed[u.emotion or ""]}) for u in manifest.read(tones)]
    manifest.write(utterances, tmp_path / "m.jsonl")
    (tmp_path / "labels.yaml").write_text("anger: angry\nunclear: none\n", encoding="utf-8")
    data = ("--data", tmp_path / "m.jsonl", "--map", tmp_path / "labels.yaml", "--json")
    outcome = serein("evaluate", "--model", model, *data, "--allow-seen-speakers")
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)["num_utterances"] == 24
    outcome = serein("run", tiny, *data, "--out", tmp_path / "run", "--folds", "1", "--set", "stages.0.epochs=1")
    assert outcome.status == 0, outcome.err
    labels = json.loads(next((tmp_path / "run").rglob("labels.json")).read_text(encoding="utf-8"))
    assert labels["emotion"]["classes"] == ["HAPPY", "angry"]


def test_evaluate_on_known_speakers_is_marked(model: Path, tones: Path, serein: Call) -> None:
    outcome = serein("evaluate", "--model", model, "--data", tones, "--allow-seen-speakers", "--json")
    assert outcome.status == 0
    assert any(note.startswith("SPEAKER-DEPENDENT: ") for note in json.loads(outcome.out)["notes"])


def test_evaluate_states_which_speakers_cannot_be_compared(tones: Path, tmp_path: Path, serein: Call) -> None:
    """A name without a corpus says nothing about a model that was trained on named corpora."""
    utterances = manifest.read(tones)
    nameless = [u.model_copy(update={"corpus": None}) for u in utterances]
    manifest.write(nameless, tmp_path / "m.jsonl")
    note = f"{len(utterances)} utterances lack a corpus or a speaker: the model may have been trained on them."
    for data, is_noted in ((tones, False), (tmp_path / "m.jsonl", True)):
        outcome = serein("evaluate", "--model", "tiny", "--data", data, "--json")
        assert (note in json.loads(outcome.out)["notes"]) == is_noted


def test_evaluate_counts_what_the_model_has_no_class_for(model: Path, strangers: Path, serein: Call) -> None:
    first, *others = manifest.read(strangers)
    manifest.write([first.model_copy(update={"emotion": "bored"}), *others], strangers)
    scores = json.loads(serein("evaluate", "--model", model, "--data", strangers, "--json").out)
    assert scores["num_utterances"] == 11
    assert "Left out because the model has no such class: 1 bored." in scores["notes"]


# -- predictions -----------------------------------------------------------------------------------------------------


def test_predict_in_json(model: Path, strangers: Path, serein: Call) -> None:
    paths = [u.audio for u in manifest.read(strangers)]
    outcome = serein("predict", "--model", model, *paths, "--segments", "never", "--json")
    assert (outcome.status, without_runtime(outcome.err)) == (0, "")
    assert outcome.err == "note: model tiny/fold-1/seed-0/model: torch on cpu, float32\n"
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert [row["file"] for row in rows] == paths
    for row in rows:
        assert sorted(row["probabilities"]) == CLASSES
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["confidence"] == max(row["probabilities"].values()) == row["probabilities"][row["label"]]


def test_predict_in_every_format_is_the_same(model: Path, strangers: Path, serein: Call) -> None:
    """Files, their folder and the manifest; JSON, CSV and the table; the command line and Python."""
    utterances = manifest.read(strangers)
    folder = strangers.with_suffix("")
    of_folder = serein("predict", "--model", model, folder, "--segments", "never", "--json")
    printed = {row["file"]: row for row in map(json.loads, of_folder.out.splitlines())}
    assert sorted(printed) == sorted(u.audio for u in utterances)

    rows = list(csv.DictReader(io.StringIO(serein("predict", "--model", model, strangers, "--csv").out)))
    assert [row["file"] for row in rows] == [u.audio for u in utterances]
    for row in rows:
        assert row["label"] == printed[row["file"]]["label"]
        for name in CLASSES:
            assert float(row[name]) == pytest.approx(printed[row["file"]]["probabilities"][name], abs=1e-4)

    table = serein("predict", "--model", model, strangers).out
    assert "labelled" in table.splitlines()[0]
    words = table.split()
    assert words.count("%") == 3 * len(utterances)

    loaded = package.load(model)
    alone = loaded.predict(utterances[0])
    assert alone.label == printed[alone.file]["label"]
    assert alone.probabilities == pytest.approx(printed[alone.file]["probabilities"], abs=1e-5)
    several = loaded.predict(utterances[:3])
    assert [each.file for each in several] == [u.audio for u in utterances[:3]]


def test_predict_a_few_evenly_spread(model: Path, strangers: Path, serein: Call) -> None:
    outcome = serein("predict", "--model", model, strangers, "--max-files", 4, "--json")
    files = [json.loads(line)["file"] for line in outcome.out.splitlines()]
    assert files == [u.audio for u in manifest.read(strangers)[::3]]


@pytest.mark.slow
def test_predict_of_a_long_recording_takes_parts_of_it(
    model: Path, tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken whole: in windows of at most 30 s, at most 120 s of them at once, whose mean is the prediction."""
    from serein.inference import batching

    lengths_s: list[list[float]] = []
    probabilities: list[np.ndarray] = []
    real = batching._forward

    def forward(*context: object) -> batching.ModelOutputs:
        outputs = real(*context)  # type: ignore[arg-type]
        windows: list[np.ndarray] = context[3]  # type: ignore[assignment]
        lengths_s.append([len(window) / 16_000 for window in windows])
        probabilities.extend(outputs.decoded["emotion"].values)  # type: ignore[arg-type]
        return outputs

    monkeypatch.setattr(batching, "_forward", forward)
    path = write_wav(tmp_path / "long.wav", seconds=203.0)
    row = json.loads(serein("predict", "--model", model, path, "--json", "--segments", "never").out)
    assert [len(windows) for windows in lengths_s] == [4, 3]
    assert all(seconds == pytest.approx(29.0) for windows in lengths_s for seconds in windows)
    assert list(row["probabilities"].values()) == pytest.approx(np.mean(probabilities, axis=0).tolist(), abs=1e-5)


@pytest.mark.slow
def test_the_command_is_installed(model: Path, tones: Path) -> None:
    """`serein` beside this Python, in a process of its own."""
    script = Path(sys.executable).with_name("serein")
    if not script.exists():
        pytest.skip("serein is not installed as a command")
    path = manifest.read(tones)[0].audio
    done = subprocess.run(
        [script, "predict", "--model", model, path, "--segments", "never", "--json"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert (done.returncode, without_runtime(done.stderr)) == (0, "")
    assert json.loads(done.stdout)["file"] == path


@pytest.mark.slow
def test_a_run_without_a_name_goes_to_runs(tiny: Path, tones: Path, tmp_path: Path, serein: Call, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path / "r.yaml", {"protocol": {"only": ["1"]}}, {"epochs": 1})
    outcome = serein("run", recipe, "--data", tones, "--jobs", 1, "--json")
    assert outcome.status == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("tiny-")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.yaml", "runs"]  # nothing of Lightning's
    assert (run / "report.html").exists()


def test_the_module_runs_too() -> None:
    """`python -m serein.cli`, which torchrun needs."""
    done = subprocess.run(
        [*command()[:1], "-m", "serein.cli", "--version"], capture_output=True, text=True, env=environment()
    )
    assert (done.returncode, done.stdout) == (0, f"serein {package.__version__}\n")


def test_every_command_that_loads_a_model_is_told_where_its_backbone_is() -> None:
    from typer.main import get_command

    def options(group: Any, name: str = "") -> Iterator[tuple[str, set[str]]]:
        for own, each in group.commands.items():
            if hasattr(each, "commands"):
                yield from options(each, f"{own} ")
            else:
                yield name + own, {parameter.name for parameter in each.params}

    lacking = {name for name, own in options(get_command(cli.app)) if "model" in own and "backbone" not in own}
    assert lacking == set()
