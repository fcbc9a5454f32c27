"""A cache of the output of a backbone's frozen layers: hidden layers on disk, read by memory mapping.

If training reads only each clip's mean over time, the means are stored instead of the frames.

    folder / backbone (hash of architecture, weights and precision) / layer and number format / some clips.safetensors

A clip is stored under the hash of its samples, so corpora, folds, seeds and stages share it, and changed audio or
weights are never mistaken for the old ones. Each file contains about a hundred clips and is written atomically.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from serein.cache import cache_folder, claim, keep_within_limit, size_limit
from serein.data.dataset import BucketSampler, ClipDataset, Recordings, batch_durations, collate, fix_length
from serein.data.files import replacing, try_lock, write_text
from serein.device import moved_to, own_device
from serein.errors import RunError
from serein.models.blocks import MeanPooling
from serein.models.heads import LayerSelection, PooledHead
from serein.models.hidden_states import Backbone
from serein.models.logmel import BANDS, LogMelBackbone
from serein.models.model import SpeechModel
from serein.models.pretrained import ORIGIN, weights_hash
from serein.progress import Report
from serein.recipe import MAIN, Batches, Clips, FeatureCacheOptions, Stage

FORMAT = 1  # of the hidden layers; a new one makes every clip be computed again
CLIPS_PER_FILE = 128
MOST_BYTES = 256 << 20  # of all layers, that a process collects before it writes them
MOST_VIEWS = 100_000  # of clips of a layer that a process keeps open, half a kilobyte each
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
BAND_OPTIONS = ("n_mels", "window_s", "hop_s", "low_hz", "high_hz")  # on which log-mel bands depend
ELSEWHERE = "Name another feature_cache.folder, or set feature_cache.dtype to none to run the backbone in every epoch."

LayerFrames = Mapping[str, torch.Tensor]  # layer -> (frame, feature)


def num_fixed_layers(model: SpeechModel, stage: Stage, longest_s: float, clips: Clips) -> int:
    """Return how many hidden layers, from the lowest up, are the same in every epoch for a stage's clips.

    Args:
        model: The model, with `requires_grad` set as in the stage.
        longest_s: Seconds of the longest training clip, before it is cropped.
    """
    backbone = only_backbone(model, stage)
    is_whole = clips.crop_s is None or longest_s <= clips.crop_s
    is_plain = stage.waveform_augmentation.name == "none" and (
        isinstance(backbone, LogMelBackbone) or not stage.spectrogram_augmentation.changes_bands
    )
    return backbone.num_fixed_layers() if backbone is not None and is_whole and is_plain else 0


def only_backbone(model: SpeechModel, stage: Stage) -> Backbone | None:
    """Return the backbone that a stage uses; `None` if there are several, whose frames may differ."""
    sources = {model.source_of(branch) for branch in model.branches_of(stage.tasks, stage.use_fusion)}
    return model.backbone_of(sources.pop()) if len(sources) == 1 else None


def cached_layers(model: SpeechModel, branches: Iterable[str] = (MAIN,)) -> tuple[str, ...]:
    """Return the layers that are read from some branches' backbones: `last`, and numbers of hidden layers.

    An encoder without a `LayerSelection` may read any.
    """
    names: set[str] = set()
    for branch in branches:
        readers: list[torch.nn.Module] = []  # encoders, or heads without one
        for member in model.ensemble:
            encoder = member.encoder if branch == MAIN else model.branches[branch].encoder
            heads = list(member.heads.values())
            readers += [head for head in heads if head.branch == branch] if encoder is None else [encoder]
        every = tuple(str(number) for number in range(len(model.backbone_of(branch).sizes)))
        for reader in readers:
            selections = [module for module in reader.modules() if isinstance(module, LayerSelection)]
            names |= set() if selections else {*every, "last"}
            for selection in selections:
                names |= set(every if selection.layers is None else selection.layers)
    return tuple(sorted(names))


def reads_means(model: SpeechModel, stage: Stage) -> bool:
    """Return whether a stage reads only each clip's mean over time from its backbone, so that no frames are needed."""
    branches = model.branches_of(stage.tasks, stage.use_fusion)
    encoders = [model.branches[branch].encoder for branch in branches if branch != MAIN]
    encoders += model.encoders if MAIN in branches else []
    if stage.spectrogram_augmentation.mixup or any(encoder is not None for encoder in encoders):
        return False
    heads = [head for member in model.ensemble for head in member.heads.values() if head.branch in branches]
    return all(isinstance(head, PooledHead) and head.reads_means for head in heads)


