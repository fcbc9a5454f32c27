"""Frozen features: the same training as without them, heard once, never mistaken, shared by processes, after kills."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import soundfile
import torch
import transformers
from safetensors.torch import load_file

from cli_fixtures import RATE_HZ, tone
from serein import recipe as recipes
from serein.choices import NamedOptions, table
from serein.data.dataset import Recordings, collate
from serein.data.manifest import Utterance
from serein.errors import RecipeError, RunError
from serein.experiment import build
from serein.experiment import data as experiment_data
from serein.experiment import fold as folds
from serein.experiment.data import Experiment
from serein.models.backbones import HuggingFaceBackbone
from serein.models.hidden_states import Backbone, Encoder, HiddenStates
from serein.models.model import assemble
from serein.recipe import Category, Clips, FeatureCacheOptions, SpectrogramAugmentation
from serein.training import feature_cache
from serein.training.batches import encode_batch
from serein.training.feature_cache import FeatureCache, StoredFeatures, cached_layers, num_fixed_layers
from serein.training.module import StageModule
from serein.training.stages import with_features

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


class Killed(BaseException):
    """Stands for a kill where a process of its own would be slow."""


def silent(label: str, done: int, total: int, detail: str) -> None:
    """A `Report` that tells nobody."""


def save_wav2vec2(folder: Path, seed: int = 0, **options: Any) -> Path:
    """Save a tiny wav2vec 2.0 with random weights and dropout, as the Hub would hold it."""
    torch.manual_seed(seed)
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**TINY | options)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wav2vec2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wav2vec2(tmp_path_factory.mktemp("wav2vec2"))


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEREIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def num_computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clips the backbone heard in each call."""
    sizes: list[int] = []
    real = HuggingFaceBackbone.forward

    def forward(self: HuggingFaceBackbone, waveforms: torch.Tensor, num_samples: torch.Tensor) -> Any:
        sizes.append(len(num_samples))
        return real(self, waveforms, num_samples)

    monkeypatch.setattr(HuggingFaceBackbone, "forward", forward)
    return sizes


# -- one backbone, some clips ----------------------------------------------------------------------------------------


class Corpus:
    """A few tones on disk, of different lengths, and what is heard in them."""

    def __init__(self, folder: Path, num_clips: int = 5) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(num_clips):
            self.write(number, seed=number)
        self.num_clips = num_clips

    def write(self, number: int, seed: int) -> None:
        """Write a clip of (0.15 + 0.05 number) s."""
        samples = tone(300.0 + 50 * number, 0.15 + 0.05 * number, np.random.default_rng(seed))
        soundfile.write(self.folder / f"{number}.wav", samples, RATE_HZ)

    def recordings(self, prefix: str = "", memory_s: float = 1e6) -> Recordings:
        """Return the recordings, as another run would."""
        utterances = [Utterance(id=f"{prefix}{n}", audio=str(self.folder / f"{n}.wav")) for n in range(self.num_clips)]
        return Recordings(utterances, memory_s=memory_s)

    def features(
        self,
        wav2vec2: Path,
        *,
        layers: tuple[str, ...] = ("last",),
        dtype: str = "float32",
        clips: Clips | None = None,
        precision: str = "float32",
        prefix: str = "",
        memory_s: float = 1e6,
        folder: Path | None = None,
        positions: list[int] | None = None,
        report: Any = silent,
    ) -> StoredFeatures:
        """Open the cache and hear what it lacks."""
        options = FeatureCacheOptions(dtype=dtype, folder=None if folder is None else str(folder))
        cache = FeatureCache(HuggingFaceBackbone.from_source(str(wav2vec2)), layers, options, precision)
        wanted = list(range(self.num_clips)) if positions is None else positions
        return cache.of(self.recordings(prefix, memory_s), clips or Clips(), wanted, report, "fold 1")


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path / "corpus")


def alone(wav2vec2: Path, waveform: np.ndarray) -> Any:
    """Return what the backbone hears in one clip."""
    backbone = HuggingFaceBackbone.from_source(str(wav2vec2))
    with torch.no_grad():
        return backbone(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))


