"""Which configurations are the same, and which utterances a limit takes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cli_fixtures import TINY, Call, write_corpus, write_recipe
from serein import recipe as recipes
from serein.data import manifest
from serein.data.dataset import durations
from serein.data.manifest import Utterance
from serein.data.splits import make_folds
from serein.errors import RecipeError
from serein.evaluation.predictions import EvalPrediction, read_predictions, write_predictions
from serein.recipe import HuggingFace, Recipe
from serein.reproduce.cost import LOGMEL_MULTIPLY_ADDS, Estimator, network_of, plan, trained_part
from serein.reproduce.reproduction import Request, reproduce
from serein.reproduce.table import Row, Table, load
from serein.reproduce.trials import Trial, configuration_hash, ensemble_rows, fair_part, row_recipe, take_data, trial_of

BASE = {"name": "r", "encoder": {"name": "cnn2d"}}


def hashed(**changes: object) -> str:
    return configuration_hash(recipes.validate({**BASE, **changes}, where="r"), "0")


def test_what_is_no_configuration_changes_no_hash() -> None:
    assert hashed() == hashed(name="other", description="Other words.", seeds=[4, 5])
    assert hashed() == hashed(ensemble_size=1, clips={"pad_mode": "silence"}, stages=[{}])  # defaults, said or unsaid


@pytest.mark.parametrize(
    "change",
    [
        {"ensemble_size": 2},
        {"encoder": {"name": "cnn-blstm"}},  # of nothing but defaults, as is the other
        {"encoder": {"name": "cnn2d", "size": 8}},
        {"encoder": None},
        {"tasks": {"emotion": {"pooling": "std"}}},
        {"stages": [{"optimizer": {"learning_rate": 0.5}}]},
        {"stages": [{"name": "a"}, {"name": "b"}]},
        {"protocol": {"only": ["1"]}},
    ],
)
def test_whatever_else_changes_the_hash(change: dict[str, object]) -> None:
    assert hashed(**change) != hashed()


def test_the_data_is_part_of_the_hash() -> None:
    recipe = Recipe(name="r")
    assert configuration_hash(recipe, "0") != configuration_hash(recipe, "1")


def test_a_unit_has_one_seed_and_a_neutral_name(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    manifest.write(write_corpus(tmp_path, speakers=("anna",), clips=1), path)
    data = take_data(path, None, tmp_path)
    one, other = (trial_of("row", Recipe(name=name, seeds=(7, 8)), 3, data, tmp_path) for name in ("a", "b"))
    assert (one.seed, one.folder.name) == (3, "seed-3")
    assert one == other
    assert (one.folder.parent.name, other.folder.parent.name) == (
        f"a-row-{one.recipe.name}",
        f"b-row-{one.recipe.name}",
    )
    one.folder.mkdir(parents=True)  # whoever comes second takes the name that is there
    assert other.folder == one.folder


# -- rows --------------------------------------------------------------------------------------------------------------


def table_of(folder: Path, **row: object) -> tuple[Table, Row]:
    content = Row.model_validate({"name": "one", **row})
    table = Table(
        path=folder / "tables" / "t.yaml",
        paper="doe2020",
        table=1,
        caption="",
        corpus="TalkShow",
        published_on="test",
        base="../tiny.yaml",
        rows=(content,),
    )
    return table, content


def test_set_comes_after_the_rows_own(tmp_path: Path) -> None:
    write_recipe(tmp_path / "tiny.yaml")
    table, row = table_of(tmp_path, set={"ensemble_size": 2, "labels.merge": {"über": "sad"}, "text.encoder": "a: b"})
    recipe = row_recipe(table, row, ["ensemble_size=3"])
    assert (recipe.ensemble_size, recipe.labels.merge, recipe.text.encoder) == (3, {"über": "sad"}, "a: b")
    assert row_recipe(table, row).ensemble_size == 2


def test_a_row_with_a_recipe_of_its_own(tmp_path: Path) -> None:
    write_recipe(tmp_path / "other.yaml", {"name": "other"})
    table, row = table_of(tmp_path, recipe="../other.yaml")
    assert row_recipe(table, row).name == "other"


def test_a_wrong_row_is_named(tmp_path: Path) -> None:
    write_recipe(tmp_path / "tiny.yaml")
    table, row = table_of(tmp_path, set={"tasks.emotion.poolin": "std"})
    with pytest.raises(RecipeError, match=r"t.yaml: row 'one': .*tasks.emotion.poolin: .*Did you mean 'pooling'"):
        row_recipe(table, row)
    table, row = table_of(tmp_path, recipe="../none.yaml")
    with pytest.raises(RecipeError, match=r"row 'one': .*none.yaml: no such recipe"):
        row_recipe(table, row)


# -- limits ------------------------------------------------------------------------------------------------------------


@given(some.lists(some.tuples(some.sampled_from("ab"), some.sampled_from("xyz")), min_size=1), some.integers(1, 4))
def test_a_limit_is_fair(cells: list[tuple[str, str]], limit: int) -> None:
    utterances = [
        Utterance(id=str(number), audio="a.wav", speaker=speaker, emotion=emotion)
        for number, (speaker, emotion) in enumerate(cells)
    ]
    part = fair_part(utterances, limit)
    assert Counter((u.speaker, u.emotion) for u in part) == {
        cell: min(count, limit) for cell, count in Counter(cells).items()
    }
    assert set(part) <= set(fair_part(utterances, limit + 1))
    assert fair_part(utterances[::-1], limit)[::-1] == part


def test_folds_of_a_part(tmp_path: Path) -> None:
    """Every protocol that divides the whole divides the part."""
    whole = [u.model_copy(update={"split": "test" if u.speaker == "finn" else "train"}) for u in write_corpus(tmp_path)]
    for name in ("speakers-out", "leave-one-speaker-out", "sessions-out", "official"):
        folds = make_folds(fair_part(whole, 1), recipes.Protocol.model_validate({"name": name, "num_folds": 3}))
        assert all(fold.train and fold.dev and fold.test for fold in folds.folds)


def test_a_part_is_written_once_and_counted(tones: Path, tmp_path: Path) -> None:
    data = take_data(tones, 1, tmp_path)
    assert (data.num_utterances, data.num_available, data.limit) == (18, 36, 1)
    assert manifest.digest(manifest.read(data.manifest)) == data.sha256
    written = data.manifest.stat().st_mtime_ns
    assert take_data(tones, 1, tmp_path) == data
    assert data.manifest.stat().st_mtime_ns == written
    assert take_data(tones, None, tmp_path).manifest == tones


# -- a plan -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_plan_counts_what_is_shared(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    manifest.write(write_corpus(tmp_path, speakers=("anna",), clips=1), path)
    stages = [{"name": "a", "epochs": 1}, {"name": "b", "epochs": 1}]
    write_recipe(tmp_path / "r.yaml", {"stages": stages})
    rows = [
        {"name": "one"},
        {"name": "again"},
        {"name": "two", "set": {"stages.1.epochs": 2}},
        {"name": "others", "quoted": True, "published": {"ua": 50}},
    ]
    content = {"paper": "doe2020", "caption": "", "corpus": "T", "published_on": "test", "base": "r.yaml", "rows": rows}
    tables = [Table(path=tmp_path / "t.yaml", table=number, **content) for number in (1, 2)]
    request = Request(num_seeds=2, out=tmp_path / "out")
    first, second = plan([(table, path) for table in tables], request)
    assert (first.num_rows, first.num_runs, first.num_to_train, first.num_stages) == (3, 4, 4, 8)
    assert first.num_shared_stages == 2  # one for each seed
    assert (second.num_runs, second.num_shared, second.num_to_train) == (4, 4, 0)
    assert (second.hours, second.gigabytes) == (0, 0)
    assert first.problem is not None  # one speaker cannot be divided
    assert first.hours is None
    assert not (tmp_path / "out").exists()


def test_a_plan_of_what_cannot_be_trained_fails(tones: Path, tmp_path: Path, serein: Call) -> None:
    write_recipe(tmp_path / "r.yaml", {"labels": {"classes": ["happy", "bored"]}})
    rows = [{"name": "one"}]
    content = {"paper": "doe2020", "caption": "", "corpus": "T", "published_on": "test", "base": "r.yaml", "rows": rows}
    table = tmp_path / "t.yaml"
    table.write_text(json.dumps(content | {"table": 1}))
    call = ("reproduce", table, "--plan", "--data", tones, "--out", tmp_path / "o")
    outcome = serein(*call)
    assert outcome.status == 1
    assert "error: doe2020-table1: labels.classes: no utterance is labelled bored" in outcome.complaint
    assert "cannot be trained" in outcome.out
    assert "\n0 runs to train" in outcome.out
    outcome = serein(*call, "--json")
    assert (outcome.status, "bored" in json.loads(outcome.out)[0]["problem"]) == (1, True)
    write_recipe(tmp_path / "r.yaml", {"labels": {"classes": ["happy", "sad"], "drop": ["angry"]}})
    assert serein(*call).status == 0


@pytest.mark.slow
def test_missing_models_to_start_from_are_planned_and_stop_a_table_before_any_training(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = load(str(Path(__file__).parents[2] / "recipes" / "park2023" / "tables" / "table6.yaml"))
    monkeypatch.chdir(tmp_path)
    request = Request(num_seeds=1, out=tmp_path / "out")
    planned, again = plan([(table, tones)] * 2, request)
    assert again.problem == planned.problem  # a table that shares all rows with an earlier one cannot be trained either
    with pytest.raises(RecipeError, match=r"do not exist: runs/vox-ce \(for specific-ce-k1, ") as error:
        reproduce(table, tones, request, lambda *progress: None)
    assert planned.problem == str(error.value)
    assert ", runs/vox (for specific-arcface-k1, " in planned.problem
    assert "park2023/README.md" in planned.problem
    assert not (tmp_path / "out").exists()
    (planned,) = plan([(table, tones)], replace(request, rows=("alone-arcface-k4",)))
    assert "do not exist" not in str(planned.problem)


def test_costs_by_hand(tones: Path) -> None:
    """Of log-mel networks: every epoch is three passes over train and one over dev; then dev and test once."""
    recipe = Recipe.model_validate(TINY)
    estimator = Estimator(manifest.read(tones))
    sizes = estimator.fold_sizes(recipe)
    assert [sum(size) for size in sizes] == [36, 36]
    clip_s = float(durations(manifest.read(tones)).mean())
    train, dev, test = (sum(numbers) for numbers in zip(*sizes, strict=True))
    epochs = recipe.stages[0].epochs
    expected = clip_s * LOGMEL_MULTIPLY_ADDS * (epochs * (3 * train + dev) + dev + test)
    assert estimator.cost(recipe).multiply_adds == pytest.approx(expected)
    again = estimator.cost(recipe)  # its stage is trained once
    assert again.multiply_adds == pytest.approx(clip_s * LOGMEL_MULTIPLY_ADDS * (dev + test))


@pytest.mark.parametrize(("trainable", "passes"), [(["heads"], 1), (["layers 7-12", "heads"], 5.5), (["all"], 10)])
def test_layers_below_those_that_learn_run_once(tones: Path, trainable: list[str], passes: float) -> None:
    """Ten epochs: dev's half of twelve layers runs once, the upper half in every epoch; dev and test once more."""
    stage = {"epochs": 10, "trainable": trainable}
    backbone = {"name": "huggingface", "source": "facebook/wav2vec2-base"}
    values = {**TINY, "backbone": backbone, "stages": [stage], "tasks": {"emotion": {"pooling": "mean"}}}
    recipe = Recipe.model_validate({name: value for name, value in values.items() if name != "encoder"})
    estimator = Estimator(manifest.read(tones))
    clip_s = float(durations(manifest.read(tones)).mean())
    train, dev, test = (sum(numbers) for numbers in zip(*estimator.fold_sizes(recipe), strict=True))
    trained = trained_part(trainable, 12)
    passes_over_clips = passes * (train + dev) + 10 * 2 * trained * train + dev + test
    expected = clip_s * network_of(recipe.backbone).multiply_adds * passes_over_clips
    assert estimator.cost(recipe).multiply_adds == pytest.approx(expected)


