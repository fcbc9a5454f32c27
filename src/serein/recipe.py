"""A recipe: everything that makes an experiment, as data. Unknown keys are refused.

A recipe is a YAML file. `base:` names another recipe that it changes; `set:` changes single values by dotted path:

    base: ../recipe.yaml
    set:
      tasks.emotion.pooling: std
      stages.0.epochs: 10
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from serein.errors import RecipeError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]  # names a file or folder


class Options(BaseModel):
    """Base of every part of a recipe: frozen, finite, and no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Labels(Options):
    """Which emotions there are.

    Attributes:
        classes: Their order; `None` takes those of the data, sorted.
        merge: Corpus word -> class, for instance `{excited: happy}`.
        others: What happens to utterances of no class: stop (`error`) or leave out, counted (`drop`).
    """

    classes: tuple[str, ...] | None = None
    merge: dict[str, str] = {}
    others: Literal["error", "drop"] = "error"


class Protocol(Options):
    """How test, dev and train are divided.

    Attributes:
        name: `speakers-out`: folds of unseen speakers; `leave-one-speaker-out`; `sessions-out`; `corpora-out`:
            each corpus tested by the others; `official`: the corpus's own split; `random`: speaker-dependent.
        folds: Named folds: test speakers (or sessions, corpora) of each; instead of `num_folds`.
        num_folds: Number of folds when they are not named.
        only: Run these folds only, by name ("1", "2", ...).
        dev: `speakers`: held-out speakers of the training side; `sessions`: a held-out session; `random-20`: a
            fifth at random, which shares speakers; `official`: the corpus's own; `none`: a fixed number of epochs.
        dev_share: Share of the training side's speakers that becomes dev, at least one.
        seed: Draws folds that are not named, and dev.
    """

    name: Literal["speakers-out", "leave-one-speaker-out", "sessions-out", "corpora-out", "official", "random"] = (
        "speakers-out"
    )
    folds: tuple[tuple[str, ...], ...] | None = None
    num_folds: Annotated[int, Field(ge=2)] = 5
    only: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    dev: Literal["speakers", "sessions", "random-20", "official", "none"] = "speakers"
    dev_share: Share = 0.2
    seed: int = 0


class Clips(Options):
    """How a recording becomes the input of training. Evaluation hears whole clips.

    Attributes:
        trim_db: Silence at both ends is cut: frames of 25 ms whose energy is this far below the loudest frame's, but
            for a tenth of a second; in training and evaluation alike. `None` keeps it.
        min_s: Shorter clips are extended to this length by `extend`, in training and evaluation alike.
        extend: `pad` with silence, which is heard as part of the clip, or `repeat` the clip.
        crop_s: Longer clips are cut in training, at a place drawn anew every epoch; `None` keeps them whole.
        window_s: Clips longer than this are heard in windows of this length and the answers averaged.
    """

    trim_db: Positive | None = None
    min_s: Annotated[float, Field(ge=0.0)] = 0.0
    extend: Literal["pad", "repeat"] = "pad"
    crop_s: Positive | None = None
    window_s: Positive = 30.0


class LogMel(Options):
    """Log-mel bands: no weights, nothing to download.

    Attributes:
        num_bands: Mel bands.
        window_s: Length of the Hann window.
        hop_s: Time between frames.
        low_hz: Lower edge of the lowest band.
        high_hz: Upper edge of the highest band.
        floor_db: Bands this far below the clip's loudest are raised to it; `None` leaves them.
        normalisation: `corpus`: mean and deviation of each band over the training set; `level`: the clip's own mean
            level is taken off first; `clip`: over the clip. Several stand side by side, as channels of an image.
    """

    name: Literal["logmel"] = "logmel"
    num_bands: Count = 64
    window_s: Positive = 0.04
    hop_s: Positive = 0.02
    low_hz: Annotated[float, Field(ge=0.0)] = 50.0
    high_hz: Annotated[float, Field(gt=0.0, le=8000.0)] = 8000.0
    floor_db: Positive | None = 80.0
    normalisation: Annotated[tuple[Literal["corpus", "level", "clip"], ...], Field(min_length=1)] = ("corpus",)

    @model_validator(mode="after")
    def _edges_in_order(self) -> LogMel:
        if self.low_hz >= self.high_hz:
            raise ValueError(f"low_hz {self.low_hz:g} is not below high_hz {self.high_hz:g}")
        return self


