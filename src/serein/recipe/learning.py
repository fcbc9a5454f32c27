"""How a model is trained: stages with their optimiser, schedule, batches and augmentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from serein.choices import Count, Name, Options, Positive, Share, TaskName

Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class Optimizer(Options):
    """The optimiser and its learning rates.

    Attributes:
        backbone_learning_rate: Separate rate for the backbone's weights, including an adapter's; `None`: the same.
        layer_decay: Each layer of a backbone has the rate of the layer above it times this, and its highest layer has
            the backbone's rate times this; 1: the same rate for all.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    backbone_learning_rate: Positive | None = None
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    momentum: Share = 0.9


class Schedule(Options):
    """The schedule of the learning rate.

    Attributes:
        name: `constant`; `one-cycle` (Smith 2018) falls to almost zero over all steps (see `final_divisor`), `cosine`
            and `linear` to zero; `exponential` multiplies by `factor` each epoch; `plateau` multiplies by `factor` when
            the dev score stops improving.
        warmup: For `one-cycle`, `cosine` and `linear`: fraction of all steps in which the rate rises.
        factor: See `name`.
        patience: For `plateau`: epochs without improvement after which the rate is reduced.
        monitor: For `plateau`: the dev score that must improve, `loss` or by default the score that the stage monitors.
        final_divisor: For `one-cycle`: the last rate is the first one divided by this (PyTorch's default is 10,000).
        cycle_momentum: For `one-cycle`: move the momentum opposite to the rate, from 0.95 to 0.85, as PyTorch does by
            default.
    """

    name: Literal["constant", "one-cycle", "cosine", "linear", "exponential", "plateau"] = "one-cycle"
    warmup: Share = 0.3
    factor: Share = 0.98
    patience: Count = 5
    monitor: Literal["loss"] | None = None
    final_divisor: Positive = 1000.0
    cycle_momentum: bool = False

    @model_validator(mode="after")
    def _plateau_reduces(self) -> Schedule:
        if self.name == "plateau" and self.factor == 1.0:
            raise ValueError("'plateau' with a factor of 1 never reduces the rate: choose a smaller one, or 'constant'")
        return self


class Batches(Options):
    """How clips are grouped into batches.

    If a batch does not fit into the device's memory, the stage continues with halves, or quarters, of each batch. The
    loss is still that of the whole batch, including contrastive and concordance losses, but batch norm and mixup are
    applied within each part.

    Attributes:
        max_clips: Maximum number of clips.
        max_seconds: Maximum number of seconds, including padding.
        num_buckets: Clips of similar duration share a batch: each epoch is shuffled, then sorted within this many
            batches.
        accumulate: Batches per optimiser step.
    """

    max_clips: Count = 32
    max_seconds: Positive = 240.0
    num_buckets: Count = 8
    accumulate: Count = 1


class SpectrogramAugmentation(Options):
    """Augmentations of log-mel frames, drawn per clip and epoch; all off by default.

    The backbone `logmel` supports all of them, Whisper only the masks. `mixup` works with any backbone: it mixes the
    backbone's outputs for two clips.

    Attributes:
        tempo: Largest change of tempo: 0.2 draws factors from exp(-0.2) to exp(0.2).
        vtlp: Vocal tract length perturbation (Jaitly and Hinton 2013): largest change of the mel axis's scale.
        band_shift: Largest shift of the mel axis, in bands.
        gain_db: Largest change of level, up or down.
        equaliser_db: Largest change at the knots of a random curve over the bands.
        equaliser_probability: Fraction of clips that get such a curve.
        noise_probability: Fraction of clips to which noise is added, with a spectrum of random slope.
        noise_below_peak_db: Range of the noise level, in dB below the clip's loudest band.
        time_masks: Number of time masks.
        max_time_mask: Maximum length of a time mask, as a fraction of the clip.
        frequency_masks: Number of masks over mel bands.
        max_frequency_mask: Maximum width of a frequency mask, as a fraction of the bands.
        mixup: Parameter of the Beta distribution of mixup (Zhang 2018); 0: off.
        mixup_probability: Fraction of batches that are mixed.
    """

    tempo: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    vtlp: Share = 0.0
    band_shift: Annotated[float, Field(ge=0.0)] = 0.0
    gain_db: Annotated[float, Field(ge=0.0)] = 0.0
    equaliser_db: Annotated[float, Field(ge=0.0)] = 0.0
    equaliser_probability: Share = 0.7
    noise_probability: Share = 0.0
    noise_below_peak_db: tuple[float, float] = (25.0, 70.0)
    time_masks: Annotated[int, Field(ge=0)] = 0
    max_time_mask: Share = 0.15
    frequency_masks: Annotated[int, Field(ge=0)] = 0
    max_frequency_mask: Share = 0.15
    mixup: Annotated[float, Field(ge=0.0)] = 0.0
    mixup_probability: Share = 0.5

    @property
    def changes_decibels(self) -> bool:
        """Whether bands are changed before they are normalised, which requires their level in dB."""
        return bool(
            self.tempo or self.vtlp or self.band_shift or self.gain_db or self.equaliser_db or self.noise_probability
        )

    @property
    def changes_bands(self) -> bool:
        """Whether any augmentation other than mixup is on."""
        return self.changes_decibels or self.time_masks > 0 or self.frequency_masks > 0


