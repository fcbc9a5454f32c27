"""Stages: what is handed on, what is kept, when a stage stops, which rates it takes, what it never looks at."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cli_fixtures import write_recipe
from serein import recipe as recipes
from serein.data.dataset import Targets
from serein.device import DistributedInfo
from serein.experiment import data as experiment_data
from serein.experiment import fold as folds
from serein.experiment.data import Experiment
from serein.models.model import SpeechModel, assemble, new_backbone
from serein.recipe import Recipe
from serein.tasks.classes import ClassTask
from serein.training import checkpointing, stages
from serein.training import module as training_module
from serein.training.module import StageModule
from serein.training.stages import TrainingData, fit_backbones, train_stage

RATE = 0.01
SGD = {"name": "sgd", "learning_rate": RATE, "momentum": 0.0, "weight_decay": 0.0}
CONSTANT = {"name": "constant"}


def silent(label: str, done: int, total: int, detail: str) -> None:
    """A `Report` that tells nobody."""


class Ground:
    """The tiny recipe's first fold, a new model, and a folder: one stage is trained per call of `train`."""

    def __init__(self, tones: Path, folder: Path, changes: Mapping[str, Any], stage: Mapping[str, Any]) -> None:
        self.recipe: Recipe = recipes.load(write_recipe(folder / "r.yaml", changes, stage))
        self.experiment: Experiment = experiment_data.prepare(self.recipe, tones, silent)
        self.fold = self.experiment.folds.folds[0]
        self.task = self.experiment.main
        self.targets = self.task.targets(self.experiment.utterances)
        self.train_positions = self.experiment.positions(self.fold.train)
        self.dev_positions = self.experiment.positions(self.fold.dev)
        self.folder = folder

    def data(self) -> TrainingData:
        """Return what a stage learns from."""
        return TrainingData(
            self.experiment.recordings,
            {"emotion": self.targets},
            self.train_positions,
            self.dev_positions,
            self.recipe.clips,
        )

    def model(self) -> SpeechModel:
        """Return a model with the first weights, the same at every call."""
        torch.manual_seed(3)
        tasks = {"emotion": (self.task.options, self.task.num_outputs)}
        model = assemble(new_backbone(self.recipe.backbone), self.recipe.encoder, tasks)
        fit_backbones(model, self.data(), report=silent, label="x")
        return model

    def train(self, model: SpeechModel | None = None, name: str = "stage") -> SpeechModel:
        """Train the recipe's only stage, and return the model."""
        model = model or self.model()
        (stage,) = self.recipe.stages
        train_stage(
            model, {"emotion": self.task}, stage, self.data(), self.folder / name, seed=5, report=silent, label="x"
        )
        return model

    def history(self, name: str = "stage") -> list[dict[str, float]]:
        """Return the lines of metrics.jsonl."""
        return [json.loads(line) for line in (self.folder / name / "metrics.jsonl").read_text().splitlines()]


Make = Callable[..., Ground]


@pytest.fixture
def make(tones: Path, tmp_path: Path) -> Make:
    """Return `make(changes, **stage)`: a ground of its own for a changed tiny recipe."""
    count = 0

    def build(changes: Mapping[str, Any] | None = None, **stage: Any) -> Ground:
        nonlocal count
        count += 1
        folder = tmp_path / str(count)
        folder.mkdir()
        return Ground(tones, folder, changes or {}, stage)

    return build


