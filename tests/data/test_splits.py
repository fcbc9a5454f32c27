"""Folds: what every protocol promises, and that a leak of any kind is named before training."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from serein import recipe as recipes
from serein.data.manifest import Utterance
from serein.data.protocols import speaker_key
from serein.data.splits import Fold, Folds, add_unlabelled, check_leaks, class_notes, make_folds
from serein.errors import LeakError, ManifestError, RecipeError
from serein.recipe import Protocol

RECIPES = Path(__file__).parents[2] / "recipes"
PROTOCOLS = get_args(Protocol.model_fields["name"].annotation)
DEV_RULES = get_args(Protocol.model_fields["dev"].annotation)


def said_by(speaker: str, number: int = 2, **fields: object) -> list[Utterance]:
    """Return a speaker's utterances, `01-0`, `01-1`, ..."""
    prefix = f"{fields['corpus']}-" if "corpus" in fields else ""
    return [
        Utterance(id=f"{prefix}{speaker}-{i}", audio=f"/{prefix}{speaker}-{i}.wav", speaker=speaker, **fields)
        for i in range(number)
    ]


def people(*speakers: str, **fields: object) -> list[Utterance]:
    return [utterance for speaker in speakers for utterance in said_by(speaker, **fields)]


def speakers_of(ids: Sequence[str]) -> set[str]:
    return {i.rsplit("-", 1)[0] for i in ids}


@st.composite
def manifests(draw: st.DrawFn) -> list[Utterance]:
    """Draw up to ten speakers of two corpora, each with one gender, session and split, in any order."""
    speaker = st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from(["1", "2", "3", "4", "5", "6"]),
        st.sampled_from(["female", "male", None]),
        st.sampled_from(["s1", "s2", "s3"]),
        st.sampled_from(["train", "train", "dev", "test", "test2"]),
        st.integers(1, 3),
    )
    drawn = draw(st.lists(speaker, min_size=4, max_size=10, unique_by=lambda s: s[:2]))
    utterances = [
        utterance
        for corpus, name, gender, session, split, number in drawn
        for utterance in said_by(name, number, corpus=corpus, gender=gender, session=session, split=split)
    ]
    return shuffled(utterances, draw(st.integers(0, 99)))


def shuffled(utterances: Sequence[Utterance], seed: int) -> list[Utterance]:
    return random.Random(seed).sample(utterances, len(utterances))


def divided(utterances: Sequence[Utterance], protocol: Protocol, **rest: object) -> Folds | None:
    """Return the folds, or `None` where the data does not allow the protocol."""
    try:
        return make_folds(utterances, protocol, **rest)  # type: ignore[arg-type]
    except (RecipeError, ManifestError):
        return None


# -- what holds for all


def protocol_of(name: str, **fields: object) -> Protocol:
    """Return a protocol of two folds; clips are divided by the end of their ids."""
    assume(name != "random" or fields.get("dev") not in ("sessions", "dialogue-partner"))
    patterns = (("-0$",), ("-[12]$",)) if name == "clips-out" else None
    return Protocol(name=name, num_folds=2, folds=patterns, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=40)
