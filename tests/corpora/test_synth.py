"""The synthetic corpus does what its rules promise, the same way every time, and no better than it should."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from serein.corpora import espeak as synth_sound
from serein.corpora import synth
from serein.corpora.espeak import Voice, running
from serein.data.manifest import Utterance
from serein.errors import ManifestError, MissingExtraError

pytest.importorskip("espeakng_loader")

CLIPS = 3  # per speaker and emotion: 120 in all
RATE_HZ = 16_000
CUES = ("f0_st", "range_st", "level_db", "tilt_db", "rate_chars")

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    return synth.build(tmp_path_factory.mktemp("synth"), clips_per_speaker_and_emotion=CLIPS)


@pytest.fixture(scope="module")
def cues(corpus: list[Utterance]) -> Array:
    """Return (clip, cue) as measured from the sound; the cues are `CUES`."""
    return np.array([measure(utterance) for utterance in corpus])


def measure(utterance: Utterance) -> list[float]:
    speech, _ = soundfile.read(utterance.audio)
    semitones = 12 * np.log2(f0_hz(speech))
    low, high = np.percentile(semitones, [25, 75])
    power = np.abs(np.fft.rfft(speech)) ** 2
    hz = np.fft.rfftfreq(len(speech), 1 / RATE_HZ)
    bands = [power[(hz > lowest) & (hz < highest)].sum() for lowest, highest in ((100, 1000), (2000, 5000))]
    level_db = 10 * np.log10(np.mean(speech**2))
    num_chars = len(utterance.transcript or "")
    return [
        float(np.median(semitones)),
        high - low,
        level_db,
        10 * np.log10(bands[1] / bands[0]),
        num_chars / (len(speech) / RATE_HZ - 0.4),
    ]


def f0_hz(speech: Array, size: int = 640, step: int = 160) -> Array:
    """Return F0 of the clearly voiced frames, by autocorrelation between 65 and 450 Hz (Boersma 1993)."""
    window = np.hanning(size)
    starts = np.arange(0, len(speech) - size, step)
    frames = speech[starts[:, None] + np.arange(size)] * window
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 2 * size)) ** 2)
    of_window = np.fft.irfft(np.abs(np.fft.rfft(window, 2 * size)) ** 2)
    shortest, longest = RATE_HZ // 450, RATE_HZ // 65
    normalised = correlation[:, shortest:longest] / correlation[:, :1] * of_window[0]
    normalised /= of_window[shortest:longest]
    is_voiced = (normalised.max(axis=1) > 0.8) & (correlation[:, 0] > 0.03 * correlation[:, 0].max())
    found: Array = RATE_HZ / (shortest + normalised[is_voiced].argmax(axis=1))
    return found


def mean_of(cues: Array, corpus: list[Utterance], cue: str, **fields: str) -> float:
    rows = [i for i, u in enumerate(corpus) if all(getattr(u, k) == v for k, v in fields.items())]
    return float(cues[rows, CUES.index(cue)].mean())


# What is in it


def test_every_speaker_says_every_emotion_equally_often(corpus: list[Utterance]) -> None:
    cells = [(u.speaker, u.emotion) for u in corpus]
    assert len(corpus) == 10 * 4 * CLIPS
    assert {cells.count(cell) for cell in cells} == {CLIPS}
    assert len(set(cells)) == 40


def test_each_of_five_sessions_has_a_woman_and_a_man(corpus: list[Utterance]) -> None:
    people = {(u.session, u.gender, u.speaker) for u in corpus}
    assert len(people) == 10
    assert len({session for session, _, _ in people}) == 5
    assert {gender for _, gender, _ in people} == {"female", "male"}
    assert len({(session, gender) for session, gender, _ in people}) == 10


def test_ids_are_unique_and_name_the_files(corpus: list[Utterance]) -> None:
    assert len({u.id for u in corpus}) == len(corpus)
    assert all(Path(u.audio).is_absolute() and Path(u.audio).stem == u.id for u in corpus)
    assert all(Path(u.audio).parent.name == u.speaker for u in corpus)


def test_both_styles_occur_even_in_the_smallest_corpus() -> None:
    for emotion_count in (1, CLIPS):
        assert {clip.style for clip in synth.plan(0, emotion_count)} == {"scripted", "improvised"}


def test_files_are_16_khz_mono_16_bit_of_some_seconds_and_never_clip(corpus: list[Utterance]) -> None:
    for utterance in corpus:
        header = soundfile.info(utterance.audio)
        assert (header.samplerate, header.channels, header.subtype) == (RATE_HZ, 1, "PCM_16")
        assert 1.0 < header.duration < 8.0
        speech, _ = soundfile.read(utterance.audio)
        assert 0.02 < np.abs(speech).max() < 0.91


def test_it_says_of_itself_that_it_is_synthetic(corpus: list[Utterance]) -> None:
    assert {u.corpus for u in corpus} == {"synth"}
    assert {u.language for u in corpus} == {"en"}
    readme = (Path(corpus[0].audio).parents[2] / "README.md").read_text()
    assert synth.LICENCE in readme
    assert "not evidence about human emotion" in " ".join(readme.split())


# Words


def test_scripted_words_tell_nothing_of_the_emotion() -> None:
    clips = [clip for clip in synth.plan(0, 6) if clip.style == "scripted"]
    for speaker in {clip.speaker.name for clip in clips}:
        said = [
            {clip.text for clip in clips if clip.speaker.name == speaker and clip.emotion == emotion}
            for emotion in synth.EMOTIONS
        ]
        assert said[0] == said[1] == said[2] == said[3]
        assert len(said[0]) == 3


def test_about_half_of_the_improvised_words_lean_towards_the_emotion() -> None:
    clips = [clip for clip in synth.plan(0, 20) if clip.style == "improvised"]
    leaning = [any(s[1:] in clip.text for s in synth.LEANING[clip.emotion]) for clip in clips]
    assert np.mean(leaning) == pytest.approx(synth.LEANING_SHARE, abs=0.1)


def test_every_transcript_is_a_sentence(corpus: list[Utterance]) -> None:
    for utterance in corpus:
        assert utterance.transcript is not None
        assert utterance.transcript[0].isupper()
        assert utterance.transcript.endswith(".")


# Raters


def test_three_raters_with_one_word_comments(corpus: list[Utterance]) -> None:
    for utterance in corpus:
        assert [rating.rater for rating in utterance.ratings] == list(synth.RATERS)
        assert all(1 <= len(rating.labels) <= 2 for rating in utterance.ratings)
        assert all(rating.comment and len(rating.comment.split()) == 1 for rating in utterance.ratings)


def test_raters_disagree_sometimes_and_use_words_of_their_own(corpus: list[Utterance]) -> None:
    unanimous = np.mean([len({rating.labels[0] for rating in u.ratings}) == 1 for u in corpus])
    assert 0.3 < unanimous < 0.8
    used = {label for u in corpus for rating in u.ratings for label in rating.labels}
    assert {"frustrated", "excited"} <= used - set(synth.EMOTIONS)


def test_dimensions_are_means_of_three_answers_from_1_to_5(corpus: list[Utterance]) -> None:
    values = np.array([[u.valence, u.arousal, u.dominance] for u in corpus], float)
    assert values.min() >= 1
    assert values.max() <= 5
    np.testing.assert_allclose(values * 3, np.round(values * 3), atol=2e-4)


def test_dimensions_order_emotions_as_their_source_does(corpus: list[Utterance]) -> None:
    """Angry lies beside happy in arousal, beside sad in valence; sad is the least dominant."""
    values = {e: [[u.valence, u.arousal, u.dominance] for u in corpus if u.emotion == e] for e in synth.EMOTIONS}
    means = {emotion: np.mean(rows, axis=0) for emotion, rows in values.items()}
    for place in range(3):
        ranked = sorted(synth.EMOTIONS, key=lambda emotion: synth.PLACES[emotion][place])
        assert means[ranked[-1]][place] > means[ranked[0]][place] + 0.3
    assert means["angry"][1] > means["neutral"][1] > means["sad"][1]
    assert means["happy"][0] > means["neutral"][0] > max(means["angry"][0], means["sad"][0])


def test_dimensions_change_nothing_that_raters_said_before() -> None:
    """Labels and comments come from the draws that they came from before there were dimensions."""
    clip = synth.plan(0, 1)[0]
    ratings = synth.utterance(clip, Path("a.wav"), 0).ratings
    assert [(r.labels, r.comment) for r in ratings] == [
        (("neutral",), "factual"),
        (("angry",), "furious"),
        (("angry",), "mad"),
    ]


def test_raters_err_more_where_the_expression_is_weak(corpus: list[Utterance]) -> None:
    strength = {clip.id: clip.strength for clip in synth.plan(0, CLIPS)}
    is_right = np.array([[r.labels[0] == u.emotion for r in u.ratings] for u in corpus])
    is_weak = np.array([strength[u.id] for u in corpus]) < np.median(list(strength.values()))
    assert is_right[is_weak].mean() < is_right[~is_weak].mean() - 0.1


# Sound: the rules can be measured


@pytest.mark.parametrize(
    ("cue", "order", "least"),
    [
        ("f0_st", ("happy", "neutral", "sad"), 1.0),
        ("f0_st", ("angry", "neutral"), 1.0),
        ("range_st", ("happy", "neutral", "sad"), 0.2),
        ("range_st", ("angry", "neutral"), 0.0),
        ("level_db", ("angry", "happy", "neutral", "sad"), 1.0),
        ("tilt_db", ("angry", "happy", "neutral", "sad"), 0.5),
        ("rate_chars", ("angry", "neutral", "sad"), 1.0),
        ("rate_chars", ("happy", "sad"), 1.0),
    ],
)
def test_emotions_are_ordered_as_in_the_literature(
    corpus: list[Utterance], cues: Array, cue: str, order: tuple[str, ...], least: float
) -> None:
    means = [mean_of(cues, corpus, cue, emotion=emotion) for emotion in order]
    assert all(more - less > least for more, less in zip(means, means[1:], strict=False)), means


def test_women_speak_about_eight_semitones_higher_than_men(corpus: list[Utterance], cues: Array) -> None:
    women, men = (mean_of(cues, corpus, "f0_st", gender=gender) for gender in ("female", "male"))
    assert 6 < women - men < 12


def test_emotions_can_be_learned_across_speakers_but_overlap(corpus: list[Utterance], cues: Array) -> None:
    emotions = np.array([u.emotion for u in corpus])
    by_gender = np.array([[u.gender == "female"] for u in corpus])
    predicted = cross_val_predict(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        np.hstack([cues, by_gender]),
        emotions,
        groups=[u.session for u in corpus],
        cv=LeaveOneGroupOut(),
    )
    assert 0.45 < balanced_accuracy_score(emotions, predicted) < 0.9


# Sound: each step does what its name says


def noise(seconds: float = 2.0) -> Array:
    return np.random.default_rng(0).standard_normal(int(seconds * RATE_HZ)) * 0.1


def band_db(signal: Array, low_hz: float, high_hz: float) -> float:
    hz = np.fft.rfftfreq(len(signal), 1 / RATE_HZ)
    return float(10 * np.log10(np.mean(np.abs(np.fft.rfft(signal)[(hz > low_hz) & (hz < high_hz)]) ** 2)))


@pytest.mark.parametrize("slope_db", [-3.0, 0.0, 2.0])
def test_tilt_is_in_decibels_per_octave(slope_db: float) -> None:
    tilted = synth_sound.tilt(noise(), slope_db)
    change_db = [band_db(tilted, hz, hz * 1.1) - band_db(noise(), hz, hz * 1.1) for hz in (1000, 2000, 4000)]
    assert np.diff(change_db) == pytest.approx([slope_db, slope_db], abs=0.05)
    assert change_db[0] == pytest.approx(0.0, abs=0.5)


def test_breath_is_in_decibels_against_the_speech_and_silent_where_it_is() -> None:
    speech = noise()
    speech[: RATE_HZ // 2] = 0.0
    breath = synth_sound.breathe(speech, -20.0, np.random.default_rng(1)) - speech
    assert 10 * np.log10(np.mean(breath**2) / np.mean(speech**2)) == pytest.approx(-20.0, abs=0.01)
    assert np.abs(breath[: RATE_HZ // 2 - 400]).max() < 1e-6


def test_bend_raises_f0_by_semitones_from_start_to_end() -> None:
    tone = np.sin(2 * np.pi * 1000.0 * np.arange(2 * RATE_HZ) / RATE_HZ)
    bent = synth_sound.bend(tone, 4.0, 0.0, np.random.default_rng(0), RATE_HZ)
    tenth = len(bent) // 10
    num_crossings = [np.diff(np.signbit(part)).sum() for part in (bent[:tenth], bent[-tenth:])]
    assert len(bent) == len(tone)
    assert 12 * np.log2(num_crossings[1] / num_crossings[0]) == pytest.approx(4.0 * 0.9, abs=0.1)


def test_limit_leaves_the_quiet_and_holds_the_loud() -> None:
    assert synth_sound.limit(np.array([0.01, -0.01])) == pytest.approx([0.01, -0.01], rel=1e-3)
    assert np.abs(synth_sound.limit(np.array([5.0, -5.0]))).max() <= 0.9


# The same again


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_smaller_corpus_is_a_subset_byte_for_byte(corpus: list[Utterance], tmp_path: Path) -> None:
    larger = {u.id: u for u in corpus}
    smaller = synth.build(tmp_path, clips_per_speaker_and_emotion=1)
    assert len(smaller) == 40
    for utterance in smaller:
        twin = larger[utterance.id]
        assert utterance.model_dump(exclude={"audio"}) == twin.model_dump(exclude={"audio"})
        assert Path(utterance.audio).read_bytes() == Path(twin.audio).read_bytes()


def test_building_twice_over_the_same_folder_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth, "NUM_SESSIONS", 1)
    first = synth.build(tmp_path, seed=3, clips_per_speaker_and_emotion=1)
    before = contents(tmp_path)
    assert synth.build(tmp_path, seed=3, clips_per_speaker_and_emotion=1) == first
    assert contents(tmp_path) == before
    assert len(before) == 9  # eight clips and the README: nothing half-written stays


def test_another_seed_is_another_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth, "NUM_SESSIONS", 1)
    for seed in (1, 2):
        synth.build(tmp_path / str(seed), seed=seed, clips_per_speaker_and_emotion=1)
    one, two = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert one.keys() == two.keys()
    assert all(one[name] != two[name] for name in one if name.endswith(".wav"))


def test_espeak_says_the_same_whatever_it_said_before() -> None:
    voice = Voice(90.0, 140.0, 180.0, 0.0, (100.0,) * 9, (100.0,) * 9)
    other = Voice(200.0, 300.0, 230.0, 3.0, (115.0,) * 9, (90.0,) * 9)
    with running() as espeak:
        first = espeak.speak("Nothing was said before this.", voice)
        for length in range(1, 8):
            espeak.speak("And now for something else. " * length, other)
            assert np.array_equal(espeak.speak("Nothing was said before this.", voice), first)
    with running() as espeak:
        assert np.array_equal(espeak.speak("Nothing was said before this.", voice), first)


@pytest.mark.parametrize("change", [lambda v: v.low_hz, lambda v: v.words_per_minute])
def test_speakers_have_voices_of_their_own(change: Callable[[Voice], float]) -> None:
    assert len({change(speaker.calm) for speaker in synth.cast(0)}) == 10


# What can go wrong


def test_progress_counts_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth, "NUM_SESSIONS", 1)
    seen: list[tuple[int, int]] = []
    synth.build(tmp_path, clips_per_speaker_and_emotion=1, on_progress=lambda *now: seen.append(now))
    assert seen == [(number, 8) for number in range(1, 9)]


def test_no_clips_make_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="0 clips per speaker and emotion"):
        synth.build(tmp_path, clips_per_speaker_and_emotion=0)


def test_without_espeak_the_command_to_install_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serein\[synth\]'"):
        synth.build(tmp_path, clips_per_speaker_and_emotion=1)
