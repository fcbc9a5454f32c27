"""Recording conditions between speaker and file: level, silence, noise, rooms, codecs.

`CONDITIONS` lists them by name for `serein robustness`; copies for training (`serein corpus augment`) combine several.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import multiprocessing
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Waveform
from serein.data.augmentation import SPEECH_BELOW_PEAK_DB, room_response, speech_power, with_volume
from serein.data.dataset import draw_seed, random_crop
from serein.data.files import replacing, sha256, write_text
from serein.data.manifest import Utterance
from serein.errors import AudioError, ManifestError

TELEPHONE_HZ = 8000
PACKET_S = 0.02
MOST_MARGIN_S = 0.3
SHORTEST_RT60_S, LONGEST_RT60_S = 0.2, 2.5  # a bedroom, a church
MADE_FROM = "made_from.json"  # file name of a copy -> digest of all that it was made from


@dataclass(frozen=True)
class Surroundings:
    """Recordings to combine with speech: noise, rooms, other clips.

    Attributes:
        noises: Waveforms at 16 kHz.
        rooms: Impulse responses of rooms at 16 kHz.
        others: Other clips of the same speaker and class, at 16 kHz.
        made_from: Digest of the files and settings that `read` made them from.
    """

    noises: Sequence[Waveform] = field(default_factory=tuple)
    rooms: Sequence[Waveform] = field(default_factory=tuple)
    others: Sequence[Waveform] = field(default_factory=tuple)
    made_from: str = ""

    @classmethod
    def read(
        cls, noises: Path | None = None, rooms: Path | None = None, *, num_simulated_rooms: int = 0, seed: int = 0
    ) -> Surroundings:
        """Read the recordings in two folders and their subfolders, and simulate more rooms.

        If one folder contains the other, its recordings are those outside the other. All are kept in memory, 230 MB
        for an hour.

        Raises:
            AudioError: A folder contains no recording.
            AudioError: A recording cannot be read.
            MissingExtraError: Simulated rooms need the extra `augment`.
        """
        rng = np.random.default_rng([seed, num_simulated_rooms])
        shortest, longest = math.log(SHORTEST_RT60_S), math.log(LONGEST_RT60_S)
        rt60s_s = np.exp(rng.uniform(shortest, longest, num_simulated_rooms))  # log-uniform
        simulated = (room_response(float(rt60_s), rng) for rt60_s in rt60s_s)
        recorded = [_recordings(noises, rooms), _recordings(rooms, noises)]
        what = repr(([[sha256(path) for path in paths] for paths in recorded], num_simulated_rooms, seed))
        noise, responses = (tuple(audio.load(path) for path in paths) for paths in recorded)
        return cls(noise, (*responses, *simulated), made_from=hashlib.sha256(what.encode()).hexdigest())


def _recordings(folder: Path | None, other: Path | None) -> list[Path]:
    if folder is None:
        return []
    folder = folder.resolve()
    left_out = {other.resolve()} if other and folder in other.resolve().parents else set()
    paths = [path for path in audio.find(folder) if left_out.isdisjoint(path.parents)]
    if not paths:
        raise AudioError("contains no recording", where=folder, remedy="Use another folder.")
    return paths


def clipped(waveform: Waveform, excess_db: float) -> Waveform:
    """Clip samples at `excess_db` below the peak, as an overdriven microphone does."""
    limit = float(np.abs(waveform).max()) * 10 ** (-excess_db / 20)
    return np.clip(waveform, -limit, limit)


def with_silence_inside(waveform: Waveform, silence_s: float) -> Waveform:
    """Insert digital silence at the quietest 25 ms of the middle half."""
    size = SAMPLE_RATE_HZ // 40
    quarter = len(waveform) // 4
    middle = waveform[quarter : len(waveform) - quarter]
    if len(middle) < size:
        place = len(waveform) // 2
    else:
        energy = np.convolve(np.square(middle, dtype=np.float64), np.ones(size), "valid")
        place = quarter + int(energy.argmin()) + size // 2
    return np.insert(waveform, place, np.zeros(round(silence_s * SAMPLE_RATE_HZ), np.float32))


def with_noise_of(waveform: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """Add a recording of noise.

    Args:
        waveform: (sample,) float32.
        noise: (sample,) float32; repeated or truncated to the length of `waveform`.
        snr_db: Ratio of the power of speech without its pauses (`speech_power`) to the mean power of the noise.
    """
    noise = np.resize(noise, len(waveform))
    power = max(float(np.mean(np.square(noise, dtype=np.float64))), 1e-12)
    return waveform + np.float32(math.sqrt(speech_power(waveform) / power / 10 ** (snr_db / 10))) * noise


def coloured_noise(num_samples: int, exponent: float, rng: np.random.Generator) -> Waveform:
    """Return noise of mean power 1; its power spectrum falls as 1/frequency^`exponent`: 0 white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    frequency = np.maximum(np.arange(len(spectrum)), 1.0)
    noise = np.fft.irfft(spectrum * frequency ** (-exponent / 2), num_samples)
    return np.asarray(noise / max(float(noise.std()), 1e-12), np.float32)


