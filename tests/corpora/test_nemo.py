"""nEMO: names and data.tsv."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serein.corpora.corpus import prepare
from serein.corpora.nemo import NEMO, missing, parse
from serein.errors import ManifestError

REAL = Path(os.environ.get("SEREIN_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))

TABLE = (
    "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage\n"
    'WR0_surprised_64.wav\tsurprised\tUcho "wykrywa" dźwięki.\tucho\t        WR0\tmale\t23\n'
    "EB0_neutral_13.wav\tneutral\tInteresuje mnie historia Polski.\tinteresuje\t        EB0\tfemale\t27\n"
)


def release(root: Path, *names: str) -> Path:
    for name in names:
        (root / "samples" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "samples" / name).touch()
    (root / "data.tsv").write_text(TABLE, encoding="utf-8")
    return root


def test_name_and_table_say_everything_whatever_the_suffix(tmp_path: Path) -> None:
    root = release(tmp_path, "WR0_surprised_64.ogg", "EB0_neutral_13.wav")
    first, second = parse(root)
    assert first.id == "EB0_neutral_13"
    assert second.model_dump(exclude_defaults=True) == {
        "id": "WR0_surprised_64",
        "audio": str(root / "samples" / "WR0_surprised_64.ogg"),
        "speaker": "WR0",
        "gender": "male",
        "emotion": "surprised",
        "transcript": 'Ucho "wykrywa" dźwięki.',
        "style": "scripted",
        "language": "pl",
        "corpus": "nemo",
    }


def test_a_clip_that_lies_nowhere_is_named(tmp_path: Path) -> None:
    assert missing(release(tmp_path, "EB0_neutral_13.wav")) == ["no WR0_surprised_64"]


def test_what_is_not_of_the_corpus_stops(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"WR0_surprised_65\.wav: is not listed in data\.tsv"):
        parse(release(tmp_path / "a", "WR0_surprised_65.wav"))
    with pytest.raises(ManifestError, match="not named as nEMO"):
        parse(release(tmp_path / "b", "WR0_surprise_64.wav"))
    (tmp_path / "b" / "data.tsv").unlink()
    with pytest.raises(ManifestError, match=r"holds no data\.tsv"):
        parse(tmp_path / "b")


def test_the_real_corpus_is_complete() -> None:
    if not (REAL / "nemo").is_dir():
        pytest.skip(f"no nEMO in {REAL}")
    prepared = prepare(NEMO, REAL / "nemo")
    assert (len(prepared.utterances), prepared.skipped, prepared.notes) == (4481, [], [])
    assert all(u.gender and u.transcript for u in prepared.utterances)
    assert len({u.transcript for u in prepared.utterances}) == 90
