"""Pretrained speech models of Transformers: found in a folder or on the Hub, checked, loaded whole or not at all."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from serein.errors import ModelError, RecipeError, expected_one_of
from serein.hub import SHIPPED_MODELS, is_reachable
from serein.models.architectures import MASK_EMBEDDING
from serein.models.hidden_states import Backbone
from serein.models.whisper import WhisperEncoder

MOST_STRIDE = 128  # of a convolution, in samples or frames; published models have up to 10
ORIGIN: dict[str, Any] = {"source": None, "revision": None, "overrides": {}, "layers": None, "weights_sha256": None}
DEFAULT_OVERRIDES = {"apply_spec_augment": False, "layerdrop": 0.0}
BODY_WEIGHT = re.compile(r"(\w+\.)?(feature_extractor|feature_projection|encoder)\.")  # others belong to heads
WHISPER_WEIGHT = re.compile(r"((model\.)?encoder\.)?(conv\d|layers|layer_norm|embed_positions)\.")
WHISPER_NAMES = {r"^(model\.)?encoder\.": ""}  # its encoder is loaded alone
DESCRIPTION = "model.json"  # of a model folder of serein
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def weights_hash(weights: nn.Module | Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a module's weights: names, kinds, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class Place:
    """Where a pretrained model lies: in a local folder, on the Hub, or in its cache when the Hub cannot be reached.

    Args:
        source: A folder, or a name on the Hub.
        revision: Commit, tag or branch on the Hub.

    Attributes:
        rank: Of the products that the layers' matrices are; `None`: they are whole.

    Raises:
        ModelError: The source is neither.
    """

    rank: int | None = None

    def __init__(self, source: str, revision: str | None) -> None:
        folder = Path(source).expanduser()
        self.is_folder = folder.is_dir()
        self.is_online = not self.is_folder
        self.name, self.revision = (str(folder), None) if self.is_folder else (source, revision)
        if not self.is_folder:
            if folder.exists() or not HUB_NAME.fullmatch(source):
                raise ModelError("no such folder", where=source, remedy=f"Name {A_MODEL}, or its name on the Hub.")
            # Transformers itself tries five times over, for 23 s
            self.is_online = is_reachable(importlib.import_module("huggingface_hub"))
        self._access = {"local_files_only": not self.is_online, "revision": self.revision}

    def read_config(self) -> dict[str, Any]:
        """Return what config.json holds."""
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
        model_class, is_whisper = model_class_of(config.model_type, where=self.name), config.model_type == "whisper"
        if is_whisper:
            config = model_class.config_class.from_dict(config.to_dict())
        mask_time_prob, config.mask_time_prob = config.mask_time_prob, 1.0  # with it comes the mask embedding
        with quiet_transformers(bars=self.is_online), self._errors("the weights cannot be loaded"):
            model, report = model_class.from_pretrained(
                self.name,
                config=config,
                dtype=torch.float32,
                key_mapping=WHISPER_NAMES if is_whisper else None,
                output_loading_info=True,
                **self._access,
            )
        model.config.mask_time_prob = mask_time_prob
        missing, own = set(report["missing_keys"]), WHISPER_WEIGHT if is_whisper else BODY_WEIGHT
        if MASK_EMBEDDING in missing:
            nn.init.zeros_(model.masked_spec_embed)  # or two loads would differ
        wrong = {
            "weights are missing": missing - {MASK_EMBEDDING},
            "weights fit nowhere": {key for key in report["unexpected_keys"] if own.match(key)},
        }
        for what, keys in wrong.items():
            if keys:
                raise ModelError(f"{len(keys)} {what}, such as {min(keys)}", where=self.name, remedy=COPY)
        return model

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn whatever a foreign model makes the library raise into one sentence, its cause kept."""
        try:
            yield
        except Exception as error:
            if not self.is_folder and not self.is_online:
                raise ModelError(
                    "not in the cache, and the Hugging Face Hub cannot be reached",
                    where=self.name,
                    remedy=f"Where there is network, run: hf download {self.name} --local-dir FOLDER. "
                    "Copy the folder here and name it.",
                ) from error
            detail = " ".join(str(error).split())[:200]
            raise ModelError(f"{what} ({detail})", where=self.name, remedy=f"Name {A_MODEL}.") from error