def weights_of(model: SpeechModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def scripted(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """Let dev UA be these, epoch by epoch."""
    left = iter(scores)
    monkeypatch.setattr(ClassTask, "scores", lambda self, truth, output: {"ua": next(left)})


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The weights that a stage wrote, in their order."""
    written = []
    real = checkpointing.save_weights

    def save(module: StageModule, path: Path) -> None:
        written.append(weights_of(module.eval_model))
        real(module, path)

    monkeypatch.setattr(checkpointing, "save_weights", save)
    return written


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of every step."""
    taken: list[float] = []
    real = StageModule.optimizer_step

    def step(self: StageModule, epoch: int, batch: int, optimizer: Any, *others: Any, **named: Any) -> None:
        taken.append(optimizer.param_groups[-1]["lr"])
        real(self, epoch, batch, optimizer, *others, **named)

    monkeypatch.setattr(StageModule, "optimizer_step", step)
    return taken


# -- one after the other ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_stage_starts_from_the_one_before(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "stages": [
            {"name": "first", "epochs": 2, "precision": "float32"},
            {"name": "second", "epochs": 1, "precision": "float32", "trainable": ["heads"]},
            {"name": "third", "epochs": 1, "precision": "float32"},
        ]
    }
    recipe = recipes.load(write_recipe(tmp_path / "r.yaml", values))
    experiment = experiment_data.prepare(recipe, tones, silent)
    started = []

    def spy(model: SpeechModel, *others: Any, **named: Any) -> None:
        started.append(weights_of(model))
        train_stage(model, *others, **named)

    monkeypatch.setattr(folds, "train_stage", spy)
    fold = experiment.folds.folds[0]
    checkpoint = folds.train_fold(experiment, fold, 0, tmp_path / "unit", silent, label="x")
    handed_on = [
        load_file(tmp_path / "unit" / name / "weights.safetensors") for name in ("0-first", "1-second", "2-third")
    ]
    assert_same(started[1], handed_on[0])
    assert_same(started[2], handed_on[1])
    assert_same(checkpoint.model.state_dict(), handed_on[2])
    moved = {name for name in handed_on[0] if not torch.equal(handed_on[0][name], handed_on[1][name])}
    assert moved
    assert all(".heads." in name for name in moved)  # nor do the running statistics of a frozen encoder
    assert any(".encoder." in name for name in handed_on[1] if not torch.equal(handed_on[1][name], handed_on[2][name]))