@given(utterances=manifests(), dev=st.sampled_from(DEV_RULES), seed=st.integers(0, 3))
def test_parts_are_disjoint(name: str, utterances: list[Utterance], dev: str, seed: int) -> None:
    folds = divided(utterances, protocol_of(name, dev=dev, seed=seed))
    if folds is None:
        return
    speaker_of = {u.id: speaker_key(u) for u in utterances}
    is_dependent = name in ("random", "clips-out")
    assert folds.is_speaker_independent == (not is_dependent)
    assert folds.shares_dev == (is_dependent or dev == "random")
    for fold in folds.folds:
        parts = {"train": fold.train, "dev": fold.dev, "test": fold.test}
        assert fold.train
        assert fold.test
        assert bool(fold.dev) == (dev != "none")
        for (one, ids), (other, others) in combinations(parts.items(), 2):
            assert not set(ids) & set(others)
            if folds.is_speaker_independent and not (folds.shares_dev and {one, other} == {"train", "dev"}):
                assert not {speaker_of[i] for i in ids} & {speaker_of[i] for i in others}
        if name != "official":  # official folds leave out each other's test sets
            assert sorted(i for part in parts.values() for i in part) == sorted(speaker_of)
    check_leaks(utterances, folds, {})


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "official"])
@settings(max_examples=20)
@given(utterances=manifests())
def test_every_utterance_is_tested_once(name: str, utterances: list[Utterance]) -> None:
    folds = divided(utterances, protocol_of(name, dev="none"))
    if folds is not None:
        assert sorted(i for fold in folds.folds for i in fold.test) == sorted(u.id for u in utterances)
        assert len({fold.name for fold in folds.folds}) == len(folds.folds)


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=40)
@given(utterances=manifests(), dev=st.sampled_from(DEV_RULES), seed=st.integers(0, 3))
def test_the_order_of_the_manifest_changes_nothing(name: str, utterances: list[Utterance], dev: str, seed: int) -> None:
    protocol = protocol_of(name, dev=dev, seed=seed)
    duplicates = {u.id: utterances[0].id for u in utterances[:2]}
    reordered = shuffled(utterances, seed)
    folds, again = (
        divided(utterances, protocol, duplicates=duplicates),
        divided(reordered, protocol, duplicates=duplicates),
    )
    assert (folds is None) == (again is None)
    if folds is not None and again is not None:
        assert folds.sha256 == again.sha256
        order = [u.id for u in reordered]
        assert all(sorted(fold.train, key=order.index) == list(fold.train) for fold in again.folds)


def test_a_speaker_of_two_genders_is_dealt_alike_in_any_order() -> None:
    utterances = [
        *said_by("1", 1, gender="male"),
        Utterance(id="1-x", audio="/x.wav", speaker="1", gender="female"),
        *people("2", "3", gender="male"),
        *people("4", "5", "6", gender="female"),
    ]
    protocol = Protocol(num_folds=3, dev_fraction=0.5)
    assert make_folds(utterances, protocol).sha256 == make_folds(utterances[::-1], protocol).sha256


def test_the_seed_alone_draws() -> None:
    utterances = people(*map(str, range(12)))
    by_seed = [make_folds(utterances, Protocol(num_folds=3, seed=seed)) for seed in range(5)]
    assert by_seed[0] == make_folds(utterances, Protocol(num_folds=3, seed=0))
    assert len({folds.sha256 for folds in by_seed}) == 5


def test_the_hash_names_the_exact_division() -> None:
    folds = Folds("speakers-out", (Fold("1", ("b", "a"), ("c",), ("d",)),), True, False)
    by_hand = hashlib.sha256(b'[["1", ["a", "b"], ["c"], ["d"]]]').hexdigest()
    reordered = Folds("speakers-out", (Fold("1", ("a", "b"), ("c",), ("d",)),), True, False, ("a note",))
    moved = Folds("speakers-out", (Fold("1", ("a",), ("b", "c"), ("d",)),), True, False)
    assert folds.sha256 == reordered.sha256 == by_hand
    assert moved.sha256 != by_hand


def test_a_drawn_division_stays_what_it_was() -> None:
    """A change here moves numbers: label it **Results** in the change log."""
    utterances = people(*map(str, range(1, 7)), gender="female") + people(*map(str, range(7, 10)), gender="male")
    folds = make_folds(utterances, Protocol(num_folds=3, seed=1)).folds
    assert [(fold.groups, sorted(speakers_of(fold.dev))) for fold in folds] == [
        (("1", "3", "8"), ["6"]),
        (("2", "6", "9"), ["4"]),
        (("4", "5", "7"), ["3"]),
    ]


# -- each protocol


