"""Model folders: `model.json`, `labels.json`, `model.safetensors`, `README.md`. Strict, exact, nothing pickled."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from serein.choices import Positive, choose
from serein.data.files import make_readable, sha256, write_text
from serein.errors import ModelError, RecipeError
from serein.model_card import card
from serein.models.hidden_states import ADAPTER_WEIGHT, plain_name
from serein.models.model import HiddenStatesByBranch, SpeechModel, assemble, described_backbone
from serein.models.whisper import Sinusoids
from serein.recipe import MAIN, Branch, Clips, Encoder, Inference, Options, Tasks, Text
from serein.tasks.classes import ClassLabels
from serein.tasks.task import Task

FORMAT = 1
PARTS = ("model.json", "labels.json", "model.safetensors")
MOST_JSON_BYTES = 64 << 20
MOST_JSON_DEPTH = 32
MOST_WHOLE = 1 << 53
MOST_PARAMETERS = 50_000_000_000  # numbers of a model, and
MOST_TENSORS = 20_000  # arrays that they stand in


class ModelOptions(Options):
    """What of a recipe a model needs for inference.

    Attributes:
        answered: The tasks that its last stage learned; heads of others no longer fit what lies below. `None`: all.
    """

    encoder: Encoder | None = None
    branches: dict[str, Branch] = Field(default_factory=dict)
    ensemble_size: int = 1
    tasks: Tasks = Field(default_factory=Tasks)
    clips: Clips = Clips()
    text: Text = Text()
    text_size: int = 0
    inference: Inference = Inference()
    answered: tuple[str, ...] | None = None


class Calibration(Options):
    """What makes probabilities promises: a temperature (`serein.metrics.tempered`).

    Attributes:
        temperature: Above 1 where the model is too sure of itself.
        fitted_on: What the temperature was fitted on, for people.
        num_utterances: How many utterances that were.
    """

    temperature: Positive
    fitted_on: str
    num_utterances: int


class VerificationThreshold(Options):
    """From which cosine on the speaker vectors of two clips count as one voice.

    Attributes:
        threshold: Where the rates of false acceptance and false rejection are equal.
        equal_error_rate: That share, 0 to 1, on the clips that the threshold was chosen on: no promise for others.
        num_clips: How many clips that were, of dev.
        num_speakers: Who spoke in them.
    """

    threshold: float
    equal_error_rate: float
    num_clips: int
    num_speakers: int


@dataclass
class Checkpoint:
    """A model and what belongs to it.

    Attributes:
        model: The assembled model.
        options: What it needs of its recipe.
        tasks: Task -> what its output means.
        training: What it learned from: recipe, data hash, speakers, corpora, licences.
        calibration: For inference; runs keep and evaluate the probabilities before calibration.
        verification: The threshold of a model that learned speakers and had a dev set to choose it on.
        identity: Name and SHA-256 of the model folder that an exported file was made from.
    """

    model: SpeechModel
    options: ModelOptions
    tasks: dict[str, Task]
    training: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    verification: VerificationThreshold | None = None
    folder: Path | None = None
    identity: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """Name of the model: of its folder, or of the run that it comes from."""
        if self.identity is not None:
            return self.identity["name"]
        if self.folder is None:
            return str(self.training.get("recipe", "model"))
        return "/".join(self.folder.resolve().parts[-4:]) if self.folder.name == "model" else self.folder.name

    @property
    def digest(self) -> str:
        """SHA-256 of the model folder: its description, its labels and its weights."""
        if self.identity is not None:
            return self.identity["sha256"]
        return "" if self.folder is None else folder_digest(self.folder)

    @property
    def task(self) -> str:
        """The task that the model answers: the first of its recipe that says classes, else the first."""
        return min(self.answered, key=lambda name: self.tasks[name].spec.problem == "sequence")

    @property
    def answered(self) -> tuple[str, ...]:
        """All tasks that it answers, in the order of recipes."""
        known, answered = self.options.tasks.chosen, self.options.answered
        return tuple(name for name in known if answered is None or name in answered)

    @property
    def class_labels(self) -> ClassLabels:
        """Classes of the task that the model answers.

        Raises:
            ModelError: It answers no classes.
        """
        return self.classes_of(self.task)

    def classes_of(self, task: str) -> ClassLabels:
        """Return the classes of a task.

        Raises:
            ModelError: It has none.
        """
        labels = getattr(self.tasks[task], "class_labels", None)
        if not isinstance(labels, ClassLabels):
            raise ModelError(
                f"answers a {self.tasks[task].spec.problem}, not classes",
                where=f"tasks.{task}",
                remedy="Choose a model of classes; words are written down by: serein transcribe.",
            )
        return labels


def save(
    folder: Path, checkpoint: Checkpoint, card: str, *, backbone: str = "auto", dtype: torch.dtype = torch.float32
) -> None:
    """Write a model folder; the folder is whole or not there.

    Args:
        folder: Replaced when it is a model folder.
        checkpoint: The model and its options.
        card: Text of README.md.
        backbone: `auto` stores a backbone's weights unless they are its source's own; `bundle` stores them always.
        dtype: Of stored weights; float16 halves the folder, and is computed with in float32 after loading.

    Raises:
        ModelError: `folder` exists and is something else.
    """
    if folder.exists() and not is_model_folder(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError("exists and is no model folder", where=folder, remedy="Name a new folder.")
    model = checkpoint.model
    names = (MAIN, *model.branches)
    external = {} if backbone == "bundle" else {name: model.backbone_of(name).untouched_source() for name in names}
    outside = tuple(_prefix(name) for name in names if external.get(name))
    computed = {  # in float32 every bit comes back; a narrower type holds them no better than their formula
        f"{name}.weight"
        for name, each in model.named_modules()
        if dtype != torch.float32 and isinstance(each, Sinusoids) and each.is_computed(dtype)
    }
    state = {
        name: tensor.detach().to(dtype if tensor.dtype == torch.float32 else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if name not in computed and (not name.startswith(outside) or ADAPTER_WEIGHT.search(name))
    }
    backbones = {
        name: {"backbone": model.backbone_of(name).describe(), "backbone_weights": external.get(name) or "inside"}
        for name in names
    }
    description = {
        "format": FORMAT,
        **backbones.pop(MAIN),
        "branch_backbones": backbones,
        **checkpoint.options.model_dump(mode="json"),
        "training": checkpoint.training,
        "calibration": None if checkpoint.calibration is None else checkpoint.calibration.model_dump(),
        "verification": None if checkpoint.verification is None else checkpoint.verification.model_dump(),
    }
    labels = {name: task.to_json() for name, task in checkpoint.tasks.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        (partial / "model.json").write_text(json.dumps(description, indent=2), encoding="utf-8")
        (partial / "labels.json").write_text(json.dumps(labels, indent=2, ensure_ascii=False), encoding="utf-8")
        (partial / "README.md").write_text(card, encoding="utf-8")
        save_file(state, partial / "model.safetensors")
        make_readable(partial / "model.safetensors")
        partial.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def withdraw_calibration(folder: Path, why: str) -> None:
    """Rewrite a model folder that has a temperature: it predicts without one, and its card says why."""
    description = _read_json(folder / "model.json")
    if description["calibration"] is None:
        return
    checkpoint = described(description, _read_json(folder / "labels.json"), folder)
    description |= {"calibration": None, "training": {**checkpoint.training, "calibration": why}}
    said = sorted(checkpoint.answered, key=lambda name: name != checkpoint.task)
    text = card(checkpoint.training["recipe"], [checkpoint.tasks[name] for name in said], description["training"])
    write_text(folder / "README.md", text)
    write_text(folder / "model.json", json.dumps(description, indent=2))


def merge(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a model with its adapters added to the weights that they stand beside; its outputs stay the same.

    Args:
        checkpoint: A loaded one; changes in place.
        folder: See `save`. It holds the backbone, and `peft` is not needed to load it.

    Raises:
        ModelError: It has no adapter, or `folder` exists and is something else.
    """
    model, names = checkpoint.model, (MAIN, *checkpoint.model.branches)
    adapted = [backbone for backbone in map(model.backbone_of, names) if backbone.adapter is not None]
    if not adapted:
        raise ModelError("has no adapter to merge", where=checkpoint.folder, remedy="Use it as it is.")
    for backbone in adapted:
        backbone.merge_adapter()
    assert checkpoint.folder is not None
    save(folder, checkpoint, (checkpoint.folder / "README.md").read_text(encoding="utf-8"))


