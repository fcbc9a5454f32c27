"""The corpora that serein reads from their own layouts, one file each."""

from __future__ import annotations

from serein.corpora.corpus import Corpus
from serein.corpora.csv_table import CSV
from serein.corpora.emodb import EMODB
from serein.corpora.folder import FOLDER
from serein.corpora.fsdd import FSDD
from serein.corpora.iemocap import IEMOCAP
from serein.corpora.librispeech import LIBRISPEECH
from serein.corpora.msp_podcast import MSP_PODCAST
from serein.corpora.ravdess import RAVDESS
from serein.corpora.voxceleb1 import VOXCELEB1
from serein.errors import ManifestError, expected_one_of

_KNOWN = (RAVDESS, EMODB, FOLDER, CSV, MSP_PODCAST, IEMOCAP, VOXCELEB1, LIBRISPEECH, FSDD)

CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in _KNOWN}


def corpus_named(name: str) -> Corpus:
    """Return a corpus by its name.

    Raises:
        ManifestError: The name is unknown; lists the known ones.

    Example:
        >>> corpus_named("emodb").title
        'EmoDB'
    """
    if name not in CORPORA:
        raise ManifestError(
            expected_one_of(name, CORPORA, kind="corpus"),
            remedy="Other corpora: give a table ('csv') or a folder for every emotion ('folder').",
        )
    return CORPORA[name]


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
