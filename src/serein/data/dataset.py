"""Audio of a list of utterances, decoded once if memory allows, and the batches that are made from it."""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Waveform
from serein.data.manifest import Utterance
from serein.device import sent
from serein.progress import Progress
from serein.recipe import Batches, Clips

BEGINNING_S = 0.5
MEMORY_S = 36_000.0  # ten hours of float32 at 16 kHz are 2.3 GB


class Recordings:
    """Waveforms of utterances by position, kept in memory after the first read if all of them fit.

    Args:
        utterances: In the order of the positions.
        trim_db: Trim silence this far below the loudest frame from both ends; `None` keeps it.
        memory_s: Maximum audio to keep in memory, in seconds.

    Attributes:
        durations_s: (utterance,) seconds; before trimming if the audio is not in memory.
    """

    def __init__(
        self, utterances: Sequence[Utterance], *, trim_db: float | None = None, memory_s: float = MEMORY_S
    ) -> None:
        self.utterances = list(utterances)
        self.trim_db = trim_db
        self.durations_s = durations(utterances)
        self.fits_memory = float(self.durations_s.sum()) <= memory_s
        self._waveforms: dict[int, Waveform] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_waveforms": {}}  # decoding again in another process is faster than sending gigabytes

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, position: int) -> Waveform:
        """Return (sample,) float32 at 16 kHz; raises AudioError."""
        waveform = self._waveforms.get(position)
        if waveform is None:
            utterance = self.utterances[position]
            whole = audio.load(utterance.audio, utterance.start_s, utterance.end_s)
            waveform = audio.trimmed(whole, self.trim_db)
            if self.fits_memory:
                self._waveforms[position] = waveform
                self.durations_s[position] = len(waveform) / SAMPLE_RATE_HZ
        return waveform

    def prefetch(self, on_progress: Progress | None = None) -> None:
        """Decode all recordings into memory with two threads, or do nothing if they do not fit."""
        if not self.fits_memory:
            return
        with ThreadPoolExecutor(2) as pool:
            for done, _ in enumerate(pool.map(self.__getitem__, range(len(self))), start=1):
                if on_progress:
                    on_progress(done, len(self))


def durations(utterances: Sequence[Utterance]) -> np.ndarray:
    """Return (utterance,) float64 seconds, from the file headers.

    Raises:
        AudioError: A file is missing or is not audio, or an utterance is outside its file.
    """
    with ThreadPoolExecutor(4) as pool:
        infos = pool.map(lambda u: audio.info(u.audio, u.start_s, u.end_s), utterances)
        return np.fromiter((info.duration_s for info in infos), np.float64, count=len(utterances))


def duplicates(recordings: Recordings) -> Mapping[str, str]:
    """Find utterances with identical audio.

    Only recordings of equal length can be identical, so only those are hashed. If the recordings do not fit into
    memory, only those that also begin identically are: nearly all clips of VoxCeleb1's 350 hours share their length
    with another clip.

    Returns:
        Id -> smallest of the ids with the same samples, for every utterance that has a duplicate.
    """
    same_length: dict[int, list[int]] = defaultdict(list)
    for position, duration_s in enumerate(recordings.durations_s):
        same_length[round(duration_s * SAMPLE_RATE_HZ)].append(position)
    is_read_anyway = recordings.fits_memory or recordings.trim_db is not None  # in full, to keep or to trim it
    found: dict[str, str] = {}
    for positions in same_length.values():
        alike = positions if len(positions) > 1 else []
        if alike and not is_read_anyway:
            by_start: dict[bytes, list[int]] = defaultdict(list)
            for position in positions:
                utterance = recordings.utterances[position]
                end_s = utterance.start_s + min(BEGINNING_S, float(recordings.durations_s[position]))
                beginning = audio.decode(utterance.audio, utterance.start_s, end_s)
                by_start[hashlib.blake2b(beginning.data, digest_size=16).digest()].append(position)
            alike = sorted(position for some in by_start.values() if len(some) > 1 for position in some)
        by_hash: dict[bytes, list[str]] = defaultdict(list)
        for position in alike:
            by_hash[hashlib.blake2b(recordings[position].data, digest_size=16).digest()].append(
                recordings.utterances[position].id
            )
        found |= {name: min(names) for names in by_hash.values() if len(names) > 1 for name in names}
    return found


Augment = Callable[[Waveform, int], Waveform]
Item = tuple[int, int]  # (epoch, position): the sampler passes the epoch on, so workers need not be notified


