"""Effects: each is measured against what its name promises, keeps a clip's length, and follows from the clip's seed."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from serein import recipe as recipes
from serein.audio import SAMPLE_RATE_HZ
from serein.data import augmentation as effects
from serein.data.augmentation import (
    EFFECTS,
    WaveformAugmenter,
    describe,
    reverberated,
    room_response,
    with_noise,
    with_pitch,
    with_volume,
)
from serein.data.dataset import BucketSampler, ClipDataset, Recordings, collate, loader
from serein.data.manifest import Utterance
from serein.errors import MissingExtraError, RecipeError
from serein.recipe import Batches, Clips, WaveformAugmentation

Record = Callable[..., Utterance]

NAMES = ["noise", "volume", "reverberation", "pitch", "mixed"]


@pytest.fixture(autouse=True)
def libraries() -> None:
    pytest.importorskip("pyroomacoustics", reason="pip install 'serein[augment]'")
    pytest.importorskip("python_stretch", reason="pip install 'serein[augment]'")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def voiced(frequency_hz: float, seconds: float = 2.0) -> np.ndarray:
    """Return a tone with overtones that fall by 1/n, as of a voice."""
    time_s = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    overtones = range(1, int(4_000 / frequency_hz))
    return sum(0.1 / n * np.sin(2 * np.pi * n * frequency_hz * time_s) for n in overtones).astype(np.float32)


def power(waveform: np.ndarray) -> float:
    return float(np.mean(np.square(waveform.astype(np.float64))))


def fundamental_hz(waveform: np.ndarray) -> float:
    """Return one over the first lag at which the clip is like itself: twice the period is no better."""
    middle = waveform[len(waveform) // 4 : -len(waveform) // 4].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(middle, 2 * len(middle))) ** 2
    likeness = np.fft.irfft(spectrum)[: SAMPLE_RATE_HZ // 50]
    is_peak = (
        (likeness[1:-1] > likeness[:-2]) & (likeness[1:-1] >= likeness[2:]) & (likeness[1:-1] > 0.85 * likeness[0])
    )
    lag = 1 + int(np.flatnonzero(is_peak)[0])
    before, at, after = likeness[lag - 1 : lag + 2]
    return SAMPLE_RATE_HZ / (lag + 0.5 * (before - after) / (before - 2 * at + after))  # of the parabola


def decay_time_s(response: np.ndarray) -> float:
    """Return the time of a fall by 60 dB, from the slope between -5 and -35 dB (Schroeder 1965, ISO 3382)."""
    energy = np.cumsum(response[::-1].astype(np.float64) ** 2)[::-1]
    level_db = 10 * np.log10(energy / energy[0])
    measured = np.flatnonzero((level_db <= -5) & (level_db >= -35))
    slope_db_per_s = np.polyfit(measured / SAMPLE_RATE_HZ, level_db[measured], 1)[0]
    return float(-60 / slope_db_per_s)


# -- what each promises


@pytest.mark.parametrize("snr_db", [-5.0, 10.0, 30.0])
def test_noise_at_10_db_is_10_db_below_speech(snr_db: float) -> None:
    tone = voiced(120.0)
    with_pauses = np.concatenate([0 * tone, tone, 0 * tone])
    noise = with_noise(with_pauses, snr_db, rng()) - with_pauses
    assert 10 * np.log10(power(tone) / power(noise)) == pytest.approx(snr_db, abs=0.1)  # pauses do not count
    thirds = [power(third) for third in np.split(noise, 3)]
    assert max(thirds) / min(thirds) < 1.1  # noise does not pause


def test_noise_is_white() -> None:
    noise = with_noise(voiced(120.0), 0.0, rng()) - voiced(120.0)
    spectrum = np.abs(np.fft.rfft(noise)) ** 2
    quarters = [float(quarter.mean()) for quarter in np.array_split(spectrum, 4)]
    assert max(quarters) / min(quarters) < 1.15


def test_6_db_louder_is_a_factor_of_two() -> None:
    tone = voiced(120.0)
    np.testing.assert_allclose(with_volume(tone, 6.0), tone * 10 ** (6 / 20), rtol=1e-6)
    np.testing.assert_allclose(with_volume(with_volume(tone, -7.5), 7.5), tone, rtol=1e-6)


def test_what_exceeds_full_scale_neither_wraps_nor_clips() -> None:
    full = np.array([1.0, -1.0, 0.5], np.float32)
    assert with_volume(full, 20.0).tolist() == [10.0, -10.0, 5.0]


@pytest.mark.parametrize("semitones", [-3.0, -0.5, 1.0, 3.0])
@pytest.mark.parametrize("frequency_hz", [110.0, 220.0])
def test_semitones_are_a_ratio_of_fundamental_frequencies(frequency_hz: float, semitones: float) -> None:
    shifted = with_pitch(voiced(frequency_hz), semitones)
    assert fundamental_hz(voiced(frequency_hz)) == pytest.approx(frequency_hz, rel=0.002)
    assert fundamental_hz(shifted) == pytest.approx(frequency_hz * 2 ** (semitones / 12), rel=0.02)


def test_pitch_moves_nothing_in_time() -> None:
    click = np.zeros(32_000, np.float32)
    click[20_000] = 0.5
    assert abs(int(np.abs(with_pitch(click, 3.0)).argmax()) - 20_000) <= 16  # a millisecond
    silence_then_tone = np.concatenate([np.zeros(16_000, np.float32), voiced(150.0, 1.0)])
    shifted = with_pitch(silence_then_tone, -3.0)
    assert power(shifted[:14_400]) < 1e-3 * power(shifted[17_600:])


@pytest.mark.parametrize("rt60_s", [0.2, 0.4, 0.8, 2.0])
def test_a_room_has_the_decay_time_that_it_names(rt60_s: float) -> None:
    for seed in range(4):
        response = room_response(rt60_s, rng(seed))
        assert len(response) == round(rt60_s * SAMPLE_RATE_HZ)
        assert decay_time_s(response) == pytest.approx(rt60_s, rel=0.15)


def test_sound_stops_as_slowly_as_the_room_says() -> None:
    """Noise that is switched off falls, after 5 dB, by 20 dB in a third of the decay time."""
    stopped = np.concatenate([rng().standard_normal(16_000), np.zeros(16_000)]).astype(np.float32)
    heard = reverberated(stopped, 0.6, rng(1))
    frames_db = 10 * np.log10(np.square(heard[16_000:]).reshape(-1, 160).mean(axis=1) + 1e-12)
    falling = frames_db[(frames_db < frames_db[0] - 5) & (frames_db > frames_db[0] - 35)]
    slope_db_per_s = np.polyfit(0.01 * np.arange(len(falling)), falling, 1)[0]
    assert -60 / slope_db_per_s == pytest.approx(0.6, rel=0.15)


def test_rooms_differ_and_start_with_the_direct_sound() -> None:
    responses = [room_response(0.4, rng(seed)) for seed in range(6)]
    assert all(abs(response[:3]).max() > 0.2 * abs(response).max() for response in responses)
    assert all(abs(response[0]) > 0.02 for response in responses)
    direct_db = [10 * np.log10(np.square(r[:40]).sum() / np.square(r[40:]).sum()) for r in responses]
    assert max(direct_db) - min(direct_db) > 3  # nearer and farther speakers


def test_reverberation_is_as_loud_as_the_clip() -> None:
    tone = voiced(120.0)
    heard = reverberated(tone, 0.5, rng())
    assert power(heard) == pytest.approx(power(tone), rel=1e-4)
    assert not np.allclose(heard, tone, atol=0.01)


# -- any clip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 2, 399, 401, 5_000, 16_001])
def test_any_length_stays(name: str, length: int) -> None:
    waveform = np.array(0.1 * rng().standard_normal(length), np.float32)
    waveform.flags.writeable = False  # views of recordings in memory must not change
    for seed in range(4):
        heard = WaveformAugmenter(WaveformAugmentation(name=name, mixed=4))(waveform, seed)
        assert (heard.shape, heard.dtype) == ((length,), np.float32)
        assert np.isfinite(heard).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 16_000])
def test_silence_stays_silent(name: str, length: int) -> None:
    heard = WaveformAugmenter(WaveformAugmentation(name=name, mixed=4))(np.zeros(length, np.float32), 0)
    assert not heard.any()


@pytest.mark.parametrize("name", NAMES)
def test_a_part_of_a_recording_may_be_given(name: str) -> None:
    backwards = voiced(120.0, 0.5)[::-2]
    augmenter = WaveformAugmenter(WaveformAugmentation(name=name))
    np.testing.assert_array_equal(augmenter(backwards, 3), augmenter(np.ascontiguousarray(backwards), 3))


# -- what is drawn


def global_states() -> tuple[object, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_follows_from_its_seed_and_nothing_else(name: str) -> None:
    waveform, augmenter = voiced(120.0, 0.3), WaveformAugmenter(WaveformAugmentation(name=name))
    states = global_states()
    first = [augmenter(waveform, seed) for seed in range(4)]
    assert states == global_states()
    np.random.seed(0)  # noqa: NPY002
    again = [WaveformAugmenter(WaveformAugmentation(name=name))(waveform, seed) for seed in reversed(range(4))]
    for one, other in zip(first, reversed(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not any(np.array_equal(first[0], other) for other in first[1:])


@pytest.mark.parametrize("name", EFFECTS)
def test_values_fill_their_range(name: str) -> None:
    options = WaveformAugmentation(name=name)
    low, high = getattr(options, EFFECTS[name].option)
    values = [WaveformAugmenter(options).drawn(seed)[name] for seed in range(400)]
    assert low <= min(values) < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < max(values) <= high


def test_one_effect_is_drawn_alike_alone_and_mixed() -> None:
    """Another range, or another effect beside it, moves no draw."""
    for seed in range(10):
        mixed = WaveformAugmenter(WaveformAugmentation(name="mixed", mixed=4, volume_db=(0.0, 1.0))).drawn(seed)
        assert WaveformAugmenter(WaveformAugmentation(name="pitch")).drawn(seed)["pitch"] == mixed["pitch"]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_mixed_draws_as_many_as_asked_each_as_often(count: int) -> None:
    draws = [WaveformAugmenter(WaveformAugmentation(name="mixed", mixed=count)).drawn(seed) for seed in range(600)]
    assert {len(drawn) for drawn in draws} == {count}
    assert all(list(drawn) == [name for name in EFFECTS if name in drawn] for drawn in draws)  # voice, room, recording
    for name in EFFECTS:
        assert sum(name in drawn for drawn in draws) / 600 == pytest.approx(count / 4, abs=0.07)


def test_a_share_of_the_clips_is_changed() -> None:
    augmenter = WaveformAugmenter(WaveformAugmentation(name="volume", probability=0.25))
    assert sum(bool(augmenter.drawn(seed)) for seed in range(1_000)) / 1_000 == pytest.approx(0.25, abs=0.04)
    unchanged = next(seed for seed in range(100) if not augmenter.drawn(seed))
    np.testing.assert_array_equal(augmenter(voiced(120.0), unchanged), voiced(120.0))
    assert describe(augmenter.drawn(unchanged)) == "unchanged"


def test_a_missing_package_is_named_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    with pytest.raises(MissingExtraError, match=r"pyroomacoustics.*pip install 'serein\[augment\]'"):
        WaveformAugmenter(WaveformAugmentation(name="mixed"))
    WaveformAugmenter(WaveformAugmentation(name="pitch"))  # needs another one
    monkeypatch.setitem(sys.modules, "python_stretch", None)
    with pytest.raises(MissingExtraError, match="python-stretch"):
        WaveformAugmenter(WaveformAugmentation(name="pitch"))
    WaveformAugmenter(WaveformAugmentation(name="noise"))


# -- within training


@pytest.fixture
def recordings(record: Record) -> Recordings:
    return Recordings([record(f"u{number}", voiced(100.0 + 20 * number, 0.4 + 0.1 * number)) for number in range(5)])


@pytest.mark.skipif(sys.platform != "linux", reason="others cannot fork safely")
def test_workers_are_forked_beside_a_gpu(recordings: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    sampler = BucketSampler(range(5), recordings.durations_s, Batches())
    loaded = loader(ClipDataset(recordings, {}, Clips()), sampler, num_workers=1)
    assert loaded.multiprocessing_context.get_start_method() == "fork"


@pytest.mark.parametrize("name", NAMES)
def test_neither_workers_nor_neighbours_change_what_is_heard(name: str, recordings: Recordings) -> None:
    augmenter = WaveformAugmenter(WaveformAugmentation(name=name))
    dataset = ClipDataset(recordings, {}, Clips(crop_s=0.5), seed=3, is_training=True, augment=augmenter)
    sampler = BucketSampler(range(5), recordings.durations_s, Batches(max_clips=2), seed=3)
    with_workers = list(loader(dataset, sampler, num_workers=2))
    for items, batch in zip(sampler, with_workers, strict=True):
        alone = collate([dataset[item] for item in items])
        assert torch.equal(batch.waveforms, alone.waveforms)
        assert torch.equal(batch.num_samples, alone.num_samples)
    plain = ClipDataset(recordings, {}, Clips(crop_s=0.5), seed=3, is_training=True)
    for position in range(5):
        changed, original = dataset[0, position], plain[0, position]
        assert torch.equal(changed.num_samples, original.num_samples)  # as the sampler planned
        assert torch.equal(
            changed.waveforms[0], torch.from_numpy(augmenter(original.waveforms[0].numpy(), int(changed.seeds)))
        )
        assert not torch.equal(changed.waveforms, original.waveforms)
        assert not torch.equal(changed.waveforms, dataset[1, position].waveforms)  # another epoch, other draws


def test_only_training_is_changed(recordings: Recordings) -> None:
    change = WaveformAugmenter(WaveformAugmentation(name="volume"))
    dev = ClipDataset(recordings, {}, Clips(), is_training=False, augment=change)
    np.testing.assert_array_equal(dev[0, 1].waveforms[0], recordings[1])


def test_the_place_of_a_crop_does_not_tell_the_draw(record: Record) -> None:
    ramp = Recordings([record("u", np.arange(16_000) / 16_000)])
    plain = ClipDataset(ramp, {}, Clips(crop_s=0.1), is_training=True)
    augmenter = WaveformAugmenter(WaveformAugmentation(name="volume"))
    clips = [plain[epoch, 0] for epoch in range(200)]
    starts = [float(clip.waveforms[0, 0]) for clip in clips]
    volumes = [augmenter.drawn(int(clip.seeds))["volume"] for clip in clips]
    assert abs(np.corrcoef(starts, volumes)[0, 1]) < 0.2


# -- in a recipe


def recipe_with(tmp_path: Path, options: str) -> recipes.Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: r\nstages:\n- waveform_augmentation: {options}\n", encoding="utf-8")
    return recipes.load(path)


@pytest.mark.parametrize("name", NAMES)
def test_each_augmentation_is_a_name(name: str, tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path, f"{{name: {name}, noise_snr_db: [0, 10]}}")
    assert recipe.stages[0].waveform_augmentation == WaveformAugmentation(name=name, noise_snr_db=(0.0, 10.0))
    (tmp_path / "again.yaml").write_text(recipes.dump(recipe), encoding="utf-8")
    assert recipes.load(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("{name: echo}", "stages.0.waveform_augmentation.name"),
        (
            "{noise_snr_db: [20, 5]}",
            r"stages.0.waveform_augmentation.noise_snr_db: \[20, 5\] is in falling order: name the lower end first",
        ),
        (
            "{reverberation_rt60_s: [0, 1]}",
            "stages.0.waveform_augmentation.reverberation_rt60_s.0: .*greater than or equal to 0.1",
        ),
        (
            "{pitch_semitones: [-30, 0]}",
            "stages.0.waveform_augmentation.pitch_semitones.0: .*greater than or equal to -12",
        ),
        ("{volume_db: 3}", "stages.0.waveform_augmentation.volume_db"),
        ("{mixed: 5}", "stages.0.waveform_augmentation.mixed: .*less than or equal to 4"),
        ("{noise_snr: [5, 20]}", "unknown key 'noise_snr'. Did you mean 'noise_snr_db'"),
    ],
)
def test_a_mistake_is_named_with_its_key(options: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=complaint):
        recipe_with(tmp_path, options)


def test_every_range_of_a_recipe_has_its_effect() -> None:
    ranges = {
        key for key in WaveformAugmentation.model_fields if key not in ("name", "probability", "mixed", "num_views")
    }
    assert {effect.option for effect in EFFECTS.values()} == ranges
    assert effects.describe(dict.fromkeys(EFFECTS, 1.0)) == (
        "pitch +1.00 semitones, reverberation RT60 1.00 s, noise at 1.0 dB SNR, volume +1.0 dB"
    )
