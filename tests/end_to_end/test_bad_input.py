"""Bad input through the real command line: one line on stderr that says where, what and what to do; nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from cli_fixtures import (
    RATE_HZ,
    TINY,
    Call,
    command,
    environment,
    everything_in,
    merged,
    without_runtime,
    write_recipe,
    write_wav,
)


@dataclass
class Ground:
    """What a case is built on: a folder of its own, good data, a good recipe, a good model."""

    root: Path
    tones: Path
    tiny: Path
    finished: Path

    @property
    def out(self) -> Path:
        """Where a command is told to write; it never exists before, nor after a refusal."""
        return self.root / "out"

    @property
    def model(self) -> Path:
        """A model folder; read only."""
        return self.finished / "fold-1" / "seed-0" / "model"

    def rows(self) -> list[dict[str, Any]]:
        """Return the good manifest's utterances, audio paths absolute."""
        rows = [json.loads(line) for line in self.tones.read_text(encoding="utf-8").splitlines()]
        return [row | {"audio": str(self.tones.parent / row["audio"])} for row in rows]

    def manifest(self, rows: list[Any]) -> Path:
        """Write a manifest of rows; a text row as it is."""
        path = self.root / "m.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    def with_first(self, **changes: Any) -> Path:
        """Write the good manifest with another first utterance."""
        first, *others = self.rows()
        return self.manifest([first | changes, *others])

    def recipe(self, text: str) -> Path:
        """Write a recipe as text."""
        path = self.root / "r.yaml"
        path.write_text(text)
        return path

    def changed(self, changes: dict[str, Any] | None = None, **stage: Any) -> Path:
        """Write the tiny recipe with changes, and changes of its stage."""
        return write_recipe(self.root / "r.yaml", changes, stage)

    def wav(self, samples: np.ndarray) -> Path:
        """Write samples as a floating-point WAV."""
        path = self.root / "bad.wav"
        soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
        return path

    def file(self, content: bytes, name: str = "bad.wav") -> Path:
        """Write bytes."""
        path = self.root / name
        path.write_bytes(content)
        return path

    def copied_run(self) -> Path:
        """Copy the finished run to where commands write."""
        return Path(shutil.copytree(self.finished, self.out))

    def copied_model(self) -> Path:
        """Copy the model, to be damaged."""
        return Path(shutil.copytree(self.model, self.root / "model"))


@pytest.fixture
def ground(tmp_path: Path, tones: Path, tiny: Path, tiny_run: Path) -> Ground:
    """A fresh folder beside the good data."""
    return Ground(tmp_path, tones, tiny, tiny_run)


Build = Callable[[Ground], list[object]]


@dataclass(frozen=True)
class Case:
    """A kind of bad input.

    Attributes:
        build: Writes the bad input and returns the command line.
        says: What the complaint must hold: where, what, remedy.
    """

    name: str
    build: Build
    says: tuple[str, ...]


def run(ground: Ground, *, recipe: Path | None = None, data: Path | None = None, more: tuple[object, ...] = ()) -> Any:
    return ["run", recipe or ground.tiny, "--data", data or ground.tones, "--out", ground.out, "--jobs", 1, *more]


def damaged(ground: Ground, name: str, content: bytes) -> list[object]:
    model = ground.copied_model()
    (model / name).write_bytes(content)
    return ["predict", "--model", model, first_wav(ground)]


def first_wav(ground: Ground) -> str:
    return str(ground.rows()[0]["audio"])


def truncated_wav(ground: Ground) -> Path:
    return ground.file(write_wav(ground.root / "whole.wav").read_bytes()[:5000])


def described(ground: Ground, **changes: Any) -> list[object]:
    """Return a call on a model whose model.json says something else; `None` takes a key away."""
    content = json.loads((ground.model / "model.json").read_text()) | changes
    kept = {key: value for key, value in content.items() if value is not None or key == "encoder"}
    return damaged(ground, "model.json", json.dumps(kept).encode())


def twin_of_another_speaker(ground: Ground) -> Path:
    rows = ground.rows()
    return ground.manifest([*rows[:-1], rows[-1] | {"audio": rows[0]["audio"]}])


def folder_of(ground: Ground, name: str) -> Path:
    folder = ground.root / "folder"
    folder.mkdir()
    (folder / name).write_text("words")
    return folder


def circle(ground: Ground) -> Path:
    (ground.root / "a.yaml").write_text("base: b.yaml\n")
    (ground.root / "b.yaml").write_text("base: a.yaml\n")
    return ground.root / "a.yaml"