def in_room(waveform: Waveform, response: Waveform) -> Waveform:
    """Convolve with a room's impulse response from the direct sound on, keeping length and mean power."""
    from scipy.signal import oaconvolve

    start = int(np.abs(response).argmax())
    reverberant = oaconvolve(waveform, response[start:])[: len(waveform)]
    power = float(np.mean(np.square(reverberant)))
    factor = math.sqrt(float(np.mean(np.square(waveform))) / power) if power else 0.0
    return np.asarray(reverberant * factor, np.float32)


def through_file(waveform: Waveform, file_format: str, subtype: str, rate_hz: int, quality: float | None) -> Waveform:
    """Encode to a compressed file in memory and decode it, keeping the length.

    Args:
        waveform: (sample,) float32 at 16 kHz.
        file_format: libsndfile's name of the format: `WAV`, `MP3`, `OGG`.
        subtype: libsndfile's name of the codec: `ULAW`, `ALAW`, `GSM610`, `MPEG_LAYER_III`, `OPUS`.
        rate_hz: Sampling rate of the file.
        quality: libsndfile's compression level, 0 (best) to 1; `None` for the default.
    """
    samples = soxr.resample(waveform, SAMPLE_RATE_HZ, rate_hz)
    peak = max(float(np.abs(samples).max(initial=0.0)), 1.0)
    buffer = io.BytesIO()
    options = (
        {}
        if quality is None
        else {"compression_level": quality, **({"bitrate_mode": "CONSTANT"} if file_format == "MP3" else {})}
    )
    soundfile.write(buffer, samples / peak, rate_hz, format=file_format, subtype=subtype, **options)
    buffer.seek(0)
    decoded = soundfile.read(buffer, dtype="float32")[0] * np.float32(peak)
    back = soxr.resample(decoded, rate_hz, SAMPLE_RATE_HZ)[: len(waveform)]
    return np.pad(back, (0, len(waveform) - len(back)))


def over_telephone(waveform: Waveform, subtype: str) -> Waveform:
    """Limit the band to 300 to 3400 Hz and encode at 8 kHz with G.711 (`ULAW`, `ALAW`) or GSM 06.10 (`GSM610`)."""
    from scipy.signal import butter, sosfilt

    band = butter(4, (300, 3400), "bandpass", fs=SAMPLE_RATE_HZ, output="sos")
    narrow = np.asarray(sosfilt(band, waveform), np.float32)
    return through_file(narrow, "WAV", subtype, TELEPHONE_HZ, None)


def has_amr_encoder() -> bool:
    """Return whether PyAV is installed and has an AMR encoder."""
    try:
        import av
    except ImportError:
        return False
    return _AMR in av.codecs_available


_AMR = "libopencore_amrnb"


