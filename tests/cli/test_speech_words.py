"""`serein words`: vocabularies prepared, words near to what is predicted, recordings near to free text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli_fixtures import Call, write_recipe
from serein import recipe as recipes
from serein.data import manifest
from serein.experiment import run as runs

TEXT = """anger 1 0 0 0.1
sadness 0 1 0 0.1
happiness 0 0 1 0.1
fury 0.9 0.1 0 0
gloom 0.1 0.9 0 0
joy 0 0 0.9 0.2
"""
WHOLE = ("--segments", "never")  # tones are no speech
NEAR = {"angry": {"anger", "fury"}, "sad": {"sadness", "gloom"}, "happy": {"happiness", "joy"}}


@pytest.fixture(scope="module")
def model(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from serein.text.word_vectors import prepare

    folder = tmp_path_factory.mktemp("words")
    (folder / "tiny.txt").write_text(TEXT)
    prepare(folder / "tiny.txt", folder / "tiny")
    tasks = {"emotion": None, "words": {"pooling": "mean", "loss": "mse"}}
    changes = {"tasks": tasks, "words": {"vocabulary": str(folder / "tiny")}}
    recipe = recipes.load(write_recipe(folder / "r.yaml", changes, {"epochs": 12}))
    runs.run(recipe, tones, folder / "run", resume=False, num_jobs=1, progress=lambda *_: None)
    return folder / "run" / "fold-1" / "seed-0" / "model"


def test_a_vocabulary_is_prepared_once(tmp_path: Path, serein: Call) -> None:
    (tmp_path / "words.txt").write_text(TEXT + "joy 0 0 1 1\nbroken 1 2\n")
    out = tmp_path / "out"
    refused = serein("words", "prepare", tmp_path / "words.txt", "-o", out)
    assert refused.status == 1
    assert "line 8" in refused.complaint
    assert not out.exists()
    done = serein("words", "prepare", tmp_path / "words.txt", "-o", out, "--skip-broken", "--half")
    assert done.out == f"{out}: 6 words of 4 numbers, 1 duplicates left out, 1 malformed lines skipped\n"
    assert "already exists" in serein("words", "prepare", tmp_path / "words.txt", "-o", out).complaint
    assert serein("words", "prepare", "-o", tmp_path / "other").status == 2


def test_the_nearest_words_are_those_of_the_predicted_emotion(model: Path, tones: Path, serein: Call) -> None:
    clip = manifest.read(tones)[0].audio
    label = json.loads(serein("predict", "--model", model, *WHOLE, clip, "--json").out)["label"]
    outcome = json.loads(serein("words", "nearest", "--model", model, *WHOLE, clip, "-k", 2, "--json").out)
    assert {each["word"] for each in outcome["words"]} == NEAR[label]
    assert outcome["words"][0]["cosine"] >= outcome["words"][1]["cosine"]
    plain = serein("words", "nearest", "--model", model, *WHOLE, clip, "-k", 2)
    assert plain.status == 0
    assert plain.out.startswith(f"{clip}: {outcome['words'][0]['word']} ")


def test_recordings_are_ranked_by_their_nearness_to_text(model: Path, tones: Path, serein: Call) -> None:
    lines = serein("words", "find", "--model", model, "--text", "gloom sadness", tones, "--json").out.splitlines()
    found = [json.loads(line) for line in lines]
    assert len(found) == len(manifest.read(tones))
    assert [each["cosine"] for each in found] == sorted((each["cosine"] for each in found), reverse=True)
    first = json.loads(serein("predict", "--model", model, *WHOLE, found[0]["file"], "--json").out)
    last = json.loads(serein("predict", "--model", model, *WHOLE, found[-1]["file"], "--json").out)
    assert first["label"] == "sad" != last["label"]
    assert (
        len(serein("words", "find", "--model", model, "--text", "joy", tones, "--max-files", 3).out.splitlines()) == 3
    )


@pytest.mark.slow
def test_what_cannot_be_found_is_said(model: Path, tiny_run: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    assert (
        "'glom' has no vector; similar spellings: gloom"
        in serein("words", "find", "--model", model, "--text", "glom", tones).complaint
    )
    assert "is empty, after '--text'" in serein("words", "find", "--model", model, "--text", " ", tones).complaint
    classes = tiny_run / "fold-1" / "seed-0" / "model"
    assert "whose task is 'words'" in serein("words", "nearest", "--model", classes, tones).complaint
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    clip = manifest.read(tones)[0].audio
    outcome = serein("words", "nearest", "--model", model, *WHOLE, clip, tmp_path / "broken.wav", "-k", 1)
    assert outcome.status == 1
    assert len(outcome.out.splitlines()) == 1
    assert "1 recordings could not be read" in outcome.err
