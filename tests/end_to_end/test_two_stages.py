"""gao2023's own recipe on a tiny wav2vec 2.0 of twelve layers: two stages, every task judged, resumed in either."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.numpy import load_file

from cli_fixtures import Call, everything_in
from serein import recipe as recipes
from serein.data import manifest
from serein.data.files import sha256
from serein.experiment import run as runs
from serein.training.checkpointing import CheckpointCallback

RECIPE = Path(__file__).parents[2] / "recipes" / "gao2023" / "recipe.yaml"
SAID = {"angry": "go", "happy": "a bee", "sad": "oh no"}
TINY: dict[str, Any] = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "conv_dim": [4] * 7,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
CHANGES = (
    "labels.classes=[angry, happy, sad]",
    "labels.merge={}",
    "protocol.name=speakers-out",
    "protocol.num_folds=2",
    "protocol.only=['1']",
    "stages.0.epochs=2",
    "stages.1.epochs=2",
    "stages.0.precision=float32",
    "stages.1.precision=float32",
)


class Killed(BaseException):
    """Stands for a kill where a process of its own would be slow."""


def silent(label: str, done: int, total: int, detail: str) -> None:
    """A `Report` that tells nobody."""


def save_wav2vec2(folder: Path, **options: Any) -> Path:
    """Save a wav2vec 2.0 with random weights: twelve layers as the base model has."""
    torch.manual_seed(0)
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**options)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def spoken(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tones, which are said to say something."""
    path = tmp_path_factory.mktemp("spoken") / "spoken.jsonl"
    said = [u.model_copy(update={"transcript": SAID[u.emotion or ""]}) for u in manifest.read(tones)]
    manifest.write(said, path)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wav2vec2(tmp_path_factory.mktemp("wav2vec2"), **TINY)


def recipe_of(source: Path, *changes: str) -> recipes.Recipe:
    return recipes.load(RECIPE, [f"backbone.source={source}", *CHANGES, *changes])


def start(recipe: recipes.Recipe, data: Path, out: Path, *, is_resumed: bool = False) -> None:
    runs.run(recipe, data, out, resume=is_resumed, num_jobs=1, progress=silent)


