"""Acted corpora that ship tables or texts with their clips: their file names, and parsers for the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from serein import audio
from serein.corpora.corpus import Acted, Corpus, Expected, audio_files, require_folder
from serein.corpora.tables import decoded, rows, years
from serein.data.manifest import Gender, Rating, Utterance
from serein.errors import ManifestError

# 91 American actors say twelve sentences in six emotions, rated by crowd workers (Cao et al. 2014): actor, sentence,
# emotion, level. Only votes on the voice alone become ratings; those on the face, and on both, are left out.
CREMAD_NAMES = Acted(
    name="cremad",
    title="CREMA-D",
    languages=("en",),
    licence="ODbL 1.0 (database), DbCL 1.0 (contents)",
    citation=(
        "Cao, H., Cooper, D. G., Keutmann, M. K., Gur, R. C., Nenkova, A. and Verma, R. (2014). CREMA-D: Crowd-sourced "
        "Emotional Multimodal Actors Dataset. IEEE Transactions on Affective Computing 5(4), 377-390. "
        "https://doi.org/10.1109/TAFFC.2014.2336244"
    ),
    example="1001_DFA_ANG_XX.wav",
    pattern=(
        r"(?P<speaker>1\d\d\d)_(?P<text>DFA|IEO|IOM|ITH|ITS|IWL|IWW|MTI|TAI|TIE|TSI|WSI)"
        r"_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_(?:XX|LO|MD|HI|X)"
    ),
    emotions={"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"},
    texts={
        "DFA": "Don't forget a jacket",
        "IEO": "It's eleven o'clock",
        "IOM": "I'm on my way to the meeting",
        "ITH": "I think I have a doctor's appointment",
        "ITS": "I think I've seen this before",
        "IWL": "I would like a new alarm clock",
        "IWW": "I wonder what this is about",
        "MTI": "Maybe tomorrow it will be cold",
        "TAI": "The airplane is almost full",
        "TIE": "That is exactly what happened",
        "TSI": "The surface is slick",
        "WSI": "We'll stop in a couple of minutes",
    },
    expected=Expected(
        emotions={"anger": 1271, "disgust": 1271, "fear": 1271, "happy": 1271, "neutral": 1087, "sad": 1271},
        speakers={
            **dict.fromkeys(map(str, range(1001, 1092)), 82),
            **{"1002": 81, "1008": 76, "1009": 76, "1019": 76, "1076": 81},
        },
    ),
)
CREMAD_ACTORS = Path("VideoDemographics.csv")
CREMAD_VOTES = Path("processedResults", "tabulatedVotes.csv")


def parse_cremad(root: Path) -> list[Utterance]:
    """Return every clip of CREMA-D, sorted by actor and name, with the actor's age and sex and the listeners' votes.

    Each vote is a rating without a rater, because the table does not identify the listeners. The corpus's repository
    has every clip twice; those in `AudioWAV` are read, which may also be `root` itself, below the tables.

    Raises:
        ManifestError: As in `Acted.parse`, or a table is broken.
    """
    actors: dict[str, dict[str, object]] = {}
    if path := _cremad_table(root, CREMAD_ACTORS):
        known: dict[str, Gender] = {"Male": "male", "Female": "female"}
        table = rows(path, ("ActorID", "Age", "Sex"))
        actors = {row["ActorID"]: {"gender": known.get(row["Sex"]), "age": years(row["Age"])} for _, row in table}
    votes: dict[str, tuple[Rating, ...]] = {}
    if path := _cremad_table(root, CREMAD_VOTES):
        letters = {emotion[0].upper(): emotion for emotion in CREMAD_NAMES.emotions.values()}
        for _, row in rows(path, ("", "fileName", *letters)):
            # rows are numbered 100001... for the voice, 200001... for the face, 300001... for both
            if row[""].startswith("1"):
                heard = [emotion for letter, emotion in letters.items() for _ in range(int(row[letter]))]
                votes[row["fileName"]] = tuple(Rating(labels=(emotion,)) for emotion in heard)
    clips = root / "AudioWAV"
    return [
        u.model_copy(
            update={
                **actors.get(u.speaker or "", {}),
                "ratings": votes.get(u.id) or votes.get(f"{u.id}X", ()),  # 1040_ITH_SAD_X is listed as ..._XX
            }
        )
        for u in CREMAD_NAMES.parse(clips if clips.is_dir() else root)
    ]


def cremad_remarks(root: Path) -> list[str]:
    """Return a note on each table that is missing."""
    lacking = {CREMAD_ACTORS: "gender and age", CREMAD_VOTES: "ratings"}
    return [f"no {path.as_posix()}, so no {field}" for path, field in lacking.items() if not _cremad_table(root, path)]


def _cremad_table(root: Path, name: Path) -> Path | None:
    return next((folder / name for folder in (root, root.parent) if (folder / name).is_file()), None)


CREMAD = CREMAD_NAMES.corpus(parse_cremad, cremad_remarks)

# Nine Polish actors say ninety sentences in six emotions (Christop 2024): `samples/{speaker}_{emotion}_{sentence}.wav`,
# and `data.tsv` with each clip's text and its speaker's gender and age.
NEMO_NAMES = Acted(
    name="nemo",
    title="nEMO",
    languages=("pl",),
    licence="CC BY-NC-SA 4.0",
    citation=(
        "Christop, I. (2024). nEMO: Dataset of Emotional Speech in Polish. LREC-COLING 2024. "
        "https://arxiv.org/abs/2404.06292"
    ),
    example="WR0_surprised_64.wav",
    pattern=r"(?P<speaker>[A-Z]{2}\d)_(?P<emotion>anger|fear|happiness|neutral|sadness|surprised)_\d+",
    expected=Expected(
        emotions={"anger": 749, "fear": 736, "happiness": 749, "neutral": 809, "sadness": 769, "surprised": 669},
        speakers={
            "EB0": 539,
            "IC0": 540,
            "KD0": 540,
            "KS0": 540,
            "MK0": 450,
            "MP0": 256,
            "SM0": 538,
            "TP0": 539,
            "WR0": 539,
        },
    ),
)
NEMO_TABLE = "data.tsv"


def nemo_table(root: Path) -> dict[str, dict[str, str]]:
    """Return the rows of nEMO's `data.tsv` by clip name without suffix, since clips may have another suffix.

    Raises:
        ManifestError: The table is missing or broken.
    """
    require_folder(root)
    if not (root / NEMO_TABLE).is_file():
        raise ManifestError(
            f"contains no {NEMO_TABLE}",
            where=root,
            remedy=f"Specify the corpus's own folder, with samples/ and {NEMO_TABLE}.",
        )
    table = rows(root / NEMO_TABLE, ("file_id", "raw_text", "gender", "age"), separator="\t")
    return {Path(row["file_id"]).stem: row for _, row in table}


def parse_nemo(root: Path) -> list[Utterance]:
    """Return every clip of nEMO below `root`, sorted by speaker and name.

    Raises:
        ManifestError: As in `Acted.parse` and `nemo_table`, or a clip is not listed.
    """
    table = nemo_table(root)
    utterances = []
    genders: dict[str, Gender] = {"female": "female", "male": "male"}
    for utterance in NEMO_NAMES.parse(root):
        if (row := table.get(utterance.id)) is None:
            raise ManifestError(
                f"is not listed in {NEMO_TABLE}",
                where=utterance.audio,
                remedy="Move it out of the folder, or copy the table again.",
            )
        listed = {
            "gender": genders.get(row["gender"]),
            "age": years(row["age"]),
            "transcript": row["raw_text"] or None,
        }
        utterances.append(utterance.model_copy(update=listed))
    return utterances


def nemo_missing(root: Path) -> list[str]:
    """Return the clips that nEMO's table lists but the folder lacks."""
    found = {u.id for u in parse_nemo(root)}
    return [f"no {name}" for name in sorted(nemo_table(root)) if name not in found]