@pytest.mark.slow
def test_a_stage_that_is_done_is_only_read(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ground = make()
    trained = weights_of(ground.train())
    monkeypatch.setattr(stages, "build_trainer", lambda *arguments: pytest.fail("trained again"))
    assert_same(trained, weights_of(ground.train()))
    assert sorted(path.name for path in (ground.folder / "stage").iterdir()) == [
        "metrics.jsonl",
        "tensorboard",
        "weights.safetensors",
    ]


# -- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_patience_stops_early_and_keeps_the_best(
    make: Make, saved: list[dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, 0.2, 0.9, 0.5, 0.9, 0.95)  # as good is no better
    ground = make(epochs=9, patience=2)
    model = ground.train()
    assert [line["dev_ua"] for line in ground.history()] == pytest.approx([0.2, 0.9, 0.5, 0.9])
    assert len(saved) == 2
    assert_same(saved[1], weights_of(model))
    assert_same(saved[1], load_file(ground.folder / "stage" / "weights.safetensors"))


@pytest.mark.slow
def test_best_without_patience_trains_on(
    make: Make, saved: list[dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, 0.5, 0.1, 0.1, 0.7, 0.6)
    ground = make(epochs=5)
    model = ground.train()
    assert len(ground.history()) == 5
    assert_same(saved[-1], weights_of(model))
    assert len(saved) == 2


@pytest.mark.parametrize(("scores", "best"), [((math.nan, 0.5, math.nan, 0.4), 1), ((math.nan, math.nan), 1)])
def test_a_score_that_is_not_a_number_is_kept_only_until_there_is_another(
    make: Make,
    saved: list[dict[str, torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
    scores: tuple[float, ...],
    best: int,
) -> None:
    scripted(monkeypatch, *scores)
    ground = make(epochs=len(scores))
    model = ground.train()
    assert len(saved) == best + 1
    assert_same(saved[best], weights_of(model))
    assert len(ground.history()) == len(scores)


@pytest.mark.slow
def test_last_is_kept_when_asked(
    make: Make, saved: list[dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, 0.9, 0.5, 0.1)
    model = make(epochs=3, checkpoint="last").train()
    assert len(saved) == 3
    assert_same(saved[2], weights_of(model))


@pytest.mark.slow
def test_without_dev_the_last_is_kept(make: Make, saved: list[dict[str, torch.Tensor]]) -> None:
    ground = make({"protocol": {"dev": "none"}}, epochs=3)
    model = ground.train()
    assert_same(saved[2], weights_of(model))
    assert all("dev_ua" not in line for line in ground.history())


@pytest.mark.slow
def test_average_is_what_is_judged_and_kept(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: the first average is the weights; then decay 0.5, but (1 + n) / (10 + n) as long as that is less."""
    trail: list[dict[str, torch.Tensor]] = []
    judged_by = []
    real_step, real_validation = StageModule.optimizer_step, StageModule.validation_step

    def step(self: StageModule, *arguments: Any, **named: Any) -> None:
        real_step(self, *arguments, **named)
        trail.append(weights_of(self.model))

    def validation_step(self: StageModule, *arguments: Any) -> None:
        judged_by.append(weights_of(self.eval_model))
        real_validation(self, *arguments)

    monkeypatch.setattr(StageModule, "optimizer_step", step)
    monkeypatch.setattr(StageModule, "validation_step", validation_step)
    kept = weights_of(make(epochs=4, ema_decay=0.5, checkpoint="last").train())
    average = {name: tensor.double() for name, tensor in trail[0].items()}
    for seen, weights in enumerate(trail[1:], start=1):
        decay = min(0.5, (1 + seen) / (10 + seen))
        average = {name: decay * average[name] + (1 - decay) * weights[name].double() for name in average}
    assert len(trail) > 10
    for name, tensor in kept.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), average[name], rtol=1e-4, atol=1e-5)
    assert_same(kept, judged_by[-1])
    assert any(not torch.equal(kept[name], trail[-1][name]) for name in kept)


# -- learning rates, by hand -----------------------------------------------------------------------------------------


def six_steps(make: Make, schedule: Mapping[str, Any]) -> Ground:
    """Train two epochs of three steps each with SGD."""
    ground = make(epochs=2, optimizer=SGD, schedule=schedule, batches={"max_clips": 4, "max_seconds": 1000.0})
    assert len(ground.train_positions) == 12
    ground.train()
    return ground


def one_cycle(step: int, warmup: float, total: int, final_divisor: float = 1000) -> float:
    """Smith 2018 with cosines: from a 25th up to the rate, then down to a small part of where it began."""
    top = warmup * total - 1
    low, high, end = RATE / 25, RATE, RATE / 25 / final_divisor
    start, stop, share = (low, high, step / top) if step <= top else (high, end, (step - top) / (total - 1 - top))
    return stop + (start - stop) / 2 * (1 + math.cos(math.pi * share))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"name": "constant"}, [RATE] * 6),
        ({"name": "linear", "warmup": 0.0}, [RATE * share for share in (1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)]),
        ({"name": "linear", "warmup": 1 / 3}, [RATE * share for share in (0.5, 1, 1, 0.75, 0.5, 0.25)]),
        (
            {"name": "cosine", "warmup": 1 / 3},
            [RATE * share for share in (0.5, 1, 1, 0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4)],
        ),
        ({"name": "exponential", "factor": 0.5}, [RATE] * 3 + [RATE / 2] * 3),
        ({"name": "one-cycle", "warmup": 0.5}, [one_cycle(step, 0.5, 7) for step in range(6)]),
        (
            {"name": "one-cycle", "warmup": 0.5, "final_divisor": 10000},
            [one_cycle(step, 0.5, 7, 10000) for step in range(6)],
        ),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_learning_rates(make: Make, rates: list[float], schedule: dict[str, Any], expected: list[float]) -> None:
    six_steps(make, schedule)
    assert rates == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_plateau_lowers_the_rate_when_dev_stands_still(
    make: Make, rates: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, 0.5, 0.5, 0.5, 0.6, 0.6, 0.6)  # patience 1: the second epoch without gain is one too many
    make(epochs=6, optimizer=SGD, schedule={"name": "plateau", "factor": 0.1, "patience": 1}).train()
    steps = len(rates) // 6
    assert rates[::steps] == pytest.approx([RATE, RATE, RATE, RATE / 10, RATE / 10, RATE / 10])


@pytest.mark.slow
def test_a_stage_that_monitors_the_loss_keeps_the_least(make: Make) -> None:
    options: dict[str, Any] = {"optimizer": SGD | {"learning_rate": 2.0}, "schedule": {"name": "constant"}}
    ground = make(epochs=4, monitor="loss", **options)
    model = ground.train()
    losses = [line["dev_loss"] for line in ground.history()]
    again = make(epochs=1 + losses.index(min(losses)), checkpoint="last", **options).train()
    assert all(torch.equal(kept, own) for kept, own in zip(model.parameters(), again.parameters(), strict=True))


def test_a_plateau_of_the_loss(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stepped: list[float] = []
    real = torch.optim.lr_scheduler.ReduceLROnPlateau.step
    monkeypatch.setattr(
        torch.optim.lr_scheduler.ReduceLROnPlateau,
        "step",
        lambda self, value, *more: (stepped.append(float(value)), real(self, value, *more))[1],
    )
    schedule = {"name": "plateau", "factor": 0.1, "patience": 1, "monitor": "loss"}
    ground = make(epochs=2, optimizer=SGD, schedule=schedule)
    ground.train()
    assert stepped == pytest.approx([line["dev_loss"] for line in ground.history()], rel=1e-5)


def test_backbone_has_its_own_rate_and_vectors_do_not_decay(make: Make) -> None:
    ground = make(optimizer={"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.3})
    (stage,) = ground.recipe.stages
    module = StageModule(ground.model(), {"emotion": ground.task}, stage, num_steps=1, seed=0)
    optimizer = module.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] == 0.3}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(module.model.parameters()))


# -- steps -----------------------------------------------------------------------------------------------------------


def test_accumulated_batches_make_one_step(make: Make, rates: list[float]) -> None:
    ground = make(epochs=2, optimizer=SGD, schedule={"name": "linear", "warmup": 0.0}, batches={"accumulate": 2})
    ground.train()
    assert rates == pytest.approx([RATE * share for share in (1, 3 / 4, 2 / 4, 1 / 4)])  # 3 batches: steps of 2 and 1


def differences(make: Make, **stage: Any) -> list[torch.Tensor]:
    """Return what each step of SGD at rate 1 takes off the weights, all weights in one vector: the clipped gradient."""
    ground = make(epochs=1, optimizer=SGD | {"learning_rate": 1.0}, schedule=CONSTANT, **stage)
    vectors: list[torch.Tensor] = []
    real = StageModule.optimizer_step

    def step(self: StageModule, *arguments: Any, **named: Any) -> None:
        before = torch.cat([p.detach().flatten().clone() for p in self.model.parameters()])
        real(self, *arguments, **named)
        vectors.append(before - torch.cat([p.detach().flatten() for p in self.model.parameters()]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageModule, "optimizer_step", step)
        ground.train()
    return vectors


@pytest.mark.slow
def test_gradients_are_clipped_by_norm_and_by_value(make: Make) -> None:
    free = differences(make)
    assert all(vector.norm() > 0.05 for vector in free)
    for vector in differences(make, clip_norm=0.05):
        assert vector.norm() == pytest.approx(0.05, rel=1e-3)
    for vector in differences(make, clip_value=0.001):
        assert vector.abs().max() == pytest.approx(0.001, rel=1e-3)
    for vector in differences(make, clip_value=0.001, clip_norm=0.005):
        assert vector.norm() <= 0.005 * 1.001
    assert torch.equal(differences(make, clip_norm=1e9)[0], free[0])


# -- what is learned from --------------------------------------------------------------------------------------------


def test_class_weights_come_from_the_training_side(make: Make) -> None:
    ground = make({"tasks": {"emotion": {"class_weights": "balanced"}}}, epochs=1)
    classes = ground.targets.values.argmax(axis=1)
    angry, *others = [[p for p in ground.train_positions if classes[p] == index] for index in range(3)]
    ground.train_positions = sorted([angry[0], *others[0], *others[1]])  # 1, 4, 4; dev and test stay balanced
    ground.train()
    assert ground.task.class_weights is not None
    assert ground.task.class_weights.tolist() == pytest.approx([9 / 3 / 1, 9 / 3 / 4, 9 / 3 / 4])


def without_targets(ground: Ground, positions: list[int], garbage: int) -> None:
    """Take some targets away; what stands in their place must not count."""
    values, is_known = ground.targets.values.copy(), ground.targets.is_known.copy()
    values[positions] = np.eye(3, dtype=np.float32)[garbage]
    is_known[positions] = False
    ground.targets = Targets(values, is_known)


@pytest.mark.slow
def test_utterances_without_a_target_are_masked(make: Make) -> None:
    trained = []
    for garbage in (0, 1):
        ground = make(epochs=2)
        without_targets(ground, [*ground.train_positions[::2], *ground.dev_positions[::2]], garbage)
        trained.append((weights_of(ground.train()), [line["dev_ua"] for line in ground.history()]))
    assert_same(trained[0][0], trained[1][0])
    assert trained[0][1] == trained[1][1]


def test_batches_without_any_target_change_nothing_but_do_not_fail(make: Make) -> None:
    ground = make(epochs=1, optimizer=SGD, schedule=CONSTANT)
    before = weights_of(ground.model())
    without_targets(ground, ground.train_positions, 0)
    after = weights_of(ground.train())
    learned = [name for name, _ in ground.model().named_parameters()]
    assert_same({name: before[name] for name in learned}, {name: after[name] for name in learned})


def test_normalisation_is_of_the_training_side(make: Make) -> None:
    ground = make()
    whole = weights_of(ground.model())
    ground.dev_positions = ground.dev_positions[:1]
    assert_same(whole, weights_of(ground.model()))
    ground.train_positions = ground.train_positions[:4]
    assert not torch.equal(whole["backbone.mean"], ground.model().state_dict()["backbone.mean"])


# -- what is left behind ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_metrics_have_a_line_per_epoch(make: Make) -> None:
    ground = make(epochs=3)
    ground.train()
    lines = ground.history()
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    for line in lines:
        assert line.keys() == {
            "epoch", "train_loss", "dev_ua", "dev_wa", "dev_macro_f1", "dev_loss",
            "learning_rate", "seconds", "audio_s_per_s",
        }  # fmt: skip
        assert 0 <= line["dev_ua"] <= 1
        assert line["seconds"] > 0


@pytest.mark.slow
def test_tensorboard_shows_every_epoch(make: Make) -> None:
    pytest.importorskip("tensorboard", reason="pip install 'serein[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ground = make(epochs=3)
    ground.train()
    events = EventAccumulator(str(ground.folder / "stage" / "tensorboard"))
    events.Reload()
    lines = ground.history()
    for name in ("train_loss", "dev_ua", "dev_loss"):
        shown = [event.value for event in events.Scalars(name)]
        assert shown == pytest.approx([line[name] for line in lines])


@pytest.mark.slow
def test_bfloat16_trains_and_keeps_float32_weights(make: Make) -> None:
    ground = make(epochs=2, precision="bfloat16")
    model = ground.train()
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32, torch.int64}
    exact = make(epochs=2, precision="float32")
    exact.train()
    losses = [[line["train_loss"] for line in each.history()] for each in (ground, exact)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("amx", "avx", "expected"), [(False, False, "float32"), (True, False, "bfloat16"), (False, True, "bfloat16")]
)
def test_auto_takes_bfloat16_where_the_processor_has_it(
    amx: bool, avx: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert stages.chosen_precision("auto", torch.device("cpu")) == expected
    assert stages.chosen_precision("float32", torch.device("cpu")) == "float32"
    assert stages.chosen_precision("auto", torch.device("mps")) == "float32"


@pytest.mark.parametrize(("num_tasks", "strategy"), [(1, "ddp"), (2, "ddp_find_unused_parameters_true")])
def test_a_batch_without_targets_of_a_task_is_no_error_for_processes(
    num_tasks: int, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipes.load(write_recipe(tmp_path / "r.yaml"))
    heads = dict.fromkeys(("emotion", "gender")[:num_tasks], (recipe.tasks.chosen["emotion"], 3))
    model = assemble(new_backbone(recipe.backbone), recipe.encoder, heads)
    monkeypatch.setattr(stages, "distributed_info", lambda: DistributedInfo(0, 2, 2))
    monkeypatch.setattr(stages.lightning, "Trainer", Mock())
    stages.build_trainer(model, recipe.stages[0], tmp_path, [], torch.device("cpu"))
    assert stages.lightning.Trainer.call_args.kwargs["strategy"] == strategy


def test_a_dev_batch_that_several_processes_have_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer batches than processes, some processes take the first one too."""
    logged: dict[str, float] = {}
    module = SimpleNamespace(
        stage=SimpleNamespace(monitor="loss", schedule=SimpleNamespace(monitor=None, name="constant")),
        _dev={},
        _dev_losses={0: torch.tensor([4.0, 2.0])},  # of the batch that starts with clip 0: sum over clips, their number
        log=lambda name, value, **_: logged.update({name: value}),
    )
    others = [{3: torch.tensor([1.0, 3.0])}, {0: torch.tensor([4.0, 2.0])}]
    monkeypatch.setattr(training_module, "all_gather", lambda own: [own, *others] if own else [own])
    StageModule.on_validation_epoch_end(module)  # type: ignore[arg-type]
    assert logged == {"dev_loss": 1.0}


def test_a_batch_script_of_slurm_trains_as_one_process(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `srun`, even if the job reserved several tasks: Lightning would refuse `--ntasks`."""
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "0")
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    make(epochs=1).train()