class Shard:
    """The clips of one layer: a folder of files, each with the frames of some clips under their hashes.

    Args:
        folder: The folder, which is created when needed.
        dtype: Data type of the frames.
    """

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.folder, self.dtype = folder, dtype
        self._claim = claim(folder)
        self._file_of: dict[str, Any] = {}
        self._views: dict[str, torch.Tensor] = {}
        self._seen: set[str] = set()

    def look(self) -> None:
        """Find files that were written since the last call; a damaged file counts as missing."""
        for path in self.folder.glob("[!.]*.safetensors"):
            if path.name not in self._seen:
                try:
                    file: Any = safe_open(path, framework="pt")
                except (SafetensorError, OSError):
                    continue
                self._seen.add(path.name)
                self._file_of |= dict.fromkeys(file.keys(), file)

    def __contains__(self, clip: str) -> bool:
        return clip in self._file_of

    def __getitem__(self, clip: str) -> torch.Tensor:
        """Return (frame, feature), a view of the file."""
        frames = self._views.get(clip)
        if frames is None:
            frames = self._file_of[clip].get_tensor(clip)
            if len(self._views) < MOST_VIEWS:
                self._views[clip] = frames
        return frames

    def add(self, frames: Mapping[str, torch.Tensor]) -> None:
        """Write clips into a new file."""
        if not frames:
            return
        with replacing(self.folder / f"{_digest(sorted(frames))}.safetensors") as partial:
            save_file(dict(frames), partial)


@dataclass(frozen=True)
class StoredFeatures:
    """The frames of the clips used in training, which replace their waveforms.

    Attributes:
        shards: Layer -> its shard.
        clip_of: Position -> hash of the clip.
        overhang: Number of frames at the end of each clip that are not real: log-mel bands have some.
    """

    shards: Mapping[str, Shard]
    clip_of: Mapping[int, str]
    overhang: int = 0

    def __getitem__(self, position: int) -> LayerFrames:
        """Return layer -> (frame, feature) of an utterance."""
        return {name: shard[self.clip_of[position]] for name, shard in self.shards.items()}

    def missing(self, positions: Iterable[int]) -> list[int]:
        """Return the positions missing in some shard, after looking again; of two with the same clip, the first."""
        for shard in self.shards.values():
            shard.look()
        lacking: dict[str, int] = {}
        for position in positions:
            clip = self.clip_of[position]
            if any(clip not in shard for shard in self.shards.values()):
                lacking.setdefault(clip, position)
        return list(lacking.values())