def transformer(ground: Ground) -> dict[str, Any]:
    """Save a tiny wav2vec 2.0 and return the backbone that names it."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    folder = ground.root / "w2v2"
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    convolutions = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    Wav2Vec2Model(Wav2Vec2Config(**sizes, **convolutions)).save_pretrained(folder)
    return {"name": "huggingface", "source": str(folder)}


def on_transformer(ground: Ground, encoder: str | None, **stage: Any) -> Path:
    values = TINY | {"backbone": transformer(ground), "encoder": encoder and {"name": encoder}}
    values["stages"] = [
        merged(TINY["stages"][0], {"spectrogram_augmentation": {"gain_db": 0, "time_masks": 0}} | stage)
    ]
    return ground.recipe(yaml.safe_dump(values))


RECORDINGS = [
    Case("missing", lambda g: [g.root / "no.wav"], ("no.wav", "no such file", "Check the path")),
    Case("empty", lambda g: [g.file(b"")], ("bad.wav", "empty (0 bytes)", "record it again")),
    Case("truncated", lambda g: [truncated_wav(g)], ("bad.wav", "truncated", "Copy the file again")),
    Case("header only", lambda g: [g.wav(np.zeros(0))], ("bad.wav", "contains no samples", "Record it again")),
    Case("NaN", lambda g: [g.wav(np.full(8000, np.nan))], ("bad.wav", "NaN", "Export the recording again")),
    Case("infinite", lambda g: [g.wav(np.full(8000, np.inf))], ("bad.wav", "NaN or infinite", "Export")),
    Case("text named .wav", lambda g: [g.file(b"Dear diary, " * 99)], ("bad.wav", "cannot be decoded", "Give WAV")),
    Case("not audio", lambda g: [g.file(b"%PDF-1.7", "a.pdf")], ("a.pdf", "cannot be decoded", "it is text")),
    Case("random bytes", lambda g: [g.file(bytes(range(256)) * 9)], ("bad.wav", "cannot be decoded", "ffmpeg")),
]

PREDICT = [
    Case(
        "folder without audio",
        lambda g: ["predict", "--model", g.model, folder_of(g, "a.txt")],
        ("folder: ", "contains no recordings", ".wav"),
    ),
    Case(
        "no model folder",
        lambda g: ["predict", "--model", g.root / "none", first_wav(g)],
        ("none", "no such", "Train one"),
    ),
    Case(
        "model is a file",
        lambda g: ["predict", "--model", first_wav(g), first_wav(g)],
        (".wav", "is a file, not a model folder", "Name a folder that serein saved"),
    ),
    Case(
        "not a model folder",
        lambda g: ["predict", "--model", folder_of(g, "a.txt"), first_wav(g)],
        ("model.json", "missing", "Name a folder that serein saved"),
    ),
    Case(
        "model without weights",
        lambda g: [
            "predict",
            "--model",
            [m := g.copied_model(), (m / "model.safetensors").unlink()][0],
            first_wav(g),
        ],
        ("model.safetensors missing", "Name a folder"),
    ),
    Case(
        "weights cut off",
        lambda g: damaged(g, "model.safetensors", (g.model / "model.safetensors").read_bytes()[:-99]),
        ("model.safetensors", "damaged weights", "Copy the folder again"),
    ),
    Case(
        "weights of another model",
        lambda g: damaged(g, "model.json", (g.model / "model.json").read_bytes().replace(b'"size": 8', b'"size": 16')),
        ("model.safetensors", "do not fit model.json", "Copy the folder again"),
    ),
    Case(
        "model.json cut off", lambda g: damaged(g, "model.json", b'{"format": 1,'), ("model.json", "not JSON", "Copy")
    ),
    Case("model.json a list", lambda g: damaged(g, "model.json", b"[]"), ("model.json", "no keys", "Copy")),
    Case("newer format", lambda g: described(g, format=99), ("model.json", "format 99", "Upgrade serein")),
    Case("no backbone", lambda g: described(g, backbone=None), ("do not describe a model", "Copy")),
    Case("strange backbone", lambda g: described(g, backbone={"name": "x"}), ("do not describe a model", "Copy")),
    Case("backbone a word", lambda g: described(g, backbone="logmel"), ("do not describe a model", "Copy")),
    Case(
        "damaged backbone",
        lambda g: described(g, backbone={"name": "logmel", "n_mels": -1}),
        ("do not describe a model", "Copy"),
    ),
    Case("no weights' origin", lambda g: described(g, backbone_weights=None), ("do not describe a model", "Copy")),
    Case("labels.json a list", lambda g: damaged(g, "labels.json", b'{"emotion": []}'), ("do not describe", "Copy")),
    Case("labels cut off", lambda g: damaged(g, "labels.json", b"{"), ("labels.json", "not JSON", "Copy")),
    Case(
        "unknown manifest",
        lambda g: ["predict", "--model", g.model, g.root / "no.jsonl"],
        ("no.jsonl", "no such manifest", "corpus prepare"),
    ),
]

MANIFESTS = [
    Case("missing", lambda g: run(g, data=g.root / "no.jsonl"), ("no.jsonl", "no such manifest", "corpus prepare")),
    Case("a folder", lambda g: run(g, data=g.root), ("is a folder, not a manifest", "corpus prepare")),
    Case(
        "a recording",
        lambda g: run(g, data=Path(first_wav(g))),
        (".wav", "not a UTF-8 text file", "Specify the .jsonl"),
    ),
    Case("empty", lambda g: run(g, data=g.manifest([])), ("m.jsonl", "contains no utterances", "Prepare it")),
    Case(
        "a table",
        lambda g: run(g, data=g.file(b"audio,emotion", "t.csv")),
        ("t.csv:1", "not JSON", "corpus prepare csv", "t.csv -o manifest.jsonl"),
    ),
    Case("not JSON", lambda g: run(g, data=g.manifest(["{"])), ("m.jsonl:1", "not JSON", "one JSON object")),
    Case("not an object", lambda g: run(g, data=g.manifest(["[1]"])), ("m.jsonl:1", "dictionary", "fields are")),
    Case(
        "later line broken",
        lambda g: run(g, data=g.manifest([*g.rows()[:4], "oops"])),
        ("m.jsonl:5", "not JSON", "one JSON object"),
    ),
    Case(
        "wrong type",
        lambda g: run(g, data=g.with_first(start_s="soon")),
        ("m.jsonl:1", "field 'start_s'", "number", "The fields are"),
    ),
    Case("wrong choice", lambda g: run(g, data=g.with_first(gender="lady")), ("'gender'", "'female'", "The fields")),
    Case("unknown field", lambda g: run(g, data=g.with_first(mood="sad")), ("m.jsonl:1", "'mood'", "The fields are")),
    Case("lacking field", lambda g: run(g, data=g.manifest([{"id": "a"}])), ("'audio'", "required", "The fields are")),
    Case(
        "ids twice",
        lambda g: run(g, data=g.manifest([*g.rows(), g.rows()[0]])),
        ("m.jsonl", "1 ids occur more than once: anna-angry-0", "its own id"),
    ),
    Case("part outside", lambda g: run(g, data=g.with_first(end_s=9.0)), (".wav", "lies outside", "start_s and end_s")),
    Case(
        "part a day outside",
        lambda g: run(g, data=g.with_first(end_s=90_000.0)),
        (".wav", "lies outside", "start_s and end_s"),
    ),
    Case(
        "part without end",
        lambda g: run(g, data=g.with_first(end_s=float("inf"))),
        (".wav", "lies outside", "start_s and end_s"),
    ),
    Case(
        "part backwards",
        lambda g: run(g, data=g.with_first(start_s=0.2, end_s=0.1)),
        (".wav", "lies outside", "start_s and end_s"),
    ),
    Case(
        "no speaker",
        lambda g: run(g, data=g.with_first(speaker=None)),
        ("speakers-out", "1 utterances have no speaker", "Fill in 'speaker'"),
    ),
    Case(
        "a speaker written in two ways",
        lambda g: run(g, data=g.with_first(speaker="Anna")),
        ("speaker", "differ only in case, spaces or Unicode form: 'Anna' and 'anna'", "Use one spelling"),
    ),
    Case(
        "no emotion",
        lambda g: run(g, data=g.with_first(emotion=None)),
        ("labels.classes", "1 (no emotion)", "labels.unknown_labels=drop"),
    ),
    Case(
        "one class",
        lambda g: run(g, data=g.manifest([row | {"emotion": "sad"} for row in g.rows()])),
        ("labels.classes", "1 emotion classes", "at least two"),
    ),
    Case(
        "no class",
        lambda g: run(g, data=g.manifest([row | {"emotion": None} for row in g.rows()])),
        ("labels.classes", "0 emotion classes", "at least two"),
    ),
    Case(
        "same audio, two speakers",
        lambda g: run(g, data=twin_of_another_speaker(g), more=("--set", "protocol.num_folds=6")),
        ("fold ", "1 identical recording in both train and dev: anna-angry-0", "corpus check"),
    ),
    Case(
        "same audio, trained and tested",
        lambda g: run(
            g,
            recipe=g.changed({"protocol": {"name": "leave-one-speaker-out", "dev": "none"}}),
            data=twin_of_another_speaker(g),
        ),
        ("fold anna", "1 identical recording in both train and test: anna-angry-0", "corpus check"),
    ),
]

LABELS_AND_FOLDS = [
    Case(
        "class that nobody has",
        lambda g: run(g, more=("--set", "labels.classes=[angry, happy, sad, bored]")),
        ("labels.classes", "no utterance is labelled bored; the data has: angry, happy, sad", "own labels"),
    ),
    Case(
        "label without class",
        lambda g: run(g, more=("--set", "labels.classes=[angry, sad]")),
        ("labels.classes", "12 utterances", "12 happy", "labels.unknown_labels=drop"),
    ),
    Case(
        "class named twice",
        lambda g: run(g, more=("--set", "labels.classes=[angry, happy, sad, sad]")),
        ("labels.classes", "named twice", "Name each once"),
    ),
    Case(
        "too many folds",
        lambda g: run(g, more=("--set", "protocol.num_folds=7")),
        ("protocol.num_folds", "7 folds for 6 speakers", "fewer folds"),
    ),
    Case(
        "unknown speaker in a fold",
        lambda g: run(g, more=("--set", "protocol.folds=[[anna], [zoe]]")),
        ("protocol.folds", "no speaker zoe in the data", "anna, ben", "Name speakers of this manifest"),
    ),
    Case(
        "unknown fold alone",
        lambda g: run(g, more=("--set", "protocol.only=['9']")),
        ("protocol.only", "no fold 9; the folds are: 1, 2", "Specify folds"),
    ),
    Case(
        "no fold at all",
        lambda g: run(g, more=("--set", "protocol.only=[]")),
        ("protocol.only", "at least 1 item", "docs"),
    ),
    Case(
        "no official split",
        lambda g: run(g, more=("--set", "protocol.name=official")),
        ("'official'", "36 utterances have no split", "Fill in 'split'"),
    ),
    Case(
        "all speakers test",
        lambda g: run(g, more=("--set", "protocol.folds=[[anna, ben, cleo, dan, eva, finn]]")),
        ("protocol.dev", "speaker", "Choose"),
    ),
    Case(
        "dev none with patience",
        lambda g: run(g, recipe=g.changed({"protocol": {"dev": "none"}}, patience=2)),
        ("r.yaml", "stage 'emotion' monitors a dev score", "choose a dev"),
    ),
    Case(
        "dev none with plateau",
        lambda g: run(g, recipe=g.changed({"protocol": {"dev": "none"}}, schedule={"name": "plateau"})),
        ("r.yaml", "stage 'emotion' monitors a dev score", "choose a dev"),
    ),
    Case(
        "evaluation on known speakers",
        lambda g: ["evaluate", "--model", g.model, "--data", g.tones, "--out", g.out],
        ("manifest.jsonl", "the model was trained on 3 of these speakers", "--allow-seen-speakers"),
    ),
    Case(
        "evaluation of no class",
        lambda g: [
            "evaluate",
            "--model",
            g.model,
            "--data",
            g.manifest([row | {"emotion": "bored"} for row in g.rows()]),
            "--out",
            g.out,
        ],
        ("m.jsonl", "angry, happy, sad", "bored"),
    ),
]

RECIPES = [
    Case("missing", lambda g: run(g, recipe=g.root / "no.yaml"), ("no.yaml", "no such recipe", "recipes/demo.yaml")),
    Case("a folder", lambda g: run(g, recipe=g.root), ("no such recipe", "Name a .yaml file")),
    Case("a recording", lambda g: run(g, recipe=Path(first_wav(g))), (".wav", "not a text file", "Name a .yaml")),
    Case("empty", lambda g: run(g, recipe=g.recipe("")), ("r.yaml", "contains no keys", "YAML mapping")),
    Case("not YAML", lambda g: run(g, recipe=g.recipe("name: [a\nseeds: 3")), ("r.yaml:2", "not YAML", "Check")),
    Case("a tab", lambda g: run(g, recipe=g.recipe("name: a\n\tseeds: 3")), ("r.yaml:2", "not YAML", "Check")),
    Case("no name", lambda g: run(g, recipe=g.recipe("seeds: [0]")), ("r.yaml: name", "is missing", "Add it")),
    Case(
        "unknown key",
        lambda g: run(g, recipe=g.changed(epoch=3)),
        ("r.yaml: stages.0.epoch", "unknown key 'epoch'", "Did you mean 'epochs'?"),
    ),
    Case(
        "wrong type",
        lambda g: run(g, recipe=g.changed(epochs="many")),
        ("r.yaml: stages.0.epochs", "integer", "docs/recipes.md"),
    ),
    Case(
        "wrong choice",
        lambda g: run(g, recipe=g.changed(checkpoint="worst")),
        ("r.yaml: stages.0.checkpoint", "'best' or 'last'", "docs/recipes.md"),
    ),
    Case(
        "wrong pooling",
        lambda g: run(g, recipe=g.changed({"tasks": {"emotion": {"pooling": "men"}}})),
        ("tasks.emotion.pooling", "mean, std, max, attention", "docs/recipes.md"),
    ),
    Case(
        "unknown backbone",
        lambda g: run(g, recipe=g.recipe("name: a\nbackbone: {name: mfcc}")),
        ("r.yaml: backbone", "expected one of: logmel, huggingface", "docs/recipes.md"),
    ),
    Case("no stages", lambda g: run(g, more=("--set", "stages=[]")), ("stages", "at least 1", "docs/recipes.md")),
    Case("zero epochs", lambda g: run(g, more=("--set", "stages.0.epochs=0")), ("stages.0.epochs", "greater", "docs")),
    Case(
        "NaN learning rate",
        lambda g: run(g, more=("--set", "stages.0.optimizer.learning_rate=.nan")),
        ("stages.0.optimizer.learning_rate", "finite", "docs"),
    ),
    Case(
        "infinite learning rate",
        lambda g: run(g, more=("--set", "stages.0.optimizer.learning_rate=.inf")),
        ("stages.0.optimizer.learning_rate", "finite", "docs"),
    ),
    Case("seed twice", lambda g: run(g, more=("--set", "seeds=[1, 1]")), ("tiny.yaml: seeds", "twice", "docs")),
    Case(
        "stage that leaves its folder",
        lambda g: run(g, recipe=g.changed(name="../../x")),
        ("r.yaml: stages.0.name", "pattern", "docs/recipes.md"),
    ),
    Case("bands upside down", lambda g: run(g, more=("--set", "backbone.low_hz=8000")), ("low_hz 8000", "not below")),
    Case("circular base", lambda g: run(g, recipe=circle(g)), ("b.yaml", "leads back to itself", "Remove the cycle")),
    Case(
        "base that is not there",
        lambda g: run(g, recipe=g.recipe("base: no.yaml")),
        ("no.yaml", "no such recipe", "Name a .yaml"),
    ),
    Case("set is a list", lambda g: run(g, recipe=g.recipe("name: a\nset: [1]")), ("'set' is not a mapping", "Write")),
    Case("--set without =", lambda g: run(g, more=("--set", "seeds")), ("--set", "'seeds' is not KEY=VALUE", "Write:")),
    Case(
        "--set bad index",
        lambda g: run(g, more=("--set", "stages.1.epochs=3")),
        ("--set", "'1' in 'stages.1.epochs' is not a position in a list of 1", "Count positions from 0"),
    ),
    Case(
        "--set strange digit",
        lambda g: run(g, more=("--set", "stages.².epochs=3")),
        ("--set", "is not a position", "Count positions from 0"),
    ),
    Case("--set below a number", lambda g: run(g, more=("--set", "name.a=3")), ("--set", "no keys below", "Check")),
    Case("--set not YAML", lambda g: run(g, more=("--set", "seeds=[1")), ("--set seeds=[1", "not YAML", "Check")),
    Case("--set unknown key", lambda g: run(g, more=("--set", "seed=1")), ("tiny.yaml: seed", "Did you mean 'seed")),
    Case(
        "spectrogram augmentation of a transformer",
        lambda g: run(g, recipe=on_transformer(g, None, spectrogram_augmentation={"gain_db": 6})),
        ("stages.0.spectrogram_augmentation", "needs the backbone 'logmel'", "Leave it out"),
    ),
    Case(
        "cnn2d on a transformer",
        lambda g: run(g, recipe=on_transformer(g, "cnn2d")),
        ("encoder", "'cnn2d' reads mel bands", "cnn-blstm"),
    ),
    Case(
        "layer that a transformer lacks",
        lambda g: run(g, recipe=on_transformer(g, None, trainable=["layers 2-3", "heads"])),
        ("trainable", "'layers 2-3' is not a part of this model", "layer 1, layer 2", "Name these"),
    ),
    Case("unknown part", lambda g: run(g, recipe=g.changed(trainable=["lungs"])), ("trainable", "'lungs'", "encoder")),
    Case(
        "unknown layer",
        lambda g: run(g, recipe=g.changed({"tasks": {"emotion": {"layer": 3}}})),
        ("layer", "no hidden layer 3, the model has 0 to 0", "Choose among these"),
    ),
    Case(
        "no such transformer",
        lambda g: run(g, recipe=g.recipe("name: a\nbackbone: {name: huggingface, source: ./none}")),
        ("none",),
    ),
]

RUN_FOLDERS = [
    Case(
        "exists",
        lambda g: [*run(g)[:5], g.copied_run()],
        ("out", "already exists", "--resume", "another --out"),
    ),
    Case("a file", lambda g: [*run(g)[:5], g.file(b"mine", "out")], ("out", "already exists", "another --out")),
    Case("somebody's folder", lambda g: [*run(g)[:5], folder_of(g, "a.txt")], ("folder", "already exists", "another")),
    Case("nothing to resume", lambda g: run(g, more=("--resume",)), ("out", "no run to resume", "Leave out")),
    Case(
        "resumed with another recipe",
        lambda g: [*run(g, more=("--set", "stages.0.epochs=3"))[:5], g.copied_run(), "--resume", "--set", "seeds=[1]"],
        ("out", "started with a different recipe", "same recipe"),
    ),
    Case(
        "resumed with other data",
        lambda g: [*run(g, data=g.manifest(g.rows()[:-1]))[:5], g.copied_run(), "--resume"],
        ("out", "started with different data", "same manifest"),
    ),
    Case(
        "training folder exists",
        lambda g: ["train", g.tiny, "--data", g.tones, "--out", g.copied_run()],
        ("out", "already exists", "another --out"),
    ),
    Case("no training to resume", lambda g: ["train", *run(g)[1:6], "--resume"], ("no run to resume", "Leave out")),
    Case(
        "report of nothing",
        lambda g: ["report", g.root / "no"],
        ("no", "contains no predictions", "Specify a run folder"),
    ),
    Case(
        "report of a folder", lambda g: ["report", folder_of(g, "a.txt")], ("folder", "no predictions", "Specify a run")
    ),
]

CORPORA = [
    Case("unknown corpus", lambda g: prepare(g, "crema", g.root), ("unknown corpus 'crema'", "cremad", "use a table")),
    Case("no folder", lambda g: prepare(g, "folder", g.root / "no"), ("no", "no such folder", "Specify the folder")),
    Case("no audio", lambda g: prepare(g, "folder", folder_of(g, "a.txt")), ("contains no audio", "1 .txt", "ffmpeg")),
    Case("a manifest as a table", lambda g: prepare(g, "csv", g.tones), ("JSON lines, not a table", "no preparation")),
    Case("no table", lambda g: prepare(g, "csv", g.root / "no.csv"), ("no.csv", "no such table", "Specify a CSV")),
    Case(
        "table without paths",
        lambda g: prepare(g, "csv", g.file(b"name,mood\na,sad\n", "t.csv")),
        ("t.csv", "no column of audio paths", "Name one column 'audio'"),
    ),
    Case(
        "table of missing files",
        lambda g: prepare(g, "csv", g.file(b"audio,emotion\nno.wav,sad\n", "t.csv")),
        ("no.wav", "no such file", "Check the path"),
    ),
    Case(
        "broken file in a corpus",
        lambda g: prepare(g, "csv", [g.file(b"x" * 99), g.file(b"audio,emotion\nbad.wav,sad\n", "t.csv")][1]),
        ("bad.wav", "cannot be decoded", "it is text"),
    ),
    Case("check of nothing", lambda g: ["corpus", "check", g.root / "no.jsonl"], ("no such manifest", "prepare")),
]


def prepare(ground: Ground, name: str, root: Path) -> list[object]:
    return ["corpus", "prepare", name, root, "--out", ground.out]


def named(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases])


def refuse(case_command: list[object], says: tuple[str, ...], ground: Ground, call: Call) -> None:
    """Call, and expect one line of complaint, nothing on stdout and no trace on disk."""
    before = everything_in(ground.root)
    outcome = call(*case_command)
    assert outcome.status == 1
    assert outcome.out == ""
    for part in says:
        assert part in outcome.complaint
    assert outcome.complaint.endswith((".", "?"))
    assert everything_in(ground.root) == before


@named(RECORDINGS)
def test_recording_that_cannot_be_heard(case: Case, ground: Ground, serein: Call) -> None:
    arguments = case.build(ground)
    before = everything_in(ground.root)
    outcome = serein("predict", "--model", ground.model, *arguments)
    assert (outcome.status, outcome.out) == (1, "")
    for part in case.says:
        assert part in outcome.complaint
    assert outcome.err.endswith("1 of 1 recordings could not be read.\n")
    assert everything_in(ground.root) == before


@named(RECORDINGS)
def test_recording_that_cannot_be_learned(case: Case, ground: Ground, serein: Call) -> None:
    (path,) = case.build(ground)
    refuse(run(ground, data=ground.with_first(audio=str(path))), case.says, ground, serein)


@named(RECORDINGS)
def test_recording_that_cannot_be_scored(case: Case, ground: Ground, serein: Call) -> None:
    (path,) = case.build(ground)
    strangers = [row | {"speaker": "zoe"} for row in ground.rows()[:6]]
    data = ground.manifest([strangers[0] | {"audio": str(path)}, *strangers[1:]])
    refuse(["evaluate", "--model", ground.model, "--data", data, "--out", ground.out], case.says, ground, serein)


@named(PREDICT)
def test_model_or_folder_to_hear(case: Case, ground: Ground, serein: Call) -> None:
    refuse(case.build(ground), case.says, ground, serein)


@named(MANIFESTS)
def test_manifest(case: Case, ground: Ground, serein: Call) -> None:
    refuse(case.build(ground), case.says, ground, serein)


@named(LABELS_AND_FOLDS)
def test_labels_and_folds(case: Case, ground: Ground, serein: Call) -> None:
    refuse(case.build(ground), case.says, ground, serein)


@named(RECIPES)
def test_recipe(case: Case, ground: Ground, serein: Call) -> None:
    refuse(case.build(ground), case.says, ground, serein)


@named(RUN_FOLDERS)
def test_run_folder(case: Case, ground: Ground, serein: Call) -> None:
    refuse(case.build(ground), case.says, ground, serein)


@named(CORPORA)
def test_corpus(case: Case, ground: Ground, serein: Call) -> None:
    refuse(case.build(ground), case.says, ground, serein)


# -- what the tables do not hold -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "r.yaml", "--data", "m.jsonl", "--jbos", "2"], "No such option: --jbos"),
        (["run", "r.yaml"], "Missing option '--data'"),
        (["run"], "Missing argument"),
        (["run", "r.yaml", "--data", "m.jsonl", "--jobs", "-1"], "'--jobs'"),
        (["run", "r.yaml", "--data", "m.jsonl", "--jobs", "two"], "'--jobs'"),
        (["predict", "--model", "model", "a.wav", "--max-files", "0"], "'--max-files'"),
        (["corpus", "synth", "-o", "x", "--clips", "0"], "'--clips'"),
        (["corpus", "synth", "-o", "x", "--seed", "-1"], "'--seed'"),
        (["corpus", "check", "m.jsonl", "--min-s", "-1"], "'--min-s'"),
        (["sing"], "No such command 'sing'"),
        (["evaluate", "--model", "model", "extra", "--data", "m.jsonl"], "unexpected extra argument"),
    ],
)
def test_misspelt_command_line(
    arguments: list[str],
    says: str,
    serein: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = serein(*arguments)
    assert (outcome.status, outcome.out) == (2, "")
    assert says in " ".join(outcome.err.replace("│", " ").split())
    assert "--help" in outcome.err
    assert len(outcome.err.splitlines()) <= 8
    assert not any(tmp_path.iterdir())


def test_good_recordings_among_broken_ones_are_answered(ground: Ground, serein: Call) -> None:
    good = [first_wav(ground), str(ground.rows()[-1]["audio"])]
    bad = [str(truncated_wav(ground)), str(ground.root / "no.wav")]
    outcome = serein("predict", "--model", ground.model, good[0], *bad, good[1], "--json")
    assert outcome.status == 1
    assert [json.loads(line)["file"] for line in outcome.out.splitlines()] == good
    complaints = without_runtime(outcome.err).splitlines()
    assert [line.startswith(f"error: {path}: ") for line, path in zip(complaints, bad, strict=False)] == [True, True]
    assert complaints[2:] == ["2 of 4 recordings could not be read."]


@pytest.mark.parametrize("form", ["--csv", None])
def test_tables_hold_the_good_ones_too(form: str | None, ground: Ground, serein: Call) -> None:
    outcome = serein(
        "predict", "--model", ground.model, first_wav(ground), ground.root / "no.wav", *([form] if form else [])
    )
    assert outcome.status == 1
    assert len(outcome.out.splitlines()) == 2  # head and one row
    assert "no.wav: no such file" in outcome.complaint


def test_incomplete_corpus_needs_partial(ground: Ground, serein: Call) -> None:
    actor = ground.root / "ravdess" / "Actor_01"
    for emotion in ("03", "04"):
        write_wav(actor / f"03-01-{emotion}-01-01-01-01.wav")
    refuse(
        prepare(ground, "ravdess", actor.parent),
        ("ravdess: found 2 of the 1440 utterances", "speaker 01: 2 of 60", "--partial"),
        ground,
        serein,
    )
    outcome = serein(*prepare(ground, "ravdess", actor.parent), "--partial")
    assert outcome.status == 0
    assert outcome.out == f"{ground.out}: 2 utterances\n"
    assert "note: found 2 of the 1440 utterances" in outcome.err


def test_refusal_leaves_an_older_manifest_as_it_was(ground: Ground, serein: Call) -> None:
    ground.out.write_text("precious\n")
    refuse(prepare(ground, "folder", ground.root / "no"), ("no such folder",), ground, serein)


def test_manifest_that_would_replace_a_folder(ground: Ground, serein: Call) -> None:
    corpus = ground.tones.parent
    ground.out.mkdir()
    before = everything_in(ground.root)
    outcome = serein(*prepare(ground, "folder", corpus))
    assert outcome.status == 1
    assert outcome.complaint == f"error: {ground.out}: is a folder. Name a file to write to."
    assert everything_in(ground.root) == before


def test_folder_without_the_right_to_write(ground: Ground, serein: Call) -> None:
    locked = ground.root / "locked"
    locked.mkdir(mode=0o555)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write anywhere")
    outcome = serein(*run(ground)[:5], locked / "out")
    assert outcome.status == 1
    assert "locked" in outcome.complaint
    assert not any(locked.iterdir())


def test_training_that_diverges_says_so(ground: Ground, serein: Call) -> None:
    outcome = serein(*run(ground, recipe=ground.changed(optimizer={"name": "sgd", "learning_rate": 1e30})))
    assert outcome.status == 1
    assert "out/fold-1/seed-0/0-emotion: training diverged: the loss of epoch" in outcome.complaint
    assert outcome.complaint.endswith("Lower optimizer.learning_rate, or set clip_norm.")
    assert not list(ground.out.rglob("predictions.jsonl"))


def test_training_that_diverges_in_its_last_step_says_so(ground: Ground, serein: Call) -> None:
    """The loss is that of the batches before it."""
    step = {"epochs": 1, "optimizer": {"learning_rate": 1e30}, "batches": {"max_clips": 64}}
    outcome = serein(*run(ground, recipe=ground.changed(**step)))
    assert outcome.status == 1
    assert outcome.complaint.endswith(
        "outputs are not finite numbers. Copy the model again, or train it with a lower learning rate."
    )
    assert not list(ground.out.rglob("*predictions.jsonl")) + list(ground.out.rglob("model.safetensors"))


@pytest.mark.parametrize("part", ["train", "dev"])
def test_recording_that_breaks_while_loaders_read_it(
    part: str,
    ground: Ground,
    serein: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A corpus that does not fit into memory is decoded by other processes, during the training."""
    from serein import recipe as recipes
    from serein.data.dataset import Recordings
    from serein.experiment.data import prepare as prepared

    monkeypatch.setitem(Recordings.__init__.__kwdefaults__, "memory_s", 0.0)
    (fold, *_) = prepared(recipes.load(ground.tiny), ground.tones, lambda *progress: None).folds.folds
    broken = getattr(fold, part)[0]
    silence = ground.wav(np.zeros(5000))
    rows = [row | ({"audio": str(silence)} if row["id"] == broken else {}) for row in ground.rows()]
    outcome = serein(*run(ground, data=ground.manifest(rows)))
    assert outcome.status == 1
    assert outcome.complaint.startswith(f"error: {silence}: silent: ")