def load(folder: str | Path, *, backbone: str | Path | None = None) -> Checkpoint:
    """Read a model folder. What it describes is built only when its weights are there and fit.

    Args:
        backbone: Folder of the pretrained backbone, for a model that does not hold it and whose own has moved.

    Raises:
        ModelError: A part is missing or damaged, the weights do not fit the description exactly, or hold the backbone.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError("no such model folder", where=folder, remedy="Train one: serein run --help.")
    missing = [part for part in PARTS if not (folder / part).is_file()]
    if missing:
        raise ModelError(f"{', '.join(missing)} missing", where=folder, remedy="Name a folder that serein saved.")
    description, labels = (_read_json(folder / part) for part in ("model.json", "labels.json"))
    checkpoint = described(description, labels, folder)
    options, path = checkpoint.options, folder / "model.safetensors"
    try:
        heads = {name: (task.options, task.num_outputs) for name, task in checkpoint.tasks.items()}
        own = {MAIN: description, **description["branch_backbones"]}
        outside = {name: each["backbone_weights"] for name, each in own.items()}
        if backbone is not None and all(place == "inside" for place in outside.values()):
            remedy = "Leave out --backbone; in Python backbone=."
            raise ModelError(f"holds its weights, and needs no backbone from {backbone}", where=folder, remedy=remedy)

        def build() -> SpeechModel:
            backbones = {name: described_backbone(each["backbone"]) for name, each in own.items()}
            branches = {name: (backbones[name], branch.encoder) for name, branch in options.branches.items()}
            return assemble(backbones[MAIN], options.encoder, heads, options.ensemble_size, options.text_size, branches)

        with _bounded(), torch.device("meta"):  # no memory is taken
            sketch = build()
        state = _weights(sketch, path, outside, backbone)
        _fill(sketch, state, path, assign=True)
        _fill(model := build(), state, path)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, RecipeError) as error:
        raise _not_described(folder, error) from None
    model.share_backbones()
    checkpoint.model, checkpoint.folder = model.eval(), folder
    return checkpoint


def needs_backbone(folder: Path) -> bool:
    """Tell whether a model folder names a backbone that lies elsewhere."""
    description = _read_json(folder / "model.json")
    parts = (description, *description.get("branch_backbones", {}).values())
    return any(part.get("backbone_weights") != "inside" for part in parts)


class AbsentModel(SpeechModel):
    """Stands for a network that is not loaded: another runtime has it."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.ensemble, self.branches = cast(Any, nn.ModuleList()), cast(Any, nn.ModuleDict())

    def encode(
        self, waveforms: torch.Tensor, num_samples: torch.Tensor, branches: Iterable[str]
    ) -> HiddenStatesByBranch:
        """Refuse."""
        raise ModelError("needs the network in PyTorch", where="--runtime", remedy="Load the model folder.")