def test_ravdess_has_six_folds_of_four_unseen_actors() -> None:
    actors = [f"{number:02d}" for number in range(1, 25)]
    utterances = [u for a in actors for u in said_by(a, 3, gender="male" if int(a) % 2 else "female", corpus="ravdess")]
    folds = make_folds(utterances, recipes.load(RECIPES / "ravdess.yaml").protocol)
    assert [fold.name for fold in folds.folds] == ["1", "2", "3", "4", "5", "6"]
    assert [fold.groups for fold in folds.folds][:2] == [("01", "11", "20", "21"), ("04", "10", "12", "14")]
    assert [(len(fold.train), len(fold.dev), len(fold.test)) for fold in folds.folds] == [(60, 0, 12)] * 6
    assert Counter(actor for fold in folds.folds for actor in fold.groups) == Counter(actors)
    assert folds.notes == (
        "No dev set: every stage was trained for a fixed number of epochs, and its last weights were evaluated.",
    )


@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 6), st.integers(0, 5))
def test_dealt_speakers_are_balanced_in_number_and_gender(women: int, men: int, num_folds: int, seed: int) -> None:
    utterances = people(*(f"f{i}" for i in range(women)), gender="female")
    utterances += people(*(f"m{i}" for i in range(men)), gender="male")
    folds = divided(utterances, Protocol(num_folds=num_folds, dev="none", seed=seed))
    assert (folds is None) == (women + men < num_folds)
    if folds is not None:
        for kind in ("", "f", "m"):
            numbers = [sum(name.startswith(kind) for name in fold.groups) for fold in folds.folds]
            assert max(numbers) - min(numbers) <= 1


def test_among_speakers_of_one_gender_the_largest_are_dealt_first() -> None:
    utterances = [u for name, number in (("a", 5), ("b", 4), ("c", 2), ("d", 1)) for u in said_by(name, number)]
    folds = make_folds(utterances, Protocol(num_folds=2, dev="none"))
    assert sorted(fold.groups for fold in folds.folds) == [("a", "d"), ("b", "c")]  # six utterances each


def test_one_speaker_out_goes_by_number() -> None:
    folds = make_folds(people("10", "9", "x", "²"), Protocol(name="leave-one-speaker-out", dev="none"))
    assert [(fold.name, speakers_of(fold.test)) for fold in folds.folds] == [
        ("9", {"9"}),
        ("10", {"10"}),
        ("x", {"x"}),
        ("²", {"²"}),
    ]


def test_sessions_out() -> None:
    utterances = people("1", "2", session="s1") + people("3", "4", session="s2") + people("5", session="s3")
    folds = make_folds(utterances, Protocol(name="sessions-out", dev="sessions"))
    assert [(fold.name, speakers_of(fold.test)) for fold in folds.folds] == [
        ("s1", {"1", "2"}),
        ("s2", {"3", "4"}),
        ("s3", {"5"}),
    ]
    sessions = [{"1", "2"}, {"3", "4"}, {"5"}]
    assert all(speakers_of(part) in sessions for fold in folds.folds for part in (fold.train, fold.dev))
    named = make_folds(utterances, Protocol(name="sessions-out", folds=(("s1", "s3"), ("s2",)), dev="none"))
    assert [speakers_of(fold.test) for fold in named.folds] == [{"1", "2", "5"}, {"3", "4"}]


def test_each_corpus_is_tested_by_the_others() -> None:
    utterances = [*people("1", "2", corpus="a"), *people("1", corpus="b"), *people("3", "4", corpus="c")]
    folds = make_folds(utterances, Protocol(name="corpora-out", dev="none"))
    assert [(fold.name, speakers_of(fold.test)) for fold in folds.folds] == [
        ("a", {"a-1", "a-2"}),
        ("b", {"b-1"}),
        ("c", {"c-3", "c-4"}),
    ]


def test_the_official_split_is_kept() -> None:
    utterances = [
        u
        for name, split in (("1", "train"), ("2", "dev"), ("3", "test"), ("4", "test2"), ("5", "train"))
        for u in people(name, split=split)
    ]
    official = make_folds(utterances, Protocol(name="official", dev="official")).folds
    parts = [(f.name, speakers_of(f.train), speakers_of(f.dev), speakers_of(f.test)) for f in official]
    assert parts == [("test", {"1", "5"}, {"2"}, {"3"}), ("test2", {"1", "5"}, {"2"}, {"4"})]
    without_dev = make_folds(utterances, Protocol(name="official", dev="none")).folds[0]
    assert speakers_of(without_dev.train) == {"1", "2", "5"}


