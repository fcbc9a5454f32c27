"""Recipes: what is written is what runs, bases and changes add up, and a mistake is named with its key."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from serein import choices
from serein import recipe as recipes
from serein.data.protocols import TEST_SETS
from serein.errors import RecipeError
from serein.losses import LOSSES
from serein.models.blocks import POOLINGS
from serein.recipe import Category, Cnn2d, LogMel, Optimizer, Options, Protocol, Recipe, Stage
from serein.training.optimizers import OPTIMIZERS

FOLDER = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted({*FOLDER.glob("*.yaml"), *FOLDER.glob("*/recipe.yaml")})


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def complaint_of(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as error:
        recipes.load(path, overrides)
    assert error.value.remedy
    return str(error.value)


# -- there and back


def test_recipes_are_shipped() -> None:
    assert {"demo", "ravdess"} <= {recipes.load(path).name for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_shipped_recipe_comes_back_from_its_dump(path: Path, tmp_path: Path) -> None:
    recipe = recipes.load(path)
    assert recipe.description
    assert recipes.load(write(tmp_path / "dumped.yaml", recipes.dump(recipe))) == recipe


def test_whatever_a_recipe_may_say_comes_back(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "all",
            "description": "Grüße: 'quoted' # no comment\nand a second line",
            "labels": {"classes": ["yes", "no", "01", "null"], "merge": {"on": "yes"}, "unknown_labels": "drop"},
            "protocol": {"name": "sessions-out", "folds": [["1"], ["2", "3"]], "only": ["2"], "dev": "random"},
            "backbone": {
                "name": "huggingface",
                "source": "a/b",
                "overrides": {"dropout": 0.0, "deep": {"x": [1, None]}},
            },
            "encoder": {"name": "cnn-blstm", "layer": 14},
            "tasks": {"emotion": {"layer": "weighted", "projection": 16, "hidden": [1024, 1024]}},
            "stages": [{"name": "one", "trainable": ["heads"]}, {"name": "two", "optimizer": {"learning_rate": 1e-5}}],
            "seeds": [0, 1, 2],
        }
    )
    assert recipes.load(write(tmp_path / "dumped.yaml", recipes.dump(recipe))) == recipe


def test_a_dimension_alone_takes_no_contrastive_loss_from_the_main_task(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "name: r\ntasks: {emotion: {hidden: [8], contrastive: {weight: 0.1}}}")
    alone = recipes.load(path, task="valence").tasks.pooled["valence"]
    assert (alone.hidden, alone.contrastive) == ((8,), None)
    assert recipes.load(path, task="gender").tasks.pooled["gender"].contrastive is not None


def test_a_name_is_a_recipe(tmp_path: Path) -> None:
    recipe = recipes.load(write(tmp_path / "r.yaml", "name: r"))
    assert recipe == Recipe(name="r")
    assert (recipe.backbone, recipe.encoder, recipe.stages, recipe.seeds) == (LogMel(), None, (Stage(),), (0,))


def test_a_recipe_cannot_be_changed_by_hand() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe(name="r").seeds = (1,)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "field", "choices"),
    [
        (Optimizer, "name", OPTIMIZERS),
        (Protocol, "name", TEST_SETS),
    ],
)
def test_names_in_recipes_are_those_that_exist(options: type[Options], field: str, choices: dict[str, Any]) -> None:
    assert sorted(get_args(options.model_fields[field].annotation)) == sorted(choices)


@pytest.mark.parametrize(("kind", "choices"), [("pooling", POOLINGS), ("loss", LOSSES)])
def test_every_choice_can_be_named(kind: str, choices: dict[str, Any]) -> None:
    for name in choices:
        values = {"name": "r", "tasks": {"emotion": {kind: name}}}
        assert getattr(recipes.validate(values, where="r").tasks.chosen["emotion"], kind) == name


# -- bases and changes

BASE = """
name: base
description: of the base
protocol: {name: speakers-out, num_folds: 3, seed: 7}
encoder: {name: cnn2d, size: 64, dropout: 0.5}
tasks: {emotion: {dropout: 0.3}}
stages:
- {name: one, epochs: 10, optimizer: {name: sgd, learning_rate: 0.1}}
- {name: two, epochs: 20}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path / "base.yaml", BASE)