def described(description: Mapping[str, Any], labels: Mapping[str, Any], where: Path) -> Checkpoint:
    """Return what model.json and labels.json say of a model, without its network.

    Args:
        where: The folder or the file that they were read from, for errors.

    Raises:
        ModelError: They do not describe a model.
    """
    if description.get("format") != FORMAT:
        raise ModelError(
            f"format {description.get('format')} is not {FORMAT}",
            where=where / "model.json" if where.is_dir() else where,
            remedy="Upgrade serein, or export the model again.",
        )
    try:
        options = ModelOptions.model_validate({name: description[name] for name in ModelOptions.model_fields})
        chosen = options.tasks.chosen
        tasks = {name: choose("task", name).from_json(name, own, labels[name]) for name, own in chosen.items()}
        for task in tasks.values():
            names = task.spec.classes
            if len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"the classes of '{task.name}' are not distinct names")
        if options.answered is not None and not 0 < len(set(options.answered) & set(tasks)) == len(options.answered):
            raise ValueError(f"it answers {', '.join(options.answered) or 'nothing'}, which are not its tasks")
        training = dict(description["training"])
        fitted, threshold = description["calibration"], description["verification"]
        calibration = None if fitted is None else Calibration.model_validate(fitted)
        verification = None if threshold is None else VerificationThreshold.model_validate(threshold)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecipeError) as error:
        raise _not_described(where, error) from None
    return Checkpoint(AbsentModel(), options, tasks, training, calibration, verification)


