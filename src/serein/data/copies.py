"""Changed copies of a corpus for training: each utterance as it might have been recorded elsewhere, by other means."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Waveform
from serein.data.conditions import (
    Surroundings,
    at_speed,
    clipped,
    coloured_noise,
    in_room,
    over_telephone,
    some_noise,
    through_file,
    with_noise_of,
    with_offset,
    with_silence_inside,
    without_packets,
)
from serein.data.dataset import draw_seed
from serein.data.files import replacing
from serein.data.utterance import Utterance
from serein.data.waveform_augmentation import with_volume

SPEECH_BELOW_PEAK_DB = 30.0
MOST_MARGIN_S = 0.3


def as_recorded_elsewhere(speech: Waveform, rng: np.random.Generator, surroundings: Surroundings) -> Waveform:
    """Return speech as another microphone in another place might have it.

    Speed of 0.88 to 1.14 times (7 of 10 copies), a pause of up to 1 s (3 of 20), a room (7 of 20, where responses are
    given), noise 0 to 28 dB below the speech (7 of 10; half of it recorded, where there are recordings, else white to
    brown), overdrive and offset (1 of 10 each), then a codec, a telephone or lost packets (2 of 5), and a level.

    Args:
        speech: (sample,) float32 at 16 kHz.
        rng: Draws everything.
    """
    if rng.random() < 0.7:
        speech = at_speed(speech, float(rng.uniform(0.88, 1.14)))
    if rng.random() < 0.15:
        speech = with_silence_inside(speech, float(rng.uniform(0.2, 1.0)))
    if rng.random() < 0.35 and surroundings.rooms:
        speech = in_room(speech, surroundings.rooms[int(rng.integers(len(surroundings.rooms)))])
    if (draw := rng.random()) < 0.7:
        is_recorded = draw < 0.35 and len(surroundings.noises) > 0
        colour = float(rng.uniform(0.0, 2.0))
        noise = some_noise(surroundings, rng) if is_recorded else coloured_noise(len(speech), colour, rng)
        speech = with_noise_of(speech, noise, float(rng.uniform(0.0, 28.0)))
    if rng.random() < 0.1:
        speech = clipped(speech, float(rng.uniform(3.0, 12.0)))
    if rng.random() < 0.1:
        speech = with_offset(speech, float(rng.uniform(-0.02, 0.02)))
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
    return with_volume(speech, float(rng.uniform(-20.0, 0.0)))


def write_copies(
    utterances: Sequence[Utterance],
    folder: Path,
    surroundings: Surroundings,
    *,
    num_copies: int,
    seed: int = 0,
    num_jobs: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Utterance]:
    """Write copies as FLAC files of 16 bits; those that are there already stay.

    Speech is trimmed first, to up to 0.3 s before and after what is within 30 dB of the loudest 25 ms.

    Returns:
        The copies: `copy_of` names the utterance, and its other fields are the utterance's.

    Raises:
        AudioError: A recording cannot be read.
    """
    folder = folder.absolute()  # as loaded manifests hold paths
    folder.mkdir(parents=True, exist_ok=True)
    work = [(utterance, number) for utterance in utterances for number in range(1, num_copies + 1)]
    write = partial(_write_copy, folder=folder, surroundings=surroundings, seed=seed)
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


def _write_copy(what: tuple[Utterance, int], folder: Path, surroundings: Surroundings, seed: int) -> Utterance:
    utterance, number = what
    copy_id = f"{utterance.id}~{number}"
    path = folder / f"{re.sub(r'[^A-Za-z0-9.~-]+', '_', copy_id)[-120:]}.flac"
    if not path.exists():
        rng = np.random.default_rng(draw_seed(seed, number, utterance.id))
        speech = audio.load(utterance.audio, utterance.start_s, utterance.end_s)
        margin = round(float(rng.uniform(0.0, MOST_MARGIN_S)) * SAMPLE_RATE_HZ)
        speech = np.pad(audio.trimmed(speech, SPEECH_BELOW_PEAK_DB), margin)
        changed = as_recorded_elsewhere(speech, rng, surroundings)
        peak = max(float(np.abs(changed).max(initial=0.0)), 1.0)
        with replacing(path) as partial_path:
            soundfile.write(partial_path, changed / peak, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    changes = {"id": copy_id, "audio": str(path), "start_s": 0.0, "end_s": None, "copy_of": utterance.id}
    return utterance.model_copy(update=changes)