@pytest.mark.parametrize("is_stable", [False, True])
def test_what_is_stored_is_what_the_backbone_hears(corpus: Corpus, tmp_path: Path, is_stable: bool) -> None:
    """With a layer norm behind the last layer, too, where `last` is not the last layer."""
    source = save_wav2vec2(tmp_path / "source", do_stable_layer_norm=is_stable)
    recordings = corpus.recordings()
    stored = corpus.features(source, layers=("0", "2", "last"))
    for position in range(corpus.num_clips):
        hidden = alone(source, recordings[position])
        for name, expected in {"0": hidden.layers[0], "2": hidden.layers[2], "last": hidden.last}.items():
            torch.testing.assert_close(stored[position][name], expected[0], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_bfloat16_takes_half_the_room(corpus: Corpus, wav2vec2: Path, cache_folder: Path) -> None:
    exact, rough = (corpus.features(wav2vec2, dtype=dtype)[4]["last"] for dtype in ("float32", "bfloat16"))
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=2**-8, atol=1e-6)
    num_frames = sum(len(corpus.features(wav2vec2)[position]["last"]) for position in range(corpus.num_clips))
    for dtype, num_bytes in {"float32": 4, "bfloat16": 2}.items():
        (path,) = cache_folder.glob(f"*/last-{dtype}/*.safetensors")
        assert 0 < path.stat().st_size - num_frames * 16 * num_bytes < 1_000  # names and lengths


def test_each_clip_is_heard_once(corpus: Corpus, wav2vec2: Path, num_computed: list[int]) -> None:
    corpus.features(wav2vec2, positions=[0, 2])
    assert sum(num_computed) == 2
    corpus.features(wav2vec2)
    assert sum(num_computed) == 5
    corpus.features(wav2vec2)
    assert sum(num_computed) == 5


def test_another_corpus_with_the_same_audio_is_known(corpus: Corpus, wav2vec2: Path, num_computed: list[int]) -> None:
    corpus.features(wav2vec2)
    shutil.move(corpus.folder, corpus.folder.with_name("moved"))
    corpus.folder = corpus.folder.with_name("moved")
    corpus.features(wav2vec2, prefix="b-")
    assert sum(num_computed) == 5


def test_equal_clips_are_heard_once(corpus: Corpus, wav2vec2: Path, num_computed: list[int]) -> None:
    shutil.copy(corpus.folder / "1.wav", corpus.folder / "3.wav")
    stored = corpus.features(wav2vec2)
    assert sum(num_computed) == 4
    assert torch.equal(stored[1]["last"], stored[3]["last"])


@pytest.mark.parametrize("memory_s", [1e6, 0.0])
def test_changed_audio_is_heard_anew(corpus: Corpus, wav2vec2: Path, num_computed: list[int], memory_s: float) -> None:
    """In memory, and where a file's hash is remembered."""
    before = corpus.features(wav2vec2, memory_s=memory_s)[2]["last"].clone()
    corpus.features(wav2vec2, memory_s=memory_s)
    corpus.write(2, seed=99)
    after = corpus.features(wav2vec2, memory_s=memory_s)[2]["last"]
    assert sum(num_computed) == 6
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, alone(wav2vec2, corpus.recordings()[2]).last[0], atol=1e-5, rtol=0)