def _upwards(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"[{ends[0]:g}, {ends[1]:g}] is in falling order: name the lower end first")
    return ends


Decibels = Annotated[float, Field(ge=-60.0, le=100.0)]
DecayTime = Annotated[float, Field(ge=0.1, le=5.0)]
Semitones = Annotated[float, Field(ge=-12.0, le=12.0)]


class WaveformAugmentation(Options):
    """Augmentation of training waveforms, drawn per clip and epoch, for any backbone; clips keep their length.

    Attributes:
        name: `noise` (white), `volume`, `reverberation` (of a simulated room), `pitch`; or `mixed`: several of them,
            always in the order pitch, reverberation, noise, volume, which is voice, room, recording.
        probability: Fraction of clips that are changed.
        num_views: 1: the clip, changed or not; 2: both the original clip and the changed one, in the same batch, so
            that N clips make a batch of 2N (wang2023).
        mixed: For `mixed`: how many of the four augmentations each clip gets.
        noise_snr_db: Range of the signal-to-noise ratio; the level of speech is measured without its pauses.
        volume_db: Range of the change in level. It has no effect on a backbone that normalises the level.
        reverberation_rt60_s: Range of the reverberation time (RT60), in which sound in the room decays by 60 dB.
        pitch_semitones: Range of the pitch shift, at the same tempo.
    """

    name: Literal["none", "noise", "volume", "reverberation", "pitch", "mixed"] = "none"
    probability: Share = 1.0
    num_views: Literal[1, 2] = 1
    mixed: Annotated[int, Field(ge=1, le=4)] = 2
    noise_snr_db: Annotated[tuple[Decibels, Decibels], AfterValidator(_upwards)] = (5.0, 20.0)
    volume_db: Annotated[tuple[Decibels, Decibels], AfterValidator(_upwards)] = (-10.0, 10.0)
    reverberation_rt60_s: Annotated[tuple[DecayTime, DecayTime], AfterValidator(_upwards)] = (0.2, 0.8)
    pitch_semitones: Annotated[tuple[Semitones, Semitones], AfterValidator(_upwards)] = (-3.0, 3.0)

    @model_validator(mode="after")
    def _views_differ(self) -> WaveformAugmentation:
        if self.num_views == 2 and self.name == "none":
            raise ValueError("two views need an augmentation that makes them differ: name 'mixed' or one of the others")
        return self


class FeatureCacheOptions(Options):
    """The hidden layers of a frozen backbone, computed once for all epochs, folds and seeds, and stored on disk.

    The cache is used in stages that neither crop clips nor change waveforms, for a Hugging Face backbone that is frozen
    entirely or up to some transformer layer; in the latter case, the layers above start from the stored frames. If the
    backbone is frozen entirely and all heads read only each clip's mean over time (`pooling: mean` without mixup,
    attention, or a projection of frames), the means are stored instead, in float32, and take little space. Log-mel
    bands are stored as well, before augmentation and in float32, for corpora of up to fifty hours; their mean and
    standard deviation are computed from the stored bands, whatever the stages do.

    Attributes:
        dtype: Number format on disk: `bfloat16` (wav2vec2-base: 77 kB per second and layer) or `float32`, twice that;
            `none` runs the backbone in every epoch.
        folder: Folder of the cache; `None`: `features` in `$SEREIN_CACHE`, or in serein's folder of the user's cache.
            Its size is limited to a tenth of the disk, between 10 and 100 GB, unless `$SEREIN_CACHE_SIZE` sets another
            limit (`serein cache`).
    """

    dtype: Literal["bfloat16", "float32", "none"] = "bfloat16"
    folder: str | None = None