def test_the_partner_of_a_test_speaker_is_dev() -> None:
    """wang2023: one speaker tests, the other one of the session chooses, the other sessions train."""
    utterances = [
        u for name, session in (("1", "a"), ("2", "a"), ("3", "b"), ("4", "b")) for u in people(name, session=session)
    ]
    divided = make_folds(utterances, Protocol(name="leave-one-speaker-out", dev="dialogue-partner"))
    first = divided.folds[0]
    assert (speakers_of(first.train), speakers_of(first.dev), speakers_of(first.test)) == ({"3", "4"}, {"2"}, {"1"})
    assert any("same dialogues" in note for note in divided.notes)
    with pytest.raises(RecipeError, match="have no partner"):
        make_folds(utterances, Protocol(name="sessions-out", dev="dialogue-partner"))


def test_random_is_marked_and_keeps_twins_on_one_side() -> None:
    utterances = people(*map(str, range(20)))
    duplicates = {f"{i}-{j}": f"{i}-0" for i in range(20) for j in range(2)}
    folds = make_folds(utterances, Protocol(name="random", num_folds=4), duplicates)
    assert not folds.is_speaker_independent
    assert folds.notes[0].startswith("SPEAKER-DEPENDENT")
    assert [len(fold.test) for fold in folds.folds] == [10] * 4
    assert [len(fold.dev) for fold in folds.folds] == [6] * 4  # a fifth of the other thirty
    assert all(not speakers_of(fold.test) & speakers_of((*fold.train, *fold.dev)) for fold in folds.folds)
    check_leaks(utterances, folds, duplicates)


def test_corpora_that_share_speakers_names_are_told_apart() -> None:
    utterances = people("1", "2", corpus="a") + people("1", "2", corpus="b") + people("3", corpus="b")
    folds = make_folds(utterances, Protocol(name="leave-one-speaker-out", dev="none"))
    assert [(fold.name, len(fold.test)) for fold in folds.folds] == [
        ("a-1", 2),
        ("a-2", 2),
        ("b-1", 2),
        ("b-2", 2),
        ("b-3", 2),
    ]
    named = make_folds(utterances, Protocol(folds=(("a/1", "b/3"), ("b/1",)), dev="none"))
    assert [speakers_of(fold.test) for fold in named.folds] == [{"a-1", "b-3"}, {"b-1"}]
    with pytest.raises(RecipeError, match=r"no speaker 1 in the data, which has: a/1, a/2, b/1, b/2, b/3\. Name"):
        make_folds(utterances, Protocol(folds=(("1",), ("a/2",))))


def test_only_runs_some_folds() -> None:
    utterances = people("1", "2", "3", "4")
    all_folds = make_folds(utterances, Protocol(num_folds=4))
    some = make_folds(utterances, Protocol(num_folds=4, only=("3", "1")))
    assert some.folds == (all_folds.folds[0], all_folds.folds[2])
    with pytest.raises(RecipeError, match=r"protocol.only: no fold 5; the folds are: 1, 2, 3, 4"):
        make_folds(utterances, Protocol(num_folds=4, only=("1", "5")))


# -- dev


def test_dev_speakers_are_a_share_of_the_training_side_and_of_both_genders() -> None:
    utterances = people(*(f"f{i}" for i in range(9)), gender="female") + people(
        *(f"m{i}" for i in range(9)), gender="male"
    )
    for fold in make_folds(utterances, Protocol(num_folds=3, dev_fraction=1 / 3)).folds:
        assert sorted(name[0] for name in speakers_of(fold.dev)) == ["f", "f", "m", "m"]  # 4 of 12


