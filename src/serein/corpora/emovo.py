"""EMOVO: six Italian actors say fourteen sentences in seven emotions (Costantini et al. 2014).

The file name holds everything: `dis-f1-b1.wav` is emotion dis (disgusto), speaker f1 and sentence b1.
"""

from __future__ import annotations

import re
from pathlib import Path

from serein.corpora.corpus import Corpus, Expected
from serein.corpora.file_names import parse_names
from serein.data.utterance import Utterance

# The first letters of the Italian word: neutro, disgusto, gioia, paura, rabbia, sorpresa, tristezza.
EMOTIONS = {
    "neu": "neutral",
    "dis": "disgust",
    "gio": "joy",
    "pau": "fear",
    "rab": "anger",
    "sor": "surprise",
    "tri": "sadness",
}
SPEAKERS = ("f1", "f2", "f3", "m1", "m2", "m3")
SENTENCES = {  # b: short, l: long, n: without sense, d: questions
    "b1": "Gli operai si alzano presto.",
    "b2": "I vigili sono muniti di pistola.",
    "b3": "La cascata fa molto rumore.",
    "l1": "L'autunno prossimo Tony partirà per la Spagna: nella prima metà di ottobre.",
    "l2": "Ora prendo la felpa di là ed esco per fare una passeggiata.",
    "l3": "Un attimo dopo s'è incamminato... ed è inciampato.",
    "l4": "Vorrei il numero telefonico del Signor Piatti.",
    "n1": "La casa forte vuole col pane.",
    "n2": "La forza trova il passo e l'aglio rosso.",
    "n3": "Il gatto sta scorrendo nella pera",
    "n4": "Insalata pastasciutta coscia d'agnello limoncello.",
    "n5": "Uno quarantatré dieci mille cinquantasette venti.",
    "d1": "Sabato sera cosa farà?",
    "d2": "Porti con te quella cosa?",
}

_NAME = re.compile(
    rf"(?P<emotion>{'|'.join(EMOTIONS)})-(?P<speaker>{'|'.join(SPEAKERS)})-(?P<sentence>{'|'.join(SENTENCES)})"
)


def parse(root: Path) -> list[Utterance]:
    """Return every clip below `root`, by speaker and name.

    Raises:
        ManifestError: No folder, no audio, a foreign file name, or one clip in two places.
    """
    return parse_names(root, _NAME, _utterance, corpus="EMOVO", example="dis-f1-b1.wav")


def _utterance(path: Path, parts: re.Match[str]) -> Utterance:
    return Utterance(
        id=path.stem,
        audio=str(path),
        speaker=parts["speaker"],
        gender="female" if parts["speaker"].startswith("f") else "male",
        emotion=EMOTIONS[parts["emotion"]],
        transcript=SENTENCES[parts["sentence"]],
        style="scripted",
        language="it",
        corpus="emovo",
    )


EMOVO = Corpus(
    name="emovo",
    title="EMOVO",
    licence="not stated by its publisher, Fondazione Ugo Bordoni",
    citation=(
        "Costantini, G., Iaderola, I., Paoloni, A. and Todisco, M. (2014). EMOVO Corpus: an Italian Emotional Speech "
        "Database. LREC 2014. https://aclanthology.org/L14-1478/"
    ),
    parse=parse,
    expected=Expected(emotions=dict.fromkeys(EMOTIONS.values(), 84), speakers=dict.fromkeys(SPEAKERS, 98)),
    languages=("it",),
)
