"""What a model is built of: backbone, body, heads."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from serein.recipe.options import Count, Options, Positive, Share


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


class Conditioning(Options):
    """What else is known of a clip, told to its pooled vector (diatlova2024, sections 3.2, 3.3, 5.2, 5.3).

    A clip of which it is not known gets a vector of its own, learned from training clips of which it is not known.

    Attributes:
        attributes: What is told: the speaker's `gender`, the `text` of the utterance, or both.
        by: `sum`; `mean`: the sum divided by the number of its terms (the paper's sum / 2 and sum / 3);
            `multiplication`; `stack-linear`: side by side through a linear layer; `cln`: conditional layer norm, whose
            gain and shift come from the condition.
        size: Features of a condition's vector; `None` takes those of the pooled vector, as `sum`, `mean` and
            `multiplication` need.
        hide: Share of training clips, drawn anew every epoch, of which each condition is not told.
        dropout: Of the text branch: linear layer, layer norm, ReLU, dropout.
    """

    attributes: Annotated[tuple[Literal["gender", "text"], ...], Field(min_length=1)]
    by: Literal["sum", "mean", "multiplication", "stack-linear", "cln"] = "sum"
    size: Count | None = None
    hide: Share = 0.1
    dropout: Share = 0.1


class Contrastive(Options):
    """Supervised contrastive loss of the embeddings beside the task's own: (1-l) * own + l * contrast (wang2023).

    Attributes:
        share: The paper's l.
        temperature: Divides the cosines of embeddings.
    """

    share: Share = 0.1
    temperature: Annotated[float, Field(gt=0.0)] = 0.07


class AttentionBlocks(Options):
    """Multi-head self-attention over the frames, before pooling (park2023); each block makes a vector of its own.

    Attributes:
        blocks: Blocks side by side, all over the same frames: the paper's k.
        heads: Of each block; a divisor of the features of a frame.
        dropout: Of the attention's weights.
    """

    blocks: Count = 1
    heads: Count = 4
    dropout: Share = 0.1


class Fusion(Options):
    """Several vectors become one: the sum of W_i * h_i, feature by feature (park2023, equation 5).

    Attributes:
        joined: Tasks whose vectors (what their output layers read) join those of the attention blocks.
        start: First value of their rows of W; at 0 the first answer is that of the own vectors alone, whose rows start
            at 1.
    """

    joined: tuple[str, ...] = ()
    start: float = 0.0


class ArcFace(Options):
    """Of the loss `arcface` (park2023, section 4.2).

    Attributes:
        scale: What cosines between clips and classes are multiplied by, in training and when the model answers.
        margin: In radians, by which the true class is held to be farther away; in training alone.
    """

    scale: Positive = 30.0
    margin: Annotated[float, Field(ge=0.0, lt=1.5707)] = 0.3


class Head(Options):
    """What a task reads from the model.

    Attributes:
        weight: Weight of its loss beside other tasks.
        tap: Hidden layer: `last`, a number, or a learned `weighted` sum of all.
        projection: Size of a projection, or `None`.
        projection_at: Before or after pooling.
        projection_kind: `linear`: one linear layer; `block`: linear layer, layer norm, ReLU, dropout; `relu-linear`:
            ReLU, linear layer (park2023).
        attention: Self-attention before pooling, or none.
        pooling: `mean`; `std`: mean and standard deviation; `max`: greatest value; `attention`: attentive statistics,
            one weight per frame; `channel-attention`: one per frame and feature.
        fusion: How several vectors become one; more than one attention block needs it.
        batch_norm: Normalise the pooled vector over the batch.
        conditioning: What else is told to the pooled and projected vector.
        hidden: Sizes of fully connected layers before the output.
        dropout: Before each linear layer of the head but the first, and in a projection `block`.
        contrastive: Pull the embeddings of a class together and those of others apart.
    """

    weight: Annotated[float, Field(ge=0.0)] = 1.0
    tap: Tap = "last"
    projection: Count | None = None
    projection_at: Literal["frames", "pooled"] = "pooled"
    projection_kind: Literal["linear", "block", "relu-linear"] = "linear"
    attention: AttentionBlocks | None = None
    pooling: Literal["mean", "std", "max", "attention", "channel-attention"] = "attention"
    fusion: Fusion | None = None
    batch_norm: bool = False
    conditioning: Conditioning | None = None
    hidden: tuple[Count, ...] = ()
    dropout: Share = 0.0
    contrastive: Contrastive | None = None

    @model_validator(mode="after")
    def _vectors_become_one(self) -> Self:
        if self.attention is not None and self.attention.blocks > 1 and self.fusion is None:
            raise ValueError(f"{self.attention.blocks} attention blocks make as many vectors: add 'fusion: {{}}'")
        return self


class Category(Head):
    """A task of classes: what it reads from the model and what it is taught.

    Attributes:
        loss: Name in `serein.losses.LOSSES`: `cross-entropy`, or `arcface`, whose output layer is a centre per class.
        arcface: Options of that loss.
        class_weights: `balanced`: N_total / (num_classes * N_class).
        label_smoothing: 1-g for the true class, g/(K-1) for each other (diatlova2024).
    """

    loss: Literal["cross-entropy", "arcface"] = "cross-entropy"
    arcface: ArcFace = ArcFace()
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class Words(Head):
    """The word vector of an utterance's emotion words (stanley2023); answered by the class whose noun is nearest.

    Attributes:
        targets: `s1`: the class; `s2`: the mean of all annotators' labels; `s3`: of these and their one-word comments.
        loss: Name in `serein.losses.VECTOR_LOSSES`.
    """

    targets: Literal["s1", "s2", "s3"] = "s1"
    loss: Literal["mse", "mae", "log-cosh"] = "log-cosh"


class Tasks(Options):
    """What is learned, each by its own head; the first one is what a model answers and is judged by.

    Attributes:
        emotion: The classes of `labels`.
        words: The word vectors of the same classes, or of the raters' own words.
        gender: Female or male.
    """

    emotion: Category | None = Category()
    words: Words | None = None
    gender: Category | None = None

    @model_validator(mode="after")
    def _at_least_one(self) -> Tasks:
        if not self.chosen:
            raise ValueError("no task is left: keep 'emotion', or name another")
        return self

    @property
    def chosen(self) -> dict[str, Category | Words]:
        """Task -> options, in order."""
        options = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: option for name, option in options if option is not None}

    @property
    def conditions(self) -> tuple[str, ...]:
        """What any head is told of a clip beside its sound."""
        told = [task.conditioning.attributes for task in self.chosen.values() if task.conditioning]
        return tuple(sorted({name for names in told for name in names}))

    @property
    def hidden_share(self) -> float:
        """Share of training clips of which a condition is not told: the largest that a task asks for."""
        return max((task.conditioning.hide for task in self.chosen.values() if task.conditioning), default=0.0)

    @property
    def main(self) -> str:
        """What a model answers."""
        return next(iter(self.chosen))

    def only(self, task: str) -> Tasks:
        """Return one task by itself, with the head of the main one where it has none of its own."""
        options = self.chosen.get(task)
        if options is None:
            kind = Words if task == "words" else Category
            options = kind(**{name: getattr(self.chosen[self.main], name) for name in Head.model_fields})
        return Tasks.model_validate({name: options if name == task else None for name in type(self).model_fields})
