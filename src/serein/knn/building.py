"""Datastores of labelled clips: build from a manifest, add further clips, and tune k and the weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from serein.checkpoint import Checkpoint
from serein.data import manifest
from serein.data.dataset import Recordings
from serein.data.manifest import Utterance
from serein.data.protocols import speaker_key
from serein.errors import ManifestError, counted
from serein.inference.predictor import Predictor, load
from serein.knn.datastore import (
    INDEXED_FROM,
    Datastore,
    Embeddings,
    Header,
    TuningRecord,
    Vectors,
    open_datastore,
    require_writable,
    write_datastore,
    write_header,
)
from serein.knn.predictor import MAX_NEIGHBOURS, TunedKnn, embed_labelled, model_reference, tune_k_and_weight
from serein.progress import Report
from serein.tasks.task import keep_labelled

Metric = Literal["ua", "wa", "macro_f1"]
Votes = Literal["uniform", "softmax"]


def build(
    model: str,
    manifest_path: Path,
    out: Path,
    report: Report,
    *,
    indexed_from: int = INDEXED_FROM,
    device: str = "auto",
    backbone: Path | None = None,
) -> tuple[Header, Counter[str]]:
    """Build a datastore of a manifest's clips.

    Args:
        device: The device of the model, see `serein.load`.
        backbone: The current location of the model's pretrained backbone, if it has moved.

    Returns:
        The header, and the number of clips of each label that were left out because it is not a class of the model.

    Raises:
        ModelError: The model does not exist, or `out` contains something else.
        ManifestError, AudioError: The clips cannot be read, or none has a class.
    """
    predictor = load(model, device, backbone=backbone).uncalibrated()
    digest = predictor.checkpoint.digest
    utterances, left_out = keep_labelled(manifest.read(manifest_path), predictor.checkpoint.tasks[predictor.task])
    if not utterances:
        raise ManifestError(
            f"no utterance has a class of the model; the labels are {', '.join(left_out)}",
            where=manifest_path,
            remedy=f"Use the model's classes: {', '.join(predictor.classes)}.",
        )
    require_writable(out, len(utterances), indexed_from)
    header = new_header(model_reference(model), digest, predictor.checkpoint)
    new_embeddings = _embed(predictor, utterances, report)[0]
    return write_datastore(out, header, new_embeddings, utterances, indexed_from=indexed_from), left_out


def add(
    folder: Path,
    manifest_path: Path,
    report: Report,
    *,
    model: str | None = None,
    device: str = "auto",
    backbone: Path | None = None,
    indexed_from: int = INDEXED_FROM,
) -> tuple[Header, int]:
    """Add a manifest's clips to a datastore, without any training.

    Args:
        model: The current location of the model, if it has moved.
        device: The device of the model, see `serein.load`.
        backbone: The current location of its pretrained backbone, if it has moved.

    Returns:
        The header, and the number of clips that the datastore already contained.

    Raises:
        ModelError: The datastore or its model does not exist.
        ManifestError: A clip's label is not a class of the model, or contradicts the datastore.
    """
    require_writable(folder, len(open_datastore(folder).embeddings), indexed_from)
    datastore, utterances, added, _ = _opened(folder, manifest_path, report, model, backbone, device=device)
    held = datastore.embeddings
    # Clips with the same id, samples and label are in the datastore already.
    row_of = {name: row for row, name in enumerate(held.keys[:, 0].tolist())}
    new = []
    for number, ((name, samples), label) in enumerate(zip(added.keys.tolist(), added.labels.tolist(), strict=True)):
        row = row_of.get(name)
        if row is None:
            new.append(number)
        elif samples != held.keys[row, 1]:
            what = f"the datastore has another recording named '{utterances[number].id}'"
            raise ManifestError(what, where=manifest_path, remedy="Give the clip another id.")
        elif label != held.labels[row]:
            known = datastore.header.classes[int(held.labels[row])]
            what = f"'{utterances[number].id}' is labelled '{known}' in the datastore"
            remedy = "Build the datastore again with the correct label."
            raise ManifestError(what, where=manifest_path, remedy=remedy)
    if not new:
        return datastore.header, len(utterances)
    grown = concatenated(held, added.only(np.array(new)))
    clips = [utterances[number] for number in new]
    header = write_datastore(folder, datastore.header, grown, clips, before=folder, indexed_from=indexed_from)
    return header, len(utterances) - len(new)


@dataclass(frozen=True)
class TuningResult:
    """The tuned k and weight of a datastore.

    Attributes:
        num_clips: Number of clips that they were tuned on.
        notes: Caveats for the reader.
    """

    tuning: TuningRecord
    num_clips: int
    notes: tuple[str, ...]


def tune(
    folder: Path,
    manifest_path: Path,
    report: Report,
    *,
    model: str | None = None,
    device: str = "auto",
    backbone: Path | None = None,
    votes: Votes = "uniform",
    metric: Metric = "ua",
) -> TuningResult:
    """Tune k and the weight of a datastore on a manifest that is not a test set, and write them into the datastore.

    A clip that is in the datastore is not a neighbour of itself.

    Raises:
        ModelError: The datastore or its model does not exist.
        ManifestError: A clip's label is not a class of the model.
    """
    opened = _opened(folder, manifest_path, report, model, backbone, device=device)
    datastore, utterances, queries, probabilities = opened
    nearest = datastore.embeddings.nearest(
        queries.vectors, min(MAX_NEIGHBOURS, len(datastore.embeddings) - 1), queries.keys
    )
    found = tune_k_and_weight(nearest, probabilities, queries.labels, votes=votes, metric=metric)
    tuning = tuning_record(found, votes, metric, str(manifest_path), len(datastore.embeddings))
    write_header(folder, datastore.header.model_copy(update={"tuning": tuning}))
    known = {speaker_key(u) for u in utterances if u.speaker is not None} & datastore.speakers
    notes = [f"The datastore contains {len(known)} of these speakers, which favours the neighbours."] if known else []
    return TuningResult(tuning, len(utterances), tuple(notes))


def new_header(model: str, digest: str, checkpoint: Checkpoint) -> Header:
    """Return the header of an empty datastore."""
    return Header(
        model=model,
        model_sha256=digest,
        task=checkpoint.class_labels.field,
        classes=checkpoint.class_labels.classes,
        size=0,
        num_clips=0,
        corpora={},
        licences={},
    )


def _embed(predictor: Predictor, utterances: Sequence[Utterance], report: Report) -> tuple[Embeddings, Vectors]:
    checkpoint, detail = predictor.checkpoint, counted(len(utterances), "clip")
    recordings = Recordings(utterances, trim_db=checkpoint.options.clips.trim_db)
    recordings.prefetch(lambda done, total: report("reading audio", done, total, detail))
    embeddings, probabilities = embed_labelled(
        checkpoint,
        recordings,
        range(len(utterances)),
        "known",
        lambda done, all: report("embedding", done, all, detail),
    )
    return embeddings, probabilities


def _opened(
    folder: Path, manifest_path: Path, report: Report, model: str | None, backbone: Path | None, *, device: str
) -> tuple[Datastore, list[Utterance], Embeddings, Vectors]:
    """Return a datastore, and a manifest's clips with their embeddings and the probabilities of its model."""
    datastore = open_datastore(folder)
    name = model or datastore.header.model
    predictor = load(name, device, backbone=backbone).uncalibrated()
    datastore.require_model(predictor.checkpoint.digest, name)
    utterances = manifest.read(manifest_path)
    _, foreign = keep_labelled(utterances, predictor.checkpoint.tasks[predictor.task])
    if foreign:
        counts = ", ".join(f"{count} {name}" for name, count in foreign.most_common(5))
        raise ManifestError(
            f"{foreign.total()} utterances have labels that are not classes of the model: {counts}",
            where=manifest_path,
            remedy=f"Use the model's classes: {', '.join(predictor.classes)}.",
        )
    return datastore, utterances, *_embed(predictor, utterances, report)


def concatenated(first: Embeddings, second: Embeddings) -> Embeddings:
    """Return the concatenation of two sets of embeddings."""
    return Embeddings(
        np.concatenate([first.vectors, second.vectors]),
        np.concatenate([first.labels, second.labels]),
        np.concatenate([first.keys, second.keys]),
    )


def tuning_record(found: TunedKnn, votes: Votes, metric: Metric, tuned_on: str, num_clips: int) -> TuningRecord:
    """Return the tuned values as recorded in `datastore.json`."""
    return TuningRecord(
        k=found.k,
        knn_weight=found.knn_weight,
        votes=votes,
        tuned_on=tuned_on,
        num_clips=num_clips,
        metric=metric,
        score=100 * found.score,
        model_score=100 * found.model_score,
    )