NEMO = NEMO_NAMES.corpus(parse_nemo, missing=nemo_missing)

# Ten Mandarin and ten English speakers say 350 sentences each in five emotions (Zhou et al. 2022).
# `0001/Angry/0001_000351.wav`, in some copies `0001/Angry/train/0001_000351.wav`; `0001/0001.txt` contains the texts,
# in various encodings, each line with a clip's name, text and emotion.
ESD_EMOTIONS = ("Angry", "Happy", "Neutral", "Sad", "Surprise")
ESD_SPEAKERS = tuple(f"{speaker:04d}" for speaker in range(1, 21))
ESD_MANDARIN = ESD_SPEAKERS[:10]
ESD_MEN = frozenset({"0004", "0005", "0006", "0008", "0010", "0011", "0012", "0013", "0014", "0020"})
ESD_SPLITS = {"train": "train", "evaluation": "dev", "test": "test"}
ESD_NAMES = Acted(
    name="esd",
    title="ESD",
    languages=("zh", "en"),
    licence="for research only, on signing its licence",
    citation=(
        "Zhou, K., Sisman, B., Liu, R. and Li, H. (2022). Emotional voice conversion: Theory, databases and ESD. "
        "Speech Communication 137, 1-18. https://doi.org/10.1016/j.specom.2021.11.006"
    ),
    example="0001_000351.wav",
    pattern=rf"(?P<speaker>{'|'.join(ESD_SPEAKERS)})_\d{{6}}",
    genders={speaker: "male" if speaker in ESD_MEN else "female" for speaker in ESD_SPEAKERS},
    expected=Expected(
        emotions=dict.fromkeys((name.lower() for name in ESD_EMOTIONS), 7000),
        speakers=dict.fromkeys(ESD_SPEAKERS, 1750),
    ),
)
_ESD_LABELS = "|".join((*ESD_EMOTIONS, "生气", "快乐", "中立", "伤心", "惊喜"))
_ESD_TEXT = re.compile(rf"(?P<name>\d{{4}}_\d{{6}})(?P<text>\s.*?)(?:\s+(?:{_ESD_LABELS}))?\s*")


