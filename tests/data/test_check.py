"""The check: every kind of problem is made and found, and sound recordings are left in peace."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from serein.corpora import CORPORA
from serein.corpora.prepare import prepare
from serein.data.check import PROBLEMS, CheckReport, Finding, audio_digests, check, clipped_fraction, loud_fraction
from serein.data.manifest import Utterance
from serein.errors import AudioError

REAL = Path(os.environ.get("SEREIN_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def speech(seed: int, seconds: float = 1.0) -> np.ndarray:
    """Return noise in syllables, peak 0.3."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * 16_000)) / 16_000
    syllables = 0.55 - 0.45 * np.cos(2 * np.pi * 4 * time_s)
    waveform = syllables * rng.standard_normal(len(time_s))
    return np.asarray(0.3 * waveform / np.abs(waveform).max())


Record = Callable[..., Utterance]


def problems(*utterances: Utterance) -> list[tuple[str, str]]:
    return [(finding.kind, finding.where) for finding in check(utterances).problems]


def notes(*utterances: Utterance) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in check(utterances).notes:
        found.setdefault(finding.kind, []).append(finding.where)
    return found


# -- recordings


def test_sound_recordings_have_no_problems(record: Record) -> None:
    utterances = [
        record(
            f"{speaker}{emotion}",
            speech(10 * speaker + number),
            speaker=str(speaker),
            emotion=emotion,
            gender=gender,
        )
        for speaker, gender in ((1, "female"), (2, "male"), (3, "female"), (4, "male"))
        for number, emotion in enumerate(("happy", "sad"))
    ]
    calls: list[tuple[int, int]] = []
    report = check(utterances, on_progress=lambda done, total: calls.append((done, total)))
    assert report == CheckReport(8, 8.0, {"happy": 4, "sad": 4}, {"1": 2, "2": 2, "3": 2, "4": 2}, (), ())
    assert report.is_sound
    assert calls == [(n, 8) for n in range(1, 9)]


@pytest.mark.parametrize(
    "kind", ["missing", "broken", "truncated", "outside_file", "too_long_to_read", "not_finite", "silent"]
)
def test_what_cannot_be_heard_is_an_error(record: Record, kind: str) -> None:
    good, bad = record("good", speech(1)), record("bad", speech(2))
    path = Path(bad.audio)
    if kind == "missing":
        path.unlink()
    elif kind == "broken":
        path.write_text("not audio")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:30_000])
    elif kind == "outside_file":
        bad = bad.model_copy(update={"start_s": 0.5, "end_s": 3.0})
    elif kind == "too_long_to_read":
        soundfile.write(path, np.zeros(4_000 * 3_601, np.int16), 4_000, subtype="PCM_U8")
    elif kind == "not_finite":
        soundfile.write(path, np.array([0.1, np.nan]), 16_000, subtype="FLOAT")
    elif kind == "silent":
        soundfile.write(path, np.full(16_000, 1e-5), 16_000, subtype="FLOAT")
    report = check([good, bad])
    assert [(finding.kind, finding.where) for finding in report.problems] == [(kind, "bad")]
    assert str(path) in report.problems[0].detail
    assert not report.is_sound


def test_a_wave_cut_at_full_scale_is_clipped_at_any_rate(record: Record) -> None:
    def vowel(rate_hz: int, gain_db: float) -> np.ndarray:
        """Return 120 Hz with harmonics and a slow swell; its peak is `gain_db` over full scale."""
        phase = 2 * np.pi * 120 * np.arange(rate_hz) / rate_hz
        wave = sum(np.sin(k * phase + k * k) / k for k in range(1, 20)) * np.sin(phase / 240) ** 8
        return np.clip(10 ** (gain_db / 20) * wave / np.abs(wave).max(), -1, 1)

    utterances = [record(f"{rate}{gain}", vowel(rate, gain), rate) for gain in (0, 6) for rate in (16_000, 48_000)]
    assert problems(*utterances) == [("clipped", "160006"), ("clipped", "480006")]


def test_clipped_share_counts_runs_only() -> None:
    waveform = np.zeros(1_000, np.float32)
    waveform[[10, 20, 21]] = 1.0  # a peak and a pair are no plateau
    waveform[30:35] = -1.0
    waveform[997:] = 1.0
    assert clipped_fraction(waveform) == pytest.approx(8 / 1_000)
    assert clipped_fraction(np.ones(10, np.float32)) == 1.0
    assert clipped_fraction(np.zeros(10, np.float32)) == 0.0


def test_loud_share_counts_frames_within_40_db_of_the_loudest() -> None:
    waveform = np.concatenate([np.full(400, level) for level in (1.0, 0.5, 0.0101, 0.0099, 0.0)]).astype(np.float32)
    assert loud_fraction(waveform) == pytest.approx(3 / 5)
    assert loud_fraction(np.ones(100, np.float32)) == 1.0


