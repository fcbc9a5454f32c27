"""Adaptation: the gain from some clips of a corpus, by kNN, by a bias per class, or by further training.

In use, a model encounters speakers, rooms and words that are not in its training data. Some of the corpus's clips are
labelled. They form a datastore, or shift the model's probabilities, or the model is trained on them by a recipe that
starts from it (LoRA, for instance). Without labels, clips drawn at random shift the probabilities, as by `serein
adapt`, whose assumption is that all classes are equally frequent. Predictions for speakers who are not among the clips
are compared with the model alone.

    python benchmarks/adaptation.py --data MANIFEST --out FOLDER [--model FOLDER] [--sizes 8 16] [--draws 10] [--json]
        [--recipe recipes/pretrained/adapt.yaml] [--recipe-draws 2]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from serein import recipe, train
from serein.data import manifest
from serein.data.dataset import Recordings
from serein.data.files import replacing, write_text
from serein.data.manifest import Utterance
from serein.data.protocols import speaker_key
from serein.errors import ManifestError, SereinError
from serein.evaluation.intervals import Bounds, interval_text, paired_difference
from serein.evaluation.plots import MUTED, RIGHT, SPARE_COLOURS, WRONG
from serein.evaluation.predictions import EvalPrediction
from serein.evaluation.scores import Scores, score_predictions
from serein.evaluation.tables import number
from serein.inference.predictor import load
from serein.knn.datastore import Embeddings, Numbers, key
from serein.knn.predictor import (
    DEFAULT_K,
    DEFAULT_KNN_WEIGHT,
    MAX_NEIGHBOURS,
    embed_labelled,
    interpolate,
    knn_probabilities_by_k,
    tune_k_and_weight,
)
from serein.metrics import FloatArray, class_bias
from serein.progress import Bars, Report
from serein.reproduce.figures import Line, lines_picture
from serein.tasks.task import keep_labelled

SIZES = (8, 16, 32, 64, 128, 256)
TUNINGS = {
    "fixed": f"kNN, k {DEFAULT_K}, weight {DEFAULT_KNN_WEIGHT:g}",
    "tuned": "kNN, k and weight tuned on the clips",
    "bias": "bias per class",
    "unlabelled": "bias per class, without labels",
    "trained": "further training",
}
MOST_TRAININGS = 10  # per size and draw
_PER_CENT = 100.0


@dataclass(frozen=True)
class EmbeddedCorpus:
    """A corpus with a model's embeddings and probabilities.

    Attributes:
        utterances: The utterances with a class of the model.
        classes: Classes that occur among them; the model's probabilities are restricted to these.
        embeddings: Their embeddings; clips of one speaker have the same key, so none is a neighbour of another.
        probabilities: The model's probabilities, (clip, class).
        notes: Caveats for readers.
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
    """The scores with datastores of one size.

    Attributes:
        tuning: How the clips are used, a name in `TUNINGS`.
        scores: Over all speakers and draws.
        difference, interval: Points of UA above the model alone, paired, and the interval over speakers.
    """

    size: int
    tuning: str
    scores: Scores
    difference: float
    interval: Bounds | None