class Stage(Options):
    """One training stage: which weights are trained, how, and for how long.

    Attributes:
        name: Unique within the recipe; names a folder.
        tasks: Which of the recipe's tasks are trained and scored, on the utterances that have a target of one of them;
            the first one is monitored. `None`: all, in order.
        use_fusion: `true`: a fusion sums all its vectors; `false`: it sums only the network's own, as if there were no
            others; the weights of the other inputs are then neither used nor trained, and their branches do not run.
        weights: Task -> weight of its loss in this stage, instead of the task's own weight.
        main_task_weight: Weight a of the first task in the loss; the others share the rest equally:
            a * L_first + (1 - a) / n * (sum of the n others), gao2023's equations 1 and 2. `None`: the tasks' weights
            apply.
        epochs: Maximum number of epochs.
        trainable: `all`, or any of `cnn`, `projection`, `layers 5-12`, `layer 3`, `transformer` (the projection and all
            layers), `adapter`, `backbone`, `encoder`, `heads` (those of the stage's tasks); for the encoder
            `transformer` also `encoder cnn` or `encoder projection`, and `encoder layers 3-4`; for another branch, with
            its name before a dot: `speaker.encoder`, `speaker.all`. With an adapter, `all` and `backbone` leave out the
            backbone's own weights.
        sampling: Which clips an epoch uses. `all`: all training clips; `balanced`: as many clips of each class of the
            stage's first task as the rarest class has, drawn anew (clips without a class are all used); `corpora`:
            clips drawn with replacement, each corpus in proportion to the square root of its size, and each of its
            classes equally often (clips without a class as if they had one of their own). A teacher gives a clip no
            class.
        epoch_clips: Number of clips that `corpora` draws per epoch; `None`: as many as there are.
        monitor: The first task's dev score, which selects the checkpoint and stops training early: `ua`, `wa` or
            `macro_f1` for classes; `word_accuracy` (1 - word error rate) or `character_accuracy` for transcripts;
            `cosine` for word vectors. `None`: the first of these that the task has. For any task also `loss`, where
            lower is better: the mean over dev of the first task's own loss, without its contrastive part, which depends
            on the other clips of a batch.
        patience: Epochs without improvement of the monitored score before the stage stops; `None` trains all epochs.
        checkpoint: Which weights the stage passes on: those of the `best` dev score, or of the `last` epoch.
        ema_decay: Decay of an exponential moving average of the weights, which is evaluated and saved in their place;
            `None`: no average.
        clip_norm: Maximum norm of the gradient.
        clip_value: Maximum absolute value of a gradient.
        precision: `auto` uses bfloat16 if the processor or GPU computes in it.
        compile: In training, compile the transformer layers of pretrained backbones with `torch.compile`, for batches
            of any size and length. It changes only the speed, takes minutes at first, and needs a C++ compiler, or
            Triton on a GPU.
    """

    name: Name = "train"
    tasks: Annotated[tuple[TaskName, ...], Field(min_length=1)] | None = None
    use_fusion: bool = True
    weights: dict[TaskName, Annotated[float, Field(ge=0.0)]] = {}
    main_task_weight: Share | None = None
    epochs: Count = 30
    trainable: tuple[str, ...] = ("all",)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    batches: Batches = Batches()
    spectrogram_augmentation: SpectrogramAugmentation = SpectrogramAugmentation()
    waveform_augmentation: WaveformAugmentation = WaveformAugmentation()
    sampling: Literal["all", "balanced", "corpora"] = "all"
    epoch_clips: Count | None = None
    monitor: str | None = None
    patience: Count | None = None
    checkpoint: Literal["best", "last"] = "best"
    ema_decay: Share | None = None
    clip_norm: Positive | None = None
    clip_value: Positive | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False

    @model_validator(mode="after")
    def _drawn_clips_are_counted(self) -> Stage:
        if self.epoch_clips is not None and self.sampling != "corpora":
            raise ValueError("'epoch_clips' needs 'sampling: corpora'")
        return self