def test_an_adapter_costs_what_the_layers_above_it_cost_and_saves_no_backbone(tones: Path) -> None:
    """LoRA in the upper half takes the time of training that half; its matrices are counted as nothing on disk."""
    backbone = {"name": "huggingface", "source": "openai/whisper-base"}
    values = {**TINY, "backbone": backbone, "tasks": {"emotion": {"pooling": "mean"}}}
    del values["encoder"]
    costs = []
    lora_of_half = {"name": "lora", "layers": [4, 6]}
    for trainable, adapter in ((["layers 4-6"], None), (["adapter"], lora_of_half), (["all"], lora_of_half)):
        recipe = Recipe.model_validate(
            {**values, "adapter": adapter, "stages": [{"epochs": 2, "trainable": trainable}]}
        )
        costs.append(Estimator(manifest.read(tones)).cost(recipe))
    layers, lora, lora_by_default = costs
    assert lora_by_default == lora
    assert lora.multiply_adds == pytest.approx(layers.multiply_adds)
    num_saved = 2 * len(Estimator(manifest.read(tones)).fold_sizes(recipe))  # by the stage, and as a model folder
    assert layers.num_bytes - lora.num_bytes == pytest.approx(num_saved * 4 * network_of(recipe.backbone).num_weights)


@pytest.mark.parametrize(("source", "millions"), [("openai/whisper-base", 19.8), ("openai/whisper-large-v3", 635)])
def test_whisper_is_as_large_as_published(source: str, millions: float) -> None:
    """Whisper-base's encoder has 20.6 million weights, large-v3's 637; positions, norms and biases are not counted."""
    network = network_of(HuggingFace(source=source))
    assert network.num_weights / 1e6 == pytest.approx(millions, rel=0.01)