@pytest.mark.parametrize(("fraction", "number"), [(0.0, 1), (0.2, 1), (0.5, 2), (1.0, 3)])
def test_dev_takes_one_speaker_at_least_and_leaves_one(fraction: float, number: int) -> None:
    folds = make_folds(people(*"12345678"), Protocol(num_folds=2, dev_fraction=fraction)).folds
    assert [len(speakers_of(fold.dev)) for fold in folds] == [number] * 2


def test_random_dev_is_a_fifth_and_says_that_it_shares_speakers() -> None:
    folds = make_folds(people(*"123456"), Protocol(num_folds=2, dev="random"))
    assert [len(fold.dev) for fold in folds.folds] == [1, 1]
    assert folds.notes == ("Dev was drawn at random from the training set and shares its speakers.",)


# -- notes


def test_what_train_and_test_may_share_is_named() -> None:
    utterances = [
        *people("1", session="s1", transcript="kids"),
        *people("2", session="s1", transcript="dogs"),
        *people("3", session="s2", transcript="kids"),
    ]
    folds = make_folds(utterances, Protocol(name="leave-one-speaker-out", dev="none"))
    assert folds.notes[:2] == (
        "Train and test share sessions (the partner of a test speaker's dialogue) in 2 of 3 folds, "
        "which the protocol allows.",
        "Train and test share sentences in 2 of 3 folds, which the protocol allows.",
    )


def test_nothing_is_noted_when_nothing_is_shared() -> None:
    utterances = people("1", session="s", corpus="a", transcript="") + people("1", session="s", corpus="b")
    utterances += people("2", session="t", corpus="a") + people("3", session="u", corpus="b")
    assert make_folds(utterances, Protocol(name="corpora-out")).notes == ()  # session s of a is not that of b


def test_classes_that_cannot_be_learned_or_tested_are_named() -> None:
    labels = {"1-0": "happy", "1-1": "sad", "2-0": "happy", "2-1": "sad", "3-0": "fear", "4-0": "sad", "4-1": "sad"}
    speakers = {name: name[0] for name in labels}
    folds = [
        Fold("a", ("1-0", "1-1", "4-0", "4-1"), (), ("2-0", "2-1")),
        Fold("b", ("1-1", "2-1"), (), ("1-0", "3-0")),
    ]
    assert class_notes(labels, speakers, folds) == (
        "Only one clip of fear: it is used for training or testing, never both.",
        "2 of 4 speakers have only one class (3, 4): a model may learn the voice instead.",
        "Fold b tests fear, happy without any training examples: always wrong there.",
    )
    assert class_notes({name: labels[name] for name in ("1-0", "1-1", "2-0", "2-1")}, {}, folds[:1]) == ()


# -- utterances without a label of the main task


def without_label(*speakers: str | None) -> list[Utterance]:
    return [Utterance(id=f"bare-{n}", audio=f"/bare-{n}.wav", speaker=who) for n, who in enumerate(speakers)]


def test_copies_follow_their_originals_and_are_never_dev() -> None:
    labelled, bare = people(*"abcdef"), without_label(*"abcdef")
    copies = [u.model_copy(update={"id": f"{u.id}-copy", "copy_of": u.id}) for u in bare]
    protocol = Protocol(num_folds=3, dev="speakers")
    folds = make_folds(labelled, protocol)
    folds = add_unlabelled(folds, [*labelled, *bare, *copies], [*bare, *copies], protocol, {}, main="emotion")
    for fold in folds.folds:
        assert {name for name in fold.dev if name.startswith("bare")}
        assert not {name for name in fold.dev if name.endswith("copy")}
        followed = {u.copy_of for u in copies if u.id in fold.train}
        assert followed == {u.id for u in bare if u.id in fold.train} != set()


def test_unlabelled_utterances_without_a_speaker_are_noted() -> None:
    labelled = people(*"abcdef")
    for protocol, is_noted in ((Protocol(num_folds=3), True), (Protocol(name="random", num_folds=3), False)):
        for bare in (without_label(None, None, "a"), without_label("a")):
            folds = make_folds(labelled, protocol)
            note = add_unlabelled(folds, [*labelled, *bare], bare, protocol, {}, main="emotion").notes[-1]
            assert ("2 of them have no speaker" in note) == (is_noted and len(bare) == 3)


