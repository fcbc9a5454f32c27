"""Stores of labelled clips: built from a manifest, grown by a user's own clips, given their k and alpha."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serein.data import manifest
from serein.data.groups import speaker_key
from serein.data.recordings import Recordings
from serein.data.utterance import Utterance
from serein.errors import ManifestError
from serein.inference.neighbour_predictor import described_model, hear, load_with_digest
from serein.inference.neighbour_store import INDEXED_FROM, Chosen, Header, Store, open_store, write_header, write_store
from serein.inference.neighbours import MOST_NEIGHBOURS, Choice, Examples, Vectors, choose
from serein.inference.predictor import Predictor
from serein.labels.categories import with_class
from serein.models.folder import ModelFolder
from serein.progress import Report

By = Literal["ua", "wa", "macro_f1"]
Votes = Literal["share", "softmax"]

_PER_CENT = 100.0


def build(
    model: str, manifest_path: Path, out: Path, report: Report, *, indexed_from: int = INDEXED_FROM
) -> tuple[Header, Counter[str]]:
    """Build a store of a manifest's clips.

    Returns:
        What the store's header says, and how many clips of each label were left out because it is no class.

    Raises:
        ModelError: There is no such model, or `out` holds something else.
        ManifestError, AudioError: The clips cannot be read, or none has a class.
    """
    predictor, digest = load_with_digest(model)
    utterances, left_out = with_class(manifest.read(manifest_path), predictor.content.categories, "drop")
    if not utterances:
        raise ManifestError(
            f"no utterance has a class of the model; it has {', '.join(left_out)}",
            where=manifest_path,
            remedy=f"The model knows: {', '.join(predictor.classes)}.",
        )
    header = new_header(described_model(model), digest, predictor.content)
    heard = _heard(predictor, utterances, report)[0]
    return write_store(out, header, heard, utterances, indexed_from=indexed_from), left_out


def add(
    folder: Path, manifest_path: Path, report: Report, *, model: str | None = None, indexed_from: int = INDEXED_FROM
) -> tuple[Header, int]:
    """Add a manifest's clips to a store, without any training.

    Args:
        model: Where the model of the store lies now, if no longer where it was.

    Returns:
        What the header says, and how many clips were there already.

    Raises:
        ModelError: The store or its model is not there.
        ManifestError: A clip has a label that is no class of the model, or contradicts one of the store.
    """
    store = open_store(folder)
    predictor = _model_of(store, model)
    utterances = manifest.read(manifest_path)
    _require_classes(utterances, predictor, manifest_path)
    heard = _heard(predictor, utterances, report)[0]
    is_new = _new_ones(store, heard, utterances, manifest_path)
    new = [utterance for utterance, is_kept in zip(utterances, is_new, strict=True) if is_kept]
    if not new:
        return store.header, len(utterances)
    grown = joined(store.examples, heard.only(np.flatnonzero(is_new)))
    header = write_store(folder, store.header, grown, new, before=folder, indexed_from=indexed_from)
    return header, len(utterances) - len(new)


@dataclass(frozen=True)
class Weighed:
    """The k and alpha that a store was given.

    Attributes:
        num_clips: Clips that they were chosen on.
        notes: What a reader must know.
    """

    chosen: Chosen
    num_clips: int
    notes: tuple[str, ...]


def choose_on(
    folder: Path,
    manifest_path: Path,
    report: Report,
    *,
    model: str | None = None,
    votes: Votes = "share",
    by: By = "ua",
) -> Weighed:
    """Choose k and alpha of a store on a manifest that is no test set, and write them into the store.

    A clip that is in the store is no neighbour of itself.

    Raises:
        ModelError: The store or its model is not there.
        ManifestError: A clip has a label that is no class of the model.
    """
    store = open_store(folder)
    predictor = _model_of(store, model)
    utterances = manifest.read(manifest_path)
    _require_classes(utterances, predictor, manifest_path)
    heard, probabilities = _heard(predictor, utterances, report)
    nearest = store.examples.nearest(heard.vectors, most_neighbours(len(store.examples) - 1), heard.keys)
    found = choose(nearest, probabilities, heard.labels, votes=votes, by=by)
    chosen = as_chosen(found, votes, by, str(manifest_path), len(store.examples))
    write_header(folder, store.header.model_copy(update={"chosen": chosen}))
    known = {speaker_key(u) for u in utterances if u.speaker is not None} & store.speakers
    notes = [f"The store holds {len(known)} of these speakers, which favours the neighbours."] if known else []
    return Weighed(chosen, len(utterances), tuple(notes))


def new_header(model: str, digest: str, content: ModelFolder) -> Header:
    """Return the header of a store that holds nothing yet."""
    return Header(
        model=model,
        model_sha256=digest,
        task=content.categories.field,
        classes=content.categories.classes,
        size=0,
        num_clips=0,
        corpora={},
        licences={},
    )


def _heard(predictor: Predictor, utterances: Sequence[Utterance], report: Report) -> tuple[Examples, Vectors]:
    content, detail = predictor.content, f"{len(utterances)} clips"
    recordings = Recordings(utterances, trim_db=content.options.clips.trim_db)
    recordings.prefetch(lambda done, total: report("reading audio", done, total, detail))
    examples, probabilities = hear(
        content, recordings, range(len(utterances)), "known", lambda done, all: report("hearing", done, all, detail)
    )
    return examples, probabilities


def _model_of(store: Store, model: str | None) -> Predictor:
    name = model or store.header.model
    predictor, digest = load_with_digest(name)
    store.require_model(digest, name)
    return predictor


def _require_classes(utterances: Sequence[Utterance], predictor: Predictor, where: Path) -> None:
    categories = predictor.content.categories
    _, foreign = with_class(utterances, categories, "drop")
    if foreign:
        counts = ", ".join(f"{count} {name}" for name, count in foreign.most_common(5))
        raise ManifestError(
            f"{foreign.total()} utterances are of no class of the model: {counts}",
            where=where,
            remedy=f"The model knows: {', '.join(categories.classes)}.",
        )


def _new_ones(store: Store, heard: Examples, utterances: Sequence[Utterance], where: Path) -> NDArray[np.bool_]:
    """Return (utterance,) False for clips that a store holds already, with the same id, samples and label."""
    row_of = {name: row for row, name in enumerate(store.examples.keys[:, 0].tolist())}
    is_new = np.ones(len(utterances), bool)
    for number, ((name, samples), label) in enumerate(zip(heard.keys.tolist(), heard.labels.tolist(), strict=True)):
        if name not in row_of:
            continue
        row = row_of[name]
        if samples != store.examples.keys[row, 1]:
            raise ManifestError(
                f"the store has another recording named '{utterances[number].id}'",
                where=where,
                remedy="Give the clip an id of its own.",
            )
        if label != store.examples.labels[row]:
            known = store.header.classes[int(store.examples.labels[row])]
            raise ManifestError(
                f"'{utterances[number].id}' is labelled '{known}' in the store",
                where=where,
                remedy="Build the store anew with the label that is right.",
            )
        is_new[number] = False
    return is_new


def joined(first: Examples, second: Examples) -> Examples:
    """Return two sets of examples, one after the other."""
    return Examples(
        np.concatenate([first.vectors, second.vectors]),
        np.concatenate([first.labels, second.labels]),
        np.concatenate([first.keys, second.keys]),
    )


def most_neighbours(num: int) -> int:
    """Return the largest k to choose from, of so many examples."""
    return min(MOST_NEIGHBOURS, num)


def as_chosen(found: Choice, votes: Votes, by: By, on: str, num_clips: int) -> Chosen:
    """Return a choice as `store.json` has it."""
    return Chosen(
        k=found.k,
        alpha=found.alpha,
        votes=votes,
        on=on,
        num_clips=num_clips,
        by=by,
        score=_PER_CENT * found.score,
        model_score=_PER_CENT * found.model_score,
    )