def parse_esd(root: Path) -> list[Utterance]:
    """Return every clip of ESD below `root`, sorted by speaker and name.

    Raises:
        ManifestError: As in `Acted.parse`, or a clip is not in an emotion's folder.
    """
    texts: dict[str, str] = {}
    above = {folder for path in audio_files(root) for folder in path.parents if folder.is_relative_to(root)}
    for folder in sorted(above):
        path = folder / f"{folder.name}.txt"
        if folder.name in ESD_SPEAKERS and path.is_file():
            lines = decoded(path, "gb18030" if folder.name in ESD_MANDARIN else "latin-1").splitlines()
            # other lines are skipped
            texts |= {parts["name"]: parts["text"].strip() for line in lines if (parts := _ESD_TEXT.fullmatch(line))}
    utterances = []
    for utterance in ESD_NAMES.parse(root):
        folders = Path(utterance.audio).relative_to(root.parent).parts[:-1]
        if not (emotions := [name for name in folders if name in ESD_EMOTIONS]):
            raise ManifestError(
                f"is not in an emotion's folder ({', '.join(ESD_EMOTIONS)})",
                where=utterance.audio,
                remedy="Specify the corpus's own folder, with 0001/ to 0020/.",
            )
        beside = {
            "emotion": emotions[-1].lower(),
            "transcript": texts.get(utterance.id) or None,
            "split": next((ESD_SPLITS[name] for name in folders if name in ESD_SPLITS), None),
            "language": "zh" if utterance.speaker in ESD_MANDARIN else "en",
        }
        utterances.append(utterance.model_copy(update=beside))
    return utterances


ESD = ESD_NAMES.corpus(parse_esd)