def test_a_change_leaves_the_rest(base: Path, tmp_path: Path) -> None:
    changed = "base: ../base.yaml\nname: mine\ntasks: {emotion: {pooling: std}}\nset: {stages.1.epochs: 5}"
    recipe = recipes.load(write(tmp_path / "tables" / "changed.yaml", changed))
    old = recipes.load(base)
    assert recipe.name == "mine"
    assert recipe.tasks.emotion == Category(pooling="std", dropout=0.3)
    assert recipe.stages == (old.stages[0], Stage(name="two", epochs=5))
    same = {"description", "protocol", "encoder", "backbone"}
    assert recipe.model_dump(include=same) == old.model_dump(include=same)


def test_changes_go_from_the_deepest_base_outwards(base: Path, tmp_path: Path) -> None:
    write(
        tmp_path / "middle.yaml", "base: base.yaml\nseeds: [1]\nencoder: {size: 8}\nset: {encoder.size: 16, seeds.0: 2}"
    )
    top = write(tmp_path / "top.yaml", "base: middle.yaml\nencoder: {dropout: 0.1}\nset: {protocol.seed: 9}")
    recipe = recipes.load(top)
    assert (recipe.seeds, recipe.protocol.seed) == ((2,), 9)
    assert recipe.encoder == Cnn2d(size=16, dropout=0.1)
    assert recipes.load(top, ["protocol.seed=11", "encoder.size=32"]).encoder == Cnn2d(size=32, dropout=0.1)


@pytest.mark.parametrize(
    ("change", "encoder"),
    [
        ("encoder: {size: 8}", {"name": "cnn2d", "size": 8, "dropout": 0.5}),
        ("encoder: {name: cnn2d, size: 8}", {"name": "cnn2d", "size": 8, "dropout": 0.5}),
        ("encoder: {name: cnn-blstm}", {"name": "cnn-blstm"}),  # another choice: nothing of the old one stays
        ("encoder: null", None),
    ],
)
def test_another_name_replaces_the_mapping(base: Path, change: str, encoder: dict[str, Any] | None) -> None:
    recipe = recipes.load(write(base.parent / "changed.yaml", f"base: base.yaml\n{change}"))
    assert recipe.encoder == Recipe.model_validate({"name": "x", "encoder": encoder}).encoder


def test_naming_what_the_base_left_unnamed_keeps_the_rest(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "name: r\nprotocol: {num_folds: 3}")
    recipe = recipes.load(write(tmp_path / "r.yaml", "base: base.yaml\nprotocol: {name: speakers-out, seed: 2}"))
    assert recipe.protocol == Protocol(num_folds=3, seed=2)


def test_a_list_is_replaced_as_a_whole(base: Path) -> None:
    recipe = recipes.load(write(base.parent / "changed.yaml", "base: base.yaml\nstages: [{epochs: 1}]"))
    assert recipe.stages == (Stage(epochs=1),)


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("stages.0.epochs=3", ("stages", 0, "epochs"), 3),
        ("stages.1.optimizer.learning_rate=1e-4", ("stages", 1, "optimizer", "learning_rate"), 1e-4),
        ("labels.classes=[happy, '01']", ("labels", "classes"), ("happy", "01")),
        ("encoder=null", ("encoder",), None),
        ("tasks.emotion.layer=last", ("tasks", "emotion", "layer"), "last"),
        ("description= a = b ", ("description",), "a = b"),
        ("protocol.folds=[[a], [b, c]]", ("protocol", "folds"), (("a",), ("b", "c"))),
    ],
)
def test_values_are_set_by_path(base: Path, override: str, place: tuple[Any, ...], value: object) -> None:
    found: Any = recipes.load(base, [override]).model_dump()
    for key in place:
        found = found[key]
    assert found == value


def test_a_single_value_needs_no_list(base: Path) -> None:
    assert recipes.load(base, "stages.0.epochs=3").stages[0].epochs == 3


