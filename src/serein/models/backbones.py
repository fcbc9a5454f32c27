"""Backbones from Transformers: wav2vec 2.0 and its relatives, heard clip by clip in any batch."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from serein.errors import AudioError, ModelError, RecipeError, expected_one_of
from serein.models.hidden import Backbone, HiddenStates, frame_mask
from serein.models.masking import add_positions, encode, fasten, prepare_waveforms

HUB_TIMEOUT_S = 3.0
ORIGIN: dict[str, Any] = {"source": None, "revision": None, "overrides": {}, "weights_sha256": None}
DEFAULT_OVERRIDES = {"apply_spec_augment": False, "layerdrop": 0.0}
MASK_EMBEDDING = "masked_spec_embed"  # for SpecAugment alone; some checkpoints lack it
BODY_WEIGHT = re.compile(r"(\w+\.)?(feature_extractor|feature_projection|encoder)\.")  # others belong to heads
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


class HuggingFaceBackbone(Backbone):
    """A speech model of Transformers: waveform -> convolutions -> projection -> transformer layers.

    A clip's hidden layers are those that Transformers gives for the clip alone, whatever it is batched with. Frozen
    parts run in evaluation mode, and no graph is kept of those below the lowest trainable one.

    Args:
        model: `Wav2Vec2Model` or another class of `FAMILIES`; its modules are run, its `forward` is not.
        do_normalize: Whether each clip is brought to zero mean and unit variance first.
        origin: What `describe` says of the weights: source, revision, overrides, weights_sha256.
        gradient_checkpointing: Trade time for memory in training.

    Example:
        >>> tiny = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8,
        ...         "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "conv_dim": [8] * 7}
        >>> backbone = HuggingFaceBackbone.from_config({"model_type": "wavlm", **tiny}).eval()
        >>> heard = backbone(torch.randn(2, 16_000), torch.tensor([16_000, 5_000]))
        >>> [tuple(layer.shape) for layer in heard.layers], heard.num_frames.tolist()
        ([(2, 49, 8), (2, 49, 8), (2, 49, 8)], [49, 15])
    """

    def __init__(
        self,
        model: Any,
        *,
        do_normalize: bool,
        origin: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        fasten(model)
        if not hasattr(model, MASK_EMBEDDING):  # or the names of weights would depend on an override
            model.masked_spec_embed = nn.Parameter(torch.zeros(model.config.hidden_size))
        self.model = model
        self.do_normalize = do_normalize
        self.gradient_checkpointing = gradient_checkpointing
        self._origin = {**ORIGIN, **(origin or {})}
        self.num_layers = len(model.encoder.layers)
        self.sizes = (model.config.hidden_size,) * (self.num_layers + 1)
        self._kernels, self._strides = tuple(model.config.conv_kernel), tuple(model.config.conv_stride)
        self.receptive_field = _receptive_field(self._kernels, self._strides)
        self.frame_rate_hz = self.sample_rate_hz / math.prod(self._strides)
        family = model.config.model_type
        self._has_position_bias = family == "wavlm"
        self._norms_first = family != "data2vec-audio" and bool(getattr(model.config, "do_stable_layer_norm", False))

    @classmethod
    def from_source(
        cls,
        source: str,
        *,
        overrides: Mapping[str, Any] | None = None,
        revision: str | None = None,
        gradient_checkpointing: bool = False,
    ) -> HuggingFaceBackbone:
        """Load a pretrained model, whole or not at all.

        Args:
            source: Local folder, which is never looked up elsewhere, or a name on the Hugging Face Hub. Checkpoints of
                pretraining, CTC or classification models serve as well; their heads are left out.
            overrides: Changes of the model's configuration, of the keys of `OVERRIDES`. SpecAugment and layer drop
                are off unless they are named here.
            revision: Commit, tag or branch on the Hub.
            gradient_checkpointing: Trade time for memory in training.

        Raises:
            ModelError: There is no such model, its family is not supported, or weights are missing or damaged.
            RecipeError: An override is unknown or out of range.
        """
        changes = _checked_overrides(overrides or {})
        place = _Place.of(source, revision)
        config = _build_config(place.read_config(), changes, where=source)
        do_normalize = _do_normalize(config, place.read_preprocess(), where=source)
        origin = {"source": source, "revision": place.commit(), "overrides": dict(overrides or {})}
        model = place.load(config)
        backbone = cls(model, do_normalize=do_normalize, origin=origin, gradient_checkpointing=gradient_checkpointing)
        backbone._origin["weights_sha256"] = weights_hash(backbone)
        return backbone.eval()

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        preprocess: Mapping[str, Any] | None = None,
        *,
        gradient_checkpointing: bool = False,
    ) -> HuggingFaceBackbone:
        """Build the architecture with random weights, to be loaded strictly or trained from scratch.

        Under `torch.device("meta")` hardly any memory is taken, for `load_state_dict(..., assign=True)`.

        Args:
            config: What `describe` returned, or a configuration of Transformers (`config.json`).
            preprocess: Beside a configuration: what `preprocessor_config.json` holds, if there is one.
            gradient_checkpointing: Trade time for memory in training.

        Raises:
            ModelError: The family is not supported, or the configuration is not valid.
        """
        if "config" in config:
            built = _build_config(config["config"], {}, where="config")
            do_normalize = bool(config.get("do_normalize", _do_normalize(built, None, where="config")))
            origin = {key: config[key] for key in ORIGIN if key in config}
        else:
            built = _build_config(config, DEFAULT_OVERRIDES, where="config")
            do_normalize, origin = _do_normalize(built, preprocess, where="config"), {}
        model = _new_model(built)
        return cls(
            model, do_normalize=do_normalize, origin=origin, gradient_checkpointing=gradient_checkpointing
        ).eval()

    def forward(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> HiddenStates:
        """Hear a padded batch; a clip shorter than the receptive field (25 ms) is filled up with zeros to one frame.

        Args:
            waveforms: (batch, sample) float32 at 16 kHz; what lies past a clip's own length is ignored.
            num_samples: (batch,) long, real samples of each clip.

        Returns:
            Hidden layers as wide as the longest clip; what they hold on padding means nothing.

        Raises:
            AudioError: A clip has no samples, or more than its row.
        """
        if self.training:
            self._settle_frozen()
        lengths = _checked_lengths(waveforms, num_samples)
        clips = prepare_waveforms(waveforms, lengths, normalise=self.do_normalize, at_least=self.receptive_field)
        num_frames = self.num_frames(torch.tensor(lengths))
        is_frame = frame_mask(num_frames, int(num_frames.max())).to(clips.device)
        mask = None if num_frames.min() == num_frames.max() else is_frame
        layers, output = self._run(clips, [max(length, self.receptive_field) for length in lengths], mask)
        return HiddenStates(layers, is_frame, output)

    def num_frames(self, num_samples: torch.Tensor) -> torch.Tensor:
        """Return the frames of clips of so many samples: (batch,) long."""
        frames = num_samples.clamp_min(self.receptive_field)
        for kernel, stride in zip(self._kernels, self._strides, strict=True):
            frames = (frames - kernel) // stride + 1
        return frames

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter exactly once: `cnn`, `projection` (all that is neither), `layer 1` to `layer N`."""
        groups: dict[str, list[nn.Parameter]] = {"cnn": list(self.model.feature_extractor.parameters())}
        groups["projection"] = []
        for number, layer in enumerate(self.model.encoder.layers, start=1):
            groups[f"layer {number}"] = list(layer.parameters())
        named = {id(parameter) for group in groups.values() for parameter in group}
        groups["projection"] = [parameter for parameter in self.parameters() if id(parameter) not in named]
        return groups

    def describe(self) -> dict[str, Any]:
        """Return what `from_config` builds the same architecture from, and where the weights came from."""
        config = json.loads(self.model.config.to_json_string(use_diff=False))
        return {
            "name": "huggingface",
            "config": {key: value for key, value in config.items() if not key.startswith("_")},
            "do_normalize": self.do_normalize,
            **self._origin,
        }

    def untouched_source(self) -> dict[str, Any] | None:
        """Return source, revision and sha256 of the weights if they can be had again there, else `None`."""
        digest = self._origin["weights_sha256"]
        if self._origin["source"] is None or digest != weights_hash(self):
            return None
        return {"source": self._origin["source"], "revision": self._origin["revision"], "sha256": digest}

    def train(self, mode: bool = True) -> HuggingFaceBackbone:
        """Switch to training mode, in which frozen parts stay in evaluation mode."""
        super().train(mode)
        if mode:
            self._settle_frozen()
        return self

    def _settle_frozen(self) -> None:
        """Dropout only where something learns. Called at each forward: `requires_grad` is anybody's to change."""
        encoder, groups = self.model.encoder, self.parameter_groups()
        modules = {"cnn": [self.model.feature_extractor]}
        modules["projection"] = [
            self.model.feature_projection,
            encoder.pos_conv_embed,
            encoder.layer_norm,
            encoder.dropout,
        ]
        modules |= {f"layer {number}": [layer] for number, layer in enumerate(encoder.layers, start=1)}
        learns = {name: any(parameter.requires_grad for parameter in group) for name, group in groups.items()}
        self.model.train(any(learns.values()))
        for name, parts in modules.items():
            for part in parts:
                part.train(learns[name])

    def _num_frozen_below(self) -> int:
        """Return how many groups from the bottom hold nothing that learns."""
        if not torch.is_grad_enabled():
            return 0
        for index, parameters in enumerate(self.parameter_groups().values()):
            if any(parameter.requires_grad for parameter in parameters):
                return index
        return self.num_layers + 2

    def _run(
        self, waveforms: torch.Tensor, num_samples: list[int], is_frame: torch.Tensor | None
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
        """Run the model's parts in order; `is_frame` is `None` when nothing is padded."""
        frozen = 0 if waveforms.requires_grad else self._num_frozen_below()
        with _graph(frozen < 1):
            frames = encode(self.model.feature_extractor, waveforms.to(self._dtype), num_samples, self._call)
        with _graph(frozen < 2):
            hidden = self._project(frames, is_frame)
        layers, position_bias = [hidden], None
        mask = self._attention_mask(hidden, is_frame)
        for index, layer in enumerate(self.model.encoder.layers):
            if not self._drops(layer, index):
                with _graph(frozen < index + 3):
                    hidden, position_bias = self._transform(layer, hidden, mask, position_bias)
            layers.append(hidden)
        return tuple(layers), self._closed(hidden)

    def _project(self, frames: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor:
        projected = self.model.feature_projection(frames)
        hidden = projected[0] if isinstance(projected, tuple) else projected
        hidden = self._spec_augment(hidden, is_frame)
        hidden = add_positions(self.model.encoder.pos_conv_embed, hidden, is_frame)
        if not self._norms_first:
            hidden = self.model.encoder.layer_norm(hidden)
        dropped: torch.Tensor = self.model.encoder.dropout(hidden)
        return dropped

    def _transform(
        self, layer: nn.Module, hidden: torch.Tensor, mask: torch.Tensor | None, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self._has_position_bias:
            return self._call(layer, hidden, attention_mask=mask, position_bias=bias)  # type: ignore[no-any-return]
        return self._call(layer, hidden, attention_mask=mask), None

    def _closed(self, hidden: torch.Tensor) -> torch.Tensor | None:
        return self.model.encoder.layer_norm(hidden) if self._norms_first else None

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False, **kwargs)
        return function(*args, **kwargs)

    def _attention_mask(self, hidden: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor | None:
        """Return the mask in the form that the model's kind of attention takes."""
        if is_frame is None or self._has_position_bias:
            return is_frame
        masks = importlib.import_module("transformers.masking_utils")
        mask: torch.Tensor | None = masks.create_bidirectional_mask(self.model.config, hidden, is_frame)
        return mask

    def _spec_augment(self, hidden: torch.Tensor, is_frame: torch.Tensor | None) -> torch.Tensor:
        """Mask frames and features as Transformers does, from NumPy's random state; not clips shorter than a mask."""
        config = self.model.config
        if not (self.model.training and config.apply_spec_augment) or hidden.shape[1] < config.mask_time_length:
            return hidden
        masked: torch.Tensor = self.model._mask_hidden_states(hidden.clone(), attention_mask=is_frame)
        return masked

    def _drops(self, layer: nn.Module, index: int) -> bool:
        """Layer drop (Fan 2020). WavLM's first layer stays: it makes the position bias of all."""
        rate = self.model.config.layerdrop
        if not (layer.training and rate > 0.0) or (index == 0 and self._has_position_bias):
            return False
        return bool(torch.rand([]) < rate)

    @property
    def _dtype(self) -> torch.dtype:
        weight: torch.Tensor = self.model.feature_projection.projection.weight
        return weight.dtype


def weights_hash(module: nn.Module) -> str:
    """Return the SHA-256 of a module's weights: names, kinds, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Place:
    """Where a pretrained model lies: in a local folder, on the Hub, or in its cache when the Hub does not answer."""

    name: str
    is_folder: bool
    is_online: bool
    revision: str | None

    @classmethod
    def of(cls, source: str, revision: str | None) -> _Place:
        folder = Path(source).expanduser()
        if folder.is_dir():
            return cls(str(folder), is_folder=True, is_online=False, revision=None)
        if folder.exists() or not HUB_NAME.fullmatch(source):
            raise ModelError("no such folder", where=source, remedy=f"Name {A_MODEL}, or its name on the Hub.")
        return cls(source, is_folder=False, is_online=_hub_answers(), revision=revision)

    def read_config(self) -> dict[str, Any]:
        reader = importlib.import_module("transformers").PreTrainedConfig
        with self._errors("no readable config.json"):
            content: dict[str, Any] = reader.get_config_dict(self.name, **self._access)[0]
            if not content:
                raise FileNotFoundError("there is none")
        return content

    def read_preprocess(self) -> dict[str, Any] | None:
        """Return what the model's feature extractor was saved with, or `None` when it was not saved."""
        reader = importlib.import_module("transformers").FeatureExtractionMixin
        try:
            content: dict[str, Any] = reader.get_feature_extractor_dict(self.name, **self._access)[0]
        except OSError as error:
            if (Path(self.name) / "preprocessor_config.json").exists():
                raise ModelError("no readable preprocessor_config.json", where=self.name, remedy=COPY) from error
            return None
        return content

    def commit(self) -> str | None:
        """Return the commit of a Hub model whose config.json has been read; nothing for a folder."""
        if self.is_folder:
            return None
        look_up = importlib.import_module("huggingface_hub").try_to_load_from_cache
        path = look_up(self.name, "config.json", revision=self.revision)
        return Path(path).parent.name if isinstance(path, str) else self.revision

    def load(self, config: Any) -> Any:
        """Return the model, each weight of which is in the checkpoint, and none of whose weights is left over."""
        model_class = _model_class(config.model_type, where=self.name)
        mask_time_prob, config.mask_time_prob = config.mask_time_prob, 1.0  # with it comes the mask embedding
        with _quiet(bars=self.is_online), self._errors("the weights cannot be loaded"):
            model, report = model_class.from_pretrained(
                self.name, config=config, dtype=torch.float32, output_loading_info=True, **self._access
            )
        model.config.mask_time_prob = mask_time_prob
        missing = set(report["missing_keys"])
        if MASK_EMBEDDING in missing:
            nn.init.zeros_(model.masked_spec_embed)  # or two loads would differ
        self._refuse("weights are missing", missing - {MASK_EMBEDDING})
        self._refuse("weights fit nowhere", {key for key in report["unexpected_keys"] if BODY_WEIGHT.match(key)})
        return model

    def _refuse(self, what: str, keys: set[str]) -> None:
        if keys:
            raise ModelError(f"{len(keys)} {what}, such as {min(keys)}", where=self.name, remedy=COPY)

    @property
    def _access(self) -> dict[str, Any]:
        return {"local_files_only": not self.is_online, "revision": self.revision}

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn whatever a foreign model makes the library raise into one sentence, its cause kept."""
        try:
            yield
        except Exception as error:
            if not self.is_folder and not self.is_online:
                raise ModelError(
                    "not in the cache, and the Hugging Face Hub does not answer",
                    where=self.name,
                    remedy=f"Where there is network, run: hf download {self.name} --local-dir FOLDER. "
                    "Copy the folder here and name it.",
                ) from error
            detail = " ".join(str(error).split())[:200]
            raise ModelError(f"{what} ({detail})", where=self.name, remedy=f"Name {A_MODEL}.") from error


def _hub_answers() -> bool:
    """Ask the Hub once, briefly: Transformers itself tries five times over, for 23 s."""
    hub = importlib.import_module("huggingface_hub")
    try:
        hub.get_session().head(hub.constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
    except Exception:  # of whichever HTTP library the client uses, or its own for HF_HUB_OFFLINE=1
        return False
    return True


@contextmanager
def _quiet(*, bars: bool) -> Iterator[None]:
    """Keep Transformers from listing the heads that are left out, and from drawing bars unless it downloads."""
    logging = importlib.import_module("transformers.utils.logging")
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


def _model_class(family: object, *, where: str) -> Any:
    if family not in FAMILIES:
        raise ModelError(
            expected_one_of(family, FAMILIES, kind="family of models"), where=where, remedy=f"Name {A_MODEL}."
        )
    return getattr(importlib.import_module("transformers"), FAMILIES[str(family)])


def _build_config(content: Mapping[str, Any], changes: Mapping[str, Any], *, where: str) -> Any:
    """Return Transformers' configuration with `changes` made, without the adapter behind the last layer."""
    model_class = _model_class(content.get("model_type"), where=where)
    try:
        config = model_class.config_class.from_dict({**content, **changes})
    except Exception as error:  # the library checks in many ways and places
        detail = " ".join(str(error).split())[:200]
        raise ModelError(f"config.json is not valid ({detail})", where=where, remedy=COPY) from error
    if getattr(config, "add_adapter", False):  # it thins out frames, and is no part of the hidden layers
        config.add_adapter = False
    return config


def _new_model(config: Any) -> Any:
    try:
        return _model_class(config.model_type, where="config")(config)
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"cannot be built ({error})", where="config", remedy=COPY) from error


def _do_normalize(config: Any, preprocess: Mapping[str, Any] | None, *, where: str) -> bool:
    """Return whether clips are normalised: what was saved, or what the architecture was trained with."""
    if preprocess is None:
        return str(getattr(config, "feat_extract_norm", "layer")) == "layer"
    rate_hz = preprocess.get("sampling_rate", Backbone.sample_rate_hz)
    if rate_hz != Backbone.sample_rate_hz:
        raise ModelError(f"hears {rate_hz} Hz, not 16000 Hz", where=where, remedy="Choose a model for 16 kHz.")
    return bool(preprocess.get("do_normalize", True))  # Wav2Vec2FeatureExtractor's default


def _checked_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in overrides.items():
        if key not in OVERRIDES:
            raise RecipeError(expected_one_of(key, OVERRIDES, kind="override"), where="backbone.overrides")
        is_valid, expected = OVERRIDES[key]
        if not is_valid(value):
            raise RecipeError(f"{key} is {value!r}, expected {expected}", where="backbone.overrides")
    return {**DEFAULT_OVERRIDES, **overrides}


def _checked_lengths(waveforms: torch.Tensor, num_samples: torch.Tensor) -> list[int]:
    lengths: list[int] = num_samples.tolist()
    if waveforms.ndim != 2 or len(lengths) != len(waveforms):
        shapes = f"{tuple(waveforms.shape)} and {tuple(num_samples.shape)}"
        raise AudioError(f"waveforms and num_samples are {shapes}, expected (batch, sample) and (batch,)")
    for index, length in enumerate(lengths):
        if not 1 <= length <= waveforms.shape[1]:
            raise AudioError(f"clip {index} of a batch of {waveforms.shape[1]} samples is said to have {length}")
    return lengths


def _receptive_field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return the samples that one frame hears."""
    field = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        field = (field - 1) * stride + kernel
    return field


def _graph(is_kept: bool) -> AbstractContextManager[Any]:
    return nullcontext() if is_kept else torch.no_grad()


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_positive(value: object) -> bool:
    return _is_count(value) and value != 0


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


SHARE, COUNT, POSITIVE = (_is_share, "0 to 1"), (_is_count, "a whole number"), (_is_positive, "a whole number from 1")

# What a recipe may change of a model's configuration: how it trains, never what it is.
OVERRIDES: dict[str, tuple[Callable[[object], bool], str]] = {
    "hidden_dropout": SHARE,
    "attention_dropout": SHARE,
    "activation_dropout": SHARE,
    "feat_proj_dropout": SHARE,
    "layerdrop": SHARE,
    "apply_spec_augment": (_is_bool, "true or false"),
    "mask_time_prob": SHARE,
    "mask_time_length": POSITIVE,
    "mask_time_min_masks": COUNT,
    "mask_feature_prob": SHARE,
    "mask_feature_length": POSITIVE,
    "mask_feature_min_masks": COUNT,
}

# `model_type` of config.json -> class of Transformers. All have the same feature encoder and one line of layers.
FAMILIES = {
    "wav2vec2": "Wav2Vec2Model",
    "hubert": "HubertModel",
    "wavlm": "WavLMModel",
    "data2vec-audio": "Data2VecAudioModel",
    "unispeech": "UniSpeechModel",
    "unispeech-sat": "UniSpeechSatModel",
}

A_MODEL = f"a folder with config.json and weights of one of these: {', '.join(FAMILIES)}"
COPY = "Copy or download the model again."
