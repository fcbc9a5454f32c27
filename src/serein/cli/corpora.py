"""Commands that create and check manifests."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

from serein.cli.app import AllowSeenSpeakers, Device, Json, ManifestOut, corpus, not_a_table, print_json, print_tables
from serein.errors import RecipeError, SereinError, counted

AugmentationName = Literal["noise", "volume", "reverberation", "pitch", "mixed"]


def _corpus_names() -> list[str]:
    from serein.choices import names

    return list(names("corpus"))


@corpus.command("list")
def corpus_list(as_json: Json = False) -> None:
    """List the corpora and layouts that serein reads, with their sizes, languages and licences."""
    from serein.corpora import corpus_named

    corpora = [corpus_named(name) for name in _corpus_names()]
    if as_json:
        print_json([each.to_json() for each in corpora], indent=1)
        return
    from rich.table import Table

    table = Table("name", "corpus", "language", "utterances", "speakers", "licence")
    for each in corpora:
        cells = each.to_json()
        table.add_row(
            each.name,
            each.title,
            ", ".join(each.languages),
            *("" if cells[key] is None else f"{cells[key]:,}" for key in ("num_utterances", "num_speakers")),
            each.licence,
        )
    print_tables([table])


@corpus.command("prepare")
def corpus_prepare(
    name: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS",
            help="A name from 'serein corpus list', or a generic layout: folder, csv, audformat, hub.",
            autocompletion=_corpus_names,
        ),
    ],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the corpus, or its CSV or Parquet file.")],
    out: ManifestOut = Path("manifest.jsonl"),
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept fewer recordings than the corpus was published with.")
    ] = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Skip broken files and list them.")] = False,
    label_map: Annotated[
        Path | None,
        typer.Option("--map", metavar="YAML", help="File that renames labels, one per line: 'Angry: anger'."),
    ] = None,
    language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Language of utterances whose corpus names none, such as 'ur'.")
    ] = None,
) -> None:
    """Read a corpus in its own layout and write a manifest."""
    from serein.corpora import corpus_named
    from serein.corpora.prepare import prepare, read_label_map
    from serein.data import manifest
    from serein.progress import Bars

    labels = read_label_map(label_map)
    with Bars() as bars:
        prepared = prepare(
            corpus_named(name),
            root,
            counts="partial" if partial else "published",
            unreadable="skip" if skip_broken else "stop",
            labels=labels,
            language=language,
            unpacked=out.with_name(f"{out.stem}-audio"),
            on_progress=lambda done, total: bars("reading headers", done, total, f"{total} files"),
        )
    manifest.write(prepared.utterances, out)
    for path, reason in prepared.skipped:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    for note in prepared.notes:
        print(f"note: {note}", file=sys.stderr)
    skipped = f", {len(prepared.skipped)} skipped" if prepared.skipped else ""
    print(f"{out}: {counted(len(prepared.utterances), 'utterance')}{skipped}")


@corpus.command("merge")
def corpus_merge(
    data: Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="Manifests (.jsonl), one per corpus.")],
    out: ManifestOut = Path("merged.jsonl"),
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="YAML", help="File that renames labels, one per line: 'Angry: anger'."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Merge corpora into one manifest with a common set of labels.

    Ids and speakers of different corpora stay distinct; duplicate recordings are listed. Utterances without a corpus
    get the name of their manifest, which must then be unique.
    """
    from serein.corpora.prepare import merge, read_label_map
    from serein.data import manifest
    from serein.progress import Bars

    with Bars() as bars:
        merged = merge(
            [(path.stem, manifest.read(path)) for path in data],
            read_label_map(labels),
            lambda done, total: bars("looking for duplicates", done, total, counted(total, "clip")),
        )
    manifest.write(merged.utterances, out)
    for note in merged.notes:
        print(f"note: {note}", file=sys.stderr)
    for name, earlier in merged.duplicates:
        print(f"duplicate: {name} has the same samples as {earlier}", file=sys.stderr)
    corpora = Counter(u.corpus or "" for u in merged.utterances)
    if as_json:
        content = {
            "utterances": dict(corpora),
            "labels": merged.labels(),
            "num_repeated": merged.num_repeated,
            "duplicates": merged.duplicates,
        }
        print_json(content, indent=1)
        return
    for label, counts in merged.labels().items():
        print(f"{label}: {', '.join(f'{name} {count}' for name, count in counts.items())}")
    repeated = f", {merged.num_repeated} repeated rows left out" if merged.num_repeated else ""
    found = f"{counted(len(corpora), 'corpus', 'corpora')}, {counted(len(merged.labels()), 'label')}"
    duplicates = counted(len(merged.duplicates), "duplicate")
    print(f"{out}: {counted(len(merged.utterances), 'utterance')}, {found}, {duplicates}{repeated}")


