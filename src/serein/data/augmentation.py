"""Data augmentation for training: waveform effects (noise, volume, reverberation, pitch) and log-mel augmentation.

The random draws for a clip depend only on its seed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Waveform
from serein.data.dataset import draw_seed
from serein.data.files import replacing, write_text
from serein.data.manifest import Utterance
from serein.device import sent
from serein.errors import imported
from serein.progress import Progress
from serein.recipe import SpectrogramAugmentation, WaveformAugmentation

SPEECH_BELOW_PEAK_DB = 30.0  # frames further below the loudest 25 ms are pauses
SMALLEST_ROOM_M, LARGEST_ROOM_M = (3.0, 3.0, 2.4), (8.0, 6.0, 3.5)  # an office, a small lecture room
FROM_WALLS_M = 0.5
MIXING_TIME_S = 0.05  # later echoes are too dense to resolve; the square root of the volume is 13 ms
SOUND_M_PER_S = 343.0
NEPERS = math.log(10) / 10  # of power, per decibel
NO_NOISE_DB = -300.0
RIPPLE_DB = 0.9  # standard deviation of a mel band's power across frames of steady noise
_OWN_STREAM = 3  # spectrogram augmentation draws from [seed], crop positions from [seed, 1], conditions from [seed, 2]


def with_noise(waveform: Waveform, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Add white Gaussian noise, `snr_db` below the speech; silence stays silent.

    Args:
        waveform: (sample,) float32.
        snr_db: Exact ratio of the mean power of the speech (`speech_power`) to that of the noise.
    """
    noise = rng.standard_normal(len(waveform), np.float32)
    power = speech_power(waveform) / 10 ** (snr_db / 10)
    factor = math.sqrt(power / max(float(np.mean(np.square(noise))), 1e-12))
    return waveform + np.float32(factor) * noise


