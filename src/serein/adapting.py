"""What a store of a corpus' own clips brings a model, by the number of clips in it; one speaker left out at a time.

A model meets speakers, rooms and words that it never learned from. Some of the corpus' clips are labelled and put into
a store; what the model then says of the clips of a speaker who is not in the store is evaluated beside the model alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serein.data import manifest
from serein.data.files import replacing, write_text
from serein.data.groups import speaker_key
from serein.data.recordings import Recordings
from serein.data.utterance import Utterance
from serein.errors import ManifestError
from serein.evaluation.intervals import Bounds, paired_difference
from serein.evaluation.panels import Line, lines_picture
from serein.evaluation.predictions import Prediction
from serein.evaluation.scores import Scores, score_predictions
from serein.evaluation.style import MUTED, RIGHT, WRONG
from serein.inference.neighbour_predictor import DEFAULT_K, DEFAULT_KNN_WEIGHT, hear, load_with_digest
from serein.inference.neighbours import (
    MAX_NEIGHBOURS,
    Embeddings,
    Numbers,
    interpolate,
    key,
    knn_probabilities,
    tune_k_and_weight,
)
from serein.labels.categories import with_class
from serein.metrics import FloatArray
from serein.progress import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = (8, 16, 32, 64, 128, 256)
WAYS = {
    "fixed": f"k {DEFAULT_K}, alpha {DEFAULT_KNN_WEIGHT:g}",
    "chosen": "k and alpha chosen in the store",
}
_PER_CENT = 100.0


@dataclass(frozen=True)
class EmbeddedCorpus:
    """A corpus as a model hears it.

    Attributes:
        utterances: Those of a class of the model.
        classes: Classes that occur among them; the model's probabilities are of these alone.
        embeddings: Their embeddings; clips of one speaker share a key, so that none is a neighbour of another.
        probabilities: (clip, class) what the model says.
        notes: What a reader must know.
    """

    utterances: tuple[Utterance, ...]
    classes: tuple[str, ...]
    embeddings: Embeddings
    probabilities: FloatArray
    notes: tuple[str, ...]

    @cached_property
    def clips_of(self) -> dict[int, Numbers]:
        """Speaker's key -> positions of the speaker's clips."""
        speakers = self.embeddings.keys[:, 0]
        return {int(speaker): np.flatnonzero(speakers == speaker) for speaker in np.unique(speakers)}


@dataclass(frozen=True)
class DatastoreSizeResult:
    """What stores of one size came to.

    Attributes:
        way: A name of `WAYS`.
        scores: Over all speakers and draws.
        difference, interval: Points of UA above the model alone, paired, and the interval over speakers.
    """

    size: int
    way: str
    scores: Scores
    difference: float
    interval: Bounds | None


@dataclass(frozen=True)
class Adaptation:
    """The model alone, and with stores of every size."""

    model: Scores
    reached: tuple[DatastoreSizeResult, ...]
    num_draws: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers, per cent."""
        return {
            "model": self.model.to_json(),
            "stores": [{**asdict(each), "scores": each.scores.to_json()} for each in self.reached],
            "num_draws": self.num_draws,
            "notes": list(self.notes),
        }