class ModelFolder(Place):
    """A model folder of serein, or a model that ships with it: its backbone, without its encoder and heads.

    Args:
        source: The folder, or the name of a shipped model.

    Raises:
        ModelError: It holds no backbone of Transformers, names one that lies elsewhere, or has an adapter beside it.
    """

    def __init__(self, source: str) -> None:
        folder = Path(source).expanduser()
        self.is_folder, self.is_online, self.revision = folder.is_dir(), True, None  # nothing needs the Hub
        self.name = str(folder) if self.is_folder else source
        self.folder = folder if self.is_folder else SHIPPED_MODELS / source
        try:
            content = json.loads((self.folder / DESCRIPTION).read_text(encoding="utf-8"))
            self.described, where = content["backbone"], content["backbone_weights"]
            kind = self.described["name"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"no readable {DESCRIPTION}", where=source, remedy=COPY) from error
        if kind != "huggingface":
            raise ModelError("has no pretrained backbone", where=source, remedy=f"Name {A_MODEL}.")
        if where != "inside":
            raise ModelError("does not hold its backbone", where=source, remedy=f"Name that one: {where['source']}.")
        if self.described.get("adapter") is not None:
            remedy = "Add it to the weights: serein merge MODEL -o FOLDER."
            raise ModelError("has an adapter beside its backbone", where=source, remedy=remedy)
        self.rank = self.described.get("rank")

    def read_config(self) -> dict[str, Any]:
        """Return what config.json would hold."""
        with self._errors(f"damaged {DESCRIPTION}"):
            return dict(self.described["config"])

    def read_preprocess(self) -> dict[str, Any]:
        """Return what the feature extractor would have been saved with."""
        return {"do_normalize": self.described.get("do_normalize", False)}

    def commit(self) -> None:
        """Return nothing: it has none."""

    def load(self, config: Any) -> Any:
        """Return the model with random weights; `fill` gives a backbone of it the folder's."""
        with self._errors("the backbone cannot be built"):
            return built_class_of(config.model_type, where=self.name)(config)

    def fill(self, backbone: nn.Module) -> None:
        """Give a backbone the folder's weights, each that it has."""
        with self._errors("the backbone's weights cannot be loaded"):
            weights = load_file(self.folder / "model.safetensors")
            named = {name: f"backbone.{name}" for name in backbone.state_dict()}
            own = {name: weights[stored].float() for name, stored in named.items() if stored in weights}
            backbone.load_state_dict(own, strict=True)


def is_own(source: str) -> bool:
    """Tell whether a source is a model of serein: a folder comes before a model that ships, and that before the Hub."""
    folder = Path(source).expanduser()
    return ((folder if folder.exists() else SHIPPED_MODELS / source) / DESCRIPTION).is_file()


def place_of(source: str, revision: str | None) -> Place:
    """Return where a model lies."""
    return ModelFolder(source) if is_own(source) else Place(source, revision)


@contextmanager
def quiet_transformers(*, bars: bool = False) -> Iterator[None]:
    """Keep Transformers from listing missing or left out weights, and from drawing bars unless they are wanted."""
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


def model_class_of(family: object, *, where: str) -> Any:
    """Return Transformers' class of a family, by which a checkpoint is loaded."""
    if family not in FAMILIES:
        raise ModelError(
            expected_one_of(family, FAMILIES, kind="family of models"), where=where, remedy=f"Name {A_MODEL}."
        )
    module, _, name = f"transformers.{FAMILIES[str(family)]}".rpartition(".")
    return getattr(importlib.import_module(module), name)


def built_class_of(family: object, *, where: str) -> Any:
    """Return the class by which a configuration is read and built: serein's own without importing Transformers."""
    return WhisperEncoder if family == "whisper" else model_class_of(family, where=where)