def speech_power(waveform: Waveform) -> float:
    """Return the mean power of the 25 ms frames within 30 dB of the loudest one: speech without its pauses."""
    size = min(SAMPLE_RATE_HZ // 40, len(waveform))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, size)[:: SAMPLE_RATE_HZ // 100]
    power = np.einsum("ft,ft->f", frames, frames, dtype=np.float64) / size
    return float(power[power >= power.max() / 10 ** (SPEECH_BELOW_PEAK_DB / 10)].mean())


def with_volume(waveform: Waveform, volume_db: float, rng: np.random.Generator | None = None) -> Waveform:
    """Multiply by 10^(volume_db / 20). Samples beyond full scale are not clipped: float32 can represent them."""
    return waveform * np.float32(10 ** (volume_db / 20))


def reverberated(waveform: Waveform, rt60_s: float, rng: np.random.Generator) -> Waveform:
    """Add the reverberation of a room drawn from `rng`; alignment, length and mean power of the clip stay the same."""
    from scipy.signal import oaconvolve

    reverberant = oaconvolve(waveform, room_response(rt60_s, rng))[: len(waveform)]
    power = float(np.mean(np.square(reverberant)))
    if power == 0.0:
        return waveform
    return np.asarray(reverberant * math.sqrt(float(np.mean(np.square(waveform))) / power), np.float32)


def room_response(rt60_s: float, rng: np.random.Generator) -> Waveform:
    """Return the impulse response of a room drawn from `rng`, from the direct sound to -60 dB.

    The early part uses image sources (Allen and Berkley 1979) in a box without absorption. Where the echoes become too
    dense to resolve, noise of the same power follows (Lehmann and Johansson 2010, diffuse reverberation). As in
    Sabine's formula, sound loses energy with the distance it travels: the whole response decays by 60 dB in `rt60_s`.

    Returns:
        (sample,) float32, `rt60_s` long.
    """
    rooms = imported("pyroomacoustics", "augment")
    size_m = rng.uniform(SMALLEST_ROOM_M, LARGEST_ROOM_M)
    source_m, microphone_m = rng.uniform(FROM_WALLS_M, size_m - FROM_WALLS_M, (2, 3))
    distance_m = float(np.linalg.norm(source_m - microphone_m))
    farthest_m = distance_m + SOUND_M_PER_S * MIXING_TIME_S
    room = rooms.ShoeBox(
        size_m,
        fs=SAMPLE_RATE_HZ,
        materials=rooms.Material(0.0),
        max_order=math.ceil(farthest_m * math.sqrt(float(np.sum(size_m**-2.0)))),  # no echo of that length is missing
    )
    room.add_source(source_m)
    room.add_microphone(microphone_m)
    room.compute_rir()
    start = round(distance_m / room.c * SAMPLE_RATE_HZ) + rooms.constants.get("frac_delay_length") // 2
    length = round(rt60_s * SAMPLE_RATE_HZ)
    early = room.rir[0][0][start : start + round(MIXING_TIME_S * SAMPLE_RATE_HZ)][:length]
    steady = float(np.std(early[-len(early) // 2 :]))
    tail = steady * rng.standard_normal(length - len(early), np.float32)
    decay = 10 ** (-3 * np.arange(length) / length)
    return np.asarray(np.concatenate([early, tail]) * decay, np.float32)


def with_pitch(waveform: Waveform, semitones: float, rng: np.random.Generator | None = None) -> Waveform:
    """Shift the pitch without changing tempo, length or alignment (Signalsmith Stretch)."""
    stretch = imported("python_stretch", "augment").Signalsmith.Stretch()
    stretch.preset(1, SAMPLE_RATE_HZ)
    stretch.setTransposeSemitones(semitones)
    return np.asarray(stretch.process(np.array(waveform, np.float32)[None])[0], np.float32)


@dataclass(frozen=True)
class Effect:
    """A waveform effect and its description.

    Attributes:
        apply: (waveform, value, rng) -> waveform of the same length.
        option: Recipe key of its range.
        text: Format string that states a value with its unit.
        library: Module of the extra `augment` that it requires.
    """

    apply: Callable[[Waveform, float, np.random.Generator], Waveform]
    option: str
    text: str
    library: str | None = None


EFFECTS = {  # in order of application
    "pitch": Effect(with_pitch, "pitch_semitones", "pitch {:+.2f} semitones", "python_stretch"),
    "reverberation": Effect(
        reverberated, "reverberation_rt60_s", "reverberation RT60 {:.2f} s", library="pyroomacoustics"
    ),
    "noise": Effect(with_noise, "noise_snr_db", "noise at {:.1f} dB SNR"),
    "volume": Effect(with_volume, "volume_db", "volume {:+.1f} dB"),
}


class WaveformAugmenter:
    """Waveform augmentation as a recipe specifies it; picklable and stateless: the draws depend only on a clip's seed.

    Args:
        options: The effects and their ranges.

    Raises:
        MissingExtraError: An effect needs a package of the extra `augment`.

    Example:
        >>> augmenter = WaveformAugmenter(WaveformAugmentation(name="volume", volume_db=(6.0, 6.0)))
        >>> augmenter(np.ones(1, np.float32), 0).round(3), describe(augmenter.drawn(0))
        (array([1.995], dtype=float32), 'volume +6.0 dB')
    """

    def __init__(self, options: WaveformAugmentation) -> None:
        self.options = options
        sets: dict[str, tuple[str, ...]] = {"none": (), "mixed": tuple(EFFECTS)}
        self.names = sets.get(options.name, (options.name,))
        for library in (EFFECTS[name].library for name in self.names):
            if library is not None:
                imported(library, "augment")  # fail now, not after an hour; and before loaders fork their workers

    @property
    def is_light(self) -> bool:
        """Whether a clip takes a millisecond or less, too little to justify a worker process."""
        return all(EFFECTS[name].library is None for name in self.names)

    def drawn(self, seed: int) -> dict[str, float]:
        """Return effect -> value for the clip with this seed, in order of application; may be empty."""
        rng = np.random.default_rng([seed, _OWN_STREAM])
        is_changed = rng.random() < self.options.probability
        values = {name: rng.uniform(*getattr(self.options, effect.option)) for name, effect in EFFECTS.items()}
        count = self.options.mixed if self.options.name == "mixed" else len(self.names)
        chosen = rng.permutation(self.names)[:count]
        return {name: value for name, value in values.items() if is_changed and name in chosen}

    def __call__(self, waveform: Waveform, seed: int) -> Waveform:
        """Return the augmented clip, (sample,) float32 of the same length."""
        order = list(EFFECTS)
        for name, value in self.drawn(seed).items():
            rng = np.random.default_rng([seed, _OWN_STREAM, 1 + order.index(name)])
            waveform = EFFECTS[name].apply(waveform, value, rng)
        return waveform


def describe(drawn: Mapping[str, float]) -> str:
    """Describe the drawn effects with their units.

    Example:
        >>> describe({"pitch": -1.5, "noise": 10.0})
        'pitch -1.50 semitones, noise at 10.0 dB SNR'
    """
    return ", ".join(EFFECTS[name].text.format(value) for name, value in drawn.items()) or "unchanged"


class SpectrogramAugmenter:
    """Augmentation of mel bands in dB (stretching, shifting, filtering, noise) and of normalised frames (masks, mixup).

    Args:
        options: Ranges and probabilities.
        seeds: (batch,) seeds of the clips, which determine every draw.
    """

    def __init__(self, options: SpectrogramAugmentation, seeds: torch.Tensor) -> None:
        self.options = options
        self.rngs = [np.random.default_rng(int(seed)) for seed in seeds]

    def augment(self, bands_db: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Change tempo, mel axis, level, spectrum and noise.

        Args:
            bands_db: (batch, frame, band).
            num_frames: (batch,) long, on the host.

        Returns:
            The augmented bands and their numbers of frames.
        """
        options = self.options
        if options.tempo or options.vtlp or options.band_shift:
            tempo = torch.from_numpy(np.exp(self._draw(-options.tempo, options.tempo))).float()
            scale = torch.from_numpy(1 + self._draw(-options.vtlp, options.vtlp)).float()
            shift = torch.from_numpy(self._draw(-options.band_shift, options.band_shift)).float()
            after = (num_frames * tempo).round().long().clamp_min(1)
            step = (num_frames - 1) / (after - 1).clamp_min(1)
            frame = torch.arange(int(after.max()))[None] * step[:, None]
            band = torch.arange(bands_db.shape[2])[None] * scale[:, None] + shift[:, None]
            # interpolate at (batch, new frame) x (batch, new band), repeating the edges
            last_frame, last_band = max(bands_db.shape[1] - 1, 1), max(bands_db.shape[2] - 1, 1)
            rows = (2 * frame / last_frame - 1)[:, :, None].expand(-1, -1, band.shape[1])
            columns = (2 * band / last_band - 1)[:, None].expand(-1, frame.shape[1], -1)
            grid = sent(torch.stack([columns, rows], dim=-1).to(bands_db.dtype), bands_db.device)
            bands_db = F.grid_sample(bands_db[:, None], grid, padding_mode="border", align_corners=True)[:, 0]
            num_frames = after
        curves = np.zeros((len(self.rngs), bands_db.shape[2]), np.float32)  # level and random filter curves, in dB
        for curve, rng in zip(curves, self.rngs, strict=True):
            curve += rng.uniform(-options.gain_db, options.gain_db)
            if options.equaliser_db and rng.random() < options.equaliser_probability:
                # linear interpolation between three to six knots (FilterAugment, Nam 2022)
                num_knots, last = int(rng.integers(3, 7)), len(curve) - 1
                knots = np.sort(np.concatenate([[0, last], rng.uniform(0, last, num_knots - 2)]))
                heights_db = rng.uniform(-options.equaliser_db, options.equaliser_db, num_knots)
                curve += np.interp(np.arange(len(curve)), knots, heights_db)
        bands_db = bands_db + sent(torch.from_numpy(curves), bands_db.device)[:, None]
        if not options.noise_probability:
            return bands_db, num_frames
        noises_db = np.full(bands_db.shape, NO_NOISE_DB, np.float32)  # relative to each clip's peak
        for noise_db, rng, length in zip(noises_db, self.rngs, num_frames.tolist(), strict=True):
            if rng.random() < options.noise_probability:
                slope = np.linspace(rng.uniform(-5, 15), rng.uniform(-15, 5), noise_db.shape[1])
                ripple = RIPPLE_DB * rng.standard_normal((length, noise_db.shape[1]), np.float32)
                noise_db[:length] = slope + ripple - rng.uniform(*options.noise_below_peak_db)
        is_frame = sent(torch.arange(bands_db.shape[1]) < num_frames[:, None], bands_db.device)
        peaks_db = bands_db.masked_fill(~is_frame[..., None], -torch.inf).amax(dim=(1, 2), keepdim=True)
        noise = peaks_db + sent(torch.from_numpy(noises_db), bands_db.device)
        return torch.logaddexp(bands_db * NEPERS, noise * NEPERS) / NEPERS, num_frames

    def mask(self, frames: torch.Tensor, num_frames: torch.Tensor, num_channels: int) -> torch.Tensor:
        """Set random spans of frames and of bands to zero, which is the corpus's mean (SpecAugment, Park 2019).

        Args:
            frames: (batch, frame, channel * band), normalised.
            num_frames: (batch,) long, on the host.
            num_channels: Channels that share their masks.
        """
        options = self.options
        lengths = num_frames.tolist()
        time = self._kept(frames.shape[1], lengths, options.time_masks, options.max_time_mask)
        n_mels = frames.shape[2] // num_channels
        band = self._kept(n_mels, [n_mels] * len(lengths), options.frequency_masks, options.max_frequency_mask)
        time, band = (sent(kept.to(frames.dtype), frames.device) for kept in (time, band.repeat(1, num_channels)))
        return frames * time[:, :, None] * band[:, None]

    def mixing(self) -> tuple[torch.Tensor, float] | None:
        """Draw mixup partners, (batch,) long, and the weight of each clip itself, at least 0.5; `None`: no mixup."""
        rng = self.rngs[0]
        if not self.options.mixup or rng.random() >= self.options.mixup_probability:
            return None
        share = rng.beta(self.options.mixup, self.options.mixup)
        return torch.from_numpy(rng.permutation(len(self.rngs))), max(share, 1 - share)

    def _draw(self, low: float, high: float) -> NDArray[np.float64]:
        return np.array([rng.uniform(low, high) for rng in self.rngs])

    def _kept(self, size: int, lengths: Sequence[int], num_masks: int, share: float) -> torch.Tensor:
        kept = torch.ones(len(lengths), size)
        for row, rng, length in zip(kept, self.rngs, lengths, strict=True):
            for _ in range(num_masks):
                width = int(rng.uniform(0, share) * length)
                start = int(rng.integers(length - width + 1))
                row[start : start + width] = 0.0
        return kept


AUGMENTATIONS = "augmentations.txt"


def write_examples(
    utterances: Sequence[Utterance],
    augmenter: WaveformAugmenter,
    folder: Path,
    *,
    limit: int = 10,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> list[str]:
    """Write clips spread evenly over a corpus, each unchanged and as the first epoch of a training run may use it.

    Args:
        limit: Maximum number of clips.
        seed: Root seed of the draws.

    Returns:
        One line per clip that describes its augmentation, also written to `augmentations.txt`.

    Raises:
        AudioError: A recording cannot be read.
    """
    import soundfile

    places = np.unique(np.linspace(0, len(utterances) - 1, min(limit, len(utterances))).round().astype(int))
    lines = []
    for number, utterance in enumerate((utterances[place] for place in places), start=1):
        clip_seed = draw_seed(seed, 0, utterance.id)
        original = audio.load(utterance.audio, utterance.start_s, utterance.end_s)
        name = f"{number:03d}_{re.sub(r'[^A-Za-z0-9.-]+', '_', utterance.id)[-60:]}"
        line = f"{name}: {describe(augmenter.drawn(clip_seed))}"
        changed = augmenter(original, clip_seed)
        for kind, waveform in (("original", original), (augmenter.options.name, changed)):
            peak = max(float(np.abs(waveform).max()), 1.0)  # 16-bit samples cannot exceed full scale
            with replacing(folder / f"{name}_{kind}.wav") as partial:
                soundfile.write(partial, waveform / peak, SAMPLE_RATE_HZ, subtype="PCM_16")
            if peak > 1.0 and kind != "original":
                line += f" (beyond full scale: the file is {20 * math.log10(peak):.1f} dB softer)"
        lines.append(line)
        if on_progress:
            on_progress(number, len(places))
    write_text(folder / AUGMENTATIONS, "".join(f"{line}\n" for line in lines))
    return lines
