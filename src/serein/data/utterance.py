"""One recorded utterance and what is known about it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

Gender = Literal["female", "male", "other"]
Style = Literal["scripted", "improvised", "natural"]
Consensus = Annotated[float, Field(allow_inf_nan=False)]


def without_control_characters(value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    """Return a name, or several, as they are.

    Raises:
        PydanticCustomError: One holds a NUL, a tab, a line break or the like, which tables and file names cannot hold.

    Example:
        >>> without_control_characters("müde")
        'müde'
    """
    if found := re.search(r"[\x00-\x1f\x7f]", "".join(value or ())):
        raise PydanticCustomError("control_character", "holds the control character {found}", {"found": repr(found[0])})
    return value


class Rating(BaseModel):
    """One rater's labels for one utterance.

    Attributes:
        labels: Categories the rater chose, in the corpus's own words; repeats count.
        comment: Free text of the rater.
        rater: The rater's name in the corpus.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: tuple[str, ...] = ()
    comment: str | None = None
    rater: str | None = None

    _names = field_validator("labels", "rater")(without_control_characters)


class Predicted(BaseModel):
    """What a model predicted, where the corpus has no label or beside it; never mixed with the labels.

    Attributes:
        by: Field -> the model that predicted it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gender: Gender | None = None
    transcript: str | None = None
    by: dict[str, str] = {}


class Utterance(BaseModel):
    """A recording, or a part of one, with its labels. A field the corpus lacks is `None`, never a guess.

    Attributes:
        id: Unique within the manifest.
        audio: Path of the file; absolute once a manifest is loaded, relative to the manifest on disk.
        start_s: Start of the utterance within the file, in seconds.
        end_s: End of the utterance, in seconds; `None` is the end of the file.
        speaker: Who speaks; unique within the corpus.
        gender: `female`, `male` or `other`.
        session: The recording session or dialogue, by which some protocols split.
        emotion: Consensus or ground-truth category in the corpus's own words.
        valence: Unpleasant to pleasant, the raters' consensus on the corpus's own scale.
        arousal: Calm to excited, likewise; corpora also call it activation.
        dominance: Weak to strong, likewise.
        ratings: One entry per rater: `labels`, `comment`, `rater`.
        transcript: The words that are spoken.
        style: How the speech came about: `scripted`, `improvised` or `natural`.
        split: The corpus's official split: `train`, `dev`, `test`, `test2`, ...
        language: The spoken language, as a code such as `en`.
        corpus: The corpus that the utterance comes from.
        copy_of: Id of the utterance of which this is a changed copy (`serein corpus augment`), which is trained
            on where that one is, and never part of dev or test.
        predicted: Values that models predicted for `serein corpus annotate`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    audio: str = Field(min_length=1)
    start_s: float = Field(default=0.0, ge=0.0)
    end_s: float | None = Field(default=None, gt=0.0)
    speaker: str | None = None
    gender: Gender | None = None
    session: str | None = None
    emotion: str | None = None
    valence: Consensus | None = None
    arousal: Consensus | None = None
    dominance: Consensus | None = None
    ratings: tuple[Rating, ...] = ()
    transcript: str | None = None
    style: Style | None = None
    split: str | None = None
    language: str | None = None
    corpus: str | None = None
    copy_of: str | None = None
    predicted: Predicted | None = None

    _names = field_validator("id", "speaker", "session", "emotion", "split", "language", "corpus", "copy_of")(
        without_control_characters
    )


def is_self_evaluation(rating: Rating) -> bool:
    """Tell whether an actor judged their own turns: the corpus calls such raters C-F1 or C-M3, evaluators C-E2.

    Example:
        >>> [is_self_evaluation(Rating(rater=name)) for name in ("C-F1", "C-E2", "rater1", None)]
        [True, False, False, False]
    """
    return re.fullmatch(r"C-[FM]\d+", rating.rater or "") is not None


def plain_label(label: str) -> str:
    """Return what labels that differ by case or spaces alone have in common.

    Example:
        >>> plain_label(" Happy "), plain_label("very  SAD")
        ('happy', 'very sad')
    """
    return " ".join(label.split()).casefold()
