"""Commands about whose voice it is, and about vectors of recordings."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serein.cli.app import app
from serein.cli.options import Json
from serein.cli.printing import print_tables

if TYPE_CHECKING:
    from serein.data.utterance import Utterance
    from serein.inference.vectors import SpeakerPair, Vector
    from serein.models.folder import ModelFolder

Recordings = Annotated[list[Path], typer.Argument(metavar="FILE|FOLDER|MANIFEST...", help="Recordings.")]


@app.command()
def speakers(
    model: Annotated[str, typer.Argument(help="Folder or Hub name of a model that learned who speaks.")],
    sources: Recordings,
    threshold: Annotated[
        float | None, typer.Option(help="Least cosine of one voice [the model's, from its dev set].", min=-1, max=1)
    ] = None,
    is_scored: Annotated[
        bool, typer.Option("--score", help="Say how often this is right, by the speakers that manifests name.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say of every two recordings whether they are the same voice; exit status 1 when any could not be heard."""
    from serein.inference.predictor import load
    from serein.inference.sources import utterances_in
    from serein.inference.vectors import speaker_pairs

    utterances = utterances_in(sources)
    if len(utterances) < 2:
        raise typer.BadParameter("name two recordings at least", param_hint="'FILE|FOLDER|MANIFEST...'")
    content = load(model).content
    heard, num_failed = _heard(content, utterances, "speaker")
    origin = "as you say" if threshold is not None else "the model's, from its dev set"
    if threshold is None and content.verification is not None:
        threshold = content.verification.threshold
    if is_scored:
        _print_score(content, heard, threshold, as_json=as_json)
        _finish(num_failed, len(utterances))
        return
    pairs = speaker_pairs([u.audio for u, _ in heard], [vector for _, vector in heard], threshold)
    if as_json:
        _print_json(pairs, threshold, content)
    elif pairs:
        print_tables([_pair_table(pairs)])
    if threshold is None:
        print(
            "The model has no threshold, for want of a dev set with several clips of a voice: only cosines are said. "
            "Name one by --threshold.",
            file=sys.stderr,
        )
    elif not as_json and pairs:
        print(f"threshold {threshold:.3f}, {origin}")
    _finish(num_failed, len(utterances))


@app.command()
def embed(
    model: Annotated[str, typer.Argument(help="Model folder or Hub name.")],
    sources: Recordings,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write (.safetensors).")] = Path(
        "embeddings.safetensors"
    ),
    of: Annotated[
        str | None,
        typer.Option(metavar="VECTOR", help="'emotion', 'speaker', 'fused', ... [what the model answers by]."),
    ] = None,
) -> None:
    """Write the vectors of recordings, and their ids; exit status 1 when any could not be heard."""
    import numpy as np
    from safetensors.numpy import save_file

    from serein.data.files import replacing
    from serein.inference.predictor import load
    from serein.inference.sources import utterances_in

    content = load(model).content
    utterances = utterances_in(sources)
    heard, num_failed = _heard(content, utterances, of)
    if heard:
        ids = json.dumps([utterance.id for utterance, _ in heard], ensure_ascii=False)
        vectors = np.stack([vector for _, vector in heard])
        with replacing(out) as partial:
            save_file({"embeddings": vectors}, partial, metadata={"ids": ids, "of": of or content.task, "model": model})
        print(f"{out}: {len(vectors)} vectors of {vectors.shape[1]} numbers ({of or content.task})")
    _finish(num_failed, len(utterances))


def _heard(
    content: ModelFolder, utterances: Sequence[Utterance], of: str | None
) -> tuple[list[tuple[Utterance, Vector]], int]:
    """Return the vectors of what can be heard, and how many recordings cannot."""
    from serein.errors import AudioError
    from serein.inference.vectors import embed_each
    from serein.progress import Bars

    heard: list[tuple[Utterance, Vector]] = []
    problems: list[AudioError] = []
    with Bars() as bars:
        outcomes = embed_each(content, utterances, of)
        for number, (utterance, outcome) in enumerate(zip(utterances, outcomes, strict=True), start=1):
            if isinstance(outcome, AudioError):
                problems.append(outcome)
            else:
                heard.append((utterance, outcome))
            bars("hearing", number, len(utterances), f"{len(utterances)} recordings")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return heard, len(problems)


def _print_score(
    content: ModelFolder, heard: Sequence[tuple[Utterance, Vector]], threshold: float | None, *, as_json: bool
) -> None:
    """Print how well vectors tell the named speakers apart."""
    from dataclasses import asdict

    import numpy as np

    from serein.data.groups import speaker_key
    from serein.errors import ManifestError
    from serein.evaluation.voices import score_verification

    named = [(speaker_key(utterance), vector) for utterance, vector in heard if utterance.speaker is not None]
    keys = [key for key, _ in named]
    vectors = np.stack([vector for _, vector in named]) if named else np.zeros((0, 1), np.float32)
    found = score_verification(vectors, keys, np.random.default_rng(0), threshold=threshold)
    if found is None:
        raise ManifestError(
            f"{len(named)} recordings name {len(set(keys))} speakers: there are no two of one and two of others",
            where="--score",
            remedy="Give a manifest with several clips of several speakers.",
        )
    learned = set(keys) & set(content.training.get("speakers", ()))
    if as_json:
        print(json.dumps({**asdict(found), "model_threshold": threshold, "num_learned_speakers": len(learned)}))
        return
    drawn = "all" if found.num_same + found.num_different == found.num_possible else "drawn by seed 0 of all"
    print(f"{found.num_same} pairs of one voice and {found.num_different} of two, {drawn} {found.num_possible}")
    print(f"{found.num_speakers} speakers, of whom the model learned from {len(learned)}")
    print(f"equal error rate {100 * found.equal_error_rate:.1f} % (at {found.threshold:.3f})")
    if found.misses is not None and found.false_alarms is not None:
        print(
            f"at the threshold {threshold:.3f}: {100 * found.misses:.1f} % of the same voices missed, "
            f"{100 * found.false_alarms:.1f} % of different ones taken for one"
        )


def _print_json(pairs: Sequence[SpeakerPair], threshold: float | None, content: ModelFolder) -> None:
    answer: dict[str, object] = {"threshold": threshold, "pairs": [pair.to_json() for pair in pairs]}
    if content.verification is not None:
        answer["threshold_from"] = content.verification.model_dump()
    print(json.dumps(answer, ensure_ascii=False))


def _pair_table(pairs: Sequence[SpeakerPair]) -> object:
    from rich.table import Table

    said = {True: "same voice", False: "another voice", None: "–"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("first", "second"):
        table.add_column(name, overflow="fold")
    table.add_column("cosine", justify="right")
    table.add_column("", style="bold")
    for pair in pairs:
        table.add_row(pair.first, pair.second, f"{pair.cosine:.3f}", said[pair.is_same])
    return table


def _finish(num_failed: int, num_all: int) -> None:
    if num_failed:
        print(f"{num_failed} of {num_all} recordings could not be heard.", file=sys.stderr)
        raise typer.Exit(1)
