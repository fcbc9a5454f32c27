"""The tasks of a model: each task's head and training targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, SerializeAsAny, create_model, model_validator

from serein.choices import Choice, Count, Options, Positive, Share, choose, table
from serein.recipe.model import MAIN, LayerChoice

DimensionName = Literal["arousal", "valence", "dominance"]


def rising(scale: tuple[float, float]) -> tuple[float, float]:
    """Return a scale, checked to run from low to high.

    Raises:
        ValueError: It does not.
    """
    if not scale[0] < scale[1]:
        raise ValueError(f"{scale[0]:g} is not below {scale[1]:g}: name the lowest rating, then the highest")
    return scale


def distinct(names: tuple[DimensionName, ...]) -> tuple[DimensionName, ...]:
    """Return the names, checked to be distinct.

    Raises:
        ValueError: A name occurs twice.
    """
    if len(set(names)) < len(names):
        raise ValueError("names a dimension twice")
    return names


class Conditioning(Options):
    """Conditioning of the pooled vector on gender or text (diatlova2024, sections 3.2, 3.3, 5.2, 5.3).

    A clip whose condition is unknown gets a separate vector, learned from the training clips with unknown condition.

    Attributes:
        attributes: The conditions: the speaker's `gender`, the `text` of the utterance, or both.
        mode: `sum`; `mean`: the sum divided by the number of its terms (the paper's sum / 2 and sum / 3);
            `multiplication`; `stack-linear`: concatenation, followed by a linear layer; `cln`: conditional layer norm,
            whose gain and shift are computed from the condition.
        size: Features of a condition's vector; `None`: as many as in the pooled vector, which `sum`, `mean` and
            `multiplication` require.
        condition_dropout: Fraction of training clips that lose each condition, drawn anew every epoch.
        dropout: Dropout of the text branch (linear layer, layer norm, ReLU, dropout).
    """

    attributes: Annotated[tuple[Literal["gender", "text"], ...], Field(min_length=1)]
    mode: Literal["sum", "mean", "multiplication", "stack-linear", "cln"] = "sum"
    size: Count | None = None
    condition_dropout: Share = 0.1
    dropout: Share = 0.1


class Contrastive(Options):
    """Supervised contrastive loss of the embeddings, added to the task's own: (1-l) * own + l * contrast (wang2023).

    Attributes:
        weight: The paper's l.
        temperature: Divisor of the cosines between embeddings.
        reduction: The `mean` over anchors, as in Khosla's own code, or the `sum`, as printed in wang2023's equation 1.
    """

    weight: Share = 0.1
    reduction: Literal["mean", "sum"] = "mean"
    temperature: Annotated[float, Field(gt=0.0)] = 0.07


class Distillation(Options):
    """Learn another model's predictions for the training clips, in addition to their labels (Hinton 2015).

    A changed copy is trained on the teacher's prediction for the original. For clips without a label, the teacher is
    the only target, unless `labels.unlabelled` is `drop`; none of them is tested. For clips of a class that the teacher
    lacks, the label is the only target.

    Attributes:
        teacher: A model folder, the name of a shipped model, or a run with the same folds, in which case each fold
            learns from that fold's model. It must not have been trained on speakers that are tested.
        weight: Weight of the teacher's probabilities in the targets; the label has the rest.
        temperature: Divisor of the teacher's logits: values above 1 make its probabilities more even.
    """

    teacher: Annotated[str, Field(min_length=1, max_length=1000)]
    weight: Share = 0.7
    temperature: Positive = 1.0


class AttentionBlocks(Options):
    """Multi-head self-attention over the frames, before pooling (park2023); each block produces its own vector.

    Attributes:
        blocks: Number of parallel blocks, all over the same frames: the paper's k.
        heads: Attention heads per block; must divide the number of features of a frame.
        dropout: Dropout of the attention weights.
    """

    blocks: Count = 1
    heads: Count = 4
    dropout: Share = 0.1


class Fusion(Options):
    """Fusion of several vectors into one: the sum of W_i * h_i, feature by feature (park2023, equation 5).

    Attributes:
        inputs: Tasks whose vectors (the inputs of their output layers) are fused with those of the attention blocks.
        init: Initial value of their rows of W; with 0, the fusion starts as the sum of the head's own vectors, whose
            rows start at 1.
    """

    inputs: tuple[str, ...] = ()
    init: float = 0.0


class ArcFace(Options):
    """Options of the loss `arcface` (park2023, section 4.2).

    Attributes:
        scale: Factor of the cosines between clips and classes, in training and inference.
        margin: Angle, in radians, that is added to the angle of the true class; only in training.
    """

    scale: Positive = 30.0
    margin: Annotated[float, Field(ge=0.0, lt=1.5707)] = 0.3


class Head(Options):
    """The options of every task's head.

    Attributes:
        weight: Weight of its loss relative to other tasks.
        branch: Which of the `branches` it reads; `main`: `backbone` and `encoder`.
        layer: Hidden layer that it reads: `last`, a number, several concatenated: `[4, last]`, or a learned sum of all:
            `weighted`, whose weights are positive and sum to 1 (a softmax), or `weighted-free`, with any weights.
        dropout: Dropout before each linear layer of the head except the first, and in a projection `block`.
        gradient_reversal: Reverse the gradient and multiply it by this before it reaches the layers below the head,
            which thus learn to forget the task (Ganin 2016); `None` leaves the gradient unchanged.
    """

    reads: ClassVar[Literal["frames", "clips"]] = "frames"  # which head of `serein.models.heads.HEADS`
    puts_out: ClassVar[Literal["scores", "vector", "numbers"]] = "scores"  # of classes, a vector, or plain numbers

    weight: Annotated[float, Field(ge=0.0)] = 1.0
    branch: str = MAIN
    layer: LayerChoice = "last"
    dropout: Share = 0.0
    gradient_reversal: Positive | None = None

    @property
    def fusion_inputs(self) -> tuple[str, ...]:
        """Tasks whose vectors are fused with the head's own."""
        return ()

    @property
    def cosine_scale(self) -> float | None:
        """Factor of the cosines of an output layer with a centre per class; `None`: a linear layer."""
        return None

    @property
    def taught_by(self) -> Distillation | None:
        """The teacher whose predictions are learned in addition to the labels."""
        return None


class Pooled(Head):
    """The head of a task of whole clips.

    Attributes:
        projection: Size of a projection; `None`: no projection.
        projection_at: Where the projection is: before (`frames`) or after pooling (`pooled`).
        projection_kind: `linear`: one linear layer; `block`: linear layer, layer norm, ReLU, dropout; `relu-linear`:
            ReLU followed by a linear layer (park2023).
        attention: Self-attention before pooling; `None`: no attention.
        pooling: How the frames of a clip are pooled into one vector.
        fusion: How several vectors are fused into one; required by more than one attention block.
        batch_norm: Normalise the pooled vector over the batch.
        conditioning: Conditioning of the pooled and projected vector.
        hidden: Sizes of fully connected layers before the output.
        dropout_at: `inputs`: before each of these layers and the output; `hidden`: only after each of these layers, as
            in stanley2023's Figure 1.
        contrastive: Contrastive loss that pulls the embeddings of a class together and those of different classes
            apart; not for dimensions, which have no classes.
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
        """Tasks whose vectors are fused with the head's own."""
        return () if self.fusion is None else self.fusion.inputs

    @model_validator(mode="after")
    def _vectors_become_one(self) -> Self:
        if self.attention is not None and self.attention.blocks > 1 and self.fusion is None:
            raise ValueError(f"{self.attention.blocks} attention blocks produce several vectors: add 'fusion: {{}}'")
        return self


class Category(Pooled):
    """A classification task: its head, loss and training targets.

    Attributes:
        loss: The loss function.
        arcface: Options of that loss.
        class_weights: `balanced`: N_total / (num_classes * N_class).
        label_smoothing: Smoothing g: the target is 1-g for the true class and g/(K-1) for every other class
            (diatlova2024).
        absent_classes: Classes of which a clip's corpus has no clip in the whole manifest: `count`: they count
            as wrong for the clip, like any other class but its own; `mask`: they take no part in its loss, because its
            corpus does not show what they sound like. A corpus with a single class is not masked.
        distillation: A teacher, whose probabilities are learned in addition to the labels.
    """

    loss: Annotated[str, AfterValidator(Choice("loss"))] = "cross-entropy"
    arcface: ArcFace = ArcFace()
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    absent_classes: Literal["count", "mask"] = "count"
    distillation: Distillation | None = None

    @property
    def taught_by(self) -> Distillation | None:
        """The teacher whose predictions are learned in addition to the labels."""
        return self.distillation

    @property
    def cosine_scale(self) -> float | None:
        """Factor of the cosines of an output layer with a centre per class; `None`: a linear layer."""
        return self.arcface.scale if self.loss == "arcface" else None


class Words(Pooled):
    """The word vector of an utterance's emotion words (stanley2023); the prediction is the class with the nearest noun.

    Attributes:
        targets: `s1`: the class; `s2`: the mean of all annotators' labels; `s3`: the mean of these and the annotators'
            one-word comments that have a vector (with a Sentence-Transformers model, all do, also misspelt ones).
        loss: The loss function.
    """

    puts_out: ClassVar[Literal["scores", "vector", "numbers"]] = "vector"

    targets: Literal["s1", "s2", "s3"] = "s1"
    loss: Annotated[str, AfterValidator(Choice("vector-loss"))] = "log-cosh"


Scale = Annotated[tuple[float, float], AfterValidator(rising)]


class Dimension(Pooled):
    """A dimension of emotion, as a number: arousal, valence or dominance, 0 to 1 on the scale of its corpus.

    Attributes:
        loss: The loss function; `ccc` is 1 - the concordance correlation coefficient of the batch.
        scale: Lowest and highest rating, for corpora that do not publish them: `[1, 5]`.
    """

    puts_out: ClassVar[Literal["scores", "vector", "numbers"]] = "numbers"

    loss: Annotated[str, AfterValidator(Choice("number-loss"))] = "ccc"
    scale: Scale | None = None

    @model_validator(mode="after")
    def _has_no_classes(self) -> Self:
        if self.contrastive is not None:
            raise ValueError("'contrastive' needs classes, and a dimension has none: leave it out")
        return self


class Dimensions(Dimension):
    """Several dimensions predicted by one head; an utterance may lack the ratings of some of them.

    Attributes:
        names: The dimensions, which are fields of an utterance.
    """

    names: Annotated[tuple[DimensionName, ...], Field(min_length=1), AfterValidator(distinct)] = (
        "arousal",
        "valence",
        "dominance",
    )


class Transcript(Head):
    """The transcript, letter by letter: connectionist temporal classification of frames (CTC, Graves 2006).

    Its alphabet consists of the letters of the fold's training transcripts, in lower case (`serein.tasks.ctc`).
    """


MAIN_TASK = "emotion"  # the task of a recipe that names none


class Tasks(Options):
    """The tasks, each with its own head; the first of those below that a recipe has is the one that is evaluated.

    The names are those of `serein.tasks.TASKS` and of users' packages; each task has its own options.

    Attributes:
        emotion: The classes of `labels`.
        words: Word vectors of the same classes, or of the raters' own words.
        gender: Female or male.
        asr: The spoken words.
        style: Scripted, improvised or natural, as far as they occur in the data.
        speaker: The speakers of the training set.
        corpus: The corpora of the training set; with `gradient_reversal`, what the layers below learn to hide.
        language: The languages of the training set, likewise.
        arousal: From calm to excited, as a number.
        valence: From unpleasant to pleasant, as a number.
        dominance: From weak to strong, as a number.
        dimensions: Several of these numbers, predicted by one head.
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
            raise ValueError(f"there is no task: keep '{MAIN_TASK}', or name another")
        return self

    @model_validator(mode="after")
    def _vectors_join(self) -> Tasks:
        for name, task in self.pooled.items():
            for other in task.fusion.inputs if task.fusion else ():
                joining = self.pooled.get(other)
                if joining is None or other == name:
                    raise ValueError(f"{name}.fusion.inputs names '{other}', which is not another task of whole clips")
                if joining.fusion and joining.fusion.inputs:
                    raise ValueError(
                        f"'{other}' is an input of the fusion of '{name}', so it cannot have fusion.inputs itself"
                    )
        return self

    @property
    def chosen(self) -> dict[str, Head]:
        """The chosen tasks with their options, in order."""
        return {name: options for name, options in (self.model_extra or {}).items() if options is not None}

    @property
    def pooled(self) -> dict[str, Pooled]:
        """The chosen tasks of whole clips."""
        return {name: task for name, task in self.chosen.items() if isinstance(task, Pooled)}

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions of all heads, in addition to the audio."""
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
        """Return a single task, without the others in its fusion.

        A task that is not chosen takes the applicable head options of the main one.
        """
        options = self.chosen.get(task)
        if options is None:
            kind, main = choose("task", task).Options, self.chosen[self.main]
            base = Pooled if issubclass(kind, Pooled) else Head
            shared = base.model_fields.keys() & type(main).model_fields.keys()
            shared -= {"contrastive"} if issubclass(kind, Dimension) else set()
            options = kind(**{name: getattr(main, name) for name in shared})
        if isinstance(options, Pooled) and options.fusion is not None:
            options = options.model_copy(update={"fusion": options.fusion.model_copy(update={"inputs": ()})})
        return Tasks.model_validate({MAIN_TASK: None, task: options})