@dataclass(frozen=True)
class FeatureCache:
    """The features of one backbone on disk.

    Attributes:
        backbone: The backbone, which is in evaluation mode while it runs.
        layers: The layers that are stored: `last`, or the number of a hidden layer.
        options: Number format and folder.
        precision: Precision in which the backbone computes, `float32` or `bfloat16`.
        batches: How many clips it encodes at once.
        device: Device on which it runs.
        means: Whether each clip's mean over time is stored, as its only frame.
    """

    backbone: Backbone
    layers: tuple[str, ...]
    options: FeatureCacheOptions
    precision: str
    batches: Batches = field(default_factory=Batches)
    device: torch.device = field(default_factory=own_device)
    means: bool = False

    @property
    def dtype(self) -> str:
        """Number format on disk; bands and means, which are small, are stored in full precision."""
        is_small = self.means or isinstance(self.backbone, LogMelBackbone)
        return "float32" if is_small else self.options.dtype

    @property
    def root(self) -> Path:
        """The folder of all features."""
        return cache_folder() / "features" if self.options.folder is None else Path(self.options.folder).expanduser()

    def of(
        self, recordings: Recordings, clips: Clips, positions: Iterable[int], report: Report, label: str
    ) -> StoredFeatures:
        """Return the features of some utterances; compute those that are missing.

        Several processes share the work. Features that were written before a process was killed are not computed again.

        Raises:
            AudioError: A recording cannot be read.
            RecipeError: `$SEREIN_CACHE_SIZE` is not a size.
            RunError: The disk lacks space, or nothing can be written.
        """
        size_limit()  # raises before the work, not after it
        wanted = sorted(set(positions))
        described, weights = self.backbone.describe(), ""
        overhang, precision = 0, self.precision
        if isinstance(self.backbone, LogMelBackbone):  # the corpus's mean and deviation are applied later
            described = {name: described[name] for name in ("name", *BAND_OPTIONS)}
            overhang, precision = self.backbone.overhang, "float32"
        else:
            highest = len(self.backbone.sizes) - 1 if "last" in self.layers else max(map(int, self.layers))
            weights = weights_hash(self.backbone.weights_of(highest))  # trainable layers above do not matter
        architecture = {name: value for name, value in described.items() if name not in ORIGIN}
        key = _digest([json.dumps([FORMAT, precision, architecture, weights], sort_keys=True)])
        folder = self.root / key
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            clip_of = _clip_hashes(recordings, clips, wanted, self.root, report, label)
            if not (folder / "backbone.json").exists():  # tells users whether the folder can be deleted
                description = {**described, "weights_sha256": weights, "precision": precision, "format": FORMAT}
                write_text(folder / "backbone.json", json.dumps(description, indent=1) + "\n")
            kind = f"mean-{self.dtype}" if self.means else self.dtype
            shards = {name: Shard(folder / f"{name}-{kind}", DTYPES[self.dtype]) for name in self.layers}
            stored = StoredFeatures(shards, clip_of, overhang)
            if missing := stored.missing(wanted):
                needed = self.num_bytes(float(recordings.durations_s[missing].sum()), len(missing))
                if needed > (free := shutil.disk_usage(self.root).free):
                    raise RunError(
                        f"features of {len(missing)} clips need {_gigabytes(needed)}, "
                        f"the disk has {_gigabytes(free)} left",
                        where=self.root,
                        remedy=f"Make room. {ELSEWHERE}",
                    )
                label = f"{label}  features of {len(missing)} clips, {_gigabytes(needed)}"
                Extraction(self, recordings, clips, stored, folder).run(set(missing), partial(report, label))
                keep_within_limit(features=[self.root])
        except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
            reason = getattr(error, "strerror", None) or str(error)
            raise RunError(f"features cannot be stored ({reason})", where=self.root, remedy=ELSEWHERE) from error
        return stored

    def num_bytes(self, seconds: float, num_clips: int) -> int:
        """Return the size of the features of some seconds of audio in a number of clips."""
        if isinstance(self.backbone, LogMelBackbone):
            features = self.backbone.options.n_mels
        else:
            features = sum(self.backbone.sizes[-1 if name == "last" else int(name)] for name in self.layers)
        num_frames = num_clips if self.means else seconds * self.backbone.frame_rate_hz
        return round(num_frames * features * DTYPES[self.dtype].itemsize)


