"""The kinds of problem that recordings and their labels have, and the report that lists them with their remedies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table


import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Waveform
from serein.data.protocols import alike_speakers
from serein.data.utterance import Utterance
from serein.errors import AudioError

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
    "strange_header": Problem(
        "warning",
        "The header does not say what the file holds; all of it was read.",
        "Listen to its end: the recorder may have been stopped, or recordings joined.",
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
    "speaker_variants": Problem(
        "error",
        "Speakers differ only in case or spaces, so one may be both trained on and tested.",
        "Write each speaker in one way.",
    ),
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


Progress = Callable[[int, int], None]
_Result = TypeVar("_Result")

NUM_THREADS = 2  # libsndfile decodes outside Python's lock
FULL_SCALE = 0.97  # -0.26 dB; resampling lets the flat top of a clipped wave ripple by about as much
FRAME_S = 0.025
TELLING_DIFFERENCE = 0.5  # in share, between one emotion and all others
TELLING_NUMBER = 10  # utterances of an emotion, below which such a difference may be chance


_KIND_OF_ERROR: dict[type[AudioError], str] = {
    audio.MissingAudioError: "missing",
    audio.TruncatedAudioError: "truncated",
    audio.OutsideAudioError: "outside_file",
    audio.NotFiniteAudioError: "not_finite",
}


def check(
    utterances: Sequence[Utterance],
    *,
    on_progress: Progress | None = None,
    min_s: float = 0.3,
    max_s: float = 30.0,
) -> CheckReport:
    """Decode every utterance once and list what is wrong with recordings and labels.

    Args:
        utterances: With absolute audio paths, as `manifest.read` and `prepare` return them.
        on_progress: Called with (utterances decoded, utterances in all).
        min_s: Utterances below this length are `too_short`.
        max_s: Utterances above this length are `too_long`.
    """
    results = _for_each(_listen, utterances, on_progress)
    measured = [(u, result) for u, result in zip(utterances, results, strict=True) if isinstance(result, _Measured)]
    problems = [
        *(result for result in results if isinstance(result, Finding)),
        *(finding for u, h in measured for finding in _recording_problems(u, h, min_s, max_s)),
        *_duplicated_samples([(u, h.digest) for u, h in measured if h.peak >= audio.SILENCE_PEAK]),
        *_manifest_problems(utterances),
    ]
    return CheckReport(
        num_utterances=len(utterances),
        duration_s=sum(h.duration_s for _, h in measured),
        per_emotion=dict(Counter(u.emotion for u in utterances if u.emotion).most_common()),
        per_speaker=dict(Counter(u.speaker for u in utterances if u.speaker).most_common()),
        problems=_in_order(problems),
        notes=_in_order([*_label_notes(utterances), *_speaker_notes(utterances), *_telling_notes(measured)]),
    )


def audio_digests(utterances: Sequence[Utterance], *, on_progress: Progress | None = None) -> dict[str, str]:
    """Return id -> SHA-256 of the decoded part's samples, rounded to 16 bits.

    Equal digests mean equal sound, whatever the container (WAV, FLAC), the bit depth (16 and more) and the
    place in the file. A copy that was resampled, encoded with loss, filtered or cut differently has another.

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
    clipped_fraction: float
    loud_fraction: float
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
        except BaseException:  # Ctrl-C, or an error of the caller's: do not decode the rest first
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _listen(utterance: Utterance) -> _Measured | Finding:
    try:
        header = audio.info(utterance.audio)
        waveform = audio.decode(utterance.audio, utterance.start_s, utterance.end_s)
    except AudioError as error:
        return Finding(_KIND_OF_ERROR.get(type(error), "broken"), utterance.id, f"{utterance.audio}: {error.what}")
    return _Measured(
        duration_s=len(waveform) / SAMPLE_RATE_HZ,
        peak=float(np.abs(waveform).max()),
        clipped_fraction=clipped_fraction(waveform),
        loud_fraction=loud_fraction(waveform),
        digest=_digest(waveform),
        header=header,
    )