def build_config(content: Mapping[str, Any], changes: Mapping[str, Any], *, where: str) -> Any:
    """Return a family's configuration with `changes` made, without the adapter behind the last layer."""
    model_class = built_class_of(content.get("model_type"), where=where)
    names = WHISPER_OVERRIDES if content["model_type"] == "whisper" else {}
    changes = {names.get(key, key): value for key, value in changes.items()}
    known = {**model_class.config_class().to_dict(), **DEFAULT_OVERRIDES}
    if unknown := sorted(changes.keys() - known.keys()):
        raise RecipeError(f"{content['model_type']} models have no {unknown[0]}", where="backbone.overrides")
    try:
        config = model_class.config_class.from_dict({**content, **changes})
    except Exception as error:  # the library checks in many ways and places
        detail = " ".join(str(error).split())[:200]
        raise ModelError(f"config.json is not valid ({detail})", where=where, remedy=COPY) from error
    strides, kernels = getattr(config, "conv_stride", ()), getattr(config, "conv_kernel", ())
    if not all(isinstance(each, int) and 1 <= each <= MOST_STRIDE for each in (*strides, *kernels)):
        raise ModelError(f"config.json is not valid (convolutions of {kernels} by {strides})", where=where, remedy=COPY)
    if getattr(config, "add_adapter", False):  # it thins out frames, and is no part of the hidden layers
        config.use_intermediate_ffn_before_adapter = False  # w2v-BERT's
        config.add_adapter = False
    return config


def do_normalize_of(config: Any, preprocess: Mapping[str, Any] | None, *, where: str) -> bool:
    """Return whether clips are normalised: what was saved, or what the architecture was trained with."""
    has_features = config.model_type in HAVE_FEATURES
    if preprocess is None:
        return not has_features and str(getattr(config, "feat_extract_norm", "layer")) == "layer"
    rate_hz = preprocess.get("sampling_rate", Backbone.sample_rate_hz)
    if rate_hz != Backbone.sample_rate_hz:
        raise ModelError(f"expects {rate_hz} Hz, not 16000 Hz", where=where, remedy="Choose a model for 16 kHz.")
    return bool(preprocess.get("do_normalize", not has_features))  # their feature extractors' defaults


def checked_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes that a recipe asks for over `DEFAULT_OVERRIDES`, or raise RecipeError naming the wrong one."""
    for key, value in overrides.items():
        if key not in OVERRIDES:
            raise RecipeError(expected_one_of(key, OVERRIDES, kind="override"), where="backbone.overrides")
        lowest, highest, kinds, expected = OVERRIDES[key]
        is_kind = isinstance(value, kinds) and isinstance(value, bool) == (bool in kinds)  # True is an int, too
        if not (is_kind and lowest <= value <= highest):
            raise RecipeError(f"{key} is {value!r}, expected {expected}", where="backbone.overrides")
    return {**DEFAULT_OVERRIDES, **overrides}


# Lowest and highest value, types, and how a message says it.
SHARE = (0.0, 1.0, (int, float), "0 to 1")
COUNT = (0, math.inf, (int,), "a whole number")
POSITIVE = (1, math.inf, (int,), "a whole number from 1")

# What a recipe may change of a model's configuration: how it trains, never what it is.
OVERRIDES: dict[str, tuple[float, float, tuple[type, ...], str]] = {
    "hidden_dropout": SHARE,
    "attention_dropout": SHARE,
    "activation_dropout": SHARE,
    "feat_proj_dropout": SHARE,
    "conformer_conv_dropout": SHARE,
    "layerdrop": SHARE,
    "apply_spec_augment": (False, True, (bool,), "true or false"),
    "mask_time_prob": SHARE,
    "mask_time_length": POSITIVE,
    "mask_time_min_masks": COUNT,
    "mask_feature_prob": SHARE,
    "mask_feature_length": POSITIVE,
    "mask_feature_min_masks": COUNT,
}

WHISPER_OVERRIDES = {"hidden_dropout": "dropout", "layerdrop": "encoder_layerdrop"}

# `model_type` of config.json -> class of Transformers. `serein.models.backbones.ARCHITECTURES` says how each is run.
FAMILIES = {
    "wav2vec2": "Wav2Vec2Model",
    "hubert": "HubertModel",
    "wavlm": "WavLMModel",
    "data2vec-audio": "Data2VecAudioModel",
    "unispeech": "UniSpeechModel",
    "unispeech-sat": "UniSpeechSatModel",
    "wav2vec2-conformer": "Wav2Vec2ConformerModel",
    "wav2vec2-bert": "Wav2Vec2BertModel",
    "whisper": "models.whisper.modeling_whisper.WhisperEncoder",
}
HAVE_FEATURES = ("wav2vec2-bert", "whisper")  # they begin with features of sound, not with a normalised waveform

A_MODEL = f"a folder with config.json and weights of one of these: {', '.join(FAMILIES)}"
COPY = "Copy or download the model again."
