"""Several corpora as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from serein.corpora.label_map import LabelMap
from serein.corpora.merge import duplicates, merge
from serein.data.protocols import speaker_key
from serein.data.utterance import Utterance
from serein.errors import AudioError, ManifestError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, level, length in (("a", 0.1, 800), ("b", 0.2, 800), ("twin", 0.1, 800), ("long", 0.1, 900)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(length, level), 16_000)
    return tmp_path


def said(folder: Path, name: str, **fields: object) -> Utterance:
    return Utterance(id=name, audio=str(folder / f"{name}.wav"), **fields)


def test_ids_and_speakers_are_kept_apart_and_labels_are_one_set(folder: Path) -> None:
    merged = merge(
        [
            ("one", [said(folder, "a", speaker="1", emotion="Angry"), said(folder, "b", speaker="2", emotion="bored")]),
            ("two", [said(folder, "long", speaker="1", emotion="anger", corpus="other")]),
        ],
        LabelMap({"angry": "anger", "bored": None}),
    )
    assert [(u.id, u.corpus, u.emotion) for u in merged.utterances] == [
        ("one/a", "one", "anger"),
        ("one/b", "one", None),
        ("other/long", "other", "anger"),
    ]
    assert len({speaker_key(u) for u in merged.utterances}) == 3
    assert merged.labels() == {"anger": {"one": 1, "other": 1}}
    assert (merged.num_repeated, merged.duplicates) == (0, [])
    assert merged.notes == ["1 labels 'Angry' became 'anger'", "1 labels 'bored' became none"]


def test_what_was_merged_can_be_merged_again(folder: Path) -> None:
    once = merge([("one", [said(folder, "a", emotion="sad")])]).utterances
    again = merge([("both", once), ("one", [said(folder, "a", emotion="sad")])])
    assert (again.utterances, again.num_repeated) == (once, 1)


def test_labels_of_one_corpus_alone_are_noted_and_spellings_joined(folder: Path) -> None:
    merged = merge(
        [
            ("one", [said(folder, "a", emotion="Sad"), said(folder, "b", emotion="calm")]),
            ("two", [said(folder, "long", emotion="sad")]),
        ]
    )
    assert merged.notes == [
        "the spellings 'Sad' (1), 'sad' (1) were joined into 'sad'",
        "labels that one corpus alone has: calm (one)",
    ]


def test_the_same_samples_are_found_in_files_of_one_length(folder: Path) -> None:
    utterances = [said(folder, name) for name in ("a", "b", "twin", "long")]
    calls: list[tuple[int, int]] = []
    assert duplicates(utterances, lambda done, total: calls.append((done, total))) == [("twin", "a")]
    assert calls[-1] == (3, 3)
    part = Utterance(id="part", audio=str(folder / "long.wav"), end_s=0.05)
    assert duplicates([*utterances, part]) == [("twin", "a"), ("part", "a")]


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"audio": "b.wav"}, "another recording"),
        ({"emotion": "happy"}, "another emotion: 'sad' and 'happy'"),
        ({"speaker": "2"}, "another speaker: '1' and '2'"),
    ],
)
def test_one_id_for_two_things_stops(changed: dict[str, str], what: str, folder: Path) -> None:
    first = said(folder, "a", emotion="sad", speaker="1", corpus="c")
    if "audio" in changed:
        changed = {"audio": str(folder / changed["audio"])}
    with pytest.raises(ManifestError, match=f"two manifests give c/a {what}.*Set the field 'corpus'"):
        merge([("one", [first]), ("two", [first.model_copy(update=changed)])])


def test_a_missing_recording_is_named(folder: Path) -> None:
    with pytest.raises(AudioError, match=r"no\.wav: no such file"):
        merge([("one", [said(folder, "no")])])