def test_a_value_is_set_where_the_path_leads_and_not_where_an_anchor_repeats_it(tmp_path: Path) -> None:
    text = """
name: r
stages:
- &first {name: one, batches: &small {max_clips: 4}, trainable: [encoder, heads]}
- {<<: *first, name: two}
- {name: three, batches: *small}
set: {stages.2.batches.max_clips: 5, stages.1.trainable.0: cnn}
"""
    stages = recipes.load(write(tmp_path / "r.yaml", text), ["stages.0.batches.max_clips=3"]).stages
    assert [stage.batches.max_clips for stage in stages] == [3, 4, 5]
    assert [stage.trainable[0] for stage in stages] == ["encoder", "cnn", "all"]


def test_the_default_stage_can_be_set(tmp_path: Path) -> None:
    assert recipes.load(write(tmp_path / "r.yaml", "name: r"), ["stages.0.epochs=3"]).stages == (Stage(epochs=3),)


@pytest.mark.parametrize(
    ("text", "names"),
    [("1", ("1",)), ("1,3", ("1", "3")), ("[1, 3]", ("1", "3")), ("['01']", ("01",)), ("anna", ("anna",))],
)
def test_folds_as_a_person_writes_them(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    path = write(tmp_path / "r.yaml", "name: r")
    assert recipes.load(path, [f"protocol.only={text}"]).protocol.only == names


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.0.epochs", "--set: 'stages.0.epochs' is not KEY=VALUE. Write"),
        ("=3", "--set: '=3' is not KEY=VALUE"),
        ("stages.2.epochs=3", "--set: '2' in 'stages.2.epochs' is not a position in a list of 2"),
        ("stages.²=3", "--set: '²' in 'stages.²' is not a position in a list of 2"),
        ("stages.one.epochs=3", "--set: 'one' in 'stages.one.epochs' is not a position in a list of 2"),
        ("name.first=r", "--set: 'name' in 'name.first' has no keys below it"),
        ("stages.0.epochs.x=3", "--set: 'epochs' in 'stages.0.epochs.x' has no keys below it"),
        ("protocol.only=[a", "--set protocol.only=[a:1: not YAML"),
        ("stages.0.epoch=3", "base.yaml: stages.0.epoch: unknown key 'epoch'. Did you mean 'epochs'?"),
        ("encoder.size=x", "base.yaml: encoder.size: input should be a valid integer"),
    ],
)
def test_what_cannot_be_set(base: Path, override: str, message: str) -> None:
    assert message in complaint_of(base, override)


def test_a_position_of_what_is_no_list_of_mappings(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "name: r\nseeds: [0, 1]")
    assert recipes.load(path, ["seeds.1=5"]).seeds == (0, 5)
    assert "'1' in 'seeds.1.x' has no keys below it" in complaint_of(path, "seeds.1.x=5")


SEVERAL_TASKS = """
name: r
branches: {second: {backbone: {name: logmel}}}
tasks:
  emotion: {fusion: {inputs: [speaker]}}
  speaker: {branch: second}
stages: [{name: s, monitor: ua, weights: {emotion: 0.5, speaker: 0.5}}]
"""


