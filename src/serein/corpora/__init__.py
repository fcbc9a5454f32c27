"""The corpora that serein reads from their own layouts, one file each."""

from __future__ import annotations

from serein.choices import choose, names
from serein.corpora.aesdd import AESDD
from serein.corpora.audformat import AUDFORMAT
from serein.corpora.cafe import CAFE
from serein.corpora.corpus import Corpus
from serein.corpora.cremad import CREMAD
from serein.corpora.csv_table import CSV
from serein.corpora.emodb import EMODB
from serein.corpora.emovo import EMOVO
from serein.corpora.esd import ESD
from serein.corpora.folder import FOLDER
from serein.corpora.fsdd import FSDD
from serein.corpora.hub import HUB
from serein.corpora.iemocap import IEMOCAP
from serein.corpora.jl import JL
from serein.corpora.librispeech import LIBRISPEECH
from serein.corpora.meld import MELD
from serein.corpora.mesd import MESD
from serein.corpora.msp_podcast import MSP_PODCAST
from serein.corpora.nemo import NEMO
from serein.corpora.ravdess import RAVDESS
from serein.corpora.savee import SAVEE
from serein.corpora.shemo import SHEMO
from serein.corpora.subesco import SUBESCO
from serein.corpora.tess import TESS
from serein.corpora.voxceleb1 import VOXCELEB1
from serein.errors import ManifestError, expected_one_of

_KNOWN = (
    *(FOLDER, CSV, AUDFORMAT, HUB),
    *(RAVDESS, EMODB, CREMAD, NEMO, IEMOCAP, MSP_PODCAST, MELD, ESD),
    *(EMOVO, TESS, SAVEE, JL, CAFE, SHEMO, SUBESCO, AESDD, MESD),
    *(VOXCELEB1, LIBRISPEECH, FSDD),
)

CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in _KNOWN}


def corpus_named(name: str) -> Corpus:
    """Return a corpus by its name: one of serein's, or of an installed package (`serein.choices`).

    Raises:
        ManifestError: The name is unknown; lists the known ones.

    Example:
        >>> corpus_named("emodb").title
        'EmoDB'
    """
    if name not in (known := names("corpus")):
        raise ManifestError(
            expected_one_of(name, known, kind="corpus"),
            remedy="Other corpora: give a table ('csv') or a folder for every emotion ('folder').",
        )
    corpus: Corpus = choose("corpus", name)
    return corpus


def licence_of(name: str | None) -> str | None:
    """Return the licence of a corpus by the name in `Utterance.corpus`; `None` when serein does not know it.

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
    """Return what to cite for a corpus, by the name in `Utterance.corpus`; `None` when it is unknown."""
    if name == "synth":
        from serein.corpora import synth

        return synth.CITATION
    return CORPORA[name].citation if name in CORPORA else None