def test_an_ensemble_of_rows_with_other_dev_sets_is_fitted_to_the_other_folds(tmp_path: Path) -> None:
    trials = {name: [Trial(name, Recipe(name=name, seeds=(0,)), name, tmp_path)] for name in "ab"}
    test = {fold: [f"test {fold} {truth}" for truth in ("calm", "sad")] for fold in "12"}
    folds = json.dumps({"folds": [{"name": fold, "test": ids} for fold, ids in test.items()]})
    for name, (trial,) in trials.items():
        (trial.folder / "folds.json").parent.mkdir(parents=True)
        (trial.folder / "scores.json").write_text("{}")
        (trial.folder / "folds.json").write_text(folds)
        for fold in "12":
            for file, prefix in (("predictions", "test"), ("dev_predictions", f"dev of {name}")):
                rows = [
                    EvalPrediction(
                        id=f"{prefix} {fold} {truth}",
                        truth=truth,
                        prediction="calm",
                        probabilities={"calm": 0.75, "sad": 0.25},
                        speaker=f"{prefix} {fold}",
                        fold=fold,
                    )
                    for truth in ("calm", "sad")
                ]
                write_predictions(rows, trial.folder / f"fold-{fold}" / "seed-0" / f"{file}.jsonl")
    (path,) = ensemble_rows(trials, tmp_path, "test", lambda *progress: None).values()
    assert path.parent.name.startswith("fusion-")
    before = path.read_bytes()
    path.write_text("kept\n")
    ensemble_rows(trials, tmp_path, "test", lambda *progress: None)
    assert path.read_text() == "kept\n"
    own = trials["b"][0].folder / "fold-1" / "seed-0" / "predictions.jsonl"  # as if the row were trained again
    write_predictions([replace(p, probabilities={"calm": 0.5, "sad": 0.5}) for p in read_predictions(own)], own)
    ensemble_rows(trials, tmp_path, "test", lambda *progress: None)
    assert path.read_bytes() not in (before, b"kept\n")
    assert [p.id for p in read_predictions(path)] == [*test["1"], *test["2"]]