def test_unit_that_fails_stops_the_others(ground: Ground, serein: Call) -> None:
    """One of two processes meets a file where its folder should be."""
    blocked = ground.copied_run()
    shutil.rmtree(blocked / "fold-1" / "seed-0")
    shutil.rmtree(blocked / "fold-2" / "seed-0")
    (blocked / "fold-2" / "seed-0").write_text("in the way")
    outcome = serein("run", ground.tiny, "--data", ground.tones, "--out", blocked, "--resume", "--jobs", 2)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.complaint == f"error: {blocked}/fold-2/seed-0/0-emotion: Not a directory."


def test_name_on_the_hub_without_a_network(ground: Ground, serein: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    outcome = serein("predict", "--model", "someone/emotions", first_wav(ground))
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.complaint.startswith(
        "error: someone/emotions: no such folder, not in the cache, and the Hugging Face Hub cannot be reached"
    )
    assert "hf download someone/emotions" in outcome.complaint


def test_path_is_no_name_on_the_hub(ground: Ground, serein: Call) -> None:
    refuse(
        ["predict", "--model", "../emotions", first_wav(ground)], ("../emotions: no such", "Train one"), ground, serein
    )


@pytest.mark.parametrize("given", ["file", "folder", "corpus"])
def test_name_that_is_no_text(given: str, ground: Ground, serein: Call) -> None:
    """As it comes out of an archive that was packed with another encoding."""
    folder = ground.root / "tones" / "sad"
    write_wav(folder / "good.wav")
    try:
        (folder / os.fsdecode(b"tr\xe4ge.wav")).write_bytes((folder / "good.wav").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    write_wav(folder.parent / "angry" / "good.wav")
    calls = {
        "file": ["predict", "--model", ground.model, folder / os.fsdecode(b"tr\xe4ge.wav")],
        "folder": ["predict", "--model", ground.model, folder],
        "corpus": prepare(ground, "folder", folder.parent),
    }
    says = ("/sad/tr\\udce4ge.wav", "the name is not UTF-8", "Rename it")
    if given != "folder":
        refuse(calls[given], says, ground, serein)
        return
    outcome = serein(*calls[given])  # the other recording is answered
    assert outcome.status == 1
    assert "good.wav" in outcome.out
    assert all(part in outcome.complaint for part in says)


def test_reader_that_leaves_early(ground: Ground) -> None:
    """`serein predict ... --json | head -n 1`, of more than a pipe takes by itself."""
    with subprocess.Popen(
        command("predict", "--model", ground.model, *[ground.tones] * 20, "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["label"]
        process.stdout.close()
        assert without_runtime(process.stderr.read()) == ""
        assert process.wait(60) != 0


def test_a_backbone_of_an_unknown_family_is_refused_before_recordings_are_read(ground: Ground, serein: Call) -> None:
    (ground.root / "bert").mkdir()
    (ground.root / "bert" / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    backbone = {"name": "huggingface", "source": str(ground.root / "bert")}
    recipe = ground.recipe(yaml.safe_dump(TINY | {"backbone": backbone, "encoder": None}))
    broken = ground.manifest([row | {"audio": "no.wav"} for row in ground.rows()])
    outcome = serein(*run(ground, recipe=recipe, data=broken))
    assert outcome.status == 1
    assert "bert: unknown family of models 'bert', expected one of: wav2vec2" in outcome.complaint
