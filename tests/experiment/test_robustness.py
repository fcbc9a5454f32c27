"""Robustness: changed recordings in memory, answers compared with those for the unchanged ones, answers from files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import serein as package
from cli_fixtures import Call, everything_in, write_speech
from serein import audio
from serein.data import manifest
from serein.data.conditions import CONDITIONS, Condition, Surroundings
from serein.data.manifest import Utterance
from serein.errors import ManifestError, RecipeError, RunError
from serein.evaluation.predictions import REJECTED, EvalPrediction
from serein.evaluation.robustness import CLEAN, score_conditions, score_system_predictions
from serein.experiment import robustness as changes
from serein.experiment.robustness import changed_recordings, chosen_conditions

PITCHES_HZ = {"angry": 240.0, "happy": 180.0, "sad": 110.0}


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """A manifest of three speakers who speak for a second, once in each emotion."""
    utterances = []
    for number, speaker in enumerate(("uma", "vic", "wes")):
        for emotion, pitch_hz in PITCHES_HZ.items():
            path = write_speech(tmp_path / "speech" / f"{speaker}-{emotion}.wav", 1.0, pitch_hz, seed=number)
            name = f"{speaker}/{emotion}"
            utterances.append(Utterance(id=name, audio=str(path), speaker=speaker, emotion=emotion, corpus="buzz"))
    manifest.write(utterances, tmp_path / "m.jsonl")
    return tmp_path / "m.jsonl"


def answers(predictions: str, truth: str = "aabb") -> list[EvalPrediction]:
    """Return answers of one letter each, `-` for none, by four speakers."""
    return [
        EvalPrediction(id=str(i), truth=true, prediction=REJECTED if said == "-" else said, speaker=str(i))
        for i, (said, true) in enumerate(zip(predictions, truth, strict=True))
    ]


def test_scores_by_hand() -> None:
    found = score_conditions({"8 kHz": answers("ab-a"), CLEAN: answers("aabb")}, ["a", "b"])
    assert [each.name for each in found.conditions] == [CLEAN, "8 kHz"]
    assert (found[CLEAN].ua, found[CLEAN].changed, found[CLEAN].difference) == (100.0, 0.0, 0.0)
    changed = found["8 kHz"]
    assert (changed.kind, changed.ua, changed.wa) == ("codec", 25.0, 25.0)
    assert (changed.difference, changed.changed, changed.rejected) == (-75.0, 75.0, 25.0)
    assert changed.difference_interval is not None
    assert -100.0 <= changed.difference_interval[0] <= -75.0 <= changed.difference_interval[1] <= 0.0
    assert changed.changed_interval is not None
    assert changed.changed_interval[0] <= 75.0 <= changed.changed_interval[1]
    assert changed.mostly_to in {("b", 1), ("a", 1), (REJECTED, 1)}


@pytest.mark.parametrize(("predictions", "start"), [("aabb", "95 % intervals over 4 "), ("ab", "No intervals over 2 ")])
def test_the_remark_claims_no_intervals_that_are_not_there(predictions: str, start: str) -> None:
    found = score_conditions({CLEAN: answers(predictions, predictions)}, ["a", "b"])
    assert ("[" in found[CLEAN].cells()[1]) == start.startswith("95")
    assert found.remarks[0].startswith(start)


def test_a_bar_in_a_name_does_not_break_the_markdown_table() -> None:
    found = score_conditions({CLEAN: answers("aa||", "aa||"), "8 kHz": answers("||||", "aa||")}, ["a", "|"])
    columns = [line.replace("\\|", "").count("|") for line in found.markdown().splitlines()[:4]]
    assert len(set(columns)) == 1


def test_a_condition_of_some_clips_is_compared_on_those() -> None:
    found = score_conditions({CLEAN: answers("abbb"), "speed 0.9": answers("abbb")[:2]}, ["a", "b"])
    assert found["speed 0.9"].num_utterances == 2
    assert (found["speed 0.9"].difference, found["speed 0.9"].changed) == (0.0, 0.0)


def test_answers_without_the_unchanged_recordings_are_refused() -> None:
    with pytest.raises(RunError, match="no predictions for the unchanged recordings; the conditions are: 8 kHz"):
        score_conditions({"8 kHz": answers("abba")}, ["a", "b"])


def test_conditions_by_name_and_kind_and_what_they_lack() -> None:
    chosen, skipped = chosen_conditions(["level", "8 kHz", "reverberation"], Surroundings())
    assert set(chosen) == {name for name, each in CONDITIONS.items() if each.kind == "level"} | {"8 kHz"}
    assert skipped == {"reverberation": "room impulse responses (--rooms FOLDER)"}
    with pytest.raises(RecipeError, match="'levels'"):
        chosen_conditions(["levels"], Surroundings())


def test_what_a_clip_gets_depends_on_neither_other_clips_nor_other_conditions(speech: Path) -> None:
    utterances = manifest.read(speech)[:3]
    names = ["white noise 5 dB", "packet loss 20 %"]
    both = {n: CONDITIONS[n] for n in names}
    last = [w for n, u, w in changed_recordings(utterances, both, Surroundings(), 0) if n == names[1]][-1]
    alone = [*changed_recordings(utterances[2:], {names[1]: both[names[1]]}, Surroundings(), 0)][-1][2]
    np.testing.assert_array_equal(last, alone)


@pytest.mark.slow
def test_a_model_under_conditions(tiny_run: Path, speech: Path, tmp_path: Path, serein: Call) -> None:
    model, before = tiny_run / "fold-1" / "seed-0" / "model", everything_in(speech.parent)
    shown = serein(
        "robustness", model, "--data", speech, "--conditions", "level -20 dB,silence,reverberation,joined",
        "-o", tmp_path / "out" / "r.csv", "--plot", tmp_path / "out" / "r.png", "--json",
    )  # fmt: skip
    assert shown.status == 0, shown.err
    found = json.loads(shown.out)
    names = [each["name"] for each in found["conditions"]]
    assert names[:2] == [CLEAN, "level -20 dB"]
    assert "silence of 1 s inside" in names
    assert "played twice" in names
    assert set(found["skipped"]) == {"reverberation", "joined with another clip"}  # each speaker has one of a class
    assert found["resampled"] == "3 speakers"
    rows = list(csv.DictReader((tmp_path / "out" / "r.csv").open()))
    assert [row["condition"] for row in rows] == names
    assert float(rows[1]["changed"]) == pytest.approx(found["conditions"][1]["changed"], abs=1e-3)
    assert (tmp_path / "out" / "r.png").read_bytes().startswith(b"\x89PNG")
    after = everything_in(speech.parent)
    assert {name: after[name] for name in before} == before

    renamed = [u.model_copy(update={"emotion": f"In other words, {u.emotion}"}) for u in manifest.read(speech)]
    manifest.write(renamed, tmp_path / "renamed.jsonl")
    labels = dict.fromkeys(u.emotion for u in manifest.read(speech))
    (tmp_path / "labels.yaml").write_text("".join(f"In other words, {name}: {name}\n" for name in labels))
    options = ("--data", tmp_path / "renamed.jsonl", "--conditions", "level -20 dB", "--json")
    assert "no utterance has a label that the model predicts" in serein("robustness", model, *options).complaint
    again = json.loads(serein("robustness", model, *options, "--map", tmp_path / "labels.yaml").out)
    assert again["conditions"] == found["conditions"][:2]

    # unchanged recordings get what `predict` says of them
    predictor = package.load(model)
    said = [predictor.predict(u.audio) for u in manifest.read(speech)]
    right = [p.label == u.emotion for p, u in zip(said, manifest.read(speech), strict=True)]
    assert found["conditions"][0]["wa"] == pytest.approx(100 * np.mean(right))


@pytest.mark.slow
def test_a_recording_that_cannot_be_predicted_is_rejected_and_named(
    tiny_run: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Condition("cut", lambda waveform, rng, around: np.zeros(0, np.float32))
    monkeypatch.setitem(CONDITIONS, "nothing left", broken)
    model = next(tiny_run.glob("fold-*/seed-*/model"))
    found = package.robustness(model, speech, conditions=["nothing left"])
    assert any(
        "9 of 18 recordings could not be predicted; the first: uma/angry (nothing left)" in n for n in found.notes
    )
    assert found["nothing left"].ua == 0.0
    assert found[CLEAN].ua > 0.0


def test_a_fold_is_predicted_by_the_fold_that_was_trained_on_the_same_sets(tmp_path: Path) -> None:
    """Of several test sets of a corpus only the first has a model of its own."""
    folds = [
        {"name": name, "train": train, "dev": ["d"], "test": [name]}
        for name, train in (("test1", ["a"]), ("test2", ["a"]), ("test3", ["b"]))
    ]
    run = tmp_path / "run"
    for fold in folds:
        (run / f"fold-{fold['name']}").mkdir(parents=True)
        manifest.write([Utterance(id=str(fold["name"]), audio="a.wav")], run / f"fold-{fold['name']}" / "test.jsonl")
    (run / "folds.json").write_text(json.dumps({"folds": folds}))
    for name in ("test1", "test3"):
        (run / f"fold-{name}" / "seed-0" / "model").mkdir(parents=True)
    manifest.write([Utterance(id=str(fold["name"]), audio="a.wav") for fold in folds], tmp_path / "m.jsonl")
    parts = [
        (Path(str(part)).relative_to(run).parts[0], ids)
        for part, ids in changes.tested_models(run, tmp_path / "m.jsonl")
    ]
    assert parts == [("fold-test1", {"test1"}), ("fold-test1", {"test2"}), ("fold-test3", {"test3"})]


@pytest.mark.slow
def test_of_a_run_each_folds_model_hears_what_the_fold_was_tested_on(tiny_run: Path, tones: Path, speech: Path) -> None:
    tests = {path.parent: manifest.read(path) for path in tiny_run.glob("fold-*/test.jsonl")}
    found = package.robustness(tiny_run, tones, conditions=["offset 0.005"])
    assert found[CLEAN].num_utterances == sum(map(len, tests.values())) > 0
    right = [
        said.label == utterance.emotion
        for fold, utterances in tests.items()
        for said, utterance in zip(
            package.load(fold / "seed-0" / "model").predict_files([u.audio for u in utterances]),
            utterances,
            strict=True,
        )
    ]
    assert found[CLEAN].wa == pytest.approx(100 * np.mean(right))
    for most in (1, 5):
        some = package.robustness(tiny_run, tones, conditions=["offset 0.005"], max_clips=most)
        assert some[CLEAN].num_utterances == most
    with pytest.raises(ManifestError, match="was tested on this data"):
        package.robustness(tiny_run, speech)


def test_answers_made_elsewhere(tiny_run: Path, speech: Path, tmp_path: Path, serein: Call) -> None:
    model, folder = tiny_run / "fold-1" / "seed-0" / "model", tmp_path / "audio"
    call = ["robustness", "--data", speech, "--conditions", "level +20 dB,8 kHz"]
    outcome = serein(*call, "--write-audio", folder)
    assert outcome.out.splitlines()[1] == f"level +20 dB: {folder / 'level-plus-20-dB.jsonl'}"
    written = manifest.read(folder / "level-plus-20-dB.jsonl")
    assert [u.id for u in written] == [u.id for u in manifest.read(speech)]
    first = manifest.read(speech)[0]
    np.testing.assert_allclose(audio.load(written[0].audio), 10 * audio.load(first.audio), rtol=1e-5, atol=1e-6)
    for name in ("clean", "8-kHz"):
        arguments = ["--segments", "always", "-o", tmp_path / f"{name}.jsonl"]
        assert serein("predict", "--model", model, folder / f"{name}.jsonl", *arguments).status == 0
    pairs = ["--predictions", f"clean={tmp_path / 'clean.jsonl'}", "--predictions", f"8 kHz={tmp_path / '8-kHz.jsonl'}"]
    elsewhere = json.loads(serein("robustness", *pairs, "--data", speech, "--json").out)
    here = json.loads(serein("robustness", model, "--data", speech, "--conditions", "8 kHz", "--json").out)
    assert elsewhere["conditions"] == here["conditions"]
    assert "already exists" in serein(*call, "--write-audio", folder).complaint


def test_other_systems_need_only_ids_and_labels(speech: Path, tmp_path: Path) -> None:
    utterances, path = manifest.read(speech), tmp_path / "a.jsonl"
    lines = [{"id": u.id, "label": u.emotion if u.emotion != "sad" else None} for u in utterances]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8-sig")
    found = score_system_predictions({CLEAN: path}, utterances)
    assert (round(found[CLEAN].ua, 1), round(found[CLEAN].rejected, 1)) == (66.7, 33.3)
    assert found.classes == ("angry", "happy", "sad")
    path.write_text(json.dumps(lines[0]))
    with pytest.raises(RunError, match="8 of 9 utterances have no prediction, for example uma/happy"):
        score_system_predictions({CLEAN: path}, utterances)
    path.write_text('{"label": "sad"}')
    with pytest.raises(RunError, match="is not a prediction"):
        score_system_predictions({CLEAN: path}, utterances)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"label": None, "rejected": None, "dimensions": {"arousal": 0.2}}, "as every label is null"),
        ({"prediction": "0.2 0 0.01"}, "such as '0.2 0 0.01'"),
        ({"prediction": "Anger"}, "such as 'Anger'"),
    ],
)
def test_predictions_of_no_class_of_the_manifest_are_refused(
    line: dict[str, object], says: str, speech: Path, tmp_path: Path
) -> None:
    utterances, path = manifest.read(speech), tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"id": u.id, **line}) for u in utterances), encoding="utf-8")
    with pytest.raises(RunError) as caught:
        score_system_predictions({CLEAN: path}, utterances)
    assert f"{path}: predicts none of the manifest's classes (angry, happy, sad), {says}" in str(caught.value)


def test_options_that_do_not_fit_are_named(speech: Path, serein: Call) -> None:
    assert "name a model" in serein("robustness", "--data", speech).err
    assert "is not CONDITION=FILE" in serein("robustness", "--data", speech, "--predictions", "clean").err
    assert "'.txt'" in serein("robustness", "default", "--data", speech, "-o", "r.txt").complaint
