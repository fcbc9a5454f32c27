"""LibriSpeech: 1,000 hours of English audio books, read by 2,484 speakers (Panayotov et al. 2015).

`train-clean-100/19/198/19-198-0000.flac` is subset, speaker, chapter, clip, with the words of the chapter's clips in
`19-198.trans.txt` beside them and the speakers' genders in `SPEAKERS.TXT`. The subsets are downloaded one by one, and
any of them will do. The name of a clip holds its speaker and chapter, so an excerpt without the inner folders is read
as well.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected, audio_files, require_one_file_each, text_lines
from serein.data.utterance import Gender, Utterance
from serein.errors import ManifestError

# Subset -> (utterances, speakers). Speakers: the paper's table 1; utterances: as the released archives hold them.
SUBSETS = {
    "train-clean-100": (28_539, 251),
    "train-clean-360": (104_014, 921),
    "train-other-500": (148_688, 1_166),
    "dev-clean": (2_703, 40),
    "dev-other": (2_864, 33),
    "test-clean": (2_620, 40),
    "test-other": (2_939, 33),
}
GENDERS: dict[str, Gender] = {"F": "female", "M": "male"}

_NAME = re.compile(r"(?P<speaker>\d+)-(?P<chapter>\d+)-\d{4}")
_AGAIN = "Copy it again from the release."


def parse(root: Path) -> list[Utterance]:
    """Return every clip below `root`, by subset and name.

    Raises:
        ManifestError: No folder, no audio, a foreign file name, a clip in two places, or a broken list.
    """
    paths = audio_files(root)
    texts, genders = _transcripts(paths), _genders(root)
    utterances = [_utterance(path, texts, genders) for path in paths]
    require_one_file_each(utterances, root)
    return sorted(utterances, key=lambda u: ((u.split or "").partition("-")[0] != "train", u.split or "", u.audio))


def remarks(root: Path) -> list[str]:
    """Return notes on clips whose words or whose speaker's gender are not known, and on what is in no subset."""
    utterances = parse(root)
    lacking = {
        "transcript, for want of .trans.txt files": sum(u.transcript is None for u in utterances),
        "gender, for want of SPEAKERS.TXT": sum(u.gender is None for u in utterances),
        "split, for want of a folder named as a subset": sum(u.split is None for u in utterances),
    }
    return [f"{count} of {len(utterances)} utterances have no {what}" for what, count in lacking.items() if count]


def expected(utterances: Sequence[Utterance]) -> Expected:
    """Return the published counts of those subsets that are at hand."""
    subsets = {subset for u in utterances if (subset := subset_of(Path(u.audio)))}
    splits: Counter[str] = Counter()
    for subset in subsets:
        splits[_split(subset)] += SUBSETS[subset][0]
    return Expected(splits=dict(splits), num_speakers=sum(SUBSETS[subset][1] for subset in subsets))


def subset_of(path: Path) -> str | None:
    """Return the innermost folder of a path that is named as a subset.

    Example:
        >>> subset_of(Path("LibriSpeech/dev-clean/84/121123/84-121123-0000.flac"))
        'dev-clean'
    """
    return next((part for part in reversed(path.parts) if part in SUBSETS), None)


def _split(subset: str) -> str:
    """Return the split: the tests stay apart, since results name which of them they are on."""
    return subset if subset.startswith("test") else subset.partition("-")[0]


def _utterance(path: Path, texts: Mapping[str, str], genders: Mapping[str, Gender]) -> Utterance:
    parts = _NAME.fullmatch(path.stem)
    if parts is None:
        raise ManifestError(
            "is not named as LibriSpeech names its clips, such as 19-198-0000.flac",
            where=path,
            remedy="Move it out of the corpus's folder.",
        )
    subset = subset_of(path)
    return Utterance(
        id=path.stem,
        audio=str(path),
        speaker=parts["speaker"],
        gender=genders.get(parts["speaker"]),
        session=parts["chapter"],
        transcript=texts.get(path.stem),
        style="scripted",
        split=None if subset is None else _split(subset),
        language="en",
        corpus="librispeech",
    )


def _transcripts(paths: Sequence[Path]) -> dict[str, str]:
    """Read the lists beside the clips, lines such as `19-198-0000 NORTHANGER ABBEY`: clip -> words."""
    texts: dict[str, str] = {}
    for folder in dict.fromkeys(path.parent for path in paths):
        for name in sorted(name for name in os.listdir(folder) if name.endswith(".trans.txt")):
            for number, line in text_lines(folder / name):
                clip, _, text = line.strip().partition(" ")
                if not _NAME.fullmatch(clip) or not text.strip():
                    raise ManifestError(
                        f"is no transcript: '{line[:40]}'", where=f"{folder / name}:{number}", remedy=_AGAIN
                    )
                texts[clip] = text.strip()
    return texts


def _genders(root: Path) -> dict[str, Gender]:
    """Read lines such as `14   | F | train-clean-360  | 25.03 | Kristin LeMoine`: speaker -> gender."""
    tables = [path for folder in (root, *root.parents[:1], *sorted(root.iterdir())) for path in _speaker_tables(folder)]
    genders: dict[str, Gender] = {}
    for number, line in text_lines(tables[0]) if tables else ():
        if line.startswith(";"):
            continue
        speaker, gender, *_ = [*(cell.strip() for cell in line.split("|")), ""]
        if not speaker.isdecimal() or gender not in GENDERS:
            raise ManifestError(f"is no speaker: '{line[:40]}'", where=f"{tables[0]}:{number}", remedy=_AGAIN)
        genders[speaker] = GENDERS[gender]
    return genders


def _speaker_tables(folder: Path) -> list[Path]:
    return [path for path in (folder / "SPEAKERS.TXT", folder / "SPEAKERS.txt") if path.is_file()]


LIBRISPEECH = Corpus(
    name="librispeech",
    title="LibriSpeech",
    licence="CC BY 4.0",
    citation=(
        "Panayotov, V., Chen, G., Povey, D. and Khudanpur, S. (2015). Librispeech: An ASR corpus based on public "
        "domain audio books. ICASSP 2015, 5206-5210. https://doi.org/10.1109/ICASSP.2015.7178964"
    ),
    parse=parse,
    expected=expected,
    remarks=remarks,
    languages=("en",),
)
