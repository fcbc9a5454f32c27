"""JL-Corpus: four New Zealanders say fifteen sentences in five primary and five secondary emotions (James et al. 2018).

`JL(wav+txt)/female1_angry_10a_1.wav` is speaker, emotion, sentence and session, repetition; its text lies beside it in
`female1_angry_10a_1.txt`. The download holds other folders, which are left out: a partial copy of this one, and the
material of the perception test.
"""

from __future__ import annotations

import re
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected, require_folder
from serein.corpora.file_names import parse_names
from serein.corpora.tables import decoded
from serein.data.utterance import Utterance

PRIMARY = ("angry", "excited", "happy", "neutral", "sad")
SECONDARY = ("anxious", "apologetic", "assertive", "concerned", "encouraging")
EMOTIONS = (*PRIMARY, *SECONDARY)
SPEAKERS = ("female1", "female2", "male1", "male2")

_NAME = re.compile(rf"(?P<speaker>{'|'.join(SPEAKERS)})_(?P<emotion>{'|'.join(EMOTIONS)})_\d+[ab]_[12]")
_CLIPS = Path("Raw JL corpus (unchecked and unannotated)", "JL(wav+txt)")


def parse(root: Path) -> list[Utterance]:
    """Return every clip of the download, or below `root` when it is the folder of clips itself, by speaker and name.

    Raises:
        ManifestError: No folder, no audio, a foreign file name, or one clip in two places.
    """
    require_folder(root)
    clips = root / _CLIPS
    return parse_names(
        clips if clips.is_dir() else root, _NAME, _utterance, corpus="JL-Corpus", example="female1_angry_10a_1.wav"
    )


def _utterance(path: Path, parts: re.Match[str]) -> Utterance:
    text = path.with_suffix(".txt")
    return Utterance(
        id=path.stem,
        audio=str(path),
        speaker=parts["speaker"],
        gender="female" if parts["speaker"].startswith("female") else "male",
        emotion=parts["emotion"],
        transcript=(" ".join(decoded(text, "cp1252").split()) or None) if text.is_file() else None,
        style="scripted",
        language="en",
        corpus="jl",
    )


JL = Corpus(
    name="jl",
    title="JL-Corpus",
    licence="CC0 1.0",
    citation=(
        "James, J., Tian, L. and Watson, C. I. (2018). An Open Source Emotional Speech Corpus for Human Robot "
        "Interaction Applications. Interspeech 2018, 2768-2772. https://doi.org/10.21437/Interspeech.2018-1349"
    ),
    parse=parse,
    expected=Expected(emotions=dict.fromkeys(EMOTIONS, 240), speakers=dict.fromkeys(SPEAKERS, 600)),
    languages=("en",),
)
