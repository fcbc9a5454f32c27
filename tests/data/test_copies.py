"""Changed copies: written once, the same for the same seed, trained on where their originals are, never tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from serein.corpora.prepare import merge
from serein.data import manifest
from serein.data.conditions import Surroundings
from serein.data.copies import write_copies
from serein.data.splits import make_folds
from serein.data.utterance import Utterance
from serein.recipe import Protocol


def utterances_in(folder: Path) -> list[Utterance]:
    rng = np.random.default_rng(0)
    made = []
    for number in range(6):
        path = folder / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(8000), 16_000)
        emotion = ("happy", "sad")[number % 2]
        made.append(Utterance(id=f"u{number}", audio=str(path), speaker=f"s{number // 2}", emotion=emotion))
    return made


def test_copies_are_drawn_from_seed_and_id_and_written_once(tmp_path: Path) -> None:
    utterances = utterances_in(tmp_path)
    first = write_copies(utterances, tmp_path / "a", Surroundings(), num_copies=2, seed=1)
    again = write_copies(utterances[::-1], tmp_path / "b", Surroundings(), num_copies=2, seed=1)
    bytes_of = [{copy.id: Path(copy.audio).read_bytes() for copy in copies} for copies in (first, again)]
    assert bytes_of[0] == bytes_of[1]
    assert len(bytes_of[0]) == 12
    assert {(copy.copy_of, copy.speaker, copy.emotion) for copy in first} == {
        (utterance.id, utterance.speaker, utterance.emotion) for utterance in utterances
    }
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    write_copies(utterances, tmp_path / "a", Surroundings(), num_copies=2, seed=1)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}


def test_copies_are_trained_on_where_their_originals_are(tmp_path: Path) -> None:
    utterances = utterances_in(tmp_path)
    copies = write_copies(utterances, tmp_path / "a", Surroundings(), num_copies=1)
    manifest.write([*utterances, *copies], tmp_path / "m.jsonl")
    read = manifest.read(tmp_path / "m.jsonl")
    original_of = {each.id: each.copy_of or each.id for each in read}
    for protocol in (
        Protocol(name="leave-one-speaker-out", dev="none"),
        Protocol(name="leave-one-speaker-out", dev="speakers"),
        Protocol(name="random", num_folds=3, dev="random"),
    ):
        for fold in make_folds(read, protocol).folds:
            assert not any("~" in each for each in (*fold.dev, *fold.test))
            originals = {each for each in fold.train if "~" not in each}
            assert {original_of[each] for each in fold.train if "~" in each} == originals


def test_copies_are_found_beside_a_manifest_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances = utterances_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    copies = write_copies(utterances, Path("out/m_audio"), Surroundings(), num_copies=1)
    manifest.write([*utterances, *copies], Path("out/m.jsonl"))
    assert all(Path(each.audio).is_file() for each in manifest.read(Path("out/m.jsonl")))


def test_merged_copies_name_the_merged_originals(tmp_path: Path) -> None:
    utterances = utterances_in(tmp_path)
    copies = write_copies(utterances, tmp_path / "a", Surroundings(), num_copies=1)
    merged = merge([("ours", [*utterances, *copies])]).utterances
    assert {(each.id, each.copy_of) for each in merged if each.copy_of} == {
        (f"ours/{each.id}", f"ours/{each.copy_of}") for each in copies
    }
