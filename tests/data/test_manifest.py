"""Manifests: what is written comes back, wherever the folder moves, and a bad line is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from serein.data import manifest
from serein.data.manifest import Rating, Utterance
from serein.errors import ManifestError

FULL = Utterance(
    id="a/1",
    audio="/data/wav/ä 1.wav",
    start_s=0.25,
    end_s=1.5,
    speaker="03",
    gender="female",
    session="s1",
    emotion="happy",
    ratings=(Rating(labels=("happy", "happy", "calm"), comment="sounds glad", rater="r1"), Rating()),
    transcript="Grüße\u2028 an\x85 \x1dalle\nhier",
    style="improvised",
    split="test2",
    language="de",
    corpus="mine",
)


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_every_field_survives_a_round_trip(tmp_path: Path) -> None:
    bare = Utterance(id="b", audio="/data/wav/2.wav")
    rated = FULL.model_copy(update={"id": "c", "valence": 2.5, "arousal": 0.0, "dominance": 4.3333})
    manifest.write([FULL, bare, rated], tmp_path / "m.jsonl")
    assert manifest.read(tmp_path / "m.jsonl") == [FULL, bare, rated]


def test_fields_without_a_value_are_left_out_of_the_file(tmp_path: Path) -> None:
    manifest.write([Utterance(id="b", audio=str(tmp_path / "wav" / "2.wav"))], tmp_path / "m.jsonl")
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {"id": "b", "audio": "wav/2.wav"}


def test_a_folder_with_its_manifest_can_move(tmp_path: Path) -> None:
    manifest.write([Utterance(id="b", audio=str(tmp_path / "old" / "wav" / "2.wav"))], tmp_path / "old" / "m.jsonl")
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert manifest.read(tmp_path / "new" / "m.jsonl")[0].audio == str(tmp_path / "new" / "wav" / "2.wav")


def test_audio_outside_the_manifests_folder_is_found_again(tmp_path: Path) -> None:
    manifest.write([Utterance(id="b", audio=str(tmp_path / "wav" / "2.wav"))], tmp_path / "lists" / "m.jsonl")
    assert "../wav/2.wav" in (tmp_path / "lists" / "m.jsonl").read_text()
    assert manifest.read(tmp_path / "lists" / "m.jsonl")[0].audio == str(tmp_path / "wav" / "2.wav")


def test_empty_lines_windows_ends_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a", "audio": "1.wav"}\r\n\r\n{"id": "b", "audio": "2.wav"}')
    assert [u.id for u in manifest.read(path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{'id': 1}", "m.jsonl:2: not JSON"),
        ([1, 2], "m.jsonl:2: field 'line'"),
        ({"id": "b"}, "m.jsonl:2: field 'audio': field required"),
        ({"id": "", "audio": "1.wav"}, "m.jsonl:2: field 'id'"),
        ({"id": "b", "audio": ""}, "m.jsonl:2: field 'audio'"),
        ({"id": "b", "audio": "1.wav", "emotoin": "sad"}, "m.jsonl:2: field 'emotoin': extra inputs"),
        ({"id": "b", "audio": "1.wav", "gender": "f"}, "m.jsonl:2: field 'gender'"),
        (
            {"id": "b", "audio": "1.wav", "emotion": "sa\0d"},
            r"m.jsonl:2: field 'emotion': contains the control character '\x00'",
        ),
        ({"id": "b", "audio": "1.wav", "start_s": -1}, "m.jsonl:2: field 'start_s'"),
        ({"id": "b", "audio": "1.wav", "end_s": 0}, "m.jsonl:2: field 'end_s'"),
        ({"id": "b", "audio": "1.wav", "ratings": [{"label": "sad"}]}, "m.jsonl:2: field 'ratings.0.label'"),
    ],
)
def test_a_bad_line_is_named_with_its_field(tmp_path: Path, line: object, complaint: str) -> None:
    path = write_lines(tmp_path / "m.jsonl", {"id": "a", "audio": "1.wav"}, line)
    with pytest.raises(ManifestError) as error:
        manifest.read(path)
    assert complaint in str(error.value)
    assert error.value.remedy


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", *({"id": name, "audio": "1.wav"} for name in ("a", "b", "a")))
    with pytest.raises(ManifestError, match="1 ids occur more than once: a"):
        manifest.read(path)


def test_repeated_ids_are_never_written(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    manifest.write([FULL], path)
    before = path.read_bytes()
    with pytest.raises(ManifestError, match="1 ids occur more than once"):
        manifest.write([FULL, FULL], path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("audio", ["home/deep/wav/2.wav", "home/wav/2.wav", "real/wav/2.wav", "wav/2.wav", "far/2.wav"])
def test_a_manifest_behind_a_link_is_read_from_everywhere(
    audio: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real" / "deep" / "lists").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "real" / "deep")
    (tmp_path / "far").symlink_to(tmp_path / "real" / "deep" / "lists")
    path = tmp_path / audio
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    manifest.write([Utterance(id="b", audio=str(path))], tmp_path / "home" / "lists" / "m.jsonl")
    monkeypatch.chdir(tmp_path / "home" / "lists")
    for name in ("m.jsonl", tmp_path / "home" / "lists" / "m.jsonl", tmp_path / "far" / "m.jsonl"):
        assert Path(manifest.read(name)[0].audio).samefile(path)
    shutil.move(tmp_path / "real", tmp_path / "moved")  # with all that is in it, and the links
    for link in ("home", "far"):
        (tmp_path / link).unlink()
    (tmp_path / "home").symlink_to(tmp_path / "moved" / "deep")
    if audio.startswith(("home", "real")):
        assert Path(manifest.read(tmp_path / "home" / "lists" / "m.jsonl")[0].audio).is_file()


def test_missing_empty_foreign_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such manifest"):
        manifest.read(tmp_path / "none.jsonl")
    with pytest.raises(ManifestError, match="is a folder"):
        manifest.read(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ManifestError, match="contains no utterances"):
        manifest.read(tmp_path / "empty.jsonl")
    (tmp_path / "a.wav").write_bytes(b"RIFF\xff\xfe\x00")
    with pytest.raises(ManifestError, match="not a UTF-8 text file"):
        manifest.read(tmp_path / "a.wav")


def test_a_failed_write_leaves_the_old_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    manifest.write([FULL], path)
    before = path.read_bytes()

    def failing() -> object:
        yield FULL
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        manifest.write(failing(), path)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_the_digest_tells_labels_and_ignores_order_and_place() -> None:
    one, two = FULL, Utterance(id="b", audio="/data/2.wav", emotion="sad")
    moved = two.model_copy(update={"audio": "/elsewhere/2.wav"})
    assert manifest.digest([one, two]) == manifest.digest([moved, one])
    assert manifest.digest([one, two]) != manifest.digest([one, two.model_copy(update={"emotion": "calm"})])


def test_what_utterances_learned_to_say_later_moves_no_digest_of_those_that_do_not_say_it() -> None:
    """The hash is that of the release before valence, arousal and dominance: its runs resume."""
    bare = Utterance(id="b", audio="2.wav")
    assert manifest.digest([FULL, bare]) == "3aa89b8d4b33831d3767811f5963f116af748eb03d3c0d107d3cdfbdbbec88cb"
    rated = [bare.model_copy(update={"valence": value}) for value in (0.0, 2.5)]
    assert len({manifest.digest([utterance]) for utterance in (bare, *rated)}) == 3
