"""Model folders: `model.json`, `labels.json`, `model.safetensors`, `README.md`. Strict, exact, nothing pickled."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from serein.choices import Positive, choose
from serein.data.files import make_readable, replacing_folder, sha256, write_text
from serein.data.manifest import Utterance
from serein.data.protocols import learned_speakers
from serein.errors import ModelError, RecipeError
from serein.model_card import card
from serein.models.hidden_states import ADAPTER_WEIGHT, plain_name
from serein.models.model import HiddenStatesByBranch, SpeechModel, assemble, described_backbone
from serein.models.whisper import Sinusoids
from serein.recipe import MAIN, Branch, Clips, Encoder, FeatureNormalisation, Inference, Options, Tasks, Text
from serein.tasks.classes import ClassLabels
from serein.tasks.task import Task

FORMAT = 1
LATER_OPTIONS = {"feature_normalisation"}  # absent in folders that earlier versions wrote
PARTS = ("model.json", "labels.json", "model.safetensors")
MOST_JSON_BYTES = 64 << 20
MOST_JSON_DEPTH = 32
MOST_WHOLE = 1 << 53
MOST_PARAMETERS = 50_000_000_000  # of a model
MOST_TENSORS = 20_000  # that contain its parameters


class ModelOptions(Options):
    """The options of a recipe that a model needs for inference.

    Attributes:
        answered: Tasks that its last stage trained; the heads of others no longer fit the layers below. `None`: all.
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
    feature_normalisation: FeatureNormalisation | None = None


class Calibration(Options):
    """Calibration of the probabilities by a temperature (`serein.metrics.tempered`).

    Attributes:
        temperature: Above 1 if the model is overconfident.
        fitted_on: Data that the temperature was fitted on, in words.
        num_utterances: Number of utterances in those data.
    """

    temperature: Positive
    fitted_on: str
    num_utterances: int


class VerificationThreshold(Options):
    """Minimum cosine of the speaker vectors of two clips that count as the same speaker.

    Attributes:
        threshold: Cosine at which the rates of false acceptance and false rejection are equal.
        equal_error_rate: That rate, 0 to 1, on the clips that the threshold was chosen on; not guaranteed for others.
        num_clips: Number of those clips, from the dev set.
        num_speakers: Number of their speakers.
    """

    threshold: float
    equal_error_rate: float
    num_clips: int
    num_speakers: int


