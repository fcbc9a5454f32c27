"""Normalised features in experiments: runs, model folders, test speakers, and predictions from cached features."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import serein as package
from serein import checkpoint
from serein import recipe as recipes
from serein.data import manifest
from serein.errors import ModelError, RecipeError, RunError
from serein.evaluation.predictions import read_predictions
from serein.experiment import run as runs
from serein.experiment.data import prepare
from serein.knn.evaluation import KnnOptions, evaluate_run_with_knn
from serein.models.backbones import HuggingFaceBackbone
from training.test_feature_cache import save_wav2vec2

STAGE = {
    "epochs": 2,
    "trainable": ["heads"],
    "optimizer": {"learning_rate": 0.01},
    "batches": {"max_clips": 6},
    "precision": "float32",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wav2vec2(tmp_path_factory.mktemp("wav2vec2"))


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEREIN_CACHE", str(tmp_path / "cache"))


def recipe(source: Path, **changes: Any) -> recipes.Recipe:
    values = {
        "name": "normalised",
        "protocol": {"num_folds": 3, "dev": "none", "only": ["1"]},
        "backbone": {"name": "huggingface", "source": str(source)},
        "feature_normalisation": {"mean": "speaker"},
        "tasks": {"emotion": {"layer": "weighted", "pooling": "mean"}},
        "stages": [STAGE | {"checkpoint": "last"}],
    }
    return recipes.validate(values | changes, where="test")


def probabilities(run: Path, seed: int = 0) -> np.ndarray:
    rows = read_predictions(run / "fold-1" / f"seed-{seed}" / "predictions.jsonl")
    return np.array([list(row.probabilities.values()) for row in rows])


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "fold-1" / "seed-0" / "model" / "model.safetensors")


@pytest.mark.parametrize("pooling", ["mean", "std"])
def test_predictions_from_the_cache_are_those_from_waveforms(
    tones: Path, source: Path, tmp_path: Path, pooling: str
) -> None:
    tasks = {"emotion": {"layer": "weighted", "pooling": pooling}, "gender": {"layer": 1, "pooling": pooling}}
    found = []
    for dtype in ("none", "float32"):
        made = recipe(source, tasks=tasks, feature_normalisation=None, feature_cache={"dtype": dtype})
        found.append(probabilities(runs.run(made, tones, tmp_path / dtype)))
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_test_sets_are_encoded_once_for_all_seeds(
    tones: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    real = HuggingFaceBackbone.forward

    def forward(self: HuggingFaceBackbone, waveforms: torch.Tensor, num_samples: torch.Tensor) -> Any:
        encoded.append(len(num_samples))
        return real(self, waveforms, num_samples)

    monkeypatch.setattr(HuggingFaceBackbone, "forward", forward)
    run = runs.run(recipe(source, seeds=(0, 1)), tones, tmp_path / "run")
    num_clips = len(tones.read_text().splitlines())
    assert sum(encoded) == num_clips
    assert not np.allclose(probabilities(run, 0), probabilities(run, 1))


def test_rounded_frames_are_not_predicted_from(tones: Path, source: Path, tmp_path: Path) -> None:
    tasks = {"emotion": {"layer": "weighted", "pooling": "std"}}
    run = runs.run(recipe(source, tasks=tasks), tones, tmp_path / "run")
    kept = {path.parent.name.partition("-")[2] for path in (tmp_path / "cache").glob("features/*/*/*.safetensors")}
    assert kept == {"bfloat16"}
    evaluated, _ = package.evaluate(
        run / "fold-1" / "seed-0" / "model", run / "fold-1" / "test.jsonl", allow_seen_speakers=True
    )
    found = np.array([list(row.probabilities.values()) for row in evaluated])
    np.testing.assert_allclose(found, probabilities(run), atol=1e-6)


def test_known_test_speakers_are_normalised_by_their_own_mean(tones: Path, source: Path, tmp_path: Path) -> None:
    """As `serein adapt` does with all of a speaker's test clips; nothing else is different."""
    unknown = runs.run(recipe(source), tones, tmp_path / "unknown")
    known = {"feature_normalisation": {"mean": "speaker", "test_mean": "speaker"}}
    run = runs.run(recipe(source, **known), tones, tmp_path / "known")
    assert all(np.array_equal(own, weights(run)[name]) for name, own in weights(unknown).items())
    assert not np.allclose(probabilities(run), probabilities(unknown), atol=1e-4)
    assert "normalised by the mean of the test clips of the same speaker, without labels" in " ".join(
        json.loads((run / "folds.json").read_text())["notes"]
    )
    test = run / "fold-1" / "test.jsonl"
    rows = {row.id: row for row in read_predictions(run / "fold-1" / "seed-0" / "predictions.jsonl")}
    by_speaker: dict[str, list[str]] = {}
    for line in test.read_text().splitlines():
        by_speaker.setdefault(json.loads(line)["speaker"], []).append(line)
    assert len(by_speaker) == 2
    for speaker, lines in by_speaker.items():
        own = test.with_name(f"{speaker}.jsonl")  # paths are relative to it
        own.write_text("\n".join(lines) + "\n")
        model = unknown / "fold-1" / "seed-0" / "model"
        adapted = package.adapt(manifest.read(own), tmp_path / speaker, model=model)
        assert (adapted.method, adapted.num_segments) == ("mean", len(lines))
        evaluated, _ = package.evaluate(tmp_path / speaker, own)
        for row in evaluated:
            assert row.probabilities == pytest.approx(rows[row.id].probabilities, abs=1e-4)