# Four New Zealanders say fifteen sentences in five primary and five secondary emotions (James et al. 2018): speaker,
# emotion, sentence and session, repetition; the text is next to the clip, in female1_angry_10a_1.txt.
JL_NAMES = Acted(
    name="jl",
    title="JL-Corpus",
    languages=("en",),
    licence="CC0 1.0",
    citation=(
        "James, J., Tian, L. and Watson, C. I. (2018). An Open Source Emotional Speech Corpus for Human Robot "
        "Interaction Applications. Interspeech 2018, 2768-2772. https://doi.org/10.21437/Interspeech.2018-1349"
    ),
    example="female1_angry_10a_1.wav",
    pattern=(
        r"(?P<speaker>(?P<gender>female|male)[12])"
        r"_(?P<emotion>angry|excited|happy|neutral|sad|anxious|apologetic|assertive|concerned|encouraging)_\d+[ab]_[12]"
    ),
    genders={"female": "female", "male": "male"},
    expected=Expected(
        emotions={
            **dict.fromkeys(("angry", "excited", "happy", "neutral", "sad"), 240),
            **dict.fromkeys(("anxious", "apologetic", "assertive", "concerned", "encouraging"), 240),
        },
        speakers=dict.fromkeys(("female1", "female2", "male1", "male2"), 600),
    ),
)


def parse_jl(root: Path) -> list[Utterance]:
    """Return every clip of JL-Corpus, sorted by speaker and name; `root` may also be the folder of clips itself.

    The download's other folders are left out: a partial copy of this one, and the material of the perception test.

    Raises:
        ManifestError: As in `Acted.parse`, or a text file cannot be read or decoded.
    """
    require_folder(root)
    clips = root / "Raw JL corpus (unchecked and unannotated)" / "JL(wav+txt)"
    utterances = []
    for utterance in JL_NAMES.parse(clips if clips.is_dir() else root):
        path = Path(utterance.audio).with_suffix(".txt")
        text = " ".join(decoded(path, "cp1252").split()) if path.is_file() else ""
        utterances.append(utterance.model_copy(update={"transcript": text or None}))
    return utterances


JL = JL_NAMES.corpus(parse_jl)

# 87 Persian speakers in radio plays, in six emotions, labelled by twelve listeners (Mohamad Nezami et al. 2019):
# speaker, emotion, number. A `shemo.json` next to the folders, as in a corrected edition, contains the texts.
SHEMO_NAMES = Acted(
    name="shemo",
    title="ShEMO",
    languages=("fa",),
    licence="for academic purposes, free of charge",
    citation=(
        "Mohamad Nezami, O., Jamshid Lou, P. and Karami, M. (2019). ShEMO: a large-scale validated database for "
        "Persian speech emotion detection. Language Resources and Evaluation 53, 1-16. "
        "https://doi.org/10.1007/s10579-018-9427-x"
    ),
    example="F01A01.wav",
    pattern=r"(?P<speaker>(?P<gender>[FM])\d\d)(?P<emotion>[AFHNSW])\d+",
    emotions={"A": "anger", "F": "fear", "H": "happiness", "N": "neutral", "S": "sadness", "W": "surprise"},
    genders={"F": "female", "M": "male"},
    expected=Expected(
        emotions={"anger": 1059, "fear": 38, "happiness": 201, "neutral": 1028, "sadness": 449, "surprise": 225},
        num_speakers=87,
    ),
)


def parse_shemo(root: Path) -> list[Utterance]:
    """Return every clip of ShEMO below `root`, sorted by speaker and name.

    Raises:
        ManifestError: As in `Acted.parse`, or `shemo.json` is broken.
    """
    require_folder(root)
    path = root / "shemo.json"
    texts: dict[str, str] = {}
    if path.is_file():
        try:
            listed = json.loads(path.read_text(encoding="utf-8-sig"))
            texts = {row["id"]: row["transcript"].strip("\ufeff ") for row in listed}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ManifestError(
                f"is not a list of clips with 'id' and 'transcript' ({error})",
                where=path,
                remedy="Copy it again, or remove it: the clips then have no transcript.",
            ) from None
    return [u.model_copy(update={"transcript": texts.get(u.id)}) for u in SHEMO_NAMES.parse(root)]


SHEMO = SHEMO_NAMES.corpus(parse_shemo)


