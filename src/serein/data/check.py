"""Checks of recordings and labels: the kinds of problem, and a report that lists those found with their remedies."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Waveform
from serein.data.manifest import Utterance, plain_label
from serein.data.protocols import alike_speakers
from serein.errors import AudioError, first_of
from serein.progress import Progress

if TYPE_CHECKING:
    from rich.table import Table

_Result = TypeVar("_Result")
Severity = Literal["error", "warning"]
MAX_CLIPPED_FRACTION = 0.001
FLAT_SAMPLES = 3  # a single sample at full scale indicates a normalised recording, a run of them clipping
MIN_LOUD_FRACTION = 0.1
QUIET_DB = -40.0  # relative to the loudest frame; pauses of clean recordings are below this level, speech is not
MIN_SPEAKERS = 3  # one each for train, dev and test
MIN_GENDER_SHARE = 0.25


@dataclass(frozen=True)
class Problem:
    """A kind of problem: an "error" makes data unfit for training, a "warning" is left to the user's judgement."""

    severity: Severity
    meaning: str
    remedy: str


PROBLEMS: dict[str, Problem] = {
    "missing": Problem("error", "The file does not exist.", "Check the path, or prepare the manifest again."),
    "broken": Problem("error", "The file cannot be decoded.", "Copy the file again, or convert it with ffmpeg."),
    "truncated": Problem("error", "The file is shorter than its header states.", "Copy it again from its source."),
    "outside_file": Problem("error", "The part from start_s to end_s is outside the file.", "Correct the time stamps."),
    "too_long_to_read": Problem(
        "error", "More audio than is read at once.", "Cut it into utterances with start_s and end_s."
    ),
    "not_finite": Problem("error", "Some samples are NaN or infinite.", "Export the recording again."),
    "silent": Problem("error", "No sample exceeds -80 dB of full scale.", "Record it again, or remove it."),
    "duplicated_id": Problem("error", "Several utterances have the same id.", "Give every utterance its own id."),
    "duplicated_part": Problem(
        "error",
        "Several utterances refer to the same part of the same file.",
        "Keep one, and put the labels of several raters into its 'ratings'.",
    ),
    "contradictory_duplicate": Problem(
        "warning",
        "The same samples appear with a different speaker or emotion.",
        "Find out which label is right; if the speakers differ, test data may leak into training.",
    ),
    "duplicated_audio": Problem(
        "warning",
        "Several utterances contain the same samples.",
        "Keep one: the leak check stops a run that trains on one and tests on the other.",
    ),
    "clipped": Problem(
        "warning",
        f"Over {MAX_CLIPPED_FRACTION:.1%} of the samples are in runs of {FLAT_SAMPLES} or more at full scale.",
        "Record with less gain; clipping distorts the loudness and timbre that distinguish emotions.",
    ),
    "mostly_silence": Problem(
        "warning",
        f"Under {MIN_LOUD_FRACTION:.0%} of the frames are within {-QUIET_DB:.0f} dB of the loudest.",
        "Exclude the silence with start_s and end_s; if there is no speech, look for a click.",
    ),
    "strange_header": Problem(
        "warning",
        "The header does not match the contents of the file; all of it was read.",
        "Listen to the end: recording may have been interrupted, or several recordings joined.",
    ),
    "too_short": Problem(
        "warning", "Too short for an utterance.", "Listen to it: it may be cut off. Remove or join it."
    ),
    "too_long": Problem("warning", "Longer than one emotion lasts.", "Cut it into utterances with start_s and end_s."),
    "no_emotion": Problem("warning", "The emotion is unknown.", "Label it, or use it for tasks without emotion."),
    "no_speaker": Problem(
        "warning",
        "The speaker is unknown, so folds cannot keep speakers separate.",
        "Add the column 'speaker'; without it, test scores are optimistic.",
    ),
    "label_variants": Problem(
        "warning",
        "Emotions differ only in case, spaces or Unicode form.",
        "Use the same spelling throughout for each emotion.",
    ),
    "speaker_variants": Problem(
        "error",
        "Speakers differ only in case, spaces or Unicode form, so the same one may occur in both training and test.",
        "Use the same spelling throughout for each speaker.",
    ),
    "speaker_of_two_genders": Problem(
        "warning",
        "One speaker is labelled both female and male.",
        "Correct the gender, or give the two speakers different names.",
    ),
    "single_emotion_speakers": Problem(
        "warning",
        "Some speakers have only one emotion: a model may learn the voice instead of the emotion.",
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
        "Create all files in one format and at one rate; resampling them afterwards does not undo it.",
    ),
    "gender_tells_emotion": Problem(
        "warning", "An emotion is spoken mostly by one gender.", "Report scores per gender."
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
        where: Id of the utterance; for a note on the corpus, the speaker, the emotion or "corpus".
        detail: The evidence for it.
    """

    kind: str
    where: str
    detail: str


@dataclass(frozen=True)
class CheckReport:
    """The findings of `check`.

    Attributes:
        num_utterances: Number of utterances checked.
        duration_s: Duration of the audio that could be decoded, in seconds.
        per_emotion: Emotion -> number of utterances, most frequent first.
        per_speaker: Speaker -> number of utterances, most frequent first.
        problems: Findings on single utterances, in the order of `PROBLEMS`.
        notes: Findings on the corpus as a whole, in the order of `PROBLEMS`.
    """

    num_utterances: int
    duration_s: float
    per_emotion: Mapping[str, int]
    per_speaker: Mapping[str, int]
    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether no finding is an error; otherwise `serein corpus check` exits with status 1."""
        return all(PROBLEMS[finding.kind].severity == "warning" for finding in (*self.problems, *self.notes))

    def to_json(self) -> dict[str, object]:
        """Return plain dictionaries, lists and numbers; `kinds` explains each kind of problem found."""
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
        from rich.table import Table
        from rich.text import Text

        size = Table(title="Recordings", show_header=False, title_justify="left")
        size.add_row("utterances", f"{self.num_utterances:,}")
        size.add_row("duration", f"{self.duration_s / 3600:.2f} h")
        numbers = sorted(self.per_speaker.values())
        spread = f" ({numbers[0]} to {numbers[-1]} utterances each, median {median(numbers):g})" if numbers else ""
        size.add_row("speakers", f"{len(numbers)}{spread}")
        emotions = Table(title="Emotions", title_justify="left")
        emotions.add_column("emotion")
        emotions.add_column("utterances", justify="right")
        emotions.add_column("fraction", justify="right")
        for emotion, number in self.per_emotion.items():
            emotions.add_row(Text(emotion), f"{number:,}", f"{number / sum(self.per_emotion.values()):.1%}")
        problems = Table(title="Problems", title_justify="left", show_lines=True)
        for name in ("kind", "number", "meaning and remedy", "examples"):
            problems.add_column(name, justify="right" if name == "number" else "left", overflow="fold")
        findings = (*self.problems, *self.notes)
        for kind in dict.fromkeys(finding.kind for finding in findings):
            same, problem = [finding for finding in findings if finding.kind == kind], PROBLEMS[kind]
            examples = [f"{finding.where}: {finding.detail}" for finding in same[:NUM_EXAMPLES]]
            problems.add_row(
                Text(f"{problem.severity}\n{kind}", style="red" if problem.severity == "error" else "yellow"),
                f"{len(same):,}",
                f"{problem.meaning} {problem.remedy}",
                Text("\n".join(examples + ["..."] * (len(same) > NUM_EXAMPLES))),
            )
        return [size, *(table for table in (emotions, problems) if table.row_count)]


NUM_EXAMPLES = 3  # of each kind of problem
NUM_THREADS = 2  # libsndfile decodes without holding the GIL
FULL_SCALE = 0.97  # -0.26 dB; resampling lets the flat top of a clipped wave ripple by about as much
FRAME_S = 0.025
TELLING_DIFFERENCE = 0.5  # difference in share between one emotion and all others
TELLING_NUMBER = 10  # with fewer utterances of an emotion, such a difference may be due to chance


_KIND_OF_ERROR: dict[type[AudioError], str] = {
    audio.MissingAudioError: "missing",
    audio.TruncatedAudioError: "truncated",
    audio.OutsideAudioError: "outside_file",
    audio.TooLongAudioError: "too_long_to_read",
    audio.NotFiniteAudioError: "not_finite",
}


def check(
    utterances: Sequence[Utterance],
    *,
    on_progress: Progress | None = None,
    min_s: float = 0.3,
    max_s: float = 30.0,
) -> CheckReport:
    """Decode every utterance once and list the problems of recordings and labels.

    Args:
        utterances: With absolute audio paths, as returned by `manifest.read` and `prepare`.
        on_progress: Called with (utterances decoded, total).
        min_s: Utterances shorter than this are `too_short`.
        max_s: Utterances longer than this are `too_long`.
    """
    results = _for_each(partial(_measured, min_s=min_s, max_s=max_s), utterances, on_progress)
    measured = [(u, result) for u, (result, _) in zip(utterances, results, strict=True) if result]
    digests = [result.digest if result and result.peak >= audio.SILENCE_PEAK else None for result, _ in results]
    problems = [
        *(finding for _, findings in results for finding in findings),
        *_manifest_problems(utterances, digests),
    ]
    rank = {kind: number for number, kind in enumerate(PROBLEMS)}
    return CheckReport(
        num_utterances=len(utterances),
        duration_s=sum(result.duration_s for _, result in measured),
        per_emotion=dict(Counter(u.emotion for u in utterances if u.emotion).most_common()),
        per_speaker=dict(Counter(u.speaker for u in utterances if u.speaker).most_common()),
        problems=tuple(sorted(problems, key=lambda finding: rank[finding.kind])),
        notes=tuple(sorted(_notes(utterances, measured), key=lambda finding: rank[finding.kind])),
    )


def audio_digests(utterances: Sequence[Utterance], *, on_progress: Progress | None = None) -> dict[str, str]:
    """Return id -> SHA-256 of the utterance's decoded samples, rounded to 16 bits.

    Equal digests mean identical audio, regardless of the container (WAV, FLAC), the bit depth (16 or more) and the
    position in the file. A copy that was resampled, lossily encoded, filtered or cut differently has another digest.

    Raises:
        AudioError: A file is missing or cannot be decoded.
    """
    digests = _for_each(lambda u: _digest(audio.decode(u.audio, u.start_s, u.end_s)), utterances, on_progress)
    return {u.id: digest for u, digest in zip(utterances, digests, strict=True)}


# -- recordings ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measured:
    duration_s: float
    peak: float
    digest: str
    header: audio.AudioInfo


def _for_each(
    function: Callable[[Utterance], _Result], utterances: Sequence[Utterance], on_progress: Progress | None
) -> list[_Result]:
    results: list[_Result] = []
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        try:
            for result in pool.map(function, utterances):
                results.append(result)
                if on_progress:
                    on_progress(len(results), len(utterances))
        except BaseException:  # Ctrl-C, or an error in the caller: do not decode the rest first
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _measured(utterance: Utterance, min_s: float, max_s: float) -> tuple[_Measured | None, list[Finding]]:
    """Measure a recording, if it can be decoded, and list its problems."""
    try:
        header = audio.info(utterance.audio)
        waveform = audio.decode(utterance.audio, utterance.start_s, utterance.end_s)
    except AudioError as error:
        kind = _KIND_OF_ERROR.get(type(error), "broken")
        return None, [Finding(kind, utterance.id, f"{utterance.audio}: {error.what}")]
    duration_s, peak = len(waveform) / SAMPLE_RATE_HZ, float(np.abs(waveform).max())
    measured = _Measured(duration_s, peak, _digest(waveform), header)
    if peak < audio.SILENCE_PEAK:
        return measured, [Finding("silent", utterance.id, f"{utterance.audio}: the peak is {peak:.1g} of full scale")]
    found = [("strange_header", remark) for remark in header.remarks]
    if (clipped := clipped_fraction(waveform)) > MAX_CLIPPED_FRACTION:
        found.append(("clipped", f"{clipped:.2%} of the samples"))
    if (loud := loud_fraction(waveform)) < MIN_LOUD_FRACTION:
        found.append(("mostly_silence", f"{loud:.0%} of {duration_s:.2f} s is loud"))
    if duration_s < min_s:
        found.append(("too_short", f"{duration_s:.3f} s, the minimum is {min_s:g} s"))
    if duration_s > max_s:
        found.append(("too_long", f"{duration_s:.1f} s, the maximum is {max_s:g} s"))
    return measured, [Finding(kind, utterance.id, detail) for kind, detail in found]


def clipped_fraction(waveform: Waveform) -> float:
    """Return the fraction of samples in runs of three or more within 0.26 dB of full scale.

    Normalised speech reaches full scale for a sample or two, clipped speech for longer.
    A pure tone at full scale also counts as clipped.

    Args:
        waveform: (sample,) at 16 kHz.
    """
    is_full = np.concatenate([[False], np.abs(waveform) >= FULL_SCALE, [False]])
    starts, ends = np.flatnonzero(np.diff(is_full.astype(np.int8))).reshape(-1, 2).T
    lengths = ends - starts
    return float(lengths[lengths >= FLAT_SAMPLES].sum() / len(waveform))


def loud_fraction(waveform: Waveform) -> float:
    """Return the fraction of 25 ms frames whose energy is within 40 dB of the loudest; 1.0 for less than one frame.

    Args:
        waveform: (sample,) at 16 kHz.
    """
    frame = round(FRAME_S * SAMPLE_RATE_HZ)
    energies = np.square(waveform[: len(waveform) // frame * frame].reshape(-1, frame)).mean(axis=1)
    if not energies.size:
        return 1.0
    return float((energies >= energies.max() * 10 ** (QUIET_DB / 10)).mean())


def _digest(waveform: Waveform) -> str:
    samples = np.rint(np.clip(waveform, -1.0, 1.0) * 32767).astype("<i2")
    return hashlib.sha256(samples.tobytes()).hexdigest()


def _manifest_problems(utterances: Sequence[Utterance], digests: Sequence[str | None]) -> Iterator[Finding]:
    """List missing and repeated values; `digests` are of the samples, `None` if there is nothing to compare."""
    ids: set[str] = set()
    parts: dict[tuple[str, float, float | None], str] = {}
    earlier: dict[str | None, list[Utterance]] = defaultdict(list)
    for utterance, digest in zip(utterances, digests, strict=True):
        part = utterance.audio, utterance.start_s, utterance.end_s
        if utterance.id in ids:
            yield Finding("duplicated_id", utterance.id, "an earlier utterance has this id")
        if part in parts:
            yield Finding("duplicated_part", utterance.id, f"the same part as {parts[part]}")
        if not utterance.emotion:
            yield Finding("no_emotion", utterance.id, Path(utterance.audio).name)
        if not utterance.speaker:
            yield Finding("no_speaker", utterance.id, Path(utterance.audio).name)
        ids.add(utterance.id)
        parts.setdefault(part, utterance.id)
        if digest is None:
            continue
        twins = [u for u in earlier[digest] if (u.audio, u.start_s, u.end_s) != part]
        for twin in twins:
            labels = (("speaker", twin.speaker, utterance.speaker), ("emotion", twin.emotion, utterance.emotion))
            differences = [f"{kind} {a} there and {b} here" for kind, a, b in labels if a and b and a != b]
            if differences:
                detail = f"same samples as {twin.id}, but {' and '.join(differences)}"
                yield Finding("contradictory_duplicate", utterance.id, detail)
                break
        else:
            if twins:
                yield Finding("duplicated_audio", utterance.id, f"same samples as {twins[0].id}")
        earlier[digest].append(utterance)


def _notes(utterances: Sequence[Utterance], measured: Sequence[tuple[Utterance, _Measured]]) -> Iterator[Finding]:
    """List the problems of the corpus as a whole: labels, speakers, genders, and other cues that reveal the emotion."""
    variants: dict[str, set[str]] = defaultdict(set)
    speakers: dict[str, set[str]] = defaultdict(set)
    emotions: dict[str, set[str]] = defaultdict(set)
    genders: dict[str, set[str]] = defaultdict(set)
    for utterance in utterances:
        if utterance.emotion:
            variants[plain_label(utterance.emotion)].add(utterance.emotion)
        if utterance.speaker and utterance.emotion:
            speakers[utterance.emotion].add(utterance.speaker)
            emotions[utterance.speaker].add(utterance.emotion)
        if utterance.speaker and utterance.gender:
            genders[utterance.speaker].add(utterance.gender)
    for plain, names in variants.items():
        if len(names) > 1:
            yield Finding("label_variants", plain, ", ".join(f"'{name}'" for name in sorted(names)))
    for emotion, known in speakers.items():
        if len(known) < MIN_SPEAKERS:
            yield Finding("few_speakers", emotion, f"spoken by {first_of(sorted(known), 5)}")
    for alike in alike_speakers(utterances):
        yield Finding("speaker_variants", alike[0], ", ".join(repr(name) for name in alike))
    for speaker, known in genders.items():
        if len(known) > 1:
            yield Finding("speaker_of_two_genders", speaker, ", ".join(sorted(known)))
    single = [speaker for speaker, known in emotions.items() if len(known) == 1]
    if single and len(set().union(*emotions.values())) > 1:
        detail = f"{len(single)} of {len(emotions)} speakers have only one emotion: {first_of(sorted(single), 5)}"
        yield Finding("single_emotion_speakers", "corpus", detail)
    counts = Counter(u.gender for u in utterances if u.gender in ("female", "male"))
    if counts and min(counts["female"], counts["male"]) < MIN_GENDER_SHARE * counts.total():
        yield Finding(
            "unbalanced_genders", "corpus", f"{counts['female']} utterances of women, {counts['male']} of men"
        )
    labelled = [(u, result) for u, result in measured if u.emotion]
    named = [u.emotion or "" for u, _ in labelled]
    of_emotion = Counter(named)
    # A value reveals an emotion when its share there exceeds its share in the other emotions by at least a half.
    for kind, values in (
        ("format_tells_emotion", [Path(u.audio).suffix.lower() for u, _ in labelled]),
        ("format_tells_emotion", [f"{result.header.sample_rate_hz} Hz" for _, result in labelled]),
        ("format_tells_emotion", [f"of {result.header.num_channels} channel(s)" for _, result in labelled]),
        ("gender_tells_emotion", [u.gender or "of unknown gender" for u, _ in labelled]),
    ):
        of_value = Counter(values)
        for (emotion, value), number in Counter(zip(named, values, strict=True)).items():
            others = len(named) - of_emotion[emotion]
            if of_emotion[emotion] < TELLING_NUMBER or others < TELLING_NUMBER:
                continue
            here, elsewhere = number / of_emotion[emotion], (of_value[value] - number) / others
            if here - elsewhere >= TELLING_DIFFERENCE:
                detail = f"{here:.0%} are {value}, compared with {elsewhere:.0%} of the other emotions"
                yield Finding(kind, emotion, detail)
