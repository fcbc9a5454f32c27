"""A user's own recordings: what people's spreadsheets hold, and a folder for every emotion."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serein.corpora.prepare import prepare
from serein.corpora.recordings import CSV, csv_remarks, folder_remarks, parse_csv, parse_folder
from serein.corpora.tables import ALIASES, FIELDS, is_missing, seconds
from serein.errors import ManifestError

REAL = Path(os.environ.get("SEREIN_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def table(folder: Path, text: str, *, encoding: str = "utf-8") -> Path:
    (folder / "manifest.csv").write_bytes(text.encode(encoding))
    return folder / "manifest.csv"


def test_the_usual_columns(tmp_path: Path) -> None:
    path = table(tmp_path, 'path,speaker,gender,emotion,text\nwav/ä.wav,03,f,sad,"Well, no."\nwav/b.wav,,,,\n')
    first, second = parse_csv(path)
    assert first.model_dump(exclude_defaults=True) == {
        "id": "wav/ä",
        "audio": str(tmp_path / "wav" / "ä.wav"),
        "speaker": "03",
        "gender": "female",
        "emotion": "sad",
        "transcript": "Well, no.",
    }
    assert second.model_dump(exclude_defaults=True) == {
        "id": "wav/b",
        "audio": str(tmp_path / "wav" / "b.wav"),
    }


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_byte_order_marks_and_line_ends(tmp_path: Path, separator: str, encoding: str, end: str) -> None:
    rows = [["audio", "emotion"], ["1.wav", "sad"], ["", ""], ["2.wav", "fröhlich"]]
    text = end.join(separator.join(row) for row in rows) + end
    assert [u.emotion for u in parse_csv(table(tmp_path, text, encoding=encoding))] == ["sad", "fröhlich"]


@pytest.mark.parametrize(("field", "alias"), [(field, alias) for field, names in ALIASES.items() for alias in names])
def test_every_alias_in_any_case(tmp_path: Path, field: str, alias: str) -> None:
    value = {"audio": "1.wav", "gender": "m", **dict.fromkeys(("age", "start_s", "end_s", "arousal"), "1.5")}.get(
        field, "x"
    )
    header, row = (alias.upper(), value) if field == "audio" else (f"{alias.upper()},audio", f"{value},1.wav")
    (utterance,) = parse_csv(table(tmp_path, f"{header}\n{row}\n"))
    numbers = dict.fromkeys(("age", "start_s", "end_s", "arousal"), 1.5)
    assert getattr(utterance, field) == {"audio": str(tmp_path / "1.wav"), "gender": "male", **numbers}.get(field, "x")


def test_the_table_may_be_its_folder(tmp_path: Path) -> None:
    path = table(tmp_path, "file\n1.wav\n")
    assert parse_csv(tmp_path) == parse_csv(path)


def test_parts_of_one_file_get_their_own_ids(tmp_path: Path) -> None:
    path = table(tmp_path, "file;start;end\nshow.wav;0;1,5\nshow.wav;1,5;\n")
    assert [(u.id, u.start_s, u.end_s) for u in parse_csv(path)] == [
        ("show#0-1.5", 0.0, 1.5),
        ("show#1.5-end", 1.5, None),
    ]


def test_valence_arousal_and_dominance_with_decimal_commas_and_empty_cells(tmp_path: Path) -> None:
    path = table(tmp_path, "file;valence;activation;dominance\n1.wav;2,5;4;\n")
    (utterance,) = parse_csv(path)
    assert (utterance.valence, utterance.arousal, utterance.dominance) == (2.5, 4.0, None)


def test_an_age_is_a_number_of_years_and_words_for_it_are_none(tmp_path: Path) -> None:
    path = table(tmp_path, "file;age\n1.wav;61,5\n2.wav;34\n3.wav;twenties\n4.wav;\n")
    assert [u.age for u in parse_csv(path)] == [61.5, 34.0, None, None]
    with pytest.raises(
        ManifestError, match=r"column 'age' contains '250.0': Input should be less than or equal to 120"
    ):
        parse_csv(table(tmp_path, "file;age\n1.wav;250\n"))


def test_languages_get_their_code_of_two_letters(tmp_path: Path) -> None:
    path = table(tmp_path, "file,lang\n1.wav,deu\n2.wav,CMN\n3.wav,en\n4.wav,yue\n5.wav,Swiss German\n6.wav,\n")
    assert [u.language for u in parse_csv(path)] == ["de", "zh", "en", "yue", "Swiss German", None]


def test_ids_and_absolute_and_windows_paths(tmp_path: Path) -> None:
    path = table(tmp_path, "id,file\nx,/data/1.wav\n,sub\\2.wav\n")
    assert [(u.id, u.audio) for u in parse_csv(path)] == [
        ("x", "/data/1.wav"),
        ("sub/2", str(tmp_path / "sub/2.wav")),
    ]


def test_a_cell_may_hold_line_breaks_and_rare_separators(tmp_path: Path) -> None:
    path = table(tmp_path, 'file,text\n1.wav,"two\nlines"\n2.wav,one\u2028line\n')
    assert [u.transcript for u in parse_csv(path)] == ["two\nlines", "one\u2028line"]


def test_unknown_columns_are_noted(tmp_path: Path) -> None:
    path = table(tmp_path, "file,accent,emotion,mood\n1.wav,us,sad,low\n")
    assert csv_remarks(path) == [f"left out 2 unknown columns: accent, mood (known: {', '.join(FIELDS)})"]
    assert parse_csv(path)[0].emotion == "sad"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"no column of audio paths; its columns are: \(none\)"),
        ("speaker,emotion\n1,sad\n", "no column of audio paths; its columns are: speaker, emotion"),
        ("path,file\n1.wav,2.wav\n", "several columns for audio: path, file"),
        ("path\n", "contains no rows"),
        ("path,emotion\n1.wav,sad\n2.wav\n", r"manifest\.csv:3: has 1 cells, but the header has 2"),
        ("path,text\n1.wav,Well, no.\n", r"manifest\.csv:2: has 3 cells.*double quotes"),
        ("path,emotion\n,sad\n", r"manifest\.csv:2: the audio path is empty"),
        ("path,gender\n1.wav,x\n", r"manifest\.csv:2: column 'gender' contains 'x'"),
        ("path,start\n1.wav,soon\n", r"manifest\.csv:2: column 'start' contains 'soon'"),
        ("path,end\n1.wav,-1\n", r"manifest\.csv:2: column 'end' contains '-1'"),
        (
            "path,end\n1.wav,-1 days +23:59:59\n",
            r"manifest\.csv:2: column 'end' contains '-1 days .* which is not a time",
        ),
        ("path,start,end\n1.wav,2,1\n", r"manifest\.csv:2: ends at 1 s and starts at 2 s"),
        ("path,end\n1.wav,0\n", r"manifest\.csv:2: ends at 0 s and starts at 0 s"),
        ("path,start_ms,end_ms\n1.wav,500,900\n", r"column 'start_ms' may specify a part of the file"),
        ("path,Offset\n1.wav,500\n", r"column 'Offset' may specify a part"),
        ("path,start,duration\n1.wav,0,0.2\n", r"column 'duration' may specify a part of the file\. Give times"),
        ("path,end,Dur (s)\n1.wav,1,0.2\n", r"column 'Dur \(s\)' may specify a part"),
        ("id,path,segment_start,segment_end\nx,1.wav,0,1\n", "column 'segment_start' may specify a part"),
        ("id,path,xmin,xmax\nx,1.wav,0,1\n", "column 'xmin' may specify a part"),
        ("path,Begin Time (s)\n1.wav,5\n", r"column 'Begin Time \(s\)' may specify a part"),
        ("path;Begin Time - hh:mm:ss.ms\n1.wav;5\n", "column 'Begin Time - hh:mm:ss.ms' may specify a part"),
        ("path,label,emotion\n1.wav,sad,sad\n", r"several columns for emotion: label, emotion\."),
        ("path,valence\n1.wav,high\n", r"manifest\.csv:2: column 'valence' contains 'high'"),
        ("path,class\n1.wav,sad\n2.wav,nan\n", r"no column 'emotion'; the emotions may be in column 'class' \(sad\)"),
        (
            "path,,speaker\n1.wav,sad,x\n2.wav,calm,y\n",
            r"the emotions may be in the column without a name \(sad, calm\)\. If so",
        ),
        ('path,text\n1.wav,"open\n2.wav,x\n', "not a readable CSV"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ManifestError, match=complaint) as error:
        parse_csv(table(tmp_path, text))
    assert error.value.remedy


def test_row_numbers_may_go_without_a_name(tmp_path: Path) -> None:
    path = table(tmp_path, ",path,speaker\n0,1.wav,x\n1,2.wav,y\n")
    assert [u.speaker for u in parse_csv(path)] == ["x", "y"]
    assert csv_remarks(path)[-1].startswith("left out 1 unknown columns: (no name)")


def test_a_column_beside_the_emotions_may_be_called_class(tmp_path: Path) -> None:
    assert parse_csv(table(tmp_path, "path,class,emotion\n1.wav,7b,sad\n"))[0].emotion == "sad"


@pytest.mark.parametrize(("header", "row"), [("duration", "1.5"), ("start,end,duration", "0.5,2,1.5")])
def test_the_duration_of_a_file_or_of_a_known_part_is_left_out(header: str, row: str, tmp_path: Path) -> None:
    path = table(tmp_path, f"path,{header}\n1.wav,{row}\n")
    assert len(parse_csv(path)) == 1
    assert csv_remarks(path)[0].startswith("left out 1 unknown columns: duration")


@pytest.mark.parametrize("marker", ["nan", "NaN", "NA", "N/A", "None", "null", "?", "-", "''", "NaT", "<NA>", " nan "])
def test_what_says_that_it_is_missing_is_missing(marker: str, tmp_path: Path) -> None:
    header = "path,emotion,speaker,gender,text,start,end,valence\n"
    path = table(tmp_path, header + "1.wav" + f",{marker}" * 7 + "\n2.wav,sad,x,f,Well,0,1,2.5\n")
    first, second = parse_csv(path)
    assert first.model_dump(exclude_defaults=True) == {"id": "1", "audio": str(tmp_path / "1.wav")}
    assert (second.emotion, second.end_s) == ("sad", 1.0)
    assert f"1 cells '{marker.strip()}' of column 'emotion' read as missing" in csv_remarks(path)
    assert is_missing(marker)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("0 days 00:00:01", 1.0),
        ("0 days 00:00:02.500000", 2.5),
        ("1 day, 00:00:01", 86_401.0),
        ("00:01.5", 1.5),
        ("1:02:03", 3723.0),
        ("1.5", 1.5),
        ("1,5", 1.5),
        ("90", 90.0),
        ("1.5 s", 1.5),
        ("0 days", 0.0),
        ("P0DT0H0M2.5S", 2.5),
    ],
)
def test_times_as_people_and_pandas_write_them(cell: str, value: float, tmp_path: Path) -> None:
    assert seconds(cell) == value
    (utterance,) = parse_csv(table(tmp_path, f'file,start,end\na.wav,"{cell}",NaT\n'))
    assert (utterance.start_s, utterance.end_s) == (value, None)


@pytest.mark.parametrize("cell", ["", "soon", "-1", "1:2:3:4", "1e3", "12:", "nan"])
def test_what_is_no_time_is_refused(cell: str) -> None:
    with pytest.raises(ValueError):
        seconds(cell)


def test_a_table_of_parts_as_audformat_keeps_it(tmp_path: Path) -> None:
    path = table(tmp_path, "file,start,end,speaker,emotion\nc/a.flac,0 days 00:00:01,0 days 00:00:02.500000,01,sad\n")
    (utterance,) = parse_csv(path)
    assert (utterance.id, utterance.start_s, utterance.end_s) == ("c/a#1-2.5", 1.0, 2.5)


def test_a_missing_table_and_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such table"):
        parse_csv(tmp_path)
    with pytest.raises(ManifestError, match="is not a UTF-8 text file"):
        parse_csv(table(tmp_path, "path,text\n1.wav,Grüße\n", encoding="latin-1"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "emotions"),
    [
        ("ravdess", 1440, 8),
        ("ravdess_native", 12, 8),
        ("urdu", 400, 4),
        ("fsdd", 3000, 0),
        ("librispeech_excerpt", 351, 0),
    ],
)
def test_the_real_tables(name: str, number: int, emotions: int) -> None:
    if not (REAL / name).is_dir():
        pytest.skip(f"no {name} in {REAL}")
    prepared = prepare(CSV, REAL / name)
    assert (len(prepared.utterances), prepared.skipped, prepared.notes) == (number, [], [])
    assert len({u.emotion for u in prepared.utterances} - {None}) == emotions
    assert {u.gender for u in prepared.utterances} <= {"female", "male"}


# -- A folder for every emotion ----------------------------------------------------------------------------------------


def test_emotion_and_speaker_come_from_the_folders(tmp_path: Path) -> None:
    root = tree(tmp_path, "sad/anna/1.wav", "sad/ben/1.flac", "happy/2.take.mp3")
    assert [(u.id, u.emotion, u.speaker) for u in parse_folder(root)] == [
        ("happy/2.take", "happy", None),
        ("sad/anna/1", "sad", "anna"),
        ("sad/ben/1", "sad", "ben"),
    ]


def test_no_field_is_guessed(tmp_path: Path) -> None:
    first = parse_folder(tree(tmp_path, "a/1.wav", "b/1.wav"))[0]
    assert first.model_dump(exclude_defaults=True) == {
        "id": "a/1",
        "audio": str(tmp_path / "a" / "1.wav"),
        "emotion": "a",
    }


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ((), "contains no audio \\(the folder is empty\\)"),
        (("a/1.m4a", "a/2.m4a", "b/x.txt"), r"contains no audio \(found 2 \.m4a, 1 \.txt\)\. .*ffmpeg"),
        (("1.wav", "a/1.wav", "b/1.wav"), r"1 of 3 files are directly in the folder, such as 1\.wav"),
        (
            ("a/b/c/1.wav", "b/1.wav"),
            r"1 of 2 files are deeper than <emotion>/<speaker>, such as a/b/c/1\.wav",
        ),
        (("a/1.wav", "a/2.wav"), "contains only one emotion: a"),
        (("train/angry/1.wav", "test/sad/1.wav"), "test, train look like splits"),
        (
            ("angry/Train/1.wav", "angry/test/1.wav", "sad/test/1.wav"),
            "Train, test below the emotions look like splits, not speakers. .*column 'split'",
        ),
        (("a/1.wav", "a/1.flac", "b/1.wav"), r"1 names occur twice, such as a/1\.flac and a/1\.wav"),
        (("03/1.wav", "08/1.wav", "16/1.wav"), "03, 08, 16 look like speakers, not emotions"),
        (("Actor_01/1.wav", "Actor_02/1.wav"), "look like speakers.*If they are codes of emotions"),
        (("03/wut/1.wav", "08/wut/1.wav"), "03, 08 look like speakers"),
    ],
)
def test_what_does_not_fit_is_named_in_folders(tmp_path: Path, names: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ManifestError, match=complaint) as error:
        parse_folder(tree(tmp_path, *names))
    assert error.value.remedy


def test_what_was_taken_and_left_out_is_said(tmp_path: Path) -> None:
    root = tree(tmp_path, "Anna/1.wav", "Ben/1.wav", "Ben/2.m4a", "README", ".DS_Store")
    assert folder_remarks(root) == [
        "used the names of 2 folders as emotions: Anna, Ben",
        "left out files that are not audio: 1 .m4a, 1 without suffix",
    ]


@pytest.mark.parametrize("upper", [("03", "08"), ("anna", "ben")])
def test_speakers_above_emotions_are_noticed(upper: tuple[str, str], tmp_path: Path) -> None:
    root = tree(tmp_path, *(f"{speaker}/{emotion}/1.wav" for speaker in upper for emotion in ("Happy", "sad")))
    assert [(u.id, u.emotion, u.speaker) for u in parse_folder(root)] == [
        (f"{speaker}/{emotion}/1", emotion, speaker) for speaker in upper for emotion in ("Happy", "sad")
    ]
    assert folder_remarks(root) == [
        "used the names of 2 folders as emotions: Happy, sad",
        f"used the names of 2 folders as speakers: {', '.join(upper)}",
        "used the upper folders as speakers, because those below them are named after emotions",
    ]
