"""Filling a manifest: labels stay, predictions are marked, and work that was killed goes on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_models import write_ctc, write_whisper
from cli_fixtures import Call, environment, write_corpus, write_recipe
from serein.data import manifest
from serein.data.manifest import Predicted, Utterance
from serein.errors import AudioError, LeakError, ManifestError, ModelError, RunError
from serein.evaluation.predictions import EvalPrediction, write_predictions
from serein.inference.annotate import (
    Field,
    ModelGenderAnnotator,
    RunGenderAnnotator,
    TranscriptAnnotator,
    Value,
    annotate,
    gender_annotator,
)


def silent(label: str, done: int, total: int, detail: str) -> None:
    """Report to nobody."""


class Oracle:
    """A source that says what it is told, and stops where it is told to."""

    field: Field = "transcript"
    by = "oracle"

    def __init__(self, values: dict[str, Value], dies_at: str | None = None) -> None:
        self.values, self.dies_at = values, dies_at
        self.asked: list[str] = []

    def wanted(self, utterances: Sequence[Utterance], name: str) -> list[Utterance]:
        return [u for u in utterances if u.id in self.values]

    def predict(self, utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, Value]]:
        for utterance in utterances:
            if utterance.id == self.dies_at:
                raise KeyboardInterrupt
            self.asked.append(utterance.id)
            yield utterance, self.values[utterance.id]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Four utterances, of which "b" has a transcript and "c" no gender; the files need not be heard."""
    utterances = [
        Utterance(id="a", audio="a.wav", speaker="1", gender="female", emotion="sad"),
        Utterance(id="b", audio="b.wav", speaker="1", gender="female", transcript="What is said."),
        Utterance(id="c", audio="c.wav", speaker="2"),
        Utterance(
            id="d", audio="d.wav", speaker="3", gender="male", predicted=Predicted(gender="male", by={"gender": "x"})
        ),
    ]
    manifest.write(utterances, tmp_path / "m.jsonl")
    return tmp_path / "m.jsonl"


def write_run(folder: Path, female: dict[str, list[float]], **fields: str) -> Path:
    """Write test predictions: id -> share of female by each seed."""
    for seed in range(max(map(len, female.values()))):
        said = {name: probabilities[seed] for name, probabilities in female.items() if seed < len(probabilities)}
        predictions = [
            EvalPrediction(
                id=name,
                truth=None,
                prediction="female" if share > 0.5 else "male",
                probabilities={"female": share, "male": 1 - share},
                fold="1",
                seed=seed,
                **fields,
            )
            for name, share in said.items()
        ]
        write_predictions(predictions, folder / "fold-1" / f"seed-{seed}" / "predictions.jsonl")
    return folder


PROBABILITIES = {"a": [0.9, 0.4], "b": [0.6, 0.3], "c": [0.45, 0.5], "d": [0.2, 0.1]}  # means 0.65, 0.45, 0.475, 0.15


