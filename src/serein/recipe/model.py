"""The parts of a model: backbone and encoder."""

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
        top_db: Values further than this below the clip's loudest band are raised to that level; `None`: no limit.
        normalisation: `corpus`: by mean and standard deviation of each band over the training set; `level`: the same,
            after subtracting the clip's own mean level; `clip`: over the clip. Several become the channels of an image.
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
    """A speech model from Transformers.

    Attributes:
        source: Hub name or local folder of a wav2vec 2.0, wav2vec2-conformer, HuBERT, WavLM, UniSpeech, UniSpeech-SAT,
            data2vec-audio, w2v-BERT 2.0 or Whisper model (of Whisper, only the encoder is used). Or a serein model that
            contains its backbone: its folder, or `default`, which needs no network access.
        revision: Commit, tag or branch on the Hub.
        overrides: Changes to the model's own configuration, for instance `{hidden_dropout: 0.0}`. SpecAugment and layer
            drop are off unless they are set here: `{apply_spec_augment: true, mask_time_prob: 0.05}`.
        layers: Number of transformer layers to keep, from the lowest up: lower layers represent how speech sounds,
            upper ones its content. `None`: all.
        max_parameters: Low-rank factorisation to at most this many parameters: most matrices of these layers and of
            the convolutions are replaced by products of two, which makes the model smaller and faster. A product keeps
            the first principal components of its matrix's outputs for training clips (Yu and Wu 2023); their number is
            chosen for each matrix so that as much variance as possible is kept. Labels are not used. `None`: no
            factorisation.
        level_db: Each clip is normalised to zero mean and to this root mean square in dB relative to full scale, so
            that neither offset nor level matters; -23 is usual for speech. `None`: the normalisation that the model was
            published with.
        pad_s: Shorter clips are padded with zeros to this many seconds, and their padding is attended to, but never
            pooled; Whisper was trained with 30. `None` pads nothing, which is faster.
        gradient_checkpointing: In training, recompute each layer's activations instead of storing them: less memory,
            more time.
    """

    name: Literal["huggingface"] = "huggingface"
    source: str
    revision: str | None = None
    overrides: dict[str, Any] = {}
    layers: Count | None = None
    max_parameters: Count | None = None
    level_db: Annotated[float, Field(le=0.0)] | None = None
    pad_s: Annotated[float, Field(gt=0.0, le=60.0)] | None = None
    gradient_checkpointing: bool = False


Backbone = Annotated[SerializeAsAny[NamedOptions], BeforeValidator(OptionsOf("backbone"))]