def test_whose_mean_is_removed(tones: Path, source: Path) -> None:
    changes = {"mean": "corpus", "test_mean": "speaker"}
    experiment = prepare(recipe(source, feature_normalisation=changes), tones, lambda *_: None)
    assert set(experiment.normalised_by(range(4), "train").values()) == {"tones"}
    speakers = experiment.normalised_by(range(36), "test")
    assert len(speakers) == 36
    assert len(set(speakers.values())) == 6
    plain = prepare(recipe(source, feature_normalisation={}), tones, lambda *_: None)
    assert plain.normalised_by(range(4), "train") == plain.normalised_by(range(4), "test") == {}


def test_the_model_contains_the_mean_of_the_training_speakers(tones: Path, source: Path, tmp_path: Path) -> None:
    run = runs.run(recipe(source), tones, tmp_path / "run")
    loaded = checkpoint.load(run / "fold-1" / "seed-0" / "model")
    norm = loaded.model.feature_norm
    assert norm is not None
    assert norm.mean.abs().sum() > 0
    assert (norm.deviation[:-1] != 1).all()
    evaluated, _ = package.evaluate(run / "fold-1" / "seed-0" / "model", run / "fold-1" / "test.jsonl")
    found = np.array([list(row.probabilities.values()) for row in evaluated])
    np.testing.assert_allclose(found, probabilities(run), atol=1e-4)


def test_a_folder_from_before_there_was_normalisation(tones: Path, source: Path, tmp_path: Path) -> None:
    run = runs.run(recipe(source, feature_normalisation=None), tones, tmp_path / "run")
    folder = Path(shutil.copytree(run / "fold-1" / "seed-0" / "model", tmp_path / "model"))
    description = json.loads((folder / "model.json").read_text())
    del description["feature_normalisation"]
    (folder / "model.json").write_text(json.dumps(description))
    assert checkpoint.load(folder).model.feature_norm is None
    with pytest.raises(
        ModelError, match=r"does not contain the mean of its training data\. Name recordings like these"
    ):
        package.adapt(manifest.read(tones), tmp_path / "adapted", model=folder, method="mean")
    assert not (tmp_path / "adapted").exists()