@dataclass(frozen=True)
class Extraction:
    """One process's work on the missing features.

    Attributes:
        cache: The cache whose backbone runs.
        recordings: All recordings.
        clips: How clips are cut and padded.
        stored: Receives the features.
        folder: The backbone's folder.
    """

    cache: FeatureCache
    recordings: Recordings
    clips: Clips
    stored: StoredFeatures
    folder: Path

    def run(self, missing: Collection[int], report: Callable[[int, int, str], None]) -> None:
        """Compute features that no other process is computing, then those that one has left unfinished.

        The recordings are divided, longest first, into parts that fit into one file. All recordings are included, so
        that processes that miss different clips divide them in the same way.

        Args:
            missing: Positions.
            report: Receives the number that are done, the total, and a text with both.
        """
        most_s = MOST_BYTES / self.cache.num_bytes(1.0, 1)
        parts: list[list[int]] = [[]]
        part_s = 0.0
        for position in np.argsort(-self.recordings.durations_s, kind="stable"):
            part_s += float(self.recordings.durations_s[position])
            if len(parts[-1]) == CLIPS_PER_FILE or part_s > most_s:
                parts.append([])
                part_s = float(self.recordings.durations_s[position])
            parts[-1].append(int(position))
        total, done = len(missing), 0

        def tell(num_clips: int) -> None:  # the progress bar ends once, whatever other processes do
            nonlocal done
            done += num_clips
            report(min(done, total - 1), total, f"{done}/{total} clips")

        tell(0)
        with evaluating(self.cache.backbone, self.cache.device):
            for waits in (False, True):
                for part in parts:
                    wanted = [position for position in part if position in missing]
                    if not (lacking := len(self.stored.missing(wanted))):
                        continue
                    name = _digest([self.recordings.utterances[position].id for position in part])
                    computed: dict[str, LayerFrames] = {}
                    with file_lock(self.folder / f".{name}.lock", waits=waits) as is_mine:
                        if is_mine and (left := self.stored.missing(wanted)):  # now that no other process works on it
                            for features in self.encode(left):
                                computed |= features
                                tell(len(features))
                            for layer, shard in self.stored.shards.items():
                                shard.add({clip: own[layer] for clip, own in computed.items() if clip not in shard})
                    tell(lacking - len(computed) - len(self.stored.missing(wanted)))
        report(total, total, f"{total} clips")

    @torch.no_grad()
    def encode(self, positions: Sequence[int]) -> Iterator[dict[str, LayerFrames]]:
        """Yield clip -> layer -> (frame, feature), batch by batch."""
        dataset = ClipDataset(self.recordings, {}, self.clips)
        durations_s = batch_durations(self.recordings, self.clips, is_training=False)
        dtype, device = DTYPES[self.cache.dtype], self.cache.device
        for items in BucketSampler(positions, durations_s, self.cache.batches, is_training=False):
            batch = collate([dataset[item] for item in items]).to(device)
            if isinstance(self.cache.backbone, LogMelBackbone):
                kept = self.cache.backbone.kept_bands(batch.waveforms, batch.num_samples)
                yield {
                    self.stored.clip_of[position]: {BANDS: bands.contiguous()}
                    for bands, (_, position) in zip(kept, items, strict=True)
                }
                continue
            with torch.autocast(device.type, torch.bfloat16, enabled=self.cache.precision == "bfloat16"):
                hidden = self.cache.backbone(batch.waveforms, batch.num_samples)
            num_frames = [1] * len(items) if self.cache.means else hidden.num_frames.tolist()
            layers = {name: hidden.last if name == "last" else hidden.layers[int(name)] for name in self.cache.layers}
            if self.cache.means:
                pooled = {
                    name: MeanPooling(own.shape[-1])(own.float(), hidden.is_frame) for name, own in layers.items()
                }
                layers = {name: means[:, None] for name, means in pooled.items()}
            layers = {name: own.to(dtype).cpu() for name, own in layers.items()}
            yield {
                self.stored.clip_of[position]: {
                    name: own[row, : num_frames[row]].clone() for name, own in layers.items()
                }
                for row, (_, position) in enumerate(items)
            }


def _clip_hashes(
    recordings: Recordings, clips: Clips, positions: Sequence[int], root: Path, report: Report, label: str
) -> dict[int, str]:
    """Return position -> hash of the samples that the backbone is given.

    Recordings in memory are hashed again; the hashes of other files are stored, with size and modification time.
    """

    def clip_hash(position: int) -> str:
        return hashlib.blake2b(fix_length(recordings[position], clips).tobytes(), digest_size=16).hexdigest()

    notes = root / "clips.json"
    known = {} if recordings.fits_memory else _read_notes(notes)
    states = {position: str(position) for position in positions}
    if not recordings.fits_memory:
        cutting = [recordings.trim_db, clips.min_s, clips.pad_mode, clips.max_s]
        for position in positions:
            utterance = recordings.utterances[position]
            path, status = os.path.abspath(utterance.audio), os.stat(utterance.audio)
            file = [path, status.st_size, status.st_mtime_ns, utterance.start_s, utterance.end_s]
            states[position] = _digest([json.dumps([FORMAT, *file, *cutting])])
    unknown = [position for position in positions if states[position] not in known]
    with ThreadPoolExecutor(2) as pool:
        for done, (position, digest) in enumerate(zip(unknown, pool.map(clip_hash, unknown), strict=True), start=1):
            known[states[position]] = digest
            if not recordings.fits_memory:
                report(f"{label}  reading audio", done, len(unknown), f"{done}/{len(unknown)} clips")
    if unknown and not recordings.fits_memory:
        write_text(notes, json.dumps(_read_notes(notes) | known))
    return {position: known[states[position]] for position in positions}


def _read_notes(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # absent or damaged: to be written again
        return {}


@contextmanager
def evaluating(backbone: Backbone, device: torch.device) -> Iterator[None]:
    """Put a backbone into evaluation mode on a device until the block ends."""
    was_training = backbone.training
    try:
        with moved_to(backbone.eval(), device):
            yield
    finally:
        backbone.train(was_training)


@contextmanager
def file_lock(path: Path, *, waits: bool) -> Iterator[bool]:
    """Yield whether this process may do a piece of work that no other is doing.

    If files cannot be locked, every process may: work is then done twice, with the same result.
    """
    with open(path, "w") as file:
        if not try_lock(file, waits=waits):
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
