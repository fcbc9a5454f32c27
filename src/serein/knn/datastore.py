"""Embeddings of labelled clips with nearest-neighbour search, and datastores, the folders that store them.

A folder contains `datastore.json`, `vectors.safetensors`, `clips.jsonl`, and for many clips `index.faiss`.
A datastore contains the embeddings of one model; other models are rejected.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from serein.audio import Waveform
from serein.corpora import licence_of
from serein.data import manifest
from serein.data.files import replacing, replacing_folder, sha256, write_text
from serein.data.manifest import Utterance
from serein.errors import ModelError, imported
from serein.metrics import FloatArray
from serein.nearest import RECALL_AT, ExactIndex, FaissIndex, write_faiss

FORMAT = 1
INDEXED_FROM = 200_000  # for fewer clips, the exact search takes some ten milliseconds

_SPARE = 8  # neighbours searched beyond k, because some may be the clip itself
_HEADER, _VECTORS, _CLIPS, _INDEX = "datastore.json", "vectors.safetensors", "clips.jsonl", "index.faiss"
_REMEDY = "Build it again; see serein knn build --help."

Vectors = NDArray[np.float32]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Nearest:
    """The nearest embeddings of some clips, nearest first.

    Attributes:
        rows: (clip, k) positions among the embeddings.
        labels: (clip, k) class numbers.
        distances: (clip, k) float64, Euclidean.
    """

    rows: Numbers
    labels: Numbers
    distances: FloatArray


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of labelled clips.

    Attributes:
        vectors: (clip, feature) float32, the input of the output layer.
        labels: (clip,) class numbers.
        keys: (clip, 2) identifiers of a clip: `key` of its id and of its samples.
        index: Index to search instead of all vectors.
    """

    vectors: Vectors
    labels: Numbers
    keys: Numbers
    index: FaissIndex | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def nearest(self, queries: Vectors, k: int, keys: Numbers | None = None) -> Nearest:
        """Return the k nearest embeddings of each query; among equally near ones, the first.

        Args:
            queries: (query, feature).
            keys: (query, 2); embeddings with the id or the samples of a query are not its neighbours.

        Raises:
            ModelError: There are fewer than k.
        """
        if k < 1:
            raise ModelError(f"k is {k}", where="--k", remedy="Choose at least one neighbour.")
        remedy = "Choose a smaller k, or add clips."
        if k > len(self):
            raise ModelError(f"k is {k}, but the datastore has {len(self)} clips", where="--k", remedy=remedy)
        num = k if keys is None else min(k + _SPARE, len(self))
        while True:
            rows, distances = (self.index or self.exact).search(queries, num)
            is_self = np.zeros(rows.shape, bool)
            if keys is not None:
                is_self = (self.keys[rows] == keys[:, None, :]).any(axis=2)
            num_others = int((~is_self).sum(axis=1).min()) if len(queries) else k
            if num_others >= k or num == len(self):
                break
            num = min(2 * num, len(self))
        if k > num_others:
            what = f"k is {k}, but the datastore has {num_others} clips other than the clip itself"
            raise ModelError(what, where="--k", remedy=remedy)
        order = np.argsort(is_self, axis=1, kind="stable")[:, :k]
        rows = np.take_along_axis(rows, order, axis=1)
        return Nearest(rows, self.labels[rows], np.take_along_axis(distances, order, axis=1))

    @cached_property
    def exact(self) -> ExactIndex:
        """Exact search of all vectors."""
        return ExactIndex(self.vectors)

    def only(self, rows: Numbers) -> Embeddings:
        """Return some of the embeddings."""
        return Embeddings(self.vectors[rows], self.labels[rows], self.keys[rows])


def key(content: str | Waveform) -> int:
    """Return a 64-bit hash of an id, or of the samples of a recording."""
    data = content.encode() if isinstance(content, str) else content.tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Index(_Strict):
    """The quality of `index.faiss`.

    Attributes:
        recall: Fraction of the ``recall_at`` nearest clips that it finds, compared with the exact search.
    """

    recall_at: int
    recall: float