def clipped_fraction(waveform: Waveform) -> float:
    """Return the share of samples that lie in runs of three or more within 0.26 dB of full scale.

    Speech reaches full scale for a sample or two where it was normalised, for longer where the wave was cut.
    A pure tone at full scale counts as clipped too.

    Args:
        waveform: (sample,) at 16 kHz.
    """
    is_full = np.concatenate([[False], np.abs(waveform) >= FULL_SCALE, [False]])
    starts, ends = np.flatnonzero(np.diff(is_full.astype(np.int8))).reshape(-1, 2).T
    lengths = ends - starts
    return float(lengths[lengths >= FLAT_SAMPLES].sum() / len(waveform))


def loud_fraction(waveform: Waveform) -> float:
    """Return the share of 25-ms frames whose energy is within 40 dB of the loudest; 1.0 below one frame.

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


def _recording_problems(utterance: Utterance, measured: _Measured, min_s: float, max_s: float) -> Iterator[Finding]:
    if measured.peak < audio.SILENCE_PEAK:
        yield Finding("silent", utterance.id, f"{utterance.audio}: the peak is {measured.peak:.1g} of full scale")
        return
    if measured.clipped_fraction > MAX_CLIPPED_FRACTION:
        yield Finding("clipped", utterance.id, f"{measured.clipped_fraction:.2%} of the samples")
    if measured.loud_fraction < MIN_LOUD_FRACTION:
        yield Finding(
            "mostly_silence", utterance.id, f"{measured.loud_fraction:.0%} of {measured.duration_s:.2f} s is loud"
        )
    for remark in measured.header.remarks:
        yield Finding("strange_header", utterance.id, remark)
    if measured.duration_s < min_s:
        yield Finding("too_short", utterance.id, f"{measured.duration_s:.3f} s, the least is {min_s:g} s")
    if measured.duration_s > max_s:
        yield Finding("too_long", utterance.id, f"{measured.duration_s:.1f} s, the most is {max_s:g} s")


def _duplicated_samples(digests: Iterable[tuple[Utterance, str]]) -> Iterator[Finding]:
    earlier: dict[str, list[Utterance]] = defaultdict(list)
    for utterance, digest in digests:
        duplicates = [u for u in earlier[digest] if _part(u) != _part(utterance)]
        contradiction = next((text for twin in duplicates if (text := _contradiction(twin, utterance))), None)
        if contradiction:
            yield Finding("contradictory_duplicate", utterance.id, contradiction)
        elif duplicates:
            yield Finding("duplicated_audio", utterance.id, f"same samples as {duplicates[0].id}")
        earlier[digest].append(utterance)


def _contradiction(first: Utterance, second: Utterance) -> str | None:
    differences = [
        f"{kind} {one} there and {other} here"
        for kind, one, other in (
            ("speaker", first.speaker, second.speaker),
            ("emotion", first.emotion, second.emotion),
        )
        if one and other and one != other
    ]
    return f"same samples as {first.id}, but {' and '.join(differences)}" if differences else None


def _part(utterance: Utterance) -> tuple[str, float, float | None]:
    return utterance.audio, utterance.start_s, utterance.end_s


# -- labels ----------------------------------------------------------------------------------------------


def _manifest_problems(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    ids: set[str] = set()
    parts: dict[tuple[str, float, float | None], str] = {}
    for utterance in utterances:
        if utterance.id in ids:
            yield Finding("duplicated_id", utterance.id, "an earlier utterance has this id")
        if _part(utterance) in parts:
            yield Finding("duplicated_part", utterance.id, f"the same part as {parts[_part(utterance)]}")
        if not utterance.emotion:
            yield Finding("no_emotion", utterance.id, Path(utterance.audio).name)
        if not utterance.speaker:
            yield Finding("no_speaker", utterance.id, Path(utterance.audio).name)
        ids.add(utterance.id)
        parts.setdefault(_part(utterance), utterance.id)


def _label_notes(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    variants: dict[str, set[str]] = defaultdict(set)
    speakers: dict[str, set[str]] = defaultdict(set)
    for utterance in utterances:
        if utterance.emotion:
            variants[utterance.emotion.strip().casefold()].add(utterance.emotion)
            if utterance.speaker:
                speakers[utterance.emotion].add(utterance.speaker)
    for plain, names in variants.items():
        if len(names) > 1:
            yield Finding("label_variants", plain, ", ".join(f"'{name}'" for name in sorted(names)))
    for emotion, known in speakers.items():
        if len(known) < MIN_SPEAKERS:
            yield Finding("few_speakers", emotion, f"spoken by {_enumerate(known)}")


def _speaker_notes(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    emotions: dict[str, set[str]] = defaultdict(set)
    genders: dict[str, set[str]] = defaultdict(set)
    for utterance in utterances:
        if utterance.speaker and utterance.emotion:
            emotions[utterance.speaker].add(utterance.emotion)
        if utterance.speaker and utterance.gender:
            genders[utterance.speaker].add(utterance.gender)
    yield from (
        Finding("speaker_variants", names[0], ", ".join(repr(name) for name in names))
        for names in alike_speakers(utterances)
    )
    yield from (
        Finding("speaker_of_two_genders", speaker, ", ".join(sorted(known)))
        for speaker, known in genders.items()
        if len(known) > 1
    )
    single = [speaker for speaker, known in emotions.items() if len(known) == 1]
    if single and len(set().union(*emotions.values())) > 1:
        detail = f"{len(single)} of {len(emotions)} speakers have one emotion only: {_enumerate(single)}"
        yield Finding("single_emotion_speakers", "corpus", detail)
    counts = Counter(u.gender for u in utterances if u.gender in ("female", "male"))
    if counts and min(counts["female"], counts["male"]) < MIN_GENDER_SHARE * counts.total():
        yield Finding(
            "unbalanced_genders", "corpus", f"{counts['female']} utterances of women, {counts['male']} of men"
        )


def _telling_notes(measured: Sequence[tuple[Utterance, _Measured]]) -> Iterator[Finding]:
    labelled = [(u, h) for u, h in measured if u.emotion]
    emotions = [u.emotion or "" for u, _ in labelled]
    for kind, values in (
        ("format_tells_emotion", [Path(u.audio).suffix.lower() for u, _ in labelled]),
        ("format_tells_emotion", [f"{h.header.sample_rate_hz} Hz" for _, h in labelled]),
        ("format_tells_emotion", [f"of {h.header.num_channels} channel(s)" for _, h in labelled]),
        ("gender_tells_emotion", [u.gender or "of unknown gender" for u, _ in labelled]),
    ):
        yield from (Finding(kind, emotion, detail) for emotion, detail in _telling(emotions, values))


def _telling(emotions: Sequence[str], values: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the emotions in which a value is more frequent by half of all utterances than in the others."""
    pairs, of_emotion, of_value = (
        Counter(zip(emotions, values, strict=True)),
        Counter(emotions),
        Counter(values),
    )
    for (emotion, value), number in pairs.items():
        others = len(emotions) - of_emotion[emotion]
        if of_emotion[emotion] < TELLING_NUMBER or others < TELLING_NUMBER:
            continue
        here, elsewhere = number / of_emotion[emotion], (of_value[value] - number) / others
        if here - elsewhere >= TELLING_DIFFERENCE:
            yield emotion, f"{here:.0%} are {value}, of the other emotions {elsewhere:.0%}"


def _in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    rank = {kind: number for number, kind in enumerate(PROBLEMS)}
    return tuple(sorted(findings, key=lambda finding: rank[finding.kind]))


def _enumerate(names: Iterable[str], most: int = 5) -> str:
    known = sorted(names)
    return ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")