def through_amr(waveform: Waveform, bit_rate: int) -> Waveform:
    """Encode as AMR narrow-band at 8 kHz, as GSM and UMTS telephones do, and decode, keeping the length.

    Args:
        waveform: (sample,) float32 at 16 kHz.
        bit_rate: Bit rate of the codec, 4750 to 12200 bit/s.
    """
    import av

    samples = soxr.resample(waveform, SAMPLE_RATE_HZ, TELEPHONE_HZ)
    peak = max(float(np.abs(samples).max(initial=0.0)), 1.0)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="amr") as container:
        stream: Any = container.add_stream(_AMR, rate=TELEPHONE_HZ, layout="mono", bit_rate=bit_rate)
        pcm = np.round(samples / peak * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = TELEPHONE_HZ
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    buffer.seek(0)
    with av.open(buffer, "r") as written:
        decoded = np.concatenate([part.to_ndarray().reshape(-1) for part in written.decode(audio=0)])
    back = soxr.resample(decoded * np.float32(peak), TELEPHONE_HZ, SAMPLE_RATE_HZ)[: len(waveform)]
    return np.pad(back, (0, len(waveform) - len(back)))


def without_packets(waveform: Waveform, fraction: float, rng: np.random.Generator) -> Waveform:
    """Silence random packets of 20 ms; half of the lost packets follow another lost one."""
    size = round(PACKET_S * SAMPLE_RATE_HZ)
    count = -(-len(waveform) // size)
    enter, stay = fraction / 2 / max(1 - fraction, 1e-9), 0.5
    draws = rng.random(count)
    is_lost = np.zeros(count, bool)
    for packet in range(1, count):
        is_lost[packet] = draws[packet] < (stay if is_lost[packet - 1] else enter)
    return np.where(np.repeat(is_lost, size)[: len(waveform)], np.float32(0), waveform)


def at_speed(waveform: Waveform, factor: float) -> Waveform:
    """Play faster by `factor`: tempo and pitch rise together, and the clip becomes shorter."""
    rate = round(SAMPLE_RATE_HZ / factor)
    return np.asarray(soxr.resample(waveform, SAMPLE_RATE_HZ, rate), np.float32)


Apply = Callable[[Waveform, np.random.Generator, Surroundings], Waveform]


@dataclass(frozen=True)
class Condition:
    """A recording condition.

    Attributes:
        kind: Conditions of the same kind are shown together.
        apply: (waveform, rng, surroundings) -> waveform.
        needs: A key of `NEEDS`, or `None`: the field of `Surroundings` that it draws from, or a codec.
    """

    kind: str
    apply: Apply
    needs: str | None = None

    def lacking(self, surroundings: Surroundings) -> str | None:
        """Return the missing requirement; `None` when the condition can be applied."""
        if self.needs is None:
            return None
        is_there = has_amr_encoder() if self.needs == "amr" else bool(getattr(surroundings, self.needs))
        return None if is_there else NEEDS[self.needs]


NEEDS = {
    "noises": "noise recordings (--noises FOLDER)",
    "rooms": "room impulse responses (--rooms FOLDER)",
    "others": "another clip of the same speaker and class",
    "amr": "PyAV with an AMR encoder (pip install 'serein[media]')",
}


def some_noise(surroundings: Surroundings, rng: np.random.Generator) -> Waveform:
    """Return a random noise recording, rotated to start at a random position."""
    recording = surroundings.noises[int(rng.integers(len(surroundings.noises)))]
    return np.roll(recording, int(rng.integers(len(recording))))


def one_after_other(waveform: Waveform, other: Waveform) -> Waveform:
    """Join two clips with 250 ms of digital silence between them."""
    return np.concatenate([waveform, np.zeros(SAMPLE_RATE_HZ // 4, np.float32), other])


def _noise(snr_db: float, exponent: float | None = None) -> Apply:
    """Return a function that adds noise: coloured, or recorded if there is no exponent."""
    if exponent is None:
        return lambda waveform, rng, around: with_noise_of(waveform, some_noise(around, rng), snr_db)
    return lambda waveform, rng, around: with_noise_of(waveform, coloured_noise(len(waveform), exponent, rng), snr_db)


CONDITIONS: dict[str, Condition] = {
    **{
        f"level {db:+d} dB": Condition("level", lambda x, rng, around, db=db: with_volume(x, db))  # type: ignore[misc]
        for db in (-40, -30, -20, -10, 10, 20)
    },
    "clipping 10 dB": Condition("clipping", lambda x, rng, around: clipped(x, 10.0)),
    "offset 0.005": Condition("offset", lambda x, rng, around: x + np.float32(0.005)),
    "offset 0.05": Condition("offset", lambda x, rng, around: x + np.float32(0.05)),
    "silence of 2 s around": Condition("silence", lambda x, rng, around: np.pad(x, 2 * SAMPLE_RATE_HZ)),
    "silence of 2 s before": Condition("silence", lambda x, rng, around: np.pad(x, (2 * SAMPLE_RATE_HZ, 0))),
    "silence of 1 s inside": Condition("silence", lambda x, rng, around: with_silence_inside(x, 1.0)),
    **{f"white noise {db} dB": Condition("noise", _noise(db, 0.0)) for db in (20, 10, 5, 0)},
    **{f"pink noise {db} dB": Condition("noise", _noise(db, 1.0)) for db in (20, 10, 5, 0)},
    **{f"recorded noise {db} dB": Condition("noise", _noise(db), "noises") for db in (20, 10, 5, 0)},
    "reverberation": Condition(
        "reverberation",
        lambda x, rng, around: in_room(x, around.rooms[int(rng.integers(len(around.rooms)))]),
        "rooms",
    ),
    "8 kHz": Condition("codec", lambda x, rng, around: through_file(x, "WAV", "PCM_16", TELEPHONE_HZ, None)),
    "G.711 mu-law": Condition("codec", lambda x, rng, around: over_telephone(x, "ULAW")),
    "G.711 A-law": Condition("codec", lambda x, rng, around: over_telephone(x, "ALAW")),
    "GSM 06.10": Condition("codec", lambda x, rng, around: over_telephone(x, "GSM610")),
    "AMR 12.2 kbit/s": Condition("codec", lambda x, rng, around: through_amr(x, 12_200), "amr"),
    "AMR 4.75 kbit/s": Condition("codec", lambda x, rng, around: through_amr(x, 4_750), "amr"),
    "MP3 32 kbit/s": Condition("codec", lambda x, rng, around: through_file(x, "MP3", "MPEG_LAYER_III", 16_000, 0.85)),
    "MP3 16 kbit/s": Condition("codec", lambda x, rng, around: through_file(x, "MP3", "MPEG_LAYER_III", 16_000, 0.95)),
    "Opus 12 kbit/s": Condition("codec", lambda x, rng, around: through_file(x, "OGG", "OPUS", 16_000, 0.96)),
    "Opus 6 kbit/s": Condition("codec", lambda x, rng, around: through_file(x, "OGG", "OPUS", 16_000, 1.0)),
    "packet loss 5 %": Condition("packets", lambda x, rng, around: without_packets(x, 0.05, rng)),
    "packet loss 20 %": Condition("packets", lambda x, rng, around: without_packets(x, 0.2, rng)),
    "speed 0.9": Condition("speed", lambda x, rng, around: at_speed(x, 0.9)),
    "speed 1.1": Condition("speed", lambda x, rng, around: at_speed(x, 1.1)),
    "cut to half": Condition("cut", lambda x, rng, around: random_crop(x, max(round(len(x) / 2), 1), rng)),
    "played twice": Condition("joined", lambda x, rng, around: one_after_other(x, x)),
    "joined with another clip": Condition(
        "joined",
        lambda x, rng, around: one_after_other(x, around.others[int(rng.integers(len(around.others)))]),
        "others",
    ),
}


# -- changed copies of a corpus for training --------------------------------------------------------------------------


def as_recorded_elsewhere(speech: Waveform, rng: np.random.Generator, surroundings: Surroundings) -> Waveform:
    """Return speech as another microphone in another place might record it.

    Applied in this order: a speed of 0.88 to 1.14 times (7 of 10 copies), a pause of up to 2 s (3 of 20), a room (half
    of the copies, if responses are given), noise 0 to 28 dB below the speech (7 of 10; half of it recorded if there
    are recordings, otherwise white to brown), clipping and an offset (1 of 10 each), a codec, a telephone or packet
    loss (2 of 5), a change of level, and a cut to half of the clip or more (3 of 20), as between two pauses.

    Args:
        speech: (sample,) float32 at 16 kHz.
        rng: Source of every draw.
    """
    if rng.random() < 0.7:
        speech = at_speed(speech, float(rng.uniform(0.88, 1.14)))
    if rng.random() < 0.15:
        speech = with_silence_inside(speech, float(rng.uniform(0.2, 2.0)))
    if rng.random() < 0.5 and surroundings.rooms:
        speech = in_room(speech, surroundings.rooms[int(rng.integers(len(surroundings.rooms)))])
    if (draw := rng.random()) < 0.7:
        is_recorded = draw < 0.35 and len(surroundings.noises) > 0
        colour = float(rng.uniform(0.0, 2.0))
        noise = some_noise(surroundings, rng) if is_recorded else coloured_noise(len(speech), colour, rng)
        speech = with_noise_of(speech, noise, float(rng.uniform(0.0, 28.0)))
    if rng.random() < 0.1:
        speech = clipped(speech, float(rng.uniform(3.0, 12.0)))
    if rng.random() < 0.1:
        speech = speech + np.float32(rng.uniform(-0.02, 0.02))
    if (draw := rng.random()) < 0.12:
        speech = over_telephone(speech, str(rng.choice(["ULAW", "ALAW", "GSM610"])))
    elif draw < 0.2:
        speech = through_file(speech, "MP3", "MPEG_LAYER_III", SAMPLE_RATE_HZ, 0.85)
    elif draw < 0.28:
        speech = through_file(speech, "OGG", "OPUS", SAMPLE_RATE_HZ, 0.96)
    elif draw < 0.36:
        speech = through_file(speech, "WAV", "PCM_16", SAMPLE_RATE_HZ // 2, None)
    elif draw < 0.4:
        speech = without_packets(speech, 0.05, rng)
    speech = with_volume(speech, float(rng.uniform(-20.0, 0.0)))
    if rng.random() < 0.15:
        speech = random_crop(speech, round(len(speech) * float(rng.uniform(0.5, 1.0))), rng)
    return speech


def spoken_faster_or_slower(speech: Waveform, rng: np.random.Generator, surroundings: Surroundings) -> Waveform:
    """Return speech at 0.85 to 1.18 times its speed. This also shifts the voice: another speaker in the same studio."""
    return with_volume(at_speed(speech, float(rng.uniform(0.85, 1.18))), float(rng.uniform(-10.0, 0.0)))


def write_copies(
    utterances: Sequence[Utterance],
    folder: Path,
    surroundings: Surroundings,
    *,
    num_copies: int,
    num_speeds: int = 0,
    seed: int = 0,
    num_jobs: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Utterance]:
    """Write changed copies as 16-bit FLAC files; copies that exist already are kept.

    `made_from.json` in the folder records what each was made from; older copies without a record are kept.
    Silence at both ends, more than 30 dB below the loudest 25 ms, is first replaced by up to 0.3 s of digital silence.

    Args:
        utterances: The utterances to copy.
        folder: Folder for the files.
        surroundings: Noises and rooms.
        num_copies: Copies of each utterance under other recording conditions.
        num_speeds: Copies of each utterance at another speed and level, under the same recording conditions.
        seed: Root seed of every draw.
        num_jobs: Number of processes.
        on_progress: Called with (copies done, total).

    Returns:
        The copies: `copy_of` is the id of the original, whose other fields they keep.

    Raises:
        ManifestError: A copy in the folder was made from another recording or part, or with other draws.
        AudioError: A recording cannot be read.
    """
    folder = folder.absolute()  # absolute, as in loaded manifests
    kinds = [(number, "") for number in range(1, num_copies + 1)] + [(n, "s") for n in range(1, num_speeds + 1)]
    wanted = [(u, number, kind, f"{u.id}~{kind}{number}") for u in utterances for number, kind in kinds]
    names = _file_names([copy_id for *_, copy_id in wanted])
    recordings: dict[str, str] = {}
    for path in {utterance.audio for utterance in utterances}:
        with suppress(OSError):  # `audio.load` gives the reason
            recordings[path] = sha256(path)
    work, made_from = [], {}
    for (utterance, number, kind, copy_id), name in zip(wanted, names, strict=True):
        changes = {"id": copy_id, "audio": str(folder / name), "start_s": 0.0, "end_s": None, "copy_of": utterance.id}
        work.append((utterance, utterance.model_copy(update=changes), number, kind))
        part = (recordings.get(utterance.audio), utterance.start_s, utterance.end_s)
        what = repr((copy_id, *part, seed, None if kind else surroundings.made_from))
        made_from[name] = hashlib.sha256(what.encode()).hexdigest()[:16]
    _record(folder, made_from)
    write = partial(_write_copy, surroundings=surroundings, seed=seed)
    copies = []
    with ExitStack() as stack:
        written: Iterable[Utterance] = map(write, work)
        if num_jobs > 1:
            pool = ProcessPoolExecutor(num_jobs, multiprocessing.get_context("spawn"))
            written = stack.enter_context(pool).map(write, work, chunksize=16)
        for copy in written:
            copies.append(copy)
            if on_progress:
                on_progress(len(copies), len(work))
    return copies


def _file_names(copy_ids: Sequence[str]) -> list[str]:
    """Return a file name for each copy: its id, with a digest where other ids would have the same name.

    Example:
        >>> _file_names(["emodb/03a01Fa~1", "a b~1", "a_b~1", "甲/1~1"])
        ['emodb_03a01Fa~1.flac', 'a_b~1-8f835d0e6c98.flac', 'a_b~1-0ca089e3a87a.flac', '_1~1-bc910e4b87cd.flac']
    """
    plain = [re.sub(r"[^A-Za-z0-9.~-]+", "_", copy_id)[-120:] for copy_id in copy_ids]
    num_alike = Counter(plain)
    return [
        f"{name}.flac"
        if copy_id.isascii() and num_alike[name] == 1
        else f"{name}-{hashlib.sha256(copy_id.encode()).hexdigest()[:12]}.flac"
        for copy_id, name in zip(copy_ids, plain, strict=True)
    ]


def _record(folder: Path, made_from: Mapping[str, str]) -> None:
    """Record what the copies in a folder are made from, before any is written: a killed call leaves no doubt.

    Raises:
        ManifestError: A copy that is there was made from something else.
    """
    path = folder / MADE_FROM
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    present = {name for name in made_from if (folder / name).exists()}
    if others := sorted(name for name in present if known.get(name, made_from[name]) != made_from[name]):
        raise ManifestError(
            f"{len(others)} copies there are of other recordings or parts, or were made with another seed, noises or "
            f"rooms, such as {others[0]}",
            where=folder,
            remedy="Delete them to make them anew, or choose another file with --out.",
        )
    older = present - known.keys()  # written before there was a record
    record = known | {name: digest for name, digest in made_from.items() if name not in older}
    if record != known:
        write_text(path, json.dumps(record, indent=0))


def _write_copy(what: tuple[Utterance, Utterance, int, str], surroundings: Surroundings, seed: int) -> Utterance:
    utterance, copy, number, kind = what
    path = Path(copy.audio)
    if not path.exists():
        rng = np.random.default_rng(draw_seed(seed, number, utterance.id))
        speech = audio.load(utterance.audio, utterance.start_s, utterance.end_s)
        margin = round(float(rng.uniform(0.0, MOST_MARGIN_S)) * SAMPLE_RATE_HZ)
        speech = np.pad(audio.trimmed(speech, SPEECH_BELOW_PEAK_DB), margin)
        changed = (spoken_faster_or_slower if kind else as_recorded_elsewhere)(speech, rng, surroundings)
        peak = max(float(np.abs(changed).max(initial=0.0)), 1.0)
        with replacing(path) as partial_path:
            soundfile.write(partial_path, changed / peak, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return copy
