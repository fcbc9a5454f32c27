"""nEMO: nine Polish actors say ninety sentences in six emotions (Christop 2024).

`samples/{speaker}_{emotion}_{sentence}.wav`, and `data.tsv` with each clip's text and its speaker's gender.
"""

from __future__ import annotations

import re
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected, require_folder
from serein.corpora.file_names import parse_names
from serein.corpora.tables import rows
from serein.data.utterance import Gender, Utterance
from serein.errors import ManifestError

EMOTIONS = ("anger", "fear", "happiness", "neutral", "sadness", "surprised")

TABLE = Path("data.tsv")

_NAME = re.compile(rf"(?P<speaker>[A-Z]{{2}}\d)_(?P<emotion>{'|'.join(EMOTIONS)})_(?P<sentence>\d+)")
_GENDERS: dict[str, Gender] = {"female": "female", "male": "male"}


def parse(root: Path) -> list[Utterance]:
    """Return every clip below `root`, by speaker and name.

    The suffix of the clips may be another than `data.tsv` names.

    Raises:
        ManifestError: No folder, no audio, no `data.tsv`, or a clip that is not named as the corpus's or not listed.
    """
    listed = _listed(root)

    def utterance(path: Path, parts: re.Match[str]) -> Utterance:
        row = listed.get(path.stem)
        if row is None:
            raise ManifestError(
                f"is not listed in {TABLE}", where=path, remedy="Move it out of the folder, or copy the table again."
            )
        return Utterance(
            id=path.stem,
            audio=str(path),
            speaker=parts["speaker"],
            gender=_GENDERS.get(row["gender"]),
            emotion=parts["emotion"],
            transcript=row["raw_text"] or None,
            style="scripted",
            language="pl",
            corpus="nemo",
        )

    return parse_names(root, _NAME, utterance, corpus="nEMO", example="WR0_surprised_64.wav")


def missing(root: Path) -> list[str]:
    """Return the clips that `data.tsv` lists and the folder does not hold."""
    found = {u.id for u in parse(root)}
    return [f"no {name}" for name in sorted(_listed(root)) if name not in found]


def _listed(root: Path) -> dict[str, dict[str, str]]:
    """Return each row of `data.tsv`, by the name of its clip without suffix."""
    require_folder(root)
    if not (root / TABLE).is_file():
        raise ManifestError(
            f"holds no {TABLE}", where=root, remedy=f"Name the corpus's own folder, with samples/ and {TABLE}."
        )
    table = rows(root / TABLE, ("file_id", "raw_text", "gender"), separator="\t")
    return {Path(row["file_id"]).stem: row for _, row in table}


NEMO = Corpus(
    name="nemo",
    title="nEMO",
    licence="CC BY-NC-SA 4.0",
    citation=(
        "Christop, I. (2024). nEMO: Dataset of Emotional Speech in Polish. LREC-COLING 2024. "
        "https://arxiv.org/abs/2404.06292"
    ),
    parse=parse,
    expected=Expected(
        emotions={
            "anger": 749,
            "fear": 736,
            "happiness": 749,
            "neutral": 809,
            "sadness": 769,
            "surprised": 669,
        },
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
    missing=missing,
    languages=("pl",),
)