def test_one_task_is_trained_without_what_belongs_to_others(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", SEVERAL_TASKS)
    emotion, speaker, arousal = (recipes.load(path, (), task) for task in ("emotion", "speaker", "arousal"))
    assert (list(emotion.tasks.chosen), emotion.tasks.pooled["emotion"].fusion_inputs) == (["emotion"], ())
    assert (list(emotion.branches), list(speaker.branches)) == ([], ["second"])
    assert (emotion.stages[0].monitor, arousal.stages[0].monitor) == ("ua", None)
    assert emotion.stages[0].weights == {}
    with pytest.raises(RecipeError, match=r"--task asr: .*mixes clips, but 'asr' cannot be mixed: set spectrogram"):
        recipes.load(path, ["stages.0.spectrogram_augmentation.mixup=0.3"], "asr")


# -- files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.yaml: contains no keys. Write a YAML mapping"),
        ("- a\n- b", "r.yaml: contains no keys"),
        ("name: r\nseeds: [0", "r.yaml:2: not YAML"),
        ("name: r\n  seeds: [0]", "r.yaml:2: not YAML"),
        (
            "name: r\nstages:\n- {epochs: 1, epochs: 5}",
            "r.yaml:3: not YAML (the key 'epochs' occurs twice). Check indentation and colons, and name each key once.",
        ),
        ("name: r\nset: [1]", "r.yaml: 'set' is not a mapping"),
        ("base: r.yaml", "r.yaml: 'base: r.yaml' leads back to itself. Remove the cycle"),
        ("base: none.yaml", "none.yaml: no such recipe"),
        ("seeds: [0]", "r.yaml: name: the key 'name' is missing. Add it."),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    assert message in complaint_of(write(tmp_path / "r.yaml", text))


def test_a_merged_mapping_may_replace_keys(tmp_path: Path) -> None:
    text = "name: r\nstages:\n- &one {name: one, epochs: 3}\n- &two {<<: *one, name: two}\n- {<<: *two, name: three}"
    stages = recipes.load(write(tmp_path / "r.yaml", text)).stages
    assert [(stage.name, stage.epochs) for stage in stages] == [("one", 3), ("two", 3), ("three", 3)]


def test_a_recipe_of_the_package_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("serein.recipe.resources.files", lambda name: tmp_path / "site-packages" / name)
    packaged = tmp_path / "site-packages/serein/recipes"
    packaged.mkdir(parents=True)
    write(packaged / "base.yaml", "name: packaged\n")
    write(packaged / "mine.yaml", "base: base.yaml\n")
    assert recipes.load("recipes/mine.yaml").name == "packaged"
    assert "recipes/no.yaml: no such recipe" in complaint_of(Path("recipes/no.yaml"))
    (tmp_path / "recipes").mkdir()
    write(tmp_path / "recipes/mine.yaml", "name: own\n")
    assert recipes.load("recipes/mine.yaml").name == "own"


def test_a_damaged_entry_point_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("median", "serein.models.blocks:NoSuchPooling", "serein.pooling")
    monkeypatch.setattr(choices, "entry_points", lambda group, name=None: [entry] if group == "serein.pooling" else [])
    with pytest.raises(RecipeError, match="entry point of pooling 'median' cannot be loaded.*'NoSuchPooling'"):
        recipes.validate({"name": "r", "tasks": {"emotion": {"pooling": "median"}}}, where="r.yaml")


def test_an_entry_point_that_breaks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "broken_package.py", "undefined\n")
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("median", "broken_package:Median", "serein.pooling")
    monkeypatch.setattr(choices, "entry_points", lambda group, name=None: [entry] if group == "serein.pooling" else [])
    with pytest.raises(RecipeError, match="entry point of pooling 'median' cannot be loaded: name 'undefined'"):
        recipes.validate({"name": "r", "tasks": {"emotion": {"pooling": "median"}}}, where="r.yaml")


def test_a_circle_of_bases_is_found(tmp_path: Path) -> None:
    for name, base in (("a", "b"), ("b", "sub/../c"), ("c", "a")):
        write(tmp_path / f"{name}.yaml", f"base: {base}.yaml")
    (tmp_path / "sub").mkdir()
    assert "c.yaml: 'base: a.yaml' leads back to itself" in complaint_of(tmp_path / "a.yaml")


def test_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF\xff\xfe")
    assert "none.yaml: no such recipe. Name a .yaml file" in complaint_of(tmp_path / "none.yaml")
    assert "no such recipe" in complaint_of(tmp_path)
    assert "a.wav: is not a text file" in complaint_of(tmp_path / "a.wav")


