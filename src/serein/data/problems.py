"""The kinds of problem that recordings and their labels have, and the report that lists them with their remedies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table

Severity = Literal["error", "warning"]
MAX_CLIPPED_FRACTION = 0.001
FLAT_SAMPLES = 3  # a single sample at full scale is a normalised recording, a run of them is a cut wave
MIN_LOUD_FRACTION = 0.1
QUIET_DB = -40.0  # below the loudest frame; pauses of clean recordings lie there, speech does not
MIN_SPEAKERS = 3  # one each for train, dev and test
MIN_GENDER_SHARE = 0.25


@dataclass(frozen=True)
class Problem:
    """A kind of problem: an "error" makes data unfit for training, a "warning" is for the user to decide."""

    severity: Severity
    label_encoder: str
    remedy: str


PROBLEMS: dict[str, Problem] = {
    "missing": Problem("error", "There is no such file.", "Check the path, or prepare the manifest again."),
    "broken": Problem("error", "The file cannot be decoded.", "Copy the file again, or convert it with ffmpeg."),
    "truncated": Problem("error", "The file ends before its header says.", "Copy the file again from its source."),
    "outside_file": Problem(
        "error", "The part from start_s to end_s lies outside the file.", "Correct the time stamps."
    ),
    "not_finite": Problem("error", "Samples are NaN or infinite.", "Export the recording again."),
    "silent": Problem("error", "No sample exceeds -80 dB of full scale.", "Record it again, or remove it."),
    "duplicated_id": Problem("error", "Several utterances bear one id.", "Give every utterance its own id."),
    "duplicated_part": Problem(
        "error",
        "Several utterances are the same part of the same file.",
        "Keep one; the labels of several raters go into its 'ratings'.",
    ),
    "contradictory_duplicate": Problem(
        "warning",
        "The same samples appear with another speaker or emotion.",
        "Find out which label is right; with another speaker, test data may leak into training.",
    ),
    "duplicated_audio": Problem(
        "warning",
        "Several utterances hold the same samples.",
        "Keep one: the leak check stops a run that trains on one and tests on the other.",
    ),
    "clipped": Problem(
        "warning",
        f"Over {MAX_CLIPPED_FRACTION:.1%} of the samples lie in runs of {FLAT_SAMPLES} or more at full scale.",
        "Record with less gain; clipping distorts the loudness and timbre that tell emotions apart.",
    ),
    "mostly_silence": Problem(
        "warning",
        f"Under {MIN_LOUD_FRACTION:.0%} of the frames lie within {-QUIET_DB:.0f} dB of the loudest.",
        "Cut the silence with start_s and end_s; look for a click if there is no speech.",
    ),
    "too_short": Problem("warning", "Shorter than an utterance.", "Listen: it may be cut off. Remove or join it."),
    "too_long": Problem("warning", "Longer than one emotion lasts.", "Cut it into utterances with start_s and end_s."),
    "no_emotion": Problem("warning", "The emotion is unknown.", "Label it, or use it for tasks without emotion."),
    "no_speaker": Problem(
        "warning",
        "The speaker is unknown, so folds cannot keep speakers apart.",
        "Add the column 'speaker'; without it, test scores flatter.",
    ),
    "label_variants": Problem("warning", "Emotions differ only in case or spaces.", "Write each emotion in one way."),
    "speaker_of_two_genders": Problem(
        "warning",
        "One speaker is both female and male.",
        "Correct the gender, or tell the two speakers apart.",
    ),
    "single_emotion_speakers": Problem(
        "warning",
        "Speakers with one emotion only: a model may learn the voice for the emotion.",
        "Report scores per speaker, and avoid methods that normalise per speaker.",
    ),
    "few_speakers": Problem(
        "warning",
        f"An emotion is spoken by fewer than {MIN_SPEAKERS} speakers, too few for train, dev and test.",
        "Record more speakers, or leave the emotion out.",
    ),
    "format_tells_emotion": Problem(
        "warning",
        "An emotion can be recognised from the file format, so a model may learn the recorder.",
        "Bring all files to one format and rate from the start; a common resampling does not undo it.",
    ),
    "gender_tells_emotion": Problem(
        "warning", "An emotion is spoken by one gender mostly.", "Report scores per gender."
    ),
    "unbalanced_genders": Problem(
        "warning",
        f"Under {MIN_GENDER_SHARE:.0%} of the utterances come from women, or from men.",
        "Report scores per gender.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One problem.

    Attributes:
        kind: A key of `PROBLEMS`.
        where: Id of the utterance; for a note on the corpus the speaker, the emotion, or "corpus".
        detail: What was found there.
    """

    kind: str
    where: str
    detail: str

    @property
    def severity(self) -> Severity:
        """The kind's severity."""
        return PROBLEMS[self.kind].severity


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Attributes:
        num_utterances: Utterances checked.
        duration_s: Speech that could be decoded, in seconds.
        per_emotion: Emotion -> utterances, most frequent first.
        per_speaker: Speaker -> utterances, most frequent first.
        problems: Of single utterances, in the order of `PROBLEMS`.
        notes: Of the corpus as a whole, in the order of `PROBLEMS`.
    """

    num_utterances: int
    duration_s: float
    per_emotion: Mapping[str, int]
    per_speaker: Mapping[str, int]
    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether no finding is an error; the exit status of `serein corpus check` is 1 otherwise."""
        return all(finding.severity == "warning" for finding in (*self.problems, *self.notes))

    def to_json(self) -> dict[str, object]:
        """Return plain dictionaries, lists and numbers; `kinds` explains the kinds that were found."""
        kinds = dict.fromkeys(finding.kind for finding in (*self.problems, *self.notes))
        return {
            "is_sound": self.is_sound,
            "num_utterances": self.num_utterances,
            "duration_s": round(self.duration_s, 3),
            "per_emotion": dict(self.per_emotion),
            "per_speaker": dict(self.per_speaker),
            "problems": [asdict(finding) for finding in self.problems],
            "notes": [asdict(finding) for finding in self.notes],
            "kinds": {kind: asdict(PROBLEMS[kind]) for kind in kinds},
        }

    def tables(self) -> list[Table]:
        """Return tables for rich's `Console.print`: size, emotions, and problems with their remedies."""
        tables = [_size_table(self)]
        if self.per_emotion:
            tables.append(_emotion_table(self.per_emotion))
        if self.problems or self.notes:
            tables.append(_problem_table((*self.problems, *self.notes)))
        return tables


