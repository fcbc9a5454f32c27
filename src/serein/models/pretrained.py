"""Pretrained speech models from Transformers: located in a folder or on the Hub, checked, and loaded completely."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from serein.errors import ModelError, RecipeError, expected_one_of
from serein.hub import COPY, SHIPPED_MODELS, check_name, is_reachable, quiet_transformers
from serein.models.architectures import MASK_EMBEDDING
from serein.models.hidden_states import Backbone
from serein.models.whisper import WhisperEncoder

MOST_STRIDE = 128  # of a convolution, in samples or frames; published models use up to 10
ORIGIN: dict[str, Any] = {"source": None, "revision": None, "overrides": {}, "layers": None, "weights_sha256": None}
DEFAULT_OVERRIDES = {"apply_spec_augment": False, "layerdrop": 0.0}
BODY_WEIGHT = re.compile(r"(\w+\.)?(feature_extractor|feature_projection|encoder)\.")  # others belong to heads
WHISPER_WEIGHT = re.compile(r"((model\.)?encoder\.)?(conv\d|layers|layer_norm|embed_positions)\.")
WHISPER_NAMES = {r"^(model\.)?encoder\.": ""}  # only its encoder is loaded
DESCRIPTION = "model.json"  # of a serein model folder


def weights_hash(weights: nn.Module | Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a module's weights: names, dtypes, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class Place:
    """The location of a pretrained model: a local folder, the Hub, or its cache if the Hub cannot be reached.

    Args:
        source: A folder, or a name on the Hub.
        revision: Commit, tag or branch on the Hub.

    Attributes:
        ranks: Name of a matrix -> rank of the product that replaces it.

    Raises:
        ModelError: The source is neither.
    """

    ranks: Mapping[str, int] = MappingProxyType({})

    def __init__(self, source: str, revision: str | None) -> None:
        folder = Path(source).expanduser()
        self.is_folder = folder.is_dir()
        self.is_online = not self.is_folder
        self.name, self.revision = (str(folder), None) if self.is_folder else (source, revision)
        if not self.is_folder:
            check_name(source, expected=A_MODEL)
            # Transformers itself retries five times, for 23 s
            self.is_online = is_reachable(importlib.import_module("huggingface_hub"))
        self._access = {"local_files_only": not self.is_online, "revision": self.revision}

    def read_config(self) -> dict[str, Any]:
        """Return the content of config.json.

        Raises:
            ModelError: It is missing or cannot be read.
        """
        reader = importlib.import_module("transformers").PreTrainedConfig
        with self._errors("no readable config.json"):
            content: dict[str, Any] = reader.get_config_dict(self.name, **self._access)[0]
            if not content:
                raise FileNotFoundError("there is none")
        return content

    def read_preprocess(self, *, is_needed: bool) -> dict[str, Any] | None:
        """Return the saved settings of the model's feature extractor, or `None` if there are none.

        Args:
            is_needed: Whether the architecture alone does not determine the features.

        Raises:
            ModelError: They cannot be read, or they are needed and may exist, but not in the cache.
        """
        reader = importlib.import_module("transformers").FeatureExtractionMixin
        try:
            content: dict[str, Any] = reader.get_feature_extractor_dict(self.name, **self._access)[0]
        except OSError as error:
            if (Path(self.name) / "preprocessor_config.json").exists():
                raise ModelError("no readable preprocessor_config.json", where=self.name, remedy=COPY) from error
            hub = importlib.import_module("huggingface_hub")
            if is_needed and self.is_online:
                with self._errors("preprocessor_config.json cannot be downloaded"):
                    if hub.file_exists(self.name, "preprocessor_config.json", revision=self.revision):
                        raise
            elif is_needed and not self.is_folder:
                found = hub.try_to_load_from_cache(self.name, "preprocessor_config.json", revision=self.revision)
                if found is not hub._CACHED_NO_EXIST:  # nobody has asked the Hub for it
                    raise ModelError(
                        "preprocessor_config.json, which says whether clips are normalised, is not in the cache, and "
                        "the Hugging Face Hub cannot be reached",
                        where=self.name,
                        remedy=f"On a machine with network access, run: hf download {self.name} "
                        "preprocessor_config.json. If the model has none, name a folder with its files.",
                    ) from error
            return None
        return content

    def commit(self) -> str | None:
        """Return the commit of a Hub model whose config.json has been read; `None` for a folder."""
        if self.is_folder:
            return None
        look_up = importlib.import_module("huggingface_hub").try_to_load_from_cache
        path = look_up(self.name, "config.json", revision=self.revision)
        return Path(path).parent.name if isinstance(path, str) else self.revision

    def load(self, config: Any) -> Any:
        """Return the model; the checkpoint must contain exactly its weights.

        Raises:
            ModelError: The weights cannot be loaded, or some are missing or fit nowhere.
        """
        model_class, is_whisper = model_class_of(config.model_type, where=self.name), config.model_type == "whisper"
        if is_whisper:
            config = model_class.config_class.from_dict(config.to_dict())
        mask_time_prob, config.mask_time_prob = config.mask_time_prob, 1.0  # creates the mask embedding
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
            nn.init.zeros_(model.masked_spec_embed)  # otherwise two loads would differ
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
        """Turn any exception that the library raises for a foreign model into a ModelError with its cause."""
        try:
            yield
        except Exception as error:
            if not self.is_folder and not self.is_online:
                raise ModelError(
                    "not in the cache, and the Hugging Face Hub cannot be reached",
                    where=self.name,
                    remedy=f"On a machine with network access, run: hf download {self.name} --local-dir FOLDER. "
                    "Copy the folder here and name it.",
                ) from error
            detail = " ".join(str(error).split())[:200]
            raise ModelError(f"{what} ({detail})", where=self.name, remedy=f"Name {A_MODEL}.") from error


class ModelFolder(Place):
    """A serein model folder, or a shipped model: its backbone, without its encoder and heads.

    Args:
        source: The folder, or the name of a shipped model.

    Raises:
        ModelError: It contains no backbone from Transformers, refers to one stored elsewhere, or has an adapter.
    """

    def __init__(self, source: str) -> None:
        folder = Path(source).expanduser()
        self.is_folder, self.is_online, self.revision = folder.is_dir(), True, None  # the Hub is not needed
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
            raise ModelError(
                "does not contain its backbone", where=source, remedy=f"Name its source: {where['source']}."
            )
        if self.described.get("adapter") is not None:
            remedy = "Merge it into the weights: serein merge MODEL -o FOLDER."
            raise ModelError("has an adapter in addition to its backbone", where=source, remedy=remedy)
        self.ranks = self.described.get("ranks", {})

    def read_config(self) -> dict[str, Any]:
        """Return the content that config.json would have."""
        with self._errors(f"damaged {DESCRIPTION}"):
            return dict(self.described["config"])

    def read_preprocess(self, *, is_needed: bool = True) -> dict[str, Any]:
        """Return the settings that the feature extractor would have been saved with."""
        return {"do_normalize": self.described.get("do_normalize", False)}

    def commit(self) -> None:
        """Return `None`: a folder has no commit."""

    def load(self, config: Any) -> Any:
        """Return the model with random weights; `fill` loads the folder's weights into its backbone."""
        with self._errors("the backbone cannot be built"):
            return built_class_of(config.model_type, where=self.name)(config)

    def fill(self, backbone: nn.Module) -> None:
        """Load each of a backbone's weights from the folder."""
        with self._errors("the backbone's weights cannot be loaded"):
            weights = load_file(self.folder / "model.safetensors")
            named = {name: f"backbone.{name}" for name in backbone.state_dict()}
            own = {name: weights[stored].float() for name, stored in named.items() if stored in weights}
            backbone.load_state_dict(own, strict=True)