class Lora(Options):
    """Low-rank adaptation (LoRA, Hu 2022) of a pretrained backbone, whose own weights stay frozen (extra `lora`).

    Its matrices form the model part `adapter`: `trainable: [adapter, heads]`. A model folder then contains only these
    matrices and the heads, and identifies the backbone by its hash. `all` and `backbone` include the adapter instead of
    the backbone's own weights, which only their own names train (`layers 5-12`).

    Attributes:
        rank: Rows of the first matrix, columns of the second.
        alpha: The product of the two is multiplied by alpha / rank.
        targets: Which matrices of a transformer layer are adapted.
        layers: Layers to adapt, counted from 1; `null`: all. Hidden layers below the lowest adapted one are computed
            once for all epochs.
        dropout: Dropout on the input of the first matrix.
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


class FeatureNormalisation(Options):
    """Standardisation of the features of a frozen pretrained backbone, before encoder and heads.

    The mean of each feature of a hidden layer is subtracted, and the rest is divided by its standard deviation. Both
    are those of the training clips, each represented by its mean over time, and do not change in training. The mean may
    also be that of the clips of the same speaker or corpus, which removes differences between voices or corpora
    (Schuller 2010, cross-corpus normalisation); labels are not used.

    Attributes:
        mean: What is subtracted from training clips: the mean of all `training` clips, of the clips of the same
            `speaker`, or of the same `corpus`. A model contains the mean of training clips, speakers or corpora;
            `serein adapt --method mean` replaces it by that of given recordings.
        test_mean: What is subtracted from dev and test clips: `training`: the mean that the model contains, as for a
            recording of an unknown speaker; or the mean of the same `speaker`'s or `corpus`'s dev or test clips: scores
            then assume that many recordings are at hand.
    """

    mean: Literal["training", "speaker", "corpus"] = "training"
    test_mean: Literal["training", "speaker", "corpus"] = "training"


Layer = Literal["last"] | Annotated[int, Field(ge=0)]
LayerChoice = Literal["last", "weighted", "weighted-free"] | int | Annotated[tuple[Layer, ...], Field(min_length=1)]


class Cnn2d(NamedOptions):
    """Two-dimensional convolutions over time and mel bands: conv, batch norm and ReLU blocks, with max pooling between.

    Attributes:
        channels: Output channels of each block.
        convolutions: Convolutions in each block except the first two; with more than one, a residual path is added.
        stem: `pool`: the first block keeps the resolution and is pooled; `stride`: it is a 5x5 convolution of stride 2.
        time_downsampling: How many times the number of frames is halved, in the first blocks; every block halves the
            bands. 0 requires the stem `pool`.
        size: Features per frame, a projection of all channels and remaining bands.
        dropout: Dropout before that projection.
    """

    name: Literal["cnn2d"] = "cnn2d"
    channels: Annotated[tuple[Count, ...], Field(min_length=1)] = (32, 48, 96, 160, 224)
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
    """CNN with max pooling, followed by bidirectional LSTM layers (Stanley 2023, Figure 1).

    Attributes:
        layer: The hidden layer of the backbone that it reads.
        channels: Output channels of the three convolutions over time.
        kernels: Kernel widths in frames.
        num_pooled: Number of convolutions, from the first, that are followed by max pooling over two frames; `None`:
            all.
        hidden: Units of each LSTM direction.
        layers: LSTM layers.
        dropout: Dropout after each LSTM layer.
    """

    name: Literal["cnn-blstm"] = "cnn-blstm"
    layer: LayerChoice = "last"
    channels: Annotated[tuple[Count, ...], Field(min_length=1)] = (96, 256, 256)
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
    """Normalised and projected frames of a pretrained backbone, as between the two halves of wav2vec 2.0.

    Attributes:
        layer: Which of the hidden layers of the backbone to read.
        stride: Number of neighbouring frames that are joined into one.
        size: Features of a frame.
    """

    layer: LayerChoice = "last"
    stride: Count = 1
    size: Count = 256


class Transformer(NamedOptions):
    """Transformer layers on mel bands or on a pretrained backbone; heads select and stages freeze them by number.

    Attributes:
        cnn: Convolutions over time and mel bands, which produce the input frames of the layers.
        projection: Replaces the convolutions: the input frames are projected from hidden layers of a pretrained
            backbone.
        layers: Number of transformer layers; `trainable` calls them `encoder layer 1`, ...
        heads: Attention heads per layer.
        feed_forward_size: Features between a layer's fully connected layers.
        dropout: Dropout in every layer, and before the first.
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
            raise ValueError(
                "'cnn' and 'projection' both produce the input frames of the layers: leave one of them out"
            )
        return self


Encoder = Annotated[SerializeAsAny[NamedOptions], BeforeValidator(OptionsOf("encoder"))]


MAIN = "main"


class Branch(Options):
    """A network for the same clips in addition to the main one (`backbone`, `encoder`); heads name the one they read.

    Attributes:
        backbone: Its own backbone; `None` uses one like the main network's. If both are frozen, the backbone runs once.
        adapter: Adapter of its own backbone.
        encoder: Its own trained layers between backbone and heads.
        start: A finished run or model (`from`): the branch has the same network and starts from its backbone, encoder
            and heads. Of a run, the fold with the same name and seed is used if there is one; of an ensemble, the first
            network. No speaker that the model was trained on may be tested; where the protocol shares speakers, a note
            states it.
    """

    backbone: Backbone | None = None
    adapter: Lora | None = None
    encoder: Encoder | None = None
    start: Annotated[str, Field(min_length=1)] | None = Field(default=None, alias="from")

    @model_validator(mode="after")
    def _is_one_network(self) -> Branch:
        if self.start is not None and (self.backbone is not None or self.encoder is not None):
            raise ValueError("'from' includes backbone and encoder: leave these out, or 'from'")
        return self
