"""Clips to listen to: what an augmentation makes of a corpus, as WAV files beside the originals."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from serein.data import audio
from serein.data.audio import SAMPLE_RATE_HZ, Waveform
from serein.data.batches import draw_seed
from serein.data.effects import WaveformAugmenter, describe
from serein.data.files import replacing, write_text
from serein.data.utterance import Utterance

AUGMENTATIONS = "augmentations.txt"

Progress = Callable[[int, int], None]


def write_examples(
    utterances: Sequence[Utterance],
    augmenter: WaveformAugmenter,
    folder: Path,
    *,
    limit: int = 10,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> list[str]:
    """Write clips spread evenly over a corpus, each as it is and as the first epoch of a training may use it.

    Args:
        limit: Most clips.
        seed: Root of what is drawn.

    Returns:
        What was drawn for each clip, a line each, which `augmentations.txt` holds as well.

    Raises:
        AudioError: A recording cannot be read.
    """
    places = np.unique(np.linspace(0, len(utterances) - 1, min(limit, len(utterances))).round().astype(int))
    lines = []
    for number, utterance in enumerate((utterances[place] for place in places), start=1):
        lines.append(_write_pair(utterance, augmenter, folder, number, draw_seed(seed, 0, utterance.id)))
        if on_progress:
            on_progress(number, len(places))
    write_text(folder / AUGMENTATIONS, "".join(f"{line}\n" for line in lines))
    return lines


def _write_pair(utterance: Utterance, augmenter: WaveformAugmenter, folder: Path, number: int, clip_seed: int) -> str:
    original = audio.load(utterance.audio, utterance.start_s, utterance.end_s)
    changed = augmenter(original, clip_seed)
    name = f"{number:03d}_{re.sub(r'[^A-Za-z0-9.-]+', '_', utterance.id)[-60:]}"
    _write(folder / f"{name}_original.wav", original)
    softer_db = _write(folder / f"{name}_{augmenter.options.name}.wav", changed)
    softer = f" (beyond full scale: the file is {softer_db:.1f} dB softer)" if softer_db else ""
    return f"{name}: {describe(augmenter.drawn(clip_seed))}{softer}"


def _write(path: Path, waveform: Waveform) -> float:
    """Write a WAV of 16 bits, and return by how many dB it is softer, so that nothing is clipped."""
    import soundfile

    peak = max(float(np.abs(waveform).max()), 1.0)
    with replacing(path) as partial:
        soundfile.write(partial, waveform / peak, SAMPLE_RATE_HZ, subtype="PCM_16")
    return 20 * math.log10(peak)