# -- what cannot be divided


@pytest.mark.parametrize(
    ("utterances", "protocol", "message"),
    [
        (people("1", "2"), Protocol(num_folds=3), "protocol.num_folds: 3 folds for 2 speakers"),
        (people("1", "2"), Protocol(folds=(("1", "7"), ("8",))), "protocol.folds: no speaker 7, 8 in the data"),
        (
            people("1", "2", "3"),
            Protocol(folds=(("1", "2"), ("2",))),
            "protocol.folds: speaker 2 is tested more than once",
        ),
        (people("1", "2"), Protocol(folds=(("1", "2"),), dev="none"), "fold 1 has 0 training and 4 test utterances"),
        (people("1", "2"), Protocol(num_folds=2), "protocol.dev: the training set has only one speaker"),
        (people("1"), Protocol(name="leave-one-speaker-out"), "protocol: 1 speaker in the data"),
        (
            people("a/1", "a-1", "b"),
            Protocol(name="leave-one-speaker-out"),
            "protocol: the folds of speaker a-1 and speaker a/1 would have the same name, a-1",
        ),
        (
            people("1", "2", split="train"),
            Protocol(name="official"),
            "split: the official split needs 'train' and 'test'",
        ),
        (
            people("1", split="train") + people("2", split="test") + people("3", split="val"),
            Protocol(name="official"),
            "split: utterances of the split val would be left out",
        ),
        (
            people("1", "2", split="train") + people("3", split="test"),
            Protocol(name="official", dev="official"),
            "protocol.dev: no utterance has the split 'dev'",
        ),
        ([Utterance(id="x", audio="x.wav")], Protocol(), "protocol 'speakers-out': 1 utterances have no speaker, for"),
        (people("1"), Protocol(name="sessions-out"), "protocol 'sessions-out': 2 utterances have no session"),
        (people("1"), Protocol(name="corpora-out"), "protocol 'corpora-out': 2 utterances have no corpus"),
        (people("1"), Protocol(name="official"), "protocol 'official': 2 utterances have no split"),
        (
            people("1", "2", "3"),
            Protocol(num_folds=3, dev="sessions"),
            "protocol.dev 'sessions': 4 utterances have no session",
        ),
    ],
)
def test_what_does_not_fit_is_named(utterances: list[Utterance], protocol: Protocol, message: str) -> None:
    with pytest.raises((RecipeError, ManifestError)) as error:
        make_folds(utterances, protocol)
    assert message in str(error.value)
    assert error.value.remedy


# -- leaks

FOUR = people("1", "2", "3", corpus="c") + people("4")


def one_fold(train: str, dev: str, test: str, *, is_independent: bool = True, shares_dev: bool = False) -> Folds:
    fold = Fold("7", tuple(train.split()), tuple(dev.split()), tuple(test.split()))
    return Folds("made", (fold,), is_independent, shares_dev)