@dataclass(frozen=True)
class KnnAdaptation:
    """The scores of the model alone and with datastores of every size."""

    model: Scores
    sizes: tuple[DatastoreSizeResult, ...]
    num_draws: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers, per cent."""
        return {
            "model": self.model.to_json(),
            "datastores": [{**asdict(each), "scores": each.scores.to_json()} for each in self.sizes],
            "num_draws": self.num_draws,
            "notes": list(self.notes),
        }


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of the model [the default model]")
    parser.add_argument("--data", type=Path, required=True, help="manifest of the corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder for adaptation.json and adaptation.png")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of clips in a datastore")
    parser.add_argument("--draws", type=int, default=10, help="random datastores per size and speaker")
    parser.add_argument("--recipe", type=Path, help="recipe to train the model further on each draw")
    parser.add_argument("--recipe-draws", type=int, default=2, help="draws per size and group of speakers to train on")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        with Bars() as bars:
            found = adapt(
                options.model,
                options.data,
                options.out,
                bars,
                sizes=options.sizes,
                num_draws=options.draws,
                recipe_path=options.recipe,
                num_recipe_draws=options.recipe_draws,
            )
    except SereinError as error:
        sys.exit(f"error: {error}")
    if options.json:
        print(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False))
        return
    Console().print(table_of(found))
    print("\n".join(dict.fromkeys(found.notes)))
    print(f"written: {options.out / 'adaptation.json'}, {options.out / 'adaptation.png'}")


def table_of(found: KnnAdaptation) -> Table:
    """Return the scores with datastores of every size."""
    table = Table(title=f"UA in per cent, pooled over speakers and {found.num_draws} draws")
    for name in ("clips", "used by", "UA", "above the model alone", "95 % interval"):
        table.add_column(name, justify="left" if name == "used by" else "right")
    alone = f"{number(found.model.pooled['ua'])} {interval_text(found.model.intervals['ua'])}"
    table.add_row("none", "", alone, "", "")
    for each in found.sizes:
        bounds = "–" if each.interval is None else f"[{each.interval[0]:+.1f}, {each.interval[1]:+.1f}]"
        ua = f"{number(each.scores.pooled['ua'])} {interval_text(each.scores.intervals['ua'])}"
        table.add_row(str(each.size), TUNINGS[each.tuning], ua, f"{each.difference:+.1f}", bounds)
    return table


def adapt(
    model: str | None,
    manifest_path: Path,
    out: Path,
    report: Report,
    *,
    sizes: Sequence[int] = SIZES,
    num_draws: int = 10,
    recipe_path: Path | None = None,
    num_recipe_draws: int = 2,
) -> KnnAdaptation:
    """Evaluate a model with datastores of a corpus's clips; write `adaptation.json` and `adaptation.png` into a folder.

    Each speaker is predicted with datastores of the other speakers' clips, drawn at random and balanced over classes as
    far as possible. A draw depends only on its number, and a larger datastore contains the smaller ones.

    Raises:
        ManifestError: A clip has no speaker, there are fewer than two speakers, or there are too few clips for a size.
        ModelError: The model does not exist.
    """
    corpus = embed_corpus(model, manifest_path, report)
    _require_clips(corpus, max(sizes), manifest_path, with_groups=recipe_path is not None)
    alone = _as_predictions(corpus, np.arange(len(corpus.utterances)), corpus.probabilities, 0)
    results = []
    for done, size in enumerate(sorted(sizes), start=1):
        by_tuning = predict_with_datastores(corpus, size, num_draws)
        if recipe_path is not None:
            by_tuning["trained"] = predict_trained(corpus, model or "default", recipe_path, size, num_recipe_draws)
        results += [_result(size, tuning, own, alone, corpus.classes) for tuning, own in by_tuning.items()]
        report("datastores", done, len(sizes), f"{size} clips: UA {results[-1].scores.pooled['ua']:.1f}")
    model_scores = score_predictions(alone, corpus.classes)
    found = KnnAdaptation(model_scores, tuple(results), num_draws, (*corpus.notes, *model_scores.notes))
    out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(found.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(out / "adaptation.json", content + "\n")
    with replacing(out / "adaptation.png") as partial:
        adaptation_picture(found).savefig(partial, format="png", dpi=160, facecolor="white")
    return found


def embed_corpus(model: str | None, manifest_path: Path, report: Report) -> EmbeddedCorpus:
    """Embed a manifest's clips; clips without a class of the model are left out, with a note."""
    checkpoint = load(model).checkpoint
    utterances, left_out = keep_labelled(manifest.read(manifest_path), checkpoint.tasks[checkpoint.task])
    nameless = [u.id for u in utterances if u.speaker is None]
    if nameless:
        raise ManifestError(
            f"'{nameless[0]}' and {len(nameless) - 1} others have no speaker",
            where=manifest_path,
            remedy="Add the field 'speaker'.",
        )
    recordings = Recordings(utterances, trim_db=checkpoint.options.clips.trim_db)
    detail = f"{len(utterances)} clips"
    embeddings, probabilities = embed_labelled(
        checkpoint,
        recordings,
        range(len(utterances)),
        "predicted",
        lambda done, all: report("embedding", done, all, detail),
    )
    present, labels = np.unique(embeddings.labels, return_inverse=True)
    keys = np.array([[key(speaker_key(u))] * 2 for u in utterances], np.int64).reshape(-1, 2)
    own = probabilities[:, present].astype(np.float64)
    known = {speaker_key(u) for u in utterances} & set(checkpoint.training.get("speakers", ()))
    notes = [
        f"Classes: {len(present)} of the model's {probabilities.shape[1]} occur; predictions are restricted to these."
    ]
    notes += [f"Left out, not a class of the model: {count} {name}." for name, count in left_out.most_common()]
    notes += [f"SPEAKER-DEPENDENT: the model was trained on {len(known)} of these speakers."] if known else []
    return EmbeddedCorpus(
        tuple(utterances),
        tuple(checkpoint.class_labels.classes[number] for number in present),
        Embeddings(embeddings.vectors, labels.astype(np.int64), keys),
        own / own.sum(axis=1, keepdims=True),
        tuple(notes),
    )


