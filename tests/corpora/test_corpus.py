"""Preparing a corpus: counts, unreadable files, absolute paths."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serein.corpora import CORPORA, corpus_named, licence_of
from serein.corpora.corpus import Corpus, Expected, prepare
from serein.data import manifest
from serein.data.utterance import Utterance
from serein.errors import AudioError, ManifestError


def parse(root: Path) -> list[Utterance]:
    return [
        Utterance(id=path.stem, audio=str(path), emotion=path.stem[0], speaker=path.stem[1])
        for path in sorted(root.glob("*.wav"))
    ]


TOY = Corpus(
    name="toy",
    title="Toy",
    licence="CC0",
    citation="Nobody 2026",
    parse=parse,
    expected=Expected(emotions={"h": 2, "s": 1}, speakers={"1": 1, "2": 2}),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("h1", "h2", "s2"):
        soundfile.write(tmp_path / f"{name}.wav", np.full(800, 0.1), 16_000)
    return tmp_path


def test_a_complete_corpus_is_prepared_in_order_with_absolute_paths(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    calls: list[tuple[int, int]] = []
    prepared = prepare(TOY, root.name, on_progress=lambda done, total: calls.append((done, total)))
    assert [(u.id, u.audio) for u in prepared.utterances] == [(n, str(root / f"{n}.wav")) for n in ("h1", "h2", "s2")]
    assert (prepared.skipped, prepared.notes) == ([], [])
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_an_incomplete_corpus_stops_with_published_and_found(root: Path) -> None:
    (root / "h2.wav").unlink()
    with pytest.raises(ManifestError) as error:
        prepare(TOY, root)
    assert str(error.value) == (
        f"{root}: found 2 of the 3 utterances that Toy publishes (speaker 2: 1 of 2; emotion h: 1 of 2). "
        "Download the rest, or say --partial."
    )


def test_a_partial_corpus_is_noted_when_asked_for(root: Path) -> None:
    (root / "h2.wav").unlink()
    prepared = prepare(TOY, root, counts="partial")
    assert len(prepared.utterances) == 2
    assert prepared.notes == ["found 2 of the 3 utterances that Toy publishes (speaker 2: 1 of 2; emotion h: 1 of 2)"]


def test_more_than_was_published_is_no_better(root: Path) -> None:
    soundfile.write(root / "x9.wav", np.full(800, 0.1), 16_000)
    with pytest.raises(ManifestError, match=r"found 4 of the 3 .*speaker 9: 1 of 0.*Remove what is not part of it"):
        prepare(TOY, root)


MERGED = replace(
    TOY,
    expected=Expected(emotions={"h": 2}, sessions={"one": 2}, merged={"g": "h"}, num_others=1),
    parse=lambda root: [u.model_copy(update={"session": "one"}) for u in parse(root)],
)


def test_counts_may_be_those_of_merged_emotions_by_session_with_a_number_of_others(root: Path) -> None:
    (root / "h2.wav").rename(root / "g2.wav")
    assert [u.emotion for u in prepare(MERGED, root).utterances] == ["g", "h", "s"]
    assert isinstance(MERGED.expected, Expected)
    assert MERGED.expected.num_utterances == 3


@pytest.mark.parametrize(
    ("old", "new", "what", "remedy"),
    [
        ("h2", None, "2 of the 3 .*: 1 of 2; emotion h: 1 of 2\\)", "Download the rest"),
        ("s2", None, "2 of the 3 .*\\(other emotions or none: 0 of 1\\)", "Download the rest"),
        ("h2", "x2", "3 of the 3 .*session one: 1 of 2; .*other emotions or none: 2 of 1", "Copy the labels again"),
    ],
)
def test_each_of_these_counts_can_stop(root: Path, old: str, new: str | None, what: str, remedy: str) -> None:
    (root / f"{old}.wav").rename(root / (f"{new}.wav" if new else "left_out"))
    with pytest.raises(ManifestError, match=f"found {what}.*{remedy}"):
        prepare(MERGED, root)


def test_speakers_that_may_be_one_are_noted(root: Path) -> None:
    twice = replace(
        TOY,
        expected=None,
        parse=lambda r: [u.model_copy(update={"speaker": u.id[0], "emotion": "x"}) for u in parse(r)],
    )
    (root / "s2.wav").rename(root / "H2.wav")
    assert prepare(twice, root).notes == ["speakers differ by case or spaces alone: H, h"]


def test_a_broken_file_stops_with_its_name(root: Path) -> None:
    (root / "h2.wav").write_bytes(b"")
    with pytest.raises(AudioError, match=r"h2\.wav: the file is empty"):
        prepare(TOY, root)


def test_a_broken_file_is_listed_and_counted_when_asked_for(root: Path) -> None:
    (root / "h2.wav").write_bytes(b"")
    prepared = prepare(TOY, root, unreadable="skip")
    assert [u.id for u in prepared.utterances] == ["h1", "s2"]
    assert prepared.skipped == [(str(root / "h2.wav"), "the file is empty (0 bytes)")]


def test_a_dangling_link_is_a_missing_file(root: Path) -> None:
    (root / "h2.wav").unlink()
    (root / "h2.wav").symlink_to(root / "annex")
    with pytest.raises(AudioError, match=r"h2\.wav: no such file"):
        prepare(TOY, root)


def test_nothing_readable_is_an_error_even_when_skipping(root: Path) -> None:
    for path in root.glob("*.wav"):
        path.write_bytes(b"")
    with pytest.raises(ManifestError, match="none of 3 files can be read"):
        prepare(TOY, root, unreadable="skip")


def test_a_file_with_several_parts_is_opened_once(root: Path) -> None:
    def parts(folder: Path) -> list[Utterance]:
        return [
            Utterance(id=str(n), audio=str(folder / "h1.wav"), start_s=n / 100, end_s=n / 100 + 0.01) for n in range(4)
        ]

    calls: list[tuple[int, int]] = []
    corpus = Corpus("parts", "Parts", None, None, parts)
    prepared = prepare(corpus, root, on_progress=lambda done, total: calls.append((done, total)))
    assert len(prepared.utterances) == 4
    assert calls == [(1, 1)]


def test_repeated_ids_and_unknown_choices_are_refused(root: Path) -> None:
    def twice(folder: Path) -> list[Utterance]:
        return parse(folder) + parse(folder)

    with pytest.raises(ManifestError, match="3 ids occur more than once"):
        prepare(Corpus("twice", "Twice", None, None, twice), root)
    with pytest.raises(ManifestError, match="expected one of: published, partial"):
        prepare(TOY, root, counts="any")  # type: ignore[arg-type]


def test_what_was_prepared_can_be_written_and_read(root: Path) -> None:
    prepared = prepare(TOY, root)
    manifest.write(prepared.utterances, root / "m.jsonl")
    assert manifest.read(root / "m.jsonl") == prepared.utterances


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_says_what_it_is(name: str, tmp_path: Path) -> None:
    corpus = corpus_named(name)
    assert corpus.name == name
    assert corpus.title
    if corpus.expected is not None:
        assert corpus.licence
        assert corpus.citation
    if isinstance(corpus.expected, Expected):
        speakers = corpus.expected.speakers or corpus.expected.sessions or corpus.expected.num_speakers
        assert speakers or name in ("meld", "mesd")  # where nobody counts them, where no name tells them
        for published in filter(None, (corpus.expected.speakers, corpus.expected.sessions)):
            assert sum(published.values()) == sum(corpus.expected.emotions.values())
    with pytest.raises(ManifestError, match="no such"):
        prepare(corpus, tmp_path / "none")


def test_an_unknown_corpus_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        ManifestError, match="unknown corpus 'iemcap', expected one of: folder, csv, audformat, hub, ravdess"
    ):
        corpus_named("iemcap")


def test_licences() -> None:
    assert licence_of("ravdess") == "CC BY-NC-SA 4.0"
    assert licence_of("folder") is licence_of(None) is licence_of("my own") is None
    assert os.sep not in (licence_of("synth") or "")
