"""Backbones from Transformers: wav2vec 2.0, Whisper and related models, with outputs independent of the batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from serein.device import all_gather, sent
from serein.errors import AudioError, ModelError, RecipeError, imported
from serein.hub import COPY
from serein.models.architectures import ARCHITECTURES, Wav2Vec2
from serein.models.hidden_states import ADAPTER_WEIGHT, Backbone, HiddenStates, frame_mask, own_weights
from serein.models.logmel import LogMelBackbone
from serein.models.low_rank import Components, Matrix, factors, num_component_weights, ranks_within
from serein.models.masking import fasten, prepare_waveforms
from serein.models.pretrained import (
    DEFAULT_OVERRIDES,
    HAVE_FEATURES,
    ORIGIN,
    ModelFolder,
    build_config,
    built_class_of,
    checked_overrides,
    do_normalize_of,
    place_of,
    weights_hash,
)
from serein.recipe import HuggingFace, Lora

# On a CPU, batches are padded to a multiple of this many samples, 16 frames of most families, because oneDNN prepares
# and caches kernels for each shape (benchmarks/batch_shapes.py).
PADDED_TO = 5120
PADDED_FRAMES = 16

BandsChange = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Part of a layer -> names of its linear layers in Transformers' families.
LORA_TARGETS: dict[str, tuple[str, ...]] = {
    "query": ("q_proj", "linear_q"),
    "key": ("k_proj", "linear_k"),
    "value": ("v_proj", "linear_v"),
    "output": ("out_proj", "linear_out"),
    "feed_forward": ("fc1", "fc2", "intermediate_dense", "output_dense"),
}


class HuggingFaceBackbone(Backbone):
    """A speech model from Transformers: waveform or features -> convolutions -> projection -> transformer layers.

    A clip's hidden layers are those that Transformers returns for the clip alone, whatever it is batched with. Frozen
    parts run in evaluation mode, and no graph is recorded for those below the lowest trainable one.

    Args:
        model: `Wav2Vec2Model` or another class of `FAMILIES`; its modules are run, but not its `forward`. Modules that
            its own `forward` never runs are removed.
        do_normalize: Whether each clip is first normalised to zero mean and unit variance.
        level_db: The level to which each clip is first normalised, with zero mean; `None`: as `do_normalize` specifies.
        pad_s: Shorter clips are padded with zeros to this many seconds, and the padding is attended to, as in Whisper's
            training (30 s).
        origin: The entries of `describe` about the weights: source, revision, overrides, weights_sha256.
        gradient_checkpointing: Trade time for memory in training.
        adapter: Small matrices in addition to the model's own.
        ranks: Name of a matrix -> rank of the product of two that replaces it, as chosen by `factorise`.

    Attributes:
        max_parameters: Number of parameters to which `factorise` has yet to reduce the backbone; `None`: nothing is
            left to factorise.

    Example:
        >>> tiny = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8,
        ...         "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "conv_dim": [8] * 7}
        >>> backbone = HuggingFaceBackbone.from_config({"model_type": "wavlm", **tiny}).eval()
        >>> hidden = backbone(torch.randn(2, 16_000), torch.tensor([16_000, 5_000]))
        >>> len(hidden.layers), hidden.layers[-1][:, :49].shape, hidden.num_frames.tolist()
        (3, torch.Size([2, 49, 8]), [49, 15])
    """

    Options = HuggingFace

    def __init__(
        self,
        model: Any,
        *,
        do_normalize: bool,
        level_db: float | None = None,
        pad_s: float | None = None,
        origin: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        adapter: Lora | None = None,
        ranks: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.max_parameters: int | None = None
        self.architecture = ARCHITECTURES.get(model.config.model_type, Wav2Vec2)(model)
        self.model = model = self.architecture.model
        self.ranks = dict(ranks or {})
        matrices = self._matrices()
        if unknown := sorted(self.ranks.keys() - matrices.keys()):
            raise ModelError(f"the model has no matrix {unknown[0]}", where="ranks", remedy=COPY)
        self._replace({name: nn.Sequential(*factors(matrices[name], rank)) for name, rank in self.ranks.items()})
        self.do_normalize, self.level_db, self.pad_s = do_normalize, level_db, pad_s
        self.gradient_checkpointing = gradient_checkpointing
        self._origin = {**ORIGIN, **(origin or {})}
        self.num_layers = len(self.architecture.layers)
        self.sizes = (model.config.hidden_size,) * (self.num_layers + 1)
        self.receptive_field = self.architecture.receptive_field
        self.frame_rate_hz = self.sample_rate_hz / self.architecture.frame_samples
        frames = self.architecture.max_frames
        self.max_s = None if frames is None else frames / self.frame_rate_hz
        if adapter is not None:
            self.add_adapter(adapter)

    @classmethod
    def from_source(
        cls,
        source: str,
        *,
        overrides: Mapping[str, Any] | None = None,
        revision: str | None = None,
        layers: int | None = None,
        level_db: float | None = None,
        pad_s: float | None = None,
        gradient_checkpointing: bool = False,
    ) -> HuggingFaceBackbone:
        """Load a pretrained model completely.

        Args:
            source: Local folder, which is never looked up elsewhere, or a name on the Hugging Face Hub. Checkpoints of
                pretraining, CTC or classification models work as well; their heads are ignored. Or a serein model that
                contains its backbone: a folder, or the name of a shipped model.
            overrides: Changes to the model's configuration, with the keys of `OVERRIDES`. SpecAugment and layer drop
                are off unless they are set here.
            revision: Commit, tag or branch on the Hub.
            layers: Number of transformer layers to keep, from the lowest up.
            level_db: Root mean square to which each clip is normalised, in dB relative to full scale.
            pad_s: Seconds to which shorter clips are padded with zeros.
            gradient_checkpointing: Trade time for memory in training.

        Raises:
            ModelError: There is no such model, its family is not supported, or weights are missing or damaged.
            RecipeError: An override is unknown or out of range, or the model has fewer layers.
        """
        changes = checked_overrides(overrides or {})
        place = place_of(source, revision)
        config = build_config(place.read_config(), changes, where=source)
        preprocess = place.read_preprocess(is_needed=config.model_type not in HAVE_FEATURES)
        do_normalize = do_normalize_of(config, preprocess, where=source)
        named = (
            str(Path(source).expanduser().resolve()) if place.is_folder else source
        )  # a model can be loaded from any working directory
        origin = {"source": named, "revision": place.commit(), "overrides": dict(overrides or {}), "layers": layers}
        model = place.load(config)
        if layers is not None:
            every = model.layers if config.model_type == "whisper" else model.encoder.layers
            if layers > len(every):
                raise RecipeError(f"the model has {len(every)} layers, not {layers}", where="backbone.layers")
            del every[layers:]
            model.config.num_hidden_layers = layers
        kept = {name for name, _ in model.named_modules()}
        backbone = cls(
            model,
            do_normalize=do_normalize,
            level_db=level_db,
            pad_s=pad_s,
            origin=origin,
            gradient_checkpointing=gradient_checkpointing,
            ranks={name: rank for name, rank in place.ranks.items() if name in kept},
        )
        if isinstance(place, ModelFolder):
            place.fill(backbone)
        backbone._origin["weights_sha256"] = weights_hash(backbone)
        return backbone.eval()

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        preprocess: Mapping[str, Any] | None = None,
    ) -> HuggingFaceBackbone:
        """Build the architecture with random weights, to be loaded strictly or trained from scratch.

        Under `torch.device("meta")` this takes hardly any memory; use `load_state_dict(..., assign=True)` afterwards.

        Args:
            config: The result of `describe`, or a Transformers configuration (`config.json`).
            preprocess: With a Transformers configuration: the content of `preprocessor_config.json`, if there is one.

        Raises:
            ModelError: The family is not supported, or the configuration is not valid.
        """
        if "config" in config:
            built = build_config(config["config"], {}, where="config")
            do_normalize = bool(config.get("do_normalize", do_normalize_of(built, None, where="config")))
            origin = {key: config[key] for key in ORIGIN if key in config}
        else:
            built = build_config(config, DEFAULT_OVERRIDES, where="config")
            do_normalize, origin = do_normalize_of(built, preprocess, where="config"), {}
        try:
            model = built_class_of(built.model_type, where="config")(built)
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"cannot be built ({error})", where="config", remedy=COPY) from error
        adapter = config.get("adapter")
        backbone = cls(
            model,
            do_normalize=do_normalize,
            level_db=config.get("level_db"),
            pad_s=config.get("pad_s"),
            origin=origin,
            adapter=None if adapter is None else Lora.model_validate(adapter),
            ranks=config.get("ranks"),
        )
        return backbone.eval()

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> HuggingFaceBackbone:
        """Return the architecture that `describe` described, with random weights."""
        return cls.from_config(description)

    @torch.no_grad()
    def factorise(self, max_parameters: int, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Replace matrices of layers and convolutions with products of two, for fewer parameters.

        A product keeps the first principal components of its matrix's outputs for given speech (Yu and Wu 2023, AFM);
        `ranks_within` chooses how many. Matrices that would not become smaller are left unchanged.

        Args:
            max_parameters: Largest number of parameters of the backbone.
            batches: Waveforms and lengths, as `forward` takes them.

        Raises:
            RecipeError: The backbone is smaller already, or cannot become so small.
        """
        num_others, matrices = self._check_size(max_parameters), self._matrices()
        seen = {name: Components(matrix) for name, matrix in matrices.items()}
        self._replace({name: nn.Sequential(matrix, seen[name]) for name, matrix in matrices.items()})
        for waveforms, num_samples in batches:
            self(waveforms, num_samples)
        self.ranks = all_gather(ranks_within(max_parameters - num_others, seen))[0]  # the same in all processes
        self.max_parameters = None
        products = {name: seen[name].factorised(rank) for name, rank in self.ranks.items()}
        self._replace({**matrices, **products})

    def _check_size(self, max_parameters: int) -> int:
        """Return the number of parameters outside the matrices; reject a size that factorisation cannot reach."""
        matrices = self._matrices().values()
        num_parameters = sum(each.numel() for each in self.parameters())
        num_others = num_parameters - sum(matrix.weight.numel() for matrix in matrices)
        least = num_others + sum(num_component_weights(matrix) for matrix in matrices)
        if not least <= max_parameters < num_parameters:
            raise RecipeError(
                f"{max_parameters:,}: of the backbone's {num_parameters:,} parameters, at least {least:,} must remain",
                where="backbone.max_parameters",
                remedy=f"Choose a number from {least} to {num_parameters - 1}, or another backbone.layers.",
            )
        return num_others

    def _matrices(self) -> dict[str, Matrix]:
        """Return the matrices that `factorise` may replace, by their names in the model."""
        called = {name for names in LORA_TARGETS.values() for name in names}
        names = {module: name for name, module in self.model.named_modules()}
        return {
            names[module]: module
            for part in [*self.architecture.cnn, *self.architecture.layers]
            for module in part.modules()
            if (isinstance(module, nn.Linear) and names[module].rpartition(".")[2] in called)
            or (isinstance(module, nn.Conv1d) and part in self.architecture.cnn and module.in_channels > 1)
        }

    def _replace(self, modules: Mapping[str, nn.Module]) -> None:
        """Replace modules of the model, by their names."""
        for name, module in modules.items():
            parent, _, child = name.rpartition(".")
            setattr(self.model.get_submodule(parent), child, module)
        self.architecture = type(self.architecture)(self.model)
        fasten(self.model)

    def add_adapter(self, options: Lora) -> None:
        """Add a product of two matrices to each target: W x + (alpha / rank) B A x, where B starts at zero.

        The targets become `peft` layers, which keep the originals as `base_layer`; the model's own weights are frozen.

        Raises:
            MissingExtraError: `peft` is not installed.
            RecipeError: The model has fewer layers than the options name.
        """
        if max(options.layers or (1,)) > self.num_layers:
            what = f"the model has {self.num_layers} layers, not {max(options.layers or ())}"
            raise RecipeError(what, where="adapter.layers")
        if self.ranks or self.max_parameters:
            raise RecipeError(
                "a model with backbone.max_parameters takes no adapter", where="adapter", remedy="Leave one out."
            )
        peft = imported("peft", "lora")
        called = {name for target in options.targets for name in LORA_TARGETS[target]}
        layers = [self.architecture.layers[number - 1] for number in options.layers or range(1, self.num_layers + 1)]
        inside = {id(module) for layer in layers for module in layer.modules()}
        names = [
            name
            for name, module in self.model.named_modules()
            if id(module) in inside and name.rpartition(".")[2] in called
        ]
        config = peft.LoraConfig(
            r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=names
        )
        peft.inject_adapter_in_model(config, self.model)
        self.adapter = options
        self.train(self.training)

    @property
    def has_bands(self) -> bool:
        """Whether its input is a log-mel spectrogram, which `forward` can change."""
        return self.architecture.band_samples is not None

    @property
    def repeated_blocks(self) -> list[nn.Module]:
        """The transformer layers, or in a Conformer the modules of these."""
        return self.architecture.blocks

    def forward(
        self, waveforms: torch.Tensor, num_samples: torch.Tensor, change: BandsChange | None = None
    ) -> HiddenStates:
        """Encode a padded batch; a clip shorter than the receptive field is padded with zeros to one frame.

        Args:
            waveforms: (batch, sample) float32 at 16 kHz; samples past a clip's own length are ignored.
            num_samples: (batch,) long, real samples of each clip.
            change: Change of the model's input if it `has_bands`: from (batch, frame, band) and the (batch,) frames of
                each clip to changed bands.

        Returns:
            Hidden layers as wide as the longest clip or a little wider; their values on padding are meaningless.

        Raises:
            AudioError: A clip has no samples or more than its row, or is longer than the model accepts.
        """
        if self.training:
            self._settle_frozen()
        is_exporting = torch.compiler.is_exporting()  # lengths are not yet numbers then, and batches are always masked
        lengths: list[int] = [] if is_exporting else num_samples.tolist()
        on_host, num_samples = num_samples, sent(num_samples, waveforms.device)
        if waveforms.ndim != 2 or num_samples.shape[0] != waveforms.shape[0]:
            shapes = f"{tuple(waveforms.shape)} and {tuple(num_samples.shape)}"
            raise AudioError(f"waveforms and num_samples are {shapes}, expected (batch, sample) and (batch,)")
        for index, length in enumerate(lengths):
            if not 1 <= length <= waveforms.shape[1]:
                raise AudioError(f"clip {index} of a batch of {waveforms.shape[1]} samples has length {length}")
        if not is_exporting:
            waveforms = waveforms[:, : max(lengths)]
        shortest = max(self.receptive_field, round((self.pad_s or 0.0) * self.sample_rate_hz))
        is_padded = is_exporting or len({max(length, shortest) for length in lengths}) > 1
        width = shortest
        if is_padded and not is_exporting and waveforms.device.type == "cpu":
            rounded = -(-max(*lengths, shortest) // PADDED_TO) * PADDED_TO
            width = rounded if self.max_s is None else min(rounded, round(self.max_s * self.sample_rate_hz))
        padded = num_samples.clamp_min(shortest)
        level_db = 0.0 if self.level_db is None and self.do_normalize else self.level_db
        clips = prepare_waveforms(waveforms, num_samples, level_db=level_db, at_least=width)
        num_frames = self.architecture.num_frames(padded)
        longest = self.architecture.num_frames(clips.shape[1])
        if self.max_s is not None and not is_exporting and longest > self.max_s * self.frame_rate_hz:
            raise AudioError(
                f"a clip of {max(lengths) / self.sample_rate_hz:.1f} s exceeds the model's limit of {self.max_s:g} s",
                remedy=f"Set clips.window_s to at most {self.max_s:g}.",
            )
        is_frame = frame_mask(num_frames, longest)
        features = self.architecture.features(clips, padded)
        if change is not None and (band_samples := self.architecture.band_samples) is not None:
            features = change(features, on_host // band_samples)
        layers, output = self._run(features, padded, is_frame if is_padded else None)
        if self.pad_s:
            num_frames = self.num_frames(num_samples)
            longest = longest if is_exporting else self.architecture.num_frames(max(*lengths, self.receptive_field))
            is_frame = frame_mask(num_frames, longest)
            layers = tuple(layer[:, :longest] for layer in layers)
            output = None if output is None else output[:, :longest]
        return HiddenStates(layers, is_frame, output)

    def num_frames(self, num_samples: torch.Tensor) -> torch.Tensor:
        """Return the number of frames of clips of `num_samples`: (batch,) long."""
        return self.architecture.num_frames(num_samples.clamp_min(self.receptive_field))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return every parameter exactly once: `cnn`, `projection` (before and after layers), `layer 1` to `layer N`.

        If there is an adapter, the group `adapter` follows.
        """
        groups = self._in_order()
        if self.adapter is not None:
            added = {id(each): each for name, each in self.named_parameters() if ADAPTER_WEIGHT.search(name)}
            groups = {name: [each for each in group if id(each) not in added] for name, group in groups.items()}
            groups["adapter"] = list(added.values())
        return groups

    def _in_order(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters in execution order, with those of adapters in their layers' groups."""
        cnn = [parameter for module in self.architecture.cnn for parameter in module.parameters()]
        groups: dict[str, list[nn.Parameter]] = {"cnn": cnn, "projection": []}
        for number, layer in enumerate(self.architecture.layers, start=1):
            groups[f"layer {number}"] = list(layer.parameters())
        named = {id(parameter) for group in groups.values() for parameter in group}
        groups["projection"] = [parameter for parameter in self.parameters() if id(parameter) not in named]
        return groups

    def describe(self) -> dict[str, Any]:
        """Return the description from which `from_config` builds the same architecture, and the weights' origin."""
        config = json.loads(json.dumps(self.model.config.to_dict()))
        return {
            "name": "huggingface",
            "config": {key: value for key, value in config.items() if not key.startswith("_")},
            "do_normalize": self.do_normalize,
            "level_db": self.level_db,
            "pad_s": self.pad_s,
            "adapter": None if self.adapter is None else self.adapter.model_dump(mode="json"),
            **({"ranks": self.ranks} if self.ranks else {}),
            **self._origin,
        }

    @classmethod
    def from_options(cls, options: HuggingFace) -> HuggingFaceBackbone:
        """Load the pretrained model that a recipe specifies, not yet factorised: that needs speech."""
        backbone = cls.from_source(**options.model_dump(exclude={"name", "max_parameters"}))
        if options.max_parameters is not None and backbone.ranks:
            what = f"matrices of {options.source} are products of two already"
            raise RecipeError(what, where="backbone.max_parameters", remedy="Leave it out.")
        if options.max_parameters is not None:
            backbone._check_size(options.max_parameters)
        backbone.max_parameters = options.max_parameters
        return backbone

    @classmethod
    def check(cls, options: HuggingFace) -> None:
        """Reject a source that does not exist, is of an unknown family, or does not fit the overrides."""
        content = place_of(options.source, options.revision).read_config()
        build_config(content, checked_overrides(options.overrides), where=options.source)

    def lies_in(self, model: str) -> None:
        """Set a serein model that contains these weights as their source."""
        self._origin = {**ORIGIN, "source": model, "weights_sha256": weights_hash(own_weights(self))}

    def untouched_source(self) -> dict[str, Any] | None:
        """Return source, revision and SHA-256 of the weights, excluding an adapter's; `None` if they have changed."""
        digest = self._origin["weights_sha256"]
        if self._origin["source"] is None or self.ranks or digest != weights_hash(own_weights(self)):
            return None
        return {name: self._origin[name] for name in ("source", "revision", "layers")} | {"sha256": digest}

    def train(self, mode: bool = True) -> HuggingFaceBackbone:
        """Set the training mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        if mode:
            self._settle_frozen()
        return self

    def _settle_frozen(self) -> None:
        """Enable dropout only in trainable parts. Called at each forward: `requires_grad` may change at any time."""
        groups = self._in_order()
        modules = {"cnn": self.architecture.cnn, "projection": self.architecture.projection}
        modules |= {f"layer {number}": [layer] for number, layer in enumerate(self.architecture.layers, start=1)}
        learns = {name: any(parameter.requires_grad for parameter in group) for name, group in groups.items()}
        self.model.train(any(learns.values()))
        for name, parts in modules.items():
            for part in parts:
                part.train(learns[name])
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d) and not module.weight.requires_grad:
                module.eval()  # in a layer where only the adapter is trained

    def num_fixed_layers(self) -> int:
        """Return how many hidden layers are fixed; 0 if `resume` could not compute the others from them."""
        frozen = self._num_frozen()
        if frozen == self.num_layers + 2:
            return self.num_layers + 1
        return 0 if self.pad_s or self.model.config.apply_spec_augment else max(0, frozen - 1)

    def weights_of(self, number: int) -> dict[str, torch.Tensor]:
        """Return all weights except those of the layers above."""
        above = {id(each) for group in list(self._in_order().values())[number + 2 :] for each in group}
        return {name: each for name, each in self.state_dict(keep_vars=True).items() if id(each) not in above}

    def resume(self, below: HiddenStates) -> HiddenStates:
        """Run the layers above the fixed ones."""
        if self.training:
            self._settle_frozen()
        is_frame = below.is_frame
        if is_frame.device.type == "cpu":
            extra = -is_frame.shape[1] % PADDED_FRAMES
            is_frame = F.pad(is_frame, (0, extra))
            layers = tuple(F.pad(each, (0, 0, 0, extra)) if each.numel() else each for each in below.layers)
            below = HiddenStates(layers, is_frame)
        is_padded = is_frame.device.type != "cpu" or not is_frame.all()  # reading it from a GPU would block
        fixed = below.layers
        layers, output = self._transform(fixed[-1], is_frame if is_padded else None, first=len(fixed) - 1)
        return HiddenStates((*fixed, *layers), is_frame, output)

    def _run(
        self, features: torch.Tensor, num_samples: torch.Tensor, is_frame: torch.Tensor | None
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
        """Run the model's parts in order; `is_frame` is `None` if nothing is padded."""
        parts = self.architecture
        frozen = 0 if features.requires_grad else self._num_frozen()
        with nullcontext() if frozen < 1 else torch.no_grad():
            frames = parts.encode(features.to(next(self.model.parameters()).dtype), num_samples, self._call)
        with nullcontext() if frozen < 2 else torch.no_grad():
            hidden = parts.project(frames, is_frame)
        layers, output = self._transform(hidden, is_frame)
        return (hidden, *layers), output

    def _transform(
        self, hidden: torch.Tensor, is_frame: torch.Tensor | None, *, first: int = 0
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
        """Run the layers from index `first` on, followed by the closing norm."""
        parts, positions, mask = self.architecture, None, self.architecture.mask(hidden, is_frame)
        frozen = 0 if hidden.requires_grad else self._num_frozen()
        layers: list[torch.Tensor] = []
        for index, layer in enumerate(parts.layers[first:], start=first):
            may_drop = layer.training and parts.layerdrop > 0.0 and not (index == 0 and parts.keeps_first_layer)
            if not (may_drop and torch.rand([]) < parts.layerdrop):  # layer drop (Fan 2020)
                with nullcontext() if frozen < index + 3 else torch.no_grad():
                    hidden, positions = self._call(parts.transform, layer, hidden, mask, positions)
            layers.append(hidden)
        return tuple(layers), None if parts.closing_norm is None else parts.closing_norm(hidden)

    def _num_frozen(self) -> int:
        """Return how many parameter groups, from the bottom up, contain nothing trainable and thus need no graph."""
        learns = [any(each.requires_grad for each in group) for group in self._in_order().values()]
        return learns.index(True) if True in learns else len(learns)

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False, **kwargs)
        return function(*args, **kwargs)


BACKBONES: dict[str, type[Backbone]] = {"logmel": LogMelBackbone, "huggingface": HuggingFaceBackbone}