def test_audio_that_is_not_in_memory_is_read_once(
    corpus: Corpus, wav2vec2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus.features(wav2vec2, memory_s=0.0)
    monkeypatch.setattr(Recordings, "__getitem__", lambda *_: pytest.fail("was read again"))
    stored = corpus.features(wav2vec2, memory_s=0.0)
    assert len(stored[0]["last"]) == 7


CHANGES: dict[str, Callable[[Corpus, Path, Path], StoredFeatures]] = {
    "weights": lambda corpus, _, folder: corpus.features(save_wav2vec2(folder, seed=1)),
    "architecture": lambda corpus, _, folder: corpus.features(save_wav2vec2(folder, hidden_act="relu")),
    "layer": lambda corpus, base, _: corpus.features(base, layers=("1",)),
    "numbers": lambda corpus, base, _: corpus.features(base, dtype="bfloat16"),
    "precision": lambda corpus, base, _: corpus.features(base, precision="bfloat16"),
    "extended": lambda corpus, base, _: corpus.features(base, clips=Clips(min_s=1.0)),
    "repeated": lambda corpus, base, _: corpus.features(base, clips=Clips(min_s=1.0, pad_mode="repeat")),
    "folder": lambda corpus, base, folder: corpus.features(base, folder=folder),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_mistaken_for_something_else(
    corpus: Corpus, wav2vec2: Path, tmp_path: Path, num_computed: list[int], change: str
) -> None:
    corpus.features(wav2vec2)
    CHANGES[change](corpus, wav2vec2, tmp_path / "other")
    assert sum(num_computed) == 10


def test_the_same_weights_elsewhere_are_the_same(
    corpus: Corpus, wav2vec2: Path, tmp_path: Path, num_computed: list[int]
) -> None:
    corpus.features(wav2vec2)
    corpus.features(Path(shutil.copytree(wav2vec2, tmp_path / "copy")))
    assert sum(num_computed) == 5


# -- kills, several processes, bad disks -----------------------------------------------------------------------------


def test_a_killed_hearing_goes_on_where_it_was(
    corpus: Corpus, wav2vec2: Path, cache_folder: Path, num_computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "CLIPS_PER_FILE", 2)
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        if list(cache_folder.glob("*/last-float32/[!.]*.safetensors")):
            raise Killed
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            corpus.features(wav2vec2)
    assert sum(num_computed) == 4  # two of them in vain
    stored = corpus.features(wav2vec2)
    assert sum(num_computed) == 4 + 3
    assert [len(stored[position]["last"]) for position in range(5)] == [7, 9, 12, 14, 17]


def test_a_damaged_file_is_made_again(
    corpus: Corpus, wav2vec2: Path, cache_folder: Path, num_computed: list[int]
) -> None:
    corpus.features(wav2vec2)
    (path,) = cache_folder.glob("*/last-float32/*.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    corpus.features(wav2vec2)
    assert sum(num_computed) == 10
    assert path.read_bytes() == content


def test_two_at_once_share_the_work(
    corpus: Corpus, wav2vec2: Path, cache_folder: Path, num_computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "CLIPS_PER_FILE", 1)
    with ThreadPoolExecutor(2) as pool:  # a lock belongs to an opened file, so threads are kept apart as processes are
        first, second = pool.map(lambda _: corpus.features(wav2vec2), range(2))
    assert sum(num_computed) == 5
    for position in range(5):
        assert torch.equal(first[position]["last"], second[position]["last"])
    assert not list(cache_folder.glob("*/.*.lock"))


def hear_in_process(folder: Path, source: Path, cache: Path) -> None:
    """Open the cache in a process of its own."""
    os.environ["SEREIN_CACHE"] = str(cache)
    feature_cache.CLIPS_PER_FILE = 2
    corpus = Corpus.__new__(Corpus)
    corpus.folder, corpus.num_clips = folder, 9
    corpus.features(source)


@pytest.mark.slow
def test_two_processes_give_one_sound_cache(
    tmp_path: Path, wav2vec2: Path, cache_folder: Path, num_computed: list[int]
) -> None:
    corpus = Corpus(tmp_path / "nine", num_clips=9)
    context = multiprocessing.get_context("spawn")
    arguments = (corpus.folder, wav2vec2, tmp_path / "cache")
    processes = [context.Process(target=hear_in_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    stored = corpus.features(wav2vec2)
    assert num_computed == []
    assert len(list(cache_folder.glob("*/last-float32/*.safetensors"))) == 5
    for position in range(9):
        expected = alone(wav2vec2, corpus.recordings()[position]).last[0]
        torch.testing.assert_close(stored[position]["last"], expected, atol=1e-5, rtol=0)


def test_a_full_disk_is_known_beforehand(
    corpus: Corpus, wav2vec2: Path, num_computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        RunError, match=r"features of 5 clips need .* GB, .* left\. Make room\. Name another feature_cache"
    ):
        corpus.features(wav2vec2)
    assert num_computed == []


def test_an_invalid_limit_is_known_beforehand(
    corpus: Corpus, wav2vec2: Path, num_computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEREIN_CACHE_SIZE", "much")
    with pytest.raises(RecipeError, match="'much' is not a size"):
        corpus.features(wav2vec2)
    assert num_computed == []


def test_a_folder_that_cannot_be_written(corpus: Corpus, wav2vec2: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RunError, match=r"file: features cannot be stored \(.*\)\. Name another feature_cache\.folder, or set"
    ):
        corpus.features(wav2vec2, folder=tmp_path / "file")


def test_progress_says_the_size_first(corpus: Corpus, wav2vec2: Path) -> None:
    said: list[tuple[str, int, int, str]] = []
    corpus.features(wav2vec2, report=lambda *progress: said.append(progress))
    assert said[0] == ("fold 1  features of 5 clips, 0.00 GB", 0, 5, "0/5 clips")
    assert said[-1][1:] == (5, 5, "5 clips")
    assert len([progress for progress in said if progress[1] >= progress[2]]) == 1  # ends the bar once


# -- stages ----------------------------------------------------------------------------------------------------------

STAGE: dict[str, Any] = {
    "name": "frozen",
    "epochs": 3,
    "trainable": ["encoder", "heads"],
    "optimizer": {"learning_rate": 0.01},
    "batches": {"max_clips": 4, "num_buckets": 2},
    "precision": "float32",
}


def prepared(tones: Path, source: Path, changes: Mapping[str, Any] | None = None, **stage: Any) -> Experiment:
    """Return an experiment whose head has dropout and is told the gender of two clips in three."""
    told = {"attributes": ["gender"], "condition_dropout": 0.3}
    values = {
        "name": "frozen",
        "protocol": {"name": "speakers-out", "num_folds": 2, "dev": "speakers"},
        "backbone": {"name": "huggingface", "source": str(source), "overrides": {"layerdrop": 0.5}},
        "tasks": {"emotion": {"pooling": "std", "hidden": [8], "dropout": 0.3, "conditioning": told}},
        "inference": {"conditions": "oracle"},
        "stages": [STAGE | stage],
        **(changes or {}),
    }
    return experiment_data.prepare(recipes.validate(values, where="test"), tones, silent)


def trained(experiment: Experiment, folder: Path, fold: int = 0) -> tuple[list[dict[str, float]], Any]:
    """Return the epochs' metrics and the weights after the last of them."""
    folds.train_fold(experiment, experiment.folds.folds[fold], 0, folder, silent, label="x")
    lines = [json.loads(line) for line in (folder / "0-frozen/metrics.jsonl").read_text().splitlines()]
    timeless = [{k: v for k, v in line.items() if k not in ("seconds", "audio_s_per_s")} for line in lines]
    return timeless, load_file(folder / "0-frozen/weights.safetensors")


ENCODERS: dict[str, dict[str, Any]] = {
    "last": {},
    "weighted": {"tasks": {"emotion": {"layer": "weighted", "pooling": "mean", "dropout": 0.2}}},
    "one layer under an encoder": {
        "tasks": {"emotion": {"pooling": "mean"}},
        "encoder": {
            "name": "cnn-blstm",
            "layer": 1,
            "channels": [8, 8],
            "kernels": [3, 3],
            "hidden": 4,
            "dropout": 0.2,
        },
    },
    "two members": {"ensemble_size": 2},
}
UPPER = {"trainable": ["layer 2", "heads"]}  # goes on from the first layer's frames


def test_averaged_layers_go_on_from_the_cache(tones: Path, wav2vec2: Path, tmp_path: Path) -> None:
    """No weight of the averaged model is trainable, but its upper layers still start from the stored frames."""
    quiet = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "layerdrop"), 0.0)
    backbone = {"backbone": {"name": "huggingface", "source": str(wav2vec2), "overrides": quiet}}
    plain, cached = (
        trained(
            prepared(tones, wav2vec2, backbone | {"feature_cache": {"dtype": dtype}}, epochs=1, ema_decay=0.9, **UPPER),
            tmp_path / dtype,
        )
        for dtype in ("none", "float32")
    )
    assert cached[0][0] == pytest.approx(plain[0][0], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "stage"), [*((encoder, {}) for encoder in ENCODERS), ("weighted", UPPER), ("last", UPPER)]
)
def test_training_from_the_cache_is_training_without_it(
    tones: Path, wav2vec2: Path, tmp_path: Path, num_computed: list[int], encoder: str, stage: Any
) -> None:
    """The same draws, so the same metrics and weights up to the stored numbers' precision.

    What a layer that learns drops hangs on the batch's width, so it drops nothing here.
    """
    quiet = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout"), 0.0) | {"layerdrop": 0.5}
    backbone = {"backbone": {"name": "huggingface", "source": str(wav2vec2), "overrides": quiet}}
    runs = {}
    for dtype in ("none", "float32", "bfloat16"):
        before = sum(num_computed)
        features = {"feature_cache": {"dtype": dtype, "folder": str(tmp_path / "features" / dtype)}}
        experiment = prepared(tones, wav2vec2, ENCODERS[encoder] | backbone | features, **stage)
        runs[dtype] = trained(experiment, tmp_path / dtype)
        fold = experiment.folds.folds[0]
        once = len(fold.train) + len(fold.dev)
        is_stored = dtype == "float32" or (dtype == "bfloat16" and encoder == "weighted")  # means are never rounded
        calibrated = 0 if is_stored and not stage else len(fold.dev)  # heard once more by the model that is kept
        assert sum(num_computed) - before == (once * 3 if dtype == "none" else once) + calibrated
    for dtype, tolerance in {"float32": 1e-4, "bfloat16": 3e-2}.items():
        for plain, cached in zip(runs["none"][0], runs[dtype][0], strict=True):
            assert cached == pytest.approx(plain, abs=tolerance)
        for name, weight in runs["none"][1].items():
            torch.testing.assert_close(runs[dtype][1][name], weight, atol=tolerance, rtol=0)


@pytest.mark.slow
def test_folds_seeds_and_resumed_runs_hear_nothing_twice(
    tones: Path, wav2vec2: Path, tmp_path: Path, num_computed: list[int]
) -> None:
    experiment = prepared(tones, wav2vec2, {"feature_cache": {"dtype": "float32"}}, epochs=1)
    first, second = experiment.folds.folds
    trained(experiment, tmp_path / "first")
    trained(experiment, tmp_path / "second", fold=1)
    learned = {name for fold in (first, second) for name in (*fold.train, *fold.dev)}
    assert sum(num_computed) == len(learned)
    trained(experiment, tmp_path / "again")
    assert sum(num_computed) == len(learned)


def test_batches_carry_hidden_layers_alone(tones: Path, wav2vec2: Path) -> None:
    experiment = prepared(tones, wav2vec2)
    backbone = HuggingFaceBackbone.from_source(str(wav2vec2))
    cache = FeatureCache(backbone, ("1",), FeatureCacheOptions(dtype="float32"), "float32")
    stored = cache.of(experiment.recordings, Clips(), range(4), silent, "x")
    dataset = folds.TrainingData(experiment.recordings, {}, range(4), (), Clips(), stored=stored)
    cached = collate([dataset.dataset(0, is_training=True)[3, position] for position in range(4)])
    plain = collate(
        [
            folds.TrainingData(experiment.recordings, {}, range(4), (), Clips()).dataset(0, is_training=True)[
                3, position
            ]
            for position in range(4)
        ]
    )
    assert cached.waveforms.shape == (4, 0)
    assert cached.audio_s == pytest.approx(plain.audio_s)
    assert cached.seeds.tolist() == plain.seeds.tolist()
    model = assemble(backbone, None, {"emotion": (Category(layer=1), 3)})
    with torch.no_grad():
        one = encode_batch(model, cached, SpectrogramAugmentation()).hidden_states["main"]
        other = encode_batch(model, plain, SpectrogramAugmentation()).hidden_states["main"]
    width = one.is_frame.shape[1]  # a backbone pads to a multiple of frames, the cache to the longest clip
    assert torch.equal(one.is_frame, other.is_frame[:, :width])
    assert not other.is_frame[:, width:].any()
    torch.testing.assert_close(one.layers[1][one.is_frame], other.layers[1][:, :width][one.is_frame], atol=1e-5, rtol=0)
    mixup = SpectrogramAugmentation(mixup=5.0, mixup_probability=1.0)
    with torch.no_grad():
        mixed, other = (encode_batch(model, each, mixup).hidden_states["main"] for each in (cached, plain))
    assert not torch.equal(mixed.layers[1], one.layers[1])
    torch.testing.assert_close(mixed.layers[1], other.layers[1][:, :width], atol=1e-5, rtol=0)


ALIKE: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "heads": ({}, {}, 3),
    "the backbone learns": ({}, {"trainable": ["layer 2", "heads"]}, 2),
    "the projection learns": ({}, {"trainable": ["projection", "heads"]}, 0),
    "all clips are shorter than a crop": ({"clips": {"crop_s": 0.5}}, {}, 3),
    "some are cropped": ({"clips": {"crop_s": 0.4}}, {}, 0),
    "mixup": ({}, {"spectrogram_augmentation": {"mixup": 0.3}}, 3),
    "waveform augmentation": ({}, {"waveform_augmentation": {"name": "volume"}}, 0),
    "log-mel": ({"backbone": {"name": "logmel"}}, {}, 1),
    "log-mel, augmented": ({"backbone": {"name": "logmel"}}, {"spectrogram_augmentation": {"tempo": 0.2}}, 1),
}


@pytest.mark.parametrize("augmentation", [{}, {"tempo": 0.3, "vtlp": 0.1, "noise_probability": 0.5, "time_masks": 1}])
def test_kept_bands_train_to_the_bit(tones: Path, tmp_path: Path, augmentation: dict[str, Any]) -> None:
    changes = {"backbone": {"name": "logmel", "n_mels": 24, "top_db": 40.0}}
    without = {"feature_cache": {"dtype": "none"}}
    stage = {"epochs": 2, "trainable": ["heads"], "spectrogram_augmentation": augmentation}
    expected, weights = trained(prepared(tones, tmp_path, changes | without, **stage), tmp_path / "without")
    found, kept_weights = trained(prepared(tones, tmp_path, changes, **stage), tmp_path / "with")
    assert list((tmp_path / "cache/features").glob("*/bands-float32/*.safetensors"))
    assert found == expected
    assert all(torch.equal(kept_weights[name], weights[name]) for name in weights)
    names = set((tmp_path / "cache/features").rglob("*.safetensors"))
    trained(prepared(tones, tmp_path, changes, **stage), tmp_path / "again", fold=0)
    assert set((tmp_path / "cache/features").rglob("*.safetensors")) == names


@pytest.mark.parametrize("longest_s", [0.0, 1e6])
def test_bands_are_kept_of_audio_that_memory_does_not_hold_but_of_no_more_than_fifty_hours(
    tones: Path, tmp_path: Path, longest_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serein.training.stages.LONGEST_BANDS_S", longest_s)
    experiment = prepared(
        tones, tmp_path, {"backbone": {"name": "logmel", "n_mels": 24}}, epochs=1, trainable=["heads"]
    )
    experiment.recordings.fits_memory = False
    trained(experiment, tmp_path / "run")
    kept = list((tmp_path / "cache/features").glob("*/bands-float32/*.safetensors"))
    assert bool(kept) == (longest_s > 0)


@pytest.mark.parametrize("case", ALIKE)
def test_where_it_applies(tones: Path, wav2vec2: Path, case: str) -> None:
    changes, stage, expected = ALIKE[case]
    experiment = prepared(tones, wav2vec2, changes, **stage)
    model = build.new_model(experiment.recipe, experiment_data.tasks_of(experiment, experiment.folds.folds[0]))
    model.train_only(experiment.recipe.stages[0].trainable)
    longest_s = float(experiment.recordings.durations_s.max())
    assert 0.4 < longest_s < 0.5
    assert num_fixed_layers(model, experiment.recipe.stages[0], longest_s, experiment.recipe.clips) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("last",)),
        ({"tasks": {"emotion": {"layer": 1}, "gender": {"layer": "last"}}}, ("1", "last")),
        ({"tasks": {"emotion": {"layer": "weighted"}}}, ("0", "1", "2")),
        ({"encoder": {"name": "cnn-blstm", "layer": 2}, "tasks": {"emotion": {"layer": "last"}}}, ("2",)),
    ],
)
def test_what_is_kept_is_what_is_tapped(
    tones: Path, wav2vec2: Path, changes: dict[str, Any], expected: tuple[str, ...]
) -> None:
    """Heads above an encoder tap the encoder."""
    experiment = prepared(tones, wav2vec2, changes)
    assert (
        cached_layers(
            build.new_model(experiment.recipe, experiment_data.tasks_of(experiment, experiment.folds.folds[0]))
        )
        == expected
    )