@pytest.mark.parametrize(
    ("parts", "duplicates", "message"),
    [
        (("c-1-0", "c-2-0", "c-1-0"), {}, "fold 7: 1 utterance in both train and test: c-1-0"),
        (("c-1-0", "c-3-0", "c-3-0"), {}, "fold 7: 1 utterance in both dev and test: c-3-0"),
        (("c-1-0", "c-1-0", "c-3-0"), {}, "fold 7: 1 utterance in both train and dev: c-1-0"),
        (("c-1-0", "c-2-0", "c-1-1"), {}, "fold 7: 1 speaker in both train and test: c/1. Split by speaker"),
        (("4-0", "c-2-0", "4-1"), {}, "fold 7: 1 speaker in both train and test: 4. Split by speaker"),
        (("c-1-0 c-3-0", "c-2-0", "c-3-1 c-1-1"), {}, "fold 7: 2 speakers in both train and test: c/1, c/3"),
        (("c-1-0", "c-2-0", "c-2-1"), {}, "fold 7: 1 speaker in both dev and test: c/2"),
        (("c-1-0", "c-1-1", "c-3-0"), {}, "fold 7: 1 speaker in both train and dev: c/1"),
        (
            ("c-1-0", "", "c-3-0"),
            {"c-1-0": "a", "c-3-0": "a"},
            "1 identical recording in both train and test: a. Remove",
        ),
        (("c-1-0", "c-2-0", "c-3-0"), {"c-3-0": "c-2-0"}, "1 identical recording in both dev and test: c-2-0"),
        (("c-1-0", "c-2-0", "c-3-0"), {"c-2-0": "c-1-0"}, "1 identical recording in both train and dev: c-1-0"),
    ],
)
def test_a_leak_names_fold_parts_and_culprit(
    parts: tuple[str, str, str], duplicates: dict[str, str], message: str
) -> None:
    with pytest.raises(LeakError) as error:
        check_leaks(FOUR, one_fold(*parts), duplicates)
    assert message in str(error.value)
    assert error.value.remedy


def test_what_a_protocol_asks_for_is_no_leak() -> None:
    check_leaks(FOUR, one_fold("c-1-0", "c-1-1", "c-3-0", shares_dev=True), {"c-1-1": "c-1-0"})
    check_leaks(FOUR, one_fold("c-1-0", "", "c-1-1", is_independent=False), {})
    with pytest.raises(LeakError, match="identical recording in both train and test"):
        check_leaks(FOUR, one_fold("c-1-0", "", "c-1-1", is_independent=False), {"c-1-1": "c-1-0"})


def test_speakers_of_one_name_in_two_corpora_are_no_leak() -> None:
    utterances = people("1", corpus="a") + people("1", corpus="b")
    check_leaks(utterances, one_fold("a-1-0 a-1-1", "", "b-1-0 b-1-1"), {})


def test_a_speaker_of_two_sessions_stops_the_division_by_sessions() -> None:
    utterances = people("1", session="s1") + people("2", session="s2")
    utterances.append(Utterance(id="1-2", audio="x.wav", speaker="1", session="s2"))
    folds = make_folds(utterances, Protocol(name="sessions-out", dev="none"))
    with pytest.raises(LeakError, match="fold s1: 1 speaker in both train and test: 1"):
        check_leaks(utterances, folds, {})


@settings(max_examples=60)
@given(data=st.data())
def test_the_check_stops_exactly_when_the_test_side_was_heard(data: st.DataObject) -> None:
    utterances = people("1", "2", "3", "4")
    part_of = {u.id: data.draw(st.sampled_from(["train", "dev", "test", None])) for u in utterances}
    duplicates = dict.fromkeys(data.draw(st.lists(st.sampled_from(sorted(part_of)), max_size=3)), "4-1")
    parts = {p: tuple(i for i in part_of if part_of[i] == p) for p in ("train", "dev", "test")}
    heard = [
        {p: {of(i) for i in ids} for p, ids in parts.items()} for of in (lambda i: duplicates.get(i, i), lambda i: i[0])
    ]
    is_leak = any(set.intersection(each[one], each[other]) for each in heard for one, other in combinations(parts, 2))
    folds = Folds("made", (Fold("1", **parts),), True, False)
    if is_leak:
        with pytest.raises(LeakError):
            check_leaks(utterances, folds, duplicates)
    else:
        check_leaks(utterances, folds, duplicates)


# -- clips


def by_clips(*folds: tuple[str, ...], dev: str = "none") -> Protocol:
    return Protocol(name="clips-out", folds=folds, dev=dev)  # type: ignore[arg-type]