# Utterances of the series Friends, with speaker, text and one of seven emotions (Poria et al. 2019). There are three
# tables, `train_sent_emo.csv`, `dev_sent_emo.csv` and `test_sent_emo.csv`, with a folder of clips for each:
# `train_splits/dia0_utt0.mp4`, `dev_splits_complete/`, `output_repeated_splits_test/`. If the last also contains
# `final_videos_testdia0_utt0.mp4`, that is the corrected clip. Clips may also be audio extracted from the videos.
MELD_EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
MELD_FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
MELD_BROKEN = frozenset(
    {"train_dia125_utt3", "dev_dia110_utt7"}
)  # the first cannot be decoded, the second is not in the release
MELD_VIDEO = ".mp4"

_MELD_COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
_C1 = {
    code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)
}  # quotation marks of a Windows text


def parse_meld(root: Path) -> list[Utterance]:
    """Return every row of the three tables, in order, except two without a clip; the session is the dialogue.

    Raises:
        ManifestError: The folder, a table or its folder of clips is missing, or a row is not of the corpus.
    """
    require_folder(root)
    known = (MELD_VIDEO, *reversed(audio.SUFFIXES))  # audio takes precedence over video
    utterances = []
    for split, folder in MELD_FOLDERS.items():
        found = [path for path in audio.find_files(root) if path.parent.name == folder and path.suffix.lower() in known]
        clips = {path.stem: path for path in sorted(found, key=lambda path: known.index(path.suffix.lower()))}
        for name, row in _meld_rows(root, split):
            if name in MELD_BROKEN:  # dialogue numbers restart in each split, so names begin with the split
                continue
            clip = name.removeprefix(f"{split}_")
            path = clips.get(f"final_videos_test{clip}") or clips.get(clip) or root / folder / f"{clip}{MELD_VIDEO}"
            utterances.append(
                Utterance(
                    id=name,
                    audio=str(path),
                    speaker=row["Speaker"] or None,
                    session=f"{split}_dia{row['Dialogue_ID']}",
                    emotion=row["Emotion"].lower(),
                    transcript=row["Utterance"].translate(_C1) or None,
                    style="scripted",
                    split=split,
                    language="en",
                    corpus="meld",
                )
            )
    return utterances


def meld_remarks(root: Path) -> list[str]:
    """Return a note on the rows that have no clip in the release."""
    found = sorted(name for split in MELD_FOLDERS for name, _ in _meld_rows(root, split) if name in MELD_BROKEN)
    return [f"left out {', '.join(found)}: the release has no clip that can be decoded"] if found else []


def _meld_rows(root: Path, split: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield name and cells of every utterance in the table of a split."""
    table = f"{split}_sent_emo.csv"
    paths = sorted(path for path in root.rglob(table) if path.is_file())
    if not paths:
        raise ManifestError(f"contains no {table}", where=root, remedy="Specify the unpacked folder MELD.Raw.")
    for where, row in rows(paths[0], _MELD_COLUMNS, otherwise="cp1252"):
        if (emotion := row["Emotion"].lower()) not in MELD_EMOTIONS:
            raise ManifestError(f"unknown emotion '{emotion}'", where=where, remedy="Copy the table again.")
        yield f"{split}_dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}", row


MELD = Corpus(
    name="meld",
    title="MELD",
    licence="GPL-3.0 (tables); the clips are from a television series",
    citation=(
        "Poria, S., Hazarika, D., Majumder, N., Naik, G., Cambria, E. and Mihalcea, R. (2019). MELD: A Multimodal "
        "Multi-Party Dataset for Emotion Recognition in Conversations. ACL 2019, 527-536. "
        "https://doi.org/10.18653/v1/P19-1050"
    ),
    parse=parse_meld,
    # of 13,708 rows; the two without a clip are neutral
    expected=Expected(
        emotions={
            "anger": 1607,
            "disgust": 361,
            "fear": 358,
            "joy": 2308,
            "neutral": 6434,
            "sadness": 1002,
            "surprise": 1636,
        },
        splits={"train": 9988, "dev": 1108, "test": 2610},
    ),
    remarks=meld_remarks,
    languages=("en",),
)