def test_a_click_in_silence_is_mostly_silence(record: Record) -> None:
    click = np.zeros(16_000)
    click[8_000:8_020] = 0.5
    assert problems(record("click", click), record("speech", speech(1))) == [("mostly_silence", "click")]


def test_a_header_that_was_never_closed_is_noted(record: Record) -> None:
    utterance = record("open", speech(1))
    content = bytearray(Path(utterance.audio).read_bytes())
    place = content.index(b"data")
    content[place + 4 : place + 8] = bytes(4)
    Path(utterance.audio).write_bytes(content)
    assert problems(utterance) == [("strange_header", "open")]


def test_lengths_have_limits(record: Record) -> None:
    utterances = [
        record("short", speech(1, 0.2)),
        record("fits", speech(2, 0.31)),
        record("long", speech(3, 1.2)),
    ]
    kinds = [(f.kind, f.where, f.detail) for f in check(utterances, max_s=1.0).problems]
    assert kinds == [
        ("too_short", "short", "0.200 s, the minimum is 0.3 s"),
        ("too_long", "long", "1.2 s, the maximum is 1 s"),
    ]


# -- duplicates


def test_the_same_samples_are_found_in_another_container_and_place(record: Record) -> None:
    wave = np.rint(speech(1) * 32_767) / 32_767
    first = record("a.flac", wave)
    inner = record("b", np.concatenate([speech(2), wave])).model_copy(update={"start_s": 1.0, "end_s": 2.0})
    report = check([first, record("other", speech(3)), inner])
    assert report.problems == (Finding("duplicated_audio", "b", "same samples as a.flac"),)
    assert report.is_sound


def test_a_duplicate_that_contradicts_says_so(record: Record) -> None:
    report = check([record("a", speech(1)), record("b", speech(1), speaker="2", emotion="sad")])
    detail = "same samples as a, but speaker 1 there and 2 here and emotion happy there and sad here"
    assert report.problems == (Finding("contradictory_duplicate", "b", detail),)


def test_silences_are_no_duplicates_of_each_other(record: Record) -> None:
    assert {kind for kind, _ in problems(record("a", np.zeros(8_000)), record("b", np.zeros(8_000)))} == {"silent"}


def test_repeated_ids_and_parts_are_errors(record: Record) -> None:
    a, b = record("a", speech(1)), record("b", speech(2))
    again = a.model_copy(update={"id": "c"})
    namesake = b.model_copy(update={"id": "a"})
    assert problems(a, again) == [("duplicated_part", "c")]
    assert problems(a, namesake) == [("duplicated_id", "a")]
    assert not check([a, again]).is_sound


def test_digests_follow_the_sound(record: Record) -> None:
    wave = np.rint(speech(1) * 32_767) / 32_767
    same = [record("a", wave), record("b.flac", wave)]
    other = record("c", speech(2))
    digests = audio_digests([*same, other])
    assert list(digests) == ["a", "b.flac", "c"]
    assert digests["a"] == digests["b.flac"] != digests["c"]
    Path(other.audio).unlink()
    with pytest.raises(AudioError, match="no such file"):
        audio_digests([*same, other])


# -- labels


def test_missing_labels_are_warnings(record: Record) -> None:
    report = check([record("a", speech(1), speaker=None), record("b", speech(2), emotion=None)])
    assert [(f.kind, f.where) for f in report.problems] == [("no_emotion", "b"), ("no_speaker", "a")]
    assert report.is_sound


def test_one_emotion_per_speaker_is_noted(record: Record) -> None:
    labels = (("1", "happy"), ("1", "sad"), ("2", "sad"), ("3", "happy"))
    utterances = [record(str(n), speech(n), speaker=s, emotion=e) for n, (s, e) in enumerate(labels)]
    (note,) = [f for f in check(utterances).notes if f.kind == "single_emotion_speakers"]
    assert note.detail == "2 of 3 speakers have only one emotion: 2, 3"


def test_emotions_of_few_speakers_are_noted(record: Record) -> None:
    labels = (("1", "happy"), ("2", "happy"), ("3", "happy"), ("1", "sad"), ("2", "sad"))
    utterances = [record(str(n), speech(n), speaker=s, emotion=e) for n, (s, e) in enumerate(labels)]
    assert notes(*utterances)["few_speakers"] == ["sad"]


def test_spellings_of_one_emotion_are_noted(record: Record) -> None:
    utterances = [record(str(n), speech(n), emotion=e) for n, e in enumerate(("Happy", "happy ", "sad"))]
    assert notes(*utterances)["label_variants"] == ["happy"]


def test_spellings_of_one_speaker_are_an_error(record: Record) -> None:
    speakers = ("anna", "Anna", "ben", "ben ", "cleo")
    report = check([record(str(n), speech(n), speaker=s) for n, s in enumerate(speakers)])
    found = [(f.where, f.detail) for f in report.notes if f.kind == "speaker_variants"]
    assert found == [("Anna", "'Anna', 'anna'"), ("ben", "'ben', 'ben '")]
    assert not report.is_sound