class HuggingFace(Options):
    """A wav2vec 2.0, HuBERT, WavLM or data2vec-audio model.

    Attributes:
        source: Hub name or local folder.
        revision: Commit, tag or branch on the Hub.
        overrides: Changes of the model's own configuration, for instance `{hidden_dropout: 0.0}`.
    """

    name: Literal["huggingface"] = "huggingface"
    source: str
    revision: str | None = None
    overrides: dict[str, Any] = {}


Backbone = Annotated[LogMel | HuggingFace, Field(discriminator="name")]
Tap = Literal["last", "weighted"] | int


class Cnn2d(Options):
    """Two-dimensional convolutions over time and mel bands: blocks of conv, batch norm, ReLU, with max pooling between.

    Attributes:
        channels: Output channels of each block.
        convolutions: Convolutions in each block but the first two, with a residual path when there are several.
        stem: `pool`: the first block keeps the resolution and is pooled; `stride`: it is a 5x5 convolution that halves.
        shrink_time: So often time is halved, at the first blocks; bands are halved at every one.
        size: Features of a frame, joined from all channels and remaining bands.
        dropout: Before that.
    """

    name: Literal["cnn2d"] = "cnn2d"
    channels: tuple[Count, ...] = (32, 48, 96, 160, 224)
    convolutions: Count = 1
    stem: Literal["pool", "stride"] = "stride"
    shrink_time: Annotated[int, Field(ge=1)] = 3
    size: Count = 256
    dropout: Share = 0.15


class CnnBlstm(Options):
    """Stanley 2023, Figure 1: CNN with max pooling, two bidirectional LSTM.

    Attributes:
        channels: Output channels of the three convolutions over time.
        kernels: Their widths in frames.
        hidden: Units of each LSTM direction.
        layers: LSTM layers.
        dropout: Dropout after each LSTM layer.
    """

    name: Literal["cnn-blstm"] = "cnn-blstm"
    tap: Tap = "last"
    channels: tuple[Count, ...] = (96, 256, 256)
    kernels: tuple[Count, ...] = (15, 5, 3)
    hidden: Count = 64
    layers: Count = 2
    dropout: Share = 0.5

    @model_validator(mode="after")
    def _one_kernel_per_convolution(self) -> CnnBlstm:
        if len(self.channels) != len(self.kernels):
            raise ValueError(f"{len(self.channels)} channels but {len(self.kernels)} kernels: give one kernel each")
        return self


Body = Annotated[Cnn2d | CnnBlstm, Field(discriminator="name")]


class Emotion(Options):
    """The emotion task: what it reads from the model and what it is taught.

    Attributes:
        weight: Weight of its loss beside other tasks.
        tap: Hidden layer: `last`, a number, or a learned `weighted` sum of all.
        projection: Size of a linear projection, or `None`.
        projection_at: Before or after pooling.
        pooling: `mean`; `std`: mean and standard deviation; `attention`: attentive statistics, one weight per frame;
            `channel-attention`: one per frame and feature.
        batch_norm: Normalise the pooled vector over the batch.
        hidden: Sizes of fully connected layers before the output.
        dropout: Before each linear layer of the head.
        loss: Name in `serein.losses.LOSSES`.
        class_weights: `balanced`: N_total / (num_classes * N_class).
        label_smoothing: 1-g for the true class, g/(K-1) for each other (diatlova2024).
    """

    weight: Annotated[float, Field(ge=0.0)] = 1.0
    tap: Tap = "last"
    projection: Count | None = None
    projection_at: Literal["frames", "pooled"] = "pooled"
    pooling: Literal["mean", "std", "attention", "channel-attention"] = "attention"
    batch_norm: bool = False
    hidden: tuple[Count, ...] = ()
    dropout: Share = 0.0
    loss: Literal["cross-entropy"] = "cross-entropy"
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class Tasks(Options):
    """What is learned."""

    emotion: Emotion = Emotion()


