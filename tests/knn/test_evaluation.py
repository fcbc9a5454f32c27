"""Neighbours through the command line: stores of the corpus of tones, and a finished run evaluated with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import soundfile

from cli_fixtures import Call, everything_in, write_recipe, write_speech, write_wav
from serein import audio
from serein import recipe as recipes
from serein.data import manifest
from serein.errors import MissingExtraError, ModelError
from serein.evaluation.predictions import read_predictions
from serein.evaluation.scores import score_run
from serein.inference.prediction import Prediction
from serein.inference.predictor import load
from serein.inference.recording import SlidingWindow, WindowCutter
from serein.inference.sources import utterance_of
from serein.knn.datastore import open_datastore
from serein.knn.predictor import KnnPredictor
from serein.reproduce.trials import Trial, is_evaluated_with_knn
from speech_sounds import voiced


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Path:
    return tiny_run / "fold-1" / "seed-0" / "model"


@pytest.fixture
def datastore(model: Path, tones: Path, tmp_path: Path, serein: Call) -> Path:
    """A datastore of all tones."""
    assert serein("knn", "build", "--model", model, "--data", tones, "-o", tmp_path / "datastore").status == 0
    return tmp_path / "datastore"


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A finished run that may be written to."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def part(tones: Path, path: Path, speakers: str) -> Path:
    """Write the manifest of some speakers, by their first letters."""
    manifest.write([u for u in manifest.read(tones) if (u.speaker or "")[0] in speakers], path)
    return path


def probabilities(predictions: list[Prediction]) -> np.ndarray:
    return np.array([list(prediction.probabilities.values()) for prediction in predictions])


def predicted(model: Path, datastore: Path, tones: Path, **how: Any) -> list[Prediction]:
    return list(KnnPredictor(str(model), datastore, **how).predict_files(manifest.read(tones)))


# -- datastores ------------------------------------------------------------------------------------------------------


def test_what_a_datastore_holds(datastore: Path, tones: Path) -> None:
    header = json.loads((datastore / "datastore.json").read_text())
    assert (header["num_clips"], header["classes"], header["corpora"]) == (36, ["angry", "happy", "sad"], {"tones": 36})
    assert header["licences"] == {"tones": "not stated"}
    assert sorted(path.name for path in datastore.iterdir()) == ["clips.jsonl", "datastore.json", "vectors.safetensors"]
    assert len({path.stat().st_mode for path in datastore.iterdir()}) == 1  # whoever may read one may read all
    opened, clips = open_datastore(datastore), manifest.read(tones)
    assert [u.audio for u in opened.clips_at([3, 0])] == [clips[3].audio, clips[0].audio]
    assert [opened.header.classes[n] for n in opened.embeddings.labels] == [u.emotion for u in clips]


def test_a_datastore_is_a_manifest_of_its_clips(datastore: Path, tones: Path) -> None:
    assert [(u.id, u.audio) for u in manifest.read(datastore / "clips.jsonl")] == [
        (u.id, u.audio) for u in manifest.read(tones)
    ]


def test_a_datastore_behind_a_link_knows_its_clips(datastore: Path, tones: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "datastore").symlink_to(datastore)
    opened, first = open_datastore(tmp_path / "links" / "datastore"), manifest.read(tones)[0]
    assert opened.clips_at([0])[0].audio == first.audio
    assert opened.id_of_file[first.audio] == first.id


def test_add_equals_build_of_both(model: Path, datastore: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    first, second = part(tones, tmp_path / "1.jsonl", "abc"), part(tones, tmp_path / "2.jsonl", "def")
    grown = tmp_path / "grown"
    assert serein("knn", "build", "--model", model, "--data", first, "-o", grown).status == 0
    assert serein("knn", "add", grown, "--data", second).out.startswith(f"{grown}: 36 clips of 8 numbers")
    one, both = open_datastore(grown).embeddings, open_datastore(datastore).embeddings
    assert (one.labels == both.labels).all()
    assert (one.keys == both.keys).all()
    assert np.abs(one.vectors - both.vectors).max() < 1e-5
    for name in ("datastore.json", "clips.jsonl"):
        assert (grown / name).read_text() == (datastore / name).read_text()


def test_a_datastore_behind_a_link_names_the_same_clips(
    model: Path, datastore: Path, tones: Path, tmp_path: Path, serein: Call
) -> None:
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(datastore)
    assert serein("knn", "build", "--model", model, "--data", tones, "-o", link).status == 0
    assert link.is_symlink()
    assert open_datastore(link).id_of_file == open_datastore(datastore).id_of_file
    assert [u.audio for u in open_datastore(link).clips_at([0])] == [manifest.read(tones)[0].audio]


def test_what_is_there_already_is_counted(datastore: Path, tones: Path, serein: Call) -> None:
    before = everything_in(datastore)
    outcome = serein("knn", "add", datastore, "--data", tones, "--json")
    assert json.loads(outcome.out)["num_known"] == 36
    assert "36 clips were already in the datastore." in outcome.err
    assert everything_in(datastore) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"emotion": "bored", "id": "new"},
            "1 utterances have labels that are not classes of the model: 1 bored. Use the model's classes: angry",
        ),
        ({"emotion": "sad"}, "is labelled 'angry' in the datastore"),
        ({"audio": "other.wav"}, "the datastore has another recording named"),
    ],
)
def test_what_cannot_be_added(
    change: dict[str, str], complaint: str, datastore: Path, tones: Path, tmp_path: Path, serein: Call
) -> None:
    utterance = manifest.read(tones)[0]
    if "audio" in change:
        change = {"audio": str(write_wav(tmp_path / "other.wav"))}
    manifest.write([utterance.model_copy(update=change)], tmp_path / "more.jsonl")
    before = everything_in(datastore)
    outcome = serein("knn", "add", datastore, "--data", tmp_path / "more.jsonl")
    assert outcome.status == 1
    assert complaint in outcome.complaint
    assert everything_in(datastore) == before


def test_a_datastore_of_another_model_is_refused(datastore: Path, tiny_run: Path, tones: Path, serein: Call) -> None:
    other = tiny_run / "fold-2" / "seed-0" / "model"
    clip = manifest.read(tones)[0].audio
    assert (
        "the datastore belongs to another model"
        in serein("predict", "--model", other, clip, "--knn", datastore).complaint
    )
    assert (
        "the datastore belongs to another model"
        in serein("knn", "add", datastore, "--data", tones, "--model", other).complaint
    )


@pytest.mark.parametrize("part", ["datastore.json", "vectors.safetensors"])
def test_a_damaged_datastore(part: str, datastore: Path) -> None:
    (datastore / part).write_text("{}" if part == "datastore.json" else "?")
    with pytest.raises(ModelError, match=part):
        open_datastore(datastore)


def test_no_datastore(model: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    outcome = serein("predict", "--model", model, tones, "--knn", tmp_path)
    assert "no such datastore. Build one; see serein knn build --help." in outcome.complaint
    (tmp_path / "mine.txt").write_text("mine")
    assert (
        "exists and is not a datastore"
        in serein("knn", "build", "--model", model, "--data", tones, "-o", tmp_path).complaint
    )
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_missing_index_is_reported_before_any_clip_is_embedded(
    model: Path, datastore: Path, tones: Path, tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> None:
        raise MissingExtraError("faiss", "search")

    monkeypatch.setattr("serein.knn.datastore.imported", missing)
    monkeypatch.setattr("serein.knn.building.embed_labelled", mock.Mock(side_effect=AssertionError("was embedded")))
    for call in (("build", "--model", model, "-o", tmp_path / "indexed"), ("add", datastore)):
        assert "faiss" in serein("knn", *call, "--data", tones, "--index", "faiss").complaint


def test_a_datastore_with_an_index_finds_the_same(
    model: Path, datastore: Path, tones: Path, tmp_path: Path, serein: Call
) -> None:
    pytest.importorskip("faiss")
    indexed = tmp_path / "indexed"
    outcome = serein("knn", "build", "--model", model, "--data", tones, "-o", indexed, "--index", "faiss")
    assert "Approximate search: 100.0 % of the 8 nearest are found." in outcome.out
    assert json.loads((indexed / "datastore.json").read_text())["index"]["recall"] == 1.0
    assert (
        probabilities(predicted(model, indexed, tones, k=5)) == probabilities(predicted(model, datastore, tones, k=5))
    ).all()


# -- predictions -----------------------------------------------------------------------------------------------------


def test_weight_0_is_the_model_and_weight_1_the_neighbours(model: Path, datastore: Path, tones: Path) -> None:
    alone = list(load(model).uncalibrated().predict_files(manifest.read(tones)))
    assert (probabilities(predicted(model, datastore, tones, k=4, knn_weight=0.0)) == probabilities(alone)).all()
    votes = probabilities(predicted(model, datastore, tones, k=4, knn_weight=1.0))
    assert set(votes.ravel().tolist()) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    interpolated = probabilities(predicted(model, datastore, tones, k=4, knn_weight=0.3))
    assert interpolated == pytest.approx(0.3 * votes + 0.7 * probabilities(alone))


def test_a_clip_does_not_vote_for_itself(model: Path, datastore: Path, tones: Path, serein: Call) -> None:
    """Neither by the id that a manifest gives, nor as a file without one."""
    utterance = manifest.read(tones)[0]
    for prediction in predicted(model, datastore, tones, k=35, show_neighbours=True):
        assert prediction.file not in [each.audio for each in prediction.neighbours]
    call = ("predict", "--model", model, utterance.audio, "--segments", "never", "--knn", datastore)
    outcome = serein(*call, "--k", 35, "--show-neighbours", "--json")
    assert utterance.id not in [each["id"] for each in json.loads(outcome.out)["neighbours"]]
    outcome = serein(*call, "--k", 36)
    assert "k is 36, but the datastore has 35 clips other than the clip itself" in outcome.complaint


def test_a_clip_that_is_cut_is_known_by_its_file(model: Path, datastore: Path, tones: Path) -> None:
    utterance = manifest.read(tones)[0]
    predictor = KnnPredictor(str(model), datastore, k=35, show_neighbours=True)
    (said,) = predictor.predict_clips([audio.load(utterance.audio)[:3_000]], [utterance_of(utterance.audio)])
    ids = [each.id for each in said.neighbours]
    assert len(ids) == 35
    assert utterance.id not in ids


def test_neighbours_are_shown(model: Path, datastore: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    call = ("predict", "--model", model, write_speech(tmp_path / "yes.wav"), "--knn", datastore)
    outcome = serein(*call, "--k", 3, "--show-neighbours", "--json")
    content = json.loads(outcome.out)["neighbours"]
    assert [set(each) for each in content] == [{"id", "label", "speaker", "corpus", "distance", "audio", "start_s"}] * 3
    assert [each["distance"] for each in content] == sorted(each["distance"] for each in content)
    printed = serein(*call, "--k", 3, "--show-neighbours").out
    for words in ("Nearest to", "label", "speaker", "distance", content[0]["speaker"], f"{content[0]['distance']:.3f}"):
        assert words in printed
    assert "neighbours" not in json.loads(serein(*call, "--json").out)


def test_predictions_with_another_datastore_of_the_same_name_are_not_mixed(
    model: Path, datastore: Path, tones: Path, tmp_path: Path, serein: Call
) -> None:
    call = ("predict", tones, "--model", model, "--knn", datastore, "--max-files", 1, "--out", tmp_path / "out.jsonl")
    for _ in range(2):
        assert serein(*call).status == 0
    few = part(tones, tmp_path / "few.jsonl", "abc")
    shutil.rmtree(datastore)
    assert serein("knn", "build", "--model", model, "--data", few, "-o", datastore).status == 0
    assert "out.jsonl:1: was predicted by another model or with other options" in serein(*call).complaint


@pytest.mark.slow
def test_each_segment_has_neighbours_of_its_own(
    model: Path, datastore: Path, tones: Path, tmp_path: Path, serein: Call
) -> None:
    """A recording with two stretches of speech: predicted, drawn and labelled as by any model."""
    parts = [voiced(1.5, np.random.default_rng(0)), np.zeros(16_000), voiced(1.5, np.random.default_rng(1), 230.0)]
    path = tmp_path / "call.wav"
    soundfile.write(path, np.concatenate(parts), 16_000)
    call = ("predict", "--model", model, path, "--knn", datastore, "--k", 4, "--knn-weight", 1)
    prediction = json.loads(serein(*call, "--json").out)
    predictor = KnnPredictor(str(model), datastore, k=4, knn_weight=1.0)
    cutter = WindowCutter(SlidingWindow())
    windows = cutter.feed(np.concatenate(parts).astype(np.float32)) + cutter.finish()
    assert len(windows) == 2
    votes = [list(each.main.probabilities.values()) for each in predictor.predict_clips([w.waveform for w in windows])]
    assert set(np.ravel(votes).tolist()) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    mean = np.average(votes, axis=0, weights=[len(window.waveform) for window in windows])
    assert list(prediction["probabilities"].values()) == pytest.approx(mean.tolist(), abs=0.01)
    assert [list(each["probabilities"].values()) for each in prediction["segments"]] == votes
    picture = tmp_path / "call.png"
    labelled = serein(*call, "--plot", picture, "--format", "audacity")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(labelled.out.splitlines()) == 2


def test_numbers_that_nobody_tuned_are_reported(model: Path, datastore: Path, tones: Path, serein: Call) -> None:
    call = ("predict", "--model", model, tones, "--max-files", 1, "--knn", datastore)
    assert "k 8 and the kNN weight 0.3 were not tuned" in serein(*call).err
    assert "not tuned" not in serein(*call, "--k", 8, "--knn-weight", 0.3).err


@pytest.mark.parametrize("options", [["--k", 3], ["--knn-weight", 0.5], ["--show-neighbours"]])
def test_options_without_a_datastore(options: list[object], model: Path, tones: Path, serein: Call) -> None:
    outcome = serein("predict", "--model", model, tones, *options)
    assert outcome.status == 2
    assert "name a datastore with" in outcome.err


def test_neighbours_do_not_fit_into_csv(model: Path, datastore: Path, tones: Path, serein: Call) -> None:
    assert serein("predict", "--model", model, tones, "--knn", datastore, "--show-neighbours", "--csv").status == 2
    assert serein("predict", "--model", model, tones, "--knn", datastore, "--csv").out.count("\n") == 37


def test_tuned_numbers_are_kept_and_used(
    model: Path, datastore: Path, tones: Path, tmp_path: Path, serein: Call
) -> None:
    dev = part(tones, tmp_path / "dev.jsonl", "ab")
    content = json.loads(serein("knn", "tune", datastore, "--data", dev, "--votes", "softmax", "--json").out)
    assert content["notes"] == ["The datastore contains 2 of these speakers, which favours the neighbours."]
    assert content["score"] >= content["model_score"]
    tuning = json.loads((datastore / "datastore.json").read_text())["tuning"]
    assert (tuning["votes"], tuning["tuned_on"], tuning["num_clips"]) == ("softmax", str(dev), 36)
    predictor = KnnPredictor(str(model), datastore)
    assert (predictor.interpolation.k, predictor.interpolation.knn_weight) == (tuning["k"], tuning["knn_weight"])
    assert "not tuned" not in serein("predict", "--model", model, tones, "--knn", datastore).err


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_with_its_neighbours(run: Path, serein: Call) -> None:
    content = json.loads(serein("knn", "evaluate", run, "--json").out)
    assert content["selection"] == "dev"
    assert content["systems"]["model"]["pooled"] == score_run(run).to_json()["pooled"]
    assert [trial["num_clips"] for trial in content["trials"]] == [18, 18]
    pooled = {name: content["systems"][name]["pooled"]["ua"] for name in ("model", "knn")}
    assert content["knn_minus_model"]["ua"]["difference"] == pytest.approx(pooled["knn"] - pooled["model"])
    assert json.loads((run / "knn.json").read_text()) == content


def test_the_kept_datastore_is_train_and_dev_and_predicts_alike(run: Path, serein: Call) -> None:
    content = json.loads(serein("knn", "evaluate", run, "--json").out)
    folds = json.loads((run / "folds.json").read_text())["folds"]
    for fold, trial in zip(folds, content["trials"], strict=True):
        folder = run / f"fold-{fold['name']}" / "seed-0"
        clips = {u.id for u in manifest.read(folder / "neighbours" / "clips.jsonl")}
        assert clips == {*fold["train"], *fold["dev"]}
        tuning = open_datastore(folder / "neighbours").header.tuning
        assert tuning is not None
        assert (tuning.k, tuning.knn_weight, tuning.tuned_on) == (
            trial["k"],
            trial["knn_weight"],
            f"dev of fold {fold['name']}",
        )
        kept = read_predictions(folder / "knn_predictions.jsonl")
        predictions = predicted(folder / "model", folder / "neighbours", run / f"fold-{fold['name']}" / "test.jsonl")
        assert [p.prediction for p in kept] == [each.label for each in predictions]
        assert np.array([list((p.probabilities or {}).values()) for p in kept]) == pytest.approx(
            probabilities(predictions), abs=1e-5
        )


def test_weight_0_scores_as_the_model(run: Path, serein: Call) -> None:
    content = json.loads(serein("knn", "evaluate", run, "--k", 3, "--knn-weight", 0, "--json").out)
    assert content["selection"] == "given"
    assert content["knn_minus_model"]["ua"]["difference"] == 0
    for trial in ("fold-1", "fold-2"):
        folder = run / trial / "seed-0"
        ours, theirs = (read_predictions(folder / name) for name in ("knn_predictions.jsonl", "predictions.jsonl"))
        assert ours == theirs


def test_what_was_given_is_not_said_to_be_tuned(run: Path, serein: Call) -> None:
    """A table takes only what was tuned; without anything to tune, there is no oracle."""
    trial = Trial("row", recipes.load(run / "recipe.yaml"), "title", run)
    with mock.patch.object(Trial, "folder", run):
        content = json.loads(serein("knn", "evaluate", run, "--k", 3, "--json").out)
        assert content["given"] == {"k": 3}
        assert content["notes"][0].startswith("k 3 was given; the weight was tuned on each fold's dev")
        assert not is_evaluated_with_knn(trial, "dev")
        serein("knn", "evaluate", run, "--k", 3, "--knn-weight", 0.5, "--selection", "oracle")
        assert not (run / "knn_oracle.json").exists()
        assert json.loads((run / "knn.json").read_text())["selection"] == "given"
        assert not is_evaluated_with_knn(trial, "dev")
        serein("knn", "evaluate", run, "--votes", "softmax")
        assert not is_evaluated_with_knn(trial, "dev")
        printed = serein("knn", "evaluate", run, "--knn-weight", 0.5, "--selection", "oracle").out
        assert "ORACLE, optimistic: k was tuned, for the given weight 0.5, on the test sets" in printed
        assert not is_evaluated_with_knn(trial, "oracle")
        serein("knn", "evaluate", run)
        assert is_evaluated_with_knn(trial, "dev")


@pytest.mark.slow
def test_scored_again_from_the_kept_datastores(run: Path, serein: Call) -> None:
    first = serein("knn", "evaluate", run, "--json")
    again = serein("knn", "evaluate", run, "--json")
    assert "datastore" in first.err
    assert "datastore" not in again.err
    assert first.out == again.out


def test_the_oracle_is_marked_everywhere(run: Path, serein: Call) -> None:
    printed = serein("knn", "evaluate", run, "--selection", "oracle").out
    for words in (
        "Scores in per cent – ORACLE",
        "tuned on TEST (oracle)",
        "With neighbours (ORACLE) minus model",
        "ORACLE, optimistic",
    ):
        assert words in printed
    content = json.loads((run / "knn_oracle.json").read_text())
    assert content["selection"] == "oracle"
    for name in ("neighbours", "knn"):
        assert content["systems"][name]["notes"][0].startswith("ORACLE")
    assert content["systems"]["knn"]["mean"]["ua"] >= content["systems"]["model"]["mean"]["ua"]
    assert open_datastore(run / "fold-1" / "seed-0" / "neighbours").header.tuning is None
    assert not (run / "knn.json").exists()


@pytest.mark.slow
def test_without_dev_something_must_be_given(tones: Path, tiny: Path, tmp_path: Path, serein: Call) -> None:
    run = tmp_path / "run"
    changes = ("--set", "protocol.dev=none", "--set", "stages.0.checkpoint=last", "--set", "stages.0.epochs=1")
    assert serein("run", tiny, "--data", tones, "--out", run, "--jobs", 1, *changes).status == 0
    complaint = serein("knn", "evaluate", run).complaint
    assert "fold 1 has no dev set to tune k and the weight on. Specify both (--k 8 --knn-weight 0.3)" in complaint
    assert "no dev set" in serein("knn", "evaluate", run, "--k", 3).complaint
    assert serein("knn", "evaluate", run, "--k", 3, "--knn-weight", 0.5).status == 0


def test_what_is_no_finished_run(run: Path, tmp_path: Path, serein: Call) -> None:
    assert "is not a run folder" in serein("knn", "evaluate", tmp_path / "nothing").complaint
    (run / "fold-2" / "seed-0" / "predictions.jsonl").unlink()
    assert "Finish the run with --resume." in serein("knn", "evaluate", run).complaint


def test_other_data(run: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    other = part(tones, tmp_path / "other.jsonl", "abcde")
    assert "was run on other data" in serein("knn", "evaluate", run, "--data", other).complaint


@pytest.mark.slow
def test_clips_without_a_class_are_no_neighbours(tones: Path, tmp_path: Path, serein: Call) -> None:
    """A second task learns from them; each fold's store and dev hold those with a class alone."""
    utterances = manifest.read(tones)
    unlabelled = {utterances[number].id for number in (0, 7, 20)}
    genders = ("female", "male")
    changed = [
        each.model_copy(update={"gender": genders[number % 2]} | ({"emotion": None} if each.id in unlabelled else {}))
        for number, each in enumerate(utterances)
    ]
    manifest.write(changed, tmp_path / "m.jsonl")
    recipe = write_recipe(tmp_path / "r.yaml", {"tasks": {"gender": {"pooling": "mean"}}})
    assert serein("run", recipe, "--data", tmp_path / "m.jsonl", "-o", tmp_path / "run").status == 0
    outcome = serein("knn", "evaluate", tmp_path / "run", "--json")
    assert outcome.status == 0, outcome.err
    for fold in json.loads((tmp_path / "run" / "folds.json").read_text())["folds"]:
        store = open_datastore(tmp_path / "run" / f"fold-{fold['name']}" / "seed-0" / "neighbours")
        expected = [each for each in changed if each.id in {*fold["train"], *fold["dev"]} - unlabelled]
        rows = [clip.id for clip in store.clips_at(range(len(store.embeddings)))]
        assert sorted(rows) == sorted(each.id for each in expected)
        emotion_of = {each.id: each.emotion for each in expected}
        classes = store.header.classes
        assert [classes[label] for label in store.embeddings.labels] == [emotion_of[row] for row in rows]