def _not_described(where: Path, error: Exception) -> ModelError:
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    what = f"model.json and labels.json do not describe a model ({reason})"
    return ModelError(what, where=where, remedy="Copy the folder again.")


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 of a model folder: its description, its labels and its weights."""
    parts = [part for part in PARTS if (folder / part).is_file()]
    return hashlib.sha256("".join(f"{part} {sha256(folder / part)}\n" for part in parts).encode()).hexdigest()


def is_model_folder(folder: str | Path) -> bool:
    """Tell whether a folder has the parts of a model."""
    return all((Path(folder) / part).is_file() for part in PARTS)


def _prefix(branch: str) -> str:
    """Return what the names of a branch's backbone weights start with."""
    return "backbone." if branch == MAIN else f"branches.{branch}.backbone."


def _read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file of a model holds: keys, finite numbers, nothing nested deeply."""
    size = path.stat().st_size
    if size > MOST_JSON_BYTES:
        raise ModelError(f"damaged: {size >> 20} MB of JSON", where=path, remedy="Copy the folder again.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        detail = "nested too deeply" if isinstance(error, RecursionError) else "not JSON"
        raise ModelError(f"damaged: {detail}", where=path, remedy="Copy the folder again.") from None
    if not isinstance(content, dict):
        raise ModelError("damaged: holds no keys", where=path, remedy="Copy the folder again.")
    values: list[tuple[Any, int]] = [(content, 1)]
    while values:
        value, depth = values.pop()
        if depth > MOST_JSON_DEPTH:
            raise ModelError("damaged: nested too deeply", where=path, remedy="Copy the folder again.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ModelError(f"damaged: holds the number {value}", where=path, remedy="Copy the folder again.")
        if isinstance(value, int) and abs(value) > MOST_WHOLE:
            raise ModelError("damaged: holds a number beyond 2^53", where=path, remedy="Copy the folder again.")
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        values += [(item, depth + 1) for item in items]
    return content


@contextmanager
def _bounded() -> Iterator[None]:
    """Stop building a model of more tensors or parameters than any model has; in this thread alone."""
    thread, num_tensors, num_parameters = threading.get_ident(), 0, 0

    def count(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        nonlocal num_tensors, num_parameters
        if threading.get_ident() == thread and parameter is not None:
            num_tensors, num_parameters = num_tensors + 1, num_parameters + parameter.numel()
            if num_tensors > MOST_TENSORS or num_parameters > MOST_PARAMETERS:
                raise ValueError("it would be larger than any model")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _weights(
    sketch: SpeechModel, path: Path, outside: Mapping[str, Any], moved: str | Path | None
) -> dict[str, torch.Tensor]:
    """Return all weights of a model.

    Args:
        outside: Branch -> where its backbone's lie, when they are not in the file.
        moved: Where they lie now.
    """
    try:
        state: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"damaged weights ({error})", where=path, remedy="Copy the folder again.") from None
    names = {plain_name(name): name for name in sketch.state_dict()}
    for branch, origin in outside.items():
        if isinstance(origin, Mapping):
            from serein.models.backbones import HuggingFaceBackbone
            from serein.models.pretrained import weights_hash

            source = origin["source"] if moved is None else str(moved)
            revision = origin.get("revision") if moved is None else None
            try:
                backbone = HuggingFaceBackbone.from_source(source, revision=revision, layers=origin.get("layers"))
            except ModelError as error:
                raise ModelError(
                    f"the model's backbone cannot be loaded: {error.what}",
                    where=source,
                    remedy="Say where it is now: --backbone FOLDER; in Python backbone=.",
                ) from None
            if weights_hash(backbone) != origin["sha256"]:
                raise ModelError(
                    "the weights are not those that the model was trained on",
                    where=source,
                    remedy="Restore that revision, or name a folder with the right ones: --backbone FOLDER.",
                )
            own = {f"{_prefix(branch)}{name}": tensor for name, tensor in backbone.state_dict().items()}
            state |= {names.get(name, name): tensor for name, tensor in own.items()}
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise ModelError(f"damaged weights ({name} is not finite)", where=path, remedy="Copy the folder again.")
    return state


def _fill(model: SpeechModel, state: Mapping[str, torch.Tensor], path: Path, *, assign: bool = False) -> None:
    """Put weights into a model, every one of them: copied, or assigned as they are."""
    try:
        model.load_state_dict(state, strict=True, assign=assign)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise ModelError(
            f"the weights do not fit model.json: {detail}", where=path, remedy="Copy the folder again."
        ) from None