def test_clips_are_divided_by_patterns_and_every_speaker_is_on_both_sides() -> None:
    utterances = [u for speaker in "123" for u in said_by(speaker, 5)]
    folds = make_folds(utterances, by_clips(("-0$",), ("-1$", "-2$"), dev="next-fold"))
    assert [(fold.test, fold.dev, fold.train) for fold in folds.folds] == [
        (("1-0", "2-0", "3-0"), ("1-1", "1-2", "2-1", "2-2", "3-1", "3-2"), ("1-3", "1-4", "2-3", "2-4", "3-3", "3-4")),
        (("1-1", "1-2", "2-1", "2-2", "3-1", "3-2"), ("1-0", "2-0", "3-0"), ("1-3", "1-4", "2-3", "2-4", "3-3", "3-4")),
    ]
    assert folds.notes[0].startswith("SPEAKER-DEPENDENT: utterances are divided clip by clip")
    assert "Dev is the test set of the next fold." in folds.notes
    check_leaks(utterances, folds, {})


def test_a_clip_is_tested_beside_its_twin() -> None:
    utterances = said_by("1", 4)
    folds = make_folds(utterances, by_clips(("-0$",), ("-2$",)), duplicates={"1-0": "1-0", "1-1": "1-0", "1-3": "1-0"})
    assert folds.folds[0].test == ("1-0", "1-1", "1-3")


def test_a_clip_that_matches_takes_its_twins_along() -> None:
    utterances = said_by("1", 5)
    twins = {"1-0": "1-0", "1-1": "1-0", "1-2": "1-2", "1-3": "1-2"}
    folds = make_folds(utterances, by_clips(("-1$", "-2$"), ("-3$", "-4$")), duplicates=twins)
    assert [fold.test for fold in folds.folds] == [("1-0", "1-1", "1-2", "1-3"), ("1-4",)]


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        ((("-0$",), ("-9$",)), "no id matches -9\\$; the first id is 1-0"),
        ((("-0$",), ("1-",)), "1-0 is tested in fold 1 and in fold 2"),
        ((("-0$",), ("(",)), "'\\(' is not a valid pattern"),
        ((), "'clips-out' has no folds"),
    ],
)
def test_patterns_that_do_not_divide_are_named(folds: tuple[tuple[str, ...], ...], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        make_folds(said_by("1", 3), by_clips(*folds))


def test_dev_of_the_next_fold_needs_one() -> None:
    utterances = [u for split in ("train", "test", "test2") for u in said_by(split, split=split)]
    with pytest.raises(RecipeError, match="there is no next fold whose test set could serve as dev"):
        make_folds(utterances, Protocol(name="official", dev="next-fold"))


def test_dev_of_the_next_fold_holds_its_speakers() -> None:
    folds = make_folds(people(*"123456"), Protocol(num_folds=3, dev="next-fold"))
    for fold, following in zip(folds.folds, (*folds.folds[1:], folds.folds[0]), strict=True):
        assert fold.dev == following.test
    assert not folds.shares_dev


# -- speakers that are written in several ways -------------------------------------------------------------------------


@pytest.mark.parametrize("speakers", [("anna", "Anna"), ("ben", "ben "), ("J R", "JR")])
@pytest.mark.parametrize("protocol", ["speakers-out", "leave-one-speaker-out"])
def test_speakers_that_differ_by_case_or_spaces_alone_are_asked_about(speakers: tuple[str, str], protocol: str) -> None:
    utterances = people(*speakers, "3", "4", "5", "6")
    first, second = sorted(speakers)
    with pytest.raises(ManifestError) as error:
        make_folds(utterances, Protocol(name=protocol, num_folds=2))
    assert error.value.what == f"speakers differ only in case, spaces or Unicode form: {first!r} and {second!r}"
    assert "Use one spelling for each speaker" in str(error.value)


def test_speakers_of_two_corpora_may_be_written_alike() -> None:
    utterances = people("anna", "ben", corpus="one") + people("Anna", "Ben", corpus="two")
    assert make_folds(utterances, Protocol(name="leave-one-speaker-out", dev="none")).folds


def test_where_speakers_are_shared_nobody_asks() -> None:
    assert make_folds(people("anna", "Anna", "ben"), Protocol(name="random", num_folds=2)).folds