@corpus.command("synth")
def corpus_synth(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the recordings and the manifest.")],
    seed: Annotated[int, typer.Option(help="Seed of the speakers.", min=0)] = 0,
    clips: Annotated[int, typer.Option(help="Clips per speaker and emotion.", min=1)] = 10,
) -> None:
    """Generate the built-in synthetic corpus: 10 speakers, 4 emotions, spoken by espeak-ng."""
    from serein.corpora import synth
    from serein.data import manifest
    from serein.progress import Bars

    with Bars() as bars:
        utterances = synth.build(
            out,
            seed=seed,
            clips_per_speaker_and_emotion=clips,
            on_progress=lambda done, total: bars("speaking", done, total, counted(total, "clip")),
        )
    manifest.write(utterances, out / "manifest.jsonl")
    print(f"{out / 'manifest.jsonl'}: {counted(len(utterances), 'utterance')}")


@corpus.command("check")
def corpus_check(
    data: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest (.jsonl).")],
    min_s: Annotated[float, typer.Option(metavar="SECONDS", help="Report shorter recordings.", min=0)] = 0.3,
    max_s: Annotated[float, typer.Option(metavar="SECONDS", help="Report longer recordings.", min=0)] = 30.0,
    as_json: Json = False,
) -> None:
    """Decode every recording and list problems in the data.

    The exit status is 1 if something must be fixed.
    """
    from serein.data import manifest
    from serein.data.check import check
    from serein.evaluation.graded import rater_agreement
    from serein.progress import Bars

    utterances = manifest.read(data)
    with Bars() as bars:
        found = check(
            utterances,
            min_s=min_s,
            max_s=max_s,
            on_progress=lambda done, total: bars("checking", done, total, counted(total, "clip")),
        )
    alphas = rater_agreement(utterances)
    if as_json:
        print_json(found.to_json() | {"krippendorff_alpha": alphas}, indent=1)
    else:
        print_tables(found.tables())
        for name, alpha in alphas.items():
            print(f"{name}: Krippendorff's alpha of the raters' first labels is {alpha:.3f} (1: agreement, 0: chance)")
    if not found.is_sound:
        raise typer.Exit(1)


@corpus.command("preview-augmentation")
def corpus_preview_augmentation(
    data: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest (.jsonl).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the WAV files and augmentations.txt.")],
    augmentation: Annotated[
        AugmentationName | None, typer.Option(help="The augmentation.", show_default="the recipe's, or mixed")
    ] = None,
    max_files: Annotated[
        int, typer.Option("--max-files", help="Write at most this many clips, evenly spread.", min=1)
    ] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the random draws.", min=0)] = 0,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Take the waveform_augmentation ranges from this recipe.", show_default="the default ranges"),
    ] = None,
) -> None:
    """Write clips before and after waveform augmentation, for listening."""
    from serein.data import manifest
    from serein.data.augmentation import WaveformAugmenter, write_examples
    from serein.progress import Bars
    from serein.recipe import WaveformAugmentation, load

    options = WaveformAugmentation(name="mixed")
    if recipe is not None:
        found = [
            stage.waveform_augmentation for stage in load(recipe).stages if stage.waveform_augmentation.name != "none"
        ]
        if not found:
            raise RecipeError(
                "no stage has waveform_augmentation",
                where=recipe,
                remedy="Leave out --recipe to use the default ranges.",
            )
        options = found[-1]
    changes = {"probability": 1.0} | ({"name": augmentation} if augmentation else {})
    utterances = manifest.read(data)
    with Bars() as bars:
        lines = write_examples(
            utterances,
            WaveformAugmenter(options.model_copy(update=changes)),
            out,
            limit=max_files,
            seed=seed,
            on_progress=lambda done, total: bars("augmenting", done, total, counted(total, "clip")),
        )
    print("\n".join(lines))


