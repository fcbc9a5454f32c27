"""The corpora that serein can read in their original layouts."""

from __future__ import annotations

from serein.choices import choose, names
from serein.corpora.acted import AESDD, CAFE, EMODB, EMOVO, MESD, RAVDESS, SAVEE, SUBESCO, TESS
from serein.corpora.acted_tables import CREMAD, ESD, JL, MELD, NEMO, SHEMO
from serein.corpora.audformat import AUDFORMAT
from serein.corpora.corpus import Corpus
from serein.corpora.hub import HUB
from serein.corpora.iemocap import IEMOCAP
from serein.corpora.msp_podcast import MSP_PODCAST
from serein.corpora.recordings import CSV, FOLDER
from serein.corpora.speech import FSDD, LIBRISPEECH, VOXCELEB1
from serein.errors import ManifestError, expected_one_of

_KNOWN = (
    *(FOLDER, CSV, AUDFORMAT, HUB),
    *(RAVDESS, EMODB, CREMAD, NEMO, IEMOCAP, MSP_PODCAST, MELD, ESD),
    *(EMOVO, TESS, SAVEE, JL, CAFE, SHEMO, SUBESCO, AESDD, MESD),
    *(VOXCELEB1, LIBRISPEECH, FSDD),
)

CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in _KNOWN}


def corpus_named(name: str) -> Corpus:
    """Return a corpus by its name, from serein or from an installed package (`serein.choices`).

    Raises:
        ManifestError: The name is unknown; lists the known ones.

    Example:
        >>> corpus_named("emodb").title
        'EmoDB'
    """
    if name not in (known := names("corpus")):
        raise ManifestError(
            expected_one_of(name, known, kind="corpus"),
            remedy="For other corpora, use a table ('csv') or a folder per emotion ('folder').",
        )
    corpus: Corpus = choose("corpus", name)
    return corpus


def licence_of(name: str | None) -> str | None:
    """Return the licence of a corpus by the name in `Utterance.corpus`; `None` when it is unknown.

    Example:
        >>> licence_of("ravdess")
        'CC BY-NC-SA 4.0'
        >>> licence_of("my recordings") is None
        True
    """
    if name == "synth":
        from serein.corpora import synth

        return synth.LICENCE
    return CORPORA[name].licence if name in CORPORA else None


def citation_of(name: str | None) -> str | None:
    """Return the citation of a corpus by the name in `Utterance.corpus`; `None` when it is unknown."""
    if name == "synth":
        from serein.corpora import synth

        return synth.CITATION
    return CORPORA[name].citation if name in CORPORA else None
