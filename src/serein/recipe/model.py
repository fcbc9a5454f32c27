"""What a model is built of: backbone and encoder."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from serein.choices import Count, NamedOptions, Options, OptionsOf, Positive, Share


class LogMel(NamedOptions):
    """Log-mel bands: no weights, nothing to download.

    Attributes:
        n_mels: Mel bands.
        window_s: Length of the Hann window.
        hop_s: Time between frames.
        low_hz: Lower edge of the lowest band.
        high_hz: Upper edge of the highest band.
        top_db: Bands this far below the clip's loudest are raised to it; `None` leaves them.
        normalisation: `corpus`: mean and deviation of each band over the training set; `level`: the clip's own mean
            level is taken off first; `clip`: over the clip. Several stand side by side, as channels of an image.
    """

    name: Literal["logmel"] = "logmel"
    n_mels: Annotated[int, Field(ge=1, le=1024)] = 64
    window_s: Annotated[float, Field(ge=0.001, le=1.0)] = 0.04
    hop_s: Annotated[float, Field(ge=0.001, le=1.0)] = 0.02
    low_hz: Annotated[float, Field(ge=0.0)] = 50.0
    high_hz: Annotated[float, Field(gt=0.0, le=8000.0)] = 8000.0
    top_db: Positive | None = 80.0
    normalisation: Annotated[tuple[Literal["corpus", "level", "clip"], ...], Field(min_length=1)] = ("corpus",)

    @model_validator(mode="after")
    def _edges_in_order(self) -> LogMel:
        if self.low_hz >= self.high_hz:
            raise ValueError(f"low_hz {self.low_hz:g} is not below high_hz {self.high_hz:g}")
        return self


class HuggingFace(NamedOptions):
    """A speech model of Transformers.

    Attributes:
        source: Hub name or local folder of wav2vec 2.0, wav2vec2-conformer, HuBERT, WavLM, UniSpeech, UniSpeech-SAT,
            data2vec-audio, w2v-BERT 2.0, or Whisper, the encoder of which is used. Or a model of serein that holds its
            backbone: its folder, or `default`, which needs no network.
        revision: Commit, tag or branch on the Hub.
        overrides: Changes of the model's own configuration, for instance `{hidden_dropout: 0.0}`. SpecAugment and
            layer drop are off unless they are named here: `{apply_spec_augment: true, mask_time_prob: 0.05}`.
        layers: How many transformer layers are kept, from the lowest on: lower ones hold how speech sounds, upper ones
            what it says. `None`: all.
        rank: Low-rank factorisation: each matrix of these layers becomes a product of two, so that the model is smaller
            and takes less time. It keeps so many principal components of what it returned for training clips (Yu and Wu
            2023); labels are not looked at. `None`: they stay whole.
        level_db: Each clip is brought to this root mean square in dB against full scale, and to zero mean, so that
            neither level nor offset counts; -23 is that of usual speech. `None`: what the model was published with.
        pad_s: Shorter clips are padded with zeros to so many seconds, and their padding is attended to, though never
            pooled: 30 is how Whisper was trained. `None` pads nothing, which takes less time.
        gradient_checkpointing: In training, compute each layer's activations again instead of keeping them: less
            memory, more time.
    """

    name: Literal["huggingface"] = "huggingface"
    source: str
    revision: str | None = None
    overrides: dict[str, Any] = {}
    layers: Count | None = None
    rank: Count | None = None
    level_db: Annotated[float, Field(le=0.0)] | None = None
    pad_s: Annotated[float, Field(gt=0.0, le=60.0)] | None = None
    gradient_checkpointing: bool = False


Backbone = Annotated[SerializeAsAny[NamedOptions], BeforeValidator(OptionsOf("backbone"))]


class Lora(Options):
    """Low-rank adaptation (LoRA, Hu 2022) of a pretrained backbone, whose own weights stay (extra `lora`).

    Its matrices are the part `adapter` of the model: `trainable: [adapter, heads]`. A model folder then holds them and
    the heads alone, and names the backbone by its hash.

    Attributes:
        rank: Rows of the first matrix, columns of the second.
        alpha: Their product is multiplied by alpha / rank.
        targets: Which matrices of a transformer layer they stand beside.
        layers: In which layers, counted from 1; `null`: in all. Hidden layers below the lowest of them are computed
            once for all epochs.
        dropout: Of what enters the first matrix.
    """

    name: Literal["lora"] = "lora"
    rank: Count = 8
    alpha: Positive = 16.0
    targets: Annotated[tuple[Literal["query", "key", "value", "output", "feed_forward"], ...], Field(min_length=1)] = (
        "query",
        "value",
    )
    layers: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    dropout: Share = 0.0


Layer = Literal["last"] | Annotated[int, Field(ge=0)]
LayerChoice = Literal["last", "weighted", "weighted-free"] | int | Annotated[tuple[Layer, ...], Field(min_length=1)]


class Cnn2d(NamedOptions):
    """Two-dimensional convolutions over time and mel bands: blocks of conv, batch norm, ReLU, with max pooling between.

    Attributes:
        channels: Output channels of each block.
        convolutions: Convolutions in each block but the first two, with a residual path when there are several.
        stem: `pool`: the first block keeps the resolution and is pooled; `stride`: it is a 5x5 convolution that halves.
        time_downsampling: How often time is halved, at the first blocks; every block halves bands. 0 needs stem `pool`.
        size: Features of a frame, joined from all channels and remaining bands.
        dropout: Before that.
    """

    name: Literal["cnn2d"] = "cnn2d"
    channels: tuple[Count, ...] = (32, 48, 96, 160, 224)
    convolutions: Count = 1
    stem: Literal["pool", "stride"] = "stride"
    time_downsampling: Annotated[int, Field(ge=0)] = 3
    size: Count = 256
    dropout: Share = 0.15

    @model_validator(mode="after")
    def _stem_can_keep_time(self) -> Cnn2d:
        if self.time_downsampling == 0 and self.stem == "stride":
            raise ValueError("the stem 'stride' halves time: choose 'pool', or a time_downsampling of 1 or more")
        return self


class CnnBlstm(NamedOptions):
    """Stanley 2023, Figure 1: CNN with max pooling, two bidirectional LSTM.

    Attributes:
        channels: Output channels of the three convolutions over time.
        kernels: Their widths in frames.
        num_pooled: How many of them, from the first, are followed by max pooling over two frames; `None`: all.
        hidden: Units of each LSTM direction.
        layers: LSTM layers.
        dropout: Dropout after each LSTM layer.
    """

    name: Literal["cnn-blstm"] = "cnn-blstm"
    layer: LayerChoice = "last"
    channels: tuple[Count, ...] = (96, 256, 256)
    kernels: tuple[Count, ...] = (15, 5, 3)
    num_pooled: Annotated[int, Field(ge=0)] | None = None
    hidden: Count = 64
    layers: Count = 2
    dropout: Share = 0.5

    @model_validator(mode="after")
    def _one_kernel_per_convolution(self) -> CnnBlstm:
        if len(self.channels) != len(self.kernels):
            raise ValueError(f"{len(self.channels)} channels but {len(self.kernels)} kernels: give one kernel each")
        return self


class FeatureProjection(Options):
    """Frames of a pretrained backbone, normalised and projected, as between the two halves of wav2vec 2.0.

    Attributes:
        layer: Which of the backbone's hidden layers.
        stride: So many neighbouring frames become one.
        size: Features of a frame.
    """

    layer: LayerChoice = "last"
    stride: Count = 1
    size: Count = 256


class Transformer(NamedOptions):
    """Transformer layers over mel bands or over a pretrained backbone; heads select them, stages freeze them by number.

    Attributes:
        cnn: Convolutions over time and mel bands, whose frames enter the layers.
        projection: Instead of them, what enters from the hidden layers of a pretrained backbone.
        layers: Transformer layers: `encoder layer 1`, ... in `trainable`.
        heads: Of each layer's attention.
        feed_forward_size: Features between a layer's fully connected layers.
        dropout: In every layer, and before the first.
    """

    name: Literal["transformer"] = "transformer"
    cnn: Cnn2d = Cnn2d(channels=(8, 16, 32), stem="pool", time_downsampling=1, size=96)
    projection: FeatureProjection | None = None
    layers: Count = 4
    heads: Count = 4
    feed_forward_size: Count = 192
    dropout: Share = 0.1

    @model_validator(mode="after")
    def _one_stem(self) -> Transformer:
        if self.projection is not None and self.cnn != Transformer.model_fields["cnn"].default:
            raise ValueError("'cnn' and 'projection' both make the frames that enter the layers: leave one of them out")
        return self


Encoder = Annotated[SerializeAsAny[NamedOptions], BeforeValidator(OptionsOf("encoder"))]


MAIN = "main"


class Branch(Options):
    """Another network for the same clips, beside the main one (`backbone`, `encoder`); heads name the one they read.

    Attributes:
        backbone: Its own; `None` takes one like the main one's. Where both stay as they are, it runs once.
        adapter: Of its own backbone.
        encoder: Its trained layers.
        start: A finished run or model whose network it is and starts from, backbone, encoder and heads, written `from`:
            a run's fold of the same name and seed where there is one; of an ensemble, the first network. Nobody whom
            that model learned from is tested.
    """

    backbone: Backbone | None = None
    adapter: Lora | None = None
    encoder: Encoder | None = None
    start: Annotated[str, Field(min_length=1)] | None = Field(default=None, alias="from")

    @model_validator(mode="after")
    def _is_one_network(self) -> Branch:
        if self.start is not None and (self.backbone is not None or self.encoder is not None):
            raise ValueError("'from' brings backbone and encoder with it: leave these out, or 'from'")
        return self