@corpus.command("augment")
def corpus_augment(
    data: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest (.jsonl).")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Manifest of utterances and copies; the audio is written next to it.",
            callback=not_a_table,
        ),
    ],
    copies: Annotated[int, typer.Option(help="Copies of each utterance under other recording conditions.", min=0)] = 3,
    speeds: Annotated[int, typer.Option(help="Copies of each utterance at another speed and level only.", min=0)] = 0,
    noises: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Noise recordings, also in subfolders.", show_default="only generated noise"
        ),
    ] = None,
    rooms: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Room impulse responses, also in subfolders.", show_default="no rooms"),
    ] = None,
    num_simulated_rooms: Annotated[
        int, typer.Option("--simulated-rooms", help="Number of rooms to simulate in addition.", min=0)
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the random draws.", min=0)] = 0,
    num_jobs: Annotated[int, typer.Option("--jobs", help="Processes.", min=1)] = 1,
) -> None:
    """Add modified copies for training: other speeds, rooms, noise, codecs, telephones.

    A copy is used for training if its utterance is, and never for dev or test. Copies of an earlier call are kept if
    they were made from the same recordings with the same options.
    """
    from serein.data import manifest
    from serein.data.conditions import Surroundings, write_copies
    from serein.progress import Bars

    utterances = manifest.read(data)
    with Bars() as bars:
        made = write_copies(
            [utterance for utterance in utterances if utterance.copy_of is None],
            out.with_name(f"{out.stem}_audio"),
            Surroundings.read(noises, rooms, num_simulated_rooms=num_simulated_rooms, seed=seed),
            num_copies=copies,
            num_speeds=speeds,
            seed=seed,
            num_jobs=num_jobs,
            on_progress=lambda done, total: bars("augmenting", done, total, counted(total, "copy", "copies")),
        )
    renewed = {copy.id for copy in made}
    kept = [utterance for utterance in utterances if utterance.copy_of is None or utterance.id not in renewed]
    manifest.write([*kept, *made], out)
    num_originals = sum(utterance.copy_of is None for utterance in kept)
    all_copies = counted(len(kept) - num_originals + len(made), "copy", "copies")
    print(f"{out}: {counted(num_originals, 'utterance')} and {all_copies}")


@corpus.command("annotate")
def corpus_annotate(
    data: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest (.jsonl); its labels are not changed.")],
    gender: Annotated[
        str | None, typer.Option(metavar="MODEL|RUN", help="Predict the gender of each utterance with this model.")
    ] = None,
    transcripts: Annotated[
        str | None, typer.Option(metavar="ASR", help="Transcribe with this Whisper or CTC model (folder or Hub name).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Output path.", show_default="MANIFEST.annotated.jsonl", callback=not_a_table),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also transcribe utterances that already have a transcript.")
    ] = False,
    language: Annotated[
        str | None, typer.Option(help="Spoken language, for Whisper.", show_default="each utterance's own")
    ] = None,
    allow_seen_speakers: AllowSeenSpeakers = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Skip broken files and list them.")] = False,
    device: Device = "auto",
) -> None:
    """Predict missing genders and transcripts with models (pseudo-labels).

    Repeat the command to continue an interrupted annotation. If the output exists, its predictions of other fields
    are kept.
    """
    from serein.inference.annotate import TranscriptAnnotator, annotate, gender_annotator
    from serein.progress import Bars

    if gender is None and transcripts is None:
        raise SereinError("nothing to annotate", where="corpus annotate", remedy="Add --gender, --transcripts or both.")
    annotators = [gender_annotator(gender, "allow" if allow_seen_speakers else "refuse", device)] if gender else []
    if transcripts:
        annotators.append(TranscriptAnnotator(transcripts, "all" if everything else "missing", language, device))
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
    print(f"{out}: {counted(len(annotated.utterances), 'utterance')}, {', '.join(parts)}")