def is_own(source: str) -> bool:
    """Return whether a source is a serein model: folders come before shipped models, and these before the Hub."""
    folder = Path(source).expanduser()
    return ((folder if folder.exists() else SHIPPED_MODELS / source) / DESCRIPTION).is_file()


def place_of(source: str, revision: str | None) -> Place:
    """Return the location of a model."""
    return ModelFolder(source) if is_own(source) else Place(source, revision)


def model_class_of(family: object, *, where: str) -> Any:
    """Return the Transformers class that loads the checkpoints of a family.

    Raises:
        ModelError: The family is unknown.
    """
    if family not in FAMILIES:
        raise ModelError(
            expected_one_of(family, FAMILIES, kind="family of models"), where=where, remedy=f"Name {A_MODEL}."
        )
    module, _, name = f"transformers.{FAMILIES[str(family)]}".rpartition(".")
    return getattr(importlib.import_module(module), name)


def built_class_of(family: object, *, where: str) -> Any:
    """Return the class that reads and builds a configuration; serein's own class does not import Transformers."""
    return WhisperEncoder if family == "whisper" else model_class_of(family, where=where)


def build_config(content: Mapping[str, Any], changes: Mapping[str, Any], *, where: str) -> Any:
    """Return a family's configuration with `changes` applied, without the adapter after the last layer.

    Raises:
        RecipeError: Models of this family have no such setting.
        ModelError: The family is unknown, or the configuration is not valid.
    """
    model_class = built_class_of(content.get("model_type"), where=where)
    names = WHISPER_OVERRIDES if content["model_type"] == "whisper" else {}
    changes = {names.get(key, key): value for key, value in changes.items()}
    known = {**model_class.config_class().to_dict(), **DEFAULT_OVERRIDES}
    if unknown := sorted(changes.keys() - known.keys()):
        raise RecipeError(f"{content['model_type']} models have no {unknown[0]}", where="backbone.overrides")
    try:
        config = model_class.config_class.from_dict({**content, **changes})
    except Exception as error:  # the library raises many kinds of exceptions
        detail = " ".join(str(error).split())[:200]
        raise ModelError(f"config.json is not valid ({detail})", where=where, remedy=COPY) from error
    strides, kernels = getattr(config, "conv_stride", ()), getattr(config, "conv_kernel", ())
    if not all(isinstance(each, int) and 1 <= each <= MOST_STRIDE for each in (*strides, *kernels)):
        raise ModelError(f"config.json is not valid (convolutions of {kernels} by {strides})", where=where, remedy=COPY)
    if getattr(config, "add_adapter", False):  # it reduces the number of frames, and is not one of the hidden layers
        config.use_intermediate_ffn_before_adapter = False  # w2v-BERT's
        config.add_adapter = False
    return config