@dataclass(frozen=True)
class Batch:
    """Clips padded to the longest.

    Attributes:
        positions: (batch,) long, positions in the list of utterances; on the host, like all that determines shapes.
        waveforms: (batch, sample) float32, zero on padding.
        num_samples: (batch,) long, real samples of each clip; on the host.
        targets: Task -> (batch, ...) its targets.
        has_target: Task -> (batch,) bool, False where the utterance lacks the target; on the host.
        seeds: (batch,) int64; the draws for a clip depend only on its seed; on the host.
        conditions: Attribute -> (batch, feature), its conditions.
        layers: Hidden layer -> (batch, frame, feature), arbitrary on padding, when features replace the waveforms,
            which then have no samples.
        num_frames: (batch,) long, real frames of each clip in `layers`; empty without them; on the host.
    """

    positions: torch.Tensor
    waveforms: torch.Tensor
    num_samples: torch.Tensor
    targets: Mapping[str, torch.Tensor]
    has_target: Mapping[str, torch.Tensor]
    seeds: torch.Tensor
    conditions: Mapping[str, torch.Tensor] = field(default_factory=dict)
    layers: Mapping[str, torch.Tensor] = field(default_factory=dict)
    num_frames: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors copied to a device, without waiting for the copies."""
        return self._each(partial(sent, device=device))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, for asynchronous copies to a GPU; PyTorch's loaders call this."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        return replace(
            self,
            waveforms=change(self.waveforms),
            targets={name: change(target) for name, target in self.targets.items()},
            conditions={name: change(values) for name, values in self.conditions.items()},
            layers={name: change(frames) for name, frames in self.layers.items()},
        )

    @property
    def audio_s(self) -> float:
        """Seconds of audio without padding."""
        return float(self.num_samples.sum()) / SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Targets:
    """Targets of one task for all utterances: `values` (utterance, ...) and `is_known` (utterance,) bool."""

    values: np.ndarray
    is_known: np.ndarray


@dataclass(frozen=True)
class TrainingConditions:
    """The conditions of training clips.

    Attributes:
        values: Attribute -> (utterance, feature).
        unknown: Attribute -> (feature,), the value that represents an unknown condition.
        dropout: Fraction of training clips from which each condition is hidden.
    """

    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    unknown: Mapping[str, np.ndarray] = field(default_factory=dict)
    dropout: float = 0.0

    def of(self, position: int, rng: np.random.Generator | None) -> dict[str, torch.Tensor]:
        """Return attribute -> (1, feature) of one clip; `rng` draws which are hidden, `None` hides none."""
        conditions = {}
        for name, values in self.values.items():
            is_hidden = rng is not None and rng.random() < self.dropout
            conditions[name] = torch.from_numpy(self.unknown[name] if is_hidden else values[position])[None]
        return conditions


class HiddenLayers(Protocol):
    """Hidden layers by position: layer -> (frame, feature); the last `overhang` frames are not real ones."""

    @property
    def overhang(self) -> int: ...

    def __getitem__(self, position: int) -> Mapping[str, torch.Tensor]: ...


class ClipDataset(Dataset[Batch]):
    """Clips of utterances; each item is a `Batch` of one clip.

    Args:
        recordings: All recordings.
        targets: Task -> targets of all recordings.
        clips: Options for cutting and extending clips; `crop_s` applies when `is_training`.
        conditions: Conditions of all recordings.
        seed: Root seed of every draw.
        features: Hidden layers of a frozen backbone for whole clips, to use instead of their waveforms.
        augment: (waveform, clip's seed) -> waveform of the same length; applies when `is_training`.
        num_views: With 2, an item consists of the original and the augmented clip when `is_training`.
    """

    def __init__(
        self,
        recordings: Recordings,
        targets: Mapping[str, Targets],
        clips: Clips,
        conditions: TrainingConditions | None = None,
        *,
        seed: int = 0,
        is_training: bool = False,
        features: HiddenLayers | None = None,
        augment: Augment | None = None,
        num_views: int = 1,
    ) -> None:
        self.recordings, self.targets, self.clips = recordings, targets, clips
        self.conditions = conditions or TrainingConditions()
        self.seed, self.is_training = seed, is_training
        self.features, self.augment = features, augment
        self.num_views = num_views if is_training and features is None else 1

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, item: Item) -> Batch:
        epoch, position = item
        name = self.recordings.utterances[position].id
        clip_seed = draw_seed(self.seed, epoch, name)
        if self.num_views == 1:
            return self._view(position, clip_seed, self.augment)
        other_seed = draw_seed(self.seed, epoch, f"{name}/second view")
        changed = self._view(position, other_seed, self.augment, clip_seed)
        return collate([self._view(position, clip_seed, None), changed])

    def _view(self, position: int, clip_seed: int, augment: Augment | None, place_seed: int | None = None) -> Batch:
        """Return one view of a clip; all views are cropped at the same position, drawn from `place_seed`."""
        here = slice(position, position + 1)
        layers: dict[str, torch.Tensor] = {}
        num_frames = torch.zeros(0, dtype=torch.long)
        if self.features is not None:
            duration_s = float(fixed_durations(self.recordings.durations_s[here], self.clips)[0])
            waveform, num_samples = np.zeros(0, np.float32), round(duration_s * SAMPLE_RATE_HZ)
            layers = {name: frames[None] for name, frames in self.features[position].items()}
            num_frames = torch.tensor([next(iter(layers.values())).shape[1] - self.features.overhang])
        else:
            waveform = fix_length(self.recordings[position], self.clips)
            if self.is_training:
                # not from [clip_seed], which spectrogram augmentation uses
                place = np.random.default_rng([clip_seed if place_seed is None else place_seed, 1])
                if self.clips.crop_s is not None:
                    waveform = random_crop(waveform, round(self.clips.crop_s * SAMPLE_RATE_HZ), place)
                waveform = waveform if augment is None else augment(waveform, clip_seed)
            num_samples = len(waveform)
        return Batch(
            positions=torch.tensor([position]),
            waveforms=torch.from_numpy(waveform)[None],
            num_samples=torch.tensor([num_samples]),
            targets={name: torch.from_numpy(target.values[here]) for name, target in self.targets.items()},
            has_target={name: torch.from_numpy(target.is_known[here]) for name, target in self.targets.items()},
            seeds=torch.tensor([clip_seed]),
            conditions=self.conditions.of(
                position, np.random.default_rng([clip_seed, 2]) if self.is_training else None
            ),
            layers=layers,
            num_frames=num_frames,
        )


def draw_seed(seed: int, epoch: int, name: str) -> int:
    """Return the 63-bit seed of all draws for one utterance in one epoch.

    Example:
        >>> draw_seed(0, 1, "a") == draw_seed(0, 1, "a") != draw_seed(0, 2, "a")
        True
    """
    digest = hashlib.blake2b(f"{seed}/{epoch}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def fix_length(waveform: Waveform, clips: Clips) -> Waveform:
    """Cut a clip, (sample,) at 16 kHz, at `clips.max_s`, and extend a short one to `clips.min_s` as `pad_mode` states.

    Applies to training and evaluation.
    """
    if clips.max_s is not None:
        waveform = waveform[: round(clips.max_s * SAMPLE_RATE_HZ)]
    lacking = round(clips.min_s * SAMPLE_RATE_HZ) - len(waveform)
    if lacking <= 0:
        return waveform
    if clips.pad_mode == "repeat":
        return np.resize(waveform, len(waveform) + lacking)
    if clips.pad_mode == "repeat-whole":
        return np.tile(waveform, 1 + -(-lacking // len(waveform)))
    return np.pad(waveform, (0, lacking))


def fixed_durations(durations_s: np.ndarray, clips: Clips) -> np.ndarray:
    """Return the durations of clips after `fix_length`, in seconds."""
    longest_s = np.inf if clips.max_s is None else clips.max_s
    kept_s: np.ndarray = np.minimum(durations_s, longest_s)
    if clips.pad_mode == "repeat-whole":
        copies: np.ndarray = np.maximum(1.0, np.ceil(clips.min_s / kept_s - 1e-9))
        extended_s: np.ndarray = kept_s * copies
        return extended_s
    heard_s: np.ndarray = np.maximum(kept_s, clips.min_s)
    return heard_s


def random_crop(waveform: Waveform, length: int, rng: np.random.Generator) -> Waveform:
    """Crop a clip that is longer than `length` samples to that length, at a position drawn from `rng`."""
    if len(waveform) <= length:
        return waveform
    start = int(rng.integers(len(waveform) - length + 1))
    return waveform[start : start + length]


def collate(clips: Sequence[Batch]) -> Batch:
    """Pad and concatenate batches of single clips or their views; padding concerns only waveforms and layers."""
    padded = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)  # (length, ...) each to (batch, longest, ...)
    return Batch(
        positions=torch.cat([clip.positions for clip in clips]),
        waveforms=padded([view for clip in clips for view in clip.waveforms]),
        num_samples=torch.cat([clip.num_samples for clip in clips]),
        targets={name: torch.cat([clip.targets[name] for clip in clips]) for name in clips[0].targets},
        has_target={name: torch.cat([clip.has_target[name] for clip in clips]) for name in clips[0].has_target},
        seeds=torch.cat([clip.seeds for clip in clips]),
        conditions={name: torch.cat([clip.conditions[name] for clip in clips]) for name in clips[0].conditions},
        layers={name: padded([view for clip in clips for view in clip.layers[name]]) for name in clips[0].layers},
        num_frames=torch.cat([clip.num_frames for clip in clips]),
    )


class BucketSampler(Sampler[list[Item]]):
    """Batches of clips of similar duration, drawn from the seed anew in each epoch.

    An epoch starts from a permutation of the clips. Each chunk of `num_buckets` batches' worth of clips is sorted by
    duration and cut into batches of at most `max_clips` clips and `max_seconds` seconds, padding included. The batches
    are then shuffled.

    Args:
        positions: Utterances to draw from.
        durations_s: (utterance,) seconds of every recording in a batch.
        classes: (utterance,) class numbers, -1 without a class. Each epoch then draws as many clips of each class
            as the rarest class among `positions` has, and all clips without a class.
        weights: (utterance,) relative sampling weights; each epoch then draws with replacement.
        num_drawn: Number of clips to draw with `weights`; `None`: as many as there are positions.
        rank: Index of this process among `world_size`. All get the same number of batches; the first batches are
            used twice if necessary.
    """

    def __init__(
        self,
        positions: Sequence[int],
        durations_s: np.ndarray,
        batches: Batches,
        *,
        seed: int = 0,
        is_training: bool = True,
        classes: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        num_drawn: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.positions = np.asarray(positions)
        self.durations_s, self.batches, self.classes = durations_s, batches, classes
        self.weights, self.num_drawn = weights, num_drawn or len(self.positions)
        self.seed, self.is_training = seed, is_training
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self._planned: tuple[int, list[np.ndarray]] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose batches are drawn; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._own_batches())

    def __iter__(self) -> Iterator[list[Item]]:
        for batch in self._own_batches():
            yield [(self.epoch, int(position)) for position in batch]

    def _own_batches(self) -> list[np.ndarray]:
        """Return this process's share of the epoch's batches, which are drawn once per epoch."""
        if not self.is_training:
            plan = self._cut(self.positions[np.argsort(-self.durations_s[self.positions], kind="stable")])
            return plan[self.rank :: self.world_size]
        if self._planned is None or self._planned[0] != self.epoch:
            rng = np.random.default_rng([self.seed, self.epoch])
            drawn = self.positions
            if self.classes is not None:
                classes = self.classes[self.positions]
                groups = [self.positions[classes == number] for number in np.unique(classes[classes >= 0])]
                fewest = min((len(group) for group in groups), default=0)
                balanced = [rng.choice(group, fewest, replace=False) for group in groups]
                drawn = np.concatenate([self.positions[classes < 0], *balanced])
            if self.weights is not None:
                shares = self.weights[self.positions] / self.weights[self.positions].sum()
                drawn = rng.choice(self.positions, self.num_drawn, p=shares)
            order = rng.permutation(drawn)
            size = self.batches.max_clips * self.batches.num_buckets
            plan = []
            for start in range(0, len(order), size):
                bucket = order[start : start + size]
                plan += self._cut(bucket[np.argsort(-self.durations_s[bucket], kind="stable")])
            self._planned = (self.epoch, [plan[i] for i in rng.permutation(len(plan))])
        plan = self._planned[1]
        lacking = -len(plan) % self.world_size
        return (plan + [plan[i % len(plan)] for i in range(lacking)])[self.rank :: self.world_size]

    def _cut(self, longest_first: np.ndarray) -> list[np.ndarray]:
        cut, start = [], 0
        while start < len(longest_first):
            fitting = int(self.batches.max_seconds / max(float(self.durations_s[longest_first[start]]), 1e-3))
            stop = start + max(1, min(self.batches.max_clips, fitting))
            cut.append(longest_first[start:stop])
            start = stop
        return cut


def loader(dataset: ClipDataset, sampler: BucketSampler, *, num_workers: int = 0) -> DataLoader[Batch]:
    """Return a data loader for the batches of a sampler."""
    is_forked = sys.platform == "linux"  # otherwise each worker imports torch and receives all utterances
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context="fork" if num_workers and is_forked else None,
        pin_memory=torch.cuda.is_available(),
    )


def batch_durations(recordings: Recordings, clips: Clips, *, is_training: bool) -> np.ndarray:
    """Return (utterance,) seconds of each clip in a batch, after cutting, extending and cropping."""
    durations_s = fixed_durations(recordings.durations_s, clips)
    return np.minimum(durations_s, clips.crop_s) if is_training and clips.crop_s else durations_s