class TuningRecord(_Strict):
    """The tuned k and weight of a datastore.

    Attributes:
        tuned_on: The clips that they were tuned on.
        num_clips: Number of clips in the datastore at that time.
        metric: The score that was maximised; its values for kNN and for the model alone are in per cent.
    """

    k: int
    knn_weight: float
    votes: Literal["uniform", "softmax"]
    tuned_on: str
    num_clips: int
    metric: Literal["ua", "wa", "macro_f1"]
    score: float
    model_score: float


class Header(_Strict):
    """The contents of `datastore.json`.

    Attributes:
        model: Folder or Hub name.
        model_sha256: See `serein.checkpoint.parts_digest`.
        task: The task that the classes belong to.
        size: Length of a vector.
        corpora: Corpus -> number of clips; ``own`` for clips without a corpus.
        licences: Corpus -> the licence of its recordings, which also limits the use of the datastore.
    """

    format: Literal[1] = 1
    model: str
    model_sha256: str
    task: str
    classes: tuple[str, ...]
    size: int
    num_clips: int
    corpora: dict[str, int]
    licences: dict[str, str]
    index: Index | None = None
    tuning: TuningRecord | None = None


@dataclass(frozen=True, eq=False)
class Datastore:
    """An opened datastore."""

    folder: Path
    header: Header
    embeddings: Embeddings

    @property
    def digest(self) -> str:
        """SHA-256 of the header, the vectors and the clips."""
        parts = "".join(sha256(self.folder / part) for part in (_HEADER, _VECTORS, _CLIPS))
        return hashlib.sha256(parts.encode()).hexdigest()

    def require_model(self, digest: str, where: str | Path) -> None:
        """Raise ModelError when the datastore contains the embeddings of another model."""
        if digest != self.header.model_sha256:
            raise ModelError(
                f"the datastore belongs to another model, {self.header.model} ({self.header.model_sha256[:12]}), and "
                f"not to {where} ({digest[:12]})",
                where=self.folder,
                remedy="Use that model, or build a datastore of this one.",
            )

    def clips_at(self, rows: Sequence[int]) -> list[Utterance]:
        """Return the clips of some rows."""
        wanted, found = set(rows), {}
        for number, line in enumerate(self._lines()):
            if number in wanted:
                fields = json.loads(line)
                fields["audio"] = os.path.normpath(self.folder.resolve() / fields["audio"])
                found[number] = Utterance.model_validate(fields)
        return [found[row] for row in rows]

    @cached_property
    def id_of_file(self) -> dict[str, str]:
        """Real path -> id of the clip, for files that contain exactly one clip of the datastore."""
        base, ids, num_clips = self.folder.resolve(), {}, Counter[str]()
        for fields in map(json.loads, self._lines()):
            path = os.path.realpath(base / fields["audio"])
            ids[path] = str(fields["id"])
            num_clips[path] += 1
        return {path: id for path, id in ids.items() if num_clips[path] == 1}

    @cached_property
    def speakers(self) -> frozenset[str]:
        """The speakers, as named by `serein.data.protocols.speaker_key`; clips without one are skipped."""
        lines = (json.loads(line) for line in self._lines())
        return frozenset(f"{line.get('corpus') or ''}/{line['speaker']}" for line in lines if line.get("speaker"))

    def _lines(self) -> Iterator[str]:
        with open(self.folder / _CLIPS, encoding="utf-8") as file:
            yield from file


