"""Commands that make and check manifests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serein.cli.app import corpus
from serein.cli.options import AllowSeenSpeakers, Json, Out, print_tables

if TYPE_CHECKING:
    from serein.recipe import WaveformAugmentation


CorpusName = Literal[
    "ravdess",
    "emodb",
    "folder",
    "csv",
    "msp-podcast",
    "iemocap",
    "voxceleb1",
    "librispeech",
    "fsdd",
]
AugmentationName = Literal["noise", "volume", "reverberation", "pitch", "mixed"]


@corpus.command("prepare")
def corpus_prepare(
    name: Annotated[CorpusName, typer.Argument(help="The corpus, or a generic layout: 'folder', 'csv'.")],
    root: Annotated[Path, typer.Argument(help="Its folder (or the CSV file).")],
    out: Out = Path("manifest.jsonl"),
    partial: Annotated[bool, typer.Option("--partial", help="Accept fewer recordings than published.")] = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out broken files, listed.")] = False,
) -> None:
    """Read a corpus from its own layout and write a manifest."""
    from serein.corpora import corpus_named
    from serein.corpora.corpus import prepare
    from serein.data import manifest
    from serein.progress import Bars

    with Bars() as bars:
        prepared = prepare(
            corpus_named(name),
            root,
            counts="partial" if partial else "published",
            unreadable="skip" if skip_broken else "stop",
            on_progress=lambda done, total: bars("reading headers", done, total, f"{total} files"),
        )
    manifest.write(prepared.utterances, out)
    for path, reason in prepared.skipped:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    for note in prepared.notes:
        print(f"note: {note}", file=sys.stderr)
    skipped = f", {len(prepared.skipped)} skipped" if prepared.skipped else ""
    print(f"{out}: {len(prepared.utterances)} utterances{skipped}")


@corpus.command("synth")
def corpus_synth(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the recordings and the manifest.")],
    seed: Annotated[int, typer.Option(help="Of the speakers.", min=0)] = 0,
    clips: Annotated[int, typer.Option(help="Clips of each speaker and emotion.", min=1)] = 10,
) -> None:
    """Make the embedded synthetic corpus: 10 speakers, 4 emotions, spoken by espeak-ng."""
    from serein.corpora import synth
    from serein.data import manifest
    from serein.progress import Bars

    with Bars() as bars:
        utterances = synth.build(
            out,
            seed=seed,
            clips_per_speaker_and_emotion=clips,
            on_progress=lambda done, total: bars("speaking", done, total, f"{total} clips"),
        )
    manifest.write(utterances, out / "manifest.jsonl")
    print(f"{out / 'manifest.jsonl'}: {len(utterances)} utterances")


@corpus.command("check")
def corpus_check(
    data: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest (.jsonl).")],
    min_s: Annotated[float, typer.Option(help="Shorter recordings are reported.", min=0)] = 0.3,
    max_s: Annotated[float, typer.Option(help="Longer recordings are reported.", min=0)] = 30.0,
    as_json: Json = False,
) -> None:
    """Decode every recording and list problems of the data; the exit status is 1 when something must be fixed."""
    from serein.data import manifest
    from serein.data.check import check
    from serein.progress import Bars

    utterances = manifest.read(data)
    with Bars() as bars:
        found = check(
            utterances,
            min_s=min_s,
            max_s=max_s,
            on_progress=lambda done, total: bars("checking", done, total, f"{total} clips"),
        )
    if as_json:
        print(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
    else:
        print_tables(found.tables())
    if not found.is_sound:
        raise typer.Exit(1)


@corpus.command("preview-augmentation")
def corpus_preview_augmentation(
    data: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest (.jsonl).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the WAV files and augmentations.txt.")],
    augmentation: Annotated[
        AugmentationName | None, typer.Option(help="The augmentation [the recipe's, or mixed].")
    ] = None,
    max_files: Annotated[int, typer.Option("--max-files", help="At most so many clips, evenly spread.", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="Of the random draws.", min=0)] = 0,
    recipe: Annotated[
        Path | None, typer.Option(help="Take waveform_augmentation from its last stage that has one.")
    ] = None,
) -> None:
    """Write clips before and after waveform augmentation, to listen to what the model is trained on."""
    from serein.data import manifest
    from serein.data.waveform_augmentation import WaveformAugmenter, write_examples
    from serein.progress import Bars
    from serein.recipe import WaveformAugmentation

    options = WaveformAugmentation(name="mixed") if recipe is None else _effects_of(recipe)
    changes = {"probability": 1.0} | ({"name": augmentation} if augmentation else {})
    utterances = manifest.read(data)
    with Bars() as bars:
        lines = write_examples(
            utterances,
            WaveformAugmenter(options.model_copy(update=changes)),
            out,
            limit=max_files,
            seed=seed,
            on_progress=lambda done, total: bars("augmenting", done, total, f"{total} clips"),
        )
    print("\n".join(lines))


def _effects_of(path: Path) -> WaveformAugmentation:
    from serein.errors import RecipeError
    from serein.recipe import load

    found = [stage.waveform_augmentation for stage in load(path).stages if stage.waveform_augmentation.name != "none"]
    if not found:
        raise RecipeError(
            "no stage has waveform_augmentation", where=path, remedy="Leave out --recipe to use the default ranges."
        )
    return found[-1]


@corpus.command("annotate")
def corpus_annotate(
    data: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest (.jsonl); its labels stay as they are.")],
    gender: Annotated[
        str | None, typer.Option(metavar="MODEL|RUN", help="Predict the gender of every utterance.")
    ] = None,
    transcripts: Annotated[
        str | None, typer.Option(metavar="ASR", help="Transcribe: folder or Hub name of Whisper or a CTC model.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write [MANIFEST.annotated.jsonl].")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Transcribe those with a transcript as well.")] = False,
    language: Annotated[str | None, typer.Option(help="Spoken language, for Whisper [each utterance's own].")] = None,
    allow_seen_speakers: AllowSeenSpeakers = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Skip broken files, and list them.")] = False,
) -> None:
    """Predict missing genders and transcripts with models (pseudo-labels); a second call continues."""
    from serein.errors import SereinError
    from serein.inference.annotate import TranscriptAnnotator, annotate, gender_annotator
    from serein.progress import Bars

    if gender is None and transcripts is None:
        raise SereinError(
            "nothing to annotate", where="corpus annotate", remedy="Name --gender, --transcripts or both."
        )
    annotators = [gender_annotator(gender, "allow" if allow_seen_speakers else "refuse")] if gender else []
    annotators += (
        [TranscriptAnnotator(transcripts, "all" if everything else "missing", language)] if transcripts else []
    )
    out = out or data.with_suffix(".annotated.jsonl")
    with Bars() as bars:
        annotated = annotate(data, out, annotators, broken="skip" if skip_broken else "stop", report=bars)
    skipped = list(dict.fromkeys(str(problem) for problem in annotated.broken))
    for problem in skipped:
        print(f"skipped {problem}", file=sys.stderr)
    parts = [f"{name} predicted for {count}" for name, count in annotated.num_predicted.items()]
    equal, num_labelled = annotated.agreement()
    if gender and num_labelled:
        parts.append(f"{equal} of {num_labelled} predicted genders equal the label")
    if skipped:
        parts.append(f"{len(skipped)} skipped")
    print(f"{out}: {len(annotated.utterances)} utterances, {', '.join(parts)}")