@dataclass
class Checkpoint:
    """A model with everything that belongs to it.

    Attributes:
        model: The assembled model.
        options: The options of its recipe that it needs.
        tasks: Name -> task, which defines the meaning of its output.
        training: Description of its training: recipe, data hash, speakers, corpora, licences.
        calibration: For inference; runs store and evaluate the probabilities before calibration.
        verification: Threshold of a model that was trained on speakers and had a dev set to choose it on.
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
        """Name of the model: that of its folder, or that of the run it comes from."""
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
        return "" if self.folder is None else parts_digest(self.folder)

    @property
    def task(self) -> str:
        """The main task of the model: the first of its recipe that does not predict sequences, else the first."""
        return min(self.answered, key=lambda name: self.tasks[name].spec.has_transcript)

    @property
    def answered(self) -> tuple[str, ...]:
        """All tasks that the model predicts, in the order of recipes."""
        known, answered = self.options.tasks.chosen, self.options.answered
        return tuple(name for name in known if answered is None or name in answered)

    def learned_speakers(self, utterances: Iterable[Utterance], name: str) -> list[str]:
        """Return the speakers of utterances that the model was trained on, sorted.

        Args:
            name: Name of the manifest of the utterances.
        """
        return learned_speakers(utterances, self.training.get("speakers", []), name)

    @property
    def class_labels(self) -> ClassLabels:
        """Classes of the main task.

        Raises:
            ModelError: It does not predict classes.
        """
        return self.classes_of(self.task)

    def classes_of(self, task: str) -> ClassLabels:
        """Return the classes of a task.

        Raises:
            ModelError: The task has no classes.
        """
        labels = getattr(self.tasks[task], "class_labels", None)
        if not isinstance(labels, ClassLabels):
            raise ModelError(
                f"predicts a {self.tasks[task].spec.problem}, not classes",
                where=f"tasks.{task}",
                remedy="Choose a model that predicts classes; for transcripts use: serein transcribe.",
            )
        return labels


def save(
    folder: Path, checkpoint: Checkpoint, card: str, *, backbone: str = "auto", dtype: torch.dtype = torch.float32
) -> None:
    """Write a model folder; it is either complete or absent.

    Args:
        folder: Replaced if it is a model folder.
        checkpoint: The model and its options.
        card: Text of README.md.
        backbone: `auto` stores a backbone's weights unless they equal those of its source; `bundle` always stores them.
        dtype: Type of the stored weights; float16 halves the folder's size, and loaded weights compute in float32.

    Raises:
        ModelError: `folder` exists and is not a model folder.
    """
    require_replaceable(folder)
    model = checkpoint.model
    names = (MAIN, *model.branches)
    external = {} if backbone == "bundle" else {name: model.backbone_of(name).untouched_source() for name in names}
    outside = tuple(_prefix(name) for name in names if external.get(name))
    computed = {  # float32 restores every bit; a narrower type would be no more accurate than their formula
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
    with replacing_folder(folder) as partial:
        (partial / "model.json").write_text(json.dumps(description, indent=2), encoding="utf-8")
        (partial / "labels.json").write_text(json.dumps(labels, indent=2, ensure_ascii=False), encoding="utf-8")
        (partial / "README.md").write_text(card, encoding="utf-8")
        save_file(state, partial / "model.safetensors")
        make_readable(partial / "model.safetensors")


def require_replaceable(folder: Path) -> None:
    """Raise an error if a folder that is not a model's would be overwritten.

    Raises:
        ModelError: It exists, has content and is not a model folder.
    """
    if folder.exists() and not is_model_folder(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError("exists and is not a model folder", where=folder, remedy="Name a new folder.")


def withdraw_calibration(folder: Path, why: str) -> None:
    """Remove the temperature from a model folder, if it has one, and state the reason in its card."""
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
    """Write a model with its adapters merged into the weights that they adapt; its outputs stay the same.

    Args:
        checkpoint: A loaded checkpoint, modified in place.
        folder: See `save`. It contains the backbone, and `peft` is not needed to load it.

    Raises:
        ModelError: The model has no adapter, or `folder` exists and is not a model folder.
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
    """Read a model folder. The model is built only if its weights are present and fit its description.

    Args:
        backbone: Folder of the pretrained backbone, for a model that does not contain it and whose backbone has moved.

    Raises:
        ModelError: A part is missing or damaged, the weights do not fit the description exactly, or a backbone is given
            and the weights already contain it.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ModelError("is a file, not a model folder", where=folder, remedy="Name a folder that serein saved.")
    if not folder.is_dir():
        raise ModelError("no such model folder", where=folder, remedy="Train one: serein run --help.")
    missing = [part for part in PARTS if not (folder / part).is_file()]
    if missing:
        levels = ("", "*/", "*/*/")  # of a training, a seed of a run, a run
        inside = next(
            (path.parent for level in levels for path in sorted(folder.glob(f"{level}model/model.json"))), None
        )
        if inside is not None:
            remedy = f"It contains models, such as {inside}."
        elif (folder / "config.json").is_file():
            remedy = f"It may be a pretrained backbone: train a model on it with --set backbone.source={folder}."
        else:
            remedy = "Name a folder that serein saved."
        raise ModelError(f"{', '.join(missing)} missing", where=folder, remedy=remedy)
    description, labels = (_read_json(folder / part) for part in ("model.json", "labels.json"))
    checkpoint = described(description, labels, folder)
    options, path = checkpoint.options, folder / "model.safetensors"
    try:
        heads = {name: (task.options, task.num_outputs) for name, task in checkpoint.tasks.items()}
        own = {MAIN: description, **description["branch_backbones"]}
        outside = {name: each["backbone_weights"] for name, each in own.items()}
        if backbone is not None and all(place == "inside" for place in outside.values()):
            remedy = "Leave out --backbone; in Python backbone=."
            raise ModelError(f"contains its weights and needs no backbone from {backbone}", where=folder, remedy=remedy)

        def build() -> SpeechModel:
            backbones = {name: described_backbone(each["backbone"]) for name, each in own.items()}
            branches = {name: (backbones[name], branch.encoder) for name, branch in options.branches.items()}
            return assemble(
                backbones[MAIN],
                options.encoder,
                heads,
                options.ensemble_size,
                options.text_size,
                branches,
                normalises_features=options.feature_normalisation is not None,
            )

        with _bounded(), torch.device("meta"):  # allocates no memory
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
    """Return whether a model folder refers to a backbone outside it."""
    description = _read_json(folder / "model.json")
    parts = (description, *description.get("branch_backbones", {}).values())
    return any(part.get("backbone_weights") != "inside" for part in parts)


class AbsentModel(SpeechModel):
    """Placeholder for a network that is not loaded because another runtime runs it."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.ensemble, self.branches = cast(Any, nn.ModuleList()), cast(Any, nn.ModuleDict())

    def encode(
        self, waveforms: torch.Tensor, num_samples: torch.Tensor, branches: Iterable[str]
    ) -> HiddenStatesByBranch:
        """Refuse."""
        raise ModelError("needs the network in PyTorch", where="--runtime", remedy="Load the model folder.")