class Optimizer(Options):
    """How weights move.

    Attributes:
        backbone_learning_rate: Another rate for the backbone's weights, or `None` for the same.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    backbone_learning_rate: Positive | None = None
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    betas: tuple[Share, Share] = (0.9, 0.999)
    momentum: Share = 0.9


class Schedule(Options):
    """How the learning rate moves.

    Attributes:
        name: `constant`; `one-cycle` (Smith 2018), `cosine` and `linear` fall to zero over all steps;
            `exponential` multiplies by `factor` each epoch; `plateau` by `factor` when dev UA stands still.
        warmup: Share of all steps in which the rate rises.
        factor: See `name`.
        patience: Epochs without gain, for `plateau`.
    """

    name: Literal["constant", "one-cycle", "cosine", "linear", "exponential", "plateau"] = "one-cycle"
    warmup: Share = 0.3
    factor: Share = 0.98
    patience: Count = 5


class Batches(Options):
    """How clips share a batch.

    Attributes:
        clips: Most clips.
        seconds: Most seconds, padding counted.
        buckets: Clips of like duration share a batch; each epoch is shuffled, then sorted within this many batches.
        accumulate: Batches per step.
    """

    clips: Count = 32
    seconds: Positive = 240.0
    buckets: Count = 8
    accumulate: Count = 1


class SpectrogramAugmentation(Options):
    """Changes of log-mel frames, drawn per clip and epoch; all off by default.

    Attributes:
        time_stretch: Greatest change of tempo: 0.2 draws factors from exp(-0.2) to exp(0.2).
        band_stretch: Greatest change of the mel axis' scale, as a vocal tract of another length would make.
        band_shift: Greatest shift of the mel axis in bands.
        gain_db: Greatest change of level, up or down.
        equaliser_db: Greatest change at the knots of a random curve over the bands.
        equaliser_share: Share of clips with such a curve.
        noise_share: Share of clips with noise added, its spectrum sloping at random.
        noise_below_peak_db: Its level below the clip's loudest band, from and to.
        time_masks: Number of time masks.
        time_mask_share: Longest mask as a share of the clip.
        band_masks: Number of masks over mel bands.
        band_mask_share: Widest mask as a share of the bands.
        mixup: Parameter of the Beta distribution of mixup (Zhang 2018); 0 is off.
        mixup_share: Share of batches that are mixed.
    """

    time_stretch: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    band_stretch: Share = 0.0
    band_shift: Annotated[float, Field(ge=0.0)] = 0.0
    gain_db: Annotated[float, Field(ge=0.0)] = 0.0
    equaliser_db: Annotated[float, Field(ge=0.0)] = 0.0
    equaliser_share: Share = 0.7
    noise_share: Share = 0.0
    noise_below_peak_db: tuple[float, float] = (25.0, 70.0)
    time_masks: Annotated[int, Field(ge=0)] = 0
    time_mask_share: Share = 0.15
    band_masks: Annotated[int, Field(ge=0)] = 0
    band_mask_share: Share = 0.15
    mixup: Annotated[float, Field(ge=0.0)] = 0.0
    mixup_share: Share = 0.5


class Stage(Options):
    """One training: which weights move, how, how long.

    Attributes:
        name: Unique within the recipe; names a folder.
        epochs: Most epochs.
        trainable: `all`, or names among `cnn`, `projection`, `layers 5-12`, `layer 3`, `backbone`, `body`, `heads`.
        patience: Epochs without gain in dev UA before it stops; `None` trains them all.
        keep: Which weights the stage hands on: of the `best` dev UA, or the `last`.
        average: Decay of an exponential moving average of the weights, which is what is judged and kept; or `None`.
        clip_norm: Most norm of the gradient.
        clip_value: Most absolute value of a gradient.
        precision: `auto` takes bfloat16 where the processor or GPU computes in it.
    """

    name: Name = "emotion"
    epochs: Count = 30
    trainable: tuple[str, ...] = ("all",)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    batches: Batches = Batches()
    augmentation: SpectrogramAugmentation = SpectrogramAugmentation()
    patience: Count | None = None
    keep: Literal["best", "last"] = "best"
    average: Share | None = None
    clip_norm: Positive | None = None
    clip_value: Positive | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class Inference(Options):
    """How a trained model answers.

    Attributes:
        batch_s: Seconds of audio heard at once.
        precision: `float32` answers alike in any batch; `bfloat16` is faster where the processor has it.
    """

    batch_s: Positive = 120.0
    precision: Literal["float32", "bfloat16"] = "float32"


class Recipe(Options):
    """A whole experiment.

    Attributes:
        members: Bodies with heads that learn side by side on one backbone, each from its own first weights; their
            class shares are averaged (deep ensemble, Lakshminarayanan 2017).
    """

    name: Name
    description: str = ""
    labels: Labels = Labels()
    protocol: Protocol = Protocol()
    clips: Clips = Clips()
    backbone: Backbone = LogMel()
    body: Body | None = None
    members: Count = 1
    tasks: Tasks = Tasks()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = (Stage(),)
    inference: Inference = Inference()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages share a name: {', '.join(names)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: one is named twice: {', '.join(map(str, self.seeds))}")
        for stage in self.stages:
            if self.protocol.dev == "none" and (stage.patience or stage.schedule.name == "plateau"):
                raise ValueError(
                    f"stage '{stage.name}' watches dev UA, but protocol.dev is 'none': choose a dev, or train a "
                    "fixed number of epochs"
                )
        return self


def load(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file, its bases, and `key.path=value` overrides.

    Raises:
        RecipeError: Missing file, not YAML, unknown key or value; names the key, and the nearest known one.

    Example:
        >>> load("recipes/demo.yaml", ["stages.0.epochs=3"]).stages[0].epochs
        3
    """
    values = _read(Path(path), ())
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"'{override}' is no KEY=VALUE", where="--set", remedy="Write: --set stages.0.epochs=3.")
        _set(values, key.strip(), _parse_yaml(text, where=f"--set {override}"), where="--set")
    return validate(values, where=path)


