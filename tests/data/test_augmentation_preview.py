"""Clips to listen to: pairs of WAV files that hold what a training hears, and a line that says what was drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from cli_fixtures import Call, write_recipe
from serein import audio
from serein.data import manifest
from serein.data.augmentation import WaveformAugmenter, write_examples
from serein.data.dataset import ClipDataset, Recordings
from serein.recipe import Clips, WaveformAugmentation


def test_the_files_hold_what_the_first_epoch_hears(tones: Path, tmp_path: Path) -> None:
    utterances, augmenter = manifest.read(tones), WaveformAugmenter(WaveformAugmentation(name="noise"))
    lines = write_examples(utterances, augmenter, tmp_path, limit=3, seed=5)
    assert (tmp_path / "augmentations.txt").read_text() == "".join(f"{line}\n" for line in lines)
    assert len(list(tmp_path.iterdir())) == 7
    heard = ClipDataset(Recordings(utterances), {}, Clips(), seed=5, is_training=True, augment=augmenter)
    for line, position in zip(lines, (0, 18, 35), strict=True):  # spread over 36; 17.5 is rounded to even
        name, drawn = line.split(": ")
        clip = heard[0, position]
        seen = audio.load(tmp_path / f"{name}_noise.wav")
        assert np.abs(seen - clip.waveforms[0].numpy()).max() < 1 / 32_000
        original = audio.load(tmp_path / f"{name}_original.wav")
        assert np.abs(original - audio.load(utterances[position].audio)).max() < 1 / 32_000
        assert drawn == f"noise at {augmenter.drawn(int(clip.seeds))['noise']:.1f} dB SNR"


def test_too_loud_for_a_file_is_written_softer_and_said(tones: Path, tmp_path: Path) -> None:
    augmenter = WaveformAugmenter(WaveformAugmentation(name="volume", volume_db=(40.0, 40.0)))
    (line,) = write_examples(manifest.read(tones), augmenter, tmp_path, limit=1)
    assert "volume +40.0 dB (beyond full scale: the file is" in line
    (written,) = tmp_path.glob("*_volume.wav")
    samples = audio.load(written)
    assert np.abs(samples).max() == pytest.approx(1.0, abs=1e-3)
    original = audio.load(manifest.read(tones)[0].audio)
    np.testing.assert_allclose(samples, original / np.abs(original).max(), atol=1e-3)  # neither wrapped nor clipped


def test_names_of_files_hold_no_folders(tones: Path, tmp_path: Path) -> None:
    utterances = [manifest.read(tones)[0].model_copy(update={"id": "../a b/ü?"})]
    (line,) = write_examples(
        utterances, WaveformAugmenter(WaveformAugmentation(name="volume")), tmp_path / "out", limit=5
    )
    assert line.startswith("001_.._a_b_: volume")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# -- the command


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noise", "volume", "reverberation", "pitch", "mixed"])
def test_listen(name: str, tones: Path, tmp_path: Path, serein: Call) -> None:
    outcome = serein(
        "corpus", "preview-augmentation", tones, "--augmentation", name, "-o", tmp_path / "out", "--max-files", 2
    )
    assert outcome.status == 0
    assert outcome.out == (tmp_path / "out" / "augmentations.txt").read_text()
    assert len(list((tmp_path / "out").glob(f"*_{name}.wav"))) == 2
    for path in (tmp_path / "out").glob("*.wav"):
        header = soundfile.info(path)
        assert (header.samplerate, header.channels, header.subtype) == (16_000, 1, "PCM_16")


def test_listen_to_a_recipe(tones: Path, tmp_path: Path, serein: Call) -> None:
    effects = {"name": "volume", "volume_db": [-12, -12], "probability": 0.01}
    recipe = write_recipe(tmp_path / "r.yaml", stage={"waveform_augmentation": effects})
    outcome = serein(
        "corpus", "preview-augmentation", tones, "--recipe", recipe, "-o", tmp_path / "out", "--max-files", 2
    )
    assert outcome.status == 0
    assert outcome.out.count("volume -12.0 dB\n") == 2


def test_listen_to_a_recipe_without_effects(tones: Path, tmp_path: Path, serein: Call) -> None:
    recipe = write_recipe(tmp_path / "r.yaml")
    outcome = serein("corpus", "preview-augmentation", tones, "--recipe", recipe, "-o", tmp_path / "out")
    assert outcome.status == 1
    assert "r.yaml: no stage has waveform_augmentation. Leave out --recipe" in outcome.complaint
    assert not (tmp_path / "out").exists()


def test_listen_to_what_is_not_there(tones: Path, tmp_path: Path, serein: Call) -> None:
    assert (
        "no such manifest"
        in serein("corpus", "preview-augmentation", tmp_path / "none.jsonl", "-o", tmp_path / "o").complaint
    )
    assert serein("corpus", "preview-augmentation", tones, "--augmentation", "echo", "-o", tmp_path / "o").status == 2