class LinearOptions(NamedOptions):
    """An encoder of a user's package."""

    name: Literal["own-linear"] = "own-linear"


class LinearEncoder(Encoder):
    """Reads the last layer without a `LayerSelection`."""

    Options = LinearOptions

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear, self.size, self.sizes = torch.nn.Linear(size, 4), 4, (4,)

    @classmethod
    def from_options(cls, options: Any, backbone: Backbone) -> LinearEncoder:
        return cls(backbone.sizes[-1])

    def forward(self, hidden: HiddenStates) -> HiddenStates:
        return HiddenStates((self.linear(hidden.last),), hidden.is_frame)


def test_an_encoder_of_ones_own_trains_from_the_cache(
    tones: Path, wav2vec2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table("encoder"), "own-linear", LinearEncoder)
    own, stage = {"encoder": {"name": "own-linear"}}, {"epochs": 1, "trainable": ["encoder", "heads"]}
    experiment = prepared(tones, wav2vec2, own)
    tasks = experiment_data.tasks_of(experiment, experiment.folds.folds[0])
    assert cached_layers(build.new_model(experiment.recipe, tasks)) == ("0", "1", "2", "last")
    plain, cached = (
        trained(
            prepared(tones, wav2vec2, own | {"feature_cache": {"dtype": dtype}}, **stage),
            tmp_path / dtype,
        )
        for dtype in ("none", "float32")
    )
    assert cached[0][0] == pytest.approx(plain[0][0], abs=1e-4)