def test_features_are_shifted_to_the_mean_of_a_reference(tones: Path, source: Path, tmp_path: Path) -> None:
    """Recordings whose mean is that of the reference are predicted as before; others as if they had that mean."""
    trained = {"trainable": ["layer 2", "heads"]}
    made = recipe(source, feature_normalisation=None, stages=[STAGE | {"checkpoint": "last"} | trained])
    model = package.load(runs.run(made, tones, tmp_path / "run") / "fold-1" / "seed-0" / "model")
    clips = manifest.read(tones)
    one, other = clips[:12], clips[12:24]

    def predicted(loaded: Any) -> np.ndarray:
        return np.array([list(each.probabilities.values()) for each in loaded.predict_files(other)])

    same = package.adapt(other, tmp_path / "same", model=model, reference=other)
    assert (same.method, same.num_segments) == ("mean", 12)
    package.adapt(other, tmp_path / "shifted", model=model, reference=one)
    assert model.model.feature_norm is None
    before, after = predicted(model), predicted(package.load(tmp_path / "shifted"))
    np.testing.assert_allclose(predicted(package.load(tmp_path / "same")), before, atol=1e-5)
    assert np.abs(after - before).max() > 1e-3
    again = package.adapt(one, tmp_path / "again", model=tmp_path / "shifted")  # it contains the reference now
    assert again.method == "mean"
    norm = package.load(tmp_path / "again").model.feature_norm
    torch.testing.assert_close(norm.mean, norm.offset)
    with pytest.raises(RecipeError, match=r"a reference, but the model contains the mean of its training data\. Leave"):
        package.adapt(one, tmp_path / "again", model=tmp_path / "shifted", reference=one)
    with pytest.raises(RecipeError, match=r"there is a reference, but the method 'bias' needs none"):
        package.adapt(one, tmp_path / "again", model=model, reference=one, method="bias")


def test_means_have_no_priors(tones: Path, source: Path, tmp_path: Path) -> None:
    run = runs.run(recipe(source, feature_normalisation={}), tones, tmp_path / "run")
    model, test = run / "fold-1" / "seed-0" / "model", manifest.read(run / "fold-1" / "test.jsonl")
    out, priors = tmp_path / "adapted", {"happy": 0.5}
    with pytest.raises(RecipeError, match=r"the method 'mean' uses no priors\. Leave the priors out, or choose"):
        package.adapt(test, out, model=model, method="mean", priors=priors)
    assert not out.exists()
    assert package.adapt(test, out, model=model).method == "mean"
    for by_bias in (
        package.adapt(test, out, model=model, priors=priors),
        package.adapt(test, out, model=out, method="bias"),
    ):
        assert set(by_bias.bias) == {"angry", "happy", "sad"}
    card = (out / "README.md").read_text()
    assert "The mean of the features is that of" not in card.partition("## Adapted")[0]
    assert card.count("## Adapted") == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"backbone": {"name": "logmel"}}, "the backbone is log-mel bands"),
        ({"stages": [STAGE | {"trainable": ["layer 2", "heads"]}]}, "the backbone is trained"),
        ({"stages": [STAGE | {"waveform_augmentation": {"name": "volume"}}]}, "waveforms are changed in training"),
        ({"stages": [STAGE | {"spectrogram_augmentation": {"time_masks": 1}}]}, "bands are masked in training"),
        ({"feature_cache": {"dtype": "none"}}, "features are not cached"),
    ],
)
def test_features_that_change_in_training_are_refused(source: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=r"feature_normalisation needs one frozen pretrained backbone.*, but the"):
        recipe(source, **changes)
    with pytest.raises(RecipeError, match=reason.removeprefix("the ")):
        recipe(source, **changes)


def test_what_is_removed_cannot_be_learned(source: Path) -> None:
    tasks = {"emotion": {}, "speaker": {}}
    with pytest.raises(RecipeError, match=r"removes what distinguishes each speaker, which is also a task"):
        recipe(source, tasks=tasks, stages=[STAGE | {"tasks": ["emotion", "speaker"]}])


def test_neighbours_are_not_normalised_by_speaker(tones: Path, source: Path, tmp_path: Path) -> None:
    run = runs.run(recipe(source), tones, tmp_path / "run")
    with pytest.raises(RunError, match=r"normalised by speaker or corpus, which neighbours are not\. Run it with"):
        evaluate_run_with_knn(run, KnnOptions(), lambda *_: None)


def test_cropped_clips_are_refused(tones: Path, source: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"feature_normalisation: the features of clips are not the same in every ep"):
        runs.run(recipe(source, clips={"crop_s": 0.2}), tones, tmp_path / "run")
