"""Preparing corpora: counts, unreadable files, absolute paths; one set of labels; several corpora as one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serein.corpora import CORPORA, corpus_named, licence_of
from serein.corpora.corpus import Corpus, Expected
from serein.corpora.prepare import LabelMap, duplicates, merge, prepare, read_label_map, with_labels, with_one_spelling
from serein.data import manifest
from serein.data.manifest import Rating, Utterance
from serein.data.protocols import alike_speakers, speaker_key
from serein.errors import AudioError, ManifestError, RecipeError


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
        "Download the rest, or use --partial."
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
    assert prepare(twice, root).notes == ["speakers differ only in case, spaces or Unicode form: H, h"]


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
    with pytest.raises(ManifestError, match="none of the 3 files can be read"):
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


def test_a_name_with_a_line_break_is_refused(root: Path) -> None:
    os.rename(root / "h1.wav", root / "h1\n.wav")
    with pytest.raises(ManifestError, match=r"id 'h1\\n': contains the control character '\\n'") as refusal:
        prepare(TOY, root)
    assert "Rename" in str(refusal.value.remedy)


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


# -- One set of labels: spellings joined, labels mapped ----------------------------------------------------------------


def labelled(*emotions: str | None, corpus: str | None = None) -> list[Utterance]:
    return [
        Utterance(id=str(number), audio=f"{number}.wav", emotion=emotion, corpus=corpus)
        for number, emotion in enumerate(emotions)
    ]


def test_spellings_are_joined_into_the_most_frequent_and_said() -> None:
    joined, notes = with_one_spelling(labelled("Happy", "Happy", "happy", "HAPPY ", "sad", None))
    assert [u.emotion for u in joined] == ["Happy"] * 4 + ["sad", None]
    assert notes == ["the spellings 'Happy' (2), 'happy' (1), 'HAPPY ' (1) were merged into 'Happy'"]


def test_composed_and_decomposed_accents_are_one_spelling(tmp_path: Path) -> None:
    composed, decomposed = "\u00e4rger", "a\u0308rger"
    joined, notes = with_one_spelling(labelled(decomposed, composed, "freude"))
    assert [u.emotion for u in joined] == [composed, composed, "freude"]
    assert len(notes) == 1
    (tmp_path / "map.yaml").write_text(f"{composed}: anger\n", encoding="utf-8")
    mapped, _ = with_labels(labelled(decomposed, composed), read_label_map(tmp_path / "map.yaml"))
    assert [u.emotion for u in mapped] == ["anger", "anger"]
    speakers = [Utterance(id=name, audio="a.wav", speaker=name) for name in ("J\u00f6rg", "Jo\u0308rg")]
    assert alike_speakers(speakers) == [("Jo\u0308rg", "J\u00f6rg")]


@pytest.mark.parametrize("order", [("Sad", "sad"), ("sad", "Sad")])
def test_of_equally_many_small_letters_are_taken(order: tuple[str, str]) -> None:
    joined, _ = with_one_spelling(labelled(*order))
    assert {u.emotion for u in joined} == {"sad"}


def test_one_spelling_stays_as_it_is() -> None:
    utterances = labelled("Anger", "Pleasant  surprise", None)
    assert with_one_spelling(utterances) == (utterances, [])


def test_labels_and_raters_labels_become_what_the_map_says() -> None:
    (utterance,) = labelled("Angry")
    rated = utterance.model_copy(update={"ratings": (Rating(labels=("ANGRY", "calm", "bored"), rater="r"),)})
    (mapped,), notes = with_labels([rated], LabelMap({"angry": "anger", "bored": None, "sad": "sadness"}))
    assert mapped.emotion == "anger"
    assert mapped.ratings == (Rating(labels=("anger", "calm"), rater="r"),)
    assert notes == [
        "1 labels 'Angry' became 'anger'",
        "no utterance is labelled sad, which the label map contains",
    ]


def test_sections_and_their_labels_that_map_nothing_are_noted() -> None:
    utterances = [u.model_copy(update={"corpus": "emodb"}) for u in labelled("Wut", "sad")] + labelled("angry")
    sections = {
        "emodb": {"wut": "anger", "angry": "anger"},
        "ravdes": {"sad": "grief"},
        "msp_podcast": {"sad": "grief"},
    }
    assert with_labels(utterances, LabelMap({"angry": "anger"}, sections))[1] == [
        "1 labels 'Wut' became 'anger'",
        "1 labels 'angry' became 'anger'",
        "no utterance has the corpus msp_podcast, ravdes, which the label map contains",
        "no utterance of emodb is labelled angry, which the label map contains",
    ]


def test_a_label_may_be_taken_away_and_the_utterance_stays() -> None:
    mapped, notes = with_labels(labelled("boredom", "sad"), LabelMap({"boredom": None}))
    assert [u.emotion for u in mapped] == [None, "sad"]
    assert notes == ["1 labels 'boredom' became none"]


def test_a_map_is_read_with_sections_for_corpora(tmp_path: Path) -> None:
    assert read_label_map(None) == LabelMap()
    path = tmp_path / "map.yaml"
    path.write_text("Angry: angry\nno: neutral\n1: happy\nboredom: null\nravdess:\n  calm: neutral\n", encoding="utf-8")
    assert read_label_map(path) == LabelMap(
        {"angry": "angry", "no": "neutral", "1": "happy", "boredom": None}, {"ravdess": {"calm": "neutral"}}
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is not a mapping of labels"),
        ("- a\n", "is not a mapping of labels"),
        ("a: [b]\n", "'a' is mapped to"),
        ("a: {b: {c: d}}\n", "'b' is mapped to"),
        ("a: b\nA: c\n", "maps 'A' twice, in two spellings"),
        ("a: {\n", "not YAML"),
        ("a: b\na: c\n", "the key 'a' occurs twice"),
    ],
)
def test_what_is_no_map_is_named(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(text, encoding="utf-8")
    with pytest.raises((ManifestError, RecipeError), match=what) as error:
        read_label_map(tmp_path / "map.yaml")
    assert error.value.remedy


def test_a_map_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        read_label_map(tmp_path / "map.yaml")


# -- Several corpora as one --------------------------------------------------------------------------------------------


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


def test_manifests_of_one_name_are_not_taken_for_one_corpus(folder: Path) -> None:
    first, second = [said(folder, "a", speaker="01")], [said(folder, "b", speaker="01")]
    with pytest.raises(ManifestError, match="two manifests are called 'manifest'.*set the field 'corpus'"):
        merge([("manifest", first), ("manifest", second)])
    assert merge([("manifest", first), ("manifest", first)]).num_repeated == 1
    named = [u.model_copy(update={"corpus": "c"}) for u in second]
    assert {u.corpus for u in merge([("manifest", first), ("manifest", named)]).utterances} == {"manifest", "c"}


def test_labels_of_one_corpus_alone_are_noted_and_spellings_joined(folder: Path) -> None:
    merged = merge(
        [
            ("one", [said(folder, "a", emotion="Sad"), said(folder, "b", emotion="calm")]),
            ("two", [said(folder, "long", emotion="sad")]),
        ]
    )
    assert merged.notes == [
        "the spellings 'Sad' (1), 'sad' (1) were merged into 'sad'",
        "labels that only one corpus has: calm (one)",
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