MEAN = {"emotion": {"layer": "weighted", "pooling": "mean"}}


@pytest.mark.parametrize(
    ("changes", "stage", "kept"),
    [
        ({"tasks": MEAN}, {}, "mean-float32"),
        ({"tasks": MEAN | {"gender": {"layer": 1, "pooling": "mean"}}}, {}, "mean-float32"),
        ({"tasks": MEAN | {"gender": {"layer": 1, "pooling": "std"}}}, {}, "bfloat16"),
        ({"tasks": {"emotion": {"pooling": "mean", "projection": 4, "projection_at": "pooled"}}}, {}, "mean-float32"),
        ({"tasks": {"emotion": {"pooling": "mean", "projection": 4, "projection_at": "frames"}}}, {}, "bfloat16"),
        ({"tasks": {"emotion": {"pooling": "std"}}}, {}, "bfloat16"),
        ({"tasks": MEAN}, {"spectrogram_augmentation": {"mixup": 0.3}}, "bfloat16"),
        ({"tasks": MEAN}, UPPER, "bfloat16"),
        (ENCODERS["one layer under an encoder"], {}, "bfloat16"),
    ],
    ids=["mean", "means", "mean and std", "then projected", "projected first", "std", "mixup", "upper", "encoder"],
)
def test_means_are_kept_where_nothing_else_is_read(
    tones: Path, wav2vec2: Path, cache_folder: Path, changes: dict[str, Any], stage: dict[str, Any], kept: str
) -> None:
    experiment = prepared(tones, wav2vec2, changes | {"feature_cache": {"dtype": "bfloat16"}}, **stage)
    fold = experiment.folds.folds[0]
    model = build.new_model(experiment.recipe, experiment_data.tasks_of(experiment, fold))
    data = folds.TrainingData(
        experiment.recordings, {}, range(4), (), Clips(), features=experiment.recipe.feature_cache
    )
    stored = with_features(model, experiment.recipe.stages[0], data, silent, "x").stored
    assert stored is not None
    assert {path.parent.name.partition("-")[2] for path in cache_folder.glob("*/*/*.safetensors")} == {kept}
    frames = [len(own) for position in range(4) for own in stored[position].values()]
    assert (set(frames) == {1}) == kept.startswith("mean")


