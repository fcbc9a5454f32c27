"""How a model learns: stages with their optimiser, schedule, batches and augmentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from serein.choices import Count, Name, Options, Positive, Share, TaskName


class Optimizer(Options):
    """How weights move.

    Attributes:
        backbone_learning_rate: Another rate for the backbone's weights, an adapter's included; `None`: the same.
        layer_decay: Each layer of a backbone has the rate of the one above it times this, its highest layer the
            backbone's rate times this; 1: all the same.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    backbone_learning_rate: Positive | None = None
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    betas: tuple[Share, Share] = (0.9, 0.999)
    momentum: Share = 0.9


class Schedule(Options):
    """How the learning rate moves.

    Attributes:
        name: `constant`; `one-cycle` (Smith 2018), `cosine` and `linear` fall to zero over all steps;
            `exponential` multiplies by `factor` each epoch; `plateau` by `factor` when the dev score stands still.
        warmup: Share of all steps in which the rate rises.
        factor: See `name`.
        patience: Epochs without gain, for `plateau`.
        monitor: What stands still, for `plateau`: dev's `loss`, or by default what the stage monitors.
        final_divisor: Of the first rate of `one-cycle`: its last is that much smaller (PyTorch's default is 10,000).
        cycle_momentum: `one-cycle` moves the momentum against the rate, from 0.95 to 0.85, as PyTorch does unless told.
    """

    name: Literal["constant", "one-cycle", "cosine", "linear", "exponential", "plateau"] = "one-cycle"
    warmup: Share = 0.3
    factor: Share = 0.98
    patience: Count = 5
    monitor: Literal["loss"] | None = None
    final_divisor: Positive = 1000.0
    cycle_momentum: bool = False


class Batches(Options):
    """How clips share a batch.

    Where a device's memory does not hold a batch, the stage goes on with halves, or quarters, whose loss is that of the
    whole batch, contrastive losses and concordance included. Batch norm and mixup then see the clips of a part alone.

    Attributes:
        max_clips: Most clips.
        max_seconds: Most seconds, padding included.
        num_buckets: Clips of like duration share a batch; each epoch is shuffled, then sorted within this many batches.
        accumulate: Batches per step.
    """

    max_clips: Count = 32
    max_seconds: Positive = 240.0
    num_buckets: Count = 8
    accumulate: Count = 1


class SpectrogramAugmentation(Options):
    """Changes of log-mel frames, drawn per clip and epoch; all off by default.

    The bands of `logmel` take all of them, those of Whisper the masks. Of any backbone, `mixup` mixes what it makes of
    two clips.

    Attributes:
        tempo: Greatest change of tempo: 0.2 draws factors from exp(-0.2) to exp(0.2).
        vtlp: Vocal tract length perturbation (Jaitly and Hinton 2013): greatest change of the mel axis' scale.
        band_shift: Greatest shift of the mel axis in bands.
        gain_db: Greatest change of level, up or down.
        equaliser_db: Greatest change at the knots of a random curve over the bands.
        equaliser_probability: Fraction of clips with such a curve.
        noise_probability: Fraction of clips with noise added, its spectrum sloping at random.
        noise_below_peak_db: Its level below the clip's loudest band, from and to.
        time_masks: Number of time masks.
        max_time_mask: Longest mask as a fraction of the clip.
        frequency_masks: Number of masks over mel bands.
        max_frequency_mask: Widest mask as a fraction of the bands.
        mixup: Parameter of the Beta distribution of mixup (Zhang 2018); 0 is off.
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
        """Whether bands are changed before they are normalised, which takes their level in dB."""
        return bool(
            self.tempo or self.vtlp or self.band_shift or self.gain_db or self.equaliser_db or self.noise_probability
        )

    @property
    def changes_bands(self) -> bool:
        """Whether anything but the mixing of clips is on."""
        return self.changes_decibels or self.time_masks > 0 or self.frequency_masks > 0


def _upwards(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"[{ends[0]:g}, {ends[1]:g}] runs downwards, the lower end comes first")
    return ends


Decibels = Annotated[float, Field(ge=-60.0, le=100.0)]
DecayTime = Annotated[float, Field(ge=0.1, le=5.0)]
Semitones = Annotated[float, Field(ge=-12.0, le=12.0)]


class WaveformAugmentation(Options):
    """Changes of a training clip's waveform, drawn per clip and epoch, whatever the backbone; its length stays.

    Attributes:
        name: `noise` (white), `volume`, `reverberation` (of a simulated room), `pitch`; or `mixed`, several of them,
            always in the order pitch, reverberation, noise, volume: voice, room, and what is recorded there.
        probability: Fraction of clips that are changed.
        num_views: 1: the clip, changed or not; 2: the clip as it is and, beside it in the batch, the changed one: N
            clips make a batch of 2N (wang2023).
        mixed: How many of the four each clip gets, when they are mixed.
        noise_snr_db: Level of speech, without its pauses, above the noise, from and to.
        volume_db: Louder or softer, from and to. It has no effect on a backbone that normalises the level.
        reverberation_rt60_s: Time in which the room's sound falls by 60 dB, from and to.
        pitch_semitones: Higher or lower at the same tempo, from and to.
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
            raise ValueError("two views need an effect that tells them apart: name 'mixed', or one of the others")
        return self


