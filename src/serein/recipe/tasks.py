"""What is learned: each task's head and what it is taught."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, SerializeAsAny, create_model, model_validator

from serein.choices import Choice, Count, Options, Positive, Share, choose, table
from serein.recipe.model import MAIN, LayerChoice

DimensionName = Literal["arousal", "valence", "dominance"]


def rising(scale: tuple[float, float]) -> tuple[float, float]:
    """Return a scale from low to high.

    Raises:
        ValueError: It is none.
    """
    if not scale[0] < scale[1]:
        raise ValueError(f"{scale[0]:g} is not below {scale[1]:g}: name the lowest rating, then the highest")
    return scale


def distinct(names: tuple[DimensionName, ...]) -> tuple[DimensionName, ...]:
    """Return names of which none occurs twice.

    Raises:
        ValueError: One does.
    """
    if len(set(names)) < len(names):
        raise ValueError("names a dimension twice")
    return names


class Conditioning(Options):
    """Conditions of the pooled vector: gender, text (diatlova2024, sections 3.2, 3.3, 5.2, 5.3).

    A clip of which it is not known gets a vector of its own, learned from training clips of which it is not known.

    Attributes:
        attributes: The conditions: the speaker's `gender`, the `text` of the utterance, or both.
        mode: `sum`; `mean`: the sum divided by the number of its terms (the paper's sum / 2 and sum / 3);
            `multiplication`; `stack-linear`: side by side through a linear layer; `cln`: conditional layer norm, whose
            gain and shift come from the condition.
        size: Features of a condition's vector; `None` takes those of the pooled vector, as `sum`, `mean` and
            `multiplication` need.
        condition_dropout: Fraction of training clips, drawn anew every epoch, without each condition.
        dropout: Of the text branch: linear layer, layer norm, ReLU, dropout.
    """

    attributes: Annotated[tuple[Literal["gender", "text"], ...], Field(min_length=1)]
    mode: Literal["sum", "mean", "multiplication", "stack-linear", "cln"] = "sum"
    size: Count | None = None
    condition_dropout: Share = 0.1
    dropout: Share = 0.1


class Contrastive(Options):
    """Supervised contrastive loss of the embeddings beside the task's own: (1-l) * own + l * contrast (wang2023).

    Attributes:
        weight: The paper's l.
        temperature: Divides the cosines of embeddings.
        reduction: The `mean` over anchors, as Khosla's own code has it, or the `sum`, as wang2023's equation 1 prints.
    """

    weight: Share = 0.1
    reduction: Literal["mean", "sum"] = "mean"
    temperature: Annotated[float, Field(gt=0.0)] = 0.07


class Distillation(Options):
    """Learn what another model says of the training clips, beside their labels (Hinton 2015).

    A changed copy is taught what the teacher says of the original. Clips without a label are learned by the teacher
    alone, unless `labels.unlabelled` is `drop`; none of them is tested.

    Attributes:
        teacher: A model folder, the name of a model that ships, or a run with the same folds: then each fold learns
            from that fold's model. It must not have learned speakers that are tested.
        weight: Of the teacher's probabilities in the targets; the rest is the label.
        temperature: The teacher's logits are divided by it: above 1 its probabilities become more alike.
    """

    teacher: Annotated[str, Field(min_length=1, max_length=1000)]
    weight: Share = 0.7
    temperature: Positive = 1.0


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
        inputs: Tasks whose vectors (what their output layers read) join those of the attention blocks.
        init: First value of their rows of W; at 0 the first output is that of the own vectors alone, whose rows start
            at 1.
    """

    inputs: tuple[str, ...] = ()
    init: float = 0.0


class ArcFace(Options):
    """Of the loss `arcface` (park2023, section 4.2).

    Attributes:
        scale: What cosines between clips and classes are multiplied by, in training and inference.
        margin: In radians, by which the true class is held to be farther away; in training alone.
    """

    scale: Positive = 30.0
    margin: Annotated[float, Field(ge=0.0, lt=1.5707)] = 0.3


class Head(Options):
    """What every task reads from the model.

    Attributes:
        weight: Weight of its loss beside other tasks.
        branch: Which of `branches` it reads; `main`: `backbone` and `encoder`.
        layer: Hidden layer: `last`, a number, several side by side: `[4, last]`, or a learned sum of all: `weighted`,
            whose weights are positive and sum to 1 (a softmax), or `weighted-free`, with any weights.
        dropout: Before each linear layer of the head but the first, and in a projection `block`.
        gradient_reversal: Reverse the gradient and multiply it by this before it reaches the layers below the head,
            which thus learn to forget the task (Ganin 2016); `None` leaves it.
    """

    reads: ClassVar[Literal["frames", "clips"]] = "frames"  # which head of `serein.models.heads.HEADS`
    puts_out: ClassVar[Literal["scores", "vector", "numbers"]] = "scores"  # of classes; or a vector; or plain numbers

    weight: Annotated[float, Field(ge=0.0)] = 1.0
    branch: str = MAIN
    layer: LayerChoice = "last"
    dropout: Share = 0.0
    gradient_reversal: Positive | None = None

    @property
    def fusion_inputs(self) -> tuple[str, ...]:
        """Tasks whose vectors join the head's own."""
        return ()

    @property
    def cosine_scale(self) -> float | None:
        """What the cosines of an output layer with a centre per class are multiplied by; `None`: a linear layer."""
        return None

    @property
    def taught_by(self) -> Distillation | None:
        """The teacher whose answers are learned beside the labels."""
        return None


class Pooled(Head):
    """What a task of whole clips reads.

    Attributes:
        projection: Size of a projection, or `None`.
        projection_at: Before or after pooling.
        projection_kind: `linear`: one linear layer; `block`: linear layer, layer norm, ReLU, dropout; `relu-linear`:
            ReLU, linear layer (park2023).
        attention: Self-attention before pooling, or none.
        pooling: How the frames of a clip become one vector.
        fusion: How several vectors become one; more than one attention block needs it.
        batch_norm: Normalise the pooled vector over the batch.
        conditioning: Conditions of the pooled and projected vector.
        hidden: Sizes of fully connected layers before the output.
        dropout_at: `inputs`: before each of these layers and the output; `hidden`: behind each of these alone, as
            stanley2023's Figure 1 draws it.
        contrastive: Pull the embeddings of a class together and those of others apart.
    """

    reads: ClassVar[Literal["frames", "clips"]] = "clips"

    projection: Count | None = None
    projection_at: Literal["frames", "pooled"] = "pooled"
    projection_kind: Literal["linear", "block", "relu-linear"] = "linear"
    attention: AttentionBlocks | None = None
    pooling: Annotated[str, AfterValidator(Choice("pooling"))] = "attention"
    fusion: Fusion | None = None
    batch_norm: bool = False
    conditioning: Conditioning | None = None
    hidden: tuple[Count, ...] = ()
    dropout_at: Literal["inputs", "hidden"] = "inputs"
    contrastive: Contrastive | None = None

    @property
    def fusion_inputs(self) -> tuple[str, ...]:
        """Tasks whose vectors join the head's own."""
        return () if self.fusion is None else self.fusion.inputs

    @model_validator(mode="after")
    def _vectors_become_one(self) -> Self:
        if self.attention is not None and self.attention.blocks > 1 and self.fusion is None:
            raise ValueError(f"{self.attention.blocks} attention blocks make as many vectors: add 'fusion: {{}}'")
        return self


class Category(Pooled):
    """A task of classes: what it reads from the model and what it is taught.

    Attributes:
        loss: The loss function.
        arcface: Options of that loss.
        class_weights: `balanced`: N_total / (num_classes * N_class).
        label_smoothing: 1-g for the true class, g/(K-1) for each other (diatlova2024).
        distillation: A teacher, whose probabilities are learned beside the labels.
    """

    loss: Annotated[str, AfterValidator(Choice("loss"))] = "cross-entropy"
    arcface: ArcFace = ArcFace()
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    distillation: Distillation | None = None

    @property
    def taught_by(self) -> Distillation | None:
        """The teacher whose answers are learned beside the labels."""
        return self.distillation

    @property
    def cosine_scale(self) -> float | None:
        """What the cosines of an output layer with a centre per class are multiplied by; `None`: a linear layer."""
        return self.arcface.scale if self.loss == "arcface" else None


class Words(Pooled):
    """The word vector of an utterance's emotion words (stanley2023); the prediction is the class whose noun is nearest.

    Attributes:
        targets: `s1`: the class; `s2`: the mean of all annotators' labels; `s3`: of these and their one-word comments.
        loss: The loss function.
    """

    puts_out: ClassVar[Literal["scores", "vector", "numbers"]] = "vector"

    targets: Literal["s1", "s2", "s3"] = "s1"
    loss: Annotated[str, AfterValidator(Choice("vector-loss"))] = "log-cosh"


Scale = Annotated[tuple[float, float], AfterValidator(rising)]


class Dimension(Pooled):
    """A dimension of emotion, as a number: arousal, valence or dominance, 0 to 1 on the scale of its corpus.

    Attributes:
        loss: The loss function; `ccc`: 1 - the concordance correlation coefficient of the batch.
        scale: Lowest and highest rating, where the corpus does not publish them: `[1, 5]`.
    """

    puts_out: ClassVar[Literal["scores", "vector", "numbers"]] = "numbers"

    loss: Annotated[str, AfterValidator(Choice("number-loss"))] = "ccc"
    scale: Scale | None = None


class Dimensions(Dimension):
    """Several dimensions by one head; an utterance may lack the ratings of some.

    Attributes:
        names: The fields of utterances that are learned.
    """

    names: Annotated[tuple[DimensionName, ...], Field(min_length=1), AfterValidator(distinct)] = (
        "arousal",
        "valence",
        "dominance",
    )


class Transcript(Head):
    """The transcript, letter by letter: connectionist temporal classification of frames (CTC, Graves 2006).

    Its letters are those of the fold's training transcripts, in lower case (`serein.tasks.ctc`).
    """


MAIN_TASK = "emotion"  # what a recipe learns that does not name its tasks


class Tasks(Options):
    """What is learned, each by its own head; a model predicts the first one and is evaluated by it.

    The names are those of `serein.tasks.TASKS` and of users' packages; each has options of its own.

    Attributes:
        emotion: The classes of `labels`.
        words: The word vectors of the same classes, or of the raters' own words.
        gender: Female or male.
        asr: The spoken words.
        style: Scripted, improvised or natural, as far as the data has them.
        speaker: The speakers of the training set.
        arousal: Calm to excited, a number.
        valence: Unpleasant to pleasant, a number.
        dominance: Weak to strong, a number.
        dimensions: Several of these by one head.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, SerializeAsAny[Head] | None] = Field(init=False)

    @model_validator(mode="before")
    @classmethod
    def _each_by_its_own_options(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        options = {Choice("task")(name): (choose("task", name).Options | None, None) for name in values}
        options.setdefault(MAIN_TASK, (choose("task", MAIN_TASK).Options | None, choose("task", MAIN_TASK).Options()))
        read = create_model("Tasks", __base__=Options, **options).model_validate(values)  # type: ignore[call-overload]
        given = {name: getattr(read, name) for name in table("task") if name in options}
        return {name: own for name, own in given.items() if own is not None or name == MAIN_TASK}

    @model_validator(mode="after")
    def _at_least_one(self) -> Tasks:
        if not self.chosen:
            raise ValueError(f"no task is left: keep '{MAIN_TASK}', or name another")
        return self

    @model_validator(mode="after")
    def _vectors_join(self) -> Tasks:
        for name, task in self.pooled.items():
            for other in task.fusion.inputs if task.fusion else ():
                joining = self.pooled.get(other)
                if joining is None or other == name:
                    raise ValueError(f"{name}.fusion.inputs names '{other}', which is no other task of whole clips")
                if joining.fusion and joining.fusion.inputs:
                    raise ValueError(f"'{other}' joins '{name}', so that nothing can join it in turn")
        return self

    @property
    def chosen(self) -> dict[str, Head]:
        """Task -> options, in order."""
        return {name: options for name, options in (self.model_extra or {}).items() if options is not None}

    @property
    def pooled(self) -> dict[str, Pooled]:
        """Those of whole clips."""
        return {name: task for name, task in self.chosen.items() if isinstance(task, Pooled)}

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions of all heads, beside the audio."""
        attributes = [task.conditioning.attributes for task in self.pooled.values() if task.conditioning]
        return tuple(sorted({name for names in attributes for name in names}))

    @property
    def condition_dropout(self) -> float:
        """Fraction of training clips without each condition: the largest of any task."""
        return max(
            (task.conditioning.condition_dropout for task in self.pooled.values() if task.conditioning), default=0.0
        )

    @property
    def main(self) -> str:
        """The task that a model predicts."""
        return next(iter(self.chosen))

    def only(self, task: str) -> Tasks:
        """Return one task by itself, with as much of the main one's head as it has use for where it has none."""
        options = self.chosen.get(task)
        if options is None:
            kind, main = choose("task", task).Options, self.chosen[self.main]
            base = Pooled if issubclass(kind, Pooled) else Head
            shared = base.model_fields.keys() & type(main).model_fields.keys()
            options = kind(**{name: getattr(main, name) for name in shared})
        return Tasks.model_validate({MAIN_TASK: None, task: options})
