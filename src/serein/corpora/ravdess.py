"""RAVDESS: 24 Canadian actors say two sentences in eight emotions (Livingstone & Russo 2018).

The file name holds everything: `03-01-06-01-02-01-12.wav` is modality (03 = audio only), channel
(01 = speech), emotion, intensity, statement, repetition, actor. Where the file lies does not matter.
"""

from __future__ import annotations

import re
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected, audio_files, require_one_file_each
from serein.data.utterance import Utterance
from serein.errors import ManifestError

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
ACTORS = tuple(f"{actor:02d}" for actor in range(1, 25))

_NAME = re.compile(
    r"(?P<modality>0[1-3])-(?P<channel>0[12])-(?P<emotion>0[1-8])-(?P<intensity>0[12])"
    r"-(?P<statement>0[12])-(?P<repetition>0[12])-(?P<actor>0[1-9]|1\d|2[0-4])"
)


def parse(root: Path) -> list[Utterance]:
    """Return the audio-only speech clips below `root`, by actor and name.

    Raises:
        ManifestError: No folder, no speech clips, a foreign file name, or one clip in two places.
    """
    paths = [path for path in audio_files(root) if _kind(path) == "speech"]
    if not paths:
        raise ManifestError(
            f"holds no audio-only speech clips ({'; '.join(remarks(root))})",
            where=root,
            remedy="Download Audio_Speech_Actors_01-24.zip from https://zenodo.org/records/1188976.",
        )
    utterances = [_utterance(path) for path in paths]
    require_one_file_each(utterances, root)
    return sorted(utterances, key=lambda u: (u.speaker or "", u.id))


def remarks(root: Path) -> list[str]:
    """Return notes on the clips of song and video, which `parse` leaves out."""
    kinds = [_kind(path) for path in audio_files(root)]
    counts = {kind: kinds.count(kind) for kind in ("song", "video")}
    return [f"left out {count} clips of {kind}" for kind, count in counts.items() if count]


def _kind(path: Path) -> str:
    parts = _NAME.fullmatch(path.stem)
    if parts is None:
        raise ManifestError(
            "is not named as RAVDESS names its clips, such as 03-01-06-01-02-01-12.wav",
            where=path,
            remedy="Move it out of the corpus's folder.",
        )
    if parts["channel"] == "02":
        return "song"
    return "speech" if parts["modality"] == "03" else "video"


def _utterance(path: Path) -> Utterance:
    _, _, emotion, _, statement, _, actor = path.stem.split("-")
    return Utterance(
        id=path.stem,
        audio=str(path),
        speaker=actor,
        gender="male" if int(actor) % 2 else "female",
        emotion=EMOTIONS[emotion],
        transcript=STATEMENTS[statement],
        style="scripted",
        language="en",
        corpus="ravdess",
    )


RAVDESS = Corpus(
    name="ravdess",
    title="RAVDESS (speech)",
    licence="CC BY-NC-SA 4.0",
    citation=(
        "Livingstone, S. R. and Russo, F. A. (2018). The Ryerson Audio-Visual Database of Emotional Speech "
        "and Song (RAVDESS). PLoS ONE 13(5): e0196391. https://doi.org/10.1371/journal.pone.0196391"
    ),
    parse=parse,
    # neutral was spoken at one intensity only
    expected=Expected(
        emotions={emotion: 96 if emotion == "neutral" else 192 for emotion in EMOTIONS.values()},
        speakers=dict.fromkeys(ACTORS, 60),
    ),
    remarks=remarks,
    languages=("en",),
)