def do_normalize_of(config: Any, preprocess: Mapping[str, Any] | None, *, where: str) -> bool:
    """Return whether clips are normalised: as saved with the model, or as the architecture was trained.

    Raises:
        ModelError: The model is for another sampling rate than 16 kHz.
    """
    has_features = config.model_type in HAVE_FEATURES
    if preprocess is None:
        return not has_features and str(getattr(config, "feat_extract_norm", "layer")) == "layer"
    rate_hz = preprocess.get("sampling_rate", Backbone.sample_rate_hz)
    if rate_hz != Backbone.sample_rate_hz:
        raise ModelError(f"expects {rate_hz} Hz, not 16000 Hz", where=where, remedy="Choose a model for 16 kHz.")
    return bool(preprocess.get("do_normalize", not has_features))  # the defaults of the feature extractors


def checked_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `DEFAULT_OVERRIDES` updated with a recipe's changes, or raise RecipeError, which names the wrong one."""
    for key, value in overrides.items():
        if key not in OVERRIDES:
            raise RecipeError(expected_one_of(key, OVERRIDES, kind="override"), where="backbone.overrides")
        lowest, highest, kinds, expected = OVERRIDES[key]
        is_kind = isinstance(value, kinds) and isinstance(value, bool) == (bool in kinds)  # True is also an int
        if not (is_kind and lowest <= value <= highest):
            raise RecipeError(f"{key} is {value!r}, expected {expected}", where="backbone.overrides")
    return {**DEFAULT_OVERRIDES, **overrides}


# Lowest and highest value, types, and their description in messages.
SHARE = (0.0, 1.0, (int, float), "0 to 1")
COUNT = (0, math.inf, (int,), "a whole number")
POSITIVE = (1, math.inf, (int,), "a whole number from 1")

# The parts of a model's configuration that a recipe can change: how it trains, never its architecture.
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

# `model_type` of config.json -> Transformers class; `serein.models.architectures.ARCHITECTURES` defines how each runs.
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
HAVE_FEATURES = ("wav2vec2-bert", "whisper")  # their input is acoustic features, not a normalised waveform

A_MODEL = f"a folder with config.json and weights of one of these: {', '.join(FAMILIES)}"
