"""Stand-ins for licensed corpora: the parsers accept them, and at full size they have the published counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from benchmarks.mock_releases import CHALLENGE, IEMOCAP_TURNS, NUM_TEST3, RELEASE_1_11, VOXCELEB1_CLIPS, Size, apportion

from benchmarks import mock_releases
from serein import audio
from serein.corpora import corpus_named
from serein.corpora.corpus import Expected
from serein.corpora.msp_podcast import RELEASES
from serein.corpora.prepare import prepare

SMALL = Size(part=0.001, sound_s=0.1)


@pytest.mark.parametrize("name", mock_releases.RELEASES)
def test_parsers_accept_a_small_part(name: str, tmp_path: Path) -> None:
    mock_releases.RELEASES[name](tmp_path, SMALL)
    prepared = prepare(corpus_named(name.replace("challenge", "podcast")), tmp_path, counts="partial")
    assert not prepared.skipped
    splits = Counter(u.split for u in prepared.utterances)
    assert (
        set(splits)
        == {
            "iemocap": {None},
            "msp-podcast": {"train", "dev", "test1", "test2", "test3"},
            "msp-challenge": {"train", "dev", "test3"},
            "voxceleb1": {"train", "dev", "test"},
        }[name]
    )
    assert all(len(u.ratings) >= 4 for u in prepared.utterances if u.emotion)
    assert len({Path(u.audio).read_bytes()[44:300] for u in prepared.utterances}) == len(prepared.utterances)


def test_full_size_is_what_is_published() -> None:
    iemocap = corpus_named("iemocap").expected
    assert isinstance(iemocap, Expected)
    totals = {code: sum(turns) for code, turns in IEMOCAP_TURNS.items()}
    four = (totals["ang"], totals["hap"] + totals["exc"], totals["sad"], totals["neu"])
    assert four == tuple(iemocap.emotions[name] for name in ("anger", "happiness", "sadness", "neutral"))
    sessions = [sum(IEMOCAP_TURNS[code][n] for code in ("ang", "hap", "exc", "sad", "neu")) for n in range(5)]
    assert sessions == list(iemocap.sessions.values())
    assert sum(totals.values()) == iemocap.num_utterances == 10_039
    assert sum(rows for rows, _ in RELEASE_1_11.values()) == 149_307
    assert RELEASES[149_307] == "release 1.11"
    assert 149_307 + NUM_TEST3 == 151_654
    assert [kept for _, kept in CHALLENGE.values()] == [53_386, 15_341]
    voxceleb1 = corpus_named("voxceleb1").expected
    assert isinstance(voxceleb1, Expected)
    assert list(VOXCELEB1_CLIPS.values()) == list(voxceleb1.splits.values())


def test_a_clip_lasts_as_long_as_asked(tmp_path: Path) -> None:
    mock_releases.write_clip(tmp_path / "a.wav", 3.5, Size(), np.random.default_rng(0))
    waveform = audio.load(tmp_path / "a.wav")
    assert len(waveform) == 56_000
    assert abs(waveform[:1600]).max() > 0.05
    assert not waveform[1600:].any()


def test_parts_of_a_number_sum_to_it() -> None:
    assert apportion(153, [0.2, 1.7, 3.1]).tolist() == [6, 52, 95]