def validate(values: Mapping[str, Any], *, where: str | Path) -> Recipe:
    """Return the recipe that `values` describe, or raise RecipeError naming the key at fault."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _explain(error, where, values) from None


def dump(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML; `load` gives the same recipe again."""
    return str(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise RecipeError(
            "no such recipe", where=path, remedy="Name a .yaml file, for instance recipes/demo.yaml."
        ) from None
    except UnicodeDecodeError:
        raise RecipeError("is not a text file", where=path, remedy="Name a .yaml recipe.") from None
    content = _parse_yaml(text, where=str(path))
    if not isinstance(content, dict):
        raise RecipeError("holds no keys", where=path, remedy="A recipe is a YAML mapping: name, protocol, stages, ...")
    values: dict[str, Any] = content
    base, changes = values.pop("base", None), values.pop("set", {})
    if base is not None:
        target = (path.parent / str(base)).resolve()
        if target in (*seen, path.resolve()):
            raise RecipeError(f"'base: {base}' leads back to itself", where=path, remedy="Break the circle.")
        values = _merged(_read(target, (*seen, path.resolve())), values)
    values.setdefault("stages", [{}])  # the default one, so that `stages.0.epochs` can be set
    if not isinstance(changes, dict):
        raise RecipeError("'set' is no mapping", where=path, remedy="Write: set: {stages.0.epochs: 3}.")
    for key, value in changes.items():
        _set(values, str(key), value, where=str(path))
    return values


def _parse_yaml(text: str, *, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise RecipeError(f"not YAML ({problem})", where=place, remedy="Check indentation and colons.") from None


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; another `name` is another choice and replaces the whole mapping."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and not _are_two_choices(old, value):
            merged[key] = _merged(old, value)
        else:
            merged[key] = value
    return merged


def _are_two_choices(old: dict[str, Any], change: dict[str, Any]) -> bool:
    return "name" in old and "name" in change and old["name"] != change["name"]


def _set(values: dict[str, Any], dotted: str, value: Any, *, where: str) -> None:
    *path, last = dotted.split(".")
    target: Any = values
    for key in path:
        target = _step(target, key, dotted, where)
    if isinstance(target, list):
        index = _index(target, last, dotted, where)
        target[index] = value
    else:
        target[last] = value


def _step(target: Any, key: str, dotted: str, where: str) -> Any:
    is_list = isinstance(target, list)
    below = target[_index(target, key, dotted, where)] if is_list else target.setdefault(key, {})
    if not isinstance(below, dict | list):
        raise RecipeError(f"'{key}' in '{dotted}' has no keys below it", where=where, remedy="Check the path.")
    return below


def _index(target: list[Any], key: str, dotted: str, where: str) -> int:
    if not key.isdecimal() or int(key) >= len(target):
        raise RecipeError(
            f"'{key}' in '{dotted}' is no position of a list of {len(target)}",
            where=where,
            remedy="Count from 0.",
        )
    return int(key)


def _explain(error: ValidationError, where: str | Path, values: Mapping[str, Any]) -> RecipeError:
    first = error.errors()[0]
    location = _as_written(first["loc"], values)
    if first["type"] == "missing" and isinstance(first["loc"][-1], str):
        location = [*location, first["loc"][-1]]
    same = [p for p in error.errors() if _as_written(p["loc"], values) == location]  # a union has one for each member
    message, remedy = _said(first, [problem["msg"] for problem in same or [first]])
    place = f"{where}: {'.'.join(location)}" if location else str(where)
    return RecipeError(message[0].lower() + message[1:], where=place, remedy=remedy)


def _said(problem: ErrorDetails, messages: Sequence[str]) -> tuple[str, str]:
    """Return message and remedy for a key; `messages` is what each member of a union says of it."""
    key = str(problem["loc"][-1]) if problem["loc"] else ""
    see = "See the recipe's keys in docs/recipes.md."
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, sorted(_known_keys() - {key}), n=1)
        return f"unknown key '{key}'", f"Did you mean '{near[0]}'?" if near else see
    if problem["type"] == "missing":
        return "a value is missing" if key.isdecimal() else f"the key '{key}' is missing", "Add it."
    if problem["type"] == "union_tag_not_found":
        return "the key 'name' is missing", "Add it."
    if problem["type"] == "union_tag_invalid":
        return f"unknown name '{problem['ctx']['tag']}', expected one of: {problem['ctx']['expected_tags']}", see
    message = ", or ".join(messages).removeprefix("Value error, ").replace(", or Input", ", or input")
    return message.replace("valid tuple", "list").replace("Tuple should", "The list should"), see


def _as_written(location: Sequence[int | str], values: Any) -> list[str]:
    """Return the keys and positions of a problem that stand in the file, without what pydantic puts in between."""
    written = []
    for part in location:
        if isinstance(values, Mapping) and part in values:
            values = values[part]
        elif isinstance(values, list | tuple) and isinstance(part, int):
            values = values[part] if part < len(values) else None
        else:
            continue
        written.append(str(part))
    return written


def _known_keys() -> set[str]:
    return {key for part in _subclasses(Options) for key in part.model_fields}


def _subclasses(kind: type[Options]) -> list[type[Options]]:
    return [found for child in kind.__subclasses__() for found in (child, *_subclasses(child))]