# -- what a frozen stage leaves on disk ------------------------------------------------------------------------------


def killed_at_second_epoch(experiment: Experiment, folder: Path) -> None:
    """Train, and stop before the state of the second epoch is in its place."""
    left, real = 2, os.replace

    def replace(source: Any, target: Any) -> None:
        nonlocal left
        left -= Path(target).name == "resume.ckpt"
        if left == 0:
            raise Killed
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            trained(experiment, folder)


@pytest.mark.slow
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_killed_frozen_stage_goes_on_to_the_same_weights(
    tones: Path, wav2vec2: Path, tmp_path: Path, ema_decay: float | None
) -> None:
    experiment = prepared(tones, wav2vec2, ema_decay=ema_decay)
    metrics, weights = trained(experiment, tmp_path / "whole")
    killed_at_second_epoch(experiment, tmp_path / "killed")
    state = torch.load(tmp_path / "killed/0-frozen/resume.ckpt", weights_only=True)
    assert not [name for name in [*state["state_dict"], *weights] if "backbone" in name]
    again = trained(experiment, tmp_path / "killed")
    assert again[0] == metrics
    assert again[1].keys() == weights.keys()
    assert all(torch.equal(again[1][name], weight) for name, weight in weights.items())


@pytest.mark.slow
def test_a_frozen_stage_does_not_go_on_with_another_backbone(tones: Path, wav2vec2: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(wav2vec2, tmp_path / "source"))
    experiment = prepared(tones, source)
    killed_at_second_epoch(experiment, tmp_path / "killed")
    trained(experiment, tmp_path / "done")
    save_wav2vec2(source, seed=1)
    for folder in ("killed", "done"):
        with pytest.raises(RunError, match=r"the backbone's weights are not those that training started with"):
            trained(prepared(tones, source), tmp_path / folder)


def test_the_average_of_a_frozen_backbone_is_the_backbone(tones: Path, wav2vec2: Path, tmp_path: Path) -> None:
    """Heads are averaged as they are beside log-mel bands, the backbone is one."""
    experiment = prepared(tones, wav2vec2, {"feature_cache": {"dtype": "none"}}, ema_decay=0.9, epochs=1)
    model = build.new_model(experiment.recipe, experiment_data.tasks_of(experiment, experiment.folds.folds[0]))
    module = StageModule(model, {}, experiment.recipe.stages[0], num_steps=1, seed=0)
    head, averaged = model.ensemble[0].heads["emotion"].output, module.eval_model.ensemble[0].heads["emotion"].output
    before = head.weight.detach().clone()
    for number in range(1, 3):
        with torch.no_grad():
            head.weight.copy_(before + number)
        module.averaged.update(model, number - 1)
    assert module.eval_model.backbone is model.backbone
    kept = min(0.9, (1 + 1) / (10 + 1))
    torch.testing.assert_close(averaged.weight, before + 1 * kept + 2 * (1 - kept))