# -- keys and values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"protcol": {}}, "r.yaml: protcol: unknown key 'protcol'. Did you mean 'protocol'?"),
        (
            {"tasks": {"emotion": {"poling": "std"}}},
            "r.yaml: tasks.emotion.poling: unknown key 'poling'. Did you mean 'p",
        ),
        (
            {"encoder": {"name": "cnn2d", "chanels": [1]}},
            "r.yaml: encoder.chanels: unknown key 'chanels'. Did you mean 'chan",
        ),
        ({"stages": [{}, {"batch": {}}]}, "r.yaml: stages.1.batch: unknown key 'batch'. Did you mean 'batches'?"),
        (
            {"backbone": {"name": "logmel", "source": "a"}},
            "unknown key 'source'. Did you mean 'backbone.name: huggingface'?",
        ),
        ({"epochs": 3}, "r.yaml: epochs: unknown key 'epochs'. Did you mean 'stages.0.epochs'?"),
        ({"stages": [{"gradient_checkpointing": True}]}, "Did you mean 'backbone.gradient_checkpointing'?"),
        ({"epoch_clips": 3}, "unknown key 'epoch_clips'. Did you mean 'stages.0.epoch_clips'?"),
        ({"tasks": {"emotion": {"epochs": 3}}}, "unknown key 'epochs'. Did you mean 'stages.0.epochs'?"),
        ({"pooling": "std"}, "unknown key 'pooling'. Did you mean 'tasks.emotion.pooling'?"),
        ({"seed": 3}, "unknown key 'seed'. Did you mean 'seeds' or 'protocol.seed'?"),
        ({"xyzzy": 1}, "r.yaml: xyzzy: unknown key 'xyzzy'. See docs/recipes.md"),
        ({"name": "a b"}, "r.yaml: name: string should match pattern"),
        ({"name": "../a"}, "r.yaml: name: string should match pattern"),
        ({"seeds": []}, "r.yaml: seeds: the list should have at least 1 item"),
        ({"seeds": ["a"]}, "r.yaml: seeds.0: input should be a valid integer"),
        ({"seeds": [3, 3]}, "r.yaml: seeds: one is named twice: 3, 3"),
        ({"stages": []}, "r.yaml: stages: the list should have at least 1 item"),
        ({"stages": {"epochs": 3}}, "r.yaml: stages: input should be a list"),
        ({"stages": [{"epochs": 0}]}, "r.yaml: stages.0.epochs: input should be greater than or equal to 1"),
        ({"stages": [{"epochs": 2.5}]}, "r.yaml: stages.0.epochs: input should be a valid integer"),
        ({"stages": [{"optimizer": {"betas": [0.9]}}]}, "r.yaml: stages.0.optimizer.betas.1: a value is missing"),
        (
            {"stages": [{"optimizer": {"learning_rate": 0}}]},
            "stages.0.optimizer.learning_rate: input should be greater",
        ),
        (
            {"stages": [{"optimizer": {"learning_rate": float("nan")}}]},
            "stages.0.optimizer.learning_rate: input should",
        ),
        (
            {"stages": [{"optimizer": {"learning_rate": float("inf")}}]},
            "stages.0.optimizer.learning_rate: input should",
        ),
        ({"stages": [{"name": "a"}, {"name": "a"}]}, "r.yaml: two stages share a name: a, a"),
        (
            {"protocol": {"dev": "none"}, "stages": [{"patience": 3}]},
            "stage 'train' monitors a dev score, but protocol.dev",
        ),
        (
            {"protocol": {"dev": "none"}, "stages": [{"schedule": {"name": "plateau"}}]},
            "r.yaml: stage 'train' monitors a dev score, but protocol.dev is 'none'",
        ),
        ({"protocol": {"name": "speaker-out"}}, "r.yaml: protocol.name: input should be 'speakers-out', 'leave-one-"),
        ({"protocol": {"dev_fraction": 1.2}}, "r.yaml: protocol.dev_fraction: input should be less than or equal to 1"),
        ({"protocol": {"folds": [[1, 2]]}}, "r.yaml: protocol.folds.0.0: input should be a valid string"),
        (
            {"tasks": {"emotion": {"pooling": "median"}}},
            "r.yaml: tasks.emotion.pooling: unknown pooling 'median', expected one of: mean, std",
        ),
        ({"tasks": {"emotion": {"label_smoothing": 1}}}, "r.yaml: tasks.emotion.label_smoothing: input should be less"),
        (
            {"tasks": {"emotion": {"layer": "first"}}},
            "r.yaml: tasks.emotion.layer: input should be 'last', 'weighted' or 'weighted-free', or input should be",
        ),
        (
            {"backbone": {"name": "mfcc"}},
            "r.yaml: backbone: unknown backbone 'mfcc', expected one of: logmel, huggingface",
        ),
        ({"backbone": {"n_mels": 40}}, "r.yaml: backbone: the key 'name' is missing. Add it."),
        ({"backbone": {"name": "huggingface"}}, "r.yaml: backbone.source: the key 'source' is missing. Add it."),
        ({"backbone": {"name": "logmel", "low_hz": 9e3}}, "r.yaml: backbone: low_hz 9000 is not below high_hz 8000"),
        (
            {"backbone": {"name": "logmel", "high_hz": 9e3}},
            "r.yaml: backbone.high_hz: input should be less than or equal",
        ),
        ({"backbone": {"name": "logmel", "normalisation": []}}, "r.yaml: backbone.normalisation: the list should have"),
        (
            {"encoder": {"name": "cnn2d", "channels": [8, 0]}},
            "r.yaml: encoder.channels.1: input should be greater than or equal",
        ),
        (
            {"encoder": {"name": "cnn-blstm", "channels": [1]}},
            "r.yaml: encoder: 1 channels but 3 kernels: give one kernel each",
        ),
        ({"clips": {"crop_s": 1e-5}}, "r.yaml: clips.crop_s: input should be greater than or equal to 0.0001"),
        ({"clips": {"max_s": 1e-5}}, "r.yaml: clips.max_s: input should be greater than or equal to 0.0001"),
        ({"seeds": [0, -1]}, "r.yaml: seeds.1: input should be greater than or equal to 0"),
        (
            {"protocol": {"name": "random", "folds": [["a"]]}},
            "r.yaml: protocol: 'random' cannot have 'folds': set them to null, or choose 'speakers-out'",
        ),
        ({"protocol": {"name": "official", "folds": [["a"]]}}, "r.yaml: protocol: 'official' cannot have 'folds'"),
        (
            {"protocol": {"name": "leave-one-speaker-out", "folds": [["a"]]}},
            "r.yaml: protocol: 'leave-one-speaker-out' cannot have 'folds'",
        ),
        ({"protocol": {"name": "random", "dev": "sessions"}}, "r.yaml: protocol: 'random' divides sessions, too"),
        (
            {"protocol": {"name": "random", "dev": "dialogue-partner"}},
            "so dev cannot be 'dialogue-partner': choose dev 'random'",
        ),
        ({"stages": [{"epoch_clips": 9}]}, "r.yaml: stages.0: 'epoch_clips' needs 'sampling: corpora'"),
        (
            {"tasks": {"emotion": None, "valence": {"contrastive": {}}}},
            "r.yaml: tasks.valence: 'contrastive' needs classes, and a dimension has none",
        ),
        ({"tasks": {"emotion": None, "dimensions": {"contrastive": {}}}}, "r.yaml: tasks.dimensions: 'contrastive' ne"),
        (
            {
                "labels": {"target": "distribution"},
                "tasks": {"gender": {}},
                "stages": [{"tasks": ["gender"], "monitor": "js_similarity"}, {"name": "last", "tasks": ["emotion"]}],
            },
            "stage 'train' monitors 'js_similarity', but its first task is 'gender', not 'emotion'",
        ),
        ({"protocol": {"seed": -1}}, "r.yaml: protocol.seed: input should be greater than or equal to 0"),
        ({"encoder": {"name": "cnn2d", "channels": []}}, "r.yaml: encoder.channels: the list should have at least 1"),
        (
            {"encoder": {"name": "cnn-blstm", "channels": [], "kernels": []}},
            "r.yaml: encoder.channels: the list should have at least 1 item",
        ),
        (
            {"stages": [{"optimizer": {"betas": [0.9, 1.0]}}]},
            "r.yaml: stages.0.optimizer.betas.1: input should be less than 1",
        ),
        (
            {"stages": [{"schedule": {"name": "plateau", "factor": 1.0}}]},
            "r.yaml: stages.0.schedule: 'plateau' with a factor of 1 never reduces the rate: choose a smaller one",
        ),
        ({"labels": {"classes": "happy"}}, "r.yaml: labels.classes: input should be a list"),
        ({"labels": {"merge": {"a": 1}}}, "r.yaml: labels.merge.a: input should be a valid string"),
        ({1: 2}, "r.yaml: 1: keys should be strings"),
    ],
)
def test_a_mistake_is_named_with_its_key(values: dict[Any, Any], message: str) -> None:
    with pytest.raises(RecipeError) as error:
        recipes.validate({"name": "r"} | values, where="r.yaml")
    assert message in str(error.value)
    assert error.value.remedy