def write_datastore(
    folder: Path,
    header: Header,
    embeddings: Embeddings,
    clips: Sequence[Utterance],
    *,
    before: Path | None = None,
    indexed_from: int = INDEXED_FROM,
) -> Header:
    """Write a datastore, atomically.

    Args:
        header: Its counts, licences and index are filled in.
        embeddings: All embeddings of the datastore, those of `before` first.
        clips: The clips that `before` does not contain.
        before: A datastore whose clips come first; may be `folder`.
        indexed_from: Write an index if there are at least this many clips.

    Raises:
        ModelError: `folder` exists and is not a datastore.
        MissingExtraError: There are enough clips for an index, and faiss is not installed.
    """
    require_writable(folder, len(embeddings), indexed_from)
    kept = ("id", "audio", "start_s", "end_s", "speaker", "corpus", header.task)  # enough to find and identify a clip
    corpora = Counter(header.corpora) + Counter(clip.corpus or "own" for clip in clips)
    arrays: Mapping[str, Any] = {"vectors": embeddings.vectors, "labels": embeddings.labels, "keys": embeddings.keys}
    with replacing_folder(folder) as partial:
        path = partial / _CLIPS
        manifest.write((Utterance(**{name: getattr(clip, name) for name in kept}) for clip in clips), path)
        if before is not None:
            added = path.read_text(encoding="utf-8")
            path.write_text((before / _CLIPS).read_text(encoding="utf-8") + added, encoding="utf-8")
        with replacing(partial / _VECTORS) as file:  # safetensors would make it readable only by its owner
            save_file({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}, file)
        index = None
        if len(embeddings) >= indexed_from:
            recall = write_faiss(embeddings.exact, partial / _INDEX, np.random.default_rng(0))
            index = Index(recall_at=RECALL_AT, recall=round(recall, 4))
        counts = {
            "size": embeddings.vectors.shape[1],
            "num_clips": len(embeddings),
            "corpora": dict(sorted(corpora.items())),
            "licences": {name: licence_of(name) or "not stated" for name in sorted(corpora)},
        }
        header = header.model_copy(update={**counts, "index": index})
        write_header(partial, header)
    return header


def require_writable(folder: Path, num_clips: int, indexed_from: int = INDEXED_FROM) -> None:
    """Raise an error if a datastore of this many clips cannot be written, before they are embedded.

    Raises:
        ModelError: `folder` exists and is not a datastore.
        MissingExtraError: There are enough clips for an index, and faiss is not installed.
    """
    if folder.exists() and not is_datastore(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError("exists and is not a datastore", where=folder, remedy="Specify a new folder.")
    if num_clips >= indexed_from:
        imported("faiss", "search")


def write_header(folder: Path, header: Header) -> None:
    """Write `datastore.json` atomically."""
    text = json.dumps(header.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(folder / _HEADER, text + "\n")


def open_datastore(folder: str | Path) -> Datastore:
    """Open a datastore; its vectors are memory-mapped.

    Raises:
        ModelError: It does not exist, a part is missing or damaged, or the parts do not match.
        MissingExtraError: It has an index, and faiss is not installed.
    """
    folder = Path(folder)
    if not is_datastore(folder):
        raise ModelError("no such datastore", where=folder, remedy="Build one; see serein knn build --help.")
    try:
        header = Header.model_validate(json.loads((folder / _HEADER).read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ModelError("damaged: not JSON", where=folder / _HEADER, remedy=_REMEDY) from None
    except ValidationError as error:
        problem = error.errors()[0]
        named = ".".join(str(part) for part in problem["loc"])
        what = f"key '{named}': {problem['msg'].lower()}"
        raise ModelError(what, where=folder / _HEADER, remedy=_REMEDY) from None
    try:
        arrays = {name: tensor.numpy() for name, tensor in load_file(folder / _VECTORS).items()}
        embeddings = Embeddings(arrays["vectors"], arrays["labels"], arrays["keys"])
    except (SafetensorError, OSError, KeyError) as error:
        raise ModelError(f"damaged ({error})", where=folder / _VECTORS, remedy=_REMEDY) from None
    num, labels = header.num_clips, embeddings.labels
    fits = embeddings.vectors.shape == (num, header.size) and embeddings.keys.shape == (num, 2)
    fits = fits and labels.shape == (num,) and labels.dtype == np.int64
    if not fits or (num and not 0 <= labels.min() <= labels.max() < len(header.classes)):
        raise ModelError(f"does not contain the {num} clips that datastore.json states", where=folder, remedy=_REMEDY)
    if header.index is not None:
        embeddings = replace(embeddings, index=FaissIndex(folder / _INDEX, embeddings.exact))
    if folder.is_symlink():
        folder = folder.resolve()  # the paths of its clips are relative to where it is
    return Datastore(folder, header, embeddings)


def is_datastore(folder: str | Path) -> bool:
    """Return whether a folder has the parts of a datastore."""
    return all((Path(folder) / part).is_file() for part in (_HEADER, _VECTORS, _CLIPS))
