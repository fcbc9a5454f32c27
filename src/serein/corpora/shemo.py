"""ShEMO: 87 Persian speakers in radio plays, in six emotions, judged by twelve listeners (Mohamad Nezami et al. 2019).

The file name holds speaker, emotion and number: `F01A01.wav`. A `shemo.json` beside the folders, as a corrected edition
of the corpus has it, gives the texts.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected, require_folder
from serein.corpora.file_names import parse_names
from serein.data.utterance import Utterance
from serein.errors import ManifestError

EMOTIONS = {
    "A": "anger",
    "F": "fear",
    "H": "happiness",
    "N": "neutral",
    "S": "sadness",
    "W": "surprise",
}

TEXTS = Path("shemo.json")

_NAME = re.compile(rf"(?P<speaker>[FM]\d\d)(?P<emotion>[{''.join(EMOTIONS)}])\d+")


def parse(root: Path) -> list[Utterance]:
    """Return every clip below `root`, by speaker and name.

    Raises:
        ManifestError: No folder, no audio, a foreign file name, one clip in two places, or a broken `shemo.json`.
    """
    require_folder(root)
    texts = _texts(root / TEXTS)

    def utterance(path: Path, parts: re.Match[str]) -> Utterance:
        return Utterance(
            id=path.stem,
            audio=str(path),
            speaker=parts["speaker"],
            gender="female" if parts["speaker"].startswith("F") else "male",
            emotion=EMOTIONS[parts["emotion"]],
            transcript=texts.get(path.stem),
            style="scripted",
            language="fa",
            corpus="shemo",
        )

    return parse_names(root, _NAME, utterance, corpus="ShEMO", example="F01A01.wav")


def _texts(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
        return {row["id"]: row["transcript"].strip("\ufeff ") for row in rows}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"is no list of clips with 'id' and 'transcript' ({error})",
            where=path,
            remedy="Copy it again, or remove it: the clips then have no transcript.",
        ) from None


SHEMO = Corpus(
    name="shemo",
    title="ShEMO",
    licence="for academic purposes, free of charge",
    citation=(
        "Mohamad Nezami, O., Jamshid Lou, P. and Karami, M. (2019). ShEMO: a large-scale validated database for "
        "Persian speech emotion detection. Language Resources and Evaluation 53, 1-16. "
        "https://doi.org/10.1007/s10579-018-9427-x"
    ),
    parse=parse,
    expected=Expected(
        emotions={"anger": 1059, "fear": 38, "happiness": 201, "neutral": 1028, "sadness": 449, "surprise": 225},
        num_speakers=87,
    ),
    languages=("fa",),
)