@pytest.fixture(scope="module")
def run(source: Path, spoken: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; read only."""
    folder = tmp_path_factory.mktemp("runs") / "two-stage"
    start(recipe_of(source), spoken, folder)
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_stage_2_starts_from_the_weights_of_stage_1_and_names_their_hash(run: Path) -> None:
    unit = run / "fold-1" / "seed-0"
    assert read(unit / "1-emotion" / "initial_weights.json") == {
        "stage": "0-words",
        "weights_sha256": sha256(unit / "0-words" / "weights.safetensors"),
    }
    first, second = (load_file(unit / stage / "weights.safetensors") for stage in ("0-words", "1-emotion"))
    moved = {name for name in first if (first[name] != second[name]).any()}
    layers = {int(name.split("encoder.layers.")[1].split(".")[0]) for name in moved if "encoder.layers." in name}
    assert layers == set(range(4, 12))  # 5 to 12 of the paper; the lower four, CNN and projection are frozen
    assert {name.split(".heads.")[1].split(".")[0] for name in moved if ".heads." in name} == {"emotion"}
    assert all(".heads." in name or "encoder.layers." in name for name in moved)


def test_gender_reads_layer_4_beside_the_last(run: Path) -> None:
    weights = load_file(run / "fold-1" / "seed-0" / "0-words" / "weights.safetensors")
    assert weights["ensemble.0.heads.gender.output.weight"].shape == (2, 16)
    assert weights["ensemble.0.heads.emotion.output.weight"].shape == (3, 8)


def test_each_stage_scores_its_own_tasks_and_their_gradients(run: Path) -> None:
    unit = run / "fold-1" / "seed-0"
    first, second = (
        json.loads((unit / stage / "metrics.jsonl").read_text().splitlines()[-1]) for stage in ("0-words", "1-emotion")
    )
    assert {"dev_word_accuracy", "dev_impossible", "dev_gender_ua", "train_asr_loss", "train_gender_loss"} <= set(first)
    assert -1.0 <= first["cosine_asr_gender"] <= 1.0
    assert "dev_ua" in second
    assert not any(name.startswith("cosine") or "gender" in name or "asr" in name for name in second)


def test_every_task_is_judged_by_the_last_stage_that_learned_it(run: Path, spoken: Path, serein: Call) -> None:
    unit = run / "fold-1" / "seed-0"
    assert (unit / "0-words" / "model" / "model.json").exists()
    tested = {u.id: u for u in manifest.read(run / "fold-1" / "test.jsonl")}
    for task, field in (("gender", "gender"), ("asr", "transcript")):
        lines = [json.loads(line) for line in (unit / f"{task}_predictions.jsonl").read_text().splitlines()]
        assert {line["id"]: line["truth"] for line in lines} == {i: getattr(u, field) for i, u in tested.items()}
    outcome = serein("report", run, "--json")
    tasks = json.loads(outcome.out)["tasks"]
    assert {name: (task["name"], task["stage"]) for name, task in tasks.items()} == {
        "gender": ("UA", "words"),
        "asr": ("word error rate", "words"),
    }
    assert read(run / "scores.json")["tasks"] == tasks
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Other tasks" in page
    assert "asr and gender" in page
    assert sha256(unit / "0-words" / "weights.safetensors")[:16] in page


def test_the_model_of_stage_1_has_its_tasks_and_that_of_stage_2_emotions_alone(run: Path, serein: Call) -> None:
    unit, test = run / "fold-1" / "seed-0", run / "fold-1" / "test.jsonl"
    transcribed = serein("transcribe", "--model", unit / "0-words" / "model", test, "--json")
    assert transcribed.status == 0
    lines = [json.loads(line) for line in transcribed.out.splitlines()]
    stored = [json.loads(line) for line in (unit / "asr_predictions.jsonl").read_text().splitlines()]
    assert [line["transcript"] for line in lines] == [line["prediction"] for line in stored]
    rate = read(run / "scores.json")["tasks"]["asr"]["value"] if (run / "scores.json").exists() else None
    assert "word error rate" in transcribed.err
    assert rate is None or f"word error rate {rate:.1f} %" in transcribed.err
    refused = serein("transcribe", "--model", unit / "model", test)
    assert "predicts emotion, not transcripts" in refused.complaint
    refused = serein("transcribe", "--model", unit / "0-words" / "model", test, "--language", "de")
    assert "does not support the language 'de'. Leave out --language." in refused.complaint
    predicted = serein("predict", "--model", unit / "0-words" / "model", test, "--json")
    first = json.loads(predicted.out.splitlines()[0])
    assert (first["task"], list(first["tasks"])) == ("gender", ["asr"])
    last = serein("predict", "--model", unit / "model", test, "--json")
    assert json.loads(last.out.splitlines()[0])["tasks"] == {}


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_run_that_is_stopped_in_either_stage_goes_on_to_the_same(
    epochs: int, run: Path, source: Path, spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointCallback, "on_train_epoch_end", killing(epochs))
        with pytest.raises(Killed):
            start(recipe_of(source), spoken, tmp_path / "r")
    assert (tmp_path / "r" / "fold-1" / "seed-0" / ("0-words" if epochs == 1 else "1-emotion") / "resume.ckpt").exists()
    start(recipe_of(source), spoken, tmp_path / "r", is_resumed=True)
    whole, resumed = (everything_in(folder / "fold-1" / "seed-0") for folder in (run, tmp_path / "r"))
    names = [name for name in whole if name.endswith((".safetensors", "predictions.jsonl", "initial_weights.json"))]
    assert len(names) == 10
    assert [name for name in names if whole[name] != resumed.get(name)] == []


def killing(count: int) -> Callable[..., None]:
    """Return an end of an epoch after which, the `count`-th time, the process dies."""
    real, left = CheckpointCallback.on_train_epoch_end, [count]

    def end(self: CheckpointCallback, *arguments: Any) -> None:
        real(self, *arguments)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    return end


@pytest.mark.slow
def test_the_real_configuration_runs(spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wav2vec2-base's own sizes with random weights: 94 million weights, one step of each stage."""
    monkeypatch.setenv("SEREIN_CACHE", str(tmp_path / "cache"))
    source = save_wav2vec2(tmp_path / "base")
    few = [u for u in manifest.read(spoken) if u.id.endswith("-0")]
    manifest.write(few, tmp_path / "few.jsonl")
    recipe = recipe_of(source, "stages.0.epochs=1", "stages.1.epochs=1")
    start(recipe, tmp_path / "few.jsonl", tmp_path / "r")
    unit = tmp_path / "r" / "fold-1" / "seed-0"
    assert (unit / "predictions.jsonl").exists()
    assert load_file(unit / "0-words" / "weights.safetensors")["ensemble.0.heads.gender.output.weight"].shape == (
        2,
        1536,
    )