def test_genders_of_a_run_are_its_mean_probabilities(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    source = gender_annotator(str(write_run(tmp_path / "run", PROBABILITIES)), "refuse")
    filled = annotate(corpus, out, [source], broken="stop", report=silent)
    before, after = manifest.read(corpus), manifest.read(out)
    assert after == filled.utterances
    assert [u.predicted.gender for u in after if u.predicted] == ["female", "male", "male", "male"]
    assert {u.predicted.by["gender"] for u in after if u.predicted} == {source.by}
    assert [u.model_copy(update={"predicted": None}) for u in after] == [
        u.model_copy(update={"predicted": None}) for u in before
    ]
    assert filled.agreement() == (2, 3)  # b is labelled female
    assert filled.num_predicted == {"gender": 4}


def test_a_run_may_learn_gender_beside_another_task(corpus: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", PROBABILITIES)
    for path in run.glob("fold-*/seed-*/predictions.jsonl"):
        path.rename(path.with_name("gender_predictions.jsonl"))
        for kind in ("", "dev_"):
            emotion = EvalPrediction(id="a", truth="sad", prediction="happy", fold="1")
            write_predictions([emotion], path.with_name(f"{kind}predictions.jsonl"))
    tasks = [{"name": name, "field": name, "problem": "classes"} for name in ("emotion", "gender")]
    (run / "data.json").write_text(json.dumps({"tasks": tasks}))
    found = RunGenderAnnotator(run).predict(manifest.read(corpus))
    assert [gender for _, gender in found] == ["female", "male", "male", "male"]


def test_another_run_has_another_name(tmp_path: Path) -> None:
    first = RunGenderAnnotator(write_run(tmp_path / "run", PROBABILITIES)).by
    second = RunGenderAnnotator(write_run(tmp_path / "run", {**PROBABILITIES, "a": [0.8, 0.4]})).by
    assert first.startswith(f"{tmp_path / 'run'}, sha256 ")
    assert first != second


def test_a_run_must_have_tested_every_utterance(corpus: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {name: PROBABILITIES[name] for name in "ab"})
    with pytest.raises(RunError, match=r"2 of 4 utterances have no prediction there, such as c\. .* --gender MODEL"):
        annotate(corpus, tmp_path / "out.jsonl", [RunGenderAnnotator(run)], broken="stop", report=silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.jsonl", "run"]


def test_a_run_on_other_recordings_is_refused(corpus: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", PROBABILITIES, speaker="1")
    with pytest.raises(RunError, match="2 utterances have another speaker there, such as c"):
        RunGenderAnnotator(run).wanted(manifest.read(corpus), "corpus")


def test_a_run_of_emotions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fold-1" / "seed-0" / "predictions.jsonl"
    write_predictions([EvalPrediction(id="a", truth="sad", prediction="happy", fold="1")], path)
    with pytest.raises(ModelError, match="has the classes happy, sad, not female and male"):
        gender_annotator(str(tmp_path), "refuse")


def test_a_second_call_goes_on(corpus: Path, tmp_path: Path) -> None:
    values: dict[str, Value] = {"a": "one", "c": None, "d": "three \u2028 lines\n"}
    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        annotate(corpus, out, [Oracle(values, dies_at="d")], broken="stop", report=silent)
    assert not out.exists()
    partial = tmp_path / "out.jsonl.partial"
    partial.write_bytes(partial.read_bytes() + b'["transcript", "d", "hal')  # a line that a kill cut off
    second = Oracle(values)
    told: list[tuple[str, int, int]] = []
    filled = annotate(
        corpus, out, [second], broken="stop", report=lambda name, done, total, detail: told.append((name, done, total))
    )
    assert second.asked == ["d"]
    assert told == [("transcript", 3, 3)]
    assert filled.num_predicted == {"transcript": 2}
    assert not partial.exists()
    a, b, c, d = manifest.read(out)
    assert a.predicted == Predicted(transcript="one", by={"transcript": "oracle"})
    assert b.predicted is None
    assert c.predicted == Predicted(by={"transcript": "oracle"})  # asked, and no words heard
    assert d.predicted == Predicted(gender="male", transcript=values["d"], by={"gender": "x", "transcript": "oracle"})


def test_what_was_begun_with_other_data_or_models_is_not_gone_on_with(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        annotate(corpus, out, [Oracle({"a": "one", "c": "two"}, dies_at="c")], broken="stop", report=silent)
    other = Oracle({"a": "one", "c": "two"})
    other.by = "another model"
    with pytest.raises(RunError, match=r"out.jsonl.partial: an unfinished earlier call was for other data"):
        annotate(corpus, out, [other], broken="stop", report=silent)
    (tmp_path / "out.jsonl.partial").write_text("something else\n")
    with pytest.raises(RunError, match="Delete it"):
        annotate(corpus, out, [Oracle({"a": "one"})], broken="stop", report=silent)


def test_broken_audio_stops_or_is_listed(corpus: Path, tmp_path: Path) -> None:
    broken = AudioError("is silent", where="a.wav")
    out = tmp_path / "out.jsonl"
    with pytest.raises(AudioError, match="a.wav"):
        annotate(corpus, out, [Oracle({"a": broken, "c": "two"})], broken="stop", report=silent)
    filled = annotate(corpus, out, [Oracle({"a": broken, "c": "two"})], broken="skip", report=silent)
    assert filled.broken == [broken]
    assert [u.predicted.transcript if u.predicted else None for u in manifest.read(out)] == [None, None, "two", None]


def test_two_fields_at_once_and_one_after_the_other(corpus: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", PROBABILITIES)
    words = Oracle({"a": "one"})
    annotate(corpus, tmp_path / "both.jsonl", [RunGenderAnnotator(run), words], broken="stop", report=silent)
    annotate(corpus, tmp_path / "one.jsonl", [words], broken="stop", report=silent)
    annotate(
        tmp_path / "one.jsonl", tmp_path / "one.jsonl", [RunGenderAnnotator(run)], broken="stop", report=silent
    )  # in place
    assert manifest.read(tmp_path / "both.jsonl") == manifest.read(tmp_path / "one.jsonl")


def test_other_fields_of_an_earlier_call_are_kept(corpus: Path, tmp_path: Path) -> None:
    run = RunGenderAnnotator(write_run(tmp_path / "run", PROBABILITIES))
    out = tmp_path / "out.jsonl"
    annotate(corpus, out, [Oracle({"a": "one", "c": "two", "d": "three"})], broken="stop", report=silent)
    changed = [u.model_copy(update={"end_s": 1.0}) if u.id == "c" else u for u in manifest.read(corpus)]
    manifest.write(changed, corpus)
    annotate(corpus, out, [run], broken="stop", report=silent)
    annotate(corpus, out, [Oracle({"d": "four"})], broken="stop", report=silent)
    annotate(corpus, out, [run], broken="stop", report=silent)
    assert [(p.gender, p.transcript, sorted(p.by)) for p in (u.predicted for u in manifest.read(out)) if p] == [
        ("female", None, ["gender"]),
        ("male", None, ["gender"]),
        ("male", None, ["gender"]),
        ("male", "four", ["gender", "transcript"]),
    ]
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ManifestError, match="not JSON"):
        annotate(corpus, tmp_path / "notes.txt", [run], broken="stop", report=silent)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_only_one_process_fills_a_file(corpus: Path, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with open(tmp_path / "out.jsonl.partial", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process"):
            annotate(corpus, tmp_path / "out.jsonl", [Oracle({"a": "one"})], broken="stop", report=silent)


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """A manifest of six recordings of noise, two with a transcript."""
    rng = np.random.default_rng(0)
    utterances = []
    for number in range(6):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(6_000 + 3_000 * number), 16_000)
        transcript = "Known words." if number % 3 == 0 else None
        utterances.append(Utterance(id=str(number), audio=str(path), speaker="1", transcript=transcript, language="de"))
    manifest.write(utterances, tmp_path / "spoken.jsonl")
    return tmp_path / "spoken.jsonl"


@pytest.mark.slow
def test_transcripts_on_the_command_line(spoken: Path, tmp_path: Path, serein: Call) -> None:
    asr = write_ctc(tmp_path / "asr")
    outcome = serein("corpus", "annotate", spoken, "--transcripts", asr)
    assert outcome.status == 0, outcome.err
    out = tmp_path / "spoken.annotated.jsonl"
    assert outcome.out.strip() == f"{out}: 6 utterances, transcript predicted for 4"
    assert [u.id for u in manifest.read(out) if u.predicted and u.predicted.transcript] == ["1", "2", "4", "5"]
    assert [u.transcript for u in manifest.read(out)] == [u.transcript for u in manifest.read(spoken)]
    assert serein("corpus", "check", out).status == serein("corpus", "check", spoken).status
    serein("corpus", "annotate", spoken, "--transcripts", asr, "--all", "-o", out)
    assert all(u.predicted and u.predicted.transcript for u in manifest.read(out))


@pytest.mark.slow
def test_complaints_on_the_command_line(spoken: Path, tmp_path: Path, serein: Call) -> None:
    assert "Add --gender, --transcripts or both" in serein("corpus", "annotate", spoken).complaint
    asr = write_ctc(tmp_path / "asr")
    assert (
        "the language 'de'" in serein("corpus", "annotate", spoken, "--transcripts", asr, "--language", "de").complaint
    )
    (tmp_path / "1.wav").write_bytes(b"no audio")
    assert "1.wav" in serein("corpus", "annotate", spoken, "--transcripts", asr).complaint
    outcome = serein("corpus", "annotate", spoken, "--transcripts", asr, "--skip-broken")
    assert outcome.status == 0
    assert "skipped" in outcome.err
    assert outcome.out.strip().endswith("transcript predicted for 3, 1 skipped")


def test_the_language_is_part_of_who_said_it(tmp_path: Path) -> None:
    asr = str(write_whisper(tmp_path / "asr"))
    assert TranscriptAnnotator(asr, "all", "de").by == f"{TranscriptAnnotator(asr, 'all', None).by}, language de"
    with pytest.raises(ModelError, match="the language 'fr'"):
        TranscriptAnnotator(asr, "all", "fr")


KILLED = """
import os, sys
from pathlib import Path
from serein.inference import annotate as module
real, left = module._note, 4
def note(file, what):
    global left
    real(file, what)
    left -= 1
    if left == 0:
        os._exit(9)
module._note = note
source = module.TranscriptAnnotator(sys.argv[2], "all", None)
module.annotate(Path(sys.argv[1]), Path(sys.argv[3]), [source], broken="stop", report=lambda *progress: None)
"""


@pytest.mark.slow
def test_a_killed_transcription_ends_as_one_that_was_not(spoken: Path, tmp_path: Path) -> None:
    import subprocess

    asr, out = str(write_ctc(tmp_path / "asr")), tmp_path / "out.jsonl"
    arguments = [sys.executable, "-c", KILLED, str(spoken), asr, str(out)]
    assert subprocess.run(arguments, env=environment(), timeout=100).returncode == 9
    assert len((tmp_path / "out.jsonl.partial").read_text().splitlines()) == 4
    source = TranscriptAnnotator(asr, "all", None)
    annotate(spoken, out, [source], broken="stop", report=silent)
    annotate(spoken, tmp_path / "whole.jsonl", [source], broken="stop", report=silent)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.fixture(scope="module")
def gender_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned to tell voices of "female" and "male": its manifest calls them emotions."""
    folder = tmp_path_factory.mktemp("genders")
    utterances = [u.model_copy(update={"emotion": u.gender}) for u in write_corpus(folder)]
    manifest.write(utterances, folder / "m.jsonl")
    recipe = write_recipe(folder / "gender.yaml")
    run = folder / "run"
    argv, sys.argv = (
        sys.argv,
        ["serein", "run", str(recipe), "--data", str(folder / "m.jsonl"), "-o", str(run), "--jobs", "1"],
    )
    try:
        from serein import cli

        cli.app(standalone_mode=False)
    finally:
        sys.argv = argv
    return run


def test_genders_of_a_model(gender_run: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    model = gender_run / "fold-1" / "seed-0" / "model"
    out = tmp_path / "out.jsonl"
    refused = serein("corpus", "annotate", tones, "--gender", model, "-o", out)
    assert "was trained on" in refused.complaint
    assert "--allow-seen-speakers" in refused.complaint
    with pytest.raises(LeakError):
        ModelGenderAnnotator(str(model), "refuse").wanted(manifest.read(tones), "tones")
    others = [u.model_copy(update={"speaker": f"new {u.speaker}"}) for u in manifest.read(tones)]
    manifest.write(others, tmp_path / "others.jsonl")
    new = serein("corpus", "annotate", tmp_path / "others.jsonl", "--gender", model, "-o", tmp_path / "new.jsonl")
    seen = serein("corpus", "annotate", tones, "--gender", model, "-o", out, "--allow-seen-speakers")
    assert (new.status, seen.status) == (0, 0), new.err + seen.err
    assert "36 utterances, gender predicted for 36, " in seen.out
    genders = [u.predicted.gender for u in manifest.read(out) if u.predicted]
    assert genders == [u.predicted.gender for u in manifest.read(tmp_path / "new.jsonl") if u.predicted]
    assert all(u.predicted and u.predicted.by["gender"].startswith(f"{model}, sha256 ") for u in manifest.read(out))


def test_genders_of_a_trained_run(gender_run: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    outcome = serein("corpus", "annotate", tones, "--gender", gender_run, "-o", tmp_path / "out.jsonl")
    assert outcome.status == 0, outcome.err
    said = {}
    for path in gender_run.glob("fold-*/seed-*/predictions.jsonl"):
        said |= {line["id"]: line["prediction"] for line in map(json.loads, path.read_text().splitlines())}
    assert {u.id: u.predicted.gender for u in manifest.read(tmp_path / "out.jsonl") if u.predicted} == said


def test_a_model_of_emotions_is_refused(tiny_run: Path, tones: Path, serein: Call, tmp_path: Path) -> None:
    model = tiny_run / "fold-1" / "seed-0" / "model"
    outcome = serein("corpus", "annotate", tones, "--gender", model, "-o", tmp_path / "out.jsonl")
    assert "has the classes angry, happy, sad, not female and male" in outcome.complaint
    assert os.listdir(tmp_path) == []
