"""Free Spoken Digit Dataset: six speakers say each digit fifty times (Jackson et al. 2018).

The file name holds everything: `7_jackson_32.wav` is the digit 7, said by Jackson, his recording 32 of it. Recordings
0 to 4 are the official test set.
"""

from __future__ import annotations

import re
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected, audio_files, require_one_file_each
from serein.data.utterance import Utterance
from serein.errors import ManifestError

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUM_TESTED = 5  # recordings of each digit and speaker

_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<number>\d+)")


def parse(root: Path) -> list[Utterance]:
    """Return every clip below `root`, by speaker, digit and number.

    Raises:
        ManifestError: No folder, no audio, a foreign file name, or one clip in two places.
    """
    found = sorted((_parts(path), str(path)) for path in audio_files(root))
    utterances = [_utterance(parts, path) for parts, path in found]
    require_one_file_each(utterances, root)
    return utterances


def _parts(path: Path) -> tuple[str, int, int]:
    parts = _NAME.fullmatch(path.stem)
    if parts is None:
        raise ManifestError(
            "is not named as FSDD names its clips, such as 7_jackson_32.wav",
            where=path,
            remedy="Name the folder 'recordings' of the corpus, or move this file out of it.",
        )
    return parts["speaker"], int(parts["digit"]), int(parts["number"])


def _utterance(parts: tuple[str, int, int], path: str) -> Utterance:
    speaker, digit, number = parts
    return Utterance(
        id=Path(path).stem,
        audio=path,
        speaker=speaker,
        gender="male",  # all six, by the corpus's own list
        transcript=WORDS[digit],
        style="scripted",
        split="test" if number < NUM_TESTED else "train",
        language="en",
        corpus="fsdd",
    )


FSDD = Corpus(
    name="fsdd",
    title="Free Spoken Digit Dataset",
    licence="CC BY-SA 4.0",
    citation=(
        "Jackson, Z. et al. (2018). Jakobovski/free-spoken-digit-dataset: v1.0.8. Zenodo. "
        "https://doi.org/10.5281/zenodo.1342401"
    ),
    parse=parse,
    expected=Expected(splits={"train": 2700, "test": 300}, num_speakers=6),
    languages=("en",),
)