def adapt(
    model: str, manifest_path: Path, out: Path, report: Report, *, sizes: Sequence[int] = SIZES, num_draws: int = 10
) -> Adaptation:
    """Evaluate a model with stores of a corpus' clips, and write `adaptation.json` and `adaptation.png` into a folder.

    Each speaker is evaluated by stores of the others' clips, drawn at random, as many of each class as there are. What
    is drawn follows from the draw's number, and a larger store holds the smaller ones.

    Raises:
        ManifestError: A clip has no speaker, there are fewer than two, or a store of a size cannot be filled.
        ModelError: There is no such model.
    """
    corpus = embed_corpus(model, manifest_path, report)
    _require_clips(corpus, max(sizes), manifest_path)
    alone = _said(corpus, np.arange(len(corpus.utterances)), corpus.probabilities, 0)
    reached = []
    for number, size in enumerate(sorted(sizes), start=1):
        said = predict_with_datastores(corpus, size, num_draws)
        reached += [_reached(size, way, said[way], alone, corpus.classes) for way in WAYS]
        report("stores", number, len(sizes), f"{size} clips: UA {reached[-1].scores.pooled['ua']:.1f}")
    model_scores = score_predictions(alone, corpus.classes)
    found = Adaptation(model_scores, tuple(reached), num_draws, (*corpus.notes, *model_scores.notes))
    out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(found.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(out / "adaptation.json", content + "\n")
    with replacing(out / "adaptation.png") as partial:
        adaptation_picture(found).savefig(partial, format="png", dpi=160, facecolor="white")
    return found


def embed_corpus(model: str, manifest_path: Path, report: Report) -> EmbeddedCorpus:
    """Return a manifest's clips as a model hears them; those of no class of the model are left out, and noted."""
    content = load_with_digest(model)[0].content
    utterances, left_out = with_class(manifest.read(manifest_path), content.categories, "drop")
    nameless = [u.id for u in utterances if u.speaker is None]
    if nameless:
        raise ManifestError(
            f"'{nameless[0]}' and {len(nameless) - 1} others have no speaker", where=manifest_path, remedy="Name them."
        )
    recordings = Recordings(utterances, trim_db=content.options.clips.trim_db)
    detail = f"{len(utterances)} clips"
    embeddings, probabilities = hear(
        content, recordings, range(len(utterances)), "predicted", lambda done, all: report("hearing", done, all, detail)
    )
    present, labels = np.unique(embeddings.labels, return_inverse=True)
    keys = np.array([[key(speaker_key(u))] * 2 for u in utterances], np.int64).reshape(-1, 2)
    own = probabilities[:, present].astype(np.float64)
    known = {speaker_key(u) for u in utterances} & set(content.training.get("speakers", ()))
    notes = [f"Classes: {len(present)} of the model's {probabilities.shape[1]} occur, and it chooses among these."]
    notes += [f"Left out, of no class of the model: {count} {name}." for name, count in left_out.most_common()]
    notes += [f"SPEAKER-DEPENDENT: the model learned from {len(known)} of these speakers."] if known else []
    return EmbeddedCorpus(
        tuple(utterances),
        tuple(content.categories.classes[number] for number in present),
        Embeddings(embeddings.vectors, labels.astype(np.int64), keys),
        own / own.sum(axis=1, keepdims=True),
        tuple(notes),
    )


def _require_clips(corpus: EmbeddedCorpus, largest: int, where: Path) -> None:
    fewest = len(corpus.utterances) - max(map(len, corpus.clips_of.values()))
    if len(corpus.clips_of) < 2 or largest > fewest:
        raise ManifestError(
            f"without the speaker who said most, {fewest} clips are left for a store of {largest}",
            where=where,
            remedy="Ask for smaller stores: --sizes.",
        )


def predict_with_datastores(corpus: EmbeddedCorpus, size: int, num_draws: int) -> dict[str, list[Prediction]]:
    """Return way -> what is said of every clip with a store of other speakers' clips, for every draw."""
    said: dict[str, list[Prediction]] = {way: [] for way in WAYS}
    for draw in range(num_draws):
        for asked in corpus.clips_of.values():
            rows = drawn_clips(corpus, asked, size, draw)
            datastore = corpus.embeddings.only(rows)
            for way, (k, knn_weight) in weights_in(corpus, rows).items():
                nearest = datastore.nearest(corpus.embeddings.vectors[asked], k)
                votes = knn_probabilities(nearest, len(corpus.classes))
                said[way] += _said(corpus, asked, interpolate(votes, corpus.probabilities[asked], knn_weight), draw)
    return said


def drawn_clips(corpus: EmbeddedCorpus, asked: Numbers, size: int, draw: int) -> Numbers:
    """Return positions of a store's clips, none of the asked speaker's: a class after the other in turn."""
    rng = np.random.default_rng([draw, int(asked[0])])
    others = np.setdiff1d(np.arange(len(corpus.utterances)), asked)
    shuffled = rng.permutation(others)
    labels = corpus.embeddings.labels[shuffled]
    turn = np.empty(len(shuffled), np.int64)  # of its class: first, second, ...
    for label in np.unique(labels):
        turn[labels == label] = np.arange((labels == label).sum())
    order = np.lexsort((rng.random(len(shuffled)), turn))
    chosen: Numbers = shuffled[order[:size]]
    return chosen


def weights_in(corpus: EmbeddedCorpus, rows: Numbers) -> dict[str, tuple[int, float]]:
    """Return way -> k and alpha; chosen are those that do best on the store's own clips, asked of other speakers'."""
    datastore = corpus.embeddings.only(rows)
    fixed = (min(DEFAULT_K, len(rows)), DEFAULT_KNN_WEIGHT)
    of_one_speaker = int(np.unique(datastore.keys[:, 0], return_counts=True)[1].max())
    most = min(MAX_NEIGHBOURS, len(rows) - of_one_speaker)
    if most < 1:
        return {"fixed": fixed, "chosen": fixed}
    found = tune_k_and_weight(
        datastore.nearest(datastore.vectors, most, datastore.keys), corpus.probabilities[rows], datastore.labels
    )
    return {"fixed": fixed, "chosen": (found.k, found.knn_weight)}


def _said(corpus: EmbeddedCorpus, rows: Numbers, probabilities: FloatArray, draw: int) -> list[Prediction]:
    """Return probabilities, (row, class), as predictions of the clips at these positions."""
    said = []
    for row, own in zip(rows, probabilities, strict=True):
        utterance = corpus.utterances[row]
        said.append(
            Prediction(
                id=utterance.id,
                truth=corpus.classes[corpus.embeddings.labels[row]],
                prediction=corpus.classes[int(own.argmax())],
                probabilities=dict(zip(corpus.classes, map(float, own), strict=True)),
                speaker=utterance.speaker,
                gender=utterance.gender,
                seed=draw,
                corpus=utterance.corpus,
            )
        )
    return said


def _reached(
    size: int, way: str, said: Sequence[Prediction], alone: Sequence[Prediction], classes: Sequence[str]
) -> DatastoreSizeResult:
    gain = paired_difference(said, alone, classes, rng=np.random.default_rng(0))["ua"]
    bounds = gain.interval and (_PER_CENT * gain.interval[0], _PER_CENT * gain.interval[1])
    return DatastoreSizeResult(size, way, score_predictions(said, classes), _PER_CENT * gain.difference, bounds)


def adaptation_picture(found: Adaptation) -> Figure:
    """Draw what is gained over the model alone, with paired intervals, over the size of the store."""
    lines = []
    for (way, name), colour in zip(WAYS.items(), (RIGHT, WRONG), strict=True):
        own = [each for each in found.reached if each.way == way]
        sizes, gains = [each.size for each in own], [each.difference for each in own]
        lines.append(Line(name, sizes, gains, [each.interval for each in own], colour))
    alone = (f"the model alone (UA {found.model.pooled['ua']:.1f})", 0.0, MUTED)
    titles = ("clips in the store", "points of UA gained")
    return lines_picture(lines, titles, level=alone, is_logarithmic=True)