def described(description: Mapping[str, Any], labels: Mapping[str, Any], where: Path) -> Checkpoint:
    """Return the checkpoint that model.json and labels.json describe, without its network.

    Args:
        where: The folder or the file that they were read from, for error messages.

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
        names = [name for name in ModelOptions.model_fields if name in description or name not in LATER_OPTIONS]
        options = ModelOptions.model_validate({name: description[name] for name in names})
        chosen = options.tasks.chosen
        tasks = {name: choose("task", name).from_json(name, own, labels[name]) for name, own in chosen.items()}
        for task in tasks.values():
            classes = task.spec.classes
            if len(set(classes)) < len(classes) or not all(isinstance(name, str) for name in classes):
                raise ValueError(f"the classes of '{task.name}' are not distinct names")
        if options.answered is not None and not 0 < len(set(options.answered) & set(tasks)) == len(options.answered):
            raise ValueError(f"it predicts {', '.join(options.answered) or 'nothing'}, which are not its tasks")
        training = dict(description["training"])
        fitted, threshold = description["calibration"], description["verification"]
        calibration = None if fitted is None else Calibration.model_validate(fitted)
        verification = None if threshold is None else VerificationThreshold.model_validate(threshold)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecipeError) as error:
        raise _not_described(where, error) from None
    return Checkpoint(AbsentModel(), options, tasks, training, calibration, verification)


def _not_described(where: Path, error: Exception) -> ModelError:
    reason, remedy = (str(error) or type(error).__name__).splitlines()[0], "Copy the folder again."
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        if reason.startswith(("unknown ", "the entry point ")):
            remedy = "Install the package that it comes from, or a newer serein."
        reason = f"{'.'.join(map(str, first['loc']))}: {reason}"
    return ModelError(
        f"model.json and labels.json do not describe a model ({reason[:200]})", where=where, remedy=remedy
    )


def parts_digest(folder: Path) -> str:
    """Return the SHA-256 of a model folder: its description, its labels and its weights."""
    parts = [part for part in PARTS if (folder / part).is_file()]
    return hashlib.sha256("".join(f"{part} {sha256(folder / part)}\n" for part in parts).encode()).hexdigest()


def is_model_folder(folder: str | Path) -> bool:
    """Return whether a folder has the parts of a model."""
    return all((Path(folder) / part).is_file() for part in PARTS)


def _prefix(branch: str) -> str:
    """Return the prefix of the names of a branch's backbone weights."""
    return "backbone." if branch == MAIN else f"branches.{branch}.backbone."


def _read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of a model; see `parse_json`."""
    size = path.stat().st_size
    if size > MOST_JSON_BYTES:
        raise ModelError(f"damaged: {size >> 20} MB of JSON", where=path, remedy="Copy the folder again.")
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        what = "not JSON" if isinstance(error, UnicodeDecodeError) else error
        raise ModelError(f"damaged: {what}", where=path, remedy="Copy the folder again.") from None


def parse_json(text: str) -> dict[str, Any]:
    """Return the content of JSON that describes a model: keys, with finite numbers and without deep nesting.

    Raises:
        ValueError: It is anything else.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("nested too deeply" if isinstance(error, RecursionError) else "not JSON") from None
    if not isinstance(content, dict):
        raise ValueError("contains no keys")
    values: list[tuple[Any, int]] = [(content, 1)]
    while values:
        value, depth = values.pop()
        if depth > MOST_JSON_DEPTH:
            raise ValueError("nested too deeply")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"contains the number {value}")
        if isinstance(value, int) and abs(value) > MOST_WHOLE:
            raise ValueError("contains a number beyond 2^53")
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        values += [(item, depth + 1) for item in items]
    return content


@contextmanager
def _bounded() -> Iterator[None]:
    """Stop building a model with more tensors or parameters than any model has, only in this thread."""
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
        outside: Branch -> source of its backbone's weights, if they are not in the file.
        moved: Current location of those weights, if they have moved.
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
                    remedy="Give its current folder: --backbone FOLDER; in Python backbone=.",
                ) from None
            if weights_hash(backbone) != origin["sha256"]:
                raise ModelError(
                    "the weights are not those that the model was trained on",
                    where=source,
                    remedy="Restore that revision, or name a folder with the right weights: --backbone FOLDER.",
                )
            own = {f"{_prefix(branch)}{name}": tensor for name, tensor in backbone.state_dict().items()}
            state |= {names.get(name, name): tensor for name, tensor in own.items()}
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise ModelError(f"damaged weights ({name} is not finite)", where=path, remedy="Copy the folder again.")
    return state


def _fill(model: SpeechModel, state: Mapping[str, torch.Tensor], path: Path, *, assign: bool = False) -> None:
    """Load every weight into a model, copied or assigned directly."""
    try:
        model.load_state_dict(state, strict=True, assign=assign)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise ModelError(
            f"the weights do not fit model.json: {detail}", where=path, remedy="Copy the folder again."
        ) from None