def test_genders_are_noted(record: Record) -> None:
    genders = ("female", "male", "male", "male", "male")
    utterances = [record(str(n), speech(n), gender=g) for n, g in enumerate(genders)]
    found = notes(*utterances)
    assert found["speaker_of_two_genders"] == ["1"]
    assert found["unbalanced_genders"] == ["corpus"]
    assert "unbalanced_genders" not in notes(*utterances[:4])  # one in four is enough


@pytest.mark.slow
def test_an_emotion_that_the_format_tells_is_noted(record: Record) -> None:
    def utterances(rates_of_sad: list[int]) -> list[Utterance]:
        sad = [record(f"s{n}", speech(n, 0.4), rate, emotion="sad") for n, rate in enumerate(rates_of_sad)]
        return [*sad, *(record(f"h{n}", speech(50 + n, 0.4)) for n in range(20))]

    telling = [f for f in check(utterances([8_000] * 10)).notes if f.kind == "format_tells_emotion"]
    assert [(f.where, f.detail) for f in telling] == [
        ("sad", "100% are 8000 Hz, compared with 0% of the other emotions"),
        ("happy", "100% are 16000 Hz, compared with 0% of the other emotions"),
    ]
    assert "format_tells_emotion" not in notes(*utterances([8_000] * 4 + [16_000] * 6))
    assert "format_tells_emotion" not in notes(*utterances([8_000] * 9))  # too few to tell


def test_an_emotion_of_one_gender_is_noted(record: Record) -> None:
    utterances = [
        record(f"{emotion}{n}", speech(n + 100 * (emotion == "sad"), 0.4), emotion=emotion, gender=gender)
        for emotion, gender in (("happy", "female"), ("sad", "male"))
        for n in range(10)
    ]
    assert sorted(notes(*utterances)["gender_tells_emotion"]) == ["happy", "sad"]


# -- the report


def test_the_report_is_json_and_tables(record: Record) -> None:
    bad = record("b", speech(1), emotion="[red]", speaker=None).model_copy(update={"id": "[bold]b[/bold]"})
    Path(bad.audio).unlink()
    report = check([record("a", speech(2)), bad])
    data = json.loads(json.dumps(report.to_json()))
    assert data["num_utterances"] == 2
    assert data["duration_s"] == 1.0
    assert data["is_sound"] is False
    assert data["problems"][0]["kind"] == "missing"
    assert data["kinds"]["missing"]["remedy"] == PROBLEMS["missing"].remedy
    console = Console(width=160, record=True, file=io.StringIO())
    for table in report.tables():
        console.print(table)
    text = console.export_text()
    for part in ("[bold]b[/bold]", "[red]", "error", "missing", PROBLEMS["missing"].remedy[:20]):
        assert part in text


def test_nothing_to_check_is_a_report_too() -> None:
    report = check([])
    assert report.is_sound
    assert report.num_utterances == 0
    assert len(report.tables()) == 1


def test_an_interrupted_check_stops_at_once(record: Record) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check([record("a", speech(1))] * 50, on_progress=interrupt)


def test_every_problem_says_what_and_what_to_do() -> None:
    for problem in PROBLEMS.values():
        assert problem.severity in ("error", "warning")
        assert problem.meaning.endswith(".")
        assert problem.remedy.endswith(".")


# -- real speech


def real(corpus: str, folder: str) -> CheckReport:
    if not (REAL / folder).is_dir():
        pytest.skip(f"no {folder} in {REAL}")
    return check(prepare(CORPORA[corpus], REAL / folder).utterances)


@pytest.mark.slow
def test_ravdess_has_one_duplicated_pair_and_no_other_problem() -> None:
    report = real("ravdess", "ravdess")
    assert report.is_sound
    assert not report.notes
    assert [(f.kind, f.where, f.detail) for f in report.problems] == [
        ("duplicated_audio", "03-01-03-01-02-02-07", "same samples as 03-01-03-01-02-01-07")
    ]


@pytest.mark.slow
def test_urdu_speakers_have_one_emotion_each() -> None:
    report = real("csv", "urdu")
    assert Counter(f.kind for f in report.problems) == {"clipped": 25}
    details = {f.kind: f.detail for f in report.notes}
    assert details["single_emotion_speakers"].startswith("26 of 29 speakers have only one emotion")
    assert details["unbalanced_genders"] == "56 utterances of women, 344 of men"


@pytest.mark.slow
def test_emodb_is_clean() -> None:
    report = real("emodb", "emodb")
    assert report.problems == report.notes == ()
    assert (report.num_utterances, round(report.duration_s, 1)) == (535, 1487.1)  # 24.8 min