def _size_table(report: CheckReport) -> Table:
    from rich.table import Table

    table = Table(title="Recordings", show_header=False, title_justify="left")
    table.add_row("utterances", f"{report.num_utterances:,}")
    table.add_row("duration", f"{report.duration_s / 3600:.2f} h")
    numbers = sorted(report.per_speaker.values())
    spread = f" ({numbers[0]} to {numbers[-1]} utterances each, median {median(numbers):g})" if numbers else ""
    table.add_row("speakers", f"{len(numbers)}{spread}")
    return table


def _emotion_table(per_emotion: Mapping[str, int]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Emotions", title_justify="left")
    table.add_column("emotion")
    table.add_column("utterances", justify="right")
    table.add_column("share", justify="right")
    for emotion, number in per_emotion.items():
        table.add_row(Text(emotion), f"{number:,}", f"{number / sum(per_emotion.values()):.1%}")
    return table


def _problem_table(findings: Sequence[Finding], num_examples: int = 3) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Problems", title_justify="left", show_lines=True)
    for name in ("kind", "number", "meaning and remedy", "examples"):
        table.add_column(name, justify="right" if name == "number" else "left", overflow="fold")
    for kind in dict.fromkeys(finding.kind for finding in findings):
        same = [finding for finding in findings if finding.kind == kind]
        problem = PROBLEMS[kind]
        examples = [f"{finding.where}: {finding.detail}" for finding in same[:num_examples]]
        table.add_row(
            Text(f"{problem.severity}\n{kind}", style="red" if problem.severity == "error" else "yellow"),
            f"{len(same):,}",
            f"{problem.label_encoder} {problem.remedy}",
            Text("\n".join(examples + ["..."] * (len(same) > num_examples))),
        )
    return table