def _require_clips(corpus: EmbeddedCorpus, largest: int, where: Path, *, with_groups: bool) -> None:
    held_out = groups_of(corpus) if with_groups else list(corpus.clips_of.values())
    fewest = len(corpus.utterances) - max(map(len, held_out))
    if len(corpus.clips_of) < 2 or largest > fewest:
        raise ManifestError(
            f"without the speakers with the most clips, {fewest} clips are left for a datastore of {largest}",
            where=where,
            remedy="Choose smaller datastores: --sizes.",
        )


def predict_with_datastores(corpus: EmbeddedCorpus, size: int, num_draws: int) -> dict[str, list[EvalPrediction]]:
    """Return tuning -> predictions for every clip with a datastore of other speakers' clips, for every draw."""
    predictions: dict[str, list[EvalPrediction]] = {tuning: [] for tuning in ("fixed", "tuned", "bias", "unlabelled")}
    for draw in range(num_draws):
        for held_out in corpus.clips_of.values():
            rows = drawn_clips(corpus, held_out, size, draw)
            datastore = corpus.embeddings.only(rows)
            for tuning, (k, knn_weight) in tuned_in(corpus, rows).items():
                nearest = datastore.nearest(corpus.embeddings.vectors[held_out], k)
                votes = knn_probabilities_by_k(nearest, len(corpus.classes))[-1]
                predictions[tuning] += _as_predictions(
                    corpus, held_out, interpolate(votes, corpus.probabilities[held_out], knn_weight), draw
                )
            counts = np.bincount(datastore.labels, minlength=len(corpus.classes))
            labelled = np.maximum(counts, 1e-9) / size  # a class that no clip shows is rare, not excluded
            drawn = np.random.default_rng([draw, int(held_out[0])]).permutation(_others(corpus, held_out))[:size]
            equal = np.full(len(corpus.classes), 1 / len(corpus.classes))
            for tuning, own, priors in (("bias", rows, labelled), ("unlabelled", drawn, equal)):
                moved = corpus.probabilities[held_out] * np.exp(class_bias(corpus.probabilities[own], priors))
                predictions[tuning] += _as_predictions(corpus, held_out, moved / moved.sum(axis=1, keepdims=True), draw)
    return predictions


def predict_trained(
    corpus: EmbeddedCorpus, model: str, recipe_path: Path, size: int, num_draws: int
) -> list[EvalPrediction]:
    """Return predictions for every clip by the model trained on other speakers' clips, drawn like those of a datastore.

    With many speakers, up to `MOST_TRAININGS` groups of them are predicted by one model each.
    """
    chosen = recipe.load(recipe_path, [f"branches.main.from={model}"])
    labels = [corpus.classes[label] for label in corpus.embeddings.labels]  # in the model's words
    named = [
        utterance.model_copy(update={"emotion": label, "ratings": ()})
        for utterance, label in zip(corpus.utterances, labels, strict=True)
    ]
    predictions: list[EvalPrediction] = []
    for draw in range(num_draws):
        for held_out in groups_of(corpus):
            rows = drawn_clips(corpus, held_out, size, draw)
            with tempfile.TemporaryDirectory() as folder:
                manifest.write([named[row] for row in rows], Path(folder) / "drawn.jsonl")
                trained = train(chosen, Path(folder) / "drawn.jsonl", Path(folder) / "run")
                checkpoint = load(trained).checkpoint
                tested = [named[row] for row in held_out]
                recordings = Recordings(tested, trim_db=checkpoint.options.clips.trim_db)
                _, probabilities = embed_labelled(
                    checkpoint, recordings, range(len(tested)), "predicted", lambda done, all: None
                )
            own = np.zeros((len(tested), len(corpus.classes)))  # small draws may lack a class
            learned = checkpoint.class_labels.classes
            own[:, [corpus.classes.index(name) for name in learned]] = probabilities
            predictions += _as_predictions(corpus, held_out, own / own.sum(axis=1, keepdims=True), draw)
    return predictions