class FeatureCacheOptions(Options):
    """The hidden layers of a frozen backbone, computed once for all epochs, folds and seeds, and kept on disk.

    It applies in stages in which no clip is cropped and no waveform changed, to a Hugging Face backbone of which
    nothing learns, or nothing below some transformer layer: then the layers above it go on from the frames of those
    below. Where nothing learns and all heads read each clip's mean over time alone (`pooling: mean` without mixup,
    attention, or a projection of frames), the means are kept instead, in float32, which take little room. Log-mel
    bands before their augmentation are kept, too, in float32, of corpora of up to fifty hours; their mean and deviation
    are taken from what is kept, whatever the stages do.

    Attributes:
        dtype: Numbers on disk: `bfloat16` (wav2vec2-base: 77 kB for a second and layer) or `float32`, twice that;
            `none` runs the backbone in every epoch.
        folder: Where they are kept; `None`: `features` in `$SEREIN_CACHE`, or in serein's folder of the user's cache.
            At most a tenth of the disk, from 10 to 100 GB, unless `$SEREIN_CACHE_SIZE` says otherwise (`serein cache`).
    """

    dtype: Literal["bfloat16", "float32", "none"] = "bfloat16"
    folder: str | None = None


class Stage(Options):
    """One training: which weights move, how, how long.

    Attributes:
        name: Unique within the recipe; names a folder.
        tasks: Which of the recipe's tasks learn and are scored; the first of them is monitored. `None`: all, in order.
        use_fusion: `true`: a fusion sums all its vectors; `false`: only the network's own, as if it were alone; the
            weights of the other inputs then neither count nor learn, and their branches do not run.
        weights: Task -> weight of its loss in this stage, instead of its own.
        main_task_weight: Weight a of the first task in the loss; the others share the rest equally:
            a * L_first + (1 - a) / n * (sum of the n others), gao2023's equations 1 and 2. `None`: by their weights.
        epochs: Most epochs.
        trainable: `all`, or names among `cnn`, `projection`, `layers 5-12`, `layer 3`, `transformer` (the projection
            and all layers), `backbone`, `encoder`, `heads` (those of the stage's tasks); of the encoder `transformer`
            also `encoder cnn` or `encoder projection`, and `encoder layers 3-4`; of another branch with its name before
            a dot: `speaker.encoder`, `speaker.all`.
        sampling: Each epoch uses `all` training clips; or, `balanced`, as many of each class of the stage's first task
            as the rarest class has, drawn anew (clips without a class are all used); or, `corpora`, clips drawn with
            replacement, a corpus by the square root of its size and each of its classes equally often.
        epoch_clips: How many clips an epoch of `corpora` draws; `None`: as many as there are.
        monitor: The dev score of the first task that chooses and stops: `ua`, `wa` or `macro_f1` of classes;
            `word_accuracy` (1 - word error rate) or `character_accuracy` of transcripts; `cosine` of word vectors.
            `None`: the first of these that the task has. Of any task also `loss`, of which the least is best: the mean
            over dev of the first task's own loss, without a contrastive part, which depends on who shares a batch.
        patience: Epochs without gain in it before the stage stops; `None` trains them all.
        checkpoint: Which weights the stage hands on: of the `best` dev score, or the `last`.
        ema_decay: Decay of an exponential moving average of the weights, which is evaluated and kept; or `None`.
        clip_norm: Most norm of the gradient.
        clip_value: Most absolute value of a gradient.
        precision: `auto` takes bfloat16 where the processor or GPU computes in it.
        compile: Train with the transformer layers of pretrained backbones compiled by `torch.compile`, for batches of
            any size and length. It changes the speed alone, takes minutes at first, and needs a C++ compiler, or Triton
            on a GPU.
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