def groups_of(corpus: EmbeddedCorpus) -> list[Numbers]:
    """Return the positions of the clips of up to `MOST_TRAININGS` groups of speakers."""
    own_clips = list(corpus.clips_of.values())
    return [np.concatenate(own_clips[start::MOST_TRAININGS]) for start in range(min(MOST_TRAININGS, len(own_clips)))]


def drawn_clips(corpus: EmbeddedCorpus, held_out: Numbers, size: int, draw: int) -> Numbers:
    """Return the positions of a datastore's clips, none of the held-out speakers; classes are drawn in turn."""
    rng = np.random.default_rng([draw, int(held_out[0])])
    shuffled = rng.permutation(_others(corpus, held_out))
    labels = corpus.embeddings.labels[shuffled]
    turn = np.empty(len(shuffled), np.int64)  # within its class: first, second, ...
    for label in np.unique(labels):
        turn[labels == label] = np.arange((labels == label).sum())
    order = np.lexsort((rng.random(len(shuffled)), turn))
    drawn: Numbers = shuffled[order[:size]]
    return drawn


def _others(corpus: EmbeddedCorpus, held_out: Numbers) -> Numbers:
    return np.setdiff1d(np.arange(len(corpus.utterances)), held_out)


def tuned_in(corpus: EmbeddedCorpus, rows: Numbers) -> dict[str, tuple[int, float]]:
    """Return tuning -> k and weight; `tuned` are the best for the datastore's own clips among other speakers' clips."""
    datastore = corpus.embeddings.only(rows)
    fixed = (min(DEFAULT_K, len(rows)), DEFAULT_KNN_WEIGHT)
    of_one_speaker = int(np.unique(datastore.keys[:, 0], return_counts=True)[1].max())
    most = min(MAX_NEIGHBOURS, len(rows) - of_one_speaker)
    if most < 1:
        return {"fixed": fixed, "tuned": fixed}
    found = tune_k_and_weight(
        datastore.nearest(datastore.vectors, most, datastore.keys), corpus.probabilities[rows], datastore.labels
    )
    return {"fixed": fixed, "tuned": (found.k, found.knn_weight)}


def _as_predictions(
    corpus: EmbeddedCorpus, rows: Numbers, probabilities: FloatArray, draw: int
) -> list[EvalPrediction]:
    """Return probabilities, (row, class), as predictions of the clips at these positions."""
    predictions = []
    for row, own in zip(rows, probabilities, strict=True):
        utterance = corpus.utterances[row]
        predictions.append(
            EvalPrediction(
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
    return predictions


def _result(
    size: int,
    tuning: str,
    predictions: Sequence[EvalPrediction],
    alone: Sequence[EvalPrediction],
    classes: Sequence[str],
) -> DatastoreSizeResult:
    gain = paired_difference(predictions, alone, classes, rng=np.random.default_rng(0))["ua"]
    bounds = gain.interval and (_PER_CENT * gain.interval[0], _PER_CENT * gain.interval[1])
    return DatastoreSizeResult(
        size, tuning, score_predictions(predictions, classes), _PER_CENT * gain.difference, bounds
    )


def adaptation_picture(found: KnnAdaptation) -> Figure:
    """Draw the gain over the model alone, with paired intervals, over the size of the datastore."""
    lines = []
    for (tuning, name), colour in zip(TUNINGS.items(), (RIGHT, WRONG, *SPARE_COLOURS[:3]), strict=True):
        own = [each for each in found.sizes if each.tuning == tuning]
        if not own:
            continue
        sizes, gains = [each.size for each in own], [each.difference for each in own]
        lines.append(Line(name, sizes, gains, [each.interval for each in own], colour))
    alone = (f"the model alone (UA {found.model.pooled['ua']:.1f})", 0.0, MUTED)
    titles = ("clips of the corpus", "points of UA gained")
    return lines_picture(lines, titles, level=alone, is_logarithmic=True)


if __name__ == "__main__":
    main()
